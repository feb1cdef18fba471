/**
 * A strict reader of DER, ITU-T X.690 (2021), sections 8, 10 and 11: as much of it as certificates and revocation lists
 * use.
 *
 * Invariants:
 * - One value has one encoding: definite, minimal lengths; minimal integers and identifiers; no default spelled out.
 * - Every byte is accounted for: callers end each level with `end()`.
 * - Whatever is malformed throws `RangeError`; nothing is copied, and nothing is read past the end.
 *
 * Example: `const body = Der.only(bytes); const serial = body.integer(); body.end();`
 */

import { type Bytes, text } from "./bytes.ts";
import { utc } from "./time.ts";

export const BOOLEAN = 0x01;
export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const NULL = 0x05;
export const OBJECT_IDENTIFIER = 0x06;
export const PRINTABLE_STRING = 0x13;
export const UTC_TIME = 0x17;
export const GENERALIZED_TIME = 0x18;
export const SEQUENCE = 0x30;
export const SET = 0x31;

/** The identifier of the context-specific, constructed element `[number]`. */
export function tagged(number: number): number {
  return 0xa0 | number;
}

export interface Element {
  readonly tag: number;
  readonly content: Bytes;
  /** The element with its identifier and length. */
  readonly whole: Bytes;
}

export interface BitString {
  readonly bytes: Bytes;
  /** How many bits at the end of the last byte do not count; they are zero. */
  readonly unused: number;
}

/** A cursor over the elements of one level. */
export class Der {
  #at = 0;

  constructor(private readonly data: Bytes) {}

  /** Open the one element that these bytes are. */
  static only(data: Bytes, tag = SEQUENCE): Der {
    const outer = new Der(data);
    const inner = outer.inside(tag);
    outer.end();
    return inner;
  }

  /** Whether there is a next element, of this kind where one is named. */
  has(tag?: number): boolean {
    return this.#at < this.data.length && (tag === undefined || this.data[this.#at] === tag);
  }

  end(): void {
    if (this.has()) throw new RangeError("DER: an element that does not belong here");
  }

  element(expected?: number): Element {
    const start = this.#at;
    const tag = this.#byte();
    if ((tag & 0x1f) === 0x1f) throw new RangeError("DER: identifiers of more than one byte are not supported");
    if (expected !== undefined && tag !== expected) throw new RangeError("DER: another element than expected");
    const length = this.#length();
    const from = this.#at;
    this.#at += length;
    if (this.#at > this.data.length) throw new RangeError("DER: truncated");
    return { tag, content: this.data.subarray(from, this.#at), whole: this.data.subarray(start, this.#at) };
  }

  inside(tag = SEQUENCE): Der {
    return new Der(this.element(tag).content);
  }

  /** An INTEGER's content: two's complement, big-endian, minimal. */
  integer(): Bytes {
    const { content } = this.element(INTEGER);
    const [first, second] = content;
    if (first === undefined) throw new RangeError("DER: an integer without bytes");
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) {
      throw new RangeError("DER: an integer is not minimal");
    }
    return content;
  }

  /** An INTEGER from 0 to 2^48 - 1. */
  small(): number {
    const content = this.integer();
    if (content.length > 6 || (content[0] ?? 0) >= 0x80) throw new RangeError("DER: a number is out of range");
    return content.reduce((number, byte) => number * 256 + byte, 0);
  }

  /** A BOOLEAN DEFAULT FALSE. */
  flag(): boolean {
    if (!this.has(BOOLEAN)) return false;
    const { content } = this.element();
    if (content.length !== 1 || content[0] !== 0xff) throw new RangeError("DER: a boolean is not TRUE");
    return true;
  }

  /** An OBJECT IDENTIFIER, in dotted form. */
  oid(): string {
    const arcs: number[] = [];
    let arc = 0;
    let open = false;
    for (const byte of this.element(OBJECT_IDENTIFIER).content) {
      if (!open && byte === 0x80) throw new RangeError("DER: an object identifier is not minimal");
      arc = arc * 128 + (byte & 0x7f);
      if (!Number.isSafeInteger(arc)) throw new RangeError("DER: an object identifier is too large");
      open = byte >= 0x80;
      if (open) continue;
      arcs.push(arc);
      arc = 0;
    }
    const [first, ...others] = arcs;
    if (first === undefined || open) throw new RangeError("DER: an object identifier is truncated");
    const root = Math.min(Math.floor(first / 40), 2);
    return [root, first - 40 * root, ...others].join(".");
  }

  bits(): BitString {
    const { content } = this.element(BIT_STRING);
    const unused = content[0];
    if (unused === undefined || unused > 7 || (content.length === 1 && unused !== 0)) {
      throw new RangeError("DER: a bit string is malformed");
    }
    if ((content.at(-1) ?? 0) & ((1 << unused) - 1) && content.length > 1) {
      throw new RangeError("DER: a bit string's unused bits are not zero");
    }
    return { bytes: content.subarray(1), unused };
  }

  /** A UTCTime (1950 to 2049) or GeneralizedTime, to the second, in UTC. */
  time(): Date {
    const { tag, content } = this.element();
    const digits = text(content);
    const short = tag === UTC_TIME;
    if (!(short || tag === GENERALIZED_TIME) || !(short ? /^\d{12}Z$/ : /^\d{14}Z$/).test(digits)) {
      throw new RangeError("DER: not a time");
    }
    const whole = short ? (digits < "50" ? "20" : "19") + digits : digits;
    return utc(whole.replace(/^(....)(..)(..)(..)(..)(..)Z$/, "$1-$2-$3T$4:$5:$6"));
  }

  #byte(): number {
    const byte = this.data[this.#at];
    if (byte === undefined) throw new RangeError("DER: truncated");
    this.#at += 1;
    return byte;
  }

  #length(): number {
    const first = this.#byte();
    if (first < 0x80) return first;
    const size = first - 0x80;
    if (size < 1 || size > 4) throw new RangeError("DER: a length is indefinite or too long");
    let length = 0;
    for (let count = 0; count < size; count++) length = length * 256 + this.#byte();
    if (length < 0x80 || length < 256 ** (size - 1)) throw new RangeError("DER: a length is not minimal");
    return length;
  }
}
