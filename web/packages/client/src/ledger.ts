/**
 * The memory of ledgers: the newest checkpoint that this user has seen of each, which a later one must extend.
 *
 * Port of `LedgerMemory` in `mitai/client/receipts.py`.
 *
 * Invariants:
 * - A ledger that shows an older or another history than this user has seen before is refused.
 * - What is remembered was signed by the ledger and leads, tile by tile, to what was seen before.
 *
 * Example:
 *     await new LedgerMemory(store).observe(proof.bundle.checkpoint, claims.ledger.vkey, ledgerFetcher(session.baseUrl));
 */

import {
  type Bytes,
  type Checkpoint,
  equal,
  type FetchResource,
  MitaiError,
  TileReader,
  text,
  utf8,
  verifyCheckpoint,
} from "@mitai/verify";
import { errorFrom, type Fetch, get } from "./http.ts";

const MAX_TILE_BYTES = 32 << 20; // an entry bundle of 256 entries of at most 64 KiB, and some

/** Where checkpoints (signed notes) are kept, by the ledger's verifier key. */
export interface CheckpointStore {
  get(vkey: string): Promise<string | undefined>;
  put(vkey: string, note: string): Promise<void>;
}

export class LedgerMemory {
  constructor(private readonly store: CheckpointStore) {}

  /** The remembered checkpoint of the ledger with this key. */
  async recall(vkey: string): Promise<Checkpoint | undefined> {
    const note = await this.store.get(vkey);
    return note === undefined ? undefined : await verifyCheckpoint(utf8(note), vkey);
  }

  /**
   * Check that `note` and what is remembered are prefixes of the published log, and remember its head.
   *
   * `note` is a checkpoint that somebody showed, such as a receipt's; the published log follows the ledger after a
   * moment, for which this waits. Throws when the ledger was rolled back or forked since, or is not published.
   */
  async observe(note: string, vkey: string, fetchResource: FetchResource, waitMs = 10_000): Promise<Checkpoint> {
    const seen = await verifyCheckpoint(utf8(note), vkey);
    for (;;) {
      const known = await this.store.get(vkey);
      const earlier = known === undefined ? [seen] : [seen, await verifyCheckpoint(utf8(known), vkey)];
      const published = await publishedSince(earlier, vkey, fetchResource, waitMs);
      const reader = await TileReader.open(fetchResource, await verifyCheckpoint(published, vkey));
      for (const { size, root } of earlier) {
        if (!equal(await reader.root(size), root)) {
          throw new MitaiError(
            "ledger.forked",
            `the ledger's first ${size} entries are not what they were`,
            "",
            "memory",
          );
        }
      }
      if ((await this.store.get(vkey)) === known) {
        await this.store.put(vkey, text(published));
        return seen;
      } // else another tab has kept another one meanwhile, which must be a prefix too
    }
  }
}

/** The published checkpoint, once it covers all of these. */
async function publishedSince(
  earlier: readonly Checkpoint[],
  vkey: string,
  fetchResource: FetchResource,
  waitMs: number,
): Promise<Bytes> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    const published = await fetchResource("checkpoint");
    const size = published && (await verifyCheckpoint(published, vkey)).size;
    if (published && size !== undefined && earlier.every((checkpoint) => checkpoint.size <= size)) return published;
    if (performance.now() > deadline) {
      throw new MitaiError(
        "ledger.rolled-back",
        "more entries of the ledger were seen than are published",
        "",
        "memory",
      );
    }
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

/** Read a published ledger over HTTP; what this returns is checked by its callers. */
export function ledgerFetcher(
  baseUrl: string,
  fetcher: Fetch = (request, init) => fetch(request, init),
): FetchResource {
  return async (path) => {
    const url = `${baseUrl}/broker/ledger/${path}`;
    const { status, body } = await get(fetcher, url, MAX_TILE_BYTES);
    if (status === 404) return undefined;
    if (!body) throw new MitaiError("client.ledger-too-large", `${url} is larger than any ledger resource`);
    if (status !== 200) throw errorFrom(status, body, "client.ledger-refused", url);
    return body;
  };
}
