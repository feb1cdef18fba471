/**
 * Look-ups (docs/spec/proof.md, "Look-ups"): all entries of some columns are entries of a public table.
 *
 * Columns and multiplicities were committed to, and bound, before; what is returned are claims on them.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { type Claim, ceilLog, placed, powersSum } from "./claims.ts";
import { refuse } from "./errors.ts";
import { bits, equal, evaluate, K, ONE, type Point, signed, type Value, type Words, ZERO } from "./field.ts";
import type { Shape } from "./operations.ts";
import { lookups } from "./soundness.ts";
import { checkRounds } from "./sumcheck.ts";
import type { Verifier } from "./transcript.ts";

const MAX_TABLE = 2 ** 16;
const MAX_LOG = 34;

/** A public table: for each x = 0, 1, 2 … the entry x, or (x, f(x)); the last one is repeated up to a power of two. */
export class Table {
  readonly log: number;
  readonly width: number;
  readonly #values: BigInt64Array<ArrayBuffer> | undefined;

  constructor(
    readonly size: number,
    values?: BigInt64Array<ArrayBuffer>,
  ) {
    if (size < 1 || size > MAX_TABLE) refuse("proof.statement-invalid", `a table has 1 to ${MAX_TABLE} entries`);
    this.log = ceilLog(size);
    this.width = values ? 2 : 1;
    this.#values = values;
  }

  /** SHA-256 over all residues, one component after the other. */
  get digest(): Uint8Array {
    const hash = sha256.create();
    for (const component of this.#components()) hash.update(new Uint8Array(component.buffer));
    return hash.digest();
  }

  /** The multilinear extension of each component. */
  evaluate(point: Point): K[] {
    const [numbers, ...values] = this.#components();
    const out = values.map((component) => evaluate(component, point, 2));
    if (numbers && this.size < 2 ** this.log) return [evaluate(numbers, point, 2), ...out];
    return [powersSum(K.of(2), [...point].reverse()), ...out]; // x is its bits, which are the coordinates
  }

  #components(): Words[] {
    const size = 2 ** this.log;
    const numbers = new Uint32Array(2 * size);
    for (let at = 0; at < size; at++) numbers[2 * at] = Math.min(at, this.size - 1);
    if (!this.#values) return [numbers];
    const values = new BigInt64Array(size).fill(this.#values[this.size - 1] as bigint);
    values.set(this.#values);
    return [numbers, signed(values)];
  }
}

/** The bits of each axis of an array that is padded to powers of two. */
export function logs(shape: Shape): number[] {
  return shape.map(ceilLog);
}

/** How many bits an array's places have. */
export function logOf(shape: Shape): number {
  return logs(shape).reduce((total, log) => total + log, 0);
}

/** The multilinear extension of the function that is 1 within a shape and 0 in its padding. */
export function inside(shape: Shape, point: Point): K {
  let [out, at] = [ONE, 0];
  for (const size of shape) {
    const log = ceilLog(size);
    out = out.times(below(size, point.slice(at, at + log)));
    at += log;
  }
  return out;
}

/** The multilinear extension of x < size. */
function below(size: number, point: Point): K {
  if (size === 2 ** point.length) return ONE;
  let out = ZERO; // equal numbers are not below
  [...point].reverse().forEach((coordinate, place) => {
    const not = ONE.minus(coordinate);
    out = Math.floor(size / 2 ** place) % 2 ? coordinate.times(out).plus(not) : not.times(out);
  });
  return out;
}

/**
 * Check columns of these true shapes; return for each a claim for each component, then the claim on multiplicities.
 *
 * Work of so many bits comes before the challenges.
 */
export function checkLookups(
  verifier: Verifier,
  shapes: readonly Shape[],
  table: Table,
  work: number,
): [Claim[][], Claim] {
  const [offsets, log] = placed(shapes.map(logOf));
  if (shapes.length === 0 || log > MAX_LOG) refuse("proof.statement-invalid", `there are 1 to 2^${MAX_LOG} look-ups`);
  verifier.bind("table", table.digest);
  for (const shape of shapes) verifier.bind("column", new Uint8Array(BigUint64Array.from(shape, BigInt).buffer));
  const { width } = table;
  verifier.work(work);
  const [alpha, beta] = verifier.challenges("look-ups", 2) as [K, K];
  verifier.soundness.add(lookups(log, table.log, width), work);

  const columns = checkFractions(verifier, log);
  const said = verifier.receiveElements("columns", shapes.length * width);
  let { p, q } = columns;
  const claims = shapes.map((shape, index) => {
    const outer = log - logOf(shape);
    const own = columns.point.slice(outer);
    const components = said.slice(index * width, (index + 1) * width);
    const place = bits((offsets[index] as number) / 2 ** own.length, outer);
    const chosen = equal(place, columns.point.slice(0, outer));
    p = p.minus(chosen.times(inside(shape, own)));
    q = q.plus(chosen.times(powersSum(beta, components)));
    return components.map((value) => ({ point: own, value, offset: 0 }));
  });
  const code = "proof.lookup-refuted";
  for (const zero of [p, q.minus(alpha)]) {
    verifier.requireZero(zero, code, "columns are not what was looked up", "columns");
  }

  const entries = checkFractions(verifier, table.log);
  const expected = alpha.minus(powersSum(beta, table.evaluate(entries.point)));
  verifier.requireZero(entries.q.minus(expected), code, "the table is not the one that was looked up in", "table");
  const difference = columns.top.times(entries.bottom).minus(entries.top.times(columns.bottom));
  const message = "an entry of a column is not in the table";
  verifier.requireZero(difference, code, message, "sums");
  for (const { bottom } of [columns, entries]) verifier.requireNotZero(bottom, code, message, "sums");
  return [claims, { point: entries.point, value: entries.p, offset: 0 }];
}

/** A sum of fractions, top / bottom; and what the extensions of numerators and denominators must be at a point. */
interface Fractions {
  readonly top: Value;
  readonly bottom: Value;
  readonly point: Point;
  readonly p: Value;
  readonly q: Value;
}

/** Check a sum of 2^log fractions. */
function checkFractions(verifier: Verifier, log: number): Fractions {
  const [top, bottom] = verifier.receiveElements("sum", 2) as [Value, Value];
  let [p, q] = [top, bottom];
  let point: K[] = [];
  for (let layer = 0; layer < log; layer++) {
    const by = verifier.challenge("layer");
    const [left, value] = checkRounds(verifier, p.plus(by.times(q)), point);
    const [p0, p1, q0, q1] = verifier.receiveElements("halves", 4) as [Value, Value, Value, Value];
    const numerator = p0.times(q1).plus(q0.times(p1));
    const both = numerator.plus(by.times(q0.times(q1)));
    verifier.requireZero(both.minus(value), "proof.fractions-refuted", "fractions do not add up", `layer ${layer}`);
    const half = verifier.challenge("half");
    point = [half, ...left];
    p = p0.plus(half.times(p1.minus(p0)));
    q = q0.plus(half.times(q1.minus(q0)));
    verifier.soundness.joined(2); // by
    verifier.soundness.joined(2); // half
  }
  return { top, bottom, point, p, q };
}
