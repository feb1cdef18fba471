/**
 * `sealedFetch`: a `fetch` that seals every request to a key that was verified, and opens the answer as it streams in.
 *
 * See docs/spec/channel.md. All but the I/O is in `outgoing.ts`.
 *
 * - Nothing is ever sent in the clear, and no answer that is not sealed is ever returned.
 * - A request for another origin than the one that was verified is refused: its headers may hold somebody else's secrets.
 * - A request is sent again only when the server said that it does not hold the key, and only to another, verified key.
 * - A body ends without an error only if the authenticated end of the answer was seen.
 *
 *     const fetch = sealedFetch(session);
 *     const response = await fetch(`${session.baseUrl}/v1/models`);
 *     await response.json(), exchangeOf(response).responseSha256;
 */

import { type Bytes, equal, MitaiError } from "@mitai/verify";
import type { RequestHead } from "./bhttp.ts";
import { OpenedBody } from "./body.ts";
import type { Exchange } from "./exchange.ts";
import { REQUEST_TYPE } from "./ohttp.ts";
import { MAX_REFUSAL_BYTES, Outgoing } from "./outgoing.ts";
import { type OnWire, show, unlessAborted, upload, WireReader } from "./wire.ts";

/** A verified server that can be verified anew: what a session gives the channel. */
export interface Peer {
  readonly baseUrl: string;
  /** The key configuration in its attested claims. */
  keyConfig(): Promise<Bytes>;
  /** The replica that was verified, for the gateway to find it again. */
  replica(): string | undefined;
  /** Verify the server again; throw if it does not hold. */
  renew(): Promise<void>;
}

export interface Options {
  /** Called with the very bytes that go over the wire. */
  readonly onWire?: OnWire;
  /** Carries the sealed requests; the platform's own by default. */
  readonly fetch?: typeof globalThis.fetch;
}

/** With `duplex: "half"` a body that is a stream is sent as it comes (browsers: over HTTP/2 only), else read whole first. */
export type SealedInit = RequestInit & { readonly duplex?: "half" };
export type SealedFetch = (input: Request | URL | string, init?: SealedInit) => Promise<Response>;

type Content = Bytes | ReadableStream<Bytes>;

/** What is to be sealed; the request is kept for its signal. */
interface Inner {
  readonly request: Request;
  readonly head: RequestHead;
  readonly content: Content;
}

const EXCHANGES = new WeakMap<Response, Exchange>();
const WITHOUT_CONTENT: readonly number[] = [204, 205, 304]; // a `Response` of these has no body

/** Return the exchange behind a response of `sealedFetch`; its digests are there once it was read to its end. */
export function exchangeOf(response: Response): Readonly<Exchange> {
  const exchange = EXCHANGES.get(response);
  if (!exchange) throw new MitaiError("client.no-exchange", "the answer did not come through the sealed channel");
  return exchange;
}

export function sealedFetch(peer: Peer, options: Options = {}): SealedFetch {
  return async (input, init = {}) => {
    const { body, ...rest } = init;
    const stream = body instanceof ReadableStream ? body : undefined;
    const target = input instanceof Request ? input : new URL(input, peer.baseUrl);
    const request = new Request(target, stream ? rest : init);
    const head = headOf(request, new URL(peer.baseUrl));
    const streamed = stream && init.duplex && takesStreams() ? stream : undefined;
    const sealing = async () => {
      const content = streamed ?? new Uint8Array(await (stream ? new Response(stream) : request).arrayBuffer());
      return await renewing(peer, options, { request, head, content });
    };
    return await unlessAborted(request.signal, sealing());
  };
}

/** Whether this platform sends a stream as a request's body; those that don't would send its name as a text. */
function takesStreams(): boolean {
  let known = false;
  const init: SealedInit = {
    method: "POST",
    body: new ReadableStream(),
    get duplex() {
      known = true;
      return "half" as const;
    },
  };
  return !new Request("https://localhost", init).headers.has("content-type") && known;
}

function headOf(request: Request, base: URL): RequestHead {
  const url = new URL(request.url);
  const prefix = prefixOf(base);
  if (url.protocol !== base.protocol || url.host !== base.host || !url.pathname.startsWith(`${prefix}/`))
    throw new MitaiError(
      "channel.other-origin",
      "a request for another address than the verified one was not sent",
      `this client talks to ${base.origin}${prefix} only`,
    );
  return {
    method: request.method,
    scheme: url.protocol.slice(0, -1),
    authority: url.host,
    path: url.pathname.slice(prefix.length) + url.search,
    fields: [...request.headers].filter(([name]) => name !== "host"),
  };
}

function prefixOf(base: URL): string {
  return base.pathname.replace(/\/+$/, "");
}

/** Exchange; verify again and retry once if the server's keys changed, and only with another key. */
async function renewing(peer: Peer, options: Options, inner: Inner): Promise<Response> {
  const sealedTo = await peer.keyConfig();
  try {
    return await exchange(peer, options, inner, sealedTo);
  } catch (error) {
    if (!(error instanceof MitaiError && error.code === "channel.keys-changed")) throw error;
    if (equal(await peer.keyConfig(), sealedTo)) await peer.renew();
    const renewed = await peer.keyConfig();
    if (equal(renewed, sealedTo) || inner.content instanceof ReadableStream) throw error; // a stream is read only once
    return await exchange(peer, options, inner, renewed);
  }
}

/** Seal, send, and return the answer once its head was opened. */
async function exchange(peer: Peer, options: Options, inner: Inner, keyConfig: Bytes): Promise<Response> {
  const { signal } = inner.request;
  const outgoing = await Outgoing.start(keyConfig, inner.head, new Date());
  const outer = await post(peer, options, signal, await seal(outgoing, inner.content, options));
  const wire = new WireReader(outer, options.onWire);
  try {
    signal.throwIfAborted();
    if (!outgoing.isSealed(outer.status, outer.headers.get("content-type")))
      throw outgoing.refused(outer.status, await wire.readAtMost(MAX_REFUSAL_BYTES));
    const opened = open(outgoing, wire);
    let early: readonly Bytes[] = [];
    while (!outgoing.head) early = (await opened.next()).value ?? []; // before the head there is no content
    const { status, fields } = outgoing.head;
    const empty = WITHOUT_CONTENT.includes(status);
    while (empty && !(await opened.next()).done); // its end is checked all the same
    const body = new OpenedBody(early, opened, wire, inner.request);
    const headers = fields.map(([name, value]): [string, string] => [name, value]);
    const response = new Response(empty ? null : body.stream(), { status, headers });
    body.tellErrorsOf(response);
    EXCHANGES.set(response, outgoing.exchange);
    return response;
  } catch (error) {
    wire.cancel(error);
    throw error;
  }
}

async function seal(outgoing: Outgoing, content: Content, { onWire }: Options): Promise<Content> {
  if (content instanceof ReadableStream) return upload(outgoing.sealStream(content), onWire);
  const sealed = await outgoing.seal(content);
  show(onWire, "sent", sealed);
  return sealed;
}

async function post(peer: Peer, options: Options, signal: AbortSignal, body: Content): Promise<Response> {
  const base = new URL(peer.baseUrl);
  const replica = peer.replica();
  const init: SealedInit = {
    method: "POST",
    headers: { "content-type": REQUEST_TYPE, incremental: "?1", ...(replica && { "mitai-replica": replica }) },
    body,
    signal,
    redirect: "error",
    credentials: "omit",
    cache: "no-store",
    referrerPolicy: "no-referrer",
    ...(body instanceof ReadableStream && { duplex: "half" }),
  };
  signal.throwIfAborted(); // whatever `fetch` makes of it
  return await (options.fetch ?? fetch)(`${base.origin}${prefixOf(base)}/ohttp`, init);
}

/** Yield the content of the answer as pieces of it come; end only after the authenticated end. */
async function* open(outgoing: Outgoing, wire: WireReader): AsyncGenerator<Bytes[]> {
  for (let piece = await wire.read(); piece; piece = await wire.read()) {
    yield await outgoing.feed(piece);
  }
  yield await outgoing.finish();
}
