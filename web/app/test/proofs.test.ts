/** What the page does with the worker that checks proofs; the worker itself runs in e2e/proof.e2e.ts. */
import { MAX_ANSWER_BYTES, MAX_TOKENIZER_BYTES } from "@mitai/proof";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Question } from "../src/proof-worker.ts";
import { Proofs } from "../src/proofs.ts";

class FakeWorker extends EventTarget {
  static made: FakeWorker[] = [];
  ended = false;
  question: Question | undefined;

  constructor(readonly url: string) {
    super();
    FakeWorker.made.push(this);
  }

  postMessage(question: Question): void {
    this.question = question;
  }

  terminate(): void {
    this.ended = true;
  }

  tell(data: unknown): void {
    this.dispatchEvent(new MessageEvent("message", { data }));
  }
}

const MODEL = "5a".repeat(32);
const nobody = new AbortController().signal;
const ask = { model: MODEL, agreed: undefined };

async function begun(signal = nobody, heard = (_: number) => undefined as unknown) {
  FakeWorker.made = [];
  const result = new Proofs("script").check(new Blob(["file"]), ask, heard, signal);
  result.catch(() => undefined);
  await vi.waitFor(() => expect(FakeWorker.made.at(-1)?.question).toBeDefined());
  return { result, worker: FakeWorker.made.at(-1) as FakeWorker };
}

beforeEach(() => vi.stubGlobal("Worker", FakeWorker));
afterEach(() => vi.unstubAllGlobals());

it("hands over the file, tells how far it is, and ends the worker", async () => {
  const parts: number[] = [];
  const { result, worker } = await begun(nobody, (part) => parts.push(part));
  expect(worker.url).toMatch(/^blob:/);
  expect(new TextDecoder().decode(worker.question?.file)).toBe("file");
  expect(worker.question).toMatchObject(ask);
  worker.tell({ kind: "heard", part: 0.5 });
  const checked = { model: MODEL, prompt: 1, answer: 2, bits: 101 };
  worker.tell({ kind: "checked", checked });
  expect(await result).toEqual(checked);
  expect(parts).toEqual([0.5]);
  expect(worker.ended).toBe(true);
});

it("hands over the tokenizer too, for words", async () => {
  FakeWorker.made = [];
  const result = new Proofs("script").check(
    new Blob(["file"]),
    { ...ask, tokenizer: new Blob(["{}"]) },
    () => undefined,
    nobody,
  );
  await vi.waitFor(() => expect(FakeWorker.made.at(-1)?.question).toBeDefined());
  const [worker] = FakeWorker.made as [FakeWorker];
  expect(new TextDecoder().decode(worker.question?.tokenizer)).toBe("{}");
  const words = { prompt: [], answer: [{ kind: "text", text: "a" }] };
  worker.tell({ kind: "checked", checked: { words } });
  expect(await result).toEqual({ words });
});

it("says why a proof does not hold", async () => {
  const { result, worker } = await begun();
  worker.tell({ kind: "failed", failure: { code: "proof.malformed", message: "short", hint: "", step: "round" } });
  await expect(result).rejects.toMatchObject({ code: "proof.malformed", message: "short", step: "round" });
  expect(worker.ended).toBe(true);
});

it("ends the worker at once when the check is cancelled, or fails", async () => {
  const controller = new AbortController();
  const cancelled = await begun(controller.signal);
  controller.abort();
  await expect(cancelled.result).rejects.toThrow(/aborted/);
  expect(cancelled.worker.ended).toBe(true);
  const { result, worker } = await begun();
  worker.dispatchEvent(new Event("error"));
  await expect(result).rejects.toThrow(/memory/);
  expect(worker.ended).toBe(true);
});

it("starts nothing for what was cancelled before, or is too large", async () => {
  FakeWorker.made = [];
  const proofs = new Proofs("script");
  await expect(proofs.check(new Blob([]), ask, () => undefined, AbortSignal.abort())).rejects.toThrow(/aborted/);
  const large = { size: MAX_ANSWER_BYTES + 1 } as Blob;
  await expect(proofs.check(large, ask, () => undefined, nobody)).rejects.toMatchObject({
    code: "proof.answer-malformed",
  });
  const book = { ...ask, tokenizer: { size: MAX_TOKENIZER_BYTES + 1 } as Blob };
  await expect(proofs.check(new Blob([]), book, () => undefined, nobody)).rejects.toMatchObject({
    code: "proof.tokenizer-malformed",
  });
  expect(FakeWorker.made).toEqual([]);
});

it("takes a tokenizer that can be read for no conversation that was compared", async () => {
  FakeWorker.made = [];
  const said = { prompt: [1], answer: [2] };
  const template = { head: "", user: "", assistant: "", tail: "" };
  const words = new Uint8Array([1]);
  for (const [kind, holds] of [
    ["readable", false],
    ["told", true],
  ] as const) {
    const result = new Proofs("script").requireTold(words, "5f1c", said, { template, turns: ["a"], text: "b" });
    await vi.waitFor(() => expect(FakeWorker.made.at(-1)?.question).toBeDefined());
    const worker = FakeWorker.made.pop();
    expect(worker?.question).toMatchObject({ words, digest: "5f1c", told: { said, conversation: { turns: ["a"] } } });
    worker?.tell({ kind });
    await (holds ? expect(result).resolves.toBeUndefined() : expect(result).rejects.toThrow("says nothing"));
  }
});
