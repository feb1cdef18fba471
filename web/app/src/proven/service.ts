/**
 * A service of answers with a proof, over its plain OpenAI API (docs/spec/proof-service.md).
 *
 * - Key, identity and tokenizer are those that are pinned, or there is no `Service`.
 * - What comes in is bounded, and waited for within a time.
 *
 * Example: `const service = await Service.connect(location.origin, offer);`
 */
import {
  bounded,
  type Completed,
  completion,
  errorFrom,
  type Fetch,
  get,
  type Message,
  pieces,
  post,
  refusal,
} from "@mitai/client";
import { MAX_ANSWER_BYTES, MAX_TOKENIZER_BYTES, type Said } from "@mitai/proof";
import { type Bytes, hex, MitaiError, PublicKey, sha256, utf8 } from "@mitai/verify";
import {
  array,
  bytes,
  type Decoder,
  decodeJson,
  integer,
  type Json,
  nullable,
  oneOf,
  optional,
  string,
  struct,
} from "@mitai/verify/json";
import type { ProvenOffer } from "./offer.ts";

const MAX_REPLY_BYTES = 1 << 20;
const IDLE_MS = 600_000; // a prompt may be long, and others before it
const MALFORMED = "client.answer-malformed";

const models = struct(
  { data: array(struct({ id: string, identity: optional(string, ""), key: optional(string, "") }, "ignored")) },
  "ignored",
);
const keyOf = struct({ data: array(struct({ key: bytes }, "ignored"), 1, 1) }, "ignored");
const tokens = array(integer(0, 2 ** 31 - 1), 1, 4096);
const replied = struct({ envelope: bytes, prompt: tokens, answer: tokens });
const seconds: Decoder<number> = (value: Json) => {
  const number = Number(value);
  if (!(typeof value === "bigint" || typeof value === "number") || !(number >= 0)) throw new RangeError("no duration");
  return number;
};
const progress = struct({
  state: oneOf("waiting", "proving"),
  ahead: optional(integer(0), 0),
  seconds: optional(seconds, 0),
  expected_s: optional(nullable(seconds), null),
});

/** How far a proof is. */
export interface Progress {
  readonly state: "waiting" | "proving";
  readonly ahead: number;
  readonly seconds: number;
  readonly expectedS: number | null;
}

/** A receipt, and the tokens that it is about; nothing of it is checked. */
export interface Replied extends Said {
  readonly envelope: Bytes;
}

export class Service {
  private constructor(
    private readonly base: string,
    readonly offer: ProvenOffer,
    readonly key: PublicKey,
    readonly tokenizer: Bytes,
    private readonly fetcher: Fetch,
  ) {}

  /** Ask a service what it is; throw if that is not what is known. */
  static async connect(base: string, offer: ProvenOffer, fetcher: Fetch = (...how) => fetch(...how)): Promise<Service> {
    const list = await replyOf(get(fetcher, `${base}/v1/models`, MAX_REPLY_BYTES));
    const { data } = decodeJson(list, models, MALFORMED, "the service's list of models can't be read");
    const found = data.find(({ id }) => id === offer.model);
    if (!found || found.identity !== offer.identity) differs("it does not say that it serves the model that is known");
    const one = utf8(JSON.stringify({ data: [{ key: found.key }] }));
    const [{ key: raw } = { key: utf8("") }] = decodeJson(
      one,
      keyOf,
      MALFORMED,
      "the service's key can't be read",
    ).data;
    const key = new PublicKey(raw);
    if ((await key.keyId()) !== offer.key) differs("it has another key than the one that is known");
    const tokenizer = await replyOf(get(fetcher, `${base}/v1/tokenizer`, MAX_TOKENIZER_BYTES));
    if (hex(await sha256(tokenizer)) !== offer.tokenizer)
      differs("it has another tokenizer than the one that is known");
    return new Service(base, offer, key, tokenizer, fetcher);
  }

  /** Ask, and yield the answer's words as they arrive; return how it ended. */
  async *ask(messages: readonly Message[], signal: AbortSignal): AsyncGenerator<string, Completed> {
    const slow = new AbortController();
    let idle = setTimeout(() => slow.abort(), IDLE_MS);
    async function* heard(stream: AsyncIterable<Uint8Array>) {
      for await (const piece of stream) {
        clearTimeout(idle);
        idle = setTimeout(() => slow.abort(), IDLE_MS);
        yield piece;
      }
    }
    try {
      const response = await this.fetcher(`${this.base}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", "mitai-proof": "on-demand" },
        body: JSON.stringify({ model: this.offer.model, messages, stream: true, temperature: 0 }),
        ...{ credentials: "omit", redirect: "error", cache: "no-store", referrerPolicy: "no-referrer" },
        signal: AbortSignal.any([signal, slow.signal]),
      });
      if (response.status !== 200) throw refusal(response.status, await bounded(response, MAX_REPLY_BYTES));
      const words = completion(heard(pieces(response)));
      for (;;) {
        const next = await words.next();
        if (next.done) return next.value;
        yield next.value.text;
      }
    } catch (error) {
      if (error instanceof MitaiError || signal.aborted) throw error;
      if (slow.signal.aborted) throw new MitaiError("client.timeout", "the service did not answer in time");
      throw new MitaiError("client.unreachable", "the service can't be reached, or it ended its answer");
    } finally {
      clearTimeout(idle);
    }
  }

  /** The receipt of an answer, as the service gives it. */
  async receipt(id: string, signal?: AbortSignal): Promise<Replied> {
    const reply = await replyOf(get(this.fetcher, this.at("receipts", id), MAX_REPLY_BYTES, signal));
    return decodeJson(reply, replied, MALFORMED, "the service's receipt can't be read");
  }

  /** Ask for the proof of an answer. */
  async want(id: string, signal: AbortSignal): Promise<void> {
    await replyOf(post(this.fetcher, this.at("proofs", id), MAX_REPLY_BYTES, signal));
  }

  /** The proof of an answer as a file, or how far it is. */
  async look(id: string, signal: AbortSignal): Promise<Bytes | Progress> {
    const { status, body } = await get(this.fetcher, this.at("proofs", id), MAX_ANSWER_BYTES, signal);
    if (status === 200) return body ?? large();
    if (status !== 202) throw refusal(status, body);
    return decodeJson(body ?? large(), progress, MALFORMED, "the service does not say how far it is");
  }

  private at(what: string, id: string): string {
    if (!/^[A-Za-z0-9-]{1,64}$/.test(id)) throw new MitaiError(MALFORMED, "the service's answer has no usable id");
    return `${this.base}/v1/${what}/${id}`;
  }
}

async function replyOf(asked: ReturnType<typeof get>): Promise<Bytes> {
  const { status, body } = await asked;
  if (![200, 201, 202].includes(status)) {
    throw body ? refusal(status, body) : errorFrom(status, body, "client.refused", "the service");
  }
  return body ?? large();
}

function large(): never {
  throw new MitaiError("proof.answer-too-large", "the service answers with more than such an answer has");
}

function differs(why: string): never {
  const hint = "don't rely on it; ask whoever told you of this service";
  throw new MitaiError("proof.service-differs", `this is not the service that is known: ${why}`, hint, "service");
}
