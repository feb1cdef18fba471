/**
 * A user's proof of an answer: the receipt, its place in the ledger, and the evidence of the machine that signed it.
 *
 * Port of `mitai/client/receipts.py`; a kept proof has the same JSON form, and either side checks it offline.
 *
 * Invariants:
 * - The receipt's key and the ledger's key come from the evidence, which is verified first; never from the receipt.
 * - The digests of request and answer are those that this device computed from the bytes it sent and received.
 * - A proof can't be dated back: the receipt was logged within a day of the time for which the evidence is verified.
 *
 * Example:
 *     const proof = await fetchReceipt(session, end);       // the last delta of `chat`
 *     const { receipt } = await checkProof(proof, session.policy);
 */

import {
  type Appraisal,
  type Bytes,
  base64,
  decodeEntry,
  Evidence,
  MitaiError,
  type Policy,
  PublicKey,
  type Receipt,
  ReceiptBundle,
  text,
  utf8,
  verify,
  verifyReceipt,
} from "@mitai/verify";
import {
  bytes,
  canonical,
  type Decoder,
  decodeJson,
  moment,
  oneOf,
  optional,
  string,
  struct,
} from "@mitai/verify/json";
import type { End } from "./chat.ts";
import { errorFrom } from "./http.ts";
import { type Session, withOffered } from "./session.ts";
import { View } from "./view.ts";

export const MAX_PROOF_BYTES = 12 << 20;
const MAX_GAP_MS = 86_400_000; // a session, a long answer, a ledger that was away for a while, clocks that differ
const MAX_BUNDLE_BYTES = 1 << 20;
const LABEL = "mitai proof v1";

/** What a user keeps of one exchange. */
export interface Proof {
  readonly bundle: ReceiptBundle;
  readonly evidence: Evidence;
  readonly nonce: Bytes;
  readonly verifiedAt: Date;
  readonly requestSha256: string;
  readonly responseSha256: string;
  /** The JSON form: what is kept in a file. */
  readonly json: string;
}

const proof = struct({
  v: optional(oneOf(LABEL), LABEL),
  bundle: inner((data) => ReceiptBundle.decode(data)),
  evidence: inner((data) => Evidence.decode(data)),
  nonce: bytes,
  verified_at: moment,
  request_sha256: string,
  response_sha256: string,
});

/** A value that has its own parser. */
function inner<T>(decode: (data: Bytes) => T): Decoder<T> {
  return (value) => decode(utf8(canonical(value)));
}

export const Proof = {
  /** Parse a kept proof; throw on anything else or above 12 MiB. */
  decode(data: Bytes): Proof {
    if (data.length > MAX_PROOF_BYTES) {
      throw new MitaiError("client.proof-too-large", `a proof of ${data.length} bytes is above the limit`);
    }
    try {
      const { v: _, ...read } = decodeJson(data, proof, "client.proof-malformed", "not a proof");
      return Object.freeze({ ...read, json: text(data) });
    } catch (error) {
      if (!(error instanceof MitaiError) || error.code === "attest.evidence-version-unsupported") throw error;
      throw new MitaiError("client.proof-malformed", "this file is not a proof that mitai has kept");
    }
  },
};

/** What a receipt is fetched with: the end of an answer. */
export type Answered = Pick<End, "exchange" | "verified">;

/**
 * Fetch the receipt of an exchange, through the sealed channel, and put it together with the evidence.
 *
 * Throws `serve.receipt-pending`, `client.no-receipt` … when the replica has no such receipt, or none yet after `waitMs`.
 */
export async function fetchReceipt(
  session: Session,
  { exchange, verified }: Answered,
  { waitMs = 10_000, signal }: { readonly waitMs?: number; readonly signal?: AbortSignal } = {},
): Promise<Proof> {
  const { requestSha256, responseSha256 } = exchange;
  if (!requestSha256 || !responseSha256) {
    throw new MitaiError("client.answer-unfinished", "an answer that did not end has no receipt");
  }
  const view = new View(session, verified);
  const deadline = performance.now() + waitMs;
  for (;;) {
    const { status, body } = await view.get(
      `/v1/receipts/${encodeURIComponent(exchange.id)}`,
      MAX_BUNDLE_BYTES,
      signal,
    );
    if (status === 200) {
      const bundle = body ?? utf8("");
      ReceiptBundle.decode(bundle);
      return Proof.decode(
        utf8(`{
  "v": "${LABEL}",
  "bundle": ${text(bundle)},
  "evidence": ${text(verified.evidenceBytes)},
  "nonce": "${base64(verified.nonce)}",
  "verified_at": "${verified.verifiedAt.toISOString()}",
  "request_sha256": "${requestSha256}",
  "response_sha256": "${responseSha256}"
}`),
      );
    }
    if (![202, 404, 503].includes(status) || performance.now() > deadline) {
      throw errorFrom(status, body, "client.no-receipt", "the replica");
    }
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

/**
 * Check a kept proof, offline.
 *
 * 1. The evidence held under `policy` when the exchange took place.
 * 2. The receipt is signed by the key in that evidence and is about these bytes.
 * 3. The ledger that the evidence names holds it, at the index that the receipt's bundle says.
 * 4. It is about a capsule that the evidence lists as open.
 * 5. It was logged around the time for which the evidence was verified: old collateral serves no new answers.
 *
 * Throws the first thing that does not hold.
 */
export async function checkProof(
  { bundle, evidence, nonce, verifiedAt, requestSha256, responseSha256 }: Proof,
  policy: Policy,
  releases: readonly Bytes[] = [],
): Promise<{ receipt: Receipt; appraisal: Appraisal }> {
  // 1. the machine
  const rules = await withOffered(policy, releases, verifiedAt);
  const appraisal = await verify(evidence, rules, { nonce, now: verifiedAt });
  const { ledger, receiptKey, capsules } = appraisal.claims;
  if (!ledger || !receiptKey.length) {
    throw refused("client.no-receipt-key", "the machine's claims name no receipt key or no ledger", "machine");
  }
  // 2, 3. the receipt and its place in the ledger
  const receipt = await verifyReceipt(bundle, {
    receiptKey: new PublicKey(receiptKey),
    ledgerVkey: ledger.vkey,
    requestSha256,
    responseSha256,
  });
  // 4. the model
  const open = new Set(capsules.map(({ id, manifestSha256 }) => JSON.stringify([id, manifestSha256])));
  const named = [...receipt.capsules, ...receipt.adapters];
  if (!named.every(({ id, manifestSha256 }) => open.has(JSON.stringify([id, manifestSha256])))) {
    throw refused("client.receipt-capsule", "the receipt names a model or adapter that was not open there", "model");
  }
  // 5. the time
  const logged = new Date(decodeEntry(bundle.entry).time);
  if (Math.abs(logged.getTime() - verifiedAt.getTime()) > MAX_GAP_MS) {
    const [at, machineAt] = [logged, verifiedAt].map((time) => time.toISOString());
    throw refused(
      "client.receipt-time",
      `the receipt was logged at ${at}, the machine verified at ${machineAt}`,
      "time",
    );
  }
  return { receipt, appraisal };
}

function refused(code: string, message: string, step: string): MitaiError {
  return new MitaiError(code, message, "", step);
}
