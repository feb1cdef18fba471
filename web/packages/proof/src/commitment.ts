/**
 * Openings of commitments to arrays (docs/spec/proof.md, "Commitments").
 *
 * - Work and length of an opening follow from the array's size and the number of claims alone.
 * - Rows are combined with challenges that were drawn after the root was bound.
 */
import { concat, equal as sameBytes } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Claim, combined } from "./claims.ts";
import { refuse } from "./errors.ts";
import {
  add,
  elements,
  encodedAt,
  equal,
  equality,
  type K,
  ONE,
  type Point,
  type Value,
  type Words,
  weighted,
} from "./field.ts";
import { LOG_BLOWUP, opening, QUERIES } from "./soundness.ts";
import { checkRounds, unweighted } from "./sumcheck.ts";
import { HASH_BYTES, type Verifier } from "./transcript.ts";

export const MAX_LOG = 34;
const [LEAF, NODE] = [0, 1]; // first bytes of what is hashed

/** Take in a root, before anything is drawn that its opening depends on. */
export function bindRoot(verifier: Verifier, root: Uint8Array, log: number): void {
  verifier.bind("commitment", concat(Uint8Array.of(log), root));
}

/** How an array of 2^log elements is a matrix: 2^positions by 2^rows, whose rows are encoded. */
export function matrixOf(log: number): { readonly positions: number; readonly rows: number } {
  if (log > MAX_LOG) refuse("proof.statement-invalid", `arrays of up to 2^${MAX_LOG} elements can be committed to`);
  const rows = Math.max(0, Math.floor((log - 6) / 2));
  return { positions: log - rows, rows };
}

/**
 * Check claims on an array of 2^log elements behind a root.
 *
 * Work of so many bits comes before each challenge for a row, and before the places of columns.
 *
 * 1. A challenge γ combines the claims: Σ_i γ^i Σ_c eq(outer_i, c) Σ_r eq(inner_i, r) f(c, r) is known.
 * 2. A sum-check over r leaves a point of challenges, at which the rows are combined.
 * 3. The prover says the combination; with it the sum has the value that is left.
 * 4. The combination is encoded, and compared with columns of the commitment.
 */
export function checkOpenings(
  verifier: Verifier,
  root: Uint8Array,
  log: number,
  claims: readonly Claim[],
  work: number,
): void {
  const { positions, rows } = matrixOf(log);
  // 1. and 2. one claim, and one point
  const { point, left, weights } = checkFold(verifier, log, positions, claims, work);
  // 3. what is left
  const combination = verifier.receive("combination", 2 * 2 ** positions);
  const message = "a committed array has another value at a point";
  verifier.requireZero(inner(weights(), combination).minus(left), "proof.value-refuted", message, "opening");
  // 4. the combination
  const leaves = positions + LOG_BLOWUP;
  verifier.work(work);
  const places = verifier.places("columns", QUERIES, leaves);
  const columns = verifier.receive("columns", places.length * 2 ** rows);
  const expected = encodedAt(combination, places);
  const factors = equality(point);
  const column = 2 * 2 ** rows; // words
  places.forEach((_, index) => {
    const own = weighted(factors, columns, 2, index * column);
    if (own.some((word, at) => word !== expected[4 * index + at])) {
      refuse("proof.column-refuted", "an encoded column is not a part of the combination", "opening");
    }
  });
  checkPaths(verifier, root, leaves, places, leafHashes(columns, places.length));
  verifier.soundness.add(opening(positions, rows), work);
}

/** What is left of claims on a matrix: its rows, combined at a point, and multiplied with weights, have a sum. */
interface Fold {
  readonly point: Point;
  readonly left: Value;
  /** For each position, times a factor. */
  readonly weights: (by?: K) => Words;
}

/** Check claims on a matrix of 2^positions by 2^(log − positions), whose rows are folded, with work for each row's bit. */
export function checkFold(
  verifier: Verifier,
  log: number,
  positions: number,
  claims: readonly Claim[],
  work: number,
): Fold {
  const rows = log - positions;
  const [points, gamma, value] = combined(verifier, log, claims);
  const [point, left] = checkRounds(verifier, value, unweighted(rows), work);
  const weights = (by = ONE) => {
    const out = new Uint32Array(4 * 2 ** positions);
    let factor = by;
    claims.forEach((claim, index) => {
      const own = points[index] as Point;
      const free = Math.max(claim.point.length - rows, 0); // bits of a position
      const part = equality(own.slice(positions - free, positions), factor.times(equal(own.slice(positions), point)));
      const start = 4 * Math.floor(claim.offset / 2 ** rows);
      for (let at = 0; at < part.length; at += 2) add(out, start + at, out, start + at, part, at);
      factor = factor.times(gamma);
    });
    return out;
  };
  return { point, left, weights };
}

/** Σ a_i b_i of as many elements of K. */
export function inner(a: Words, b: Words): K {
  return elements(weighted(a, b, 4))[0] as K;
}

/** The hash of each of so many columns. */
export function leafHashes(columns: Words, count: number): Uint8Array[] {
  const size = columns.byteLength / count;
  return Array.from({ length: count }, (_, at) => hashed(LEAF, new Uint8Array(columns.buffer, at * size, size)));
}

/** Check hashes of leaves, at the given places in order, against the root of a tree of 2^log leaves. */
export function checkPaths(
  verifier: Verifier,
  root: Uint8Array,
  log: number,
  places: readonly number[],
  hashes: readonly Uint8Array[],
): void {
  let known = new Map(places.map((place, at) => [place, hashes[at] as Uint8Array]));
  for (let level = 0; level < log; level++) {
    const missing = [...known.keys()].map((place) => beside(place)).filter((place) => !known.has(place));
    const said = verifier.receiveBytes("path", missing.length * HASH_BYTES);
    missing.forEach((place, at) => {
      known.set(place, said.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES));
    });
    const left = [...known.keys()].filter((place) => place % 2 === 0).sort((a, b) => a - b);
    const node = (place: number) => known.get(place) as Uint8Array;
    known = new Map(left.map((place) => [place / 2, hashed(NODE, node(place), node(place + 1))]));
  }
  if (!sameBytes(known.get(0) as Uint8Array, root)) {
    refuse("proof.path-refuted", "columns are not in the tree of the commitment", "opening");
  }
}

/** The hash of parts of a kind. */
export function hashed(kind: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return sha256(concat(Uint8Array.of(kind), ...parts));
}

function beside(place: number): number {
  return place % 2 ? place - 1 : place + 1;
}
