import { describe, expect, test } from "vitest";
import { fromHex, hex } from "../src/bytes.ts";
import { Checklist, Reader, refusing } from "../src/checks.ts";
import { MitaiError } from "../src/errors.ts";
import { refusal } from "./intel_lab.ts";

describe("a checklist", () => {
  test("numbers the steps that passed, with what they found", async () => {
    const checks = new Checklist();
    expect(await checks.step("nonce", () => 5)).toBe(5);
    const detailed = checks.step("root", async (say) => {
      say("one");
      say("two");
    });
    expect(checks.passed).toEqual([{ step: "1 nonce", detail: "" }]);
    await detailed;
    expect(checks.passed).toEqual([
      { step: "1 nonce", detail: "" },
      { step: "2 root", detail: "one; two" },
    ]);
  });

  test("names the step that a refusal came from, and does not list it", async () => {
    const checks = new Checklist();
    await checks.step("nonce", () => undefined);
    const attempt = checks.step("root", (say) => {
      say("half way");
      throw new MitaiError("attest.root-untrusted", "no", "a hint", "another step");
    });
    const { code, message, hint, step } = await refusal(attempt);
    expect([code, message, hint, step]).toEqual(["attest.root-untrusted", "no", "a hint", "2 root"]);
    expect(checks.passed.length).toBe(1);
  });

  test("lets other errors through as they are", async () => {
    const bug = new TypeError("a bug");
    const attempt = new Checklist().step("root", () => Promise.reject(bug));
    await expect(attempt).rejects.toBe(bug);
  });
});

test("what a reader finds malformed is refused with a code, a bug is not", () => {
  const refuse = (error: Error) => () =>
    refusing("attest.quote-malformed", "no", () => {
      throw error;
    });
  expect(refuse(new RangeError())).toThrowError(expect.objectContaining({ code: "attest.quote-malformed" }));
  expect(refuse(new TypeError("a bug"))).toThrow(TypeError);
  expect(refusing("attest.quote-malformed", "no", () => 5)).toBe(5);
});

describe("a reader", () => {
  const reader = (digits: string) => new Reader(fromHex(digits), "it", "attest.quote-malformed");

  test("reads little-endian numbers and bytes, to the end", () => {
    const cursor = reader("0102fffefdfcaabbcc");
    expect([cursor.u16(), cursor.u32()]).toEqual([0x0201, 0xfcfdfeff]);
    expect([cursor.offset, cursor.left]).toEqual([6, 3]);
    expect([hex(cursor.take(1)), hex(cursor.take(0)), hex(cursor.rest())]).toEqual(["aa", "", "bbcc"]);
    cursor.end();
  });

  test.each<[string, (cursor: Reader) => unknown]>([
    ["bytes", (cursor) => cursor.take(4)],
    ["a number", (cursor) => cursor.u32()],
    ["an end that is none", (cursor) => cursor.end()],
  ])("refuses %s", (_, read) => {
    const cursor = reader("010203");
    expect(() => read(cursor)).toThrowError(expect.objectContaining({ code: "attest.quote-malformed" }));
  });
});
