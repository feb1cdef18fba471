import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, fromHex, sha384, utf8 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import { checkRtmrLog } from "../src/eventlog.ts";
import { Policy } from "../src/policy.ts";
import { readEventLog, replayRtmrs } from "../src/tcg.ts";
import { load } from "./fixtures.ts";

const VARIABLE = 0x80000001;
const SEPARATOR = 4;
const GLOBAL = "61dfe48bca93d211aa0d00e098032b8c";

function u32(...numbers: readonly number[]): Bytes {
  const data = new Uint8Array(4 * numbers.length);
  numbers.forEach((number, at) => {
    new DataView(data.buffer).setUint32(4 * at, number, true);
  });
  return data;
}

const SPEC = concat(utf8("Spec ID Event03\0"), u32(0, 0x02000200, 1), fromHex("0c00300000"));
const HEADER = concat(u32(0, 3), new Uint8Array(20), u32(SPEC.length), SPEC);

async function event(register: number, kind: number, data: Bytes, measured = data): Promise<Bytes> {
  return concat(u32(register, kind, 1), fromHex("0c00"), await sha384(measured), u32(data.length), data);
}

function variable(name: string, ...value: readonly number[]): Bytes {
  const letters = Uint8Array.from([...name].flatMap((letter) => [letter.charCodeAt(0), 0]));
  return concat(fromHex(GLOBAL), u32(name.length, 0, value.length, 0), letters, Uint8Array.from(value));
}

async function check(toml: string, ...events: readonly Promise<Bytes>[]): Promise<ReadonlyMap<string, string>> {
  const log = concat(HEADER, ...(await Promise.all(events)));
  return checkRtmrLog(log, await replayRtmrs(readEventLog(log)), Policy.fromToml(toml).eventLog);
}

const on = event(1, VARIABLE, variable("SecureBoot", 1));
const off = event(1, VARIABLE, variable("SecureBoot", 0));
const empty = event(1, VARIABLE, variable("SecureBoot"));
const separator = event(1, SEPARATOR, new Uint8Array(4));

describe("secure boot", () => {
  const demanded = "event_log.secure_boot=true";

  test.each([
    ["on", [on, separator]],
    ["off", [off, separator]],
    ["off", [empty, separator]],
    ["on", [event(1, VARIABLE, variable("PK", 7)), on, separator, separator]],
    ["on", [on, separator, event(1, VARIABLE, utf8("x"), utf8("y"))]],
    ["on", [event(2, VARIABLE, variable("SecureBoot", 0)), on, separator]],
    ["unknown (attest.secure-boot-unknown)", [on]],
    ["unknown (attest.secure-boot-unknown)", [separator, on]],
    ["unknown (attest.secure-boot-unknown)", [on, on, separator]],
    ["unknown (attest.secure-boot-unknown)", [on, separator, off]],
    ["unknown (attest.secure-boot-unknown)", []],
    ["unknown (attest.secure-boot-debug)", [on, event(1, 7, utf8("UEFI Debug Mode")), separator]],
    ["unknown (attest.event-data-mismatch)", [event(1, VARIABLE, variable("SecureBoot", 1), utf8("other")), separator]],
  ])("is %s", async (state, events) => {
    expect((await check("", ...events)).get("secure boot")).toBe(state);
    if (state === "on") return expect((await check(demanded, ...events)).get("secure boot")).toBe("on");
    const code = /unknown \((.*)\)/.exec(state)?.[1] ?? "attest.secure-boot-off";
    await expect(check(demanded, ...events)).rejects.toMatchObject({ code });
  });
});

describe("events of a register", () => {
  test("all must be listed, as digests or as texts in any form", async () => {
    const letters = utf8("a\0b\0");
    const rules = 'event_log.events={rtmr2=["text:ab","text:ü"]}';
    const listed = [
      utf8("ab"),
      utf8("ab\0"),
      letters,
      concat(letters, Uint8Array.of(0, 0)),
      utf8("ü"),
      Uint8Array.of(0xfc, 0),
    ];
    expect((await check(rules, ...listed.map((data) => event(3, 13, data)))).get("boot events")).toBe("6");
    await expect(check(rules, event(3, 13, utf8("abc")))).rejects.toMatchObject({ code: "attest.event-refused" });
    await expect(check(rules, event(2, 13, utf8("ab")))).rejects.toMatchObject({ code: "attest.event-missing" });
    await expect(check('event_log.events={pcr4=["text:ab"]}', on)).rejects.toMatchObject({
      code: "attest.event-log-unsuitable",
    });
  });
});

describe("a log", () => {
  test("must replay to every register", async () => {
    const log = concat(HEADER, await on);
    const rtmrs = await replayRtmrs(readEventLog(log));
    const { eventLog } = Policy.fromToml("");
    expect((await checkRtmrLog(log, rtmrs, eventLog)).size).toBe(2);
    const none = await checkRtmrLog(new Uint8Array(), rtmrs, eventLog);
    expect(none.size).toBe(0);
    for (const number of [0, 1, 2, 3]) {
      const others = rtmrs.map((rtmr, at) => (at === number ? rtmr.with(47, (rtmr[47] ?? 0) ^ 1) : rtmr));
      await expect(checkRtmrLog(log, others, eventLog)).rejects.toMatchObject({ code: "attest.event-log-mismatch" });
    }
  });

  test("any bytes give facts or a MitaiError", async () => {
    const { bases, settings } = load("evidence");
    const rtmrs: Bytes[] = settings["log plain"].rtmrs.map(fromHex);
    const ccel = Uint8Array.from(atob(bases.ccel ?? ""), (letter) => letter.charCodeAt(0));
    await fc.assert(
      fc.asyncProperty(fc.nat(ccel.length - 1), fc.nat(255), fc.nat(ccel.length), async (at, byte, end) => {
        try {
          await checkRtmrLog(ccel.with(at, byte).slice(0, end), rtmrs, Policy.fromToml("").eventLog);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
