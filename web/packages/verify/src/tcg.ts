/**
 * Event logs of firmware and loaders in a TD (CCEL): parse, replay, compare with the RTMRs.
 *
 * Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 10 (crypto-agile and SHA-1 logs), and the
 * "Guest-Hypervisor Communication Interface" for TDX, where register n + 1 of the log is RTMR[n]. Port of
 * `mitai/attest/eventlog/tcg.py`, of what is about RTMRs.
 *
 * Invariants:
 * - Only digests are proven by a replay: kinds and descriptions in a log are not.
 * - A log must be read to its end: padding may follow the last event (all 0xff or all 0x00), nothing else.
 * - EV_NO_ACTION never extends.
 */

import { type Bytes, equal, sha384, utf8 } from "./bytes.ts";
import { Reader } from "./checks.ts";
import { MitaiError } from "./errors.ts";

export const MAX_EVENT_LOG_BYTES = 1 << 20; // real guests reserve 64 to 256 KiB
export const EV_NO_ACTION = 3; // informative: never extended
const ALG_SHA1 = 0x0004;
export const ALG_SHA384 = 0x000c;
// Digest sizes of SHA-1, SHA-256, SHA-384, SHA-512 and SM3.
const SIZES = new Map([
  [ALG_SHA1, 20],
  [0x000b, 32],
  [ALG_SHA384, 48],
  [0x000d, 64],
  [0x0012, 32],
]);
const CODE = "attest.event-log-malformed";

/** One event: which register, which kind, its digests by algorithm, its description. */
export interface Event {
  readonly register: number;
  readonly kind: number;
  readonly digests: ReadonlyMap<number, Bytes>;
  readonly data: Bytes;
}

/** A parsed log: the algorithms of its digests, and its events without the header. */
export interface EventLog {
  readonly algorithms: ReadonlySet<number>;
  readonly events: readonly Event[];
}

/** Parse a log; throw on anything malformed. One without a crypto-agile header has SHA-1 digests alone. */
export function readEventLog(log: Bytes): EventLog {
  if (log.length > MAX_EVENT_LOG_BYTES) throw malformed(`an event log of ${log.length} bytes is above the limit`);
  const reader = new Reader(log, "the event log", CODE);
  const first = legacyEvent(reader);
  const sizes = header(first);
  const events = first.kind === EV_NO_ACTION && startsWith(first.data, "Spec ID Event0") ? [] : [first];
  while (reader.left) {
    const next = log.subarray(reader.offset);
    if (next.length >= 8 && isPadding(next.subarray(0, 8))) {
      if (!isPadding(next)) throw malformed("the event log goes on behind its padding");
      break;
    }
    events.push(sizes ? agileEvent(reader, sizes) : legacyEvent(reader));
  }
  return { algorithms: new Set(sizes?.keys() ?? [ALG_SHA1]), events };
}

function isPadding(data: Bytes): boolean {
  return (data[0] === 0 || data[0] === 0xff) && data.every((byte) => byte === data[0]);
}

function legacyEvent(reader: Reader): Event {
  const [register, kind, sha1] = [reader.u32(), reader.u32(), reader.take(20)];
  return { register, kind, digests: new Map([[ALG_SHA1, sha1]]), data: reader.take(reader.u32()) };
}

/** Read the Spec ID event; return the digest size of each algorithm, or nothing where the log is an older one. */
function header({ kind, data }: Event): ReadonlyMap<number, number> | undefined {
  if (kind !== EV_NO_ACTION || !startsWith(data, "Spec ID Event03\0")) return undefined;
  const spec = new Reader(data, "the event log's header", CODE);
  spec.take(24); // signature, platform class, version, errata, size of UINTN
  const count = spec.u32();
  if (count < 1 || count > 8) throw malformed(`the event log's header names ${count} algorithms`);
  const sizes = new Map<number, number>();
  for (let pair = 0; pair < count; pair++) {
    const [algorithm, size] = [spec.u16(), spec.u16()];
    if (sizes.has(algorithm) || (SIZES.get(algorithm) ?? size) !== size) {
      throw malformed("the event log's header names an algorithm twice, or with a wrong size");
    }
    sizes.set(algorithm, size);
  }
  spec.take(spec.take(1)[0] ?? 0); // vendor information
  spec.end();
  return sizes;
}

function agileEvent(reader: Reader, sizes: ReadonlyMap<number, number>): Event {
  const [register, kind, count] = [reader.u32(), reader.u32(), reader.u32()];
  const digests = new Map<number, Bytes>();
  for (let entry = 0; entry < count; entry++) {
    const algorithm = reader.u16();
    const size = sizes.get(algorithm);
    if (size === undefined || digests.has(algorithm)) {
      throw malformed("an event has a digest of an algorithm that the log's header does not name, or twice");
    }
    digests.set(algorithm, reader.take(size));
  }
  return { register, kind, digests, data: reader.take(reader.u32()) };
}

/** Return RTMR[0] to RTMR[3] as the log claims them. */
export async function replayRtmrs({ algorithms, events }: EventLog): Promise<readonly Bytes[]> {
  if (!algorithms.has(ALG_SHA384)) throw malformed("the event log has no sha384 digests");
  const registers = new Map<number, Bytes>();
  let started = false;
  for (const { register, kind, digests, data } of events) {
    if (kind === EV_NO_ACTION) {
      if (!startsWith(data, "StartupLocality\0")) continue;
      // It would concern register 0, which is no RTMR: well-formed, it changes nothing.
      if (started || register !== 0 || data.length !== 17 || ![0, 3, 4].includes(data[16] ?? -1)) {
        throw malformed("the event log's startup locality is malformed, or there twice");
      }
      started = true;
      continue;
    }
    const digest = digests.get(ALG_SHA384);
    if (digest === undefined) throw malformed(`an event of register ${register} has no sha384 digest`);
    registers.set(register, await sha384(registers.get(register) ?? new Uint8Array(48), digest));
  }
  if ([...registers.keys()].some((register) => register < 1 || register > 4)) {
    throw malformed("the event log extends registers that are no RTMR");
  }
  return [1, 2, 3, 4].map((register) => registers.get(register) ?? new Uint8Array(48));
}

/** Throw unless these are exactly the registers of the quote. */
export function checkReplayed(replayed: readonly Bytes[], rtmrs: readonly Bytes[]): void {
  const differing = rtmrs.findIndex((reported, number) => !equal(reported, replayed[number] ?? new Uint8Array()));
  if (differing >= 0) {
    throw new MitaiError(
      "attest.event-log-mismatch",
      `the event log does not replay to the quote's RTMR[${differing}]`,
    );
  }
}

/** Whether the data begins with this text. */
export function startsWith(data: Bytes, prefix: string): boolean {
  return equal(data.subarray(0, prefix.length), utf8(prefix));
}

function malformed(why: string): MitaiError {
  return new MitaiError(CODE, why);
}
