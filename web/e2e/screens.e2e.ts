/**
 * Every state at every size, in both languages: nothing is clipped and nothing overflows. Pictures go to `e2e/screens/`,
 * for people to look at.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { DESKTOP, launch, PHONE } from "./browser.ts";
import { walk } from "./states.ts";

const FOLDER = join(import.meta.dirname, "screens");
const SIZES = { phone: PHONE, small: { width: 320, height: 640 }, desktop: DESKTOP };
/** Which pictures are taken: every size, both themes, both languages, but not each with each. */
const PICTURES: Readonly<Record<string, readonly (readonly [keyof typeof SIZES, "light" | "dark"])[]>> = {
  en: [
    ["phone", "light"],
    ["small", "dark"],
    ["desktop", "dark"],
  ],
  zh: [
    ["phone", "dark"],
    ["small", "light"],
    ["desktop", "light"],
  ],
};

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
  await rm(FOLDER, { recursive: true, force: true });
  await mkdir(FOLDER);
});
afterAll(async () => browser.close());

it.each([
  ["en", "en-GB"],
  ["zh", "zh-CN"],
])(
  "shows every state whole: %s",
  async (language, locale) => {
    const found: string[] = [];
    await walk(browser, locale, "light", async (page, name, only) => {
      for (const [size, theme] of PICTURES[language] ?? []) {
        if (only && (only === "desktop") !== (size === "desktop")) continue;
        await page.setViewportSize(SIZES[size]);
        await page.emulateMedia({ colorScheme: theme });
        found.push(...(await clipped(page)).map((what) => `${name}, ${size}: ${what}`));
        await page.screenshot({ path: join(FOLDER, `${name}-${language}-${size}-${theme}.png`) });
      }
      await page.setViewportSize(only === "phone" ? PHONE : DESKTOP);
      await page.emulateMedia({ colorScheme: "light" });
    });
    expect(found).toEqual([]);
  },
  90_000,
);

/**
 * What does not fit: boxes that reach beyond the page's sides, and words that reach beyond their box.
 *
 * Left out is what scrolls sideways by design, what is ellipsised on purpose, and what is for screen readers only.
 */
async function clipped(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    const found: string[] = [];
    const parentOf = (element: Element) => {
      const node = element.assignedSlot ?? element.parentNode;
      return node instanceof ShadowRoot ? node.host : node instanceof Element ? node : null;
    };
    /** Whether it lies in something that scrolls sideways, or that cuts with an ellipsis. */
    const excused = (element: Element) => {
      for (let at: Element | null = element; at; at = parentOf(at)) {
        const { overflowX, textOverflow, clipPath, position } = getComputedStyle(at);
        if (clipPath !== "none" || textOverflow === "ellipsis") return true;
        if (overflowX === "auto" && at.scrollWidth > at.clientWidth && at.localName !== "html")
          return scrollsByDesign(at);
        if (position === "fixed") return false;
      }
      return false;
    };
    const scrollsByDesign = (element: Element) =>
      element.matches("pre, .scroll, .bytes, textarea, nav, [tabindex='0']") ||
      element.querySelector("table, pre") !== null;
    const say = (element: Element) =>
      `${element.localName}.${element.className} “${(element.textContent ?? "").trim().slice(0, 30)}”`;
    const look = (root: ParentNode) => {
      for (const element of root.querySelectorAll("*")) {
        if (element.shadowRoot) look(element.shadowRoot);
        if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        const { left, right, width, height } = element.getBoundingClientRect();
        if (width <= 1 || height <= 1 || element.closest("svg") || excused(element)) continue;
        if (right > innerWidth + 1 || left < -1) found.push(`beyond the page: ${say(element)}`);
        const words = [...element.childNodes].some(
          (node) => node.nodeType === Node.TEXT_NODE && node.textContent?.trim(),
        );
        const { overflowX, overflowY, display } = getComputedStyle(element);
        if (words && display !== "inline" && element.scrollWidth > element.clientWidth + 1 && overflowX !== "auto")
          found.push(`wider than its box: ${say(element)}`);
        if (words && display !== "inline" && element.scrollHeight > element.clientHeight + 3 && overflowY === "hidden")
          found.push(`higher than its box: ${say(element)}`);
      }
    };
    look(document);
    if (document.documentElement.scrollWidth > innerWidth)
      found.push(`the page is ${document.documentElement.scrollWidth} wide`);
    return [...new Set(found)].slice(0, 6);
  });
}
