/** The open chat: what is pinned, a service that lies or sends too much, and what counts as proven. */
import { readFileSync } from "node:fs";
import { MAX_TOKENIZER_BYTES } from "@mitai/proof";
import { base64, hex, MitaiError, sha256, utf8 } from "@mitai/verify";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { before, keepProof, linkedProof, readProven } from "../src/proven/offer.ts";
import { Service } from "../src/proven/service.ts";
import { ProvenState } from "../src/proven/state.ts";

const FIXTURE = new URL("../../packages/proof/test/fixtures/receipts.json", import.meta.url);
const { key, said, known, receipts } = JSON.parse(readFileSync(FIXTURE, "utf8"));
const [[, ENVELOPE]] = receipts;
const TOKENIZER = utf8('{"a": "tokenizer"}');
const template = { head: "", user: "", assistant: "", tail: "" };
const OFFER = {
  ...known,
  key: "",
  tokenizer: "",
  unaudited: false,
  template,
};
OFFER.key = hex(await sha256(Uint8Array.from(atob(key), (letter) => letter.charCodeAt(0))));
OFFER.tokenizer = hex(await sha256(TOKENIZER));

type Reply = Response | (() => Response | Promise<Response>);
const json =
  (body: unknown, status = 200) =>
  () =>
    new Response(JSON.stringify(body), { status });
const MODELS = json({ data: [{ id: known.model, identity: known.identity, key }] });
const stream = (...events: string[]) => new Response(events.map((event) => `data: ${event}\n\n`).join(""));
const chunk = (content: string, end = false, id = said.id) =>
  JSON.stringify({ id, choices: [{ delta: { content }, finish_reason: end ? "stop" : null }] });
const HONEST: Record<string, Reply> = {
  "GET /v1/models": MODELS,
  "GET /v1/tokenizer": () => new Response(TOKENIZER),
  "POST /v1/chat/completions": () => stream(chunk("I am"), chunk(" it.", true), "[DONE]"),
  [`GET /v1/receipts/${said.id}`]: json({ envelope: ENVELOPE, prompt: said.prompt, answer: said.answer }),
  [`POST /v1/proofs/${said.id}`]: json({ state: "waiting" }, 202),
};

/** A service that answers so, and what it was asked. */
function made(changes: Record<string, Reply> = {}) {
  const replies = { ...HONEST, ...changes };
  const asked: [string, RequestInit][] = [];
  const fetcher = async (url: string | URL | Request, init: RequestInit = {}) => {
    const at = `${init.method ?? "GET"} ${new URL(String(url)).pathname}`;
    asked.push([at, init]);
    const reply = replies[at];
    if (!reply) throw new TypeError("no such host");
    return reply instanceof Response ? reply : reply();
  };
  return { asked, connect: () => Service.connect("http://service.test", OFFER, fetcher as typeof fetch) };
}

async function opened(changes: Record<string, Reply> = {}, proofs: object = {}) {
  const service = made(changes);
  const check = vi.fn(async () => ({ bits: 101 }));
  const requireTold = vi.fn(async () => undefined);
  const state = new ProvenState({ check, requireTold, ...proofs } as never, 1);
  await state.open(service.connect);
  expect(state.status.kind).toBe("open");
  return { state, check, requireTold, ...service, turn: (at = 0) => state.turns[at] };
}

describe("what is pinned", () => {
  const text = JSON.stringify({ v: "mitai proof page v1", ...OFFER });
  const digestOf = async (one: string) => hex(await sha256(utf8(one)));

  beforeEach(() => keepProof(undefined));

  it("is read only if it is what the link names, and has all that it needs", async () => {
    expect(await readProven(text, await digestOf(text))).toMatchObject(OFFER);
    for (const other of [undefined, "", `${text} `])
      await expect(readProven(other, await digestOf(text))).rejects.toMatchObject({ code: "proof.service-differs" });
    for (const bad of [text.replace("v1", "v2"), text.replace('"key"', '"keys"'), `${text}{}`, "[".repeat(60_000)])
      await expect(readProven(bad, await digestOf(bad))).rejects.toMatchObject({ code: "proof.offer-malformed" });
    const long = "x".repeat(1 << 17);
    await expect(readProven(long, await digestOf(long))).rejects.toMatchObject({ code: "proof.service-differs" });
  });

  it("is named by a link; a device that knew the address as something else is asked", () => {
    expect(linkedProof(" #a".trim())).toBeUndefined();
    expect(linkedProof("#proof=AB")).toBe("ab");
    expect(before("ab", false)).toBe("nothing");
    expect(before("ab", true)).toBe("confidential");
    keepProof("cd");
    expect(before("ab", false)).toBe("other");
    expect(before("cd", true)).toBe("same");
  });
});

describe("a service is not opened", () => {
  it.each<[string, Record<string, Reply>, string]>([
    [
      "with another key",
      {
        "GET /v1/models": json({
          data: [{ id: known.model, identity: known.identity, key: base64(new Uint8Array(32).fill(7)) }],
        }),
      },
      "proof.service-differs",
    ],
    [
      "without a key",
      { "GET /v1/models": json({ data: [{ id: known.model, identity: known.identity }] }) },
      "identity.key-malformed",
    ],
    [
      "with another model",
      { "GET /v1/models": json({ data: [{ id: known.model, identity: "", key }] }) },
      "proof.service-differs",
    ],
    ["that is none", { "GET /v1/models": json({}) }, "client.answer-malformed"],
    ["with another tokenizer", { "GET /v1/tokenizer": () => new Response("{}") }, "proof.service-differs"],
    [
      "that sends more than there is",
      { "GET /v1/tokenizer": () => endless(MAX_TOKENIZER_BYTES) },
      "proof.answer-too-large",
    ],
    ["that refuses", { "GET /v1/models": json({ error: { code: "serve.busy" } }, 503) }, "serve.busy"],
    ["that is not there", { "GET /v1/models": () => Promise.reject(new TypeError("refused")) }, "client.unreachable"],
  ])("%s", async (_, changes, code) => {
    const state = new ProvenState({} as never);
    await state.open(made(changes).connect);
    expect(state.status).toMatchObject({ kind: "refused", failure: { code } });
    await state.send("Hi");
    expect(state.turns).toEqual([]);
  });
});

/** More than `most` bytes, in pieces. */
function endless(most: number): Response {
  let left = most / (1 << 20) + 1;
  return new Response(
    new ReadableStream({
      pull(controller) {
        controller.enqueue(new Uint8Array(1 << 20));
        left -= 1;
        if (left < 0) controller.close();
      },
    }),
  );
}

describe("an answer", () => {
  it("counts once its receipt holds, for what was sent and told", async () => {
    const { state, requireTold, turn, asked } = await opened();
    await state.send(" Who are you? ");
    const tokens = { prompt: said.prompt, answer: said.answer };
    expect(turn()).toMatchObject({ answer: "I am it.", state: "complete", signed: { kind: "signed", said: tokens } });
    const told = { template, turns: ["Who are you?"], text: "I am it." };
    expect(requireTold).toHaveBeenCalledWith(TOKENIZER, OFFER.tokenizer, tokens, told);
    const [, sent] = asked.find(([at]) => at.startsWith("POST")) ?? [];
    expect(JSON.parse(String(sent?.body))).toMatchObject({
      messages: [{ role: "user", content: "Who are you?" }],
      temperature: 0,
    });
    await state.send("And?");
    expect(turn(1)?.sent).toEqual(["Who are you?", "I am it.", "And?"]);
  });

  it.each<[string, Record<string, Reply>, object]>([
    [
      "has a receipt of another",
      { [`GET /v1/receipts/${said.id}`]: json({ envelope: receipts[1][1], prompt: said.prompt, answer: said.answer }) },
      { kind: "refused", failure: { code: "proof.receipt-differs" } },
    ],
    [
      "has a receipt of other tokens",
      { [`GET /v1/receipts/${said.id}`]: json({ envelope: ENVELOPE, prompt: said.prompt, answer: [9] }) },
      { kind: "refused", failure: { code: "proof.receipt-differs" } },
    ],
    [
      "has no receipt",
      { [`GET /v1/receipts/${said.id}`]: json({ error: { code: "proof.answer-unknown" } }, 404) },
      { kind: "missing", failure: { code: "proof.answer-unknown" } },
    ],
    [
      "has a receipt with tokens that are none",
      { [`GET /v1/receipts/${said.id}`]: json({ envelope: ENVELOPE, prompt: [-1], answer: [9] }) },
      { kind: "missing", failure: { code: "client.answer-malformed" } },
    ],
    [
      "has no id",
      { "POST /v1/chat/completions": () => stream(chunk("a", true, "")) },
      { kind: "missing", failure: { code: "client.answer-malformed" } },
    ],
    [
      "has an id that is a path",
      { "POST /v1/chat/completions": () => stream(chunk("a", true, "../x")) },
      { kind: "missing", failure: { code: "client.answer-malformed" } },
    ],
  ])("that %s counts for nothing, and is not sent on", async (_, changes, signed) => {
    const { state, turn, asked } = await opened(changes);
    await state.send("Hi");
    expect(turn()?.signed).toMatchObject(signed);
    await state.prove(turn()?.id ?? "");
    expect(asked.some(([at]) => at.includes("/v1/proofs/"))).toBe(false);
    await state.send("And?");
    expect(turn(1)?.sent).toEqual(["And?"]);
  });

  it("is waited for until its receipt is checked, before anything else is sent", async () => {
    let told = (): void => undefined;
    const requireTold = () => new Promise<void>((resolve) => (told = resolve));
    const { state, turn } = await opened({}, { requireTold });
    const sending = state.send("Hi");
    await vi.waitFor(() => expect(turn()?.signed.kind).toBe("checking"));
    expect(state.ready).toBe(false);
    await state.send("And?");
    expect(state.turns).toHaveLength(1);
    await vi.waitFor(() => {
      told();
      expect(turn()?.signed.kind).toBe("signed");
    });
    await sending;
    expect(state.ready).toBe(true);
  });

  it("of other words than were told is refused", async () => {
    const requireTold = async () => Promise.reject(new MitaiError("proof.service-differs", "another answer"));
    const { state, turn } = await opened({}, { requireTold });
    await state.send("Hi");
    expect(turn()?.signed).toMatchObject({ kind: "refused", failure: { code: "proof.service-differs" } });
  });

  it.each<[string, () => Response, string]>([
    ["without an end", () => stream(chunk("a")), "client.answer-incomplete"],
    ["of two answers", () => stream(chunk("a"), chunk("b", true, "chatcmpl-other")), "client.answer-malformed"],
    ["that is none", () => new Response("data: nonsense\n\n"), "client.answer-malformed"],
    [
      "without a limit",
      () => stream(...Array(5).fill(chunk("x".repeat(1 << 20).slice(200)))),
      "proof.answer-too-large",
    ],
    ["that is refused", json({ error: { code: "context_length_exceeded" } }, 400), "context_length_exceeded"],
  ])("%s has failed", async (_, reply, code) => {
    const { state, turn } = await opened({ "POST /v1/chat/completions": reply });
    await state.send("Hi");
    expect(turn()).toMatchObject({ state: "failed", failure: { code }, signed: { kind: "none" } });
  });
});

describe("a proof", () => {
  const at = `GET /v1/proofs/${said.id}`;
  const asked = async (changes: Record<string, Reply>, proofs: object = {}) => {
    const here = await opened(changes, proofs);
    await here.state.send("Hi");
    const id = here.turn()?.id ?? "";
    return { ...here, id };
  };

  it("is waited for, and checked for the pinned identity and the tokens of the receipt", async () => {
    const replies = [
      json({ state: "waiting", ahead: 2 }, 202)(),
      json({ state: "proving", ahead: 0, seconds: 1.5, expected_s: 3 }, 202)(),
      new Response("the file"),
    ];
    const seen: string[] = [];
    const { state, id, turn, check } = await asked({ [at]: () => replies.shift() ?? new Response("") });
    state.addEventListener("change", () => seen.push(turn()?.proof.kind ?? ""));
    await state.prove(id);
    expect(turn()?.proof).toMatchObject({ kind: "proven", bits: 101 });
    const [file, expected] = check.mock.calls[0] as unknown as [Blob, object];
    expect(await file.text()).toBe("the file");
    expect(expected).toEqual({
      model: known.identity,
      agreed: undefined,
      said: { prompt: said.prompt, answer: said.answer },
    });
  });

  it.each<[string, Record<string, Reply>, string]>([
    [
      "is refused by the service",
      { [`POST /v1/proofs/${said.id}`]: json({ error: { code: "proof.queue-full" } }, 429) },
      "proof.queue-full",
    ],
    ["can't be made", { [at]: json({ error: { code: "proof.failed" } }, 500) }, "proof.failed"],
    ["is of a service that is gone", { [at]: () => Promise.reject(new TypeError("gone")) }, "client.unreachable"],
    ["is never said to come", { [at]: json({ state: "soon" }, 202) }, "client.answer-malformed"],
    ["is a promise of nonsense", { [at]: json({ state: "proving", seconds: -1 }, 202) }, "client.answer-malformed"],
  ])("that %s is no proof, and can be asked for again", async (_, changes, code) => {
    const { state, id, turn, check } = await asked(changes);
    await state.prove(id);
    expect(turn()?.proof).toMatchObject({ kind: "missing", failure: { code } });
    expect(check).not.toHaveBeenCalled();
    await state.send("And?"); // the answer is signed all the same
    expect(turn(1)?.sent).toHaveLength(3);
  });

  it.each([
    ["proof.equation-refuted", "refused", 1],
    ["proof.receipt-differs", "refused", 1],
    ["proof.model-unsupported", "missing", 3],
  ])("whose check ends in %s is %s", async (code, kind, sent) => {
    const check = async () => Promise.reject(new MitaiError(code, ""));
    const { state, id, turn } = await asked({ [at]: () => new Response("a file") }, { check });
    await state.prove(id);
    expect(turn()?.proof).toMatchObject({ kind, failure: { code } });
    await state.send("And?");
    expect(turn(1)?.sent).toHaveLength(sent);
  });

  it("that a browser can't check is no proof", async () => {
    const check = async () => Promise.reject(new Error("too little memory"));
    const { state, id, turn } = await asked({ [at]: () => new Response("a file") }, { check });
    await state.prove(id);
    expect(turn()?.proof).toMatchObject({ kind: "missing" });
  });

  it("is not waited for once nobody wants it", async () => {
    const { state, id, turn } = await asked({ [at]: json({ state: "waiting", ahead: 2 }, 202) });
    const proving = state.prove(id);
    await vi.waitFor(() => expect(turn()?.proof.kind).toBe("coming"));
    state.leave(id);
    await proving;
    expect(turn()?.proof).toEqual({ kind: "none" });
  });
});
