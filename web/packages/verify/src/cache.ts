/**
 * Remembers what was verified, so that the next evidence of the same machine costs only its own signature.
 *
 * Port of `mitai/attest/cache.py`.
 *
 * Invariants:
 * - A key is the digest of every byte that went into the verification and of what it was verified as; nothing else is
 *   looked up, so an entry can't vouch for other bytes.
 * - An entry answers only inside its own window of validity; outside of it, it is verified again (and fails).
 * - Bounded: the entry that was not used for longest goes first.
 *
 * Example: `await cache.get("snp chain", [chain, crl], now, () => verifyChainAndList(…))`
 */

import { type Bytes, hex, sha256, utf8 } from "./bytes.ts";
import { within } from "./time.ts";

// Of what has no window of validity.
export const BEGINNING = new Date(-8.64e15);
export const NO_END = new Date(8.64e15);

/** What a verification gave, and when it holds. */
export interface Verified<T> {
  readonly value: T;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/** Verified chains, revocation lists, reference manifests … by the digest of their bytes. */
export class VerifiedCache {
  // A kind's key begins with its name, and one kind has one type of value: `get` is the only way in.
  readonly #entries = new Map<string, Verified<unknown>>();

  constructor(private readonly limit = 1024) {}

  /** Return what `make` verified from these inputs, now or earlier; errors of `make` are not remembered. */
  async get<T>(
    kind: string,
    inputs: readonly Bytes[],
    now: Date,
    make: () => Promise<Verified<T>>,
  ): Promise<Verified<T>> {
    const digests = await Promise.all(inputs.map((data) => sha256(data)));
    const key = hex(await sha256(utf8(kind), ...digests));
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#entries.delete(key); // and to the end: used last
      this.#entries.set(key, known);
      if (within(known.notBefore, now, known.notAfter)) return known as Verified<T>;
    }
    const made = await make();
    this.#entries.delete(key);
    this.#entries.set(key, made);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.limit) break;
      this.#entries.delete(oldest);
    }
    return made;
  }
}
