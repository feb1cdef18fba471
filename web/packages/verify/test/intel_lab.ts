import type { Bytes } from "../src/bytes.ts";
import { Checklist } from "../src/checks.ts";
import { type AppraiseOptions, appraiseIntel } from "../src/dcap/appraise.ts";
import { MitaiError } from "../src/errors.ts";
import type { Collateral, Machine } from "../src/machine.ts";
import { Policy } from "../src/policy.ts";

export const STRICT = Policy.fromToml("");
/** Accepts every platform and every TD, so that a test sees the status that was found. */
export const LAX = Policy.fromToml(`
[tcb]
accepted_statuses = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
  "OutOfDate", "OutOfDateConfigurationNeeded"]
accepted_advisories = ["any"]
[tdx]
td_attributes_required = "0000000000000000"
td_attributes_allowed = "ffffffffffffffff"
xfam_allowed = "ffffffffffffffff"
mrservicetd = "any"
[sgx]
allow_debug = true
`);

/** Verify a quote by itself. */
export async function appraise(
  quote: Bytes,
  collateral: Collateral | null,
  policy: Policy,
  options: AppraiseOptions,
  more: { tee?: string; eventLog?: Bytes } = {},
): Promise<Machine> {
  const tee = more.tee ?? (quote[0] === 3 ? "sgx" : "tdx");
  const hardware = { tee, quote, collateral, eventLog: more.eventLog ?? new Uint8Array(), endorsements: new Map() };
  return appraiseIntel(new Checklist(), hardware, policy, options);
}

/** Return the error with which something is refused. */
export async function refusal(attempt: Promise<unknown>): Promise<MitaiError> {
  try {
    await attempt;
  } catch (error) {
    if (error instanceof MitaiError) return error;
    throw error;
  }
  throw new Error("it was accepted");
}
