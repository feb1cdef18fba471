/** A gateway in memory: opens what was sealed to it with hpke-js, and seals answers; a test may lie on its behalf. */

import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256, type RecipientContext } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { type Bytes, concat, utf8 } from "@mitai/verify";
import { Decoder, type Event, encodeResponse, type Field, type RequestHead, varint } from "../src/bhttp.ts";
import { FrameReader } from "../src/frames.ts";
import type { Peer } from "../src/index.ts";

const RESPONSE_LABEL = utf8("message/bhttp chunked response");

export interface Opened {
  readonly head: RequestHead;
  readonly content: Bytes;
  readonly context: RecipientContext;
  readonly enc: Bytes;
}

export interface Answer {
  readonly status?: number;
  readonly fields?: readonly Field[];
  readonly content?: Bytes;
}

export class Gateway {
  private constructor(
    readonly keyId: number,
    readonly suite: CipherSuite,
    readonly keys: CryptoKeyPair,
    readonly keyConfig: Bytes,
  ) {}

  static async create(keyId = 7, kem: "x25519" | "x-wing" = "x25519", aead = new Aes256Gcm()): Promise<Gateway> {
    const suite = new CipherSuite({
      kem: kem === "x25519" ? new DhkemX25519HkdfSha256() : new XWing(),
      kdf: new HkdfSha256(),
      aead,
    });
    const keys = await suite.kem.generateKeyPair();
    const publicKey = new Uint8Array(await suite.kem.serializePublicKey(keys.publicKey));
    const ids = Uint8Array.of(keyId, suite.kem.id >> 8, suite.kem.id & 0xff);
    return new Gateway(keyId, suite, keys, concat(ids, publicKey, Uint8Array.of(0, 4, 0, 1, 0, aead.id)));
  }

  async open(wire: Bytes): Promise<Opened> {
    const headerEnd = 7 + this.suite.kem.encSize;
    const [header, enc] = [wire.slice(0, 7), wire.slice(7, headerEnd)];
    const info = concat(utf8("message/bhttp chunked request\0"), header);
    const context = await this.suite.createRecipientContext({ recipientKey: this.keys.privateKey, enc, info });
    const [frames, decoder] = [new FrameReader(), new Decoder("request")];
    const events: Event[] = [];
    for (const frame of frames.feed(wire.subarray(headerEnd)))
      events.push(...decoder.feed(new Uint8Array(await context.open(frame))));
    events.push(
      ...decoder.feed(new Uint8Array(await context.open(frames.finish(), utf8("final")))),
      ...decoder.finish(),
    );
    const head = events.find((event) => event.kind === "request")?.head;
    if (!head) throw new Error("no head");
    const content = concat(...events.flatMap((event) => (event.kind === "content" ? [event.piece] : [])));
    return { head, content, context, enc };
  }

  /** Return a sealer of the chunks of an answer, the first with the nonce before it. */
  async sealer({ context, enc }: Opened): Promise<(chunk: Bytes, final?: boolean) => Promise<Bytes>> {
    const size = Math.max(12, this.suite.aead.keySize);
    const secret = await context.export(RESPONSE_LABEL, size);
    const nonce = crypto.getRandomValues(new Uint8Array(size));
    const material = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
    const expand = async (info: string, bytes: number) =>
      new Uint8Array(
        await crypto.subtle.deriveBits(
          { name: "HKDF", hash: "SHA-256", salt: concat(enc, nonce), info: utf8(info) },
          material,
          bytes * 8,
        ),
      );
    const key = this.suite.aead.createEncryptionContext((await expand("key", this.suite.aead.keySize)).buffer);
    const base = await expand("nonce", 12);
    let [sequence, prefix]: [number, Bytes] = [0, nonce];
    return async (chunk, final = false) => {
      const iv = base.map((byte, at) => byte ^ (at === 11 ? sequence & 0xff : at === 10 ? sequence >> 8 : 0));
      const sealed = await key.seal(iv.buffer, chunk.slice().buffer, utf8(final ? "final" : "").buffer);
      const wire = concat(prefix, final ? Uint8Array.of(0) : varint(sealed.byteLength), new Uint8Array(sealed));
      [sequence, prefix] = [sequence + 1, new Uint8Array()];
      return wire;
    };
  }

  async sealAnswer(opened: Opened, { status = 200, fields = [], content = new Uint8Array() }: Answer): Promise<Bytes> {
    const seal = await this.sealer(opened);
    return await seal(concat(encodeResponse({ status, fields }, content.length), content), true);
  }
}

export const SEALED = { status: 200, headers: { "content-type": "message/ohttp-chunked-res" } };

/** What a session would be; `next` are the keys that renewals learn, one after the other. */
export class TestPeer implements Peer {
  renewals = 0;

  constructor(
    private config: Bytes,
    private readonly next: Bytes[] = [],
    readonly baseUrl = "https://gateway.example/mitai",
    private readonly name?: string,
  ) {}

  async keyConfig(): Promise<Bytes> {
    return this.config;
  }

  replica(): string | undefined {
    return this.name;
  }

  async renew(): Promise<void> {
    this.renewals += 1;
    this.config = this.next.shift() ?? this.config;
  }
}

/** Return a `fetch` that gives `respond` the sealed request, and keeps what it was called with. */
export function carrying(respond: (body: Bytes, init: RequestInit) => Response | Promise<Response>) {
  const calls: { url: string; init: RequestInit; body: Bytes }[] = [];
  const fetch: typeof globalThis.fetch = async (input, init = {}) => {
    const body = new Uint8Array(await new Response(init.body).arrayBuffer());
    calls.push({ url: String(input), init, body });
    return await respond(body, init);
  };
  return { fetch, calls };
}

/** Return a body of these pieces; one that is an error breaks it. */
export function streamOf(...pieces: readonly (Bytes | Error)[]): ReadableStream<Bytes> {
  const left = [...pieces];
  return new ReadableStream<Bytes>({
    pull(controller) {
      const piece = left.shift();
      if (piece === undefined) controller.close();
      else if (piece instanceof Error) controller.error(piece);
      else controller.enqueue(piece);
    },
  });
}
