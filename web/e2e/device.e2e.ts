/** The device's storage in a real browser: its IndexedDB, its tabs, and a passkey with the PRF extension. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { DeviceStore } from "../app/src/store/index.ts";
import { launch } from "./browser.ts";

declare global {
  var Store: typeof DeviceStore;
  var store: DeviceStore;
}

const PAGE = '<!doctype html><title>store</title><script type="module" src="/store.js"></script>';
let browser: Browser;
let server: Server;
let context: BrowserContext;

beforeAll(async () => {
  browser = await launch();
  const script = await bundled();
  server = createServer((request, response) => {
    const isScript = request.url === "/store.js";
    response
      .writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html" })
      .end(isScript ? script : PAGE);
  });
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
});
afterAll(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});
beforeEach(async () => {
  context = await browser.newContext();
});
afterEach(async () => {
  await context.close();
});

/** The storage as one script, which leaves its class where the tests find it. */
async function bundled(): Promise<string> {
  const source = join(import.meta.dirname, "../app/src/store/index.ts");
  const output = await build({
    configFile: false,
    logLevel: "silent",
    build: { write: false, target: "es2022", lib: { entry: source, formats: ["es"] } },
  });
  const [chunk] = [output].flat().flatMap((result) => ("output" in result ? result.output : []));
  if (chunk?.type !== "chunk") throw new Error("the storage was not built");
  return chunk.code.replace(/export\s*\{\s*(\w+) as DeviceStore\s*\};?/, "globalThis.Store = $1;");
}

async function tab(): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`);
  await page.waitForFunction(() => globalThis.Store !== undefined);
  await page.evaluate(async () => {
    globalThis.store = await globalThis.Store.open();
  });
  return page;
}

const save = (page: Page, id: string) =>
  page.evaluate(
    (name) =>
      globalThis.store.save({
        id: name,
        title: "a title",
        changed: 1,
        messages: [{ id: "m", role: "user", text: "words", files: [], at: 1 }],
      }),
    id,
  );
const ids = (page: Page) => page.evaluate(async () => (await globalThis.store.list()).map(({ id }) => id).sort());
const protection = (page: Page) => page.evaluate(() => globalThis.store.protection);

async function authenticator(page: Page, hasPrf: boolean): Promise<void> {
  const devtools = await context.newCDPSession(page);
  await devtools.send("WebAuthn.enable");
  await devtools.send("WebAuthn.addVirtualAuthenticator", {
    options: {
      protocol: "ctap2",
      ctap2Version: "ctap2_1",
      transport: "internal",
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: true,
      hasPrf,
    },
  });
}

describe("the device's storage", () => {
  it("keeps conversations under a passphrase, in all tabs, across reloads", async () => {
    const [one, two] = [await tab(), await tab()];
    await save(one, "a");
    await one.evaluate(() => globalThis.store.guardWithPassphrase("correct horse"));
    await two.waitForFunction(() => globalThis.store.protection === "locked");
    await two.evaluate(() => globalThis.store.unlock("correct horse"));
    await save(two, "b");
    expect(await ids(one)).toEqual(["a", "b"]);
    await one.evaluate(() => globalThis.store.lock());
    await two.waitForFunction(() => globalThis.store.protection === "locked");
    const later = await tab();
    const wrong = () => globalThis.store.unlock("wrong").catch((error) => error.code);
    expect(await later.evaluate(wrong)).toBe("store.passphrase-wrong");
    expect([await protection(later), await ids(later)]).toEqual(["locked", []]);
    await later.evaluate(() => globalThis.store.unlock("correct horse"));
    expect(await ids(later)).toEqual(["a", "b"]);
  });

  it("keeps them under a passkey", async () => {
    const page = await tab();
    await authenticator(page, true);
    await save(page, "a");
    await page.evaluate(() => globalThis.store.guardWithPasskey());
    await page.evaluate(() => globalThis.store.lock());
    expect(await ids(page)).toEqual([]);
    await page.evaluate(() => globalThis.store.unlock());
    expect([await protection(page), await ids(page)]).toEqual(["unlocked", ["a"]]);
  });

  it("says when an authenticator can't guard, and loses nothing", async () => {
    const page = await tab();
    await authenticator(page, false);
    await save(page, "a");
    const refused = () => globalThis.store.guardWithPasskey().catch((error) => error.code);
    expect(await page.evaluate(refused)).toBe("store.passkey-unsupported");
    expect([await protection(page), await ids(page)]).toEqual(["none", ["a"]]);
  });
});
