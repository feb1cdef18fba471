/** What the page needs from a machine. `live.ts` does it with `@mitai/client`; tests do it with a made-up machine. */
import type { ChatOptions, Delta, End, Message, Verified } from "@mitai/client";
import type { Bytes, ReferenceValues } from "@mitai/verify";

/** What a build measures, and whose word that is. */
export interface Reference extends ReferenceValues {
  readonly from: "policy" | "release";
}

/** A receipt that was checked: signature, digests, place in the ledger. */
export interface Proven {
  readonly index: number;
  readonly exchange: string;
  readonly requestSha256: string;
  readonly responseSha256: string;
  readonly ledger: string;
  /** Everything that is needed to check it again, offline: a JSON file. */
  readonly file: string;
}

/** A machine that was verified. */
export interface Machine {
  /** The newest verification that held. */
  readonly verified: Verified;
  /** It is too old to be relied upon; the next request verifies again first. */
  readonly stale: boolean;
  readonly references: readonly Reference[];
  models(): Promise<readonly string[]>;
  ask(messages: readonly Message[], options: ChatOptions): AsyncIterable<Delta>;
  prove(end: End): Promise<Proven>;
}

export interface Where {
  readonly gateway: string;
  readonly policy: string;
  readonly releases: readonly Bytes[];
}

/** Fetch evidence and verify it; throws `MitaiError`. `onVerified` is told of each verification that holds. */
export type Connect = (where: Where, onVerified: () => void) => Promise<Machine>;
