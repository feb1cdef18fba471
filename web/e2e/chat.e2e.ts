/** The chat in a real browser against a platform in simulation: what a user sees, and what the host sees meanwhile. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, inject, it } from "vitest";
import { launch, PHONE, type Visit, visit } from "./browser.ts";
import { Host } from "./host.ts";
import { mitai } from "./setup.ts";

const platform = inject("platform");
const SECRET = "What is remote attestation? My own word for it is quizzaciously.";
const PINNED = `/#policy=${platform.policySha256}`;

let browser: Browser;
let host: Host;
let here: Visit;

beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => browser.close());
beforeEach(async () => {
  host = await Host.before(platform.url);
});
afterEach(async () => {
  await here.context.close();
  await host.close();
  expect(here.strangers).toEqual([]);
});

async function arrive(path = PINNED, options: Parameters<typeof visit>[2] = {}): Promise<Page> {
  here = await visit(browser, host.url + path, options);
  return here.page;
}

async function ask(page: Page, words = SECRET): Promise<void> {
  await page.getByRole("combobox", { name: "Model" }).waitFor();
  const field = page.getByRole("textbox", { name: "Message" });
  await field.fill(words);
  await field.press("Enter");
}

const badge = (page: Page, status: string) => page.getByRole("button", { name: `Verification: ${status}.` });
const proven = (page: Page) => page.getByRole("button", { name: /Ledger entry \d+, proof checked/ });

it("verifies, answers, proves the answer, and shows the host nothing but ciphertext", async () => {
  const page = await arrive();
  await badge(page, "SIMULATED").waitFor();
  await page.getByText("Simulated hardware: nothing here is protected").waitFor();
  await ask(page);
  await proven(page).waitFor();
  const answer = await page.locator("markdown-view p").first().innerText();
  expect(answer.length).toBeGreaterThan(20);
  for (const { path, body } of host.seen) expect(`${path}${body.toString("latin1")}`).not.toContain("quizzaciously");
  expect(host.sealed().length).toBeGreaterThan(0);
  expect(here.errors).toEqual([]);
});

it("shows every check, the measurement beside the signed release, and the very bytes on the wire", async () => {
  const page = await arrive();
  await badge(page, "SIMULATED").click();
  await page.getByRole("dialog", { name: "Verification" }).waitFor();
  const sheet = page.locator("verification-sheet");
  for (const step of ["Nonce", "Signatures", "Report data", "Workload"])
    await sheet.getByText(step, { exact: true }).first().waitFor();
  await sheet.getByText("signed release").first().waitFor();
  await sheet.getByText(platform.policySha256.slice(0, 8)).first().waitFor();
  await page.keyboard.press("Escape");
  await ask(page);
  await proven(page).click();
  await page.getByRole("dialog", { name: "This answer" }).waitFor();
  const exchange = page.locator("exchange-sheet");
  await exchange.getByText("On the wire").first().waitFor();
  const dump = (await exchange.locator("pre").allInnerTexts()).join("\n");
  const rowOf = (body: Buffer) =>
    Array.from(body.subarray(8, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const shown = host.sealed().filter(({ body }) => dump.includes(`00008  ${rowOf(body)}`));
  expect(shown).toHaveLength(1); // the very request of this answer, as the host received it
});

it("keeps a proof that the command line checks offline", async () => {
  const page = await arrive();
  await ask(page);
  await proven(page).click();
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download the proof" }).click();
  const file = join(platform.home, "proof-from-the-page.json");
  await (await download).saveAs(file);
  const checked = JSON.parse(await mitai(platform.home, "receipt", file, "--json"));
  expect(checked).toMatchObject({ simulated: true });
  const proof = await readFile(file);
  const at = proof.indexOf('"response_sha256"') + 25;
  proof[at] = proof[at] === 0x30 ? 0x31 : 0x30;
  await writeFile(file, proof);
  await expect(mitai(platform.home, "receipt", file, "--json")).rejects.toMatchObject({
    stdout: expect.stringContaining("ledger.receipt-response"),
  });
});

it("asks before it uses a policy that only the host vouches for, and sends nothing meanwhile", async () => {
  const page = await arrive("/");
  await page.getByRole("dialog", { name: "Is this the policy that you expect?" }).waitFor();
  const dialog = page.locator("policy-dialog");
  await dialog.getByText(platform.policySha256.slice(0, 8)).first().waitFor();
  await dialog.getByText("Simulated machines too").waitFor();
  expect(host.seen.filter(({ path }) => path.includes("evidence") || path.endsWith("/ohttp"))).toEqual([]);
  await dialog.getByRole("button", { name: "Use this policy" }).click();
  await badge(page, "SIMULATED").waitFor();
});

it("remembers the pinned policy, and stops when the host offers another one", async () => {
  let page = await arrive();
  await badge(page, "SIMULATED").waitFor();
  await page.goto(host.url);
  await badge(page, "SIMULATED").waitFor(); // pinned on this device: no question
  const before = host.sealed().length;
  host.tricks = [
    {
      on: /GET \/mitai\.json/,
      answer: (body) => Buffer.from(body.toString().replace("min_evaluation_number", "min_evaluation_number ")),
    },
  ];
  page = await here.context.newPage();
  host.seen.length = 0;
  await page.goto(host.url);
  await page.getByRole("dialog", { name: "The host offers another policy" }).waitFor();
  expect(before).toBeGreaterThan(0);
  expect(host.sealed()).toEqual([]);
});

it("stops an answer, answers again, edits the last message", async () => {
  const page = await arrive();
  host.tricks = [{ on: /^POST .*\/ohttp/, pauseMs: 3000 }];
  await ask(page, "Tell me everything about confidential computing, at length.");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("You stopped this answer.").waitFor();
  host.tricks = [];
  await page.getByRole("button", { name: "Answer again" }).click();
  await proven(page).waitFor();
  await page.getByRole("button", { name: "Edit" }).click();
  await ask(page, "What is a TEE?");
  await proven(page).waitFor();
  expect(await page.getByRole("article", { name: "You" }).count()).toBe(1);
});

it("puts an attached file into the sealed prompt only", async () => {
  const page = await arrive();
  await badge(page, "SIMULATED").waitFor();
  const note = { name: "note.txt", mimeType: "text/plain", buffer: Buffer.from("The word is zyzzogeton.") };
  await page.locator("chat-composer input[type=file]").setInputFiles(note);
  await page.getByText("note.txt").waitFor();
  await ask(page, "Summarise the file.");
  await proven(page).waitFor();
  for (const { body } of host.seen) expect(body.toString("latin1")).not.toContain("zyzzogeton");
});

it("opens an old conversation without a network, after its passphrase and not before", async () => {
  const page = await arrive();
  await ask(page);
  await proven(page).waitFor();
  const answer = await page.getByRole("article", { name: "Answer" }).locator("markdown-view p").first().innerText();
  await page.getByRole("button", { name: /Keep conversations/ }).click();
  const keep = page.locator("keeping-dialog");
  await keep.getByLabel("Passphrase", { exact: true }).fill("a long enough passphrase");
  await keep.getByLabel("Passphrase again").fill("a long enough passphrase");
  await keep.getByRole("button", { name: "Keep with this passphrase" }).click();
  await page.getByText("Kept on this device, encrypted.", { exact: true }).waitFor();
  await page.evaluate(() => navigator.serviceWorker.ready);
  await expect.poll(() => page.evaluate(async () => (await caches.keys()).length)).toBe(1);
  await host.close();
  await page.goto(`${host.url}/`);
  const unlock = page.locator("keeping-dialog");
  await unlock.getByLabel("Passphrase", { exact: true }).waitFor();
  expect(await page.getByText(answer.slice(0, 30)).count()).toBe(0);
  await unlock.getByLabel("Passphrase", { exact: true }).fill("not this one at all");
  await unlock.getByRole("button", { name: "Unlock" }).click();
  await unlock.getByRole("alert").waitFor();
  await unlock.getByLabel("Passphrase", { exact: true }).fill("a long enough passphrase");
  await unlock.getByRole("button", { name: "Unlock" }).click();
  await page
    .getByRole("navigation", { name: "Conversations" })
    .getByText("What is remote attestation?")
    .first()
    .click();
  await page.getByText(answer.slice(0, 30)).waitFor();
  const stored = await page.evaluate(async () => {
    const found: string[] = [];
    for (const { name } of await indexedDB.databases()) {
      const database = await new Promise<IDBDatabase>((resolve) => {
        const opened = indexedDB.open(name ?? "");
        opened.onsuccess = () => resolve(opened.result);
      });
      for (const store of database.objectStoreNames) {
        const all = database.transaction(store).objectStore(store).getAll();
        await new Promise((resolve) => {
          all.onsuccess = resolve;
        });
        const bytes = (_: string, value: unknown) =>
          value instanceof ArrayBuffer || ArrayBuffer.isView(value)
            ? new TextDecoder("latin1").decode(value instanceof ArrayBuffer ? value : value.buffer)
            : value;
        found.push(JSON.stringify(all.result, bytes));
      }
      database.close();
    }
    return found.join();
  });
  expect(stored.length).toBeGreaterThan(100);
  expect(stored).not.toContain("quizzaciously");
});

it("speaks Chinese, on a phone, and works by keyboard alone", async () => {
  const page = await arrive(PINNED, { locale: "zh-CN", viewport: PHONE });
  await page.getByText("模拟硬件：此处的任何内容都不受保护").waitFor();
  expect(await page.evaluate(() => document.documentElement.lang)).toMatch(/^zh/);
  const field = page.getByRole("textbox", { name: "消息" });
  await field.focus();
  await page.keyboard.type("远程证明怎么工作？");
  await page.keyboard.press("Tab"); // attach
  await page.keyboard.press("Tab"); // send
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: /账本|条目/ }).waitFor();
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(PHONE.width);
});
