/** The section of an appraisal policy for AMD SEV-SNP. Port of `mitai/attest/snp/rules.py`. */
import { MitaiError } from "../errors.ts";
import { ANY, checkHex, POLICY_MALFORMED } from "../fields.ts";
import { type Component, PLATFORM_BITS, POLICY_BITS, SIGNING_KEYS, TCB_LAYOUTS } from "./report.ts";

export const CHIP_ID_BYTES = 64;
export const PRODUCTS = Object.keys(TCB_LAYOUTS);

/** Security versions by component; `fmc` counts on Turin only. */
export type SnpTcb = Readonly<Record<Component, number>>;

/** What an SEV-SNP guest and its machine must look like; an empty list of what is allowed pins nothing. */
export interface SnpRules {
  readonly products: readonly string[];
  readonly signingKeys: readonly string[];
  readonly cspIds: readonly string[]; // whose VLEKs are allowed
  readonly deniedChipIds: readonly string[]; // 64 bytes in hex (Turin: 8 bytes and zeros)
  readonly allowMaskedChipKey: boolean;
  readonly crlRequired: boolean;
  readonly minTcb: ReadonlyMap<string, SnpTcb>; // by product; of the reported, hence also the committed and current TCB
  readonly minLaunchTcb: ReadonlyMap<string, SnpTcb>;
  readonly minFirmware: readonly [number, number, number]; // major, minor, build; of what is committed
  readonly allowProvisionalFirmware: boolean; // current is newer than committed: the host may go back to committed
  readonly policyRequired: readonly string[];
  readonly policyForbidden: readonly string[];
  readonly minPolicyAbi: readonly [number, number];
  readonly platformRequired: readonly string[];
  readonly platformForbidden: readonly string[];
  readonly allowUnknownPlatformBits: boolean; // bits of PLATFORM_INFO that this version does not know
  readonly maxVmpl: number;
  readonly minGuestSvn: number;
  readonly familyId: string;
  readonly imageId: string;
  readonly hostData: string;
  readonly idKeyDigests: readonly string[];
  readonly authorKeyDigests: readonly string[];
  readonly launchMitigations: bigint; // bits that LAUNCH_MIT_VECTOR must have (report version 5)
  readonly currentMitigations: bigint;
}

const DEFAULTS: SnpRules = {
  products: PRODUCTS,
  signingKeys: SIGNING_KEYS,
  cspIds: [],
  deniedChipIds: [],
  allowMaskedChipKey: false,
  crlRequired: false,
  minTcb: new Map(),
  minLaunchTcb: new Map(),
  minFirmware: [0, 0, 0],
  allowProvisionalFirmware: true,
  policyRequired: [],
  policyForbidden: ["debug", "migrate-ma"],
  minPolicyAbi: [0, 0],
  platformRequired: [],
  platformForbidden: [],
  allowUnknownPlatformBits: false,
  maxVmpl: 3,
  minGuestSvn: 0,
  familyId: ANY,
  imageId: ANY,
  hostData: ANY,
  idKeyDigests: [],
  authorKeyDigests: [],
  launchMitigations: 0n,
  currentMitigations: 0n,
};

/** Return security versions, those that are not given 0; refuse what is not from 0 to 255. */
export function snpTcb(partial: Partial<SnpTcb>): SnpTcb {
  const tcb = { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0, ...partial };
  if (!Object.values(tcb).every((level) => Number.isInteger(level) && 0 <= level && level <= 0xff)) {
    throw new MitaiError(POLICY_MALFORMED, "a security version is not from 0 to 255");
  }
  return tcb;
}

/** Return rules, those that are not given as they are by default; refuse values that can't be. */
export function snpRules(partial: Partial<SnpRules> = {}): SnpRules {
  const rules = { ...DEFAULTS, ...partial };
  const policyBits = [...POLICY_BITS.keys()];
  const platformBits = [...PLATFORM_BITS.keys()];
  among("products", rules.products, PRODUCTS);
  among("signing_keys", rules.signingKeys, SIGNING_KEYS);
  among("min_tcb", rules.minTcb.keys(), PRODUCTS);
  among("min_launch_tcb", rules.minLaunchTcb.keys(), PRODUCTS);
  among("policy_required", rules.policyRequired, policyBits);
  among("policy_forbidden", rules.policyForbidden, policyBits);
  among("platform_required", rules.platformRequired, platformBits);
  among("platform_forbidden", rules.platformForbidden, platformBits);
  checkHex("family_id", rules.familyId, 16, true);
  checkHex("image_id", rules.imageId, 16, true);
  checkHex("host_data", rules.hostData, 32, true);
  for (const digest of [...rules.idKeyDigests, ...rules.authorKeyDigests]) {
    checkHex("id_key_digests or author_key_digests", digest, 48);
  }
  for (const chipId of rules.deniedChipIds) checkHex("denied_chip_ids", chipId, CHIP_ID_BYTES);
  const numbers = [...rules.minFirmware, ...rules.minPolicyAbi, rules.maxVmpl, rules.minGuestSvn];
  if ([...numbers, rules.launchMitigations, rules.currentMitigations].some((number) => number < 0)) {
    throw new MitaiError(POLICY_MALFORMED, "a number in [snp] is negative");
  }
  return rules;
}

function among(name: string, values: Iterable<string>, known: readonly string[]): void {
  for (const value of values) {
    if (!known.includes(value)) {
      throw new MitaiError(POLICY_MALFORMED, `${name} knows ${known.join(", ")}; not "${value.slice(0, 32)}"`);
    }
  }
}
