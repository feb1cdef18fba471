/**
 * A made-up platform, to test and look at the console without one: nothing here was verified by anybody.
 * Serve it with `npm run dev` and open `/test/fake/console.html`.
 */
import { hex, MitaiError, sha256, utf8 } from "@mitai/verify";
import type { Backend, Capsule, Entry, Findings, Ledger, Machine, Owner } from "../../src/console/model.ts";
import type { Budget, Identity } from "../../src/console/signing.ts";

export const NOW = new Date("2026-11-22T12:00:00Z");
const VKEY = "mitai.example/ledger+0a1b2c3d+AaRA5vFbIKtQ1rBs8GEcCxvP1DkFf3Nqk6PTr6Jr0Xk2";
const WITNESS = "witness.example+4e5f6a7b+BKx0D7C8mN1Qb6mD4Y0dY2wJd7zvN3h0mGZy1j5n0Q2c";
const digit = (seed: number) => (seed * 7919).toString(16).padStart(64, "3f9a").slice(-64);

function findings(changes: Partial<Findings>): Findings {
  return {
    tee: "tdx",
    simulated: true,
    workload: "serve",
    measurements: new Map(
      Object.entries({
        mrtd: digit(1) + digit(2).slice(32),
        rtmr0: digit(3),
        rtmr1: digit(4),
        rtmr2: digit(5),
        rtmr3: digit(6),
      }),
    ),
    tcbStatus: "UpToDate",
    advisoryIds: [],
    evidenceSha256: digit(7),
    checks: [
      { step: "quote", detail: "TDX, version 5, 5,006 bytes" },
      { step: "root", detail: `a simulated root, sha256:${digit(16)}` },
      { step: "collateral", detail: "evaluation number 17, until 2026-12-22" },
      { step: "signatures", detail: "4 signatures" },
      { step: "report data", detail: "covers the nonce and the claims" },
      { step: "workload", detail: "serve: 5 registers as in the policy" },
    ],
    notAfter: new Date("2026-12-22T12:00:00Z"),
    capsules: [{ id: "m-4f1c2ab0", manifestSha256: digit(8) }],
    policies: [digit(9)],
    ledger: { origin: "mitai.example/ledger", vkey: VKEY },
    extra: new Map(),
    keySha256: digit(15),
    ...changes,
  };
}

function machine(name: string, changes: Partial<Findings>): Machine {
  const nonce = crypto.getRandomValues(new Uint8Array(32));
  return { name, findings: findings(changes), evidence: utf8("{}"), nonce, verifiedAt: NOW };
}

const KINDS: readonly ((at: number) => Record<string, unknown> & { type: string })[] = [
  (at) => ({ type: "receipt", exchange: digit(at).slice(0, 32), receipt_sha256: digit(at + 1) }),
  (at) => ({ type: "receipt", exchange: digit(at).slice(0, 32), receipt_sha256: digit(at + 1) }),
  (at) => ({
    ...{ type: "release", release: `r-${at}`, capsules: ["m-4f1c2ab0"], workload: "serve", purpose: "inference" },
    ...{
      evidence_sha256: digit(at),
      recipient_sha256: digit(at + 2),
      policies: [digit(9)],
      simulated: true,
      reasons: [],
    },
  }),
  (at) => ({
    ...{
      type: "denial",
      capsules: ["m-4f1c2ab0"],
      code: at % 2 ? "broker.policy-denied" : "broker.evidence-refused:attest.measurement-mismatch",
    },
    ...{
      reasons: ["the owner's policy does not allow this"],
      workload: "serve",
      purpose: "inference",
      simulated: true,
      evidence_sha256: null,
      policies: [],
    },
  }),
  (at) => ({
    type: "deployment",
    deployment: `d-${at}`,
    capsules: ["m-4f1c2ab0"],
    workload: "serve",
    state: at % 2 ? "ended" : "ready",
  }),
];

async function entry(index: number, size: number): Promise<Entry> {
  const first = [
    { type: "party-registered", party: digit(100), name: "owner" },
    {
      type: "capsule-registered",
      capsule: "m-4f1c2ab0",
      kind: "model",
      name: "mitai-demo",
      owners: [digit(100), digit(101)],
      manifest_sha256: digit(8),
      parents: [],
    },
    {
      type: "policy-set",
      capsule: "m-4f1c2ab0",
      owner: digit(100),
      policy_sha256: digit(9),
      version: 1,
      command_sha256: digit(10),
    },
  ];
  const { type, ...fields } = first[index] ??
    KINDS[(index * 7 + (index >> 2)) % KINDS.length]?.(index) ?? { type: "receipt" };
  const time = new Date(NOW.getTime() - (size - index) * 1_900_000);
  return { index, type, time, fields, bytes: utf8(JSON.stringify({ ...fields, time, type })) };
}

function ledger(size: number): Ledger {
  return {
    head: {
      ...{ origin: "mitai.example/ledger", size, root: digit(11), note: `mitai.example/ledger\n${size}\n…\n` },
      cosignatures: [{ witness: "witness.example", at: NOW }],
      witnesses: [WITNESS, WITNESS.replace("witness", "second")],
      before: { size: Math.floor(size / 2), proof: 6 },
    },
    entries: (start, end) => Promise.all(Array.from({ length: end - start }, (_, at) => entry(start + at, size))),
    prove: async (index) => ({ index, size, leaf: digit(12), path: [1, 2, 3, 4, 5, 6].map(digit), root: digit(11) }),
  };
}

const POLICY = `permit (
  principal == Workload::"serve",
  action == Action::"inference",
  resource
)
when {
  context.measurements.containsAll(["mrtd=${digit(1)}"]) &&
  context.time < datetime("2026-12-22T12:00:00Z")
};
`;

class FakeOwner implements Owner {
  readonly pageSize = 100;
  private readonly capsules = new Map<string, Capsule>();

  constructor(
    readonly keyId: string,
    private size: number,
  ) {
    const grants = (budget: Budget, uses: number, revoked = false) => [
      {
        party: keyId,
        policy: POLICY,
        policySha256: digit(9),
        version: 2,
        budget,
        uses,
        spent: { tokens: 41_000 },
        revoked,
      },
      {
        party: digit(101),
        policy: undefined,
        policySha256: digit(13),
        version: 1,
        budget: { uses: null, not_after_s: null },
        uses,
        spent: {},
        revoked: false,
      },
    ];
    const soon = Math.floor(NOW.getTime() / 1000) + 2_000_000;
    this.put("m-4f1c2ab0", grants({ uses: 100, not_after_s: soon, amounts: { tokens: 1_000_000 } }, 37));
    this.put("m-77aa01fe", grants({ uses: null, not_after_s: null }, 4, true));
    this.put(
      "a-capsule-with-a-rather-long-name.of-1.2-billion-parameters-0123456789abcdef",
      grants({ uses: 3, not_after_s: null }, 3),
    );
  }

  private put(id: string, grants: Capsule["grants"]): void {
    this.capsules.set(id, { id, owner: this.keyId, manifestSha256: digit(8), registered: NOW, grants });
  }

  async party() {
    return { name: "owner", revoked: false, total: this.capsules.size, capsules: [...this.capsules.keys()] };
  }

  async capsule(id: string) {
    const capsule = this.capsules.get(id);
    if (!capsule) throw new MitaiError("broker.capsule-unknown", "this party owns no such capsule here");
    return capsule;
  }

  decisions(id: string) {
    return id === "m-4f1c2ab0" ? Promise.all([41, 2, 1].map((index) => entry(index, this.size))) : Promise.resolve([]);
  }

  async setPolicy(id: string, policy: string, budget: Budget) {
    if (!/permit|forbid/.test(policy))
      throw new MitaiError(
        "broker.policy-invalid",
        "this is not a policy that the broker understands: unexpected token",
      );
    const { grants } = await this.capsule(id);
    const policySha256 = hex(await sha256(utf8(policy)));
    this.put(
      id,
      grants.map((old) =>
        old.party === this.keyId ? { ...old, policy, policySha256, budget, version: old.version + 1 } : old,
      ),
    );
    return this.size++;
  }

  async revoke(id: string) {
    const { grants } = await this.capsule(id);
    this.put(
      id,
      grants.map((old) => (old.party === this.keyId ? { ...old, revoked: true } : old)),
    );
    return this.size++;
  }
}

export class FakeBackend implements Backend {
  constructor(private readonly size = 60) {}

  async replicas(): Promise<readonly string[]> {
    return ["replica-0", "replica-1"];
  }

  async verify(name: string): Promise<Machine> {
    if (name === "replica-1") {
      throw new MitaiError(
        "attest.measurement-mismatch",
        "register rtmr3 of workload 'serve' is not the one that the policy names",
        "",
        "5 measurements",
      );
    }
    return name === "broker"
      ? machine(name, {
          workload: "broker",
          capsules: [],
          keySha256: digit(17),
          extra: new Map(Object.entries({ witnesses: WITNESS, audience: digit(14) })),
        })
      : machine(name, {});
  }

  async ledger() {
    return ledger(this.size);
  }

  async owner({ keyId }: Identity) {
    return new FakeOwner(keyId, this.size);
  }
}
