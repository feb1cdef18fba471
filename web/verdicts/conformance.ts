/** What the two stages of the conformance suite share. Port of `mitai/attest/conformance/outcome.py`. */

import { type Bytes, base64 } from "../packages/verify/src/bytes.ts";
import { type Decoder, decodeJson } from "../packages/verify/src/json.ts";

const MAX_INPUT_BYTES = 1 << 20;

/** A refusal by the suite's own name. */
export class Rejected extends Error {}

/** Decode an input; what is malformed is refused as the suite has it. */
export function readInput<T>(data: Bytes, decoder: Decoder<T>): T {
  if (data.length > MAX_INPUT_BYTES) throw new Rejected("INPUT_MALFORMED");
  try {
    return decodeJson(data, decoder, "", "");
  } catch {
    throw new Rejected("INPUT_MALFORMED");
  }
}

/** Compare what was found with what the caller pinned. */
export function pin(expected: string | null, found: string, code: string): void {
  if (expected !== null && expected !== found) throw new Rejected(code);
}

export function pem(der: Bytes): string {
  const lines = base64(der).match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}
