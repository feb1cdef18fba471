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
import { type Statement, verify } from "./verify.ts";

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
  ) {}

  static parse(data: Uint8Array): Answer {
    const code = "proof.answer-malformed";
    if (data.length > MAX_ANSWER_BYTES) refuse(code, `${data.length} bytes are too many for an answer with its proof`);
    try {
      const reader = new Unpacker(data);
      reader.map(5);
      reader.expect("v");
      reader.expect(VERSION);
      reader.expect("card");
      const card = reader.bytes();
      reader.expect("prompt");
      const prompt = reader.integers(1, MAX_TOKENS, MAX_TOKEN);
      reader.expect("answer");
      const answer = reader.integers(1, MAX_TOKENS, MAX_TOKEN);
      reader.expect("proof");
      const proof = reader.bytes();
      reader.end();
      if (card.length > MAX_CARD_BYTES) throw new RangeError("a card that is too long");
      return new Answer(card, prompt, answer, proof);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return refuse(code, "these bytes are no answer with a proof, or not of a kind that is known here");
    }
  }
}

/** What a check found. */
export interface Checked {
  readonly model: string;
  readonly prompt: number;
  readonly answer: number;
  /** A false statement is accepted with a probability of 2^−bits at most. */
  readonly bits: number;
}

/** Check that the model of this identity answers this prompt so; `heard` is told how much of the proof was read. */
export function checkAnswer(answer: Answer, model: string, heard?: (part: number) => void): Checked {
  const card = ModelCard.parse(answer.card);
  if (card.identity !== model) {
    refuse(
      "proof.model-differs",
      `the answer is of model ${card.identity}, not of the one that was asked for`,
      "model",
      "ask whoever publishes the model for its identity",
    );
  }
  const told = heard && ((bytes: number) => heard(bytes / answer.proof.length));
  const bits = verify(statementOf(answer, card), answer.proof, told);
  return { model, prompt: answer.prompt.length, answer: answer.answer.length, bits };
}

/** What an answer's proof has to prove. */
function statementOf({ prompt, answer }: Answer, card: ModelCard): Statement {
  const program = card.program(prompt.length, answer.length);
  if ([...prompt, ...answer].some((token) => token >= card.model.vocabulary)) {
    refuse("proof.statement-invalid", "a token is not in the model's vocabulary");
  }
  const said = integers(answer);
  return {
    program,
    weights: card.weights,
    inputs: new Map([["tokens", integers([...prompt, ...answer.slice(0, -1)])]]),
    outputs: new Map([["token", said]]),
    choices: new Map([[program.operations.findIndex(({ op }) => op === "argmax"), said]]),
  };
}

function integers(tokens: readonly number[]): Ints {
  return { shape: [tokens.length], numbers: BigInt64Array.from(tokens, BigInt) };
}
