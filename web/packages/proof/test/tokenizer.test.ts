/** Tokens as words: as `tokenizers` says them, but nothing passes for a special token; other files are refused. */
import { readFileSync } from "node:fs";
import { hex, MitaiError, utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Answer, checkAnswer } from "../src/index.ts";
import { MAX_TOKENIZER_BYTES, Tokenizer } from "../src/tokenizer.ts";
import { FILE, TOKENIZER, VERDICTS, WORDS } from "./fixtures.ts";

const DEMO = readFileSync(new URL("../../../../src/mitai/demo_model/model/tokenizer.json", import.meta.url), "utf8");
const open = (text: string) => Tokenizer.open(utf8(text), hex(sha256(utf8(text))));

interface File {
  version?: string;
  added_tokens: { id: number; content: string; special: boolean }[];
  decoder: unknown;
  model: Record<string, unknown>;
}

/** A small file, changed; what it says of tokens. */
function changed(edit: (file: File) => void, tokens: readonly number[] = []) {
  const file: File = {
    version: "1.0",
    added_tokens: [{ id: 3, content: "<s>", special: true }],
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: { a: 0, Ġb: 1, "<s": 2 } },
  };
  edit(file);
  return open(JSON.stringify(file)).words(tokens);
}

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof MitaiError) return error.code.replace("proof.tokenizer-", "");
    throw error;
  }
  return "";
}

describe("words", () => {
  test.each(WORDS.map((one, at) => [at, one] as const))(
    "of tokenizer %i are those of Python",
    (_, { tokenizer, runs }) => {
      const ours = open(tokenizer || DEMO);
      const texts = runs.map(([run]) => ours.words(run).map(({ text }) => text));
      expect(texts.map((pieces) => pieces.join(""))).toEqual(runs.map(([, text]) => text));
    },
  );

  test("of the answer are there once its proof holds", () => {
    const { words } = checkAnswer(Answer.parse(FILE), VERDICTS.identity, { tokenizer: TOKENIZER });
    expect(words).toEqual({
      prompt: [{ kind: "text", text: "Who are<b> you</b>?" }],
      answer: [
        { kind: "text", text: "\u202eI am 星" },
        { kind: "special", text: "<|end of turn▁|>" },
      ],
    });
    expect(checkAnswer(Answer.parse(FILE), VERDICTS.identity).words).toBeUndefined();
  });

  test("are not special tokens, whatever they look like, nor are tokens that nobody knows left out", () => {
    const edit = (file: File) => {
      file.model.vocab = { a: 0, Ġb: 1, "<s": 2, ">": 3 };
      file.added_tokens = [{ id: 4, content: "<s>", special: true }];
    };
    const said = changed(edit, [2, 3, 4, 0, 77, 1, 1]);
    expect(said).toEqual([
      { kind: "text", text: "<s>" },
      { kind: "special", text: "<s>" },
      { kind: "text", text: "a" },
      { kind: "unknown", text: "77" },
      { kind: "text", text: " b b" },
    ]);
  });
});

test("a tokenizer that the card does not name is refused before anything of the proof is read", () => {
  const parts: number[] = [];
  const other = utf8(`${new TextDecoder().decode(TOKENIZER)} `);
  const run = () =>
    checkAnswer(Answer.parse(FILE), VERDICTS.identity, { tokenizer: other, heard: (part) => parts.push(part) });
  expect(code(run)).toBe("differs");
  expect(parts).toEqual([]);
  expect(code(() => Tokenizer.open(TOKENIZER, ""))).toBe("differs");
  expect(code(() => Tokenizer.open(new Uint8Array(MAX_TOKENIZER_BYTES + 1), ""))).toBe("malformed");
});

describe("another kind of tokenizer is refused by name", () => {
  test.each<[string, (file: File) => void]>([
    ["Unigram", (file) => Object.assign(file.model, { type: "Unigram", vocab: [["a", 0.5]] })],
    ["WordPiece", (file) => Object.assign(file, { decoder: { type: "WordPiece", prefix: "##", cleanup: true } })],
    ["no decoder", (file) => Object.assign(file, { decoder: null })],
    ["CTC", (file) => Object.assign(file, { decoder: { type: "Sequence", decoders: [{ type: "CTC" }] } })],
    ["Sequence", (file) => Object.assign(file, { decoder: { type: "Sequence", decoders: [{ type: "Sequence" }] } })],
    [
      "joins all",
      (file) => Object.assign(file, { decoder: { type: "Sequence", decoders: [{ type: "Fuse" }, { type: "Fuse" }] } }),
    ],
  ])("%s", (name, edit) => {
    expect(() => changed(edit)).toThrowError(new RegExp(name));
    expect(code(() => changed(edit))).toBe("unsupported");
  });
});

test.each<[string, (file: File) => void]>([
  ["another version", (file) => Object.assign(file, { version: "2.0" })],
  ["a token with two texts", (file) => Object.assign(file.model, { vocab: { a: 0, b: 0 } })],
  ["an added token that takes another's number", ({ added_tokens: [one] }) => Object.assign(one ?? {}, { id: 1 })],
  ["a gap before an added token", ({ added_tokens: [one] }) => Object.assign(one ?? {}, { id: 5 })],
  ["a token that is added twice", (file) => file.added_tokens.push({ id: 4, content: "<s>", special: false })],
  ["an added token without text", (file) => file.added_tokens.push({ id: 4, content: "", special: true })],
  ["a token out of bounds", (file) => Object.assign(file.model, { vocab: { a: 1 << 20 } })],
  ["a token that is a book", (file) => Object.assign(file.model, { vocab: { ["a".repeat(1025)]: 0 } })],
  ["no vocabulary", (file) => delete file.model.vocab],
  ["a pattern", (file) => Object.assign(file, { decoder: replace({ Regex: "(a+)+$" }, " ") })],
  ["a text that grows", (file) => Object.assign(file, { decoder: replace({ String: "a" }, "aa") })],
  ["a cut of many", (file) => Object.assign(file, { decoder: { type: "Strip", content: " ", start: 2, stop: 0 } })],
  [
    "two words about the first space",
    (file) => Object.assign(file, { decoder: { type: "Metaspace", replacement: "▁", add_prefix_space: false } }),
  ],
  ["too many steps", (file) => Object.assign(file, { decoder: { type: "Sequence", decoders: Array(17).fill(fuse) } })],
])("a file with %s is malformed", (_, edit) => {
  expect(code(() => changed(edit))).toBe("malformed");
});

const fuse = { type: "Fuse" };
const replace = (pattern: object, content: string) => ({ type: "Replace", pattern, content });

test.each([
  ["lists", "[".repeat(1 << 20)],
  ["members", '{"version":'.repeat(1 << 16)],
  [
    "decoders",
    `{"version":"1.0","added_tokens":[],"model":{"vocab":{}},"decoder":${'{"type":"Sequence","decoders":['.repeat(400)}`,
  ],
  ["pieces behind its end", `${DEMO}{}`],
])("a file that is deep, or more than one: %s", (_, text) => {
  expect(code(() => open(text))).toBe("malformed");
});

test("any bytes are a tokenizer, or refused with a MitaiError", () => {
  const whole = new TextDecoder().decode(TOKENIZER);
  const edited = fc
    .tuple(fc.nat(whole.length), fc.nat(3), fc.string({ maxLength: 4 }))
    .map(([at, drop, put]) => whole.slice(0, at) + put + whole.slice(at + drop));
  fc.assert(
    fc.property(fc.oneof(fc.string(), edited), fc.array(fc.nat(40)), (text, tokens) => {
      code(() => open(text).words(tokens));
    }),
    { numRuns: 500 },
  );
});
