/**
 * Stage `verify-attestation-sev` of the conformance suite, through the ordinary verifier. Port of
 * `mitai/attest/conformance/sev.py`, which says what differs from what a client does; refusals keep our codes.
 */
import { constants, gunzipSync } from "node:zlib";
import { type Bytes, hex, utf8 } from "../packages/verify/src/bytes.ts";
import { Checklist } from "../packages/verify/src/checks.ts";
import { MitaiError } from "../packages/verify/src/errors.ts";
import {
  boolean,
  bytes,
  type Decoded,
  integer,
  nullable,
  oneOf,
  optional,
  string,
  struct,
} from "../packages/verify/src/json.ts";
import { section } from "../packages/verify/src/sections.ts";
import { type Product, parseReport, REPORT_BYTES } from "../packages/verify/src/snp/report.ts";
import { AMD, published, type Trust } from "../packages/verify/src/snp/roots.ts";
import { PRODUCTS, type SnpRules, snpRules, snpTcb } from "../packages/verify/src/snp/rules.ts";
import { appraiseSnp } from "../packages/verify/src/snp/verify.ts";
import { type Certificate, parseChain, verifyChain } from "../packages/verify/src/x509.ts";
import { pem, pin, Rejected, readInput } from "./conformance.ts";

const SUITE_TCB = snpTcb({ bootloader: 7, snp: 14, microcode: 72 });
const ONLY_SOUND: Partial<SnpRules> = { signingKeys: ["vcek"], allowMaskedChipKey: true };
const SUITE_RULES: Partial<SnpRules> = {
  ...ONLY_SOUND,
  minFirmware: [1, 55, 21],
  allowProvisionalFirmware: false,
  policyForbidden: ["debug", "migrate-ma", "cxl-allow", "mem-aes-256-xts"],
  platformRequired: ["tsme"],
};

const pinned = optional(nullable(string), null);
const level = (least: number) => optional(integer(0, 0xff), least);
const POLICY = struct({
  expected_measurement_hex: pinned,
  expected_host_data_hex: pinned,
  expected_report_data_hex: pinned,
  expected_id_key_digest_hex: pinned,
  expected_author_key_digest_hex: pinned,
  min_tcb_bl_spl: level(SUITE_TCB.bootloader),
  min_tcb_tee_spl: level(SUITE_TCB.tee),
  min_tcb_snp_spl: level(SUITE_TCB.snp),
  min_tcb_ucode_spl: level(SUITE_TCB.microcode),
  enforce_spec_defaults: optional(boolean, true),
});
const INPUT = struct({
  schema_version: oneOf("1"),
  attestation_doc_b64: bytes,
  vcek_der_b64: bytes,
  expiration_check_date_unix: integer(),
  amd_root_ca_pem: pinned,
  ask_pem: pinned,
  policy: section(POLICY),
});

export async function verifyAttestationSev({ input }: { readonly input: Bytes }): Promise<object> {
  const given = readInput(input, INPUT);
  const now = new Date(1000 * given.expirationCheckDateUnix);
  const quote = decompress(given.attestationDocB64);
  const { trust, endorsements } = await trustOf(given, now);
  endorsements.set("vek", given.vcekDerB64);
  const hardware = { tee: "snp", quote, endorsements, eventLog: new Uint8Array(), collateral: null };
  const machine = await appraiseSnp(new Checklist(), hardware, rulesOf(given.policy), { now, trust });
  const { policy } = given;
  const report = parseReport(quote);
  pin(policy.expectedMeasurementHex, hex(report.measurement), "MEASUREMENT_MISMATCH");
  pin(policy.expectedHostDataHex, hex(report.hostData), "HOST_DATA_MISMATCH");
  pin(policy.expectedReportDataHex, hex(report.reportData), "REPORT_DATA_MISMATCH");
  pin(policy.expectedIdKeyDigestHex, hex(report.idKeyDigest), "ID_KEY_DIGEST_MISMATCH");
  pin(policy.expectedAuthorKeyDigestHex, hex(report.authorKeyDigest), "AUTHOR_KEY_DIGEST_MISMATCH");
  return { registers: [machine.measurements.get("measurement")] };
}

function decompress(data: Bytes): Bytes {
  let report: Bytes;
  try {
    const [finishFlush, maxOutputLength] = [constants.Z_SYNC_FLUSH, 1 << 24];
    report = new Uint8Array(gunzipSync(data, { finishFlush, maxOutputLength }));
  } catch {
    throw new Rejected("REPORT_FORMAT_UNSUPPORTED");
  }
  if (report.length < REPORT_BYTES) throw new Rejected("REPORT_TRUNCATED");
  return report;
}

function rulesOf(policy: Decoded<typeof POLICY>): SnpRules {
  const least = snpTcb({
    bootloader: policy.minTcbBlSpl,
    tee: policy.minTcbTeeSpl,
    snp: policy.minTcbSnpSpl,
    microcode: policy.minTcbUcodeSpl,
  });
  const launch = policy.enforceSpecDefaults ? SUITE_TCB : snpTcb({});
  return snpRules({
    ...(policy.enforceSpecDefaults ? SUITE_RULES : ONLY_SOUND),
    minTcb: new Map(PRODUCTS.map((product) => [product, least])),
    minLaunchTcb: new Map(PRODUCTS.map((product) => [product, launch])),
  });
}

/** Return the trusted roots and, where ASK or ARK are injected, the chain. */
async function trustOf(
  given: Decoded<typeof INPUT>,
  now: Date,
): Promise<{ trust: Trust; endorsements: Map<string, Bytes> }> {
  const [injectedAsk, injectedArk] = [await one(given.askPem), await one(given.amdRootCaPem)];
  const first = injectedAsk ?? injectedArk;
  if (!first) return { trust: AMD, endorsements: new Map() };
  const product = first.commonName.split("-").at(-1) ?? "";
  const profile = { ...AMD.profile, usageOptional: true };
  const known = await published();
  const ask = injectedAsk ?? known.find(({ commonName }) => commonName === `SEV-${product}`);
  const ark = injectedArk ?? known.find(({ commonName }) => commonName === `ARK-${product}`);
  if (!isProduct(product) || !ask || !ark) {
    throw new MitaiError("attest.snp-root-untrusted", "an injected certificate is named after no product of AMD's");
  }
  await verifyChain([ark, ark], "snp", now, profile); // its own signature
  const endorsements = new Map([["chain", utf8(pem(ask.der) + pem(ark.der))]]);
  return { trust: { roots: new Map([[ark.fingerprint, product]]), profile }, endorsements };
}

function isProduct(name: string): name is Product {
  return PRODUCTS.includes(name);
}

async function one(text: string | null): Promise<Certificate | undefined> {
  if (text === null) return undefined;
  const [certificate, ...others] = await parseChain(utf8(text), "attest.snp-chain-malformed");
  if (!certificate || others.length) throw new MitaiError("attest.snp-chain-malformed", "not one certificate");
  return certificate;
}
