/** A machine of Intel's kind whose every part can be forged: its own root, collateral, quoting enclave and quotes. */

import { type Bytes, concat, fromHex, sha256, utf8 } from "../src/bytes.ts";
import type { VerifiedCache } from "../src/cache.ts";
import { Checklist } from "../src/checks.ts";
import { type AppraiseOptions, appraiseIntel } from "../src/dcap/appraise.ts";
import { INTEL_QE_VENDOR } from "../src/dcap/quote.ts";
import { MitaiError } from "../src/errors.ts";
import type { Collateral, Machine } from "../src/machine.ts";
import { Policy } from "../src/policy.ts";
import * as lab from "./x509_lab.ts";
import { NOW, type Party } from "./x509_lab.ts";

export const STRICT = Policy.fromToml("");
/** Accepts every platform and every TD, so that a test sees the status that was found. */
export const LAX = Policy.fromToml(`
[tcb]
accepted_statuses = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
  "OutOfDate", "OutOfDateConfigurationNeeded"]
accepted_advisories = ["any"]
[tdx]
td_attributes_required = "0000000000000000"
td_attributes_allowed = "ffffffffffffffff"
xfam_allowed = "ffffffffffffffff"
mrservicetd = "any"
[sgx]
allow_debug = true
`);

/** Verify a quote by itself. */
export function appraise(
  quote: Bytes,
  collateral: Collateral | null,
  policy: Policy,
  options: AppraiseOptions,
  more: { readonly tee?: string; readonly eventLog?: Bytes } = {},
): Promise<Machine> {
  const tee = more.tee ?? (quote[0] === 3 ? "sgx" : "tdx");
  const hardware = { tee, quote, collateral, eventLog: more.eventLog ?? new Uint8Array(), endorsements: new Map() };
  return appraiseIntel(new Checklist(), hardware, policy, options);
}

/** Return the error with which something is refused. */
export async function refusal(attempt: Promise<unknown>): Promise<MitaiError> {
  const error = await attempt.then(
    () => new Error("it was accepted"),
    (reason: unknown) => reason,
  );
  if (error instanceof MitaiError) return error;
  throw error;
}

export type Tee = "tdx" | "sgx";
type Members = Readonly<Record<string, unknown>>;

export const SVNS = [2, 2, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
export const TEE_TCB_SVN = [5, 1, 2, ...Array<number>(13).fill(0)];
export const PCE_SVN = 11;
export const QE_SVN = 4;
const SGX_OID = "1.2.840.113741.1.13.1";
const QE_SIGNER = "8c".repeat(32);
const QE_AUTH_DATA = Uint8Array.from({ length: 32 }, (_, at) => at);

/** The value of the PCK certificate's SGX extension; `fields` and `tcb` replace fields by their last number. */
export function sgxExtension(fields: Record<number, Bytes> = {}, tcb: Record<number, Bytes> = {}): Bytes {
  const list = (prefix: string, values: Record<number, Bytes>) =>
    lab.sequence(
      ...Object.entries(values)
        .filter(([, value]) => value.length)
        .map(([number, value]) => lab.sequence(lab.oid(`${prefix}.${number}`), value)),
    );
  const svns = Object.fromEntries(SVNS.map((svn, at) => [at + 1, lab.integer(svn)]));
  const levels = { ...svns, 17: lab.integer(PCE_SVN), 18: lab.octets(Uint8Array.from(SVNS)), ...tcb };
  return list(SGX_OID, {
    1: lab.octets(new Uint8Array(16)),
    2: list(`${SGX_OID}.2`, levels),
    3: lab.octets(new Uint8Array(2)),
    4: lab.octets(fromHex("00a51b000000")),
    5: lab.der(0x0a, new Uint8Array(1)),
    ...fields,
  });
}

interface LevelChanges extends Readonly<Record<string, unknown>> {
  readonly svns?: readonly number[];
  readonly tdx?: readonly number[];
  readonly pce?: number;
}

/** A level of a platform. */
export function level(
  status = "UpToDate",
  { svns = SVNS, tdx = TEE_TCB_SVN, pce = PCE_SVN, ...more }: LevelChanges = {},
): Members {
  const components = (numbers: readonly number[]) => numbers.map((svn) => ({ svn }));
  const tcb = { sgxtcbcomponents: components(svns), pcesvn: pce, tdxtcbcomponents: components(tdx) };
  return { tcb, tcbDate: "2025-01-01T00:00:00Z", tcbStatus: status, ...more };
}

/** A level of a TDX module or quoting enclave. */
export function isvLevel(svn: unknown, status = "UpToDate", more: Members = {}): Members {
  return { tcb: { isvsvn: svn }, tcbDate: "2025-01-01T00:00:00Z", tcbStatus: status, ...more };
}

export const MODULE = { mrsigner: "00".repeat(48), attributes: "00".repeat(8), attributesMask: "FF".repeat(8) };
const SIGNED = { issueDate: "2026-05-31T12:00:00Z", nextUpdate: "2026-06-30T12:00:00Z", tcbEvaluationDataNumber: 20 };

export function tcbInfo(tee: Tee): Members {
  return {
    id: tee.toUpperCase(),
    version: 3,
    ...SIGNED,
    fmspc: "00A51B000000",
    pceId: "0000",
    tcbType: 0,
    tdxModule: MODULE,
    tdxModuleIdentities: [{ id: "TDX_01", ...MODULE, tcbLevels: [isvLevel(TEE_TCB_SVN[0])] }],
    tcbLevels: [level(), level("OutOfDate", { svns: [1, ...SVNS.slice(1)], advisoryIDs: ["MITAI-SIM-00001"] })],
  };
}

export function qeIdentity(tee: Tee): Members {
  return {
    id: tee === "tdx" ? "TD_QE" : "QE",
    version: 2,
    ...SIGNED,
    miscselect: "00000000",
    miscselectMask: "FFFFFFFF",
    attributes: "11000000000000000000000000000000",
    attributesMask: "FBFFFFFFFFFFFFFF0000000000000000",
    mrsigner: QE_SIGNER.toUpperCase(),
    isvprodid: tee === "tdx" ? 2 : 1,
    tcbLevels: [isvLevel(QE_SVN)],
  };
}

const register = (value: number) => new Uint8Array(48).fill(value);

/** What a TD's report says; a replacement may be of any length. */
export const TD = {
  teeTcbSvn: Uint8Array.from(TEE_TCB_SVN),
  mrseam: register(1),
  mrsignerseam: register(0),
  seamAttributes: new Uint8Array(8),
  tdAttributes: fromHex("0000001000000000"),
  xfam: fromHex("e702060000000000"),
  mrtd: register(2),
  mrconfigid: register(0),
  mrowner: register(0),
  mrownerconfig: register(0),
  rtmrs: concat(register(3), register(4), register(5), register(6)),
  reportData: new Uint8Array(64).fill(7),
  more: new Uint8Array(), // of report 1.5: TEE_TCB_SVN2 and MRSERVICETD
};

/** What an enclave's report says. */
export const ENCLAVE = {
  cpuSvn: Uint8Array.from(SVNS),
  miscSelect: new Uint8Array(4),
  attributes: fromHex("1100000000000000e700000000000000"),
  mrenclave: new Uint8Array(32).fill(1),
  mrsigner: new Uint8Array(32).fill(2),
  isvProdId: 7,
  isvSvn: 3,
  reportData: new Uint8Array(64).fill(7),
};

function u16(number: number): Bytes {
  return Uint8Array.of(number & 0xff, number >> 8);
}

export function u32(number: number): Bytes {
  return concat(u16(number & 0xffff), u16(number >>> 16));
}

function encodeEnclave(report: typeof ENCLAVE): Bytes {
  const gap = (size: number) => new Uint8Array(size);
  const { cpuSvn, miscSelect, attributes, mrenclave, mrsigner, isvProdId, isvSvn, reportData } = report;
  const head = concat(cpuSvn, miscSelect, gap(28), attributes, mrenclave, gap(32), mrsigner, gap(96));
  return concat(head, u16(isvProdId), u16(isvSvn), gap(60), reportData);
}

/** What of a quote is not as it should be. */
export interface QuoteChanges {
  readonly header?: (header: Bytes) => Bytes;
  readonly td?: Partial<typeof TD>;
  readonly enclave?: Partial<typeof ENCLAVE>;
  readonly qe?: Partial<typeof ENCLAVE>;
  readonly bodyType?: number;
  readonly chain?: string;
  readonly certType?: number;
  readonly outerType?: number;
  readonly certTail?: Bytes;
  readonly signer?: Party;
}

/** What of collateral is not as it should be; properly signed. */
export interface CollateralChanges {
  readonly tcb?: Members | string;
  readonly qe?: Members | string;
  readonly parts?: Partial<Collateral>;
}

export class IntelLab {
  private constructor(
    readonly root: Party,
    readonly ca: Party,
    readonly signer: Party,
    readonly pck: Party,
    readonly attestation: Party,
    readonly certificates: Readonly<Record<"root" | "ca" | "signer" | "pck", Bytes>>,
    readonly policy: Policy,
  ) {}

  static async create(): Promise<IntelLab> {
    const [root, ca, signer, pck, attestation] = await Promise.all([
      lab.party("Simulation SGX Root CA"),
      lab.party("Simulation SGX PCK Platform CA"),
      lab.party("Simulation SGX TCB Signing"),
      lab.party("Simulation SGX PCK Certificate"),
      lab.party(""),
    ]);
    const certificates = {
      root: await lab.certificate(root, root, { serial: lab.integer(1), extensions: lab.roles(1) }),
      ca: await lab.certificate(ca, root, { serial: lab.integer(2), extensions: lab.roles(0) }),
      signer: await lab.certificate(signer, root, { serial: lab.integer(3) }),
      pck: await lab.certificate(pck, ca, {
        serial: lab.integer(4),
        extensions: [...lab.roles(), lab.extension(SGX_OID, sgxExtension())],
      }),
    };
    const fingerprint = Buffer.from(await sha256(certificates.root)).toString("hex");
    const policy = Policy.fromToml(`allow_simulation = true\nsim_roots = ["sha256:${fingerprint}"]`);
    return new IntelLab(root, ca, signer, pck, attestation, certificates, policy);
  }

  /** The lab's policy, with more rules. */
  rules(section: keyof Policy, rules: Readonly<Record<string, unknown>>): Policy {
    return { ...this.policy, [section]: { ...Object(this.policy[section]), ...rules } };
  }

  /** Another PCK certificate, as the chain of a quote or collateral. */
  async chain(parts: lab.Parts & { readonly sgx?: Bytes }): Promise<string> {
    const extensions = [...lab.roles(), ...(parts.sgx ? [lab.extension(SGX_OID, parts.sgx)] : [])];
    const leaf = await lab.certificate(this.pck, this.ca, { serial: lab.integer(4), extensions, ...parts });
    return lab.pem(leaf, this.certificates.ca, this.certificates.root);
  }

  async collateral(tee: Tee, { tcb = {}, qe = {}, parts = {} }: CollateralChanges = {}): Promise<Collateral> {
    const json = (members: Members, changes: Members | string) =>
      typeof changes === "string" ? changes : JSON.stringify({ ...members, ...changes });
    const [info, identity] = [json(tcbInfo(tee), tcb), json(qeIdentity(tee), qe)];
    const signers = lab.pem(this.certificates.signer, this.certificates.root);
    return {
      tcbInfo: info,
      tcbInfoSignature: await lab.sign(this.signer, utf8(info)),
      tcbInfoIssuerChain: signers,
      qeIdentity: identity,
      qeIdentitySignature: await lab.sign(this.signer, utf8(identity)),
      qeIdentityIssuerChain: signers,
      rootCaCrl: await lab.revocationList(this.root),
      pckCrl: await lab.revocationList(this.ca),
      pckCrlIssuerChain: lab.pem(this.certificates.ca, this.certificates.root),
      pckCertificateChain: null,
      ...parts,
    };
  }

  async quote(version: 3 | 4 | 5, changes: QuoteChanges = {}): Promise<Bytes> {
    const tdx = version > 3;
    const body = tdx
      ? concat(...Object.values({ ...TD, ...changes.td }))
      : encodeEnclave({ ...ENCLAVE, ...changes.enclave });
    const header = concat(
      u16(version),
      u16(2),
      u32(tdx ? 0x81 : 0),
      u32(0),
      fromHex(INTEL_QE_VENDOR),
      new Uint8Array(20),
    );
    const prefix =
      version === 5
        ? concat(u16(changes.bodyType ?? (body.length === 584 ? 2 : 3)), u32(body.length))
        : new Uint8Array();
    const signed = concat((changes.header ?? ((same) => same))(header), prefix, body);
    const point = this.attestation.spki.slice(-64);
    const qeReport = encodeEnclave({
      ...ENCLAVE,
      mrsigner: fromHex(QE_SIGNER),
      isvProdId: tdx ? 2 : 1,
      isvSvn: QE_SVN,
      reportData: concat(await sha256(point, QE_AUTH_DATA), new Uint8Array(32)),
      ...changes.qe,
    });
    const { pck, ca, root } = this.certificates;
    const chain = utf8(changes.chain ?? `${lab.pem(pck, ca, root)}\0`);
    const vouch = concat(
      qeReport,
      await lab.sign(this.pck, qeReport),
      u16(QE_AUTH_DATA.length),
      QE_AUTH_DATA,
      u16(changes.certType ?? 5),
      u32(chain.length),
      chain,
      changes.certTail ?? new Uint8Array(),
    );
    const nested = tdx ? concat(u16(changes.outerType ?? 6), u32(vouch.length), vouch) : vouch;
    const signatureData = concat(await lab.sign(changes.signer ?? this.attestation, signed), point, nested);
    return concat(signed, u32(signatureData.length), signatureData);
  }

  /** Appraise a quote of this machine; whatever is not given is right. */
  async appraise({
    tee = "tdx",
    quote,
    collateral,
    policy = this.policy,
    now = NOW,
    cache,
    eventLog,
  }: {
    readonly tee?: Tee;
    readonly quote?: Bytes;
    readonly collateral?: Collateral | null;
    readonly policy?: Policy;
    readonly now?: Date;
    readonly cache?: VerifiedCache;
    readonly eventLog?: Bytes;
  } = {}): Promise<Machine> {
    return appraise(
      quote ?? (await this.quote(tee === "tdx" ? 4 : 3)),
      collateral === undefined ? await this.collateral(tee) : collateral,
      policy,
      { now, cache },
      { tee, ...(eventLog && { eventLog }) },
    );
  }
}
