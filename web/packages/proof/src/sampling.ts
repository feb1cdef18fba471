/**
 * Answers that were drawn, with a randomness that neither side chose (docs/spec/proof-answer.md, "Sampling").
 *
 * The token with the largest sum of logit and noise is drawn; the noise follows from a server's seed and a client's nonce,
 * to the last bit. Whoever checks an answer says how it was to be drawn.
 */
import { concat, fromHex, hex, utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { shake256 } from "@noble/hashes/sha3.js";
import { refuse } from "./errors.ts";
import type { Ints } from "./operations.ts";
import { log, rint } from "./reproducible.ts";
import { u64 } from "./transcript.ts";

export const SEED_BYTES = 32;
export const MOST_TEMPERATURE = 2000; // in thousandths, like all temperatures here
export const NOISE_FRACTION = 20;
export const NOISE_BITS = 28;
const MOST_NOISE = 2 ** 25;

/** How an answer was drawn. */
export interface Sampling {
  /** In thousandths. */
  readonly temperature: number;
  /** The server's, that it was committed to. */
  readonly seed: Uint8Array;
  /** The client's, that it chose after it had the commitment. */
  readonly nonce: Uint8Array;
}

/** What a client knows of how its answer was to be drawn; of somebody else's answer not all. */
export interface Agreed {
  readonly temperature: number;
  /** Hex. */
  readonly nonce?: string | undefined;
  /** Hex: the server's commitment to its seed. */
  readonly commitment?: string | undefined;
}

/** Refuse an answer that was drawn otherwise than agreed, or was not drawn; with no agreement, one that was. */
export function requireAgreed(sampling: Sampling | undefined, agreed: Agreed | undefined): void {
  if (!sampling || !agreed) {
    if (sampling) differs("the answer was drawn");
    if (agreed) differs("the answer was not drawn, its tokens are the likeliest");
    return;
  }
  const commitment = sha256(concat(utf8("mitai proof seed v1\0"), sampling.seed));
  for (const [what, found, wanted] of [
    ["temperature", sampling.temperature, agreed.temperature],
    ["nonce", hex(sampling.nonce), agreed.nonce],
    ["commitment to the seed", hex(commitment), agreed.commitment],
  ] as const) {
    if (wanted !== undefined && found !== wanted) differs(`the answer was drawn with another ${what} than agreed`);
  }
}

function differs(message: string): never {
  const hint = "give the temperature, nonce and commitment that you and the server agreed on";
  return refuse("proof.sampling-differs", message, "sampling", hint);
}

/** The noise for each place of an answer and each token: [answer, vocabulary], with 20 bits of fraction. */
export function noise(
  { temperature, seed, nonce }: Sampling,
  model: string,
  prompt: readonly number[],
  answer: number,
  vocabulary: number,
): Ints {
  if (answer * vocabulary > MOST_NOISE) {
    refuse("proof.statement-invalid", "the answer is too long to be drawn, for so many tokens");
  }
  const tokens = new Uint8Array(BigUint64Array.from(prompt, BigInt).buffer);
  const label = utf8("mitai proof sampling v1\0");
  const key = sha256(concat(label, fromHex(model), u64(temperature), seed, nonce, tokens));
  const scale = (temperature * 2 ** NOISE_FRACTION) / 1000;
  const numbers = new BigInt64Array(answer * vocabulary);
  for (let place = 0; place < answer; place++) {
    const drawn = shake256(concat(utf8("mitai proof noise v1\0"), key, u64(place)), { dkLen: 8 * vocabulary });
    const view = new DataView(drawn.buffer, drawn.byteOffset);
    for (let token = 0; token < vocabulary; token++) {
      const k = view.getUint32(8 * token + 4, true) * 2 ** 20 + (view.getUint32(8 * token, true) >>> 12);
      const gumbel = -log(-log((2 * k + 1) * 2 ** -53));
      numbers[place * vocabulary + token] = BigInt(rint(gumbel * scale));
    }
  }
  return { shape: [answer, vocabulary], numbers };
}
