/** Sessions: no key without a verification that holds now. */

import { type Policy, utf8 } from "@mitai/verify";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { type Options, Session, webAddress } from "../src/session.ts";
import { Server } from "./fakes.ts";

vi.mock("@mitai/verify", async (original) => {
  const { believing } = await import("./fakes.ts");
  return { ...(await original<object>()), ...believing };
});

const URL_ = "http://gateway.test";
const POLICY = { releases: [] } as unknown as Policy; // the believing verifier reads no more
let server: Server;
let now: Date;

beforeEach(() => {
  server = new Server();
  now = new Date("2026-11-22T05:00:00Z");
});

const later = (seconds: number) => {
  now = new Date(now.getTime() + 1000 * seconds);
};
const connect = (options: Options = {}) =>
  Session.connect(URL_, POLICY, { fetch: server.fetch, now: () => now, ...options });

describe("Session", () => {
  it("holds the key, the replica and the evidence of one verification", async () => {
    const session = await connect();
    expect(await session.keyConfig()).toEqual(Uint8Array.of(1));
    expect(session.replica()).toBe("r1");
    expect(session.nonce).toHaveLength(32);
    expect(session.verifiedAt).toEqual(now);
    expect(session.appraisal.simulated).toBe(true);
    expect(Object.isFrozen(session.verified)).toBe(true);
  });

  it("asks with a fresh nonce each time", async () => {
    const session = await connect();
    await session.renew();
    expect(new Set(server.asked).size).toBe(2);
    expect(server.asked[0]).toMatch(/^http:\/\/gateway\.test\/\.well-known\/mitai\/evidence\?nonce=[0-9a-f]{64}$/);
  });

  it("refuses evidence over another nonce", async () => {
    server.said = { nonce: "1,2,3" };
    await expect(connect()).rejects.toMatchObject({ code: "attest.nonce-mismatch", step: "2 nonce" });
  });

  it("refuses another workload, however genuine", async () => {
    await expect(connect({ workload: "broker" })).rejects.toMatchObject({ code: "client.other-workload" });
    server.said = { workload: "broker" };
    await expect(connect()).rejects.toMatchObject({ code: "client.other-workload" });
    await expect(connect({ workload: "broker" })).resolves.toBeInstanceOf(Session);
  });

  it("is relied upon for ten minutes", async () => {
    const session = await connect();
    server.key = 2;
    later(599);
    expect([session.stale, await session.keyConfig()]).toEqual([false, Uint8Array.of(1)]);
    later(1);
    expect([session.stale, await session.keyConfig()]).toEqual([true, Uint8Array.of(2)]);
    expect([session.stale, session.replica(), server.asked.length]).toEqual([false, "r2", 2]);
  });

  it("is not relied upon longer than the collateral holds", async () => {
    server.said = { notAfter: "2026-11-22T05:01:00Z" };
    const session = await connect();
    later(59);
    expect(session.stale).toBe(false);
    later(1);
    expect(session.stale).toBe(true);
  });

  it("is stale when the end of the collateral is no time", async () => {
    server.said = { notAfter: "never" };
    expect((await connect()).stale).toBe(true);
  });

  it("gives no key after a renewal that failed", async () => {
    const session = await connect();
    server.next = () => new Response("{}", { status: 500 });
    await expect(session.renew()).rejects.toMatchObject({ code: "client.no-evidence" });
    expect(session.stale).toBe(true);
    await expect(session.keyConfig()).rejects.toMatchObject({ code: "client.no-evidence" });
    server.next = undefined;
    expect(await session.keyConfig()).toEqual(Uint8Array.of(1));
  });

  it("gives no key while a renewal is in progress", async () => {
    const session = await connect();
    server.key = 2;
    const renewal = session.renew();
    const key = session.keyConfig();
    await renewal;
    expect([await key, server.asked.length]).toEqual([Uint8Array.of(2), 2]);
  });

  it("tells of every verification that holds", async () => {
    const onVerified = vi.fn();
    const session = await connect({ onVerified });
    await session.renew();
    expect(onVerified).toHaveBeenCalledTimes(2);
    expect(onVerified).toHaveBeenLastCalledWith(session.verified);
  });

  it("counts releases only where the policy names their signers", async () => {
    const releases = [utf8("{}")];
    expect((await connect({ releases })).appraisal).toMatchObject({ policy: POLICY });
    const trusting = { releases: ["a signer"] } as unknown as Policy;
    const session = await Session.connect(URL_, trusting, { fetch: server.fetch, releases });
    expect(session.appraisal).toMatchObject({ policy: { given: releases } });
  });

  it.each([
    [() => new Response(new Uint8Array((4 << 20) + 1)), "client.evidence-too-large"],
    [() => new Response("{}", { status: 404 }), "client.no-evidence"],
    [() => new Response('{"code":"workload.busy","detail":"wait"}', { status: 503 }), "workload.busy"],
    [() => Promise.reject(new TypeError("no")), "client.unreachable"],
  ])("refuses a server that lies or is gone: %#", async (next, code) => {
    server.next = next;
    await expect(connect()).rejects.toMatchObject({ code });
  });
});

describe("webAddress", () => {
  it.each([
    ["https://gateway.example/", "https://gateway.example"],
    ["http://127.0.0.1:8700", "http://127.0.0.1:8700"],
    ["https://gateway.example/llm//", "https://gateway.example/llm"],
  ])("takes %s", (address, expected) => expect(webAddress(address)).toBe(expected));

  it("refuses at once what would take long to read", () => {
    const begun = performance.now();
    expect(() => webAddress(`https://a${"/".repeat(100_000)}b`)).toThrow();
    expect(performance.now() - begun).toBeLessThan(1000);
  });

  it.each(["", "gateway", "ftp://a", "javascript:alert(1)", "https://me:secret@a", "https://a?b", "https://a#b"])(
    "refuses %j",
    (address) => expect(() => webAddress(address)).toThrow(expect.objectContaining({ code: "client.url-malformed" })),
  );
});
