/**
 * Evidence in, claims out: the verifier.
 *
 * Follows RFC 9334 (RATS): evidence and endorsements (collateral) are appraised under a policy that holds reference
 * values. Port of `mitai/attest/verify.py`.
 *
 * Invariants:
 * - No input, no clock and no trust anchor but those given: bytes and `now` go in, a frozen `Appraisal` comes out, or
 *   `MitaiError`.
 * - `verify` is a numbered checklist. Each step must pass; the error names the step that did not.
 * - Keys and names are taken only from the claims whose hash the quote's report data covers.
 * - What only the Python package can check (other TEEs, devices) is refused with `attest.not-in-browser`.
 *
 * Example: `(await verify(Evidence.decode(body), policy, { nonce, now: new Date() })).claims.keyConfig`
 */

import { type Bytes, equal } from "./bytes.ts";
import type { VerifiedCache } from "./cache.ts";
import { Checklist } from "./checks.ts";
import { MitaiError } from "./errors.ts";
import { Claims, type Evidence, NO_DEVICES, reportData } from "./evidence.ts";
import type { Check, Collateral, Hardware, Machine } from "./machine.ts";
import { type ClaimRules, mismatch, type Policy } from "./policy.ts";
import { appraise, evidenceDigest, teeOfQuote } from "./tees.ts";

/** What evidence proves about a process: its machine, its code and its keys. */
export interface Appraisal {
  readonly tee: string;
  readonly simulated: boolean;
  readonly workload: string;
  readonly claims: Claims;
  readonly claimsBytes: Bytes;
  readonly measurements: ReadonlyMap<string, string>;
  readonly tcbStatus: string;
  readonly advisoryIds: readonly string[];
  readonly tcbEvaluationNumber: number;
  readonly evidenceSha256: string;
  readonly checks: readonly Check[];
  readonly notAfter: Date;
  readonly machine: Machine;
}

export interface VerifyOptions {
  /** Time of the check. */
  readonly now: Date;
  /** Remembers verified chains and collateral between calls. */
  readonly cache?: VerifiedCache;
}

/**
 * Verify evidence; throw `MitaiError` with the code and the step of the first check that fails.
 *
 * 1. nonce: the evidence answers ours.
 * 2. the hardware: all steps of the verifier of its TEE (`docs/spec/evidence-*.md`). Of TDX: quote, root, collateral,
 *    platform, signatures, quoting enclave, tcb, td, event log.
 * 3. report data: what the hardware signed covers our nonce, the claims and the devices.
 * 4. devices: are refused, where there are any or the policy demands some.
 * 5. claims: parse, and say what the policy demands.
 * 6. workload: the measurements are reference values of the workload that the claims name.
 *
 * `nonce` are the 32 bytes that the verifier chose for this exchange; `collateral` replaces that in the evidence (it is
 * signed: its carrier does not matter).
 */
export async function verify(
  evidence: Evidence,
  policy: Policy,
  { nonce, collateral, ...options }: VerifyOptions & { nonce: Bytes; collateral?: Collateral | null },
): Promise<Appraisal> {
  const checks = new Checklist();
  const expected = await checks.step("nonce", async (say) => {
    if (!equal(evidence.nonce, nonce)) {
      throw new MitaiError(
        "attest.nonce-mismatch",
        "the evidence answers another nonce: it is a replay, or was relayed",
      );
    }
    say("answers ours");
    return reportData(nonce, evidence.claims, evidence.devices);
  });
  const machine = await appraise(
    checks,
    { ...evidence, collateral: collateral ?? evidence.collateral },
    policy,
    options,
  );
  await checks.step("report data", (say) => {
    if (!equal(machine.reportData, expected)) {
      throw new MitaiError(
        "attest.report-data-mismatch",
        "the quote does not cover these claims",
        "a key or a name was exchanged on the way, or the quote belongs to another process",
      );
    }
    say("covers nonce, claims and devices");
  });
  if (!equal(evidence.devices, NO_DEVICES) || policy.nvidia.minGpus || policy.nvidia.minSwitches) {
    await checks.step("devices", () => {
      throw new MitaiError(
        "attest.not-in-browser",
        "evidence of GPUs and switches is not verified here",
        "verify it with the command line: mitai verify",
      );
    });
  }
  const claims = await checks.step("claims", (say) => {
    const decoded = Claims.decode(evidence.claims);
    checkClaims(decoded, policy.claims);
    const number = decoded.capsules.length;
    say(`workload ${decoded.workload}, ${number} capsule${number === 1 ? "" : "s"}`);
    return decoded;
  });
  await checks.step("workload", (say) => {
    checkWorkload(claims.workload, machine, policy);
    say(`measured as ${claims.workload}`);
  });
  return Object.freeze({
    tee: machine.tee,
    simulated: machine.simulated,
    workload: claims.workload,
    claims,
    claimsBytes: evidence.claims,
    measurements: machine.measurements,
    tcbStatus: machine.tcbStatus,
    advisoryIds: machine.advisoryIds,
    tcbEvaluationNumber: machine.tcbEvaluationNumber,
    evidenceSha256: await evidenceDigest(machine.signed),
    checks: checks.passed,
    notAfter: machine.notAfter,
    machine,
  });
}

/**
 * Verify evidence of the hardware alone, and the reference values where the policy has any, or trusts releases.
 *
 * Nothing is said about report data: who has only this must compare `machine.reportData` himself.
 */
export async function verifyHardware(hardware: Hardware, policy: Policy, options: VerifyOptions): Promise<Machine> {
  const checks = new Checklist();
  const machine = await appraise(checks, hardware, policy, options);
  if (!policy.workloads.length && !policy.releases.length) return machine;
  // Releases without any that was given: no code is known, none is accepted.
  await checks.step("workload", () => checkWorkload(null, machine, policy));
  return { ...machine, checks: checks.passed };
}

/** Verify a bare quote of Intel's, TDX or SGX; see `verifyHardware`. */
export async function verifyQuote(
  quote: Bytes,
  collateral: Collateral,
  policy: Policy,
  options: VerifyOptions,
): Promise<Machine> {
  const hardware = { tee: teeOfQuote(quote), quote, collateral, eventLog: new Uint8Array(), endorsements: new Map() };
  return verifyHardware(hardware, policy, options);
}

function checkClaims(claims: Claims, rules: ClaimRules): void {
  const opened = new Map(claims.capsules.map((capsule) => [capsule.id, capsule.manifestSha256]));
  for (const { id, manifestSha256 } of rules.capsules) {
    if (!opened.has(id)) {
      throw new MitaiError("attest.capsule-missing", `the workload has not opened capsule ${JSON.stringify(id)}`);
    }
    if (manifestSha256 !== null && manifestSha256 !== opened.get(id)) {
      throw new MitaiError(
        "attest.capsule-mismatch",
        `the workload has opened another version of capsule ${JSON.stringify(id)}`,
      );
    }
  }
  if (!rules.policies.every((digest) => claims.policies.includes(digest))) {
    throw new MitaiError("attest.policy-digest-missing", "a policy that must be in force is not");
  }
  if (rules.ledgerVkey === null) return;
  if (claims.ledger === null) {
    throw new MitaiError(
      "attest.ledger-missing",
      "the workload writes to no ledger",
      "a replica does once a model is deployed: perhaps none is yet",
    );
  }
  if (claims.ledger.vkey !== rules.ledgerVkey) {
    throw new MitaiError("attest.ledger-mismatch", "the workload writes to another ledger than the policy demands");
  }
}

/** Check that some reference values (of workload `name`, where given) are exactly this machine's. */
function checkWorkload(name: string | null, machine: Machine, policy: Policy): void {
  const candidates = policy.workloads.filter(
    (values) => (name === null || values.name === name) && values.tee === machine.tee,
  );
  if (!candidates.length) {
    const known = new Set(policy.workloads.map((values) => `${values.name} on ${values.tee}`));
    throw new MitaiError(
      "attest.workload-unknown",
      `the policy has no reference values for ${name ?? "any workload"} on ${machine.tee} ` +
        `(it has: ${[...known].sort().join(", ") || "none"})`,
      policy.releases.length ? "it trusts releases: give one" : "",
    );
  }
  const mismatches = candidates.map((values) => mismatch(values, machine.measurements));
  if (!mismatches.includes(undefined)) {
    throw new MitaiError(
      "attest.measurement-mismatch",
      `the machine runs other code than the policy expects of ${name ?? "any workload"}: ${mismatches[0]}`,
      "either the code was changed, or the policy is of another release",
    );
  }
}
