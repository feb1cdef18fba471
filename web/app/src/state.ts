/**
 * The chat's state and everything that changes it; components show it and call it. It tells `onChange` after each change.
 *
 * - Nothing is sent unless the machine was verified under the pinned policy: `send` does nothing in any other state.
 * - When a later verification is refused, the state is `refused` and the composer is closed.
 * - The bytes on the wire are kept in memory only, for the last exchanges.
 */
import { MitaiError } from "@mitai/verify";
import type { Backend, Machine, PolicyFacts, Wire } from "./backend.ts";
import {
  type AnswerMessage,
  type Attachment,
  type Conversation,
  type ConversationStore,
  type Failure,
  type Message,
  type ReceiptNote,
  type Summary,
  titleOf,
  turns,
} from "./conversations.ts";
import { keepPin, type Offer, type Pin, type Policy, type Source, type Standing, standing } from "./pinning.ts";

export type Status =
  | { readonly kind: "starting" }
  /** The user must first say which policy holds. */
  | { readonly kind: "undecided" }
  | { readonly kind: "verifying"; readonly since: number }
  | { readonly kind: "verified"; readonly machine: Machine }
  | {
      readonly kind: "refused";
      readonly failure: Failure;
      readonly passed: readonly { step: string; detail: string }[];
    };

/** What went over the network for one answer, and what it was before. */
export interface Exchange {
  readonly plain: string;
  readonly wire: readonly Wire[];
  readonly startedAt: number;
}

const KEPT_EXCHANGES = 30;
const KEPT_WIRE_BYTES = 8 << 20;
const PAINT_MS = 50;

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
  private link: string | undefined;
  private answering: { readonly id: string; readonly stop: AbortController } | undefined;
  private attempt = 0;

  constructor(
    private readonly backend: Backend,
    private store: ConversationStore,
    private readonly now: () => Date = () => new Date(),
  ) {
    super();
  }

  private changed(): void {
    this.dispatchEvent(new Event("change"));
  }

  // -- policy and verification

  /** Begin with what the page was offered, what is pinned, and what the link says. */
  async start(offer: Offer | undefined, pin: Pin | undefined, link: string | undefined): Promise<void> {
    this.offer = offer;
    this.link = link;
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
    await this.settle(undefined);
  }

  policyFacts(policy: Policy): PolicyFacts | Failure {
    try {
      return this.backend.readPolicy(policy.toml);
    } catch (error) {
      return failureOf(error);
    }
  }

  private async settle(pin: Pin | undefined): Promise<void> {
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
    if (this.standing.kind !== "use" || !this.offer) return;
    const attempt = ++this.attempt;
    this.status = { kind: "verifying", since: this.now().getTime() };
    this.changed();
    try {
      const machine = await this.backend.connect(this.offer.gateway, this.standing.pin.toml, this.offer.releases);
      if (attempt !== this.attempt) return;
      this.status = { kind: "verified", machine };
      this.changed();
      await this.listModels(machine);
    } catch (error) {
      if (attempt === this.attempt) this.refuse(error);
    }
  }

  /** Refuse everything from now on, for this reason. */
  refuse(error: unknown): void {
    this.status = { kind: "refused", failure: failureOf(error), passed: passedOf(error) };
    this.changed();
  }

  get stale(): boolean {
    return this.status.kind === "verified" && this.now() >= this.status.machine.staleAt;
  }

  private async listModels(machine: Machine): Promise<void> {
    this.models = await machine.models();
    if (!this.models.includes(this.model)) this.model = this.models[0] ?? "";
    this.changed();
  }

  chooseModel(model: string): void {
    this.model = model;
    this.changed();
  }

  // -- conversations

  /** Use another store (unlocked, or one that forgets), and show what it holds. */
  async use(store: ConversationStore): Promise<void> {
    this.store = store;
    this.close();
    await this.refresh();
  }

  async refresh(): Promise<void> {
    this.summaries = await this.store.list();
    this.changed();
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
    this.conversation = await this.store.load(id);
    this.changed();
  }

  async rename(id: string, title: string): Promise<void> {
    const conversation = this.conversation?.id === id ? this.conversation : await this.store.load(id);
    if (conversation) await this.keep({ ...conversation, title: title.trim() || conversation.title });
  }

  async remove(id: string): Promise<void> {
    if (this.conversation?.id === id) this.close();
    await this.store.remove(id);
    await this.refresh();
  }

  private async keep(conversation: Conversation): Promise<void> {
    if (this.conversation?.id === conversation.id) this.conversation = conversation;
    this.changed();
    await this.store.save(conversation);
    await this.refresh();
  }

  // -- asking

  get busy(): boolean {
    return this.answering !== undefined;
  }

  /** Nothing is sent unless this is true. */
  get ready(): boolean {
    return this.status.kind === "verified" && !this.busy && this.model !== "";
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
    await this.answer({ ...before, messages: [...kept, question] });
  }

  /** Ask for the last answer once more. */
  async retry(): Promise<void> {
    if (!this.ready || !this.conversation) return;
    const { messages } = this.conversation;
    const last = messages.findLastIndex(({ role }) => role === "user");
    if (last >= 0) await this.answer({ ...this.conversation, messages: messages.slice(0, last + 1) });
  }

  stop(): void {
    this.answering?.stop.abort();
  }

  private async answer(asked: Conversation): Promise<void> {
    if (this.status.kind !== "verified") return;
    const { machine } = this.status;
    const stop = new AbortController();
    let message: AnswerMessage = {
      ...{ id: crypto.randomUUID(), role: "assistant", text: "", at: this.now().getTime() },
      ...{ model: this.model, simulated: machine.findings.simulated, state: "writing" },
    };
    const put = (next: AnswerMessage): Conversation => {
      message = next;
      const title = (this.conversation?.id === asked.id ? this.conversation : asked).title;
      const conversation = { ...asked, title, changed: this.now().getTime(), messages: [...asked.messages, next] };
      if (this.conversation?.id === asked.id) this.conversation = conversation;
      return conversation;
    };
    this.answering = { id: message.id, stop };
    this.conversation = asked;
    await this.keep(put(message));
    let answer: ReturnType<Machine["ask"]> | undefined;
    try {
      answer = machine.ask(turns(asked.messages), {
        model: this.model,
        signal: stop.signal,
        onPlain: (plain) => this.record(message.id, { plain }),
        onWire: (wire) => this.record(message.id, { wire }),
      });
      let painted = 0;
      for await (const delta of answer) {
        put({ ...message, text: message.text + delta.text, ...(delta.finish === "length" && { limited: true }) });
        if (performance.now() - painted < PAINT_MS) continue;
        painted = performance.now();
        this.changed();
      }
      put({ ...message, state: "complete" });
    } catch (error) {
      const stopped = stop.signal.aborted;
      put(stopped ? { ...message, state: "stopped" } : { ...message, state: "failed", failure: failureOf(error) });
      if (!stopped && isRefusal(error)) this.refuse(error);
    } finally {
      this.answering = undefined;
    }
    await this.keep(put(message));
    if (answer && message.state === "complete")
      await this.prove(answer, (receipt) => this.amend(asked.id, message.id, receipt));
  }

  /** Add what is known of an answer's receipt, wherever its conversation is by now. */
  private async amend(conversationId: string, messageId: string, receipt: ReceiptNote): Promise<void> {
    const conversation =
      this.conversation?.id === conversationId ? this.conversation : await this.store.load(conversationId);
    if (!conversation) return;
    const messages = conversation.messages.map((message) =>
      message.id === messageId && message.role === "assistant" ? { ...message, receipt } : message,
    );
    await this.keep({ ...conversation, messages });
  }

  private async prove(
    answer: ReturnType<Machine["ask"]>,
    note: (receipt: ReceiptNote) => Promise<void>,
  ): Promise<void> {
    await note({ state: "waiting" });
    try {
      const { index, exchange, requestSha256, responseSha256, ledger, file } = await answer.prove();
      await note({ state: "proven", index, exchange, requestSha256, responseSha256, ledger, file });
    } catch (error) {
      const { code, message } = failureOf(error);
      await note({ state: "failed", code, message });
    }
  }

  private record(id: string, part: { plain?: string; wire?: Wire }): void {
    const before = this.exchanges.get(id) ?? { plain: "", wire: [], startedAt: performance.now() };
    const size = before.wire.reduce((sum, wire) => sum + wire.bytes.length, 0);
    const wire = part.wire && size < KEPT_WIRE_BYTES ? [...before.wire, part.wire] : before.wire;
    this.exchanges.set(id, { ...before, plain: part.plain ?? before.plain, wire });
    const oldest = this.exchanges.keys().next().value;
    if (this.exchanges.size > KEPT_EXCHANGES && oldest !== undefined) this.exchanges.delete(oldest);
  }
}

/** An error as plain values that can be kept and shown. */
export function failureOf(error: unknown): Failure {
  if (error instanceof MitaiError)
    return { code: error.code, message: error.message, hint: error.hint, step: error.step };
  return {
    code: "client.unexpected",
    message: error instanceof Error ? error.message : String(error),
    hint: "",
    step: "",
  };
}

/** Whether an error means that the machine itself was refused. */
function isRefusal(error: unknown): boolean {
  return error instanceof MitaiError && error.code.startsWith("attest.");
}

function passedOf(error: unknown): readonly { step: string; detail: string }[] {
  return error instanceof MitaiError && "passed" in error && Array.isArray(error.passed) ? error.passed : [];
}
