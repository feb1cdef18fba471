/** The console's backend against a live broker: verified, sealed, signed, logged, proven. */
import { ledgerFetcher, Session } from "@mitai/client";
import { type Bytes, type FetchResource, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openLedger } from "../src/console/ledger.ts";
import { connect } from "../src/console/live.ts";
import { type Backend, BROKER, type Owner } from "../src/console/model.ts";
import { Identity } from "../src/console/signing.ts";
import { type Policy, policyOf } from "../src/pinning.ts";
import { available, PythonBroker } from "./broker.ts";

const UNLIMITED = { uses: null, not_after_s: null };

describe.skipIf(!available)("a live broker (needs the Python package in .venv)", () => {
  let broker: PythonBroker;
  let backend: Backend;
  let owner: Owner;

  beforeAll(async () => {
    broker = await PythonBroker.start();
    backend = await over(await policyOf(broker.told.policy));
    owner = await backend.owner(await Identity.open(broker.told.identity));
  }, 60_000);
  afterAll(() => broker?.stop());

  async function over(policy: Policy): Promise<Backend> {
    return connect({ gateway: broker.told.url, policy, releases: [] }, { ...policy, source: "file" });
  }

  const refused = (promise: Promise<unknown>) =>
    promise.then(
      () => "nothing was refused",
      (error) => (error instanceof MitaiError ? error.code : String(error)),
    );

  it("is verified, with every check", async () => {
    const { findings, evidence, nonce } = await backend.verify(BROKER);
    expect(findings).toMatchObject({ workload: "broker", simulated: true, tee: "tdx" });
    expect(findings.checks.length).toBeGreaterThan(10);
    expect(findings.ledger?.origin).toBe("test.mitai/ledger");
    expect(nonce).toHaveLength(32);
    expect(JSON.parse(new TextDecoder().decode(evidence))).toHaveProperty("quote");
    const again = await backend.verify(BROKER);
    expect(again.nonce).not.toEqual(nonce);
  });

  it("names the replicas, which stand for themselves", async () => {
    expect(await backend.replicas()).toEqual(["replica-0", "replica-1"]);
    expect((await backend.verify("replica-0")).findings).toMatchObject({ workload: "serve", simulated: true });
    expect(await refused(backend.verify("replica-1"))).toBe("attest.measurement-mismatch");
  });

  it("lists one's own capsules, and those that one co-owns", async () => {
    const { model, shared, foreign } = broker.told;
    expect(await owner.party(0)).toMatchObject({ name: "alice", revoked: false, capsules: [model, shared], total: 2 });
    expect(await owner.capsule(model)).toMatchObject({
      id: model,
      owner: broker.told.key_id,
      grants: [
        {
          party: broker.told.key_id,
          version: 1,
          budget: { uses: 20, not_after_s: null },
          revoked: false,
        },
      ],
    });
    const grants = (await owner.capsule(shared)).grants;
    expect(grants.map(({ policy, policySha256 }) => [policy, policySha256?.length])).toEqual([
      [undefined, 64], // its owner's, whose text is its own affair
      [undefined, undefined],
    ]);
    expect(await refused(owner.capsule(foreign))).toBe("broker.capsule-unknown");
    expect(await refused(owner.decisions(foreign))).toBe("broker.capsule-unknown");
  });

  it("logs decisions, which are proven here", async () => {
    await broker.order("release");
    await broker.order("deny");
    const decisions = await owner.decisions(broker.told.model);
    expect(decisions.map(({ type }) => type)).toEqual(["denial", "release", "policy-set", "capsule-registered"]);
    expect(decisions[0]?.fields).toMatchObject({ code: "broker.policy-denied", simulated: true });
    expect((await owner.capsule(broker.told.model)).grants[0]?.uses).toBe(1);
  });

  it("takes a new policy, and refuses one that it does not understand", async () => {
    const { model } = broker.told;
    const text = 'permit(principal == Workload::"serve", action, resource); // 只限 serve';
    const index = await owner.setPolicy(model, text, { uses: 3, not_after_s: 1_900_000_000 });
    const [own] = (await owner.capsule(model)).grants;
    expect(own).toMatchObject({ policy: text, version: 2, budget: { uses: 3, not_after_s: 1_900_000_000 } });
    const [newest] = await owner.decisions(model);
    expect(newest).toMatchObject({ index, type: "policy-set", fields: { policy_sha256: own?.policySha256 } });
    expect(await refused(owner.setPolicy(model, "permit(", UNLIMITED))).toBe("broker.policy-invalid");
    expect(await refused(owner.setPolicy(broker.told.foreign, text, UNLIMITED))).toBe("broker.capsule-unknown");
  });

  it("shows limits of amounts, and sends them", async () => {
    const { shared, key_id: party } = broker.told;
    const budget = { uses: null, not_after_s: null, amounts: { tokens: 7, epsilon_micros: 0 } };
    await owner.setPolicy(shared, "permit(principal, action, resource);", budget);
    const own = (await owner.capsule(shared)).grants.find((grant) => grant.party === party);
    expect(own?.budget).toEqual(budget);
    expect(own?.spent).toEqual({});
  });

  it("shows terms beyond all dates and exact numbers: another owner's could keep one from revoking", async () => {
    const { model } = broker.told;
    const budget = { uses: 2 ** 53, not_after_s: 2 ** 53 };
    await owner.setPolicy(model, "permit(principal, action, resource);", budget);
    expect((await owner.capsule(model)).grants[0]).toMatchObject({ budget, revoked: false });
  });

  it("publishes a ledger that is read, proven, and remembered", async () => {
    await broker.order("quiet");
    const ledger = await backend.ledger();
    const { size } = ledger.head;
    const entries = await ledger.entries(0, size);
    expect(entries.map(({ index }) => index)).toEqual(Array.from({ length: size }, (_, at) => at));
    expect(entries[0]).toMatchObject({ type: "party-registered", fields: { name: "alice" } });
    expect(await ledger.entries(2, 4)).toEqual(entries.slice(2, 4));
    for (const { index } of entries) expect(await ledger.prove(index)).toMatchObject({ index, size });
    expect(await refused(ledger.prove(size))).toBe("ledger.index-out-of-range");
    const grown = await broker.order("release");
    await vi.waitFor(async () => {
      const { head } = await backend.ledger();
      expect(head).toMatchObject({ size: grown });
      expect(head.before?.size).toBeGreaterThanOrEqual(size);
    }, 5000);
  });

  it("revokes, for good", async () => {
    const { shared, model } = broker.told;
    await owner.revoke(shared);
    expect((await owner.capsule(shared)).grants.map(({ revoked }) => revoked)).toEqual([false, true]);
    expect(await refused(owner.setPolicy(shared, "permit(principal, action, resource);", UNLIMITED))).toBe(
      "broker.revoked",
    );
    expect((await owner.capsule(model)).grants[0]?.revoked).toBe(false);
  });

  it("gets no order where it judges by another policy", async () => {
    const lax = await policyOf(broker.told.policy.replace("min_evaluation_number = 0", "min_evaluation_number = 1"));
    const identity = await Identity.open(broker.told.identity);
    expect(await refused((await over(lax)).owner(identity))).toBe("client.broker-policy");
  });

  it("gets no order any more when it is found to judge by another policy later", async () => {
    const identity = await Identity.open(broker.told.identity);
    const open = await (await over(await policyOf(broker.told.policy))).owner(identity);
    expect((await open.party(0)).name).toBe("alice");
    const { current } = Session.prototype;
    vi.spyOn(Session.prototype, "current").mockImplementation(async function (this: Session) {
      const { appraisal, ...rest } = await current.call(this); // as it would be once the host started it anew
      return { ...rest, appraisal: { ...appraisal, claims: { ...appraisal.claims, policies: ["00".repeat(32)] } } };
    });
    const asked = vi.spyOn(globalThis, "fetch");
    expect(await refused(open.party(0))).toBe("client.broker-policy");
    expect(await refused(open.revoke(broker.told.model))).toBe("client.broker-policy");
    expect(asked).not.toHaveBeenCalled();
    vi.restoreAllMocks();
    expect((await open.party(0)).name).toBe("alice");
  });

  it("says in time that a command may not have arrived", async () => {
    const { timeout } = AbortSignal;
    const limits: number[] = [];
    vi.spyOn(AbortSignal, "timeout").mockImplementation((ms) => {
      limits.push(ms);
      return timeout(50);
    });
    vi.spyOn(globalThis, "fetch").mockImplementation(() => new Promise(() => undefined)); // the host holds it back
    await expect(owner.revoke(broker.told.model)).rejects.toMatchObject({
      code: "client.unreachable",
      hint: expect.stringContaining("may have arrived"),
    });
    vi.restoreAllMocks();
    expect(limits).toEqual([120_000]);
    expect((await owner.capsule(broker.told.model)).grants[0]?.revoked).toBe(false);
  }, 3000);

  it("is refused under a policy without simulation, and nothing is asked of it", async () => {
    const strict = await policyOf(broker.told.policy.replace("allow_simulation = true", "allow_simulation = false"));
    const identity = await Identity.open(broker.told.identity);
    const strictly = await over(strict);
    const asked = vi.spyOn(globalThis, "fetch");
    expect(await refused(strictly.owner(identity))).toMatch(/^attest\./);
    expect(await refused(strictly.ledger())).toMatch(/^attest\./);
    const addresses = asked.mock.calls.map(([input]) => String(input));
    expect(addresses.every((address) => address.includes("/.well-known/mitai/evidence?"))).toBe(true);
    asked.mockRestore();
  });

  it("does not know a stranger", async () => {
    const pem = broker.told.identity.replace(/\n(.{40}).{4}/, "\n$1AAAA");
    const stranger = await backend.owner(await Identity.open(pem));
    expect(await refused(stranger.party(0))).toBe("broker.party-unknown");
    expect(await refused(stranger.capsule(broker.told.model))).toBe("broker.capsule-unknown");
  });

  it("is not believed when the host changes any byte of what is published", async () => {
    await broker.order("quiet");
    const { vkey = "" } = (await backend.verify(BROKER)).findings.ledger ?? {};
    const fetch = ledgerFetcher(broker.told.url);
    const published = new Map<string, Bytes>();
    const read = async (path: string) => {
      const bytes = published.get(path) ?? (await fetch(path));
      if (bytes) published.set(path, bytes);
      return bytes;
    };
    const all = async (from: FetchResource) => {
      const checkpoint = (await read("checkpoint")) ?? utf8("");
      const nothing = { get: async () => undefined, put: async () => undefined };
      const ledger = await openLedger({ vkey, checkpoint, witnesses: [] }, from, nothing);
      return ledger.entries(0, ledger.head.size);
    };
    expect((await all(read)).length).toBeGreaterThan(8);
    const paths = [...published.keys()];
    expect(paths.map((path) => path.replace(/\/000.*/, ""))).toEqual(["checkpoint", "tile/0", "tile/entries"]);
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...paths),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        async (path, at, bits) => {
          const code = await refused(
            all(async (asked) => {
              const bytes = (await read(asked))?.slice();
              const place = at % (bytes?.length ?? 1);
              if (bytes && asked === path) bytes[place] = (bytes[place] ?? 0) ^ bits;
              return bytes;
            }),
          );
          expect(code).toMatch(/^ledger\./);
        },
      ),
      { numRuns: 300 },
    );
  });
});
