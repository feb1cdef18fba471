/**
 * A session as one exchange sees it, and requests through the sealed channel.
 *
 * Invariants:
 * - Key and replica are of one verification, whatever is renewed meanwhile; `verified` says afterwards which it was.
 */

import { type OnWire, type Peer, sealedFetch } from "@mitai/channel";
import type { Bytes } from "@mitai/verify";
import { type Answer, bounded, inTime } from "./http.ts";
import type { Session, Verified } from "./session.ts";

/**
 * Begins with the verification `earlier`, where it is given and not stale: its replica holds what is asked for.
 * `accept` is asked before anything is sealed to a key, and throws.
 */
export class View implements Peer {
  readonly baseUrl: string;
  #used: Verified | undefined;

  constructor(
    private readonly session: Session,
    private earlier?: Verified,
    private readonly accept?: (verified: Verified) => void,
  ) {
    this.baseUrl = session.baseUrl;
  }

  /** What the last request was sealed to. */
  get verified(): Verified {
    return this.#used ?? this.session.verified;
  }

  async keyConfig(): Promise<Bytes> {
    const earlier = this.earlier && this.session.now() < this.earlier.staleAt ? this.earlier : undefined;
    const verified = earlier ?? (await this.session.current());
    this.accept?.(verified);
    this.#used = verified;
    return verified.appraisal.claims.keyConfig;
  }

  replica(): string | undefined {
    return this.verified.replica;
  }

  async renew(): Promise<void> {
    this.earlier = undefined;
    await this.session.renew();
  }

  /** GET what is small. */
  async get(path: string, limit: number, signal?: AbortSignal): Promise<Omit<Answer, "headers">> {
    return await inTime(this.baseUrl, signal, async (end) => {
      const response = await this.fetch(path, { signal: end });
      return { status: response.status, body: await bounded(response, limit) };
    });
  }

  /** Seal a request for a path of the server, and open its answer. */
  async fetch(path: string, init: RequestInit, onWire?: OnWire): Promise<Response> {
    const send = sealedFetch(this, { fetch: this.session.fetch, ...(onWire && { onWire }) });
    return await send(`${this.baseUrl}${path}`, init);
  }
}
