/**
 * What the badge verifies: the server, under the one policy that the embedding page names by its digest.
 *
 * - A policy with another digest is refused before anything is asked of the server; where it came from doesn't matter.
 * - Release manifests come from the server: they are signed, and count only where the policy names their signer.
 */

import { type Fetch, get, Session, webAddress } from "@mitai/client";
import { type Bytes, hex, MitaiError, Policy, sha256, text } from "@mitai/verify";
import { MAX_OFFER_BYTES, MAX_POLICY_BYTES, type Offer, readOffer } from "../pinning.ts";

export interface Wanted {
  readonly server: string;
  /** Where the policy's file is; empty: the server offers it. */
  readonly policy: string;
  /** SHA-256 of the policy's file, in hex. */
  readonly policySha256: string;
  readonly workload: string;
}

/** Fetch the policy, compare its digest, fetch evidence, verify it; throw `MitaiError`. `page` is the page's address. */
export async function check(wanted: Wanted, page: string, fetcher?: Fetch): Promise<Session> {
  const request: Fetch = fetcher ?? ((input, init) => fetch(input, init));
  const server = webAddress(wanted.server);
  if (!/^[0-9a-f]{64}$/.test(wanted.policySha256)) {
    throw new MitaiError(
      "client.no-policy",
      "the page that shows this badge does not say which policy holds",
      "it must give the policy's SHA-256",
    );
  }
  const offer = await offered(server, request);
  const toml = wanted.policy ? await download(request, new URL(wanted.policy, page).href) : offer?.policy?.toml;
  if (toml === undefined) throw new MitaiError("client.no-policy", `${server} offers no policy`);
  const given = typeof toml === "string" ? new TextEncoder().encode(toml) : toml;
  if (hex(await sha256(given)) !== wanted.policySha256) {
    throw new MitaiError(
      "client.policy-mismatch",
      "the policy is not the one that the page which shows this badge has named",
      "the policy was replaced: ask this site's operator",
    );
  }
  const policy = Policy.fromToml(text(given));
  const { workload } = wanted;
  return await Session.connect(server, policy, { workload, releases: offer?.releases ?? [], fetch: request });
}

/** What the server offers beside the page; nothing where it offers nothing. */
async function offered(server: string, request: Fetch): Promise<Offer | undefined> {
  const { status, body } = await get(request, `${server}/mitai.json`, MAX_OFFER_BYTES);
  return status === 200 && body ? await readOffer(body, server) : undefined;
}

async function download(request: Fetch, url: string): Promise<Bytes> {
  const { status, body } = await get(request, url, MAX_POLICY_BYTES);
  if (status !== 200 || !body) throw new MitaiError("client.no-policy", `there is no policy at ${url.slice(0, 200)}`);
  return body;
}
