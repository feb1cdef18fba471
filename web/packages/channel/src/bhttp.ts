/**
 * Binary HTTP: a request or response as bytes that can be sealed.
 *
 * Follows RFC 9292: known-length and indeterminate-length messages, informational responses, trailers, truncation of
 * empty tails, zero padding. Names and values are strings of which each character is one byte.
 *
 * - Decoding is incremental and bounded: heads, fields and content each have a limit, checked before anything is stored.
 * - Whatever the bytes, the decoder returns events or throws `MitaiError`; what arrives byte by byte is not parsed anew
 *   for each byte, but when the next element can be whole.
 * - A name or value that HTTP/2 would call malformed (RFC 9113 section 8.2.1) is refused: nothing is smuggled in.
 */

import { type Bytes, concat, MitaiError } from "@mitai/verify";
import { varintValue } from "./frames.ts";

export type Field = readonly [name: string, value: string];

/** Control data and header fields of a request (section 3.4). */
export interface RequestHead {
  readonly method: string;
  readonly scheme: string;
  readonly authority: string;
  readonly path: string;
  readonly fields: readonly Field[];
}

/** Status and header fields of a response, informational ones included (section 3.5). */
export interface ResponseHead {
  readonly status: number;
  readonly fields: readonly Field[];
}

/** What a decoder finds; content comes in pieces. */
export type Event =
  | { readonly kind: "request"; readonly head: RequestHead }
  | { readonly kind: "response"; readonly head: ResponseHead }
  | { readonly kind: "content"; readonly piece: Bytes }
  | { readonly kind: "trailers"; readonly fields: readonly Field[] };

/** What a decoder accepts at most. */
export interface Limits {
  readonly contentBytes: number;
  readonly headBytes: number;
  readonly fields: number;
  readonly informational: number;
}

export const DEFAULT_LIMITS: Limits = { contentBytes: 32 << 20, headBytes: 64 << 10, fields: 128, informational: 16 };

// Fields of a connection (RFC 9110 section 7.6.1), and those that the message's own framing replaces.
export const CONNECTION_FIELDS: ReadonlySet<string> = new Set(
  "connection content-length expect keep-alive proxy-connection te trailer transfer-encoding upgrade".split(" "),
);
export const END_OF_STREAM: Bytes = Uint8Array.of(0, 0); // of indeterminate-length content, and an empty trailer section

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/; // RFC 9110 section 5.6.2
const SCHEME = /^[A-Za-z][A-Za-z0-9+\-.]*$/;
const AUTHORITY = /^(?:(?![@/?#])[!-~])*$/;
const PATH = /^(?:\/(?:(?!#)[!-~])*|\*)$/;
const MALFORMED_VALUE = /[\0\r\n]|^[ \t]|[ \t]$/; // RFC 9113 section 8.2.1

// --- Encoding --------------------------------------------------------------------------------------------------------

/** Encode an integer as RFC 9000 section 16 does, in as few bytes as possible. */
export function varint(value: number): Bytes {
  if (value < 0x40) return Uint8Array.of(value);
  if (value < 0x4000) return Uint8Array.of(0x40 | (value >> 8), value & 0xff);
  if (value < 0x4000_0000) return chunkPrefix(value);
  const field = new Uint8Array(8);
  new DataView(field.buffer).setBigUint64(0, BigInt(value) | (3n << 62n));
  return field;
}

/** Encode the length of a chunk of content, always on four bytes. */
export function chunkPrefix(size: number): Bytes {
  const field = new Uint8Array(4);
  new DataView(field.buffer).setUint32(0, size + 0x8000_0000);
  return field;
}

/** Return all that precedes the content; `contentBytes` is undefined where its length is not known yet. */
export function encodeRequest(head: RequestHead, contentBytes?: number): Bytes {
  const control = [head.method, head.scheme, head.authority, head.path].flatMap(encodeString);
  return concat(
    Uint8Array.of(contentBytes === undefined ? 2 : 0),
    ...control,
    ...encodeSection(head.fields, contentBytes),
  );
}

/** Return all that precedes the content; `contentBytes` is undefined where its length is not known yet. */
export function encodeResponse(
  head: ResponseHead,
  contentBytes?: number,
  informational: readonly ResponseHead[] = [],
): Bytes {
  const known = contentBytes !== undefined;
  const interim = informational.flatMap(({ status, fields }) => [varint(status), encodeFields(fields, known)]);
  const section = encodeSection(head.fields, contentBytes);
  return concat(Uint8Array.of(known ? 1 : 3), ...interim, varint(head.status), ...section);
}

function encodeSection(fields: readonly Field[], contentBytes: number | undefined): Bytes[] {
  if (contentBytes === undefined) return [encodeFields(fields, false)];
  return [encodeFields(fields, true), varint(contentBytes)];
}

function encodeFields(fields: readonly Field[], knownLength: boolean): Bytes {
  const lines = concat(...fields.flat().flatMap(encodeString));
  return knownLength ? concat(varint(lines.length), lines) : concat(lines, Uint8Array.of(0));
}

function encodeString(part: string): Bytes[] {
  return [varint(part.length), Uint8Array.from(part, (character) => character.charCodeAt(0))];
}

// --- Decoding --------------------------------------------------------------------------------------------------------

const NOTHING = new Uint8Array();

/** Turns the bytes of one message, in pieces of any size, into heads, pieces of content, and trailers. */
export class Decoder {
  #stage: (data: Bytes) => Bytes = (data) => this.#head(data); // reads what it can, returns the rest
  #knownLength = false;
  #informational = 0;
  #left: number; // content that may still come
  #chunk = 0; // of which this much in the chunk that has begun
  #partial = NOTHING; // the beginning of something that has not arrived whole
  #needed = 0; // and how long it must grow before it is looked at again
  #mayEnd = false; // whether the message is complete if nothing more comes (section 3.8)
  #events: Event[] = [];

  constructor(
    private readonly kind: "request" | "response",
    private readonly limits: Limits = DEFAULT_LIMITS,
  ) {
    this.#left = limits.contentBytes;
  }

  /** Return what these further bytes complete; content pieces may be views of `data`. */
  feed(data: Bytes): Event[] {
    let rest = data;
    if (this.#partial.length && rest.length) {
      this.#mayEnd = false;
      rest = concat(this.#partial, rest);
      this.#partial = rest.length < this.#needed ? rest : NOTHING;
      if (this.#partial.length) return [];
    }
    try {
      while (rest.length) rest = this.#stage(rest);
    } catch (error) {
      this.#holdBack(rest, error);
    }
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Return what waited for bytes that may be missing; throw unless the message may end here. */
  finish(): Event[] {
    const events = this.#partial.length && this.#mayEnd ? this.feed(Uint8Array.of(0)) : [];
    if (!this.#mayEnd) throw new MitaiError("channel.bhttp-truncated", "a Binary HTTP message ends in the middle");
    return events;
  }

  /** Keep what is not whole yet; after any other error everything is refused. */
  #holdBack(rest: Bytes, error: unknown): void {
    if (error instanceof Short && error.needed <= this.limits.headBytes) {
      this.#partial = rest.slice();
      this.#needed = error.needed;
      this.#mayEnd = error.mayEnd;
      return;
    }
    this.#mayEnd = false;
    this.#stage = () => {
      throw invalid("it goes on after an error");
    };
    throw error instanceof Short ? tooLarge("head", this.limits.headBytes) : error;
  }

  // Each stage reads something whole and returns what follows it, or throws `Short` and is called again.

  #head(data: Bytes): Bytes {
    const reader = new Reader(data);
    const framing = reader.integer();
    const kind = framing % 2 ? "response" : "request";
    if (framing > 3 || kind !== this.kind) throw invalid(`${framing} is not the framing indicator of a ${this.kind}`);
    this.#knownLength = framing < 2;
    if (this.kind === "response") {
      this.#stage = (rest) => this.#responseHead(rest);
      return reader.rest();
    }
    const [method, scheme] = [reader.matching(TOKEN), reader.matching(SCHEME)];
    const [authority, path] = [reader.matching(AUTHORITY), reader.matching(PATH)];
    const fields = this.#section(reader);
    this.#events.push({ kind: "request", head: { method, scheme, authority, path, fields } });
    this.#beginContent();
    return reader.rest();
  }

  #responseHead(data: Bytes): Bytes {
    const reader = new Reader(data);
    const status = reader.integer();
    if (status < 100 || status > 599) throw invalid("its status is not between 100 and 599");
    const fields = this.#section(reader);
    this.#events.push({ kind: "response", head: { status, fields } });
    if (status >= 200) this.#beginContent();
    else if (++this.#informational > this.limits.informational)
      throw tooLarge("informational responses", this.limits.informational);
    return reader.rest();
  }

  #beginContent(): void {
    this.#stage = (rest) => this.#content(rest);
    this.#mayEnd = true;
  }

  #content(data: Bytes): Bytes {
    const reader = new Reader(data);
    if (this.#chunk === 0) {
      this.#chunk = reader.integer();
      this.#left -= this.#chunk;
      if (this.#left < 0) throw tooLarge("content", this.limits.contentBytes);
      this.#mayEnd = this.#chunk === 0;
      if (this.#chunk === 0) this.#stage = (rest) => this.#trailers(rest);
      if (this.#chunk === 0) return reader.rest();
    }
    const rest = reader.rest();
    const piece = rest.subarray(0, this.#chunk);
    if (piece.length) this.#events.push({ kind: "content", piece });
    this.#chunk -= piece.length;
    if (this.#chunk === 0 && this.#knownLength) {
      this.#stage = (tail) => this.#trailers(tail);
      this.#mayEnd = true;
    }
    return rest.subarray(piece.length);
  }

  #trailers(data: Bytes): Bytes {
    const reader = new Reader(data);
    const fields = this.#section(reader);
    if (fields.length) this.#events.push({ kind: "trailers", fields });
    this.#stage = padding;
    this.#mayEnd = true;
    return reader.rest();
  }

  /** Read a field section: of the length that precedes it, or up to a zero. */
  #section(reader: Reader): readonly Field[] {
    if (reader.at === reader.size) throw new Short(reader.at + 1, true);
    const end = this.#knownLength ? reader.integer() + reader.at : undefined;
    if (end !== undefined) this.#checkHead(end);
    if (end !== undefined) reader.require(end);
    const fields: Field[] = [];
    while (reader.at !== end) {
      const name = reader.string();
      if (!name && end === undefined) break;
      const value = reader.string();
      if (fields.length === this.limits.fields) throw tooLarge("number of fields", this.limits.fields);
      if (!TOKEN.test(name) || MALFORMED_VALUE.test(value) || (end !== undefined && reader.at > end))
        throw invalid("a field is malformed");
      fields.push([name.toLowerCase(), value]);
    }
    this.#checkHead(reader.at);
    return fields;
  }

  #checkHead(size: number): void {
    if (size > this.limits.headBytes) throw tooLarge("head", this.limits.headBytes);
  }
}

function padding(data: Bytes): Bytes {
  if (data.some((byte) => byte !== 0)) throw invalid("its padding is not zero");
  return NOTHING;
}

/** More bytes are needed: `needed` in all, from where the stage began; `mayEnd` if they may also be missing. */
class Short {
  constructor(
    readonly needed: number,
    readonly mayEnd = false,
  ) {}
}

/** Reads integers and strings one after the other. */
class Reader {
  at = 0;
  readonly size: number;

  constructor(private readonly data: Bytes) {
    this.size = data.length;
  }

  require(end: number): void {
    if (end > this.size) throw new Short(end);
  }

  integer(): number {
    this.require(this.at + 1);
    const first = this.data[this.at] ?? 0;
    return varintValue(this.#take(1 << (first >> 6)));
  }

  string(): string {
    return latin1(this.#take(this.integer()));
  }

  matching(allowed: RegExp): string {
    const part = this.string();
    if (!allowed.test(part)) throw invalid("its control data are malformed");
    return part;
  }

  rest(): Bytes {
    return this.data.subarray(this.at);
  }

  #take(size: number): Bytes {
    const start = this.at;
    this.require(start + size);
    this.at = start + size;
    return this.data.subarray(start, this.at);
  }
}

function latin1(data: Bytes): string {
  let characters = "";
  for (const byte of data) characters += String.fromCharCode(byte);
  return characters;
}

function invalid(message: string): MitaiError {
  return new MitaiError("channel.bhttp-invalid", `not a Binary HTTP message: ${message}`);
}

function tooLarge(what: string, limit: number): MitaiError {
  return new MitaiError("channel.too-large", `a Binary HTTP message exceeds the limit of ${limit} for its ${what}`);
}
