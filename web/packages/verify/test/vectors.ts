/** The public vectors, which are no part of the repository: in `MITAI_VECTORS`, or in `shared/vectors` beside it. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Bytes } from "../src/bytes.ts";

const FOLDER = process.env.MITAI_VECTORS ?? join(import.meta.dirname, "../../../../../shared/vectors");
const INDEX = join(FOLDER, "index.json");

/** Whether they are here; without them their tests are skipped. */
export const haveVectors = existsSync(INDEX);
export const WHY_SKIPPED = "no public vectors here: set MITAI_VECTORS to their folder";

export interface Vector {
  readonly id: string;
  readonly tee: string;
  readonly kind: string | null;
  readonly files: Readonly<Record<string, { readonly path: string }>>;
  readonly verification_time_unix: number;
  // biome-ignore lint/suspicious/noExplicitAny: each kind has members of its own
  readonly [member: string]: any;
}

const ENTRIES: readonly Vector[] = haveVectors ? JSON.parse(readFileSync(INDEX, "utf8")).entries : [];

/** The entries of these TEEs and kinds. */
export function vectors(tees: readonly string[], kinds: readonly (string | null)[]): readonly Vector[] {
  return ENTRIES.filter(({ tee, kind }) => tees.includes(tee) && kinds.includes(kind));
}

export function vector(id: string): Vector {
  const found = ENTRIES.find((entry) => entry.id === id);
  if (found === undefined) throw new Error(`the index of vectors lacks ${id}`);
  return found;
}

export function vectorFile({ id, files }: Vector, name: string): Bytes {
  const file = files[name];
  if (file === undefined) throw new Error(`${id} has no file ${name}`);
  return new Uint8Array(readFileSync(join(FOLDER, file.path)));
}

export function vectorTime(entry: Vector): Date {
  return new Date(1000 * entry.verification_time_unix);
}
