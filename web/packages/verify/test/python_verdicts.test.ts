/** The same verdict, code and result as the Python package, on every input of the fixtures: here, and in a browser. */

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";
import { build } from "vite";
import { describe, expect, test } from "vitest";
import { load } from "./fixtures.ts";
import { compare, KINDS } from "./verdicts.ts";

const [EVIDENCE, LEDGER] = [load("evidence"), load("ledger")];
const CASES = [
  ...["claims", "policy", "evidence", "release", "log"].map((kind) => ({ kind, fixtures: EVIDENCE })),
  ...["note", "entry", "receipt", "assured"].map((kind) => ({ kind, fixtures: LEDGER })),
];
const CHROMIUM = process.env.MITAI_CHROMIUM ?? "/usr/bin/chromium";

test("no kind is left out", () => {
  expect(CASES.map(({ kind }) => kind)).toEqual(KINDS);
});

test.each(CASES)("$kind", async ({ kind, fixtures }) => {
  const { runs, differing } = await compare(fixtures, kind);
  expect(differing).toEqual([]);
  expect(runs).toBeGreaterThan(150);
});

describe.skipIf(!existsSync(CHROMIUM))("in Chromium (skipped where there is none)", () => {
  test("all of them", { timeout: 120_000 }, async () => {
    const lib = {
      entry: new URL("verdicts.ts", import.meta.url).pathname,
      formats: ["iife" as const],
      name: "verdicts",
    };
    const built = await build({ configFile: false, logLevel: "error", build: { write: false, minify: false, lib } });
    const [bundle] = Array.isArray(built) ? built : [];
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
    try {
      const page = await browser.newPage();
      await page.route("https://verify.example/", (route) =>
        route.fulfill({ body: "<!doctype html>", contentType: "text/html" }),
      );
      await page.goto("https://verify.example/");
      await page.addScriptTag({ content: bundle?.output[0].code ?? "" });
      for (const { kind, fixtures } of CASES) {
        const found = await page.evaluate(`verdicts.compare(${JSON.stringify(fixtures)}, "${kind}")`);
        expect(found).toMatchObject({ differing: [] });
      }
    } finally {
      await browser.close();
    }
  });
});
