/**
 * TCB levels: how current a platform, its TDX module and its quoting enclave are.
 *
 * Port of `mitai/attest/dcap/tcb.py`. Follows the "Intel PCS API" version 4 for the JSON and Intel's
 * QuoteVerificationLibrary for matching:
 *
 * 1. The first TCB level is taken whose sixteen SGX component SVNs and PCE SVN are not above those of the PCK
 *    certificate and, for TDX, whose TDX component SVNs are not above the quote's TEE_TCB_SVN. Components 0 and 1 name
 *    the TDX module and are skipped when the module has a version of its own (TEE_TCB_SVN[1] > 0).
 * 2. In that case the module is looked up by its version, and its own level (by TEE_TCB_SVN[0]) pulls the status down.
 * 3. The quoting enclave's level (by ISVSVN) pulls it down in the same way.
 *
 * Invariants:
 * - A status or version that is not known here is refused, never passed on.
 * - Advisories of every level that was matched are reported together.
 */

import { type Bytes, equal, fromHex, hex } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import {
  array,
  bigint,
  type Decoded,
  type Decoder,
  decodeJson,
  type Json,
  moment,
  nullable,
  oneOf,
  optional,
  string,
  struct,
} from "../json.ts";
import type { PckTcb } from "./pck.ts";
import type { EnclaveReport, TdReport } from "./quote.ts";

/** What Intel says about a level. */
export const TCB_STATUSES = [
  "UpToDate",
  "SWHardeningNeeded",
  "ConfigurationNeeded",
  "ConfigurationAndSWHardeningNeeded",
  "OutOfDate",
  "OutOfDateConfigurationNeeded",
  "Revoked",
] as const;
export type TcbStatus = (typeof TCB_STATUSES)[number];

const TCB_INFO_MALFORMED = "attest.tcb-info-malformed";
const QE_IDENTITY_MALFORMED = "attest.qe-identity-malformed";

// Of any size: they are compared with numbers below 2^16.
const number: Decoder<number> = (value) => Number(bigint(value));
// Members that are not named here are ignored: Intel adds some.
const COMPONENTS = array(struct({ svn: number }, "ignored"));
const LEVEL = { tcbStatus: oneOf(...TCB_STATUSES), tcbDate: moment, advisoryIDs: optional(array(string), []) };
const ISV_LEVEL = struct({ ...LEVEL, tcb: struct({ isvsvn: number }, "ignored") }, "ignored");
const PLATFORM_TCB = struct(
  { sgxtcbcomponents: COMPONENTS, pcesvn: number, tdxtcbcomponents: optional(nullable(COMPONENTS), null) },
  "ignored",
);
const PLATFORM_LEVEL = struct({ ...LEVEL, tcb: PLATFORM_TCB }, "ignored");
const MODULE = { mrsigner: string, attributes: string, attributesMask: string };
const SIGNED = { id: string, version: number, issueDate: utc, nextUpdate: utc, tcbEvaluationDataNumber: number };
const TCB_INFO = struct(
  {
    ...SIGNED,
    fmspc: string,
    pceId: string,
    tcbType: number,
    tcbLevels: array(PLATFORM_LEVEL),
    tdxModule: optional(nullable(struct(MODULE, "ignored")), null),
    tdxModuleIdentities: optional(array(struct({ ...MODULE, id: string, tcbLevels: array(ISV_LEVEL) }, "ignored")), []),
  },
  "ignored",
);
const QE_IDENTITY = struct(
  {
    ...SIGNED,
    miscselect: string,
    miscselectMask: string,
    attributes: string,
    attributesMask: string,
    mrsigner: string,
    isvprodid: number,
    tcbLevels: array(ISV_LEVEL),
  },
  "ignored",
);
const VERSION = struct({ version: number }, "ignored");

/** TCB info version 3. */
export type TcbInfo = Decoded<typeof TCB_INFO>;
/** Enclave identity version 2. */
export type QeIdentity = Decoded<typeof QE_IDENTITY>;
type PlatformLevel = Decoded<typeof PLATFORM_LEVEL>;
type IsvLevel = Decoded<typeof ISV_LEVEL>;

/** The converged status of platform, TDX module and quoting enclave. */
export interface TcbResult {
  readonly status: TcbStatus;
  readonly advisoryIds: readonly string[];
  /** The lower of TCB info's and QE identity's. */
  readonly evaluationNumber: number;
}

function utc(value: Json): Date {
  if (!/(?:[Zz]|[+-]00:?00)$/.test(string(value))) throw new RangeError("a date that is not in UTC");
  return moment(value);
}

/** Parse TCB info (after its signature was checked). */
export function parseTcbInfo(data: Bytes): TcbInfo {
  checkVersion(data, 3, "tcb-info", "TCB info");
  const info = decodeJson(data, TCB_INFO, TCB_INFO_MALFORMED, "TCB info is malformed");
  const counts = new Set(info.tcbLevels.map(({ tcb }) => tcb.sgxtcbcomponents.length));
  if (info.id === "TDX") for (const { tcb } of info.tcbLevels) counts.add(tcb.tdxtcbcomponents?.length ?? 0);
  if (counts.size !== 1 || !counts.has(16) || info.tcbType !== 0) {
    throw new MitaiError(TCB_INFO_MALFORMED, "a TCB level has no sixteen components, or the TCB type is not 0");
  }
  return info;
}

/** Parse the QE identity (after its signature was checked). */
export function parseQeIdentity(data: Bytes): QeIdentity {
  checkVersion(data, 2, "qe-identity", "the QE identity");
  return decodeJson(data, QE_IDENTITY, QE_IDENTITY_MALFORMED, "the QE identity is malformed");
}

function checkVersion(data: Bytes, expected: number, what: string, name: string): void {
  const { version } = decodeJson(data, VERSION, `attest.${what}-malformed`, `${name} is malformed`);
  if (version !== expected) {
    throw new MitaiError(`attest.${what}-version-unsupported`, `version ${version} of ${name}, expected ${expected}`);
  }
}

/** Check that the quoting enclave is the one that Intel's QE identity describes. */
export function checkQeIdentity(report: EnclaveReport, identity: QeIdentity, expectedId: string): void {
  const bytes = (digits: string, size: number) => unhex(digits, size, QE_IDENTITY_MALFORMED);
  if (identity.id !== expectedId) {
    throw new MitaiError(
      "attest.qe-identity-id-mismatch",
      `the QE identity is of ${JSON.stringify(identity.id)}, expected "${expectedId}"`,
    );
  }
  if (!equal(report.mrsigner, bytes(identity.mrsigner, 32))) {
    throw new MitaiError(
      "attest.qe-signer-mismatch",
      "the quoting enclave has another signer than Intel's QE identity names",
    );
  }
  const miscMask = bytes(identity.miscselectMask, 4);
  const misc = bytes(identity.miscselect, 4);
  const attributesMask = bytes(identity.attributesMask, 16);
  const attributes = bytes(identity.attributes, 16);
  if (
    report.isvProdId !== identity.isvprodid ||
    !equal(masked(report.miscSelect, miscMask), misc) ||
    !equal(masked(report.attributes, attributesMask), attributes)
  ) {
    throw new MitaiError(
      "attest.qe-identity-mismatch",
      "the quoting enclave's product, attributes or MISCSELECT are not those of the QE identity",
    );
  }
}

/** Match the levels and converge their statuses; throw `MitaiError` when no level fits. */
export function evaluateTcb(
  body: TdReport | EnclaveReport,
  pck: PckTcb,
  qe: EnclaveReport,
  info: TcbInfo,
  identity: QeIdentity,
): TcbResult {
  const expectedId = body.tee.toUpperCase();
  if (info.id !== expectedId) {
    throw new MitaiError(
      "attest.tcb-info-id-mismatch",
      `the TCB info is of ${JSON.stringify(info.id)}, expected "${expectedId}"`,
    );
  }
  if (!equal(unhex(info.fmspc, 6, TCB_INFO_MALFORMED), pck.fmspc)) {
    throw new MitaiError(
      "attest.tcb-info-fmspc-mismatch",
      `the TCB info is of FMSPC ${info.fmspc}, the platform is ${hex(pck.fmspc)}`,
    );
  }
  if (!equal(unhex(info.pceId, 2, TCB_INFO_MALFORMED), pck.pceId)) {
    throw new MitaiError(
      "attest.tcb-info-pceid-mismatch",
      `the TCB info is of PCE ${info.pceId}, the platform has ${hex(pck.pceId)}`,
    );
  }
  const platform = platformLevel(body, pck, info);
  const parts = body.tee === "tdx" ? moduleLevel(body, info) : [];
  parts.push(isvLevel(identity.tcbLevels, qe.isvSvn, "QE"));
  return {
    status: parts.map((level) => level.tcbStatus).reduce(converge, platform.tcbStatus),
    advisoryIds: [...new Set([platform, ...parts].flatMap((level) => level.advisoryIDs))].sort(),
    evaluationNumber: Math.min(info.tcbEvaluationDataNumber, identity.tcbEvaluationDataNumber),
  };
}

function platformLevel(body: TdReport | EnclaveReport, pck: PckTcb, info: TcbInfo): PlatformLevel {
  let missing = "SGX";
  for (const level of info.tcbLevels) {
    const { pcesvn, sgxtcbcomponents, tdxtcbcomponents } = level.tcb;
    if (pck.pceSvn < pcesvn || !covers(pck.componentSvns, sgxtcbcomponents)) continue;
    if (body.tee === "sgx") return level;
    missing = "TDX";
    const first = moduleVersion(body) > 0 ? 2 : 0;
    if (covers([...body.teeTcbSvn.subarray(first)], (tdxtcbcomponents ?? []).slice(first))) return level;
  }
  throw notSupported(missing);
}

/** Check the TDX module's signer and attributes; return its level when its version has any. */
function moduleLevel(body: TdReport, info: TcbInfo): IsvLevel[] {
  const version = moduleVersion(body);
  const id = `TDX_${version.toString(16).padStart(2, "0")}`.toUpperCase();
  const versioned = version > 0 ? info.tdxModuleIdentities.find((known) => known.id.toUpperCase() === id) : undefined;
  const identity = version > 0 ? versioned : info.tdxModule;
  if (!identity) {
    throw new MitaiError(
      "attest.tdx-module-unknown",
      `the TCB info does not know version ${version} of the TDX module`,
    );
  }
  const mask = unhex(identity.attributesMask, 8, TCB_INFO_MALFORMED);
  if (
    !equal(body.mrsignerseam, unhex(identity.mrsigner, 48, TCB_INFO_MALFORMED)) ||
    !equal(masked(body.seamAttributes, mask), unhex(identity.attributes, 8, TCB_INFO_MALFORMED))
  ) {
    throw new MitaiError(
      "attest.tdx-module-mismatch",
      "the TDX module's signer or attributes are not those that Intel lists",
    );
  }
  return versioned ? [isvLevel(versioned.tcbLevels, body.teeTcbSvn[0] ?? 0, "TDX module")] : [];
}

function moduleVersion(body: TdReport): number {
  return body.teeTcbSvn[1] ?? 0;
}

function isvLevel(levels: readonly IsvLevel[], isvSvn: number, what: string): IsvLevel {
  const level = levels.find(({ tcb }) => tcb.isvsvn <= isvSvn);
  if (level === undefined) throw notSupported(what);
  return level;
}

/** The refusal of a platform, module or enclave that is below every level. */
function notSupported(what: string): MitaiError {
  return new MitaiError(
    "attest.tcb-not-supported",
    `the ${what} part is below every TCB level that Intel lists: NotSupported(${what})`,
  );
}

/** Tell whether each component has its security version; there are as many of one as of the other. */
function covers(svns: readonly number[], components: readonly { readonly svn: number }[]): boolean {
  return svns.length === components.length && components.every(({ svn }, at) => (svns[at] ?? -1) >= svn);
}

/** Lower the platform's status by that of its TDX module or quoting enclave (Intel QVL, `convergeTcbStatus`). */
function converge(platform: TcbStatus, part: TcbStatus): TcbStatus {
  if (part === "Revoked" || platform === "Revoked") return "Revoked";
  if (part === "UpToDate") return platform;
  if (part === "OutOfDate") {
    if (platform === "ConfigurationNeeded" || platform === "ConfigurationAndSWHardeningNeeded") {
      return "OutOfDateConfigurationNeeded";
    }
    return platform === "UpToDate" || platform === "SWHardeningNeeded" ? "OutOfDate" : platform;
  }
  throw new MitaiError(TCB_INFO_MALFORMED, `${part} is no status of a TDX module or quoting enclave`);
}

function masked(value: Bytes, mask: Bytes): Bytes {
  return value.map((byte, at) => byte & (mask[at] ?? 0));
}

function unhex(digits: string, size: number, code: string): Bytes {
  if (digits.length !== 2 * size || !/^[0-9A-Fa-f]*$/.test(digits)) {
    throw new MitaiError(code, `a field has not ${size} bytes in hex`);
  }
  return fromHex(digits.toLowerCase());
}
