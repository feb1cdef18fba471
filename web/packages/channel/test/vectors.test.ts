import { readFileSync } from "node:fs";
import { DhkemX25519HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { type Bytes, concat, fromHex, hex } from "@mitai/verify";
import { describe, expect, test } from "vitest";
import { AEADS, KEMS, setupSender } from "../src/hpke.ts";
import { KeyConfig, RequestSealer } from "../src/ohttp.ts";

const load = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../../tests/vectors/channel/${name}`, import.meta.url), "utf8"));

/** An X25519 key pair from its secret, as PKCS #8. */
async function keyPair(secret: Bytes): Promise<CryptoKeyPair> {
  const kem = new DhkemX25519HkdfSha256();
  const privateKey = await kem.deserializePrivateKey(secret);
  const pkcs8 = concat(fromHex("302e020100300506032b656e04220420"), secret);
  const extractable = await crypto.subtle.importKey("pkcs8", pkcs8, "X25519", true, ["deriveBits"]);
  const { x } = await crypto.subtle.exportKey("jwk", extractable);
  const publicKey = await crypto.subtle.importKey("raw", Buffer.from(x ?? "", "base64url"), "X25519", true, []);
  return { privateKey, publicKey };
}

interface HpkeVector {
  aead_id: number;
  encryptions: { aad: string; ct: string; pt: string }[];
  exports: { exporter_context: string; L: number; exported_value: string }[];
  [name: string]: unknown;
}
const ours = (vector: HpkeVector) => AEADS.some(({ id }) => id === vector.aead_id);

describe("RFC 9180, base mode, X25519", () => {
  const cases: HpkeVector[] = load("rfc9180.json").filter(ours);
  test("both AEADs are there", () => expect(cases.map(({ aead_id }) => aead_id)).toEqual([1, 2]));

  test.each(cases)("AEAD $aead_id", async (v) => {
    const bytes = (name: string) => fromHex(String(v[name]));
    const [kem] = KEMS;
    const aead = AEADS.find(({ id }) => id === v.aead_id);
    if (!kem || !aead) throw new Error("not ours");
    const sender = await setupSender(kem, bytes("pkRm"), bytes("info"), aead, await keyPair(bytes("skEm")));
    expect(hex(new Uint8Array(sender.enc))).toBe(v.enc);
    let sequence = 0;
    for (const { aad, pt, ct } of v.encryptions) {
      const nth = Number(Buffer.from(aad, "hex").toString().split("-")[1]);
      for (; sequence < nth; sequence++) await sender.seal(new Uint8Array());
      expect(hex(new Uint8Array(await sender.seal(fromHex(pt), fromHex(aad))))).toBe(ct);
      sequence += 1;
    }
    for (const { exporter_context, L, exported_value } of v.exports)
      expect(hex(new Uint8Array(await sender.export(fromHex(exporter_context), L)))).toBe(exported_value);
  });
});

test.each<Record<string, string>>(load("xwing.json"))("X-Wing decapsulates", async (v) => {
  const kem = new XWing();
  const recipientKey = await kem.deserializePrivateKey(fromHex(v.skRm ?? ""));
  const secret = await kem.decap({ recipientKey, enc: fromHex(v.enc ?? "") });
  expect(hex(new Uint8Array(secret))).toBe(v.shared_secret);
});

describe("draft-ietf-ohai-chunked-ohttp-08 appendix A", () => {
  const v = load("ohttp.json").chunked;
  const cut = (data: Bytes, [size, ...sizes]: number[]): Bytes[] =>
    size === undefined ? [] : [data.subarray(0, size), ...cut(data.subarray(size), sizes)];

  test("the key configuration", async () => {
    const config = KeyConfig.decode(fromHex(v.key_config));
    const pair = await keyPair(fromHex(v.gateway_secret));
    expect(config).toMatchObject({ keyId: 1, kem: { id: 0x20 }, aeads: [{ id: 1 }] });
    expect(config.publicKey).toEqual(new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)));
  });

  test("request and response", async () => {
    const config = KeyConfig.decode(fromHex(v.key_config));
    const sealer = await RequestSealer.start(config, await keyPair(fromHex(v.ephemeral_secret)));
    const chunks = cut(fromHex(v.request), v.request_chunks);
    const wire = [];
    for (const [at, chunk] of chunks.entries()) wire.push(await sealer.seal(chunk, at === chunks.length - 1));
    expect(hex(concat(...wire))).toBe(v.encapsulated_request);

    const opener = await sealer.responseOpener();
    const opened = [];
    for await (const plaintext of opener.feed(fromHex(v.encapsulated_response))) opened.push(plaintext);
    opened.push(await opener.finish());
    expect(hex(concat(...opened))).toBe(v.response);
    expect(opened.map(({ length }) => length)).toEqual(v.response_chunks);
  });
});
