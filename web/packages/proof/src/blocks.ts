/** Layers of neural networks in integers (docs/spec/proof-programs.md, "Models"): port of `mitai.proof.models.blocks`. */
import { type Graph, MOST_FRACTION, type Tensor, WORD } from "./graph.ts";
import { bitLength, type Shape } from "./operations.ts";
import { erf, exp, frexp, tanh } from "./reproducible.ts";

const COARSE = 4; // how many bits of fraction less than a word weights may have
const FINE = 15; // of fraction of weights, where it costs nothing
const STREAM_FRACTION = 8; // at least, of what is added up from layer to layer, if there is room
export const NORM_FRACTION = 10; // of normalised numbers, at most
const FACTOR_BITS = 17;
const MEAN_BITS = 16;
const SQUARE_BITS = 28;
const BIAS_BITS = 40;
const GAIN_BITS = 14;
const SHARE_FRACTION = 15; // of the numbers that a softmax adds up
const RECIPROCAL_FRACTION = 17; // of what they are divided by
const SCORE_BITS = 15;
const SCORE_FRACTION = 10;
const FAR = 2 ** 15; // what is hidden lies so far below, in steps of scores

interface Options {
  readonly bias?: boolean;
  readonly stream?: number;
}

/** x times a weight, such that cutting to this fraction takes a word where possible. */
function product(x: Tensor, name: string, shape: Shape, fraction: number): Tensor {
  const places = WORD + fraction - x.fraction;
  return x.matmul(x.graph.weight(`${name}.weight`, shape, places < WORD - COARSE ? FINE : places));
}

/** Add a weight. */
function biased(x: Tensor, name: string, shape: Shape): Tensor {
  return x.plus(x.graph.weight(`${name}.bias`, shape, x.fraction, BIAS_BITS));
}

/** How much fraction numbers that are added up may have, so that a row's squares stay below 2^62. */
export function stream(graph: Graph, names: readonly string[], width: number): number {
  const most = names.reduce((total, name) => total + 2 ** graph.room(name), 0);
  const bits = frexp(most)[1] + 2; // of them, less their mean
  return Math.min(MOST_FRACTION, Math.floor((61 - bitLength(BigInt(width))) / 2) - bits);
}

/** A linear layer's result, with `out` numbers a row; what goes into a `stream` has its fraction at most. */
export function dense(x: Tensor, name: string, out: number, { bias, stream }: Options = {}): Tensor {
  const [fraction, bits] = place(x, name, stream);
  const result = product(x, name, [x.length(-1), out], fraction);
  return (bias ? biased(result, name, [out]) : result).cut(fraction, bits);
}

/** A linear layer's result for each head, [groups, shared, n, size], not cut yet. */
export function heads(x: Tensor, name: string, shape: Shape, fraction: number, bias: boolean): Tensor {
  const [outer, size] = [shape.slice(0, -1), shape.at(-1) as number];
  const result = product(x, name, [...outer, x.length(-1), size], fraction);
  return bias ? biased(result, name, [...outer, 1, size]) : result;
}

/** Normalise the last axis: RMS norm, or layer norm if it is centred; with its gain and bias if it is affine. */
export function norm(x: Tensor, name: string, eps: number, { centred = false, affine = false } = {}): Tensor {
  const { graph } = x;
  const width = x.length(-1);
  let row = x;
  if (centred) {
    const mean = x.sum(-1).times(graph.constant([1], Float64Array.of(1 / width), MEAN_BITS));
    row = x.minus(mean.cut(x.fraction, x.bits + 1));
  }
  const whole = row
    .times(row)
    .sum(-1)
    .plusNumber(eps * width);
  const square = whole.cut(...graph.place(`${name}.square`, SQUARE_BITS, { most: whole.fraction, spare: 1 }));
  let [fraction, bits] = graph.place(name, WORD, { most: NORM_FRACTION });
  // no number is above √width
  if (!affine) fraction = Math.max(fraction, WORD - 1 - ((bitLength(BigInt(width)) + 1) >> 1));
  const most = WORD + fraction - row.fraction;
  const [places] = graph.place(`${name}.factor`, FACTOR_BITS + 1, { most });
  let result = row.times(square.reciprocalRoot(places, FACTOR_BITS, width));
  if (affine) result = result.times(graph.weight(`${name}.weight`, [width], GAIN_BITS));
  if (affine && centred) result = biased(result, name, [width]);
  return result.cut(fraction, bits);
}

/**
 * softmax(queries · keys) · values, where each place sees itself and those before it, for scores that are scaled already.
 *
 * Queries are [groups, shared, n, size], keys and values [groups, 1, n, size].
 */
export function attention(queries: Tensor, keys: Tensor, values: Tensor, name: string): Tensor {
  const { graph } = queries;
  const n = queries.length(-2);
  let scores = queries.matmul(keys.swap());
  const [fraction] = graph.place(`${name}.scores`, SCORE_BITS, { most: SCORE_FRACTION });
  const visible = Float64Array.from({ length: n * n }, (_, at) => (at % n <= Math.floor(at / n) ? 1 : 0));
  const seen = n > 1 ? graph.constant([n, n], visible) : undefined;
  if (seen) {
    const hidden = -FAR * 0.5 ** fraction;
    const far = graph.constant(
      [n, n],
      visible.map((one) => (one ? 0 : hidden)),
      scores.fraction,
    );
    scores = scores.times(seen).plus(far); // what is hidden is one number, whatever it was
  }
  const share = (gap: number) => exp(-(gap === 0 ? 0 : gap + 0.5 ** (fraction + 1))); // the middle of its step
  let shares = scores.gap(-1, fraction).function(share, SHARE_FRACTION);
  if (seen) shares = shares.times(seen);
  const total = shares.sum(-1).reciprocal(RECIPROCAL_FRACTION, RECIPROCAL_FRACTION + 1);
  // a mean is no larger than what it is of
  return shares
    .matmul(values)
    .times(total)
    .cut(values.fraction, bitLength(values.value.high) + 1);
}

/** The layer after attention [n, width]: a sum over heads [groups, shared, n, size]. */
export function mix(x: Tensor, name: string, width: number, { bias, stream }: Options): Tensor {
  const [fraction, bits] = place(x, name, stream);
  const [groups, shared, n, size] = x.shape as [number, number, number, number];
  const total = product(x, name, [groups, shared, size, width], fraction).sum(0).sum(1).reshape(n, width);
  return (bias ? biased(total, name, [width]) : total).cut(fraction, bits);
}

function place(x: Tensor, name: string, stream?: number): [fraction: number, bits: number] {
  const limits = stream === undefined ? {} : { most: stream, least: Math.min(stream, STREAM_FRACTION) };
  return x.graph.place(name, WORD, limits);
}

/** Look up an activation. */
export function activation(x: Tensor, name: keyof typeof ACTIVATIONS): Tensor {
  return x.function(ACTIVATIONS[name]);
}

function geluTanh(x: number): number {
  return (x * (1 + tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)))) / 2;
}

const ACTIVATIONS = {
  silu: (x: number) => x / (1 + exp(-x)),
  gelu: (x: number) => (x * (1 + erf(x / Math.sqrt(2)))) / 2,
  gelu_new: geluTanh,
  gelu_pytorch_tanh: geluTanh,
} as const;
