/**
 * What a boot must look like in its event log: the check of the section `event_log` of an appraisal policy.
 *
 * Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 3.3.4.8 (secure boot). Port of
 * `mitai/attest/eventlog/rules.py` and `secureboot.py`, of what is about RTMRs.
 *
 * Invariants:
 * - Every rule is about digests that replay to quoted registers: what a log says in words decides nothing.
 * - Secure boot is read from digests: exactly one of those that the variable SecureBoot can have, before the separator.
 *   What looks like a separator does not end the search: RTMR0 also holds what the host chooses.
 *
 * Example: `const facts = await checkRtmrLog(ccel, rtmrs, policy.eventLog);`
 */

import { type Bytes, concat, fromHex, hex, sha384, utf8 } from "./bytes.ts";
import { checkDstack } from "./dstack.ts";
import { MitaiError } from "./errors.ts";
import type { EventLogRules } from "./sections.ts";
import { ALG_SHA384, checkReplayed, EV_NO_ACTION, type Event, readEventLog, replayRtmrs, startsWith } from "./tcg.ts";

const EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001;
const TEXT = "text:";

/** Check the event log of a TD, a CCEL or dstack's, under a policy's `[event_log]`; return facts for people. */
export async function checkRtmrLog(
  log: Bytes,
  rtmrs: readonly Bytes[],
  rules: EventLogRules,
): Promise<ReadonlyMap<string, string>> {
  if (demandsIma(rules)) {
    throw new MitaiError("attest.ima-missing", "the policy demands an IMA list, which is read from TPMs only");
  }
  if (!log.length) {
    if (reliesOnLog(rules)) {
      throw new MitaiError("attest.event-log-missing", "the policy demands an event log, and none was sent");
    }
    return new Map();
  }
  if (startsWith(log, "[")) {
    if (rules.secureBoot || rules.events.size) {
      throw unsuitable("dstack's log does not show what the rules ask of a CCEL");
    }
    return checkDstack(log, rtmrs, rules.dstack);
  }
  if (rules.dstack.size) throw unsuitable("the rules ask for dstack's events: a CCEL does not hold them");
  const parsed = readEventLog(log);
  checkReplayed(await replayRtmrs(parsed), rtmrs);
  return checkEvents(parsed.events, rules);
}

/** Whether evidence without a log must be refused. */
export function reliesOnLog(rules: EventLogRules): boolean {
  return rules.required || rules.secureBoot || rules.events.size > 0 || rules.dstack.size > 0;
}

/** Whether evidence without an IMA list must be refused. */
export function demandsIma({ ima }: EventLogRules): boolean {
  return ima.required || ima.files.size > 0;
}

async function checkEvents(events: readonly Event[], rules: EventLogRules): Promise<ReadonlyMap<string, string>> {
  for (const [name, entries] of rules.events) {
    if (!name.startsWith("rtmr")) throw unsuitable(`the rules ask for ${name}, which this log does not have`);
    await checkRegister(digestsOf(events, Number(name.slice(4)) + 1), name, entries);
  }
  let state: string;
  try {
    state = (await secureBoot(events)) ? "on" : "off";
  } catch (error) {
    if (rules.secureBoot || !(error instanceof MitaiError)) throw error;
    state = `unknown (${error.code})`;
  }
  if (rules.secureBoot && state !== "on") {
    throw new MitaiError("attest.secure-boot-off", "the machine was started without secure boot");
  }
  return new Map([
    ["secure boot", state],
    ["boot events", String(events.length)],
  ]);
}

function digestsOf(events: readonly Event[], register: number): string[] {
  return events
    .filter((event) => event.register === register && event.kind !== EV_NO_ACTION)
    .map(({ digests }) => hex(digests.get(ALG_SHA384) ?? new Uint8Array()));
}

async function checkRegister(digests: readonly string[], name: string, entries: readonly string[]): Promise<void> {
  const allowed = new Set<string>();
  for (const entry of entries) {
    if (!entry.startsWith(TEXT)) allowed.add(entry);
    else for (const form of formsOf(entry.slice(TEXT.length))) allowed.add(hex(await sha384(form)));
  }
  if (!digests.length) {
    throw new MitaiError("attest.event-missing", `nothing was measured into ${name}, which the rules ask for`);
  }
  const refused = digests.find((digest) => !allowed.has(digest));
  if (refused !== undefined) {
    throw new MitaiError("attest.event-refused", `${name} was extended with ${refused}, which is not listed`);
  }
}

/** Return a text in every form that loaders measure it in. */
function formsOf(text: string): Bytes[] {
  return [utf8(text), utf8(`${text}\0`), utf16(text), utf16(`${text}\0`)];
}

function utf16(text: string): Bytes {
  return Uint8Array.from({ length: 2 * text.length }, (_, at) => text.charCodeAt(at >> 1) >> (8 * (at & 1)));
}

/** UEFI_VARIABLE_DATA of EFI_GLOBAL_VARIABLE's SecureBoot with this value. */
function secureBootVariable(...value: readonly number[]): Bytes {
  const [vendor, name] = [fromHex("61dfe48bca93d211aa0d00e098032b8c"), utf16("SecureBoot")];
  const lengths = [name.length / 2, value.length].map((size) => Uint8Array.of(size, 0, 0, 0, 0, 0, 0, 0));
  return concat(vendor, ...lengths, name, Uint8Array.from(value));
}

/** Return whether secure boot was on, from a replayed CCEL; throw when it doesn't tell, or tells twice. */
async function secureBoot(events: readonly Event[]): Promise<boolean> {
  const digest = async (data: Bytes) => hex(await sha384(data));
  const on = await digest(secureBootVariable(1));
  const off = [await digest(secureBootVariable(0)), await digest(secureBootVariable())];
  const debuggable = [await digest(utf8("UEFI Debug Mode")), await digest(utf8("UEFI Debug Mode\0"))];
  const separator = await digest(new Uint8Array(4));
  const found: { isOn: boolean; late: boolean }[] = [];
  let separated = false;
  for (const { register, kind, digests, data } of events) {
    if (register !== 1 || kind === EV_NO_ACTION) continue;
    const extended = hex(digests.get(ALG_SHA384) ?? new Uint8Array());
    separated ||= extended === separator;
    if (!separated && kind === EV_EFI_VARIABLE_DRIVER_CONFIG && (await digest(data)) !== extended) {
      throw new MitaiError(
        "attest.event-data-mismatch",
        "the event log describes a UEFI variable that is not what was measured",
      );
    }
    if (debuggable.includes(extended)) {
      throw new MitaiError("attest.secure-boot-debug", "the firmware measured that it was made debuggable");
    }
    if (extended === on || off.includes(extended)) found.push({ isOn: extended === on, late: separated });
  }
  const [only] = found;
  if (!separated || !only || found.length > 1 || only.late) {
    throw new MitaiError(
      "attest.secure-boot-unknown",
      "the event log does not tell exactly once whether secure boot was on",
    );
  }
  return only.isOn;
}

function unsuitable(why: string): MitaiError {
  return new MitaiError("attest.event-log-unsuitable", why);
}
