/** Inputs with the verdicts of the Python package, written by `web/scripts/fixtures.py`. */

import { readFileSync } from "node:fs";
import type { Fixtures } from "./verdicts.ts";

export function load(name: string): Fixtures {
  return JSON.parse(readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), "utf8"));
}
