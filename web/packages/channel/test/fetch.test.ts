import { type Bytes, concat, equal, hex, MitaiError, sha256, text, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { encodeResponse } from "../src/bhttp.ts";
import { exchangeOf, sealedFetch, type WirePiece } from "../src/index.ts";
import { type Answer, carrying, Gateway, type Opened, SEALED, streamOf, TestPeer } from "./gateway.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });
const KEY_TYPE = "https://iana.org/assignments/http-problem-types#ohttp-key";
const problem = (body: object, status = 400) => new Response(JSON.stringify(body), { status });
const URL_ = "https://gateway.example/mitai/v1/echo";

let gateway: Gateway;
let other: Gateway;
beforeAll(async () => {
  gateway = await Gateway.create(7);
  other = await Gateway.create(8);
});

/** A fetch that answers what it opens; `lie` may replace the sealed answer's body. */
function answering(answer: Answer, lie: (sealed: Bytes) => BodyInit = (sealed) => sealed) {
  const requests: Opened[] = [];
  const carried = carrying(async (body) => {
    const opened = await gateway.open(body);
    requests.push(opened);
    return new Response(lie(await gateway.sealAnswer(opened, answer)), SEALED);
  });
  return { ...carried, requests };
}

/** A fetch that streams what `pieces` makes of a sealer of chunks. */
function streaming(
  pieces: (seal: (chunk: Bytes, final?: boolean) => Promise<Bytes>) => Promise<ReadableStream<Bytes>>,
) {
  return carrying(async (body) => {
    return new Response(await pieces(await gateway.sealer(await gateway.open(body))), SEALED);
  });
}

/** Cut into pieces of these sizes, over and over. */
function cut(data: Bytes, [size = 1, ...sizes]: readonly number[]): Bytes[] {
  return data.length <= size ? [data] : [data.slice(0, size), ...cut(data.slice(size), [...sizes, size])];
}

const STREAM_HEAD = encodeResponse({ status: 200, fields: [["content-type", "text/event-stream"]] });
const chunk = (content: string) => concat(Uint8Array.of(content.length), utf8(content));
const END = Uint8Array.of(0, 0);

describe("a request", () => {
  test("is sealed whole: method, path, fields, body and date", async () => {
    const { fetch, calls, requests } = answering({});
    const send = sealedFetch(new TestPeer(gateway.keyConfig, [], "https://gateway.example/mitai/", "one"), { fetch });
    await send(`${URL_}?q=%C3%A9#fragment`, {
      method: "PUT",
      headers: { Authorization: "Bearer s", connection: "close", date: "never", te: "x", host: "elsewhere" },
      body: "hello",
    });
    const [{ head, content } = { head: undefined, content: undefined }] = requests;
    expect(head).toMatchObject({
      method: "PUT",
      scheme: "https",
      authority: "gateway.example",
      path: "/v1/echo?q=%C3%A9",
    });
    const fields = new Map(head?.fields);
    expect(head?.fields.map(([name]) => name).sort()).toEqual(["authorization", "content-type", "date"]);
    expect(fields.get("authorization")).toBe("Bearer s");
    expect(Math.abs(Date.parse(fields.get("date") ?? "") - Date.now())).toBeLessThan(5000);
    expect(content).toEqual(utf8("hello"));

    const [call] = calls;
    expect(call?.url).toBe("https://gateway.example/mitai/ohttp");
    expect(call?.init).toMatchObject({
      method: "POST",
      headers: { "content-type": "message/ohttp-chunked-req", incremental: "?1", "mitai-replica": "one" },
      redirect: "error",
      credentials: "omit",
      cache: "no-store",
      referrerPolicy: "no-referrer",
    });
  });

  test("shows no more of its length than a bucket", async () => {
    const { fetch, calls } = answering({});
    const send = sealedFetch(new TestPeer(gateway.keyConfig), { fetch });
    for (const size of [1, 500]) await send(URL_, { method: "POST", body: new Uint8Array(size) });
    for (const size of [100, 500])
      await send(URL_, { method: "POST", body: streamOf(new Uint8Array(size)), duplex: "half" });
    const lengths = calls.map(({ body }) => body.length);
    expect(lengths[0]).toBe(lengths[1]);
    expect(lengths[2]).toBe(lengths[3]);
  });

  test.each<[string, () => [Request | URL | string, RequestInit?], string]>([
    ["a string", () => [URL_, { method: "POST", body: "é" }], "é"],
    ["a relative address", () => ["v1/echo", { method: "POST", body: "é" }], "é"],
    ["bytes", () => [new URL(URL_), { method: "POST", body: utf8("é") }], "é"],
    ["a Request", () => [new Request(URL_, { method: "POST", body: "é" })], "é"],
    ["a form", () => [URL_, { method: "POST", body: new URLSearchParams({ a: "é" }) }], "a=%C3%A9"],
    ["a stream", () => [URL_, { method: "POST", body: streamOf(utf8("a"), utf8("b")) }], "ab"],
    [
      "a stream that is sent as one",
      () => [URL_, { method: "POST", body: streamOf(utf8("a"), utf8("b")), duplex: "half" }],
      "ab",
    ],
    ["nothing", () => [URL_], ""],
  ])("takes %s", async (_, input, expected) => {
    const { fetch, requests } = answering({});
    const response = await sealedFetch(new TestPeer(gateway.keyConfig, [], "https://gateway.example/mitai/"), {
      fetch,
    })(...input());
    expect(requests[0]?.head.path).toBe("/v1/echo");
    expect(text(requests[0]?.content ?? new Uint8Array())).toBe(expected);
    expect(exchangeOf(response).requestSha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("of 300 KiB that is streamed has chunks that hold, and the digest of what was sent", async () => {
    const { fetch, requests, calls } = answering({ content: utf8("ok") });
    const wire: WirePiece[] = [];
    const send = sealedFetch(new TestPeer(gateway.keyConfig), { fetch, onWire: (piece) => wire.push(piece) });
    const pieces = [new Uint8Array(300 << 10).fill(7), new Uint8Array(5).fill(8)];
    const response = await send(URL_, { method: "POST", body: streamOf(...pieces), duplex: "half" });
    expect(equal(requests[0]?.content ?? new Uint8Array(), concat(...pieces))).toBe(true);
    expect(calls[0]?.init).toMatchObject({ duplex: "half" });
    const sent = concat(...wire.filter(({ direction }) => direction === "sent").map(({ bytes }) => bytes));
    expect(equal(sent, calls[0]?.body ?? new Uint8Array())).toBe(true);
    expect(exchangeOf(response).requestSha256).toBe(hex(await sha256(sent)));
  });

  test.each([
    "https://gateway.example/v1/models",
    "https://gateway.example/mitai",
    "https://gateway.example/mitaix/v1",
    "https://gateway.example/mitai/../v1",
    "https://gateway.example/mitai/%2e%2e/v1",
    "https://gateway.example:8443/mitai/v1",
    "http://gateway.example/mitai/v1",
    "https://gateway.example.org/mitai/v1",
  ])("for %s is not sent", async (url) => {
    const { fetch, calls } = answering({});
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(url)).rejects.toThrow(
      code("channel.other-origin"),
    );
    expect(calls).toEqual([]);
  });

  test("with a stream is sent whole where the platform takes none", async () => {
    const Platform = Request;
    class Older extends Platform {
      constructor(input: RequestInfo | URL, init?: RequestInit) {
        super(input, init?.body instanceof ReadableStream ? { ...init, body: String(init.body) } : init);
      }
    }
    vi.stubGlobal("Request", Older);
    const { fetch, requests, calls } = answering({});
    const init = { method: "POST", body: streamOf(utf8("a"), utf8("b")), duplex: "half" } as const;
    await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_, init);
    vi.unstubAllGlobals();
    expect(requests[0]?.content).toEqual(utf8("ab"));
    expect(calls[0]?.init).not.toHaveProperty("duplex");
  });

  test("to a malformed key is not sent", async () => {
    const { fetch, calls } = answering({});
    const peer = new TestPeer(gateway.keyConfig.slice(1));
    await expect(sealedFetch(peer, { fetch })(URL_)).rejects.toThrow(MitaiError);
    expect(calls).toEqual([]);
  });
});

describe("an answer", () => {
  test("has the sealed status, fields and content, and its exchange", async () => {
    const fields: [string, string][] = [
      ["content-type", "text/x"],
      ["mitai-exchange", "i".repeat(70)],
      ["x-y", "ü"],
    ];
    const { fetch } = answering({ status: 418, fields, content: utf8("tea") });
    const wire: WirePiece[] = [];
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch, onWire: (p) => wire.push(p) })(URL_);
    expect([response.status, response.headers.get("content-type"), response.headers.get("x-y")]).toEqual([
      418,
      "text/x",
      "ü",
    ]);
    const exchange = exchangeOf(response);
    expect(exchange.id).toBe("i".repeat(64));
    expect(await response.text()).toBe("tea");
    const received = concat(...wire.filter(({ direction }) => direction === "received").map(({ bytes }) => bytes));
    expect(exchange.responseSha256).toBe(hex(await sha256(received)));
    expect(exchange.name).toBe(hex(await sha256(utf8(`mitai exchange v1\0${exchange.id}`))).slice(0, 32));
  });

  test.each([204, 205, 304])("with status %i has no body, and its end was checked", async (status) => {
    const { fetch } = answering({ status });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    expect([response.status, response.body]).toEqual([status, null]);
    expect(exchangeOf(response).responseSha256).toBeDefined();
    const cut = answering({ status }, (sealed) => sealed.slice(0, -1));
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), cut)(URL_)).rejects.toThrow(code("channel.unopenable"));
  });

  test("with status 204 must end, too", async () => {
    const { fetch } = streaming(async (seal) => streamOf(await seal(encodeResponse({ status: 204, fields: [] }))));
    const sending = sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    await expect(sending).rejects.toThrow(code("channel.truncated"));
  });

  test("is the one after the informational responses", async () => {
    const head = encodeResponse({ status: 200, fields: [] }, 0, [{ status: 103, fields: [["mitai-refusal", "x"]] }]);
    const { fetch } = streaming(async (seal) => streamOf(await seal(head, true)));
    expect((await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).status).toBe(200);
  });

  test("may have its content in very many pieces", async () => {
    const pieces = concat(...Array(120_000).fill(chunk("x")));
    const { fetch } = streaming(async (seal) => {
      const sealed = [await seal(concat(STREAM_HEAD, pieces)), await seal(pieces), await seal(END, true)];
      return streamOf(concat(...sealed));
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    expect(await response.text()).toBe("x".repeat(240_000));
  });

  test("is not read ahead", async () => {
    let read = 0;
    const { fetch } = streaming(async (seal) => {
      const pieces = [await seal(concat(STREAM_HEAD, chunk("0")))];
      for (let at = 1; at < 10; at++) pieces.push(await seal(chunk(`${at}`)));
      const pull = (wire: ReadableStreamDefaultController<Bytes>) => wire.enqueue(pieces[read++] ?? new Uint8Array());
      return new ReadableStream<Bytes>({ pull }, { highWaterMark: 0 });
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    const reader = response.body?.getReader();
    for (const at of [0, 1, 2]) {
      expect(text((await reader?.read())?.value ?? new Uint8Array())).toBe(`${at}`);
      expect(read).toBe(at + 1);
    }
    await reader?.cancel();
  });

  test("streams: each chunk is there before the next was sent", async () => {
    const sent: (() => void)[] = [];
    const { fetch } = streaming(async (seal) => {
      const sealed = [await seal(concat(STREAM_HEAD, chunk("one"))), await seal(chunk("two")), await seal(END, true)];
      return new ReadableStream<Bytes>({
        start(controller) {
          for (const piece of sealed) sent.push(() => controller.enqueue(piece));
          sent.push(() => controller.close());
          sent.shift()?.();
        },
      });
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    const reader = response.body?.getReader();
    for (const expected of ["one", "two"]) {
      expect(text((await reader?.read())?.value ?? new Uint8Array())).toBe(expected);
      expect(exchangeOf(response).responseSha256).toBeUndefined();
      sent.shift()?.();
    }
    sent.shift()?.();
    expect((await reader?.read())?.done).toBe(true);
    expect(exchangeOf(response).responseSha256).toBeDefined();
  });

  test("streams: a head without content is returned at once", async () => {
    const { fetch } = streaming(async (seal) => {
      const head = await seal(STREAM_HEAD);
      return new ReadableStream<Bytes>({ start: (controller) => controller.enqueue(head) });
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    await response.body?.cancel();
  });

  test("is the same however it was cut, sealed and carried", async () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(sizes, sizes, fc.uint8Array({ maxLength: 1000 }), async (chunks, pieces, content) => {
        const body = Uint8Array.from(content);
        const message = concat(encodeResponse({ status: 200, fields: [["x", "y"]] }, body.length), body);
        const { fetch } = streaming(async (seal) => {
          const sealed: Bytes[] = [];
          for (const part of cut(message, chunks).slice(0, -1)) sealed.push(await seal(part));
          sealed.push(await seal(cut(message, chunks).at(-1) ?? message, true));
          return streamOf(...cut(concat(...sealed), pieces));
        });
        const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
        expect(new Uint8Array(await response.arrayBuffer())).toEqual(body);
      }),
      { numRuns: 50 },
    );
  });

  test.each<[string, string, (one: Bytes, two: Bytes, end: Bytes) => (Bytes | Error)[]]>([
    ["cut between chunks", "channel.truncated", (one, two) => [one, two]],
    ["cut within a chunk", "channel.truncated", (one, two) => [one, two.slice(0, 9)]],
    ["cut within the final chunk", "channel.unopenable", (one, two, end) => [one, two, end.slice(0, -1)]],
    ["broken off", "channel.truncated", (one, two) => [one, two, new TypeError("network")]],
    ["changed", "channel.unopenable", (one, two, end) => [one, two.map((byte, at) => byte ^ (at === 9 ? 1 : 0)), end]],
    ["reordered", "channel.unopenable", (one, two, end) => [one, end, two]],
    ["longer than a chunk may be", "channel.too-large", (one) => [one, Uint8Array.of(0xbf, 0xff, 0xff, 0xff)]],
    ["followed by more", "channel.unopenable", (one, two, end) => [one, two, end, Uint8Array.of(0)]],
    ["endless", "channel.too-large", (one) => [one, Uint8Array.of(0), ...Array(300).fill(new Uint8Array(1024))]],
  ])("that is %s errors with %s, after what was whole", async (_, expected, forge) => {
    const { fetch } = streaming(async (seal) => {
      const one = await seal(concat(STREAM_HEAD, chunk("one")));
      return streamOf(...forge(one, await seal(chunk("two")), await seal(END, true)));
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_);
    const reader = response.body?.getReader();
    expect(text((await reader?.read())?.value ?? new Uint8Array())).toBe("one");
    const rest = async () => {
      while (!(await reader?.read())?.done);
    };
    await expect(rest()).rejects.toThrow(code(expected));
    expect(exchangeOf(response).responseSha256).toBeUndefined();
  });

  test.each<[string, string, () => BodyInit | null]>([
    ["nothing", "channel.truncated", () => null],
    ["less than a nonce", "channel.truncated", () => new Uint8Array(31)],
    ["a broken connection", "channel.truncated", () => streamOf(new TypeError("network"))],
    ["noise", "channel.unopenable", () => concat(new Uint8Array(32), Uint8Array.of(20), new Uint8Array(20))],
  ])("that is %s is refused with %s", async (_, expected, body) => {
    const { fetch } = carrying(() => new Response(body(), SEALED));
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(code(expected));
  });

  test.each<[string, string, Bytes]>([
    ["is no Binary HTTP", "channel.bhttp-invalid", Uint8Array.of(9)],
    ["is a request", "channel.bhttp-invalid", Uint8Array.of(0)],
    ["ends within its head", "channel.bhttp-truncated", Uint8Array.of(1, 0x40)],
    [
      "is nothing but an informational response",
      "channel.bhttp-truncated",
      encodeResponse({ status: 103, fields: [] }),
    ],
    ["has 129 fields", "channel.too-large", encodeResponse({ status: 200, fields: Array(129).fill(["a", "b"]) }, 0)],
    [
      "has a head of 65 KiB",
      "channel.too-large",
      encodeResponse({ status: 200, fields: [["a", "b".repeat(65 << 10)]] }, 0),
    ],
    ["has 2 GiB", "channel.too-large", encodeResponse({ status: 200, fields: [] }, 2 ** 31)],
  ])("that %s is refused with %s, though it was sealed", async (_, expected, plaintext) => {
    const { fetch } = streaming(async (seal) => streamOf(await seal(plaintext, true)));
    const read = async () => (await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).text();
    await expect(read()).rejects.toThrow(code(expected));
  });

  test("that is not sealed is never returned", async () => {
    const unsealed = [
      new Response("hello"),
      new Response("hello", { headers: { "content-type": "message/ohttp-res" } }),
      new Response("hello", { ...SEALED, status: 201 }),
      new Response(null, { status: 204 }),
      new Response("x".repeat(1 << 20), { status: 500 }),
      problem({ code: "channel.unopenable" }),
      problem({ code: "chat.message", detail: "pay here" }, 402),
    ];
    for (const response of unsealed) {
      const { fetch } = carrying(() => response);
      await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(
        code("channel.refused"),
      );
    }
  });

  test("that is a refusal without an end is given up", async () => {
    let cancelled = false;
    const endless = new ReadableStream<Bytes>({
      pull: (controller) => controller.enqueue(new Uint8Array(1000)),
      cancel: () => {
        cancelled = true;
      },
    });
    const { fetch } = carrying(() => new Response(endless, { status: 503 }));
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(
      code("channel.refused"),
    );
    expect(cancelled).toBe(true);
  });

  test.each([
    ["channel.busy", 503],
    ["channel.replayed", 409],
    ["channel.date", 400],
    ["channel.too-large", 413],
  ])("with the problem %s says so", async (name, status) => {
    const { fetch, calls } = carrying(() => problem({ code: name }, status));
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(code(name));
    expect(calls.length).toBe(1);
  });

  test("that is a sealed refusal is an error with its code", async () => {
    const { fetch } = answering({ status: 503, fields: [["mitai-refusal", "channel.timeout"]] });
    await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(
      code("channel.timeout"),
    );
  });
});

describe("a key that is not held", () => {
  const forgets = () =>
    carrying(async (body) => {
      if (body[0] === gateway.keyId) return problem({ type: KEY_TYPE });
      return new Response(await other.sealAnswer(await other.open(body), { content: utf8("new") }), SEALED);
    });

  test("is verified again, and the request sent once more to another key", async () => {
    const { fetch, calls } = forgets();
    const peer = new TestPeer(gateway.keyConfig, [other.keyConfig]);
    const response = await sealedFetch(peer, { fetch })(URL_, { method: "POST", body: "once" });
    expect([await response.text(), peer.renewals]).toEqual(["new", 1]);
    expect(calls.map(({ body }) => body[0])).toEqual([7, 8]);
    expect(exchangeOf(response).requestSha256).toBe(hex(await sha256(calls[1]?.body ?? new Uint8Array())));
  });

  test("is not sent to again when it is still the only one", async () => {
    const { fetch, calls } = forgets();
    const peer = new TestPeer(gateway.keyConfig);
    await expect(sealedFetch(peer, { fetch })(URL_)).rejects.toThrow(code("channel.keys-changed"));
    expect([calls.length, peer.renewals]).toEqual([1, 1]);
  });

  test("is given up when the other one is not held either", async () => {
    const { fetch, calls } = carrying(() => problem({ code: "channel.keys-changed" }, 421));
    const peer = new TestPeer(gateway.keyConfig, [other.keyConfig, gateway.keyConfig]);
    await expect(sealedFetch(peer, { fetch })(URL_)).rejects.toThrow(code("channel.keys-changed"));
    expect([calls.length, peer.renewals]).toEqual([2, 1]);
  });

  test("that another request has renewed meanwhile needs no second verification", async () => {
    const peer = new TestPeer(gateway.keyConfig, [other.keyConfig]);
    const { fetch } = forgets();
    const slow: typeof fetch = async (...request) => {
      const response = await fetch(...request);
      if (response.status === 400) await peer.renew();
      return response;
    };
    expect(await (await sealedFetch(peer, { fetch: slow })(URL_)).text()).toBe("new");
    expect(peer.renewals).toBe(1);
  });

  test("with a verification that fails is that failure", async () => {
    const peer = new TestPeer(gateway.keyConfig);
    peer.renew = async () => {
      throw new MitaiError("attest.measurement", "another machine");
    };
    const { fetch, calls } = forgets();
    await expect(sealedFetch(peer, { fetch })(URL_)).rejects.toThrow(code("attest.measurement"));
    expect(calls.length).toBe(1);
  });

  test("with a streamed request is verified again; who sent it sends it again", async () => {
    const peer = new TestPeer(gateway.keyConfig, [other.keyConfig]);
    const { fetch, calls } = forgets();
    const init = { method: "POST", body: streamOf(utf8("x")), duplex: "half" } as const;
    await expect(sealedFetch(peer, { fetch })(URL_, init)).rejects.toThrow(code("channel.keys-changed"));
    expect([calls.length, peer.renewals]).toEqual([1, 1]);
  });
});

describe("an abort", () => {
  const hang = () => carrying(() => new Promise<Response>(() => undefined)).fetch;

  test("before the request sends nothing", async () => {
    const { fetch, calls } = answering({});
    const send = sealedFetch(new TestPeer(gateway.keyConfig), { fetch });
    await expect(send(URL_, { signal: AbortSignal.abort() })).rejects.toThrow(
      expect.objectContaining({ name: "AbortError" }),
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls).toEqual([]);
  });

  test("lets go of an answer that comes all the same", async () => {
    const controller = new AbortController();
    let cancelled = false;
    const body = new ReadableStream<Bytes>({
      cancel: () => {
        cancelled = true;
      },
    });
    const { fetch } = carrying(() => {
      controller.abort();
      return new Response(body, SEALED);
    });
    const send = sealedFetch(new TestPeer(gateway.keyConfig), { fetch });
    await expect(send(URL_, { signal: controller.signal })).rejects.toThrow(
      expect.objectContaining({ name: "AbortError" }),
    );
    await expect.poll(() => cancelled).toBe(true);
  });

  test("while nothing comes is the signal's reason", async () => {
    const send = sealedFetch(new TestPeer(gateway.keyConfig), { fetch: hang() });
    await expect(send(URL_, { signal: AbortSignal.timeout(20) })).rejects.toThrow(
      expect.objectContaining({ name: "TimeoutError" }),
    );
    const controller = new AbortController();
    const sending = send(new Request(URL_, { signal: controller.signal }));
    controller.abort(new Error("mine"));
    await expect(sending).rejects.toThrow("mine");
  });

  test("within an answer errors its body, and lets go of the connection", async () => {
    const controller = new AbortController();
    let reason: unknown;
    const { fetch } = streaming(async (seal) => {
      const one = await seal(concat(STREAM_HEAD, chunk("one")));
      return new ReadableStream<Bytes>({
        start: (wire) => wire.enqueue(one),
        cancel: (given) => {
          reason = given;
        },
      });
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_, { signal: controller.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    const next = reader?.read();
    controller.abort(new Error("enough"));
    await expect(next).rejects.toThrow("enough");
    expect(reason).toMatchObject({ message: "enough" });
  });

  test("between two pieces errors the next", async () => {
    const controller = new AbortController();
    const { fetch } = streaming(async (seal) => {
      const one = await seal(concat(STREAM_HEAD, chunk("one")));
      return new ReadableStream<Bytes>({ start: (wire) => wire.enqueue(one) });
    });
    const response = await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_, { signal: controller.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    controller.abort(new Error("enough"));
    await expect(reader?.read()).rejects.toThrow("enough");
  });

  test("by cancelling the body lets go of the connection, also while it waits", async () => {
    let cancelled = false;
    const { fetch } = streaming(async (seal) => {
      const one = await seal(concat(STREAM_HEAD, chunk("one")));
      return new ReadableStream<Bytes>({
        start: (wire) => wire.enqueue(one),
        cancel: () => {
          cancelled = true;
        },
      });
    });
    const reader = (await sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).body?.getReader();
    await reader?.read();
    const waiting = reader?.read();
    await reader?.cancel();
    expect([(await waiting)?.done, cancelled]).toEqual([true, true]);
  });
});

test("a network that fails before an answer is the platform's own error", async () => {
  const fetch = () => Promise.reject(new TypeError("Failed to fetch"));
  await expect(sealedFetch(new TestPeer(gateway.keyConfig), { fetch })(URL_)).rejects.toThrow(TypeError);
});

test("a response that did not come through the channel has no exchange", () => {
  expect(() => exchangeOf(new Response("x"))).toThrow(code("client.no-exchange"));
});
