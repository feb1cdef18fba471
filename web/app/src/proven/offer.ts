/**
 * Which service of answers with a proof this page is for: what the link pins, what this device knew before.
 *
 * Follows docs/spec/proof-service.md ("In the browser").
 *
 * - An offer is used only if the link, or this device, has the SHA-256 of its text. The host's word counts for nothing.
 * - Where this device knew this address as something else, it asks: a link must not make a confidential chat an open one.
 */
import type { Template } from "@mitai/proof";
import { type Bytes, hex, MitaiError, sha256, utf8 } from "@mitai/verify";
import { boolean, decodeJson, oneOf, pattern, string, struct } from "@mitai/verify/json";
import { recall, remember } from "../preferences.ts";

const KEPT = "mitai-proof-service";
const MAX_TEXT = 1 << 16;

const digest = pattern(/^[0-9a-f]{64}$/);
const template = struct({ head: string, user: string, assistant: string, tail: string });
const page = struct({
  v: oneOf("mitai proof page v1"),
  model: string,
  identity: digest,
  key: digest, // its id
  tokenizer: digest,
  unaudited: boolean,
  template,
});

/** What is known of a service beforehand. */
export interface ProvenOffer {
  readonly model: string;
  readonly identity: string;
  readonly key: string;
  readonly tokenizer: string;
  readonly unaudited: boolean;
  readonly template: Template;
}

/** The digest in a link such as `…/#proof=SHA256`. */
export function linkedProof(fragment: string): string | undefined {
  return new URLSearchParams(fragment.replace(/^#/, "")).get("proof")?.trim().toLowerCase();
}

/** What this device took this address for. */
export type Before = "confidential" | "other" | "same" | "nothing";

export function before(wanted: string, policyPinned: boolean): Before {
  const kept = keptProof();
  if (kept === wanted) return "same";
  return policyPinned ? "confidential" : kept === undefined ? "nothing" : "other";
}

export function keptProof(): string | undefined {
  return recall(KEPT);
}

export function keepProof(digest: string | undefined): void {
  remember(KEPT, digest);
}

/** Read what a host offers, if it is what is pinned. */
export async function readProven(offered: string | undefined, wanted: string): Promise<ProvenOffer> {
  const data: Bytes = utf8(offered ?? "");
  if (data.length > MAX_TEXT || hex(await sha256(data)) !== wanted) {
    const hint = "ask whoever gave you the link for a new one";
    throw new MitaiError("proof.service-differs", "this is not the service that the link names", hint, "service");
  }
  return decodeJson(data, page, "proof.offer-malformed", "the link names something that is no service of this kind");
}
