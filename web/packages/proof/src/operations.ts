/**
 * The operations of integer programs, and what is known of their results without data (docs/spec/proof-programs.md).
 *
 * Nothing may exceed ±2^62, so that nothing wraps, neither in 64 bits nor in the field of the proof. Operations that no
 * program of an answer has are not here (inputs that are secret, arrays after one another).
 */
import { demand, refuse } from "./errors.ts";

export type Shape = readonly number[];

/** An array of integers, in the order of memory of C. */
export interface Ints {
  readonly shape: Shape;
  readonly numbers: BigInt64Array<ArrayBuffer>;
}

const LIMIT = 1n << 62n;
const MAX_SIZE = 2 ** 34;
const MAX_AXES = 6;
const MAX_TABLE = 2 ** 16;

/** Members of each operation, in the order of its encoding. */
export const MEMBERS = {
  input: ["name", "shape", "low", "high", "public"],
  weight: ["name", "shape", "bits"],
  constant: ["shape", "width", "data"],
  matmul: ["a", "b"],
  linear: ["terms", "constant"],
  multiply: ["a", "b"],
  sum: ["a", "axis"],
  rescale: ["a", "shift", "bits"],
  lookup: ["a", "table", "first"],
  divide: ["a", "b", "bits"],
  rsqrt: ["a", "numerator", "bits"],
  gap: ["a", "axis", "shift", "bits"],
  argmax: ["a", "bits"],
  gather: ["a", "indices", "axis"],
  permute: ["a", "axes"],
  reshape: ["a", "shape"],
} as const;

/** Numbers of operations, axes and bits are `number`, whatever is as large as the program's integers `bigint`. */
export type Operation =
  | { op: "input"; name: string; shape: Shape; low: bigint; high: bigint; public: true }
  | { op: "weight"; name: string; shape: Shape; bits: number }
  | Constant
  | { op: "matmul" | "multiply"; a: number; b: number }
  | { op: "linear"; terms: readonly Term[]; constant: bigint }
  | { op: "sum"; a: number; axis: number }
  | { op: "rescale"; a: number; shift: number; bits: number }
  | { op: "lookup"; a: number; table: number; first: bigint }
  | { op: "divide"; a: number; b: number; bits: number }
  | { op: "rsqrt"; a: number; numerator: bigint; bits: number }
  | { op: "gap"; a: number; axis: number; shift: number; bits: number }
  | { op: "argmax"; a: number; bits: number }
  | { op: "gather"; a: number; indices: number; axis: number }
  | { op: "permute"; a: number; axes: readonly number[] }
  | { op: "reshape"; a: number; shape: Shape };

export type Term = readonly [operand: number, factor: bigint];

/** Numbers that are part of the program: little-endian, signed, `width` bytes each. */
interface Constant {
  readonly op: "constant";
  readonly shape: Shape;
  readonly width: 1 | 2 | 4 | 8;
  readonly data: Uint8Array<ArrayBuffer>;
}

/** What is known of a result: its shape, that low ≤ x ≤ high, and whether all know it. */
export interface Value {
  readonly shape: Shape;
  readonly low: bigint;
  readonly high: bigint;
  readonly public: boolean;
}

const NARROW = { 1: Int8Array, 2: Int16Array, 4: Int32Array } as const;

/** An array as a constant, with the narrowest numbers that hold it. */
export function constantOf(shape: Shape, whole: Float64Array): Constant {
  if (whole.some((number) => !(Math.abs(number) <= 2 ** 62)))
    refuse("proof.program-invalid", "a constant has numbers that may exceed 62 bits");
  const ends = whole.reduce((most, number) => Math.max(most, -number - 1, number), 0);
  const width = ([1, 2, 4] as const).find((bytes) => ends < 2 ** (8 * bytes - 1)) ?? 8;
  const numbers = width === 8 ? BigInt64Array.from(whole, BigInt) : NARROW[width].from(whole);
  return { op: "constant", shape, width, data: new Uint8Array(numbers.buffer) };
}

/** A constant's numbers. */
export function intsOf(constant: Constant): Ints {
  const numbers = numbersOf(constant);
  if (numbers instanceof BigInt64Array) return { shape: constant.shape, numbers };
  const halves = new Int32Array(2 * numbers.length);
  numbers.forEach((number, at) => {
    halves[2 * at] = number;
    halves[2 * at + 1] = number < 0 ? -1 : 0;
  });
  return { shape: constant.shape, numbers: new BigInt64Array(halves.buffer) };
}

function numbersOf({ width, data }: Constant): BigInt64Array<ArrayBuffer> | Int8Array | Int16Array | Int32Array {
  return new (width === 8 ? BigInt64Array : NARROW[width])(data.buffer, data.byteOffset, data.length / width);
}

/** What is known of the result of an operation that follows these. */
export function inferred(operation: Operation, values: readonly Value[]): Value {
  const value = infer(operation, (operand) => values[operand] ?? later());
  if (reach(value) > LIMIT || value.low > value.high) {
    refuse("proof.program-invalid", `numbers of a ${operation.op} may exceed 62 bits`);
  }
  if (sizeOf(value.shape) > MAX_SIZE || value.shape.length > MAX_AXES) {
    refuse("proof.program-invalid", `a ${operation.op} is too large`);
  }
  return value;
}

function infer(operation: Operation, of: (operand: number) => Value): Value {
  switch (operation.op) {
    case "input":
      return { ...operation, public: true };
    case "weight":
      return secret(operation.shape, ...signedRange(operation.bits));
    case "constant":
      return { shape: operation.shape, ...ends(numbersOf(operation)), public: true };
    case "matmul": {
      const [a, b] = [of(operation.a), of(operation.b)];
      const inner = a.shape.at(-1) ?? 0;
      demand(a.shape.length >= 2 && b.shape.length >= 2 && inner === b.shape.at(-2), "matrices that do not fit");
      const batch = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
      const bound = BigInt(inner) * reach(a) * reach(b);
      return secret([...batch, a.shape.at(-2) as number, b.shape.at(-1) as number], -bound, bound);
    }
    case "linear": {
      const shape = broadcast(...operation.terms.map(([operand]) => of(operand).shape));
      let [low, high] = [operation.constant, operation.constant];
      for (const [operand, factor] of operation.terms) {
        const value = of(operand);
        low += factor * (factor < 0n ? value.high : value.low);
        high += factor * (factor < 0n ? value.low : value.high);
      }
      return secret(shape, low, high);
    }
    case "multiply": {
      const [a, b] = [of(operation.a), of(operation.b)];
      const corners = ends([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]);
      const low = operation.a === operation.b ? 0n : corners.low;
      return secret(broadcast(a.shape, b.shape), low, corners.high);
    }
    case "sum": {
      const a = of(operation.a);
      const n = BigInt(lengthOf(a, operation.axis));
      return secret(withLength(a.shape, operation.axis, 1), n * a.low, n * a.high);
    }
    case "rescale":
      demand(operation.shift + operation.bits <= 62, "more than 62 bits before a rescaling");
      return secret(of(operation.a).shape, ...signedRange(operation.bits));
    case "lookup": {
      const [a, table] = [of(operation.a), of(operation.table)];
      demand(table.public && table.shape.length === 1 && sizeOf(table.shape) <= MAX_TABLE, "a table that is none");
      return secret(a.shape, table.low, table.high);
    }
    case "divide": {
      const [a, b] = [of(operation.a), of(operation.b)];
      demand(shifted(b.high, operation.bits) <= LIMIT, "a quotient times a divisor that may be too large");
      return secret(broadcast(a.shape, b.shape), 0n, unsignedEnd(operation.bits));
    }
    case "rsqrt": {
      const a = of(operation.a);
      demand(operation.numerator >= 1n && operation.numerator < LIMIT, "a numerator that is too large");
      demand(shifted(reach(a), 2 * operation.bits) <= LIMIT, "a square times a number that may be too large");
      return secret(a.shape, 0n, unsignedEnd(operation.bits));
    }
    case "gap": {
      const a = of(operation.a);
      lengthOf(a, operation.axis);
      demand(operation.shift + operation.bits <= 62, "more than 62 bits before a rescaling");
      demand(a.high - a.low <= LIMIT, "numbers that are too far apart");
      return secret(a.shape, 0n, unsignedEnd(operation.bits));
    }
    case "argmax": {
      const a = of(operation.a);
      demand(a.shape.length >= 1 && a.high - a.low <= LIMIT, "numbers that are too far apart");
      return { shape: a.shape.slice(0, -1), low: 0n, high: BigInt(a.shape.at(-1) as number) - 1n, public: true };
    }
    case "gather": {
      const [a, indices] = [of(operation.a), of(operation.indices)];
      const n = BigInt(lengthOf(a, operation.axis));
      const fit = indices.public && indices.low >= 0n && indices.high < n;
      demand(fit, "indices that are secret, or beyond the axis");
      const shape = [...a.shape.slice(0, operation.axis), ...indices.shape, ...a.shape.slice(operation.axis + 1)];
      return secret(shape, a.low, a.high);
    }
    case "permute": {
      const a = of(operation.a);
      const axes = [...operation.axes].sort((x, y) => x - y);
      demand(axes.length === a.shape.length && axes.every((axis, at) => axis === at), "axes that are no permutation");
      return secret(
        operation.axes.map((axis) => a.shape[axis] as number),
        a.low,
        a.high,
      );
    }
    case "reshape": {
      const a = of(operation.a);
      const longer = (shape: Shape) => shape.filter((n) => n > 1).join();
      demand(longer(a.shape) === longer(operation.shape), "another shape but for axes of length one");
      return secret(operation.shape, a.low, a.high);
    }
  }
}

function secret(shape: Shape, low: bigint, high: bigint): Value {
  return { shape, low, high, public: false };
}

function later(): never {
  return refuse("proof.program-invalid", "the program takes a result that comes later");
}

function sizeOf(shape: Shape): number {
  return shape.reduce((size, length) => size * length, 1);
}

/** The largest absolute value. */
export function reach({ low, high }: Pick<Value, "low" | "high">): bigint {
  return -low > high ? -low : high;
}

/** How many bits a number that is not negative has. */
export function bitLength(number: bigint): number {
  return number === 0n ? 0 : number.toString(2).length;
}

/** number · 2^by; a program that has a negative or a huge `by` is none. */
export function shifted(number: bigint, by: number): bigint {
  demand(by >= 0 && by < 1 << 12, "a shift that is none");
  return number << BigInt(by);
}

function signedRange(bits: number): [low: bigint, high: bigint] {
  const end = shifted(1n, bits - 1);
  return [-end, end - 1n];
}

function unsignedEnd(bits: number): bigint {
  return shifted(1n, bits) - 1n;
}

function ends(numbers: Iterable<bigint | number>): { low: bigint; high: bigint } {
  let [low, high] = [0n, 0n] as [bigint | number, bigint | number];
  let first = true;
  for (const number of numbers) {
    if (first || number < low) low = number;
    if (first || number > high) high = number;
    first = false;
  }
  return { low: BigInt(low), high: BigInt(high) };
}

function lengthOf(value: Value, axis: number): number {
  const length = value.shape[axis];
  demand(length !== undefined, "an axis that is not there");
  return length as number;
}

export function withLength(shape: Shape, axis: number, length: number): Shape {
  return shape.map((own, at) => (at === axis ? length : own));
}

/** The shape that arrays have together, by numpy's rules. */
export function broadcast(...shapes: readonly Shape[]): Shape {
  const axes = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: axes }, (_, at) => {
    const lengths = shapes.map((shape) => shape[at - axes + shape.length] ?? 1).filter((length) => length !== 1);
    demand(new Set(lengths).size <= 1, "shapes that do not fit");
    return lengths[0] ?? 1;
  });
}
