/**
 * Intel TDX: what a TD's report must look like beyond its signature.
 *
 * Port of `mitai/attest/tdx`. Follows the "Intel TDX Module Base Architecture Specification", section 20 (ATTRIBUTES
 * and XFAM), and the appraisal steps of the "Intel TDX DCAP" guides: no debug, no reserved bit, SEPT_VE_DISABLE, an
 * Intel TDX module, no service TD.
 */

import { type Bytes, fromHex, hex } from "./bytes.ts";
import type { Header, TdReport } from "./dcap/quote.ts";
import { MitaiError } from "./errors.ts";
import { ANY } from "./fields.ts";
import type { TdxRules } from "./sections.ts";

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
