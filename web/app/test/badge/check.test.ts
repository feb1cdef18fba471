/** What the badge does before it trusts anything: the policy is the one that was named, or nothing is asked. */

import { hex, sha256, utf8 } from "@mitai/verify";
import { describe, expect, it } from "vitest";
import { check } from "../../src/badge/check.ts";

const SERVER = "https://llm.test";
const POLICY = "version = 1\n";
const DIGEST = hex(await sha256(utf8(POLICY)));

/** A server that offers `files`, and what was asked of it. */
function server(files: Readonly<Record<string, string>>) {
  const asked: string[] = [];
  const fetcher: typeof fetch = async (input) => {
    const url = String(input);
    asked.push(url.replace(/nonce=\w+/, "nonce"));
    const file = files[url];
    return file === undefined ? new Response("", { status: 404 }) : new Response(file);
  };
  return { asked, fetcher };
}

const OFFER = { [`${SERVER}/mitai.json`]: JSON.stringify({ v: 1, policy: POLICY, releases: [] }) };
const EVIDENCE = `${SERVER}/.well-known/mitai/evidence?nonce`;
const wanted = { server: SERVER, policy: "", policySha256: DIGEST, workload: "serve" };

async function refused(over: Partial<typeof wanted>, files: Readonly<Record<string, string>> = OFFER) {
  const { asked, fetcher } = server(files);
  const error = await check({ ...wanted, ...over }, "https://shop.test/a/", fetcher).catch((thrown) => thrown);
  return { code: error.code, asked };
}

describe("check", () => {
  it("asks the server for evidence once the offered policy is the named one", async () => {
    const { code, asked } = await refused({});
    expect(code).toBe("client.no-evidence"); // this server has none
    expect(asked).toEqual([`${SERVER}/mitai.json`, EVIDENCE]);
  });

  it("takes the policy's file from where the page says", async () => {
    const { code, asked } = await refused({ policy: "../policy.toml" }, { "https://shop.test/policy.toml": POLICY });
    expect(code).toBe("client.no-evidence");
    expect(asked).toEqual([`${SERVER}/mitai.json`, "https://shop.test/policy.toml", EVIDENCE]);
  });

  it.each([
    ["another policy", { policySha256: "0".repeat(64) }, "client.policy-mismatch"],
    ["no digest", { policySha256: "" }, "client.no-policy"],
    ["a malformed digest", { policySha256: DIGEST.toUpperCase() }, "client.no-policy"],
    ["no policy at that address", { policy: "/none.toml" }, "client.no-policy"],
    ["no address", { server: "" }, "client.url-malformed"],
    ["an address with a password", { server: "https://me:secret@llm.test" }, "client.url-malformed"],
  ])("refuses %s, and asks for no evidence", async (_, over, expected) => {
    const { code, asked } = await refused(over);
    expect(code).toBe(expected);
    expect(asked).not.toContain(EVIDENCE);
  });

  it("refuses a server that offers none", async () => {
    expect((await refused({}, {})).code).toBe("client.no-policy");
  });

  it("refuses a policy that is none, though it is the named one", async () => {
    const files = { "https://shop.test/policy.toml": "nonsense" };
    const policySha256 = hex(await sha256(utf8("nonsense")));
    expect((await refused({ policy: "/policy.toml", policySha256 }, files)).code).toBe("attest.policy-malformed");
  });

  it("refuses an offer that is none", async () => {
    expect((await refused({}, { [`${SERVER}/mitai.json`]: "{" })).code).toBe("client.page-malformed");
  });
});
