/**
 * What the TypeScript verifier says of each case that `scripts/verdicts.py` hands over: a JSON line in, a JSON line out.
 *
 * A case is of one stage and names its inputs; a verdict has the same members as that script's own, so that the two can
 * be compared as they are. Run: `vite-node --script verdicts/main.ts cases.jsonl`
 */
import { readFileSync } from "node:fs";
import { hex, utf8 } from "../packages/verify/src/bytes.ts";
import { MitaiError } from "../packages/verify/src/errors.ts";
import { decodeHardware } from "../packages/verify/src/evidence.ts";
import {
  bytes,
  type Decoder,
  decodeJson,
  dictionary,
  integer,
  oneOf,
  string,
  struct,
} from "../packages/verify/src/json.ts";
import type { Machine } from "../packages/verify/src/machine.ts";
import { Policy } from "../packages/verify/src/policy.ts";
import { AMD } from "../packages/verify/src/snp/roots.ts";
import { verifyEndorsements } from "../packages/verify/src/snp/vek.ts";
import { readEventLog, replayRtmrs } from "../packages/verify/src/tcg.ts";
import { verifyHardware } from "../packages/verify/src/verify.ts";
import { Rejected } from "./conformance.ts";
import { verifyAttestationSev } from "./sev.ts";
import { verifyAttestationTdx } from "./tdx.ts";

type Stage = (line: Uint8Array) => Promise<object>;

/** A stage: how its case is read, and what it finds. */
function stage<T>(decoder: Decoder<T>, find: (given: T) => Promise<object>): Stage {
  return (line) => find(decodeJson(line, decoder, "case", "a malformed case"));
}

const moment = (unix_s: number) => new Date(1000 * unix_s);
const unix_s = (date: Date) => date.getTime() / 1000;

const STAGES = new Map<string, Stage>([
  [
    "hardware",
    stage(struct({ policy: string, hardware: bytes, now_s: integer() }, "ignored"), async (given) =>
      machine(
        await verifyHardware(decodeHardware(given.hardware), Policy.fromToml(given.policy), {
          now: moment(given.nowS),
        }),
      ),
    ),
  ],
  [
    "endorsements",
    stage(
      struct({ endorsements: dictionary(bytes), key: oneOf("vcek", "vlek"), now_s: integer() }, "ignored"),
      async (given) => {
        const { value } = await verifyEndorsements(given.endorsements, given.key, moment(given.nowS), AMD);
        const { product, tcb, chipId, cspId } = value.vek;
        return { product, tcb: hex(tcb), chip_id: chipId ? hex(chipId) : null, csp_id: cspId ?? null };
      },
    ),
  ],
  [
    "event-log",
    stage(struct({ log: bytes }, "ignored"), async ({ log }) => {
      const parsed = readEventLog(log);
      return { events: parsed.events.length, rtmrs: (await replayRtmrs(parsed)).map(hex) };
    }),
  ],
  ["verify-attestation-tdx", stage(struct({ input: bytes, signing_chain: string }, "ignored"), verifyAttestationTdx)],
  ["verify-attestation-sev", stage(struct({ input: bytes }, "ignored"), verifyAttestationSev)],
]);

/** Everything that a verifier found; what is worded for people is left out, but for facts. */
function machine(found: Machine): object {
  return {
    tee: found.tee,
    title: found.title,
    memory: found.memory,
    simulated: found.simulated,
    measurements: Object.fromEntries(found.measurements),
    report_data: hex(found.reportData),
    signed: hex(found.signed),
    not_after_s: unix_s(found.notAfter),
    tcb_status: found.tcbStatus,
    advisory_ids: found.advisoryIds,
    tcb_evaluation_number: found.tcbEvaluationNumber,
    facts: Object.fromEntries(found.facts),
    steps: found.checks.map(({ step }) => step),
  };
}

async function verdict(line: string): Promise<object> {
  const { stage: name } = decodeJson(utf8(line), struct({ stage: string }, "ignored"), "case", "a malformed case");
  const run = STAGES.get(name);
  if (!run) throw new Error(`no stage ${name}`);
  try {
    return { accepted: true, found: await run(utf8(line)) };
  } catch (error) {
    if (error instanceof MitaiError) return { accepted: false, code: error.code, step: error.step };
    if (error instanceof Rejected) return { accepted: false, code: error.message, step: "" };
    throw error;
  }
}

const [, , cases = ""] = process.argv;
for (const line of readFileSync(cases, "utf8").trimEnd().split("\n")) {
  process.stdout.write(`${JSON.stringify(await verdict(line))}\n`);
}
