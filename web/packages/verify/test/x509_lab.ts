/** Writes certificates and revocation lists, right ones and wrong ones: a small DER writer over WebCrypto. */

import { type Bytes, base64, concat, fromHex, utf8 } from "../src/bytes.ts";
import type { Curve } from "../src/keys.ts";
import { BASIC_CONSTRAINTS, COMMON_NAME, KEY_USAGE } from "../src/x509.ts";

export const NOW = new Date("2026-06-01T12:00:00Z");
const DAY_MS = 86_400_000;

export function der(tag: number, ...contents: readonly Uint8Array[]): Bytes {
  const content = concat(...contents);
  const size = content.length;
  const length = size < 0x80 ? [size] : size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff];
  return concat(Uint8Array.of(tag, ...length), content);
}

export const sequence = (...contents: readonly Uint8Array[]) => der(0x30, ...contents);
export const octets = (content: Uint8Array) => der(0x04, content);
export const bits = (content: Uint8Array, unused = 0) => der(0x03, Uint8Array.of(unused), content);
export const explicit = (number: number, content: Uint8Array) => der(0xa0 | number, content);
export const TRUE = Uint8Array.of(0x01, 0x01, 0xff);

/** A number that is not negative. */
export function integer(number: number | bigint): Bytes {
  const digits = number.toString(16);
  const even = fromHex(digits.padStart(digits.length + (digits.length % 2), "0"));
  return der(0x02, (even[0] ?? 0) >= 0x80 ? concat(new Uint8Array(1), even) : even);
}

export function oid(dotted: string): Bytes {
  const [first = 0, second = 0, ...others] = dotted.split(".").map(Number);
  const arc = (number: number): number[] =>
    number < 0x80 ? [number] : [...arc(Math.floor(number / 0x80)).map((byte) => byte | 0x80), number % 0x80];
  return der(0x06, Uint8Array.from([40 * first + second, ...others].flatMap(arc)));
}

export function time(date: Date): Bytes {
  const digits = date.toISOString().replace(/\.\d+|[-:T]/g, "");
  return date.getUTCFullYear() < 2050 ? der(0x17, utf8(digits.slice(2))) : der(0x18, utf8(digits));
}

export function name(commonName: string): Bytes {
  return sequence(der(0x31, sequence(oid(COMMON_NAME), der(0x0c, utf8(commonName)))));
}

export function extension(id: string, value: Uint8Array, critical = false): Bytes {
  return sequence(oid(id), ...(critical ? [TRUE] : []), octets(value));
}

/** A CA with this path length, or a leaf. */
export function roles(pathLength?: number): Bytes[] {
  const ca = pathLength !== undefined;
  return [
    extension(KEY_USAGE, ca ? bits(Uint8Array.of(0x06), 1) : bits(Uint8Array.of(0xc0), 6), true),
    extension(BASIC_CONSTRAINTS, ca ? sequence(TRUE, integer(pathLength)) : sequence(), true),
  ];
}

/** Whoever has a key: of a certificate, of a revocation list. */
export interface Party {
  readonly name: string;
  readonly curve: Curve;
  readonly key: CryptoKey;
  readonly spki: Bytes;
}

export async function party(commonName: string, curve: Curve = "P-256"): Promise<Party> {
  const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: curve }, true, ["sign", "verify"]);
  const spki = new Uint8Array(await crypto.subtle.exportKey("spki", pair.publicKey));
  return { name: commonName, curve, key: pair.privateKey, spki };
}

/** Sign with the hash that is as long as the curve; return r ‖ s. */
export async function sign({ key, curve }: Party, message: Bytes): Promise<Bytes> {
  const hash = curve === "P-256" ? "SHA-256" : "SHA-384";
  return new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash }, key, message));
}

export function algorithm({ curve }: Party): Bytes {
  return sequence(oid(curve === "P-256" ? "1.2.840.10045.4.3.2" : "1.2.840.10045.4.3.3"));
}

/** The DER form of r ‖ s. */
export function signatureValue(raw: Bytes): Bytes {
  const half = raw.length / 2;
  const number = (digits: Bytes) => integer(digits.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n));
  return sequence(number(raw.subarray(0, half)), number(raw.subarray(half)));
}

/** Sign the parts of a certificate or revocation list. */
export async function signed(parts: readonly Uint8Array[], signer: Party, outer = algorithm(signer)): Promise<Bytes> {
  const body = sequence(...parts);
  return sequence(body, outer, bits(signatureValue(await sign(signer, body))));
}

export interface Parts {
  readonly version?: Bytes;
  readonly serial?: Bytes;
  readonly algorithm?: Bytes;
  readonly issuer?: Bytes;
  readonly validity?: Bytes;
  readonly subject?: Bytes;
  readonly spki?: Bytes;
  readonly extensions?: readonly Bytes[];
  /** What follows the extensions: nothing may. */
  readonly more?: Bytes;
  /** The algorithm beside the signature. */
  readonly outer?: Bytes;
}

/** Issue a certificate: a right one, but for the parts that are given. */
export function certificate(subject: Party, issuer: Party, parts: Parts = {}): Promise<Bytes> {
  const list = parts.extensions ?? roles();
  const fields = [
    parts.version ?? explicit(0, integer(2)),
    parts.serial ?? integer(0x1234),
    parts.algorithm ?? algorithm(issuer),
    parts.issuer ?? name(issuer.name),
    parts.validity ?? validity(-1, 3650),
    parts.subject ?? name(subject.name),
    parts.spki ?? subject.spki,
    ...(list.length ? [explicit(3, sequence(...list))] : []),
    parts.more ?? new Uint8Array(),
  ];
  return signed(fields, issuer, parts.outer);
}

/** From and until so many days after `NOW`. */
export function validity(from: number, until: number): Bytes {
  return sequence(time(days(from)), time(days(until)));
}

export function days(number: number): Date {
  return new Date(NOW.getTime() + number * DAY_MS);
}

export interface ListParts {
  readonly version?: Bytes;
  readonly algorithm?: Bytes;
  readonly issuer?: Bytes;
  readonly times?: readonly Bytes[];
  readonly revoked?: readonly Bytes[];
  readonly extensions?: readonly Bytes[];
  readonly more?: Bytes;
  readonly outer?: Bytes;
}

/** Issue a revocation list: a right one, but for the parts that are given. */
export function revocationList(issuer: Party, parts: ListParts = {}): Promise<Bytes> {
  const fields = [
    parts.version ?? integer(1),
    parts.algorithm ?? algorithm(issuer),
    parts.issuer ?? name(issuer.name),
    ...(parts.times ?? [time(days(-1)), time(days(30))]),
    ...(parts.revoked?.length ? [sequence(...parts.revoked)] : []),
    ...(parts.extensions?.length ? [explicit(0, sequence(...parts.extensions))] : []),
    parts.more ?? new Uint8Array(),
  ];
  return signed(fields, issuer, parts.outer);
}

/** An entry of a revocation list. */
export function revoked(serial: Bytes): Bytes {
  return sequence(serial, time(days(-1)));
}

export function pem(...certificates: readonly Bytes[]): string {
  const lines = (encoded: Bytes) => base64(encoded).replace(/.{64}(?!$)/g, "$&\n");
  return certificates
    .map((encoded) => `-----BEGIN CERTIFICATE-----\n${lines(encoded)}\n-----END CERTIFICATE-----\n`)
    .join("");
}
