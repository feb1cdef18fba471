/**
 * What runs in a worker of the chat page, so that it stays usable: one check of an answer with its proof.
 *
 * The page's one script holds this script as a text (see vite.config.ts), so that its integrity covers this code too.
 */
import { type Agreed, Answer, type Checked, checkAnswer } from "@mitai/proof";
import { type Failure, failureOf } from "./conversations.ts";

export interface Question {
  readonly file: Uint8Array;
  readonly model: string;
  readonly agreed: Agreed | undefined;
}

/** How much of the proof has been read, between 0 and 1; then what came out. */
export type Told =
  | { readonly kind: "heard"; readonly part: number }
  | { readonly kind: "checked"; readonly checked: Checked }
  | { readonly kind: "failed"; readonly failure: Failure };

const STEP = 0.01; // of progress, that is told

self.addEventListener("message", ({ data }: MessageEvent<Question>) => {
  self.postMessage(checked(data, (part) => self.postMessage({ kind: "heard", part } satisfies Told)));
});

function checked({ file, model, agreed }: Question, tell: (part: number) => void): Told {
  let told = 0;
  const heard = (part: number) => {
    if (part < told + STEP) return;
    told = part;
    tell(part);
  };
  try {
    return { kind: "checked", checked: checkAnswer(Answer.parse(file), model, { agreed, heard }) };
  } catch (error) {
    return { kind: "failed", failure: failureOf(error) };
  }
}
