/**
 * Collateral: what Intel says about a platform on a given day, and the proof that Intel said it.
 *
 * Port of `mitai/attest/dcap/collateral.py`. Follows "Intel SGX and TDX Provisioning Certification Service API" version
 * 4 (TCB info version 3, enclave identity version 2, CRLs) and Intel's QuoteVerificationLibrary for the order and
 * meaning of the checks.
 *
 * Invariants:
 * - Signatures are checked over the exact bytes received; JSON is parsed only afterwards.
 * - Every chain ends in the one root that the caller names by fingerprint.
 * - A `VerifiedCollateral` knows the window in which it may be used; outside of it, it is refused.
 */

import { type Bytes, fromHex, utf8 } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import { decodeJson, type Json, nullable, optional, string, struct } from "../json.ts";
import { verifySignature } from "../keys.ts";
import type { Collateral } from "../machine.ts";
import { earliest, latest, show, within } from "../time.ts";
import { type Certificate, ecKey, parseChain, quoted, type RevocationList, verifyChain, verifyCrl } from "../x509.ts";
import type { PckTcb } from "./pck.ts";
import { parseQeIdentity, parseTcbInfo, type QeIdentity, type TcbInfo } from "./tcb.ts";

export const MAX_COLLATERAL_BYTES = 1 << 20;
const MALFORMED = "attest.collateral-malformed";

/** A PCK chain that was verified under some collateral. */
export interface VerifiedChain {
  readonly leaf: Certificate;
  readonly tcb: PckTcb;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/** Collateral whose every signature holds; use it for any number of quotes inside its window. */
export interface VerifiedCollateral {
  readonly rootFingerprint: string;
  readonly tcbInfo: TcbInfo;
  readonly qeIdentity: QeIdentity;
  readonly rootCrl: RevocationList;
  readonly pckCrl: RevocationList;
  readonly pckCrlIssuer: Certificate;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** PCK chains that were verified under it, by SHA-256 of their PEM. */
  readonly chains: Map<string, VerifiedChain>;
}

function hexBytes(value: Json): Bytes {
  return fromHex(string(value).toLowerCase());
}

const QUOTE_COLLATERAL_V3 = struct({
  tcb_info: string,
  tcb_info_signature: hexBytes,
  tcb_info_issuer_chain: string,
  qe_identity: string,
  qe_identity_signature: hexBytes,
  qe_identity_issuer_chain: string,
  root_ca_crl: hexBytes,
  pck_crl: hexBytes,
  pck_crl_issuer_chain: string,
  pck_certificate_chain: optional(nullable(string), null),
});

/** Parse the JSON form of Intel's `QuoteCollateralV3`: the same names, binary parts in hex. */
export function fromQuoteCollateralV3(data: Bytes): Collateral {
  if (data.length > MAX_COLLATERAL_BYTES) {
    throw new MitaiError(MALFORMED, `collateral of ${data.length} bytes is above the limit`);
  }
  return decodeJson(data, QUOTE_COLLATERAL_V3, MALFORMED, "these bytes are not a QuoteCollateralV3");
}

/**
 * Check chains, signatures and windows of all parts.
 *
 * `rootFingerprint` is SHA-256 of the root certificate in which every chain must end, in hex; `graceS` says for how
 * many seconds TCB info, QE identity and CRLs may be past their end.
 */
export async function verifyCollateral(
  collateral: Collateral,
  rootFingerprint: string,
  now: Date,
  graceS = 0,
): Promise<VerifiedCollateral> {
  // TCB info
  const tcbChain = await signingChain(collateral.tcbInfoIssuerChain, "tcb-info", rootFingerprint, now);
  const tcbBytes = utf8(collateral.tcbInfo);
  await checkSignature(tcbChain.issuer, collateral.tcbInfoSignature, tcbBytes, "tcb-info");
  const tcbInfo = parseTcbInfo(tcbBytes);
  checkWindow("tcb-info", tcbInfo.issueDate, later(tcbInfo.nextUpdate, graceS), now);
  // QE identity; Intel's service sends the same chain with both
  const qeChain =
    collateral.qeIdentityIssuerChain === collateral.tcbInfoIssuerChain
      ? tcbChain
      : await signingChain(collateral.qeIdentityIssuerChain, "qe-identity", rootFingerprint, now);
  const qeBytes = utf8(collateral.qeIdentity);
  await checkSignature(qeChain.issuer, collateral.qeIdentitySignature, qeBytes, "qe-identity");
  const qeIdentity = parseQeIdentity(qeBytes);
  checkWindow("qe-identity", qeIdentity.issueDate, later(qeIdentity.nextUpdate, graceS), now);
  // Revocation lists: the root's own, and that of the CA which issues PCK certificates
  const rootCrl = await verifyCrl(collateral.rootCaCrl, tcbChain.root, "root-crl");
  checkWindow("root-crl", rootCrl.notBefore, later(rootCrl.notAfter, graceS), now);
  const crlChain = await readChain(collateral.pckCrlIssuerChain, "pck-crl", rootFingerprint, now);
  if (!isPckCa(crlChain.issuer)) {
    throw new MitaiError("attest.pck-crl-chain-invalid", `${quoted(crlChain.issuer)} is no PCK CA`);
  }
  const pckCrl = await verifyCrl(collateral.pckCrl, crlChain.issuer, "pck-crl");
  checkWindow("pck-crl", pckCrl.notBefore, later(pckCrl.notAfter, graceS), now);
  for (const { issuer } of [tcbChain, qeChain]) rootCrl.refuseRevoked(issuer, "attest.tcb-signing-revoked");
  rootCrl.refuseRevoked(crlChain.issuer, "attest.intermediate-revoked");

  const certificates = [tcbChain, qeChain, crlChain].flatMap(({ issuer, root }) => [issuer, root]);
  const signed = [tcbInfo, qeIdentity];
  const lists = [rootCrl, pckCrl];
  return {
    rootFingerprint,
    tcbInfo,
    qeIdentity,
    rootCrl,
    pckCrl,
    pckCrlIssuer: crlChain.issuer,
    notBefore: latest(
      ...signed.map(({ issueDate }) => issueDate),
      ...[...lists, ...certificates].map(({ notBefore }) => notBefore),
    ),
    notAfter: earliest(
      ...signed.map(({ nextUpdate }) => later(nextUpdate, graceS)),
      ...lists.map(({ notAfter }) => later(notAfter, graceS)),
      ...certificates.map(({ notAfter }) => notAfter),
    ),
    chains: new Map(),
  };
}

/** Tell whether the certificate names itself one of the two CAs that issue PCK certificates. */
export function isPckCa({ commonName }: Certificate): boolean {
  return commonName.includes("SGX PCK Platform CA") || commonName.includes("SGX PCK Processor CA");
}

interface Chain {
  readonly issuer: Certificate;
  readonly root: Certificate;
}

async function readChain(pem: string, what: string, rootFingerprint: string, now: Date): Promise<Chain> {
  const code = `attest.${what}-chain-invalid`;
  const chain = await parseChain(utf8(pem), code);
  const [issuer, root] = chain;
  if (issuer === undefined || root === undefined || chain.length !== 2) {
    throw new MitaiError(code, `the chain has ${chain.length} certificates, not issuer and root`);
  }
  if (root.fingerprint !== rootFingerprint) {
    throw new MitaiError(code, "the chain does not end in the root that the quote's chain ends in");
  }
  await verifyChain(chain, what, now);
  return { issuer, root };
}

async function signingChain(pem: string, what: string, rootFingerprint: string, now: Date): Promise<Chain> {
  const chain = await readChain(pem, what, rootFingerprint, now);
  if (!chain.issuer.commonName.includes("SGX TCB Signing")) {
    throw new MitaiError(`attest.${what}-chain-invalid`, `${quoted(chain.issuer)} is no TCB signing certificate`);
  }
  return chain;
}

async function checkSignature(issuer: Certificate, signature: Bytes, message: Bytes, what: string): Promise<void> {
  const why = `the ${what} is not signed by ${quoted(issuer)}`;
  await verifySignature(ecKey(issuer), signature, message, `attest.${what}-signature-invalid`, why);
}

function later(moment: Date, graceS: number): Date {
  const end = new Date(moment.getTime() + 1000 * graceS);
  return end.getUTCFullYear() <= 9999 ? end : moment; // the end of the calendar
}

function checkWindow(what: string, start: Date, end: Date, now: Date): void {
  if (within(start, now, end)) return;
  throw new MitaiError(
    `attest.${what}-expired`,
    `the ${what} is valid from ${show(start)} to ${show(end)} UTC, not on ${show(now)}`,
    "fetch fresh collateral, and check this machine's clock",
  );
}
