/**
 * Checks answers with a proof, each in a worker of its own that ends with it: nothing of a check stays in memory.
 *
 * Example: `await new Proofs(script).check(file, { model: "5f1c…", agreed: undefined }, show, controller.signal);`
 */
import { type Agreed, type Checked, MAX_ANSWER_BYTES } from "@mitai/proof";
import { MitaiError } from "@mitai/verify";
import type { Question, Told } from "./proof-worker.ts";

export interface Expected {
  /** The model's identity, hex. */
  readonly model: string;
  /** How the answer was to be drawn; undefined if its tokens have to be the likeliest. */
  readonly agreed: Agreed | undefined;
}

export class Proofs {
  /** `script` is the worker's. */
  constructor(readonly script: string) {}

  /** Check a file; `heard` is told how far it is, between 0 and 1. Aborting ends the worker at once. */
  async check(
    file: Blob,
    { model, agreed }: Expected,
    heard: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Checked> {
    if (file.size > MAX_ANSWER_BYTES) {
      throw new MitaiError("proof.answer-malformed", `${file.size} bytes are too many for an answer with its proof`);
    }
    const question: Question = { file: new Uint8Array(await file.arrayBuffer()), model, agreed };
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
          else if (data.kind === "checked") resolve(data.checked);
          else reject(new MitaiError(data.failure.code, data.failure.message, data.failure.hint, data.failure.step));
        });
        worker.postMessage(question, [question.file.buffer as ArrayBuffer]);
      });
    } finally {
      worker.terminate();
      URL.revokeObjectURL(url);
    }
  }
}

/** Start a worker of this address, which is of a text in the page's own script. */
function started(url: string): Worker {
  const rules = { createScriptURL: () => url };
  return new Worker(globalThis.trustedTypes?.createPolicy("mitai-proof", rules).createScriptURL(url) ?? url);
}
