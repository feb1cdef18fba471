/** The event stream: any cut into pieces reads the same, nothing is taken that is not text, all is bounded. */

import { concat, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { events } from "../src/sse.ts";

async function* stream(...pieces: readonly Uint8Array[]) {
  yield* pieces;
}

async function read(...pieces: readonly (string | Uint8Array)[]): Promise<string[]> {
  const found: string[] = [];
  for await (const event of events(stream(...pieces.map((piece) => (typeof piece === "string" ? utf8(piece) : piece)))))
    found.push(event);
  return found;
}

describe("events", () => {
  it.each([
    ["data: a\n\n", ["a"]],
    ["data:a\n\n", ["a"]],
    ["data:  a\n\n", [" a"]],
    ["data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]],
    ["data: a\ndata: b\n\n", ["a\nb"]],
    ["data\n\n", [""]],
    [": comment\nevent: x\nid: 1\nretry: 5\ndatax: no\n\n", []],
    ["\ufeffdata: a\n\n", ["a"]],
    ["data: a\n\ndata: cut", ["a"]],
    ["data: a\n", []],
    ["", []],
    ["data: 你好\n\n", ["你好"]],
  ])("reads %j", async (text, expected) => expect(await read(text)).toEqual(expected));

  it("reads the same however the bytes are cut", async () => {
    const bytes = utf8("data: 一\r\n\r\n: x\ndata: b\r\ndata: c\r\r\ndata: d\n\n\r\n");
    const whole = await read(bytes);
    expect(whole).toEqual(["一", "b\nc", "d"]);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 12 }), async (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        expect(await read(...at.slice(1).map((end, n) => bytes.subarray(at[n], end)))).toEqual(whole);
      }),
    );
    expect(await read(...Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(whole);
  });

  it.each([
    ["no UTF-8", [utf8("data: "), Uint8Array.of(0xff)]],
    ["half a character at the end", [utf8("data: a\n\n"), Uint8Array.of(0xe4)]],
    ["an endless line", Array(33).fill(utf8("x".repeat(32 << 10)))],
    ["an endless event", Array(33).fill(utf8(`data: ${"x".repeat(32 << 10)}\n`))],
  ])("refuses %s", async (_, pieces) => {
    await expect(read(...pieces)).rejects.toMatchObject({ code: "client.answer-malformed" });
  });

  it("reads a large piece of small events", async () => {
    expect(await read(concat(...Array(100_000).fill(utf8("data: 12345678\n\n"))))).toHaveLength(100_000);
  });

  it("gives events or an error for any bytes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 20 })), async (pieces) => {
        await read(...pieces).catch((error) => expect(error).toBeInstanceOf(MitaiError));
      }),
    );
  });
});
