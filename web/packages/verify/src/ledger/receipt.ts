/**
 * Receipts: a replica's signed statement about one exchange, and the proof that the ledger holds it.
 *
 * A receipt is canonical JSON in a DSSE envelope, signed by the receipt key of the replica's attested claims. The
 * ledger's entry holds SHA-256("mitai receipt digest v1" ‖ 0x00 ‖ envelope). `docs/spec/receipt.md` has the format. Port
 * of the checking half of `mitai/ledger/receipt.py`. A receipt of version 2 also lists assurances of other tiers, and may
 * be of a service without hardware.
 *
 * Invariants:
 * - Request and answer are named by the SHA-256 of their ciphertext as it was on the wire.
 * - A bundle is checked offline: envelope, entry, inclusion proof and checkpoint travel together.
 * - A receipt does not say whether the machine was simulated: that is for the verifier of its evidence to say.
 * - A receipt of a service without hardware says so (`evidence_sha256` is null), and `verifyReceipt` refuses it.
 *
 * Example: `await verifyReceipt(ReceiptBundle.decode(bytes), { receiptKey, ledgerVkey, requestSha256, responseSha256 });`
 */

import { type Bytes, fromBase64, hex, sha256, utf8 } from "../bytes.ts";
import { decodeEnvelope, openEnvelope, type PublicKey } from "../dsse.ts";
import { MitaiError } from "../errors.ts";
import {
  array,
  type Decoded,
  decodeCanonical,
  integer,
  type Json,
  JsonObject,
  nullable,
  oneOf,
  string,
  struct,
} from "../json.ts";
import { type AssuranceOf, type Assurances, assurances, type Tier } from "./assurance.ts";
import { count, decodeEntry, digest, digests, id, name, time } from "./entry.ts";
import { verifyCheckpoint } from "./note.ts";
import { MAX_PROOF_HASHES, verifyInclusion } from "./proof.ts";
import { leafHash } from "./tree.ts";

const PAYLOAD_TYPE = "application/vnd.mitai.receipt+json";
const MAX_RECEIPT_BYTES = 64 << 10;
const MAX_BUNDLE_BYTES = 1 << 20;

const capsules = array(struct({ id, manifest_sha256: digest }), 0, 64);

const members = {
  exchange: id,
  request_sha256: digest, // of the ciphertext on the wire
  response_sha256: digest, // of the ciphertext on the wire
  model: name,
  capsules,
  adapters: capsules,
  policies: digests,
  usage: struct({ prompt_tokens: count, completion_tokens: count }),
  started: time,
  finished: time,
};

const versions = {
  /** Of evidence, and nothing else. */
  "mitai receipt v1": struct({ v: oneOf("mitai receipt v1"), ...members, evidence_sha256: digest }),
  /** Of other tiers, and of evidence where there is hardware. */
  "mitai receipt v2": struct({
    v: oneOf("mitai receipt v2"),
    ...members,
    evidence_sha256: nullable(digest),
    assurances,
  }),
};

/** What a replica says about one exchange. */
export interface Receipt extends Omit<Decoded<(typeof versions)["mitai receipt v2"]>, "v"> {
  readonly v: keyof typeof versions;
  /** What it promises beside evidence, or in its place. */
  readonly assurances: Assurances;
}

function receipt(value: Json): Receipt {
  const named = value instanceof JsonObject && value.members.find(([name]) => name === "v")?.[1];
  const v = oneOf("mitai receipt v1", "mitai receipt v2")(named || null);
  return Object.freeze({ assurances: [], ...versions[v](value) });
}

const bundle = struct({
  v: oneOf("mitai receipt bundle v1"),
  envelope: base64, // the signed receipt, exact bytes
  entry: base64, // the ledger entry, exact bytes
  index: integer(0),
  proof: array(hash, 0, MAX_PROOF_HASHES),
  checkpoint: string, // a signed note
});

/** Bytes in canonical base64. */
function base64(value: Json): Bytes {
  return fromBase64(string(value));
}

function hash(value: Json): Bytes {
  const decoded = base64(value);
  if (decoded.length !== 32) throw new RangeError("a hash has 32 bytes");
  return decoded;
}

/** A receipt with all that its check needs: what a client keeps in a file. */
export type ReceiptBundle = Decoded<typeof bundle>;

export const ReceiptBundle = {
  /** Parse a bundle; throw on anything else or above 1 MiB. */
  decode(data: Bytes): ReceiptBundle {
    const code = "ledger.receipt-bundle-malformed";
    if (data.length > MAX_BUNDLE_BYTES) {
      throw new MitaiError(code, `a receipt bundle of ${data.length} bytes is above the limit`);
    }
    return decodeCanonical(data, bundle, code, "these bytes are no receipt bundle");
  },
};

/** Return the receipt that `receiptKey` signed; throw otherwise. */
async function openReceipt(envelope: Bytes, receiptKey: PublicKey): Promise<Receipt> {
  const code = "ledger.receipt-malformed";
  if (envelope.length > MAX_RECEIPT_BYTES) {
    throw new MitaiError(code, `a receipt of ${envelope.length} bytes is above the limit`);
  }
  const payload = await openEnvelope(decodeEnvelope(envelope), PAYLOAD_TYPE, receiptKey);
  return decodeCanonical(payload, receipt, code, "these bytes are no receipt");
}

/** Return the digest of a signed receipt that the ledger holds. */
export async function receiptSha256(envelope: Bytes): Promise<string> {
  return hex(await sha256(utf8("mitai receipt digest v1\0"), envelope));
}

export interface ReceiptOptions {
  /** From verified claims, never from the bundle. */
  readonly receiptKey: PublicKey;
  /** From verified claims or a policy, never from the bundle. */
  readonly ledgerVkey: string;
  /** Digest of the request's ciphertext, in hex. */
  readonly requestSha256?: string | undefined;
  /** Digest of the answer's ciphertext, in hex. */
  readonly responseSha256?: string | undefined;
  /** Verifier keys of trusted witnesses. */
  readonly witnesses?: readonly string[];
  /** How many of them must have cosigned. */
  readonly threshold?: number;
}

/**
 * Return the receipt of a machine with evidence when all of these hold; throw at the first that does not.
 *
 * 1. The envelope is signed by the receipt key of the attested claims, and is a receipt that names evidence.
 * 2. It is about this request and this answer, where the caller knows them.
 * 3. The ledger's entry is about this receipt.
 * 4. The checkpoint is signed by the ledger, and cosigned by enough witnesses.
 * 5. The entry is in the tree of that checkpoint, at the index that the bundle says.
 */
export async function verifyReceipt(
  { envelope, entry, index, proof, checkpoint: note }: ReceiptBundle,
  { receiptKey, ledgerVkey, requestSha256, responseSha256, witnesses = [], threshold = 0 }: ReceiptOptions,
): Promise<Receipt> {
  // 1. the envelope
  const opened = await openReceipt(envelope, receiptKey);
  if (opened.evidenceSha256 === null) {
    throw refused("ledger.receipt-unattested", "this receipt is of a service without hardware", "envelope");
  }
  // 2. the exchange
  checkBytes(opened, requestSha256, responseSha256);
  // 3. the entry
  const logged = decodeEntry(entry);
  if (logged.type !== "receipt" || logged.exchange !== opened.exchange) {
    throw refused("ledger.receipt-entry", "the ledger's entry is not about this exchange", "entry");
  }
  if (logged.receiptSha256 !== (await receiptSha256(envelope))) {
    throw refused("ledger.receipt-entry", "the ledger's entry is about other bytes", "entry");
  }
  // 4. the checkpoint
  const { size, root } = await verifyCheckpoint(utf8(note), ledgerVkey, witnesses, threshold);
  // 5. inclusion
  await verifyInclusion(await leafHash(entry), BigInt(index), size, proof, root);
  return opened;
}

export interface AssuredOptions extends Pick<ReceiptOptions, "requestSha256" | "responseSha256"> {
  /** Pinned by the caller, or from verified claims; never from what came with the receipt. */
  readonly receiptKey: PublicKey;
}

/**
 * Return a receipt and its assurance of one tier when all of these hold; hardware is none of them.
 *
 * 1. The envelope is signed by the service's key, and is a receipt.
 * 2. It is about this request and this answer, where the caller knows them.
 * 3. It names an assurance of this tier, which is a promise: what it names is checked by the tier's own means.
 */
export async function verifyAssured<T extends Tier>(
  envelope: Bytes,
  tier: T,
  { receiptKey, requestSha256, responseSha256 }: AssuredOptions,
): Promise<{ receipt: Receipt; assurance: AssuranceOf<T> }> {
  // 1. the envelope
  const receipt = await openReceipt(envelope, receiptKey);
  // 2. the exchange
  checkBytes(receipt, requestSha256, responseSha256);
  // 3. the tier
  const assurance = receipt.assurances.find((one): one is AssuranceOf<T> => one.tier === tier);
  if (!assurance) throw refused("ledger.receipt-assurance", `this receipt says nothing of ${tier}`, "tier");
  return { receipt, assurance };
}

function checkBytes(receipt: Receipt, requestSha256?: string, responseSha256?: string): void {
  if (requestSha256 !== undefined && receipt.requestSha256 !== requestSha256) {
    throw refused("ledger.receipt-request", "this receipt is about another request", "exchange");
  }
  if (responseSha256 !== undefined && receipt.responseSha256 !== responseSha256) {
    throw refused("ledger.receipt-response", "this receipt is about another answer", "exchange");
  }
}

function refused(code: string, why: string, step: string): MitaiError {
  return new MitaiError(code, why, "", step);
}
