/**
 * An owner's side of the key broker: signed queries and commands over the sealed channel, and answers that are checked.
 *
 * Port of `mitai/client/owner.py`; docs/spec/broker.md.
 *
 * - Nothing is sent before the broker's evidence was accepted under the user's policy; all is sealed to its attested key.
 * - Commands are signed for the ledger key in those very claims: another broker can't use them.
 * - Every entry and index that the broker names is checked against a checkpoint of the attested ledger key.
 */
import { bounded, errorFrom, type Session, type Verified, View } from "@mitai/client";
import {
  type Bytes,
  type Checkpoint,
  hex,
  leafHash,
  MitaiError,
  parseVkey,
  sha256,
  utf8,
  verifyCheckpoint,
  verifyInclusion,
} from "@mitai/verify";
import * as json from "@mitai/verify/json";
import { entryOf } from "./entries.ts";
import type { Capsule, Entry, Owner, Party } from "./model.ts";
import {
  type Amounts,
  audience,
  type Budget,
  commandRequest,
  type Identity,
  MAX_COUNT,
  type Order,
  queryHeader,
} from "./signing.ts";
import { momentOf } from "./terms.ts";

const MAX_ANSWER_BYTES = 16 << 20;
const WITHIN_MS = 120_000; // an order that the host holds back has not arrived: its owner must hear of that
const PAGE_SIZE = 100; // capsules, docs/spec/broker.md

const digest = json.pattern(/^[0-9a-f]{64}$/);
const capsuleId = json.pattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/);
const count = json.integer(0, MAX_COUNT);
const head = { v: json.optional(json.integer(1, 1), 1) };
const amounts = json.struct({
  tokens: json.optional(json.nullable(count), null),
  steps: json.optional(json.nullable(count), null),
  epsilon_micros: json.optional(json.nullable(count), null),
});
type Read = ReturnType<typeof amounts>;
const party = json.struct({
  ...head,
  name: json.string,
  revoked: json.boolean,
  capsules: json.array(capsuleId, 0, PAGE_SIZE),
  total: count,
});
const capsule = json.struct({
  ...head,
  capsule: capsuleId,
  owner: digest,
  manifest_sha256: digest,
  registered_s: count,
  kind: json.optional(json.string, ""),
  parents: json.optional(json.array(capsuleId), []),
  grants: json.array(
    json.struct({
      party: digest,
      policy: json.nullable(json.string),
      policy_sha256: json.nullable(digest),
      version: count,
      budget: json.struct({
        uses: json.nullable(count),
        not_after_s: json.nullable(count),
        amounts: json.optional<Read | undefined>(amounts, undefined),
      }),
      uses: count,
      revoked: json.boolean,
      spent: json.optional<Read | undefined>(amounts, undefined),
    }),
  ),
});
const decisions = json.struct({
  ...head,
  entries: json.array(json.struct({ index: count, entry: json.bytes, proof: json.array(json.bytes) }), 0, 100),
  checkpoint: json.bytes,
});
const done = json.struct({ ...head, index: count, checkpoint: json.bytes });

export class BrokerOwner implements Owner {
  readonly pageSize = PAGE_SIZE;
  readonly keyId: string;
  #sequence = 0;

  constructor(
    private readonly session: Session,
    private readonly identity: Identity,
    /** Throws where the broker is not to be asked; each verification anew, since the host may start it otherwise. */
    private readonly accept: (verified: Verified) => void,
  ) {
    this.keyId = identity.keyId;
  }

  async party(page: number): Promise<Party> {
    return this.#query(`/v1/capsules?page=${page}`, party);
  }

  async capsule(id: string): Promise<Capsule> {
    const view = await this.#query(`/v1/capsules/${id}`, capsule);
    if (view.capsule !== id) throw mismatch("the broker answers about another capsule");
    const grants = view.grants.map(async ({ policy, policySha256, budget, spent, ...grant }) => {
      if (policy !== null && hex(await sha256(utf8(policy))) !== policySha256)
        throw mismatch("a policy's text has another digest than the broker says");
      return {
        ...grant,
        policy: policy ?? undefined,
        policySha256: policySha256 ?? undefined,
        budget: {
          uses: budget.uses,
          not_after_s: budget.notAfterS,
          ...(budget.amounts && { amounts: amountsOf(budget.amounts) }),
        },
        spent: spent ? amountsOf(spent) : {},
      };
    });
    return {
      id,
      owner: view.owner,
      manifestSha256: view.manifestSha256,
      registered: momentOf(view.registeredS),
      grants: await Promise.all(grants),
    };
  }

  async decisions(id: string): Promise<readonly Entry[]> {
    const { vkey } = await this.#ledger();
    const answer = await this.#query(`/v1/decisions?capsule=${id}`, decisions);
    const checkpoint = await verifyCheckpoint(answer.checkpoint, vkey);
    return Promise.all(answer.entries.map((logged) => proven(logged, checkpoint)));
  }

  setPolicy(id: string, policy: string, budget: Budget): Promise<number> {
    return this.#command({ type: "set-policy", capsule: id, policy, budget });
  }

  revoke(id: string): Promise<number> {
    return this.#command({ type: "revoke", capsule: id });
  }

  async #command(order: Order): Promise<number> {
    const { vkey } = await this.#ledger();
    this.#sequence = Math.max(this.#sequence + 1, Date.now() * 1000);
    const body = await commandRequest(this.identity, order, {
      ...(await this.#addressed(vkey)),
      sequence: this.#sequence,
    });
    const answer = await this.#send("/v1/commands", { method: "POST", body }, done);
    if ((await verifyCheckpoint(answer.checkpoint, vkey)).size <= BigInt(answer.index))
      throw mismatch("the broker's checkpoint does not cover what it says it logged");
    return answer.index;
  }

  async #query<T>(target: string, answer: json.Decoder<T>): Promise<T> {
    const { vkey } = await this.#ledger();
    const header = await queryHeader(this.identity, target, await this.#addressed(vkey));
    return this.#send(target, { headers: { "mitai-query": header } }, answer);
  }

  async #addressed(vkey: string): Promise<{ readonly broker: string; readonly timeS: number }> {
    const { publicKey } = await parseVkey(vkey);
    return { broker: await audience(publicKey), timeS: Math.floor(Date.now() / 1000) };
  }

  async #ledger() {
    return ledgerOf(await this.session.current());
  }

  async #send<T>(path: string, init: RequestInit, answer: json.Decoder<T>): Promise<T> {
    let response: Response;
    let body: Bytes | undefined;
    try {
      response = await new View(this.session, undefined, this.accept).fetch(path, {
        ...init,
        signal: AbortSignal.timeout(WITHIN_MS),
      });
      body = await bounded(response, MAX_ANSWER_BYTES);
    } catch (error) {
      if (error instanceof MitaiError) throw error;
      throw new MitaiError(
        "client.unreachable",
        "the broker can't be reached",
        "a command may have arrived: look at the capsule before sending it again",
      );
    }
    if (!body) throw new MitaiError("client.answer-too-large", "the broker's answer is too large");
    if (response.status !== 200) throw errorFrom(response.status, body, "broker.refused", "the broker");
    return json.decodeJson(body, answer, "broker.malformed", "the broker's answer does not follow the protocol");
  }
}

/** The ledger in a broker's verified claims. */
export function ledgerOf({ appraisal }: Pick<Session, "appraisal">) {
  const { ledger } = appraisal.claims;
  if (!ledger) throw new MitaiError("client.no-ledger", "the broker's claims name no ledger");
  return ledger;
}

async function proven(
  { index, entry, proof }: json.Decoded<typeof decisions>["entries"][number],
  { size, root }: Checkpoint,
): Promise<Entry> {
  await verifyInclusion(await leafHash(entry), BigInt(index), size, proof, root);
  return entryOf(index, entry);
}

function mismatch(message: string): MitaiError {
  return new MitaiError("broker.answer-mismatch", message);
}

function amountsOf({ tokens, steps, epsilonMicros }: Read): Amounts {
  return {
    ...(tokens !== null && { tokens }),
    ...(steps !== null && { steps }),
    ...(epsilonMicros !== null && { epsilon_micros: epsilonMicros }),
  };
}
