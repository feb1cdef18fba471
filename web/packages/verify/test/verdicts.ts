/** What the fixtures' inputs are checked with, and where our verdicts are not those of the Python package. */

import { type Bytes, concat, fromBase64, fromHex, hex, text } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { PublicKey } from "../src/dsse.ts";
import { MitaiError } from "../src/errors.ts";
import { checkRtmrLog } from "../src/eventlog.ts";
import { Claims, Evidence } from "../src/evidence.ts";
import type { Tier } from "../src/ledger/assurance.ts";
import { decodeEntry } from "../src/ledger/entry.ts";
import { verifyCheckpoint } from "../src/ledger/note.ts";
import { ReceiptBundle, verifyAssured, verifyReceipt } from "../src/ledger/receipt.ts";
import { Policy } from "../src/policy.ts";
import { withReleases } from "../src/release.ts";
import { verify } from "../src/verify.ts";

type Edit = readonly [at: number, drop: number, put: string];
type Run = readonly [what: string, base: string, setting: string, edits: readonly Edit[], code: string, result: string];
// biome-ignore lint/suspicious/noExplicitAny: of a file of ours; each check knows its names
type Setting = any;

export interface Fixtures {
  readonly bases: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<string, Setting>>;
  readonly runs: readonly Run[];
}

const cache = new VerifiedCache();

/** By kind of run, what comes out of an input as far as Python wrote it down too. */
const CHECKS: Readonly<Record<string, (data: Bytes, setting: Setting) => string | Promise<string>>> = {
  claims: (data) => Claims.decode(data).workload,
  policy: (data) => Policy.fromToml(text(data)).sha256(),
  evidence: async (data, { policy, nonce, now }) => {
    const options = { nonce: fromHex(nonce), now: new Date(now), cache };
    return (await verify(Evidence.decode(data), Policy.fromToml(policy), options)).evidenceSha256;
  },
  release: async (data, { policy, now }) =>
    (await withReleases(Policy.fromToml(policy), [data], new Date(now))).sha256(),
  log: async (data, { policy, rtmrs }) => {
    const facts = await checkRtmrLog(data, rtmrs.map(fromHex), Policy.fromToml(policy).eventLog);
    return JSON.stringify(Object.fromEntries(facts));
  },
  note: async (data, { vkey, witnesses, threshold }) => {
    const { size, root, cosignatures } = await verifyCheckpoint(data, vkey, witnesses, threshold);
    return JSON.stringify([String(size), hex(root), cosignatures.map(({ timeS }) => Number(timeS))]);
  },
  entry: (data) => decodeEntry(data).time,
  receipt: async (data, setting) => {
    const receipt = await verifyReceipt(ReceiptBundle.decode(data), {
      receiptKey: new PublicKey(fromHex(setting.receipt_key)),
      ledgerVkey: setting.ledger_vkey,
      requestSha256: setting.request_sha256 ?? undefined,
      responseSha256: setting.response_sha256 ?? undefined,
      witnesses: setting.witnesses,
      threshold: setting.threshold,
    });
    return receipt.exchange;
  },
  assured: async (data, setting) => {
    const { receipt, assurance } = await verifyAssured(data, setting.tier as Tier, {
      receiptKey: new PublicKey(fromHex(setting.receipt_key)),
      requestSha256: setting.request_sha256,
      responseSha256: setting.response_sha256,
    });
    return JSON.stringify([receipt.exchange, receipt.evidenceSha256, assurance.tier]);
  },
};

export const KINDS = Object.keys(CHECKS);

export function latin1(letters: string): Bytes {
  return Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
}

/** Check all runs of one kind; return how many there were, and those with another verdict, code or result. */
export async function compare({ bases, settings, runs }: Fixtures, what: string) {
  const differing: unknown[] = [];
  const own = runs.filter((run) => run[0] === what);
  for (const [, base, setting, edits, ...python] of own) {
    const data = edits.reduce(
      (whole, [at, drop, put]) => concat(whole.subarray(0, at), latin1(put), whole.subarray(at + drop)),
      fromBase64(bases[base] ?? ""),
    );
    const here = await outcome(async () => CHECKS[what]?.(data, settings[setting]));
    if (String(here) !== String(python)) differing.push({ base, setting, edits, python, here });
  }
  return { runs: own.length, differing };
}

/** Return the code of the refusal and nothing, or nothing and what came out. */
async function outcome(check: () => Promise<unknown>): Promise<readonly [code: string, result: unknown]> {
  try {
    return ["", await check()];
  } catch (error) {
    if (error instanceof MitaiError) return [error.code, ""];
    throw error;
  }
}
