/** A machine of the lab's whose parts are forged one by one: each refusal with its code and its step. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, equal, fromHex, hex, sha256, utf8 } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { fromQuoteCollateralV3, verifyCollateral } from "../src/dcap/collateral.ts";
import { MAX_QUOTE_BYTES, parseEnclaveReport, parseQuote, parseTdReport, splitQuote } from "../src/dcap/quote.ts";
import { findPckChain, verifyPckChain } from "../src/dcap/verify.ts";
import { MitaiError } from "../src/errors.ts";
import type { Collateral } from "../src/machine.ts";
import { Policy } from "../src/policy.ts";
import {
  type CollateralChanges,
  IntelLab,
  isvLevel,
  LAX,
  level,
  MODULE,
  PCE_SVN,
  QE_SVN,
  type QuoteChanges,
  refusal,
  STRICT,
  SVNS,
  sgxExtension,
  TD,
  TEE_TCB_SVN,
  type Tee,
  tcbInfo,
  u32,
} from "./intel_lab.ts";
import * as x509 from "./x509_lab.ts";
import { NOW } from "./x509_lab.ts";

const lab = await IntelLab.create();
const other = await IntelLab.create();
const found = lab.rules("tcb", LAX.tcb); // accepts every status, so that a test sees what was found

async function refused(attempt: Promise<unknown>): Promise<readonly [string, string]> {
  const { code, step } = await refusal(attempt);
  return [code, step];
}

function xor(data: Bytes, at: number, mask: number): Bytes {
  const changed = data.slice();
  changed[at] = (changed[at] ?? 0) ^ mask;
  return changed;
}

async function status(tee: Tee, changes: CollateralChanges, quote: QuoteChanges = {}) {
  const collateral = await lab.collateral(tee, changes);
  const machine = await lab.appraise({
    tee,
    quote: await lab.quote(tee === "tdx" ? 4 : 3, quote),
    collateral,
    policy: found,
  });
  return [machine.tcbStatus, ...machine.advisoryIds];
}

describe("a machine", () => {
  test.each([
    ["tdx", 4, {}],
    ["tdx", 5, {}],
    ["tdx", 5, { td: { more: new Uint8Array(64) } }],
    ["sgx", 3, {}],
  ] as const)("%s, version %i", async (tee, version, changes) => {
    const quote = await lab.quote(version, changes);
    const machine = await lab.appraise({ tee, quote });
    expect([machine.tee, machine.simulated, machine.memory]).toEqual([tee, true, "encrypted"]);
    expect([machine.tcbStatus, machine.advisoryIds, machine.tcbEvaluationNumber]).toEqual(["UpToDate", [], 20]);
    expect(equal(machine.reportData, TD.reportData)).toBe(true);
    expect(equal(machine.signed, quote.subarray(0, machine.signed.length))).toBe(true);
    expect(machine.checks.map(({ step }) => step)).toEqual([
      "1 quote",
      "2 root",
      "3 collateral",
      "4 platform",
      "5 signatures",
      "6 quoting enclave",
      "7 tcb",
      tee === "tdx" ? "8 td" : "8 enclave",
      "9 event log",
    ]);
    expect(machine.measurements.has("mrservicetd")).toBe("td" in changes);
  });

  test("is current until the first of its endorsements ends", async () => {
    expect((await lab.appraise()).notAfter).toEqual(new Date("2026-06-30T12:00:00Z"));
    const chain = await lab.chain({ validity: x509.validity(-1, 2), sgx: sgxExtension() });
    const machine = await lab.appraise({ quote: await lab.quote(4, { chain }) });
    expect(machine.notAfter).toEqual(x509.days(2));
  });

  test("whose chain comes with the collateral", async () => {
    const pckCertificateChain = await lab.chain({ sgx: sgxExtension() });
    const quote = await lab.quote(4, { certType: 3, chain: "an encrypted identifier" });
    await lab.appraise({ quote, collateral: await lab.collateral("tdx", { parts: { pckCertificateChain } }) });
    expect(await refused(lab.appraise({ quote }))).toEqual(["attest.pck-chain-incomplete", "2 root"]);
  });

  test("in debug mode, which the policy allows", async () => {
    const td = { tdAttributes: fromHex("0100001000000000") };
    const policy = lab.rules("tdx", { tdAttributesAllowed: "010000d000000080" });
    expect((await lab.appraise({ quote: await lab.quote(4, { td }), policy })).memory).toBe("visible");
  });

  test("whose firmware returned its whole buffer", async () => {
    const quote = await lab.quote(4);
    await lab.appraise({ quote: concat(quote, new Uint8Array(100)) });
    const behind = concat(quote, new Uint8Array(99), Uint8Array.of(1));
    expect(await refused(lab.appraise({ quote: behind }))).toEqual(["attest.quote-malformed", "1 quote"]);
    expect(splitQuote(behind).map(({ length }) => length)).toEqual([quote.length, 100]);
  });
});

describe("a quote is refused", () => {
  const header = (at: number, value: number) => (bytes: Bytes) => {
    const changed = bytes.slice();
    changed[at] = value;
    return changed;
  };
  test.each<[string, 3 | 4 | 5, QuoteChanges, string, string]>([
    ["version", 4, { header: header(0, 6) }, "attest.quote-version-unsupported", "1 quote"],
    ["TEE type", 4, { header: header(4, 0) }, "attest.quote-tee-unsupported", "1 quote"],
    ["TEE type of SGX", 3, { header: header(4, 0x81) }, "attest.quote-tee-unsupported", "1 quote"],
    ["key type", 4, { header: header(2, 3) }, "attest.quote-key-type-unsupported", "1 quote"],
    ["body type", 5, { bodyType: 1 }, "attest.quote-body-unsupported", "1 quote"],
    ["body of another size", 5, { bodyType: 3 }, "attest.quote-body-unsupported", "1 quote"],
    ["certification data", 4, { outerType: 5 }, "attest.quote-cert-type-unsupported", "1 quote"],
    ["inner certification data", 4, { certType: 4 }, "attest.quote-cert-type-unsupported", "1 quote"],
    ["bytes behind the chain", 4, { certTail: new Uint8Array(1) }, "attest.quote-malformed", "1 quote"],
    ["bytes behind the chain, SGX", 3, { certTail: new Uint8Array(1) }, "attest.quote-malformed", "1 quote"],
    ["no chain", 4, { chain: "" }, "attest.pck-chain-incomplete", "2 root"],
    ["not PEM", 4, { chain: "PEM" }, "attest.pck-chain-invalid", "2 root"],
    ["another key", 4, { signer: other.attestation }, "attest.quote-signature-invalid", "5 signatures"],
    ["unbound key", 4, { qe: { reportData: new Uint8Array(64) } }, "attest.attestation-key-unbound", "5 signatures"],
    ["QE's signer", 4, { qe: { mrsigner: new Uint8Array(32) } }, "attest.qe-signer-mismatch", "6 quoting enclave"],
    ["QE's product", 4, { qe: { isvProdId: 1 } }, "attest.qe-identity-mismatch", "6 quoting enclave"],
    [
      "QE's MISCSELECT",
      4,
      { qe: { miscSelect: fromHex("01000000") } },
      "attest.qe-identity-mismatch",
      "6 quoting enclave",
    ],
    [
      "QE's attributes",
      4,
      { qe: { attributes: fromHex("1300000000000000e700000000000000") } },
      "attest.qe-identity-mismatch",
      "6 quoting enclave",
    ],
    ["QE too old", 4, { qe: { isvSvn: QE_SVN - 1 } }, "attest.tcb-not-supported", "7 tcb"],
    [
      "module too old",
      4,
      { td: { teeTcbSvn: Uint8Array.from([4, ...TEE_TCB_SVN.slice(1)]) } },
      "attest.tcb-not-supported",
      "7 tcb",
    ],
    [
      "module unknown",
      4,
      { td: { teeTcbSvn: Uint8Array.from([5, 2, ...TEE_TCB_SVN.slice(2)]) } },
      "attest.tdx-module-unknown",
      "7 tcb",
    ],
    ["module's signer", 4, { td: { mrsignerseam: new Uint8Array(48).fill(1) } }, "attest.tdx-module-mismatch", "7 tcb"],
    [
      "module's attributes",
      4,
      { td: { seamAttributes: new Uint8Array(8).fill(1) } },
      "attest.tdx-module-mismatch",
      "7 tcb",
    ],
    ["QE's vendor", 4, { header: header(12, 0) }, "attest.qe-vendor-mismatch", "8 td"],
    ["QE's vendor, SGX", 3, { header: header(12, 0) }, "attest.qe-vendor-mismatch", "8 enclave"],
    ["debug", 4, { td: { tdAttributes: fromHex("0100001000000000") } }, "attest.td-debug", "8 td"],
    [
      "reserved attribute",
      4,
      { td: { tdAttributes: fromHex("0200001000000000") } },
      "attest.td-attributes-not-allowed",
      "8 td",
    ],
    ["no SEPT_VE_DISABLE", 4, { td: { tdAttributes: new Uint8Array(8) } }, "attest.td-attributes-missing", "8 td"],
    ["XFAM above", 4, { td: { xfam: fromHex("e702060000000001") } }, "attest.xfam-not-allowed", "8 td"],
    ["XFAM below", 4, { td: { xfam: fromHex("0100000000000000") } }, "attest.xfam-missing", "8 td"],
    ["service TD", 5, { td: { more: new Uint8Array(64).fill(1) } }, "attest.mrservicetd-mismatch", "8 td"],
    [
      "debugged enclave",
      3,
      { enclave: { attributes: fromHex("1300000000000000e700000000000000") } },
      "attest.enclave-debug",
      "8 enclave",
    ],
    [
      "enclave not initialised",
      3,
      { enclave: { attributes: new Uint8Array(16) } },
      "attest.enclave-not-initialised",
      "8 enclave",
    ],
  ])("%s", async (_, version, changes, code, step) => {
    const quote = await lab.quote(version, changes);
    expect(await refused(lab.appraise({ tee: version === 3 ? "sgx" : "tdx", quote }))).toEqual([code, step]);
  });

  test("above the limit", async () => {
    const quote = concat(await lab.quote(4), new Uint8Array(MAX_QUOTE_BYTES));
    expect(await refused(lab.appraise({ quote }))).toEqual(["attest.quote-too-large", "1 quote"]);
  });

  test("with a key that is no point, although the quoting enclave vouches for it", async () => {
    const base = await lab.quote(4);
    const keyAt = 48 + 584 + 4 + 64;
    const point = new Uint8Array(64).fill(1);
    const binding = new Uint8Array(
      await crypto.subtle.digest(
        "SHA-256",
        concat(
          point,
          Uint8Array.from({ length: 32 }, (_, at) => at),
        ),
      ),
    );
    const forged = await lab.quote(4, { qe: { reportData: concat(binding, new Uint8Array(32)) } });
    const quote = concat(forged.subarray(0, keyAt), point, forged.subarray(keyAt + 64));
    expect(quote.length).toBe(base.length);
    expect(await refused(lab.appraise({ quote }))).toEqual(["attest.quote-signature-invalid", "5 signatures"]);
  });

  test("that is of another TEE than the evidence says", async () => {
    const quote = await lab.quote(3);
    expect(await refused(lab.appraise({ tee: "tdx", quote }))).toEqual(["attest.tee-mismatch", "1 quote"]);
  });

  test("cut anywhere", async () => {
    for (const version of [3, 4, 5] as const) {
      const quote = await lab.quote(version, version === 5 ? { td: { more: new Uint8Array(64) } } : {});
      for (let size = 0; size < quote.length; size++)
        expect(() => parseQuote(quote.slice(0, size))).toThrow(MitaiError);
    }
  });

  test("report bodies of other sizes", () => {
    expect(() => parseTdReport(new Uint8Array(585))).toThrow(MitaiError);
    expect(() => parseTdReport(new Uint8Array(649))).toThrow(MitaiError);
    expect(() => parseEnclaveReport(new Uint8Array(385))).toThrow(MitaiError);
  });
});

describe("a root is refused", () => {
  test.each<[string, Policy, string]>([
    ["a simulated one, by the strict policy", STRICT, "attest.simulation-refused"],
    ["one that is not named", { ...lab.policy, simRoots: [] }, "attest.simulated-root-unknown"],
    ["one that is named, without simulation", { ...lab.policy, allowSimulation: false }, "attest.simulation-refused"],
  ])("%s", async (_, policy, code) => {
    expect(await refused(lab.appraise({ policy }))).toEqual([code, "2 root"]);
  });

  test("one that does not call itself simulated", async () => {
    const root = await x509.party("Intel SGX Root CA");
    const der = await x509.certificate(root, root, { extensions: x509.roles(1) });
    const chain = x509.pem(lab.certificates.pck, lab.certificates.ca, der);
    expect(await refused(lab.appraise({ quote: await lab.quote(4, { chain }) }))).toEqual([
      "attest.root-untrusted",
      "2 root",
    ]);
  });

  test("behind more or fewer certificates than there are", async () => {
    const { pck, ca, root } = lab.certificates;
    for (const certificates of [[pck], [pck, ca], [pck, ca, root, root]]) {
      const quote = await lab.quote(4, { chain: x509.pem(...certificates) });
      expect(await refused(lab.appraise({ quote }))).toEqual(["attest.pck-chain-incomplete", "2 root"]);
    }
  });

  test("one under which the collateral is not", async () => {
    const policy = { ...lab.policy, simRoots: [...lab.policy.simRoots, ...other.policy.simRoots] };
    const collateral = await other.collateral("tdx");
    expect(await refused(lab.appraise({ policy, collateral }))).toEqual([
      "attest.tcb-info-chain-invalid",
      "3 collateral",
    ]);
  });
});

describe("a PCK chain is refused", () => {
  const valid = sgxExtension();
  test.each<[string, x509.Parts & { sgx?: Bytes }, string]>([
    ["expired", { validity: x509.validity(-2, -1), sgx: valid }, "attest.pck-chain-expired"],
    ["not yet valid", { validity: x509.validity(1, 2), sgx: valid }, "attest.pck-chain-expired"],
    ["of another role", { subject: x509.name("Simulation SGX TCB Signing"), sgx: valid }, "attest.pck-chain-invalid"],
    ["of another issuer", { issuer: x509.name("Another CA"), sgx: valid }, "attest.pck-chain-invalid"],
    ["without the SGX extension", {}, "attest.pck-extension-malformed"],
    ["with a malformed extension", { sgx: valid.slice(0, -1) }, "attest.pck-extension-malformed"],
    ["revoked", { serial: x509.integer(66), sgx: valid }, "attest.pck-revoked"],
    [
      "of another FMSPC",
      { sgx: sgxExtension({ 4: x509.octets(new Uint8Array(6)) }) },
      "attest.tcb-info-fmspc-mismatch",
    ],
    ["of another PCE", { sgx: sgxExtension({ 3: x509.octets(fromHex("0001")) }) }, "attest.tcb-info-pceid-mismatch"],
  ])("%s", async (_, parts, code) => {
    const pckCrl = await x509.revocationList(lab.ca, { revoked: [x509.revoked(x509.integer(66))] });
    const quote = await lab.quote(4, { chain: await lab.chain(parts) });
    const step = code.startsWith("attest.tcb-info") ? "7 tcb" : "4 platform";
    expect(
      await refused(lab.appraise({ quote, collateral: await lab.collateral("tdx", { parts: { pckCrl } }) })),
    ).toEqual([code, step]);
  });

  test("under another root than the collateral is", async () => {
    const fingerprint = hex(await sha256(other.certificates.root));
    const collateral = await verifyCollateral(await other.collateral("tdx"), fingerprint, NOW);
    const chain = await findPckChain(parseQuote(await lab.quote(4)), null);
    expect((await refusal(verifyPckChain(chain, collateral, NOW))).code).toBe("attest.pck-chain-invalid");
    const own = await findPckChain(parseQuote(await other.quote(4)), null);
    expect((await verifyPckChain(own, collateral, NOW)).leaf.fingerprint).toBe(own.leaf.fingerprint);
  });

  test("whose CA was revoked, or is not that of the list", async () => {
    const rootCaCrl = await x509.revocationList(lab.root, { revoked: [x509.revoked(x509.integer(2))] });
    const collateral = await lab.collateral("tdx", { parts: { rootCaCrl } });
    expect(await refused(lab.appraise({ collateral }))).toEqual(["attest.intermediate-revoked", "3 collateral"]);

    const processorCa = await x509.party("Simulation SGX PCK Processor CA");
    const issued = await x509.certificate(processorCa, lab.root, {
      serial: x509.integer(5),
      extensions: x509.roles(0),
    });
    const parts = {
      pckCrl: await x509.revocationList(processorCa),
      pckCrlIssuerChain: x509.pem(issued, lab.certificates.root),
    };
    expect(await refused(lab.appraise({ collateral: await lab.collateral("tdx", { parts }) }))).toEqual([
      "attest.pck-crl-issuer-mismatch",
      "4 platform",
    ]);
    // By its name, or by its key.
    for (const another of [
      { ...lab.ca, name: processorCa.name },
      { ...processorCa, name: lab.ca.name },
    ]) {
      const certificate = await x509.certificate(another, lab.root, { extensions: x509.roles(0) });
      const forged = {
        pckCrl: await x509.revocationList(another),
        pckCrlIssuerChain: x509.pem(certificate, lab.certificates.root),
      };
      expect(await refused(lab.appraise({ collateral: await lab.collateral("tdx", { parts: forged }) }))).toEqual([
        "attest.pck-crl-issuer-mismatch",
        "4 platform",
      ]);
    }
    const revoked = {
      ...parts,
      rootCaCrl: await x509.revocationList(lab.root, { revoked: [x509.revoked(x509.integer(5))] }),
    };
    expect(await refused(lab.appraise({ collateral: await lab.collateral("tdx", { parts: revoked }) }))).toEqual([
      "attest.intermediate-revoked",
      "3 collateral",
    ]);
  });
});

describe("the SGX extension", () => {
  const malformed = ["attest.pck-extension-malformed", "4 platform"];
  const { sequence, integer, octets, der, oid } = x509;
  const pair = (field: string, value: Bytes) => sequence(oid(`1.2.840.113741.1.13.1.${field}`), value);
  test.each<[string, Bytes]>([
    ["empty", new Uint8Array()],
    ["no sequence", octets(sgxExtension())],
    ["bytes behind it", concat(sgxExtension(), new Uint8Array(1))],
    ["FMSPC too short", sgxExtension({ 4: octets(new Uint8Array(5)) })],
    ["FMSPC of another type", sgxExtension({ 4: der(0x0c, new Uint8Array(6)) })],
    ["FMSPC missing", sgxExtension({ 4: new Uint8Array() })],
    ["PCE id too long", sgxExtension({ 3: octets(new Uint8Array(3)) })],
    ["component missing", sgxExtension({}, { 16: new Uint8Array() })],
    ["component too large", sgxExtension({}, { 1: integer(256) })],
    ["component negative", sgxExtension({}, { 1: der(2, Uint8Array.of(0xff)) })],
    ["component not minimal", sgxExtension({}, { 1: der(2, Uint8Array.of(0, 1)) })],
    ["component empty", sgxExtension({}, { 1: der(2) })],
    ["PCE SVN too large", sgxExtension({}, { 17: integer(65536) })],
    ["CPUSVN too short", sgxExtension({}, { 18: octets(new Uint8Array(15)) })],
    ["a field twice", sequence(sgxExtension().slice(4), pair("4", octets(new Uint8Array(6))))],
    ["a field of another family", sgxExtension({ 4: sequence() })],
    ["a field with three parts", sgxExtension({ 4: concat(octets(fromHex("00a51b000000")), integer(1)) })],
    ["an identifier outside", sequence(sequence(oid("1.2.840.113741.1.13.2.4"), octets(new Uint8Array(6))))],
  ])("is refused: %s", async (_, sgx) => {
    const quote = await lab.quote(4, { chain: await lab.chain({ sgx }) });
    expect(await refused(lab.appraise({ quote }))).toEqual(malformed);
  });
});

describe("collateral is refused", () => {
  const early = x509.days(-2);
  const late = x509.days(31);
  const expired = [x509.time(x509.days(-3)), x509.time(x509.days(-2))];
  const crl = (parts: x509.ListParts) => async () => ({ rootCaCrl: await x509.revocationList(lab.root, parts) });
  const pckCrl = (parts: x509.ListParts) => async () => ({ pckCrl: await x509.revocationList(lab.ca, parts) });
  const chain =
    (name: keyof Collateral, subject: string, parts: x509.Parts = {}) =>
    async () => {
      const signer = { ...lab.signer, name: subject };
      return { [name]: x509.pem(await x509.certificate(signer, lab.root, parts), lab.certificates.root) };
    };
  test.each<[string, () => Promise<Partial<Collateral>>, string]>([
    [
      "TCB info's signature",
      async () => ({ tcbInfoSignature: new Uint8Array(64) }),
      "attest.tcb-info-signature-invalid",
    ],
    ["of another length", async () => ({ tcbInfoSignature: new Uint8Array(63) }), "attest.tcb-info-signature-invalid"],
    [
      "QE identity's signature",
      async () => ({ qeIdentitySignature: new Uint8Array(64) }),
      "attest.qe-identity-signature-invalid",
    ],
    [
      "TCB info's chain with more",
      async () => ({
        tcbInfoIssuerChain: x509.pem(lab.certificates.signer, lab.certificates.root, lab.certificates.root),
      }),
      "attest.tcb-info-chain-invalid",
    ],
    [
      "TCB info's chain without its root",
      async () => ({ tcbInfoIssuerChain: x509.pem(lab.certificates.signer) }),
      "attest.tcb-info-chain-invalid",
    ],
    ["TCB info's chain", async () => ({ tcbInfoIssuerChain: "" }), "attest.tcb-info-chain-invalid"],
    ["QE identity's chain", async () => ({ qeIdentityIssuerChain: "" }), "attest.qe-identity-chain-invalid"],
    ["TCB info's signer", chain("tcbInfoIssuerChain", "Simulation SGX"), "attest.tcb-info-chain-invalid"],
    [
      "TCB info's signer, expired",
      chain("tcbInfoIssuerChain", "Simulation SGX TCB Signing", { validity: x509.validity(-2, -1) }),
      "attest.tcb-info-chain-expired",
    ],
    [
      "QE identity's signer, expired",
      chain("qeIdentityIssuerChain", "Simulation SGX TCB Signing", { validity: x509.validity(-2, -1) }),
      "attest.qe-identity-chain-expired",
    ],
    ["the list's chain", async () => ({ pckCrlIssuerChain: "" }), "attest.pck-crl-chain-invalid"],
    [
      "the list's issuer",
      async () => ({ pckCrlIssuerChain: x509.pem(lab.certificates.signer, lab.certificates.root) }),
      "attest.pck-crl-chain-invalid",
    ],
    ["root's list malformed", async () => ({ rootCaCrl: new Uint8Array(8) }), "attest.root-crl-malformed"],
    [
      "root's list of another",
      async () => ({ rootCaCrl: await x509.revocationList(other.root) }),
      "attest.root-crl-signature-invalid",
    ],
    ["root's list expired", crl({ times: expired }), "attest.root-crl-expired"],
    ["root's list without an end", crl({ times: [x509.time(early)] }), "attest.root-crl-malformed"],
    [
      "root's list with unknown rules",
      crl({ extensions: [x509.extension("2.5.29.28", x509.sequence(), true)] }),
      "attest.root-crl-malformed",
    ],
    ["PCK list malformed", async () => ({ pckCrl: new Uint8Array() }), "attest.pck-crl-malformed"],
    [
      "PCK list of another",
      async () => ({ pckCrl: await x509.revocationList(lab.root) }),
      "attest.pck-crl-signature-invalid",
    ],
    ["PCK list expired", pckCrl({ times: expired }), "attest.pck-crl-expired"],
    ["PCK list without an end", pckCrl({ times: [x509.time(early)] }), "attest.pck-crl-malformed"],
    ["signer revoked", crl({ revoked: [x509.revoked(x509.integer(3))] }), "attest.tcb-signing-revoked"],
  ])("%s", async (_, parts, code) => {
    const collateral = await lab.collateral("tdx", { parts: await parts() });
    expect(await refused(lab.appraise({ collateral }))).toEqual([code, "3 collateral"]);
  });

  test("that is missing", async () => {
    expect(await refused(lab.appraise({ collateral: null }))).toEqual(["attest.collateral-missing", "2 root"]);
  });

  test("outside of its window, but for the policy's grace", async () => {
    const dates = (issueDate: Date, nextUpdate: Date) => ({
      issueDate: issueDate.toISOString(),
      nextUpdate: nextUpdate.toISOString(),
    });
    const over = dates(early, new Date(NOW.getTime() - 1000));
    for (const [what, changes] of [
      ["tcb-info", { tcb: over }],
      ["qe-identity", { qe: over }],
    ] as const) {
      const collateral = await lab.collateral("tdx", changes);
      expect(await refused(lab.appraise({ collateral }))).toEqual([`attest.${what}-expired`, "3 collateral"]);
      await lab.appraise({ collateral, policy: lab.rules("tcb", { collateralGraceS: 1 }) });
      await lab.appraise({ collateral, policy: lab.rules("tcb", { collateralGraceS: 100_000 }) });
      // A grace beyond the calendar is none.
      const policy = lab.rules("tcb", { collateralGraceS: Number.MAX_SAFE_INTEGER });
      expect(await refused(lab.appraise({ collateral, policy }))).toEqual([`attest.${what}-expired`, "3 collateral"]);
    }
    expect(await refused(lab.appraise({ now: late }))).toEqual(["attest.tcb-info-expired", "3 collateral"]);
    expect(await refused(lab.appraise({ now: new Date(x509.days(-1).getTime() - 1) }))).toEqual([
      "attest.tcb-info-chain-expired",
      "3 collateral",
    ]);
  });

  test("of the other TEE", async () => {
    const collateral = await lab.collateral("sgx");
    expect(await refused(lab.appraise({ collateral }))).toEqual([
      "attest.qe-identity-id-mismatch",
      "6 quoting enclave",
    ]);
    const mixed = await lab.collateral("tdx", { tcb: { id: "SGX" } });
    expect(await refused(lab.appraise({ collateral: mixed }))).toEqual(["attest.tcb-info-id-mismatch", "7 tcb"]);
  });

  test("in the form of a QuoteCollateralV3", async () => {
    const collateral = await lab.collateral("tdx");
    const { pckCertificateChain: _, ...parts } = collateral;
    const members = Object.entries(parts).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      typeof value === "string" ? value : hex(value).toUpperCase(),
    ]);
    const encode = (...more: string[][]) => utf8(JSON.stringify(Object.fromEntries([...members, ...more])));
    expect(fromQuoteCollateralV3(encode())).toEqual(collateral);
    for (const data of [
      encode(["more", ""]),
      encode(["pck_crl", "0"]),
      encode(["pck_crl", "xx"]),
      utf8("[]"),
      concat(encode(), new Uint8Array(1 << 20).fill(0x20)),
    ]) {
      expect(() => fromQuoteCollateralV3(data)).toThrowError(
        expect.objectContaining({ code: "attest.collateral-malformed" }),
      );
    }
  });
});

describe("TCB info is refused", () => {
  test.each<[string, object | string, string, string]>([
    ["version 2", { version: 2 }, "attest.tcb-info-version-unsupported", "3 collateral"],
    ["version 4", { version: 4 }, "attest.tcb-info-version-unsupported", "3 collateral"],
    ["version as text", { version: "3" }, "attest.tcb-info-malformed", "3 collateral"],
    ["not JSON", "{", "attest.tcb-info-malformed", "3 collateral"],
    ["no object", "[]", "attest.tcb-info-malformed", "3 collateral"],
    ["type", { tcbType: 1 }, "attest.tcb-info-malformed", "3 collateral"],
    ["no levels", { tcbLevels: [] }, "attest.tcb-info-malformed", "3 collateral"],
    ["one component", { tcbLevels: [level("UpToDate", { svns: [1] })] }, "attest.tcb-info-malformed", "3 collateral"],
    [
      "one TDX component",
      { tcbLevels: [level("UpToDate", { tdx: [1] })] },
      "attest.tcb-info-malformed",
      "3 collateral",
    ],
    ["status", { tcbLevels: [level("Fine")] }, "attest.tcb-info-malformed", "3 collateral"],
    ["a date without zone", { issueDate: "2026-06-01T00:00:00" }, "attest.tcb-info-malformed", "3 collateral"],
    ["a date elsewhere", { issueDate: "2026-06-01T00:00:00+01:00" }, "attest.tcb-info-malformed", "3 collateral"],
    ["no date", { nextUpdate: "tomorrow" }, "attest.tcb-info-malformed", "3 collateral"],
    ["fraction", { tcbEvaluationDataNumber: 1.5 }, "attest.tcb-info-malformed", "3 collateral"],
    ["FMSPC", { fmspc: "00A06F000000" }, "attest.tcb-info-fmspc-mismatch", "7 tcb"],
    ["FMSPC too short", { fmspc: "00" }, "attest.tcb-info-malformed", "7 tcb"],
    ["FMSPC not hex", { fmspc: "xx".repeat(6) }, "attest.tcb-info-malformed", "7 tcb"],
    ["PCE", { pceId: "0001" }, "attest.tcb-info-pceid-mismatch", "7 tcb"],
    ["no module", { tdxModuleIdentities: [] }, "attest.tdx-module-unknown", "7 tcb"],
    [
      "a module's level",
      { tdxModuleIdentities: [{ id: "TDX_01", ...MODULE, tcbLevels: [isvLevel(5, "SWHardeningNeeded")] }] },
      "attest.tcb-info-malformed",
      "7 tcb",
    ],
    [
      "a module's signer too short",
      { tdxModuleIdentities: [{ id: "TDX_01", ...MODULE, mrsigner: "00", tcbLevels: [] }] },
      "attest.tcb-info-malformed",
      "7 tcb",
    ],
    [
      "below every level",
      { tcbLevels: [level("UpToDate", { pce: PCE_SVN + 1 })] },
      "attest.tcb-not-supported",
      "7 tcb",
    ],
  ])("%s", async (_, tcb, code, step) => {
    const collateral = await lab.collateral("tdx", typeof tcb === "string" ? { tcb } : { tcb: { ...tcb } });
    expect(await refused(lab.appraise({ collateral, policy: found }))).toEqual([code, step]);
  });
});

describe("QE identity is refused", () => {
  test.each<[string, object | string, string, string]>([
    ["of another enclave", { id: "QE" }, "attest.qe-identity-id-mismatch", "6 quoting enclave"],
    ["version 3", { version: 3 }, "attest.qe-identity-version-unsupported", "3 collateral"],
    ["not JSON", "null", "attest.qe-identity-malformed", "3 collateral"],
    ["a level's number as text", { tcbLevels: [isvLevel("4")] }, "attest.qe-identity-malformed", "3 collateral"],
    ["signer", { mrsigner: "00".repeat(32) }, "attest.qe-signer-mismatch", "6 quoting enclave"],
    ["signer too short", { mrsigner: "00" }, "attest.qe-identity-malformed", "6 quoting enclave"],
    ["product", { isvprodid: 3 }, "attest.qe-identity-mismatch", "6 quoting enclave"],
    ["MISCSELECT", { miscselect: "00000001" }, "attest.qe-identity-mismatch", "6 quoting enclave"],
    [
      "attributes",
      { attributes: "15000000000000000000000000000000" },
      "attest.qe-identity-mismatch",
      "6 quoting enclave",
    ],
    ["mask too short", { attributesMask: "FF" }, "attest.qe-identity-malformed", "6 quoting enclave"],
    ["below every level", { tcbLevels: [isvLevel(QE_SVN + 1)] }, "attest.tcb-not-supported", "7 tcb"],
    [
      "a status that makes no sense",
      { tcbLevels: [isvLevel(QE_SVN, "ConfigurationNeeded")] },
      "attest.tcb-info-malformed",
      "7 tcb",
    ],
  ])("%s", async (_, qe, code, step) => {
    const collateral = await lab.collateral("tdx", typeof qe === "string" ? { qe } : { qe: { ...qe } });
    expect(await refused(lab.appraise({ collateral, policy: found }))).toEqual([code, step]);
  });
});

describe("TCB levels", () => {
  const raised = (numbers: readonly number[], at: number) =>
    numbers.map((svn, position) => svn + Number(position === at));
  const behind = ["OutOfDate", "MITAI-SIM-00001"];
  const second = level("OutOfDate", {
    svns: SVNS.map(() => 0),
    tdx: TEE_TCB_SVN.map(() => 0),
    advisoryIDs: ["MITAI-SIM-00001"],
  });

  test("every component counts", async () => {
    for (const at of SVNS.keys()) {
      const tcb = { tcbLevels: [level("UpToDate", { svns: raised(SVNS, at) }), second] };
      expect([at, ...(await status("sgx", { tcb }))]).toEqual([at, ...behind]);
      const tdx = { tcbLevels: [level("UpToDate", { tdx: raised(TEE_TCB_SVN, at) }), second] };
      // Components 0 and 1 name the module, which has a version of its own.
      expect([at, ...(await status("tdx", { tcb: tdx }))]).toEqual([at, ...(at < 2 ? ["UpToDate"] : behind)]);
    }
    expect(await status("sgx", { tcb: { tcbLevels: [level("UpToDate", { pce: PCE_SVN + 1 }), second] } })).toEqual(
      behind,
    );
  });

  test("a module without a version of its own", async () => {
    const td = { teeTcbSvn: Uint8Array.from([5, 0, ...TEE_TCB_SVN.slice(2)]) };
    const levels = (tdx: number[]) => ({ tcb: { tcbLevels: [level("UpToDate", { tdx }), second] } });
    expect(await status("tdx", levels([5, 0, 2, ...Array(13).fill(0)]), { td })).toEqual(["UpToDate"]);
    expect(await status("tdx", levels([6, 0, 2, ...Array(13).fill(0)]), { td })).toEqual(behind);
    expect(await status("tdx", levels([5, 1, 2, ...Array(13).fill(0)]), { td })).toEqual(behind);
    const tdxModuleIdentities = [{ id: "TDX_00", ...MODULE, tcbLevels: [isvLevel(5, "Revoked")] }];
    expect(await status("tdx", { tcb: { tdxModuleIdentities, tcbLevels: [second] } }, { td })).toEqual(behind);
    const attempt = status("tdx", { tcb: { tdxModule: null, tcbLevels: [second] } }, { td });
    expect(await refused(attempt)).toEqual(["attest.tdx-module-unknown", "7 tcb"]);
  });

  const BASES = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
  ];
  test.each([
    ["UpToDate", BASES],
    [
      "OutOfDate",
      [
        "OutOfDate",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "OutOfDateConfigurationNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
      ],
    ],
  ])("a quoting enclave or module that is %s", async (part, expected) => {
    for (const [at, base] of BASES.entries()) {
      const tcbLevels = [level(base, { advisoryIDs: ["B", "A"] })];
      const qe = { tcbLevels: [isvLevel(QE_SVN, part, { advisoryIDs: ["C", "A"] })] };
      expect(await status("tdx", { tcb: { tcbLevels }, qe })).toEqual([expected[at], "A", "B", "C"]);
      const tdxModuleIdentities = [{ id: "tdx_01", ...MODULE, tcbLevels: [isvLevel(5, part, { advisoryIDs: ["C"] })] }];
      expect(await status("tdx", { tcb: { tcbLevels, tdxModuleIdentities } })).toEqual([expected[at], "A", "B", "C"]);
    }
  });

  test("revoked is never accepted", async () => {
    for (const changes of [
      { tcb: { tcbLevels: [level("Revoked")] } },
      { qe: { tcbLevels: [isvLevel(QE_SVN, "Revoked")] } },
      { tcb: { tdxModuleIdentities: [{ id: "TDX_01", ...MODULE, tcbLevels: [isvLevel(5, "Revoked")] }] } },
    ]) {
      expect(await refused(status("tdx", changes))).toEqual(["attest.tcb-status-refused", "7 tcb"]);
    }
    expect(() => Policy.fromToml('[tcb]\naccepted_statuses = ["Revoked"]')).toThrow(MitaiError);
  });

  test("members that are not known are ignored, numbers may be large", async () => {
    const huge = JSON.stringify(tcbInfo("tdx")).replace(":20", ":99999999999999999999");
    expect(await status("tdx", { tcb: huge })).toEqual(["UpToDate"]);
    expect(await status("tdx", { tcb: { more: 1, __proto__: { id: "SGX" } }, qe: { more: [] } })).toEqual(["UpToDate"]);
  });
});

describe("a policy refuses", () => {
  const outdated = { tcb: { tcbLevels: [level("OutOfDate", { advisoryIDs: ["MITAI-1", "MITAI-2"] })] } };
  test.each<[string, keyof Policy, Readonly<Record<string, unknown>>, string, string]>([
    ["a status", "tcb", {}, "attest.tcb-status-refused", "7 tcb"],
    [
      "an advisory",
      "tcb",
      { acceptedStatuses: ["OutOfDate"], acceptedAdvisories: ["MITAI-1"] },
      "attest.advisory-refused",
      "7 tcb",
    ],
    ["an evaluation", "tcb", { ...LAX.tcb, minEvaluationNumber: 21 }, "attest.tcb-evaluation-number-too-low", "7 tcb"],
    ["an FMSPC", "tcb", { ...LAX.tcb, fmspc: ["000000000000"] }, "attest.fmspc-refused", "4 platform"],
    ["a PCE", "tcb", { ...LAX.tcb, pceIds: ["0001"] }, "attest.pceid-refused", "4 platform"],
    [
      "without a second opinion",
      "tcb",
      { ...LAX.tcb, secondOpinion: true },
      "attest.second-opinion-missing",
      "8 second opinion",
    ],
  ])("%s", async (_, section, rules, code, step) => {
    const collateral = await lab.collateral("tdx", outdated);
    expect(await refused(lab.appraise({ collateral, policy: lab.rules(section, rules) }))).toEqual([code, step]);
  });

  test("accepts what it lists", async () => {
    const collateral = await lab.collateral("tdx", outdated);
    const rules = {
      acceptedStatuses: ["OutOfDate"],
      acceptedAdvisories: ["MITAI-2", "MITAI-1"],
      minEvaluationNumber: 20,
      fmspc: ["00a51b000000"],
      pceIds: ["0000"],
    };
    expect((await lab.appraise({ collateral, policy: lab.rules("tcb", rules) })).tcbStatus).toBe("OutOfDate");
  });

  const ff = "ff".repeat(48);
  test.each<[Tee, keyof Policy, Readonly<Record<string, unknown>>, string]>([
    ["tdx", "tdx", { qeVendorId: "00".repeat(16) }, "attest.qe-vendor-mismatch"],
    ["tdx", "tdx", { mrseam: [ff] }, "attest.mrseam-not-allowed"],
    ["tdx", "tdx", { mrsignerseam: ff }, "attest.mrsignerseam-mismatch"],
    ["tdx", "tdx", { seamAttributes: "ff".repeat(8) }, "attest.seam-attributes-mismatch"],
    ["tdx", "tdx", { mrconfigid: ff }, "attest.mrconfigid-mismatch"],
    ["tdx", "tdx", { mrowner: ff }, "attest.mrowner-mismatch"],
    ["tdx", "tdx", { mrownerconfig: ff }, "attest.mrownerconfig-mismatch"],
    ["tdx", "tdx", { minTeeTcbSvn: `050103${"00".repeat(13)}` }, "attest.tee-tcb-svn-too-low"],
    ["sgx", "sgx", { mrenclave: ["ff".repeat(32)] }, "attest.mrenclave-not-allowed"],
    ["sgx", "sgx", { mrsigner: ["ff".repeat(32)] }, "attest.mrsigner-not-allowed"],
    ["sgx", "sgx", { isvProdId: 8 }, "attest.enclave-version-refused"],
    ["sgx", "sgx", { minIsvSvn: 4 }, "attest.enclave-version-refused"],
  ])("%s: [%s] %o", async (tee, section, rules, code) => {
    const step = tee === "tdx" ? "8 td" : "8 enclave";
    expect(await refused(lab.appraise({ tee, policy: lab.rules(section, rules) }))).toEqual([code, step]);
  });

  test("accepts what it pins", async () => {
    const tdx = {
      mrseam: [hex(TD.mrseam)],
      mrconfigid: "00".repeat(48),
      minTeeTcbSvn: `050102${"00".repeat(13)}`,
      mrservicetd: "ff".repeat(48),
    };
    await lab.appraise({ policy: lab.rules("tdx", tdx) }); // a report 1.0 has no MRSERVICETD
    await lab.appraise({
      tee: "sgx",
      policy: lab.rules("sgx", { mrenclave: ["01".repeat(32)], isvProdId: 7, minIsvSvn: 3 }),
    });
  });

  test("a log of an enclave, and one that does not replay", async () => {
    expect(await refused(lab.appraise({ tee: "sgx", eventLog: utf8("[]") }))).toEqual([
      "attest.event-log-unexpected",
      "9 event log",
    ]);
    expect((await refused(lab.appraise({ eventLog: utf8("[]") })))[1]).toBe("9 event log");
  });
});

describe("a cache", () => {
  test("remembers collateral and chains inside their window, and vouches for no others", async () => {
    const cache = new VerifiedCache();
    const [quote, collateral] = [await lab.quote(4), await lab.collateral("tdx")];
    const appraise = (more: { now?: Date; quote?: Bytes; collateral?: Collateral }) =>
      lab.appraise({ quote, collateral, cache, ...more });
    const first = await appraise({});
    expect(await appraise({})).toEqual(first);
    expect(await refused(appraise({ now: x509.days(31) }))).toEqual(["attest.tcb-info-expired", "3 collateral"]);
    const spoilt = { ...collateral, tcbInfoSignature: xor(collateral.tcbInfoSignature, 9, 1) };
    expect(await refused(appraise({ collateral: spoilt }))).toEqual([
      "attest.tcb-info-signature-invalid",
      "3 collateral",
    ]);
    const revoked = {
      ...collateral,
      pckCrl: await x509.revocationList(lab.ca, { revoked: [x509.revoked(x509.integer(4))] }),
    };
    expect(await refused(appraise({ collateral: revoked }))).toEqual(["attest.pck-revoked", "4 platform"]);
    expect(await appraise({})).toEqual(first);
  });
});

describe("whatever byte is changed", () => {
  const replacements = (byte: number) =>
    [byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0, 0x0a, 0x0d, 0x20, 0x3d].filter((value) => value !== byte);

  test("of a quote: it is refused", async () => {
    const cache = new VerifiedCache();
    const [quote, collateral] = [await lab.quote(5, { td: { more: new Uint8Array(64) } }), await lab.collateral("tdx")];
    await lab.appraise({ quote, collateral, cache });
    const change = fc
      .nat({ max: quote.length - 1 })
      .chain((at) => fc.tuple(fc.constant(at), fc.constantFrom(...replacements(quote[at] ?? 0))));
    await fc.assert(
      fc.asyncProperty(change, async ([at, value]) => {
        const changed = quote.slice();
        changed[at] = value;
        await refusal(lab.appraise({ quote: changed, collateral, cache }));
      }),
      { numRuns: 600 },
    );
  });

  test("of collateral: it is refused", async () => {
    const [quote, collateral] = [await lab.quote(4), await lab.collateral("tdx")];
    const text = new TextDecoder("latin1");
    const names = [
      "tcbInfo",
      "tcbInfoSignature",
      "tcbInfoIssuerChain",
      "qeIdentity",
      "qeIdentitySignature",
      "qeIdentityIssuerChain",
      "rootCaCrl",
      "pckCrl",
      "pckCrlIssuerChain",
    ] as const;
    const change = fc.tuple(fc.constantFrom(...names), fc.nat({ max: 1 << 20 }), fc.nat({ max: 7 }));
    await fc.assert(
      fc.asyncProperty(change, async ([name, position, which]) => {
        const part = collateral[name];
        const data = typeof part === "string" ? utf8(part) : part.slice();
        const at = position % data.length;
        const values = replacements(data[at] ?? 0);
        data[at] = values[which % values.length] ?? 0;
        const changed = { ...collateral, [name]: typeof part === "string" ? text.decode(data) : data };
        await refusal(lab.appraise({ quote, collateral: changed }));
      }),
      { numRuns: 600 },
    );
  });

  test("any bytes are a quote or refused", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), fc.constantFrom(3, 4, 5), (data, version) => {
        const head = concat(Uint8Array.of(version, 0, 2, 0), u32(version === 3 ? 0 : 0x81));
        for (const bytes of [Uint8Array.from(data), concat(head, data)]) {
          try {
            parseQuote(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(MitaiError);
          }
        }
      }),
    );
  });
});
