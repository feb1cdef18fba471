/** The memory of ledgers: one that goes back, or tells another story than before, is refused. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Bytes, text, utf8 } from "@mitai/verify";
import { bytes, decodeJson, dictionary, string, struct } from "@mitai/verify/json";
import { beforeEach, describe, expect, it } from "vitest";
import { type CheckpointStore, LedgerMemory, ledgerFetcher } from "../src/ledger.ts";

const { vkey, ledgers } = decodeJson(
  readFileSync(join(import.meta.dirname, "vectors/receipts.json")),
  struct({ vkey: string, ledgers: dictionary(dictionary(bytes)) }, "ignored"),
  "test",
  "run make.py",
);

const published = (name: string) => async (path: string) => ledgers.get(name)?.get(path);
const head = (name: string) => text(ledgers.get(name)?.get("checkpoint") ?? utf8(""));

let kept: Map<string, string>;
let memory: LedgerMemory;

beforeEach(() => {
  kept = new Map();
  const store: CheckpointStore = {
    get: async (key) => kept.get(key),
    put: async (key, note) => void kept.set(key, note),
  };
  memory = new LedgerMemory(store);
});

describe("LedgerMemory", () => {
  it("follows a ledger that grows", async () => {
    expect((await memory.observe(head("short"), vkey, published("short"))).size).toBe(2n);
    expect((await memory.observe(head("grown"), vkey, published("grown"))).size).toBe(302n);
    expect((await memory.recall(vkey))?.size).toBe(302n);
  });

  it("takes an older checkpoint of the same history, and does not go back", async () => {
    await memory.observe(head("grown"), vkey, published("grown"));
    expect((await memory.observe(head("short"), vkey, published("grown"))).size).toBe(2n);
    expect((await memory.recall(vkey))?.size).toBe(302n);
  });

  it("does not overwrite what another tab has kept meanwhile", async () => {
    const meanwhile = async (path: string) => {
      const shown = kept.has(vkey) ? "grown" : "short";
      kept.set(vkey, head("grown"));
      return published(shown)(path);
    };
    await memory.observe(head("short"), vkey, meanwhile);
    expect(kept.get(vkey)).toBe(head("grown"));
  });

  it("refuses to go back behind what another tab has kept meanwhile", async () => {
    const meanwhile = async (path: string) => {
      kept.set(vkey, head("grown"));
      return published("short")(path);
    };
    await expect(memory.observe(head("short"), vkey, meanwhile, 60)).rejects.toMatchObject({
      code: "ledger.rolled-back",
    });
    expect(kept.get(vkey)).toBe(head("grown"));
  });

  it("refuses another history than what another tab has kept meanwhile", async () => {
    const meanwhile = async (path: string) => {
      kept.set(vkey, head("fork"));
      return published("grown")(path);
    };
    await expect(memory.observe(head("short"), vkey, meanwhile)).rejects.toMatchObject({ code: "ledger.forked" });
    expect(kept.get(vkey)).toBe(head("fork"));
  });

  it("does not go back when another tab keeps a newer one while this one is about to", async () => {
    kept.set(vkey, head("short"));
    let asked = 0;
    const store: CheckpointStore = {
      get: async (key) => {
        const note = kept.get(key);
        if (++asked === 2) setTimeout(() => kept.set(key, head("grown")));
        return note;
      },
      put: async (key, note) => void kept.set(key, note),
    };
    await new LedgerMemory(store).observe(head("short"), vkey, published("short"));
    await new Promise((wake) => setTimeout(wake, 20));
    expect(kept.get(vkey)).toBe(head("grown"));
  });

  it("waits for what is published to catch up", async () => {
    let asked = 0;
    const late = async (path: string) => published(path === "checkpoint" && ++asked < 3 ? "short" : "grown")(path);
    await memory.observe(head("grown"), vkey, late);
    expect(asked).toBe(3);
  });

  it.each([
    ["another history", "short", "fork", "fork", "ledger.forked"],
    ["a checkpoint of another history", "grown", "fork", "grown", "ledger.forked"],
    ["a ledger that went back", "short", "older", "older", "ledger.rolled-back"],
    ["a ledger that stays behind", "short", "grown", "short", "ledger.rolled-back"],
    ["a ledger that is not published", "short", "short", "nowhere", "ledger.rolled-back"],
  ])("refuses %s", async (_, first, seen, shown, code) => {
    await memory.observe(head(first), vkey, published(first));
    await expect(memory.observe(head(seen), vkey, published(shown), 60)).rejects.toMatchObject({
      code,
      step: "memory",
    });
    expect(kept.get(vkey)).toBe(head(first));
  });

  it("refuses tiles that were changed", async () => {
    const changed = async (path: string): Promise<Bytes | undefined> => {
      const tile = await published("grown")(path);
      return path === "tile/0/000" ? tile?.map((byte, at) => (at === 40 ? byte ^ 1 : byte)) : tile;
    };
    await expect(memory.observe(head("short"), vkey, changed)).rejects.toMatchObject({ code: "ledger.tile-invalid" });
    expect(kept.size).toBe(0);
  });

  it("refuses what the ledger did not sign", async () => {
    const forged = head("short").replace("\n2\n", "\n3\n");
    await expect(memory.observe(forged, vkey, published("short"))).rejects.toMatchObject({
      code: "ledger.signature-invalid",
    });
    kept.set(vkey, forged);
    await expect(memory.observe(head("short"), vkey, published("short"))).rejects.toMatchObject({
      code: "ledger.signature-invalid",
    });
  });
});

describe("ledgerFetcher", () => {
  const fetching = (response: () => Response) => ledgerFetcher("http://gateway.test", async () => response());

  it("asks below the broker's path", async () => {
    const asked: string[] = [];
    const fetcher = ledgerFetcher("http://gateway.test", async (url) => {
      asked.push(String(url));
      return new Response("x");
    });
    expect(await fetcher("tile/0/000")).toEqual(utf8("x"));
    expect(asked).toEqual(["http://gateway.test/broker/ledger/tile/0/000"]);
  });

  it("knows what is not there from what can't be had", async () => {
    expect(await fetching(() => new Response("", { status: 404 }))("x")).toBeUndefined();
    await expect(fetching(() => new Response("", { status: 500 }))("x")).rejects.toMatchObject({
      code: "client.ledger-refused",
    });
    await expect(fetching(() => new Response(new Uint8Array((32 << 20) + 1)))("x")).rejects.toMatchObject({
      code: "client.ledger-too-large",
    });
  });
});
