/**
 * Oblivious HTTP for the client: key configurations, sealed requests, opened answers.
 *
 * Follows RFC 9458 (sections 3 and 4) and draft-ietf-ohai-chunked-ohttp-08 (`message/ohttp-chunked-req` and `-res`).
 *
 * - Chunks are opened in order, each is authenticated before a byte of it is returned, and so is the end of a stream.
 * - A response can be opened only with the request that it answers: its keys come from the request's HPKE context.
 * - After an error an opener stays broken.
 */

import type { SenderContext } from "@hpke/core";
import { type Bytes, concat, MitaiError, utf8 } from "@mitai/verify";
import { varint } from "./bhttp.ts";
import { FrameReader, MAX_CHUNK_BYTES } from "./frames.ts";
import {
  AEADS,
  AES_256_GCM,
  type Aead,
  AeadOpener,
  KDF_HKDF_SHA256,
  KEMS,
  type Kem,
  NONCE_BYTES,
  setupSender,
  TAG_BYTES,
} from "./hpke.ts";

export const REQUEST_TYPE = "message/ohttp-chunked-req";
export const RESPONSE_TYPE = "message/ohttp-chunked-res";
const REQUEST_LABEL = utf8("message/bhttp chunked request");
const RESPONSE_LABEL = utf8("message/bhttp chunked response");
const FINAL = utf8("final");
const NOTHING = new Uint8Array();

/** A gateway's public key and the AEADs that it accepts with it (RFC 9458 section 3). */
export class KeyConfig {
  private constructor(
    readonly keyId: number,
    readonly kem: Kem,
    readonly publicKey: Bytes,
    readonly aeads: readonly Aead[],
  ) {
    Object.freeze(this);
  }

  /** Parse one configuration; algorithms that we do not have are left out, and one must remain. */
  static decode(data: Bytes): KeyConfig {
    const kemId = integer(data.subarray(1, 3));
    const kem = KEMS.find(({ id }) => id === kemId);
    if (!kem) throw unsupported("the key configuration has an unknown KEM");
    const publicEnd = 3 + kem.publicBytes;
    const length = integer(data.subarray(publicEnd, publicEnd + 2));
    const suites = data.subarray(publicEnd + 2);
    if (data.length < publicEnd + 2 || length !== suites.length || length === 0 || length % 4)
      throw new MitaiError("channel.key-config-malformed", "these bytes are not one key configuration");
    const aeads: Aead[] = [];
    for (let at = 0; at < length; at += 4) {
      const [kdf, aeadId] = [integer(suites.subarray(at, at + 2)), integer(suites.subarray(at + 2, at + 4))];
      const aead = AEADS.find(({ id }) => id === aeadId);
      if (kdf === KDF_HKDF_SHA256 && aead) aeads.push(aead);
    }
    if (!aeads.length) throw unsupported("the key configuration has no algorithm that we have");
    return new KeyConfig(integer(data.subarray(0, 1)), kem, data.slice(3, publicEnd), Object.freeze(aeads));
  }
}

function integer(field: Uint8Array): number {
  return field.reduce((value, byte) => value * 256 + byte, 0);
}

function unsupported(message: string): MitaiError {
  return new MitaiError("channel.key-config-unsupported", message);
}

/** Seals the chunks of one request to a key configuration (RFC 9458 section 4.3). */
export class RequestSealer {
  private constructor(
    private readonly context: SenderContext,
    private readonly aead: Aead,
    private prefix: Bytes, // what precedes the first chunk
  ) {}

  /** `config` comes from claims that were verified; `ephemeral` is for test vectors only. */
  static async start(config: KeyConfig, ephemeral?: CryptoKeyPair): Promise<RequestSealer> {
    const aead = config.aeads.find((offered) => offered === AES_256_GCM) ?? config.aeads[0];
    if (!aead) throw unsupported("the key configuration has no algorithm that we have");
    const ids = [config.kem.id, KDF_HKDF_SHA256, aead.id];
    const header = Uint8Array.of(config.keyId, ...ids.flatMap((id) => [id >> 8, id & 0xff]));
    const info = concat(REQUEST_LABEL, Uint8Array.of(0), header);
    const context = await setupSender(config.kem, config.publicKey, info, aead, ephemeral);
    return new RequestSealer(context, aead, concat(header, new Uint8Array(context.enc)));
  }

  /** Return the next chunk as it goes on the wire; only the final one may be empty. */
  async seal(chunk: Bytes, final = false): Promise<Bytes> {
    const length = final ? Uint8Array.of(0) : varint(chunk.length + TAG_BYTES);
    const sealed = await this.context.seal(chunk, final ? FINAL : NOTHING);
    const wire = concat(this.prefix, length, new Uint8Array(sealed));
    this.prefix = NOTHING;
    return wire;
  }

  /** Yield a message, or the rest of one, in chunks of equal size, the last of them final. */
  async *sealRest(message: Bytes): AsyncGenerator<Bytes> {
    let at = 0;
    for (; message.length - at > MAX_CHUNK_BYTES; at += MAX_CHUNK_BYTES)
      yield await this.seal(message.subarray(at, at + MAX_CHUNK_BYTES));
    yield await this.seal(message.subarray(at), true);
  }

  /** Return the opener of this request's response. */
  async responseOpener(): Promise<ResponseOpener> {
    const secret = await this.context.export(RESPONSE_LABEL, entropyBytes(this.aead));
    return new ResponseOpener(new Uint8Array(secret), new Uint8Array(this.context.enc), this.aead);
  }
}

/** Length of a response's nonce and of the exported secret: max(Nn, Nk). */
function entropyBytes(aead: Aead): number {
  return Math.max(NONCE_BYTES, aead.keyBytes);
}

/** Opens one response (RFC 9458 section 4.4); made by `RequestSealer.responseOpener`. */
export class ResponseOpener {
  readonly #frames = new FrameReader();
  #nonce = NOTHING;
  #opener: AeadOpener | undefined;
  #broken = false;

  constructor(
    private readonly secret: Bytes,
    private readonly enc: Bytes,
    private readonly aead: Aead,
  ) {}

  /** Yield the plaintext of the chunks that these further bytes complete; iterate to the end. */
  async *feed(data: Bytes): AsyncGenerator<Bytes> {
    if (this.#broken)
      throw new MitaiError("channel.unopenable", "this message goes on after its end, or after an error");
    this.#broken = true; // until all went well
    const rest = this.#opener ? data : await this.#readNonce(data);
    if (this.#opener) {
      for (const frame of this.#frames.feed(rest)) {
        const plaintext = await this.#opener.open(frame, NOTHING);
        if (!plaintext.length) throw new MitaiError("channel.unopenable", "a chunk that is not the final one is empty");
        yield plaintext;
      }
    }
    this.#broken = false;
  }

  /** Return the plaintext of the final chunk; refuse a stream that was cut. */
  async finish(): Promise<Bytes> {
    if (!this.#opener || this.#broken)
      throw new MitaiError("channel.truncated", "the sealed message ends within its header");
    this.#broken = true;
    return await this.#opener.open(this.#frames.finish(), FINAL);
  }

  /** Read bytes of the response's nonce, return what follows. */
  async #readNonce(data: Bytes): Promise<Bytes> {
    const missing = entropyBytes(this.aead) - this.#nonce.length;
    this.#nonce = concat(this.#nonce, data.subarray(0, missing));
    if (data.length >= missing)
      this.#opener = await AeadOpener.derive(this.secret, concat(this.enc, this.#nonce), this.aead);
    return data.subarray(missing);
  }
}
