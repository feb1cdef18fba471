/**
 * A verified server: its evidence was checked against the user's policy, and its key comes from the checked bytes.
 *
 * Port of `mitai/client/session.py`.
 *
 * Invariants:
 * - Nothing is sealed to a key before `verify` accepted the evidence that holds it; there is no way around it.
 * - The nonce is fresh for every verification, so evidence can't be replayed.
 * - A session ages: after ten minutes, when the collateral ends, or when the server's keys have changed, it verifies
 *   again before the next request. A verification that fails leaves no key to use.
 *
 * Example:
 *     const session = await Session.connect("https://gateway.example", Policy.fromToml(text));
 *     session.appraisal.workload; // "serve"
 */

import type { Peer } from "@mitai/channel";
import {
  type Appraisal,
  type Bytes,
  Evidence,
  hex,
  MitaiError,
  type Policy,
  verify,
  withReleases,
} from "@mitai/verify";
import { errorFrom, type Fetch, get } from "./http.ts";

export const EVIDENCE_PATH = "/.well-known/mitai/evidence";
export const MAX_EVIDENCE_BYTES = 4 << 20;
const MAX_AGE_MS = 600_000;
const MAX_ADDRESS_LENGTH = 2048;

export interface Options {
  /** The workload that must answer; another one, however genuine, is refused. */
  readonly workload?: string;
  /** Signed release manifests, whoever brought them: they count where the policy names their signers. */
  readonly releases?: readonly Bytes[];
  /** Carries all requests of the session. */
  readonly fetch?: Fetch;
  readonly now?: () => Date;
  /** How long one verification is relied upon. */
  readonly maxAgeMs?: number;
  /** Told of every verification that holds, the first one too. */
  readonly onVerified?: (verified: Verified) => void;
}

/** One verification: what was shown, and what it proved. */
export interface Verified {
  readonly appraisal: Appraisal;
  readonly evidence: Evidence;
  /** The evidence as it was received. */
  readonly evidenceBytes: Bytes;
  readonly nonce: Bytes;
  readonly verifiedAt: Date;
  /** The replica that answered, for the gateway to find it again. */
  readonly replica: string | undefined;
  /** When it may not be relied upon any more. */
  readonly staleAt: Date;
}

export class Session implements Peer {
  readonly fetch: Fetch;
  readonly now: () => Date;
  #verified: Verified | undefined;
  #staleAt = new Date(0);
  #renewing: Promise<void> | undefined;

  private constructor(
    readonly baseUrl: string,
    readonly policy: Policy,
    readonly options: Options,
  ) {
    this.fetch = options.fetch ?? ((request, init) => fetch(request, init));
    this.now = options.now ?? (() => new Date());
  }

  /**
   * Verify the server at `baseUrl`.
   *
   * Throws what `verify` throws when the evidence is refused (nothing was sent), and `client.*` when the server can't
   * be reached or answers nonsense.
   */
  static async connect(baseUrl: string, policy: Policy, options: Options = {}): Promise<Session> {
    const session = new Session(webAddress(baseUrl), policy, options);
    await session.renew();
    return session;
  }

  /** The newest verification that held; it may be stale. */
  get verified(): Verified {
    if (!this.#verified) throw new MitaiError("client.not-verified", "this server was not verified");
    return this.#verified;
  }

  get appraisal(): Appraisal {
    return this.verified.appraisal;
  }

  get evidence(): Evidence {
    return this.verified.evidence;
  }

  get nonce(): Bytes {
    return this.verified.nonce;
  }

  get verifiedAt(): Date {
    return this.verified.verifiedAt;
  }

  /** Whether the verification is too old to be relied upon, or the last attempt failed. */
  get stale(): boolean {
    return !(this.now() < this.#staleAt);
  }

  /** The verification to rely upon now: the newest one, or a fresh one when that is too old. */
  async current(): Promise<Verified> {
    if (this.stale) await this.renew();
    return this.verified;
  }

  async keyConfig(): Promise<Bytes> {
    return (await this.current()).appraisal.claims.keyConfig;
  }

  replica(): string | undefined {
    return this.verified.replica;
  }

  /** Verify the server afresh; throw and keep no key when it does not hold. Calls at the same time share one. */
  async renew(): Promise<void> {
    this.#renewing ??= this.#verify().finally(() => {
      this.#renewing = undefined;
    });
    await this.#renewing;
  }

  async #verify(): Promise<void> {
    this.#staleAt = new Date(0);
    const nonce = crypto.getRandomValues(new Uint8Array(32));
    const { body, replica } = await this.#fetchEvidence(nonce);
    this.#verified = Object.freeze(await this.#accept(body, nonce, replica));
    this.#staleAt = this.#verified.staleAt;
    this.options.onVerified?.(this.#verified);
  }

  async #fetchEvidence(nonce: Bytes): Promise<{ body: Bytes; replica: string | undefined }> {
    const url = `${this.baseUrl}${EVIDENCE_PATH}?nonce=${hex(nonce)}`;
    const { status, headers, body } = await get(this.fetch, url, MAX_EVIDENCE_BYTES);
    if (!body) throw new MitaiError("client.evidence-too-large", `${this.baseUrl} sent more than 4 MiB as evidence`);
    if (status !== 200) throw errorFrom(status, body, "client.no-evidence", this.baseUrl);
    return { body, replica: headers.get("mitai-replica") ?? undefined };
  }

  async #accept(body: Bytes, nonce: Bytes, replica: string | undefined): Promise<Verified> {
    const evidence = Evidence.decode(body);
    const verifiedAt = this.now();
    const { workload = "serve", releases = [], maxAgeMs = MAX_AGE_MS } = this.options;
    const policy = await withOffered(this.policy, releases, verifiedAt);
    const appraisal = await verify(evidence, policy, { nonce, now: verifiedAt });
    if (appraisal.workload !== workload) {
      throw new MitaiError(
        "client.other-workload",
        `${this.baseUrl} is a genuine '${appraisal.workload}', but '${workload}' is expected here`,
      );
    }
    const staleAt = new Date(Math.min(verifiedAt.getTime() + maxAgeMs, appraisal.notAfter.getTime()));
    return { appraisal, evidence, evidenceBytes: body, nonce, verifiedAt, replica, staleAt };
  }
}

/** The policy with what offered releases pin; one that trusts nobody's releases stays as it is. */
export async function withOffered(policy: Policy, releases: readonly Bytes[], now: Date): Promise<Policy> {
  return policy.releases.length ? await withReleases(policy, releases, now) : policy;
}

/** A server's address without a slash at its end; throw `client.url-malformed` for anything but a plain one. */
export function webAddress(address: string): string {
  const url = address.length <= MAX_ADDRESS_LENGTH && URL.canParse(address) ? new URL(address) : undefined;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw new MitaiError("client.url-malformed", `${address.slice(0, 200)} is no web address`);
  }
  return url.href.replace(/\/+$/, "");
}
