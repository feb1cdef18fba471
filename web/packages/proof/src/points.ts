/**
 * Points by the axes of an array, and what a verifier computes at them by itself.
 *
 * Arrays are padded with zeros to powers of two in all axes; a coordinate belongs to one bit of one axis.
 */
import { ceilLog } from "./claims.ts";
import { equality, evaluate, following, type K, type Point, signed, totalAt, type Words } from "./field.ts";
import { inside, logs } from "./lookups.ts";
import type { Ints, Shape } from "./operations.ts";

export type Axes = readonly Point[];

export function byAxis(point: Point, shape: Shape): Axes {
  let at = 0;
  return logs(shape).map((log) => {
    at += log;
    return point.slice(at - log, at);
  });
}

/** The point of an array that is broadcast: without the axes that it does not have. */
export function restricted(axes: Axes, shape: Shape): Axes {
  const own = axes.slice(axes.length - shape.length);
  return shape.map((size, index) => (size > 1 ? (own[index] as Point) : []));
}

/** `inside` of the axes along which an array of shape `own` is broadcast to `shape`. */
export function outerInside(shape: Shape, own: Shape, axes: Axes): K {
  const missing = shape.length - own.length;
  const spread = [...shape.keys()].filter(
    (axis) => (axis < missing || own[axis - missing] === 1) && (shape[axis] as number) > 1,
  );
  return inside(
    spread.map((axis) => shape[axis] as number),
    spread.flatMap((axis) => axes[axis] as Point),
  );
}

/** The multilinear extension of a public array. */
export function publicValue(array: Ints, axes: Axes): K {
  return evaluate(signed(padded(array)), axes.flat(), 2);
}

/**
 * The multilinear extension of 1 at the chosen place of each row of `size`, or at all places before it.
 *
 * Never makes that array: its rows' weights go to the places that they chose.
 */
export function maskValue(chosen: Ints, axes: Axes, size: number, before: boolean): K {
  const weights = scattered(chosen, axes.slice(0, -1), size);
  return evaluate(before ? following(weights) : weights, axes.at(-1) as Point, 4);
}

/** For each place j of an axis Σ eq(where, i) over the i with indices_i = j, in K. */
export function scattered(indices: Ints, where: Axes, size: number): Words {
  const weights = equality(where.flat());
  const own = new Uint32Array(4 * indices.numbers.length);
  places(indices.shape).forEach((place, at) => {
    own.set(weights.subarray(4 * place, 4 * place + 4), 4 * at);
  });
  return totalAt(Array.from(indices.numbers, Number), own, 2 ** ceilLog(size));
}

/** An array with all axes padded with zeros to powers of two. */
function padded({ shape, numbers }: Ints): BigInt64Array<ArrayBuffer> {
  const out = new BigInt64Array(2 ** logs(shape).reduce((total, log) => total + log, 0));
  const row = shape.at(-1) ?? 1; // rows lie together
  places(shape.slice(0, -1)).forEach((place, at) => {
    out.set(numbers.subarray(at * row, (at + 1) * row), place * 2 ** ceilLog(row));
  });
  return out;
}

/** Where the entries of an array of this shape lie when all of its axes are padded. */
function places(shape: Shape): number[] {
  return shape.reduce<number[]>(
    (outer, size) => outer.flatMap((at) => Array.from({ length: size }, (_, one) => at * 2 ** ceilLog(size) + one)),
    [0],
  );
}
