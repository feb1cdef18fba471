/** The database on the device, and its errors in our words. */

import { MitaiError } from "@mitai/verify";
import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { GuardRecord } from "./guard.ts";
import type { StoredRecord } from "./records.ts";

// What is read may have been damaged: `unknown` until it was looked at.
interface Schema extends DBSchema {
  vault: { key: "guard"; value: GuardRecord | unknown };
  conversations: { key: string; value: StoredRecord | unknown };
}

export type Database = IDBPDatabase<Schema>;

export async function openDatabase(name: string): Promise<Database> {
  return await plainly(() =>
    openDB<Schema>(name, 1, {
      upgrade(database) {
        database.createObjectStore("vault");
        database.createObjectStore("conversations", { keyPath: "id" });
      },
      blocking: (_current, _blocked, event) => {
        if (event.target instanceof IDBDatabase) event.target.close(); // a newer page wants another layout
      },
    }),
  );
}

/** Run something on the database; what it throws says what to do. */
export async function plainly<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof MitaiError) throw error;
    const name = error instanceof DOMException ? error.name : "";
    if (name === "QuotaExceededError") {
      throw new MitaiError(
        "store.full",
        "this device has no space left for the conversation; nothing else was lost",
        "delete old conversations, or free space",
      );
    }
    throw new MitaiError(
      "store.unavailable",
      `this browser's storage can't be used${name && ` (${name})`}`,
      "reload the page; a private window may keep nothing",
    );
  }
}
