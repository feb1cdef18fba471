/**
 * Certificate chains and revocation lists of hardware vendors, walked step by step against one given root.
 *
 * Port of `mitai/attest/x509.py`. Follows RFC 5280, section 6, for what these chains use: a fixed order, leaf first,
 * each the issuer of the one before. What differs between vendors (curves, signatures, critical extensions) is a
 * `Profile`.
 *
 * Invariants:
 * - The root is trusted because it is byte for byte the one that the caller gave (by SHA-256), never because of its
 *   name.
 * - Every certificate: a key and a signature of its profile, inside its validity, no unknown critical extension; an
 *   issuer has CA, keyCertSign and a sufficient path length.
 * - PEM and DER are read strictly: one value has one encoding, and nothing is before, between or after them.
 *
 * Example: `const chain = await parseChain(pem, "attest.pck-chain-invalid"); await verifyChain(chain, "pck", now);`
 */

import { type Bytes, equal, fromBase64, hex, sha256, text } from "./bytes.ts";
import { refusing } from "./checks.ts";
import { Der, GENERALIZED_TIME, OCTET_STRING, PRINTABLE_STRING, SEQUENCE, SET, tagged, UTC_TIME } from "./der.ts";
import { MitaiError } from "./errors.ts";
import {
  type Algorithm,
  type Curve,
  ECDSA_WITH_SHA256,
  ECDSA_WITH_SHA384,
  type EcKey,
  holds,
  type PublicKey,
  readAlgorithm,
  readKey,
} from "./keys.ts";
import { show, within } from "./time.ts";

export const MAX_PEM_BYTES = 64 << 10;
export const COMMON_NAME = "2.5.4.3";
export const ORGANIZATION_NAME = "2.5.4.10";
export const KEY_USAGE = "2.5.29.15";
export const BASIC_CONSTRAINTS = "2.5.29.19";
const SUBJECT_KEY_IDENTIFIER = "2.5.29.14";
const CRL_NUMBER = "2.5.29.20";
const CRL_DISTRIBUTION_POINTS = "2.5.29.31";
const AUTHORITY_KEY_IDENTIFIER = "2.5.29.35";
const PEM =
  /-----BEGIN CERTIFICATE-----\r?\n((?:[A-Za-z0-9+/=]{1,76}\r?\n){1,200})-----END CERTIFICATE-----(?:\r?\n)?/y;

/** What the certificates of one kind of chain look like. */
export interface Profile {
  /** Signature algorithms, by object identifier. */
  readonly signatures: readonly string[];
  readonly curves: readonly Curve[];
  /** 0: no RSA keys. */
  readonly minRsaBits: number;
  /** Extensions that may be critical. */
  readonly critical: readonly string[];
  /** An issuer without keyUsage may issue (RFC 5280, section 6.1.4 n). */
  readonly usageOptional: boolean;
}

export const P256: Profile = {
  signatures: [ECDSA_WITH_SHA256],
  curves: ["P-256"],
  minRsaBits: 0,
  critical: [KEY_USAGE, BASIC_CONSTRAINTS],
  usageOptional: false,
};
export const P384: Profile = { ...P256, signatures: [ECDSA_WITH_SHA384], curves: ["P-384"] };

export interface Extension {
  readonly oid: string;
  readonly critical: boolean;
  readonly value: Bytes;
}

/** A parsed certificate together with its exact bytes. */
export interface Certificate {
  readonly der: Bytes;
  /** SHA-256 over the DER, in hex. */
  readonly fingerprint: string;
  /** The part that is signed. */
  readonly signed: Bytes;
  /** The serial number's minimal two's complement, in hex. */
  readonly serial: string;
  readonly issuer: Name;
  readonly subject: Name;
  /** The subject's common name, for checks of role and for messages; nothing where there is not one. */
  readonly commonName: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly spki: Bytes;
  /** Of a kind that vendors use, or nothing. */
  readonly key: PublicKey | undefined;
  readonly extensions: readonly Extension[];
  readonly algorithm: Algorithm;
  /** Whether the signed part names the same algorithm. */
  readonly algorithmSigned: boolean;
  readonly signature: Bytes;
}

/** A distinguished name: its exact bytes, and its attributes where all of them can be read. */
export interface Name {
  readonly der: Bytes;
  readonly attributes: readonly { readonly oid: string; readonly value: string }[] | undefined;
}

/** Return the one attribute of this type; nothing where there is none or more. */
export function attributeOf(name: Name, oid: string): string {
  const found = name.attributes?.filter((attribute) => attribute.oid === oid);
  return found?.length === 1 ? (found[0]?.value ?? "") : "";
}

/** Return an extension's value; ask after `verifyChain`, which refuses an extension that is there twice. */
export function extensionOf(certificate: Certificate, oid: string): Bytes | undefined {
  return certificate.extensions.find((extension) => extension.oid === oid)?.value;
}

/** Return the public key of a certificate whose profile has elliptic curves only. */
export function ecKey(certificate: Certificate): EcKey {
  if (certificate.key?.kind !== "ec") {
    throw new MitaiError(
      "attest.certificate-key-unsupported",
      `the key of ${quoted(certificate)} is not on a known curve`,
    );
  }
  return certificate.key;
}

/** Parse concatenated PEM certificates, leaf first; one NUL behind a newline may end them, as Intel's quotes do. */
export async function parseChain(pem: Bytes, code: string): Promise<readonly Certificate[]> {
  if (pem.length > MAX_PEM_BYTES) {
    throw new MitaiError(code, `a certificate chain of ${pem.length} bytes is above the limit`);
  }
  const ended = pem.at(-1) === 0 && pem.at(-2) === 0x0a ? pem.subarray(0, -1) : pem;
  const whole = ascii(ended);
  const certificates: Certificate[] = [];
  for (let offset = 0; offset < whole.length; ) {
    PEM.lastIndex = offset;
    const block = PEM.exec(whole);
    if (block?.[1] === undefined) {
      throw new MitaiError(code, "the certificate chain holds something that is not a PEM certificate");
    }
    offset = PEM.lastIndex;
    const encoded = block[1].replace(/\r?\n/g, "");
    certificates.push(
      await parseDer(
        refusing(code, MALFORMED, () => fromBase64(encoded)),
        code,
      ),
    );
  }
  return certificates;
}

/** One character each byte; those above ASCII are none that anything here looks for. */
function ascii(data: Bytes): string {
  return new TextDecoder("latin1").decode(data);
}

const MALFORMED = "a certificate of the chain is malformed";

/** Parse one DER certificate, to its last byte. */
export async function parseDer(der: Bytes, code: string): Promise<Certificate> {
  if (der.length > MAX_PEM_BYTES) throw new MitaiError(code, `a certificate of ${der.length} bytes is above the limit`);
  const read = refusing(code, MALFORMED, () => readCertificate(der));
  if (read.notBefore > read.notAfter) {
    throw new MitaiError(code, "a certificate of the chain ends before it begins");
  }
  const key = await readKey(read.spki).catch(() => {
    throw new MitaiError(code, MALFORMED);
  });
  return Object.freeze({ ...read, key, fingerprint: hex(await sha256(der)) });
}

function readCertificate(der: Bytes): Omit<Certificate, "fingerprint" | "key"> {
  const outer = Der.only(der);
  const { whole: signed } = outer.element(SEQUENCE);
  const { algorithm, signature } = readSignature(outer);
  const body = Der.only(signed);
  if (body.has(tagged(0))) {
    const version = body.inside(tagged(0));
    if (version.small() !== 2) throw new RangeError("not version 3, or version 1 spelled out");
    version.end();
  }
  const serial = hex(body.integer());
  if (/^[89a-f]/.test(serial)) throw new RangeError("a serial number below 0"); // AMD's are 0
  const algorithmSigned = equal(readAlgorithm(body).whole, algorithm.whole);
  const issuer = readName(body);
  const validity = body.inside();
  const [notBefore, notAfter] = [validity.time(), validity.time()];
  validity.end();
  const subject = readName(body);
  const { whole: spki } = body.element(SEQUENCE);
  for (const uniqueId of [0x81, 0x82]) if (body.has(uniqueId)) body.element();
  const extensions = body.has(tagged(3)) ? readExtensions(body.inside(tagged(3))) : [];
  body.end();
  const commonName = attributeOf(subject, COMMON_NAME).slice(0, 64);
  return {
    der,
    signed,
    serial,
    issuer,
    subject,
    commonName,
    notBefore,
    notAfter,
    spki,
    extensions,
    algorithm,
    algorithmSigned,
    signature,
  };
}

/** Read what follows the signed part of a certificate or revocation list. */
function readSignature(outer: Der): { algorithm: Algorithm; signature: Bytes } {
  const algorithm = readAlgorithm(outer);
  const { bytes: signature, unused } = outer.bits();
  outer.end();
  if (unused) throw new RangeError("the signature is not whole bytes");
  return { algorithm, signature };
}

// OCTET STRING, UTF8String, NumericString, PrintableString, TeletexString, IA5String, times, VisibleString: read as UTF-8
const TEXTS = [OCTET_STRING, 0x0c, 0x12, PRINTABLE_STRING, 0x14, 0x16, 0x17, 0x18, 0x1a];
const UNIVERSAL_STRING = 0x1c;
const BMP_STRING = 0x1e; // known, and in no name that counts

function readName(from: Der): Name {
  const { whole: der } = from.element(SEQUENCE);
  const attributes: { oid: string; value: string }[] = [];
  let readable = true;
  for (const names = Der.only(der); names.has(); ) {
    const single = names.inside(SET);
    const pair = single.inside();
    single.end(); // none of these vendors has names of several parts
    const oid = pair.oid();
    const { tag, content } = pair.element();
    pair.end();
    if (tag === PRINTABLE_STRING && !/^[A-Za-z0-9 '()+,\-./:=?]*$/.test(ascii(content))) {
      throw new RangeError("not printable");
    }
    if (tag === UNIVERSAL_STRING) throw new RangeError("characters of four bytes");
    try {
      if (!TEXTS.includes(tag) && tag !== BMP_STRING) throw new RangeError("no text");
      attributes.push({ oid, value: TEXTS.includes(tag) ? text(content) : "" });
    } catch {
      readable = false;
    }
  }
  return { der, attributes: readable ? attributes : undefined };
}

/** Read the list inside an explicit tag. */
function readExtensions(from: Der): Extension[] {
  const extensions: Extension[] = [];
  const list = from.inside();
  from.end();
  while (list.has()) {
    const extension = list.inside();
    extensions.push({
      oid: extension.oid(),
      critical: extension.flag(),
      value: extension.element(OCTET_STRING).content,
    });
    extension.end();
  }
  return extensions;
}

/** The subject's name as a message shows it: whoever made the certificate chose its letters. */
export function quoted(certificate: Certificate): string {
  return JSON.stringify(certificate.commonName);
}

/**
 * Check signatures, roles and validity from leaf to root; whether the root is trusted is the caller's decision.
 *
 * `what` is the chain's name in error codes (`pck`, `tcb-info`, …); `below` says how many certificates the whole chain
 * has before these, for path lengths.
 */
export async function verifyChain(
  chain: readonly Certificate[],
  what: string,
  now: Date,
  profile: Profile = P256,
  below = 0,
): Promise<void> {
  const code = `attest.${what}-chain-invalid`;
  for (const certificate of chain) checkUsable(certificate, what, now, profile);
  for (const [at, issuer] of chain.entries()) {
    const child = chain[at - 1];
    if (child === undefined) continue;
    checkMayIssue(issuer, below + at - 1, code, profile);
    const signed =
      child.algorithmSigned &&
      equal(child.issuer.der, issuer.subject.der) &&
      issuer.key !== undefined &&
      (await holds(child.algorithm, issuer.key, child.signature, child.signed));
    if (!signed) throw new MitaiError(code, `${quoted(child)} is not signed by ${quoted(issuer)}`);
  }
}

function checkUsable(certificate: Certificate, what: string, now: Date, profile: Profile): void {
  const code = `attest.${what}-chain-invalid`;
  const { notBefore, notAfter } = certificate;
  if (!within(notBefore, now, notAfter)) {
    throw new MitaiError(
      `attest.${what}-chain-expired`,
      `the certificate ${quoted(certificate)} is valid from ${show(notBefore)} to ${show(notAfter)} UTC, not on ${show(now)}`,
    );
  }
  if (!accepts(profile, certificate.key)) {
    throw new MitaiError(
      "attest.certificate-key-unsupported",
      `the key of ${quoted(certificate)} is of another kind than expected`,
    );
  }
  if (!profile.signatures.includes(certificate.algorithm.oid)) {
    throw new MitaiError(code, `${quoted(certificate)} is signed with an algorithm of another kind`);
  }
  if (new Set(certificate.extensions.map(({ oid }) => oid)).size !== certificate.extensions.length) {
    throw new MitaiError(code, `${quoted(certificate)} has an extension twice`);
  }
  readRole(certificate, code);
  refusing(code, "a certificate has malformed extensions", () => certificate.extensions.forEach(checkExtension));
  if (certificate.extensions.some(({ critical, oid }) => critical && !profile.critical.includes(oid))) {
    throw new MitaiError(code, `${quoted(certificate)} has an unknown critical extension`);
  }
}

function accepts(profile: Profile, key: PublicKey | undefined): boolean {
  if (key?.kind === "rsa") return profile.minRsaBits > 0 && key.bits >= profile.minRsaBits;
  return key !== undefined && profile.curves.includes(key.curve);
}

/** What a certificate says that its key is for; `undefined` where it does not say. */
export interface Role {
  readonly ca: boolean | undefined;
  readonly pathLength: number | undefined;
  readonly digitalSignature: boolean | undefined;
  readonly keyCertSign: boolean | undefined;
}

/** Read basicConstraints and keyUsage (RFC 5280, sections 4.2.1.9 and 4.2.1.3). */
export function readRole(certificate: Certificate, code: string): Role {
  return refusing(code, "a certificate has malformed extensions", () => {
    const constraints = extensionOf(certificate, BASIC_CONSTRAINTS);
    const basic = constraints && Der.only(constraints);
    const ca = basic?.flag();
    const pathLength = basic?.has() ? basic.small() : undefined;
    basic?.end();
    const usage = extensionOf(certificate, KEY_USAGE);
    const outer = usage && new Der(usage);
    const bits = outer?.bits().bytes;
    outer?.end();
    const first = bits && (bits[0] ?? 0); // bit 0 is the highest
    return {
      ca,
      pathLength,
      digitalSignature: first === undefined ? undefined : (first & 0x80) !== 0,
      keyCertSign: first === undefined ? undefined : (first & 0x04) !== 0,
    };
  });
}

function checkMayIssue(issuer: Certificate, below: number, code: string, profile: Profile): void {
  const { ca, pathLength, keyCertSign } = readRole(issuer, code);
  if (ca === undefined) throw new MitaiError(code, `${quoted(issuer)} does not say that it is a CA`);
  const tooDeep = pathLength !== undefined && below > pathLength;
  if (!ca || tooDeep || !(keyCertSign ?? profile.usageOptional)) {
    throw new MitaiError(code, `${quoted(issuer)} may not issue this certificate`);
  }
}

/** A verified CRL. */
export class RevocationList {
  constructor(
    readonly issuerFingerprint: string,
    readonly notBefore: Date,
    readonly notAfter: Date,
    private readonly serials: ReadonlySet<string>,
  ) {}

  /** Throw `MitaiError(code)` when the certificate is on the list. */
  refuseRevoked(certificate: Certificate, code: string): void {
    if (this.serials.has(certificate.serial)) {
      throw new MitaiError(code, `the certificate ${quoted(certificate)} has been revoked`);
    }
  }
}

/** Parse a CRL and check that `issuer` signed it; the caller checks its window (`what`: `root-crl`, `pck-crl` …). */
export async function verifyCrl(
  der: Bytes,
  issuer: Certificate,
  what: string,
  profile: Profile = P256,
): Promise<RevocationList> {
  const malformed = `attest.${what}-malformed`;
  const list = refusing(malformed, "the certificate revocation list is malformed", () => readList(der));
  const { algorithm } = list;
  const valid =
    equal(list.issuer.der, issuer.subject.der) &&
    profile.signatures.includes(algorithm.oid) &&
    issuer.key !== undefined &&
    (await holds(algorithm, issuer.key, list.signature, list.signed));
  if (!valid) {
    throw new MitaiError(`attest.${what}-signature-invalid`, `the revocation list is not signed by ${quoted(issuer)}`);
  }
  if (list.notAfter === undefined || list.extensions.some(({ critical }) => critical)) {
    throw new MitaiError(malformed, "the revocation list has no end, or an unknown critical extension");
  }
  return new RevocationList(issuer.fingerprint, list.notBefore, list.notAfter, list.serials);
}

function readList(der: Bytes) {
  const outer = Der.only(der);
  const { whole: signed } = outer.element(SEQUENCE);
  const { algorithm, signature } = readSignature(outer);
  const body = Der.only(signed);
  if (body.small() !== 1) throw new RangeError("not version 2");
  if (!equal(readAlgorithm(body).whole, algorithm.whole)) throw new RangeError("it names two algorithms");
  const issuer = readName(body);
  if (issuer.attributes === undefined) throw new RangeError("its issuer can't be read");
  const notBefore = body.time();
  const notAfter = body.has(UTC_TIME) || body.has(GENERALIZED_TIME) ? body.time() : undefined;
  const serials = new Set<string>();
  if (body.has(SEQUENCE)) {
    for (const entries = body.inside(); entries.has(); ) {
      const entry = entries.inside();
      serials.add(hex(entry.integer()));
      entry.time();
      if (entry.has()) readExtensions(entry);
      entry.end();
    }
  }
  const extensions = body.has(tagged(0)) ? readExtensions(body.inside(tagged(0))) : [];
  body.end();
  if (new Set(extensions.map(({ oid }) => oid)).size !== extensions.length) throw new RangeError("twice");
  extensions.forEach(checkExtension);
  return { signed, algorithm, signature, issuer, notBefore, notAfter, serials, extensions };
}

/**
 * Throw `RangeError` when a key identifier, distribution points or a list's number (RFC 5280, sections 4.2.1.1, 4.2.1.2,
 * 4.2.1.13 and 5.2.3) are malformed. Nothing is taken from them.
 */
function checkExtension({ oid, value }: Extension): void {
  if (oid === SUBJECT_KEY_IDENTIFIER) Der.only(value, OCTET_STRING);
  if (oid === CRL_DISTRIBUTION_POINTS) for (const points = Der.only(value); points.has(); ) points.inside();
  if (oid === CRL_NUMBER) {
    const number = new Der(value);
    if ((number.integer()[0] ?? 0) >= 0x80) throw new RangeError("a negative number");
    number.end();
  }
  if (oid === AUTHORITY_KEY_IDENTIFIER) {
    const identifier = Der.only(value);
    for (const tag of [0x80, 0xa1, 0x82]) if (identifier.has(tag)) identifier.element();
    identifier.end();
  }
}
