/**
 * What the prover has said so far, and the challenges that follow from it (docs/spec/proof.md, "Transcript").
 *
 * - A proof is its messages and nothing else; the verifier alone decides how long each of them is.
 * - Every byte of a proof is in the state, before anything is drawn after it.
 */
import { concat, utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { shake256 } from "@noble/hashes/sha3.js";
import { refuse } from "./errors.ts";
import { elements, isCanonical, K, P, type Point, seen, type Value, type Words, words, ZERO } from "./field.ts";
import { Soundness } from "./soundness.ts";

export const HASH_BYTES = 32;
export type Refusal = Parameters<typeof refuse>;
const CHALLENGES = utf8("mitai proof challenges v1\0");
const WORK = utf8("mitai proof work v1\0");
const NONCE_BYTES = 8;
const [INPUT, MESSAGE, CHALLENGE] = [0, 1, 2];

export class Verifier {
  /** How likely it is to be deceived, by all checks so far. */
  readonly soundness = new Soundness();
  #state = sha256(utf8("mitai proof transcript v1\0"));
  #at = 0;

  /** `heard` is told how many bytes of the proof have been read. */
  constructor(
    readonly proof: Uint8Array,
    readonly heard: (bytes: number) => void = () => undefined,
  ) {}

  /** Take in what both sides know. */
  bind(label: string, data: Uint8Array): void {
    this.#step(INPUT, label, data);
  }

  bindElements(label: string, all: Point): void {
    this.bind(label, new Uint8Array(words(all).buffer));
  }

  /** Take in a claim, before anything is drawn that depends on it. */
  bindClaim(value: Value, point: Point): void {
    this.bindElements("claim", [seen(value), ...point]);
  }

  /** Refuse what the prover said unless this is zero. */
  requireZero(value: Value, ...refusal: Refusal): void {
    if (!seen(value).equals(ZERO)) refuse(...refusal);
  }

  /** Refuse what the prover said if this is zero. */
  requireNotZero(value: Value, ...refusal: Refusal): void {
    if (seen(value).equals(ZERO)) refuse(...refusal);
  }

  /** Draw one element of K. */
  challenge(label: string): K {
    return this.challenges(label, 1)[0] as K;
  }

  challenges(label: string, count: number): K[] {
    const drawn = this.#draw(label, count, 32);
    const part = (at: number) => (drawn.getBigUint64(at, true) + (drawn.getBigUint64(at + 8, true) << 64n)) % P;
    return Array.from({ length: count }, (_, at) => new K(part(32 * at), part(32 * at + 16)));
  }

  /** Draw so many numbers below 2^log; return the different ones, in order. */
  places(label: string, count: number, log: number): number[] {
    const drawn = this.#draw(label, count, 8);
    const below = (1n << BigInt(log)) - 1n;
    const found = Array.from({ length: count }, (_, at) => Number(drawn.getBigUint64(8 * at, true) & below));
    return [...new Set(found)].sort((a, b) => a - b);
  }

  /** Hear so many elements of F. */
  receive(label: string, count: number): Words {
    const array = new Uint32Array(this.receiveBytes(label, 8 * count).buffer);
    if (!isCanonical(array)) refuse("proof.malformed", `a number of ${label} is not below the field's size`, label);
    return array;
  }

  /** Hear single elements of K, to compute with. */
  receiveElements(label: string, count: number): Value[] {
    return elements(this.receive(label, 2 * count));
  }

  /** Hear bytes, which are hashes. */
  receiveBytes(label: string, size: number): Uint8Array<ArrayBuffer> {
    if (size > this.proof.length - this.#at) refuse("proof.malformed", `the proof ends within ${label}`, label);
    const data = new Uint8Array(this.proof.subarray(this.#at, this.#at + size));
    this.#step(MESSAGE, label, data);
    this.#at += size;
    this.heard(this.#at);
    return data;
  }

  /** Hear that so many bits of work were done: the hash of the state and a nonce begins with as many zeros. */
  work(bits: number): void {
    if (bits === 0) return;
    const before = this.#state;
    const hash = sha256(concat(WORK, before, this.receiveBytes("work", NONCE_BYTES)));
    if (new DataView(hash.buffer, hash.byteOffset).getUint32(0) >>> (32 - bits) !== 0) {
      refuse("proof.work-refuted", "the work before a challenge was not done", "work");
    }
  }

  /** End the proof: nothing may be left over. */
  finish(): void {
    const left = this.proof.length - this.#at;
    if (left !== 0) refuse("proof.malformed", `${left} bytes follow the proof`, "end");
  }

  #draw(label: string, count: number, size: number): DataView {
    this.#step(CHALLENGE, label, u64(count));
    return new DataView(shake256(concat(CHALLENGES, this.#state), { dkLen: count * size }).buffer);
  }

  #step(kind: number, label: string, data: Uint8Array): void {
    const name = utf8(label);
    const head = concat(this.#state, Uint8Array.of(kind, name.length), name, u64(data.length));
    this.#state = sha256.create().update(head).update(data).digest();
  }
}

/** 8 bytes, little-endian. */
export function u64(number: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(BigUint64Array.of(BigInt(number)).buffer);
}
