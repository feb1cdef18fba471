/**
 * What the verifiers of all TEEs have in common: evidence of the hardware in, a `Machine` out.
 *
 * Port of `mitai/attest/machine.py`. Each TEE's module has `appraise…(checks, hardware, rules, options)`, which returns
 * a `Machine` or throws `MitaiError`; `verify.ts` picks it by `Hardware.tee`.
 */

import type { Bytes } from "./bytes.ts";

/** Parts of Intel's collateral as Intel serves them: PEM chains and JSON as text, CRLs (DER) and signatures (r ‖ s). */
export interface Collateral {
  readonly tcbInfo: string;
  readonly tcbInfoSignature: Bytes;
  readonly tcbInfoIssuerChain: string;
  readonly qeIdentity: string;
  readonly qeIdentitySignature: Bytes;
  readonly qeIdentityIssuerChain: string;
  readonly rootCaCrl: Bytes;
  readonly pckCrl: Bytes;
  readonly pckCrlIssuerChain: string;
  /** For quotes that do not carry their PCK certificates; where it is there, it is used. */
  readonly pckCertificateChain: string | null;
}

/** Evidence of the hardware alone. `endorsements` are certificates and the like by name. */
export interface Hardware {
  readonly tee: string;
  readonly quote: Bytes;
  readonly eventLog: Bytes;
  readonly endorsements: ReadonlyMap<string, Bytes>;
  readonly collateral: Collateral | null;
}

/** A step of a verification that passed, such as "5 platform", and what it found. */
export interface Check {
  readonly step: string;
  readonly detail: string;
}

/** What hardware evidence proves about a machine and what was measured into it. */
export interface Machine {
  readonly tee: string;
  /** For people, such as "Intel TDX". */
  readonly title: string;
  /** Register to hex. */
  readonly measurements: ReadonlyMap<string, string>;
  /** The caller's bytes that the hardware signed. */
  readonly reportData: Bytes;
  /** All bytes that it signed: what identifies the evidence. */
  readonly signed: Bytes;
  /** When an endorsement ends. */
  readonly notAfter: Date;
  readonly checks: readonly Check[];
  /** Encrypted; no more than isolated from other guests; or visible to the host: debug mode. */
  readonly memory: "encrypted" | "isolated" | "visible";
  readonly simulated: boolean;
  readonly tcbStatus: string;
  readonly advisoryIds: readonly string[];
  readonly tcbEvaluationNumber: number;
  /** For people: chip, product, versions. */
  readonly facts: ReadonlyMap<string, string>;
}
