/** The device's storage: nothing in the clear, nothing lost that is not damaged itself, and no two tabs at odds. */

import "fake-indexeddb/auto";
import { type Bytes, sha256 } from "@mitai/verify";
import { IDBFactory, IDBObjectStore } from "fake-indexeddb";
import fc from "fast-check";
import { openDB } from "idb";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Conversation } from "../../src/conversations.ts";
import { type Change, DeviceStore, type Passkeys } from "../../src/store/index.ts";

const PASSPHRASE = "correct horse battery staple";
const open: DeviceStore[] = [];
let tabs = 0;

/** An authenticator in memory. */
class Authenticator implements Passkeys {
  refuses = false;

  constructor(private readonly seed = 1) {}

  async create(salt: Bytes) {
    const credentialId = Uint8Array.of(this.seed);
    return { credentialId, secret: await this.open(credentialId, salt) };
  }

  async open(credentialId: Bytes, salt: Bytes) {
    if (this.refuses) throw new Error("the user said no");
    return await sha256(Uint8Array.of(this.seed), credentialId, salt);
  }
}

async function tab(passkeys: Passkeys = new Authenticator()): Promise<DeviceStore> {
  const store = await DeviceStore.open({ name: `mitai-test-${tabs}`, passkeys });
  open.push(store);
  return store;
}

async function guarded(): Promise<DeviceStore> {
  const store = await tab();
  await store.guardWithPassphrase(PASSPHRASE);
  return store;
}

const raw = async <T>(work: (database: Awaited<ReturnType<typeof openDB>>) => Promise<T>): Promise<T> => {
  const database = await openDB(`mitai-test-${tabs}`);
  return await work(database).finally(() => database.close());
};

function conversation(id: string, changed = 1, text = "What is a secret?"): Conversation {
  return { id, title: `title of ${id}`, changed, messages: [{ id: "m", role: "user", text, files: [], at: 1 }] };
}

const refusal = (code: string) => expect.objectContaining({ code });
/** Until the messages of the tabs have arrived. */
const heard = () => new Promise((done) => setTimeout(done, 30));

beforeEach(() => {
  globalThis.indexedDB = new IDBFactory();
  tabs++;
});
afterEach(() => {
  for (const store of open.splice(0)) store.close();
  vi.restoreAllMocks();
});

describe("without a guard", () => {
  it("keeps conversations for this session, and writes nothing", async () => {
    const store = await tab();
    await store.save(conversation("a", 1));
    await store.save(conversation("b", 2));
    expect((await store.list()).map(({ id }) => id)).toEqual(["b", "a"]);
    expect(await store.load("a")).toEqual(conversation("a", 1));
    expect([store.protection, store.guard]).toEqual(["none", "none"]);
    expect(await raw((database) => database.getAll("conversations"))).toEqual([]);
    expect(await (await tab()).list()).toEqual([]);
  });

  it("removes", async () => {
    const store = await tab();
    await store.save(conversation("a"));
    await store.remove("a");
    expect([await store.load("a"), await store.list()]).toEqual([undefined, []]);
  });

  it("does not let a page change what is kept by changing what it gave", async () => {
    const store = await tab();
    const mutable = { ...conversation("a"), messages: [] as Conversation["messages"][number][] };
    await store.save(mutable);
    mutable.messages.push(...conversation("a").messages);
    expect((await store.load("a"))?.messages).toEqual([]);
  });

  it("works where there is no database, but can't guard", async () => {
    vi.spyOn(indexedDB, "open").mockImplementation(() => {
      throw new DOMException("no", "SecurityError");
    });
    const store = await tab();
    await store.save(conversation("a"));
    expect([await store.load("a"), store.canKeep]).toEqual([conversation("a"), false]);
    await expect(store.guardWithPassphrase(PASSPHRASE)).rejects.toEqual(refusal("store.unavailable"));
    expect(store.protection).toBe("none");
  });
});

describe("with a passphrase", () => {
  it("keeps this session's conversations too, and opens them again with the passphrase alone", async () => {
    const store = await tab();
    await store.save(conversation("a"));
    await store.guardWithPassphrase(PASSPHRASE);
    await store.save(conversation("b", 2));
    expect([store.protection, store.guard]).toEqual(["unlocked", "passphrase"]);

    const later = await tab();
    expect([later.protection, await later.list(), await later.load("a")]).toEqual(["locked", [], undefined]);
    for (const wrong of ["correct horse", `${PASSPHRASE} `]) {
      await expect(later.unlock(wrong)).rejects.toEqual(refusal("store.passphrase-wrong"));
    }
    await expect(later.unlock("")).rejects.toEqual(refusal("store.passphrase-empty"));
    expect(later.protection).toBe("locked");
    await later.unlock(PASSPHRASE);
    expect(await later.load("a")).toEqual(conversation("a"));
    expect(await later.list()).toEqual([
      { id: "b", title: "title of b", changed: 2 },
      { id: "a", title: "title of a", changed: 1 },
    ]);
  });

  it("takes either spelling of an accented letter", async () => {
    const store = await tab();
    await store.guardWithPassphrase("caf\u00e9 ﬁn");
    store.lock();
    await store.unlock("cafe\u0301 fin");
    expect(store.protection).toBe("unlocked");
  });

  it("writes neither words, nor titles, nor the key, nor the passphrase", async () => {
    const exported = vi.spyOn(crypto.subtle, "exportKey");
    const store = await guarded();
    await store.save(conversation("a", 1, "the secret question"));
    const dataKey = new Uint8Array((await exported.mock.results[0]?.value) as ArrayBuffer);
    expect(dataKey).toHaveLength(32);
    const all = await raw(async (database) => [
      await database.get("vault", "guard"),
      ...(await database.getAll("conversations")),
    ]);
    const seen: string[] = [];
    JSON.stringify(all, (_, value) => {
      seen.push(value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : String(value));
      return value instanceof Uint8Array ? "" : value;
    });
    for (const secret of ["secret question", "title of a", PASSPHRASE, Buffer.from(dataKey).toString("latin1")]) {
      expect(seen.join("|")).not.toContain(secret);
    }
    expect(seen.join("|")).toContain("passphrase"); // it is the guard that was looked at
  });

  it("derives the wrapping key with 600,000 rounds and a salt of its own", async () => {
    const derived = vi.spyOn(crypto.subtle, "deriveKey");
    await (await guarded()).guardWithPassphrase(PASSPHRASE);
    const algorithms = derived.mock.calls.map(([algorithm]) => algorithm as Pbkdf2Params);
    expect(algorithms).toHaveLength(2);
    for (const algorithm of algorithms) {
      expect(algorithm).toMatchObject({ name: "PBKDF2", hash: "SHA-256", iterations: 600_000 });
    }
    expect(algorithms[0]?.salt).not.toEqual(algorithms[1]?.salt);
  });

  it("changes the passphrase: the old one opens nothing any more", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    await store.guardWithPassphrase("another one");
    const later = await tab();
    await expect(later.unlock(PASSPHRASE)).rejects.toEqual(refusal("store.passphrase-wrong"));
    await later.unlock("another one");
    expect(await later.load("a")).toEqual(conversation("a"));
  });

  it("locks, in all tabs, and keeps what is written meanwhile until it is unlocked", async () => {
    const [store, other] = [await guarded(), await tab()];
    await other.unlock(PASSPHRASE);
    await store.save(conversation("a"));
    store.lock();
    await heard();
    expect([store.protection, other.protection]).toEqual(["locked", "locked"]);
    expect([await store.list(), await store.load("a")]).toEqual([[], undefined]);
    await expect(store.guardWithPassphrase("mine")).rejects.toEqual(refusal("store.locked"));
    await expect(store.removeGuard()).rejects.toEqual(refusal("store.locked"));
    await store.save(conversation("b"));
    await store.unlock(PASSPHRASE);
    await other.unlock(PASSPHRASE);
    expect((await other.list()).map(({ id }) => id).sort()).toEqual(["a", "b"]);
  });

  it("goes back to this session only, and leaves nothing on the device", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    await store.removeGuard();
    expect([store.protection, await store.load("a")]).toEqual(["none", conversation("a")]);
    for (const kept of ["vault", "conversations"]) {
      expect(await raw((database) => database.getAll(kept))).toEqual([]);
    }
    await store.guardWithPassphrase("again");
    expect((await store.list()).map(({ id }) => id)).toEqual(["a"]);
  });

  it("forgets everything, locked or not", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    store.lock();
    await store.forgetEverything();
    expect([store.protection, await store.list()]).toEqual(["none", []]);
    expect(await raw((database) => database.getAll("conversations"))).toEqual([]);
  });
});

describe("with a passkey", () => {
  it("opens with the same authenticator alone", async () => {
    const store = await tab();
    await store.guardWithPasskey();
    await store.save(conversation("a"));
    expect(store.guard).toBe("passkey");
    const thief = await tab(new Authenticator(2));
    await expect(thief.unlock()).rejects.toEqual(refusal("store.passkey-wrong"));
    const later = await tab();
    await later.unlock();
    expect(await later.load("a")).toEqual(conversation("a"));
  });

  it("takes the place of a passphrase", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    await store.guardWithPasskey();
    const later = await tab();
    expect(later.guard).toBe("passkey");
    await later.unlock();
    expect(await later.load("a")).toEqual(conversation("a"));
  });

  it("changes nothing when the user says no", async () => {
    const authenticator = new Authenticator();
    const store = await tab(authenticator);
    await store.guardWithPassphrase(PASSPHRASE);
    await store.save(conversation("a"));
    authenticator.refuses = true;
    await expect(store.guardWithPasskey()).rejects.toThrow("no");
    store.lock();
    await store.unlock(PASSPHRASE);
    expect(await store.load("a")).toEqual(conversation("a"));
  });
});

describe("several tabs", () => {
  it("tell each other what changed", async () => {
    const [store, other] = [await guarded(), await tab()];
    await other.unlock(PASSPHRASE);
    const told: Change[] = [];
    const stop = other.watch((change) => told.push(change));
    await store.save(conversation("a"));
    await store.remove("a");
    store.lock();
    await heard();
    expect(told).toEqual([{ id: "a" }, { id: "a" }, {}]);
    stop();
    await store.unlock(PASSPHRASE);
    await store.save(conversation("b"));
    await heard();
    expect(told).toHaveLength(3);
  });

  it("never overwrite each other", async () => {
    const [store, other] = [await guarded(), await tab()];
    await other.unlock(PASSPHRASE);
    await store.save(conversation("a"));
    await expect(other.save(conversation("a", 9))).rejects.toEqual(refusal("store.changed-elsewhere"));
    await other.load("a");
    await other.save(conversation("a", 9));
    await expect(store.save(conversation("a", 5))).rejects.toEqual(refusal("store.changed-elsewhere"));
    expect(await store.load("a")).toEqual(conversation("a", 9));
    await other.remove("a");
    await expect(store.save(conversation("a", 5))).rejects.toEqual(refusal("store.changed-elsewhere"));
    expect(await store.load("a")).toBeUndefined();
  });

  it("save in order, however fast", async () => {
    const store = await guarded();
    await Promise.all([1, 2, 3, 4, 5].map((changed) => store.save(conversation("a", changed))));
    expect(await store.load("a")).toEqual(conversation("a", 5));
  });

  it("notice a new guard, and one that was removed", async () => {
    const [store, other] = [await tab(), await tab()];
    await other.save(conversation("mine"));
    await store.guardWithPassphrase(PASSPHRASE);
    await heard();
    expect(other.protection).toBe("locked");
    await other.unlock(PASSPHRASE);
    expect((await store.list()).map(({ id }) => id)).toEqual(["mine"]);
    await store.guardWithPassphrase("changed");
    await heard();
    expect(other.protection).toBe("unlocked"); // it is the same key
    await store.forgetEverything();
    await heard();
    expect([other.protection, await other.list()]).toEqual(["none", []]);
  });

  it("never write under a key that was thrown away, even before they are told", async () => {
    const [store, other] = [await guarded(), await tab()];
    await other.unlock(PASSPHRASE);
    const told = vi.spyOn(BroadcastChannel.prototype, "postMessage").mockImplementation(() => undefined);
    await store.forgetEverything();
    await store.guardWithPassphrase("new");
    told.mockRestore();
    await expect(other.save(conversation("a"))).rejects.toEqual(refusal("store.changed-elsewhere"));
    expect(other.protection).toBe("locked");
    expect(await raw((database) => database.getAll("conversations"))).toEqual([]);
  });

  it("do not both set a guard", async () => {
    const [store, other] = [await tab(), await tab()];
    await other.save(conversation("mine"));
    const results = await Promise.allSettled([store.guardWithPassphrase("one"), other.guardWithPassphrase("two")]);
    expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const [winner, loser] = results[0]?.status === "fulfilled" ? [store, other] : [other, store];
    expect([winner.protection, loser.protection]).toEqual(["unlocked", "locked"]);
  });
});

describe("damage", () => {
  it("of one conversation costs that one", async () => {
    const store = await guarded();
    for (const id of ["a", "b", "c"]) await store.save(conversation(id));
    await raw(async (database) => {
      const record = await database.get("conversations", "b");
      await database.put("conversations", { ...record, head: "gone", version: "x" });
    });
    expect((await store.list()).map(({ id }) => id).sort()).toEqual(["a", "c"]);
    expect(store.damaged).toEqual(["b"]);
    await expect(store.load("b")).rejects.toEqual(refusal("store.record-damaged"));
    expect(await store.load("c")).toEqual(conversation("c"));
    await store.remove("b");
    await store.list();
    expect(store.damaged).toEqual([]);
  });

  it("of any byte, anywhere in a record, is noticed", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    const record = await raw((database) => database.get("conversations", "a"));
    const part = fc.constantFrom("head" as const, "body" as const);
    await fc.assert(
      fc.asyncProperty(part, fc.nat(), fc.integer({ min: 1, max: 255 }), async (name, at, flip) => {
        const bytes = Uint8Array.from(record[name]);
        bytes[at % bytes.length] = (bytes[at % bytes.length] ?? 0) ^ flip;
        await raw((database) => database.put("conversations", { ...record, [name]: bytes }));
        await expect(store.load("a")).rejects.toEqual(refusal("store.record-damaged"));
      }),
      { numRuns: 60 },
    );
    const changes = [{ version: 2 }, { head: record.body, body: record.head }, { head: record.head.subarray(0, 9) }];
    for (const change of changes) {
      await raw((database) => database.put("conversations", { ...record, ...change }));
      await expect(store.load("a")).rejects.toEqual(refusal("store.record-damaged"));
    }
    await raw((database) => database.put("conversations", { ...record, id: "another" }));
    await expect(store.load("another")).rejects.toEqual(refusal("store.record-damaged"));
    await raw((database) => database.put("conversations", record));
    expect(await store.load("a")).toEqual(conversation("a"));
  });

  it("of the guard opens nothing and overwrites nothing", async () => {
    const store = await guarded();
    await store.save(conversation("a"));
    const record = await raw((database) => database.get("vault", "guard"));
    for (const broken of [null, {}, { ...record, guard: { ...record.guard, iterations: 1 } }]) {
      await raw((database) => database.put("vault", broken, "guard"));
      const later = await tab();
      expect([later.protection, later.guard]).toEqual(["locked", "damaged"]);
      await expect(later.unlock(PASSPHRASE)).rejects.toEqual(refusal("store.guard-damaged"));
      await expect(later.guardWithPassphrase("new")).rejects.toEqual(refusal("store.locked"));
      await later.save(conversation("b"));
      expect(await later.load("b")).toEqual(conversation("b"));
    }
    const more = { ...record, guard: { ...record.guard, iterations: 600_001 } };
    const other = {
      ...record,
      wrapped: Uint8Array.from(record.wrapped, (byte: number, at) => (at === 20 ? ~byte : byte)),
    };
    for (const broken of [more, other, { ...record, keyId: "other" }]) {
      await raw((database) => database.put("vault", broken, "guard"));
      await expect((await tab()).unlock(PASSPHRASE)).rejects.toEqual(refusal("store.passphrase-wrong"));
    }
    await raw((database) => database.put("vault", record, "guard"));
    const later = await tab();
    await later.unlock(PASSPHRASE);
    expect(await later.load("a")).toEqual(conversation("a"));
  });

  it("of a disk without space costs the new words alone", async () => {
    const store = await guarded();
    await store.save(conversation("a", 1));
    vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    await expect(store.save(conversation("a", 2))).rejects.toEqual(refusal("store.full"));
    await expect(store.save(conversation("b", 2))).rejects.toEqual(refusal("store.full"));
    vi.restoreAllMocks();
    expect(await store.load("a")).toEqual(conversation("a", 1));
    await store.save(conversation("a", 3));
    expect(await store.load("a")).toEqual(conversation("a", 3));
  });

  it("of a disk without space while a guard is set leaves what is in memory", async () => {
    const store = await tab();
    await store.save(conversation("a"));
    vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    await expect(store.guardWithPassphrase(PASSPHRASE)).rejects.toEqual(refusal("store.full"));
    expect([store.protection, await store.load("a")]).toEqual(["none", conversation("a")]);
  });

  it("never makes a conversation of what was sealed by something else", async () => {
    const store = await guarded();
    const strange = { ...conversation("a"), messages: [{ id: 1 }] };
    await store.save(strange as unknown as Conversation);
    await expect(store.load("a")).rejects.toEqual(refusal("store.record-damaged"));
  });
});
