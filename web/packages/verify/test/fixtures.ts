/** Inputs with the verdicts of the Python package, written by `web/scripts/fixtures.py`. */

import { readFileSync } from "node:fs";
import { expect } from "vitest";
import { type Bytes, concat, fromBase64 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";

type Edit = readonly [at: number, drop: number, put: string];
export type Run = readonly [
  what: string,
  base: string,
  setting: string,
  edits: readonly Edit[],
  code: string,
  result: string,
];
export interface Fixtures {
  readonly bases: Readonly<Record<string, string>>;
  // biome-ignore lint/suspicious/noExplicitAny: a file of ours, whose names each test knows
  readonly settings: Readonly<Record<string, any>>;
  readonly runs: readonly Run[];
}

export function load(name: string): Fixtures {
  return JSON.parse(readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), "utf8"));
}

export function latin1(text: string): Bytes {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

export function edited(data: Bytes, edits: readonly Edit[]): Bytes {
  return edits.reduce(
    (whole, [at, drop, put]) => concat(whole.subarray(0, at), latin1(put), whole.subarray(at + drop)),
    data,
  );
}

/** Return the code of the refusal, or "" and what came out. */
export async function outcome(check: () => unknown): Promise<readonly [code: string, result: unknown]> {
  try {
    return ["", await check()];
  } catch (error) {
    if (error instanceof MitaiError) return [error.code, ""];
    throw error;
  }
}

/** Check all runs of one kind; the verdicts must be Python's. Returns how many there were. */
export async function compare(
  { bases, settings, runs }: Fixtures,
  what: string,
  check: (data: Bytes, setting: Fixtures["settings"][string]) => unknown,
): Promise<number> {
  const differing: unknown[] = [];
  const own = runs.filter((run) => run[0] === what);
  for (const [, base, setting, edits, code, result] of own) {
    const data = edited(fromBase64(bases[base] ?? ""), edits);
    const [ownCode, ownResult] = await outcome(() => check(data, settings[setting]));
    if (ownCode !== code || (!code && ownResult !== result)) {
      differing.push({ base, setting, edits, python: [code, result], here: [ownCode, ownResult] });
    }
  }
  expect(differing).toEqual([]);
  return own.length;
}
