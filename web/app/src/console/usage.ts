/**
 * What the ledger's entries say about use: counts by kind, by reason and by time.
 *
 * Receipts are in the ledger as digests only, so nothing here knows of tokens, users or models' answers.
 */
import type { Entry } from "./model.ts";

export const KINDS = ["release", "denial", "receipt", "deployment"] as const;
export type Kind = (typeof KINDS)[number];
export type Every = "hour" | "day";

export interface Bar {
  /** Start of the hour or day, in the reader's time zone. */
  readonly from: Date;
  readonly count: number;
}

export interface Usage {
  readonly counts: Readonly<Record<Kind, number>>;
  /** Denials by their code, most frequent first. */
  readonly denials: readonly (readonly [code: string, count: number])[];
  /** Releases and denials on simulated hardware. */
  readonly simulated: number;
}

export function usageOf(entries: readonly Entry[]): Usage {
  const of = (kind: Kind) => entries.filter((entry) => entry.type === kind);
  const codes = new Map<string, number>();
  for (const { fields } of of("denial")) codes.set(String(fields.code), (codes.get(String(fields.code)) ?? 0) + 1);
  return {
    counts: {
      release: of("release").length,
      denial: of("denial").length,
      receipt: of("receipt").length,
      deployment: of("deployment").length,
    },
    denials: [...codes].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)),
    simulated: entries.filter((entry) => entry.fields.simulated === true).length,
  };
}

/** Count entries of a kind in the last `bars` hours or days up to `now`; those before are left out. */
export function timeline(entries: readonly Entry[], kind: Kind, every: Every, bars: number, now: Date): readonly Bar[] {
  const starts = Array.from({ length: bars }, (_, at) => startOf(now, every, bars - 1 - at));
  const counts = starts.map(() => 0);
  for (const { type, time } of entries) {
    if (type !== kind) continue;
    const at = starts.findLastIndex((start) => start <= time);
    if (at >= 0) counts[at] = (counts[at] ?? 0) + 1;
  }
  return starts.map((from, at) => ({ from, count: counts[at] ?? 0 }));
}

/** The start of the hour or day that lies `back` before that of `now`. */
function startOf(now: Date, every: Every, back: number): Date {
  if (every === "day") return new Date(now.getFullYear(), now.getMonth(), now.getDate() - back);
  const hour = 3_600_000;
  const minutes = now.getMinutes() * 60_000 + now.getSeconds() * 1000 + now.getMilliseconds();
  return new Date(now.getTime() - minutes - back * hour);
}
