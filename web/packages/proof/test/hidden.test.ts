/** A small answer whose proof hides the weights: it holds, and nothing else does. Refusals are those of Python. */
import { concat, fromHex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { equality, K, ONE, P, sum, type Value } from "../src/field.ts";
import { HidingShape } from "../src/hiding.ts";
import { Answer, checkAnswer, ModelCard } from "../src/index.ts";
import { MaskedVerifier } from "../src/masked.ts";
import { Verifier } from "../src/transcript.ts";
import { FILE, HIDDEN, HIDDEN_FILE } from "./fixtures.ts";

const ANSWER = Answer.parse(HIDDEN_FILE);
const { identity } = HIDDEN;

function verdict(proof: Uint8Array, answer = ANSWER, heard?: (part: number) => void): [code: string, step: string] {
  try {
    checkAnswer({ ...answer, proof } as Answer, ModelCard.parse(answer.card).identity, { heard });
  } catch (error) {
    if (error instanceof MitaiError) return [error.code, error.step];
    throw error;
  }
  return ["", ""];
}

/** The right proof, but for one bit. */
function flipped(at: number, bit = 0): Uint8Array {
  const proof = ANSWER.proof.slice();
  proof[at] = (proof[at] ?? 0) ^ (1 << bit);
  return proof;
}

afterEach(() => vi.restoreAllMocks());

describe("an answer with a proof that hides", () => {
  test("holds, with as much security as Python says", () => {
    expect(ModelCard.parse(ANSWER.card).uses).toBe(2);
    const parts: number[] = [];
    const checked = checkAnswer(ANSWER, identity, { heard: (part) => parts.push(part) });
    expect(checked).toMatchObject({ model: identity, prompt: 3, answer: 2 });
    expect(checked.bits).toBeCloseTo(HIDDEN.bits, 9);
    expect(parts).toEqual([...parts].sort((a, b) => a - b));
    expect(parts.at(-1)).toBe(1);
  });

  test("with any kind of message damaged is refused as Python refuses it", { timeout: 120_000 }, async () => {
    for (const [message, at, drop, put, ...theirs] of HIDDEN.runs) {
      await new Promise(setImmediate); // vitest wants to hear something now and then
      const proof = concat(ANSWER.proof.subarray(0, at), fromHex(put), ANSWER.proof.subarray(at + drop));
      expect([message, at, ...verdict(proof)]).toEqual([message, at, ...theirs]);
    }
    expect(new Set(HIDDEN.runs.map(([message]) => message)).size).toBeGreaterThan(16);
    const codes = new Set(HIDDEN.runs.map(([, , , , code]) => code));
    expect([...codes].sort()).toEqual(["proof.hidden-refuted", "proof.malformed", "proof.path-refuted"]);
  });

  test("with any one bit flipped is refused", { timeout: 600_000 }, async () => {
    const flip = fc.tuple(fc.nat(ANSWER.proof.length - 1), fc.nat(7));
    const refused = fc.asyncProperty(flip, async ([at, bit]) => {
      await new Promise(setImmediate);
      return verdict(flipped(at, bit))[0] !== "";
    });
    await fc.assert(refused, { numRuns: Number(process.env.MITAI_RUNS ?? 8) });
  });

  test("says nothing that its columns do not say, had its prover known where they are", () => {
    const heard = vi.spyOn(Verifier.prototype, "receiveBytes");
    const drawn = vi.spyOn(Verifier.prototype, "places");
    checkAnswer(ANSWER, identity);
    const places = drawn.mock.results.map(({ value }) => value);
    let end = 0;
    const messages = heard.mock.calls.map(([label, size]) => {
      end += size;
      return { label, end };
    });
    const said = messages.filter(({ label }) => label === "combination" || label === "polynomial");
    expect(said.map(({ label }) => label)).toEqual(["combination", "polynomial", "combination", "combination"]);
    for (const { end } of said) {
      let next = 0;
      drawn.mockImplementation(() => places[next++]);
      expect(verdict(flipped(end - 8))).toEqual(["proof.column-refuted", "hidden"]);
    }
    let next = 0;
    drawn.mockImplementation(() => places[next++]);
    expect(verdict(ANSWER.proof)).toEqual(["", ""]);
  });

  test("that is twice as long is refused, and no more of it is read", () => {
    const parts: number[] = [];
    const twice = concat(ANSWER.proof, ANSWER.proof);
    expect(verdict(twice, ANSWER, (part) => parts.push(part))).toEqual(["proof.malformed", "end"]);
    expect(Math.max(...parts)).toBe(0.5);
  });

  test("is of one mode, and of so many uses", () => {
    const succinct = Answer.parse(FILE);
    const card = JSON.parse(new TextDecoder().decode(ANSWER.card));
    const others = [1, 3, undefined].map((uses) => {
      const { uses: _, ...members } = card;
      const all = uses ? { ...members, uses } : members;
      return { ...ANSWER, card: utf8(JSON.stringify(Object.fromEntries(Object.entries(all).sort()))) } as Answer;
    });
    const ours = [verdict(succinct.proof), verdict(ANSWER.proof, succinct)];
    expect([...ours, ...others.map((other) => verdict(ANSWER.proof, other))]).toEqual(HIDDEN.confused);
  });
});

test("arrays have the shapes that Python gives them", () => {
  expect(HIDDEN.shapes.length).toBeGreaterThan(100);
  for (const [log, uses, ...shape] of HIDDEN.shapes) {
    const { positions, rows, margin, leaves } = HidingShape.of(log, uses);
    expect([log, uses, positions, rows, margin, leaves]).toEqual([log, uses, ...shape]);
  }
  for (const [log, uses] of [
    [35, 1],
    [0, 0],
    [0, 4097],
  ] as const) {
    expect(() => HidingShape.of(log, uses)).toThrowError(/can be hidden/);
  }
});

describe("hidden numbers", () => {
  const part = fc.bigInt({ min: 0n, max: P - 1n });
  const element = fc.tuple(part, part).map(([a, b]) => new K(a, b));
  const equations = () => new MaskedVerifier(new Uint8Array(40), 1).equations;

  test("are computed with as those that are seen, and leave one equation in their pads", () => {
    const numbers = fc.array(fc.tuple(element, element), { minLength: 2, maxLength: 5 });
    const steps = fc.array(fc.tuple(fc.constantFrom("plus", "minus", "times", "known", "product"), element, fc.nat()), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(numbers, steps, element, element, (messages, program, by, wrong) => {
        const all = equations();
        const known: K[] = messages.map(([number]) => number);
        const hidden: Value[] = messages.map(([number, pad]) => all.message(number.plus(pad)));
        for (const [step, factor, at] of program) {
          const [i, j] = [at % known.length, (at >> 5) % known.length];
          const [m, n] = [at % messages.length, (at >> 5) % messages.length];
          const pairs = [known, hidden].map((own: readonly Value[]): Value => {
            const [one, other] = [own[i] as Value, own[j] as Value];
            if (step === "plus") return one.plus(other).plus(factor);
            if (step === "minus") return one.minus(other);
            if (step === "times") return factor.times(one);
            if (step === "known") return factor.minus(one);
            return (own[m] as Value).times(own[n] as Value);
          });
          known.push(pairs[0] as K);
          hidden.push(pairs[1] as Value);
        }
        const zeros = hidden.map((one, at) => one.minus(known[at] as K));
        const last = hidden.length - 1;
        zeros.push((hidden[last] as Value).minus((known[last] as K).minus(wrong)));
        for (const zero of zeros) all.require(zero as never);
        expect([all.messages, all.zeros]).toEqual([messages.length, zeros.length]);
        const [{ linear, products, factors, constant }, openings] = all.combined(by);
        expect(openings).toEqual([]);
        const pads = messages.map(([, pad]) => pad);
        const side = sum([
          ...linear.map((one, at) => one.times(pads[at] as K)),
          ...products.map(([left, right], at) => {
            return (factors[at] as K).times(pads[left] as K).times(pads[right] as K);
          }),
        ]);
        let power = ONE;
        for (let at = 0; at < last + 1; at++) power = power.times(by);
        expect(side.minus(constant)).toEqual(power.times(wrong));
      }),
    );
  });

  test("are as many as there are: more than a call may have arguments", () => {
    const many = Array.from({ length: 2 ** 18 }, () => ONE);
    expect(() => new Verifier(new Uint8Array()).bindElements("equation", many)).not.toThrow();
  });

  test("have no value, and only messages are multiplied", () => {
    const all = equations();
    const [one, other] = [all.message(ONE), all.message(ONE)];
    expect(() => one.plus(ONE).times(other)).toThrow(TypeError);
    expect(() => new Verifier(new Uint8Array()).requireZero(one, "proof.malformed", "")).toThrow(TypeError);
    expect(() => new Verifier(new Uint8Array()).bindClaim(one, [])).toThrow(TypeError);
    expect(() => equality([one as unknown as K])).toThrow(TypeError);
  });
});
