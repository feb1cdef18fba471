/**
 * Masked messages, as their verifier hears them (docs/spec/proof-zk.md, "Masked messages").
 *
 * The prover adds a pad to every element of K that it says, and has committed to all pads before. What a message means
 * is then a `Hidden` number: the verifier computes with it as with any other, but sees only which affine form in the
 * pads comes out. What has to be zero is collected; one last argument shows all of it.
 *
 * - The verifier's steps are those of the succinct mode, line by line: they compute with `Value`s.
 * - A hidden number has no value here: code that hashes, binds or encodes one passes no compiler, and fails.
 * - Only messages are multiplied with each other; their product is that of two pads and an affine form.
 */
import type { Claim } from "./claims.ts";
import { checkFold } from "./commitment.ts";
import { refuse } from "./errors.ts";
import { elements, type K, MINUS_ONE, ONE, type Point, seen, type Value, ZERO } from "./field.ts";
import { checkHidden, type Equation, HidingShape, type Opening } from "./hiding.ts";
import { HASH_BYTES, type Refusal, u64, Verifier } from "./transcript.ts";

/** An element of K that the verifier does not see: a node of its equations. */
class Hidden implements Value {
  constructor(
    readonly equations: Equations,
    readonly node: number,
  ) {}

  plus(other: Value): Hidden {
    if (other instanceof Hidden) return this.equations.affine(ZERO, [ONE, this], [ONE, other]);
    return this.equations.affine(seen(other), [ONE, this]);
  }

  minus(other: Value): Hidden {
    return this.plus(other.times(MINUS_ONE));
  }

  times(other: Value): Hidden {
    if (other instanceof Hidden) return this.equations.product(this, other);
    return this.equations.affine(ZERO, [seen(other), this]);
  }
}

/** What has to hold, in numbers that are hidden: nodes, each a constant and terms in nodes before it. */
class Equations {
  readonly #constants: K[] = [];
  readonly #terms: (readonly (readonly [factor: K, number: Hidden])[])[] = [];
  readonly #messages = new Map<number, number>(); // numbers of pads, by node
  readonly #products = new Map<number, readonly [left: number, right: number]>(); // of pads, by node
  readonly #zeros: (readonly [node: number, opening: ((by: K) => Opening) | undefined])[] = [];

  /** How many messages there were. */
  get messages(): number {
    return this.#messages.size;
  }

  /** How many numbers have to be zero. */
  get zeros(): number {
    return this.#zeros.length;
  }

  /** constant + Σ factor · number */
  affine(constant: K, ...terms: readonly (readonly [factor: K, number: Hidden])[]): Hidden {
    this.#terms.push(terms);
    return new Hidden(this, this.#constants.push(constant) - 1);
  }

  /** What a message means: what was said, less the next pad. */
  message(said: K): Hidden {
    const heard = this.affine(said);
    this.#messages.set(heard.node, this.#messages.size);
    return heard;
  }

  /** (s − p)(t − q) = s (t − q) + t (s − p) − s t + p q, for messages s and t with pads p and q. */
  product(one: Hidden, other: Hidden): Hidden {
    const [left, right] = [this.#messages.get(one.node), this.#messages.get(other.node)];
    if (left === undefined || right === undefined) {
      throw new TypeError("only messages can be multiplied while they are hidden");
    }
    const [s, t] = [this.#constants[one.node] as K, this.#constants[other.node] as K];
    const out = this.affine(s.times(t).times(MINUS_ONE), [s, other], [t, one]);
    this.#products.set(out.node, [left, right]);
    return out;
  }

  /** Collect that a number is zero; or what a commitment has, by its opening, times a factor. */
  require(zero: Hidden, opening?: (by: K) => Opening): void {
    this.#zeros.push([zero.node, opening]);
  }

  /** The sum of all equations, each times a power of `by`: what it says of pads and of commitments. */
  combined(by: K): [Equation, Opening[]] {
    const openings: Opening[] = [];
    const counts = this.#constants.map(() => ZERO); // of each node in the sum
    const count = (node: number, more: K) => {
      counts[node] = (counts[node] as K).plus(more);
    };
    let power = ONE;
    for (const [node, opening] of this.#zeros) {
      count(node, power);
      if (opening) openings.push(opening(power.times(MINUS_ONE)));
      power = power.times(by);
    }
    let constant = ZERO;
    for (let node = counts.length - 1; node >= 0; node--) {
      const own = counts[node] as K;
      constant = constant.minus(own.times(this.#constants[node] as K));
      for (const [factor, before] of this.#terms[node] ?? []) count(before.node, own.times(factor));
    }
    const linear = Array.from(this.#messages.keys(), (node) => (counts[node] as K).times(MINUS_ONE));
    const factors = Array.from(this.#products.keys(), (node) => counts[node] as K);
    return [{ linear, products: [...this.#products.values()], factors, constant }, openings];
  }
}

/** A verifier of masked messages. */
export class MaskedVerifier extends Verifier {
  /** What has to hold if the prover did not deceive. */
  readonly equations = new Equations();
  readonly #count: bigint;
  readonly #pads: Uint8Array;

  constructor(proof: Uint8Array, uses: number, heard?: (bytes: number) => void) {
    super(proof, heard);
    this.bind("masked", u64(uses));
    const count = this.receiveBytes("count", 8);
    this.#count = new DataView(count.buffer).getBigUint64(0, true);
    this.bind("pads", count);
    this.#pads = this.receiveBytes("pads", HASH_BYTES);
  }

  /** A claim's point alone: its value follows from messages and challenges, which are bound. */
  override bindClaim(_: Value, point: Point): void {
    this.bindElements("claim", point);
  }

  /** Hear elements of K, each with a pad. */
  override receiveElements(label: string, count: number): Value[] {
    return elements(this.receive(label, 2 * count)).map((said) => this.equations.message(said));
  }

  /** Collect what is hidden; refuse the rest at once. */
  override requireZero(value: Value, ...refusal: Refusal): void {
    if (value instanceof Hidden) this.equations.require(value);
    else super.requireZero(value, ...refusal);
  }

  /** Nothing: it is asked for where zero is no likelier than the error that was added already. */
  override requireNotZero(): void {}

  /** Hear that all equations hold, and the end of the proof. */
  override finish(): void {
    if (this.#count !== BigInt(this.equations.messages)) {
      refuse("proof.malformed", "there are other messages than pads for them", "pads");
    }
    this.soundness.joined(Math.max(this.equations.zeros, 1));
    checkHidden(this, this.#pads, ...this.equations.combined(this.challenge("equations")));
    super.finish();
  }
}

/** Check claims on a hidden array of 2^log elements, as far as rows go; the rest is an equation. */
export function checkMaskedOpenings(
  verifier: MaskedVerifier,
  root: Uint8Array,
  log: number,
  uses: number,
  claims: readonly Claim[],
  work: number,
): void {
  const shape = HidingShape.of(log, uses);
  const { point, left, weights } = checkFold(verifier, log, shape.positions, claims, work);
  const { equations } = verifier;
  const value = left instanceof Hidden ? left : equations.affine(seen(left));
  equations.require(value, (by) => ({ root, log, uses, shape, point, weights: weights(by), work }));
}
