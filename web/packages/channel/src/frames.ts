/**
 * Frames: cuts a sealed stream, fed in pieces of any size, into its ciphertexts.
 *
 * Follows draft-ietf-ohai-chunked-ohttp-08, section 6: a variable-length integer precedes each chunk; a zero says that the
 * rest of the stream is the final one.
 *
 * - A length is checked against the limit before anything of that frame is stored.
 * - A frame that lies whole in what was fed is yielded as a view of it; only split frames are copied.
 */

import { type Bytes, MitaiError } from "@mitai/verify";
import { TAG_BYTES } from "./hpke.ts";

export const MAX_CHUNK_BYTES = 256 << 10; // plaintext of one chunk

export class FrameReader {
  #lengthField = new Uint8Array(8); // the length that is being read
  #lengthHeld = 0;
  #size: number | undefined; // of the frame that is being read, once its length is known
  #inFinal = false;
  #buffer = new Uint8Array(); // what has arrived of a split frame
  #held = 0;

  /** Yield the ciphertexts that these further bytes complete; each is valid until the next is asked for. */
  *feed(data: Bytes): Generator<Bytes> {
    let at = 0;
    while (at < data.length) {
      const size = this.#size;
      if (size === undefined && !this.#inFinal) {
        at += this.#readLength(data.subarray(at));
      } else if (size !== undefined && !this.#held && data.length - at >= size) {
        this.#size = undefined;
        yield data.subarray(at, at + size);
        at += size;
      } else {
        const part = size === undefined ? data.subarray(at) : data.subarray(at, at + size - this.#held);
        this.#hold(part);
        at += part.length;
        if (this.#held === size) {
          this.#size = undefined;
          this.#held = 0;
          yield this.#buffer.subarray(0, size);
        }
      }
    }
  }

  /** Return the final frame; refuse a stream that was cut. */
  finish(): Bytes {
    if (this.#inFinal) return this.#buffer.subarray(0, this.#held);
    throw new MitaiError(
      "channel.truncated",
      "the sealed stream ends before its end",
      "the connection was cut, or somebody on the way removed the rest; try again",
    );
  }

  #hold(part: Bytes): void {
    checkSize(this.#held + part.length);
    if (!this.#buffer.length) this.#buffer = new Uint8Array(MAX_CHUNK_BYTES + TAG_BYTES);
    this.#buffer.set(part, this.#held);
    this.#held += part.length;
  }

  /** Read bytes of a length, return how many; set the size, or that the final frame begins, when it is complete. */
  #readLength(data: Bytes): number {
    const first = this.#lengthHeld ? this.#lengthField[0] : data[0];
    const lengthBytes = 1 << ((first ?? 0) >> 6);
    const part = data.subarray(0, lengthBytes - this.#lengthHeld);
    this.#lengthField.set(part, this.#lengthHeld);
    this.#lengthHeld += part.length;
    if (this.#lengthHeld === lengthBytes) {
      this.#lengthHeld = 0;
      const size = varintValue(this.#lengthField.subarray(0, lengthBytes));
      checkSize(size);
      if (size) this.#size = size;
      else this.#inFinal = true;
    }
    return part.length;
  }
}

/** Value of a whole RFC 9000 integer. Above 2^53 it is rounded, which no limit is near to. */
export function varintValue(field: Uint8Array): number {
  return field.reduce((value, byte, at) => value * 256 + (at ? byte : byte & 0x3f), 0);
}

function checkSize(size: number): void {
  if (size > MAX_CHUNK_BYTES + TAG_BYTES)
    throw new MitaiError("channel.too-large", `a sealed chunk exceeds the limit of ${MAX_CHUNK_BYTES} bytes`);
}
