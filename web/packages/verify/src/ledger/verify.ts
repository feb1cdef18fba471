/**
 * The check of a whole log: every entry, every hash, from the published files alone.
 *
 * Follows C2SP tlog-tiles. Nothing that the publisher serves is believed: all hashes are computed again from the entries.
 * Port of `mitai/ledger/verify.py`.
 *
 * Invariants:
 * - A report is returned only when every entry hashes up to the signed root; the first entry that does not is named.
 * - Memory does not grow with the log: a bundle and a tile per level are held.
 */

import { type Bytes, concat, equal } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import { type Checkpoint, verifyCheckpoint } from "./note.ts";
import { checkBundle, type FetchResource, readBundle, readTile } from "./tiles.ts";
import { EMPTY_ROOT, leafHash, perfectRoot, rangeHash, TILE_WIDTH, tileWidth } from "./tree.ts";

/** A log that holds. */
export interface LogReport {
  readonly checkpoint: Checkpoint;
  readonly entriesBytes: number;
}

export interface LogOptions {
  /** Verifier keys of trusted witnesses. */
  readonly witnesses?: readonly string[];
  /** How many of them must have cosigned. */
  readonly threshold?: number;
  /** Verified checkpoints of this log, from before. */
  readonly remembered?: readonly Checkpoint[];
  /** Called with every entry in order; throws to refuse one. */
  readonly visit?: (index: bigint, entry: Bytes) => void;
}

/**
 * Check a whole published log.
 *
 * 1. The checkpoint is signed by the log and cosigned by enough witnesses.
 * 2. It is not older than any remembered checkpoint.
 * 3. Every entry hashes to its place in its level-0 tile, and `visit` accepts it.
 * 4. Every tile above is made of the full tiles below it.
 * 5. The whole leads up to the signed root, and up to each remembered root.
 */
export async function verifyLog(
  fetch: FetchResource,
  vkey: string,
  { witnesses = [], threshold = 0, remembered = [], visit }: LogOptions = {},
): Promise<LogReport> {
  // 1. the checkpoint
  const note = await fetch("checkpoint");
  if (note === undefined) throw refused("ledger.checkpoint-missing", "there is no checkpoint", "checkpoint");
  const checkpoint = await verifyCheckpoint(note, vkey, witnesses, threshold);
  // 2. no rollback
  for (const { origin, size } of remembered) {
    if (origin !== checkpoint.origin) {
      throw refused("ledger.origin-mismatch", "a remembered checkpoint is another log's", "remembered");
    }
    if (size > checkpoint.size) {
      throw new MitaiError(
        "ledger.rolled-back",
        `a checkpoint of ${size} entries is known, the log now shows ${checkpoint.size}`,
        "the log lost entries or hides them: do not trust it",
        "remembered",
      );
    }
  }
  const known = [...remembered, checkpoint];
  const sizes = new Set(known.map(({ size }) => size));
  // 3, 4, 5. entries, tiles and roots
  const roots = new Map([[0n, EMPTY_ROOT]]);
  const edge = new Edge(fetch);
  let entriesBytes = 0;
  for (let index = 0n; index * TILE_WIDTH < checkpoint.size; index++) {
    const width = tileWidth(0, index, checkpoint.size);
    const entries = await readBundle(fetch, index, width);
    await checkBundle(entries, await readTile(fetch, 0, index, width), index);
    for (const [at, entry] of entries.entries()) {
      const number = index * TILE_WIDTH + BigInt(at);
      await edge.add(await leafHash(entry));
      if (sizes.has(number + 1n)) roots.set(number + 1n, await edge.root());
      visit?.(number, entry);
      entriesBytes += entry.length;
    }
  }
  await edge.finish();
  for (const { size, root } of known) {
    if (!equal(roots.get(size) ?? new Uint8Array(), root)) {
      throw refused("ledger.root-invalid", `the first ${size} entries do not lead up to the signed root`, "root");
    }
  }
  return { checkpoint, entriesBytes };
}

/** The right-most tile of every level, computed anew and compared with what is published. */
class Edge {
  readonly #rows: Bytes[][] = []; // by level, the hashes of its last tile
  #size = 0n;

  constructor(private readonly fetch: FetchResource) {}

  async add(leaf: Bytes): Promise<void> {
    this.#size++;
    let fresh: Bytes | undefined = leaf;
    for (let level = 0; fresh; level++) {
      const row: Bytes[] = this.#rows[level] ?? [];
      this.#rows[level] = row;
      row.push(fresh);
      fresh = undefined;
      if (BigInt(row.length) === TILE_WIDTH) {
        await this.#compare(level, row);
        fresh = await perfectRoot(concat(...row));
        row.length = 0;
      }
    }
  }

  async finish(): Promise<void> {
    for (const [level, row] of this.#rows.entries()) if (row.length) await this.#compare(level, row);
  }

  root(): Promise<Bytes> {
    return rangeHash((level) => concat(...(this.#rows[level] ?? [])), 0n, this.#size);
  }

  async #compare(level: number, row: readonly Bytes[]): Promise<void> {
    const index = ((this.#size >> BigInt(8 * level)) - 1n) / TILE_WIDTH; // of the last hash of that level
    if (!equal(concat(...row), await readTile(this.fetch, level, index, BigInt(row.length)))) {
      throw refused("ledger.tile-invalid", `tile ${index} of level ${level} is not made of its entries`, "tiles");
    }
  }
}

function refused(code: string, why: string, step: string): MitaiError {
  return new MitaiError(code, why, "", step);
}
