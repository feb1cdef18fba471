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

interface Programs {
  readonly card: string;
  readonly identity: string;
  readonly digests: readonly (readonly [prompt: number, answer: number, drawn: boolean, digest: string])[];
}

const read = (name: string) => readFileSync(new URL(`fixtures/${name}`, import.meta.url));

export const FILE = new Uint8Array(read("answer.proof"));
export const VERDICTS: Verdicts = JSON.parse(read("verdicts.json").toString());
export const PROGRAMS: readonly Programs[] = JSON.parse(read("programs.json").toString());

export const NOISE: { readonly prompt: number[]; readonly model: string; readonly noise: number[][] } = JSON.parse(
  read("noise.json").toString(),
);
