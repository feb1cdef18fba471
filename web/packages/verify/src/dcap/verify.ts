/**
 * From a quote to its platform: the signature chain.
 *
 * Port of `mitai/attest/dcap/verify.py`. Follows "Intel TDX DCAP Quoting Library API", appendix 3, and the checks of
 * Intel's QuoteVerificationLibrary: attestation key → QE report → PCK certificate → PCK CA → root.
 *
 * Invariants:
 * - The attestation key is used only because the QE's report data is SHA-256(attestation key ‖ authentication data),
 *   and that report is signed by the PCK key, and that key's chain ends in a root that the caller trusts and is on no
 *   revocation list.
 * - Nothing of the quote is reported before its signature was checked.
 */

import { type Bytes, concat, equal, hex, sha256, utf8 } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import { publicKey, verifySignature } from "../keys.ts";
import { earliest, latest, within } from "../time.ts";
import { type Certificate, ecKey, parseChain, quoted, verifyChain } from "../x509.ts";
import { isPckCa, type VerifiedChain, type VerifiedCollateral } from "./collateral.ts";
import { pckTcb } from "./pck.ts";
import { CERT_PCK_CHAIN, type EnclaveReport, parseEnclaveReport, type Quote } from "./quote.ts";
import { checkQeIdentity } from "./tcb.ts";

const MAX_CHAINS = 256; // per collateral: one chain a platform
const CHAIN_INVALID = "attest.pck-chain-invalid";

/** A quote's certificate chain, parsed but not yet verified, and the root that it claims. */
export interface PckChain {
  readonly pem: Bytes;
  readonly leaf: Certificate;
  readonly intermediate: Certificate;
  readonly root: Certificate;
}

/** Return the chain that came with the collateral or, where none came, the one in the quote. */
export async function findPckChain(quote: Quote, outOfBand: string | null): Promise<PckChain> {
  const { certType, certData } = quote.signature;
  if (outOfBand === null && certType !== CERT_PCK_CHAIN) {
    throw new MitaiError(
      "attest.pck-chain-incomplete",
      "the quote carries no PCK certificate, and none came with the collateral",
    );
  }
  const pem = outOfBand === null ? certData : utf8(outOfBand);
  const chain = await parseChain(pem, CHAIN_INVALID);
  const [leaf, intermediate, root] = chain;
  if (leaf === undefined || intermediate === undefined || root === undefined || chain.length !== 3) {
    throw new MitaiError(
      "attest.pck-chain-incomplete",
      `the PCK chain has ${chain.length} certificates, not leaf, CA and root`,
    );
  }
  return { pem, leaf, intermediate, root };
}

/**
 * Check that the chain's root is trusted; return whether it is a simulated one.
 *
 * `roots` is the SHA-256 fingerprint of each trusted root, and whether it is a simulated one. `allowSimulation` is the
 * verifier's decision; what the evidence says about itself does not matter.
 */
export function checkRoot(chain: PckChain, roots: ReadonlyMap<string, boolean>, allowSimulation: boolean): boolean {
  const { fingerprint, commonName } = chain.root;
  const simulated = roots.get(fingerprint);
  const name = quoted(chain.root);
  if (simulated === undefined && !commonName.includes("Simulation")) {
    throw new MitaiError(
      "attest.root-untrusted",
      `the chain ends in the root ${name}, which the policy does not trust`,
    );
  }
  if (simulated !== false && !allowSimulation) {
    throw new MitaiError(
      "attest.simulation-refused",
      `the chain ends in the root ${name}: a simulated machine, and the policy demands real hardware`,
      "simulation proves nothing about hardware; for a trial, allow it and name its root in the policy",
    );
  }
  if (simulated === undefined) {
    throw new MitaiError(
      "attest.simulated-root-unknown",
      `the simulated root sha256:${fingerprint} is none of the policy's sim_roots`,
    );
  }
  return simulated;
}

/** Check the chain and that nobody revoked it; remember it for as long as it and the collateral live. */
export async function verifyPckChain(
  chain: PckChain,
  collateral: VerifiedCollateral,
  now: Date,
): Promise<VerifiedChain> {
  const digest = hex(await sha256(chain.pem));
  const known = collateral.chains.get(digest);
  if (known !== undefined && within(known.notBefore, now, known.notAfter)) return known;
  const { leaf, intermediate, root } = chain;
  if (root.fingerprint !== collateral.rootFingerprint) {
    throw new MitaiError(CHAIN_INVALID, "the PCK chain and the collateral end in different roots");
  }
  if (!leaf.commonName.includes("SGX PCK Certificate") || !isPckCa(intermediate)) {
    throw new MitaiError(CHAIN_INVALID, `${quoted(leaf)} under ${quoted(intermediate)} is no PCK chain`);
  }
  const certificates = [leaf, intermediate, root];
  await verifyChain(certificates, "pck", now);
  const issuer = collateral.pckCrlIssuer;
  if (!equal(intermediate.subject.der, issuer.subject.der) || !equal(intermediate.spki, issuer.spki)) {
    throw new MitaiError("attest.pck-crl-issuer-mismatch", `the PCK revocation list is not of ${quoted(intermediate)}`);
  }
  collateral.rootCrl.refuseRevoked(intermediate, "attest.intermediate-revoked");
  collateral.pckCrl.refuseRevoked(leaf, "attest.pck-revoked");
  const verified = {
    leaf,
    tcb: pckTcb(leaf),
    notBefore: latest(...certificates.map(({ notBefore }) => notBefore)),
    notAfter: earliest(...certificates.map(({ notAfter }) => notAfter)),
  };
  collateral.chains.set(digest, verified);
  for (const oldest of collateral.chains.keys()) {
    if (collateral.chains.size <= MAX_CHAINS) break;
    collateral.chains.delete(oldest);
  }
  return verified;
}

/** Check PCK key → QE report → attestation key → quote; return the quoting enclave's report. */
export async function verifyQuoteSignature(quote: Quote, leaf: Certificate): Promise<EnclaveReport> {
  const parts = quote.signature;
  await verifySignature(
    ecKey(leaf),
    parts.qeSignature,
    parts.qeReport,
    "attest.qe-report-signature-invalid",
    "the quoting enclave's report is not signed by the platform's PCK key",
  );
  const qeReport = parseEnclaveReport(parts.qeReport);
  const binding = await sha256(parts.attestationKey, parts.qeAuthData);
  if (!equal(qeReport.reportData, concat(binding, new Uint8Array(32)))) {
    throw new MitaiError(
      "attest.attestation-key-unbound",
      "the quoting enclave does not vouch for the key that signs the quote",
    );
  }
  const invalid = "attest.quote-signature-invalid";
  await verifySignature(
    await publicKey(parts.attestationKey, invalid),
    parts.signature,
    quote.signed,
    invalid,
    "the quote is not signed by its attestation key: a byte of it was changed",
  );
  return qeReport;
}

/** Check that the quoting enclave is Intel's. */
export function checkQe(quote: Quote, qeReport: EnclaveReport, collateral: VerifiedCollateral): void {
  checkQeIdentity(qeReport, collateral.qeIdentity, quote.body.tee === "tdx" ? "TD_QE" : "QE");
}
