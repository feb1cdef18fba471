/** `<mitai-badge>` on a page of another site, under a strict Content-Security-Policy, in a real browser. */

import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import AxeBuilder from "@axe-core/playwright";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { launch, visit } from "./browser.ts";

const BADGE = readFileSync(join(import.meta.dirname, "../../src/mitai/web/page/badge.js"));
const { url, policySha256 } = inject("platform");
let browser: Browser;
let shop: Server;

beforeAll(async () => {
  browser = await launch();
  shop = createServer((request, response) => {
    const asked = new URL(request.url ?? "/", "http://shop.test");
    if (asked.pathname === "/badge.js") {
      response.writeHead(200, { "content-type": "text/javascript" }).end(BADGE);
      return;
    }
    const policy = `default-src 'none'; script-src 'self'; img-src data:; connect-src ${url}; require-trusted-types-for 'script'; trusted-types 'none'`;
    response.writeHead(200, { "content-type": "text/html", "content-security-policy": policy });
    response.end(`<!doctype html><html lang="${asked.searchParams.get("lang") ?? "en"}"><meta charset="utf-8">
      <meta name="viewport" content="width=device-width"><title>Shop</title><link rel="icon" href="data:,">
      <script type="module" src="/badge.js"></script><main><h1>Shop</h1>
      <mitai-badge server="${url}" policy-sha256="${asked.searchParams.get("digest") ?? policySha256}"></mitai-badge></main>`);
  });
  await new Promise<void>((resolve) => shop.listen(0, "127.0.0.1", resolve));
});

afterAll(async () => {
  await browser?.close();
  shop?.closeAllConnections();
  shop?.close();
});

async function show(query: string, options: Parameters<typeof visit>[2] = {}) {
  const seen = await visit(browser, `http://127.0.0.1:${(shop.address() as AddressInfo).port}/${query}`, options);
  const badge = seen.page.locator("mitai-badge");
  await seen.page.waitForFunction(() => {
    const verdict = Object(document.querySelector("mitai-badge")).verdict;
    return verdict && verdict !== "checking";
  });
  return { ...seen, badge, state: badge.getByRole("button").first() };
}

describe("the badge", () => {
  it("says what was found, asks the server alone, and breaks no rule of the page", async () => {
    const { badge, state, errors, strangers, context, page } = await show("");
    expect(await state.innerText()).toContain("SIMULATED");
    expect([...strangers].map((request) => new URL(request).origin + new URL(request).pathname)).toEqual([
      `${url}/mitai.json`,
      `${url}/.well-known/mitai/evidence`,
    ]);
    await state.click();
    const told = await badge.getByRole("group").innerText();
    for (const fact of [url, "serve", policySha256, "Nonce", "simulated"]) expect(told).toContain(fact);
    expect(errors).toEqual([]);
    expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
    await context.close();
  });

  it("opens and closes with the keyboard", async () => {
    const { state, page, context } = await show("");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    expect(await state.getAttribute("aria-expanded")).toBe("true");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Escape");
    expect(await state.getAttribute("aria-expanded")).toBe("false");
    expect(await page.evaluate(() => document.activeElement?.localName)).toBe("mitai-badge");
    await context.close();
  });

  it("refuses another policy than the one that the page names", async () => {
    const { badge, state, strangers, context } = await show(`?digest=${"0".repeat(64)}`);
    expect(await state.innerText()).toContain("not verified");
    await state.click();
    expect(await badge.getByRole("group").innerText()).toContain("client.policy-mismatch");
    expect(strangers.filter((request) => request.includes("evidence"))).toEqual([]);
    await context.close();
  });

  it("fits a narrow page, in Chinese and in the dark", async () => {
    const viewport = { width: 320, height: 700 };
    const { state, page, context } = await show("?lang=zh", { viewport, colorScheme: "dark" });
    expect(await state.innerText()).toContain("模拟");
    await state.click();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(320);
    await context.close();
  });
});
