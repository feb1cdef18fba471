/**
 * Many claims on one array become one (docs/spec/proof.md, "Claims on one array").
 *
 * The array may hold arrays of several sizes, each at a multiple of its size (`placed`): one commitment to all of them.
 */
import { refuse } from "./errors.ts";
import { bits, equal, type K, type Point, type Value, ZERO } from "./field.ts";
import { checkProduct, unweighted } from "./sumcheck.ts";
import { u64, type Verifier } from "./transcript.ts";

/** That the 2^(point's length) elements from `offset` on have the multilinear extension `value` at `point`. */
export interface Claim {
  readonly point: Point;
  readonly value: Value;
  readonly offset: number;
}

/** A claim's point within the whole array of 2^log elements. */
function fullPoint({ point, offset }: Claim, log: number): K[] {
  const size = 2 ** point.length;
  if (point.length > log || offset % size || offset < 0 || offset >= 2 ** log) {
    refuse("proof.statement-invalid", "a claim is on elements that the array does not have");
  }
  return [...bits(offset / size, log - point.length), ...point];
}

/** Place arrays of 2^log elements, the largest first; return their offsets, and the log of the size of the whole. */
export function placed(logs: readonly number[]): [offsets: number[], log: number] {
  const offsets = logs.map(() => 0);
  let at = 0;
  for (const index of [...logs.keys()].sort((a, b) => (logs[b] as number) - (logs[a] as number))) {
    offsets[index] = at;
    at += 2 ** (logs[index] as number);
  }
  return [offsets, ceilLog(at)];
}

/** How many bits it takes to number so many things. */
export function ceilLog(count: number): number {
  let log = 0;
  while (2 ** log < count) log++;
  return log;
}

/** Check claims on one array of 2^log elements; return the one that is left, at a point of challenges. */
export function checkClaims(verifier: Verifier, log: number, claims: readonly Claim[]): Claim {
  const [points, gamma, value] = combined(verifier, log, claims);
  const [point, f, e] = checkProduct(verifier, value, unweighted(log));
  const expected = powersSum(
    gamma,
    points.map((one) => equal(one, point)),
  );
  const message = "claims on one array were not combined as drawn";
  verifier.requireZero(e.minus(expected), "proof.claims-refuted", message, "claims");
  return { point, value: f, offset: 0 };
}

/** Bind claims and draw what combines them; return their full points, the challenge, and the combined value. */
export function combined(verifier: Verifier, log: number, claims: readonly Claim[]): [Point[], K, Value] {
  if (claims.length === 0) refuse("proof.statement-invalid", "there are no claims to join");
  const points = claims.map((claim) => fullPoint(claim, log));
  for (const { point, value, offset } of claims) {
    verifier.bind("offset", u64(offset));
    verifier.bindClaim(value, point);
  }
  const gamma = verifier.challenge("claims");
  verifier.soundness.joined(claims.length);
  const value = powersSum(
    gamma,
    claims.map((claim) => claim.value),
  );
  return [points, gamma, value];
}

/** terms[0] + base · terms[1] + base² · terms[2] and so on. */
export function powersSum(base: K, terms: Point): K;
export function powersSum(base: K, terms: readonly Value[]): Value;
export function powersSum(base: K, terms: readonly Value[]): Value {
  return terms.reduceRight<Value>((out, term) => out.times(base).plus(term), ZERO);
}
