/**
 * What the page needs from below: read a policy, verify a machine under it, talk to it, prove an answer. `live.ts` does it
 * with `@mitai/client`; tests do it with a made-up machine.
 */
import type { Bytes } from "@mitai/verify";

export interface Check {
  readonly step: string;
  readonly detail: string;
}

/** Reference values of one workload, and whose word they are. */
export interface Reference {
  readonly name: string;
  readonly tee: string;
  readonly registers: Readonly<Record<string, string>>;
  readonly from: "policy" | "release";
}

/** A policy, as far as people are shown it. */
export interface PolicyFacts {
  readonly allowSimulation: boolean;
  readonly references: readonly Reference[];
  /** Workloads whose signed releases the policy trusts, with the signer. */
  readonly publishers: readonly { readonly workload: string; readonly signer: string }[];
  readonly ledger: string | undefined;
  readonly tcbStatuses: readonly string[];
}

/** What a verification found. */
export interface Findings {
  readonly tee: string;
  readonly simulated: boolean;
  readonly workload: string;
  readonly measurements: Readonly<Record<string, string>>;
  readonly tcbStatus: string;
  readonly advisoryIds: readonly string[];
  readonly tcbEvaluationNumber: number;
  readonly evidenceSha256: string;
  readonly checks: readonly Check[];
  readonly notAfter: Date;
  readonly capsules: readonly { readonly id: string; readonly manifestSha256: string }[];
  readonly ledger: string | undefined;
  readonly keyConfig: Bytes;
}

export interface Turn {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Bytes that went over the network, as the host saw them. */
export interface Wire {
  readonly direction: "sent" | "received";
  readonly bytes: Bytes;
  /** Milliseconds since the page was opened. */
  readonly at: number;
}

export interface Delta {
  readonly text: string;
  readonly finish?: string;
  readonly usage?: { readonly promptTokens: number; readonly completionTokens: number };
}

export interface Ask {
  readonly model: string;
  readonly signal: AbortSignal;
  readonly onWire: (wire: Wire) => void;
  /** The request before it was sealed. */
  readonly onPlain: (text: string) => void;
}

/** An answer as it arrives; `prove` can be called once it has ended. */
export interface Answer extends AsyncIterable<Delta> {
  prove(): Promise<Proven>;
}

/** A receipt that was checked: signature, digests, place in the ledger. */
export interface Proven {
  readonly index: number;
  readonly exchange: string;
  readonly requestSha256: string;
  readonly responseSha256: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly ledger: string;
  /** Everything that is needed to check it again, offline: a JSON file. */
  readonly file: string;
}

/** A machine that was verified. */
export interface Machine {
  readonly findings: Findings;
  readonly policy: PolicyFacts;
  readonly verifiedAt: Date;
  readonly staleAt: Date;
  /** Verify again; throws when it is refused. */
  renew(): Promise<void>;
  models(): Promise<readonly string[]>;
  ask(turns: readonly Turn[], ask: Ask): Answer;
}

export interface Backend {
  /** Parse a policy; throws `MitaiError` for anything else. */
  readPolicy(toml: string): PolicyFacts;
  /** Fetch evidence from the gateway and verify it; throws `MitaiError`, with `passed` checks where it has some. */
  connect(gateway: string, toml: string, releases: readonly Bytes[]): Promise<Machine>;
}
