/**
 * The sections of an appraisal policy, one per TEE and shared ones: names, types, defaults, and what values can't be.
 *
 * Port of the `rules.py` of `mitai/attest`; members in the same order, since a policy's digest is over all of them.
 *
 * Invariants:
 * - What is not said is strict. A section of a TEE that no verifier here knows is read like any other, so that a policy
 *   has one meaning and one digest everywhere.
 * - Not checked here: that a key under `[cca]` is a point of its curve.
 */

import { INTEL_QE_VENDOR } from "./dcap/quote.ts";
import { ANY } from "./fields.ts";
import {
  array,
  bigint,
  boolean,
  checked,
  type Decoded,
  type Decoder,
  dictionary,
  integer,
  type Json,
  JsonObject,
  nullable,
  type Optional,
  oneOf,
  optional,
  pattern,
  string,
  struct,
} from "./json.ts";
import { snpRules, snpTcb } from "./snp/rules.ts";

const ZERO_48 = "00".repeat(48);

const flag = (value: boolean) => optional(boolean, value);
const number = (value: number, least = Number.MIN_SAFE_INTEGER) => optional(integer(least), value);
const list = <T>(decoder: Decoder<T>, value: readonly T[] = []) => optional(array(decoder), value);
const byName = <T>(decoder: Decoder<T>) => optional(dictionary(decoder), new Map<string, T>());
const any = (decoder: Decoder<string>) => optional(decoder, ANY);

/** So many bytes in lower-case hex. */
export function hexOf(...sizes: readonly number[]): Decoder<string> {
  return checked(pattern(/^(?:[0-9a-f]{2})*$/), (digits) => {
    if (!sizes.includes(digits.length / 2)) throw new RangeError(`not ${sizes.join(" or ")} bytes in lower-case hex`);
  });
}

function hexOrAny(...sizes: readonly number[]): Decoder<string> {
  return (value) => (value === ANY ? ANY : hexOf(...sizes)(value));
}

function among(...known: readonly string[]): Decoder<string> {
  return oneOf(...known);
}

/** An optional section: what it says, or its defaults. */
export function section<T>(decoder: Decoder<T>): Optional<T> {
  return optional(decoder, decoder(new JsonObject([])));
}

export const tcb = struct({
  accepted_statuses: list(
    among(
      "UpToDate",
      "SWHardeningNeeded",
      "ConfigurationNeeded",
      "ConfigurationAndSWHardeningNeeded",
      "OutOfDate",
      "OutOfDateConfigurationNeeded",
    ), // what Intel has revoked can't be accepted
    ["UpToDate"],
  ),
  accepted_advisories: list(string), // every reported advisory must be listed; "any" accepts all
  min_evaluation_number: number(0, 0), // Intel's tcbEvaluationDataNumber, of TCB info and QE identity
  collateral_grace_s: number(0, 0), // how long TCB info, QE identity and CRLs may be past their end
  fmspc: list(hexOf(6)), // the only kinds of machine that are accepted; empty: all
  pce_ids: list(hexOf(2)), // the only provisioning certification enclaves that are accepted; empty: all
  second_opinion: flag(false), // ask another implementation too: not in a browser
});
export type TcbRules = Decoded<typeof tcb>;

/** Masks and registers in the byte order of the quote. */
export const tdx = struct({
  td_attributes_required: optional(hexOf(8), "0000001000000000"), // SEPT_VE_DISABLE
  td_attributes_allowed: optional(hexOf(8), "000000d000000080"), // SEPT_VE_DISABLE, PKS, KL, PERFMON
  xfam_required: optional(hexOf(8), "0300000000000000"), // FP and SSE
  xfam_allowed: optional(hexOf(8), "e7db060000000000"), // XFAM_FIXED0 of TDX module 1.x
  mrsignerseam: optional(hexOrAny(48), ZERO_48), // the TDX module is Intel's
  seam_attributes: optional(hexOrAny(8), "0000000000000000"),
  mrservicetd: optional(hexOrAny(48), ZERO_48), // no service TD, hence no migration
  mrseam: list(hexOf(48)), // allow-list; empty: any that Intel's TCB info accepts
  mrconfigid: any(hexOrAny(48)),
  mrowner: any(hexOrAny(48)),
  mrownerconfig: any(hexOrAny(48)),
  min_tee_tcb_svn: optional(hexOf(16), "00".repeat(16)), // per component
  qe_vendor_id: optional(hexOf(16), INTEL_QE_VENDOR),
});
export type TdxRules = Decoded<typeof tdx>;

/** What an SGX enclave must look like; empty lists pin nothing. */
export const sgx = struct({
  mrenclave: list(hexOf(32)),
  mrsigner: list(hexOf(32)),
  isv_prod_id: optional(nullable(integer()), null),
  min_isv_svn: number(0),
  allow_debug: flag(false),
});
export type SgxRules = Decoded<typeof sgx>;

const SNP_DEFAULTS = snpRules();

function firmware(value: Json): readonly [number, number, number] {
  const [major = 0, minor = 0, build = 0] = array(integer(), 3, 3)(value);
  return [major, minor, build];
}

function abi(value: Json): readonly [number, number] {
  const [major = 0, minor = 0] = array(integer(), 2, 2)(value);
  return [major, minor];
}

const level = number(0, 0);
const snpTcbs = byName(
  checked(struct({ fmc: level, bootloader: level, tee: level, snp: level, microcode: level }), snpTcb),
);

export const snp = checked(
  struct({
    products: list(string, SNP_DEFAULTS.products),
    signing_keys: list(string, SNP_DEFAULTS.signingKeys),
    csp_ids: list(string),
    denied_chip_ids: list(string),
    allow_masked_chip_key: flag(false),
    crl_required: flag(false),
    min_tcb: snpTcbs,
    min_launch_tcb: snpTcbs,
    min_firmware: optional(firmware, SNP_DEFAULTS.minFirmware),
    allow_provisional_firmware: flag(SNP_DEFAULTS.allowProvisionalFirmware),
    policy_required: list(string),
    policy_forbidden: list(string, SNP_DEFAULTS.policyForbidden),
    min_policy_abi: optional(abi, SNP_DEFAULTS.minPolicyAbi),
    platform_required: list(string),
    platform_forbidden: list(string),
    allow_unknown_platform_bits: flag(false),
    max_vmpl: number(SNP_DEFAULTS.maxVmpl),
    min_guest_svn: number(0),
    family_id: any(string),
    image_id: any(string),
    host_data: any(string),
    id_key_digests: list(string),
    author_key_digests: list(string),
    launch_mitigations: optional(bigint, 0n),
    current_mitigations: optional(bigint, 0n),
  }),
  snpRules,
);

const nitroRegister = pattern(/^pcr(?:[0-9]|[12][0-9]|3[01])$/);

export const nitro = struct({
  source: optional(oneOf("enclave", "nitrotpm"), "enclave"),
  pcrs: optional(
    checked(dictionary(array(hexOf(48), 1)), (pcrs) => {
      [...pcrs.keys()].forEach(nitroRegister);
    }),
    new Map(),
  ),
  required_pcrs: list(nitroRegister, ["pcr0", "pcr1", "pcr2"]),
  allow_debug: flag(false),
  max_age_s: number(300, 0),
  max_clock_skew_s: number(60, 0),
  module_ids: list(pattern(/^./su)),
});

const digest = hexOf(32, 48, 64);
const noneOrFour = checked(array(digest), ({ length }) => {
  if (length !== 0 && length !== 4) throw new RangeError("a realm has 4 extensible measurements");
});

export const cca = struct({
  trust_anchors: list(
    struct({
      crv: oneOf("P-256", "P-384", "P-521"),
      x: string,
      y: string,
      instance_id: any(hexOrAny(33)),
      implementation_id: any(hexOrAny(32)),
    }),
  ),
  lifecycles: list(
    among(
      "unknown",
      "assembly-and-test",
      "rot-provisioning",
      "secured",
      "non-recoverable-debug",
      "recoverable-debug",
      "decommissioned",
    ),
    ["secured"],
  ),
  platforms: list(
    struct({
      implementation_id: hexOf(32),
      platform_configuration: pattern(/^(?:[0-9a-f]{2})*$/),
      sw_components: array(
        struct({
          measurement_value: digest,
          signer_id: digest,
          component_type: optional(string, ""),
          version: optional(nullable(string), null),
        }),
      ),
    }),
  ),
  allow_any_platform: flag(false),
  realms: list(
    struct({
      initial_measurement: digest,
      extensible_measurements: optional(noneOrFour, []),
      personalization_value: any(hexOrAny(64)),
      rak_hash_algorithm: any(string),
    }),
  ),
});

const csvBit = among("nodbg", "noks", "es", "nosend", "domain", "csv", "csv3", "asid_reuse");

export const csv = struct({
  measure: list(hexOf(32)),
  user_pubkey_digest: any(hexOrAny(32)),
  vm_id: any(hexOrAny(16)),
  policy_required: list(csvBit, ["nodbg"]),
  policy_forbidden: list(csvBit, ["asid_reuse"]),
  min_build: number(0, 0),
  require_extended: flag(false),
  denied_chips: list(hexOf(32)),
});

const PCRS = [0, 1, 2, 3, 4, 5, 6, 7];
const root = pattern(/^(?:azure-vtpm|gce-vtpm|gce-vtpm-2018|(?:sha256:)?[0-9a-f]{64})$/);

export const tpm = struct({
  aks: list(pattern(/^(?:name:(?:000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})|spki:[0-9a-f]{64})$/)),
  roots: list(root),
  banks: optional(array(among("sha1", "sha256", "sha384", "sha512"), 1), ["sha256"]),
  pcrs: list(integer(0, 23), PCRS),
  min_firmware_version: optional(bigint, 0n),
});

export const azure = struct({
  id_key_digests: list(hexOrAny(48), [
    "942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177",
    "0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3",
  ]),
  mrtds: list(hexOrAny(48)),
  allow_insecure_boot: flag(false),
  allow_console: flag(true),
  vm_ids: list(pattern(/^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$/)),
  user_data: any(hexOrAny(64)),
  bind_user_data: flag(false),
});

export const gcp = struct({
  roots: list(root, ["gce-vtpm", "gce-vtpm-2018"]),
  hardware: list(among("snp", "tdx"), ["snp", "tdx"]),
  projects: list(string),
  zones: list(string),
  instance_ids: list(pattern(/^\p{Nd}+$/u)),
});

export const nvidia = struct({
  min_gpus: number(0, 0),
  min_switches: number(0, 0),
  modes: list(among("spt", "mpt", "ppcie"), ["spt", "mpt"]),
  rims: optional(oneOf("required", "if-present"), "required"),
  ocsp: optional(oneOf("required", "if-present"), "required"),
  ocsp_grace_s: optional(integer(0, 366 * 86400), 0),
  accept_hold: flag(false),
  same_driver: flag(true),
  fabric: flag(true),
  chips: list(string),
  min_driver: optional(pattern(/^[0-9]{1,9}(?:\.[0-9]{1,9}){0,7}$/), "0"),
  drivers: list(string),
  vbios: list(string),
  denied_ueids: list(string),
  nras_issuer: optional(string, "https://nras.attestation.nvidia.com"),
  nras_roots: list(hexOf(32), [
    "dd7b6aa74fdbb74a38baa0413726e733d415de22e445a3f6efe2cebe2cfd8703", // 002
    "c76ceed40610efa606864db52c167fbbd6c819de2c0ea5c01acb47ce9e5dc54d", // 003
    "2df8907cf4d6c277b855d407ec178a649930a8e73f7294e8fce66e6ee27c5175", // 004
  ]),
});

const ima = struct({
  required: flag(false),
  files: byName(array(hexOf(16, 20, 28, 32, 48, 64))), // path to file digests; where there are any, no other file
  allow_violations: flag(false),
});

/** What an event log must show. */
export const eventLog = checked(
  struct({
    required: flag(false),
    pcrs: list(integer(0, 23), PCRS),
    secure_boot: flag(false), // must have been on
    // Register ("pcr9", "rtmr2") to all digests, or "text:…", that may extend it.
    events: byName(array(pattern(/^(?:text:.*|[0-9a-f]{64}|[0-9a-f]{96})$/su))),
    dstack: byName(array(string)), // name of dstack's event to the payloads, in hex, that it may have
    ima: section(ima),
  }),
  ({ events }) => {
    [...events.keys()].forEach(pattern(/^(?:pcr(?:[0-9]|1[0-9]|2[0-3])|rtmr[0-3])$/));
  },
);
export type EventLogRules = Decoded<typeof eventLog>;
