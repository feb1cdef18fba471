/** What the console counts, says of terms, and asks of whom, over a made-up platform. */
import { MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { connect } from "../src/console/live.ts";
import { BROKER, type Capsule, type Entry, type Grant, type Machine } from "../src/console/model.ts";
import { ConsoleState } from "../src/console/state.ts";
import { blockOf, left, localTime, momentOf } from "../src/console/terms.ts";
import { timeline, usageOf } from "../src/console/usage.ts";
import { moment } from "../src/i18n.ts";
import { type Offer, type Pin, policyOf } from "../src/pinning.ts";
import { FakeBackend, NOW } from "./fake/platform.ts";
import vectors from "./vectors/owner.json";

const entry = (type: string, time: Date, fields: Record<string, unknown> = {}): Entry => {
  return { index: 0, type, time, fields, bytes: utf8("") };
};

describe("usage", () => {
  it("counts by kind and by reason", () => {
    const denied = (code: string) => entry("denial", NOW, { code, simulated: false });
    const entries = [
      ...[
        denied("broker.revoked"),
        denied("broker.policy-denied"),
        denied("__proto__"),
        denied("broker.policy-denied"),
      ],
      ...[entry("release", NOW, { simulated: true }), entry("receipt", NOW), entry("party-registered", NOW)],
    ];
    expect(usageOf(entries)).toEqual({
      counts: { release: 1, denial: 4, receipt: 1, deployment: 0 },
      denials: [
        ["broker.policy-denied", 2],
        ["__proto__", 1],
        ["broker.revoked", 1],
      ],
      simulated: 1,
    });
  });

  it("puts each entry into the hour or day in which it was logged", () => {
    const at = (text: string) => entry("receipt", new Date(text));
    const now = new Date("2026-11-22T12:34:56.789");
    const entries = [
      ...[at("2026-11-22T12:00:00"), at("2026-11-22T11:59:59"), at("2026-11-22T10:00:00"), at("2026-11-22T09:59:59")],
      ...[at("2026-11-20T23:59:59"), at("2026-11-21T00:00:00"), at("2026-11-22T12:40:00")],
    ];
    const counts = (every: "hour" | "day", bars: number) =>
      timeline(entries, "receipt", every, bars, now).map(({ count }) => count);
    expect(counts("hour", 3)).toEqual([1, 1, 2]); // what is ahead of this device's clock is in the last one
    expect(counts("day", 3)).toEqual([1, 1, 5]);
    expect(timeline(entries, "release", "hour", 3, now).map(({ count }) => count)).toEqual([0, 0, 0]);
    expect(timeline([], "receipt", "hour", 2, now)[0]?.from).toEqual(new Date("2026-11-22T11:00:00"));
  });

  it("loses no entry of its time", () => {
    const ago = fc.array(fc.integer({ min: 0, max: 23 * 3_600_000 - 1 }));
    fc.assert(
      fc.property(ago, fc.date({ noInvalidDate: true, min: new Date(0), max: new Date(4e12) }), (times, now) => {
        const entries = times.map((ms) => entry("receipt", new Date(now.getTime() - ms)));
        const bars = timeline(entries, "receipt", "hour", 24, now);
        expect(bars.reduce((sum, { count }) => sum + count, 0)).toBe(entries.length);
      }),
    );
  });
});

describe("terms", () => {
  const open: Grant = {
    ...{ party: "a", policy: undefined, policySha256: "b", version: 1, uses: 0, spent: {}, revoked: false },
    budget: { uses: null, not_after_s: null },
  };
  const capsule = (...grants: Grant[]): Capsule => ({
    ...{ id: "c", owner: "a", manifestSha256: "", registered: NOW, grants },
  });
  const now = NOW.getTime() / 1000;

  it.each([
    [undefined, open],
    ["revoked", { ...open, revoked: true, policySha256: undefined }],
    ["no-policy", { ...open, policySha256: undefined }],
    ["ended", { ...open, budget: { uses: null, not_after_s: now - 1 } }],
    [undefined, { ...open, budget: { uses: null, not_after_s: now } }],
    ["used-up", { ...open, uses: 3, budget: { uses: 3, not_after_s: null } }],
    ["used-up", { ...open, uses: 0, budget: { uses: 0, not_after_s: null } }],
    [undefined, { ...open, uses: 2, budget: { uses: 3, not_after_s: null } }],
  ])("%s", (block, grant) => {
    expect(blockOf(capsule(grant), NOW)).toBe(block);
    expect(blockOf(capsule(open, grant), NOW)).toBe(block); // one owner's no is enough
  });

  it("say how much time is left", () => {
    const later = (ms: number) => left(new Date(NOW.getTime() + ms), NOW);
    expect([later(0), later(-5)]).toEqual([undefined, undefined]);
    expect([later(999), later(61_000)]).toEqual(["in 0 seconds", "in 1 minute"]);
    expect([later(3 * 3_600_000), later(47 * 3_600_000)]).toEqual(["in 3 hours", "in 1 day"]);
  });

  it("keep a moment through the field for local time", () => {
    expect(new Date(localTime(NOW))).toEqual(NOW);
    expect(localTime(momentOf(2 ** 53))).toBe("9999-12-31T23:59:59"); // the last that a field takes
  });

  it("are moments that can be shown, whatever another owner set", () => {
    expect(momentOf(now)).toEqual(NOW);
    for (const time of [8.64e12, 8.64e12 + 1, 2 ** 53, 2 ** 64]) {
      expect(moment(momentOf(time))).toContain("275760");
      expect(left(momentOf(time), NOW)).toMatch(/days$/);
    }
  });
});

describe("the console's state", () => {
  let offer: Offer;
  let pin: Pin;

  beforeAll(async () => {
    const policy = await policyOf("version = 1\n");
    offer = { gateway: "https://gateway.example", policy, releases: [] };
    pin = { ...policy, source: "consent" };
  });

  it("asks nothing before a policy is pinned", async () => {
    const connect = vi.fn(() => new FakeBackend());
    const state = new ConsoleState(connect);
    await state.start(Promise.resolve(offer), undefined, undefined);
    expect(state.standing.kind).toBe("ask");
    expect([connect.mock.calls.length, state.backend, state.machines.size]).toEqual([0, undefined, 0]);
    await state.start(Promise.resolve(offer), { ...pin, sha256: "0".repeat(64) }, undefined);
    expect([state.standing.kind, connect.mock.calls.length]).toEqual(["changed", 0]);
    await state.start(Promise.resolve(offer), pin, "1".repeat(64));
    expect([state.standing.kind, connect.mock.calls.length]).toEqual(["other-than-link", 0]);
    await state.choose(pin, "consent");
    expect([state.standing.kind, connect.mock.calls.length]).toEqual(["use", 1]);
  });

  it("says when the host offers nothing that can be read", async () => {
    const state = new ConsoleState(() => new FakeBackend());
    await state.start(Promise.reject(new MitaiError("client.unreachable", "gone")), pin, undefined);
    expect(state.offer).toMatchObject({ kind: "failed", failure: { code: "client.unreachable" } });
    expect(state.backend).toBeUndefined();
  });

  it("says when the pinned policy is none", async () => {
    const state = new ConsoleState(connect);
    const policy = await policyOf("version = 2\n");
    await state.start(Promise.resolve({ ...offer, policy }), { ...policy, source: "link" }, undefined);
    expect(state.offer).toMatchObject({ kind: "failed", failure: { code: "attest.policy-version-unsupported" } });
    expect(state.backend).toBeUndefined();
  });

  it("lets each machine stand for itself", async () => {
    const state = await started(new FakeBackend());
    expect([...state.machines].map(([name, { kind }]) => [name, kind])).toEqual([
      [BROKER, "found"],
      ["replica-0", "found"],
      ["replica-1", "failed"],
    ]);
    expect(state.simulated).toBe(true);
    expect(state.ledger.kind).toBe("found");
  });

  it("keeps the other machines when the broker is refused or replicas can't be asked for", async () => {
    class Poor extends FakeBackend {
      override async replicas(): Promise<readonly string[]> {
        throw new MitaiError("client.unreachable", "gone");
      }
      override async verify(): Promise<Machine> {
        throw new MitaiError("attest.quote-invalid", "forged");
      }
      override async ledger(): Promise<never> {
        throw new MitaiError("attest.quote-invalid", "forged");
      }
    }
    const state = await started(new Poor());
    expect([state.replicas.kind, state.ledger.kind, state.machines.get(BROKER)?.kind]).toEqual(
      Array.from({ length: 3 }, () => "failed"),
    );
  });

  it("opens an identity, and forgets it", async () => {
    const state = await started(new FakeBackend());
    await expect(state.open("nonsense")).rejects.toMatchObject({ code: "identity.key-malformed" });
    expect(state.owner).toBeUndefined();
    await state.open(vectors.identity_pem);
    expect(state.owner?.keyId).toBe(vectors.key_id);
    state.close();
    expect(state.owner).toBeUndefined();
  });

  it("reads the newest entries once for each head", async () => {
    const backend = new FakeBackend(5000);
    const ledger = await backend.ledger();
    const entries = vi.fn(ledger.entries);
    backend.ledger = async () => ({ ...ledger, entries });
    const state = await started(backend);
    await Promise.all([state.readRecent(), state.readRecent()]);
    expect(entries.mock.calls).toEqual([[5000 - 4096, 5000]]);
    expect(state.recent).toMatchObject({ kind: "found", value: { length: 4096 } });
    await state.readLedger();
    await state.readRecent();
    expect(entries.mock.calls.length).toBe(2);
  });

  async function started(backend: FakeBackend): Promise<ConsoleState> {
    const state = new ConsoleState(() => backend);
    await state.start(Promise.resolve(offer), pin, undefined);
    return state;
  }
});
