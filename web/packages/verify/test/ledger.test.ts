import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, fromBase64, fromHex, hex, sha256, text, utf8 } from "../src/bytes.ts";
import { PublicKey } from "../src/dsse.ts";
import { MitaiError } from "../src/errors.ts";
import { decodeEntry } from "../src/ledger/entry.ts";
import { type Checkpoint, parseCheckpoint, parseNote, verifyCheckpoint } from "../src/ledger/note.ts";
import { consistencyProof, inclusionProof, verifyConsistency, verifyInclusion } from "../src/ledger/proof.ts";
import { ReceiptBundle, verifyReceipt } from "../src/ledger/receipt.ts";
import { decodeBundle, TileReader, tilePath } from "../src/ledger/tiles.ts";
import { EMPTY_ROOT, leafHash, nodeHash, rangeHash } from "../src/ledger/tree.ts";
import { verifyLog } from "../src/ledger/verify.ts";
import { load } from "./fixtures.ts";

const { bases, settings } = load("ledger");
const { vkey, files, proofs, leaf } = settings.log;
const FILES: ReadonlyMap<string, Bytes> = new Map(
  Object.entries<string>(files).map(([path, data]) => [path, fromBase64(data)]),
);
const published = async (path: string) => FILES.get(path);
const NOTE = fromBase64(bases.note ?? "");
const CHECKPOINT = await verifyCheckpoint(NOTE, vkey);

/** The publisher, but for one file. */
function without(path: string, instead?: Bytes) {
  if (!FILES.has(path)) throw new Error(`${path} is not published`);
  return async (asked: string) => (asked === path ? instead : FILES.get(asked));
}

function flipped(path: string, at: number): Bytes {
  const data = FILES.get(path) ?? new Uint8Array();
  return data.with(at, (data[at] ?? 0) ^ 1);
}

describe("tiles", () => {
  test("have one path", () => {
    expect(tilePath(0, 1234067n)).toBe("tile/0/x001/x234/067");
    expect(tilePath("entries", 0n, 7n)).toBe("tile/entries/000.p/7");
  });

  test("give the proofs and roots that Python makes", async () => {
    const reader = await TileReader.open(published, CHECKPOINT);
    for (const [size, index, older, digest] of proofs) {
      const inclusion = await reader.inclusionProof(BigInt(index), BigInt(size));
      const consistency = await reader.consistencyProof(BigInt(older), BigInt(size));
      const root = await reader.root(BigInt(size));
      expect(hex(await sha256(...inclusion, ...consistency, root))).toBe(digest);
      await verifyInclusion(
        await leafHash(await reader.entry(BigInt(index))),
        BigInt(index),
        BigInt(size),
        inclusion,
        root,
      );
      await verifyConsistency(BigInt(older), BigInt(size), consistency, await reader.root(BigInt(older)), root);
    }
  });

  test("give entries, all of them and nothing else", async () => {
    const reader = await TileReader.open(published, CHECKPOINT);
    expect(text(await reader.entry(299n))).toBe("entry 299");
    expect(hex(await leafHash(await reader.entry(7n)))).toBe(leaf);
    for (const index of [-1n, 301n, 1n << 61n]) {
      await expect(reader.entry(index)).rejects.toMatchObject({ code: "ledger.index-out-of-range" });
      await expect(reader.inclusionProof(index)).rejects.toMatchObject({ code: "ledger.index-out-of-range" });
    }
    await expect(reader.root(302n)).rejects.toMatchObject({ code: "ledger.index-out-of-range" });
  });

  test("a full tile stands in for a partial one that is gone, cut to its width", async () => {
    const partial = tilePath(0, 1n, 45n);
    const entries = tilePath("entries", 1n, 45n);
    const full = new Map(FILES);
    full.delete(partial);
    full.delete(entries);
    full.set(tilePath(0, 1n), concat(FILES.get(partial) ?? EMPTY_ROOT, new Uint8Array(211 * 32)));
    full.set(tilePath("entries", 1n), concat(FILES.get(entries) ?? EMPTY_ROOT, new Uint8Array(211 * 2)));
    const reader = await TileReader.open(async (path) => full.get(path), CHECKPOINT);
    expect(text(await reader.entry(256n))).toBe("entry 256");
  });

  test("that were changed, cut or lost are refused", async () => {
    const edge = tilePath(0, 1n, 45n);
    const first = tilePath(0, 0n);
    const open = (fetch: (path: string) => Promise<Bytes | undefined>) => TileReader.open(fetch, CHECKPOINT);
    await expect(open(without(edge))).rejects.toMatchObject({ code: "ledger.tile-missing" });
    await expect(open(without(edge, flipped(edge, 5)))).rejects.toMatchObject({
      code: "ledger.tile-invalid",
      step: "root",
    });
    await expect(open(without(edge, utf8("")))).rejects.toMatchObject({ code: "ledger.tile-invalid", step: "tile" });
    const reader = await open(without(first, flipped(first, 8191)));
    await expect(reader.root(9n)).rejects.toMatchObject({ code: "ledger.tile-invalid", step: "tile" });
    const entries = tilePath("entries", 0n);
    const liar = await open(without(entries, flipped(entries, 2)));
    await expect(liar.entry(200n)).rejects.toMatchObject({ code: "ledger.entry-invalid" });
    expect(text(await liar.entry(300n))).toContain("exchange-1");
    await expect(open(async () => undefined)).rejects.toBeInstanceOf(MitaiError);
  });

  test("bundles are exactly as many entries as they say", () => {
    const data = concat(Uint8Array.of(0, 1), utf8("a"), Uint8Array.of(0, 0));
    expect(decodeBundle(data, 2n).map(text)).toEqual(["a", ""]);
    for (const [bytes, width] of [
      [data, 1n],
      [data, 3n],
      [data.slice(0, -1), 2n],
      [data.slice(0, 2), 1n],
    ] as const) {
      expect(() => decodeBundle(bytes, width)).toThrow(expect.objectContaining({ code: "ledger.bundle-malformed" }));
    }
  });
});

describe("a whole log", () => {
  test("is checked to its last entry", async () => {
    const seen: string[] = [];
    const report = await verifyLog(published, vkey, { visit: (index, entry) => seen.push(`${index} ${text(entry)}`) });
    expect(report.checkpoint.size).toBe(301n);
    expect(seen).toHaveLength(301);
    expect(seen[299]).toBe("299 entry 299");
  });

  test("extends what is remembered", async () => {
    const reader = await TileReader.open(published, CHECKPOINT);
    const known = async (size: bigint): Promise<Checkpoint> => ({ ...CHECKPOINT, size, root: await reader.root(size) });
    const remembered = [await known(0n), await known(1n), await known(256n), await known(300n), CHECKPOINT];
    expect((await verifyLog(published, vkey, { remembered })).entriesBytes).toBeGreaterThan(2000);
    for (const [changes, code] of [
      [{ size: 302n }, "ledger.rolled-back"],
      [{ origin: "other" }, "ledger.origin-mismatch"],
      [{ size: 200n }, "ledger.root-invalid"],
    ] as const) {
      const other = { ...CHECKPOINT, ...changes };
      await expect(verifyLog(published, vkey, { remembered: [other] })).rejects.toMatchObject({ code });
    }
  });

  test.each([...FILES.keys()].filter((path) => path !== "checkpoint"))("a change in %s is found", async (path) => {
    const size = FILES.get(path)?.length ?? 0;
    for (const at of [0, 2, Math.floor(size / 2), size - 1]) {
      await expect(verifyLog(without(path, flipped(path, at)), vkey)).rejects.toBeInstanceOf(MitaiError);
    }
    await expect(verifyLog(without(path), vkey)).rejects.toMatchObject({ code: "ledger.tile-missing" });
  });
});

describe("proofs", () => {
  const leaves = Promise.all(Array.from({ length: 40 }, (_, at) => leafHash(Uint8Array.of(at))));
  const mth = async (start: bigint, end: bigint): Promise<Bytes> => {
    const row = (await leaves).slice(Number(start), Number(end));
    if (row.length < 2) return row[0] ?? EMPTY_ROOT;
    const half = 1n << BigInt((row.length - 1).toString(2).length - 1);
    return nodeHash(await mth(start, start + half), await mth(start + half, end));
  };

  test("of small trees: all hold, and no other number of hashes, index or size does", async () => {
    for (let size = 1n; size <= 20n; size++) {
      const root = await mth(0n, size);
      const tile = concat(...(await leaves).slice(0, Number(size)));
      expect(await rangeHash((level) => (level ? new Uint8Array() : tile), 0n, size)).toEqual(root);
      for (let index = 0n; index < size; index++) {
        const proof = await inclusionProof(mth, index, size);
        const hash = (await leaves)[Number(index)] ?? EMPTY_ROOT;
        await verifyInclusion(hash, index, size, proof, root);
        await expect(verifyInclusion(hash, index, size, [...proof, root], root)).rejects.toBeInstanceOf(MitaiError);
        await expect(verifyInclusion(hash, size, size, proof, root)).rejects.toMatchObject({ step: "index" });
        if (size > 1n) {
          await expect(verifyInclusion(hash, index, size, proof.slice(1), root)).rejects.toBeInstanceOf(MitaiError);
          await expect(verifyInclusion(hash, (index + 1n) % size, size, proof, root)).rejects.toBeInstanceOf(
            MitaiError,
          );
        }
      }
      for (let older = 0n; older <= size; older++) {
        const proof = await consistencyProof(mth, older, size);
        await verifyConsistency(older, size, proof, await mth(0n, older), root);
        await expect(
          verifyConsistency(older, size, [...proof, root], await mth(0n, older), root),
        ).rejects.toBeInstanceOf(MitaiError);
        if (older) {
          await expect(verifyConsistency(older, size, proof, await mth(1n, older + 1n), root)).rejects.toBeInstanceOf(
            MitaiError,
          );
        }
      }
    }
  });

  test("flip any bit: it throws", async () => {
    await fc.assert(
      fc.asyncProperty(fc.bigInt(2n, 40n), fc.nat(1000), fc.nat(10_000), async (size, at, bit) => {
        const index = BigInt(at) % size;
        const proof = await inclusionProof(mth, index, size);
        const which = bit % proof.length;
        const changed = proof.map((hash, number) =>
          number === which ? hash.with(bit % 32, (hash[bit % 32] ?? 0) ^ 4) : hash,
        );
        const hash = (await leaves)[Number(index)] ?? EMPTY_ROOT;
        await expect(verifyInclusion(hash, index, size, changed, await mth(0n, size))).rejects.toMatchObject({
          code: "ledger.inclusion-invalid",
        });
      }),
    );
  });

  test("are at most 63 hashes of 32 bytes, of sizes up to 2**62", async () => {
    const hash = EMPTY_ROOT;
    for (const [index, size, proof, code] of [
      [0n, 1n << 62n, Array(64).fill(hash), "ledger.proof-malformed"],
      [0n, 2n, [hash.slice(1)], "ledger.proof-malformed"],
      [0n, (1n << 62n) + 1n, [], "ledger.index-out-of-range"],
      [-1n, 2n, [hash], "ledger.index-out-of-range"],
      [1n, 1n << 62n, Array(62).fill(hash), "ledger.inclusion-invalid"],
    ] as const) {
      await expect(verifyInclusion(hash, index, size, proof, hash)).rejects.toMatchObject({ code });
    }
  });
});

describe("notes", () => {
  test("flip any byte: it throws, unless it is another's signature", async () => {
    const end = text(NOTE).split("\n").slice(0, 5).join("\n"); // text, empty line, the log's own signature
    const length = utf8(end).length;
    const puts = fc.oneof(fc.nat(255), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d));
    await fc.assert(
      fc.asyncProperty(fc.nat(length - 1), puts, async (at, byte) => {
        fc.pre(NOTE[at] !== byte);
        await expect(verifyCheckpoint(NOTE.with(at, byte), vkey)).rejects.toBeInstanceOf(MitaiError);
      }),
      { numRuns: 300 },
    );
  });

  test("any bytes give a note, a checkpoint or a MitaiError", () => {
    fc.assert(
      fc.property(fc.string(), (written) => {
        for (const parse of [() => parseNote(utf8(written)), () => parseCheckpoint(written)]) {
          try {
            parse();
          } catch (error) {
            expect(error).toBeInstanceOf(MitaiError);
          }
        }
      }),
    );
  });

  test("are at most 128 KiB", () => {
    expect(() => parseNote(new Uint8Array((128 << 10) + 1))).toThrow(MitaiError);
  });
});

describe("receipts", () => {
  const BUNDLE = fromBase64(bases.bundle ?? "");
  const { receipt_key, ledger_vkey, request_sha256, response_sha256, witnesses } = settings["receipt plain"];
  const check = async (data: Bytes) =>
    verifyReceipt(ReceiptBundle.decode(data), {
      receiptKey: new PublicKey(fromHex(receipt_key)),
      ledgerVkey: ledger_vkey,
      requestSha256: request_sha256,
      responseSha256: response_sha256,
      witnesses,
      threshold: 2,
    });
  const puts = fc.oneof(fc.nat(255), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d, 0x22));

  test("hold, and flip any byte: it throws", async () => {
    expect(await check(BUNDLE)).toMatchObject({ exchange: "exchange-1", usage: { promptTokens: 7 } });
    await fc.assert(
      fc.asyncProperty(fc.nat(BUNDLE.length - 1), puts, async (at, byte) => {
        fc.pre(BUNDLE[at] !== byte);
        await expect(check(BUNDLE.with(at, byte))).rejects.toBeInstanceOf(MitaiError);
      }),
      { numRuns: 300 },
    );
  });

  test("flip any byte of an entry: it throws, or says something else", () => {
    const entry = fromBase64(bases.entry ?? "");
    const decoded = decodeEntry(entry);
    fc.assert(
      fc.property(fc.nat(entry.length - 1), puts, (at, byte) => {
        fc.pre(entry[at] !== byte);
        try {
          expect(decodeEntry(entry.with(at, byte))).not.toEqual(decoded);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("read a derivation, and nothing that is spelled otherwise", () => {
    const digest = "ab".repeat(32);
    const entry =
      `{"capsule":"c","evidence_sha256":"${digest}","kind":"adapter","manifest_sha256":"${digest}","name":"joint",` +
      `"owners":["${digest}"],"parents":["a","b"],"signer":"${digest}","simulated":true,"statement_sha256":"${digest}",` +
      `"time":"2026-01-02T03:04:05Z","type":"derivation","v":"mitai ledger entry v1","workload":"train"}`;
    expect(decodeEntry(utf8(entry))).toMatchObject({ type: "derivation", parents: ["a", "b"], simulated: true });
    for (const [from, to] of [
      ['"simulated":true,', ""],
      ['"kind"', '"kinds"'],
      [":true", ":1"],
    ] as const)
      expect(() => decodeEntry(utf8(entry.replace(from, to)))).toThrow(MitaiError);
  });

  test("read what is said of the broker's root key, and nothing that is spelled otherwise", () => {
    const digest = "ab".repeat(32);
    const tail = `"time":"2026-01-02T03:04:05Z","type":"root-key","v":"mitai ledger entry v1"}`;
    const shared =
      `{"epoch":2,"event":"shared","evidence_sha256":"${digest}","recipient_sha256":"${digest}",` +
      `"recovery_sha256":null,"simulated":true,${tail}`;
    expect(decodeEntry(utf8(shared))).toMatchObject({ type: "root-key", event: "shared", epoch: 2, simulated: true });
    const plan =
      `{"members":["${digest}"],"recovery_sha256":"${digest}","threshold":1,` +
      `"time":"2026-01-02T03:04:05Z","type":"recovery-set","v":"mitai ledger entry v1","version":3}`;
    expect(decodeEntry(utf8(plan))).toMatchObject({ type: "recovery-set", threshold: 1, version: 3 });
    const resealed =
      `{"capsule":"c","command_sha256":null,"manifest_sha256":"${digest}","owner":"${digest}",` +
      `"previous_sha256":"${digest}","time":"2026-01-02T03:04:05Z","type":"capsule-resealed","v":"mitai ledger entry v1"}`;
    expect(decodeEntry(utf8(resealed))).toMatchObject({ type: "capsule-resealed", previousSha256: digest });
    for (const [from, to] of [
      ['"shared"', '"given"'],
      ['"epoch":2', '"epoch":-2'],
      ['"epoch":2,', ""],
    ] as const)
      expect(() => decodeEntry(utf8(shared.replace(from, to)))).toThrow(MitaiError);
    expect(() => decodeEntry(utf8(plan.replace('"threshold":1', '"threshold":"1"')))).toThrow(MitaiError);
  });

  test("are bounded", () => {
    expect(() => ReceiptBundle.decode(new Uint8Array((1 << 20) + 1))).toThrow(MitaiError);
    expect(() => decodeEntry(new Uint8Array(65536))).toThrow(MitaiError);
  });
});
