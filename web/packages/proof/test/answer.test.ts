/** One small answer: it holds, and nothing else does. Refusals are those of the Python package, step by step. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concat, fromHex, hex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Answer, checkAnswer, ModelCard } from "../src/index.ts";
import { type Packable, pack } from "../src/msgpack.ts";
import { noise } from "../src/sampling.ts";
import { FILE, NOISE, python, VERDICTS, withoutPython } from "./fixtures.ts";

const { identity } = VERDICTS;

function verdict(file: Uint8Array, model = identity): [code: string, step: string] {
  try {
    checkAnswer(Answer.parse(file), model);
  } catch (error) {
    if (error instanceof MitaiError) return [error.code, error.step];
    throw error;
  }
  return ["", ""];
}

describe("an answer with its proof", () => {
  test("holds, with as much security as Python says", () => {
    const parts: number[] = [];
    const checked = checkAnswer(Answer.parse(FILE), identity, { heard: (part) => parts.push(part) });
    expect(checked).toMatchObject({ model: identity, prompt: 3, answer: 2 });
    expect(checked.bits).toBeCloseTo(VERDICTS.bits, 9);
    expect(parts).toEqual([...parts].sort((a, b) => a - b));
    expect(parts.at(-1)).toBe(1);
  });

  test("is of one model only", () => {
    expect(verdict(FILE, "0".repeat(64))).toEqual(["proof.model-differs", "model"]);
  });

  test("with other bytes is refused as Python refuses it", () => {
    const theirs = VERDICTS.runs.map(([at, drop, put, ...refusal]) => [at, drop, put, ...refusal]);
    const ours = VERDICTS.runs.map(([at, drop, put]) => {
      return [at, drop, put, ...verdict(concat(FILE.subarray(0, at), fromHex(put), FILE.subarray(at + drop)))];
    });
    expect(ours).toEqual(theirs);
    expect(new Set(theirs.map(([, , , code]) => code)).size).toBeGreaterThan(4);
    expect(theirs.filter(([, , , code]) => code === "")).toEqual([]);
  }, 60_000);

  test("with any one bit flipped is refused", { timeout: 600_000 }, async () => {
    const flip = fc.tuple(fc.nat(FILE.length - 1), fc.nat(7));
    const refused = fc.asyncProperty(flip, async ([at, bit]) => {
      await new Promise(setImmediate); // vitest wants to hear something now and then
      const file = FILE.slice();
      file[at] = (file[at] ?? 0) ^ (1 << bit);
      return verdict(file)[0] !== "";
    });
    await fc.assert(refused, { numRuns: Number(process.env.MITAI_RUNS ?? 12) });
  });

  test("that is cut or longer is refused", () => {
    fc.assert(
      fc.property(fc.nat(FILE.length - 1), (end) => verdict(FILE.slice(0, end))[0] === "proof.answer-malformed"),
      { numRuns: 20 },
    );
    expect(verdict(concat(FILE, Uint8Array.of(0)))[0]).toBe("proof.answer-malformed");
  });

  test("does not hold for other tokens", () => {
    const parsed = Answer.parse(FILE);
    const { prompt, answer } = parsed;
    const said = answer.map((token) => (token + 1) % 40);
    for (const [ask, say] of [
      [prompt, said],
      [[...prompt].reverse(), answer],
      [prompt, answer.slice(0, 1)],
      [[...prompt, answer[0] ?? 0], answer.slice(1)],
    ] as const) {
      const forged = { ...parsed, prompt: ask, answer: say } as Answer;
      expect(() => checkAnswer(forged, identity)).toThrow(MitaiError);
    }
  });

  test("has no tokens beyond the model's vocabulary", () => {
    const forged = { ...Answer.parse(FILE), answer: [3, 40] } as Answer;
    expect(() => checkAnswer(forged, identity)).toThrowError(/vocabulary/);
  });
});

test("a proof that goes on is refused", () => {
  const parsed = Answer.parse(FILE);
  const forged = { ...parsed, proof: concat(parsed.proof, new Uint8Array(8)) } as Answer;
  expect(() => checkAnswer(forged, identity)).toThrowError(/8 bytes follow/);
});

test("a card of proofs that hide weights says how many there are", () => {
  const members = JSON.parse(new TextDecoder().decode(Answer.parse(FILE).card));
  const written = (all: object) => utf8(JSON.stringify(Object.fromEntries(Object.entries(all).sort())));
  expect(ModelCard.parse(written({ ...members, uses: 64 })).uses).toBe(64);
  expect(ModelCard.parse(written(members)).uses).toBe(0);
  for (const uses of [0, 4097, 1.5, null]) {
    expect(() => ModelCard.parse(written({ ...members, uses }))).toThrowError(/no card/);
  }
});

test("any bytes are no card, or refused with a MitaiError", () => {
  const card = Answer.parse(FILE).card;
  const edited = fc
    .tuple(fc.nat(card.length), fc.nat(3), fc.uint8Array({ maxLength: 4 }))
    .map(([at, drop, put]) => concat(card.subarray(0, at), Uint8Array.from(put), card.subarray(at + drop)));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 60 }), edited), (data) => {
      try {
        const parsed = ModelCard.parse(Uint8Array.from(data));
        if (parsed.identity !== identity) parsed.program(2, 2);
      } catch (error) {
        expect(error).toBeInstanceOf(MitaiError);
      }
    }),
    { numRuns: 300 },
  );
});

/** A file, in its one encoding or in another, whole or with some bytes changed. */
const files = fc
  .record({
    card: fc.constantFrom(Answer.parse(FILE).card, utf8("{}")),
    tokens: fc.array(fc.oneof(fc.nat(300), fc.nat(2 ** 20 + 1)), { maxLength: 20 }),
    proof: fc.uint8Array({ maxLength: 5 }),
    temperature: fc.option(fc.nat(2001)),
    seed: fc.constantFrom(31, 32, 32, 32),
    edit: fc.option(fc.tuple(fc.nat(1200), fc.nat(2), fc.uint8Array({ maxLength: 3 }))),
  })
  .map(({ card, tokens, proof, temperature, seed, edit }) => {
    const all: [string, Packable][] = [
      ["v", "mitai proof answer v1"],
      ["card", card],
      ["prompt", [1, ...tokens]],
      ["answer", tokens],
      ["proof", Uint8Array.from(proof)],
    ];
    const nonce = new Uint8Array(32);
    const how = new Map<string, Packable>(Object.entries({ temperature, seed: new Uint8Array(seed), nonce }) as never);
    const whole = pack(new Map(temperature === null ? all : [...all, ["sampling", how]]));
    const [at, drop, put] = edit ?? [0, 0, new Uint8Array()];
    return concat(whole.subarray(0, at), Uint8Array.from(put), whole.subarray(at + drop));
  });

test.skipIf(withoutPython)("any file is the same in both packages (skipped without Python)", () => {
  const cases = fc.sample(files, { numRuns: Number(process.env.MITAI_RUNS ?? 300) });
  const theirs = python(["files"], cases.map(hex));
  expect(theirs.length).toBe(cases.length);
  for (const [at, data] of cases.entries()) {
    expect([hex(data), ...parsed(data)]).toEqual([hex(data), ...JSON.parse(theirs[at] ?? "")]);
  }
});

function parsed(data: Uint8Array): (number | string)[] {
  try {
    const { card, prompt, answer, proof } = Answer.parse(data);
    return [...prompt, ...answer, proof.length, ModelCard.parse(card).identity];
  } catch (error) {
    if (error instanceof MitaiError) return [error.code];
    throw error;
  }
}

describe("an answer that was drawn", () => {
  const sampling = { temperature: 900, seed: new Uint8Array(32).fill(115), nonce: Uint8Array.from(Array(32).keys()) };

  test("has the noise that Python computes", () => {
    const { shape, numbers } = noise(sampling, NOISE.model, NOISE.prompt, 3, 40);
    expect(shape).toEqual([3, 40]);
    expect(Array.from(numbers, Number)).toEqual(NOISE.noise.flat());
    expect(() => noise(sampling, NOISE.model, NOISE.prompt, 2 ** 10, 2 ** 15 + 1)).toThrow(MitaiError);
  });

  test("counts only for whom it was agreed with, and one that was not drawn does not", () => {
    const drawn = { ...Answer.parse(FILE), sampling } as Answer;
    for (const agreed of [undefined, { temperature: 901 }, { temperature: 900, nonce: "00".repeat(32) }]) {
      expect(() => checkAnswer(drawn, identity, { agreed })).toThrowError(/was drawn/);
    }
    const agreed = { temperature: 900, nonce: hex(sampling.nonce), commitment: "11".repeat(32) };
    expect(() => checkAnswer(drawn, identity, { agreed })).toThrowError(/another commitment/);
    expect(() => checkAnswer(Answer.parse(FILE), identity, { agreed })).toThrowError(/was not drawn/);
  });
});

test.skipIf(withoutPython)(
  "answers of other models hold, drawn ones too (skipped without Python)",
  { timeout: 120_000 },
  () => {
    const folder = mkdtempSync(join(tmpdir(), "mitai-proof-"));
    try {
      const all = python(["answers", folder]).map((line) => JSON.parse(line));
      expect(all.map(({ agreed }) => agreed !== null)).toEqual([false, true, false, true]);
      for (const { file, identity: model, bits, agreed: how } of all) {
        const answer = Answer.parse(new Uint8Array(readFileSync(join(folder, file))));
        const agreed = how && { temperature: how[0], nonce: how[1], commitment: how[2] };
        expect(checkAnswer(answer, model, { agreed }).bits).toBeCloseTo(bits, 9);
        const proof = answer.proof.slice();
        proof[proof.length >> 1] = (proof[proof.length >> 1] ?? 0) ^ 1;
        expect(() => checkAnswer({ ...answer, proof } as Answer, model, { agreed })).toThrow(MitaiError);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
