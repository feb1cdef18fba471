/**
 * dstack's event log: what a guest measured into RTMR[3] while it started its application.
 *
 * Follows dstack's `cc-eventlog` (JSON, one object an event). The digest of a runtime event covers its name and payload:
 * SHA-384(type as little-endian 32-bit ‖ ":" ‖ name ‖ ":" ‖ payload), or of version 2 the canonical JSON of the three.
 * Port of `mitai/attest/eventlog/dstack.py`.
 *
 * Invariants:
 * - Every digest of RTMR[3] is computed from name and payload, so both are proven by the replay; what the log says of a
 *   digest must agree. Other kinds of event in RTMR[3] are refused.
 * - A name holds no colon: otherwise one digest would fit two events. A name that a rule asks for is there exactly once,
 *   as an application may measure names of its own choice later.
 */

import { type Bytes, concat, equal, fromHex, hex, sha384, utf8 } from "./bytes.ts";
import { MitaiError } from "./errors.ts";
import {
  array,
  bigint,
  canonical,
  type Decoded,
  decodeJson,
  integer,
  JsonObject,
  optional,
  string,
  struct,
} from "./json.ts";
import { checkReplayed, MAX_EVENT_LOG_BYTES } from "./tcg.ts";

const RUNTIME_EVENT = 0x08000001n;
const CODE = "attest.event-log-malformed";

const dstackEvents = array(
  struct(
    {
      imr: integer(),
      event_type: bigint,
      event: string,
      event_payload: string,
      digest: optional(string, ""),
      version: optional(bigint, 1n),
    },
    "ignored",
  ),
);
type DstackEvent = Decoded<typeof dstackEvents>[number];

/** Check that the log replays to all RTMRs and that its events are those allowed; return payloads by name. */
export async function checkDstack(
  log: Bytes,
  rtmrs: readonly Bytes[],
  allowed: ReadonlyMap<string, readonly string[]>,
): Promise<ReadonlyMap<string, string>> {
  if (log.length > MAX_EVENT_LOG_BYTES) throw malformed(`an event log of ${log.length} bytes is above the limit`);
  const events = decodeJson(log, dstackEvents, CODE, "these bytes are not dstack's event log");
  checkReplayed(await replay(events), rtmrs);
  const payloads = new Map<string, string[]>();
  for (const { eventType, event, eventPayload } of events) {
    if (eventType !== RUNTIME_EVENT) continue;
    payloads.set(event, [...(payloads.get(event) ?? []), hex(fromAnyHex(eventPayload))]);
  }
  for (const [name, accepted] of allowed) {
    const [payload, ...others] = payloads.get(name) ?? [];
    if (payload === undefined || others.length) {
      throw new MitaiError("attest.dstack-event-missing", "an event that the rules ask for is not there exactly once");
    }
    if (!accepted.includes(payload)) {
      throw new MitaiError("attest.dstack-event-refused", "an event has a payload that is not allowed");
    }
  }
  const facts = new Map<string, string>();
  for (const [name, [payload, ...others]] of payloads) {
    const isPlain = /^[A-Za-z0-9_.-]{1,64}$/.test(name); // safe to show
    if (payload !== undefined && !others.length && isPlain) facts.set(`dstack ${name}`, payload.slice(0, 128));
  }
  return facts;
}

async function replay(events: readonly DstackEvent[]): Promise<readonly Bytes[]> {
  const rtmrs: Bytes[] = [0, 1, 2, 3].map(() => new Uint8Array(48));
  for (const event of events) {
    const previous = rtmrs[event.imr];
    if (previous === undefined) throw malformed(`an event of register ${event.imr}, which is no RTMR`);
    rtmrs[event.imr] = await sha384(previous, await measured(event));
  }
  return rtmrs;
}

/** Return the digest that extends the register. */
async function measured({ imr, eventType, event, eventPayload, digest, version }: DstackEvent): Promise<Bytes> {
  const given = fromAnyHex(digest);
  if (eventType !== RUNTIME_EVENT) {
    if (imr === 3 || given.length !== 48) {
      throw malformed("an event of RTMR[3] is not dstack's, or a digest is not SHA-384");
    }
    return given;
  }
  if (event.includes(":") || ![1n, 2n].includes(version) || imr !== 3) {
    throw malformed("a runtime event has a colon in its name, an unknown version, or is not of RTMR[3]");
  }
  const payload = fromAnyHex(eventPayload);
  const named = new JsonObject([
    ["name", event],
    ["payload", hex(payload)],
    ["type", eventType],
  ]);
  const content =
    version === 1n ? concat(Uint8Array.of(0x01, 0, 0, 0x08), utf8(`:${event}:`), payload) : utf8(canonical(named));
  const computed = await sha384(content);
  if (given.length && !equal(given, computed)) {
    throw new MitaiError("attest.event-data-mismatch", "a runtime event's digest is not of its name and payload");
  }
  return computed;
}

function fromAnyHex(digits: string): Bytes {
  if (digits.length % 2 || !/^[0-9A-Fa-f]*$/.test(digits)) throw malformed("an event of dstack's log is not in hex");
  return fromHex(digits.toLowerCase());
}

function malformed(why: string): MitaiError {
  return new MitaiError(CODE, why);
}
