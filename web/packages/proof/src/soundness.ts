/**
 * How likely each check is to be deceived, added up exactly (docs/spec/proof.md, "Soundness").
 *
 * An error is so many parts of |K| = p², and so many openings' queries, (5/8)^152 each.
 */
import { P } from "./field.ts";

export const LOG_BLOWUP = 2; // rate 1/4
export const QUERIES = 152;

export class Soundness {
  #elements = 0n;
  #openings = 0n;

  /** Two different polynomials of degree 2 agree at 2 points, in each round of a sum-check. */
  rounds(count: number): void {
    this.#elements += 2n * BigInt(count);
  }

  /** Claims are combined with powers of one challenge. */
  joined(count: number): void {
    this.#elements += BigInt(count - 1);
  }

  /** The challenges of look-ups: polynomials of that degree agree, for 2^log entries of some components. */
  lookups(log: number, tableLog: number, width: number): void {
    this.#elements += (2n ** BigInt(log) + 2n ** BigInt(tableLog)) * BigInt(Math.max(1, width - 1));
  }

  /** An opening of 2^rows rows of 2^positions, encoded. */
  opening(positions: number, rows: number): void {
    this.#elements += (2n * BigInt(rows)) << BigInt(positions + LOG_BLOWUP);
    this.#openings += 1n;
  }

  /** b, where all of this together is 2^−b. */
  get bits(): number {
    const [all, missed] = [8n ** BigInt(QUERIES), 5n ** BigInt(QUERIES)]; // at half the code's distance
    return log2(P * P * all) - log2(this.#elements * all + this.#openings * missed * P * P);
  }
}

function log2(number: bigint): number {
  const spare = Math.max(number.toString(2).length - 60, 0);
  return spare + Math.log2(Number(number >> BigInt(spare)));
}
