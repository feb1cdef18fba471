/**
 * The chat's state and everything that changes it; components show it and call it. It fires `change` after each
 * change, and `trouble` when the device's storage fails.
 *
 * - Nothing is sent unless the machine was verified under the pinned policy: `send` does nothing in any other state.
 * - What was told to genuine hardware is never sent to a simulated machine.
 * - When a later verification is refused, the state is `refused` and the composer is closed.
 * - The bytes on the wire are kept in memory only, for the last exchanges.
 */

import type { WirePiece } from "@mitai/channel";
import type { End, Verified } from "@mitai/client";
import { MitaiError } from "@mitai/verify";
import type { Connect, Machine } from "./backend.ts";
import {
  type AnswerMessage,
  type Attachment,
  type Conversation,
  type ConversationStore,
  type Failure,
  failureOf,
  type Message,
  type ReceiptNote,
  type Summary,
  titleOf,
  turns,
} from "./conversations.ts";
import { keepPin, type Offer, type Pin, type Policy, type Source, type Standing, standing } from "./pinning.ts";

export { failureOf };

export type Status =
  | { readonly kind: "starting" }
  /** The user must first say which policy holds. */
  | { readonly kind: "undecided" }
  | { readonly kind: "verifying" }
  | { readonly kind: "verified"; readonly machine: Machine }
  | { readonly kind: "refused"; readonly failure: Failure };

/** What went over the network for one answer, and what it was before. */
export interface Exchange {
  readonly plain: string;
  readonly wire: readonly WirePiece[];
  /** As `performance.now()`. */
  readonly startedAt: number;
}

const KEPT_EXCHANGES = 30;
const KEPT_WIRE_BYTES = 8 << 20;
const KEPT_PIECES = 20_000; // whoever carries an answer chooses into how many it is cut
const PAINT_MS = 40;
const NO_MODEL: Failure = { code: "serve.no-model", message: "the machine lists no model", hint: "", step: "" };

export class ChatState extends EventTarget {
  status: Status = { kind: "starting" };
  offer: Offer | undefined;
  pin: Pin | undefined;
  standing: Standing = { kind: "none" };
  models: readonly string[] = [];
  model = "";
  summaries: readonly Summary[] = [];
  conversation: Conversation | undefined;
  readonly exchanges = new Map<string, Exchange>();
  /** How the receipt of an answer is asked for, while the page is open. */
  private readonly provers = new Map<string, () => Promise<void>>();
  /** Why the verified machine can't be asked: it names no model. */
  modelFailure: Failure | undefined;
  private link: string | undefined;
  /** Conversations that must not be written any more. */
  private readonly gone = new Set<string>();
  /** Stops the answer that is being written. */
  private answering: AbortController | undefined;
  private attempt = 0;
  private soon: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly connect: Connect,
    private readonly store: ConversationStore,
    private readonly fetchOffer: () => Promise<Offer>,
    private readonly now: () => Date = () => new Date(),
  ) {
    super();
  }

  private changed(): void {
    clearTimeout(this.soon);
    this.soon = undefined;
    this.dispatchEvent(new Event("change"));
  }

  /** For what changes often. */
  private changedSoon(): void {
    this.soon ??= setTimeout(() => this.changed(), PAINT_MS);
  }

  // -- policy and verification

  /** Begin with what the host offers, what is pinned, and what the link says. */
  async start(pin: Pin | undefined, link: string | undefined): Promise<void> {
    this.pin = pin;
    this.link = link;
    this.status = { kind: "starting" };
    this.changed();
    try {
      this.offer = await this.fetchOffer();
    } catch (error) {
      return this.refuse(error);
    }
    await this.settle(pin);
  }

  /** The user's decision for a policy. */
  async choose(policy: Policy, source: Source): Promise<void> {
    this.link = undefined;
    await this.settle({ ...policy, source });
  }

  /** The user keeps the pinned policy, whatever the host or the link says. */
  async keepPinned(): Promise<void> {
    if (this.pin) await this.choose(this.pin, "file");
  }

  /** Forget the pinned policy: everything starts with the question again. */
  async forget(): Promise<void> {
    keepPin(undefined);
    this.link = undefined;
    await this.settle(undefined);
  }

  private async settle(pin: Pin | undefined): Promise<void> {
    this.stop(); // what is on its way was meant for the policy before
    this.standing = standing(this.offer?.policy, pin, this.link);
    this.pin = this.standing.kind === "use" ? this.standing.pin : pin;
    if (this.standing.kind !== "use") {
      this.attempt += 1;
      this.status = { kind: "undecided" };
      return this.changed();
    }
    keepPin(this.standing.pin);
    await this.verify();
  }

  /** Fetch evidence and verify it, from the beginning. */
  async verify(): Promise<void> {
    if (!this.offer) return this.start(this.pin, this.link);
    if (this.standing.kind !== "use") return;
    const attempt = ++this.attempt;
    this.status = { kind: "verifying" };
    this.changed();
    try {
      const { gateway, releases } = this.offer;
      const machine = await this.connect({ gateway, releases, policy: this.standing.pin.toml }, () => this.changed());
      if (attempt !== this.attempt) return;
      this.status = { kind: "verified", machine };
      this.changed();
      await this.listModels();
    } catch (error) {
      if (attempt === this.attempt) this.refuse(error);
    }
  }

  /** Refuse everything from now on, for this reason. */
  refuse(error: unknown): void {
    this.status = { kind: "refused", failure: failureOf(error) };
    this.changed();
  }

  get stale(): boolean {
    return this.status.kind === "verified" && this.status.machine.stale;
  }

  /** Ask the verified machine what it serves. */
  async listModels(): Promise<void> {
    if (this.status.kind !== "verified") return;
    try {
      this.models = await this.status.machine.models();
      this.modelFailure = this.models.length === 0 ? NO_MODEL : undefined;
    } catch (error) {
      const failure = failureOf(error);
      if (isRefusal(failure.code)) return this.refuse(error);
      this.models = [];
      this.modelFailure = failure;
    }
    if (!this.models.includes(this.model)) this.model = this.models[0] ?? "";
    this.changed();
  }

  chooseModel(model: string): void {
    this.model = model;
    this.changed();
  }

  // -- conversations

  /** The store shows other conversations than before: list them, and close the open one when it is not among them. */
  async reload(): Promise<void> {
    await this.refresh();
    const { conversation } = this;
    if (!conversation) return;
    if (!this.summaries.some(({ id }) => id === conversation.id)) {
      this.gone.add(conversation.id);
      this.close();
    } else if (!this.busy) await this.show(conversation.id);
  }

  async refresh(): Promise<void> {
    await this.attempted(async () => {
      this.summaries = await this.store.list();
    });
    this.changed();
  }

  /** Do something with the store; what goes wrong there is told, and stops nothing else. */
  private async attempted(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.dispatchEvent(new Trouble(failureOf(error)));
    }
  }

  /** Leave the conversation; the next message begins a new one. */
  close(): void {
    this.stop();
    this.conversation = undefined;
    this.changed();
  }

  async open(id: string): Promise<void> {
    if (this.conversation?.id === id) return;
    this.stop();
    await this.show(id);
  }

  private async show(id: string): Promise<void> {
    await this.attempted(async () => {
      const loaded = await this.store.load(id);
      this.gone.delete(id);
      this.conversation = loaded && { ...loaded, messages: loaded.messages.map(interrupted) };
    });
    this.changed();
  }

  async rename(id: string, title: string): Promise<void> {
    await this.attempted(async () => {
      const conversation = this.conversation?.id === id ? this.conversation : await this.store.load(id);
      if (conversation) await this.keep({ ...conversation, title: title.trim() || conversation.title });
    });
  }

  async remove(id: string): Promise<void> {
    this.gone.add(id);
    if (this.conversation?.id === id) this.close();
    await this.attempted(() => this.store.remove(id));
    await this.refresh();
  }

  private async keep(conversation: Conversation): Promise<void> {
    if (this.gone.has(conversation.id)) return;
    if (this.conversation?.id === conversation.id) this.conversation = conversation;
    this.changed();
    await this.attempted(() => this.store.save(conversation));
    await this.refresh();
  }

  // -- asking

  get busy(): boolean {
    return this.answering !== undefined;
  }

  /** The machine was verified, and serves a model. */
  get askable(): boolean {
    return this.status.kind === "verified" && !this.downgrade && this.model !== "";
  }

  /** Nothing is sent unless this is true. */
  get ready(): boolean {
    return this.askable && !this.busy;
  }

  get simulated(): boolean {
    return this.status.kind === "verified" && this.status.machine.verified.appraisal.simulated;
  }

  /** What was told to genuine hardware would go to a simulated machine. */
  get downgrade(): boolean {
    const { conversation, simulated } = this;
    const genuine = conversation?.messages.some(
      (message) => message.role === "assistant" && message.state !== "writing" && !message.simulated,
    );
    return genuine === true && simulated;
  }

  /** Ask; with `instead`, this replaces that message of the user and all that follows it. */
  async send(text: string, files: readonly Attachment[], instead?: string): Promise<void> {
    if (!this.ready || (text.trim() === "" && files.length === 0)) return;
    const at = this.now().getTime();
    const before = this.conversation ?? {
      id: crypto.randomUUID(),
      title: titleOf(text, files),
      changed: at,
      messages: [],
    };
    const index = before.messages.findIndex(({ id }) => id === instead);
    const kept = index < 0 ? before.messages : before.messages.slice(0, index);
    const question: Message = { id: crypto.randomUUID(), role: "user", text, files, at };
    const [first] = before.messages;
    const named = first?.role === "user" && before.title !== titleOf(first.text, first.files); // by the user
    const title = index === 0 && !named ? titleOf(text, files) : before.title;
    await this.answer({ ...before, title, messages: [...kept, question] });
  }

  /** Ask for the last answer once more. */
  async retry(): Promise<void> {
    if (!this.ready || !this.conversation) return;
    const { messages } = this.conversation;
    const last = messages.findLastIndex(({ role }) => role === "user");
    if (last >= 0) await this.answer({ ...this.conversation, messages: messages.slice(0, last + 1) });
  }

  stop(): void {
    this.answering?.abort();
  }

  private async answer(asked: Conversation): Promise<void> {
    if (this.status.kind !== "verified") return;
    const { machine } = this.status;
    const stop = new AbortController();
    let message: AnswerMessage = {
      ...{ id: crypto.randomUUID(), role: "assistant", text: "", at: this.now().getTime() },
      ...{ model: this.model, simulated: this.simulated, state: "writing" },
    };
    const put = (next: AnswerMessage): Conversation => {
      message = next;
      const title = (this.conversation?.id === asked.id ? this.conversation : asked).title;
      const conversation = { ...asked, title, changed: this.now().getTime(), messages: [...asked.messages, next] };
      if (this.conversation?.id === asked.id) this.conversation = conversation;
      return conversation;
    };
    this.answering = stop;
    this.conversation = asked;
    await this.keep(put(message));
    let end: End | undefined;
    try {
      const messages = turns(asked.messages);
      this.exchanges.set(message.id, exchange(JSON.stringify({ model: this.model, messages }, null, 2)));
      const onWire = (piece: WirePiece) => this.record(message.id, piece);
      const { simulated } = message;
      const accept = ({ appraisal }: Verified) => {
        if (appraisal.simulated && !simulated)
          throw new MitaiError("client.simulated", "another machine answers now, and its hardware is simulated");
      };
      for await (const delta of machine.ask(messages, { model: this.model, signal: stop.signal, accept, onWire })) {
        if (delta.kind === "end") {
          end = delta;
          put({ ...message, simulated: delta.verified.appraisal.simulated });
        } else put({ ...message, text: message.text + delta.text });
        this.changedSoon();
      }
      put({ ...message, state: "complete", ...(end?.finishReason === "length" && { limited: true }) });
    } catch (error) {
      const stopped = stop.signal.aborted;
      put(stopped ? { ...message, state: "stopped" } : { ...message, state: "failed", failure: failureOf(error) });
      const { code } = failureOf(error);
      if (!stopped && isRefusal(code)) this.refuse(error);
      if (code === "model_not_found") void this.listModels();
    } finally {
      this.answering = undefined;
    }
    await this.keep(put(message));
    if (!end) return;
    const ended = end;
    this.provers.set(message.id, () =>
      this.prove(machine, ended, (receipt) => this.amend(asked.id, message.id, receipt)),
    );
    await this.proveAgain(message.id);
  }

  /** Ask for an answer's receipt, and check it. */
  async proveAgain(messageId: string): Promise<void> {
    await this.provers.get(messageId)?.();
  }

  canProve(messageId: string): boolean {
    return this.provers.has(messageId);
  }

  /** Add what is known of an answer's receipt, wherever its conversation is by now. */
  private async amend(conversationId: string, messageId: string, receipt: ReceiptNote): Promise<void> {
    await this.attempted(async () => {
      const open = this.conversation?.id === conversationId ? this.conversation : undefined;
      const conversation = open ?? (await this.store.load(conversationId));
      const messages = conversation?.messages.map((message) =>
        message.id === messageId && message.role === "assistant" ? { ...message, receipt } : message,
      );
      if (conversation && messages) await this.keep({ ...conversation, messages });
    });
  }

  private async prove(machine: Machine, end: End, note: (receipt: ReceiptNote) => Promise<void>): Promise<void> {
    await note({ state: "waiting" });
    try {
      const { index, exchange, requestSha256, responseSha256, ledger, file } = await machine.prove(end);
      await note({ state: "proven", index, exchange, requestSha256, responseSha256, ledger, file });
    } catch (error) {
      const { code, message } = failureOf(error);
      await note({ state: "failed", code, message });
    }
  }

  private record(id: string, piece: WirePiece): void {
    const before = this.exchanges.get(id);
    const size = before?.wire.reduce((sum, { bytes }) => sum + bytes.length, 0) ?? 0;
    if (!before || size > KEPT_WIRE_BYTES || before.wire.length === KEPT_PIECES) return;
    this.exchanges.set(id, { ...before, wire: [...before.wire, { ...piece, bytes: piece.bytes.slice() }] });
    const [oldest] = this.exchanges.keys();
    if (this.exchanges.size > KEPT_EXCHANGES && oldest !== undefined) this.exchanges.delete(oldest);
  }
}

/** The store could not do something; the chat goes on. */
export class Trouble extends Event {
  constructor(readonly failure: Failure) {
    super("trouble");
  }
}

/** An answer that was being written, or whose receipt was awaited, when the page was closed. */
function interrupted(message: Message): Message {
  if (message.role !== "assistant") return message;
  const { receipt, ...rest } = message;
  if (message.state === "writing") return { ...rest, state: "interrupted" };
  return receipt?.state === "waiting" ? rest : message;
}

function exchange(plain: string): Exchange {
  return { plain, wire: [], startedAt: performance.now() };
}

/** Whether a code means that the machine itself was refused. */
export function isRefusal(code: string): boolean {
  return code.startsWith("attest.") || code === "client.other-workload";
}
