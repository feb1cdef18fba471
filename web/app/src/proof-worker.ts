/**
 * What runs in a worker of the chat page, so that it stays usable: one check of an answer with its proof, or of what its
 * tokens say.
 *
 * The page's one script holds this script as a text (see vite.config.ts), so that its integrity covers this code too.
 */
import {
  type Agreed,
  Answer,
  type Checked,
  type Conversation,
  checkAnswer,
  requireTold,
  type Said,
  Tokenizer,
} from "@mitai/proof";
import { type Failure, failureOf } from "./conversations.ts";

export interface Question {
  readonly file: Uint8Array;
  readonly model: string;
  readonly agreed: Agreed | undefined;
  /** The model's `tokenizer.json`, for words. */
  readonly tokenizer: Uint8Array | undefined;
  /** The tokens that were told, if they are known. */
  readonly said: Said | undefined;
}

/** Whether a tokenizer can be read, and tokens are a conversation. */
export interface Comparison {
  /** The model's `tokenizer.json`. */
  readonly words: Uint8Array;
  readonly digest: string;
  readonly told?: { readonly said: Said; readonly conversation: Conversation };
}

export type Asked = Question | Comparison;

/** How much of the proof has been read, between 0 and 1; then what came out. */
export type Told =
  | { readonly kind: "heard"; readonly part: number }
  | { readonly kind: "checked"; readonly checked: Checked }
  | { readonly kind: "readable" | "told" }
  | { readonly kind: "failed"; readonly failure: Failure };

const STEP = 0.01; // of progress, that is told

self.addEventListener("message", ({ data }: MessageEvent<Asked>) => {
  if ("words" in data) self.postMessage(compared(data));
  else self.postMessage(checked(data, (part) => self.postMessage({ kind: "heard", part } satisfies Told)));
});

function compared({ words, digest, told }: Comparison): Told {
  try {
    const tokenizer = Tokenizer.open(words, digest);
    if (told) requireTold(tokenizer, told.said, told.conversation);
    return { kind: told ? "told" : "readable" };
  } catch (error) {
    return { kind: "failed", failure: failureOf(error) };
  }
}

function checked({ file, model, agreed, tokenizer, said }: Question, tell: (part: number) => void): Told {
  let told = 0;
  const heard = (part: number) => {
    if (part < told + STEP) return;
    told = part;
    tell(part);
  };
  try {
    return { kind: "checked", checked: checkAnswer(Answer.parse(file), model, { agreed, heard, tokenizer, said }) };
  } catch (error) {
    return { kind: "failed", failure: failureOf(error) };
  }
}
