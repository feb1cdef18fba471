/**
 * Who can use the pages: axe on every state, the keyboard alone, and what Lighthouse would say.
 *
 * Lighthouse itself is 185 MB of packages, so its audits that mean something here are done by hand: title, language,
 * viewport, description, headers, console errors, size of targets, layout shifts, largest paint, code that nobody runs.
 * (Contrast, names and roles are axe's in both.)
 */
import { AxeBuilder } from "@axe-core/playwright";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { DESKTOP, launch, PHONE, visit } from "./browser.ts";
import { walk } from "./states.ts";

const { url, policySha256 } = inject("platform");
const PAGES = { chat: `${url}/#policy=${policySha256}`, console: `${url}/console.html#policy=${policySha256}` };

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => browser.close());

it.each([
  ["en-GB", "light", "phone"],
  ["zh-CN", "dark", "desktop"],
] as const)(
  "axe finds nothing in any state: %s, %s, %s",
  async (locale, theme, usual) => {
    const found: string[] = [];
    await walk(browser, locale, theme, async (page, name, only) => {
      await page.setViewportSize((only ?? usual) === "phone" ? PHONE : DESKTOP);
      const { violations } = await new AxeBuilder({ page }).options({ resultTypes: ["violations"] }).analyze();
      for (const { id, impact, nodes } of violations)
        found.push(`${name}: ${impact} ${id}: ${nodes.map(({ target }) => target.flat().join(" ")).join("; ")}`);
      for (const target of await smallTargets(page)) found.push(`${name}: small: ${target}`);
      await page.setViewportSize(only === "phone" ? PHONE : DESKTOP);
    });
    expect(found).toEqual([]);
  },
  90_000,
);

describe.each(Object.entries(PAGES))("the %s", (name, address) => {
  it("lets the keyboard reach every control, and shows where it is", async () => {
    const { page, context } = await visit(browser, address);
    await ready(page, name);
    const all = await controls(page);
    const reached = new Set<string>();
    await page.evaluate(() => document.body.focus());
    for (let step = 0; step < all.length + 12 && reached.size < all.length; step++) {
      await page.keyboard.press("Tab");
      const at = await focused(page);
      if (!at) continue;
      expect(at.visible, `no visible focus on ${at.id}`).toBe(true);
      reached.add(at.id);
    }
    expect(all.filter((id) => !reached.has(id))).toEqual([]);
    expect(all.length).toBeGreaterThan(5);
    await context.close();
  });

  it("passes what Lighthouse would look at", async () => {
    const context = await browser.newContext({ viewport: PHONE, locale: "en-US" });
    await context.addInitScript(observe);
    const { page, errors, strangers } = await visit(browser, address, { context });
    await ready(page, name);
    await page.waitForTimeout(300);
    const head = await page.evaluate(() => ({
      title: document.title,
      lang: document.documentElement.lang,
      viewport: document.querySelector<HTMLMetaElement>("meta[name=viewport]")?.content,
      description: document.querySelector<HTMLMetaElement>("meta[name=description]")?.content,
      doctype: document.compatMode,
      ...globalThis.seen,
    }));
    expect(head).toMatchObject({ title: expect.stringContaining("mitai"), lang: "en", doctype: "CSS1Compat" });
    expect(head.viewport).toContain("width=device-width");
    expect(head.viewport).not.toMatch(/user-scalable=no|maximum-scale/);
    expect(head.description?.length).toBeGreaterThan(20);
    expect(head.shift).toBeLessThan(0.1);
    expect(head.largestPaint_ms).toBeGreaterThan(0);
    expect(head.largestPaint_ms).toBeLessThan(2500);
    expect([errors, strangers]).toEqual([[], []]);
    const answer = await fetch(address);
    expect(answer.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expect(answer.headers.get("content-encoding")).toBe("gzip");
    await context.close();
  });
});

it.each([
  ["the checks", "status-badge button", DESKTOP],
  ["the settings", "header > button:last-of-type", DESKTOP],
  ["the conversations", "header > button:first-of-type", PHONE],
])("Esc leaves %s, and the focus is where it was", async (_, opener, viewport) => {
  const { page, context } = await visit(browser, PAGES.chat, { viewport });
  await ready(page, "chat");
  await page.locator(opener).focus();
  const before = await focused(page);
  await page.keyboard.press("Enter");
  await page.locator("dialog[open]").waitFor();
  for (let step = 0; step < 40; step++) {
    await page.keyboard.press("Tab");
    expect(await page.evaluate(inDialog)).toBe(true);
  }
  await page.keyboard.press("Escape");
  await page.locator("dialog[open]").waitFor({ state: "detached" });
  expect((await focused(page))?.id).toBe(before?.id);
  await context.close();
});

async function ready(page: Page, name: string): Promise<void> {
  await page
    .locator(name === "chat" ? "select.model" : "machine-card details")
    .last()
    .waitFor();
}

/** Whether the focus is in a dialog; or in the browser's own bar, but never in the page behind. */
function inDialog(): boolean {
  let at: Element | null = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  if (at === document.body) return true;
  while (at && !at.matches("dialog[open]")) {
    const up: Node | null = at.assignedSlot ?? at.parentNode;
    at = up instanceof ShadowRoot ? up.host : up instanceof Element ? up : null;
  }
  return at !== null;
}

interface Measured {
  shift: number;
  largestPaint_ms: number;
}

declare global {
  var seen: Measured;
}

/** Runs in the page before anything else: layout shifts as Lighthouse adds them up, and the largest paint. */
function observe(): void {
  globalThis.seen = { shift: 0, largestPaint_ms: 0 };
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { hadRecentInput, value } = Object(entry);
      if (!hadRecentInput) globalThis.seen.shift += value;
    }
  }).observe({ type: "layout-shift", buffered: true });
  new PerformanceObserver((list) => {
    for (const { startTime } of list.getEntries()) globalThis.seen.largestPaint_ms = startTime;
  }).observe({ type: "largest-contentful-paint", buffered: true });
}

/** What can be pressed and is smaller than 24 × 24 px (WCAG 2.5.8), but for links and summaries within text. */
async function smallTargets(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const found: string[] = [];
    const look = (root: ParentNode) => {
      for (const element of root.querySelectorAll("*")) {
        if (element.shadowRoot) look(element.shadowRoot);
        if (!element.matches("button, select, textarea, input:not([type=checkbox], [type=radio], .hidden)")) continue;
        const { width, height } = element.getBoundingClientRect();
        if (width && element.checkVisibility({ visibilityProperty: true }) && (width < 24 || height < 24))
          found.push(`${element.outerHTML.slice(0, 80)} ${width}×${height}`);
      }
    };
    look(document);
    return found;
  });
}

/** Names of all controls that Tab should reach, by their path through the shadow roots. */
async function controls(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const found: string[] = [];
    const look = (root: ParentNode, path: string) => {
      for (const [at, element] of [...root.querySelectorAll("*")].entries()) {
        if (element.shadowRoot) look(element.shadowRoot, `${path}${at}/`);
        const control = element.matches(
          "a[href], button:not(:disabled), input:not([type=file]:disabled, :disabled), select, textarea:not(:disabled), summary, [tabindex='0']",
        );
        if (control && element.checkVisibility({ visibilityProperty: true })) found.push(`${path}${at}`);
      }
    };
    look(document, "");
    return found;
  });
}

/** Where the focus is, and whether that is to be seen: an outline, on it or on what it lies in. */
async function focused(page: Page): Promise<{ id: string; visible: boolean } | undefined> {
  return await page.evaluate(() => {
    let path = "";
    let root: Document | ShadowRoot = document;
    for (;;) {
      const active: Element | null = root.activeElement;
      if (!active || active === document.body) return undefined;
      path += [...root.querySelectorAll("*")].indexOf(active);
      if (!active.shadowRoot?.activeElement) {
        const outlined = (element: Element | null) => {
          const style = element && getComputedStyle(element);
          return style !== null && style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 1;
        };
        return { id: path, visible: outlined(active) || outlined(active.closest(".box, label, .button")) };
      }
      path += "/";
      root = active.shadowRoot;
    }
  });
}
