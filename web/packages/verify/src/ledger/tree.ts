/**
 * The Merkle tree of RFC 6962, kept as tiles of 256 hashes.
 *
 * Follows RFC 6962 section 2.1 (leaf and node hashes) and C2SP tlog-tiles ("Merkle Tree"): hash `i` of tile `n` at level
 * `l` is the root of the perfect subtree over the entries `[(256n + i) * 256**l, (256n + i + 1) * 256**l)`. Port of
 * `mitai/ledger/tree.py`. Sizes and indexes are `bigint`: a checkpoint may name any below 2**62.
 *
 * Invariants:
 * - A leaf and a node never share a preimage: their first bytes differ (0x00, 0x01).
 */

import { type Bytes, concat, fromHex, sha256 } from "../bytes.ts";
import { MitaiError } from "../errors.ts";

export const HASH_BYTES = 32;
export const TILE_WIDTH = 256n;
export const EMPTY_ROOT = fromHex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
export const MAX_SIZE = 1n << 62n;

/** What is stored of a tile: 0 to 256 hashes. */
export type ReadTile = (level: number, index: bigint) => Bytes | Promise<Bytes>;

/** Return SHA-256(0x00 ‖ entry). */
export function leafHash(entry: Bytes): Promise<Bytes> {
  return sha256(Uint8Array.of(0), entry);
}

/** Return SHA-256(0x01 ‖ left ‖ right). */
export function nodeHash(left: Bytes, right: Bytes): Promise<Bytes> {
  return sha256(Uint8Array.of(1), left, right);
}

/** Return the root over 2**k concatenated hashes. */
export async function perfectRoot(hashes: Bytes): Promise<Bytes> {
  if (hashes.length <= HASH_BYTES) return hashes;
  const pairs = Array.from({ length: hashes.length / (2 * HASH_BYTES) }, (_, pair) =>
    sha256(Uint8Array.of(1), hashes.subarray(pair * 2 * HASH_BYTES, (pair + 1) * 2 * HASH_BYTES)),
  );
  return perfectRoot(concat(...(await Promise.all(pairs))));
}

/** Return how many hashes that tile has in a tree of `size` entries: 0 to 256. */
export function tileWidth(level: number, index: bigint, size: bigint): bigint {
  const width = (size >> BigInt(8 * level)) - index * TILE_WIDTH;
  return width < 0n ? 0n : width > TILE_WIDTH ? TILE_WIDTH : width;
}

/**
 * Return MTH(D[start:end]); `start` is a multiple of the smallest power of two that is not below `end - start`.
 *
 * These are the ranges that RFC 6962 cuts a tree into: perfect subtrees, and the ragged one at its right edge.
 */
export async function rangeHash(read: ReadTile, start: bigint, end: bigint): Promise<Bytes> {
  const subtrees: Bytes[] = [];
  for (let at = start; at < end; ) {
    const height = BigInt((end - at).toString(2).length - 1);
    subtrees.push(await subtree(read, height, at >> height));
    at += 1n << height;
  }
  let root = subtrees.pop() ?? EMPTY_ROOT;
  for (const left of subtrees.reverse()) root = await nodeHash(left, root);
  return root;
}

/** Return the root of the perfect subtree over `[index << height, (index + 1) << height)`. */
async function subtree(read: ReadTile, height: bigint, index: bigint): Promise<Bytes> {
  const [level, rest] = [Number(height / 8n), height % 8n];
  const first = index << rest;
  const [tile, position, width] = [first / TILE_WIDTH, Number(first % TILE_WIDTH), 1 << Number(rest)];
  const hashes = (await read(level, tile)).subarray(position * HASH_BYTES, (position + width) * HASH_BYTES);
  if (hashes.length !== width * HASH_BYTES) {
    throw new MitaiError(
      "ledger.tile-missing",
      `tile ${tile} of level ${level} is missing or shorter than the log says`,
    );
  }
  return perfectRoot(hashes);
}
