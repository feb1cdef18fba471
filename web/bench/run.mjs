/**
 * A browser for `benchmarks/web.py`: commands come as JSON lines on standard input, each is answered by one on standard
 * output.
 *
 *   {"do": "verify", "subject": …}        one verification in a page that has done some before
 *   {"do": "cold", "subject": …}          the first one of a fresh page in a fresh profile
 *   {"do": "proof", "file": …, "model": …}
 *                                         one check of an answer with a proof
 *   {"do": "tokens", "ask": …, "sealedFirst": …}
 *   {"do": "visit", "url": …, "until": …, "kept": …}
 *                                         a first visit in a fresh profile, until these words are shown, the page is kept
 *                                         for offline use where it is meant to be, and the network is quiet
 *
 * For `tokens` there is a browser without the same-origin policy: the engine's plaintext address lets no other page ask
 * it, and a question before each question (CORS) is nothing that the chat has, which is of the same origin.
 */
import { createServer } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { build } from "vite";

const script = await bundled();
const server = createServer((request, response) => {
  const types = { "/": "text/html", "/page.js": "text/javascript" };
  const type = types[request.url ?? ""];
  response.writeHead(type ? 200 : 204, type ? { "content-type": `${type}; charset=utf-8` } : {});
  response.end(
    request.url === "/page.js" ? script : type && '<!doctype html><script type="module" src="/page.js"></script>',
  );
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const address = `http://127.0.0.1:${server.address().port}/`;
const browser = await launched();
const open = await launched("--disable-web-security");

try {
  const warm = await opened(browser);
  const asking = await opened(open);
  const commands = {
    verify: ({ subject }) => warm.evaluate((it) => bench.verifyOnce(it), subject),
    cold: async ({ subject }) => {
      const page = await opened(browser);
      const result = await page.evaluate((it) => bench.verifyOnce(it), subject);
      await page.context().close();
      return result;
    },
    proof: ({ file, model }) => warm.evaluate(([it, of]) => bench.verifyProof(it, of), [file, model]),
    tokens: ({ ask, sealedFirst }) =>
      asking.evaluate(([it, first]) => bench.firstTokens(it, first), [ask, sealedFirst]),
    visit,
  };
  process.stdout.write(`${JSON.stringify({ chromium: browser.version() })}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    process.stdout.write(`${JSON.stringify((await commands[command.do](command)) ?? null)}\n`);
  }
} finally {
  await Promise.all([browser.close(), open.close()]);
  server.close();
}

async function launched(...more) {
  return await chromium.launch({
    executablePath: process.env.MITAI_CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", ...more],
  });
}

async function opened(browser) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(address);
  await page.waitForFunction(() => "bench" in globalThis);
  return page;
}

async function visit({ url, until, kept }) {
  const context = await browser.newContext({ locale: "en-US" });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(url);
  await page.getByText(until).first().waitFor();
  if (kept) await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  await page.waitForLoadState("networkidle");
  await context.close();
}

async function bundled() {
  const [{ output }] = [
    await build({
      configFile: false,
      logLevel: "silent",
      define: { "process.env.NODE_ENV": '"production"' },
      esbuild: { target: "es2022" },
      build: {
        write: false,
        target: "es2022",
        rollupOptions: { input: join(import.meta.dirname, "page.ts"), output: { inlineDynamicImports: true } },
      },
    }),
  ].flat();
  return output[0].code;
}
