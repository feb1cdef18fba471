/** Sum-checks (docs/spec/proof.md, "Sum-check"): a claim on a sum becomes a claim on one term at a random point. */
import { HALF, type K, type Value } from "./field.ts";
import type { Verifier } from "./transcript.ts";

/** For each variable z_i where the sum's weight has the factor eq(z_i, x_i), or null where it has none. */
export type Weights = readonly (K | null)[];

/**
 * Check Σ_x w(x) g(x) = claim, for some g of degree 2 in each variable; return the point r, and what g(r) then is.
 *
 * Work of so many bits comes before each challenge.
 */
export function checkRounds(verifier: Verifier, claim: Value, weights: Weights, work = 0): [point: K[], value: Value] {
  verifier.bindClaim(
    claim,
    weights.filter((one) => one !== null),
  );
  const point: K[] = [];
  let value = claim;
  for (const weight of weights) {
    const [linear, square] = verifier.receiveElements("round", 2) as [Value, Value];
    const rest = linear.plus(square); // t(1) − t(0)
    const constant = weight ? value.minus(weight.times(rest)) : value.minus(rest).times(HALF);
    verifier.work(work);
    const r = verifier.challenge("round");
    value = constant.plus(r.times(linear.plus(r.times(square))));
    point.push(r);
  }
  verifier.soundness.rounds(weights.length);
  return [point, value];
}

/** Check Σ_x w(x) a(x) b(x) = claim; return the point r, and ã(r) and b̃(r) as the prover says: two claims. */
export function checkProduct(verifier: Verifier, claim: Value, weights: Weights): [point: K[], a: Value, b: Value] {
  const [point, value] = checkRounds(verifier, claim, weights);
  const [a, b] = verifier.receiveElements("factors", 2) as [Value, Value];
  const message = "a sum of products is not what was claimed";
  verifier.requireZero(a.times(b).minus(value), "proof.product-refuted", message, "sum-check");
  return [point, a, b];
}

/** As many weights as there are bits, none of which has a factor. */
export function unweighted(count: number): Weights {
  return Array.from({ length: count }, () => null);
}
