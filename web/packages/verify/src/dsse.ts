/**
 * Ed25519 keys and DSSE envelopes: who says what.
 *
 * Follows DSSE 1.0 (github.com/secure-systems-lab/dsse): the signature covers the exact payload bytes together with
 * their type. Port of the verifying half of `mitai/identity.py`.
 *
 * Invariants:
 * - A party is its public key; `keyId` is SHA-256 over the 32 raw bytes, in hex.
 * - A key under which one signature would fit any message (a point of small order) is refused.
 * - `openEnvelope` throws or returns the payload as it was signed; there is no boolean to forget.
 *
 * Example: `const payload = await openEnvelope(decodeEnvelope(bytes), "application/vnd.in-toto+json", key);`
 */

import { type Bytes, concat, equal, fromHex, hex, sha256, utf8 } from "./bytes.ts";
import { MitaiError } from "./errors.ts";
import { array, bytes, type Decoded, decodeJson, optional, string, struct } from "./json.ts";

const MAX_ENVELOPE_BYTES = 64 << 20;
const MAX_SIGNATURES = 16; // that are tried

// Points of order 8 and below, sign bit cleared, canonical or not: under such a "key" one signature fits any message
// (Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", section 5).
const SMALL_ORDER = [
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  `ec${"ff".repeat(30)}7f`,
  `ed${"ff".repeat(30)}7f`,
  `ee${"ff".repeat(30)}7f`,
].map(fromHex);

/** The public half of an identity: 32 raw Ed25519 bytes. */
export class PublicKey {
  constructor(readonly raw: Bytes) {
    if (raw.length !== 32) throw malformedKey(`an Ed25519 public key has 32 bytes, not ${raw.length}`);
    const unsigned = raw.map((byte, at) => (at === 31 ? byte & 0x7f : byte));
    if (SMALL_ORDER.some((point) => equal(point, unsigned))) {
      throw malformedKey("under this Ed25519 key one signature would fit any message");
    }
  }

  /** SHA-256 over the raw key, in hex: the party's name everywhere. */
  async keyId(): Promise<string> {
    return hex(await sha256(this.raw));
  }

  /** Tell whether `signature` is this key's over `message`; callers throw. */
  async signed(message: Bytes, signature: Bytes): Promise<boolean> {
    if (signature.length !== 64) return false;
    let key: CryptoKey;
    try {
      key = await crypto.subtle.importKey("raw", this.raw, "Ed25519", false, ["verify"]);
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== "NotSupportedError") return false; // not a point
      throw new MitaiError(
        "identity.ed25519-unsupported",
        "this browser can't check Ed25519 signatures",
        "use a newer version of it",
      );
    }
    return crypto.subtle.verify("Ed25519", key, signature, message);
  }

  /** Throw unless `signature` is this key's over `message`. */
  async verify(message: Bytes, signature: Bytes): Promise<void> {
    if (!(await this.signed(message, signature))) {
      throw new MitaiError("identity.signature-invalid", "the signature is not that of the key");
    }
  }
}

function malformedKey(why: string): MitaiError {
  return new MitaiError("identity.key-malformed", why);
}

const envelope = struct({
  payload: bytes,
  payloadType: string,
  signatures: array(struct({ sig: bytes, keyid: optional(string, "") })),
});

/** A DSSE envelope as it travels; `keyid` is a hint, never a proof. */
export type Envelope = Decoded<typeof envelope>;

/** Parse the JSON form; throw on anything else or above 64 MiB. */
export function decodeEnvelope(data: Bytes): Envelope {
  if (data.length > MAX_ENVELOPE_BYTES) {
    throw new MitaiError("identity.envelope-too-large", `a signed envelope of ${data.length} bytes is above the limit`);
  }
  return decodeJson(data, envelope, "identity.envelope-malformed", "these bytes are not a DSSE envelope");
}

/** Return the payload when one of `signers` signed it as `payloadType`; throw if none did. */
export async function openEnvelope(
  { payload, payloadType, signatures }: Envelope,
  expectedType: string,
  ...signers: readonly PublicKey[]
): Promise<Bytes> {
  if (payloadType !== expectedType) {
    throw new MitaiError("identity.payload-type", `signed as another type than ${expectedType}`);
  }
  const message = preAuthenticationEncoding(payloadType, payload);
  for (const signer of signers) {
    for (const { sig } of signatures.slice(0, MAX_SIGNATURES)) {
      if (await signer.signed(message, sig)) return payload;
    }
  }
  throw new MitaiError(
    "identity.signature-invalid",
    "no signature of the expected signer fits these bytes",
    "they were changed, or somebody else signed them",
  );
}

/** Return the bytes that a signature covers (DSSE protocol.md, "PAE"). */
export function preAuthenticationEncoding(payloadType: string, payload: Bytes): Bytes {
  const kind = utf8(payloadType);
  return concat(utf8(`DSSEv1 ${kind.length} `), kind, utf8(` ${payload.length} `), payload);
}
