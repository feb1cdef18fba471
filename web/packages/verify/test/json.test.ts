import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { utf8 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import {
  array,
  bigint,
  boolean,
  bytes,
  canonical,
  decodeCanonical,
  decodeJson,
  dictionary,
  integer,
  JsonObject,
  moment,
  nullable,
  optional,
  string,
  struct,
} from "../src/json.ts";
import { latin1 } from "./verdicts.ts";

const thing = struct({
  v: optional(bigint, 1n),
  some_bytes: optional(bytes, new Uint8Array()),
  s: optional(string, ""),
  t: optional(array(string), []),
  o: optional(nullable(string), null),
  d: optional(dictionary(bytes), new Map()),
  f: optional(boolean, false),
});
const decode = (json: string) => decodeJson(latin1(json), thing, "test.malformed", "no thing");

describe("a strict reader, as msgspec is one", () => {
  test.each([
    ['{"v":1,"v":2}', { v: 2n }],
    ['{"v":-0}', { v: 0n }],
    ['{"v":123456789012345678901234567890}', { v: 123456789012345678901234567890n }],
    ['{"some_bytes":"YQ=="}', { someBytes: utf8("a") }],
    ['{"some_bytes":"YR=="}', { someBytes: utf8("a") }],
    ['{"some_bytes":"\\u0059Q=="}', { someBytes: utf8("a") }],
    ['{"s":"\\ud83d\\ude00\\/\\u0000\x7f"}', { s: "😀/\0\x7f" }],
    ['{"s":"\xc3\xa9\\u00e9"}', { s: "éé" }],
    ['{"s":"\xef\xbf\xbd\\ufffd"}', { s: "\ufffd\ufffd" }],
    ['{"o":null}', { o: null }],
    [
      '{"d":{"__proto__":"YQ==","a":"","a":"YQ=="}}',
      { d: new Map(Object.entries({ a: utf8("a") })).set("__proto__", utf8("a")) },
    ],
    ['{"\\u0076":3}', { v: 3n }],
    [' \n\t\r{ "v" : 1 } \n', {}],
    ["{}", {}],
  ])("accepts %s", (json, members) => {
    expect(decode(json)).toMatchObject({ v: 1n, f: false, ...members });
  });

  test.each(
    `{"v":"x","v":2} {"v":1.0} {"v":1e2} {"v":-0.0} {"v":01} {"v":1e400} {"v":true} {"v":null} {"v":+1} {"v":.5} {"v":1.}
     {"v":1e} {"v":0x1} {"v":NaN} {"v":-} {"v":00} {"some_bytes":"YQ"} {"some_bytes":"YQ==\\n"} {"some_bytes":"YQ==YQ=="}
     {"some_bytes":"===="} {"some_bytes":"A==="} {"some_bytes":"-_-_"} {"some_bytes":"YQ=A"} {"some_bytes":"=="}
     {"some_bytes":null} {"s":"\\ud800"} {"s":"\\ude00\\ud83d"} {"s":"\\ud83dx"} {"s":"\\ud83d\\u0041"} {"s":"\xff"}
     {"s":"\xed\xa0\x80"} {"s":"\xc0\x80"} {"s":"\\x"} {"s":"\\U0041"} {"t":["a",]} {"t":["a""b"]} {,} {"v":1,} {}x {}\xff
     {}\0 {"x":1} [] null {"d":{"a":1,"a":"Yg=="}} {"d":{"\xff":"YQ=="}} {"d":{"\\ud800":"YQ=="}} {v:1} {'v':1} {"f":1}
     {"f":truex} {"f":tru} /**/{} {"\xff":1} {"__proto__":{}} {"constructor":1} {"v":1 \xef\xbb\xbf{}`.split(/\s+/),
  )("refuses %s", (json) => {
    expect(() => decode(json)).toThrow(expect.objectContaining({ code: "test.malformed" }));
  });

  test.each(["", '{"s":"\x01"}', '{"s":"\t"}', '{"s":"a\nb"}', '{"v":1}{}', '{"s":"', '{"s":"\\'])(
    "refuses what is cut or has control characters",
    (json) => {
      expect(() => decode(json)).toThrow(MitaiError);
    },
  );

  test("bounds depth and digits", () => {
    const nested = (depth: number) => utf8("[".repeat(depth) + "]".repeat(depth));
    const any = (value: unknown) => value;
    expect(decodeJson(nested(500), any, "c", "m")).toBeInstanceOf(Array);
    expect(() => decodeJson(nested(1000), any, "c", "m")).toThrow(MitaiError);
    expect(() => decodeJson(nested(1_000_000), any, "c", "m")).toThrow(MitaiError);
    expect(() => decode(`{"v":${"1".repeat(5000)}}`)).toThrow(MitaiError);
  });

  test("skips unknown members only where they are allowed, and checks their syntax", () => {
    const open = struct({ a: optional(integer(), 0) }, "ignored");
    const read = (json: string) => decodeJson(latin1(json), open, "c", "m");
    for (const json of ['{"x":"\xff"}', '{"\xff":1}', '{"x":1e999}', '{"x":[{}],"a":0}']) {
      expect(read(json)).toEqual({ a: 0 });
    }
    for (const json of ['{"x":"\\ud800"}', '{"x":01}', '{"x":"\x01"}', '{"x":"\xff\\q"}', '{"x":1.}']) {
      expect(() => read(json)).toThrow(MitaiError);
    }
  });

  test("integers stay within what a number holds, and within their bounds", () => {
    const read = (json: string) => decodeJson(utf8(json), integer(0), "c", "m");
    expect(read("9007199254740991")).toBe(Number.MAX_SAFE_INTEGER);
    expect(() => read("9007199254740992")).toThrow(MitaiError);
    expect(() => read("-1")).toThrow(MitaiError);
  });

  test.each([
    ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"],
    ["2026-01-02t03:04:05z", "2026-01-02T03:04:05.000Z"],
    ["2026-01-02 03:04:05.1Z", "2026-01-02T03:04:05.100Z"],
    ["2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123Z"],
    ["2026-01-02T03:04:05+01:30", "2026-01-02T01:34:05.000Z"],
    ["2026-01-02T03:04:05-0130", "2026-01-02T04:34:05.000Z"],
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"],
  ])("reads the moment %s", (written, iso) => {
    expect(moment(written).toISOString()).toBe(iso);
  });

  test.each(
    `2026-01-02 2026-01-02T03:04:05 2026-02-30T00:00:00Z 2026-01-02T24:00:00Z 2026-01-02T23:59:60Z 0000-01-01T00:00:00Z
     2026-01-02T03:04:05+01 2026-01-02T03:04:05+24:00 2026-01-02T03:04:05+01:60 2026-01-02T03:04:05.Z 2026-01-02T03:04Z
     2026-01-02T03:04:05,5Z 2026-1-02T03:04:05Z 12026-01-02T03:04:05Z 2026-01-02_03:04:05Z`.split(/\s+/),
  )("refuses the moment %s", (written) => {
    expect(() => moment(written)).toThrow(RangeError);
  });

  test("any JSON that JavaScript writes is read as it was meant", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4, noUnicodeString: false }), (value) => {
        const plain = (json: unknown): unknown => {
          if (json instanceof JsonObject) return Object.fromEntries(json.members.map(([k, v]) => [k, plain(v)]));
          if (Array.isArray(json)) return json.map(plain);
          return typeof json === "bigint" ? Number(json) : json;
        };
        const written = JSON.stringify(value);
        fc.pre(!/\\ud[89a-f]/i.test(written)); // half of a surrogate pair
        const read = decodeJson(utf8(written), plain, "c", "m");
        expect(JSON.stringify(read)).toBe(JSON.stringify(JSON.parse(written)));
      }),
    );
  });

  test("any bytes give a value or a MitaiError", () => {
    const pieces = fc.constantFrom(...'{}[]":,\\ue01-.tfn \n\xff\xc3'.split(""), '"v"', "true", "null", "\\u", "1e5");
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 40 }), (parts) => {
        try {
          decode(parts.join(""));
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("canonical JSON", () => {
  const any = (value: unknown) => value;
  const isCanonical = (json: string) => decodeCanonical(utf8(json), any, "c", "m") !== undefined;

  test("sorts by UTF-16, escapes as little as possible", () => {
    const names = ["\u20ac", "\r", "\ufb33", "1", "😀", "\u0080", "ö"];
    const value = new JsonObject(names.map((name) => [name, BigInt(name.length)]));
    expect(canonical(value)).toBe('{"\\r":1,"1":1,"\u0080":1,"ö":1,"€":1,"😀":2,"\ufb33":1}');
  });

  test.each(['{"a":1,"b":[true,null]}', '"\\u0001\\n\u2028\x7f"', "-5", "{}"])("%s is", (json) => {
    expect(isCanonical(json)).toBe(true);
  });

  test.each(['{"b":1,"a":1}', '{"a":1,"a":1}', "{ }", '"\\u0041"', '"\\/"', "-0", "1.5", "1e2", "[1, 2]", "1\n"])(
    "%s is not",
    (json) => {
      expect(() => isCanonical(json)).toThrow(MitaiError);
    },
  );
});
