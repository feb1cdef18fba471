/**
 * What everybody may know of a model whose answers are proven: its card, whose digest is the model's identity.
 *
 * Follows docs/spec/proof-answer.md. From a card follow the programs of all answers: a verifier needs no weights.
 */
import { fromHex, hex, utf8 } from "@mitai/verify";
import { decodeCanonical, dictionary, integer, oneOf, optional, pattern, string, struct } from "@mitai/verify/json";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Decoder, decoderOf, writeProgram } from "./decoder.ts";
import { refuse } from "./errors.ts";
import { Graph } from "./graph.ts";
import { MAX_USES } from "./hiding.ts";
import type { Program } from "./program.ts";

export const MAX_CARD_BYTES = 4 << 20;
export const MAX_TOKENS = 4096; // of prompt and answer together
const VERSION = "mitai proof model v1";
const MAX_CONFIG_BYTES = 1 << 20;

const members = struct({
  v: oneOf(VERSION),
  config: string,
  reaches: dictionary(integer(-64, 62)),
  weights: pattern(/^[0-9a-f]{64}$/),
  tokenizer: pattern(/^([0-9a-f]{64})?$/),
  uses: optional(integer(1, MAX_USES), undefined),
});

export class ModelCard {
  /** SHA-256 over label and encoding. */
  readonly identity: string;
  /** Root of the commitment to the model's weights. */
  readonly weights: Uint8Array;
  /** SHA-256 of its `tokenizer.json`, hex; empty if it has none. */
  readonly tokenizer: string;
  /** How many proofs the hiding commitment to weights serves (docs/spec/proof-zk.md); 0 if proofs hide nothing. */
  readonly uses: number;
  readonly #config: Uint8Array;
  readonly #reaches: ReadonlyMap<string, number>;
  #model: Decoder | undefined;

  private constructor(data: Uint8Array) {
    const code = "proof.card-malformed";
    if (data.length > MAX_CARD_BYTES) refuse(code, `${data.length} bytes are too many for a card`);
    const { config, reaches, weights, tokenizer, uses } = decodeCanonical(
      data,
      members,
      code,
      "this is no card of a model, or not of a kind that is known here",
    );
    this.#config = utf8(config);
    if (this.#config.length > MAX_CONFIG_BYTES) refuse(code, "the card's configuration is too long");
    this.#reaches = reaches;
    this.weights = fromHex(weights);
    this.tokenizer = tokenizer;
    this.uses = uses ?? 0;
    this.identity = hex(
      sha256
        .create()
        .update(utf8(`${VERSION}\0`))
        .update(data)
        .digest(),
    );
  }

  static parse(data: Uint8Array): ModelCard {
    return new ModelCard(data);
  }

  /** What writes its programs. */
  get model(): Decoder {
    this.#model ??= decoderOf(this.#config);
    return this.#model;
  }

  /** The program in which an answer of so many tokens, likeliest or drawn, follows a prompt of so many. */
  program(prompt: number, answer: number, drawn = false): Program {
    if (prompt < 1 || answer < 1 || prompt + answer > MAX_TOKENS) {
      refuse("proof.statement-invalid", `prompt and answer have 2 to ${MAX_TOKENS} tokens together`);
    }
    const graph = new Graph(this.#reaches);
    writeProgram(this.model, graph, prompt + answer - 1, answer, drawn);
    return graph.program();
  }
}
