/**
 * Intel SGX: what an enclave's report must look like beyond its signature.
 *
 * Port of `mitai/attest/sgx`. Follows the Intel SDM, volume 3D, chapter 38 (ATTRIBUTES).
 */

import { hex } from "./bytes.ts";
import { type EnclaveReport, type Header, INTEL_QE_VENDOR } from "./dcap/quote.ts";
import { MitaiError } from "./errors.ts";
import type { SgxRules } from "./sections.ts";

const INIT = 0x01;
const DEBUG = 0x02;

/** Throw `MitaiError` unless the enclave is one that the rules allow. */
export function checkEnclave(header: Header, report: EnclaveReport, rules: SgxRules): void {
  if (hex(header.qeVendorId) !== INTEL_QE_VENDOR) {
    throw new MitaiError("attest.qe-vendor-mismatch", "the quote names another vendor of the quoting enclave");
  }
  if (isDebugEnclave(report) && !rules.allowDebug) {
    throw new MitaiError("attest.enclave-debug", "the enclave is in debug mode: its host can read its memory");
  }
  if (!((report.attributes[0] ?? 0) & INIT)) {
    throw new MitaiError("attest.enclave-not-initialised", "the enclave's INIT attribute is clear");
  }
  for (const name of ["mrenclave", "mrsigner"] as const) {
    if (rules[name].length && !rules[name].includes(hex(report[name]))) {
      throw new MitaiError(`attest.${name}-not-allowed`, `${name} is not on the policy's list`);
    }
  }
  if ((rules.isvProdId !== null && rules.isvProdId !== report.isvProdId) || report.isvSvn < rules.minIsvSvn) {
    throw new MitaiError("attest.enclave-version-refused", "the enclave's product id or security version is refused");
  }
}

/** Tell whether the enclave is in debug mode. */
export function isDebugEnclave(report: EnclaveReport): boolean {
  return ((report.attributes[0] ?? 0) & DEBUG) !== 0;
}

/** Return the registers by name, in hex. */
export function enclaveMeasurements(report: EnclaveReport): ReadonlyMap<string, string> {
  return new Map([
    ["mrenclave", hex(report.mrenclave)],
    ["mrsigner", hex(report.mrsigner)],
    ["attributes", hex(report.attributes)],
    ["cpu_svn", hex(report.cpuSvn)],
    ["misc_select", hex(report.miscSelect)],
  ]);
}
