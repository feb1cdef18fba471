/** Cards, programs, noise and a proof, and what the Python package says of them, written by `web/scripts/fixtures_proofs.py`. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const PYTHON = process.env.MITAI_PYTHON ?? fileURLToPath(new URL("../../../../.venv/bin/python", import.meta.url));
export const withoutPython = !existsSync(PYTHON);
const SCRIPT = fileURLToPath(new URL("../../../scripts/fixtures_proofs.py", import.meta.url));

/** Run that script as it is not run for fixtures; return the lines that it writes. */
export function python(args: readonly string[], lines: readonly string[] = []): string[] {
  const said = execFileSync(PYTHON, [SCRIPT, ...args], { input: lines.join("\n"), maxBuffer: 1 << 24 });
  return said.toString().trim().split("\n");
}

type Edit = readonly [at: number, drop: number, put: string, code: string, step: string];

interface Verdicts {
  readonly identity: string;
  readonly bits: number;
  readonly runs: readonly Edit[];
}

interface Hidden {
  readonly identity: string;
  readonly bits: number;
  readonly runs: readonly (readonly [message: string, ...Edit])[];
  readonly confused: readonly (readonly [code: string, step: string])[];
  readonly shapes: readonly (readonly [log: number, uses: number, ...number[]])[];
}

interface Programs {
  readonly card: string;
  readonly identity: string;
  readonly digests: readonly (readonly [prompt: number, answer: number, drawn: boolean, digest: string])[];
}

interface Words {
  /** Its text; empty for the demo model's. */
  readonly tokenizer: string;
  readonly runs: readonly (readonly [tokens: readonly number[], text: string])[];
}

const read = (name: string) => readFileSync(new URL(`fixtures/${name}`, import.meta.url));

export const FILE = new Uint8Array(read("answer.proof"));
/** Of the same model, with a proof that hides its weights, written by `web/scripts/fixtures_hidden.py`. */
export const HIDDEN_FILE = new Uint8Array(read("hidden.proof"));
export const HIDDEN: Hidden = JSON.parse(read("hidden.json").toString());
export const TOKENIZER = new Uint8Array(read("tokenizer.json"));
export const WORDS: readonly Words[] = JSON.parse(read("words.json").toString());
export const VERDICTS: Verdicts = JSON.parse(read("verdicts.json").toString());
export const PROGRAMS: readonly Programs[] = JSON.parse(read("programs.json").toString());

/** Sizes (logarithms), and how much work Python asks for. */
export const WORK: {
  readonly lookups: { readonly lookups: [log: number, table: number, width: number][]; readonly before: number[] }[];
  readonly openings: { readonly opened: [log: number, uses: number][]; readonly before: number[] }[];
} = JSON.parse(read("work.json").toString());

export const NOISE: { readonly prompt: number[]; readonly model: string; readonly noise: number[][] } = JSON.parse(
  read("noise.json").toString(),
);
