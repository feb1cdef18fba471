/**
 * The body of an answer, opened as it is read.
 *
 * - It ends without an error only after the authenticated end of the answer.
 * - Nothing is read ahead: who reads slowly holds back the server.
 */

import type { Bytes } from "@mitai/verify";
import { unlessAborted, type WireReader } from "./wire.ts";

export class OpenedBody {
  #error: unknown;

  constructor(
    private readonly early: readonly Bytes[], // what came with its head
    private readonly opened: AsyncGenerator<Bytes[]>,
    private readonly wire: WireReader,
    private readonly request: Request,
  ) {}

  stream(): ReadableStream<Bytes> {
    return new ReadableStream<Bytes>(
      {
        start: (controller) => {
          for (const piece of this.early) controller.enqueue(piece);
        },
        pull: (controller) => this.#pull(controller),
        cancel: (reason) => this.wire.cancel(reason),
      },
      { highWaterMark: 0 },
    );
  }

  /** Let the methods that read a whole body fail with what went wrong: Chromium's call it a network error. */
  tellErrorsOf(response: Response): void {
    for (const method of ["arrayBuffer", "blob", "formData", "json", "text"] as const) {
      const read = response[method].bind(response);
      const value = () => read().catch((error: unknown) => Promise.reject(this.#error ?? error));
      Object.defineProperty(response, method, { value });
    }
  }

  async #pull(controller: ReadableStreamDefaultController<Bytes>): Promise<void> {
    try {
      let next: IteratorResult<Bytes[]>;
      do next = await unlessAborted(this.request.signal, this.opened.next());
      while (!next.done && !next.value.length);
      if (next.done) return controller.close();
      for (const piece of next.value) controller.enqueue(piece);
    } catch (error) {
      this.#error = error;
      this.wire.cancel(error);
      throw error;
    }
  }
}
