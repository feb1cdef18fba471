/**
 * A chat completion as a stream of words: the little of the OpenAI API that a chat needs.
 *
 * Port of `mitai/client/chat.py`, over the sealed channel.
 *
 * Invariants:
 * - Every request is sealed to the key of a verification, which the end of the answer names.
 * - An answer without its end is an error, never a short answer.
 * - What comes in is bounded: an event, the whole answer, and the list of models.
 *
 * Example:
 *     for await (const delta of chat(session, [{ role: "user", content: "2 + 2?" }], { model: "mitai-demo" })) {
 *       if (delta.kind === "text") show(delta.text);
 *       else keep(delta.exchange); // for `fetchReceipt`
 *     }
 */

import { type Exchange, exchangeOf, type OnWire } from "@mitai/channel";
import { type Bytes, MitaiError, utf8 } from "@mitai/verify";
import { array, type Decoded, decodeJson, integer, nullable, optional, string, struct } from "@mitai/verify/json";
import { bounded, pieces, refusal } from "./http.ts";
import type { Session, Verified } from "./session.ts";
import { events } from "./sse.ts";
import { View } from "./view.ts";

const MALFORMED = "client.answer-malformed";
const MAX_MODELS_BYTES = 1 << 20;
const MAX_REFUSAL_BYTES = 1 << 20;

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** The end of an answer: what it took, and what its receipt is fetched with. */
export interface End {
  readonly kind: "end";
  readonly finishReason: string;
  readonly usage: Usage;
  readonly exchange: Readonly<Exchange>;
  /** The verification whose key the exchange was sealed to. */
  readonly verified: Verified;
}

export type Delta = { readonly kind: "text"; readonly text: string } | End;

export interface ChatOptions {
  readonly model: string;
  readonly signal?: AbortSignal;
  /** Told of the verification before anything is sealed to its key; what this throws ends the exchange. */
  readonly accept?: (verified: Verified) => void;
  /** Told of the very bytes on the wire: what the server sees. */
  readonly onWire?: OnWire;
  /** Others of the OpenAI API, such as `max_tokens`. */
  readonly parameters?: Readonly<Record<string, unknown>>;
}

/** Ask, and yield the answer as it arrives; the last delta is its end. Leaving the loop ends the exchange. */
export async function* chat(
  session: Session,
  messages: readonly Message[],
  { model, signal, accept, onWire, parameters }: ChatOptions,
): AsyncGenerator<Delta, void> {
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...parameters };
  const view = new View(session, undefined, accept);
  const response = await view.fetch(
    "/v1/chat/completions",
    {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      ...(signal && { signal }),
    },
    onWire,
  );
  if (response.status !== 200) throw refusal(response.status, await bounded(response, MAX_REFUSAL_BYTES));
  const { finishReason, usage } = yield* completion(pieces(response));
  yield { kind: "end", finishReason, usage, exchange: exchangeOf(response), verified: view.verified };
}

/** How a completion ended. */
export interface Completed {
  readonly finishReason: string;
  readonly usage: Usage;
  /** The answer's, by the server. */
  readonly id: string;
}

/** Read the words of a streamed completion, to the stream's very end; `client.answer-incomplete` if it has none. */
export async function* completion(
  stream: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ readonly kind: "text"; readonly text: string }, Completed> {
  let usage: Usage = { promptTokens: 0, completionTokens: 0 };
  let [finishReason, id] = ["", ""];
  for await (const event of events(stream)) {
    if (event === "[DONE]") continue; // the exchange has its digests only at its very end
    const read = readChunk(utf8(event));
    usage = read.usage ?? usage;
    id ||= read.id;
    if (id !== read.id && read.id) throw new MitaiError(MALFORMED, "the server's stream is of two answers");
    for (const choice of read.choices) {
      finishReason = choice.finishReason || finishReason;
      if (choice.delta.content) yield { kind: "text", text: choice.delta.content };
    }
  }
  if (!finishReason) {
    throw new MitaiError("client.answer-incomplete", "the server ended its answer before it was complete");
  }
  return { finishReason, usage, id };
}

/** The names of the models that the server offers. */
export async function models(session: Session, signal?: AbortSignal): Promise<readonly string[]> {
  const { status, body } = await new View(session).get("/v1/models", MAX_MODELS_BYTES, signal);
  if (status !== 200) throw refusal(status, body);
  const list = decodeJson(body ?? utf8(""), modelList, MALFORMED, "the server's list of models can't be read");
  return list.data.map((model) => model.id);
}

// What we read of a chunk; the error is there when the answer failed half-way.
const count = integer();
const chunk = struct(
  {
    id: optional(string, ""),
    choices: optional(
      array(
        struct(
          {
            delta: optional(struct({ content: optional(nullable(string), null) }, "ignored"), { content: null }),
            finish_reason: optional(nullable(string), null),
          },
          "ignored",
        ),
      ),
      [],
    ),
    usage: optional(nullable(struct({ prompt_tokens: count, completion_tokens: count }, "ignored")), null),
    error: optional(nullable(struct({}, "ignored")), null),
  },
  "ignored",
);
const modelList = struct({ data: array(struct({ id: string }, "ignored")) }, "ignored");

function readChunk(event: Bytes): Decoded<typeof chunk> {
  const read = decodeJson(event, chunk, MALFORMED, "the server's stream is not a chat completion");
  if (read.error) throw refusal(500, event);
  return read;
}
