/** Checks that the sections of an appraisal policy share. Port of `mitai/attest/fields.py`. */
import { MitaiError } from "./errors.ts";

export const ANY = "any";
export const POLICY_MALFORMED = "attest.policy-malformed";

/** Refuse what is not `size` bytes in lower-case hex, or "any" where that is allowed. */
export function checkHex(name: string, value: string, size: number, anyAllowed = false): void {
  if (anyAllowed && value === ANY) return;
  if (value.length !== 2 * size || !/^[0-9a-f]*$/.test(value)) {
    const allowed = anyAllowed ? ` or "${ANY}"` : "";
    throw new MitaiError(POLICY_MALFORMED, `${name} is not ${size} bytes in lower-case hex${allowed}`);
  }
}
