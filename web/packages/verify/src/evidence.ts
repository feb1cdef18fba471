/**
 * Evidence and claims: what a measured process hands to whoever wants to trust it.
 *
 * The format is written down in `docs/spec/evidence.md`. Port of `mitai/attest/evidence.py`.
 *
 * Invariants:
 * - `reportData` covers the verifier's nonce and the exact bytes of claims and device evidence; keys are taken from
 *   those bytes only.
 * - Bytes are hashed as received: claims are never parsed and written again before they are hashed.
 * - Unknown members, unknown versions and oversized input are refused.
 *
 * Example: `const evidence = Evidence.decode(body); await reportData(nonce, evidence.claims, evidence.devices);`
 */

import { type Bytes, sha256, sha512, utf8 } from "./bytes.ts";
import { MitaiError } from "./errors.ts";
import {
  array,
  bigint,
  bytes,
  checked,
  type Decoded,
  decodeJson,
  dictionary,
  type Json,
  nullable,
  optional,
  pattern,
  string,
  struct,
} from "./json.ts";

export const MAX_EVIDENCE_BYTES = 4 << 20;
const MAX_CLAIMS_BYTES = 1 << 20;
const MAX_HARDWARE_BYTES = 8 << 20;
export const NONCE_BYTES = 32;
export const NO_DEVICES = utf8("[]");
const NOTHING = new Uint8Array();

/** Return the 64 bytes that the hardware signs: SHA-512 over label, nonce and the digests of claims and devices. */
export async function reportData(nonce: Bytes, claims: Bytes, devices: Bytes): Promise<Bytes> {
  if (nonce.length !== NONCE_BYTES) {
    throw new MitaiError("attest.nonce-malformed", `a nonce has ${NONCE_BYTES} bytes, not ${nonce.length}`);
  }
  return sha512(utf8("mitai report data v1\0"), nonce, await sha256(claims), await sha256(devices));
}

const digest = pattern(/^[0-9a-f]{64}$/);

const claims = checked(
  struct({
    v: optional(bigint, 1n),
    workload: string,
    key_config: bytes, // RFC 9458 key configuration: the channel's HPKE key
    receipt_key: optional(bytes, NOTHING), // Ed25519 public key (32 bytes) that signs receipts, or nothing
    tls_key_sha256: optional(nullable(string), null),
    capsules: optional(array(struct({ id: string, manifest_sha256: string })), []),
    policies: optional(array(string), []), // SHA-256 of the policies in force, in hex
    ledger: optional(nullable(struct({ origin: string, vkey: string, checkpoint: bytes })), null),
    extra: optional(dictionary(string), new Map()),
  }),
  (value) => {
    if (value.v !== 1n) throw new MitaiError("attest.claims-version-unsupported", `claims of version ${value.v}`);
    [...value.policies, ...value.capsules.map((capsule) => capsule.manifestSha256)].forEach(digest);
    if (value.tlsKeySha256 !== null) digest(value.tlsKeySha256);
    if (![0, 32].includes(value.receiptKey.length)) throw new RangeError("a receipt key has 32 bytes");
    if (new Set(value.capsules.map((capsule) => capsule.id)).size !== value.capsules.length) {
      throw new RangeError("the claims name a capsule twice");
    }
    if (!/^[a-z0-9][a-z0-9._-]{0,63}$/.test(value.workload)) {
      throw new RangeError("a workload is named by up to 64 of a-z, 0-9, dot, dash, underscore");
    }
  },
);

/** What a measured process says about itself; every key that a client uses is in here. */
export type Claims = Decoded<typeof claims>;

export const Claims = {
  /** Parse claims; throw on anything else or above 1 MiB. */
  decode(data: Bytes): Claims {
    if (data.length > MAX_CLAIMS_BYTES) {
      throw new MitaiError("attest.claims-malformed", `claims of ${data.length} bytes are above the limit`);
    }
    return decodeJson(data, claims, "attest.claims-malformed", "the claims are malformed");
  },
};

const collateral = struct({
  tcb_info: string,
  tcb_info_signature: bytes,
  tcb_info_issuer_chain: string,
  qe_identity: string,
  qe_identity_signature: bytes,
  qe_identity_issuer_chain: string,
  root_ca_crl: bytes,
  pck_crl: bytes,
  pck_crl_issuer_chain: string,
  pck_certificate_chain: optional(nullable(string), null),
});

const hardware = {
  tee: string,
  quote: bytes,
  event_log: optional(bytes, NOTHING),
  collateral: optional(nullable(collateral), null),
  endorsements: optional(dictionary(bytes), new Map<string, Bytes>()),
};

/** Parse evidence of the hardware alone; throw on anything else or above 8 MiB. */
export function decodeHardware(data: Bytes): Decoded<typeof hardwareAlone> {
  return decodeEvidence(data, hardwareAlone, MAX_HARDWARE_BYTES);
}

const hardwareAlone = struct(hardware);

const evidence = checked(
  struct({
    ...hardware,
    v: optional(bigint, 1n),
    devices: optional(bytes, NO_DEVICES), // the exact bytes of a JSON array
    claims: bytes,
    nonce: bytes,
  }),
  ({ v }) => {
    if (v !== 1n) throw new MitaiError("attest.evidence-version-unsupported", `evidence of version ${v}, expected 1`);
  },
);

/** The bundle as it travels: `Hardware`, and what it vouches for. */
export type Evidence = Decoded<typeof evidence>;

export const Evidence = {
  /** Parse evidence; throw on anything else or above 4 MiB. */
  decode(data: Bytes): Evidence {
    return decodeEvidence(data, evidence, MAX_EVIDENCE_BYTES);
  },
};

function decodeEvidence<T>(data: Bytes, decoder: (value: Json) => T, limit: number): T {
  if (data.length > limit) {
    throw new MitaiError("attest.evidence-malformed", `evidence of ${data.length} bytes is above the limit`);
  }
  return decodeJson(data, decoder, "attest.evidence-malformed", "these bytes are not evidence");
}
