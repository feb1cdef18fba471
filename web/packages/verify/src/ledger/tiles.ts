/**
 * The layout in which a log is published, and how a reader proves things from it without trusting the publisher.
 *
 * Follows C2SP tlog-tiles: `checkpoint`, `tile/L/N[.p/W]` (hashes) and `tile/entries/N[.p/W]` (entries, each with its
 * length before it as a uint16). Port of the reading half of `mitai/ledger/tiles.py`.
 *
 * Invariants:
 * - `TileReader` hands out only hashes that lead up to the checkpoint's root, whoever served them.
 * - A bundle is exactly as many entries as its width says; trailing bytes are refused.
 */

import { type Bytes, equal } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import type { Checkpoint } from "./note.ts";
import { consistencyProof, inclusionProof, type Proof } from "./proof.ts";
import { HASH_BYTES, leafHash, perfectRoot, rangeHash, TILE_WIDTH, tileWidth } from "./tree.ts";

/** From a path to its bytes; nothing when there is no such resource. */
export type FetchResource = (path: string) => Promise<Bytes | undefined>;

export const MAX_ENTRY_BYTES = 0xffff;
const MAX_CACHED_TILES = 64; // half a megabyte

/** Return the path of a tile, or of an entry bundle. */
export function tilePath(level: number | "entries", index: bigint, width = TILE_WIDTH): string {
  const groups = [String(index % 1000n).padStart(3, "0")];
  for (let rest = index / 1000n; rest; rest /= 1000n) groups.unshift(`x${String(rest % 1000n).padStart(3, "0")}`);
  return `tile/${level}/${groups.join("/")}${width === TILE_WIDTH ? "" : `.p/${width}`}`;
}

/** Return the `width` entries of a bundle; throw unless there are exactly that many. */
export function decodeBundle(data: Bytes, width: bigint): readonly Bytes[] {
  const entries: Bytes[] = [];
  let at = 0;
  for (let entry = 0n; entry < width; entry++) {
    const start = at + 2;
    const end = start + (data[at] ?? 0) * 256 + (data[at + 1] ?? 0);
    if (end > data.length) {
      throw new MitaiError("ledger.bundle-malformed", `an entry bundle ends before its entry ${entry} of ${width}`);
    }
    entries.push(data.slice(start, end));
    at = end;
  }
  if (at !== data.length) {
    throw new MitaiError("ledger.bundle-malformed", `an entry bundle goes on after its ${width} entries`);
  }
  return entries;
}

/** Proofs and entries of a log out of its published tiles, all authenticated against one verified checkpoint. */
export class TileReader {
  readonly #cache = new Map<string, Bytes>();

  private constructor(
    private readonly fetch: FetchResource,
    readonly checkpoint: Checkpoint,
    /** The partial tiles at the right edge: they alone give the root. */
    private readonly edge: ReadonlyMap<string, Bytes>,
  ) {}

  /** Read the right edge of the tree; throw unless it leads up to the checkpoint's root. */
  static async open(fetch: FetchResource, checkpoint: Checkpoint): Promise<TileReader> {
    const edge = new Map<string, Bytes>();
    for (let level = 0; checkpoint.size >> BigInt(8 * level); level++) {
      const index = checkpoint.size >> BigInt(8 * (level + 1));
      const width = tileWidth(level, index, checkpoint.size);
      if (width) edge.set(`${level}/${index}`, await readTile(fetch, level, index, width));
    }
    const root = await rangeHash(
      (level, index) => edge.get(`${level}/${index}`) ?? new Uint8Array(),
      0n,
      checkpoint.size,
    );
    if (!equal(root, checkpoint.root)) {
      throw invalid("the tiles do not lead up to the checkpoint's root", "root");
    }
    return new TileReader(fetch, checkpoint, edge);
  }

  /** Return the root that the log had at `size`. */
  async root(size: bigint): Promise<Bytes> {
    this.#checkSize(size);
    return this.#range(0n, size);
  }

  /** Return the proof that entry `index` is in the tree of `size` entries. */
  async inclusionProof(index: bigint, size = this.checkpoint.size): Promise<Proof> {
    this.#checkSize(size);
    return inclusionProof((start, end) => this.#range(start, end), index, size);
  }

  /** Return the proof that the tree of `newer` entries extends the tree of `older`. */
  async consistencyProof(older: bigint, newer = this.checkpoint.size): Promise<Proof> {
    this.#checkSize(newer);
    return consistencyProof((start, end) => this.#range(start, end), older, newer);
  }

  /** Return an entry. */
  async entry(index: bigint): Promise<Bytes> {
    const entries = index < 0n ? [] : await this.bundle(index / TILE_WIDTH);
    const entry = entries[Number(index % TILE_WIDTH)];
    if (entry === undefined) {
      throw outOfRange(`a tree of ${this.checkpoint.size} entries has no entry ${index}`);
    }
    return entry;
  }

  /** Return the entries of a bundle, in order; throw an error that names the first one that was changed. */
  async bundle(index: bigint): Promise<readonly Bytes[]> {
    const width = tileWidth(0, index, this.checkpoint.size);
    if (!width) return [];
    const entries = await readBundle(this.fetch, index, width);
    await checkBundle(entries, await this.#tile(0, index), index);
    return entries;
  }

  #range(start: bigint, end: bigint): Promise<Bytes> {
    return rangeHash((level, index) => this.#tile(level, index), start, end);
  }

  #checkSize(size: bigint): void {
    if (size < 0n || size > this.checkpoint.size) throw outOfRange(`the checkpoint covers no tree of ${size} entries`);
  }

  async #tile(level: number, index: bigint): Promise<Bytes> {
    const key = `${level}/${index}`;
    const known = this.edge.get(key) ?? this.#cache.get(key);
    if (known) return known;
    const tile = await readTile(this.fetch, level, index, TILE_WIDTH);
    const at = Number(index % TILE_WIDTH) * HASH_BYTES;
    const expected = (await this.#tile(level + 1, index / TILE_WIDTH)).subarray(at, at + HASH_BYTES);
    if (!equal(await perfectRoot(tile), expected)) {
      throw invalid(`tile ${index} of level ${level} was changed`, "tile");
    }
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size < MAX_CACHED_TILES) break;
      this.#cache.delete(oldest);
    }
    this.#cache.set(key, tile);
    return tile;
  }
}

/** Fetch a tile of that width, or the start of the full one where the partial one is gone; not authenticated. */
export async function readTile(fetch: FetchResource, level: number, index: bigint, width: bigint): Promise<Bytes> {
  const size = Number(width) * HASH_BYTES;
  let data = await fetch(tilePath(level, index, width));
  if (data === undefined && width !== TILE_WIDTH) {
    const full = await fetch(tilePath(level, index));
    data = full?.length === Number(TILE_WIDTH) * HASH_BYTES ? full.subarray(0, size) : undefined;
  }
  if (data === undefined) {
    throw new MitaiError("ledger.tile-missing", `tile ${index} of level ${level} is not published`, "", "tile");
  }
  if (data.length !== size) throw invalid(`tile ${index} of level ${level} has the wrong length`, "tile");
  return data;
}

/** Fetch `width` entries of a bundle, falling back to the full one as `readTile` does; not authenticated. */
export async function readBundle(fetch: FetchResource, index: bigint, width: bigint): Promise<readonly Bytes[]> {
  const data = await fetch(tilePath("entries", index, width));
  if (data !== undefined) return decodeBundle(data, width);
  const full = width === TILE_WIDTH ? undefined : await fetch(tilePath("entries", index));
  if (full === undefined) {
    throw new MitaiError("ledger.tile-missing", `entry bundle ${index} is not published`, "", "entries");
  }
  return decodeBundle(full, TILE_WIDTH).slice(0, Number(width));
}

/** Throw an error naming the first entry of bundle `index` whose hash is not the one in its level-0 tile. */
export async function checkBundle(entries: readonly Bytes[], tile: Bytes, index: bigint): Promise<void> {
  const hashes = await Promise.all(entries.map(leafHash));
  const changed = hashes.findIndex((hash, at) => !equal(hash, tile.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES)));
  if (changed >= 0) {
    const entry = index * TILE_WIDTH + BigInt(changed);
    throw new MitaiError("ledger.entry-invalid", `entry ${entry} is not the one that was logged`, "", "entries");
  }
}

function invalid(why: string, step: string): MitaiError {
  return new MitaiError("ledger.tile-invalid", why, "", step);
}

function outOfRange(why: string): MitaiError {
  return new MitaiError("ledger.index-out-of-range", why);
}
