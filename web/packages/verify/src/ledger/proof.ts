/**
 * Inclusion and consistency proofs: made per RFC 6962, checked per RFC 9162. Port of `mitai/ledger/proof.py`.
 *
 * Invariants:
 * - A checker uses every hash of a proof, as many as the sizes demand: longer, shorter or changed proofs are refused.
 * - `verify…` throws; it never returns a boolean.
 *
 * Example: `await verifyInclusion(await leafHash(entry), index, checkpoint.size, proof, checkpoint.root);`
 */

import { type Bytes, equal } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import { EMPTY_ROOT, HASH_BYTES, MAX_SIZE, nodeHash } from "./tree.ts";

export type Proof = readonly Bytes[];
type RangeHash = (start: bigint, end: bigint) => Promise<Bytes>;

export const MAX_PROOF_HASHES = 63; // C2SP tlog-witness, "add-checkpoint"

/** Return PATH(index, D[0:size]) of RFC 6962 section 2.1.1, from the leaf upwards. */
export async function inclusionProof(mth: RangeHash, index: bigint, size: bigint): Promise<Proof> {
  if (index < 0n || index >= size) {
    throw new MitaiError("ledger.index-out-of-range", `a tree of ${size} entries has no entry ${index}`);
  }
  const path: [bigint, bigint][] = [];
  let [start, end] = [0n, size];
  while (end - start > 1n) {
    const middle = start + split(end - start);
    path.push(index < middle ? [middle, end] : [start, middle]);
    [start, end] = index < middle ? [start, middle] : [middle, end];
  }
  return Promise.all(path.reverse().map((sibling) => mth(...sibling)));
}

/** Return PROOF(older, D[0:newer]) of RFC 6962 section 2.1.2; empty when `older` is 0 or `newer`. */
export async function consistencyProof(mth: RangeHash, older: bigint, newer: bigint): Promise<Proof> {
  if (older < 0n || older > newer) {
    throw new MitaiError("ledger.index-out-of-range", `a tree of ${newer} entries never had ${older}`);
  }
  if (older === 0n) return [];
  const path: [bigint, bigint][] = [];
  let [start, end] = [0n, newer];
  while (older !== end) {
    const middle = start + split(end - start);
    path.push(older <= middle ? [middle, end] : [start, middle]);
    [start, end] = older <= middle ? [start, middle] : [middle, end];
  }
  if (start) path.push([start, end]); // otherwise the old tree is itself a subtree, and its root is known
  return Promise.all(path.reverse().map((sibling) => mth(...sibling)));
}

/**
 * Throw unless the leaf hash `leaf` is entry `index` of the tree of `size` entries with `root`.
 *
 * RFC 9162 section 2.1.3.2; the numbers are its steps.
 */
export async function verifyInclusion(
  leaf: Bytes,
  index: bigint,
  size: bigint,
  proof: Proof,
  root: Bytes,
): Promise<void> {
  // 1. the index lies within the tree
  if (index < 0n || index >= size || size > MAX_SIZE) {
    throw new MitaiError("ledger.index-out-of-range", `a tree of ${size} entries has no entry ${index}`, "", "index");
  }
  checkHashes(leaf, root, ...proof);
  // 2, 3. start at the leaf
  let [position, last, node] = [index, size - 1n, leaf];
  // 4. climb: a left or a lone node takes its sibling from the proof
  for (const sibling of proof) {
    if (last === 0n) throw refused("inclusion", "the proof is longer than the tree is high");
    const isRight = (position & 1n) === 1n || position === last;
    node = isRight ? await nodeHash(sibling, node) : await nodeHash(node, sibling);
    [position, last] = climb(position, last, isRight);
  }
  // 5. the top was reached, and it is the root
  if (last !== 0n) throw refused("inclusion", "the proof is shorter than the tree is high");
  if (!equal(node, root)) throw refused("inclusion", "the entry is not where the proof says");
}

/**
 * Throw unless the tree of `newer` entries only adds to the tree of `older` entries.
 *
 * RFC 9162 section 2.1.4.2; the numbers are its steps. Size 0 and equal sizes need an empty proof and fitting roots.
 */
export async function verifyConsistency(
  older: bigint,
  newer: bigint,
  proof: Proof,
  olderRoot: Bytes,
  newerRoot: Bytes,
): Promise<void> {
  if (older < 0n || older > newer || newer > MAX_SIZE) {
    throw new MitaiError("ledger.index-out-of-range", `a tree of ${newer} entries never had ${older}`, "", "sizes");
  }
  checkHashes(olderRoot, newerRoot, ...proof);
  if (older === 0n || older === newer) {
    const fits = equal(olderRoot, older === newer ? newerRoot : EMPTY_ROOT);
    if (proof.length || !fits || (newer === 0n && !equal(newerRoot, EMPTY_ROOT))) {
      throw refused("consistency", `two trees of ${older} and ${newer} entries do not fit together`);
    }
    return;
  }
  // 1, 2. a perfect old tree is its own first node
  const [first, ...siblings] = older & (older - 1n) ? proof : [olderRoot, ...proof];
  // 3. skip the right-most ones of the old tree's last index
  let [position, last] = [older - 1n, newer - 1n];
  while (position & 1n) [position, last] = [position >> 1n, last >> 1n];
  // 4, 5. climb both trees at once
  if (first === undefined) throw refused("consistency", "the proof is empty");
  let [olderNode, newerNode] = [first, first];
  for (const sibling of siblings) {
    if (last === 0n) throw refused("consistency", "the proof is longer than the tree is high");
    const isRight = (position & 1n) === 1n || position === last;
    if (isRight) olderNode = await nodeHash(sibling, olderNode);
    newerNode = isRight ? await nodeHash(sibling, newerNode) : await nodeHash(newerNode, sibling);
    [position, last] = climb(position, last, isRight);
  }
  // 6. both tops were reached, and they are the roots
  if (last !== 0n) throw refused("consistency", "the proof is shorter than the tree is high");
  if (!equal(olderNode, olderRoot) || !equal(newerNode, newerRoot)) {
    throw refused("consistency", `the tree of ${newer} entries does not contain the tree of ${older}`);
  }
}

/** Return position and last index one level up; from a lone node on, where it has a sibling again. */
function climb(position: bigint, last: bigint, isRight: boolean): [bigint, bigint] {
  let levels = 1n;
  while (isRight && position && !((position >> (levels - 1n)) & 1n)) levels++;
  return [position >> levels, last >> levels];
}

/** Return the largest power of two below `size`. */
function split(size: bigint): bigint {
  return 1n << BigInt((size - 1n).toString(2).length - 1);
}

function checkHashes(...hashes: readonly Bytes[]): void {
  if (hashes.length > MAX_PROOF_HASHES + 2 || hashes.some((value) => value.length !== HASH_BYTES)) {
    throw new MitaiError("ledger.proof-malformed", "a proof is up to 63 hashes of 32 bytes", "", "proof");
  }
}

function refused(kind: "inclusion" | "consistency", why: string): MitaiError {
  const hint = "the log, the proof or the entry was changed: do not trust it";
  return new MitaiError(`ledger.${kind}-invalid`, why, hint, kind);
}
