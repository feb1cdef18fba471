/** In a real browser, against the Python server: WebCrypto, `Request` and streams are the browser's own here. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { hex } from "@mitai/verify";
import { type Browser, chromium, type Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type * as channel from "../src/index.ts";
import { available, PythonServer } from "./python.ts";

const CHROMIUM = process.env.MITAI_CHROMIUM ?? "/usr/bin/chromium";

declare global {
  /** What the tests below use in the page. */
  var page: { peer: channel.Peer } & typeof channel;
}

/** The package as one script that sets `globalThis.page`. */
async function bundle(): Promise<string> {
  const entry = fileURLToPath(new URL("../src/index.ts", import.meta.url));
  const lib = { entry, name: "page", formats: ["iife" as const] };
  const built = await build({ configFile: false, logLevel: "error", build: { write: false, minify: false, lib } });
  const outputs = Array.isArray(built) ? built : [built];
  const chunk = outputs.flatMap((one) => ("output" in one ? one.output : [])).find(({ type }) => type === "chunk");
  if (chunk?.type !== "chunk") throw new Error("nothing was built");
  return `${chunk.code}\nglobalThis.page = { ...page };`;
}

describe.skipIf(!available || !existsSync(CHROMIUM)).each(["x25519", "x-wing"] as const)("in Chromium, %s", (kem) => {
  let server: PythonServer;
  let browser: Browser;
  let tab: Page;
  beforeAll(async () => {
    server = await PythonServer.start(kem);
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
    tab = await browser.newPage();
    await tab.goto(`${server.baseUrl}/control`);
    await tab.addScriptTag({ content: await bundle() });
    await tab.evaluate(
      (config) => {
        const key = Uint8Array.from(config.match(/../g) ?? [], (digits) => Number.parseInt(digits, 16));
        const nothing = async () => undefined;
        page.peer = { baseUrl: location.origin, keyConfig: async () => key, replica: () => undefined, renew: nothing };
      },
      hex(await server.keyConfig()),
    );
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    server?.stop();
  });

  test("bodies of all kinds and sizes", async () => {
    const answers = await tab.evaluate(async () => {
      const fetch = page.sealedFetch(page.peer);
      const stream = new Blob(["streamed"]).stream();
      const bodies = ["text", new Blob(["blob"]), new Uint8Array(300_000), new URLSearchParams({ a: "é" }), stream];
      const answers = [];
      for (const body of bodies) {
        const response = await fetch("/v1/echo", { method: "POST", body, headers: { "x-y": "ü" } });
        const exchange = page.exchangeOf(response);
        const echoed = await response.arrayBuffer();
        answers.push([
          echoed.byteLength > 99 ? echoed.byteLength : new TextDecoder().decode(echoed),
          !!exchange.responseSha256,
        ]);
      }
      return answers;
    });
    expect(answers).toEqual(["text", "blob", 300_000, "a=%C3%A9", "streamed"].map((body) => [body, true]));
  });

  test("events as they are written, and an end that is missing", async () => {
    const { at, error } = await tab.evaluate(async () => {
      const fetch = page.sealedFetch(page.peer);
      const at = [];
      const reader = (await fetch("/v1/events", { method: "POST", body: "4" })).body?.getReader();
      while (!(await reader?.read())?.done) at.push(performance.now());
      const error = await (await fetch("/v1/fail")).text().catch(({ code }) => code);
      return { at, error };
    });
    expect((at.at(-1) ?? 0) - (at[0] ?? 0)).toBeGreaterThan(100);
    expect(error).toBe("channel.truncated");
  });

  test("an abort", async () => {
    const name = await tab.evaluate(async () => {
      const controller = new AbortController();
      const init = { method: "POST", body: "100", signal: controller.signal };
      const reader = (await page.sealedFetch(page.peer)("/v1/events", init)).body?.getReader();
      await reader?.read();
      setTimeout(() => controller.abort(), 20);
      for (;;) {
        const error = await reader?.read().then(
          () => undefined,
          (error) => error,
        );
        if (error) return error.name;
      }
    });
    expect(name).toBe("AbortError");
  });
});
