/**
 * Checks answers with a proof, each in a worker of its own that ends with it: nothing of a check stays in memory.
 *
 * Example: `await new Proofs(script).check(file, { model: "5f1c…", agreed: undefined }, show, controller.signal);`
 */
import {
  type Agreed,
  type Checked,
  type Conversation,
  MAX_ANSWER_BYTES,
  MAX_TOKENIZER_BYTES,
  type Said,
} from "@mitai/proof";
import { MitaiError } from "@mitai/verify";
import type { Asked, Comparison, Question, Told } from "./proof-worker.ts";

export interface Expected {
  /** The model's identity, hex. */
  readonly model: string;
  /** How the answer was to be drawn; undefined if its tokens have to be the likeliest. */
  readonly agreed: Agreed | undefined;
  /** The model's `tokenizer.json`, for words. */
  readonly tokenizer?: Blob | undefined;
  /** The tokens that were told, if they are known. */
  readonly said?: Said;
}

export class Proofs {
  /** `script` is the worker's. */
  constructor(readonly script: string) {}

  /** Check a file; `heard` is told how far it is, between 0 and 1. Aborting ends the worker at once. */
  async check(
    file: Blob,
    { model, agreed, tokenizer, said }: Expected,
    heard: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Checked> {
    if (file.size > MAX_ANSWER_BYTES) {
      throw new MitaiError("proof.answer-malformed", `${file.size} bytes are too many for an answer with its proof`);
    }
    if (tokenizer && tokenizer.size > MAX_TOKENIZER_BYTES) {
      throw new MitaiError("proof.tokenizer-malformed", `${tokenizer.size} bytes are too many for a tokenizer`);
    }
    const [answer, words] = await Promise.all([bytesOf(file), tokenizer && bytesOf(tokenizer)]);
    const question: Question = { file: answer, model, agreed, tokenizer: words, said };
    const told = await this.#ask(question, words ? [answer.buffer, words.buffer] : [answer.buffer], heard, signal);
    if (told.kind !== "checked") throw new Error("the check says nothing");
    return told.checked;
  }

  /** Throw unless this tokenizer has this digest, and can be read. */
  async requireReadable(tokenizer: Uint8Array, digest: string): Promise<void> {
    await this.#compare({ words: tokenizer, digest }, "readable");
  }

  /** Throw unless these tokens are this conversation, by the tokenizer with this digest. */
  async requireTold(tokenizer: Uint8Array, digest: string, said: Said, conversation: Conversation): Promise<void> {
    await this.#compare({ words: tokenizer, digest, told: { said, conversation } }, "told");
  }

  async #compare(question: Comparison, wanted: "readable" | "told"): Promise<void> {
    const { kind } = await this.#ask(question, [], () => undefined, new AbortController().signal);
    if (kind !== wanted) throw new Error("the comparison says nothing");
  }

  async #ask(
    asked: Asked,
    given: readonly ArrayBuffer[],
    heard: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Told> {
    signal.throwIfAborted();
    const url = URL.createObjectURL(new Blob([this.script], { type: "text/javascript" }));
    const worker = started(url);
    try {
      return await new Promise((resolve, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason), { once: true });
        worker.addEventListener("error", () =>
          reject(new Error("the check did not end: there may be too little memory")),
        );
        worker.addEventListener("message", ({ data }: MessageEvent<Told>) => {
          if (data.kind === "heard") heard(data.part);
          else if (data.kind !== "failed") resolve(data);
          else reject(new MitaiError(data.failure.code, data.failure.message, data.failure.hint, data.failure.step));
        });
        worker.postMessage(asked, [...given]);
      });
    } finally {
      worker.terminate();
      URL.revokeObjectURL(url);
    }
  }
}

async function bytesOf(file: Blob): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await file.arrayBuffer());
}

/** Start a worker of this address, which is of a text in the page's own script. */
function started(url: string): Worker {
  const rules = { createScriptURL: () => url };
  return new Worker(globalThis.trustedTypes?.createPolicy("mitai-proof", rules).createScriptURL(url) ?? url);
}
