/**
 * The published ledger, read and proven in this browser against the key in the broker's attested claims.
 *
 * docs/spec/ledger.md. Invariants:
 * - Every resource comes from the untrusted host and is authenticated by `TileReader` against a signed head.
 * - The head extends what this device saw before and what the broker's evidence names; else nothing is shown.
 */
import { type CheckpointStore, LedgerMemory } from "@mitai/client";
import {
  type Bytes,
  type Checkpoint,
  type FetchResource,
  hex,
  leafHash,
  MitaiError,
  TileReader,
  text,
  verifyCheckpoint,
  verifyConsistency,
  verifyInclusion,
} from "@mitai/verify";
import { entryOf } from "./entries.ts";
import type { Entry, Head, Inclusion, Ledger } from "./model.ts";
import { momentOf } from "./terms.ts";

const BUNDLE = 256; // entries
const COSIGNED_WITHIN_MS = 3000; // a checkpoint is cosigned a moment after it is published

/** What the broker's attested claims say of its ledger. */
export interface Claim {
  readonly vkey: string;
  readonly checkpoint: Bytes;
  /** Verifier keys of the witnesses. */
  readonly witnesses: readonly string[];
}

/** Read and check the newest head, and remember it on this device. */
export async function openLedger(claim: Claim, fetch: FetchResource, store: CheckpointStore): Promise<Ledger> {
  const memory = new LedgerMemory(store);
  const known = await memory.recall(claim.vkey);
  await memory.observe(text(claim.checkpoint), claim.vkey, fetch);
  const { note, checkpoint } = await newestHead(claim, fetch);
  const reader = await TileReader.open(fetch, checkpoint);
  return new TileLedger(reader, {
    origin: checkpoint.origin,
    size: Number(checkpoint.size),
    root: hex(checkpoint.root),
    note: text(note),
    cosignatures: checkpoint.cosignatures.map(({ witness, timeS }) => ({
      witness,
      at: momentOf(Number(timeS)),
    })),
    witnesses: claim.witnesses,
    before: known && { size: Number(known.size), proof: await extend(reader, known) },
  });
}

/** The published head, with all witnesses' cosignatures if they come in time. */
async function newestHead(claim: Claim, fetch: FetchResource): Promise<{ note: Bytes; checkpoint: Checkpoint }> {
  const deadline = performance.now() + COSIGNED_WITHIN_MS;
  for (;;) {
    const note = await fetch("checkpoint");
    if (!note) throw new MitaiError("ledger.tile-missing", "the ledger has no published checkpoint");
    const checkpoint = await verifyCheckpoint(note, claim.vkey, claim.witnesses);
    const cosigned = checkpoint.cosignatures.length === claim.witnesses.length;
    if (cosigned || performance.now() > deadline) return { note, checkpoint };
    await new Promise((wake) => setTimeout(wake, 200));
  }
}

/** Prove that the log extends an older one; return how many hashes that took. */
async function extend(reader: TileReader, older: Checkpoint): Promise<number> {
  const { size, root } = reader.checkpoint;
  const proof = await reader.consistencyProof(older.size);
  await verifyConsistency(older.size, size, proof, older.root, root);
  return proof.length;
}

class TileLedger implements Ledger {
  constructor(
    private readonly reader: TileReader,
    readonly head: Head,
  ) {}

  async entries(start: number, end: number): Promise<readonly Entry[]> {
    const first = Math.floor(start / BUNDLE);
    const bundles = Array.from({ length: Math.ceil(end / BUNDLE) - first }, async (_, at) => {
      const entries = await this.reader.bundle(BigInt(first + at));
      return entries.map((entry, position) => entryOf((first + at) * BUNDLE + position, entry));
    });
    return (await Promise.all(bundles)).flat().filter(({ index }) => index >= start && index < end);
  }

  async prove(index: number): Promise<Inclusion> {
    const { size, root } = this.reader.checkpoint;
    const leaf = await leafHash(await this.reader.entry(BigInt(index)));
    const path = await this.reader.inclusionProof(BigInt(index));
    await verifyInclusion(leaf, BigInt(index), size, path, root);
    return { index, size: Number(size), leaf: hex(leaf), path: path.map(hex), root: hex(root) };
  }
}
