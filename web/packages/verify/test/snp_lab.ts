/** A stand-in for AMD: roots, signing keys, VCEKs, VLEKs and reports of any shape, every part of which can be forged. */

import { type Bytes, concat, fromHex, hex, sha256, utf8 } from "../src/bytes.ts";
import type { VerifiedCache } from "../src/cache.ts";
import { Checklist } from "../src/checks.ts";
import type { Machine } from "../src/machine.ts";
import type { Product, SigningKey } from "../src/snp/report.ts";
import type { Trust } from "../src/snp/roots.ts";
import { type SnpRules, snpRules } from "../src/snp/rules.ts";
import { appraiseSnp } from "../src/snp/verify.ts";
import { COMMON_NAME, ORGANIZATION_NAME, P384 } from "../src/x509.ts";
import {
  certificate,
  der,
  extension,
  integer,
  NOW,
  oid,
  type Parts,
  type Party,
  party,
  pem,
  revocationList,
  revoked,
  roles,
  sequence,
  sign,
} from "./x509_lab.ts";

export const CHIP = Uint8Array.from({ length: 64 }, (_, at) => at);
export const TCB: Readonly<Record<Product, Bytes>> = {
  Milan: Uint8Array.of(9, 0, 0, 0, 0, 0, 24, 219),
  Genoa: Uint8Array.of(9, 0, 0, 0, 0, 0, 24, 219),
  Turin: Uint8Array.of(1, 2, 3, 4, 0, 0, 0, 200),
};
export const CPUID: Readonly<Record<Product, Bytes>> = {
  Milan: Uint8Array.of(0x19, 0x01, 1),
  Genoa: Uint8Array.of(0x19, 0x11, 1),
  Turin: Uint8Array.of(0x1a, 0x02, 1),
};
// Offsets in a report.
export const [POLICY, VMPL, ALGORITHM, CURRENT_TCB, PLATFORM, KEY_INFO] = [0x08, 0x30, 0x34, 0x38, 0x40, 0x48] as const;
export const [REPORTED_TCB, CPU, CHIP_ID, COMMITTED_TCB] = [0x180, 0x188, 0x1a0, 0x1e0] as const;
export const [CURRENT, COMMITTED, LAUNCH_TCB, MITIGATIONS] = [0x1e8, 0x1ec, 0x1f0, 0x1f8] as const;
const OID = "1.3.6.1.4.1.3704.1.";
const GUIDS = {
  vcek: "63da758de6644564adc5f4b93be8accd",
  vlek: "a8074bc2a25a483eaae639c045a0b8a1",
  ask: "4ab7b379bbac4fe4a02f05aef327c782",
  ark: "c0b406a4a803495297433fb6014cd0ae",
  crl: "92f81bc358114d3d97ffd19f88dc67ea",
  other: "ecae0c0f950243b1afa20ae2e0d565b6",
};

/** A little-endian number of so many bytes. */
export function little(number: number | bigint, size: number): Bytes {
  return Uint8Array.from({ length: size }, (_, at) => Number((BigInt(number) >> BigInt(8 * at)) & 0xffn));
}

export function amdName(commonName: string, organization = "Advanced Micro Devices"): Bytes {
  const attribute = (id: string, value: string) => der(0x31, sequence(oid(id), der(0x0c, utf8(value))));
  return sequence(attribute(ORGANIZATION_NAME, organization), attribute(COMMON_NAME, commonName));
}

/** An IA5String. */
export function ia5(value: string): Bytes {
  return der(0x16, utf8(value));
}

/** A table of certificates as a host fills it. */
export function table(blobs: Partial<Record<keyof typeof GUIDS, Bytes>>): Bytes {
  const entries = Object.entries(blobs) as [keyof typeof GUIDS, Bytes][];
  let offset = 24 * (entries.length + 1);
  const header = entries.map(([name, blob]) => {
    offset += blob.length;
    return concat(fromHex(GUIDS[name]), little(offset - blob.length, 4), little(blob.length, 4));
  });
  return concat(...header, new Uint8Array(24), ...entries.map(([, blob]) => blob));
}

export type Changes = Readonly<Record<number, Bytes>>; // bytes of a report by offset
export type Extensions = Readonly<Record<string, Bytes | null>>; // by their last numbers; null leaves one out

export interface VekParts extends Parts {
  readonly changes?: Extensions;
  readonly signer?: Party;
}

type Endorsements = Readonly<Partial<Record<"vek" | "chain" | "crl" | "certs", Bytes | null>>>;

/** An authority for one product. On curves, also where AMD has RSA: keys are made in no time. */
export class Amd {
  readonly names: Readonly<Record<"ark" | "ask" | "asvk" | SigningKey, string>>;
  #parties = new Map<string, Party>();
  ark: Bytes = new Uint8Array();
  ask: Bytes = new Uint8Array();
  asvk: Bytes = new Uint8Array();

  private constructor(readonly product: Product) {
    const [ark, ask, asvk] = [`ARK-${product}`, `SEV-${product}`, `SEV-VLEK-${product}`];
    this.names = { ark, ask, asvk, vcek: "SEV-VCEK", vlek: "SEV-VLEK" };
  }

  static async create(product: Product): Promise<Amd> {
    const amd = new Amd(product);
    for (const [role, name] of Object.entries(amd.names)) amd.#parties.set(role, await party(name, "P-384"));
    amd.ark = await amd.issuer("ark", 0x10000);
    amd.ask = await amd.issuer("ask", 0x10001);
    amd.asvk = await amd.issuer("asvk", 0x10101);
    return amd;
  }

  party(role: "ark" | "ask" | "asvk" | SigningKey): Party {
    const found = this.#parties.get(role);
    if (!found) throw new Error(`no ${role}`);
    return found;
  }

  async trust(): Promise<Trust> {
    return { roots: new Map([[hex(await sha256(this.ark)), this.product]]), profile: P384 };
  }

  issuer(role: "ark" | "ask" | "asvk", serial: number, parts: Parts = {}): Promise<Bytes> {
    return certificate(this.party(role), this.party("ark"), {
      serial: integer(serial),
      issuer: amdName(this.names.ark),
      subject: amdName(this.names[role]),
      extensions: roles(role === "ark" ? 1 : 0),
      ...parts,
    });
  }

  vek(kind: SigningKey = "vcek", { changes = {}, signer, ...parts }: VekParts = {}): Promise<Bytes> {
    const issuer = signer ?? this.party(kind === "vcek" ? "ask" : "asvk");
    const turin = this.product === "Turin";
    const order = turin
      ? ["3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8"]
      : ["3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8"];
    const found: Record<string, Bytes | null> = { 1: integer(turin ? 1 : 0), 2: ia5(this.product) };
    for (const [at, level] of TCB[this.product].entries()) found[order[at] ?? ""] = integer(level);
    Object.assign(
      found,
      kind === "vcek" ? { 4: turin ? CHIP.slice(0, 8) : CHIP } : { 5: ia5("CN=cloud.example") },
      changes,
    );
    return certificate(this.party(kind), issuer, {
      serial: integer(0),
      issuer: amdName(issuer.name),
      subject: amdName(this.names[kind]),
      extensions: Object.entries(found).flatMap(([id, value]) => (value ? [extension(OID + id, value)] : [])),
      ...parts,
    });
  }

  chain(kind: SigningKey = "vcek"): Bytes {
    return utf8(pem(kind === "vcek" ? this.ask : this.asvk, this.ark));
  }

  crl(...serials: number[]): Promise<Bytes> {
    const own = { issuer: amdName(this.names.ark), revoked: serials.map((serial) => revoked(integer(serial))) };
    return revocationList(this.party("ark"), own);
  }

  /** A signed report; changes are made before it is signed. */
  async report(
    changes: Changes = {},
    { version = 3, kind = "vcek" }: { version?: number; kind?: SigningKey } = {},
  ): Promise<Bytes> {
    const tcb = TCB[this.product];
    const fields: Record<number, Bytes> = {
      0: little(version, 4),
      4: little(7, 4),
      [POLICY]: little(0x3001f, 8),
      16: utf8("family id 16 byt"),
      32: utf8("image id 16 byte"),
      [ALGORITHM]: little(1, 4),
      [PLATFORM]: little(0x27, 8),
      [KEY_INFO]: little(kind === "vlek" ? 5 : 1, 4),
      80: new Uint8Array(64).fill(0x33),
      144: new Uint8Array(48).fill(0x11),
      192: new Uint8Array(32).fill(0x22),
      224: new Uint8Array(48).fill(0x44),
      272: new Uint8Array(48).fill(0x55),
      320: new Uint8Array(32).fill(0x66),
      352: new Uint8Array(32).fill(0xff),
      [CURRENT_TCB]: tcb,
      [REPORTED_TCB]: tcb,
      [CPU]: version > 2 ? CPUID[this.product] : new Uint8Array(3),
      [CHIP_ID]: this.product === "Turin" ? CHIP.slice(0, 8) : CHIP,
      [COMMITTED_TCB]: tcb,
      [CURRENT]: Uint8Array.of(40, 55, 1),
      [COMMITTED]: Uint8Array.of(40, 55, 1),
      [LAUNCH_TCB]: tcb,
      [MITIGATIONS]: version > 4 ? concat(little(5, 8), little(7, 8)) : new Uint8Array(16),
    };
    const body = new Uint8Array(0x2a0);
    for (const parts of [fields, changes]) {
      for (const [offset, content] of Object.entries(parts)) body.set(content, Number(offset));
    }
    const raw = await sign(this.party(kind), body);
    const half = (from: number) => concat(raw.slice(from, from + 48).reverse(), new Uint8Array(24));
    return concat(body, half(0), half(48), new Uint8Array(368));
  }

  /** Evidence's endorsements, complete; null leaves one out. */
  async endorsements(kind: SigningKey = "vcek", given: Endorsements = {}): Promise<ReadonlyMap<string, Bytes>> {
    const all = { vek: await this.vek(kind), chain: this.chain(kind), crl: await this.crl(), ...given };
    return new Map(Object.entries(all).flatMap(([name, value]): [string, Bytes][] => (value ? [[name, value]] : [])));
  }

  async appraise(
    quote: Bytes,
    endorsements: ReadonlyMap<string, Bytes>,
    rules: Partial<SnpRules> = {},
    { now = NOW, cache, eventLog = new Uint8Array() }: { now?: Date; cache?: VerifiedCache; eventLog?: Bytes } = {},
  ): Promise<Machine> {
    const hardware = { tee: "snp", quote, endorsements, eventLog, collateral: null };
    return appraiseSnp(new Checklist(), hardware, snpRules(rules), { now, cache, trust: await this.trust() });
  }
}
