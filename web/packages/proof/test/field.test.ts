import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  add,
  bits,
  elements,
  encodedAt,
  equal,
  equality,
  evaluate,
  following,
  generator,
  isCanonical,
  K,
  multiply,
  multiplyK,
  ONE,
  P,
  power,
  signed,
  subtract,
  sum,
  totalAt,
  type Words,
  words,
  ZERO,
} from "../src/field.ts";

const EDGES = [0n, 1n, 2n, 0xffff_ffffn, 0x1_0000_0000n, 0xffff_fffe_ffff_ffffn, P - 2n ** 32n, P - 2n, P - 1n];
const part = fc.oneof(
  fc.constantFrom(...EDGES),
  fc.bigInt(0n, P - 1n),
  fc.tuple(fc.constantFrom(...EDGES), fc.bigInt(0n, 9n)).map(([edge, more]) => (edge + more) % P),
);
const element = fc.tuple(part, part).map(([a, b]) => new K(a, b));

const one = (number: bigint) => words([new K(number, 0n)]).subarray(0, 2) as Words;
const back = (array: Words) => new BigUint64Array(array.buffer)[0];

describe("one element of F", () => {
  test.each([
    ["adds", add, (x: bigint, y: bigint) => x + y],
    ["subtracts", subtract, (x: bigint, y: bigint) => x - y + P],
    ["multiplies", multiply, (x: bigint, y: bigint) => x * y],
  ] as const)("%s", (_, ours, exact) => {
    const out = new Uint32Array(2);
    const check = (x: bigint, y: bigint) => {
      ours(out, 0, one(x), 0, one(y), 0);
      expect(back(out)).toBe(exact(x, y) % P);
    };
    for (const x of EDGES) for (const y of EDGES) check(x, y);
    fc.assert(fc.property(part, part, check), { numRuns: 2000 });
  });

  test("is below p", () => {
    fc.assert(fc.property(part, (x) => isCanonical(one(x))));
    for (const x of [P, P + 1n, 2n ** 64n - 1n]) expect(isCanonical(one(x))).toBe(false);
  });

  test("stands for an integer of 62 bits", () => {
    const integer = fc.bigInt(-(2n ** 62n), 2n ** 62n);
    fc.assert(
      fc.property(integer, (x) => {
        expect(back(signed(BigInt64Array.of(x)))).toBe(((x % P) + P) % P);
      }),
    );
  });
});

describe("K", () => {
  test("is a field with X² = 7", () => {
    expect(new K(0n, 1n).times(new K(0n, 1n)).equals(K.of(7))).toBe(true);
    expect(power(7n, (P - 1n) / 2n)).toBe(P - 1n); // no square
    fc.assert(
      fc.property(element, element, element, (x, y, z) => {
        expect(x.times(y.plus(z))).toEqual(x.times(y).plus(x.times(z)));
        expect(x.minus(y).plus(y)).toEqual(x);
        expect(sum([x, y, z])).toEqual(x.plus(y).plus(z));
      }),
    );
  });

  test("is multiplied in arrays as one by one, in place too", () => {
    fc.assert(
      fc.property(element, element, (x, y) => {
        const [out, other] = [words([x]), words([y])];
        multiplyK(out, 0, out, 0, other, 0);
        expect(elements(out)).toEqual([x.times(y)]);
      }),
    );
  });
});

const point = (count: number) => fc.array(element, { minLength: count, maxLength: count });

describe("arrays", () => {
  test("extend what they hold, from any place in a larger one", () => {
    const tables = fc.nat(4).chain((n) => fc.tuple(point(2 ** n), point(n), fc.nat(3)));
    fc.assert(
      fc.property(tables, ([table, at, before]) => {
        const weights = table.map((_, index) => equal(bits(index, at.length), at));
        const expected = sum(table.map((value, index) => value.times(weights[index] ?? ZERO)));
        const [whole, firsts] = [[...table.slice(0, before), ...table], table.map(({ a }) => new K(a, 0n))];
        const shift = Math.min(before, table.length);
        expect(evaluate(words(whole), at, 4, 4 * shift)).toEqual(expected);
        const inF = new Uint32Array(BigUint64Array.from(firsts, ({ a }) => a).buffer);
        expect(evaluate(inF, at, 2)).toEqual(sum(firsts.map((value, index) => value.times(weights[index] ?? ZERO))));
        expect(elements(equality(at))).toEqual(weights);
      }),
    );
  });

  test("are added up by place, and from behind", () => {
    fc.assert(
      fc.property(point(6), fc.array(fc.nat(3), { minLength: 6, maxLength: 6 }), (all, places) => {
        const totals = [0, 1, 2, 3].map((place) => sum(all.filter((_, at) => places[at] === place)));
        expect(elements(totalAt(places, words(all), 4))).toEqual(totals);
        expect(elements(following(words(all)))).toEqual(all.map((_, at) => sum(all.slice(at + 1))));
      }),
    );
  });

  test.each([
    [0, 1],
    [1, 2],
    [3, 8],
    [3, 5],
    [3, 21],
    [5, 32],
  ])("are encoded as polynomials, for a size of 2^%i %i of them", (log, count) => {
    const size = 2 ** log;
    const [coefficients] = fc.sample(point(count), 1) as [K[]];
    const places = [...Array(4 * size).keys()];
    const reversed = (k: number) => places.slice(0, log).reduce((out, at) => 2 * out + ((k >> at) & 1), 0);
    const expected = places.map((place) => {
      const [s, k] = [Math.floor(place / size), place % size];
      const x = K.of(power(generator(log + 2), BigInt(s)) * power(generator(log), BigInt(reversed(k))));
      return coefficients.reduceRight((out, one) => out.times(x).plus(one), ZERO);
    });
    expect(elements(encodedAt(words(coefficients), places, size))).toEqual(expected);
    const some = places.filter((place) => place % 7 === 3);
    expect(elements(encodedAt(words(coefficients), some, size))).toEqual(some.map((place) => expected[place]));
    expect(expected[0]).toEqual(sum(coefficients.map((one) => one.times(ONE))));
  });
});
