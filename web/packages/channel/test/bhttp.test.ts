import { readFileSync } from "node:fs";
import { type Bytes, concat, fromHex, hex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  chunkPrefix,
  DEFAULT_LIMITS,
  Decoder,
  END_OF_STREAM,
  encodeRequest,
  encodeResponse,
  type Field,
  type RequestHead,
  type ResponseHead,
  varint,
} from "../src/bhttp.ts";
import { varintValue } from "../src/frames.ts";

const VECTORS = new URL("../../../../tests/vectors/channel/rfc9292.json", import.meta.url);
const vectors: Record<string, string> = JSON.parse(readFileSync(VECTORS, "utf8"));
const vector = (name: string) => fromHex(vectors[name] ?? "");

const REQUEST: RequestHead = {
  method: "POST",
  scheme: "https",
  authority: "example.com",
  path: "/a?b=c",
  fields: [
    ["accept", "*/*"],
    ["x-empty", ""],
  ],
};
const RESPONSE: ResponseHead = { status: 200, fields: [["content-type", "text/plain"]] };
const START = concat(Uint8Array.of(0), utf8("\x03GET\x05https\x00\x01/")); // a known-length request up to its fields
const ZERO = Uint8Array.of(0);

function decode(kind: "request" | "response", data: Bytes, step = data.length, limits = DEFAULT_LIMITS) {
  const decoder = new Decoder(kind, limits);
  const events = [];
  for (let at = 0; at < data.length; at += step) events.push(...decoder.feed(data.slice(at, at + step)));
  events.push(...decoder.finish());
  const content = concat(...events.flatMap((event) => (event.kind === "content" ? [event.piece] : [])));
  return {
    heads: events.flatMap((event) => ("head" in event ? [event.head] : [])),
    trailers: events.flatMap((event) => (event.kind === "trailers" ? event.fields : [])),
    content: Buffer.from(content).toString("latin1"),
  };
}

function refuses(kind: "request" | "response", data: Bytes, code: string, limits = DEFAULT_LIMITS) {
  for (const step of [1, data.length]) {
    expect(() => decode(kind, data, step, limits)).toThrow(expect.objectContaining({ code }));
  }
}

test.each([
  [0, "00"],
  [63, "3f"],
  [64, "4040"],
  [16383, "7fff"],
  [16384, "80004000"],
  [2 ** 30 - 1, "bfffffff"],
  [2 ** 30, "c000000040000000"],
  [2 ** 53 - 1, "c01fffffffffffff"],
])("the integer %i", (value, encoded) => {
  expect(hex(varint(value))).toBe(encoded);
  expect(varintValue(fromHex(encoded))).toBe(value);
});

describe("RFC 9292 section 5", () => {
  const hello: RequestHead = {
    method: "GET",
    scheme: "https",
    authority: "",
    path: "/hello.txt",
    fields: [
      ["user-agent", "curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3"],
      ["host", "www.example.com"],
      ["accept-language", "en, mi"],
    ],
  };
  test.each([1, 7, 1000])("requests, %i bytes at once", (step) => {
    expect(decode("request", vector("known_length_request"), step).heads).toEqual([hello]);
    expect(decode("request", vector("indeterminate_length_request"), step).heads).toEqual([hello]);
  });

  test("requests encode", () => {
    expect(hex(concat(encodeRequest(hello, 0), ZERO))).toBe(vectors.known_length_request);
    const streamed = concat(encodeRequest(hello), END_OF_STREAM, new Uint8Array(10));
    expect(hex(streamed)).toBe(vectors.indeterminate_length_request);
  });

  test("a response with informational responses", () => {
    const data = vector("indeterminate_length_response");
    const { heads, content } = decode("response", data, 1);
    expect(heads).toMatchObject([
      { status: 102, fields: [["running", '"sleep 15"']] },
      { status: 103 },
      { status: 200 },
    ]);
    expect(content).toBe("Hello World! My content includes a trailing CRLF.\r\n");
    const responses = heads.filter((head) => "status" in head);
    const last = responses.at(-1) ?? RESPONSE;
    const encoded = encodeResponse(last, undefined, responses.slice(0, 2));
    expect(concat(encoded, varint(content.length), utf8(content), END_OF_STREAM)).toEqual(data);
  });

  test("a response with trailers", () => {
    const { heads, trailers, content } = decode("response", vector("known_length_response"));
    expect([heads, trailers]).toEqual([[{ status: 200, fields: [] }], [["trailer", "text"]]]);
    expect(content).toBe("This content contains CRLF.\r\n");
  });
});

describe.each([1, 2, 7, 10_000])("%i bytes at once", (step) => {
  test.each([true, false])("round trip, known length: %s", (known) => {
    const content = "hello".repeat(40);
    const chunks = [content.slice(0, 50), content.slice(50)].flatMap((part) => [varint(part.length), utf8(part)]);
    const body = known ? [utf8(content), ZERO] : [...chunks, END_OF_STREAM];
    const size = known ? content.length : undefined;
    expect(decode("request", concat(encodeRequest(REQUEST, size), ...body), step)).toMatchObject({
      heads: [REQUEST],
      content,
    });
    const interim = { status: 103, fields: [] };
    const response = concat(encodeResponse(RESPONSE, size, [interim]), ...body, new Uint8Array(9));
    expect(decode("response", response, step)).toMatchObject({ heads: [interim, RESPONSE], content });
  });

  test("a chunk prefix is an integer on four bytes", () => {
    const data = concat(encodeResponse(RESPONSE), chunkPrefix(2), utf8("hi"), END_OF_STREAM);
    expect(decode("response", data, step)).toMatchObject({ heads: [RESPONSE], content: "hi" });
  });

  test("a message may end before a length, as if that were zero (section 3.8), and nowhere else", () => {
    const whole = concat(encodeRequest(REQUEST, 3), utf8("abc"), ZERO);
    const control = 1 + [4, 5, 11, 6].reduce((size, part) => size + 1 + part, 0);
    const allowed = new Map([
      [control, ""],
      [whole.length - 5, ""],
      [whole.length - 1, "abc"],
      [whole.length, "abc"],
    ]);
    for (let cut = 0; cut <= whole.length; cut++) {
      const content = allowed.get(cut);
      if (content !== undefined) expect(decode("request", whole.slice(0, cut), step).content).toBe(content);
      else
        expect(() => decode("request", whole.slice(0, cut), step)).toThrow(
          expect.objectContaining({ code: "channel.bhttp-truncated" }),
        );
    }
  });
});

test("names are lower case", () => {
  const data = encodeResponse({ status: 200, fields: [["X-Y", "Z"]] }, 0);
  expect(decode("response", data).heads).toEqual([{ status: 200, fields: [["x-y", "Z"]] }]);
});

test("an informational response is no end, whole or not", () => {
  const interim = encodeResponse({ status: 103, fields: [] });
  for (const data of [interim, interim.slice(0, -1)]) refuses("response", data, "channel.bhttp-truncated");
});

test("a stream must have its terminator once it has content", () => {
  const head = encodeRequest(REQUEST);
  expect(decode("request", head).heads).toEqual([REQUEST]);
  refuses("request", concat(head, utf8("\x03abc")), "channel.bhttp-truncated");
});

test.each([
  ["a response's framing", concat(Uint8Array.of(1), START.slice(1))],
  ["an unknown framing", Uint8Array.of(4, 0, 0)],
  ["a method with a space", concat(Uint8Array.of(0), utf8("\x02G \x05https\x00\x01/"))],
  ["an authority with a path", concat(Uint8Array.of(0), utf8("\x03GET\x05https\x03a/b\x01/"))],
  ["a path with a fragment", concat(Uint8Array.of(0), utf8("\x03GET\x05https\x00\x02/#"))],
  ["a path that is none", concat(Uint8Array.of(0), utf8("\x03GET\x05https\x00\x01a"))],
  ["a name with a colon", concat(START, utf8("\x04\x02a:\x00"))],
  ["a value with a newline", concat(START, utf8("\x05\x01a\x02b\n"))],
  ["a value with a NUL", concat(START, utf8("\x05\x01a\x02b\0"))],
  ["a value that begins with a space", concat(START, utf8("\x05\x01a\x02 b"))],
  ["a value that ends with a tab", concat(START, utf8("\x05\x01a\x02b\t"))],
  ["a field longer than its section", concat(START, utf8("\x03\x01a\x02bc"))],
  ["an empty name", concat(START, utf8("\x02\x00\x00"))],
  ["padding that is not zero", concat(START, Uint8Array.of(0, 0, 0, 0, 0, 1))],
])("refuses %s", (_, data) => {
  refuses("request", data, "channel.bhttp-invalid");
});

test.each([99, 600, 2 ** 40])("refuses the status %i", (status) => {
  refuses("response", concat(Uint8Array.of(1), varint(status), ZERO), "channel.bhttp-invalid");
});

describe("limits", () => {
  const LIMITS = { contentBytes: 10, headBytes: 100, fields: 2, informational: 1 };
  const fields = (count: number): Field[] => Array.from({ length: count }, () => ["a", "b"]);
  const OVER: [string, Bytes][] = [
    ["content", encodeResponse(RESPONSE, 11)],
    [
      "content of more than 2^53 bytes",
      concat(encodeResponse({ status: 200, fields: [] }), fromHex("ffffffffffffffff")),
    ],
    ["chunks", concat(encodeResponse(RESPONSE), utf8("\x06abcdef"), utf8("\x05abcde"))],
    ["fields", encodeResponse({ status: 200, fields: fields(3) }, 0)],
    ["fields of a stream", encodeResponse({ status: 200, fields: fields(3) })],
    ["a head", encodeResponse({ status: 200, fields: [["a", "b".repeat(100)]] }, 0)],
    ["a head of a stream", encodeResponse({ status: 200, fields: [["a", "b".repeat(100)]] })],
    ["a name that is announced", concat(Uint8Array.of(3), varint(200), varint(2 ** 40))],
    ["a head that is announced", concat(Uint8Array.of(1), varint(200), varint(2 ** 40))],
    [
      "informational responses",
      encodeResponse(
        RESPONSE,
        0,
        [103, 103].map((status) => ({ status, fields: [] })),
      ),
    ],
  ];
  test.each(OVER)("%s", (_, data) => refuses("response", data, "channel.too-large", LIMITS));

  test("at the limits all is well", () => {
    const data = concat(
      encodeResponse({ status: 200, fields: fields(2) }, 10, [{ status: 103, fields: [] }]),
      utf8("0123456789"),
    );
    expect(decode("response", data, 1, LIMITS).content).toBe("0123456789");
  });
});

test("after an error everything is refused", () => {
  const padded = concat(encodeResponse(RESPONSE, 0), Uint8Array.of(0, 1));
  for (const bad of [Uint8Array.of(9), concat(Uint8Array.of(1), varint(200), varint(2 ** 40)), padded]) {
    const decoder = new Decoder("response");
    expect(() => decoder.feed(bad)).toThrow(MitaiError);
    expect(() => decoder.feed(encodeResponse(RESPONSE, 0))).toThrow(MitaiError);
    expect(() => decoder.finish()).toThrow(MitaiError);
  }
});

describe("properties", () => {
  const field = fc.tuple(fc.stringMatching(/^[a-z][a-z-]{0,70}$/), fc.stringMatching(/^[!-~\u00a0-\u00ff]{0,100}$/));
  const head = fc.record({ status: fc.integer({ min: 200, max: 599 }), fields: fc.array(field, { maxLength: 5 }) });
  const bytes = fc.uint8Array({ maxLength: 300 }).map((data) => Uint8Array.from(data));

  test("what is encoded decodes, in pieces of any size", () => {
    fc.assert(
      fc.property(head, bytes, fc.integer({ min: 1, max: 400 }), fc.boolean(), (response, content, step, known) => {
        const rest = known || !content.length ? [content] : [varint(content.length), content, END_OF_STREAM];
        const data = concat(encodeResponse(response, known ? content.length : undefined), ...rest);
        const decoded = decode("response", data, step);
        expect(decoded.heads).toEqual([response]);
        expect(decoded.content).toBe(Buffer.from(content).toString("latin1"));
      }),
    );
  });

  test("any bytes give events or an error, and pieces don't matter", () => {
    const outcome = (data: Bytes, step: number) => {
      try {
        return decode("response", data, step);
      } catch (error) {
        expect(error).toBeInstanceOf(MitaiError);
        return (error as MitaiError).code;
      }
    };
    const framed = bytes.map((data) => concat(Uint8Array.of(1 + (data.length % 2) * 2), varint(200), data));
    fc.assert(
      fc.property(fc.oneof(bytes, framed), fc.integer({ min: 1, max: 50 }), (data, step) => {
        expect(outcome(data, step)).toEqual(outcome(data, data.length || 1));
      }),
      { numRuns: 1000 },
    );
  });
});
