/**
 * The attestation report that AMD's secure processor signs.
 *
 * Follows "SEV Secure Nested Paging Firmware ABI Specification" (56860), revisions 1.51 to 1.58: ATTESTATION_REPORT
 * (section 7.3), guest policy (4.3), PLATFORM_INFO and TCB_VERSION (2.2), and "Guest-Hypervisor Communication Block
 * Standardization" (56421), section 4.1.8, for the table of certificates beside the report.
 *
 * - Exactly 1184 bytes, a version from 2 to 5, every reserved byte and bit as the specification demands it; but for
 *   PLATFORM_INFO, where firmware reports new features without a new version, and which the verifier's rules judge.
 * - A report that no VCEK or VLEK signed, or that the host asked for instead of the guest, is refused here.
 */
import { type Bytes, concat, hex } from "../bytes.ts";
import { MitaiError } from "../errors.ts";

export const REPORT_BYTES = 1184;
const SIGNED_BYTES = 0x2a0;
const MAX_TABLE_BYTES = 64 << 10;
const ENTRY_BYTES = 24; // of that table: GUID, offset, size
const ECDSA_P384_SHA384 = 1;
const GUEST_VMPLS = 4;
const MALFORMED = "attest.snp-report-malformed";

export type SigningKey = "vcek" | "vlek";
export type Product = "Milan" | "Genoa" | "Turin";
export type Component = "fmc" | "bootloader" | "tee" | "snp" | "microcode";

export const SIGNING_KEYS: readonly SigningKey[] = ["vcek", "vlek"]; // by their selector in the report
export const POLICY_BITS: ReadonlyMap<string, number> = new Map([
  ["smt", 16],
  ["migrate-ma", 18],
  ["debug", 19],
  ["single-socket", 20],
  ["cxl-allow", 21],
  ["mem-aes-256-xts", 22],
  ["rapl-dis", 23],
  ["ciphertext-hiding-dram", 24],
  ["page-swap-disable", 25],
]);
export const PLATFORM_BITS: ReadonlyMap<string, number> = new Map([
  ["smt", 0],
  ["tsme", 1],
  ["ecc", 2],
  ["rapl-dis", 3],
  ["ciphertext-hiding-dram", 4],
  ["alias-check-complete", 5],
  ["iommu-write-safe", 6],
  ["tio", 7],
]);
const POLICY_MUST_BE_ONE = 1n << 17n;
const POLICY_KNOWN = 0xffffn | POLICY_MUST_BE_ONE | mask(POLICY_BITS);
export const PLATFORM_KNOWN = mask(PLATFORM_BITS);

// The bytes of a TCB_VERSION, lowest first; null is reserved.
const LAYOUT = ["bootloader", "tee", null, null, null, null, "snp", "microcode"] as const;
export const TCB_LAYOUTS: Readonly<Record<Product, readonly (Component | null)[]>> = {
  Milan: LAYOUT,
  Genoa: LAYOUT,
  Turin: ["fmc", "bootloader", "tee", "snp", null, null, null, "microcode"],
};
// Family, first and last model (CPUID Fn0000_0001_EAX): Bergamo and Siena have Genoa's roots.
const CPUID: readonly (readonly [number, number, number, Product])[] = [
  [0x19, 0x00, 0x0f, "Milan"],
  [0x19, 0x10, 0x1f, "Genoa"],
  [0x19, 0xa0, 0xaf, "Genoa"],
  [0x1a, 0x00, 0x11, "Turin"],
];

/** A version of the SEV firmware: major, minor, build. */
export type Firmware = readonly [number, number, number];

/** An attestation report; names as in the specification. TCBs are the 8 bytes of a TCB_VERSION, lowest first. */
export interface Report {
  readonly signed: Bytes;
  readonly signature: Bytes; // r ‖ s, big-endian, 48 bytes each
  readonly version: number;
  readonly guestSvn: number;
  readonly policy: bigint;
  readonly policyFlags: ReadonlySet<string>;
  readonly policyAbi: readonly [number, number]; // least version of the firmware's ABI that the guest's owner demands
  readonly familyId: Bytes;
  readonly imageId: Bytes;
  readonly vmpl: number;
  readonly currentTcb: Bytes;
  readonly platformInfo: bigint; // may have bits that no flag stands for
  readonly platformFlags: ReadonlySet<string>;
  readonly keyInfo: number; // whose parts are the next three
  readonly signingKey: SigningKey;
  readonly maskChipKey: boolean;
  readonly authorKeyEn: boolean;
  readonly reportData: Bytes;
  readonly measurement: Bytes;
  readonly hostData: Bytes;
  readonly idKeyDigest: Bytes;
  readonly authorKeyDigest: Bytes;
  readonly reportId: Bytes;
  readonly reportIdMa: Bytes;
  readonly reportedTcb: Bytes;
  readonly product: Product | undefined; // from the processor's family and model; not in version 2
  readonly chipId: Bytes; // zeros where the host masks it
  readonly committedTcb: Bytes;
  readonly current: Firmware;
  readonly committed: Firmware;
  readonly launchTcb: Bytes;
  readonly launchMitVector: bigint | undefined; // from version 5 on
  readonly currentMitVector: bigint | undefined;
}

/** Parse a report of version 2 to 5; refuse anything else, its reserved bits included. */
export function parseReport(data: Bytes): Report {
  if (data.length !== REPORT_BYTES) {
    throw new MitaiError(MALFORMED, `an SEV-SNP report has ${REPORT_BYTES} bytes, not ${data.length}`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const u32 = (at: number) => view.getUint32(at, true);
  const u64 = (at: number) => view.getBigUint64(at, true);
  const take = (at: number, size: number) => data.slice(at, at + size);
  const version = u32(0x00);
  if (version < 2 || version > 5) {
    throw new MitaiError("attest.snp-report-version-unsupported", `an SEV-SNP report of version ${version}`);
  }
  if (nonZero(reserved(data, version)) || u32(0x48) >>> 5) {
    throw new MitaiError(MALFORMED, "a reserved part of the SEV-SNP report is not zero");
  }
  if (u32(0x34) !== ECDSA_P384_SHA384) {
    const code = "attest.snp-signature-algorithm-unsupported";
    throw new MitaiError(code, "the report names another signature algorithm");
  }
  if (u32(0x30) >= GUEST_VMPLS) {
    throw new MitaiError("attest.snp-vmpl-invalid", "the report was not requested by a guest at VMPL 0 to 3");
  }
  const policy = u64(0x08);
  const keyInfo = u32(0x48);
  return {
    signed: take(0, SIGNED_BYTES),
    signature: concat(take(0x2a0, 48).reverse(), take(0x2e8, 48).reverse()),
    version,
    guestSvn: u32(0x04),
    policy,
    policyFlags: policyFlags(policy),
    policyAbi: [Number((policy >> 8n) & 0xffn), Number(policy & 0xffn)],
    familyId: take(0x10, 16),
    imageId: take(0x20, 16),
    vmpl: u32(0x30),
    currentTcb: take(0x38, 8),
    platformInfo: u64(0x40),
    platformFlags: flags(u64(0x40), PLATFORM_BITS),
    keyInfo,
    signingKey: signingKey((keyInfo >>> 2) & 7),
    maskChipKey: (keyInfo & 2) !== 0,
    authorKeyEn: (keyInfo & 1) !== 0,
    reportData: take(0x50, 64),
    measurement: take(0x90, 48),
    hostData: take(0xc0, 32),
    idKeyDigest: take(0xe0, 48),
    authorKeyDigest: take(0x110, 48),
    reportId: take(0x140, 32),
    reportIdMa: take(0x160, 32),
    reportedTcb: take(0x180, 8),
    product: version === 2 ? undefined : productOf(view.getUint8(0x188), view.getUint8(0x189)),
    chipId: take(0x1a0, 64),
    committedTcb: take(0x1e0, 8),
    current: firmware(view, 0x1e8),
    committed: firmware(view, 0x1ec),
    launchTcb: take(0x1f0, 8),
    launchMitVector: version >= 5 ? u64(0x1f8) : undefined,
    currentMitVector: version >= 5 ? u64(0x200) : undefined,
  };
}

/** Return whether a byte is not zero. */
export function nonZero(data: Uint8Array): boolean {
  return data.some((byte) => byte !== 0);
}

function reserved(data: Bytes, version: number): Bytes {
  const parts: [number, number][] = [
    [0x4c, 0x50],
    [version === 2 ? 0x188 : 0x18b, 0x1a0], // the processor's family, model and stepping from version 3 on
    [0x1eb, 0x1ec],
    [0x1ef, 0x1f0],
    [version < 5 ? 0x1f8 : 0x208, 0x2a0], // the mitigation vectors from version 5 on
    [0x2a0 + 48, 0x2e8], // of r
    [0x2e8 + 48, REPORT_BYTES], // of s, and behind it
  ];
  return concat(...parts.map(([start, end]) => data.subarray(start, end)));
}

function signingKey(selector: number): SigningKey {
  if (selector === 7) throw new MitaiError("attest.snp-unsigned", "the report says that no key signed it");
  const key = SIGNING_KEYS[selector];
  if (!key) throw new MitaiError("attest.snp-signing-key-unsupported", `the report names signing key ${selector}`);
  return key;
}

function policyFlags(policy: bigint): ReadonlySet<string> {
  if (!(policy & POLICY_MUST_BE_ONE) || policy & ~POLICY_KNOWN) {
    const why = "a reserved bit of the guest's policy is not as it must be";
    throw new MitaiError("attest.snp-policy-reserved", why);
  }
  return flags(policy, POLICY_BITS);
}

function flags(value: bigint, bits: ReadonlyMap<string, number>): ReadonlySet<string> {
  return new Set([...bits].filter(([, bit]) => (value >> BigInt(bit)) & 1n).map(([name]) => name));
}

function mask(bits: ReadonlyMap<string, number>): bigint {
  return [...bits.values()].reduce((value, bit) => value | (1n << BigInt(bit)), 0n);
}

function productOf(family: number, model: number): Product {
  const known = CPUID.find(([itsFamily, first, last]) => itsFamily === family && first <= model && model <= last);
  if (!known) {
    throw new MitaiError("attest.snp-product-unknown", `a processor of family ${family}, model ${model}`);
  }
  return known[3];
}

function firmware(view: DataView, at: number): Firmware {
  return [view.getUint8(at + 2), view.getUint8(at + 1), view.getUint8(at)];
}

/** Return the security versions in a TCB_VERSION by name, as that product orders them. */
export function tcbComponents(product: Product, tcb: Bytes): [Component, number][] {
  return TCB_LAYOUTS[product].flatMap((name, at): [Component, number][] => (name ? [[name, tcb[at] ?? 0]] : []));
}

/** Return the blobs of an extended report's table by GUID; the host filled it, so only their signatures count. */
export function parseCertificateTable(data: Bytes): ReadonlyMap<string, Bytes> {
  const code = "attest.snp-certificate-table-malformed";
  if (data.length > MAX_TABLE_BYTES) {
    throw new MitaiError(code, `a table of certificates of ${data.length} bytes is above the limit`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const blobs = new Map<string, Bytes>();
  let taken = 0; // entries may not overlap, or a small table would become a large answer
  for (let start = 0; start + ENTRY_BYTES <= data.length; start += ENTRY_BYTES) {
    if (!nonZero(data.subarray(start, start + ENTRY_BYTES))) return blobs;
    const guid = hex(data.subarray(start, start + 16)).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
    const offset = view.getUint32(start + 16, true);
    const size = view.getUint32(start + 20, true);
    taken += size;
    if (blobs.has(guid) || offset + size > data.length || taken > data.length) {
      throw new MitaiError(code, "an entry of the table of certificates is double, or more than the table holds");
    }
    blobs.set(guid, data.slice(offset, offset + size));
  }
  throw new MitaiError(code, "the table of certificates has no end");
}
