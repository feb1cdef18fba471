/**
 * Assurances: what a receipt promises beside, or in place of, hardware evidence, one type per tier.
 *
 * `docs/spec/receipt.md` has the format. Port of `mitai/ledger/assurance.py`.
 *
 * Invariants:
 * - There is none of hardware among them: that tier is a receipt's `evidence_sha256`, and nothing else.
 * - Each tier is there at most once, in alphabetical order. Unknown tiers, members and promises are refused.
 *
 * Example: `receipt.assurances.find(({ tier }) => tier === "proof")`
 */

import { array, checked, type Decoded, integer, type Json, JsonObject, nullable, oneOf, struct } from "../json.ts";
import { digest } from "./entry.ts";

const small = integer(1, 65535);
const sample = struct({ one_in: integer(1, 2 ** 32), commitment: digest });

const tiers = {
  "commit-and-audit": struct({ tier: oneOf("commit-and-audit"), identity: digest, trace: digest, scheme: small }),
  fingerprint: struct({ tier: oneOf("fingerprint"), digest, block_tokens: small, top_k: small }),
  proof: checked(
    struct({
      tier: oneOf("proof"),
      identity: digest,
      promise: oneOf("follows", "on-demand", "sampled"),
      sample: nullable(sample),
    }),
    ({ promise, sample }) => {
      if ((promise === "sampled") !== (sample !== null)) throw new RangeError("a sample where none is promised");
    },
  ),
  "re-execution": struct({ tier: oneOf("re-execution"), sample }),
};

export type Tier = keyof typeof tiers;
export type AssuranceOf<T extends Tier> = Decoded<(typeof tiers)[T]>;
export type Assurance = AssuranceOf<Tier>;
export type Assurances = readonly Assurance[];

const tierName = oneOf("commit-and-audit", "fingerprint", "proof", "re-execution");

function assurance(value: Json): Assurance {
  const named = value instanceof JsonObject && value.members.find(([name]) => name === "tier")?.[1];
  return tiers[tierName(named || null)](value);
}

/** One to four assurances, of one tier each, in alphabetical order. */
export const assurances = checked(array(assurance, 1, 4), (all) => {
  const names: readonly string[] = all.map(({ tier }) => tier);
  if (names.some((name, at) => at > 0 && name <= (names[at - 1] ?? ""))) throw new RangeError("tiers out of order");
});
