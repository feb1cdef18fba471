/** Receipts of a service, as Python makes and refuses them; and whether tokens are a conversation. */
import { readFileSync } from "node:fs";
import { fromBase64, hex, MitaiError, PublicKey, utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { describe, expect, it } from "vitest";
import { Answer, type Conversation, checkAnswer, checkReceipt, requireTold, Tokenizer } from "../src/index.ts";
import { FILE, VERDICTS } from "./fixtures.ts";

const FIXTURES = new URL("fixtures/receipts.json", import.meta.url);
const { key, said, known, receipts } = JSON.parse(readFileSync(FIXTURES, "utf8"));
const check = (envelope: string, unaudited = false) =>
  checkReceipt(fromBase64(envelope), new PublicKey(fromBase64(key)), said, { ...known, unaudited });

describe("a receipt", () => {
  it.each<[string, string, string]>(receipts)("that has %s: as Python says", async (_, envelope, code) => {
    const found = await check(envelope).then(
      () => "",
      (error: MitaiError) => error.code,
    );
    expect(found).toBe(code);
  });

  it("without a root holds where none is promised, and no further", async () => {
    const of = (name: string): string => receipts.find(([one]: [string]) => one === name)[1];
    expect((await check(of("no root"), true)).model).toBe(known.model);
    await expect(check(of("a trace's scheme"), true)).rejects.toMatchObject({ code: "proof.receipt-differs" });
  });
});

it("a proof of other tokens than were told is refused before it is read", () => {
  const { prompt, answer } = Answer.parse(FILE);
  const told = (one: typeof prompt, other: typeof answer) => () =>
    checkAnswer(Answer.parse(FILE), VERDICTS.identity, { said: { prompt: one, answer: other } });
  expect(told(prompt, answer)().bits).toBeGreaterThan(100);
  for (const run of [told([...prompt, 5], answer), told(prompt, answer.slice(1)), told([], answer)]) {
    expect(run).toThrowError(/about another answer/);
  }
});

describe("a conversation", () => {
  // Of byte-level letters; 0 to 2 are special.
  const vocabulary = ["<s>", "</s>", "</s>x", "user", "model", "Ċ", "Hi", "Ġthere", "<", "/", "s", ">", "Ã", "©", "ok"];
  const file = utf8(
    JSON.stringify({
      version: "1.0",
      added_tokens: [0, 1, 2].map((id) => ({ id, content: vocabulary[id], special: true })),
      decoder: { type: "ByteLevel" },
      model: { type: "BPE", vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])) },
    }),
  );
  const tokenizer = Tokenizer.open(file, hex(sha256(file)));
  const template = { head: "<s>user\n", user: "</s>model\n", assistant: "</s>user\n", tail: "</s>model\n" };
  const asked: Conversation = { template, turns: ["Hi"], text: "ok" };
  const prompt = [0, 3, 5, 6, 1, 4, 5];
  const told = (prompt: readonly number[], answer: readonly number[], conversation = asked) =>
    requireTold(tokenizer, { prompt, answer }, conversation);

  it("is told by its tokens, however they are cut, with the special ones of the template", () => {
    told(prompt, [14]);
    told(prompt, [14, 1]); // the one that ends it is not told
    told([...prompt.slice(0, 4), 7, ...prompt.slice(4)], [14], { ...asked, turns: ["Hi there"] });
    told([0, 3, 5, 6, 1, 4, 5, 14, 1, 3, 5, 6, 1, 4, 5], [14], { ...asked, turns: ["Hi", "ok", "Hi"] });
    told([0, 3, 5, 8, 9, 10, 11, 1, 4, 5], [14], { ...asked, turns: ["</s>"] }); // typed, not meant
  });

  it("is told without the half of a character at its end, and no other way", () => {
    told(prompt, [14, 12], asked);
    told(prompt, [14, 12], { ...asked, text: "ok\ufffd" });
    told(prompt, [14, 12, 13], { ...asked, text: "oké" });
    expect(() => told(prompt, [12, 14], asked)).toThrowError(MitaiError);
  });

  it.each<[string, readonly number[], readonly number[], Conversation]>([
    ["another question", [0, 3, 5, 7, 1, 4, 5], [14], asked],
    ["one without its end", [0, 3, 5, 6], [14], asked],
    ["nothing", [], [14], asked],
    ["what nobody said before", [4, 5, ...prompt], [14], asked],
    ["what nobody said behind", [...prompt, 14], [14], asked],
    ["a token that nobody knows", [...prompt, 99], [14], asked],
    ["a special token where one was typed", [0, 3, 5, 1, 1, 4, 5], [14], { ...asked, turns: ["</s>"] }],
    ["a typed mark where a special token is", [0, 3, 5, 6, 8, 9, 10, 11, 4, 5], [14], asked],
    ["turns that ran together", [0, 3, 5, 6, 1, 4, 5, 14, 6, 1, 4, 5], [14], { ...asked, turns: ["Hi", "ok", "Hi"] }],
    ["the longer of two special tokens", [0, 3, 5, 6, 2, 4, 5], [14], asked],
    ["another answer", prompt, [14, 14], asked],
    ["no answer", prompt, [], asked],
    ["an answer with a token that nobody knows", prompt, [14, 99], asked],
  ])("is not told by %s", (_, prompt, answer, conversation) => {
    expect(() => told(prompt, answer, conversation)).toThrowError(/not the service that is known/);
  });

  it("has the longest special token where several begin, as tokenizers find them", () => {
    expect(tokenizer.split("</s>x</s>.")).toEqual([
      { kind: "text", text: "" },
      { kind: "special", text: "</s>x" },
      { kind: "text", text: "" },
      { kind: "special", text: "</s>" },
      { kind: "text", text: "." },
    ]);
  });
});
