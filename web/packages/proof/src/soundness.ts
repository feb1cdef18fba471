/**
 * How likely each check is to be deceived, added up exactly (docs/spec/proof.md, "Soundness").
 *
 * Where a sum of these is more than its share, work comes before the challenges: both sides know from the statement how
 * much (docs/spec/proof.md, "Work").
 */
import { refuse } from "./errors.ts";
import { P } from "./field.ts";

export const LOG_BLOWUP = 2; // rate 1/4
export const QUERIES = 152;
export const HIDING_QUERIES = 172; // of codes of rate up to 5/16: 21/32 each
/** Of a proof, unless whoever checks it asks for others. */
export const LEAST_BITS = 100;
const MAX_WORK = 20;

/** A probability: so many parts of |K| = p², divided by 2^halvings. */
export interface Chance {
  readonly parts: bigint;
  readonly halvings: bigint;
}

/** What the challenges of all look-ups may add to the error: a fourth of 2^−100. */
export const LOOKUPS: Chance = { parts: P * P, halvings: BigInt(LEAST_BITS + 2) };
/** What all openings may: eleven sixteenths. One is left for everything else. */
export const OPENINGS: Chance = { parts: 11n * P * P, halvings: BigInt(LEAST_BITS + 4) };

/** The challenges of look-ups: polynomials of that degree agree, for 2^log entries of some components. */
export function lookups(log: number, tableLog: number, width: number): Chance {
  return { parts: (2n ** BigInt(log) + 2n ** BigInt(tableLog)) * BigInt(Math.max(1, width - 1)), halvings: 0n };
}

/** An opening of 2^rows rows of 2^positions, encoded. */
export function opening(positions: number, rows: number): Chance {
  const near = (2n * BigInt(rows)) << BigInt(positions + LOG_BLOWUP);
  return plus({ parts: near, halvings: 0n }, missed(1, LOG_BLOWUP, QUERIES));
}

/** A masked opening: a code of 2^leaves places, 2^rows rows and their mask. */
export function hiddenOpening(coefficients: number, leaves: number, rows: number): Chance {
  const near = (2n * BigInt(rows + 1)) << BigInt(leaves);
  return plus({ parts: near, halvings: 0n }, missed(coefficients, leaves, HIDING_QUERIES));
}

/** So many places, each of which is right with a probability of (1 + ρ) / 2, for a rate ρ = coefficients / 2^leaves. */
function missed(coefficients: number, leaves: number, queries: number): Chance {
  const parts = P * P * BigInt(2 ** leaves + coefficients) ** BigInt(queries);
  return { parts, halvings: BigInt((leaves + 1) * queries) };
}

function plus(one: Chance, other: Chance): Chance {
  const halvings = one.halvings > other.halvings ? one.halvings : other.halvings;
  const parts = (one.parts << (halvings - one.halvings)) + (other.parts << (halvings - other.halvings));
  return { parts, halvings };
}

/** The bits of work that each of some arguments needs, so that together they err no more than a share. */
export function work(errors: readonly Chance[], share: Chance): number[] {
  const times = (error: Chance, count: number) => (error.parts * BigInt(count)) << share.halvings;
  const limit = (error: Chance) => share.parts << error.halvings;
  const sum = errors.reduce(plus, { parts: 0n, halvings: 0n });
  if (times(sum, 1) <= limit(sum)) return errors.map(() => 0);
  const needed = errors.map((error) => {
    let bits = 0;
    while (times(error, errors.length) > limit(error) << BigInt(bits)) bits++;
    return bits;
  });
  if (needed.some((bits) => bits > MAX_WORK)) refuseBits(LEAST_BITS);
  return needed;
}

function refuseBits(least: number): never {
  const message = `a computation of this size has a proof of fewer than ${least} bits of security`;
  refuse(
    "proof.too-few-bits",
    message,
    "soundness",
    "ask for a shorter answer; or for fewer bits, where they are enough",
  );
}

export class Soundness {
  #sum: Chance = { parts: 0n, halvings: 0n };

  /** An argument is deceived so often, of those for which so many bits of work are done. */
  add({ parts, halvings }: Chance, work = 0): void {
    this.#sum = plus(this.#sum, { parts, halvings: halvings + BigInt(work) });
  }

  /** Two different polynomials of degree 2 agree at 2 points, in each round of a sum-check. */
  rounds(count: number): void {
    this.add({ parts: 2n * BigInt(count), halvings: 0n });
  }

  /** Claims are combined with powers of one challenge. */
  joined(count: number): void {
    this.add({ parts: BigInt(count - 1), halvings: 0n });
  }

  /** The equation of pads: a wrong one is not seen after β, or after δ; rows of pads. */
  hidden(coefficients: number, leaves: number, rows: number, joined: number): void {
    this.add({ parts: BigInt(joined + 1) + (BigInt(rows + 1) << BigInt(leaves)), halvings: 0n });
    this.add(hiddenOpening(2 * coefficients, leaves, rows));
  }

  /** Refuse a proof that has fewer bits. */
  require(least: number): void {
    const { parts, halvings } = this.#sum;
    const [chance, whole] = [parts << BigInt(least), (P * P) << halvings];
    if (chance > whole) refuseBits(least);
  }

  /** b, where all of this together is 2^−b. */
  get bits(): number {
    const { parts, halvings } = this.#sum;
    return log2((P * P) << halvings) - log2(parts);
  }
}

function log2(number: bigint): number {
  const spare = Math.max(number.toString(2).length - 60, 0);
  return spare + Math.log2(Number(number >> BigInt(spare)));
}
