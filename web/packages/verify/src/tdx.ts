/**
 * Intel TDX: what a TD's report must look like beyond its signature, and the section `[tdx]` of an appraisal policy.
 *
 * Port of `mitai/attest/tdx`. Follows the "Intel TDX Module Base Architecture Specification", section 20 (ATTRIBUTES and
 * XFAM), and the appraisal steps of the "Intel TDX DCAP" guides: no debug, no reserved bit, SEPT_VE_DISABLE, an Intel TDX
 * module, no service TD.
 */

import { type Bytes, fromHex, hex } from "./bytes.ts";
import { type Header, INTEL_QE_VENDOR, type TdReport } from "./dcap/quote.ts";
import { MitaiError } from "./errors.ts";
import { ANY, checkHex } from "./fields.ts";

/** What every TD must look like. Masks and registers in the byte order of the quote. */
export interface TdxRules {
  readonly tdAttributesRequired: string;
  readonly tdAttributesAllowed: string;
  readonly xfamRequired: string;
  readonly xfamAllowed: string;
  readonly mrsignerseam: string;
  readonly seamAttributes: string;
  readonly mrservicetd: string;
  /** Allow-list; empty: any that Intel's TCB info accepts. */
  readonly mrseam: readonly string[];
  readonly mrconfigid: string;
  readonly mrowner: string;
  readonly mrownerconfig: string;
  /** Per component. */
  readonly minTeeTcbSvn: string;
  readonly qeVendorId: string;
}

const DEFAULTS: TdxRules = {
  tdAttributesRequired: "0000001000000000", // SEPT_VE_DISABLE
  tdAttributesAllowed: "000000d000000080", // SEPT_VE_DISABLE, PKS, KL, PERFMON: no DEBUG, no reserved bit
  xfamRequired: "0300000000000000", // FP and SSE
  xfamAllowed: "e7db060000000000", // XFAM_FIXED0 of TDX module 1.x
  mrsignerseam: "00".repeat(48), // the TDX module is Intel's
  seamAttributes: "0000000000000000",
  mrservicetd: "00".repeat(48), // no service TD, hence no migration
  mrseam: [],
  mrconfigid: ANY,
  mrowner: ANY,
  mrownerconfig: ANY,
  minTeeTcbSvn: "00".repeat(16),
  qeVendorId: INTEL_QE_VENDOR,
};

/** Return rules, those that are not given as they are by default; refuse values that can't be. */
export function tdxRules(partial: Partial<TdxRules> = {}): TdxRules {
  const rules = { ...DEFAULTS, ...partial };
  checkHex("td_attributes_required", rules.tdAttributesRequired, 8);
  checkHex("td_attributes_allowed", rules.tdAttributesAllowed, 8);
  checkHex("xfam_required", rules.xfamRequired, 8);
  checkHex("xfam_allowed", rules.xfamAllowed, 8);
  for (const name of ["mrsignerseam", "mrservicetd", "mrconfigid", "mrowner", "mrownerconfig"] as const) {
    checkHex(name, rules[name], 48, true);
  }
  for (const value of rules.mrseam) checkHex("mrseam", value, 48);
  checkHex("seam_attributes", rules.seamAttributes, 8, true);
  checkHex("min_tee_tcb_svn", rules.minTeeTcbSvn, 16);
  checkHex("qe_vendor_id", rules.qeVendorId, 16);
  return rules;
}

const DEBUG = 1; // bit 0 of TUD; the other seven bits of that byte are reserved

/** Throw `MitaiError` unless the TD's attributes, features and identities are those that the rules allow. */
export function checkTd(header: Header, report: TdReport, rules: TdxRules): void {
  if (hex(header.qeVendorId) !== rules.qeVendorId) {
    throw new MitaiError("attest.qe-vendor-mismatch", "the quote names another vendor of the quoting enclave");
  }
  if (isDebugTd(report) && !((fromHex(rules.tdAttributesAllowed)[0] ?? 0) & DEBUG)) {
    throw new MitaiError("attest.td-debug", "the TD is in debug mode: its host can read its memory");
  }
  checkMask("td-attributes", report.tdAttributes, rules.tdAttributesRequired, rules.tdAttributesAllowed);
  checkMask("xfam", report.xfam, rules.xfamRequired, rules.xfamAllowed);
  if (rules.mrseam.length && !rules.mrseam.includes(hex(report.mrseam))) {
    throw new MitaiError("attest.mrseam-not-allowed", "the TDX module is not on the policy's list");
  }
  checkRegister("mrsignerseam", report.mrsignerseam, rules.mrsignerseam);
  checkRegister("seam-attributes", report.seamAttributes, rules.seamAttributes);
  checkRegister("mrconfigid", report.mrconfigid, rules.mrconfigid);
  checkRegister("mrowner", report.mrowner, rules.mrowner);
  checkRegister("mrownerconfig", report.mrownerconfig, rules.mrownerconfig);
  checkRegister("mrservicetd", report.mrservicetd, rules.mrservicetd);
  const least = fromHex(rules.minTeeTcbSvn);
  if (report.teeTcbSvn.some((svn, component) => svn < (least[component] ?? 0))) {
    throw new MitaiError("attest.tee-tcb-svn-too-low", "a component of TEE_TCB_SVN is below the policy's minimum");
  }
}

/** Tell whether the TD is in debug mode. */
export function isDebugTd(report: TdReport): boolean {
  return ((report.tdAttributes[0] ?? 0) & DEBUG) !== 0;
}

/** Check a register; a report 1.0 has no MRSERVICETD. */
function checkRegister(name: string, found: Bytes | null, expected: string): void {
  if (found !== null && expected !== ANY && expected !== hex(found)) {
    throw new MitaiError(`attest.${name}-mismatch`, `${name} is not what the policy demands`);
  }
}

function checkMask(name: string, value: Bytes, required: string, allowed: string): void {
  const [mayBe, mustBe] = [fromHex(allowed), fromHex(required)];
  if (value.some((byte, at) => byte & ~(mayBe[at] ?? 0))) {
    throw new MitaiError(`attest.${name}-not-allowed`, `${name} has a bit set that is not allowed: ${hex(value)}`);
  }
  if (value.some((byte, at) => (mustBe[at] ?? 0) & ~byte)) {
    throw new MitaiError(`attest.${name}-missing`, `${name} has a bit clear that is required: ${hex(value)}`);
  }
}

/** Return the registers by name, in hex. */
export function tdMeasurements(report: TdReport): ReadonlyMap<string, string> {
  const registers = new Map([
    ["mrtd", report.mrtd],
    ["mrseam", report.mrseam],
    ["mrsignerseam", report.mrsignerseam],
    ["mrconfigid", report.mrconfigid],
    ["mrowner", report.mrowner],
    ["mrownerconfig", report.mrownerconfig],
    ["td_attributes", report.tdAttributes],
    ["xfam", report.xfam],
    ["tee_tcb_svn", report.teeTcbSvn],
  ]);
  for (const [number, value] of report.rtmrs.entries()) registers.set(`rtmr${number}`, value);
  if (report.mrservicetd !== null) registers.set("mrservicetd", report.mrservicetd);
  return new Map([...registers].map(([name, value]) => [name, hex(value)]));
}
