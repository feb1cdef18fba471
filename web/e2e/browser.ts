/** Debian's Chromium, driven by Playwright; every page is watched for errors and for requests to anybody else. */
import { existsSync } from "node:fs";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";

export const CHROMIUM = process.env.MITAI_CHROMIUM ?? "/usr/bin/chromium";
export const PHONE = { width: 390, height: 844 };
export const DESKTOP = { width: 1280, height: 800 };

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export async function launch(): Promise<Browser> {
  if (!existsSync(CHROMIUM))
    throw new Error(`no browser at ${CHROMIUM}: apt-get install chromium, or set MITAI_CHROMIUM`);
  return chromium.launch({ executablePath: CHROMIUM, args: QUIET });
}

export interface Visit {
  page: Page;
  context: BrowserContext;
  /** What the page complained about on its console, and uncaught errors. */
  errors: string[];
  /** Requests to other origins than the page's own. */
  strangers: string[];
}

export async function visit(
  browser: Browser,
  url: string,
  options: { viewport?: typeof PHONE; locale?: string; colorScheme?: "light" | "dark"; context?: BrowserContext } = {},
): Promise<Visit> {
  const { viewport = DESKTOP, locale = "en-US", colorScheme = "light" } = options;
  const context =
    options.context ?? (await browser.newContext({ viewport, locale, colorScheme, reducedMotion: "reduce" }));
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const errors: string[] = [];
  const strangers: string[] = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    const at = new URL(request.url());
    if (at.protocol.startsWith("http") && at.origin !== new URL(url).origin) strangers.push(request.url());
  });
  await page.goto(url);
  return { page, context, errors, strangers };
}
