/**
 * Signed notes, log checkpoints and witness cosignatures.
 *
 * Follows C2SP signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519 (signature types 0x01 and 0x04) alone.
 * Port of the reading half of `mitai/ledger/note.py`.
 *
 * Invariants:
 * - A note's text is used only after a trusted key's signature over it has verified (`verifyCheckpoint`).
 * - A signature with a trusted key's name and id that does not verify spoils the whole note; unknown keys are ignored.
 * - The origin of a checkpoint is the name of the log's key, so that one log's checkpoint never stands in for another's.
 * - Numbers and base64 have one spelling: leading zeros, stray bits and control characters are refused.
 *
 * Example: `const { size, root } = await verifyCheckpoint(note, claims.ledger.vkey);`
 */

import { type Bytes, equal, fromBase64, hex, sha256, text, utf8 } from "../bytes.ts";
import { refusing } from "../checks.ts";
import { PublicKey } from "../dsse.ts";
import { MitaiError } from "../errors.ts";
import { EMPTY_ROOT, HASH_BYTES, MAX_SIZE } from "./tree.ts";

const ED25519 = 0x01;
const COSIGNATURE = 0x04;
const MAX_NOTE_BYTES = 128 << 10;
const MAX_SIGNATURES = 64;
const VKEY_MALFORMED = "ledger.vkey-malformed";
const CHECKPOINT_MALFORMED = "ledger.checkpoint-malformed";

/** One signature line. */
export interface NoteSignature {
  readonly name: string;
  /** 4 bytes. */
  readonly keyId: Bytes;
  readonly signature: Bytes;
}

/** A parsed note; nothing in it is trusted yet. */
export interface Note {
  /** Ends with a newline. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
}

/** Who may sign: a name, a signature type and an Ed25519 key. */
export interface VerifierKey {
  readonly name: string;
  readonly kind: number;
  readonly publicKey: PublicKey;
  /** The first 4 bytes of SHA-256(name ‖ newline ‖ type ‖ key). */
  readonly keyId: Bytes;
}

/** A witness saw this checkpoint, consistent with all that it saw before. */
export interface Cosignature {
  readonly witness: string;
  /** POSIX time. */
  readonly timeS: bigint;
}

/** What a log says about itself: its tree's size and root. */
export interface Checkpoint {
  readonly origin: string;
  readonly size: bigint;
  readonly root: Bytes;
  readonly extensions: readonly string[];
  readonly cosignatures: readonly Cosignature[];
}

/** Parse a verifier key; throw unless it is an Ed25519 key of one of the two known types. */
export async function parseVkey(vkey: string): Promise<VerifierKey> {
  const [, name, id, encoded] = /^([^+]*)\+([^+]*)\+(.*)$/su.exec(vkey) ?? [];
  if (name === undefined || encoded === undefined) {
    throw new MitaiError(VKEY_MALFORMED, "a verifier key is NAME+HASH+KEY");
  }
  const raw = decodeBase64(encoded, VKEY_MALFORMED);
  const kind = raw[0] ?? 0;
  if (raw.length !== 33 || ![ED25519, COSIGNATURE].includes(kind)) {
    throw new MitaiError(VKEY_MALFORMED, "only Ed25519 keys of type 1 (notes) and 4 (cosignatures) are known");
  }
  checkName(name);
  const publicKey = new PublicKey(raw.slice(1));
  const keyId = (await sha256(utf8(`${name}\n`), raw)).slice(0, 4);
  if (hex(keyId) !== id) throw new MitaiError(VKEY_MALFORMED, "the key id does not fit the key");
  return { name, kind, publicKey, keyId };
}

/** Parse a signed note; throw on anything else, above 128 KiB or with more than 64 signatures. */
export function parseNote(data: Bytes): Note {
  if (data.length > MAX_NOTE_BYTES) {
    throw malformed(`a note of ${data.length} bytes is above the limit of ${MAX_NOTE_BYTES}`);
  }
  const whole = refusing("ledger.note-malformed", "a note is UTF-8", () => text(data));
  if ([...whole].some((letter) => letter !== "\n" && isControl(letter))) {
    throw malformed("a note holds no control characters");
  }
  const blank = whole.lastIndexOf("\n\n");
  const tail = whole.slice(blank + 2);
  if (blank < 1 || !tail.endsWith("\n")) throw malformed("a note is a text, an empty line and signature lines");
  const lines = tail.slice(0, -1).split("\n");
  if (lines.length > MAX_SIGNATURES) {
    throw malformed(`${lines.length} signatures are above the limit of ${MAX_SIGNATURES}`);
  }
  return { text: whole.slice(0, blank + 1), signatures: lines.map(parseSignature) };
}

/** Parse a checkpoint's text (unverified); throw on anything else. */
export function parseCheckpoint(written: string): Checkpoint {
  const [origin, size, root, ...extensions] = written.slice(0, -1).split("\n");
  const isWhole = written.endsWith("\n") && origin && size && root && extensions.every(Boolean);
  if (!isWhole) throw new MitaiError(CHECKPOINT_MALFORMED, "a checkpoint is an origin, a size and a root, a line each");
  if (!/^(?:0|[1-9][0-9]{0,19})$/.test(size)) {
    throw new MitaiError(CHECKPOINT_MALFORMED, "a number is written in decimal, without leading zeros");
  }
  const decoded = decodeBase64(root, CHECKPOINT_MALFORMED);
  if (decoded.length !== HASH_BYTES || BigInt(size) > MAX_SIZE) {
    throw new MitaiError(CHECKPOINT_MALFORMED, "a checkpoint's root has 32 bytes and its size is below 2**62");
  }
  return { origin, size: BigInt(size), root: decoded, extensions, cosignatures: [] };
}

/**
 * Return what the log with verifier key `log` signed, cosigned by at least `threshold` different `witnesses`.
 *
 * Throws when the bytes are no checkpoint, a signature is missing or wrong, or the origin is another's.
 */
export async function verifyCheckpoint(
  data: Bytes,
  log: string,
  witnesses: readonly string[] = [],
  threshold = 0,
): Promise<Checkpoint> {
  const note = parseNote(data);
  const key = await parseVkey(log);
  // 1. the log's own signature
  if (key.kind !== ED25519) {
    throw new MitaiError("ledger.vkey-type", "a log's verifier key has type 1", "", "log key");
  }
  const own = signaturesBy(note, key);
  for (const signature of own) await check(key, utf8(note.text), signature);
  if (!own.length) {
    throw new MitaiError(
      "ledger.checkpoint-unsigned",
      `the log ${JSON.stringify(key.name)} did not sign this checkpoint`,
      "",
      "log key",
    );
  }
  // 2. it is this log's checkpoint, and an empty tree has the empty root
  const checkpoint = parseCheckpoint(note.text);
  if (checkpoint.origin !== key.name) {
    throw new MitaiError(
      "ledger.origin-mismatch",
      `the checkpoint is not of the log ${JSON.stringify(key.name)}`,
      "",
      "origin",
    );
  }
  if (checkpoint.size === 0n && !equal(checkpoint.root, EMPTY_ROOT)) {
    throw new MitaiError("ledger.root-invalid", "an empty log has one root only", "", "root");
  }
  // 3. the witnesses, each key counted once
  const cosignatures = await cosignaturesOf(note, witnesses);
  if (cosignatures.length < threshold) {
    throw new MitaiError(
      "ledger.witnesses-missing",
      `${cosignatures.length} trusted witnesses cosigned, ${threshold} must`,
      "fetch a checkpoint with more cosignatures, or ask the log's operator",
      "witnesses",
    );
  }
  return Object.freeze({ ...checkpoint, cosignatures });
}

async function cosignaturesOf(note: Note, witnesses: readonly string[]): Promise<readonly Cosignature[]> {
  const found = new Map<string, Cosignature>();
  for (const witness of witnesses) {
    const key = await parseVkey(witness);
    if (key.kind !== COSIGNATURE) {
      throw new MitaiError("ledger.vkey-type", "a witness's verifier key has type 4", "", "witnesses");
    }
    for (const signature of signaturesBy(note, key)) {
      if (signature.length !== 72 || (signature[0] ?? 0) > 0x7f) throw badSignature(key);
      const timeS = new DataView(signature.buffer, signature.byteOffset).getBigUint64(0);
      await check(key, utf8(`cosignature/v1\ntime ${timeS}\n${note.text}`), signature.slice(8));
      found.set(hex(key.publicKey.raw), { witness: key.name, timeS });
    }
  }
  return [...found.values()];
}

function signaturesBy({ signatures }: Note, { name, keyId }: VerifierKey): readonly Bytes[] {
  const own = signatures.filter((found) => found.name === name && equal(found.keyId, keyId));
  return own.map(({ signature }) => signature);
}

async function check(key: VerifierKey, message: Bytes, signature: Bytes): Promise<void> {
  if (!(await key.publicKey.signed(message, signature))) throw badSignature(key);
}

function badSignature({ name }: VerifierKey): MitaiError {
  return new MitaiError(
    "ledger.signature-invalid",
    `the signature in the name of ${JSON.stringify(name)} does not verify`,
    "the note was changed or forged: do not trust it",
    "signature",
  );
}

function parseSignature(line: string): NoteSignature {
  const [, name, encoded] = /^— ([^ ]*) (.*)$/su.exec(line) ?? [];
  if (name === undefined || encoded === undefined) {
    throw malformed("a signature line is a dash, a name and a signature");
  }
  const raw = decodeBase64(encoded, "ledger.note-malformed");
  if (raw.length < 5) throw malformed("a signature line is a dash, a name and a signature");
  checkName(name);
  return { name, keyId: raw.slice(0, 4), signature: raw.slice(4) };
}

function decodeBase64(encoded: string, code: string): Bytes {
  return refusing(code, "base64 has one spelling, and this is not it", () => fromBase64(encoded));
}

function checkName(name: string): void {
  const letters = [...name];
  // White space as Python knows it: U+FEFF is none.
  const spoiled = letters.some((letter) => isControl(letter) || (/[\s+\u0085]/.test(letter) && letter !== "\ufeff"));
  if (!letters.length || letters.length > 256 || spoiled) {
    throw malformed("a key's name has 1 to 256 characters, none of them a space, a plus or a control character");
  }
}

function isControl(letter: string): boolean {
  return letter < " " || letter === "\x7f";
}

function malformed(why: string): MitaiError {
  return new MitaiError("ledger.note-malformed", why);
}
