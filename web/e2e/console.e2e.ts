/** The console in a real browser against a platform in simulation: what an owner sees, orders, and is protected from. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, inject, it } from "vitest";
import { DESKTOP, launch, PHONE, type Visit, visit } from "./browser.ts";
import { Host } from "./host.ts";
import { mitai } from "./setup.ts";

const platform = inject("platform");
const PINNED = `/console.html#policy=${platform.policySha256}`;
const IDENTITY = join(platform.home, "owner/identity.pem");

let browser: Browser;
let host: Host;
let here: Visit;
let capsule: string;

beforeAll(async () => {
  browser = await launch();
  const folder = join(platform.home, "notes");
  await mkdir(folder);
  await writeFile(join(folder, "notes.txt"), "something to seal");
  const sealed = join(platform.home, "notes.capsule");
  capsule = JSON.parse(await mitai(platform.home, "seal", folder, sealed, "--kind", "data", "--json")).capsule;
  await mitai(platform.home, "publish", sealed, "--uses", "7", "--json");
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

async function arrive(options: Parameters<typeof visit>[2] = {}): Promise<Page> {
  here = await visit(browser, host.url + PINNED, options);
  return here.page;
}

async function section(page: Page, name: string): Promise<void> {
  await page.getByRole("link", { name, exact: true }).click();
  await page.getByRole("heading", { level: 2, name }).waitFor();
}

async function open(page: Page): Promise<void> {
  await section(page, "Capsules");
  await page.locator("console-capsules input[type=file]").setInputFiles(IDENTITY);
}

const card = (page: Page, id: string) => page.getByRole("region", { name: id });

it("verifies the broker and each replica, and keeps their evidence", async () => {
  const page = await arrive();
  for (const name of ["Key broker", "Replica replica-0"]) {
    const machine = page.getByRole("region", { name });
    await machine.getByText("Verified, simulated").waitFor();
    await machine.getByText("All 13 checks").click();
    await machine.getByText("The hardware signed a digest of the random bytes and the claims").waitFor();
  }
  await page.getByText("Simulation: no hardware protects anything here").waitFor();
  const download = page.waitForEvent("download");
  await page.getByRole("region", { name: "Key broker" }).getByRole("button", { name: "Download evidence" }).click();
  const evidence = JSON.parse(await readFile(await (await download).path(), "utf8"));
  expect(evidence).toMatchObject({ v: 1, tee: "tdx" });
  expect(here.errors).toEqual([]);
});

it("lets an owner see and change what it decided, sealed and signed", async () => {
  const page = await arrive();
  await open(page);
  const notes = card(page, capsule);
  await notes.getByText("used 0 times of 7").waitFor();
  await notes.getByText("policy version 1").waitFor();
  await notes.getByText("Decisions").click();
  await notes.getByText("Capsule registered").waitFor();

  await notes.getByRole("button", { name: "Change policy" }).click();
  const dialog = page.getByRole("dialog", { name: "Change your policy" });
  await dialog.waitFor();
  const form = page.locator("set-policy-dialog");
  await form.getByLabel("Policy, in Cedar").fill("permit(");
  await form.getByRole("button", { name: "Sign and set" }).click();
  await form.getByText("The broker does not understand this policy.").waitFor();
  await form.getByLabel("Policy, in Cedar").fill("forbid(principal, action, resource); // quizzaciously");
  await form.getByLabel("Uses").fill("5");
  await form.getByRole("button", { name: "Sign and set" }).click();
  await notes.getByText("policy version 2").waitFor();
  await notes.getByText("used 0 times of 5").waitFor();
  await notes.getByText("Your policy").click();
  await notes.getByText("quizzaciously").waitFor();
  for (const { path, body } of host.seen) expect(`${path}${body.toString("latin1")}`).not.toContain("quizzaciously");
  const key = (await readFile(IDENTITY, "utf8")).split("\n")[1] ?? "";
  for (const { body } of host.seen) expect(body.toString("latin1")).not.toContain(key);
  expect(here.errors).toEqual([]);
});

it("revokes only after a second question, and for good", async () => {
  const page = await arrive();
  await open(page);
  const notes = card(page, capsule);
  await notes.getByRole("button", { name: "Revoke" }).click();
  const form = page.locator("revoke-dialog");
  await form.getByRole("button", { name: "Revoke for good" }).click();
  await page.getByRole("dialog", { name: "Revoke this capsule?" }).waitFor(); // not without the tick
  await form.getByLabel("I know that this can't be undone").check();
  await form.getByRole("button", { name: "Revoke for good" }).click();
  await notes.getByText("Revoked").first().waitFor();
  await expect.poll(() => notes.getByRole("button", { name: "Change policy" }).count()).toBe(0);
  const entries = async () => JSON.parse(await mitai(platform.home, "ledger", "show", "--last", "3", "--json")).entries;
  await expect // an entry is safe before the head that covers it is published
    .poll(entries, { timeout: 10_000 })
    .toContainEqual(expect.objectContaining({ type: "revocation", subject: `capsule:${capsule}` }));
  await page.getByRole("button", { name: "Forget the key" }).click();
  await page.getByRole("heading", { name: "Open your identity" }).waitFor();
});

it("proves the ledger, and that it extends what this device saw", async () => {
  const page = await arrive();
  await section(page, "Ledger");
  await page.getByText("This device sees this ledger for the first time.").waitFor();
  await page.getByText("witness.local").waitFor();
  await page.locator("summary", { hasText: "Capsule registered" }).last().click();
  await page.getByRole("button", { name: "Prove its place" }).click();
  await page.getByText(/In the tree of \d+ entries: \d+ hashes lead/).waitFor();
  await mitai(platform.home, "chat", "-m", "What is a TEE?", "--max-tokens", "5"); // its receipt is one more entry
  await page.reload();
  await page.getByText(/It extends the \d+ entries that this device saw before/).waitFor();
  expect(here.errors).toEqual([]);
});

it("shows nothing of a ledger that the host changed", async () => {
  const page = await arrive();
  await section(page, "Ledger");
  await page.locator("entry-list summary").first().waitFor();
  host.tricks = [
    {
      on: /ledger\/tile\/entries/,
      answer: (body) => Buffer.from(body.map((byte, at) => (at === 40 ? byte ^ 1 : byte))),
    },
  ];
  await page.getByRole("button", { name: "Read again" }).click();
  await page.getByRole("alert").first().waitFor();
  expect(await page.locator("entry-list summary").count()).toBe(0);
});

it("sends no order to a broker whose evidence is another's, and says so", async () => {
  const page = await arrive();
  await page.getByText("Verified, simulated").first().waitFor();
  host.tricks = [
    {
      on: /GET \/broker\/\.well-known\/mitai\/evidence/,
      answer: async (_, path) => {
        const answer = await fetch(platform.url + path.replace("/broker", ""));
        return Buffer.from(await answer.arrayBuffer());
      },
    },
  ];
  await page.reload();
  const broker = page.getByRole("region", { name: "Key broker" });
  await broker.getByText("Refused").waitFor();
  const sealed = host.sealed().length;
  await open(page);
  await page.locator("console-capsules").getByRole("alert").waitFor();
  expect(host.sealed().length).toBe(sealed);
});

it.each([
  ["phone", PHONE, "light"],
  ["desktop", DESKTOP, "dark"],
] as const)("is accessible and not clipped: %s", async (_, viewport, colorScheme) => {
  const page = await arrive({ viewport, colorScheme });
  await page.getByText("Verified, simulated").first().waitFor();
  for (const name of ["Overview", "Capsules", "Approvals", "Ledger", "Usage"]) {
    if (name !== "Overview") await section(page, name);
    if (name === "Capsules") await open(page);
    if (name === "Capsules") await card(page, capsule).getByText("Owners", { exact: true }).waitFor();
    for (const details of await page.locator("details").all())
      await details.evaluate((element) => element.setAttribute("open", ""));
    expect(await violations(page)).toEqual([]);
    if (name === "Capsules") {
      for (const [button, heading] of [
        ["Change policy", "Change your policy"],
        ["Revoke", "Revoke this capsule?"],
      ] as const) {
        await page.getByRole("button", { name: button }).first().click();
        await page.getByRole("dialog", { name: heading }).waitFor();
        expect(await violations(page)).toEqual([]);
        await page.keyboard.press("Escape");
      }
    }
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
  }
});

async function violations(page: Page): Promise<unknown> {
  const found = (await new AxeBuilder({ page }).analyze()).violations;
  return found.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
}
