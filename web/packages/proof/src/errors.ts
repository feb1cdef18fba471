/** Refusals of proofs, with the codes of the Python package (docs/errors.md). */
import { MitaiError } from "@mitai/verify";

export function refuse(code: `proof.${string}`, message: string, step = "", hint = ""): never {
  throw new MitaiError(code, message, hint, step);
}

/** Refuse a program unless this holds. */
export function demand(holds: boolean, what: string): void {
  if (!holds) refuse("proof.program-invalid", `the program asks for ${what}`);
}
