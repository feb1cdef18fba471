import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attachment, MAX_FILE_BYTES, MAX_FILES, prompt, titleOf, turns } from "../src/conversations.ts";

const question = { id: "q", role: "user", text: "Why?", files: [], at: 0 } as const;
const answer = {
  id: "a",
  role: "assistant",
  text: "Because.",
  at: 0,
  model: "m",
  simulated: false,
  state: "complete",
} as const;

describe("turns", () => {
  it("are what the model is given", () => {
    expect(turns([question, answer, { ...question, text: "And?" }])).toEqual([
      { role: "user", content: "Why?" },
      { role: "assistant", content: "Because." },
      { role: "user", content: "And?" },
    ]);
  });

  it("leave out answers that never came", () => {
    expect(turns([question, { ...answer, text: "", state: "failed" }, question])).toHaveLength(2);
  });
});

describe("a prompt", () => {
  it("holds files before the words", () => {
    expect(prompt({ text: "Sum it up", files: [{ name: "a.txt", text: "one\ntwo" }] })).toBe(
      'File "a.txt":\n```\none\ntwo\n```\n\nSum it up',
    );
  });

  it("keeps a file within its fence, whatever is in it", () => {
    const text = fc.string({ unit: fc.constantFrom("`", "\n", "a") });
    fc.assert(
      fc.property(text, fc.string(), (content, name) => {
        const lines = prompt({ text: "", files: [{ name, text: content }] }).split("\n");
        const fence = lines[1] ?? "";
        expect(lines.filter((line) => line.startsWith(fence))).toHaveLength(2);
        expect(lines.at(-2)).toBe(fence);
      }),
    );
  });
});

describe("a title", () => {
  it("is the first line, cut at a character", () => {
    expect(titleOf("  Hello\nworld", [])).toBe("Hello");
    expect(titleOf("😀".repeat(80), [])).toBe(`${"😀".repeat(60)}…`);
    expect(titleOf("", [{ name: "notes.md", text: "" }])).toBe("notes.md");
  });
});

describe("an attachment", () => {
  const file = (bytes: Uint8Array<ArrayBuffer>) => new File([bytes], "a.txt");
  const read = (...bytes: number[]) => attachment(file(Uint8Array.from(bytes)), 0);

  it("is text in UTF-8", async () => {
    expect(await read(0xe4, 0xbd, 0xa0)).toEqual({ name: "a.txt", text: "你" });
    expect(await read(0xff, 0xfe)).toBe("not-text");
    expect(await read(65, 0, 66)).toBe("not-text");
  });

  it("has its limits", async () => {
    expect(await attachment(file(new Uint8Array(MAX_FILE_BYTES + 1)), 0)).toBe("too-large");
    expect(await attachment(file(new Uint8Array()), MAX_FILES)).toBe("too-many");
  });
});
