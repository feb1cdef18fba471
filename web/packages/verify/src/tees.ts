/** Which verifier appraises which TEE. Port of `mitai/attest/tees.py`, for the TEEs that are verified in a browser. */

import { type Bytes, hex, sha256, utf8 } from "./bytes.ts";
import type { VerifiedCache } from "./cache.ts";
import type { Checklist } from "./checks.ts";
import { appraiseIntel } from "./dcap/appraise.ts";
import { parseQuote } from "./dcap/quote.ts";
import { MitaiError } from "./errors.ts";
import { demandsIma, reliesOnLog } from "./eventlog.ts";
import type { Hardware, Machine } from "./machine.ts";
import { knowsTee, type Policy } from "./policy.ts";
import { parseReport } from "./snp/report.ts";
import { appraiseSnp } from "./snp/verify.ts";

const WITHOUT_LOG = ["sgx", "snp", "nitro", "cca", "csv"];

/** Verify evidence of the hardware, whatever the TEE; throw at the first check that fails. */
export async function appraise(
  checks: Checklist,
  hardware: Hardware,
  policy: Policy,
  options: { readonly now: Date; readonly cache?: VerifiedCache | undefined },
): Promise<Machine> {
  if (WITHOUT_LOG.includes(hardware.tee) && (reliesOnLog(policy.eventLog) || demandsIma(policy.eventLog))) {
    await checks.step("event log", () => {
      throw new MitaiError(
        "attest.event-log-missing",
        `the policy demands an event log, and ${hardware.tee} has none to check`,
      );
    });
  }
  switch (hardware.tee) {
    case "tdx":
    case "sgx":
      return appraiseIntel(checks, hardware, policy, options);
    case "snp":
      return appraiseSnp(checks, hardware, policy.snp, options);
    default:
      return checks.step("tee", () => {
        throw unsupported(hardware.tee);
      });
  }
}

/** Return whether a quote of Intel's is of TDX or SGX. */
export function teeOfQuote(quote: Bytes): "tdx" | "sgx" {
  return parseQuote(quote).body.tee;
}

/**
 * Return the digest by which receipts name evidence: over the signed part of its quote, in hex.
 *
 * A quote as a whole is malleable (padding, another encoding of the same signature), its signed part is not; and that
 * part holds `reportData`, hence nonce, claims and devices.
 */
export async function evidenceSha256(tee: string, quote: Bytes): Promise<string> {
  if (tee === "tdx" || tee === "sgx") return evidenceDigest(parseQuote(quote).signed);
  if (tee === "snp") return evidenceDigest(parseReport(quote).signed);
  throw unsupported(tee);
}

/** Return `evidenceSha256` of a signed part. */
export async function evidenceDigest(signed: Bytes): Promise<string> {
  return hex(await sha256(utf8("mitai evidence digest v1\0"), signed));
}

function unsupported(tee: string): MitaiError {
  if (knowsTee(tee)) {
    return new MitaiError(
      "attest.not-in-browser",
      `evidence of ${tee} is not verified here`,
      "verify it with the command line: mitai verify",
    );
  }
  return new MitaiError("attest.tee-unsupported", "evidence of an unknown TEE");
}
