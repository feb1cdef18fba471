import { concat, hex, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { expect, test } from "vitest";
import { pack, Unpacker } from "../src/msgpack.ts";

const sizes = fc.oneof(fc.nat(40), fc.constantFrom(127, 128, 255, 256, 65_535, 65_536));

test("what is written is read", () => {
  const value = fc.record({
    bytes: sizes.map((size) => new Uint8Array(size).fill(7)),
    text: sizes.map((size) => "x".repeat(size)),
    numbers: fc.array(fc.oneof(fc.nat(300), fc.nat(2 ** 20 - 1)), { maxLength: 40 }),
  });
  fc.assert(
    fc.property(value, ({ bytes, text, numbers }) => {
      const reader = new Unpacker(pack(new Map<string, never>(Object.entries({ bytes, text, numbers }) as never)));
      expect(reader.map()).toBe(3);
      reader.expect("bytes");
      expect(hex(reader.bytes())).toBe(hex(bytes));
      reader.expect("text");
      reader.expect(text);
      reader.expect("numbers");
      expect(reader.integers(0, 40, 2 ** 20)).toEqual(numbers);
      reader.end();
    }),
  );
});

test.each([
  [0n, [0]],
  [127n, [0x7f]],
  [128n, [0xcc, 128]],
  [256n, [0xcd, 1, 0]],
  [65_536n, [0xce, 0, 1, 0, 0]],
  [2n ** 32n, [0xcf, 0, 0, 0, 1, 0, 0, 0, 0]],
  [2n ** 64n - 1n, [0xcf, ...Array(8).fill(255)]],
  [-1n, [0xff]],
  [-32n, [0xe0]],
  [-33n, [0xd0, 0xdf]],
  [-128n, [0xd0, 0x80]],
  [-129n, [0xd1, 0xff, 0x7f]],
  [-(2n ** 31n), [0xd2, 0x80, 0, 0, 0]],
  [-(2n ** 31n) - 1n, [0xd3, 255, 255, 255, 255, 0x7f, 255, 255, 255]],
])("%s in its shortest form", (number, bytes) => {
  expect([...pack(number)]).toEqual(bytes);
});

test.each([
  ["a number of a byte too many", [0x91, 0xcc, 0x7f]],
  ["a number of two bytes too many", [0x91, 0xcd, 0, 200]],
  ["a list whose length is longer than it must be", [0xdc, 0, 1, 1]],
  ["a number that is negative", [0x91, 0xff]],
  ["a number that is too large", [0x91, 0xce, 0, 0x10, 0, 0]],
  ["a list that ends early", [0x92, 1]],
  ["a text", [0xa1, 65]],
  ["a list of 2^32 numbers", [0xdd, 0xff, 0xff, 0xff, 0xff]],
])("%s is refused", (_, bytes) => {
  expect(() => new Unpacker(Uint8Array.from(bytes)).integers(0, 100, 2 ** 20)).toThrow(RangeError);
});

test("bytes with a longer head than they need are refused", () => {
  const read = (...head: number[]) => new Unpacker(concat(Uint8Array.from(head), new Uint8Array(300))).bytes();
  expect(read(0xc4, 200).length).toBe(200);
  expect(() => read(0xc5, 0, 200)).toThrow(RangeError);
  expect(() => read(0xc6, 0, 0, 1, 0)).toThrow(RangeError);
  expect(() => read(0xc5, 0xff, 0xff)).toThrow(RangeError);
});

test("any bytes are read, or refused with a RangeError", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 30 }), fc.constantFrom("bytes", "integers", "expect"), (data, what) => {
      const reader = new Unpacker(Uint8Array.from(data));
      try {
        if (what === "expect") reader.expect("v");
        else if (what === "bytes") reader.bytes();
        else reader.integers(0, 9, 9);
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
      }
    }),
  );
  expect(() => new Unpacker(utf8("")).map()).toThrow(RangeError);
});
