/**
 * Writing integer programs with numbers that have a fraction, at scales that calibration chose.
 *
 * A `Tensor` stands for an operation's result and knows how much of it is fraction: the program holds x · 2^fraction.
 * How large each named result becomes was measured, as the power of two that bounds it; its fraction and its bits follow.
 * Port of `mitai.proof.graph`, which says more.
 */
import { hex } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { demand, refuse } from "./errors.ts";
import {
  bitLength,
  constantOf,
  inferred,
  type Operation,
  reach,
  type Shape,
  shifted,
  type Value,
} from "./operations.ts";
import type { Output, Program } from "./program.ts";
import { ldexp, rint } from "./reproducible.ts";

const MAX_OPERATIONS = 2 ** 16;
export const WORD = 16; // how many bits most results have, and most rescalings cut off
export const MOST_FRACTION = 12;
const WEIGHT_BITS = 18;
const HEADROOM = 2; // how many times, as a power of two, numbers may be larger than any in calibration

interface Limits {
  /** The largest fraction of use. */
  readonly most?: number | undefined;
  /** The smallest; there are more bits where it does not fit. */
  readonly least?: number | undefined;
  /** Bits of headroom beyond the graph's. */
  readonly spare?: number | undefined;
}

export class Graph {
  readonly operations: Operation[] = [];
  readonly values: Value[] = [];
  readonly #outputs: Output[] = [];
  readonly #names = new Set<string>();
  readonly #constants = new Map<string, number>();

  constructor(readonly reaches: ReadonlyMap<string, number>) {}

  /** A name's measured reach. */
  reach(name: string): number {
    const found = this.reaches.get(name);
    if (found === undefined) refuse("proof.not-calibrated", `the calibration says nothing of ${name}`);
    return found;
  }

  /** A name's reach with headroom. */
  room(name: string): number {
    return this.reach(name) + HEADROOM;
  }

  /** Fraction and bits for signed numbers of this name. */
  place(name: string, bits = WORD, { most = MOST_FRACTION, least, spare = 0 }: Limits = {}): [number, number] {
    const room = this.room(name) + spare;
    const fraction = Math.min(most, bits - 1 - room);
    return least !== undefined && fraction < least ? [least, room + least + 1] : [fraction, bits];
  }

  add(operation: Operation, fraction: number): Tensor {
    if (this.operations.length === MAX_OPERATIONS) {
      refuse("proof.program-invalid", `the model is more than ${MAX_OPERATIONS} operations`);
    }
    this.values.push(inferred(operation, this.values));
    this.operations.push(operation);
    return new Tensor(this, this.values.length - 1, fraction);
  }

  /** Declare public tokens. */
  tokens(name: string, n: number, vocabulary: number): Tensor {
    return this.add({ op: "input", name, shape: [n], low: 0n, high: BigInt(vocabulary - 1), public: true }, 0);
  }

  /** Declare public numbers of so many bits. */
  input(name: string, shape: Shape, fraction: number, bits: number): Tensor {
    const end = shifted(1n, bits - 1);
    return this.add({ op: "input", name, shape, low: -end, high: end - 1n, public: true }, fraction);
  }

  /** Declare an array of the model's, with this fraction, or less where it would have more than `most` bits. */
  weight(name: string, shape: Shape, wanted: number, most = WEIGHT_BITS): Tensor {
    demand(!this.#names.has(name), "weights of one name");
    this.#names.add(name);
    const own = this.reach(name);
    const fraction = Math.min(wanted, most - 1 - own);
    return this.add({ op: "weight", name, shape, bits: Math.max(fraction + own, 0) + 2 }, fraction);
  }

  /** Make numbers part of the program; the same ones once. */
  constant(shape: Shape, numbers: Float64Array, fraction = 0): Tensor {
    const constant = constantOf(
      shape,
      numbers.map((number) => rint(ldexp(number, fraction))),
    );
    const key = `${shape.join()}:${hex(sha256(constant.data))}`;
    const number = this.#constants.get(key) ?? this.add(constant, fraction).number;
    this.#constants.set(key, number);
    return new Tensor(this, number, fraction);
  }

  /** Let a result come out. */
  output(name: string, { number }: Tensor): void {
    this.#outputs.push({ name, operand: number });
  }

  program(): Program {
    return { operations: this.operations, values: this.values, outputs: this.#outputs };
  }
}

/** An operation's result in a graph, with its fraction. */
export class Tensor {
  constructor(
    readonly graph: Graph,
    readonly number: number,
    readonly fraction: number,
  ) {}

  get value(): Value {
    return this.graph.values[this.number] as Value;
  }

  get shape(): Shape {
    return this.value.shape;
  }

  /** The length of an axis, counted from the last one where it is negative. */
  length(axis: number): number {
    return this.shape[this.#axis(axis)] as number;
  }

  /** Products of matrices. */
  matmul(other: Tensor): Tensor {
    return this.graph.add({ op: "matmul", a: this.number, b: other.number }, this.fraction + other.fraction);
  }

  times(other: Tensor): Tensor {
    return this.graph.add({ op: "multiply", a: this.number, b: other.number }, this.fraction + other.fraction);
  }

  plus(other: Tensor): Tensor {
    const most = Math.max(this.fraction, other.fraction);
    const terms = [this, other].map(({ number, fraction }) => [number, shifted(1n, most - fraction)] as const);
    return this.graph.add({ op: "linear", terms, constant: 0n }, most);
  }

  /** Add a number to all. */
  plusNumber(number: number): Tensor {
    const constant = rint(number * 2 ** this.fraction);
    demand(Number.isFinite(constant), "a number that is none");
    return this.#then({ op: "linear", terms: [[this.number, 1n]], constant: BigInt(constant) });
  }

  minus(other: Tensor): Tensor {
    return this.plus(other.graph.add({ op: "linear", terms: [[other.number, -1n]], constant: 0n }, other.fraction));
  }

  /** Add up along an axis, which stays. */
  sum(axis: number): Tensor {
    return this.#then({ op: "sum", a: this.number, axis: this.#axis(axis) });
  }

  /** Take entries at public indices along an axis. */
  gather(indices: Tensor, axis: number): Tensor {
    return this.#then({ op: "gather", a: this.number, indices: indices.number, axis: this.#axis(axis) });
  }

  /** Exchange the last two axes. */
  swap(): Tensor {
    const n = this.shape.length;
    const axes = [...this.shape.keys()].slice(0, -2);
    return this.#then({ op: "permute", a: this.number, axes: [...axes, n - 1, n - 2] });
  }

  /** Add or drop axes of length one. */
  reshape(...shape: number[]): Tensor {
    return this.#then({ op: "reshape", a: this.number, shape });
  }

  /** Cut back to the fraction, and the bits, that calibration found for this name. */
  rescale(name: string, most = MOST_FRACTION): Tensor {
    return this.cut(...this.graph.place(name, WORD, { most }));
  }

  /** Cut back to a fraction, or to what there is but one bit, and to so many bits. */
  cut(fraction: number, bits: number): Tensor {
    const shift = Math.max(this.fraction - fraction, 1);
    return this.graph.add({ op: "rescale", a: this.number, shift, bits }, this.fraction - shift);
  }

  /** Look up a function of one number, with as much fraction as its argument unless said otherwise. */
  function(of: (x: number) => number, fraction = this.fraction): Tensor {
    const { low, high } = this.value;
    demand(high - low < 1n << 16n, "a table that is none");
    const places = Float64Array.from({ length: Number(high - low) + 1 }, (_, at) => Number(low) + at);
    const values = places.map((place) => of(ldexp(place, -this.fraction)));
    const table = this.graph.constant([values.length], values, fraction);
    return this.graph.add({ op: "lookup", a: this.number, table: table.number, first: low }, fraction);
  }

  /** How far numbers lie below the largest along an axis. */
  gap(axis: number, fraction: number, bits = 16): Tensor {
    const shift = this.fraction - fraction;
    demand(shift >= 0, "a shift that is none");
    return this.graph.add({ op: "gap", a: this.number, axis: this.#axis(axis), shift, bits }, fraction);
  }

  /** 1 / x, unsigned. */
  reciprocal(fraction: number, bits: number): Tensor {
    const one = this.graph.constant([1], Float64Array.of(1), fraction + this.fraction);
    return this.graph.add({ op: "divide", a: one.number, b: this.number, bits }, fraction);
  }

  /** sqrt(factor / x), unsigned. */
  reciprocalRoot(fraction: number, bits: number, factor: number): Tensor {
    const numerator = shifted(BigInt(factor), 2 * fraction + this.fraction);
    return this.graph.add({ op: "rsqrt", a: this.number, numerator, bits }, fraction);
  }

  /** Where the largest number of the last axis is, which all then know. */
  argmax(bits: number): Tensor {
    return this.graph.add({ op: "argmax", a: this.number, bits }, 0);
  }

  /** How many bits its largest absolute value has. */
  get bits(): number {
    return bitLength(reach(this.value));
  }

  #then(operation: Operation): Tensor {
    return this.graph.add(operation, this.fraction);
  }

  #axis(axis: number): number {
    return axis < 0 ? axis + this.shape.length : axis;
  }
}
