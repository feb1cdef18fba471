import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, base64, fromHex, hex, text, utf8 } from "../src/bytes.ts";
import { decodeEnvelope, openEnvelope, PublicKey, preAuthenticationEncoding } from "../src/dsse.ts";
import { MitaiError } from "../src/errors.ts";
import { latin1 } from "./verdicts.ts";

const KIND = "application/vnd.mitai.example+json";

async function identity(): Promise<{ key: PublicKey; sign: (message: Bytes) => Promise<Bytes> }> {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
  if (!("privateKey" in pair)) throw new Error("a pair of keys");
  const key = new PublicKey(new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)));
  return {
    key,
    sign: async (message) => new Uint8Array(await crypto.subtle.sign("Ed25519", pair.privateKey, message)),
  };
}

function envelope(payload: Bytes, ...signatures: readonly Bytes[]): Bytes {
  const parts = signatures.map((sig) => ({ sig: base64(sig), keyid: "anything" }));
  return utf8(JSON.stringify({ payload: base64(payload), payloadType: KIND, signatures: parts }));
}

describe("DSSE envelopes", () => {
  test("pre-authentication encoding, as the specification's example", () => {
    expect(text(preAuthenticationEncoding("http://example.com/HelloWorld", utf8("hello world")))).toBe(
      "DSSEv1 29 http://example.com/HelloWorld 11 hello world",
    );
  });

  test("opens with one of the expected signers, of the expected type alone", async () => {
    const [alice, bob] = [await identity(), await identity()];
    const payload = utf8('{"v":1}');
    const message = preAuthenticationEncoding(KIND, payload);
    const signed = decodeEnvelope(envelope(payload, await bob.sign(message), await alice.sign(message)));
    expect(await openEnvelope(signed, KIND, alice.key)).toEqual(payload);
    expect(await openEnvelope(signed, KIND, (await identity()).key, bob.key)).toEqual(payload);
    await expect(openEnvelope(signed, "text/plain", alice.key)).rejects.toMatchObject({
      code: "identity.payload-type",
    });
    await expect(openEnvelope(signed, KIND)).rejects.toMatchObject({ code: "identity.signature-invalid" });
    await expect(openEnvelope(signed, KIND, (await identity()).key)).rejects.toMatchObject({
      code: "identity.signature-invalid",
    });
    const late = decodeEnvelope(envelope(payload, ...Array(16).fill(new Uint8Array(64)), await alice.sign(message)));
    await expect(openEnvelope(late, KIND, alice.key)).rejects.toBeInstanceOf(MitaiError);
  });

  test("flip any byte: it throws, or the payload is the same", async () => {
    const alice = await identity();
    const payload = utf8('{"a":"b"}');
    const whole = envelope(payload, await alice.sign(preAuthenticationEncoding(KIND, payload)));
    const puts = fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d, 0x22, 0x41);
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.oneof(fc.nat(255), puts), async (at, byte) => {
        const changed = whole.with(at, byte);
        try {
          expect(await openEnvelope(decodeEnvelope(changed), KIND, alice.key)).toEqual(payload);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("any bytes give an envelope or a MitaiError", () => {
    fc.assert(
      fc.property(fc.string(), (json) => {
        expect(() => decodeEnvelope(latin1(json))).toThrow(MitaiError);
      }),
    );
  });
});

describe("Ed25519 keys", () => {
  const RFC8032 = new PublicKey(fromHex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
  const SIGNATURE = fromHex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da" +
      "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
  );

  test("the vector of RFC 8032, section 7.1, test 2", async () => {
    await RFC8032.verify(Uint8Array.of(0x72), SIGNATURE);
    expect(await RFC8032.keyId()).toMatch(/^[0-9a-f]{64}$/);
    await expect(RFC8032.verify(Uint8Array.of(0x73), SIGNATURE)).rejects.toMatchObject({
      code: "identity.signature-invalid",
    });
  });

  test("a signature has one form: no S above the group's order, no other length", async () => {
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    const little = hex(SIGNATURE.slice(32).reverse());
    const raised = fromHex((BigInt(`0x${little}`) + order).toString(16).padStart(64, "0")).reverse();
    const message = Uint8Array.of(0x72);
    const forged = Uint8Array.from([...SIGNATURE.slice(0, 32), ...raised]);
    for (const signature of [forged, SIGNATURE.slice(0, 63), Uint8Array.from([...SIGNATURE, 0]), new Uint8Array()]) {
      expect(await RFC8032.signed(message, signature)).toBe(false);
    }
  });

  test("keys of small order are refused, in every spelling", () => {
    const low = ["00", "01", "ec", "ed", "ee"].map((first) =>
      first < "ec" ? first + "00".repeat(31) : `${first}${"ff".repeat(30)}7f`,
    );
    low.push("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05");
    low.push("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a");
    for (const point of low.map(fromHex)) {
      for (const raw of [point, point.with(31, (point[31] ?? 0) | 0x80)]) {
        expect(() => new PublicKey(raw)).toThrow(expect.objectContaining({ code: "identity.key-malformed" }));
      }
    }
    expect(() => new PublicKey(new Uint8Array(31))).toThrow(MitaiError);
  });

  test("a key that is no point signs nothing", async () => {
    expect(await new PublicKey(fromHex(`02${"00".repeat(31)}`)).signed(utf8(""), new Uint8Array(64))).toBe(false);
  });
});
