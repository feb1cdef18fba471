import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, fromHex, hex, utf8 } from "../src/bytes.ts";
import { Der, GENERALIZED_TIME, INTEGER, OCTET_STRING, UTC_TIME } from "../src/der.ts";
import { bits, der, explicit, integer, octets, oid, sequence, TRUE, time } from "./x509_lab.ts";

const read = (digits: string) => new Der(fromHex(digits));

describe("elements", () => {
  test("are read one after the other", () => {
    const body = Der.only(sequence(integer(5), octets(fromHex("aabb")), explicit(3, integer(7))));
    expect(body.has(INTEGER)).toBe(true);
    expect(body.small()).toBe(5);
    expect([body.has(INTEGER), body.has(OCTET_STRING), body.has()]).toEqual([false, true, true]);
    expect(hex(body.element().whole)).toBe("0402aabb");
    expect(() => body.end()).toThrow(RangeError);
    expect(body.inside(0xa3).small()).toBe(7);
    body.end();
    expect(body.has()).toBe(false);
    expect(() => body.element()).toThrow(RangeError);
  });

  test.each([0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff])("of %i bytes", (size) => {
    expect(new Der(octets(new Uint8Array(size))).element(OCTET_STRING).content.length).toBe(size);
  });

  test.each([
    ["nothing", ""],
    ["no length", "04"],
    ["truncated", "0402aa"],
    ["truncated length", "0482ff"],
    ["indefinite length", "0480aa0000"],
    ["indefinite length, with much behind it", `0480${"00".repeat(128)}`],
    ["length that fits in one byte", "04810100"],
    ["length with a zero in front", `048200ff${"00".repeat(255)}`],
    ["length of five bytes", "048500000000010000"],
    ["reserved length", "04ff"],
    ["longer than everything", "0484ffffffff"],
    ["identifier of two bytes", "1f0100"],
  ])("malformed: %s", (_, digits) => {
    expect(() => read(digits).element()).toThrow(RangeError);
  });

  test("of another kind", () => {
    expect(() => read("0400").element(INTEGER)).toThrow(RangeError);
    expect(() => Der.only(octets(new Uint8Array()))).toThrow(RangeError);
    expect(() => Der.only(concat(sequence(), new Uint8Array(1)))).toThrow(RangeError);
  });
});

describe("numbers", () => {
  test.each([
    ["020100", 0],
    ["02017f", 127],
    ["02020080", 128],
    ["02060fffffffffff", 0x0fffffffffff],
  ])("%s", (digits, value) => {
    expect(read(digits).small()).toBe(value);
  });

  test("may be negative or large where nobody counts with them", () => {
    for (const digits of ["0201ff", "020180", "0202ff7f", `0214${"7f".repeat(20)}`]) {
      expect(hex(read(digits).integer())).toBe(digits.slice(4));
      expect(() => read(digits).small()).toThrow(RangeError);
    }
  });

  test.each(["0200", "02020000", "0202007f", "0202ffff", "0202ff80", "040100"])("malformed: %s", (digits) => {
    expect(() => read(digits).integer()).toThrow(RangeError);
  });
});

describe("booleans of which FALSE is the default", () => {
  test("are there or not", () => {
    expect(new Der(TRUE).flag()).toBe(true);
    expect(read("").flag()).toBe(false);
    expect(read("020101").flag()).toBe(false);
  });

  test.each(["010100", "010101", "0100", "0102ffff"])("malformed: %s", (digits) => {
    expect(() => read(digits).flag()).toThrow(RangeError);
  });
});

describe("object identifiers", () => {
  test.each(["0.0", "0.39", "1.2.840.113741.1.13.1", "2.5.29.19", "2.999.3", "2.16.840.1.101.3.4.2.2"])(
    "%s",
    (dotted) => {
      expect(new Der(oid(dotted)).oid()).toBe(dotted);
    },
  );

  test.each(["0600", "060180", "06022a80", "06032a8001", `060a2a${"ff".repeat(8)}7f`])("malformed: %s", (digits) => {
    expect(() => read(digits).oid()).toThrow(RangeError);
  });
});

describe("bit strings", () => {
  test("say how many bits do not count", () => {
    expect(new Der(bits(fromHex("80"), 7)).bits()).toEqual({ bytes: fromHex("80"), unused: 7 });
    expect(read("030100").bits()).toEqual({ bytes: new Uint8Array(), unused: 0 });
  });

  test.each(["0300", "030101", "03020880", "03020181", "03020740"])("malformed: %s", (digits) => {
    expect(() => read(digits).bits()).toThrow(RangeError);
  });
});

describe("times", () => {
  const at = (tag: number, digits: string) => new Der(der(tag, utf8(digits)));

  test.each([
    [UTC_TIME, "000101000000Z", "2000-01-01T00:00:00.000Z"],
    [UTC_TIME, "491231235959Z", "2049-12-31T23:59:59.000Z"],
    [UTC_TIME, "500101000000Z", "1950-01-01T00:00:00.000Z"],
    [UTC_TIME, "240229000000Z", "2024-02-29T00:00:00.000Z"],
    [GENERALIZED_TIME, "00010101000000Z", "0001-01-01T00:00:00.000Z"],
    [GENERALIZED_TIME, "99991231235959Z", "9999-12-31T23:59:59.000Z"],
  ])("%i %s", (tag, digits, iso) => {
    expect(at(tag, digits).time().toISOString()).toBe(iso);
  });

  test("are read as they are written", () => {
    for (const iso of ["2026-06-01T12:00:00.000Z", "2050-01-01T00:00:00.000Z"]) {
      expect(new Der(time(new Date(iso))).time().toISOString()).toBe(iso);
    }
  });

  test.each([
    [UTC_TIME, "2601010000Z"],
    [UTC_TIME, "260101000000"],
    [UTC_TIME, "260101000000+0000"],
    [UTC_TIME, "250229000000Z"],
    [UTC_TIME, "260431000000Z"],
    [UTC_TIME, "261301000000Z"],
    [UTC_TIME, "260100000000Z"],
    [UTC_TIME, "260101240000Z"],
    [UTC_TIME, "260101006000Z"],
    [UTC_TIME, "260101000060Z"],
    [UTC_TIME, "260101000000Z\n"],
    [UTC_TIME, "26010100000٠Z"],
    [GENERALIZED_TIME, "00000101000000Z"],
    [GENERALIZED_TIME, "20260101000000.5Z"],
    [GENERALIZED_TIME, "260101000000Z"],
    [0x0c, "260101000000Z"],
  ])("malformed: %i %s", (tag, digits) => {
    expect(() => at(tag, digits).time()).toThrow(RangeError);
  });

  test("that are no text", () => {
    expect(() => new Der(der(UTC_TIME, fromHex("ff".repeat(13)))).time()).toThrow(RangeError);
  });
});

test("any bytes are read or refused, and never beyond their end", () => {
  const walk = (data: Bytes, depth: number): number => {
    let size = 0;
    for (const level = new Der(data); level.has(); ) {
      const { tag, content, whole } = level.element();
      expect(whole.subarray(whole.length - content.length)).toEqual(content);
      size += whole.length;
      if (tag & 0x20 && depth < 50) walk(content, depth + 1);
    }
    return size;
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      const data = Uint8Array.from(bytes);
      const readers = ["integer", "small", "flag", "oid", "bits", "time"] as const;
      for (const reader of [
        () => expect(walk(data, 0)).toBe(data.length),
        ...readers.map((name) => () => new Der(data)[name]()),
      ]) {
        try {
          reader();
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
        }
      }
    }),
  );
});
