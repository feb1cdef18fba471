/**
 * Answers with a proof: `checkAnswer` says whether the model of an identity answers a prompt so.
 *
 * Follows docs/spec/proof-answer.md; `Answer` is `mitai.proof.answer`'s file.
 *
 * Invariants:
 * - What is checked follows from the card whose identity the caller knows, and the tokens that it sees, never from the
 *   file alone; a card of another identity is looked at no further.
 * - What cannot be checked is refused with `MitaiError`: nothing here returns false.
 *
 * Example: `const { bits } = checkAnswer(Answer.parse(file), "5f1c…");`
 */
import { MAX_CARD_BYTES, MAX_TOKENS, ModelCard } from "./card.ts";
import { refuse } from "./errors.ts";
import { Unpacker } from "./msgpack.ts";
import type { Ints } from "./operations.ts";
import { type Agreed, MOST_TEMPERATURE, noise, requireAgreed, type Sampling, SEED_BYTES } from "./sampling.ts";
import { LEAST_BITS } from "./soundness.ts";
import { Tokenizer } from "./tokenizer.ts";
import { type Statement, verify } from "./verify.ts";
import type { Piece } from "./words.ts";

export const MAX_ANSWER_BYTES = 1 << 28;
const VERSION = "mitai proof answer v1";
const MAX_TOKEN = 1 << 20;

/** A file that proves itself. */
export class Answer {
  private constructor(
    readonly card: Uint8Array,
    readonly prompt: readonly number[],
    readonly answer: readonly number[],
    readonly proof: Uint8Array,
    /** How tokens were drawn; undefined where they are the likeliest. */
    readonly sampling: Sampling | undefined,
  ) {}

  static parse(data: Uint8Array): Answer {
    const code = "proof.answer-malformed";
    if (data.length > MAX_ANSWER_BYTES) refuse(code, `${data.length} bytes are too many for an answer with its proof`);
    try {
      const reader = new Unpacker(data);
      const members = reader.map();
      reader.expect("v", VERSION, "card");
      const card = reader.bytes(0, MAX_CARD_BYTES);
      reader.expect("prompt");
      const prompt = reader.integers(1, MAX_TOKENS, MAX_TOKEN);
      reader.expect("answer");
      const answer = reader.integers(1, MAX_TOKENS, MAX_TOKEN);
      reader.expect("proof");
      const proof = reader.bytes();
      const sampling = members === 6 ? readSampling(reader) : undefined;
      if (members !== 5 && !sampling) throw new RangeError("members too few or too many");
      reader.end();
      return new Answer(card, prompt, answer, proof, sampling);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return refuse(code, "these bytes are no answer with a proof, or not of a kind that is known here");
    }
  }
}

function readSampling(reader: Unpacker): Sampling {
  reader.expect("sampling");
  if (reader.map() !== 3) throw new RangeError("members too few or too many");
  reader.expect("temperature");
  const temperature = reader.integer(MOST_TEMPERATURE + 1);
  if (temperature === 0) throw new RangeError("no temperature");
  reader.expect("seed");
  const seed = reader.bytes(SEED_BYTES, SEED_BYTES);
  reader.expect("nonce");
  return { temperature, seed, nonce: reader.bytes(SEED_BYTES, SEED_BYTES) };
}

/** What a check found. */
export interface Checked {
  readonly model: string;
  readonly prompt: number;
  readonly answer: number;
  /** A false statement is accepted with a probability of 2^−bits at most. */
  readonly bits: number;
  /** Prompt and answer in words, if a tokenizer was at hand. */
  readonly words: { readonly prompt: readonly Piece[]; readonly answer: readonly Piece[] } | undefined;
}

/** Prompt and answer, in tokens. */
export interface Said {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
}

/** What else is known, or wanted. */
interface Asked {
  readonly agreed?: Agreed | undefined;
  readonly heard?: ((part: number) => void) | undefined;
  readonly tokenizer?: Uint8Array | undefined;
  readonly leastBits?: number | undefined;
  /** The tokens that were told. */
  readonly said?: Said | undefined;
}

/**
 * Check that the model of this identity answers this prompt so.
 *
 * @param tokenizer The model's `tokenizer.json`, to say prompt and answer in words.
 * @param agreed How the answer was to be drawn; undefined if its tokens have to be the likeliest.
 * @param said What was told, if it is known.
 * @param heard Is told how much of the proof was read, between 0 and 1.
 * @param leastBits Of security, which the proof has to have.
 */
export function checkAnswer(
  answer: Answer,
  model: string,
  { agreed, heard, tokenizer, said, leastBits = LEAST_BITS }: Asked = {},
): Checked {
  const card = ModelCard.parse(answer.card);
  if (card.identity !== model) {
    refuse(
      "proof.model-differs",
      `the answer is of model ${card.identity}, not of the one that was asked for`,
      "model",
      "ask whoever publishes the model for its identity",
    );
  }
  requireAgreed(answer.sampling, agreed);
  if (said && !(same(said.prompt, answer.prompt) && same(said.answer, answer.answer))) {
    const hint = "don't rely on this answer; ask the service's operator";
    refuse("proof.receipt-differs", "the proof is about another answer than the one that is shown", "receipt", hint);
  }
  const reader = tokenizer && Tokenizer.open(tokenizer, card.tokenizer);
  const told = heard && ((bytes: number) => heard(bytes / answer.proof.length));
  const bits = verify(statementOf(answer, card), answer.proof, leastBits, told);
  const words = reader && { prompt: reader.words(answer.prompt), answer: reader.words(answer.answer) };
  return { model, prompt: answer.prompt.length, answer: answer.answer.length, bits, words };
}

function same(one: readonly number[], other: readonly number[]): boolean {
  return one.length === other.length && one.every((token, at) => token === other[at]);
}

/** What an answer's proof has to prove. */
function statementOf({ prompt, answer, sampling }: Answer, card: ModelCard): Statement {
  const program = card.program(prompt.length, answer.length, sampling !== undefined);
  if ([...prompt, ...answer].some((token) => token >= card.model.vocabulary)) {
    refuse("proof.statement-invalid", "a token is not in the model's vocabulary");
  }
  const said = integers(answer);
  const inputs = new Map([["tokens", integers([...prompt, ...answer.slice(0, -1)])]]);
  if (sampling) {
    inputs.set("noise", noise(sampling, card.identity, prompt, answer.length, card.model.vocabulary));
  }
  return {
    program,
    weights: card.weights,
    inputs,
    outputs: new Map([["token", said]]),
    choices: new Map([[program.operations.findIndex(({ op }) => op === "argmax"), said]]),
    uses: card.uses,
  };
}

function integers(tokens: readonly number[]): Ints {
  return { shape: [tokens.length], numbers: BigInt64Array.from(tokens, BigInt) };
}
