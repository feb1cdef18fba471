/**
 * The bytes of one exchange on their way: shown to who asked for them, read as they come, given up when the caller does.
 *
 * - A connection that breaks within an answer is `channel.truncated`; an abort is the signal's own reason.
 */

import { type Bytes, concat, MitaiError } from "@mitai/verify";

/** Bytes as they go over the wire; they are not to be written to. */
export interface WirePiece {
  readonly direction: "sent" | "received";
  readonly bytes: Bytes;
  readonly at: number; // milliseconds, as `performance.now()`
}

export type OnWire = (piece: WirePiece) => void;

/** Reads the body of an outer response. */
export class WireReader {
  readonly #reader: ReadableStreamDefaultReader<Bytes> | undefined;

  constructor(
    outer: Response,
    private readonly onWire: OnWire | undefined,
  ) {
    this.#reader = outer.body?.getReader();
  }

  /** Return the next piece, undefined at the end. */
  async read(): Promise<Bytes | undefined> {
    const bytes = await this.#next();
    if (bytes) show(this.onWire, "received", bytes);
    return bytes;
  }

  /** Return the body if it is not longer, else its beginning. */
  async readAtMost(limit: number): Promise<Bytes> {
    let body: Bytes = new Uint8Array();
    for (let piece = await this.read(); piece; piece = await this.read()) {
      body = concat(body, piece);
      if (body.length > limit) break;
    }
    return body;
  }

  /** Let go of the connection, whatever state it is in. */
  cancel(reason: unknown): void {
    this.#reader?.cancel(reason).catch(() => undefined);
  }

  async #next(): Promise<Bytes | undefined> {
    try {
      return (await this.#reader?.read())?.value;
    } catch {
      throw new MitaiError(
        "channel.truncated",
        "the connection broke within the answer",
        "the server or somebody on the way went away; try again",
      );
    }
  }
}

export function show(onWire: OnWire | undefined, direction: "sent" | "received", bytes: Bytes): void {
  onWire?.({ direction, bytes, at: performance.now() });
}

/** Return a request body that is sealed while it is sent. */
export function upload(sealed: AsyncGenerator<Bytes>, onWire: OnWire | undefined): ReadableStream<Bytes> {
  return new ReadableStream<Bytes>({
    async pull(controller) {
      const { done, value } = await sealed.next();
      if (done) return controller.close();
      show(onWire, "sent", value);
      controller.enqueue(value);
    },
    async cancel() {
      await sealed.return(undefined);
    },
  });
}

/** Wait for `work`, but no longer than until the signal says so; what fails after that fails for its reason. */
export function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    const fail = (error: unknown) => reject(signal.aborted ? signal.reason : error);
    work.then(resolve, fail).finally(() => signal.removeEventListener("abort", abort));
    if (signal.aborted) abort();
  });
}
