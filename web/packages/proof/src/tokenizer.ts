/**
 * A model's `tokenizer.json`, as far as it turns tokens into words: what a proof says of tokens, for people to read.
 *
 * Follows docs/spec/proof-answer.md ("Words").
 *
 * Invariants:
 * - The file is the one whose digest the card has; what the card does not vouch for is read no further.
 * - Only tables are read, within limits; what follows from them needs nothing that the file could run.
 * - One token has one text: a file that says two things of a token is refused.
 *
 * Example: `Tokenizer.open(file, card.tokenizer).words([311, 9])` gives `[{ kind: "text", text: "A TEE" }]`.
 */
import { hex } from "@mitai/verify";
import {
  array,
  boolean,
  type Decoded,
  type Decoder,
  decodeJson,
  dictionary,
  integer,
  oneOf,
  optional,
  string,
  struct,
} from "@mitai/verify/json";
import { sha256 } from "@noble/hashes/sha2.js";
import { refuse } from "./errors.ts";
import { decoder, fuse, type Piece, type Step, unsupported } from "./words.ts";

export const MAX_TOKENIZER_BYTES = 64 << 20;
const MAX_TOKENS = 1 << 20;
const MAX_TOKEN_LENGTH = 1024;

const token = integer(0, MAX_TOKENS - 1);
const added = struct({ id: token, content: string, special: boolean }, "ignored");

/** The vocabulary of a model; the oldest files, which are GPT-2's, say no type. */
const vocabulary: Decoder<ReadonlyMap<string, number>> = (value) => {
  const { type } = struct({ type: optional(string, "BPE") }, "ignored")(value);
  if (type !== "BPE") unsupported(`a model of type ${JSON.stringify(type.slice(0, 40))}`);
  return struct({ vocab: dictionary(token) }, "ignored")(value).vocab;
};

const file = struct(
  { version: oneOf("1.0"), added_tokens: array(added, 0, MAX_TOKENS), decoder, model: vocabulary },
  "ignored",
);

export class Tokenizer {
  readonly #pieces = new Map<number, Piece>();
  readonly #special: readonly string[];
  readonly #decode: Step;

  private constructor({ addedTokens, decoder, model }: Decoded<typeof file>) {
    this.#decode = decoder;
    for (const [text, id] of model) this.#say(id, { kind: "text", text });
    const contents = new Set(addedTokens.map(({ content }) => content));
    if (contents.size !== addedTokens.length || contents.has("")) malformed("an added token is empty, or there twice");
    let next = model.size;
    for (const { id, content, special } of addedTokens) {
      if (id !== (model.get(content) ?? next)) malformed(`the added token ${id} has not the next free number`);
      next = Math.max(next, id + 1);
      if (model.has(content)) this.#pieces.delete(id);
      this.#say(id, { kind: special ? "special" : "text", text: content });
    }
    this.#special = addedTokens.filter(({ special }) => special).map(({ content }) => content);
  }

  /** Read the file that has this digest. */
  static open(data: Uint8Array, digest: string): Tokenizer {
    if (data.length > MAX_TOKENIZER_BYTES) malformed(`${data.length} bytes are too many for a tokenizer`);
    if (hex(sha256(data)) !== digest) {
      const hint = "take tokenizer.json from whoever publishes the model, unchanged";
      refuse("proof.tokenizer-differs", "the tokenizer is not the one that the model's card names", "tokenizer", hint);
    }
    return new Tokenizer(decodeJson(data, file, "proof.tokenizer-malformed", "this is no tokenizer.json"));
  }

  /** Tokens as words, with special tokens apart. */
  words(tokens: readonly number[]): readonly Piece[] {
    const pieces = tokens.map((id): Piece => this.#pieces.get(id) ?? { kind: "unknown", text: String(id) });
    return fuse(this.#decode(pieces)).filter(({ text }) => text !== "");
  }

  /** A text of a template, with the special tokens in it apart: the first, and of those that begin there the longest. */
  split(text: string): readonly Piece[] {
    if (this.#special.length === 0) return [{ kind: "text", text }];
    const longestFirst = this.#special.toSorted((one, other) => other.length - one.length);
    const marks = new RegExp(
      `(${longestFirst.map((mark) => mark.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|")})`,
      "u",
    );
    return text.split(marks).map((part, at) => ({ kind: at % 2 ? "special" : "text", text: part }));
  }

  #say(id: number, piece: Piece): void {
    if (this.#pieces.has(id)) malformed(`the token ${id} has two texts`);
    if (piece.text.length > MAX_TOKEN_LENGTH) malformed(`the token ${id} has ${piece.text.length} letters`);
    this.#pieces.set(id, piece);
  }
}

function malformed(message: string): never {
  return refuse("proof.tokenizer-malformed", message, "tokenizer");
}
