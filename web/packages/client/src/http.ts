/**
 * Answers of peers that nobody trusts: read up to a limit and within a time; and the errors that they stand for.
 *
 * Port of `mitai/bodies.py` and `mitai/problem.py`.
 *
 * Invariants:
 * - No cookie, no referrer and no cache entry goes along, and no redirect is followed.
 * - A body is counted as it arrives (a browser has decompressed it by then) and dropped as soon as it is too large.
 * - A peer's words are cut short and stripped of control characters before a person sees them.
 */

import { type Bytes, concat, MitaiError, utf8 } from "@mitai/verify";
import { type Decoder, decodeJson, integer, nullable, optional, string, struct } from "@mitai/verify/json";

const IDLE_MS = 30_000; // until an answer begins, and between two of its parts
const WHOLE_MS = 120_000;
const MAX_PROBLEM_BYTES = 65_536;

export type Fetch = typeof fetch;

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** Nothing when it is above the limit. */
  readonly body: Bytes | undefined;
}

/** GET what is public; throw `client.timeout` or `client.unreachable`, or what the caller's signal was aborted with. */
export function get(fetcher: Fetch, url: string, limit: number, signal?: AbortSignal): Promise<Answer> {
  return exchanged(fetcher, url, limit, {}, signal);
}

/** POST without a body, likewise. */
export function post(fetcher: Fetch, url: string, limit: number, signal?: AbortSignal): Promise<Answer> {
  return exchanged(fetcher, url, limit, { method: "POST" }, signal);
}

async function exchanged(
  fetcher: Fetch,
  url: string,
  limit: number,
  how: RequestInit,
  signal?: AbortSignal,
): Promise<Answer> {
  const who = new URL(url).origin;
  const slow = new AbortController();
  const end = () => slow.abort();
  const whole = setTimeout(end, WHOLE_MS);
  let idle = setTimeout(end, IDLE_MS);
  const heard = () => {
    clearTimeout(idle);
    idle = setTimeout(end, IDLE_MS);
  };
  try {
    const response = await fetcher(url, {
      ...how,
      credentials: "omit",
      redirect: "error",
      cache: "no-store",
      referrerPolicy: "no-referrer",
      signal: signal ? AbortSignal.any([signal, slow.signal]) : slow.signal,
    });
    heard();
    return { status: response.status, headers: response.headers, body: await bounded(response, limit, heard) };
  } catch (error) {
    if (error instanceof MitaiError) throw error;
    signal?.throwIfAborted();
    if (slow.signal.aborted) throw late(who);
    throw new MitaiError("client.unreachable", `${who} can't be reached`, "is the platform up? are you online?");
  } finally {
    clearTimeout(whole);
    clearTimeout(idle);
  }
}

/** Do what ends with a signal, in two minutes at most; throw `client.timeout`, or what the caller's signal was aborted with. */
export async function inTime<T>(
  who: string,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const slow = AbortSignal.timeout(WHOLE_MS);
  try {
    return await work(signal ? AbortSignal.any([signal, slow]) : slow);
  } catch (error) {
    if (error instanceof MitaiError || signal?.aborted || !slow.aborted) throw error;
    throw late(who);
  }
}

function late(who: string): MitaiError {
  return new MitaiError("client.timeout", `${who} did not answer in time`, "try again, or ask the operator");
}

/** Read a body, or return nothing when it is above `limit` bytes. */
export async function bounded(response: Response, limit: number, heard?: () => void): Promise<Bytes | undefined> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of pieces(response)) {
    heard?.();
    size += part.length;
    if (size > limit) return undefined;
    parts.push(part);
  }
  return concat(...parts);
}

/** A response's body as it arrives; leaving the loop ends the transfer. (Safari's streams can't be iterated.) */
export async function* pieces(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    await reader.cancel().catch(() => undefined); // of a body that was read to its end: nothing happens
  }
}

/** The error that a peer's answer stands for: a problem document (RFC 9457), or `code` when it gave none. */
export function errorFrom(status: number, body: Bytes | undefined, code: string, who: string): MitaiError {
  const told = lenient(body?.subarray(0, MAX_PROBLEM_BYTES), problem);
  const detail = told?.detail || `${who} answered with status ${status}`;
  return new MitaiError(plain(told?.code, 100) || code, plain(detail, 500), plain(told?.hint, 500));
}

/** The same for an OpenAI-style body, which wraps code, message and hint as `error`. */
export function refusal(status: number, body: Bytes | undefined): MitaiError {
  const error = lenient(body, openAiError)?.error;
  const told = error && utf8(JSON.stringify({ code: error.code ?? "", detail: error.message ?? "", hint: error.hint }));
  return errorFrom(status, told ?? body, "client.refused", "the server");
}

// The members that we read; others are ignored, as RFC 9457, section 3.2, asks.
const words = optional(nullable(string), null);
const problem = struct(
  {
    type: optional(string, ""),
    status: optional(integer(), 0),
    code: optional(string, ""),
    detail: optional(string, ""),
    hint: words,
    step: words,
  },
  "ignored",
);
const openAiError = struct({ error: struct({ code: words, message: words, hint: words }, "ignored") }, "ignored");

function lenient<T>(body: Bytes | undefined, decoder: Decoder<T>): T | undefined {
  try {
    return body && decodeJson(body, decoder, "client.refused", "no problem document");
  } catch (error) {
    if (error instanceof MitaiError) return undefined;
    throw error;
  }
}

/** A stranger's words, for people: no control, format or unassigned characters, and no spaces but U+0020. */
function plain(said: string | null | undefined, limit: number): string {
  return [...(said ?? "").slice(0, 2 * limit)]
    .slice(0, limit)
    .filter((character) => character === " " || !/[\p{C}\p{Z}]/u.test(character))
    .join("");
}
