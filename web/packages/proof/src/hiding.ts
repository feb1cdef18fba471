/**
 * The last argument of a proof that hides: one equation of committed numbers (docs/spec/proof-zk.md, "Last argument").
 *
 * The prover has committed to random numbers, *pads*, and to arrays, all of them hiding. It shows one equation
 *
 *     Σ_j linear_j · pad_j  +  Σ factor · pad_left · pad_right  +  Σ_k Σ_c weights_k,c · u_k,c  =  constant
 *
 * where u_k is the combination of the k-th array's rows at a point of challenges, and nothing beyond that.
 *
 * - Work and length follow from the number of pads and products and from the arrays' sizes alone.
 * - The equation is bound before anything is drawn here; pads and arrays were bound before the equation was known.
 */
import { concat } from "@mitai/verify";
import { ceilLog } from "./claims.ts";
import { checkPaths, hashed, inner, leafHashes, MAX_LOG } from "./commitment.ts";
import { refuse } from "./errors.ts";
import {
  elements,
  encodedAt,
  equality,
  type K,
  ONE,
  type Point,
  sum,
  type Words,
  weighted,
  words,
  ZERO,
} from "./field.ts";
import { HIDING_QUERIES, hiddenOpening, LOG_BLOWUP } from "./soundness.ts";
import { HASH_BYTES, u64, type Verifier } from "./transcript.ts";

const SALTED = 2; // first byte of what is hashed to a leaf
export const MAX_USES = 2 ** 12;

/** How 2^(positions + rows) elements are a matrix whose rows are encoded with random coefficients at their ends. */
export class HidingShape {
  private constructor(
    /** The log of the number of elements in a row. */
    readonly positions: number,
    /** The log of the number of rows. */
    readonly rows: number,
    /** How many random coefficients each row has: no more places may ever be shown. */
    readonly margin: number,
    /** The log of the number of encoded columns. */
    readonly leaves: number,
  ) {}

  /** Of 2^log elements that can be opened so often; of rows whose products are words, too. */
  static of(log: number, uses = 1, multiplied = false): HidingShape {
    if (log > MAX_LOG || uses < 1 || uses > MAX_USES) {
      const message = `arrays of up to 2^${MAX_LOG} elements can be hidden, for up to ${MAX_USES} uses`;
      refuse("proof.statement-invalid", message);
    }
    const margin = uses * HIDING_QUERIES;
    const rows = Math.max(0, Math.min(Math.floor((log - 6) / 2), log - ceilLog((2 * margin) / 3)));
    const degree = (2 ** (log - rows) + margin) * (multiplied ? 2 : 1);
    return new HidingShape(log - rows, rows, margin, ceilLog((16 * degree) / 5));
  }

  /** Of so many pads: elements of K, so that a row of it is two that are encoded. */
  static ofPads(count: number): HidingShape {
    return HidingShape.of(ceilLog(count), 1, true);
  }

  /** The number of coefficients of an encoded row. */
  get coefficients(): number {
    return 2 ** this.positions + this.margin;
  }

  /** A fourth of the number of encoded columns. */
  get size(): number {
    return 2 ** (this.leaves - LOG_BLOWUP);
  }

  /** How many rows of this length the left factors of products have, and the right ones again. */
  factorRows(products: number): number {
    return 2 ** ceilLog(products / 2 ** this.positions);
  }
}

/** Σ linear_j · pad_j + Σ factor · pad_left · pad_right + what the openings add = constant. */
export interface Equation {
  /** For each pad. */
  readonly linear: Point;
  /** The left and the right pad of each. */
  readonly products: readonly (readonly [left: number, right: number])[];
  /** What each product counts. */
  readonly factors: Point;
  readonly constant: K;
}

/** What a committed array adds to the equation: Σ_c weights_c · u_c for u_c = Σ_r eq(point, r) · array(c, r). */
export interface Opening {
  readonly root: Uint8Array;
  readonly log: number;
  /** How often it may be opened. */
  readonly uses: number;
  readonly shape: HidingShape;
  /** A challenge for each bit of a row's number. */
  readonly point: Point;
  /** One of K for each position. */
  readonly weights: Words;
  /** How many bits of it come before what its error depends on. */
  readonly work: number;
}

/**
 * Check an equation about pads behind a root, and arrays behind other ones.
 *
 * 1. The prover commits to both factors of each product, and to masks; it says what the masks add to the sum.
 * 2. Challenges: β joins the equation with those of the factors, δ multiplies all that is masked.
 * 3. The prover says for each commitment mask + δ · combination of its rows, and mask + δ · polynomial of the sum.
 * 4. These add up to the constant.
 * 5. They are encoded, and compared with columns of the commitments.
 */
export function checkHidden(
  verifier: Verifier,
  pads: Uint8Array,
  equation: Equation,
  openings: readonly Opening[],
): void {
  const shape = HidingShape.ofPads(equation.linear.length);
  const { size, coefficients } = shape;
  bindEquation(verifier, equation, openings);
  // 1. what is fixed
  const factors = verifier.receiveBytes("products", HASH_BYTES);
  const padsMask = verifier.receiveBytes("mask", HASH_BYTES);
  const masks = openings.map(() => verifier.receiveBytes("mask", HASH_BYTES));
  const [masked] = elements(verifier.receive("sum", 2)) as [K];
  // 2. what is drawn
  const rows = shape.factorRows(equation.products.length); // of left factors, and of right ones again
  const foldBits = ceilLog(2 * 2 ** shape.rows + 4 * rows);
  verifier.work(Math.max(0, ...openings.map(({ work }) => work)));
  const [beta, delta, ...fold] = verifier.challenges("hidden", 2 + foldBits) as [K, K, ...K[]];
  // 3. what is masked
  const folded = verifier.receive("combination", 2 * coefficients);
  const polynomial = verifier.receive("polynomial", 2 * (2 * coefficients - 1));
  const combinations = openings.map((opening) => verifier.receive("combination", 2 * opening.shape.coefficients));
  // 4. the sum
  const middle = 4 * (2 ** shape.positions - 1); // words
  const [whole] = elements(polynomial.slice(middle, middle + 4)) as [K];
  const total = sum([whole, ...openings.map(({ weights }, at) => inner(weights, combinations[at] as Words))]);
  if (!total.equals(masked.plus(delta.times(equation.constant)))) {
    refuse("proof.hidden-refuted", "hidden numbers do not satisfy the verifier's equations", "sum");
  }
  // 5. the columns
  const places = verifier.places("columns", HIDING_QUERIES, shape.leaves);
  const own = receiveColumns(verifier, pads, shape, places, 2 * 2 ** shape.rows);
  const others = receiveColumns(verifier, factors, shape, places, 4 * rows);
  const mask = receiveColumns(verifier, padsMask, shape, places, 4).map(elements);
  const committed = own.map((column, at) => joined(column, others[at] as Words));
  const weights = equality(fold);
  compare(
    mask.map(([first]) => first as K),
    delta,
    committed.map((column) => combination(weights, column)),
    encodedAt(folded, places, size),
  );
  const by = polynomials(equation, shape, rows, beta).map((row) => elements(encodedAt(row, places, size)));
  const sums = committed.map((column, place) => {
    const said = elements(column);
    const [x, y] = [said.slice(-2 * rows, -rows), said.slice(-rows)];
    const linear = said.map((one, row) => one.times(by[row]?.[place] as K));
    return sum([...linear, ...x.map((one, row) => one.times(y[row] as K))]);
  });
  compare(
    mask.map(([, second]) => second as K),
    delta,
    sums,
    encodedAt(polynomial, places, size),
  );
  const terms = rows * 2 ** shape.positions + equation.products.length;
  verifier.soundness.hidden(coefficients, shape.leaves, foldBits, terms);
  openings.forEach((opening, at) => {
    checkOpening(verifier, opening, masks[at] as Uint8Array, delta, combinations[at] as Words);
  });
}

/** Bind what is to be shown, before anything of the last argument. */
function bindEquation(verifier: Verifier, equation: Equation, openings: readonly Opening[]): void {
  verifier.bindElements("equation", equation.linear);
  verifier.bind("products", new Uint8Array(BigUint64Array.from(equation.products.flat(), BigInt).buffer));
  verifier.bindElements("factors", equation.factors);
  verifier.bindElements("constant", [equation.constant]);
  for (const { log, uses, root, point, weights } of openings) {
    verifier.bind("opening", concat(Uint8Array.of(log), u64(uses), root));
    verifier.bindElements("point", point);
    verifier.bind("weights", new Uint8Array(weights.buffer));
  }
}

/**
 * What each row of K is multiplied with: coefficients of polynomials, one for each position.
 *
 * Rows are those of pads, of left factors X_t = pad_left, and of right ones Y_t = factor · pad_right, which stand in the
 * order of positions reversed. X_t is zero where there is no product, so that Y_t does not count there.
 * In a product of two polynomials, Σ_c a_c b_c is a coefficient if one of them is reversed: that of
 * X^(2^positions − 1).
 */
function polynomials(equation: Equation, shape: HidingShape, rows: number, beta: K): Words[] {
  const size = 2 ** shape.positions;
  const table = (count: number): K[] => Array.from({ length: size * count }, () => ZERO);
  const [linear, x, y] = [table(2 ** shape.rows), table(rows), table(rows)];
  equation.linear.forEach((one, at) => {
    linear[at] = one;
  });
  let power = ONE;
  for (const place of x.keys()) {
    power = power.times(beta);
    x[place] = power;
  }
  const less = (pad: number, by: K) => {
    linear[pad] = (linear[pad] as K).minus(by);
  };
  equation.products.forEach(([left, right], at) => {
    power = power.times(beta);
    y[at] = power;
    less(left, x[at] as K);
    less(right, power.times(equation.factors[at] as K));
  });
  return [...matrix(linear, size, true), ...matrix(x, size, true), ...matrix(y, size, false)];
}

/** The rows of a matrix of so many positions, the last of them first if reversed. */
function matrix(table: Point, size: number, reversed: boolean): Words[] {
  const rows = table.length / size;
  return Array.from({ length: rows }, (_, row) => {
    const own = Array.from({ length: size }, (_, position) => table[position * rows + row] as K);
    return words(reversed ? own.reverse() : own);
  });
}

/** Check that mask + δ · combination of an array's rows is what was said. */
function checkOpening(verifier: Verifier, opening: Opening, root: Uint8Array, delta: K, said: Words): void {
  const { shape, work } = opening;
  verifier.work(work);
  const places = verifier.places("columns", HIDING_QUERIES, shape.leaves);
  const columns = receiveColumns(verifier, opening.root, shape, places, 2 ** shape.rows);
  const masks = receiveColumns(verifier, root, shape, places, 2).flatMap(elements);
  const weights = equality(opening.point);
  const combined = columns.map((column) => combination(weights, column));
  compare(masks, delta, combined, encodedAt(said, places, shape.size));
  verifier.soundness.add(hiddenOpening(shape.coefficients, shape.leaves, shape.rows), work);
}

/** Hear columns of so many elements of F, and check that they are in a tree. */
function receiveColumns(
  verifier: Verifier,
  root: Uint8Array,
  shape: HidingShape,
  places: readonly number[],
  width: number,
): Words[] {
  const columns = verifier.receive("columns", places.length * width);
  const salts = verifier.receiveBytes("salts", places.length * HASH_BYTES);
  const leaves = leafHashes(columns, places.length).map((hash, at) => {
    return hashed(SALTED, hash, salts.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES));
  });
  checkPaths(verifier, root, shape.leaves, places, leaves);
  return places.map((_, at) => columns.slice(2 * width * at, 2 * width * (at + 1)));
}

/** Σ weights_i · column_i, for the first of the weights. */
function combination(weights: Words, column: Words): K {
  return elements(weighted(weights.subarray(0, 2 * column.length), column, 2))[0] as K;
}

/** Refuse unless mask + δ · hidden is what was said, at each place. */
function compare(masks: Point, delta: K, hidden: Point, said: Words): void {
  const same = elements(said).every((one, at) => {
    return (masks[at] as K).plus(delta.times(hidden[at] as K)).equals(one);
  });
  if (!same) refuse("proof.column-refuted", "encoded columns are not a part of what was said", "hidden");
}

function joined(one: Words, other: Words): Words {
  const out = new Uint32Array(one.length + other.length);
  out.set(one);
  out.set(other, one.length);
  return out;
}
