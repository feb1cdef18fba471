/**
 * Check a proof that a program gave its public results (docs/spec/proof-statement.md).
 *
 * 1. What is known is bound; the prover says the root of its hints.
 * 2. Look-ups, zeros and results become claims on nodes of the plan.
 * 3. Nodes are visited from the last to the first; each turns its claims into claims on what it is computed from.
 * 4. Claims on public arrays are compared; those on committed arrays are opened.
 */
import { utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Claim, ceilLog, checkClaims } from "./claims.ts";
import { bindRoot, checkOpenings } from "./commitment.ts";
import { refuse } from "./errors.ts";
import { evaluate, HALF, K, ONE, type Point, sum, type Value, type Words, ZERO } from "./field.ts";
import { type Layout, layoutOf, partOf } from "./layout.ts";
import { checkLookups, inside, logOf, logs, Table } from "./lookups.ts";
import { checkMaskedOpenings, MaskedVerifier } from "./masked.ts";
import { type Ints, intsOf, type Shape } from "./operations.ts";
import { type Listed, lower, type Node, type Plan, type Zero } from "./plan.ts";
import { type Axes, byAxis, maskValue, outerInside, publicValue, restricted, scattered } from "./points.ts";
import { digestOf, type Program } from "./program.ts";
import { checkProduct, unweighted, type Weights } from "./sumcheck.ts";
import { HASH_BYTES, u64, Verifier } from "./transcript.ts";
import { beforeLookups, beforeOpenings } from "./work.ts";

/** That a model gave these results for these inputs; both by name, and results of `argmax` by operation. */
export interface Statement {
  readonly program: Program;
  /** Root of the commitment to all weights, in the program's order. */
  readonly weights: Uint8Array;
  readonly inputs: ReadonlyMap<string, Ints>;
  readonly outputs: ReadonlyMap<string, Ints>;
  readonly choices: ReadonlyMap<number, Ints>;
  /** 0: the proof is a succinct one, which hides nothing. Else so many may open the hiding commitment to weights. */
  readonly uses: number;
}

type NodeOf<Kind extends Node["kind"]> = Extract<Node, { kind: Kind }>;
type Two = Extract<Node, { b: number }>;
type Valued = readonly [axes: Axes, value: Value];

/** What is looked up in one table. */
interface Looked {
  readonly entries: readonly Listed[];
  readonly shapes: readonly Shape[];
  readonly table: Table;
}

/**
 * Return b, if a false statement is accepted with a probability of 2^−b at most for each hash, and b is not too small.
 *
 * @param heard Is told bytes that were read.
 */
export function verify(
  statement: Statement,
  proof: Uint8Array,
  leastBits: number,
  heard?: (bytes: number) => void,
): number {
  const { uses } = statement;
  const verifier = uses ? new MaskedVerifier(proof, uses, heard) : new Verifier(proof, heard);
  new Walk(statement, verifier).run();
  verifier.finish();
  verifier.soundness.require(leastBits);
  return verifier.soundness.bits;
}

class Walk {
  readonly #plan: Plan;
  readonly #claims: Valued[][];
  readonly #tables: Listed["table"][];
  readonly #weights: Layout;
  readonly #hints: Layout;

  constructor(
    readonly statement: Statement,
    readonly verifier: Verifier,
  ) {
    this.#plan = lower(statement.program);
    this.#claims = this.#plan.nodes.map(() => []);
    this.#tables = [...new Map(this.#plan.listed.map(({ table }) => [JSON.stringify(table), table])).values()];
    const shapes = (source: "weight" | "hint") => this.#committed(source).map((node) => this.#shape(node));
    this.#weights = layoutOf(shapes("weight"));
    this.#hints = layoutOf([...shapes("hint"), ...this.#tables.map((table) => [2 ** this.#table(table).log])]);
  }

  run(): void {
    const { uses } = this.statement;
    const [beforeWeights, beforeHints] = beforeOpenings([
      [this.#weights.log, uses],
      [this.#hints.log, uses && 1],
    ]) as [number, number];
    const looked = this.#tables.map((table) => this.#looked(table));
    const beforeTables = beforeLookups(looked);
    const hints = this.#bind();
    const counts = looked.map((one, index) => this.#lookUp(one, beforeTables[index] as number));
    for (const zero of this.#plan.zeros) this.#findZeros(zero);
    this.#results();
    for (let number = this.#plan.nodes.length - 1; number >= 0; number--) this.#visit(number);
    const own = (source: "weight" | "hint") => this.#committed(source).map((node) => this.#claims[node] as Valued[]);
    const counted = counts.map(({ point, value }): Valued[] => [[[point], value]]);
    this.#open(this.statement.weights, this.#weights, uses, own("weight"), beforeWeights);
    this.#open(hints, this.#hints, 1, [...own("hint"), ...counted], beforeHints);
  }

  #node(number: number): Node {
    return this.#plan.nodes[number] as Node;
  }

  #shape(number: number): Shape {
    return this.#node(number).shape;
  }

  #committed(source: "weight" | "hint"): number[] {
    return [...this.#plan.nodes.keys()].filter((number) => {
      const node = this.#node(number);
      return node.kind === "committed" && node.source === source;
    });
  }

  #table(table: Listed["table"]): Table {
    if ("bits" in table) return new Table(2 ** table.bits);
    const { numbers } = this.#known(table.node);
    return new Table(numbers.length, numbers);
  }

  /** A public array that is no mask; constants are made when they are needed, as there are large ones. */
  #known(number: number): Ints {
    const node = this.#node(number) as NodeOf<"known">;
    const { program, inputs, choices } = this.statement;
    const operation = program.operations[node.operation];
    if (operation?.op === "constant") return intsOf(operation);
    const array = operation?.op === "input" ? inputs.get(operation.name) : choices.get(node.operation);
    return fitting(array, program, node.operation);
  }

  // --- 1. what is known ---

  /** Bind the statement, and the root of the hints, which the prover says. */
  #bind(): Uint8Array {
    const { verifier, statement } = this;
    verifier.bind("program", digestOf(statement.program));
    verifier.bind("source", utf8("weight"));
    bindRoot(verifier, statement.weights, this.#weights.log);
    this.#plan.nodes.forEach((node, number) => {
      if (node.kind !== "known" || node.role !== "result") return;
      verifier.bind("known", new Uint8Array([...u64(number), ...digest(this.#known(number))]));
    });
    for (const { name, operand } of [...statement.program.outputs].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      verifier.bind("output", utf8(name));
      verifier.bind("numbers", digest(fitting(statement.outputs.get(name), statement.program, operand)));
    }
    const hints = verifier.receiveBytes("hints", HASH_BYTES);
    bindRoot(verifier, hints, this.#hints.log);
    return hints;
  }

  // --- 2. what becomes claims ---

  /** What is looked up in one table. */
  #looked(table: Listed["table"]): Looked {
    const key = JSON.stringify(table);
    const entries = this.#plan.listed.filter((entry) => JSON.stringify(entry.table) === key);
    return { entries, shapes: entries.map(({ nodes }) => this.#shape(nodes[0] as number)), table: this.#table(table) };
  }

  /** Claims on all that is looked up in one table; return the claim on how often. */
  #lookUp({ entries, shapes, table }: Looked, work: number): Claim {
    const [columns, counts] = checkLookups(this.verifier, shapes, table, work);
    entries.forEach(({ nodes }, index) => {
      nodes.forEach((node, part) => {
        const claim = columns[index]?.[part];
        if (claim) this.#claim(node, byAxis(claim.point, this.#shape(node)), claim.value);
      });
    });
    return counts;
  }

  /** The product of each row is zero, where padding of the row is 1: a tree of products. */
  #findZeros({ node, axis }: Zero): void {
    const shape = this.#shape(node);
    const without = shape.filter((_, at) => at !== axis);
    const bits = logOf(without);
    const { verifier } = this;
    let row: K[] = verifier.challenges("rows", bits);
    let along: K[] = [];
    verifier.soundness.rounds(bits);
    let value: Value = ZERO;
    for (let layer = 0; layer < (logs(shape)[axis] as number); layer++) {
      const [point, low, high] = checkProduct(verifier, value, [...row, ...along]);
      const half = verifier.challenge("half");
      row = point.slice(0, bits);
      along = [half, ...point.slice(bits)];
      value = low.plus(half.times(high.minus(low)));
      verifier.soundness.joined(2);
    }
    value = value.minus(ONE.minus(inside([shape[axis] as number], along)));
    const axes = byAxis(row, without);
    this.#claim(node, [...axes.slice(0, axis), along, ...axes.slice(axis)], value);
  }

  /** Results have these values. */
  #results(): void {
    for (const { name, operand } of this.statement.program.outputs) {
      const node = this.#plan.results[operand] as number;
      const bits = logOf(this.#shape(node));
      const axes = byAxis(this.verifier.challenges("result", bits), this.#shape(node));
      this.verifier.soundness.rounds(bits);
      this.#claim(node, axes, publicValue(this.statement.outputs.get(name) as Ints, axes));
    }
  }

  #claim(node: number, axes: Axes, value: Value): void {
    this.#claims[node]?.push([axes, value]);
  }

  // --- 3. nodes ---

  /** Turn the claims on a node into claims on its operands. */
  #visit(number: number): void {
    const node = this.#node(number);
    const claims = this.#claims[number] as Valued[];
    if (claims.length === 0 || node.kind === "committed") return;
    if (node.kind === "known") {
      for (const [axes, value] of claims) this.#compare(node, axes, value);
      return;
    }
    const [axes, value] = claims.length > 1 ? this.#join(node.shape, claims) : (claims[0] as Valued);
    switch (node.kind) {
      case "combination":
        this.#combination(node, axes, value);
        break;
      case "product":
        this.#product(node, axes, value);
        break;
      case "matrices":
        this.#matrices(node, axes, value);
        break;
      case "total":
        this.#total(node, axes, value);
        break;
      case "permuted": {
        const own = axes.map((_, axis) => axes[node.axes.indexOf(axis)] as Point);
        this.#claim(node.a, own, value);
        break;
      }
      case "same":
        this.#claim(node.a, byAxis(axes.flat(), this.#shape(node.a)), value);
        break;
      case "taken":
        this.#taken(node, axes, value);
    }
  }

  #join(shape: Shape, claims: readonly Valued[]): Valued {
    const many = claims.map(([axes, value]) => ({ point: axes.flat(), value, offset: 0 }));
    const { point, value } = checkClaims(this.verifier, logOf(shape), many);
    return [byAxis(point, shape), value];
  }

  /** A public array has a value. */
  #compare(node: NodeOf<"known">, axes: Axes, value: Value): void {
    const array = this.#known(this.#plan.results[node.operation] as number);
    const size = node.shape.at(-1) ?? 1;
    const own =
      node.role === "result" ? publicValue(array, axes) : maskValue(array, axes, size, node.role === "before");
    this.#requireZero(value.minus(own), "public");
  }

  /** The value is that of the terms, which the prover says. */
  #combination(node: NodeOf<"combination">, axes: Axes, value: Value): void {
    const said = this.verifier.receiveElements("values", node.terms.length);
    let total: Value = K.of(node.constant).times(inside(node.shape, axes.flat()));
    node.terms.forEach(([term, factor], index) => {
      const one = said[index] as Value;
      const shape = this.#shape(term);
      total = total.plus(
        K.of(factor)
          .times(outerInside(node.shape, shape, axes))
          .times(one),
      );
      this.#claim(term, restricted(axes, shape), one);
    });
    this.#requireZero(total.minus(value.times(K.of(1n << BigInt(node.shift)))), "combination");
  }

  /** A sum-check over all elements; a factor that is broadcast is so over the padding, too. */
  #product(node: Two, axes: Axes, value: Value): void {
    const [point, a, b] = checkProduct(this.verifier, value, axes.flat());
    const own = byAxis(point, node.shape);
    this.#claim(node.a, restricted(own, this.#shape(node.a)), a);
    this.#claim(node.b, restricted(own, this.#shape(node.b)), b);
  }

  /** A sum-check over the inner axis, and over axes of the batch that both operands have. */
  #matrices(node: Two, axes: Axes, value: Value): void {
    const [left, right] = [this.#shape(node.a), this.#shape(node.b)];
    const outer = axes.length - 2;
    const has = (shape: Shape, axis: number) => (shape[axis - axes.length + shape.length] ?? 1) > 1;
    const shared = Array.from({ length: outer }, (_, axis) => axis).filter(
      (axis) => has(left, axis) && has(right, axis),
    );
    const inner = left.at(-1) as number;
    const weights: Weights = [...shared.flatMap((axis) => axes[axis] as Point), ...unweighted(ceilLog(inner))];
    const [point, a, b] = checkProduct(this.verifier, value, weights);
    const bound = byAxis(point, [...shared.map((axis) => node.shape[axis] as number), inner]);
    const batch = axes.slice(0, outer).map((axis, at) => (shared.includes(at) ? bound[shared.indexOf(at)] : axis));
    const k = bound.at(-1) as Point;
    this.#claim(node.a, restricted([...(batch as Axes), axes[outer] as Point, k], left), a);
    this.#claim(node.b, restricted([...(batch as Axes), k, axes[outer + 1] as Point], right), b);
  }

  /** The sum along an axis is 2^n times the value in the middle. */
  #total(node: NodeOf<"total">, axes: Axes, value: Value): void {
    const middle = Array.from({ length: ceilLog(this.#shape(node.a)[node.axis] as number) }, () => HALF);
    const own = axes.map((axis, at) => (at === node.axis ? middle : axis));
    this.#claim(
      node.a,
      own,
      middle.reduce((one, half) => one.times(half), value),
    );
  }

  /** A sum-check over the axis, against the public places. */
  #taken(node: NodeOf<"taken">, axes: Axes, value: Value): void {
    const { axis } = node;
    const size = this.#shape(node.a)[axis] as number;
    const indices = this.#known(node.indices);
    const end = axis + indices.shape.length;
    const weights: Words = scattered(indices, axes.slice(axis, end), size);
    const [point, taken, one] = checkProduct(this.verifier, value, unweighted(ceilLog(size)));
    this.#requireZero(taken.minus(evaluate(weights, point, 4)), "public");
    this.#claim(node.a, [...axes.slice(0, axis), point, ...axes.slice(end)], one);
  }

  // --- 4. what is committed ---

  /** Open what is behind a root, with some claims on each of its arrays, which are claims on blocks. */
  #open(root: Uint8Array, layout: Layout, uses: number, claims: readonly (readonly Valued[])[], work: number): void {
    const placed: Claim[] = [];
    layout.blocks.forEach((blocks, index) => {
      for (const [axes, value] of claims[index] ?? []) {
        const parts = blocks.map((block) => partOf(block, axes));
        const said = blocks.length > 1 ? this.verifier.receiveElements("blocks", blocks.length) : [value];
        const whole = sum(parts.map(([weight], at) => weight.times(said[at] as Value)));
        this.#requireZero(whole.minus(value), "blocks");
        parts.forEach(([, point], at) => {
          placed.push({ point, value: said[at] as Value, offset: blocks[at]?.offset ?? 0 });
        });
      }
    });
    if (placed.length === 0) return;
    const { verifier } = this;
    if (verifier instanceof MaskedVerifier) checkMaskedOpenings(verifier, root, layout.log, uses, placed, work);
    else checkOpenings(verifier, root, layout.log, placed, work);
  }

  /** Refuse what was said unless this is zero. */
  #requireZero(value: Value, step: string): void {
    const message = "values that the prover says do not fit together";
    this.verifier.requireZero(value, "proof.equation-refuted", message, step);
  }
}

/** A public array, if it has the shape and the range that its program says. */
function fitting(array: Ints | undefined, program: Program, operation: number): Ints {
  const value = program.values[operation];
  const same = array && value && array.shape.join() === value.shape.join();
  if (!same || array.numbers.some((number) => number < value.low || number > value.high)) {
    refuse("proof.statement-invalid", "a public array has another shape or range than its program says");
  }
  return array;
}

function digest({ numbers }: Ints): Uint8Array {
  return sha256(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
}
