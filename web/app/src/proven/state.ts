/**
 * The open chat's state: a conversation whose answers can be proven, and everything that changes it; it fires `change`.
 *
 * - Nothing is sent before the service is the one that is pinned.
 * - An answer belongs to the conversation once its receipt holds: for these words, by this service; and no longer once
 *   its proof was refused.
 * - Nothing counts as proven but what this page's own worker has checked, for the pinned identity and these tokens.
 * - Nothing is kept on the device: who opens the page anew begins anew.
 */
import { type Conversation, checkReceipt, type Said } from "@mitai/proof";
import { MitaiError } from "@mitai/verify";
import { type Failure, failureOf } from "../conversations.ts";
import type { Proofs } from "../proofs.ts";
import type { Progress, Service } from "./service.ts";

const LOOK_EVERY_MS = 500;
const PROOF_WITHIN_MS = 3_600_000;
const PAINT_MS = 40;
const MAX_LETTERS = 4096 * 1024; // tokens, each with so many

export type Status =
  | { readonly kind: "starting" }
  /** No link was opened, and this device knows nothing of this service. */
  | { readonly kind: "no-link" }
  /** This device knew this address as something else. */
  | { readonly kind: "ask"; readonly before: "confidential" | "other" }
  | { readonly kind: "refused"; readonly failure: Failure }
  | { readonly kind: "open"; readonly service: Service };

/** What is known of an answer's receipt. */
export type Signed =
  | { readonly kind: "none" }
  | { readonly kind: "checking" }
  | { readonly kind: "signed"; readonly said: Said }
  /** It could not be fetched. */
  | { readonly kind: "missing"; readonly failure: Failure }
  | { readonly kind: "refused"; readonly failure: Failure };

/** How far the proof of an answer is. */
export type Proof =
  | { readonly kind: "none" }
  | { readonly kind: "asking" }
  | { readonly kind: "coming"; readonly progress: Progress }
  | { readonly kind: "checking"; readonly part: number }
  | { readonly kind: "proven"; readonly bits: number; readonly file: Blob }
  /** There is none, or it can't be checked here: nothing is known. */
  | { readonly kind: "missing"; readonly failure: Failure }
  | { readonly kind: "refused"; readonly failure: Failure };

/** A question, its answer, and what is known of that. */
export interface Turn {
  readonly id: string;
  readonly question: string;
  readonly answer: string;
  readonly state: "writing" | "complete" | "stopped" | "failed";
  /** It ended because of a limit. */
  readonly limited: boolean;
  readonly failure?: Failure;
  /** The answer's id at the service: a secret of both. */
  readonly answerId: string;
  /** What was sent, the question last. */
  readonly sent: readonly string[];
  readonly signed: Signed;
  readonly proof: Proof;
}

export class ProvenState extends EventTarget {
  status: Status = { kind: "starting" };
  turns: readonly Turn[] = [];
  private answering: AbortController | undefined;
  private readonly proving = new Map<string, AbortController>();
  private soon: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly proofs: Pick<Proofs, "check" | "requireTold">,
    private readonly lookEvery_ms = LOOK_EVERY_MS,
  ) {
    super();
  }

  private changed(): void {
    clearTimeout(this.soon);
    this.soon = undefined;
    this.dispatchEvent(new Event("change"));
  }

  show(status: Status): void {
    this.status = status;
    this.changed();
  }

  /** Begin with the service that this gives, or say why it can't be used. */
  async open(connect: () => Promise<Service>): Promise<void> {
    this.show({ kind: "starting" });
    try {
      this.show({ kind: "open", service: await connect() });
    } catch (error) {
      this.show({ kind: "refused", failure: failureOf(error) });
    }
  }

  get busy(): boolean {
    return this.answering !== undefined;
  }

  get ready(): boolean {
    const checking = this.turns.some(({ signed }) => signed.kind === "checking"); // whether it belongs to what is sent
    return this.status.kind === "open" && !this.busy && !checking;
  }

  private put(id: string, change: Partial<Turn>): void {
    this.turns = this.turns.map((turn) => (turn.id === id ? { ...turn, ...change } : turn));
    this.soon ??= setTimeout(() => this.changed(), PAINT_MS);
  }

  private turn(id: string): Turn | undefined {
    return this.turns.find((turn) => turn.id === id);
  }

  /** Leave the conversation, and whatever goes on for it. */
  close(): void {
    this.stop();
    for (const controller of this.proving.values()) controller.abort();
    this.turns = [];
    this.changed();
  }

  stop(): void {
    this.answering?.abort();
  }

  /** Ask; answers whose receipts don't hold are not part of what is sent. */
  async send(words: string): Promise<void> {
    const question = spelled(words);
    if (this.status.kind !== "open" || !this.ready || question === "") return;
    const { service } = this.status;
    const before = this.turns.filter(({ signed, proof }) => signed.kind === "signed" && proof.kind !== "refused");
    const sent = [...before.flatMap((turn) => [turn.question, spelled(turn.answer)]), question];
    const id = crypto.randomUUID();
    const fresh: Turn = {
      ...{ id, question, answer: "", state: "writing", limited: false, answerId: "", sent },
      ...{ signed: { kind: "none" }, proof: { kind: "none" } },
    };
    this.turns = [...this.turns, fresh];
    const stop = new AbortController();
    this.answering = stop;
    this.changed();
    try {
      await this.hear(service, id, sent, stop.signal);
    } catch (error) {
      this.put(id, stop.signal.aborted ? { state: "stopped" } : { state: "failed", failure: failureOf(error) });
    } finally {
      this.answering = undefined;
      this.changed();
    }
    await this.sign(id);
  }

  private async hear(service: Service, id: string, sent: readonly string[], signal: AbortSignal): Promise<void> {
    const roles = ["user", "assistant"] as const;
    const messages = sent.map((content, at) => ({ role: roles[at % 2] ?? "user", content }));
    const words = service.ask(messages, signal);
    for (let answer = ""; ; ) {
      const next = await words.next();
      if (next.done) {
        const { id: answerId, finishReason } = next.value;
        return this.put(id, { answerId, state: "complete", limited: finishReason === "length" });
      }
      answer += next.value;
      if (answer.length > MAX_LETTERS) throw new MitaiError("proof.answer-too-large", "the answer has no end");
      this.put(id, { answer });
    }
  }

  /** Fetch an answer's receipt, and check it: key, identity, prompt, answer. */
  async sign(id: string): Promise<void> {
    const turn = this.turn(id);
    if (this.status.kind !== "open" || turn?.state !== "complete" || turn.signed.kind === "checking") return;
    const { service } = this.status;
    const { offer } = service;
    this.put(id, { signed: { kind: "checking" } });
    let fetched = false;
    try {
      const { envelope, prompt, answer } = await service.receipt(turn.answerId);
      fetched = true;
      const said = { prompt, answer };
      await checkReceipt(envelope, service.key, { id: turn.answerId, ...said }, offer);
      const told: Conversation = { template: offer.template, turns: turn.sent, text: turn.answer };
      await this.proofs.requireTold(service.tokenizer, offer.tokenizer, said, told);
      this.put(id, { signed: { kind: "signed", said } });
    } catch (error) {
      this.put(id, { signed: { kind: fetched ? "refused" : "missing", failure: failureOf(error) } });
    }
  }

  /** Ask for an answer's proof, wait for it, and check it. */
  async prove(id: string): Promise<void> {
    const turn = this.turn(id);
    if (this.status.kind !== "open" || turn?.signed.kind !== "signed" || this.proving.has(id)) return;
    const { service } = this.status;
    const stop = new AbortController();
    this.proving.set(id, stop);
    const show = (proof: Proof) => this.put(id, { proof });
    let fetched = false;
    show({ kind: "asking" });
    try {
      const file = await this.awaited(service, turn.answerId, stop.signal, show);
      fetched = true;
      show({ kind: "checking", part: 0 });
      const { said } = turn.signed;
      const expected = { model: service.offer.identity, agreed: undefined, said };
      const heard = (part: number) => show({ kind: "checking", part });
      const { bits } = await this.proofs.check(file, expected, heard, stop.signal);
      show({ kind: "proven", bits, file });
    } catch (error) {
      const failure = failureOf(error);
      const known = fetched && !/^client\.|-unsupported$/.test(failure.code);
      show(stop.signal.aborted ? { kind: "none" } : { kind: known ? "refused" : "missing", failure });
    } finally {
      this.proving.delete(id);
    }
  }

  /** Don't wait for a proof any longer. */
  leave(id: string): void {
    this.proving.get(id)?.abort();
  }

  private async awaited(service: Service, answerId: string, signal: AbortSignal, show: (proof: Proof) => void) {
    await service.want(answerId, signal);
    const until = performance.now() + PROOF_WITHIN_MS;
    while (performance.now() < until) {
      const found = await service.look(answerId, signal);
      if (found instanceof Uint8Array) return new Blob([found]);
      show({ kind: "coming", progress: found });
      await pause(this.lookEvery_ms, signal);
    }
    throw new MitaiError("proof.late", "the proof is not there after an hour", "ask again later");
  }
}

/** Wait, or until somebody does not want to any more. */
function pause(time_ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const ended = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", ended);
      resolve();
    }, time_ms);
    signal.addEventListener("abort", ended, { once: true });
    if (signal.aborted) ended();
  });
}

/** Words as they are sent, and compared with what tokens say: well-formed, composed, without white space around them. */
function spelled(words: string): string {
  return new TextDecoder().decode(new TextEncoder().encode(words)).normalize("NFC").trim();
}
