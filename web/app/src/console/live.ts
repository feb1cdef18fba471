/**
 * The console's backend over a real platform: `@mitai/client` verifies, `ledger.ts` and `owner.ts` do the rest.
 *
 * - The broker is verified under the same policy as the replicas, as the CLI does; an owner's orders go only to a broker
 *   that itself appraises workloads by that policy.
 */
import { errorFrom, type Fetch, get, ledgerFetcher, Session, type Verified } from "@mitai/client";
import { hex, MitaiError, Policy, sha256, withoutClaimRules } from "@mitai/verify";
import * as json from "@mitai/verify/json";
import { ledgers } from "../live.ts";
import type { Offer, Pin } from "../pinning.ts";
import { openLedger } from "./ledger.ts";
import { type Backend, BROKER, type Ledger, type Machine, type Owner } from "./model.ts";
import { BrokerOwner, ledgerOf } from "./owner.ts";
import type { Identity } from "./signing.ts";

const MAX_HEALTH_BYTES = 1 << 20;
const MAX_REPLICAS = 256;
const health = json.struct({
  status: json.string,
  replicas: json.array(json.pattern(/^[\x21-\x7e]{1,128}$/), 0, MAX_REPLICAS),
});

export function connect(offer: Offer, { toml }: Pin): Backend {
  return new LiveBackend(offer, Policy.fromToml(toml));
}

class LiveBackend implements Backend {
  private broker: Promise<Session> | undefined;

  constructor(
    private readonly offer: Offer,
    private readonly policy: Policy,
  ) {}

  async replicas(): Promise<readonly string[]> {
    const url = `${this.offer.gateway}/healthz`;
    const { status, body } = await get(fetch, url, MAX_HEALTH_BYTES);
    if (status !== 200 || !body) throw errorFrom(status, body, "client.refused", url);
    return json.decodeJson(body, health, "client.refused", "the gateway's list of replicas is malformed").replicas;
  }

  async verify(name: string): Promise<Machine> {
    if (name === BROKER) {
      const known = this.broker;
      const session = await this.verifiedBroker();
      if (known) await session.renew();
      return machine(name, session.verified);
    }
    const options = { releases: this.offer.releases, fetch: viaReplica(name) };
    return machine(name, (await Session.connect(this.offer.gateway, this.policy, options)).verified);
  }

  /** One session for all that is asked of the broker; a failed one is not kept. */
  private verifiedBroker(): Promise<Session> {
    const options = { workload: BROKER, releases: this.offer.releases };
    this.broker ??= Session.connect(`${this.offer.gateway}/broker`, this.policy, options).catch((error: unknown) => {
      this.broker = undefined;
      throw error;
    });
    return this.broker;
  }

  async ledger(): Promise<Ledger> {
    const verified = await (await this.verifiedBroker()).current();
    const claim = { ...ledgerOf(verified), witnesses: witnessesOf(verified) };
    return openLedger(claim, ledgerFetcher(this.offer.gateway), ledgers);
  }

  async owner(identity: Identity): Promise<Owner> {
    const session = await this.verifiedBroker();
    const ours = await withoutClaimRules(this.policy).sha256();
    const accept = ({ appraisal }: Verified) => {
      if (!appraisal.claims.policies.includes(ours))
        throw new MitaiError(
          "client.broker-policy",
          "the broker is genuine, but appraises workloads by another policy than yours",
          "its operator must configure the policy that you trust",
        );
    };
    accept(await session.current());
    return new BrokerOwner(session, identity, accept);
  }
}

/** The verifier keys among the witnesses that the claims name; those that are named by address alone have none. */
function witnessesOf({ appraisal }: Verified): readonly string[] {
  const named = appraisal.claims.extra.get("witnesses") ?? "";
  return named.split(" ").filter((witness) => witness.includes("+"));
}

/** A fetch that the gateway leads to one replica. */
function viaReplica(name: string): Fetch {
  return (input, init) => {
    const headers = new Headers(init?.headers);
    headers.set("mitai-replica", name);
    return fetch(input, { ...init, headers });
  };
}

async function machine(name: string, { appraisal, evidenceBytes, nonce, verifiedAt }: Verified): Promise<Machine> {
  const { claims } = appraisal;
  const findings = {
    ...appraisal,
    keySha256: hex(await sha256(claims.keyConfig)),
    capsules: claims.capsules,
    policies: claims.policies,
    ledger: claims.ledger ?? undefined,
    extra: claims.extra,
  };
  return { name, findings, evidence: evidenceBytes, nonce, verifiedAt };
}
