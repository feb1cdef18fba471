/**
 * The endorsement of a report's key: VCEK or VLEK, the chain to AMD's root, the root's revocation list.
 *
 * Follows "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230), sections 2 and 3.
 *
 * - Everything is signed by AMD, below a root that is pinned for one product; where it came from does not matter.
 * - A certificate is taken for the kind of key that its name and its issuer's name say, and must say what that kind has
 *   to: a VCEK its chip, a VLEK its cloud, each its product and every component of the TCB that it was derived from.
 * - AMD gives every VCEK and VLEK the serial number 0, so revocation can only reach the signing keys above them.
 */
import { type Bytes, equal, text, utf8 } from "../bytes.ts";
import type { Verified, VerifiedCache } from "../cache.ts";
import { MitaiError } from "../errors.ts";
import { earliest, latest, show, within } from "../time.ts";
import {
  attributeOf,
  type Certificate,
  ORGANIZATION_NAME,
  parseChain,
  parseDer,
  type RevocationList,
  verifyChain,
  verifyCrl,
} from "../x509.ts";
import { type Component, type Product, parseCertificateTable, type SigningKey, TCB_LAYOUTS } from "./report.ts";
import { productOfRoot, published, type Trust } from "./roots.ts";

const ENDORSEMENTS = ["vek", "chain", "crl", "certs"];
const GUIDS = {
  vcek: "63da758d-e664-4564-adc5-f4b93be8accd",
  vlek: "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
  ask: "4ab7b379-bbac-4fe4-a02f-05aef327c782",
  ark: "c0b406a4-a803-4952-9743-3fb6014cd0ae",
  crl: "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
};
const ORGANIZATION = "Advanced Micro Devices";
const MALFORMED = "attest.snp-vek-malformed";
const CHAIN_MALFORMED = "attest.snp-chain-malformed";
const OID = "1.3.6.1.4.1.3704.1.";
const [STRUCTURE_VERSION, PRODUCT_NAME, HARDWARE_ID, CSP_ID] = ["1", "2", "4", "5"] as const;
const SPL: Readonly<Record<Component, string>> = {
  bootloader: "3.1",
  tee: "3.2",
  snp: "3.3",
  microcode: "3.8",
  fmc: "3.9",
};
const CHIP_ID_BYTES: Readonly<Record<Product, number>> = { Milan: 64, Genoa: 64, Turin: 8 };
const STRUCTURE: Readonly<Record<Product, number>> = { Milan: 0, Genoa: 0, Turin: 1 };
const OTHER_NAMES: ReadonlyMap<string, Product> = new Map([
  ["Bergamo", "Genoa"],
  ["Siena", "Genoa"],
]);

/** What AMD says of the key that signs reports. */
export interface Vek {
  readonly certificate: Certificate;
  readonly kind: SigningKey;
  readonly product: Product;
  readonly tcb: Bytes; // TCB_VERSION that the key was derived from
  readonly chipId: Bytes | undefined; // of a VCEK
  readonly cspId: string | undefined; // of a VLEK: whom AMD made it for
}

/** A verified endorsement. */
export interface Endorsed {
  readonly vek: Vek;
  readonly crl: RevocationList | undefined;
}

/**
 * Verify a VCEK or VLEK up to a trusted root, and the root's revocation list where there is one.
 *
 * `endorsements` are `vek` (DER or PEM), `chain` (PEM: ASK or ASVK, ARK), `crl` (DER); or `certs`, the table of an
 * extended report, for any of them. Without a chain AMD's published one is taken. `signingKey` is the one that the
 * report names.
 */
export async function verifyEndorsements(
  endorsements: ReadonlyMap<string, Bytes>,
  signingKey: SigningKey,
  now: Date,
  trust: Trust,
  cache?: VerifiedCache,
): Promise<Verified<Endorsed>> {
  const given = collect(endorsements, signingKey);
  const make = () => verify(given, signingKey, now, trust);
  if (!cache) return make();
  const trusted = utf8(JSON.stringify([[...trust.roots].sort(), trust.profile]));
  const inputs = [given.vek, ...given.chain, given.crl ?? new Uint8Array(), trusted];
  return cache.get(`snp ${signingKey}`, inputs, now, make);
}

/** Endorsements as they came; certificates in DER or PEM, as clouds and hosts hand out either. */
interface Given {
  readonly vek: Bytes;
  readonly chain: readonly Bytes[]; // ASK or ASVK, ARK, in one or two pieces; or nothing
  readonly crl: Bytes | undefined;
}

/** Pick the endorsements that a report signed by this key needs; those by name before those in the table. */
function collect(endorsements: ReadonlyMap<string, Bytes>, signingKey: SigningKey): Given {
  const unknown = [...endorsements.keys()].find((name) => !ENDORSEMENTS.includes(name));
  if (unknown !== undefined) {
    const why = `an SEV-SNP endorsement "${unknown.slice(0, 32)}" is unknown`;
    throw new MitaiError("attest.snp-endorsement-unknown", why);
  }
  const table = endorsements.get("certs");
  const found = table ? parseCertificateTable(table) : new Map<string, Bytes>();
  const named = (name: string) => (endorsements.get(name)?.length ? endorsements.get(name) : undefined);
  const vek = named("vek") ?? found.get(GUIDS[signingKey]);
  if (!vek?.length) {
    throw new MitaiError(
      "attest.snp-vek-missing",
      `no ${signingKey.toUpperCase()} certificate came with the report`,
      "fetch it from AMD's key distribution service for this chip and reported TCB, or from the cloud",
    );
  }
  const chain = [endorsements.get("chain") ?? [found.get(GUIDS.ask), found.get(GUIDS.ark)]].flat();
  return { vek, chain: chain.filter((piece) => piece !== undefined), crl: named("crl") ?? found.get(GUIDS.crl) };
}

async function certificates(code: string, ...blobs: readonly Bytes[]): Promise<readonly Certificate[]> {
  const begin = utf8("-----BEGIN");
  const isPem = (blob: Bytes) => equal(blob.subarray(0, begin.length), begin);
  const parsed: Certificate[] = [];
  for (const blob of blobs) parsed.push(...(isPem(blob) ? await parseChain(blob, code) : [await parseDer(blob, code)]));
  return parsed;
}

async function verify(given: Given, signingKey: SigningKey, now: Date, trust: Trust): Promise<Verified<Endorsed>> {
  let chain = [...(await certificates(MALFORMED, given.vek)), ...(await certificates(CHAIN_MALFORMED, ...given.chain))];
  if (chain[0] && chain.length === 1) chain = [chain[0], ...(await publishedIssuers(chain[0]))];
  const [leaf, signer, root] = chain;
  if (!leaf || !signer || !root || chain.length !== 3) {
    throw new MitaiError(CHAIN_MALFORMED, "the chain is not three certificates: VCEK or VLEK, ASK or ASVK, ARK");
  }
  const product = productOfRoot(trust, root);
  await verifyChain(chain, "snp", now, trust.profile);
  checkRoles([leaf, signer, root], product, signingKey);
  const crl = given.crl && (await verifyList(given.crl, [signer, root], now, trust));
  const windows = crl ? [...chain, crl] : chain;
  return {
    value: { vek: read(leaf, signingKey, product), crl },
    notBefore: latest(...windows.map((window) => window.notBefore)),
    notAfter: earliest(...windows.map((window) => window.notAfter)),
  };
}

async function verifyList(
  der: Bytes,
  [signer, root]: readonly [Certificate, Certificate],
  now: Date,
  trust: Trust,
): Promise<RevocationList> {
  const crl = await verifyCrl(der, root, "snp-crl", trust.profile);
  if (!within(crl.notBefore, now, crl.notAfter)) {
    const window = `from ${show(crl.notBefore)} to ${show(crl.notAfter)} UTC, not on ${show(now)}`;
    throw new MitaiError("attest.snp-crl-expired", `the revocation list is valid ${window}`);
  }
  for (const certificate of [signer, root]) crl.refuseRevoked(certificate, "attest.snp-intermediate-revoked");
  return crl;
}

/** Return AMD's own ASK or ASVK, and ARK, by the name that the leaf gives its issuer. */
async function publishedIssuers(leaf: Certificate): Promise<readonly Certificate[]> {
  if (!leaf.issuer.attributes) throw new MitaiError(MALFORMED, "the key's certificate has a malformed issuer");
  const named = JSON.stringify(leaf.issuer.attributes);
  const known = await published();
  const signer = known.find(({ subject }) => JSON.stringify(subject.attributes) === named);
  const root = known.find(({ commonName }) => commonName === `ARK-${signer?.commonName.split("-").at(-1)}`);
  if (!signer || !root) {
    throw new MitaiError("attest.snp-root-untrusted", "no key of AMD's is named as the issuer of the report's key");
  }
  return [signer, root];
}

/** Check that each certificate of the chain is what its place demands, by the names that AMD gives. */
function checkRoles(chain: readonly Certificate[], product: Product, signingKey: SigningKey): void {
  const issuer = signingKey === "vcek" ? `SEV-${product}` : `SEV-VLEK-${product}`;
  const expected = [`SEV-${signingKey.toUpperCase()}`, issuer, `ARK-${product}`];
  for (const [at, { commonName, subject }] of chain.entries()) {
    if (commonName !== expected[at] || attributeOf(subject, ORGANIZATION_NAME) !== ORGANIZATION) {
      const why = `the certificate "${commonName}" stands where "${expected[at]}" of AMD's is expected`;
      throw new MitaiError("attest.snp-role-mismatch", why);
    }
  }
}

/** Read AMD's extensions; the chain has been verified, so they are AMD's words. */
function read(leaf: Certificate, kind: SigningKey, product: Product): Vek {
  const amd = leaf.extensions.filter(({ oid }) => oid.startsWith(OID));
  const found: Extensions = new Map(amd.map(({ oid, value }) => [oid.slice(OID.length), value]));
  const [name = ""] = readText(found, PRODUCT_NAME).split("-"); // with the stepping behind a dash: `Milan-B0`
  if ((OTHER_NAMES.get(name) ?? name) !== product) {
    const why = `the key is for "${name.slice(0, 32)}", its root for ${product}`;
    throw new MitaiError("attest.snp-product-mismatch", why);
  }
  if (readInteger(found, STRUCTURE_VERSION) !== STRUCTURE[product]) {
    throw new MitaiError(MALFORMED, `the key's certificate is of another structure than ${product} has`);
  }
  const isVcek = kind === "vcek";
  const hardwareId = found.get(HARDWARE_ID);
  if ((hardwareId !== undefined) !== isVcek || found.has(CSP_ID) === isVcek) {
    const why = "a VCEK names its chip and a VLEK its cloud; this one does not";
    throw new MitaiError("attest.snp-vek-identity-missing", why);
  }
  return {
    certificate: leaf,
    kind,
    product,
    tcb: Uint8Array.from(TCB_LAYOUTS[product], (part) => (part ? readInteger(found, SPL[part]) : 0)),
    chipId: hardwareId && readChipId(hardwareId, CHIP_ID_BYTES[product]),
    cspId: isVcek ? undefined : readText(found, CSP_ID),
  };
}

type Extensions = ReadonlyMap<string, Bytes>;

/** Return a DER INTEGER from 0 to 255. */
function readInteger(found: Extensions, oid: string): number {
  const value = found.get(oid);
  const number = value?.at(-1) ?? 0;
  if (!value || !equal(value, Uint8Array.from(number & 0x80 ? [2, 2, 0, number] : [2, 1, number]))) {
    throw new MitaiError(MALFORMED, `extension ${OID}${oid} of the key's certificate is not a number below 256`);
  }
  return number;
}

/** Return a DER IA5String. */
function readText(found: Extensions, oid: string): string {
  const value = found.get(oid);
  const size = (value?.length ?? 0) - 2;
  if (
    !value ||
    size < 0 ||
    size >= 0x80 ||
    value[0] !== 0x16 ||
    value[1] !== size ||
    value.some((byte) => byte > 0x7f)
  ) {
    throw new MitaiError(MALFORMED, `extension ${OID}${oid} of the key's certificate is not a short text`);
  }
  return text(value.subarray(2));
}

/** Return the chip's id: bare in certificates of older date, a DER OCTET STRING in newer ones. */
function readChipId(value: Bytes, size: number): Bytes {
  const bare = value.length === size + 2 && value[0] === 4 && value[1] === size ? value.subarray(2) : value;
  if (bare.length !== size) {
    throw new MitaiError(MALFORMED, `the chip id in the key's certificate does not have ${size} bytes`);
  }
  return bare;
}
