/**
 * Conversations on this device, and nowhere else.
 *
 * Spec: docs/spec/device-storage.md. Without a guard they are in memory and end with the page; with one (a passphrase
 * or a passkey) they are also in IndexedDB, each encrypted under a random key which the guard wraps.
 *
 * Invariants:
 * - Nothing of a conversation, its title included, is ever written in the clear.
 * - A conversation that another tab has changed meanwhile is not overwritten (`store.changed-elsewhere`: load it again).
 * - A damaged record, or a full disk, costs what it is about and nothing else.
 * - `lock` drops the key from memory in all tabs. (What a page has shown may live on in its memory until it is closed.)
 *
 * Example:
 *     const store = await DeviceStore.open();
 *     await store.guardWithPassphrase("correct horse battery staple");
 *     await store.save(conversation);
 *     store.watch(({ id }) => (id === shown ? reload() : relist()));
 */

import { MitaiError } from "@mitai/verify";
import type { Conversation, ConversationStore, Summary } from "../conversations.ts";
import { type Database, openDatabase, plainly } from "./database.ts";
import {
  type DataKey,
  type Guard,
  type GuardRecord,
  guardKey,
  isGuardRecord,
  newKey,
  openKey,
  passkeyGuard,
  passphraseGuard,
} from "./guard.ts";
import { type Passkeys, webAuthn } from "./passkey.ts";
import { isRecord, openPart, type StoredRecord, sealRecord } from "./records.ts";
import { isConversation, isSummary } from "./shape.ts";

/** What another tab did: to a conversation, or, without an id, to the guard or to all. */
export interface Change {
  readonly id?: string;
}

/** "none": this session only. "locked": there are conversations on the device, which need the guard. */
export type Protection = "none" | "locked" | "unlocked";

export interface DeviceOptions {
  /** The database's name, and that of the tabs' channel. */
  readonly name?: string;
  readonly passkeys?: Passkeys;
}

export class DeviceStore implements ConversationStore {
  /** Conversations of this session only. */
  readonly #memory = new Map<string, Conversation>();
  /** The version of each conversation that this tab has read or written last. */
  readonly #versions = new Map<string, number>();
  readonly #listeners = new Set<(change: Change) => void>();
  readonly #channel: BroadcastChannel;
  #guard: GuardRecord | "damaged" | undefined;
  #key: DataKey | undefined;
  #damaged: readonly string[] = [];
  /** Saves go one after the other: each builds on the version before it. */
  #saving: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly database: Database | undefined,
    private readonly passkeys: Passkeys,
    name: string,
  ) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => void this.#heard(data);
  }

  /** Open the device's storage; without any (a private window, say), conversations last as long as the page. */
  static async open({ name = "mitai", passkeys = webAuthn }: DeviceOptions = {}): Promise<DeviceStore> {
    const database = await openDatabase(name).catch(() => undefined);
    const store = new DeviceStore(database, passkeys, name);
    await store.#readGuard();
    return store;
  }

  /** Leave the storage; for tests. */
  close(): void {
    this.#channel.close();
    this.database?.close();
  }

  // -- the guard

  get protection(): Protection {
    if (!this.#guard) return "none";
    return this.#key ? "unlocked" : "locked";
  }

  /** "damaged": nothing opens what is on the device; it can only be forgotten. */
  get guard(): "none" | "passphrase" | "passkey" | "damaged" {
    if (this.#guard === "damaged") return "damaged";
    return this.#guard?.guard.kind ?? "none";
  }

  /** Whether this browser keeps anything at all. */
  get canKeep(): boolean {
    return this.database !== undefined;
  }

  /** Keep conversations on the device, this session's too, guarded by a passphrase; or change the guard to it. */
  async guardWithPassphrase(passphrase: string): Promise<void> {
    await this.#setGuard(() => passphraseGuard(passphrase));
  }

  /** The same, guarded by a passkey that is made now. */
  async guardWithPasskey(): Promise<void> {
    await this.#setGuard(() => passkeyGuard(this.passkeys));
  }

  /** Open what is on the device, and keep this session's conversations there from now on. */
  async unlock(passphrase = ""): Promise<void> {
    if (!this.#guard || this.#key) return;
    if (this.#guard === "damaged") {
      throw new MitaiError(
        "store.guard-damaged",
        "the guard on this device is damaged",
        "forget everything, and begin anew",
      );
    }
    this.#key = await openKey(this.#guard, passphrase, this.passkeys);
    await this.#readGuard(); // a passkey takes its time: another tab may have forgotten everything
    await this.#keepMemory();
  }

  /** Drop the key, in all tabs. */
  lock(): void {
    this.#dropKey();
    this.#channel.postMessage({ kind: "lock" });
  }

  /** Back to "this session only": what can be read stays in memory until the page is closed, nothing on the device. */
  async removeGuard(): Promise<void> {
    const key = this.#unlocked();
    for (const record of await this.#records()) {
      const conversation = await readConversation(key, record).catch(() => undefined);
      if (conversation) this.#memory.set(conversation.id, conversation);
    }
    await this.#clear();
  }

  /** Delete all conversations, here and on the device, and the guard. */
  async forgetEverything(): Promise<void> {
    this.#memory.clear();
    await this.#clear();
  }

  async #setGuard(make: () => Promise<Guard>): Promise<void> {
    if (this.protection === "locked") throw locked();
    const database = this.#written();
    const before = keyIdOf(this.#guard);
    const key = this.#key ?? (await newKey());
    const record = await guardKey(key, await make());
    await plainly(async () => {
      const transaction = database.transaction("vault", "readwrite");
      const current = guardOf(await transaction.store.get("guard"));
      if (keyIdOf(current) !== before) {
        transaction.abort();
        await transaction.done.catch(() => undefined);
        throw changedElsewhere("another tab has set a guard");
      }
      await Promise.all([transaction.store.put(record, "guard"), transaction.done]);
    }).finally(() => this.#readGuard());
    this.#key = key;
    this.#tell({ kind: "guard" });
    globalThis.navigator?.storage?.persist?.().catch(() => false); // a wish: the browser may say no
    await this.#keepMemory();
  }

  /** Write this session's conversations to the device. What can't be written stays in memory. */
  async #keepMemory(): Promise<void> {
    for (const conversation of [...this.#memory.values()]) await this.save(conversation);
  }

  async #readGuard(): Promise<void> {
    this.#guard = guardOf(await plainly(async () => this.database?.get("vault", "guard")));
    if (this.#key && this.#key.id !== keyIdOf(this.#guard)) this.#dropKey();
  }

  #dropKey(): void {
    this.#key = undefined;
    this.#versions.clear();
  }

  async #clear(): Promise<void> {
    await plainly(async () => {
      const transaction = this.database?.transaction(["vault", "conversations"], "readwrite");
      const stores = [transaction?.objectStore("vault"), transaction?.objectStore("conversations")];
      await Promise.all([...stores.map((store) => store?.clear()), transaction?.done]);
    });
    await this.#readGuard();
    this.#tell({ kind: "guard" });
  }

  // -- conversations

  /** All conversations, the last changed first. */
  async list(): Promise<readonly Summary[]> {
    const found = new Map<string, Summary>();
    for (const { id, title, changed } of this.#memory.values()) found.set(id, { id, title, changed });
    const damaged: string[] = [];
    const key = this.#key;
    for (const record of key ? await this.#records() : []) {
      const summary = key && (await readSummary(key, record).catch(() => undefined));
      if (summary) found.set(summary.id, summary);
      else damaged.push(String(Object(record).id));
    }
    this.#damaged = damaged;
    return [...found.values()].sort((a, b) => b.changed - a.changed);
  }

  /** The ids of conversations that the last `list` could not read; they can be removed. */
  get damaged(): readonly string[] {
    return this.#damaged;
  }

  /** A conversation, or nothing when there is none of this id; throws `store.record-damaged`. */
  async load(id: string): Promise<Conversation | undefined> {
    const key = this.#key;
    const record = key && (await plainly(async () => this.database?.get("conversations", id)));
    if (!key || record === undefined) {
      this.#versions.delete(id);
      return this.#memory.get(id);
    }
    const conversation = await readConversation(key, record);
    if (isRecord(record)) this.#versions.set(id, record.version);
    return conversation;
  }

  /** Keep a conversation. Throws `store.changed-elsewhere` when another tab has changed or removed it, `store.full` … */
  async save(conversation: Conversation): Promise<void> {
    const kept = structuredClone(conversation);
    const saved = this.#saving.then(() => this.#save(kept));
    this.#saving = saved.catch(() => undefined);
    await saved;
  }

  async #save(conversation: Conversation): Promise<void> {
    const { id, title, changed, messages } = conversation;
    if (!this.#key) {
      this.#memory.set(id, conversation);
      return;
    }
    const before = this.#versions.get(id) ?? 0;
    const record = await sealRecord(this.#key.key, id, before + 1, { title, changed }, messages);
    await this.#put(record, before, this.#key.id);
    this.#memory.delete(id);
    this.#versions.set(id, record.version);
    this.#tell({ kind: "conversation", id });
  }

  async remove(id: string): Promise<void> {
    this.#memory.delete(id);
    this.#versions.delete(id);
    if (!this.#key) return;
    await plainly(async () => this.database?.delete("conversations", id));
    this.#tell({ kind: "conversation", id });
  }

  /** Write a record, unless its predecessor or the data key is not what this tab believes. */
  async #put(record: StoredRecord, before: number, keyId: string): Promise<void> {
    const database = this.#written();
    await plainly(async () => {
      const transaction = database.transaction(["vault", "conversations"], "readwrite");
      const guard = guardOf(await transaction.objectStore("vault").get("guard"));
      const current = await transaction.objectStore("conversations").get(record.id);
      const sameKey = keyIdOf(guard) === keyId;
      if (!sameKey || (isRecord(current) ? current.version : 0) !== before) {
        transaction.abort();
        await transaction.done.catch(() => undefined);
        if (!sameKey) await this.#readGuard();
        throw changedElsewhere(
          sameKey ? "another tab has changed this conversation" : "another tab has changed the guard",
        );
      }
      // A record that is too large for the disk fails here, or when the transaction ends.
      await Promise.all([transaction.objectStore("conversations").put(record), transaction.done]);
    });
  }

  async #records(): Promise<readonly unknown[]> {
    return await plainly(async () => (await this.database?.getAll("conversations")) ?? []);
  }

  #unlocked(): DataKey {
    if (!this.#key) throw locked();
    return this.#key;
  }

  #written(): Database {
    if (!this.database) {
      throw new MitaiError("store.unavailable", "this browser keeps nothing", "a private window may be the reason");
    }
    return this.database;
  }

  // -- other tabs

  /** Be told when another tab has changed something; returns how to stop. */
  watch(listener: (change: Change) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(message: { kind: "guard" } | { kind: "conversation"; id: string }): void {
    this.#channel.postMessage(message);
  }

  async #heard(message: unknown): Promise<void> {
    const { kind, id } = Object(message);
    if (kind === "lock") this.#dropKey();
    if (kind === "guard") await this.#readGuard().catch(() => this.#dropKey());
    const change = kind === "conversation" && typeof id === "string" ? { id } : {};
    for (const listener of this.#listeners) listener(change);
  }
}

function guardOf(record: unknown): GuardRecord | "damaged" | undefined {
  if (record === undefined) return undefined;
  return isGuardRecord(record) ? record : "damaged";
}

function keyIdOf(guard: GuardRecord | "damaged" | undefined): string | undefined {
  return guard === "damaged" ? guard : guard?.keyId;
}

async function readSummary({ key }: DataKey, record: unknown): Promise<Summary> {
  const head: unknown = await openPart(key, record, "head");
  const summary: unknown = { id: Object(record).id, ...Object(head) };
  if (!isSummary(summary)) throw new MitaiError("store.record-damaged", "a conversation's title can't be read");
  return summary;
}

async function readConversation(key: DataKey, record: unknown): Promise<Conversation> {
  const conversation: unknown = {
    ...(await readSummary(key, record)),
    messages: await openPart(key.key, record, "body"),
  };
  if (!isConversation(conversation)) throw new MitaiError("store.record-damaged", "a conversation can't be read");
  return conversation;
}

function locked(): MitaiError {
  return new MitaiError("store.locked", "the conversations on this device are locked", "unlock them first");
}

function changedElsewhere(message: string): MitaiError {
  return new MitaiError("store.changed-elsewhere", message, "it is loaded again; then repeat what you did");
}
