/**
 * Whether a receipt's tokens are a conversation: what was sent, and what was told.
 *
 * Follows docs/spec/proof-service.md ("In the browser"). A page can't make tokens of words, but it can compare the words
 * of tokens.
 *
 * Invariants:
 * - Every word and every special token of the prompt is compared, what the template writes around the turns as well.
 * - What is said in a turn is text: no special token passes for a part of it, nor a part of it for a special token.
 *
 * Example: `requireTold(tokenizer, said, { template, turns: ["Who are you?"], text: "I am …" });`
 */
import type { Said } from "./answer.ts";
import { refuse } from "./errors.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { fuse, type Piece } from "./words.ts";

/** What a chat template writes around the turns of user and assistant. */
export interface Template {
  readonly head: string;
  readonly user: string;
  readonly assistant: string;
  readonly tail: string;
}

/** What was sent, and what was told. */
export interface Conversation {
  readonly template: Template;
  /** Of user and assistant in turn; the last is the question. */
  readonly turns: readonly string[];
  /** The answer. */
  readonly text: string;
}

/** Throw unless these tokens are this conversation. */
export function requireTold(tokenizer: Tokenizer, { prompt, answer }: Said, { template, turns, text }: Conversation) {
  const sent = fuse([
    ...tokenizer.split(template.head),
    ...turns.flatMap((turn, at): readonly Piece[] => [
      { kind: "text", text: turn },
      ...tokenizer.split(at === turns.length - 1 ? template.tail : at % 2 ? template.assistant : template.user),
    ]),
  ]).filter((piece) => piece.text !== "");
  if (JSON.stringify(sent) !== JSON.stringify(tokenizer.words(prompt)))
    differs("its receipt is about another question");
  const pieces = tokenizer.words(answer);
  const words = pieces.map((piece) => (piece.kind === "text" ? piece.text : "")).join("");
  const unknown = pieces.some(({ kind }) => kind === "unknown");
  // An answer that ends within a character is told without it.
  if (unknown || (words !== text && words.replace(/\ufffd+$/u, "") !== text)) {
    differs("its receipt is about another answer than it told");
  }
}

function differs(why: string): never {
  const hint = "don't rely on it; ask whoever told you of this service";
  return refuse("proof.service-differs", `this is not the service that is known: ${why}`, "service", hint);
}
