/** The built chat page, under its own policy: it checks an answer with a proof in a worker, and nothing leaves it. */
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { launch, PHONE, type Visit, visit } from "./browser.ts";

const PAGE = join(import.meta.dirname, "../../src/mitai/web/page");
const FIXTURES = join(import.meta.dirname, "../packages/proof/test/fixtures");
const FILE = readFileSync(join(FIXTURES, "answer.proof"));
const TOKENIZER = readFileSync(join(FIXTURES, "tokenizer.json"));
const { identity } = JSON.parse(readFileSync(join(FIXTURES, "verdicts.json"), "utf8"));
const HIDDEN = JSON.parse(readFileSync(join(FIXTURES, "hidden.json"), "utf8"));
const TYPES: Readonly<Record<string, string>> = { html: "text/html", js: "text/javascript", svg: "image/svg+xml" };

let browser: Browser;
let server: Server;
let here: Visit;
let asked: string[] = [];

beforeAll(async () => {
  browser = await launch();
  server = createServer((request, response) => {
    const path = normalize(new URL(request.url ?? "/", "http://page.test").pathname).slice(1) || "index.html";
    asked.push(path);
    const found = existsSync(join(PAGE, path));
    const type = TYPES[path.split(".").at(-1) ?? ""] ?? "text/plain";
    response.writeHead(found ? 200 : 204, { "content-type": type }); // a host that offers nothing
    response.end(found ? readFileSync(join(PAGE, path)) : "");
  });
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
});
afterAll(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});
afterEach(async () => {
  await here.context.close();
  expect(here.errors).toEqual([]);
  expect(here.strangers).toEqual([]);
});

async function arrive(options: Parameters<typeof visit>[2] = {}): Promise<Page> {
  asked = [];
  here = await visit(browser, `http://localhost:${(server.address() as AddressInfo).port}/`, options);
  return here.page;
}

const file = (buffer: Buffer) => ({ name: "answer.proof", mimeType: "application/octet-stream", buffer });

async function drop(page: Page, ...files: readonly { name: string; buffer: Buffer }[]): Promise<void> {
  const said = files.map(({ name, buffer }) => [name, buffer.toString("base64")] as const);
  const dataTransfer = await page.evaluateHandle((all) => {
    const transfer = new DataTransfer();
    for (const [name, data] of all) {
      transfer.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
    }
    return transfer;
  }, said);
  await page.locator("main").dispatchEvent("drop", { dataTransfer });
}

it("checks a file by keyboard alone, for the identity that was typed", async () => {
  const page = await arrive();
  await page.keyboard.press("Escape"); // no policy is offered: decided later
  await page.getByRole("button", { name: "Settings" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Check a proof…" }).focus();
  await page.keyboard.press("Enter");
  const dialog = page.locator("proof-dialog");
  await page.getByRole("dialog", { name: "Check an answer with a proof" }).waitFor();
  const check = dialog.getByRole("button", { name: "Check", exact: true });

  expect(await check.isDisabled()).toBe(true);
  await dialog.locator("input[name=file]").setInputFiles(file(FILE));
  const field = dialog.getByRole("textbox", { name: "Identity of the model" });
  await field.focus();
  await page.keyboard.type("cafe");
  await page.keyboard.press("Enter");
  await dialog.getByText("An identity is 64 characters").waitFor();
  await field.fill("0".repeat(64));
  await page.keyboard.press("Enter");
  await dialog.getByText("The answer is another model's.").waitFor();
  const before = asked.length;
  await field.fill(identity);
  await page.keyboard.press("Enter");
  await dialog.getByText("The proof holds").waitFor();
  const facts = (await dialog.locator("dl.facts").innerText()).split(/\s*\n+\s*/);
  expect(facts.slice(0, -1)).toEqual([
    "Identity of the model",
    identity,
    "Prompt",
    "3 tokens",
    "Answer",
    "2 tokens",
    "Security",
    "102 bits",
    "Checked in",
  ]);

  const other = { name: "tokenizer.json", mimeType: "application/json", buffer: Buffer.from("{}") };
  await dialog.locator("input[name=tokenizer]").setInputFiles(other);
  await field.press("Enter");
  await dialog.getByText("The tokenizer is another one.").waitFor();
  await dialog.getByRole("button", { name: "Leave it out" }).focus();
  await page.keyboard.press("Enter");
  await dialog.locator("input[name=tokenizer]").setInputFiles({ ...other, buffer: TOKENIZER });
  await field.press("Enter");
  await dialog.getByText("The proof holds").waitFor();
  const said = await dialog.locator("blockquote").allInnerTexts();
  expect(said).toEqual(["Who are<b> you</b>?", "⟨U+202E⟩I am 星<|end of turn▁|>"]); // no markup, nothing turned around
  expect(await dialog.locator("blockquote bdi").allInnerTexts()).toEqual(["<|end of turn▁|>"]);
  expect(asked.slice(before)).toEqual([]); // the worker is no file of the host
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, nodes.map(({ target }) => target)])).toEqual([]);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
});

it("takes a file that is dropped, fits a phone, and says in Chinese that a changed proof does not hold", async () => {
  const page = await arrive({ viewport: PHONE, locale: "zh-CN" });
  await page.keyboard.press("Escape");
  const changed = Buffer.from(FILE);
  changed[FILE.length >> 1] = (changed[FILE.length >> 1] ?? 0) ^ 1;
  await drop(page, { name: "a.proof", buffer: changed }, { name: "tokenizer.json", buffer: TOKENIZER });
  const dialog = page.locator("proof-dialog");
  await dialog.getByRole("textbox", { name: "模型的标识" }).fill(identity);
  await dialog.getByRole("button", { name: "检验", exact: true }).click();
  await dialog.getByText("证明不成立。").waitFor();
  expect(await dialog.locator("blockquote").count()).toBe(0); // no words of what is not proven
  await drop(page, { name: "a.proof", buffer: FILE });
  await dialog.getByRole("button", { name: "检验", exact: true }).click();
  await dialog.getByText("证明成立", { exact: true }).waitFor();
  expect(await dialog.locator("blockquote").count()).toBe(2);
  const wide = await page.getByRole("dialog").evaluate((element) => element.scrollWidth - element.clientWidth);
  expect(wide).toBe(0);
});

it("checks a proof that hides the model's weights, and not under the identity of a model whose proofs don't", async () => {
  const page = await arrive();
  await page.keyboard.press("Escape");
  await drop(page, { name: "hidden.proof", buffer: readFileSync(join(FIXTURES, "hidden.proof")) });
  const dialog = page.locator("proof-dialog");
  const field = dialog.getByRole("textbox", { name: "Identity of the model" });
  await field.fill(identity);
  await field.press("Enter");
  await dialog.getByText("The answer is another model's.").waitFor();
  await field.fill(HIDDEN.identity);
  await field.press("Enter");
  await dialog.getByText("The proof holds").waitFor();
  expect(await dialog.locator("dl.facts").innerText()).toContain(`${Math.floor(HIDDEN.bits)} bits`);
});
