/**
 * Release manifests: a publisher's signed word on what its workload measures, as reference values of a policy.
 *
 * A manifest is an in-toto statement (Attestation Framework v1, "Statement layer") whose predicate names workload,
 * version, source, builder and the registers by TEE. The format is written down in `docs/spec/release-manifest.md`. Port
 * of `mitai/attest/refvalues/release.py` and `statement.py`, for releases signed by an Ed25519 key; those of a sigstore
 * identity are refused (`attest.not-in-browser`).
 *
 * Invariants:
 * - Which kind of signature is expected is the verifier's choice, never read from the manifest.
 * - A release of another workload, older than the verifier's minimum, or past its own end is refused.
 * - A release that pins no register at all is refused.
 *
 * Example: `const pinned = await withReleases(policy, [manifest], new Date());`
 */

import { type Bytes, fromHex } from "./bytes.ts";
import { refusing } from "./checks.ts";
import { decodeEnvelope, openEnvelope, PublicKey } from "./dsse.ts";
import { MitaiError } from "./errors.ts";
import { ANY } from "./fields.ts";
import {
  array,
  type Decoded,
  decodeJson,
  dictionary,
  integer,
  type Json,
  moment,
  nullable,
  optional,
  pattern,
  string,
  struct,
} from "./json.ts";
import {
  checkReferenceValues,
  knowsTee,
  type Policy,
  type ReferenceValues,
  type ReleaseTrust,
  withWorkloads,
} from "./policy.ts";
import { show } from "./time.ts";

const PAYLOAD_TYPE = "application/vnd.in-toto+json";
const STATEMENT_V1 = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE = "https://mitai.dev/predicate/release/v1";
const MAX_MANIFEST_BYTES = 16 << 20;
const MAX_STATEMENT_BYTES = 4 << 20;
const CLOCK_SKEW_MS = 300_000;
const MALFORMED = "attest.release-malformed";

const statement = struct({
  _type: string,
  predicateType: string,
  subject: optional(
    array(struct({ name: optional(string, ""), digest: optional(dictionary(string), new Map()) }, "ignored"), 0, 1024),
    [],
  ),
  predicate: optional((value: Json) => value, null),
});

const text = pattern(/^.{1,256}$/su);

const release = struct({
  workload: text,
  version: integer(0, 2 ** 53), // only grows
  released: moment,
  measurements: array(struct({ tee: text, registers: dictionary(string) }), 1, 256),
  not_after: optional(nullable(moment), null),
  source: optional(
    nullable(struct({ repository: string, commit: pattern(/^[0-9a-f]{40}(?:[0-9a-f]{24})?$/) })), // what was built
    null,
  ),
  builder: optional(string, ""),
});

/** One release of a workload. */
export type Release = Decoded<typeof release>;

/** Return the policy with what these releases pin among its workloads; each must be one that the policy trusts. */
export async function withReleases(policy: Policy, envelopes: readonly Bytes[], now: Date): Promise<Policy> {
  const added: ReferenceValues[] = [];
  for (const envelope of envelopes) added.push(...(await trusted(envelope, policy.releases, now)));
  return withWorkloads(policy, added);
}

async function trusted(
  envelope: Bytes,
  trusts: readonly ReleaseTrust[],
  now: Date,
): Promise<readonly ReferenceValues[]> {
  const refusals: MitaiError[] = [];
  for (const trust of trusts) {
    try {
      return referenceValues(await verifyRelease(envelope, trust, now));
    } catch (error) {
      if (!(error instanceof MitaiError)) throw error;
      refusals.push(error);
    }
  }
  // That the release is another workload's says less than why the trust for this one refused it.
  throw (
    refusals.find(({ code }) => code !== "attest.release-workload-mismatch") ??
    refusals[0] ??
    new MitaiError("attest.release-untrusted", "the policy trusts nobody's releases", "name a key under [[releases]]")
  );
}

/**
 * Return the release, or throw at the first check that fails.
 *
 * 1. The trusted key signed these bytes.
 * 2. They are a statement of type release, version 1.
 * 3. It is the workload's, and not older than the verifier's minimum.
 * 4. It was released neither before `notBefore` nor in the future, and has not ended.
 */
export async function verifyRelease(envelope: Bytes, trust: ReleaseTrust, now: Date): Promise<Release> {
  // 1
  const payload = await open(envelope, trust);
  // 2
  const { _type, predicateType, predicate } = decodeStatement(payload);
  if (_type !== STATEMENT_V1 || predicateType !== PREDICATE_TYPE) {
    throw new MitaiError("attest.release-type-mismatch", "the signed statement is of another type than a release");
  }
  const manifest = refusing(MALFORMED, "the release manifest is malformed", () => release(predicate));
  // 3
  if (manifest.workload !== trust.workload) {
    throw new MitaiError("attest.release-workload-mismatch", `the release is not of "${trust.workload}"`);
  }
  if (manifest.version < trust.minVersion) {
    throw new MitaiError(
      "attest.release-too-old",
      `version ${manifest.version} is below the verifier's minimum ${trust.minVersion}`,
      "run a newer release; lower min_version only to go back on purpose",
    );
  }
  // 4
  const { released, notAfter } = manifest;
  if (trust.notBefore !== null && released < moment(trust.notBefore)) {
    throw new MitaiError("attest.release-too-old", `released on ${show(released)}, before ${trust.notBefore}`);
  }
  if (released.getTime() > now.getTime() + CLOCK_SKEW_MS) {
    throw new MitaiError("attest.release-in-future", `released on ${show(released)}, which is yet to come`);
  }
  if (notAfter !== null && now > notAfter) {
    throw new MitaiError("attest.release-expired", `the release ended on ${show(notAfter)}`);
  }
  return manifest;
}

/** Return what a release pins; TEEs that are not known here are left out. */
function referenceValues({ workload, version, measurements }: Release): readonly ReferenceValues[] {
  const known = measurements.filter(({ tee }) => knowsTee(tee));
  if (known.some(({ registers }) => [...registers.values()].every((value) => value === ANY))) {
    throw new MitaiError(MALFORMED, `the release ${version} pins no register`);
  }
  const values = known.map(({ tee, registers }) => ({ name: workload, registers, tee }));
  refusing(MALFORMED, "the release's values are malformed", () => values.forEach(checkReferenceValues));
  if (!values.length) {
    throw new MitaiError("attest.release-tee-unknown", "the release has values only for TEEs that are not known here");
  }
  return values;
}

/** Return the payload that the trusted key signed. */
async function open(envelope: Bytes, trust: ReleaseTrust): Promise<Bytes> {
  if (!trust.key) {
    throw new MitaiError(
      "attest.not-in-browser",
      "releases of a sigstore identity are not verified here",
      "name the publisher's Ed25519 key under [[releases]], or verify with the command line",
    );
  }
  if (envelope.length > MAX_MANIFEST_BYTES) {
    throw new MitaiError(MALFORMED, `a release manifest of ${envelope.length} bytes is above the limit`);
  }
  try {
    return await openEnvelope(decodeEnvelope(envelope), PAYLOAD_TYPE, new PublicKey(fromHex(trust.key)));
  } catch (error) {
    if (!(error instanceof MitaiError)) throw error;
    const isMalformed = error.code === "identity.envelope-malformed";
    throw new MitaiError(isMalformed ? MALFORMED : "attest.release-signature-invalid", error.message, error.hint);
  }
}

function decodeStatement(payload: Bytes): Decoded<typeof statement> {
  const code = "attest.statement-malformed";
  if (payload.length > MAX_STATEMENT_BYTES) {
    throw new MitaiError(code, `a statement of ${payload.length} bytes is above the limit`);
  }
  return decodeJson(payload, statement, code, "the signed payload is not an in-toto statement");
}
