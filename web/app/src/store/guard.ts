/**
 * The guard: what the data key is wrapped with, so that the device's disk alone opens nothing.
 *
 * Spec: docs/spec/device-storage.md.
 *
 * Invariants:
 * - A data key is random, made once; another guard wraps the same key again.
 * - The wrapping covers the guard's kind and all of its parameters.
 * - A wrong passphrase and a guard that was changed look the same: they open nothing.
 *
 * Example:
 *     const { record, key } = await newKey(await passphraseGuard("correct horse …"));
 *     await openKey(record, "correct horse …", webAuthn);
 */

import { type Bytes, hex, MitaiError, utf8 } from "@mitai/verify";
import type { Passkeys } from "./passkey.ts";
import { openBytes, sealBytes } from "./records.ts";

export const ITERATIONS = 600_000;
const MAX_ITERATIONS = 10_000_000;
const WRAP_LABEL = "mitai device key v1";
const PASSKEY_LABEL = utf8("mitai device passkey v1");

type Parameters =
  | { readonly kind: "passphrase"; readonly salt: Bytes; readonly iterations: number }
  | { readonly kind: "passkey"; readonly salt: Bytes; readonly credentialId: Bytes };

/** As it lies in the database. */
export interface GuardRecord {
  /** A random name of the data key: another tab may have made another one. */
  readonly keyId: string;
  readonly guard: Parameters;
  readonly wrapped: Bytes;
}

export interface DataKey {
  readonly id: string;
  readonly key: CryptoKey;
}

/** A guard that is not yet wrapped around anything. */
export interface Guard {
  readonly parameters: Parameters;
  readonly wrapping: CryptoKey;
}

export async function passphraseGuard(passphrase: string): Promise<Guard> {
  const parameters = { kind: "passphrase", salt: random(16), iterations: ITERATIONS } as const;
  return { parameters, wrapping: await fromPassphrase(passphrase, parameters) };
}

export async function passkeyGuard(passkeys: Passkeys): Promise<Guard> {
  const salt = random(32);
  const { credentialId, secret } = await passkeys.create(salt);
  return { parameters: { kind: "passkey", salt, credentialId }, wrapping: await fromPasskey(secret, salt) };
}

export async function newKey(): Promise<DataKey> {
  const key = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt", "decrypt"]);
  return { id: hex(random(16)), key };
}

/** Wrap a data key with a guard. */
export async function guardKey({ id, key }: DataKey, { parameters, wrapping }: Guard): Promise<GuardRecord> {
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", key));
  return { keyId: id, guard: parameters, wrapped: await sealBytes(wrapping, raw, wrapLabel(id, parameters)) };
}

/** Unwrap the data key: with the passphrase, or by asking for the passkey. */
export async function openKey(record: GuardRecord, passphrase: string, passkeys: Passkeys): Promise<DataKey> {
  const { keyId: id, guard, wrapped } = record;
  const wrapping =
    guard.kind === "passphrase"
      ? await fromPassphrase(passphrase, guard)
      : await fromPasskey(await passkeys.open(guard.credentialId, guard.salt), guard.salt);
  try {
    const raw = await openBytes(wrapping, wrapped, wrapLabel(id, guard));
    return { id, key: await crypto.subtle.importKey("raw", raw, "AES-GCM", true, ["encrypt", "decrypt"]) };
  } catch {
    throw new MitaiError(
      `store.${guard.kind}-wrong`,
      `this ${guard.kind} does not open the conversations on this device`,
      "try again; without it they can only be deleted",
    );
  }
}

export function isGuardRecord(value: unknown): value is GuardRecord {
  const { keyId, guard, wrapped } = Object(value);
  const { kind, salt, iterations, credentialId } = Object(guard);
  const fits =
    kind === "passphrase"
      ? Number.isInteger(iterations) && iterations >= ITERATIONS && iterations <= MAX_ITERATIONS
      : kind === "passkey" && credentialId instanceof Uint8Array;
  return fits && typeof keyId === "string" && salt instanceof Uint8Array && wrapped instanceof Uint8Array;
}

async function fromPassphrase(passphrase: string, { salt, iterations }: { salt: Bytes; iterations: number }) {
  if (passphrase === "") throw new MitaiError("store.passphrase-empty", "a passphrase is needed");
  // Two keyboards may spell one letter in two ways.
  const base = await crypto.subtle.importKey("raw", utf8(passphrase.normalize("NFKC")), "PBKDF2", false, ["deriveKey"]);
  return await wrappingKey({ name: "PBKDF2", hash: "SHA-256", salt, iterations }, base);
}

async function fromPasskey(secret: Bytes, salt: Bytes): Promise<CryptoKey> {
  const base = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveKey"]);
  return await wrappingKey({ name: "HKDF", hash: "SHA-256", salt, info: PASSKEY_LABEL }, base);
}

function wrappingKey(algorithm: Pbkdf2Params | HkdfParams, base: CryptoKey): Promise<CryptoKey> {
  return crypto.subtle.deriveKey(algorithm, base, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
}

function wrapLabel(id: string, guard: Parameters): Bytes {
  const parameters = guard.kind === "passphrase" ? String(guard.iterations) : hex(guard.credentialId);
  return utf8([WRAP_LABEL, id, guard.kind, hex(guard.salt), parameters].join("\0"));
}

function random(size: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(size));
}
