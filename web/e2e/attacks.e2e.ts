/** What a hostile host can try against the page: each is refused with its code, and nothing is sent to a machine that was. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from "vitest";
import { launch, type Visit, visit } from "./browser.ts";
import { Host } from "./host.ts";
import { mitai, PYTHON } from "./setup.ts";

const platform = inject("platform");
const EVIDENCE = /GET \/\.well-known\/mitai\/evidence/;
const OHTTP = /POST \/ohttp/;

let browser: Browser;
let host: Host;
let here: Visit;

beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => browser.close());
beforeEach(async () => {
  host = await Host.before(platform.url);
});
afterEach(async () => {
  await here.context.close();
  await host.close();
});

async function arrive(policySha256 = platform.policySha256): Promise<Page> {
  here = await visit(browser, `${host.url}/#policy=${policySha256}`);
  return here.page;
}

async function refused(page: Page, code: string): Promise<void> {
  await page.getByRole("alert").locator("summary", { hasText: code }).waitFor();
}

/** The page says why, its composer is shut, and no sealed request ever left it. */
async function refusedBeforeSending(page: Page, code: string): Promise<void> {
  await refused(page, code);
  await page.getByRole("button", { name: "Verification: Refused." }).waitFor();
  expect(await page.getByRole("textbox", { name: "Message" }).isDisabled()).toBe(true);
  expect(host.sealed()).toEqual([]);
}

async function ask(page: Page): Promise<void> {
  await page.getByRole("combobox", { name: "Model" }).waitFor();
  const field = page.getByRole("textbox", { name: "Message" });
  await field.fill("What is remote attestation?");
  await field.press("Enter");
}

const proven = (page: Page) => page.getByRole("button", { name: /Ledger entry \d+, proof checked/ });

interface Bundle {
  quote: string;
  claims: string;
}

/** Change a bundle of evidence as JSON. */
function changed(change: (bundle: Bundle) => void): (body: Buffer) => Buffer {
  return (body) => {
    const bundle = JSON.parse(body.toString()) as Bundle;
    change(bundle);
    return Buffer.from(JSON.stringify(bundle));
  };
}

/** Evidence by a host that owns the simulated hardware, for the nonce of the request that it answers. */
async function forged(kind: string, genuine: Buffer, path: string): Promise<Buffer> {
  const claims = join(platform.home, "claims.json");
  await writeFile(claims, Buffer.from((JSON.parse(genuine.toString()) as Bundle).claims, "base64"));
  const nonce = new URL(path, host.url).searchParams.get("nonce") ?? "";
  const command = [join(import.meta.dirname, "forge.py"), kind, platform.home, nonce, claims];
  const { stdout } = await promisify(execFile)(PYTHON, command, { encoding: "buffer", maxBuffer: 64 << 20 });
  return stdout;
}

describe("a machine that is not what the policy demands", () => {
  it.each([
    ["other-code", "attest.measurement-mismatch"],
    ["other-root", "attest.simulated-root-unknown"],
  ])("%s", async (kind, code) => {
    host.tricks = [{ on: EVIDENCE, answer: (body, path) => forged(kind, body, path) }];
    await refusedBeforeSending(await arrive(), code);
  });

  it("one byte of the quote was changed", async () => {
    const flip = changed((bundle) => {
      const quote = Buffer.from(bundle.quote, "base64");
      quote[200] = (quote[200] ?? 0) ^ 1; // within MRTD
      bundle.quote = quote.toString("base64");
    });
    host.tricks = [{ on: EVIDENCE, answer: flip }];
    await refusedBeforeSending(await arrive(), "attest.quote-signature-invalid");
  });

  it("a genuine quote, relayed with the host's own key", async () => {
    const relay = changed((bundle) => {
      const claims = Buffer.from(bundle.claims, "base64").toString();
      const { key_config: key } = JSON.parse(claims) as { key_config: string };
      const bytes = Buffer.from(key, "base64");
      bytes[5] = (bytes[5] ?? 0) ^ 1; // within the public key
      bundle.claims = Buffer.from(claims.replace(key, bytes.toString("base64"))).toString("base64");
    });
    host.tricks = [{ on: EVIDENCE, answer: relay }];
    await refusedBeforeSending(await arrive(), "attest.report-data-mismatch");
  });

  it("old evidence for a new nonce", async () => {
    let old: Buffer | undefined;
    host.tricks = [
      {
        on: EVIDENCE,
        answer: (body) => {
          old ??= body;
          return old;
        },
      },
    ];
    const page = await arrive();
    await page.getByRole("button", { name: "Verification: SIMULATED." }).click();
    await page.getByRole("button", { name: "Verify again" }).click();
    await page.keyboard.press("Escape");
    await refused(page, "attest.nonce-mismatch");
    expect(await page.getByRole("textbox", { name: "Message" }).isDisabled()).toBe(true);
  });

  it.each([
    [
      "simulation where the policy demands hardware",
      "allow_simulation = true",
      "allow_simulation = false",
      "attest.simulation-refused",
    ],
    [
      "another model than the policy demands",
      "capsules = []",
      'capsules = [{ id = "another" }]',
      "attest.capsule-missing",
    ],
  ])("%s", async (_, before, after, code) => {
    expect(platform.policy).toContain(before);
    const policy = platform.policy.replace(before, after);
    host.tricks = [
      {
        on: /GET \/mitai\.json/,
        answer: (body) => Buffer.from(JSON.stringify({ ...(JSON.parse(body.toString()) as object), policy })),
      },
    ];
    await refusedBeforeSending(await arrive(createHash("sha256").update(policy).digest("hex")), code);
  });
});

it("a host that sends the browser on to a link of its own is not the one who gave the link", async () => {
  host.tricks = [{ on: /GET \/$/, redirect: `/?#policy=${platform.policySha256}` }];
  here = await visit(browser, host.url);
  const dialog = here.page.getByRole("dialog", { name: "Is this the policy that you expect?" });
  await dialog.waitFor();
  await here.page.reload();
  await dialog.waitFor();
  expect(host.seen.filter(({ path }) => path.includes("evidence"))).toEqual([]);
});

describe("the channel", () => {
  it("a request that the network sends again", async () => {
    const page = await arrive();
    await page.getByRole("button", { name: "Verification: SIMULATED." }).waitFor();
    await expect.poll(() => page.getByRole("combobox", { name: "Model" }).count()).toBe(1);
    host.tricks = [{ on: OHTTP, twice: true }];
    await ask(page);
    await refused(page, "channel.replayed");
  });

  it("an answer with one byte changed", async () => {
    const page = await arrive();
    await page.getByRole("combobox", { name: "Model" }).waitFor();
    host.tricks = [
      {
        on: OHTTP,
        answer: (body) => {
          const flipped = Buffer.from(body);
          const at = flipped.length >> 1;
          flipped[at] = (flipped[at] ?? 0) ^ 1;
          return flipped;
        },
      },
    ];
    await ask(page);
    await refused(page, "channel.unopenable");
  });

  it("an answer that is cut never looks complete", async () => {
    const page = await arrive();
    await page.getByRole("combobox", { name: "Model" }).waitFor();
    host.tricks = [{ on: OHTTP, cutAfter: 2500 }];
    await ask(page);
    await refused(page, "channel.truncated");
    expect(await proven(page).count()).toBe(0);
  });
});

describe("the ledger", () => {
  it("a log whose history the host rewrites: the answer has no valid receipt", async () => {
    const page = await arrive();
    await ask(page);
    await proven(page).waitFor();
    host.tricks = [
      {
        on: /GET \/broker\/ledger\/tile/,
        answer: (body) => {
          const other = Buffer.from(body);
          other[0] = (other[0] ?? 0) ^ 1;
          return other;
        },
      },
    ];
    await ask(page);
    await page.getByRole("button", { name: "No valid receipt" }).waitFor();
    expect(await proven(page).count()).toBe(1);
  });
});

describe("the page itself", () => {
  it("a swapped script does not run: its integrity is in the page", async () => {
    host.tricks = [
      { on: /GET \/assets\/index-.*\.js/, answer: (body) => Buffer.concat([Buffer.from("globalThis.pwned=1;"), body]) },
    ];
    const page = await arrive();
    await expect.poll(() => here.errors.join()).toMatch(/integrity/i);
    expect(await page.evaluate(() => "pwned" in globalThis)).toBe(false);
    expect(await page.locator("chat-app").count()).toBe(0);
    expect(host.sealed()).toEqual([]);
  });

  it("an inline script that the host puts into the page does not run while it leaves the policy in it", async () => {
    host.tricks = [
      {
        on: /GET \/(#.*)?$/,
        answer: (body) => Buffer.from(body.toString().replace("</body>", "<script>globalThis.pwned=1</script></body>")),
      },
    ];
    const page = await arrive();
    await page.getByRole("button", { name: "Verification: SIMULATED." }).waitFor();
    expect(await page.evaluate(() => "pwned" in globalThis)).toBe(false);
    expect(here.errors.join()).toMatch(/Content Security Policy/i);
  });

  it("a host that swaps the page altogether is out of the page's reach: the command line tells", async () => {
    here = await visit(browser, "about:blank");
    expect(JSON.parse(await mitai(platform.home, "web", "check", host.url, "--json"))).toMatchObject({});
    host.tricks = [{ on: /GET \/$/, answer: (body) => Buffer.from(body.toString().replace(/ integrity="[^"]*"/, "")) }];
    await expect(mitai(platform.home, "web", "check", host.url, "--json")).rejects.toMatchObject({
      stdout: expect.stringContaining("web.page-differs"),
    });
  });
});
