import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromBase64, text } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import { mismatch, Policy, simRootFingerprints, withWorkloads } from "../src/policy.ts";
import { load } from "./fixtures.ts";

const { bases } = load("evidence");
const POLICY = text(fromBase64(bases.policy ?? ""));

describe("a policy", () => {
  test("that says nothing is strict", () => {
    const policy = Policy.fromToml("");
    expect(policy.allowSimulation).toBe(false);
    expect([policy.simRoots, policy.workloads, policy.releases]).toEqual([[], [], []]);
    expect(policy.tcb).toMatchObject({ acceptedStatuses: ["UpToDate"], acceptedAdvisories: [], collateralGraceS: 0 });
    expect(policy.tdx).toMatchObject({ tdAttributesRequired: "0000001000000000", mrservicetd: "00".repeat(48) });
    expect(policy.snp.policyForbidden).toContain("debug");
    expect(policy.sgx.allowDebug).toBe(false);
  });

  test("is frozen, and a changed one has another digest", async () => {
    const policy = Policy.fromToml(POLICY);
    expect([policy, policy.tdx, policy.workloads, policy.claims].every(Object.isFrozen)).toBe(true);
    const more = withWorkloads(policy, [{ name: "x", tee: "snp", registers: new Map([["measurement", "00"]]) }]);
    expect(await more.sha256()).not.toBe(await policy.sha256());
    expect(await withWorkloads(policy, []).sha256()).toBe(await policy.sha256());
    expect(await Policy.fromToml(`# a remark\n${POLICY}`).sha256()).toBe(await policy.sha256());
  });

  test("names simulated roots by fingerprint or certificate", async () => {
    const policy = Policy.fromToml(`sim_roots=["sha256:${"ab".repeat(32)}","AA=="]`);
    // hashlib.sha256(b"\0")
    const ofZero = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
    expect(await simRootFingerprints(policy)).toEqual(new Set(["ab".repeat(32), ofZero]));
  });

  test("compares every register that is not open", () => {
    const values = { name: "a", tee: "tdx", registers: new Map(Object.entries({ mrtd: "00", rtmr0: "any" })) };
    expect(mismatch(values, new Map([["mrtd", "00"]]))).toBeUndefined();
    expect(mismatch(values, new Map([["mrtd", "01"]]))).toBe("mrtd");
    expect(mismatch(values, new Map())).toBe("mrtd");
  });

  // Where this reader and Python's differ: TOML 1.1 is read too; numbers are at most 2**53 - 1; the digest of a policy
  // with names that are numbers, or with times finer than a millisecond, is another one.
  test("known differences from Python", async () => {
    for (const written of ['claims.ledger_vkey="\\e\\x41"', "tcb={fmspc=[],}", "tcb={\nfmspc=[]}"]) {
      expect(Policy.fromToml(written).version).toBe(1n);
    }
    expect(() => Policy.fromToml("tcb.min_evaluation_number=9007199254740992")).toThrow(MitaiError);
    const [ascending, descending] = ["{1=[],2=[]}", "{2=[],1=[]}"].map((log) =>
      Policy.fromToml(`event_log.dstack=${log}`),
    );
    expect(await ascending?.sha256()).toBe(await descending?.sha256());
  });

  test("with a time that is in no calendar is refused", () => {
    const release = `[[releases]]\nworkload="serve"\nkey="${"ab".repeat(32)}"\nnot_before=`;
    expect(Policy.fromToml(`${release}2024-02-29t23:59:59.5+05:30`).releases).toHaveLength(1);
    for (const time of ["2026-02-30T00:00:00Z", "2026-02-29 00:00:00Z", "2026-01-01T00:00Z", "2026-01-01"]) {
      expect(() => Policy.fromToml(release + time)).toThrow(MitaiError);
    }
  });

  test("is the same with line ends of another system", async () => {
    const written = "[snp]\ncsp_ids = ['''a\nb''']\n";
    const other = Policy.fromToml(written.replaceAll("\n", "\r\n"));
    expect(await other.sha256()).toBe(await Policy.fromToml(written).sha256());
  });

  test("that is too large or too deep is refused", () => {
    expect(() => Policy.fromToml(" ".repeat((1 << 20) + 1))).toThrow(MitaiError);
    expect(() => Policy.fromToml(`x=${"[".repeat(100_000)}`)).toThrow(MitaiError);
    expect(() => Policy.fromToml(`x=${"[".repeat(990)}${"]".repeat(990)}`)).toThrow(MitaiError);
    expect(() => Policy.fromToml(`${"a.".repeat(50_000)}a=1`)).toThrow(MitaiError);
  });

  test("any change gives a policy or a MitaiError", () => {
    const put = fc.constantFrom(
      "\0",
      "\n",
      "\r",
      " ",
      "=",
      '"',
      "'",
      "[",
      "{",
      "}",
      "]",
      ".",
      "#",
      "\\",
      "-",
      "1",
      "é",
      "\ud800",
    );
    fc.assert(
      fc.property(fc.nat(POLICY.length), fc.nat(3), put, (at, drop, letter) => {
        try {
          Policy.fromToml(POLICY.slice(0, at) + letter + POLICY.slice(at + drop));
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
