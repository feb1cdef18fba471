/**
 * Stage `verify-attestation-tdx` of the conformance suite, through the ordinary checks. Port of
 * `mitai/attest/conformance/tdx.py`, which says what differs from what a client does; refusals keep our codes.
 *
 * `signing_chain` is the chain of Intel's TCB signing certificate of 2018, which the suite's recordings leave out.
 */
import { type Bytes, fromHex, hex, utf8 } from "../packages/verify/src/bytes.ts";
import { refusing } from "../packages/verify/src/checks.ts";
import { verifyCollateral } from "../packages/verify/src/dcap/collateral.ts";
import { parseQuote, splitQuote } from "../packages/verify/src/dcap/quote.ts";
import { INTEL_SGX_ROOT_CA_SHA256 } from "../packages/verify/src/dcap/roots.ts";
import { evaluateTcb } from "../packages/verify/src/dcap/tcb.ts";
import {
  checkQe,
  checkRoot,
  findPckChain,
  verifyPckChain,
  verifyQuoteSignature,
} from "../packages/verify/src/dcap/verify.ts";
import {
  array,
  boolean,
  bytes,
  type Decoded,
  decodeJson,
  dictionary,
  integer,
  type Json,
  nullable,
  oneOf,
  optional,
  string,
  struct,
} from "../packages/verify/src/json.ts";
import type { Collateral } from "../packages/verify/src/machine.ts";
import { Policy } from "../packages/verify/src/policy.ts";
import { section, type TdxRules } from "../packages/verify/src/sections.ts";
import { checkTd } from "../packages/verify/src/tdx.ts";
import { parseChain } from "../packages/verify/src/x509.ts";
import { pem, pin, Rejected, readInput } from "./conformance.ts";

const NOT_TERMINAL = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"];
const pinned = optional(nullable(string), null);

const COLLATERAL = struct({
  tcb_info_json: string,
  qe_identity_json: string,
  pck_crl_der_b64: bytes,
  root_crl_der_b64: bytes,
  intel_root_ca_pem: pinned,
  tcb_info_issuer_chain_pem: pinned,
  qe_identity_issuer_chain_pem: pinned,
  pck_crl_issuer_chain_pem: pinned,
});
const POLICY = struct({
  tcb_evaluation_required: optional(boolean, true),
  enforce_spec_defaults: optional(boolean, false),
  min_tcb_evaluation_data_number: optional(integer(), 0),
  expected_fmspc_hex: pinned,
  expected_td_attributes_hex: pinned,
  expected_xfam_hex: pinned,
  expected_mr_signer_seam_hex: pinned,
  expected_seam_attributes_hex: pinned,
  expected_mrseam_allowlist: optional(array(string), []),
  expected_mrtd_hex: pinned,
  expected_rtmr3_hex: pinned,
  expected_report_data_hex: pinned,
  expected_mr_config_id_hex: pinned,
  expected_mr_owner_hex: pinned,
  expected_mr_owner_config_hex: pinned,
  min_tee_tcb_svn_hex: pinned,
  expected_qe_vendor_id_hex: pinned,
});
const INPUT = struct({
  schema_version: oneOf("1"),
  quote_b64: bytes,
  collateral: COLLATERAL,
  expiration_check_date_unix: integer(),
  policy: section(POLICY),
});

export async function verifyAttestationTdx(given: { input: Bytes; signingChain: string }): Promise<object> {
  const input = readInput(given.input, INPUT);
  const { policy } = input;
  const now = new Date(1000 * input.expirationCheckDateUnix);
  const quote = parseQuote(splitQuote(input.quoteB64)[0]);
  const { body, header } = quote;
  if (body.tee !== "tdx") throw new Rejected("QUOTE_FORMAT_UNSUPPORTED");
  const chain = await findPckChain(quote, null);
  const root = await rootFingerprint(input.collateral.intelRootCaPem);
  checkRoot(chain, new Map([[root, false]]), false);
  const issuers = pem(chain.intermediate.der) + pem(chain.root.der);
  const verified = await verifyCollateral(collateralOf(input.collateral, given.signingChain, issuers), root, now);
  const platform = await verifyPckChain(chain, verified, now);
  const qeReport = await verifyQuoteSignature(quote, platform.leaf);
  checkQe(quote, qeReport, verified);
  pin(policy.expectedFmspcHex, hex(platform.tcb.fmspc), "PCK_FMSPC_MISMATCH");
  if (policy.tcbEvaluationRequired) {
    const result = evaluateTcb(body, platform.tcb, qeReport, verified.tcbInfo, verified.qeIdentity);
    if (result.evaluationNumber < policy.minTcbEvaluationDataNumber) throw new Rejected("TCB_EVAL_DATA_NUMBER_TOO_LOW");
    if (!NOT_TERMINAL.includes(result.status)) {
      throw new Rejected(result.status === "Revoked" ? "TCB_REVOKED" : "QV_RESULT_NOT_ACCEPTED_BY_POLICY");
    }
  }
  checkTd(header, body, rulesOf(policy));
  pin(policy.expectedMrtdHex, hex(body.mrtd), "MRTD_MISMATCH");
  pin(policy.expectedRtmr3Hex, hex(body.rtmrs[3] ?? new Uint8Array()), "RTMR3_NONZERO");
  pin(policy.expectedReportDataHex, hex(body.reportData), "REPORT_DATA_MISMATCH");
  return { registers: [body.mrtd, ...body.rtmrs].map(hex) };
}

function rulesOf(policy: Decoded<typeof POLICY>): TdxRules {
  const spec = { ...Policy.fromToml("").tdx, tdAttributesRequired: "00".repeat(8) }; // they don't demand SEPT_VE_DISABLE
  const open = {
    ...spec,
    tdAttributesAllowed: "ff".repeat(8),
    xfamRequired: "00".repeat(8),
    xfamAllowed: "ff".repeat(8),
    mrsignerseam: "any",
    seamAttributes: "any",
    mrservicetd: "any",
  };
  const rules = policy.enforceSpecDefaults ? spec : open;
  return {
    tdAttributesRequired: policy.expectedTdAttributesHex ?? rules.tdAttributesRequired,
    tdAttributesAllowed: policy.expectedTdAttributesHex ?? rules.tdAttributesAllowed,
    xfamRequired: policy.expectedXfamHex ?? rules.xfamRequired,
    xfamAllowed: policy.expectedXfamHex ?? rules.xfamAllowed,
    mrsignerseam: policy.expectedMrSignerSeamHex ?? rules.mrsignerseam,
    seamAttributes: policy.expectedSeamAttributesHex ?? rules.seamAttributes,
    mrservicetd: rules.mrservicetd,
    mrseam: policy.expectedMrseamAllowlist,
    mrconfigid: policy.expectedMrConfigIdHex ?? rules.mrconfigid,
    mrowner: policy.expectedMrOwnerHex ?? rules.mrowner,
    mrownerconfig: policy.expectedMrOwnerConfigHex ?? rules.mrownerconfig,
    minTeeTcbSvn: policy.minTeeTcbSvnHex ?? rules.minTeeTcbSvn,
    qeVendorId: policy.expectedQeVendorIdHex ?? rules.qeVendorId,
  };
}

async function rootFingerprint(injected: string | null): Promise<string> {
  if (injected === null) return INTEL_SGX_ROOT_CA_SHA256;
  const [root, ...others] = await parseChain(utf8(injected), "attest.root-untrusted");
  if (!root || others.length) throw new Rejected("ROOT_CA_UNTRUSTED");
  return root.fingerprint;
}

function collateralOf(given: Decoded<typeof COLLATERAL>, signingChain: string, pckCaChain: string): Collateral {
  const tcb = signed(given.tcbInfoJson, "tcbInfo", "attest.tcb-info-signature-invalid");
  const qe = signed(given.qeIdentityJson, "enclaveIdentity", "attest.qe-identity-signature-invalid");
  return {
    tcbInfo: tcb.text,
    tcbInfoSignature: tcb.signature,
    tcbInfoIssuerChain: given.tcbInfoIssuerChainPem || signingChain,
    qeIdentity: qe.text,
    qeIdentitySignature: qe.signature,
    qeIdentityIssuerChain: given.qeIdentityIssuerChainPem || signingChain,
    rootCaCrl: given.rootCrlDerB64,
    pckCrl: given.pckCrlDerB64,
    pckCrlIssuerChain: given.pckCrlIssuerChainPem || pckCaChain,
    pckCertificateChain: null,
  };
}

/** Return the exact text of the signed member, and the signature beside it. */
function signed(json: string, member: string, code: string): { text: string; signature: Bytes } {
  const why = "signed JSON is malformed";
  const members = decodeJson(utf8(json), dictionary(anything), code, why);
  return refusing(code, why, () => {
    const signature = fromHex(string(members.get("signature") ?? null).toLowerCase());
    const body = new RegExp(`^\\s*\\{\\s*"${member}"\\s*:\\s*(.*\\})\\s*,\\s*"signature"`, "s").exec(json)?.[1];
    if (body === undefined || members.size !== 2) throw new RangeError("not what is signed, and then the signature");
    return { text: body, signature };
  });
}

function anything(value: Json): Json {
  return value;
}
