/**
 * What the console shows, and the interface to whoever finds it out: `live.ts` with `@mitai/client`, tests with a made-up
 * platform. Everything here was verified in this browser unless its name says otherwise.
 */
import type { Bytes } from "@mitai/verify";
import type { Amounts, Budget, Identity } from "./signing.ts";

export const BROKER = "broker";
/** How many of the newest ledger entries are looked through for approvals and usage. */
export const NEWEST = 4096;

/** What the verification of a machine's evidence found. */
export interface Findings {
  readonly tee: string;
  readonly simulated: boolean;
  readonly workload: string;
  /** By register, in the verifier's order. */
  readonly measurements: ReadonlyMap<string, string>;
  readonly tcbStatus: string;
  readonly advisoryIds: readonly string[];
  readonly evidenceSha256: string;
  readonly checks: readonly { readonly step: string; readonly detail: string }[];
  readonly notAfter: Date;
  readonly capsules: readonly { readonly id: string; readonly manifestSha256: string }[];
  readonly policies: readonly string[];
  readonly ledger: { readonly origin: string; readonly vkey: string } | undefined;
  readonly extra: ReadonlyMap<string, string>;
  /** Of the channel's key: two machines with the same one are the same. */
  readonly keySha256: string;
}

/** A machine that was verified: the broker, or a replica by the name that the gateway gives it. */
export interface Machine {
  readonly name: string;
  readonly findings: Findings;
  readonly evidence: Bytes;
  readonly nonce: Bytes;
  readonly verifiedAt: Date;
}

/** A ledger entry that was proven to be in the log. */
export interface Entry {
  readonly index: number;
  readonly type: string;
  readonly time: Date;
  /** All other fields, in their order. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly bytes: Bytes;
}

export interface Inclusion {
  readonly index: number;
  readonly size: number;
  readonly leaf: string;
  readonly path: readonly string[];
  readonly root: string;
}

export interface Cosignature {
  readonly witness: string;
  readonly at: Date;
}

/** What a ledger's signed head says, and what it was compared with. */
export interface Head {
  readonly origin: string;
  readonly size: number;
  readonly root: string;
  readonly note: string;
  readonly cosignatures: readonly Cosignature[];
  /** The witnesses that the broker's attested claims name. */
  readonly witnesses: readonly string[];
  /** The size that this device saw before, when it saw one: the log extends it, proven by `proof` hashes. */
  readonly before: { readonly size: number; readonly proof: number } | undefined;
}

export interface Ledger {
  readonly head: Head;
  /** Entries from `start` to before `end`, each checked against the head's root. */
  entries(start: number, end: number): Promise<readonly Entry[]>;
  prove(index: number): Promise<Inclusion>;
}

export interface Grant {
  readonly party: string;
  /** The owner's own text; `undefined` for other owners', and where no policy is set. */
  readonly policy: string | undefined;
  readonly policySha256: string | undefined;
  readonly version: number;
  readonly budget: Budget;
  readonly uses: number;
  /** What the releases declared so far, where that is kept. */
  readonly spent: Amounts;
  readonly revoked: boolean;
}

export interface Capsule {
  readonly id: string;
  readonly owner: string;
  readonly manifestSha256: string;
  readonly registered: Date;
  readonly grants: readonly Grant[];
}

export interface Party {
  readonly name: string;
  readonly revoked: boolean;
  readonly total: number;
  readonly capsules: readonly string[];
}

/** A party and a verified broker; every answer is checked against the broker's attested ledger. */
export interface Owner {
  readonly keyId: string;
  /** How many capsules a page has. */
  readonly pageSize: number;
  party(page: number): Promise<Party>;
  capsule(id: string): Promise<Capsule>;
  decisions(id: string): Promise<readonly Entry[]>;
  /** Replace this party's policy and budget; gives the ledger index. */
  setPolicy(id: string, policy: string, budget: Budget): Promise<number>;
  /** End this party's consent, for good; gives the ledger index. */
  revoke(id: string): Promise<number>;
}

export interface Backend {
  /** The replicas' names, as the gateway tells them: the host's word, not proven by anything. */
  replicas(): Promise<readonly string[]>;
  /** Verify the broker or a replica; throws `MitaiError`. */
  verify(name: string): Promise<Machine>;
  ledger(): Promise<Ledger>;
  owner(identity: Identity): Promise<Owner>;
}
