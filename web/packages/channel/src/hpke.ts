/**
 * HPKE (RFC 9180, base mode, HKDF-SHA256) for the sender, and the AEAD of the answer.
 *
 * DHKEM(X25519, HKDF-SHA256) and, against quantum computers, X-Wing (draft-connolly-cfrg-xwing-kem: ML-KEM-768 with
 * X25519), by hpke-js; AES-256-GCM and AES-128-GCM by WebCrypto.
 *
 * - A nonce is never used twice: the sequence number grows with every message.
 * - `open` advances only after the tag was verified, and every failure is the same error, whatever its cause.
 */

import {
  Aes128Gcm,
  Aes256Gcm,
  CipherSuite,
  DhkemX25519HkdfSha256,
  HkdfSha256,
  type KemInterface,
  type SenderContext,
} from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { type Bytes, MitaiError } from "@mitai/verify";

export const KDF_HKDF_SHA256 = 0x0001;
export const TAG_BYTES = 16;
export const NONCE_BYTES = 12;

/** Key encapsulation, by its identifier (RFC 9180 section 7.1). */
export interface Kem {
  readonly id: number;
  readonly publicBytes: number;
  readonly make: () => KemInterface;
}

/** Encryption, by its identifier (RFC 9180 section 7.3). */
export interface Aead {
  readonly id: number;
  readonly keyBytes: number;
  readonly make: () => Aes128Gcm;
}

export const AES_256_GCM: Aead = { id: 0x0002, keyBytes: 32, make: () => new Aes256Gcm() };

export const KEMS: readonly Kem[] = [
  { id: 0x0020, publicBytes: 32, make: () => new DhkemX25519HkdfSha256() },
  { id: 0x647a, publicBytes: 1184 + 32, make: () => new XWing() },
];
export const AEADS: readonly Aead[] = [{ id: 0x0001, keyBytes: 16, make: () => new Aes128Gcm() }, AES_256_GCM];

/** SetupBaseS (RFC 9180 section 5.1.1); `ephemeral` is for test vectors only. */
export async function setupSender(
  kem: Kem,
  publicKey: Bytes,
  info: Bytes,
  aead: Aead,
  ephemeral?: CryptoKeyPair,
): Promise<SenderContext> {
  const suite = new CipherSuite({ kem: kem.make(), kdf: new HkdfSha256(), aead: aead.make() });
  try {
    const recipientPublicKey = await suite.kem.deserializePublicKey(publicKey);
    return await suite.createSenderContext({ recipientPublicKey, info, ...(ephemeral && { ekm: ephemeral }) });
  } catch {
    throw new MitaiError(
      "channel.key-malformed",
      "this is not a public key that can be sealed to",
      "or this browser lacks X25519: bring it up to date",
    );
  }
}

/** Opens a sequence of messages (RFC 9180 section 5.2). */
export class AeadOpener {
  #sequence = 0;

  constructor(
    private readonly key: CryptoKey,
    private readonly baseNonce: Bytes,
  ) {}

  /** HKDF-SHA256 of `secret` (RFC 9458 section 4.4): the key for "key", the first nonce for "nonce". */
  static async derive(secret: Bytes, salt: Bytes, aead: Aead): Promise<AeadOpener> {
    const material = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
    const expand = (label: string, bytes: number) => {
      const info = new TextEncoder().encode(label);
      return crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, material, 8 * bytes);
    };
    const [key, nonce] = await Promise.all([expand("key", aead.keyBytes), expand("nonce", NONCE_BYTES)]);
    return new AeadOpener(
      await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["decrypt"]),
      new Uint8Array(nonce),
    );
  }

  /** Return the next message; throw if it is not exactly the one that was sealed. */
  async open(ciphertext: Bytes, additionalData: Bytes): Promise<Bytes> {
    const parameters = { name: "AES-GCM", iv: this.#nonce(), additionalData };
    try {
      const plaintext = await crypto.subtle.decrypt(parameters, this.key, ciphertext);
      this.#sequence += 1;
      return new Uint8Array(plaintext);
    } catch {
      throw new MitaiError("channel.unopenable", "this message was not sealed to this key, or was changed on its way");
    }
  }

  #nonce(): Bytes {
    if (this.#sequence > 0xffff_ffff)
      throw new MitaiError("channel.sequence-overflow", "this context has opened all the messages that it may");
    const nonce = this.baseNonce.slice();
    const view = new DataView(nonce.buffer);
    view.setUint32(NONCE_BYTES - 4, view.getUint32(NONCE_BYTES - 4) ^ this.#sequence);
    return nonce;
  }
}
