/** MessagePack in its one encoding: the shortest form of everything, members in the order that a format gives them. */
import { concat, equal, utf8 } from "@mitai/verify";
import { refuse } from "./errors.ts";

export type Packable =
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Packable[]
  | ReadonlyMap<string, Packable>;

/** Encode a value. */
export function pack(value: Packable): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  write(value, parts);
  return concat(...parts);
}

function write(value: Packable, out: Uint8Array[]): void {
  if (typeof value === "boolean") out.push(Uint8Array.of(value ? 0xc3 : 0xc2));
  else if (typeof value === "number" || typeof value === "bigint") out.push(integer(BigInt(value)));
  else if (typeof value === "string") {
    const data = utf8(value);
    out.push(data.length < 32 ? Uint8Array.of(0xa0 + data.length) : sized(data.length, [0xd9, 0xda, 0xdb]), data);
  } else if (value instanceof Uint8Array) out.push(sized(value.length, [0xc4, 0xc5, 0xc6]), value);
  else if (value instanceof Map) {
    out.push(value.size < 16 ? Uint8Array.of(0x80 + value.size) : sized(value.size, [undefined, 0xde, 0xdf]));
    for (const [name, member] of value) {
      write(name, out);
      write(member, out);
    }
  } else {
    const items = value as readonly Packable[];
    out.push(items.length < 16 ? Uint8Array.of(0x90 + items.length) : sized(items.length, [undefined, 0xdc, 0xdd]));
    for (const item of items) write(item, out);
  }
}

/** Markers for a length of 1, 2 and 4 bytes. */
function sized(length: number, [one, two, four]: readonly [number | undefined, number, number]): Uint8Array {
  if (one !== undefined && length < 2 ** 8) return Uint8Array.of(one, length);
  return length < 2 ** 16 ? withMarker(two, 2, BigInt(length)) : withMarker(four, 4, BigInt(length));
}

function integer(value: bigint): Uint8Array {
  if (value >= 0n) {
    if (value < 128n) return Uint8Array.of(Number(value));
    const size = [1, 2, 4, 8].findIndex((bytes) => value < 1n << BigInt(8 * bytes));
    if (size >= 0) return withMarker(0xcc + size, 2 ** size, value);
  } else {
    if (value >= -32n) return Uint8Array.of(256 + Number(value));
    const size = [1, 2, 4, 8].findIndex((bytes) => value >= -(1n << BigInt(8 * bytes - 1)));
    if (size >= 0) return withMarker(0xd0 + size, 2 ** size, value);
  }
  return refuse("proof.program-invalid", "a number of more than 64 bits");
}

/** A marker, then the lowest bytes of a number, the highest of them first. */
function withMarker(marker: number, bytes: number, value: bigint): Uint8Array {
  const whole = new Uint8Array(8);
  new DataView(whole.buffer).setBigInt64(0, BigInt.asIntN(64, value));
  return concat(Uint8Array.of(marker), whole.subarray(8 - bytes));
}

/** Reads one value after the other; what is not in its shortest form, or of another type, is a `RangeError`. */
export class Unpacker {
  #at = 0;

  constructor(readonly data: Uint8Array) {}

  /** How many members a map has, whose members follow. */
  map(): number {
    return this.#head(0x80, 16, [undefined, 0xde, 0xdf]);
  }

  /** Exactly these texts. */
  expect(...texts: readonly string[]): void {
    for (const text of texts) {
      const wanted = utf8(text);
      const found = this.#take(this.#head(0xa0, 32, [0xd9, 0xda, 0xdb]));
      if (!equal(found, wanted)) throw new RangeError("another text");
    }
  }

  /** Some bytes. */
  bytes(least = 0, most = Number.POSITIVE_INFINITY): Uint8Array {
    const found = this.#take(this.#head(0, 0, [0xc4, 0xc5, 0xc6]));
    if (found.length < least || found.length > most) throw new RangeError("too few or too many bytes");
    return found;
  }

  /** A list of integers below a limit. */
  integers(least: number, most: number, below: number): number[] {
    const length = this.#head(0x90, 16, [undefined, 0xdc, 0xdd]);
    if (length < least || length > most) throw new RangeError("too few or too many numbers");
    return Array.from({ length }, () => this.integer(below));
  }

  /** An integer below a limit that is below 2^32. */
  integer(below: number): number {
    const marker = this.#number(1);
    let number = marker;
    if (marker >= 0x80) {
      const size = marker - 0xcc;
      if (size < 0 || size > 2) throw new RangeError("no integer below 2^32");
      number = this.#number(2 ** size);
      if (number < (size === 0 ? 0x80 : 2 ** (8 * 2 ** (size - 1)))) throw new RangeError("not in its shortest form");
    }
    if (number >= below) throw new RangeError("a number that is too large");
    return number;
  }

  end(): void {
    if (this.#at !== this.data.length) throw new RangeError("bytes behind the value");
  }

  #take(size: number): Uint8Array {
    if (size > this.data.length - this.#at) throw new RangeError("the data ends early");
    this.#at += size;
    return this.data.subarray(this.#at - size, this.#at);
  }

  #number(size: number): number {
    return this.#take(size).reduce((number, byte) => 256 * number + byte, 0);
  }

  /** A length: below `small` it stands in the marker, else in the least number of bytes. */
  #head(fixed: number, small: number, markers: readonly (number | undefined)[]): number {
    const marker = this.#number(1);
    let length = marker - fixed;
    if (small === 0 || length < 0 || length >= small) {
      const size = markers.indexOf(marker);
      if (size < 0) throw new RangeError("a value of another type");
      length = this.#number(2 ** size);
      const shorter = size === 0 ? 0 : markers[size - 1] === undefined ? small : 2 ** (8 * 2 ** (size - 1));
      if (length < Math.max(shorter, small)) throw new RangeError("a length that is not in its shortest form");
    }
    return length;
  }
}
