/** Cards, a proof, and what the Python package says of them, written by `web/scripts/fixtures_proofs.py`. */
import { readFileSync } from "node:fs";

type Edit = readonly [at: number, drop: number, put: string, code: string, step: string];

interface Verdicts {
  readonly identity: string;
  readonly bits: number;
  readonly runs: readonly Edit[];
}

interface Programs {
  readonly card: string;
  readonly identity: string;
  readonly digests: readonly (readonly [prompt: number, answer: number, digest: string])[];
}

const read = (name: string) => readFileSync(new URL(`fixtures/${name}`, import.meta.url));

export const FILE = new Uint8Array(read("answer.proof"));
export const VERDICTS: Verdicts = JSON.parse(read("verdicts.json").toString());
export const PROGRAMS: readonly Programs[] = JSON.parse(read("programs.json").toString());
