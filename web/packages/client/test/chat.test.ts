/** Chat: what the server could not finish is not shown as an answer. */

import type { Peer } from "@mitai/channel";
import { MitaiError, type Policy } from "@mitai/verify";
import fc from "fast-check";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { chat, type Delta, models } from "../src/chat.ts";
import { Session, type Verified } from "../src/session.ts";
import { Server } from "./fakes.ts";

const wire = vi.hoisted(() => ({
  sent: [] as { url: string; init: RequestInit; key: number; replica: string | undefined }[],
  answer: () => new Response(),
  exchange: { id: "e", requestSha256: "a", responseSha256: "b" },
  beforeAnswer: async (_: Peer): Promise<void> => undefined,
}));

vi.mock("@mitai/verify", async (original) => {
  const { believing } = await import("./fakes.ts");
  return { ...(await original<object>()), ...believing };
});
vi.mock("@mitai/channel", () => ({
  exchangeOf: () => wire.exchange,
  sealedFetch: (peer: Peer) => async (url: string, init: RequestInit) => {
    const [key = 0] = await peer.keyConfig();
    wire.sent.push({ url, init, key, replica: peer.replica() });
    await wire.beforeAnswer(peer);
    return wire.answer();
  },
}));

const PIECE = 'data: {"choices":[{"index":0,"delta":{"content":"Four"},"finish_reason":null}]}\n\n';
const USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n';
const STOP = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n';
const END = `${STOP}${USAGE}data: [DONE]\n\n`;
const FAILED = 'data: {"error":{"message":"the answer took longer than 600 s","code":"serve.timeout"}}\n\n';

let server: Server;
let session: Session;

beforeEach(async () => {
  server = new Server();
  session = await Session.connect("http://gateway.test/llm", { releases: [] } as unknown as Policy, {
    fetch: server.fetch,
  });
  wire.sent = [];
  wire.beforeAnswer = async () => undefined;
});

async function ask(events: string | Uint8Array<ArrayBuffer>, status = 200): Promise<Delta[]> {
  wire.answer = () => new Response(events, { status });
  const deltas: Delta[] = [];
  const options = { model: "m", parameters: { max_tokens: 9 } };
  for await (const delta of chat(session, [{ role: "user", content: "2 + 2?" }], options)) deltas.push(delta);
  return deltas;
}

describe("chat", () => {
  it("yields the words, then the end", async () => {
    expect(await ask(PIECE + PIECE + END)).toEqual([
      { kind: "text", text: "Four" },
      { kind: "text", text: "Four" },
      {
        kind: "end",
        finishReason: "stop",
        usage: { promptTokens: 3, completionTokens: 1 },
        exchange: wire.exchange,
        verified: session.verified,
      },
    ]);
  });

  it("sends nothing to a machine that the caller does not accept, not even after a renewal within the exchange", async () => {
    const accept = vi.fn(({ appraisal }: Verified) => {
      if (appraisal.claims.keyConfig[0] !== 1) throw new MitaiError("test.not-this-one", "another");
    });
    const asked = async () => {
      for await (const _ of chat(session, [], { model: "m", accept }));
    };
    wire.answer = () => new Response(PIECE + END);
    await asked();
    expect(accept).toHaveBeenCalledExactlyOnceWith(session.verified);
    server.key = 2;
    await session.renew();
    await expect(asked()).rejects.toMatchObject({ code: "test.not-this-one" });
    expect(wire.sent).toHaveLength(1);
  });

  it("sends an OpenAI request to the server's own address", async () => {
    await ask(PIECE + END);
    expect(wire.sent[0]?.url).toBe("http://gateway.test/llm/v1/chat/completions");
    expect(JSON.parse(String(wire.sent[0]?.init.body))).toEqual({
      model: "m",
      messages: [{ role: "user", content: "2 + 2?" }],
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 9,
    });
  });

  it("ends in the error of an answer that failed half-way", async () => {
    await expect(ask(PIECE + FAILED)).rejects.toMatchObject({
      code: "serve.timeout",
      message: "the answer took longer than 600 s",
    });
  });

  it("throws what the server refuses with", async () => {
    const body = '{"error":{"message":"too many","code":"serve.too-many-requests","hint":"wait"}}';
    await expect(ask(body, 429)).rejects.toMatchObject({ code: "serve.too-many-requests", hint: "wait" });
  });

  it.each([[""], [PIECE], [`${PIECE}data: [DONE]\n\n`]])("refuses an answer without its end: %j", async (events) => {
    await expect(ask(events)).rejects.toMatchObject({ code: "client.answer-incomplete" });
  });

  it.each([
    "[1]",
    "{",
    "[".repeat(100_000),
    `{"choices":${"[".repeat(100_000)}`,
    '{"choices":{}}',
    '{"choices":[1]}',
    '{"choices":[{"delta":[]}]}',
    '{"choices":[{"delta":{"content":5}}]}',
    '{"choices":[{"finish_reason":true}]}',
    '{"usage":{"prompt_tokens":1}}',
    '{"usage":{"prompt_tokens":1.5,"completion_tokens":1}}',
    '{"error":"no"}',
  ])("refuses a stream of something else: %#", async (data) => {
    await expect(ask(`data: ${data}\n\n`)).rejects.toMatchObject({ code: "client.answer-malformed" });
  });

  it("reads or refuses whatever comes", async () => {
    const name = fc.constantFrom("choices", "delta", "content", "finish_reason", "usage", "error", "__proto__", "x");
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof({ depthSize: "small" }, fc.constantFrom(null, 1, "a", true), tie("list"), tie("object")),
      list: fc.array(tie("value"), { maxLength: 3 }),
      object: fc.dictionary(name, tie("value"), { noNullPrototype: true }),
    }));
    await fc.assert(
      fc.asyncProperty(value, async (chunk) => {
        const result = await ask(`data: ${JSON.stringify(chunk)}\n\n${END}`).catch((error) => error.code);
        if (!Array.isArray(result)) expect(result).toMatch(/^client\.(answer-malformed|refused)$/);
      }),
    );
    expect(Object.keys(Object.prototype)).toEqual([]);
  });

  it("names the verification whose key was used, though the session was renewed meanwhile", async () => {
    const before = session.verified;
    wire.beforeAnswer = async () => {
      server.key = 2;
      await session.renew();
    };
    const end = (await ask(PIECE + END)).at(-1);
    expect(end).toMatchObject({ verified: before });
    expect(session.replica()).toBe("r2");
    expect(wire.sent[0]).toMatchObject({ key: 1, replica: "r1" });
  });

  it("names the new verification when the keys had changed", async () => {
    wire.beforeAnswer = async (peer) => {
      server.key = 2;
      await peer.renew();
      await peer.keyConfig();
    };
    expect((await ask(PIECE + END)).at(-1)).toMatchObject({ verified: session.verified });
    expect(session.replica()).toBe("r2");
  });

  it("ends the transfer when the reader leaves", async () => {
    const cancelled = vi.fn();
    const body = new ReadableStream({
      pull: (controller) => controller.enqueue(new TextEncoder().encode(PIECE)),
      cancel: cancelled,
    });
    wire.answer = () => new Response(body);
    for await (const _ of chat(session, [], { model: "m" })) break;
    expect(cancelled).toHaveBeenCalledOnce();
  });
});

describe("models", () => {
  it("lists names", async () => {
    wire.answer = () => Response.json({ object: "list", data: [{ id: "a", object: "model" }, { id: "b" }] });
    expect(await models(session)).toEqual(["a", "b"]);
  });

  it.each(["", "{}", '{"data":{}}', '{"data":[1]}', '{"data":[{"id":1}]}', "x".repeat(2 << 20)])(
    "refuses %#",
    async (body) => {
      wire.answer = () => new Response(body);
      await expect(models(session)).rejects.toMatchObject({ code: "client.answer-malformed" });
    },
  );

  it("does not wait for ever", async () => {
    const slow = AbortSignal.abort(new DOMException("late", "TimeoutError"));
    vi.spyOn(AbortSignal, "timeout").mockReturnValueOnce(slow);
    wire.beforeAnswer = async () => slow.throwIfAborted();
    await expect(models(session)).rejects.toMatchObject({ code: "client.timeout" });
  });

  it("ends with the caller's reason when the caller ends it", async () => {
    const stop = AbortSignal.abort(new Error("enough"));
    wire.beforeAnswer = async () => stop.throwIfAborted();
    await expect(models(session, stop)).rejects.toThrow("enough");
  });
});
