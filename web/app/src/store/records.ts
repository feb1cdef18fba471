/**
 * Records on the device: each sealed by itself, bound to its place and version.
 *
 * Spec: docs/spec/device-storage.md. AES-256-GCM with a random nonce of 96 bits; at most 2^32 records a key.
 *
 * Invariants:
 * - A part of a record opens only as that part, of that conversation, in that version.
 * - Whatever is wrong with a record is `store.record-damaged`; nothing of it is shown.
 */

import { type Bytes, concat, MitaiError, text, utf8 } from "@mitai/verify";

export type Part = "head" | "body";

/** As it lies in the database. */
export interface StoredRecord {
  readonly id: string;
  readonly version: number;
  /** Title and time, sealed: enough for a list. */
  readonly head: Bytes;
  /** The messages, sealed. */
  readonly body: Bytes;
}

const NONCE_BYTES = 12;

export async function sealRecord(
  key: CryptoKey,
  id: string,
  version: number,
  head: unknown,
  body: unknown,
): Promise<StoredRecord> {
  const parts = [seal(key, label("head", id, version), head), seal(key, label("body", id, version), body)] as const;
  const [sealedHead, sealedBody] = await Promise.all(parts);
  return { id, version, head: sealedHead, body: sealedBody };
}

/** Open one part of what lies in the database, which may be anything. */
export async function openPart(key: CryptoKey, record: unknown, part: Part): Promise<unknown> {
  if (!isRecord(record)) throw damaged();
  try {
    return JSON.parse(text(await openBytes(key, record[part], label(part, record.id, record.version))));
  } catch {
    throw damaged();
  }
}

export function isRecord(value: unknown): value is StoredRecord {
  const { id, version, head, body } = Object(value);
  return (
    typeof id === "string" && Number.isSafeInteger(version) && head instanceof Uint8Array && body instanceof Uint8Array
  );
}

/** Nonce ‖ ciphertext ‖ tag. */
export async function sealBytes(key: CryptoKey, data: Bytes, additionalData: Bytes): Promise<Bytes> {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData }, key, data);
  return concat(iv, new Uint8Array(sealed));
}

/** Throws whatever WebCrypto throws when these bytes are not what was sealed. */
export async function openBytes(key: CryptoKey, sealed: Bytes, additionalData: Bytes): Promise<Bytes> {
  const iv = sealed.subarray(0, NONCE_BYTES);
  const data = sealed.subarray(NONCE_BYTES);
  return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, key, data));
}

function seal(key: CryptoKey, additionalData: Bytes, value: unknown): Promise<Bytes> {
  return sealBytes(key, utf8(JSON.stringify(value)), additionalData);
}

function label(part: Part, id: string, version: number): Bytes {
  return utf8(`mitai device record v1\0${part}\0${version}\0${id}`);
}

function damaged(): MitaiError {
  return new MitaiError("store.record-damaged", "a conversation on this device is damaged and can't be read");
}
