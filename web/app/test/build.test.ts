import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { sealedHtml } from "../vite.config.ts";

const FILES = {
  "assets/a.js": { type: "chunk", code: "go()" },
  "assets/a.css": { type: "asset", source: "b{}" },
} as const;
const HEAD = '<meta charset="utf-8" />';
const integrity = (text: string) => `integrity="sha384-${createHash("sha384").update(text).digest("base64")}"`;

test("what a page loads carries its integrity, after the policy", () => {
  const html = sealedHtml(
    `${HEAD}<link rel="icon" href="./icon.svg"><link rel="stylesheet" crossorigin href="./assets/a.css">` +
      '<script type="module" crossorigin src="./assets/a.js"></script>',
    FILES,
  );
  expect(html).toContain(`<link rel="stylesheet" href="./assets/a.css" ${integrity("b{}")}>`);
  expect(html).toContain(`<script type="module" src="./assets/a.js" ${integrity("go()")}></script>`);
  expect(html).toContain('<link rel="icon" href="./icon.svg">');
  expect(html).toMatch(
    /^<meta charset="utf-8" \/>\s*<meta http-equiv="Content-Security-Policy" content="default-src 'none'; /,
  );
  expect(html).not.toContain("unsafe");
});

test.each([
  ["an inline script", `${HEAD}<script>go()</script>`],
  ["a script of another site", `${HEAD}<script src="//elsewhere.example/a.js"></script>`],
  ["a file that is not of this build", `${HEAD}<script src="./assets/b.js"></script>`],
  ["a preloaded file that is not of this build", `${HEAD}<link rel="modulepreload" href="./assets/b.js">`],
  ["an inline style", `${HEAD}<style>b{}</style>`],
  ["a style attribute", `${HEAD}<b style="color: red">`],
  ["a handler", `${HEAD}<b onclick="go()">`],
  ["another site's address", `${HEAD}<img src="https://elsewhere.example/a.png">`],
  ["no charset", "<title>x</title>"],
])("a page with %s is not built", (_, html) => {
  expect(() => sealedHtml(html, FILES)).toThrow();
});

test("what is installed is pinned by its digest, from the registry, and runs nothing then", () => {
  const web = new URL("../../", import.meta.url);
  const lock: { packages: Record<string, { integrity?: string; resolved?: string; link?: boolean }> } = JSON.parse(
    readFileSync(new URL("package-lock.json", web), "utf8"),
  );
  const installed = Object.entries(lock.packages).filter(([path, { link }]) => path.includes("node_modules/") && !link);
  expect(installed.length).toBeGreaterThan(50);
  for (const [path, { integrity, resolved }] of installed) {
    expect(integrity, path).toMatch(/^sha512-[A-Za-z0-9+/]{86}==$/);
    expect(resolved ?? "https://registry.npmjs.org/", path).toMatch(/^https:\/\/registry\.npmjs\.org\//);
  }
  expect(readFileSync(new URL(".npmrc", web), "utf8")).toMatch(/^ignore-scripts=true$/m);
});
