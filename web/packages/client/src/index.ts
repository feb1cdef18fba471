/** Verify a machine, then talk to it: sessions, chats and receipts over `@mitai/verify` and `@mitai/channel`. */

export {
  type ChatOptions,
  type Completed,
  chat,
  completion,
  type Delta,
  type End,
  type Message,
  models,
  type Usage,
} from "./chat.ts";
export { bounded, errorFrom, type Fetch, get, pieces, post, refusal } from "./http.ts";
export { type CheckpointStore, LedgerMemory, ledgerFetcher } from "./ledger.ts";
export { type Answered, checkProof, fetchReceipt, MAX_PROOF_BYTES, Proof } from "./receipts.ts";
export { EVIDENCE_PATH, type Options, Session, type Verified, webAddress, withOffered } from "./session.ts";
export { View } from "./view.ts";
