/**
 * A program as equations between arrays: what is committed to, what is public, what follows, and what is checked.
 *
 * Follows docs/spec/proof-statement.md and the "Hints and checks" of docs/spec/proof-programs.md; every operation of a
 * program is a few lines here, and nothing anywhere else.
 */
import {
  bitLength,
  broadcast,
  type Operation,
  reach,
  type Shape,
  shifted,
  type Term,
  withLength,
} from "./operations.ts";
import type { Program } from "./program.ts";

const LIMB_BITS = 16;

/** An array; what it is computed from are the numbers of nodes before it. */
export type Node = { readonly shape: Shape } & (
  | { kind: "known"; operation: number; role: "result" | "chosen" | "before" }
  | { kind: "committed"; source: "weight" | "hint" }
  | { kind: "combination"; terms: readonly Term[]; constant: bigint; shift: number } // (…) / 2^shift, exactly
  | { kind: "product" | "matrices"; a: number; b: number }
  | { kind: "total"; a: number; axis: number }
  | { kind: "permuted"; a: number; axes: readonly number[] }
  | { kind: "same"; a: number }
  | { kind: "taken"; a: number; indices: number; axis: number }
);

/** All entries of nodes of one shape are in a table: that of a node, beside 0, 1, 2 …, or numbers of so many bits. */
export interface Listed {
  readonly nodes: readonly number[];
  readonly table: { readonly node: number } | { readonly bits: number };
}

/** In each row of a node along an axis is a zero. */
export interface Zero {
  readonly node: number;
  readonly axis: number;
}

/** Nodes in the order of computation, what is checked of them, and which node is an operation's result. */
export interface Plan {
  readonly nodes: readonly Node[];
  readonly listed: readonly Listed[];
  readonly zeros: readonly Zero[];
  readonly results: readonly number[];
}

/** A program's equations. */
export function lower(program: Program): Plan {
  const lowering = new Lowering(program);
  program.operations.forEach((operation, number) => {
    lowering.results.push(lowering.result(operation, number));
  });
  return lowering;
}

class Lowering implements Plan {
  readonly nodes: Node[] = [];
  readonly listed: Listed[] = [];
  readonly zeros: Zero[] = [];
  readonly results: number[] = [];
  readonly #covered = new Set<number>();

  constructor(readonly program: Program) {
    // results that some look-up keeps in their range
    for (const operation of program.operations) {
      if (operation.op !== "lookup") continue;
      const { low, high } = this.#value(operation.a);
      const size = BigInt(this.#value(operation.table).shape[0] as number);
      if (low <= operation.first && operation.first + size - 1n <= high) this.#covered.add(operation.a);
    }
  }

  /** Add an operation's nodes and checks; return the number of its result. */
  result(operation: Operation, number: number): number {
    const { shape } = this.#value(number);
    const of = (operand: number) => this.results[operand] as number;
    const free = !this.#covered.has(number);
    switch (operation.op) {
      case "input":
      case "constant":
        return this.#add({ kind: "known", shape, operation: number, role: "result" });
      case "weight":
        return this.#add({ kind: "committed", shape, source: "weight" });
      case "linear": {
        const terms = operation.terms.map(([term, factor]) => [of(term), factor] as const);
        return this.#add({ kind: "combination", shape, terms, constant: operation.constant, shift: 0 });
      }
      case "multiply":
        return this.#add({ kind: "product", shape, a: of(operation.a), b: of(operation.b) });
      case "matmul":
        return this.#add({ kind: "matrices", shape, a: of(operation.a), b: of(operation.b) });
      case "sum":
        return this.#add({ kind: "total", shape, a: of(operation.a), axis: operation.axis });
      case "permute":
        return this.#add({ kind: "permuted", shape, a: of(operation.a), axes: operation.axes });
      case "reshape":
        return this.#add({ kind: "same", shape, a: of(operation.a) });
      case "gather": {
        const { axis, indices } = operation;
        return this.#add({ kind: "taken", shape, a: of(operation.a), indices: of(indices), axis });
      }
      case "rescale": {
        const [y, { shift, bits }] = [this.#hint(shape), operation];
        if (free) this.#inRange(this.#combine([[y, 1n]], shifted(1n, bits - 1)), bits);
        const terms: Term[] = [
          [of(operation.a), 1n],
          [y, -shifted(1n, shift)],
        ];
        this.#inRange(this.#combine(terms, shifted(1n, shift - 1)), shift);
        return y;
      }
      case "lookup": {
        const y = this.#hint(shape);
        const place = this.#combine([[of(operation.a), 1n]], -operation.first);
        this.listed.push({ nodes: [place, y], table: { node: of(operation.table) } });
        return y;
      }
      case "divide": {
        const [q, a, b] = [this.#hint(shape), of(operation.a), of(operation.b)];
        if (free) this.#inRange(q, operation.bits);
        const bits = bitLength(this.#value(operation.b).high);
        const product = this.#add({ kind: "product", shape, a: q, b });
        const remainder = this.#combine([
          [a, 1n],
          [product, -1n],
        ]);
        this.#inRange(remainder, bits);
        this.#inRange(
          this.#combine(
            [
              [b, 1n],
              [remainder, -1n],
            ],
            -1n,
          ),
          bits,
        );
        return q;
      }
      case "rsqrt": {
        const [y, a, { numerator, bits }] = [this.#hint(shape), of(operation.a), operation];
        if (free) this.#inRange(y, bits);
        const square = this.#add({ kind: "product", shape, a: y, b: y });
        const bySquare = this.#add({ kind: "product", shape, a: square, b: a });
        const byY = this.#add({ kind: "product", shape, a: y, b: a });
        this.#inRange(this.#combine([[bySquare, -1n]], numerator), bitLength(numerator));
        const above = this.#combine(
          [
            [bySquare, 1n],
            [byY, 2n],
            [a, 1n],
          ],
          -numerator - 1n,
        );
        this.#inRange(above, bitLength(shifted(reach(this.#value(operation.a)), 2 * bits)));
        return y;
      }
      case "gap": {
        const [a, { axis, shift, bits }] = [of(operation.a), operation];
        const largest = this.#hint(withLength(shape, axis, 1));
        const distance = this.#combine([
          [largest, 1n],
          [a, -1n],
        ]);
        this.zeros.push({ node: distance, axis });
        const y = shift === 0 ? distance : this.#hint(shape);
        if (free) this.#inRange(y, bits);
        if (shift > 0)
          this.#inRange(
            this.#combine([
              [distance, 1n],
              [y, -shifted(1n, shift)],
            ]),
            shift,
          );
        return y;
      }
      case "argmax": {
        const a = of(operation.a);
        const whole = (this.nodes[a] as Node).shape;
        const chosen = this.#add({ kind: "known", shape: whole, operation: number, role: "chosen" });
        const before = this.#add({ kind: "known", shape: whole, operation: number, role: "before" });
        const axis = whole.length - 1;
        const product = this.#add({ kind: "product", shape: whole, a: chosen, b: a });
        const largest = this.#add({ kind: "total", shape: withLength(whole, axis, 1), a: product, axis });
        this.#inRange(
          this.#combine([
            [largest, 1n],
            [a, -1n],
            [before, -1n],
          ]),
          operation.bits,
        );
        return this.#add({ kind: "known", shape, operation: number, role: "result" });
      }
    }
  }

  #value(operation: number) {
    return this.program.values[operation] as Program["values"][number];
  }

  #add(node: Node): number {
    return this.nodes.push(node) - 1;
  }

  #hint(shape: Shape): number {
    return this.#add({ kind: "committed", shape, source: "hint" });
  }

  #combine(terms: readonly Term[], constant = 0n, shift = 0): number {
    const shape = broadcast(...terms.map(([term]) => (this.nodes[term] as Node).shape));
    return this.#add({ kind: "combination", shape, terms, constant, shift });
  }

  /** Check that all numbers are in [0, 2^bits): in limbs of 16 bits, of which the last one is what is left. */
  #inRange(node: number, bits: number): void {
    const terms: Term[] = [[node, 1n]];
    let done = 0;
    for (; bits - done > LIMB_BITS; done += LIMB_BITS) {
      const limb = this.#hint((this.nodes[node] as Node).shape);
      this.listed.push({ nodes: [limb], table: { bits: LIMB_BITS } });
      terms.push([limb, -(1n << BigInt(done))]);
    }
    const last = done > 0 ? this.#combine(terms, 0n, done) : node;
    this.listed.push({ nodes: [last], table: { bits: bits - done } });
  }
}
