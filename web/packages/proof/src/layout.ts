/**
 * How arrays lie in one committed array: cut into blocks whose axes are powers of two, without any padding.
 *
 * Spec: docs/spec/proof-statement.md, "Commitments". An axis of n is cut as n is written in bits: 768 is 512 and 256.
 */
import { ceilLog, placed } from "./claims.ts";
import { bits, equal, type K, ONE } from "./field.ts";
import type { Shape } from "./operations.ts";
import type { Axes } from "./points.ts";

/** A part of an array: its first place and its size along each axis, and its place in the whole. */
export interface Block {
  readonly start: readonly number[];
  readonly logs: readonly number[];
  readonly offset: number;
}

/** At a point of the array: the weight of a block's value, and the point of that. */
export function partOf(block: Block, axes: Axes): [weight: K, point: K[]] {
  let weight = ONE;
  const point: K[] = [];
  axes.forEach((axis, index) => {
    const log = block.logs[index] as number;
    const above = axis.length - log;
    const start = (block.start[index] as number) / 2 ** log;
    weight = weight.times(equal(bits(start, above), axis.slice(0, above)));
    point.push(...axis.slice(above));
  });
  return [weight, point];
}

/** The blocks of each array, and the log of the size of the whole. */
export interface Layout {
  readonly blocks: readonly (readonly Block[])[];
  readonly log: number;
}

/** Place arrays of these shapes, the largest blocks first. */
export function layoutOf(shapes: readonly Shape[]): Layout {
  const pieces = shapes.map(cut);
  const [offsets, log] = placed(pieces.flat().map(({ logs }) => logs.reduce((total, one) => total + one, 0)));
  let at = 0;
  const blocks = pieces.map((own) => own.map((block) => ({ ...block, offset: offsets[at++] as number })));
  return { blocks, log };
}

function cut(shape: Shape): Omit<Block, "offset">[] {
  let blocks: Omit<Block, "offset">[] = [{ start: [], logs: [] }];
  for (const size of shape) {
    const pieces = axis(size);
    blocks = blocks.flatMap(({ start, logs }) =>
      pieces.map(([at, log]) => ({ start: [...start, at], logs: [...logs, log] })),
    );
  }
  return blocks;
}

function axis(size: number): [start: number, log: number][] {
  const pieces: [number, number][] = [];
  for (let [at, log] = [0, ceilLog(size)]; at < size; log--) {
    if (at + 2 ** log > size) continue;
    pieces.push([at, log]);
    at += 2 ** log;
  }
  return pieces;
}
