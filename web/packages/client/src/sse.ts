/**
 * Server-sent events (WHATWG HTML, section 9.2.6), as far as the OpenAI API uses them: the data of each event.
 *
 * Invariants:
 * - Bytes that are not UTF-8, and an event or a stream above its limit, throw `client.answer-malformed`.
 * - An event that the stream ends within is dropped, as the specification asks.
 */

import { MitaiError } from "@mitai/verify";

const MAX_EVENT_CHARACTERS = 1 << 20;
const MAX_STREAM_BYTES = 256 << 20;

/** Yield the data of each event that has any. */
export async function* events(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let data: string[] = [];
  let size = 0;
  for await (const line of lines(stream)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
      size = 0;
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice(5);
      data.push(value.startsWith(" ") ? value.slice(1) : value);
      size += value.length + 1;
      if (size > MAX_EVENT_CHARACTERS) throw malformed("an event of the server's stream is too large");
    } // other fields, and comments, say nothing to us
  }
}

/** Yield the lines that end: in CR, LF, or both. */
async function* lines(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true }); // it drops a byte order mark at the start
  let begun: string[] = [];
  let afterCr = false;
  let [line, whole] = [0, 0]; // their sizes so far
  for await (const bytes of stream) {
    let fresh = decode(decoder, bytes);
    if (fresh === "") continue;
    if (afterCr && fresh.startsWith("\n")) fresh = fresh.slice(1);
    afterCr = fresh.endsWith("\r");
    const [end = "", ...next] = fresh.split(/\r\n|\n|\r/);
    const last = next.pop();
    begun.push(end);
    if (last !== undefined) {
      yield begun.join("");
      yield* next;
      begun = [last];
    }
    whole += bytes.length;
    line = last === undefined ? line + end.length : last.length;
    if (line > MAX_EVENT_CHARACTERS || whole > MAX_STREAM_BYTES) throw malformed("the server's stream is too large");
  }
  decode(decoder);
}

function decode(decoder: TextDecoder, bytes?: Uint8Array): string {
  try {
    return decoder.decode(bytes, { stream: bytes !== undefined });
  } catch {
    throw malformed("the server's stream is not text");
  }
}

function malformed(message: string): MitaiError {
  return new MitaiError("client.answer-malformed", message);
}
