/**
 * Intel's quotes, TDX and SGX, appraised step by step. Port of `mitai/attest/dcap/appraise.py`.
 *
 * Steps: quote → root → collateral → platform → signatures → quoting enclave → TCB → TD or enclave → event log.
 */

import { type Bytes, hex, utf8 } from "../bytes.ts";
import type { Verified, VerifiedCache } from "../cache.ts";
import type { Checklist } from "../checks.ts";
import { MitaiError } from "../errors.ts";
import { checkRtmrLog } from "../eventlog.ts";
import type { Collateral, Hardware, Machine } from "../machine.ts";
import { type Policy, simRootFingerprints } from "../policy.ts";
import type { TcbRules } from "../sections.ts";
import { checkEnclave, enclaveMeasurements, isDebugEnclave } from "../sgx.ts";
import { checkTd, isDebugTd, tdMeasurements } from "../tdx.ts";
import { earliest, show } from "../time.ts";
import { type VerifiedCollateral, verifyCollateral } from "./collateral.ts";
import type { PckTcb } from "./pck.ts";
import { parseQuote, type Quote } from "./quote.ts";
import { INTEL_SGX_ROOT_CA_SHA256 } from "./roots.ts";
import { evaluateTcb, type TcbResult } from "./tcb.ts";
import { checkQe, checkRoot, findPckChain, verifyPckChain, verifyQuoteSignature } from "./verify.ts";

type Facts = ReadonlyMap<string, string>;

export interface AppraiseOptions {
  readonly now: Date;
  readonly cache?: VerifiedCache | undefined;
}

/**
 * Verify a quote and its collateral under the sections `tcb`, `tdx`, `sgx` and `event_log` of the policy; throw
 * `MitaiError` with the code and the step of the first check that failed.
 */
export async function appraiseIntel(
  checks: Checklist,
  hardware: Hardware,
  policy: Policy,
  { now, cache }: AppraiseOptions,
): Promise<Machine> {
  const quote = await checks.step("quote", (say) => {
    const parsed = parseQuote(hardware.quote);
    const { tee } = parsed.body;
    if (tee !== hardware.tee) {
      const claimed = JSON.stringify(hardware.tee.slice(0, 32));
      throw new MitaiError("attest.tee-mismatch", `the quote is of ${tee}, the evidence says ${claimed}`);
    }
    say(`${tee.toUpperCase()} version ${parsed.header.version}`);
    return parsed;
  });
  const { collateral, chain, simulated } = await checks.step("root", async (say) => {
    if (hardware.collateral === null) {
      throw new MitaiError("attest.collateral-missing", "no collateral came with the evidence, and none was given");
    }
    const found = await findPckChain(quote, hardware.collateral.pckCertificateChain);
    const isSimulated = checkRoot(found, await trustedRoots(policy), policy.allowSimulation);
    say(found.root.commonName);
    return { collateral: hardware.collateral, chain: found, simulated: isSimulated };
  });
  const verified = await checks.step("collateral", async (say) => {
    const value = await remember(collateral, chain.root.fingerprint, policy.tcb, now, cache);
    say(`current until ${show(value.notAfter)} UTC`);
    return value;
  });
  const platform = await checks.step("platform", async (say) => {
    const value = await verifyPckChain(chain, verified, now);
    checkPlatform(value.tcb, policy.tcb);
    say(`FMSPC ${hex(value.tcb.fmspc)}, not revoked`);
    return value;
  });
  const qeReport = await checks.step("signatures", async (say) => {
    const report = await verifyQuoteSignature(quote, platform.leaf);
    say("PCK key, quoting enclave, attestation key, quote");
    return report;
  });
  await checks.step("quoting enclave", (say) => {
    checkQe(quote, qeReport, verified);
    say(`security version ${qeReport.isvSvn}`);
  });
  const result = await checks.step("tcb", (say) => {
    const evaluated = evaluateTcb(quote.body, platform.tcb, qeReport, verified.tcbInfo, verified.qeIdentity);
    checkTcb(evaluated, policy.tcb);
    say(`${evaluated.status}, evaluation ${evaluated.evaluationNumber}`);
    return evaluated;
  });
  if (policy.tcb.secondOpinion) {
    await checks.step("second opinion", () => {
      throw new MitaiError(
        "attest.second-opinion-missing",
        "the policy demands a second opinion, and here is no other verifier",
      );
    });
  }
  const { debugged, measurements } = await checkBody(checks, quote, policy);
  const facts = await checkEventLog(checks, quote, hardware.eventLog, policy);
  return {
    tee: quote.body.tee,
    title: `Intel ${quote.body.tee.toUpperCase()}`,
    simulated,
    memory: debugged ? "visible" : "encrypted",
    measurements,
    reportData: quote.body.reportData,
    signed: quote.signed,
    tcbStatus: result.status,
    advisoryIds: result.advisoryIds,
    tcbEvaluationNumber: result.evaluationNumber,
    facts: new Map([["fmspc", hex(platform.tcb.fmspc)], ["pce id", hex(platform.tcb.pceId)], ...facts]),
    notAfter: earliest(verified.notAfter, platform.notAfter),
    checks: checks.passed,
  };
}

/** Return the fingerprint of every trusted root, and whether it is a simulated one. */
async function trustedRoots(policy: Policy): Promise<ReadonlyMap<string, boolean>> {
  const roots = new Map([...(await simRootFingerprints(policy))].map((fingerprint) => [fingerprint, true]));
  return roots.set(INTEL_SGX_ROOT_CA_SHA256, false);
}

/** Check the TD or enclave. */
function checkBody(
  checks: Checklist,
  { header, body }: Quote,
  policy: Policy,
): Promise<{ debugged: boolean; measurements: Facts }> {
  return checks.step(body.tee === "tdx" ? "td" : "enclave", (say) => {
    if (body.tee === "tdx") checkTd(header, body, policy.tdx);
    else checkEnclave(header, body, policy.sgx);
    const debugged = body.tee === "tdx" ? isDebugTd(body) : isDebugEnclave(body);
    say(debugged ? "DEBUG MODE, which the policy allows" : "no debug, attributes as demanded");
    return { debugged, measurements: body.tee === "tdx" ? tdMeasurements(body) : enclaveMeasurements(body) };
  });
}

function checkEventLog(checks: Checklist, { body }: Quote, eventLog: Bytes, policy: Policy): Promise<Facts> {
  return checks.step("event log", async (say) => {
    if (body.tee === "tdx") {
      const facts = await checkRtmrLog(eventLog, body.rtmrs, policy.eventLog);
      say(facts.size ? "replays to RTMR0..3" : "none sent; the registers themselves are compared");
      return facts;
    }
    if (eventLog.length) {
      throw new MitaiError("attest.event-log-unexpected", "an enclave has no registers that a log replays to");
    }
    say("none: an enclave has no such registers");
    return new Map();
  });
}

async function remember(
  collateral: Collateral,
  rootFingerprint: string,
  { collateralGraceS }: TcbRules,
  now: Date,
  cache: VerifiedCache | undefined,
): Promise<VerifiedCollateral> {
  const make = async (): Promise<Verified<VerifiedCollateral>> => {
    const value = await verifyCollateral(collateral, rootFingerprint, now, collateralGraceS);
    return { value, notBefore: value.notBefore, notAfter: value.notAfter };
  };
  if (cache === undefined) return (await make()).value;
  const inputs = [
    utf8(collateral.tcbInfo),
    collateral.tcbInfoSignature,
    utf8(collateral.tcbInfoIssuerChain),
    utf8(collateral.qeIdentity),
    collateral.qeIdentitySignature,
    utf8(collateral.qeIdentityIssuerChain),
    collateral.rootCaCrl,
    collateral.pckCrl,
    utf8(collateral.pckCrlIssuerChain),
    utf8(rootFingerprint),
    utf8(String(collateralGraceS)),
  ];
  return (await cache.get("dcap collateral", inputs, now, make)).value;
}

function checkPlatform(platform: PckTcb, rules: TcbRules): void {
  const [fmspc, pceId] = [hex(platform.fmspc), hex(platform.pceId)];
  if (rules.fmspc.length && !rules.fmspc.includes(fmspc)) {
    throw new MitaiError("attest.fmspc-refused", `the policy does not accept machines of FMSPC ${fmspc}`);
  }
  if (rules.pceIds.length && !rules.pceIds.includes(pceId)) {
    throw new MitaiError("attest.pceid-refused", `the policy does not accept the PCE ${pceId}`);
  }
}

function checkTcb(result: TcbResult, rules: TcbRules): void {
  if (result.evaluationNumber < rules.minEvaluationNumber) {
    throw new MitaiError(
      "attest.tcb-evaluation-number-too-low",
      `the collateral is of TCB evaluation ${result.evaluationNumber}, demanded: ${rules.minEvaluationNumber}`,
    );
  }
  if (!rules.acceptedStatuses.includes(result.status)) {
    throw new MitaiError(
      "attest.tcb-status-refused",
      `the policy does not accept a platform that is ${result.status} (${result.advisoryIds.join(", ")})`,
      "the machine's owner must update firmware, microcode or TDX module",
    );
  }
  const unknown = result.advisoryIds.filter((advisory) => !rules.acceptedAdvisories.includes(advisory));
  if (unknown.length && !rules.acceptedAdvisories.includes("any")) {
    throw new MitaiError(
      "attest.advisory-refused",
      `open advisories that the policy does not accept: ${unknown.join(", ")}`,
    );
  }
}
