import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromBase64, hex, utf8 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import { Claims, decodeHardware, Evidence, NO_DEVICES, reportData } from "../src/evidence.ts";
import { load } from "./fixtures.ts";

const { bases } = load("evidence");
const EVIDENCE = fromBase64(bases.evidence ?? "");
const CLAIMS = fromBase64(bases.claims ?? "");

describe("evidence", () => {
  test("report data covers label, nonce, claims and devices", async () => {
    const nonce = Uint8Array.from({ length: 32 }, (_, at) => at);
    // hashlib.sha512(b"mitai report data v1\0" + bytes(range(32)) + sha256(b"{}") + sha256(b"[]"))
    expect(hex(await reportData(nonce, utf8("{}"), NO_DEVICES))).toBe(
      "ff626abf37af6035145f5423be3b4915c9f1f21a9bf98d6787d0ed8e17bb34c19c1caacb41aedae8ebececc1bbb6380cdf138d5ea65e3d46b99ab9b688265d5a",
    );
    await expect(reportData(nonce.slice(1), CLAIMS, NO_DEVICES)).rejects.toMatchObject({
      code: "attest.nonce-malformed",
    });
  });

  test("keeps bytes as they came, and is frozen", () => {
    const evidence = Evidence.decode(EVIDENCE);
    expect(evidence.claims).toEqual(CLAIMS);
    expect(evidence.devices).toEqual(NO_DEVICES);
    expect(Object.isFrozen(evidence)).toBe(true);
    const claims = Claims.decode(evidence.claims);
    expect(claims.capsules.map(({ id }) => id)).toEqual(["model-1", "model-2"]);
    expect(Object.isFrozen(claims) && Object.isFrozen(claims.capsules) && Object.isFrozen(claims.capsules[0])).toBe(
      true,
    );
    expect(claims.extra.get("__proto__")).toBe("x");
  });

  test.each([
    ["attest.evidence-malformed", () => Evidence.decode(new Uint8Array((4 << 20) + 1))],
    ["attest.claims-malformed", () => Claims.decode(new Uint8Array((1 << 20) + 1))],
    ["attest.evidence-malformed", () => decodeHardware(new Uint8Array((8 << 20) + 1))],
    ["attest.evidence-malformed", () => decodeHardware(EVIDENCE)],
  ])("what is too large or of another kind is %s", (code, decode) => {
    expect(decode).toThrow(expect.objectContaining({ code }));
  });

  test("hardware alone", () => {
    expect(decodeHardware(utf8('{"tee":"snp","quote":"AAEC","endorsements":{"vek":"/w=="}}'))).toMatchObject({
      tee: "snp",
      quote: Uint8Array.of(0, 1, 2),
      collateral: null,
      endorsements: new Map([["vek", Uint8Array.of(255)]]),
    });
  });

  test("any bytes give evidence, claims or a MitaiError", () => {
    const puts = fc.oneof(fc.nat(255), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d, 0x22, 0x5c, 0x7b));
    fc.assert(
      fc.property(fc.nat(CLAIMS.length - 1), puts, (at, byte) => {
        try {
          expect(Claims.decode(CLAIMS.with(at, byte)).v).toBe(1n);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (data) => {
        expect(() => Evidence.decode(Uint8Array.from(data))).toThrow(MitaiError);
      }),
    );
  });
});
