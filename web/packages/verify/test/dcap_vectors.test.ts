/** Every public TDX and SGX quote: the status it should have, accepted or refused as it should be. */

import { describe, expect, test } from "vitest";
import { equal, hex, utf8 } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { fromQuoteCollateralV3 } from "../src/dcap/collateral.ts";
import { pckTcb } from "../src/dcap/pck.ts";
import { parseQuote, splitQuote } from "../src/dcap/quote.ts";
import { findPckChain } from "../src/dcap/verify.ts";
import { tdMeasurements } from "../src/tdx.ts";
import { appraise, LAX, refusal, STRICT } from "./intel_lab.ts";
import { haveVectors, type Vector, vector, vectorFile, vectors, vectorTime, WHY_SKIPPED } from "./vectors.ts";

const QUOTES = vectors(["tdx", "sgx"], ["quote-v3", "quote-v4", "quote-v5"]).map((entry) => [entry.id, entry] as const);
const MUTATIONS = vectors(["tdx", "sgx"], ["mutation"]).map((entry) => [entry.id, entry] as const);
const REASONS: Readonly<Record<string, readonly string[]>> = {
  "debug enabled": ["attest.td-debug", "attest.enclave-debug"],
  "SEPT_VE_DISABLE clear": ["attest.td-attributes-missing"],
  "MRSERVICETD non-zero": ["attest.mrservicetd-mismatch"],
};

function load(entry: Vector) {
  // One quote carries "extra bytes(only for testing purpose)" behind its end: `splitQuote` is how a caller cuts them.
  const [quote] = splitQuote(vectorFile(entry, "quote.bin"));
  return { quote, collateral: fromQuoteCollateralV3(vectorFile(entry, "collateral.json")), now: vectorTime(entry) };
}

describe.skipIf(!haveVectors)(haveVectors ? "public quotes" : WHY_SKIPPED, () => {
  test("there are thirteen quotes", () => {
    expect(QUOTES.length).toBe(13);
    expect(MUTATIONS.length).toBe(2);
  });

  test.each(QUOTES)("status and advisories: %s", async (_, entry) => {
    const { quote, collateral, now } = load(entry);
    const { tcb_status, advisory_ids } = entry.expected;
    if (tcb_status.startsWith("NotSupported")) {
      const { code, step, message } = await refusal(appraise(quote, collateral, LAX, { now }));
      expect([code, step]).toEqual(["attest.tcb-not-supported", "7 tcb"]); // so the signature chain held
      expect(message.endsWith(tcb_status)).toBe(true);
      return;
    }
    const machine = await appraise(quote, collateral, LAX, { now });
    expect([machine.tcbStatus, machine.advisoryIds, machine.simulated]).toEqual([tcb_status, advisory_ids, false]);
  });

  test.each(QUOTES)("strict policy: %s", async (_, entry) => {
    const { quote, collateral, now } = load(entry);
    if (entry.expected.strict_policy === "accept") {
      await appraise(quote, collateral, STRICT, { now });
      return;
    }
    const reasons: readonly string[] = entry.expected.strict_policy_reasons;
    const codes = [
      "attest.tcb-not-supported",
      "attest.tcb-status-refused",
      ...reasons.flatMap((why) => REASONS[why] ?? []),
    ];
    expect(codes).toContain((await refusal(appraise(quote, collateral, STRICT, { now }))).code);
  });

  test.each(QUOTES)("fields: %s", async (_, entry) => {
    const fields = entry.key_fields;
    const parsed = parseQuote(load(entry).quote);
    expect(parsed.header.version).toBe(fields.quote_version);
    const { body } = parsed;
    expect(hex(body.reportData)).toBe(fields.reportdata);
    if (body.tee === "tdx") {
      const registers = new Map(
        [...tdMeasurements(body)].map(([name, value]) => [name.replace("_attributes", "attributes"), value]),
      );
      for (const [name, value] of registers)
        if (fields[name] !== undefined) expect([name, value]).toEqual([name, fields[name]]);
      for (const name of ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]) expect(registers.get(name)).toBe(fields[name]);
      if (body.teeTcbSvn2) expect(hex(body.teeTcbSvn2)).toBe(fields.tee_tcb_svn2);
    } else {
      for (const name of ["mrenclave", "mrsigner", "attributes"] as const) expect(hex(body[name])).toBe(fields[name]);
    }
    const tcb = pckTcb((await findPckChain(parsed, null)).leaf);
    expect([hex(tcb.fmspc), hex(tcb.pceId), tcb.pceSvn, hex(tcb.cpuSvn)]).toEqual([
      fields.fmspc,
      fields.pce_id,
      fields.pce_svn,
      fields.pck_cpusvn,
    ]);
  });

  test.each(MUTATIONS)("refused in the step of the signatures: %s", async (_, entry) => {
    const { quote, collateral, now } = load(vector(entry.base));
    const cache = new VerifiedCache();
    await appraise(quote, collateral, LAX, { now, cache });
    for (const { offset, xor, what } of entry.mutations) {
      const mutated = quote.slice();
      mutated[offset] = (mutated[offset] ?? 0) ^ xor;
      expect([what, (await refusal(appraise(mutated, collateral, LAX, { now, cache }))).step]).toEqual([
        what,
        "5 signatures",
      ]);
    }
  });

  test("bytes behind a quote are refused", () => {
    const data = vectorFile(vector("tdx/gtg-spr-e4-tcb-not-supported"), "quote.bin");
    expect(equal(splitQuote(data)[1], utf8("\nextra bytes(only for testing purpose)\n"))).toBe(true);
    expect(() => parseQuote(data)).toThrowError(expect.objectContaining({ code: "attest.quote-malformed" }));
  });
});
