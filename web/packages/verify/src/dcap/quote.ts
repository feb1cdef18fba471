/**
 * Intel DCAP quotes: SGX version 3, TDX versions 4 and 5, as bytes and as values.
 *
 * Port of `mitai/attest/dcap/quote.py`. Follows "Intel TDX DCAP Quoting Library API", appendix 3 (versions 4 and 5),
 * and "Intel SGX ECDSA QuoteLibReference DCAP API", appendix A (version 3).
 *
 * Invariants:
 * - Unknown versions, TEE types, key types, body types and certification data types are refused.
 * - Every length is exact. After the signature data only zero bytes may follow: some firmware returns its whole buffer.
 * - `signed` is exactly what the attestation key signed, taken from the bytes received.
 *
 * Example: `const quote = parseQuote(data); if (quote.body.tee === "tdx") hex(quote.body.mrtd);`
 */

import type { Bytes } from "../bytes.ts";
import { Reader } from "../checks.ts";
import { MitaiError } from "../errors.ts";

export const MAX_QUOTE_BYTES = 32 << 10; // a quote with its chain has about 5 KiB; some platforms pad to 8 or 16
export const INTEL_QE_VENDOR = "939a7233f79c4ca9940a0db3957f0607";
export const CERT_PCK_CHAIN = 5; // PEM of leaf, intermediate and root

const CERT_QE_REPORT = 6; // from version 4 on: QE report, its signature, and nested certification data
// The PCK certificate's identifiers, in the clear or encrypted: the chain must come with the collateral.
const CERT_OUT_OF_BAND = [1, 2, 3];
const TEE_SGX = 0x00;
const TEE_TDX = 0x81;
const ECDSA_P256 = 2;
const ENCLAVE_REPORT_BYTES = 384;
const TD_REPORT_10_BYTES = 584;
const TD_REPORT_15_BYTES = 648;
const TEE_TYPES = new Map([
  [3, TEE_SGX],
  [4, TEE_TDX],
  [5, TEE_TDX],
]);
const BODY_BYTES = new Map([
  [2, TD_REPORT_10_BYTES],
  [3, TD_REPORT_15_BYTES],
]);
const MALFORMED = "attest.quote-malformed";

/** The 48 bytes that every quote starts with. */
export interface Header {
  readonly version: number;
  readonly attestationKeyType: number;
  readonly teeType: number;
  readonly qeSvn: number;
  readonly pceSvn: number;
  readonly qeVendorId: Bytes;
  readonly userData: Bytes;
}

/** An SGX REPORT body, 384 bytes: an enclave's, or the quoting enclave's own. */
export interface EnclaveReport {
  readonly tee: "sgx";
  readonly cpuSvn: Bytes;
  readonly miscSelect: Bytes;
  readonly attributes: Bytes;
  readonly mrenclave: Bytes;
  readonly mrsigner: Bytes;
  readonly isvProdId: number;
  readonly isvSvn: number;
  readonly reportData: Bytes;
}

/** A TD report body: 1.0 (584 bytes), or 1.5 with the two fields at the end. */
export interface TdReport {
  readonly tee: "tdx";
  readonly teeTcbSvn: Bytes;
  readonly mrseam: Bytes;
  readonly mrsignerseam: Bytes;
  readonly seamAttributes: Bytes;
  readonly tdAttributes: Bytes;
  readonly xfam: Bytes;
  readonly mrtd: Bytes;
  readonly mrconfigid: Bytes;
  readonly mrowner: Bytes;
  readonly mrownerconfig: Bytes;
  readonly rtmrs: readonly [Bytes, Bytes, Bytes, Bytes];
  readonly reportData: Bytes;
  readonly teeTcbSvn2: Bytes | null;
  readonly mrservicetd: Bytes | null;
}

/** The signature data: what signs the quote, and what vouches for that key. */
export interface QuoteSignature {
  /** ECDSA r ‖ s over `Quote.signed`. */
  readonly signature: Bytes;
  /** P-256 x ‖ y. */
  readonly attestationKey: Bytes;
  /** Raw 384 bytes. */
  readonly qeReport: Bytes;
  /** ECDSA r ‖ s of the PCK key over `qeReport`. */
  readonly qeSignature: Bytes;
  readonly qeAuthData: Bytes;
  readonly certType: number;
  readonly certData: Bytes;
}

/** A quote of either TEE. */
export interface Quote {
  readonly header: Header;
  readonly body: TdReport | EnclaveReport;
  readonly signed: Bytes;
  readonly signature: QuoteSignature;
}

/** Parse a quote; throw `MitaiError` on anything that is not exactly one. */
export function parseQuote(data: Bytes): Quote {
  if (data.length > MAX_QUOTE_BYTES) {
    throw new MitaiError("attest.quote-too-large", `a quote of ${data.length} bytes is above the limit`);
  }
  const reader = new Reader(data, "the quote", MALFORMED);
  const header = readHeader(reader);
  const body = readBody(reader, header.version);
  const signed = data.subarray(0, reader.offset);
  const signatureData = reader.take(reader.u32());
  if (reader.rest().some((byte) => byte !== 0)) {
    throw new MitaiError(MALFORMED, "the quote's signature data is followed by bytes that are not zero");
  }
  return { header, body, signed, signature: readSignature(signatureData, header.version) };
}

/** Return a quote's own bytes and what follows them, for carriers that append bytes; parse the first part. */
export function splitQuote(data: Bytes): readonly [Bytes, Bytes] {
  const reader = new Reader(data, "the quote", MALFORMED);
  readBody(reader, readHeader(reader).version);
  const end = reader.u32() + reader.offset;
  return [data.subarray(0, end), data.subarray(end)];
}

function readHeader(reader: Reader): Header {
  const header = {
    version: reader.u16(),
    attestationKeyType: reader.u16(),
    teeType: reader.u32(),
    qeSvn: reader.u16(),
    pceSvn: reader.u16(),
    qeVendorId: reader.take(16),
    userData: reader.take(20),
  };
  const { version, teeType, attestationKeyType } = header;
  if (!TEE_TYPES.has(version)) {
    throw new MitaiError("attest.quote-version-unsupported", `quote version ${version} is not 3, 4 or 5`);
  }
  if (teeType !== TEE_TYPES.get(version)) {
    throw new MitaiError(
      "attest.quote-tee-unsupported",
      `TEE type 0x${teeType.toString(16)} does not belong in quote version ${version}`,
    );
  }
  if (attestationKeyType !== ECDSA_P256) {
    throw new MitaiError(
      "attest.quote-key-type-unsupported",
      `attestation key type ${attestationKeyType} is not ECDSA on P-256`,
    );
  }
  return header;
}

function readBody(reader: Reader, version: number): TdReport | EnclaveReport {
  if (version === 3) return parseEnclaveReport(reader.take(ENCLAVE_REPORT_BYTES));
  if (version === 4) return parseTdReport(reader.take(TD_REPORT_10_BYTES));
  const [bodyType, size] = [reader.u16(), reader.u32()];
  if (BODY_BYTES.get(bodyType) !== size) {
    throw new MitaiError(
      "attest.quote-body-unsupported",
      `body type ${bodyType} of ${size} bytes is no TD report 1.0 or 1.5`,
    );
  }
  return parseTdReport(reader.take(size));
}

/** Parse a TD report body of 584 or 648 bytes. */
export function parseTdReport(data: Bytes): TdReport {
  const reader = new Reader(data, "the TD report", MALFORMED);
  const register = () => reader.take(48);
  const report = {
    tee: "tdx" as const,
    teeTcbSvn: reader.take(16),
    mrseam: register(),
    mrsignerseam: register(),
    seamAttributes: reader.take(8),
    tdAttributes: reader.take(8),
    xfam: reader.take(8),
    mrtd: register(),
    mrconfigid: register(),
    mrowner: register(),
    mrownerconfig: register(),
    rtmrs: [register(), register(), register(), register()] as const,
    reportData: reader.take(64),
  };
  const [teeTcbSvn2, mrservicetd] = reader.left ? [reader.take(16), register()] : [null, null];
  reader.end();
  return { ...report, teeTcbSvn2, mrservicetd };
}

/** Parse an SGX REPORT body of 384 bytes. */
export function parseEnclaveReport(data: Bytes): EnclaveReport {
  if (data.length !== ENCLAVE_REPORT_BYTES) {
    throw new MitaiError(MALFORMED, `an enclave report has ${ENCLAVE_REPORT_BYTES} bytes, not ${data.length}`);
  }
  const versions = new Reader(data.subarray(256, 260), "the enclave report", MALFORMED);
  return {
    tee: "sgx",
    cpuSvn: data.subarray(0, 16),
    miscSelect: data.subarray(16, 20),
    attributes: data.subarray(48, 64),
    mrenclave: data.subarray(64, 96),
    mrsigner: data.subarray(128, 160),
    isvProdId: versions.u16(),
    isvSvn: versions.u16(),
    reportData: data.subarray(320, 384),
  };
}

function readSignature(data: Bytes, version: number): QuoteSignature {
  const outer = new Reader(data, "the quote's signature data", MALFORMED);
  const [signature, attestationKey] = [outer.take(64), outer.take(64)];
  const reader = version >= 4 ? certificationData(outer) : outer;
  const [qeReport, qeSignature] = [reader.take(ENCLAVE_REPORT_BYTES), reader.take(64)];
  const qeAuthData = reader.take(reader.u16());
  const certType = reader.u16();
  if (certType !== CERT_PCK_CHAIN && !CERT_OUT_OF_BAND.includes(certType)) {
    throw new MitaiError(
      "attest.quote-cert-type-unsupported",
      `certification data of type ${certType} is not supported`,
    );
  }
  const certData = reader.take(reader.u32());
  reader.end();
  return { signature, attestationKey, qeReport, qeSignature, qeAuthData, certType, certData };
}

/** Return a reader over the QE's certification data, which must be all that is left. */
function certificationData(outer: Reader): Reader {
  const type = outer.u16();
  if (type !== CERT_QE_REPORT) {
    throw new MitaiError("attest.quote-cert-type-unsupported", `certification data of type ${type}, expected 6`);
  }
  const nested = new Reader(outer.take(outer.u32()), "the QE certification data", MALFORMED);
  outer.end();
  return nested;
}
