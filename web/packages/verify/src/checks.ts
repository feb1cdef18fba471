/**
 * A verifier as a numbered checklist: every refusal names its step, every pass leaves a line. And a cursor over bytes.
 *
 * Port of `mitai/attest/checks.py`.
 *
 * Invariants:
 * - Whatever a parser or a check inside a step throws leaves the step as a `MitaiError` that names the step.
 * - A step is listed as passed only when its body ended without an error.
 *
 * Example: `const quote = await checks.step("quote", (say) => { say("TDX version 4"); return parseQuote(bytes); });`
 */

import type { Bytes } from "./bytes.ts";
import { MitaiError } from "./errors.ts";
import type { Check } from "./machine.ts";

/** Collects the steps that passed, in order. */
export class Checklist {
  readonly #passed: Check[] = [];

  get passed(): readonly Check[] {
    return [...this.#passed];
  }

  /** Run a body as the next step; it gets a function that adds to the step's detail. */
  async step<T>(name: string, body: (say: (detail: string) => void) => T | Promise<T>): Promise<T> {
    const step = `${this.#passed.length + 1} ${name}`;
    const details: string[] = [];
    try {
      const value = await body((detail) => details.push(detail));
      this.#passed.push({ step, detail: details.join("; ") });
      return value;
    } catch (error) {
      if (!(error instanceof MitaiError)) throw error;
      throw new MitaiError(error.code, error.message, error.hint, step);
    }
  }
}

/** Run a reader; what it finds malformed (`RangeError`) is refused with this code. */
export function refusing<T>(code: string, message: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) throw new MitaiError(code, message);
    throw error;
  }
}

/** A cursor over bytes that refuses to read past the end; `what` and `code` speak for the format. */
export class Reader {
  offset = 0;

  constructor(
    private readonly data: Bytes,
    private readonly what: string,
    private readonly code: string,
  ) {}

  /** How many bytes are unread. */
  get left(): number {
    return this.data.length - this.offset;
  }

  /** The next `size` bytes. */
  take(size: number): Bytes {
    if (size > this.left) throw new MitaiError(this.code, `${this.what} ends ${size - this.left} bytes early`);
    const start = this.offset;
    this.offset += size;
    return this.data.subarray(start, this.offset);
  }

  u16(): number {
    const [low = 0, high = 0] = this.take(2);
    return low + high * 2 ** 8;
  }

  u32(): number {
    return this.u16() + this.u16() * 2 ** 16;
  }

  /** Everything unread. */
  rest(): Bytes {
    return this.take(this.left);
  }

  /** Refuse unread bytes. */
  end(): void {
    if (this.left) {
      throw new MitaiError(this.code, `${this.what} is followed by ${this.left} bytes that do not belong to it`);
    }
  }
}
