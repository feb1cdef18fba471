import { MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  fetchOffer,
  keepPin,
  keptPin,
  linkDigest,
  MAX_OFFER_BYTES,
  type Pin,
  type Policy,
  policyOf,
  readOffer,
  standing,
} from "../src/pinning.ts";
import { OTHER_POLICY, SIMULATED_POLICY } from "./made-up.ts";

const PAGE = "https://chat.example/mitai/index.html";
const mine = await policyOf(SIMULATED_POLICY);
const other = await policyOf(OTHER_POLICY);
const pin = (policy: Policy, source: Pin["source"] = "consent"): Pin => ({ ...policy, source });

describe("whose policy holds", () => {
  it("asks before an offered policy is used", () => {
    expect(standing(mine, undefined, undefined)).toEqual({ kind: "ask", offered: mine });
  });

  it("uses what the link pins, when it is offered", () => {
    expect(standing(mine, undefined, mine.sha256)).toEqual({ kind: "use", pin: pin(mine, "link") });
  });

  it("refuses another policy than the link names, whatever it is", () => {
    expect(standing(other, undefined, mine.sha256).kind).toBe("other-than-link");
    expect(standing(undefined, undefined, mine.sha256).kind).toBe("other-than-link");
    expect(standing(other, pin(other), mine.sha256).kind).toBe("other-than-link");
    expect(standing(mine, undefined, "no digest").kind).toBe("other-than-link");
  });

  it("lets a link not replace a pinned policy by itself", () => {
    expect(standing(other, pin(mine), other.sha256)).toEqual({ kind: "changed", offered: other, pinned: pin(mine) });
  });

  it("uses the pinned policy, also when the host offers none", () => {
    expect(standing(mine, pin(mine), undefined)).toEqual({ kind: "use", pin: pin(mine) });
    expect(standing(undefined, pin(mine), undefined)).toEqual({ kind: "use", pin: pin(mine) });
    expect(standing(other, pin(mine), mine.sha256).kind).toBe("changed");
  });

  it("asks again when the host offers another one, but not about a file of the user's", () => {
    expect(standing(other, pin(mine), undefined)).toEqual({ kind: "changed", offered: other, pinned: pin(mine) });
    expect(standing(other, pin(mine, "file"), undefined)).toEqual({ kind: "use", pin: pin(mine, "file") });
  });

  it("never uses a policy that was not pinned", () => {
    const policies = fc.constantFrom(undefined, mine, other);
    const pins = fc.constantFrom(undefined, pin(mine), pin(other), pin(mine, "file"), pin(other, "link"));
    const links = fc.constantFrom(undefined, mine.sha256, other.sha256, "");
    fc.assert(
      fc.property(policies, pins, links, (offered, pinned, link) => {
        const found = standing(offered, pinned, link);
        if (found.kind === "use") expect([pinned?.sha256, link]).toContain(found.pin.sha256);
        if (found.kind === "use" && link !== undefined) expect(found.pin.sha256).toBe(link);
      }),
    );
  });
});

describe("fetching what the host offers", () => {
  const offering = (answer: () => Response) => {
    vi.stubGlobal("location", { href: PAGE });
    vi.stubGlobal("fetch", async (url: string) => {
      expect(url).toBe("https://chat.example/mitai/mitai.json");
      return answer();
    });
    return fetchOffer();
  };
  afterEach(() => vi.unstubAllGlobals());

  it("reads what is beside the page", async () => {
    expect((await offering(() => new Response('{"v":1}'))).gateway).toBe("https://chat.example");
  });

  it("gives up on what never ends", async () => {
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1 << 20)) });
    await expect(offering(() => new Response(endless))).rejects.toMatchObject({ code: "client.page-malformed" });
  });

  it("says when there is nothing", async () => {
    await expect(offering(() => new Response("", { status: 404 }))).rejects.toMatchObject({
      code: "client.unreachable",
    });
  });
});

describe("the link", () => {
  it("names a digest", () => {
    expect(linkDigest(`#policy=${mine.sha256.toUpperCase()}`)).toBe(mine.sha256);
    expect(linkDigest("#other=1")).toBeUndefined();
    expect(linkDigest("")).toBeUndefined();
  });

  it("never names two policies by one digest", async () => {
    await expect(policyOf("# \ud800")).rejects.toMatchObject({ code: "client.page-malformed" });
    expect((await policyOf("# \ufffd \u{1f600}")).toml).toContain("\ufffd");
  });

  it("is not ignored when it is malformed", () => {
    expect(linkDigest("#policy=")).toBe("");
    expect(standing(mine, undefined, linkDigest("#policy=12")).kind).toBe("other-than-link");
  });
});

describe("what the host offers", () => {
  const read = (value: unknown) => readOffer(utf8(JSON.stringify(value)), PAGE);

  it("is a gateway, a policy and releases", async () => {
    const offer = await read({ v: 1, gateway: "", policy: SIMULATED_POLICY, releases: [{ a: 1 }, '{"b":2}'] });
    expect(offer.gateway).toBe("https://chat.example");
    expect(offer.policy).toEqual(mine);
    expect(offer.releases).toEqual([utf8('{"a":1}'), utf8('{"b":2}')]);
    expect((await read({ v: 1, gateway: "http://127.0.0.1:8700/" })).gateway).toBe("http://127.0.0.1:8700");
  });

  it.each([
    { v: 2 },
    [],
    "text",
    { v: 1, gateway: 5 },
    { v: 1, gateway: "javascript:alert(1)" },
    { v: 1, gateway: "https://a:b@host/" },
    { v: 1, gateway: "https://host/?q" },
    { v: 1, policy: {} },
    { v: 1, releases: {} },
    { v: 1, releases: Array(65).fill("{}") },
    { v: 1, policy: "#".repeat((1 << 20) + 1) },
  ])("refuses %j", async (value) => {
    await expect(read(value)).rejects.toMatchObject({ code: "client.page-malformed" });
  });

  it("refuses what is no JSON or too large", async () => {
    for (const bytes of [utf8("{"), new Uint8Array([0xff]), new Uint8Array(MAX_OFFER_BYTES + 1)])
      await expect(readOffer(bytes, PAGE)).rejects.toMatchObject({ code: "client.page-malformed" });
  });

  it("is an offer or a MitaiError, whatever the bytes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.json().map(utf8),
          fc.uint8Array().map((data) => Uint8Array.from(data)),
        ),
        async (data) => {
          await readOffer(data, PAGE).catch((error) => expect(error).toBeInstanceOf(MitaiError));
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe("the pinned policy", () => {
  beforeEach(() => keepPin(undefined));

  it("stays on the device, and its digest is computed anew", async () => {
    expect(await keptPin()).toBeUndefined();
    keepPin({ toml: SIMULATED_POLICY, sha256: "forged", source: "link" });
    expect(await keptPin()).toEqual(pin(mine, "link"));
  });

  it("is the new one, and later none, where there is no space for it", async () => {
    const stored = new Map<string, string>();
    const full = {
      getItem: (key: string) => stored.get(key) ?? null,
      removeItem: (key: string) => stored.delete(key),
      setItem: () => {
        throw new DOMException("", "QuotaExceededError");
      },
    };
    vi.stubGlobal("localStorage", { ...full, setItem: (key: string, value: string) => stored.set(key, value) });
    keepPin(pin(mine));
    vi.stubGlobal("localStorage", full);
    keepPin(pin(other));
    expect([(await keptPin())?.sha256, stored.size]).toEqual([other.sha256, 0]);
    vi.unstubAllGlobals();
  });
});
