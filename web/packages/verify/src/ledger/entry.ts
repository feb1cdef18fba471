/**
 * What the ledger's entries say: canonical JSON (RFC 8785), one type per kind of event.
 *
 * `docs/spec/ledger.md` lists the types and their members. Port of the reading half of `mitai/ledger/entry.py`.
 *
 * Invariants:
 * - There is one encoding of an entry: every member is there, and any other spelling is refused.
 * - Unknown versions, types and members are refused; every member is bounded.
 */

import type { Bytes } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import {
  array,
  boolean,
  checked,
  type Decoded,
  type Decoder,
  decodeCanonical,
  integer,
  type Json,
  JsonObject,
  nullable,
  oneOf,
  pattern,
  string,
  struct,
} from "../json.ts";
import { utc } from "../time.ts";
import { MAX_ENTRY_BYTES } from "./tiles.ts";

export const digest = pattern(/^[0-9a-f]{64}$/); // SHA-256, lower-case hex
export const id = pattern(/^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$/);
export const name = words(256);
const reason = words(512);
export const time = checked(pattern(/^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$/), (written) => {
  utc(written.slice(0, -1));
});
export const count = integer(0);
const ids = array(id, 0, 256);
export const digests = array(digest, 0, 64);
const reasons = array(reason, 0, 8);

/** A text of 1 to so many characters, none of them a control character. */
function words(most: number): Decoder<string> {
  return checked(string, (value) => {
    const letters = [...value];
    const spoiled = letters.some((letter) => letter < " " || letter === "\x7f");
    if (!letters.length || letters.length > most || spoiled)
      throw new RangeError("a text that is empty, long or unclean");
  });
}

const head = { v: oneOf("mitai ledger entry v1"), time };

const entries = {
  /** A key became a party. */
  "party-registered": struct({ ...head, type: oneOf("party-registered"), party: digest, name }),
  /** A sealed model, data set, adapter or report became known. */
  "capsule-registered": struct({
    ...head,
    type: oneOf("capsule-registered"),
    capsule: id,
    kind: id,
    name,
    owners: digests,
    manifest_sha256: digest,
    parents: ids,
  }),
  /** A workload made a capsule of others; it belongs to all their owners. */
  derivation: struct({
    ...head,
    type: oneOf("derivation"),
    capsule: id,
    kind: id,
    name,
    owners: digests,
    manifest_sha256: digest,
    parents: ids,
    workload: name,
    signer: digest, // key id of the workload's receipt key
    statement_sha256: digest, // of the signed statement's payload
    evidence_sha256: digest,
    simulated: boolean,
  }),
  /** An owner set or replaced a policy. */
  "policy-set": struct({
    ...head,
    type: oneOf("policy-set"),
    capsule: id,
    owner: digest,
    policy_sha256: digest,
    version: count,
    command_sha256: nullable(digest), // the owner's signed command
  }),
  /** Keys were released to an attested workload. */
  release: struct({
    ...head,
    type: oneOf("release"),
    release: id,
    capsules: ids,
    workload: name,
    purpose: name,
    evidence_sha256: digest,
    recipient_sha256: digest, // of the key configuration that the keys were sealed to
    policies: digests,
    simulated: boolean,
    reasons,
  }),
  /** Keys were not released. */
  denial: struct({
    ...head,
    type: oneOf("denial"),
    capsules: ids,
    code: id,
    reasons,
    workload: nullable(name),
    purpose: nullable(name),
    evidence_sha256: nullable(digest),
    policies: digests,
    simulated: nullable(boolean),
  }),
  /** A workload began to serve, or ended. */
  deployment: struct({
    ...head,
    type: oneOf("deployment"),
    deployment: id,
    capsules: ids,
    workload: name,
    state: id,
    evidence_sha256: nullable(digest),
  }),
  /** An owner took a capsule, a policy, a key or an approval back. */
  revocation: struct({
    ...head,
    type: oneOf("revocation"),
    owner: digest,
    subject: id,
    reason,
    command_sha256: nullable(digest),
  }),
  /** An owner named who votes on exports in its place, or nobody. */
  "delegates-set": struct({
    ...head,
    type: oneOf("delegates-set"),
    owner: digest,
    delegates: digests,
    threshold: count,
    version: count,
    command_sha256: digest,
  }),
  /** An owner asked to let a capsule out in the clear. */
  "export-requested": struct({
    ...head,
    type: oneOf("export-requested"),
    request: digest, // of the owner's signed command
    capsule: id,
    manifest_sha256: digest,
    owner: digest,
    recipient: digest, // party
    recipient_sha256: digest, // of the key configuration that it will be sealed to
    not_after: time,
  }),
  /** An owner agreed to, or refused, what a request asks. */
  approval: struct({
    ...head,
    type: oneOf("approval"),
    owner: digest,
    request: id,
    approved: boolean,
    subject_sha256: digest,
    delegate: nullable(digest), // who said so in the owner's place
    command_sha256: nullable(digest),
  }),
  /** Something derived left in the clear, with all its owners' approvals. */
  export: struct({
    ...head,
    type: oneOf("export"),
    export: id,
    capsule: id,
    owners: digests,
    approvals: digests,
    recipient: digest,
  }),
  /** A replica signed a receipt. */
  receipt: struct({
    ...head,
    type: oneOf("receipt"),
    exchange: id,
    receipt_sha256: digest, // `receiptSha256` of the signed envelope
  }),
  /** An owner gave a capsule a new data key, and so a new manifest. */
  "capsule-resealed": struct({
    ...head,
    type: oneOf("capsule-resealed"),
    capsule: id,
    owner: digest,
    manifest_sha256: digest,
    previous_sha256: digest,
    command_sha256: nullable(digest), // the owner's signed command
  }),
  /** The root key of the broker's state was given to another machine, rotated, or recovered by owners. */
  "root-key": struct({
    ...head,
    type: oneOf("root-key"),
    event: oneOf("shared", "rotated", "recovered"),
    epoch: count,
    evidence_sha256: nullable(digest), // of the machine that it was given to
    recipient_sha256: nullable(digest), // of the key configuration that it was sealed to
    simulated: nullable(boolean),
    recovery_sha256: nullable(digest), // of the recovery plan in force
  }),
  /** A recovery plan came into force: who can give the root key to a new machine, and how many of them it takes. */
  "recovery-set": struct({
    ...head,
    type: oneOf("recovery-set"),
    recovery_sha256: digest,
    version: count,
    threshold: count,
    members: digests, // key ids of the parties that hold a share
  }),
};

type Entries = { readonly [Type in keyof typeof entries]: Decoded<(typeof entries)[Type]> };

/** An entry of the ledger; `type` says which. */
export type Entry = Entries[keyof Entries];

/** Parse an entry; throw on anything but its one canonical encoding. */
export function decodeEntry(data: Bytes): Entry {
  if (data.length > MAX_ENTRY_BYTES) {
    throw new MitaiError("ledger.entry-malformed", `an entry of ${data.length} bytes is above the limit`);
  }
  return decodeCanonical(data, entry, "ledger.entry-malformed", "these bytes are no entry of a known version and type");
}

function entry(value: Json): Entry {
  const type = value instanceof JsonObject ? value.members.find(([member]) => member === "type")?.[1] : null;
  const known = Object.entries(entries).find(([tag]) => tag === type);
  if (!known) throw new RangeError("an entry of an unknown type");
  return known[1](value);
}
