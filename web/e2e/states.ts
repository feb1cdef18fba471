/** Every state that a user may see, one after the other: chat, console and badge, against a platform in simulation. */
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { inject } from "vitest";
import { DESKTOP, PHONE, type Visit, visit } from "./browser.ts";
import { Host } from "./host.ts";

const PASSPHRASE = "a long enough passphrase";
const LONG = `${"How do I know who reads what I write? ".repeat(3)}\n\nAnd_${"a_very_long_word_".repeat(4)}`;

/** Looks at a state, by its name; `sizes` are those at which it exists. */
export type Look = (page: Page, name: string, only?: "phone" | "desktop") => Promise<void>;

export async function walk(browser: Browser, locale: string, colorScheme: "light" | "dark", look: Look): Promise<void> {
  const platform = inject("platform");
  const host = await Host.before(platform.url);
  const context = await browser.newContext({ viewport: DESKTOP, locale, colorScheme, reducedMotion: "reduce" });
  try {
    await chat(await visit(browser, `${host.url}/`, { context }), host, look);
    host.tricks = [];
    await console_(await visit(browser, `${host.url}/console.html`, { context }), look);
    await badge(context, locale, look);
  } finally {
    await context.close();
    await host.close();
  }
}

async function chat({ page }: Visit, host: Host, look: Look): Promise<void> {
  const { policySha256 } = inject("platform");
  const status = page.locator("status-badge button");
  const field = page.locator("chat-composer textarea");
  const close = () => page.keyboard.press("Escape");
  const dialog = (owner: string) => page.locator(`${owner} dialog[open]`).first();

  await dialog("policy-dialog").waitFor();
  await look(page, "chat-question");
  await close();
  await look(page, "chat-undecided");
  await status.click();
  await look(page, "chat-undecided-checks");
  await page.locator("verification-sheet button.primary").click();
  await page.locator("policy-dialog button.primary").click();
  await page.locator("status-badge button.stripes").waitFor();
  await page.locator("select.model").waitFor();
  await look(page, "chat-welcome");

  await page.locator("chat-composer input[type=file]").setInputFiles({
    ...{ name: `a-file-with-${"a-very-".repeat(14)}long-name.txt`, mimeType: "text/plain" },
    buffer: Buffer.from("Some words."),
  });
  await field.fill(LONG);
  await look(page, "chat-draft");
  await field.press("Enter");
  await page.locator(".proof.good").waitFor();
  await look(page, "chat-answer");
  await status.click();
  await unfold(page);
  await look(page, "chat-checks");
  await close();
  await page.locator(".proof").click();
  await page.locator("exchange-sheet pre").first().waitFor();
  await unfold(page);
  await look(page, "chat-receipt");
  await close();
  await page.locator("header > button").last().click();
  await look(page, "chat-settings");
  await page.locator("keeping-settings button").first().click();
  await page.locator("keeping-dialog input").first().fill("short");
  await page.locator("keeping-dialog button.primary").click();
  await look(page, "chat-keep");
  await close();
  await close();
  await page.locator("chat-message").first().locator(".actions > button").last().click();
  await look(page, "chat-editing");
  await page.locator("chat-composer .files > button").first().click();

  const entry = page.locator("chat-sidebar li").first();
  for (const [at, name] of ["chat-rename", "chat-delete"].entries()) {
    await entry.hover();
    await entry.locator(".actions button").nth(at).click();
    await look(page, name, "desktop");
    await close();
  }
  await page.setViewportSize(PHONE);
  await page.locator("header > button").first().click();
  await look(page, "chat-sidebar", "phone");
  await close();
  await page.setViewportSize(DESKTOP);

  host.tricks = [{ on: /POST .*ohttp/, cutAfter: 700 }];
  await field.fill("Tell me everything.");
  await field.press("Enter");
  await page.locator("chat-message .failure").waitFor();
  await look(page, "chat-broken-answer");

  host.tricks = [
    { on: /GET .*evidence/, answer: (body) => Buffer.from(body.toString().replace(/"nonce":"../, '"nonce":"AA')) },
  ];
  await page.reload();
  await page.locator("status-badge button.bad").waitFor();
  await unfold(page);
  await look(page, "chat-refused");
  await status.click();
  await unfold(page);
  await look(page, "chat-refused-checks");

  host.tricks = [
    { on: /GET \/mitai\.json/, answer: (body) => Buffer.from(body.toString().replace("min_eval", " min_eval")) },
  ];
  await page.reload();
  await dialog("policy-dialog").waitFor();
  await look(page, "chat-changed-policy");
  host.tricks = [];
  await page.goto("about:blank");
  await page.goto(`${host.url}/#policy=${"0".repeat(64)}`);
  await dialog("policy-dialog").waitFor();
  await look(page, "chat-other-link");

  await page.goto("about:blank");
  await page.goto(`${host.url}/#policy=${policySha256}`);
  await page.locator("status-badge button.stripes").waitFor();
  await page.locator("keeping-place button").click();
  for (const at of [0, 1]) await page.locator("keeping-dialog input").nth(at).fill(PASSPHRASE);
  await page.locator("keeping-dialog button.primary").click();
  await page.locator("keeping-dialog input").first().waitFor({ state: "detached" });
  await page.reload();
  await page.locator("keeping-dialog input").waitFor();
  await look(page, "chat-locked");
}

async function console_({ page }: Visit, look: Look): Promise<void> {
  const { home } = inject("platform");
  const section = async (name: string) => {
    await page.evaluate((to) => {
      location.hash = to;
    }, name);
    await page.locator(`console-${name}`).waitFor();
  };
  await page.locator("machine-card .tag.warn, machine-card .stripes").first().waitFor();
  await page.locator("machine-card details").last().waitFor();
  await look(page, "console-overview");
  await unfold(page);
  await look(page, "console-evidence");
  await section("capsules");
  await look(page, "console-identity");
  await page.locator("console-capsules input[type=file]").setInputFiles(join(home, "owner/identity.pem"));
  const card = page.locator("capsule-card", { has: page.locator("button.danger") }).first(); // one that is not revoked
  await card.waitFor();
  await unfold(page);
  await look(page, "console-capsules");
  await card
    .locator("button", { has: page.locator("svg") })
    .first()
    .waitFor();
  await card.locator("button.danger").click();
  await look(page, "console-revoke");
  await page.keyboard.press("Escape");
  await card.locator("button.danger").locator("xpath=preceding-sibling::button").click();
  await look(page, "console-set-policy");
  await page.keyboard.press("Escape");
  await section("approvals");
  await look(page, "console-approvals");
  await section("ledger");
  await page.locator("entry-list summary").first().waitFor();
  await unfold(page);
  await page.locator("entry-list details button.tiny").first().click();
  await look(page, "console-ledger");
  await section("usage");
  await page.locator("console-usage :is(svg, .note, table)").first().waitFor();
  await look(page, "console-usage");
}

/** The badge on a page of another origin. */
async function badge(context: Visit["context"], locale: string, look: Look): Promise<void> {
  const { url, policySha256 } = inject("platform");
  const script = readFileSync(join(import.meta.dirname, "../../src/mitai/web/page/badge.js"));
  const shop = createServer((request, response) => {
    const isScript = request.url === "/badge.js";
    response.writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html" });
    response.end(
      isScript
        ? script
        : `<!doctype html><html lang="${locale}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
          <meta name="color-scheme" content="light dark"><title>Shop</title><script type="module" src="badge.js"></script>
          <main><h1>Shop</h1><mitai-badge server="${url}" policy-sha256="${policySha256}"></mitai-badge></main>`,
    );
  });
  await new Promise<void>((resolve) => shop.listen(0, "127.0.0.1", resolve));
  try {
    const page = await context.newPage();
    await page.goto(`http://127.0.0.1:${(shop.address() as AddressInfo).port}/`);
    await page.waitForFunction(() => Object(document.querySelector("mitai-badge")).verdict === "simulated");
    await look(page, "badge");
    await page.locator("mitai-badge button").first().click();
    await look(page, "badge-open");
  } finally {
    shop.closeAllConnections();
    shop.close();
  }
}

/** Open everything that is folded, in every shadow root. */
async function unfold(page: Page): Promise<void> {
  await page.evaluate(() => {
    const open = (root: ParentNode) => {
      for (const element of root.querySelectorAll("*")) {
        if (element.shadowRoot) open(element.shadowRoot);
        if (element instanceof HTMLDetailsElement) element.open = true;
      }
    };
    open(document);
  });
}
