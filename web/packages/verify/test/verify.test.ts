import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, fromBase64, hex, text, utf8 } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { MitaiError } from "../src/errors.ts";
import { Evidence } from "../src/evidence.ts";
import type { Hardware } from "../src/machine.ts";
import { Policy } from "../src/policy.ts";
import { evidenceSha256 } from "../src/tees.ts";
import { verify, verifyHardware, verifyQuote } from "../src/verify.ts";
import { load } from "./fixtures.ts";

const { bases } = load("evidence");
const WHOLE = fromBase64(bases.evidence ?? "");
const EVIDENCE = Evidence.decode(WHOLE);
const TOML = text(fromBase64(bases.policy ?? ""));
const POLICY = Policy.fromToml(TOML);
const NOW = new Date("2026-06-01T12:00:00Z");
const NONCE = Uint8Array.from({ length: 32 }, (_, at) => at);
const check = (evidence: Evidence, policy = POLICY) => verify(evidence, policy, { nonce: NONCE, now: NOW });
const changed = (from: string, to: string) => Policy.fromToml(TOML.replace(from, to));

describe("verify", () => {
  test("a simulated machine: every step, every name", async () => {
    const appraisal = await check(EVIDENCE);
    expect(appraisal).toMatchObject({ tee: "tdx", simulated: true, workload: "serve", tcbStatus: "UpToDate" });
    expect(appraisal.checks.map(({ step }) => step)).toEqual([
      "1 nonce",
      "2 quote",
      "3 root",
      "4 collateral",
      "5 platform",
      "6 signatures",
      "7 quoting enclave",
      "8 tcb",
      "9 td",
      "10 event log",
      "11 report data",
      "12 claims",
      "13 workload",
    ]);
    expect(appraisal.checks.every(({ detail }) => detail)).toBe(true);
    expect(appraisal.claimsBytes).toEqual(EVIDENCE.claims);
    expect(text(appraisal.claims.keyConfig)).toBe("an HPKE key configuration");
    expect(appraisal.evidenceSha256).toBe(await evidenceSha256("tdx", EVIDENCE.quote));
    expect(appraisal.measurements.get("rtmr3")).toBe(POLICY.workloads[0]?.registers.get("rtmr3"));
    expect(Object.isFrozen(appraisal)).toBe(true);
  });

  test("the error names code and step", async () => {
    const other = verify(EVIDENCE, POLICY, { nonce: new Uint8Array(32), now: NOW });
    await expect(other).rejects.toMatchObject({ code: "attest.nonce-mismatch", step: "1 nonce" });
    const unknown = check(EVIDENCE, Policy.fromToml(""));
    await expect(unknown).rejects.toMatchObject({ code: "attest.simulation-refused", step: "3 root" });
    const exchanged = check({ ...EVIDENCE, claims: utf8(`${text(EVIDENCE.claims)} `) });
    await expect(exchanged).rejects.toMatchObject({ code: "attest.report-data-mismatch", step: "11 report data" });
  });

  test("collateral from elsewhere takes the place of the evidence's", async () => {
    const bare = { ...EVIDENCE, collateral: null };
    await expect(check(bare)).rejects.toMatchObject({ code: "attest.collateral-missing" });
    const { collateral } = EVIDENCE;
    expect(await verify(bare, POLICY, { nonce: NONCE, now: NOW, collateral })).toMatchObject({ workload: "serve" });
  });

  test.each([
    [
      "devices that are demanded",
      EVIDENCE,
      Policy.fromToml(`${TOML}\n`.replace("min_gpus = 0", "min_gpus = 1")),
      "12 devices",
    ],
    ["switches", EVIDENCE, changed("min_switches = 0", "min_switches = 1"), "12 devices"],
  ])("%s are not for a browser", async (_, evidence, policy, step) => {
    await expect(check(evidence, policy)).rejects.toMatchObject({ code: "attest.not-in-browser", step });
  });

  test("devices in the evidence are not for a browser, once the hardware's signature covers them", async () => {
    await expect(check({ ...EVIDENCE, devices: utf8("[{}]") })).rejects.toMatchObject({
      code: "attest.report-data-mismatch",
    });
  });

  test("a second opinion is not to be had", async () => {
    const policy = changed("second_opinion = false", "second_opinion = true");
    await expect(check(EVIDENCE, policy)).rejects.toMatchObject({
      code: "attest.second-opinion-missing",
      step: "9 second opinion",
    });
  });

  test.each(["nitro", "cca", "csv", "az-snp-vtpm", "az-tdx-vtpm", "gcp-vtpm", "tpm"])(
    "%s is not for a browser",
    async (tee) => {
      await expect(check({ ...EVIDENCE, tee })).rejects.toMatchObject({ code: "attest.not-in-browser", step: "2 tee" });
      await expect(evidenceSha256(tee, EVIDENCE.quote)).rejects.toMatchObject({ code: "attest.not-in-browser" });
    },
  );

  test.each(["x", "TDX", "", "constructor", "__proto__"])("TEE %j is unknown", async (tee) => {
    await expect(check({ ...EVIDENCE, tee })).rejects.toMatchObject({ code: "attest.tee-unsupported", step: "2 tee" });
  });

  test.each(["sgx", "snp", "nitro"])("%s has no event log to show", async (tee) => {
    const policy = changed("[event_log]\nrequired = false", "[event_log]\nrequired = true");
    await expect(check({ ...EVIDENCE, tee }, policy)).rejects.toMatchObject({
      code: "attest.event-log-missing",
      step: "2 event log",
    });
  });

  test("a cache changes no verdict", async () => {
    const cache = new VerifiedCache();
    const options = { nonce: NONCE, now: NOW, cache };
    const first = await verify(EVIDENCE, POLICY, options);
    expect(await verify(EVIDENCE, POLICY, options)).toEqual(first);
    const late = { ...options, now: new Date("2026-08-01T12:00:00Z") };
    await expect(verify(EVIDENCE, POLICY, late)).rejects.toMatchObject({ step: "4 collateral" });
  });

  test("flip any byte: it throws, or proves the same", async () => {
    const digest = await evidenceSha256("tdx", EVIDENCE.quote);
    const cache = new VerifiedCache();
    const puts = fc.oneof(fc.nat(255), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d));
    await fc.assert(
      fc.asyncProperty(fc.nat(WHOLE.length - 1), puts, fc.boolean(), async (at, byte, flipCase) => {
        const data = WHOLE.with(at, flipCase ? (WHOLE[at] ?? 0) ^ 0x20 : byte);
        try {
          const appraisal = await verify(Evidence.decode(data), POLICY, { nonce: NONCE, now: NOW, cache });
          expect([appraisal.evidenceSha256, hex(appraisal.claimsBytes)]).toEqual([digest, hex(EVIDENCE.claims)]);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 400 },
    );
  });
});

describe("hardware alone", () => {
  const hardware: Hardware = EVIDENCE;
  const quote = (policy: Policy, data: Bytes = EVIDENCE.quote) =>
    verifyQuote(data, EVIDENCE.collateral ?? expect.fail("collateral"), policy, { now: NOW });

  test("gives the machine; reference values are compared where there are any", async () => {
    const machine = await verifyHardware(hardware, POLICY, { now: NOW });
    expect(machine).toMatchObject({ tee: "tdx", simulated: true, memory: "encrypted", title: "Intel TDX" });
    expect(machine.checks.at(-1)?.step).toBe("10 workload");
    expect((await quote(POLICY)).checks).toHaveLength(10);
    const open = { ...POLICY, workloads: [] };
    expect((await quote(open)).checks).toHaveLength(9);
    await expect(
      quote({
        ...POLICY,
        workloads: [],
        releases: Policy.fromToml(`[[releases]]\nworkload="a"\nkey="${"03".repeat(32)}"`).releases,
      }),
    ).rejects.toMatchObject({
      code: "attest.workload-unknown",
      step: "10 workload",
    });
  });

  test("a quote that is none", async () => {
    await expect(quote(POLICY, utf8("no quote"))).rejects.toBeInstanceOf(MitaiError);
  });
});
