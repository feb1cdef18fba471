/** A machine of `@mitai/client`; and the memory of ledgers, so that one that was rolled back is noticed. */
import {
  type ChatOptions,
  type CheckpointStore,
  chat,
  checkProof,
  type End,
  fetchReceipt,
  LedgerMemory,
  ledgerFetcher,
  type Message,
  models,
  Session,
  withOffered,
} from "@mitai/client";
import { type Bytes, Policy } from "@mitai/verify";
import type { Connect, Machine, Proven, Reference } from "./backend.ts";
import { recall, remember } from "./preferences.ts";

/** What this device has seen of each ledger. */
export const ledgers: CheckpointStore = {
  get: async (vkey) => recall(`mitai-ledger ${vkey}`),
  put: async (vkey, note) => remember(`mitai-ledger ${vkey}`, note),
};

export const connect: Connect = async ({ gateway, policy: toml, releases }, onVerified) => {
  const policy = Policy.fromToml(toml);
  const session = await Session.connect(gateway, policy, { releases, onVerified });
  return new LiveMachine(session, releases, await referencesOf(policy, releases, session.verifiedAt));
};

async function referencesOf(policy: Policy, releases: readonly Bytes[], now: Date): Promise<readonly Reference[]> {
  const { workloads } = await withOffered(policy, releases, now);
  return workloads.map((values, at) => ({ ...values, from: at < policy.workloads.length ? "policy" : "release" }));
}

class LiveMachine implements Machine {
  private readonly memory = new LedgerMemory(ledgers);

  constructor(
    private readonly session: Session,
    private readonly releases: readonly Bytes[],
    readonly references: readonly Reference[],
  ) {}

  get verified() {
    return this.session.verified;
  }

  get stale() {
    return this.session.stale;
  }

  models(): Promise<readonly string[]> {
    return models(this.session);
  }

  ask(messages: readonly Message[], options: ChatOptions) {
    return chat(this.session, messages, options);
  }

  async prove(end: End): Promise<Proven> {
    const proof = await fetchReceipt(this.session, end);
    const { receipt, appraisal } = await checkProof(proof, this.session.policy, this.releases);
    const ledger = appraisal.claims.ledger?.vkey ?? "";
    await this.memory.observe(proof.bundle.checkpoint, ledger, ledgerFetcher(this.session.baseUrl, this.session.fetch));
    return {
      index: proof.bundle.index,
      exchange: receipt.exchange,
      requestSha256: proof.requestSha256,
      responseSha256: proof.responseSha256,
      ledger,
      file: proof.json,
    };
  }
}
