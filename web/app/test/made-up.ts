/** A made-up machine, policy and store, for tests of what the page does with them. */
import { Exchange } from "@mitai/channel";
import type { ChatOptions, Delta, Message, Verified } from "@mitai/client";
import { type Appraisal, Claims, MitaiError, utf8 } from "@mitai/verify";
import type { Connect, Machine, Where } from "../src/backend.ts";
import type { Conversation, ConversationStore, Summary } from "../src/conversations.ts";

export const SIMULATED_POLICY = `version = 1
allow_simulation = true
sim_roots = ["sha256:${"5a".repeat(32)}"]

[claims]
ledger_vkey = "mitai.local+1f2e3d4c+AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefghij"

[[workloads]]
name = "serve"
tee = "tdx"
[workloads.registers]
mrtd = "${"a1".repeat(48)}"
rtmr0 = "${"b2".repeat(48)}"
rtmr1 = "${"c3".repeat(48)}"
rtmr2 = "any"
rtmr3 = "${"00".repeat(48)}"
`;

export const OTHER_POLICY = SIMULATED_POLICY.replace("allow_simulation = true", "allow_simulation = false");

const STEPS = [
  ["nonce", "answers ours"],
  ["quote", "TDX version 4"],
  ["root", "Mitai Simulated SGX Root CA"],
  ["collateral", "current until 2026-12-22 04:00:00 UTC"],
  ["platform", "FMSPC 00906ed50000, not revoked"],
  ["signatures", "PCK key, quoting enclave, attestation key, quote"],
  ["quoting enclave", "security version 8"],
  ["tcb", "UpToDate, evaluation 17"],
  ["td", "no debug, attributes as demanded"],
  ["event log", "none sent; the registers themselves are compared"],
  ["report data", "covers nonce, claims and devices"],
  ["claims", "workload serve, 1 capsule"],
  ["workload", "measured as serve"],
] as const;

const MEASUREMENTS = new Map(
  ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"].map((name, at) => [
    name,
    ["a1", "b2", "c3", "d4", "00"][at]?.repeat(48) ?? "",
  ]),
);

export function appraisal(simulated: boolean): Appraisal {
  const claimsBytes = utf8(
    JSON.stringify({
      workload: "serve",
      key_config: "AAAA",
      capsules: [{ id: "cap-3f9a1c", manifest_sha256: "9d".repeat(32) }],
      ledger: {
        origin: "mitai.local",
        vkey: "mitai.local+1f2e3d4c+AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefghij",
        checkpoint: "AAAA",
      },
    }),
  );
  const checks = STEPS.map(([name, detail], at) => ({ step: `${at + 1} ${name}`, detail }));
  const judged = { tee: "tdx", simulated, tcbStatus: "UpToDate", advisoryIds: [], tcbEvaluationNumber: 17, checks };
  const notAfter = new Date("2026-12-22T04:00:00Z");
  return {
    ...{ ...judged, workload: "serve", claims: Claims.decode(claimsBytes), claimsBytes, notAfter },
    measurements: MEASUREMENTS,
    evidenceSha256: "7e".repeat(32),
    machine: {
      ...{
        ...judged,
        title: "Intel TDX",
        measurements: MEASUREMENTS,
        reportData: new Uint8Array(64),
        signed: new Uint8Array(8),
      },
      ...{ notAfter, memory: "encrypted", facts: new Map([["fmspc", "00906ed50000"]]) },
    },
  };
}

export interface Script {
  readonly simulated?: boolean;
  /** The pieces of each answer; an error ends it. */
  readonly pieces?: readonly (string | MitaiError)[];
  readonly refusal?: MitaiError;
  readonly delayMs?: number;
  readonly models?: readonly string[];
}

/** A machine that plays a script; `sent` is what it was asked. */
export class MadeUpMachine implements Machine {
  readonly sent: (readonly Message[])[] = [];
  stale = false;
  readonly references: Machine["references"] = [
    { name: "serve", tee: "tdx", from: "policy", registers: new Map([...MEASUREMENTS, ["rtmr2", "any"]]) },
    { name: "serve", tee: "tdx", from: "release", registers: MEASUREMENTS },
  ];

  constructor(
    readonly script: Script,
    public verified: Verified,
    private readonly onVerified: () => void,
  ) {}

  /** Be verified anew, as another kind of machine. */
  become(simulated: boolean): void {
    this.verified = { ...this.verified, appraisal: appraisal(simulated) };
    this.onVerified();
  }

  async models(): Promise<readonly string[]> {
    return this.script.models ?? ["mitai-demo"];
  }

  async *ask(messages: readonly Message[], { signal, onWire, accept }: ChatOptions): AsyncGenerator<Delta> {
    signal?.throwIfAborted();
    accept?.(this.verified);
    this.sent.push(messages);
    const bytes = (size: number) => crypto.getRandomValues(new Uint8Array(size));
    onWire?.({ direction: "sent", bytes: bytes(1024), at: performance.now() });
    for (const piece of this.script.pieces ?? ["Hello, ", "you."]) {
      if (this.script.delayMs) await new Promise((wake) => setTimeout(wake, this.script.delayMs));
      signal?.throwIfAborted();
      if (piece instanceof MitaiError) throw piece;
      onWire?.({ direction: "received", bytes: bytes(512), at: performance.now() });
      yield { kind: "text", text: piece };
    }
    const usage = { promptTokens: 7, completionTokens: 3 };
    yield { kind: "end", finishReason: "stop", usage, exchange: new Exchange(), verified: this.verified };
  }

  async prove() {
    const digests = { requestSha256: "1a".repeat(32), responseSha256: "2b".repeat(32) };
    return { index: 17, exchange: "4c".repeat(16), ...digests, ledger: "mitai.local+1f2e3d4c+AbCd", file: "{}" };
  }
}

/** Connects to made-up machines; `asked` is where it was told to. */
export function madeUp(script: Script): {
  readonly connect: Connect;
  readonly asked: Where[];
  readonly machines: MadeUpMachine[];
} {
  const asked: Where[] = [];
  const machines: MadeUpMachine[] = [];
  const connect: Connect = async (where, onVerified) => {
    asked.push(where);
    if (script.refusal) throw script.refusal;
    const judged = appraisal(script.simulated ?? false);
    const verifiedAt = new Date();
    const verified: Verified = {
      ...{ appraisal: judged, verifiedAt, staleAt: new Date(verifiedAt.getTime() + 600_000), replica: "r1" },
      ...{ nonce: new Uint8Array(32), evidenceBytes: new Uint8Array(), evidence: EVIDENCE },
    };
    const machine = new MadeUpMachine(script, verified, onVerified);
    machines.push(machine);
    return machine;
  };
  return { connect, asked, machines };
}

const NOTHING = new Uint8Array();
const EVIDENCE: Verified["evidence"] = {
  ...{ tee: "tdx", quote: NOTHING, eventLog: NOTHING, collateral: null, endorsements: new Map() },
  ...{ claims: NOTHING, devices: NOTHING, nonce: new Uint8Array(32), v: 1n },
};

/** A store that forgets. */
export class MemoryStore implements ConversationStore {
  readonly kept = new Map<string, Conversation>();

  async list(): Promise<readonly Summary[]> {
    return [...this.kept.values()].sort((a, b) => b.changed - a.changed);
  }

  async load(id: string): Promise<Conversation | undefined> {
    return this.kept.get(id);
  }

  async save(conversation: Conversation): Promise<void> {
    this.kept.set(conversation.id, conversation);
  }

  async remove(id: string): Promise<void> {
    this.kept.delete(id);
  }
}
