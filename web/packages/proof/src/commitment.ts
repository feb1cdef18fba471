/**
 * Openings of commitments to arrays (docs/spec/proof.md, "Commitments").
 *
 * - Work and length of an opening follow from the array's size and the number of claims alone.
 * - Rows are combined with challenges that were drawn after the root was bound.
 */
import { concat, equal as sameBytes } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Claim, combined, powersSum } from "./claims.ts";
import { refuse } from "./errors.ts";
import { encodedAt, equal, equality, evaluate, type K, type Point, type Words, weighted } from "./field.ts";
import { LOG_BLOWUP, QUERIES } from "./soundness.ts";
import { checkRounds, unweighted } from "./sumcheck.ts";
import { HASH_BYTES, type Verifier } from "./transcript.ts";

const MAX_LOG = 34;
const [LEAF, NODE] = [0, 1]; // first bytes of what is hashed

/** Take in a root, before anything is drawn that its opening depends on. */
export function bindRoot(verifier: Verifier, root: Uint8Array, log: number): void {
  verifier.bind("commitment", concat(Uint8Array.of(log), root));
}

/**
 * Check claims on an array of 2^log elements behind a root.
 *
 * 1. A challenge γ combines the claims: Σ_i γ^i Σ_c eq(outer_i, c) Σ_r eq(inner_i, r) f(c, r) is known.
 * 2. A sum-check over r leaves a point of challenges, at which the rows are combined.
 * 3. The prover says the combination; with it the sum has the value that is left.
 * 4. The combination is encoded, and compared with columns of the commitment.
 */
export function checkOpenings(verifier: Verifier, root: Uint8Array, log: number, claims: readonly Claim[]): void {
  if (log > MAX_LOG) refuse("proof.statement-invalid", `arrays of up to 2^${MAX_LOG} elements can be committed to`);
  const rows = Math.max(0, Math.floor((log - 6) / 2));
  const positions = log - rows;
  // 1. one claim
  const [points, gamma, value] = combined(verifier, log, claims);
  // 2. one point
  const [point, left] = checkRounds(verifier, value, unweighted(rows));
  // 3. what is left
  const combination = verifier.receive("combination", 2 * 2 ** positions);
  const values = points.map((one, index) => {
    const own = valueAt(combination, claims[index] as Claim, one, rows);
    return equal(one.slice(positions), point).times(own);
  });
  if (!powersSum(gamma, values).equals(left)) {
    refuse("proof.value-refuted", "a committed array has another value at a point", "opening");
  }
  // 4. the combination
  const leaves = positions + LOG_BLOWUP;
  const places = verifier.places("columns", QUERIES, leaves);
  const columns = verifier.receive("columns", places.length * 2 ** rows);
  const expected = encodedAt(combination, places);
  const weights = equality(point);
  const column = 2 * 2 ** rows; // words
  places.forEach((_, index) => {
    const own = weighted(weights, columns, 2, index * column);
    if (own.some((word, at) => word !== expected[4 * index + at])) {
      refuse("proof.column-refuted", "an encoded column is not a part of the combination", "opening");
    }
  });
  checkLeaves(verifier, root, leaves, places, columns);
  verifier.soundness.opening(positions, rows);
}

/** The combination's multilinear extension at a claim's position; of a large array only the claim's part is read. */
function valueAt(combination: Words, { point: own, offset }: Claim, point: Point, rows: number): K {
  const positions = point.length - rows;
  const free = Math.max(own.length - rows, 0);
  const start = Math.floor(offset / 2 ** rows);
  return evaluate(combination, point.slice(positions - free, positions), 4, 4 * start);
}

/** Check that columns are leaves of the tree, at the given places in order. */
function checkLeaves(verifier: Verifier, root: Uint8Array, log: number, places: number[], columns: Words): void {
  const size = columns.byteLength / places.length;
  const hash = (kind: number, ...parts: readonly Uint8Array[]) => sha256(concat(Uint8Array.of(kind), ...parts));
  let known = new Map(
    places.map((place, at) => [place, hash(LEAF, new Uint8Array(columns.buffer, at * size, size))] as const),
  );
  for (let level = 0; level < log; level++) {
    const missing = [...known.keys()].map((place) => beside(place)).filter((place) => !known.has(place));
    const said = verifier.receiveBytes("path", missing.length * HASH_BYTES);
    missing.forEach((place, at) => {
      known.set(place, said.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES));
    });
    const left = [...known.keys()].filter((place) => place % 2 === 0).sort((a, b) => a - b);
    const node = (place: number) => known.get(place) as Uint8Array;
    known = new Map(left.map((place) => [place / 2, hash(NODE, node(place), node(place + 1))] as const));
  }
  if (!sameBytes(known.get(0) as Uint8Array, root)) {
    refuse("proof.path-refuted", "columns are not in the tree of the commitment", "opening");
  }
}

function beside(place: number): number {
  return place % 2 ? place - 1 : place + 1;
}
