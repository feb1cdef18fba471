/** Ledger entries, checked, as the console shows them: with the names that docs/spec/ledger.md gives their fields. */
import { type Bytes, decodeEntry, text } from "@mitai/verify";
import type { Entry } from "./model.ts";

export function entryOf(index: number, bytes: Bytes): Entry {
  const { type, time } = decodeEntry(bytes); // of known fields only, each once, in the canonical spelling
  const { v: _v, type: _type, time: _time, ...fields }: Record<string, unknown> = JSON.parse(text(bytes));
  return { index, type, time: new Date(time), fields, bytes };
}
