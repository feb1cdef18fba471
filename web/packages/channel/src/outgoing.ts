/**
 * The client's end of one sealed exchange: sealed bytes in and out, no I/O.
 *
 * - What leaves is sealed to the key configuration that was given; nothing is sent or accepted in the clear.
 * - An answer that was cut is an error; its end is never taken for granted.
 * - What an outer response says is not authenticated: it can make an exchange fail, or ask to verify again, no more.
 */

import { type Bytes, concat, hex, MitaiError, sha256 } from "@mitai/verify";
import { sha256 as streamSha256 } from "@noble/hashes/sha2.js"; // WebCrypto digests whole messages only
import {
  CONNECTION_FIELDS,
  chunkPrefix,
  DEFAULT_LIMITS,
  Decoder,
  END_OF_STREAM,
  type Event,
  encodeRequest,
  type Field,
  type RequestHead,
  type ResponseHead,
} from "./bhttp.ts";
import { EXCHANGE_HEADER, Exchange, REFUSAL_HEADER } from "./exchange.ts";
import { MAX_CHUNK_BYTES } from "./frames.ts";
import { KeyConfig, RESPONSE_TYPE, RequestSealer, type ResponseOpener } from "./ohttp.ts";
import { paddedSize } from "./padding.ts";
import { codeOf, refusal } from "./problems.ts";

export const MAX_REFUSAL_BYTES = 16 << 10; // of an outer error that is read at all
const LIMITS = { ...DEFAULT_LIMITS, contentBytes: 1 << 30 };
const PIECE_BYTES = MAX_CHUNK_BYTES - chunkPrefix(0).length;

/** A request sealed as chunked Oblivious HTTP, and its answer. */
export class Outgoing {
  readonly exchange = new Exchange();
  head: ResponseHead | undefined; // of the answer, once it was opened
  readonly #decoder = new Decoder("response", LIMITS);
  readonly #digest = streamSha256.create();

  private constructor(
    private readonly sealer: RequestSealer,
    private readonly opener: ResponseOpener,
    private readonly dated: RequestHead,
  ) {}

  /** Begin an exchange with who holds a verified key; connection fields are left out of the head, the date is added. */
  static async start(keyConfig: Bytes, head: RequestHead, now: Date): Promise<Outgoing> {
    const sealer = await RequestSealer.start(KeyConfig.decode(keyConfig));
    const kept = head.fields.filter(([name]) => !CONNECTION_FIELDS.has(name) && name !== "date");
    const fields: Field[] = [...kept, ["date", now.toUTCString()]];
    return new Outgoing(sealer, await sealer.responseOpener(), { ...head, fields });
  }

  /** Return the whole sealed request. */
  async seal(content: Bytes): Promise<Bytes> {
    const encoded = encodeRequest(this.dated, content.length);
    const size = encoded.length + content.length;
    const pieces: Bytes[] = [];
    const message = concat(encoded, content, new Uint8Array(paddedSize(size) - size));
    for await (const piece of this.sealer.sealRest(message)) pieces.push(piece);
    const sealed = concat(...pieces);
    this.exchange.requestSha256 = hex(await sha256(sealed));
    return sealed;
  }

  /** Yield the sealed request piece by piece, as its content comes. */
  async *sealStream(content: AsyncIterable<Bytes>): AsyncGenerator<Bytes> {
    const digest = streamSha256.create();
    let size = 0;
    const seal = async (plaintext: Bytes) => {
      const sealed = await this.sealer.seal(plaintext);
      digest.update(sealed);
      size += plaintext.length;
      return sealed;
    };
    const head = encodeRequest(this.dated);
    for (let at = 0; at < head.length; at += MAX_CHUNK_BYTES) yield await seal(head.subarray(at, at + MAX_CHUNK_BYTES));
    for await (const piece of content) {
      for (let at = 0; at < piece.length; at += PIECE_BYTES) {
        const part = piece.subarray(at, at + PIECE_BYTES);
        yield await seal(concat(chunkPrefix(part.length), part));
      }
    }
    size += END_OF_STREAM.length;
    for await (const sealed of this.sealer.sealRest(concat(END_OF_STREAM, new Uint8Array(paddedSize(size) - size)))) {
      digest.update(sealed);
      yield sealed;
    }
    this.exchange.requestSha256 = hex(digest.digest());
  }

  /** Tell whether an outer response is a sealed answer: status 200, and the media type of the request's form. */
  isSealed(status: number, mediaType: string | null): boolean {
    return status === 200 && mediaType === RESPONSE_TYPE;
  }

  /** Return the error for an outer response that is no sealed answer. */
  refused(status: number, body: Bytes): MitaiError {
    return refusal(codeOf(body), status);
  }

  /** Open further bytes of the answer; return the content that they complete. */
  async feed(data: Bytes): Promise<Bytes[]> {
    this.#digest.update(data);
    const content: Bytes[] = [];
    for await (const plaintext of this.opener.feed(data)) {
      const pieces = this.#take(this.#decoder.feed(plaintext));
      if (pieces.length) content.push(joined(pieces));
    }
    return content;
  }

  /** Check that the answer ended well; return the rest of its content. */
  async finish(): Promise<Bytes[]> {
    const last = this.#decoder.feed(await this.opener.finish());
    const content = this.#take([...last, ...this.#decoder.finish()]);
    if (!this.head) throw new MitaiError("channel.truncated", "the answer ends before its head");
    this.exchange.responseSha256 = hex(this.#digest.digest());
    return content;
  }

  #take(events: readonly Event[]): Bytes[] {
    const content: Bytes[] = [];
    for (const event of events) {
      if (event.kind === "content") content.push(event.piece);
      if (event.kind === "response" && event.head.status >= 200) this.#accept(event.head);
    }
    return content;
  }

  #accept(head: ResponseHead): void {
    const code = fieldOf(head.fields, REFUSAL_HEADER);
    if (code) throw refusal(code, head.status);
    this.exchange.id = fieldOf(head.fields, EXCHANGE_HEADER).slice(0, 64);
    this.head = head;
  }
}

/** One piece: streams are slow with very many. */
function joined(pieces: readonly Bytes[]): Bytes {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function fieldOf(fields: readonly Field[], wanted: string): string {
  return fields.find(([name]) => name === wanted)?.[1] ?? "";
}
