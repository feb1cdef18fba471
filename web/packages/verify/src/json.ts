/**
 * Strict JSON, and decoders that give values their types: what msgspec does for the Python package.
 *
 * Follows RFC 8259 (text), RFC 8785 (canonical form) and RFC 3339 (times).
 *
 * Invariants:
 * - A decoder takes exactly its type: no number for a text, no `1.0` for an integer, no null unless it says so.
 * - `struct` refuses members that it does not know. Of a member that is there twice, each must be valid; the last counts.
 * - Names that others chose end up in a `Map` or in a list, never as properties of an object.
 * - What does not fit is a `RangeError` inside and becomes a `MitaiError` with the format's code at the border.
 *
 * Example: `const Capsule = struct({ id: string, manifest_sha256: optional(nullable(string), null) });`
 */

import { type Bytes, text } from "./bytes.ts";
import { refusing } from "./checks.ts";
import { utc } from "./time.ts";

const MAX_DEPTH = 900;
const MAX_DIGITS = 4300;
const NUMBER = /^-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)$/;
const LENIENT = new TextDecoder("utf-8", { ignoreBOM: true });
const NOT_UTF8 = Symbol("a text that is not UTF-8");

/** A parsed value: `bigint` for integers, `number` for what has a fraction or an exponent, `Date` from TOML alone. */
export type Json = null | boolean | bigint | number | string | Date | typeof NOT_UTF8 | readonly Json[] | JsonObject;

/** Members in their order, doubles among them. */
export class JsonObject {
  constructor(readonly members: readonly (readonly [string, Json])[]) {}
}

export type Decoder<T> = (value: Json) => T;

/** Parse one JSON value and decode it; anything else is a `MitaiError` with this code. */
export function decodeJson<T>(data: Uint8Array, decoder: Decoder<T>, code: string, message: string): T {
  return refusing(code, message, () => {
    const reader = new Reader(data);
    const value = decoder(reader.value(0));
    reader.end();
    return value;
  });
}

/** Like `decodeJson`, for bytes that must be the one canonical spelling. The decoder must demand every member. */
export function decodeCanonical<T>(data: Uint8Array, decoder: Decoder<T>, code: string, message: string): T {
  return refusing(code, message, () => {
    const reader = new Reader(data);
    const parsed = reader.value(0);
    const value = decoder(parsed);
    reader.end();
    if (canonical(parsed) !== text(data)) throw new RangeError("not in canonical form");
    return value;
  });
}

/** Write a value as RFC 8785 has it; refuse fractions, doubles and what is no JSON. */
export function canonical(value: Json): string {
  if (value === null || typeof value === "boolean" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (isArray(value)) return `[${value.map(canonical).join()}]`;
  if (!(value instanceof JsonObject)) throw new RangeError("no canonical form");
  const members = new Map(value.members);
  if (members.size !== value.members.length) throw new RangeError("a member is there twice");
  return `{${[...members.keys()].sort().map((name) => `${JSON.stringify(name)}:${canonical(members.get(name) ?? null)}`)}}`;
}

class Reader {
  #at = 0;

  constructor(readonly data: Uint8Array) {}

  value(depth: number): Json {
    if (depth > MAX_DEPTH) throw new RangeError("nested too deeply");
    switch (this.#peek()) {
      case 0x7b:
        return new JsonObject(this.#list(0x7b, 0x7d, () => this.#member(depth)));
      case 0x5b:
        return this.#list(0x5b, 0x5d, () => this.value(depth + 1));
      case 0x22:
        return this.#string();
      case 0x6e:
        return this.#word("null", null);
      case 0x74:
        return this.#word("true", true);
      case 0x66:
        return this.#word("false", false);
      default:
        return this.#number();
    }
  }

  end(): void {
    if (this.#peek() !== undefined) throw new RangeError("bytes behind the value");
  }

  /** Skip white space and return the next byte. */
  #peek(): number | undefined {
    for (;;) {
      const byte = this.data[this.#at];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte;
      this.#at++;
    }
  }

  #expect(byte: number): void {
    if (this.#peek() !== byte) throw new RangeError(`no ${String.fromCharCode(byte)} at byte ${this.#at}`);
    this.#at++;
  }

  #list<T>(open: number, close: number, item: () => T): T[] {
    const items: T[] = [];
    this.#expect(open);
    if (this.#peek() !== close) {
      items.push(item());
      while (this.#peek() === 0x2c) {
        this.#at++;
        items.push(item());
      }
    }
    this.#expect(close);
    return items;
  }

  #member(depth: number): [string, Json] {
    if (this.#peek() !== 0x22) throw new RangeError("a member without a name");
    const name = this.#string();
    this.#expect(0x3a);
    const value = this.value(depth + 1);
    // No struct knows a name that is not UTF-8, and no dictionary may have one.
    return typeof name === "string" ? [name, value] : ["\ufffd", NOT_UTF8];
  }

  #string(): string | typeof NOT_UTF8 {
    const start = this.#at++;
    for (;;) {
      const byte = this.data[this.#at++];
      if (byte === 0x22) break;
      if (byte === undefined || byte < 0x20) throw new RangeError("a text without an end, or with a control character");
      if (byte === 0x5c) this.#at++;
    }
    const token = this.data.subarray(start, this.#at);
    let value: unknown;
    try {
      value = JSON.parse(LENIENT.decode(token));
    } catch {
      throw new RangeError("a malformed text");
    }
    if (typeof value !== "string" || /\p{Surrogate}/u.test(value)) throw new RangeError("half a surrogate pair");
    return value.includes("\ufffd") && !isUtf8(token) ? NOT_UTF8 : value;
  }

  #word<T>(word: string, value: T): T {
    for (const letter of word) {
      if (this.data[this.#at++] !== letter.charCodeAt(0)) throw new RangeError("a malformed value");
    }
    return value;
  }

  #number(): bigint | number {
    let written = "";
    for (
      let byte = this.data[this.#at];
      isNumeric(byte) && written.length <= MAX_DIGITS;
      byte = this.data[++this.#at]
    ) {
      written += String.fromCharCode(byte);
    }
    const [token, fraction] = NUMBER.exec(written) ?? [];
    if (token === undefined || token.length > MAX_DIGITS) throw new RangeError("a malformed value");
    return fraction === "" ? BigInt(token) : Number(token);
  }
}

/** Whether a byte is one of `0123456789+-.eE`. */
function isNumeric(byte: number | undefined): byte is number {
  if (byte === undefined) return false;
  return (byte >= 0x30 && byte <= 0x39) || byte === 0x2d || byte === 0x2e || (byte | 0x20) === 0x65 || byte === 0x2b;
}

function isUtf8(data: Uint8Array): boolean {
  try {
    return text(data).length > 0;
  } catch {
    return false;
  }
}

function isArray(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

// Decoders of single values.

export const string: Decoder<string> = (value) => {
  if (typeof value !== "string") throw new RangeError("not a text");
  return value;
};

export const boolean: Decoder<boolean> = (value) => {
  if (typeof value !== "boolean") throw new RangeError("neither true nor false");
  return value;
};

export const bigint: Decoder<bigint> = (value) => {
  if (typeof value !== "bigint") throw new RangeError("not an integer");
  return value;
};

/** An integer that a `number` holds exactly, within bounds. */
export function integer(least = Number.MIN_SAFE_INTEGER, most = Number.MAX_SAFE_INTEGER): Decoder<number> {
  return (value) => {
    const number = bigint(value);
    if (number < BigInt(least) || number > BigInt(most)) throw new RangeError("an integer that is out of bounds");
    return Number(number);
  };
}

/** Bytes in base64; spare bits of the last character are ignored, as msgspec does. */
export const bytes: Decoder<Bytes> = (value) => {
  const encoded = string(value);
  const padding = encoded.endsWith("==") ? 2 : encoded.endsWith("=") ? 1 : 0;
  if (encoded.length % 4 || /[^A-Za-z0-9+/]/.test(encoded.slice(0, encoded.length - padding))) {
    throw new RangeError("not base64");
  }
  const binary = atob(encoded);
  const data = new Uint8Array(binary.length);
  for (let at = 0; at < data.length; at++) data[at] = binary.charCodeAt(at);
  return data;
};

export function pattern(form: RegExp): Decoder<string> {
  return (value) => {
    if (!form.test(string(value))) throw new RangeError("a text of another form");
    return string(value);
  };
}

export function oneOf<const T extends string>(...allowed: readonly T[]): Decoder<T> {
  return (value) => {
    const found = allowed.find((one) => one === value);
    if (found === undefined) throw new RangeError(`none of ${allowed.join(", ")}`);
    return found;
  };
}

const RFC3339 =
  /^([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))$/;

/** A moment with its time zone, cut to milliseconds. */
export const moment: Decoder<Date> = (value) => {
  const [, date, time, fraction = "", sign, hours = "00", minutes = "00"] = RFC3339.exec(string(value)) ?? [];
  if (date === undefined || hours > "23" || minutes > "59") throw new RangeError("not a time with a time zone");
  const offset_ms = (sign === "-" ? -60_000 : 60_000) * (60 * Number(hours) + Number(minutes));
  return new Date(utc(`${date}T${time}`).getTime() - offset_ms + Number(fraction.slice(0, 3).padEnd(3, "0")));
};

// Decoders of values made of others.

export function nullable<T>(decoder: Decoder<T>): Decoder<T | null> {
  return (value) => (value === null ? null : decoder(value));
}

export function array<T>(decoder: Decoder<T>, least = 0, most = Number.POSITIVE_INFINITY): Decoder<readonly T[]> {
  return (value) => {
    if (!isArray(value)) throw new RangeError("not an array");
    if (value.length < least || value.length > most) throw new RangeError(`an array of ${value.length}`);
    return Object.freeze(value.map(decoder));
  };
}

/** An object whose names are data. */
export function dictionary<T>(decoder: Decoder<T>): Decoder<ReadonlyMap<string, T>> {
  return (value) => {
    if (!(value instanceof JsonObject)) throw new RangeError("not an object");
    return new Map(value.members.map(([name, member]) => [name, decoder(member)]));
  };
}

/** Decode, then check: `check` throws. */
export function checked<T>(decoder: Decoder<T>, check: (value: T) => void): Decoder<T> {
  return (value) => {
    const decoded = decoder(value);
    check(decoded);
    return decoded;
  };
}

/** A member that may be left out. */
export interface Optional<T> {
  readonly decoder: Decoder<T>;
  readonly fallback: T;
}

export function optional<T>(decoder: Decoder<T>, fallback: T): Optional<T> {
  return { decoder, fallback };
}

type Camel<S extends string> = S extends `_${infer Rest}`
  ? `_${Camel<Rest>}`
  : S extends `${infer Head}_${infer Rest}`
    ? `${Head}${Capitalize<Camel<Rest>>}`
    : S;
type Fields = Readonly<Record<string, Decoder<unknown> | Optional<unknown>>>;
type Member<F> = F extends Optional<infer T> ? T : F extends Decoder<infer T> ? T : never;
type Struct<F extends Fields> = { readonly [Name in keyof F & string as Camel<Name>]: Member<F[Name]> };

/** What a decoder gives. */
export type Decoded<D> = D extends Decoder<infer T> ? T : never;

/** An object with these members; `names_like_this` become `namesLikeThis`, in the order in which they are listed. */
export function struct<const F extends Fields>(fields: F, unknownMembers: "refused" | "ignored" = "refused") {
  return (value: Json): Struct<F> => {
    if (!(value instanceof JsonObject)) throw new RangeError("not an object");
    const found = new Map<string, unknown>();
    for (const [name, member] of value.members) {
      const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
      if (field) found.set(name, inside(name, typeof field === "function" ? field : field.decoder, member));
      else if (unknownMembers === "refused") throw new RangeError(`${JSON.stringify(name.slice(0, 40))} is not known`);
    }
    const whole = Object.entries(fields).map(([name, field]) => {
      if (!found.has(name) && typeof field === "function") throw new RangeError(`${name} is missing`);
      return [camel(name), found.has(name) || typeof field === "function" ? found.get(name) : field.fallback];
    });
    return Object.freeze(Object.fromEntries(whole)) as Struct<F>;
  };
}

/** Decode a member; an error says which. */
function inside<T>(name: string, decoder: Decoder<T>, member: Json): T {
  try {
    return decoder(member);
  } catch (error) {
    throw error instanceof RangeError ? new RangeError(`${name}: ${error.message}`) : error;
  }
}

function camel(name: string): string {
  return name.replace(/([a-z0-9])_([a-z0-9])/g, (_, before: string, after: string) => before + after.toUpperCase());
}
