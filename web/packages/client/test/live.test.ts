/**
 * The client against a running platform: verify, chat, receipt, ledger, and a host that interferes.
 *
 * Runs only where MITAI_URL and MITAI_POLICY say where the platform is and which policy holds (see `mitai up`).
 */

import { readFileSync } from "node:fs";
import { MitaiError, Policy, text, utf8 } from "@mitai/verify";
import { array, decodeJson, optional, string, struct } from "@mitai/verify/json";
import { beforeAll, describe, expect, it } from "vitest";
import {
  type CheckpointStore,
  chat,
  checkProof,
  type End,
  type Fetch,
  fetchReceipt,
  LedgerMemory,
  ledgerFetcher,
  models,
  type Options,
  Proof,
  Session,
} from "../src/index.ts";

const { MITAI_URL: url = "", MITAI_POLICY: policyFile = "" } = process.env;

describe.skipIf(!url || !policyFile)("a running platform", () => {
  let policy: Policy;
  let options: Options;
  let session: Session;
  let end: End;
  let proof: Proof;

  beforeAll(async () => {
    policy = Policy.fromToml(readFileSync(policyFile, "utf8"));
    options = { releases: await offeredReleases() };
    session = await Session.connect(url, policy, options);
  });

  async function offeredReleases() {
    const answer = await fetch(`${url}/mitai.json`);
    if (!answer.ok) return [];
    const offer = struct({ releases: optional(array(string), []) }, "ignored");
    return decodeJson(new Uint8Array(await answer.arrayBuffer()), offer, "x", "x").releases.map(utf8);
  }

  const refusal = async (over: Options) => {
    const error = await Session.connect(url, policy, { ...options, ...over }).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(MitaiError);
    return error.code;
  };

  it("is verified", async () => {
    expect(session.appraisal).toMatchObject({ workload: "serve", simulated: true });
    expect(session.appraisal.checks.map(({ step }) => step).at(-1)).toMatch(/workload/);
    expect(session.replica()).toBeTruthy();
    await session.renew();
  });

  it("answers in a stream, sealed", async () => {
    const [model = ""] = await models(session);
    const wire = { sent: "", received: "" };
    let words = "";
    let pieces = 0;
    const question = "What is a TEE?";
    const asked = chat(session, [{ role: "user", content: question }], {
      model,
      parameters: { max_tokens: 60, temperature: 0 },
      onWire: ({ direction, bytes }) => {
        wire[direction] += Buffer.from(bytes).toString("latin1");
      },
    });
    for await (const delta of asked) {
      if (delta.kind === "text") {
        words += delta.text;
        pieces++;
      } else end = delta;
    }
    expect(words.length).toBeGreaterThan(20);
    expect(pieces).toBeGreaterThan(3);
    expect(end.usage.completionTokens).toBeGreaterThan(3);
    expect(wire.sent.length).toBeGreaterThan(question.length);
    for (const seen of [wire.sent, wire.received]) {
      expect(seen).not.toContain(question);
      expect(seen).not.toContain(words.slice(0, 8));
    }
  });

  it("gives a receipt that holds", async () => {
    proof = await fetchReceipt(session, end);
    const { receipt, appraisal } = await checkProof(proof, policy, options.releases);
    expect(receipt.exchange).toBe(end.exchange.name);
    expect(receipt.usage.completionTokens).toBe(end.usage.completionTokens);
    expect(appraisal.workload).toBe("serve");
    expect(Proof.decode(utf8(proof.json))).toEqual(proof);
  });

  it("has a receipt for this exchange alone", async () => {
    const forged = (members: object) => Proof.decode(utf8(JSON.stringify({ ...JSON.parse(proof.json), ...members })));
    const checked = (members: object) => checkProof(forged(members), policy, options.releases);
    const zeros = "0".repeat(64);
    await expect(checked({ request_sha256: zeros })).rejects.toMatchObject({ code: "ledger.receipt-request" });
    await expect(checked({ response_sha256: zeros })).rejects.toMatchObject({ code: "ledger.receipt-response" });
    await expect(checked({ nonce: Buffer.alloc(32).toString("base64") })).rejects.toMatchObject({
      code: "attest.nonce-mismatch",
    });
    const later = new Date(proof.verifiedAt.getTime() + 25 * 3_600_000).toISOString();
    await expect(checked({ verified_at: later })).rejects.toMatchObject({ code: "client.receipt-time" });
  });

  it("writes a ledger that only grows", async () => {
    const { ledger } = session.appraisal.claims;
    if (!ledger) throw new Error("the machine's claims name no ledger");
    const kept = new Map<string, string>();
    const store: CheckpointStore = {
      get: async (vkey) => kept.get(vkey),
      put: async (vkey, note) => void kept.set(vkey, note),
    };
    const memory = new LedgerMemory(store);
    const fetcher = ledgerFetcher(session.baseUrl);
    await memory.observe(proof.bundle.checkpoint, ledger.vkey, fetcher);
    expect((await memory.recall(ledger.vkey))?.size).toBeGreaterThan(BigInt(proof.bundle.index));
    await memory.observe(text(ledger.checkpoint), ledger.vkey, fetcher); // an older one of the same history
  });

  it("has no receipt for an exchange that never was", async () => {
    const never = { ...end, exchange: { ...end.exchange, id: "0".repeat(32), name: "" } };
    await expect(fetchReceipt(session, never, { waitMs: 0 })).rejects.toMatchObject({ code: "serve.receipt-unknown" });
  });

  it("is refused when the host exchanges the key, replays evidence, or sends another machine's", async () => {
    const changing =
      (change: (body: string) => string): Fetch =>
      async (input, init) => {
        const answer = await fetch(input, init);
        return new Response(change(await answer.text()), answer);
      };
    const old = text(session.verified.evidenceBytes);
    expect(await refusal({ fetch: changing(() => old) })).toBe("attest.nonce-mismatch");
    const claims = text(session.appraisal.claimsBytes);
    const forged = claims.replace(
      /("key_config":")(.{20})/,
      (_, name, key) => name + key.slice(0, 10) + key.slice(10).split("").reverse().join(""),
    );
    expect(forged).not.toBe(claims);
    const encode = (value: string) => Buffer.from(value).toString("base64");
    const swapped = changing((body) => {
      const evidence = JSON.parse(body);
      return JSON.stringify({ ...evidence, claims: encode(forged) });
    });
    expect(await refusal({ fetch: swapped })).toBe("attest.report-data-mismatch");
    expect(await refusal({ workload: "broker" })).toBe("client.other-workload");
    expect(
      await refusal({
        fetch: (_, init) => fetch(`${url}/broker/.well-known/mitai/evidence?nonce=${"0".repeat(64)}`, init),
      }),
    ).toBe("attest.nonce-mismatch");
  });

  it("ends an answer when it is told to", async () => {
    const [model = ""] = await models(session);
    const stop = new AbortController();
    const asked = chat(session, [{ role: "user", content: "Tell me a long story" }], { model, signal: stop.signal });
    const heard = async () => {
      for await (const _ of asked) stop.abort();
    };
    await expect(heard()).rejects.toMatchObject({ name: "AbortError" });
  });
});
