import { MitaiError } from "@mitai/verify";
import { beforeEach, describe, expect, it } from "vitest";
import type { AnswerMessage, Conversation } from "../src/conversations.ts";
import { keepPin, keptPin, type Offer, policyOf } from "../src/pinning.ts";
import { ChatState, Trouble } from "../src/state.ts";
import { type MadeUpMachine, MemoryStore, madeUp, OTHER_POLICY, type Script, SIMULATED_POLICY } from "./made-up.ts";

const mine = await policyOf(SIMULATED_POLICY);
const other = await policyOf(OTHER_POLICY);
const OFFER: Offer = { gateway: "https://gateway.example", policy: mine, releases: [] };
const MISMATCH = new MitaiError("attest.measurement-mismatch", "other code", "", "13 workload");

function page(script: Script = {}, offer: Offer = OFFER) {
  const { connect, asked, machines } = madeUp(script);
  const store = new MemoryStore();
  const chat = new ChatState(connect, store, async () => offer);
  return { chat, store, asked, machines };
}

async function verified(script: Script = {}) {
  const made = page(script);
  await made.chat.start(undefined, mine.sha256);
  const [machine] = made.machines;
  if (!machine) throw new Error("not connected");
  return { ...made, machine };
}

const lastAnswer = (conversation: Conversation | undefined): AnswerMessage => {
  const last = conversation?.messages.at(-1);
  if (last?.role !== "assistant") throw new Error("no answer");
  return last;
};

beforeEach(() => keepPin(undefined));

describe("before a policy is pinned", () => {
  it("asks nobody anything", async () => {
    const { chat, asked } = page();
    await chat.start(undefined, undefined);
    expect(chat.status.kind).toBe("undecided");
    await chat.send("secret", []);
    await chat.verify();
    expect(asked).toEqual([]);
    expect(chat.conversation).toBeUndefined();
  });

  it("verifies once the user has said yes, and remembers it", async () => {
    const { chat, asked } = page();
    await chat.start(undefined, undefined);
    await chat.choose(mine, "consent");
    expect(chat.status.kind).toBe("verified");
    expect(asked).toEqual([{ gateway: OFFER.gateway, policy: SIMULATED_POLICY, releases: [] }]);
    expect((await keptPin())?.sha256).toBe(mine.sha256);
  });

  it("asks again when the host offers another policy, and stays with mine when I say so", async () => {
    const { chat, asked } = page({}, { ...OFFER, policy: other });
    await chat.start({ ...mine, source: "consent" }, undefined);
    expect([chat.status.kind, chat.standing.kind, asked.length]).toEqual(["undecided", "changed", 0]);
    await chat.keepPinned();
    expect(asked[0]?.policy).toBe(SIMULATED_POLICY);
  });

  it("forgets a policy, and the machine with it", async () => {
    const { chat } = await verified();
    await chat.forget();
    expect([chat.status.kind, chat.ready]).toEqual(["undecided", false]);
    expect(await keptPin()).toBeUndefined();
  });
});

describe("a machine that is refused", () => {
  it("gets nothing, and the reason is told", async () => {
    const { chat, machines } = page({ refusal: MISMATCH });
    await chat.start(undefined, mine.sha256);
    expect(chat.status).toMatchObject({ kind: "refused", failure: { code: MISMATCH.code, step: "13 workload" } });
    await chat.send("secret", []);
    expect(machines).toEqual([]);
    expect(chat.conversation).toBeUndefined();
  });

  it("is refused in the middle of a conversation too", async () => {
    const { chat, machine } = await verified({ pieces: [MISMATCH] });
    await chat.send("Hello", []);
    expect(chat.status).toMatchObject({ kind: "refused" });
    expect(lastAnswer(chat.conversation)).toMatchObject({ state: "failed", failure: { code: MISMATCH.code } });
    await chat.send("again", []);
    await chat.retry();
    expect(machine.sent).toHaveLength(1);
  });

  it("can be verified again, from the host's offer on", async () => {
    let reachable = false;
    const { connect } = madeUp({});
    const chat = new ChatState(connect, new MemoryStore(), async () => {
      if (!reachable) throw new MitaiError("client.unreachable", "gone");
      return OFFER;
    });
    await chat.start(undefined, mine.sha256);
    expect(chat.status).toMatchObject({ kind: "refused", failure: { code: "client.unreachable" } });
    reachable = true;
    await chat.verify();
    expect(chat.status.kind).toBe("verified");
  });

  it("without a model is verified, but is asked nothing", async () => {
    const { chat, machine } = await verified({ models: [] });
    expect([chat.status.kind, chat.ready, chat.modelFailure?.code]).toEqual(["verified", false, "serve.no-model"]);
    await chat.send("Hello", []);
    expect(machine.sent).toEqual([]);
  });
});

describe("a conversation", () => {
  it("is asked, answered, proven and kept", async () => {
    const { chat, store, machine } = await verified({ simulated: true });
    await chat.send("Hello", [{ name: "a", text: "b" }]);
    expect(machine.sent).toEqual([[{ role: "user", content: 'File "a":\n```\nb\n```\n\nHello' }]]);
    const answer = lastAnswer(chat.conversation);
    expect(answer).toMatchObject({
      text: "Hello, you.",
      state: "complete",
      simulated: true,
      receipt: { state: "proven", index: 17 },
    });
    expect([...store.kept.values()]).toEqual([chat.conversation]);
    expect(chat.summaries.map(({ title }) => title)).toEqual(["Hello"]);
    const wire = chat.exchanges.get(answer.id)?.wire ?? [];
    expect(wire.map(({ direction }) => direction)).toEqual(["sent", "received", "received"]);
  });

  it("gives the whole conversation with the next question", async () => {
    const { chat, machine } = await verified();
    await chat.send("One", []);
    await chat.send("Two", []);
    expect(machine.sent[1]?.map(({ content }) => content)).toEqual(["One", "Hello, you.", "Two"]);
  });

  it("answers again, and edits a question, without what followed", async () => {
    const { chat, machine } = await verified();
    await chat.send("One", []);
    await chat.send("Two", []);
    await chat.retry();
    expect(machine.sent[2]).toEqual(machine.sent[1]);
    const second = chat.conversation?.messages[2];
    await chat.send("Deux", [], second?.id);
    expect(machine.sent[3]?.map(({ content }) => content)).toEqual(["One", "Hello, you.", "Deux"]);
    expect(chat.conversation?.messages).toHaveLength(4);
  });

  it("is named after its first question, until somebody names it", async () => {
    const { chat } = await verified();
    const id = () => chat.conversation?.messages[0]?.id;
    await chat.send("One", []);
    await chat.send("Uno", [], id());
    expect(chat.conversation?.title).toBe("Uno");
    await chat.rename(chat.conversation?.id ?? "", "Mine");
    await chat.send("Un", [], id());
    expect(chat.conversation?.title).toBe("Mine");
  });

  it("with genuine hardware is not continued on a simulated machine", async () => {
    const { chat, store } = await verified();
    await chat.send("secret", []);
    const simulated = madeUp({ simulated: true });
    const later = new ChatState(simulated.connect, store, async () => OFFER);
    await later.start(undefined, mine.sha256);
    await later.open(chat.conversation?.id ?? "");
    expect([later.downgrade, later.ready]).toEqual([true, false]);
    await later.send("more", []);
    await later.retry();
    expect(simulated.machines[0]?.sent).toEqual([]);
    later.close();
    await later.send("anew", []);
    expect(simulated.machines[0]?.sent).toHaveLength(1);
  });

  it("meant for genuine hardware is not sent when a simulated machine takes its place within the exchange", async () => {
    const { chat, machine } = await verified();
    const ask: MadeUpMachine["ask"] = machine.ask.bind(machine);
    machine.ask = async function* (messages, options) {
      machine.become(true); // as a session does that verifies again before it sends
      yield* ask(messages, options);
    };
    await chat.send("secret", []);
    expect(machine.sent).toEqual([]);
    expect(lastAnswer(chat.conversation)).toMatchObject({ state: "failed", failure: { code: "client.simulated" } });
  });

  it("meant for genuine hardware is not sent when the machine asked becomes simulated while another one is verified", async () => {
    const { chat, machine } = await verified();
    const ask: MadeUpMachine["ask"] = machine.ask.bind(machine);
    machine.ask = async function* (messages, options) {
      await chat.verify(); // a genuine one, too late for this question
      machine.become(true);
      yield* ask(messages, options);
    };
    await chat.send("secret", []);
    expect(machine.sent).toEqual([]);
    expect(lastAnswer(chat.conversation)).toMatchObject({ state: "failed", failure: { code: "client.simulated" } });
  });

  it("meant for genuine hardware is not sent when a receipt's request has met a simulated machine before it", async () => {
    const { chat, machine, store } = await verified();
    const save = store.save.bind(store);
    store.save = async (conversation) => {
      if (conversation.messages.length === 2) expect(() => machine.become(true)).not.toThrow();
      await save(conversation);
    };
    await chat.send("secret", []);
    expect(machine.sent).toEqual([]);
    expect(lastAnswer(chat.conversation)).toMatchObject({ state: "failed", failure: { code: "client.simulated" } });
  });

  it("is not sent when the user decides for another policy meanwhile", async () => {
    const { chat, machine, store } = await verified();
    const save = store.save.bind(store);
    store.save = async (conversation) => {
      store.save = save;
      await chat.choose(other, "file");
      await save(conversation);
    };
    await chat.send("secret", []);
    expect(machine.sent).toEqual([]);
    expect(lastAnswer(chat.conversation).state).toBe("stopped");
  });

  it("says of which kind the machine was that answered, whatever it was before", async () => {
    const { chat, machine } = await verified({ simulated: true });
    const ask: MadeUpMachine["ask"] = machine.ask.bind(machine);
    machine.ask = async function* (messages, options) {
      machine.become(false);
      yield* ask(messages, options);
    };
    await chat.send("hello", []);
    expect(lastAnswer(chat.conversation)).toMatchObject({ state: "complete", simulated: false });
  });

  it("takes no second question while it answers", async () => {
    const { chat, machine } = await verified({ delayMs: 5 });
    const first = chat.send("One", []);
    await chat.send("Two", []);
    await first;
    expect(machine.sent).toHaveLength(1);
  });

  it("can be stopped, and keeps what came", async () => {
    const { chat } = await verified({ pieces: ["a", "b", "c", "d"], delayMs: 20 });
    const asked = chat.send("Go", []);
    await new Promise((wake) => setTimeout(wake, 50));
    chat.stop();
    await asked;
    const answer = lastAnswer(chat.conversation);
    expect(answer.state).toBe("stopped");
    expect("abcd".startsWith(answer.text) && answer.text !== "abcd").toBe(true);
    expect(answer.receipt).toBeUndefined();
  });

  it("says when an answer was cut off, and goes on", async () => {
    const { chat } = await verified({ pieces: ["half", new MitaiError("channel.truncated", "cut")] });
    await chat.send("Go", []);
    expect(lastAnswer(chat.conversation)).toMatchObject({
      text: "half",
      state: "failed",
      failure: { code: "channel.truncated" },
    });
    expect([chat.status.kind, chat.ready]).toEqual(["verified", true]);
  });

  it("says when a receipt does not hold, and asks for it again", async () => {
    const { chat, machine } = await verified();
    const prove = machine.prove.bind(machine);
    machine.prove = async () => Promise.reject(new MitaiError("ledger.inclusion-invalid", "not in the tree"));
    await chat.send("Go", []);
    expect(lastAnswer(chat.conversation).receipt).toMatchObject({ state: "failed", code: "ledger.inclusion-invalid" });
    const { id } = lastAnswer(chat.conversation);
    expect(chat.canProve(id)).toBe(true);
    machine.prove = prove;
    await chat.proveAgain(id);
    expect(lastAnswer(chat.conversation).receipt).toMatchObject({ state: "proven", index: 17 });
  });

  it("gets its receipt also when another one is open by then", async () => {
    const { chat, store, machine } = await verified();
    const proof = machine.prove.bind(machine);
    machine.prove = async () => {
      chat.close();
      return proof();
    };
    await chat.send("Go", []);
    expect(chat.conversation).toBeUndefined();
    const [kept] = store.kept.values();
    expect(lastAnswer(kept).receipt).toMatchObject({ state: "proven" });
  });

  it("stays deleted when it is deleted within an answer", async () => {
    const { chat, store } = await verified({ delayMs: 20 });
    const asked = chat.send("Go", []);
    await new Promise((wake) => setTimeout(wake, 10));
    await chat.remove(chat.conversation?.id ?? "");
    await asked;
    expect([store.kept.size, chat.summaries.length, chat.conversation]).toEqual([0, 0, undefined]);
  });

  it("is renamed and opened again; an answer that the page's end cut off is marked", async () => {
    const { chat, store } = await verified();
    await chat.send("Go", []);
    const id = chat.conversation?.id ?? "";
    await chat.rename(id, " A better name ");
    const kept = store.kept.get(id);
    if (!kept) throw new Error("not kept");
    store.kept.set(id, {
      ...kept,
      messages: [...kept.messages.slice(0, -1), { ...lastAnswer(kept), state: "writing" }],
    });
    chat.close();
    await chat.open(id);
    expect(chat.conversation?.title).toBe("A better name");
    expect(lastAnswer(chat.conversation).state).toBe("interrupted");
  });

  it("goes on when the store fails, and says so", async () => {
    const { chat, store } = await verified();
    store.save = () => Promise.reject(new MitaiError("store.full", "no space"));
    const troubles: string[] = [];
    chat.addEventListener("trouble", (event) => event instanceof Trouble && troubles.push(event.failure.code));
    await chat.send("Go", []);
    expect(lastAnswer(chat.conversation)).toMatchObject({ text: "Hello, you.", state: "complete" });
    expect(new Set(troubles)).toEqual(new Set(["store.full"]));
  });

  it("is closed when the store shows it no more", async () => {
    const { chat, store } = await verified();
    await chat.send("Go", []);
    store.kept.clear(); // locked
    await chat.reload();
    expect(chat.conversation).toBeUndefined();
  });
});

describe("what the server sees", () => {
  it("is kept for the last answers only", async () => {
    const { chat } = await verified({ pieces: ["x"] });
    for (let at = 0; at < 32; at++) await chat.send(String(at), []);
    expect(chat.exchanges.size).toBe(30);
  });

  it("is a copy: who has the bytes may write to them", async () => {
    const { chat, machine } = await verified();
    const shared = new Uint8Array([1, 2, 3]);
    const ask: MadeUpMachine["ask"] = machine.ask.bind(machine);
    machine.ask = async function* (messages, options) {
      options.onWire?.({ direction: "sent", bytes: shared, at: 0 });
      yield* ask(messages, options);
    };
    await chat.send("Go", []);
    shared.fill(0);
    expect(chat.exchanges.get(lastAnswer(chat.conversation).id)?.wire[0]?.bytes).toEqual(new Uint8Array([1, 2, 3]));
  });
});
