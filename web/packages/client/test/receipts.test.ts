/** Proofs that the Python package made and kept: they hold here too, and nothing else does. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "@mitai/channel";
import { fromBase64, MitaiError, Policy, utf8 } from "@mitai/verify";
import { decodeJson, dictionary, string, struct } from "@mitai/verify/json";
import fc from "fast-check";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Answered } from "../src/receipts.ts";
import { checkProof, fetchReceipt, MAX_PROOF_BYTES, Proof } from "../src/receipts.ts";
import { Session, type Verified } from "../src/session.ts";
import { Server } from "./fakes.ts";

const sent = vi.hoisted(() => ({ requests: [] as string[], answers: [] as (() => Response)[] }));

vi.mock("@mitai/channel", () => ({
  sealedFetch: (peer: Peer) => async (url: string) => {
    const [key] = await peer.keyConfig();
    sent.requests.push(`${url} to ${peer.replica()} under key ${key}`);
    return (sent.answers.shift() ?? (() => new Response("", { status: 599 })))();
  },
}));

const { policy: toml, proofs } = decodeJson(
  readFileSync(join(import.meta.dirname, "vectors/receipts.json")),
  struct({ policy: string, proofs: dictionary(string) }, "ignored"),
  "test",
  "run make.py",
);
const policy = Policy.fromToml(toml);
const kept = (name: string) => utf8(proofs.get(name) ?? "");
const whole = kept("holds");
const code = (error: unknown) => (error instanceof MitaiError ? error.code : `no MitaiError: ${error}`);

/** The proof with other members. */
const changed = (members: object) =>
  utf8(JSON.stringify({ ...JSON.parse(new TextDecoder().decode(whole)), ...members }));

describe("checkProof", () => {
  it("holds", async () => {
    const proof = Proof.decode(whole);
    const { receipt, appraisal } = await checkProof(proof, policy);
    expect(receipt).toMatchObject({ exchange: "e1", usage: { promptTokens: 1, completionTokens: 2 } });
    expect([appraisal.workload, appraisal.simulated]).toEqual(["serve", true]);
    expect(Object.isFrozen(proof)).toBe(true);
  });

  it("holds for an answer with an adapter", async () => {
    const { receipt } = await checkProof(Proof.decode(kept("adapter")), policy);
    expect(receipt.adapters).toEqual([{ id: "a1", manifestSha256: "d".repeat(64) }]);
  });

  it.each([
    ["late", "client.receipt-time", "time"],
    ["early", "client.receipt-time", "time"],
    ["other-model", "client.receipt-capsule", "model"],
    ["other-adapter", "client.receipt-capsule", "model"],
    ["no-ledger", "client.no-receipt-key", "machine"],
  ])("refuses one that is %s", async (name, expected, step) => {
    await expect(checkProof(Proof.decode(kept(name)), policy)).rejects.toMatchObject({ code: expected, step });
  });

  it.each([
    [{ request_sha256: "b".repeat(64) }, "ledger.receipt-request"],
    [{ response_sha256: "a".repeat(64) }, "ledger.receipt-response"],
    [{ nonce: "AAAA" }, "attest.nonce-mismatch"],
    [{ verified_at: "2020-01-01T00:00:00Z" }, "attest.tcb-info-chain-expired"],
  ])("refuses %j", async (members, expected) => {
    await expect(checkProof(Proof.decode(changed(members)), policy)).rejects.toMatchObject({ code: expected });
  });

  it("refuses the receipt of another machine", async () => {
    const { bundle } = Proof.decode(kept("late"));
    await expect(checkProof({ ...Proof.decode(whole), bundle }, policy)).rejects.toMatchObject({
      code: "identity.signature-invalid",
    });
  });

  it("refuses a policy that does not allow simulation", async () => {
    const strict = Policy.fromToml(toml.replace("allow_simulation = true", "allow_simulation = false"));
    await expect(checkProof(Proof.decode(whole), strict)).rejects.toMatchObject({
      code: expect.stringMatching(/^attest\./),
    });
  });

  it("refuses any changed byte, or it changed neither receipt nor machine", async () => {
    const told = await checkProof(Proof.decode(whole), policy);
    let held = 0;
    const byte = fc.constantFrom("flip", 0, 0x0a, 0x0d, 0x20, 0x3d, 0x22, 0x30);
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 6 }), byte, async (at, bit, by) => {
        const bytes = Uint8Array.from(whole);
        const before = bytes[at] ?? 0;
        bytes[at] = by === "flip" ? before ^ (1 << bit) : Number(by);
        if (bytes[at] === before) return;
        const outcome = await Promise.resolve()
          .then(() => checkProof(Proof.decode(bytes), policy))
          .catch((error: unknown) => error);
        if (outcome instanceof MitaiError) return;
        held++;
        expect(outcome).toMatchObject({ receipt: told.receipt });
        expect(outcome).toMatchObject({ appraisal: { claims: told.appraisal.claims } });
        expect(outcome).toMatchObject({ appraisal: { evidenceSha256: told.appraisal.evidenceSha256 } });
      }),
      { numRuns: 250 },
    );
    expect(held).toBeLessThan(25);
  });
});

describe("Proof.decode", () => {
  it.each([
    ["nothing", utf8("")],
    ["no members", utf8("{}")],
    ["a list", utf8("[]")],
    ["deep lists", utf8("[".repeat(10_000))],
    ["no text", Uint8Array.of(0xff)],
    ["something behind it", utf8(`${proofs.get("holds")}x`)],
    ["another version", changed({ v: "mitai proof v2" })],
    ["an unknown member", changed({ more: 1 })],
    ["a prototype", utf8(`${proofs.get("holds")?.slice(0, -1)},"__proto__":{}}`)],
    ["a time without a zone", changed({ verified_at: "2026-11-22T05:00:00" })],
    ["a time that never was", changed({ verified_at: "2026-02-30T05:00:00Z" })],
    ["no bundle", changed({ bundle: null })],
    ["a bundle with a fraction", changed({ bundle: { index: 0.5 } })],
    ["evidence that is none", changed({ evidence: { v: 1 } })],
  ])("refuses %s", (_, data) => {
    expect(() => Proof.decode(data)).toThrow(expect.objectContaining({ code: "client.proof-malformed" }));
  });

  it("refuses 12 MiB and a byte", () => {
    const large = expect.objectContaining({ code: "client.proof-too-large" });
    expect(() => Proof.decode(new Uint8Array(MAX_PROOF_BYTES + 1))).toThrow(large);
  });

  it("gives a proof or a MitaiError for any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          Proof.decode(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
    );
  });
});

describe("fetchReceipt", () => {
  const parts: { bundle: object; evidence: object; nonce: string; verified_at: string } = JSON.parse(
    proofs.get("holds") ?? "",
  );
  const exchange = { id: "id", requestSha256: "a".repeat(64), responseSha256: "b".repeat(64) };
  const sorted = JSON.stringify(Object.fromEntries(Object.entries(parts.bundle).sort()));
  let session: Session;
  let answered: Answered;

  beforeEach(async () => {
    sent.requests = [];
    sent.answers = [];
    const appraisal = { claims: { keyConfig: Uint8Array.of(7) } };
    const verified = {
      appraisal,
      evidenceBytes: utf8(JSON.stringify(parts.evidence)),
      nonce: fromBase64(parts.nonce),
      verifiedAt: new Date(parts.verified_at),
      staleAt: new Date("2100-01-01"),
      replica: "r7",
    };
    const server = new Server();
    // A session that was renewed since, at another replica.
    session = Object.assign(Object.create(Session.prototype), {
      baseUrl: "http://gateway.test",
      fetch: server.fetch,
      now: () => new Date("2026-11-22"),
    });
    answered = { exchange: exchange as Answered["exchange"], verified: verified as unknown as Verified };
  });

  it("puts receipt and evidence together, as the command line does", async () => {
    sent.answers = [
      () => new Response("", { status: 202 }),
      () => new Response("{}", { status: 404 }),
      () => new Response(sorted),
    ];
    const proof = await fetchReceipt(session, answered);
    const { json: _, verifiedAt, ...rest } = Proof.decode(whole);
    expect(proof).toMatchObject(rest);
    expect(Math.abs(proof.verifiedAt.getTime() - verifiedAt.getTime())).toBeLessThan(1);
    await checkProof(proof, policy);
    expect(sent.requests).toEqual(Array(3).fill("http://gateway.test/v1/receipts/id to r7 under key 7"));
  });

  it.each([
    [202, '{"code":"serve.receipt-pending","detail":"not yet"}', "serve.receipt-pending"],
    [404, '{"code":"serve.receipt-unknown","detail":"none"}', "serve.receipt-unknown"],
    [500, "", "client.no-receipt"],
    [200, "{}", "ledger.receipt-bundle-malformed"],
    [200, "x".repeat(2 << 20), "ledger.receipt-bundle-malformed"],
  ])("throws what is wrong: %i %.20s", async (status, body, expected) => {
    sent.answers = [() => new Response(body, { status })];
    await expect(fetchReceipt(session, answered, { waitMs: -1 })).rejects.toSatisfy(
      (error) => code(error) === expected,
    );
    expect(sent.requests).toHaveLength(1);
  });

  it("asks nothing about an answer that did not end", async () => {
    const unfinished = { ...answered, exchange: { ...answered.exchange, responseSha256: undefined } };
    await expect(fetchReceipt(session, unfinished)).rejects.toMatchObject({ code: "client.answer-unfinished" });
    expect(sent.requests).toEqual([]);
  });
});
