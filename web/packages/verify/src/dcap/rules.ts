/** How current an Intel platform must be: the section `[tcb]` of an appraisal policy. Port of `mitai/attest/dcap/rules.py`. */

import { MitaiError } from "../errors.ts";
import { checkHex, POLICY_MALFORMED } from "../fields.ts";
import { TCB_STATUSES, type TcbStatus } from "./tcb.ts";

export interface TcbRules {
  readonly acceptedStatuses: readonly TcbStatus[];
  /** Every reported advisory must be listed; "any" accepts all. */
  readonly acceptedAdvisories: readonly string[];
  /** Intel's tcbEvaluationDataNumber, of TCB info and QE identity. */
  readonly minEvaluationNumber: number;
  /** How long TCB info, QE identity and CRLs may be past their end, in seconds. */
  readonly collateralGraceS: number;
  /** The only kinds of machine that are accepted; empty: all. */
  readonly fmspc: readonly string[];
  /** The only provisioning certification enclaves that are accepted; empty: all. */
  readonly pceIds: readonly string[];
  /** Ask another verifier too. Here there is none, so a policy that demands it refuses. */
  readonly secondOpinion: boolean;
}

const DEFAULTS: TcbRules = {
  acceptedStatuses: ["UpToDate"],
  acceptedAdvisories: [],
  minEvaluationNumber: 0,
  collateralGraceS: 0,
  fmspc: [],
  pceIds: [],
  secondOpinion: false,
};

/** Return rules, those that are not given as they are by default; refuse values that can't be. */
export function tcbRules(partial: Partial<TcbRules> = {}): TcbRules {
  const rules = { ...DEFAULTS, ...partial };
  if (rules.minEvaluationNumber < 0 || rules.collateralGraceS < 0) {
    throw new MitaiError(POLICY_MALFORMED, "a number in [tcb] is negative");
  }
  if (rules.acceptedStatuses.includes("Revoked")) {
    throw new MitaiError(POLICY_MALFORMED, "a platform that Intel has revoked can't be accepted");
  }
  if (!rules.acceptedStatuses.every((status) => TCB_STATUSES.includes(status))) {
    throw new MitaiError(POLICY_MALFORMED, "a TCB status is not known");
  }
  for (const value of rules.fmspc) checkHex("fmspc", value, 6);
  for (const value of rules.pceIds) checkHex("pce_ids", value, 2);
  return rules;
}
