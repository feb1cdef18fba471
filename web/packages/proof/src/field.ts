/**
 * The field F of integers modulo p = 2^64 − 2^32 + 1 and its extension K = F[X] / (X² − 7).
 *
 * Spec: docs/spec/proof.md, "Field". Single elements of K are `K`, made of `bigint`; there are some ten thousand of them
 * in a proof. Arrays are `Words`, in which nothing is a `bigint`: two words of 32 bits for an element of F, the lower
 * one first, and four for one of K. So they are the bytes of the wire, on every machine that runs a browser.
 *
 * Invariants:
 * - Every element is canonical: below p. Functions expect that and return it.
 * - Multilinear extensions take the first coordinate for the most significant bit of an index.
 *
 * Example: `new K(0n, 1n).times(new K(0n, 1n))` is `new K(7n, 0n)`.
 */

export type Words = Uint32Array<ArrayBuffer>;
export type Point = readonly K[];

/** A number to compute with: one that the verifier sees, which is a `K`, or one that is hidden from it (`masked.ts`). */
export interface Value {
  plus(other: Value): Value;
  minus(other: Value): Value;
  times(other: Value): Value;
}

export const P = 0xffff_ffff_0000_0001n;
const NON_RESIDUE = 7n; // generates F*, and so is no square
const WORD = 2 ** 32;
const TOP = 0xffff_ffff;

if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1)
  throw new Error("a machine whose words are not little-endian");

/** An element a + bX. */
export class K implements Value {
  constructor(
    readonly a: bigint,
    readonly b: bigint,
  ) {}

  /** An integer of any size and sign. */
  static of(number: bigint | number): K {
    return new K(residue(BigInt(number)), 0n);
  }

  plus(other: K): K;
  plus(other: Value): Value;
  plus(other: Value): Value {
    if (!(other instanceof K)) return other.plus(this);
    return new K((this.a + other.a) % P, (this.b + other.b) % P);
  }

  minus(other: K): K;
  minus(other: Value): Value;
  minus(other: Value): Value {
    if (!(other instanceof K)) return other.times(MINUS_ONE).plus(this);
    return new K((this.a + P - other.a) % P, (this.b + P - other.b) % P);
  }

  times(other: K): K;
  times(other: Value): Value;
  times(other: Value): Value {
    if (!(other instanceof K)) return other.times(this);
    const { a, b } = this;
    return new K((a * other.a + NON_RESIDUE * b * other.b) % P, (a * other.b + b * other.a) % P);
  }

  equals(other: K): boolean {
    return this.a === other.a && this.b === other.b;
  }
}

export const ZERO = K.of(0);
export const ONE = K.of(1);
export const MINUS_ONE = K.of(-1);
export const HALF = K.of((P + 1n) / 2n);

/** A number that is not hidden; where one is, the program is wrong. */
export function seen(value: Value): K {
  if (value instanceof K) return value;
  throw new TypeError("a hidden number has no value");
}

/** The residue of an integer. */
function residue(number: bigint): bigint {
  const rest = number % P;
  return rest < 0n ? rest + P : rest;
}

export function power(base: bigint, exponent: bigint): bigint {
  let [out, factor] = [1n, base];
  for (let left = exponent; left > 0n; left >>= 1n) {
    if (left & 1n) out = (out * factor) % P;
    factor = (factor * factor) % P;
  }
  return out;
}

/** The element that generates the group of order 2^log. */
export function generator(log: number): bigint {
  return power(NON_RESIDUE, (P - 1n) >> BigInt(log));
}

export function sum(all: Point): K;
export function sum(all: readonly Value[]): Value;
export function sum(all: readonly Value[]): Value {
  return all.reduce((out, one) => out.plus(one), ZERO);
}

/** eq(x, y) of two points: Π (1 − x_i − y_i + 2 x_i y_i). */
export function equal(x: Point, y: Point): K {
  if (x.length !== y.length) throw new RangeError("points of different lengths");
  let out = ONE;
  x.forEach((one, at) => {
    const other = y[at] as K;
    const product = one.times(other);
    out = out.times(ONE.plus(product).plus(product).minus(one).minus(other));
  });
  return out;
}

/** A number's lowest bits as coordinates, the most significant first. */
export function bits(number: number, count: number): K[] {
  return Array.from({ length: count }, (_, at) => (Math.floor(number / 2 ** (count - 1 - at)) % 2 ? ONE : ZERO));
}

/** Single elements as an array of K. */
export function words(elements: Point): Words {
  return new Uint32Array(BigUint64Array.from(elements.flatMap(({ a, b }) => [a, b])).buffer);
}

/** An array of K as single elements. */
export function elements(array: Words): K[] {
  const parts = new BigUint64Array(array.buffer, array.byteOffset, array.length / 2);
  return Array.from({ length: parts.length / 2 }, (_, at) => new K(parts[2 * at] ?? 0n, parts[2 * at + 1] ?? 0n));
}

/** Whether every element of F is below p: no higher word of ones, but with a lower one of zeros. */
export function isCanonical(array: Words): boolean {
  for (let at = 0; at < array.length; at += 2) {
    if (array[at + 1] === TOP && array[at] !== 0) return false;
  }
  return true;
}

// --- one element of F within arrays: `at` counts words ---

/** out[o] = x[i] + y[j] */
export function add(out: Words, o: number, x: Words, i: number, y: Words, j: number): void {
  settle(out, o, (x[i] as number) + (y[j] as number), (x[i + 1] as number) + (y[j + 1] as number));
}

/** out[o] = x[i] − y[j] */
export function subtract(out: Words, o: number, x: Words, i: number, y: Words, j: number): void {
  settle(out, o, (x[i] as number) - (y[j] as number), (x[i + 1] as number) - (y[j + 1] as number));
}

/** out[o] = x[i] · y[j] */
export function multiply(out: Words, o: number, x: Words, i: number, y: Words, j: number): void {
  const x0 = x[i] as number;
  const x1 = x[i + 1] as number;
  const y0 = y[j] as number;
  const y1 = y[j + 1] as number;
  const low0 = Math.imul(x0, y0) >>> 0;
  const one0 = Math.imul(x0, y1) >>> 0;
  const other0 = Math.imul(x1, y0) >>> 0;
  const high0 = Math.imul(x1, y1) >>> 0;
  // words of 2^32: w1 may have carries, which go on to w2 and w3
  const w1 = above(x0, y0, low0) + one0 + other0;
  const carry1 = w1 >= 2 * WORD ? 2 : w1 >= WORD ? 1 : 0;
  const w2 = above(x0, y1, one0) + above(x1, y0, other0) + high0 + carry1;
  const carry2 = w2 >= 2 * WORD ? 2 : w2 >= WORD ? 1 : 0;
  const w3 = above(x1, y1, high0) + carry2;
  // modulo p, 2^64 is 2^32 − 1 and 2^96 is −1
  const rest = w2 - carry2 * WORD;
  settle(out, o, low0 - rest - w3, w1 - carry1 * WORD + rest);
}

/**
 * The upper word of x · y, whose lower one is known: the product as a double is wrong by 2^10 at most, and less the lower
 * word it is 2^32 times the answer, by 2^11 at most.
 */
function above(x: number, y: number, low: number): number {
  return ((x * y - low) / WORD + 0.5) >>> 0;
}

/** out[o] = (low + 2^32 · high) mod p, for −2^33 < low < 2^33 and −2^32 < high < 2^33 − 1. */
function settle(out: Words, o: number, low: number, high: number): void {
  if (high >= WORD) {
    high -= WORD - 1; // 2^64 is 2^32 − 1
    low -= 1;
  }
  if (low < 0) {
    low += WORD;
    high -= 1;
    if (low < 0) {
      low += WORD;
      high -= 1;
    }
  } else if (low >= WORD) {
    low -= WORD;
    high += 1;
  }
  if (high < 0) {
    high += TOP; // p is (2^32 − 1) · 2^32 + 1
    low += 1;
  } else if (high > TOP) {
    high -= TOP;
    low -= 1;
  }
  if (low === WORD) {
    low = 0;
    high += 1;
  } else if (low < 0) {
    low += WORD;
    high -= 1;
  }
  if (high === TOP && low > 0) {
    high = 0;
    low -= 1;
  }
  out[o] = low;
  out[o + 1] = high;
}

const SEVEN = Uint32Array.of(7, 0);
const scratch = new Uint32Array(8);

/** out[o] = x[i] · y[j] of K; `out` may be x or y. */
export function multiplyK(out: Words, o: number, x: Words, i: number, y: Words, j: number): void {
  add(scratch, 0, x, i, x, i + 2);
  add(scratch, 2, y, j, y, j + 2);
  multiply(scratch, 0, scratch, 0, scratch, 2); // (a + b)(c + d)
  multiply(scratch, 4, x, i, y, j);
  multiply(scratch, 6, x, i + 2, y, j + 2);
  subtract(scratch, 0, scratch, 0, scratch, 4);
  subtract(out, o + 2, scratch, 0, scratch, 6);
  multiply(scratch, 6, scratch, 6, SEVEN, 0);
  add(out, o, scratch, 4, scratch, 6);
}

const term = new Uint32Array(4);

/** out[o] += x[i] · y[j], for x of K and y of F or of K. */
function accumulate(out: Words, o: number, x: Words, i: number, y: Words, j: number, width: number): void {
  if (width === 4) multiplyK(term, 0, x, i, y, j);
  else {
    multiply(term, 0, x, i, y, j);
    multiply(term, 2, x, i + 2, y, j);
  }
  add(out, o, out, o, term, 0);
  add(out, o + 2, out, o + 2, term, 2);
}

// --- arrays ---

/** The residues of integers −2^62 … 2^62, which stand in 64 bits each; they take the integers' place. */
export function signed(integers: BigInt64Array<ArrayBuffer>): Words {
  const out = new Uint32Array(integers.buffer, integers.byteOffset, 2 * integers.length);
  for (let at = 0; at < out.length; at += 2) {
    // of negative ones, the bits are those of 2^64 + x
    const high = out[at + 1] as number;
    settle(out, at, out[at] as number, high >= 2 ** 31 ? high - WORD : high);
  }
  return out;
}

/** eq(point, x) for all x, times a factor: 2^n elements of K. */
export function equality(point: Point, by: K = ONE): Words {
  const out = new Uint32Array(4 * 2 ** point.length);
  out.set(words([by]));
  let size = 4;
  for (const coordinate of [...point].reverse()) {
    const factor = words([coordinate]);
    for (let at = 0; at < size; at += 4) {
      multiplyK(out, size + at, out, at, factor, 0);
      subtract(out, at, out, at, out, size + at);
      subtract(out, at + 2, out, at + 2, out, size + at + 2);
    }
    size *= 2;
  }
  return out;
}

/** Σ weights_i · array_i, for weights of K and as many elements of F (`width` 2) or of K (4), from word `from` on. */
export function weighted(weights: Words, array: Words, width: 2 | 4, from = 0): Words {
  const out = new Uint32Array(4);
  for (let i = 0, j = from; i < weights.length; i += 4, j += width) accumulate(out, 0, weights, i, array, j, width);
  return out;
}

/** The multilinear extension at a point, of 2^n elements of F (`width` 2) or of K (4), from word `from` on. */
export function evaluate(table: Words, point: Point, width: 2 | 4, from = 0): K {
  const half = point.length >> 1; // the last coordinates first, for all of the first ones: less weights
  const inner = equality(point.slice(half));
  const rows = new Uint32Array(4 * 2 ** half);
  const row = (inner.length / 4) * width;
  for (let at = 0; at < 2 ** half; at++) rows.set(weighted(inner, table, width, from + at * row), 4 * at);
  return elements(weighted(equality(point.slice(0, half)), rows, 4))[0] as K;
}

/** For each place below `size` the sum of the elements of K that go there. */
export function totalAt(places: Iterable<number>, array: Words, size: number): Words {
  const out = new Uint32Array(4 * size);
  let from = 0;
  for (const place of places) {
    add(out, 4 * place, out, 4 * place, array, from);
    add(out, 4 * place + 2, out, 4 * place + 2, array, from + 2);
    from += 4;
  }
  return out;
}

/** For each place of an array of K the sum of all that follow it. */
export function following(array: Words): Words {
  const out = new Uint32Array(array.length);
  for (let at = array.length - 8; at >= 0; at -= 4) {
    add(out, at, out, at + 4, array, at + 4);
    add(out, at + 2, out, at + 6, array, at + 6);
  }
  return out;
}

/** 1, base, base² …: so many powers in F. */
function powers(base: bigint, count: number): Words {
  const out = new Uint32Array(2 * count);
  const factor = words([K.of(base)]);
  out[0] = 1;
  for (let at = 2; at < out.length; at += 2) multiply(out, at, out, at - 2, factor, 0);
  return out;
}

/** The log of a power of two below 2^31. */
function logOf(size: number): number {
  return 31 - Math.clz32(size);
}

/**
 * Evaluate a polynomial over K at some places of a group, in place; place k is g to the power of k with its bits reversed.
 *
 * A layer cuts blocks in halves that need nothing of each other: those without a place are left as they are.
 */
function transform(x: Words, places: readonly number[]): void {
  const size = x.length / 4;
  const group = powers(generator(logOf(size)), Math.max(size / 2, 1));
  for (let half = size / 2; half >= 1; half /= 2) {
    const step = size / half; // words between the twiddles of this layer
    for (const block of new Set(places.map((place) => Math.floor(place / (2 * half))))) {
      const start = block * 2 * half;
      for (let at = 0; at < half; at++) {
        for (let part = 0; part < 4; part += 2) {
          const upper = 4 * (start + at) + part;
          const lower = upper + 4 * half;
          subtract(term, 0, x, upper, x, lower);
          add(x, upper, x, upper, x, lower);
          multiply(x, lower, term, 0, group, at * step);
        }
      }
    }
  }
}

/**
 * Places of the Reed–Solomon code of 4 · size places of an array of K, in the order of leaves (docs/spec/proof.md).
 *
 * The size is the number of coefficients (rate 1/4) unless it is said: a power of two, for any number of them.
 */
export function encodedAt(x: Words, places: readonly number[], size = x.length / 4): Words {
  const shift = generator(logOf(size) + 2);
  const out = new Uint32Array(4 * places.length);
  for (let s = 0; s < 4; s++) {
    const coset = new Uint32Array(4 * size);
    const factors = powers(power(shift, BigInt(s)), x.length / 4);
    for (let at = 0; at < x.length; at += 2) {
      const to = at % coset.length; // X^size is the same at all places of a coset
      multiply(term, 0, x, at, factors, 2 * (at >> 2));
      add(coset, to, coset, to, term, 0);
    }
    const own = [...places.keys()].filter((at) => Math.floor((places[at] as number) / size) === s);
    const within = own.map((at) => (places[at] as number) % size);
    transform(coset, within);
    within.forEach((place, index) => {
      out.set(coset.subarray(4 * place, 4 * place + 4), 4 * (own[index] as number));
    });
  }
  return out;
}
