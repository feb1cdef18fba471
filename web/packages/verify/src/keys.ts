/**
 * Public keys and signatures of hardware vendors, over WebCrypto: ECDSA on P-256 and P-384, RSASSA-PSS.
 *
 * Follows RFC 5480 (keys on curves), RFC 8017 and RFC 4055 (RSA), RFC 3279, section 2.2.3 (ECDSA in DER).
 *
 * Invariants:
 * - A key of another kind is no key (`undefined`); a point is uncompressed and on its curve.
 * - An ECDSA signature has one encoding: r ‖ s of full length, or strict DER with positive minimal integers.
 */

import { type Bytes, concat } from "./bytes.ts";
import { Der, type Element, NULL, SEQUENCE, tagged } from "./der.ts";
import { MitaiError } from "./errors.ts";

export type Curve = "P-256" | "P-384";
export type PublicKey = EcKey | RsaKey;

export interface EcKey {
  readonly kind: "ec";
  readonly curve: Curve;
  readonly key: CryptoKey;
}

export interface RsaKey {
  readonly kind: "rsa";
  /** The length of the modulus. */
  readonly bits: number;
  readonly spki: Bytes;
}

/** An AlgorithmIdentifier. */
export interface Algorithm {
  readonly oid: string;
  readonly parameters: Element | undefined;
  readonly whole: Bytes;
}

export const ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2";
export const ECDSA_WITH_SHA384 = "1.2.840.10045.4.3.3";
export const RSASSA_PSS = "1.2.840.113549.1.1.10";
const EC_PUBLIC_KEY = "1.2.840.10045.2.1";
const RSA_ENCRYPTION = "1.2.840.113549.1.1.1";
const PKCS1 = /^1\.2\.840\.113549\.1\.1\.(?:1|5|1[1-4])$/; // RSA keys, and the signatures before PSS
const MGF1 = "1.2.840.113549.1.1.8";

const COORDINATE_BYTES = { "P-256": 32, "P-384": 48 } as const;
const HASHES = { "P-256": "SHA-256", "P-384": "SHA-384" } as const;
const CURVES = new Map<string, Curve>([
  ["1.2.840.10045.3.1.7", "P-256"],
  ["1.3.132.0.34", "P-384"],
]);
const ECDSA_HASHES = new Map([
  [ECDSA_WITH_SHA256, "SHA-256"],
  [ECDSA_WITH_SHA384, "SHA-384"],
]);
const SHA2 = new Map([
  ["2.16.840.1.101.3.4.2.1", "SHA-256"],
  ["2.16.840.1.101.3.4.2.2", "SHA-384"],
  ["2.16.840.1.101.3.4.2.3", "SHA-512"],
]);

/** Read an AlgorithmIdentifier; throw `RangeError` on malformed ones. */
export function readAlgorithm(from: Der): Algorithm {
  const algorithm = readIdentifier(from);
  if (algorithm.oid === RSASSA_PSS && algorithm.parameters) readPss(algorithm.parameters);
  return algorithm;
}

function readIdentifier(from: Der): Algorithm {
  const { whole } = from.element(SEQUENCE);
  const inner = Der.only(whole);
  const oid = inner.oid();
  const parameters = inner.has() ? inner.element() : undefined;
  inner.end();
  if ((ECDSA_HASHES.has(oid) || SHA2.has(oid) || PKCS1.test(oid)) && !isNothing(parameters)) {
    throw new RangeError("an algorithm that has no parameters has some");
  }
  return { oid, parameters, whole };
}

function isNothing(parameters: Element | undefined): boolean {
  return parameters === undefined || (parameters.tag === NULL && parameters.content.length === 0);
}

/** Read a SubjectPublicKeyInfo; a key of no known kind is `undefined`, malformed bytes throw `RangeError`. */
export async function readKey(spki: Bytes): Promise<PublicKey | undefined> {
  const outer = Der.only(spki);
  const { oid, parameters } = readAlgorithm(outer);
  const { bytes, unused } = outer.bits();
  outer.end();
  if (unused) return undefined;
  if (oid === EC_PUBLIC_KEY && parameters !== undefined) {
    const curve = parameters.tag === SEQUENCE ? undefined : CURVES.get(new Der(parameters.whole).oid());
    return curve && importPoint(bytes, curve);
  }
  return oid === RSA_ENCRYPTION && isNothing(parameters) ? rsaKey(bytes, spki) : undefined;
}

function rsaKey(der: Bytes, spki: Bytes): RsaKey | undefined {
  try {
    const body = Der.only(der);
    const modulus = body.integer();
    body.integer();
    body.end();
    if ((modulus[0] ?? 0) >= 0x80) return undefined;
    const magnitude = modulus[0] === 0 ? modulus.subarray(1) : modulus;
    return { kind: "rsa", bits: 8 * magnitude.length - (Math.clz32(magnitude[0] ?? 0) - 24), spki };
  } catch {
    return undefined;
  }
}

async function importPoint(point: Bytes, curve: Curve): Promise<EcKey | undefined> {
  if (point.length !== 1 + 2 * COORDINATE_BYTES[curve] || point[0] !== 4) return undefined;
  try {
    const kind = { name: "ECDSA", namedCurve: curve };
    return { kind: "ec", curve, key: await crypto.subtle.importKey("raw", point, kind, true, ["verify"]) };
  } catch {
    return undefined;
  }
}

/** Return the key x ‖ y; refuse points that are not on the curve. */
export async function publicKey(raw: Bytes, code: string, curve: Curve = "P-256"): Promise<EcKey> {
  const key = await importPoint(concat(Uint8Array.of(4), raw), curve);
  if (key === undefined) throw new MitaiError(code, `the attestation key is not a point of ${curve}`);
  return key;
}

/** Check an ECDSA signature given as r ‖ s, with the hash that is as long as the curve; or throw `MitaiError`. */
export async function verifySignature(
  key: EcKey,
  rawSignature: Bytes,
  message: Bytes,
  code: string,
  why: string,
): Promise<void> {
  const size = 2 * COORDINATE_BYTES[key.curve];
  if (rawSignature.length !== size) {
    throw new MitaiError(code, `${why} (a signature has ${size} bytes, not ${rawSignature.length})`);
  }
  const kind = { name: "ECDSA", hash: HASHES[key.curve] };
  if (!(await crypto.subtle.verify(kind, key.key, rawSignature, message))) throw new MitaiError(code, why);
}

/** Tell whether a signature in an X.509 structure holds. */
export async function holds(algorithm: Algorithm, key: PublicKey, signature: Bytes, message: Bytes): Promise<boolean> {
  try {
    if (key.kind === "ec") {
      const hash = ECDSA_HASHES.get(algorithm.oid);
      const raw = rawSignature(signature, COORDINATE_BYTES[key.curve]);
      return hash !== undefined && (await crypto.subtle.verify({ name: "ECDSA", hash }, key.key, raw, message));
    }
    if (algorithm.oid !== RSASSA_PSS || algorithm.parameters === undefined) return false;
    const { hash, saltLength } = pssParameters(algorithm.parameters);
    const imported = await crypto.subtle.importKey("spki", key.spki, { name: "RSA-PSS", hash }, true, ["verify"]);
    return await crypto.subtle.verify({ name: "RSA-PSS", saltLength }, imported, signature, message);
  } catch {
    return false; // malformed parameters or a malformed signature
  }
}

/** Return r ‖ s of an ECDSA signature in DER; throw `RangeError` on another encoding. */
export function rawSignature(der: Bytes, size: number): Bytes {
  const body = Der.only(der);
  const [r, s] = [unsigned(body.integer(), size), unsigned(body.integer(), size)];
  body.end();
  return concat(r, s);
}

function unsigned(integer: Bytes, size: number): Bytes {
  const digits = integer[0] === 0 ? integer.subarray(1) : integer;
  if ((integer[0] ?? 0) >= 0x80 || digits.length > size) throw new RangeError("a part of a signature is out of range");
  return concat(new Uint8Array(size - digits.length), digits);
}

/** Read RSASSA-PSS-params (RFC 4055, section 3.1), of any kind. */
function readPss(parameters: Element) {
  const body = Der.only(parameters.whole);
  const member = <T>(number: number, read: (from: Der) => T): T | undefined => {
    if (!body.has(tagged(number))) return undefined;
    const inner = body.inside(tagged(number));
    const value = read(inner);
    inner.end();
    return value;
  };
  const hash = member(0, readIdentifier);
  const mask = member(1, (inner) => {
    const generator = inner.inside();
    const found = { oid: generator.oid(), hash: readIdentifier(generator) };
    generator.end();
    return found;
  });
  const saltLength = member(2, (inner) => inner.small()) ?? 20;
  const trailer = member(3, (inner) => inner.small()) ?? 1;
  body.end();
  return { hash, mask, saltLength, trailer };
}

/** Return what WebCrypto needs: one hash for both places, and never the default SHA-1. */
function pssParameters(parameters: Element): { hash: string; saltLength: number } {
  const { hash, mask, saltLength, trailer } = readPss(parameters);
  const name = hash && SHA2.get(hash.oid);
  if (!name || mask?.oid !== MGF1 || mask.hash.oid !== hash.oid || trailer !== 1) {
    throw new RangeError("RSASSA-PSS of another kind");
  }
  return { hash: name, saltLength };
}
