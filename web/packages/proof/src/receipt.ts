/**
 * What a service signs for each answer, before anybody knows whether it will be proven.
 *
 * Follows docs/spec/proof-service.md ("Receipt"). Port of the checking half of `mitai/proof/service/receipts.py`.
 *
 * Invariants:
 * - Key, identity and model's name are from elsewhere, never from the service.
 * - A receipt has one encoding and one signature, and is about the tokens beside it, under the answer's secret id.
 * - A receipt proves nothing of the model: it says which proof is owed.
 *
 * Example: `await checkReceipt(envelope, key, { id: "chatcmpl-5f…", prompt, answer }, known);`
 */
import { type Bytes, base64, hex, type PublicKey, type Receipt, text, utf8, verifyAssured } from "@mitai/verify";
import { array, bytes, decodeJson, string, struct } from "@mitai/verify/json";
import { sha256 } from "@noble/hashes/sha2.js";
import type { Said } from "./answer.ts";
import { refuse } from "./errors.ts";

const SCHEME = 1; // of traces

/** What is known of a service beforehand. */
export interface Known {
  /** The model's name in the API. */
  readonly model: string;
  readonly identity: string;
  /** Receipts have no root of the answer's trace. */
  readonly unaudited: boolean;
}

const envelopeOf = struct({
  payload: bytes,
  payloadType: string,
  signatures: array(struct({ sig: bytes, keyid: string }), 1, 1),
});

/** Return the receipt of an answer whose proof is made on demand; throw unless it is this service's, about this answer. */
export async function checkReceipt(
  envelope: Bytes,
  receiptKey: PublicKey,
  { id, prompt, answer }: Said & { readonly id: string },
  { model, identity, unaudited }: Known,
): Promise<Receipt> {
  const { receipt, assurance } = await verifyAssured(envelope, "proof", { receiptKey });
  const { payload, payloadType, signatures } = decodeJson(envelope, envelopeOf, CODE, "it is no receipt of a service");
  const [signature] = signatures;
  const parts = { payload: base64(payload), payloadType, signatures: [] as unknown[] };
  if (signature) parts.signatures.push({ sig: base64(signature.sig), keyid: await receiptKey.keyId() });
  if (JSON.stringify(parts) !== text(envelope)) differs("it is not in its one encoding");
  const named = [receipt.exchange, receipt.requestSha256, receipt.responseSha256];
  const exchange = hex(sha256(utf8(`mitai exchange v1\0${id}`))).slice(0, 32);
  const own = [exchange, digest("mitai proof prompt v1", id, prompt), digest("mitai proof tokens v1", id, answer)];
  if (named.some((one, at) => one !== own[at])) differs("it is about another answer");
  if (receipt.model !== model || assurance.identity !== identity) differs("it is about another model");
  if (receipt.evidenceSha256 !== null || assurance.promise !== "on-demand") differs("it promises something else");
  const traced = receipt.assurances.find((one) => one.tier === "commit-and-audit");
  if (traced ? traced.identity !== identity || traced.scheme !== SCHEME : !unaudited) {
    differs("it has no root of the answer's trace, or of another model's");
  }
  return receipt;
}

const CODE = "proof.receipt-differs";

function digest(label: string, id: string, tokens: readonly number[]): string {
  const words = new DataView(new ArrayBuffer(4 * tokens.length));
  tokens.forEach((token, at) => {
    words.setUint32(4 * at, token, true);
  });
  const hash = sha256.create().update(utf8(`${label}\0${id}\0`));
  return hex(hash.update(new Uint8Array(words.buffer)).digest() as Bytes);
}

function differs(why: string): never {
  const hint = "don't rely on this answer; ask the service's operator";
  return refuse(CODE, `the receipt does not fit: ${why}`, "receipt", hint);
}
