/**
 * What an owner signs: an identity from the CLI's key file, DSSE envelopes, commands and queries.
 *
 * Follows docs/spec/broker.md, "Parties and commands"; the same bytes as `mitai.client.owner` makes them, field by field.
 *
 * - The private key stays in WebCrypto, not extractable; it is kept for as long as the page is open, and nowhere else.
 * - A signed command names its broker, its party and a sequence that only grows, and holds no secret.
 */
import {
  type Bytes,
  base64,
  equal,
  fromBase64,
  fromHex,
  hex,
  MitaiError,
  PublicKey,
  preAuthenticationEncoding,
  sha256,
  utf8,
} from "@mitai/verify";

export const COMMAND_TYPE = "application/vnd.mitai.command+json";
export const QUERY_TYPE = "application/vnd.mitai.query+json";

/** The largest count of the protocol, which a `number` still holds exactly. */
export const MAX_COUNT = 2 ** 53;

const AUDIENCE_LABEL = utf8("mitai broker audience v1\0");
const MAX_KEY_FILE_CHARACTERS = 4096;
const PEM = /^\s*-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*$/;
const PKCS8 = fromHex("302e020100300506032b657004220420"); // RFC 8410, section 7: version 0, Ed25519, a seed of 32 bytes

/** A DSSE envelope as it travels. */
interface SignedEnvelope {
  readonly payload: string;
  readonly payloadType: string;
  readonly signatures: readonly { readonly sig: string; readonly keyid: string }[];
}

/** What requests declare and owners ration; as a limit, what is left out is not limited. */
export interface Amounts {
  readonly tokens?: number;
  readonly steps?: number;
  readonly epsilon_micros?: number;
}

/** How often, how long and how much an owner lets a capsule's key go; `null` is no limit of that kind. */
export interface Budget {
  readonly uses: number | null;
  readonly not_after_s: number | null;
  readonly amounts?: Amounts;
}

export type Order =
  | { readonly type: "set-policy"; readonly capsule: string; readonly policy: string; readonly budget: Budget }
  | { readonly type: "revoke"; readonly capsule: string | null };

/** A party's Ed25519 key pair. */
export class Identity {
  private constructor(
    private readonly key: CryptoKey,
    readonly publicKey: Bytes,
    /** SHA-256 of the public key: the party's name everywhere. */
    readonly keyId: string,
  ) {}

  /** Open a key file (PKCS #8 in PEM, not encrypted) as the CLI keeps it in `owner/identity.pem`. */
  static async open(pem: string): Promise<Identity> {
    const encoded = pem.length <= MAX_KEY_FILE_CHARACTERS ? PEM.exec(pem)?.[1]?.replace(/\s/g, "") : undefined;
    let der: Bytes;
    try {
      der = fromBase64(encoded ?? "-");
    } catch {
      throw malformed();
    }
    if (der.length !== PKCS8.length + 32 || !equal(der.subarray(0, PKCS8.length), PKCS8)) throw malformed();
    return Identity.fromPkcs8(der).catch(() => {
      throw new MitaiError(
        "identity.ed25519-unsupported",
        "this browser can't sign with Ed25519",
        "use a newer version of it",
      );
    });
  }

  private static async fromPkcs8(der: Bytes): Promise<Identity> {
    // WebCrypto gives the public half of an extractable key only: a first import for that, a second one to keep.
    const once = await crypto.subtle.importKey("pkcs8", der, "Ed25519", true, ["sign"]);
    const { x } = await crypto.subtle.exportKey("jwk", once);
    const key = await crypto.subtle.importKey("pkcs8", der, "Ed25519", false, ["sign"]);
    der.fill(0);
    const publicKey = new PublicKey(fromBase64(`${(x ?? "").replaceAll("-", "+").replaceAll("_", "/")}=`));
    return new Identity(key, publicKey.raw, await publicKey.keyId());
  }

  /** Sign a payload as of a type. */
  async sign(payload: Bytes, payloadType: string): Promise<SignedEnvelope> {
    const message = preAuthenticationEncoding(payloadType, payload);
    const sig = new Uint8Array(await crypto.subtle.sign("Ed25519", this.key, message));
    return { payload: base64(payload), payloadType, signatures: [{ sig: base64(sig), keyid: this.keyId }] };
  }
}

/** The name of a broker in what is signed for it: the digest of its ledger's public key. */
export async function audience(ledgerKey: PublicKey): Promise<string> {
  return hex(await sha256(AUDIENCE_LABEL, ledgerKey.raw));
}

function limitsOf({ amounts = {}, ...budget }: Budget): readonly (number | null)[] {
  return [...Object.values(budget), ...Object.values(amounts)];
}

/** The body of `POST /v1/commands`. */
export async function commandRequest(
  identity: Identity,
  order: Order,
  addressed: { readonly broker: string; readonly sequence: number; readonly timeS: number },
): Promise<Bytes> {
  const { type, ...fields } = order;
  if (order.type === "set-policy" && !limitsOf(order.budget).every(isLimit))
    throw new MitaiError("broker.malformed", `a limit is a whole number up to ${MAX_COUNT}`);
  const { broker, sequence, timeS } = addressed;
  const signed = { type, broker, party: identity.keyId, sequence, time_s: timeS, ...fields, v: 1 };
  const command = await identity.sign(utf8(JSON.stringify(signed)), COMMAND_TYPE);
  const request = { public_key: base64(identity.publicKey), command, data_key: null, manifest: null, v: 1 };
  return utf8(JSON.stringify(request));
}

/** What JSON can hold; anything else would be signed as `null`, which is no limit at all. */
function isLimit(limit: number | null): boolean {
  return limit === null || (Number.isInteger(limit) && limit >= 0 && limit <= MAX_COUNT);
}

/** The header `mitai-query` for one path and query string. */
export async function queryHeader(
  identity: Identity,
  target: string,
  addressed: { readonly broker: string; readonly timeS: number },
): Promise<string> {
  const asked = { broker: addressed.broker, party: identity.keyId, time_s: addressed.timeS, target, v: 1 };
  const query = await identity.sign(utf8(JSON.stringify(asked)), QUERY_TYPE);
  return base64(utf8(JSON.stringify({ public_key: base64(identity.publicKey), query, v: 1 })));
}

function malformed(): MitaiError {
  return new MitaiError(
    "identity.key-malformed",
    "this file is not an Ed25519 key in PEM, as `mitai` keeps it in owner/identity.pem",
    "choose the file identity.pem from the folder owner of the home folder of mitai",
  );
}
