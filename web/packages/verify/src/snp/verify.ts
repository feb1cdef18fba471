/**
 * The verifier of AMD SEV-SNP reports.
 *
 * Follows RFC 9334 and "SEV Secure Nested Paging Firmware ABI Specification" (56860), section 7.3. The page for people is
 * `docs/spec/evidence-snp.md`. Port of `mitai/attest/snp/verify.py`.
 *
 * - No input, no clock and no trust anchor but those given and AMD's pinned roots.
 * - A numbered checklist: what a field says is used only after the signature above it was verified.
 *
 * Example: `const { measurements } = await appraiseSnp(new Checklist(), hardware, snpRules(), { now: new Date() });`
 */
import { type Bytes, concat, equal, hex } from "../bytes.ts";
import type { VerifiedCache } from "../cache.ts";
import type { Checklist } from "../checks.ts";
import { MitaiError } from "../errors.ts";
import { ANY } from "../fields.ts";
import { verifySignature } from "../keys.ts";
import type { Hardware, Machine } from "../machine.ts";
import { ecKey } from "../x509.ts";
import { nonZero, PLATFORM_KNOWN, type Product, parseReport, type Report, tcbComponents } from "./report.ts";
import { AMD, type Trust } from "./roots.ts";
import { CHIP_ID_BYTES, type SnpRules, snpTcb } from "./rules.ts";
import { type Vek, verifyEndorsements } from "./vek.ts";

export interface SnpOptions {
  readonly now: Date;
  /** Remembers verified certificates and revocation lists between calls. */
  readonly cache?: VerifiedCache | undefined;
  /** Which roots are trusted, where not AMD's: for tests. */
  readonly trust?: Trust;
}

/**
 * Verify an SEV-SNP report (`quote`, 1184 bytes) with its endorsements: `vek`, `chain`, `crl` or `certs`.
 *
 * 1. report: parses, to the last reserved bit; signed by a VCEK or VLEK, requested by the guest.
 * 2. endorsement: the key's certificate leads to AMD's root; nobody revoked the signing key above it.
 * 3. signature: the key signed the report.
 * 4. binding: product, TCB and chip in the certificate are those in the report.
 * 5. tcb: in order (reported ≤ committed ≤ current), and not below the minima.
 * 6. guest: policy, privilege level, identities.
 * 7. platform: features and processor as demanded.
 */
export async function appraiseSnp(
  checks: Checklist,
  hardware: Hardware,
  rules: SnpRules,
  { now, cache, trust = AMD }: SnpOptions,
): Promise<Machine> {
  const report = await checks.step("report", (say) => {
    if (hardware.eventLog.length || hardware.collateral !== null) {
      throw new MitaiError("attest.snp-extra-input", "an SEV-SNP report has neither a log nor Intel's collateral");
    }
    const parsed = parseReport(hardware.quote);
    say(`version ${parsed.version}, signed by a ${parsed.signingKey.toUpperCase()}`);
    return parsed;
  });
  const { value: endorsed, notAfter } = await checks.step("endorsement", async (say) => {
    const verified = await verifyEndorsements(hardware.endorsements, report.signingKey, now, trust, cache);
    const { vek, crl } = verified.value;
    if (rules.crlRequired && !crl) {
      throw new MitaiError("attest.snp-crl-missing", "no revocation list of AMD's root came with the report");
    }
    say(`ARK-${vek.product}, ${crl ? "not revoked" : "revocation not known"}`);
    return verified;
  });
  const { vek } = endorsed;
  await checks.step("signature", async (say) => {
    const why = `the report is not signed by this ${vek.kind.toUpperCase()}`;
    const key = ecKey(vek.certificate);
    await verifySignature(key, report.signature, report.signed, "attest.snp-signature-invalid", why);
    say(`by the ${vek.kind.toUpperCase()}`);
  });
  await checks.step("binding", (say) => {
    checkBinding(report, vek);
    say("product, TCB and chip are the certificate's");
  });
  await checks.step("tcb", (say) => {
    checkTcb(report, vek.product, rules);
    say(levels(vek.product, report.reportedTcb));
  });
  await checks.step("guest", (say) => {
    checkGuest(report, rules);
    say(`VMPL ${report.vmpl}, policy ${[...report.policyFlags].sort().join(", ") || "without flags"}`);
  });
  await checks.step("platform", (say) => {
    checkPlatform(report, vek, rules);
    say([...report.platformFlags].sort().join(", ") || "no feature reported");
  });
  return {
    tee: "snp",
    title: "AMD SEV-SNP",
    memory: report.policyFlags.has("debug") ? "visible" : "encrypted",
    measurements: measurements(report),
    reportData: report.reportData,
    signed: report.signed,
    notAfter,
    checks: checks.passed,
    simulated: false,
    tcbStatus: "",
    advisoryIds: [],
    tcbEvaluationNumber: 0,
    facts: facts(report, vek),
  };
}

function refuse(code: string, message: string, hint?: string): never {
  throw new MitaiError(`attest.snp-${code}`, message, hint);
}

function checkBinding(report: Report, vek: Vek): void {
  if (report.product && report.product !== vek.product) {
    refuse("product-mismatch", `a key for ${vek.product} signed the report of a ${report.product}`);
  }
  if (!equal(report.reportedTcb, vek.tcb)) {
    const [theirs, ours] = [levels(vek.product, vek.tcb), levels(vek.product, report.reportedTcb)];
    refuse(
      "vek-tcb-mismatch",
      `the key was derived from TCB ${theirs}, the report says ${ours}`,
      "fetch the certificate for the TCB that the report names as reported",
    );
  }
  if (vek.chipId && nonZero(report.chipId) && !equal(report.chipId, padded(vek.chipId))) {
    refuse("chip-id-mismatch", "the report and the key's certificate name different chips");
  }
}

function checkTcb(report: Report, product: Product, rules: SnpRules): void {
  const { reportedTcb, committedTcb, currentTcb, launchTcb, committed, current } = report;
  if (
    !atMost(reportedTcb, committedTcb) ||
    !atMost(committedTcb, currentTcb) ||
    !atMost(launchTcb, currentTcb) ||
    isBelow(current, committed)
  ) {
    refuse("tcb-order", "reported, committed, launch and current TCB are in an order that can't be");
  }
  for (const [name, tcb, minima] of [
    ["tcb", reportedTcb, rules.minTcb],
    ["launch-tcb", launchTcb, rules.minLaunchTcb],
  ] as const) {
    // An older generation may not stand in for one with minima.
    if (minima.size && !minima.has(product)) {
      refuse("tcb-minimum-missing", `the policy has minima for the ${name}, not for ${product}`);
    }
    const least = minima.get(product) ?? snpTcb({});
    const low = tcbComponents(product, tcb).filter(([part, level]) => level < least[part]);
    if (low.length) {
      const parts = low.map(([part]) => part).join(", ");
      refuse(
        `${name}-too-low`,
        `${name} ${levels(product, tcb)} is below the policy's minimum of ${parts}`,
        "the machine's owner must update firmware or microcode",
      );
    }
  }
  if (isBelow(committed, rules.minFirmware)) {
    const demanded = rules.minFirmware.join(".");
    refuse("firmware-too-old", `SEV firmware ${committed.join(".")} is committed, demanded: ${demanded}`);
  }
  const provisional = isBelow(committed, current) || !equal(committedTcb, currentTcb);
  if (provisional && !rules.allowProvisionalFirmware) {
    refuse("firmware-provisional", "the current firmware is not committed: the host may go back to an older");
  }
}

/** Compare TCBs by component. */
function atMost(lower: Bytes, upper: Bytes): boolean {
  return lower.every((level, at) => level <= (upper[at] ?? 0));
}

/** Compare versions: their first numbers weigh most. */
function isBelow(version: readonly number[], least: readonly number[]): boolean {
  const at = version.findIndex((number, index) => number !== least[index]);
  return at >= 0 && (version[at] ?? 0) < (least[at] ?? 0);
}

function levels(product: Product, tcb: Bytes): string {
  return tcbComponents(product, tcb)
    .map(([name, level]) => `${name} ${level}`)
    .join(" ");
}

function checkGuest(report: Report, rules: SnpRules): void {
  for (const [flag, code, why] of [
    ["debug", "debug", "the guest's policy allows debugging: its host can read its memory"],
    ["migrate-ma", "migration-agent", "the guest's policy allows a migration agent, which can copy it"],
  ] as const) {
    if (report.policyFlags.has(flag) && rules.policyForbidden.includes(flag)) refuse(code, why);
  }
  checkFlags("policy", report.policyFlags, rules.policyRequired, rules.policyForbidden);
  if (isBelow(report.policyAbi, rules.minPolicyAbi)) {
    refuse("policy-abi-too-low", "the guest's policy is content with an older ABI of firmware");
  }
  if (report.vmpl > rules.maxVmpl) {
    refuse("vmpl-too-high", `the report was requested at VMPL ${report.vmpl}, allowed: ${rules.maxVmpl}`);
  }
  if (report.guestSvn < rules.minGuestSvn) {
    refuse("guest-svn-too-low", `guest SVN ${report.guestSvn}, demanded: ${rules.minGuestSvn}`);
  }
  for (const [name, demanded, found] of [
    ["family-id", rules.familyId, report.familyId],
    ["image-id", rules.imageId, report.imageId],
    ["host-data", rules.hostData, report.hostData],
  ] as const) {
    if (demanded !== ANY && demanded !== hex(found)) {
      refuse(`${name}-mismatch`, `${name.toUpperCase()} is not what the policy demands`);
    }
  }
  if (rules.idKeyDigests.length && !rules.idKeyDigests.includes(hex(report.idKeyDigest))) {
    refuse("id-key-not-allowed", "the guest's ID key is not on the policy's list");
  }
  const authorKey = report.authorKeyEn ? hex(report.authorKeyDigest) : "";
  if (rules.authorKeyDigests.length && !rules.authorKeyDigests.includes(authorKey)) {
    refuse("author-key-not-allowed", "the guest's author key is not on the policy's list");
  }
}

function checkFlags(
  what: string,
  found: ReadonlySet<string>,
  required: readonly string[],
  forbidden: readonly string[],
): void {
  const excess = forbidden.find((flag) => found.has(flag));
  if (excess) refuse(`${what}-forbidden`, `the ${what} has "${excess}", which is not allowed`);
  const missing = required.find((flag) => !found.has(flag));
  if (missing) refuse(`${what}-missing`, `the ${what} lacks "${missing}", which is required`);
}

function checkPlatform(report: Report, vek: Vek, rules: SnpRules): void {
  if (!rules.products.includes(vek.product)) {
    refuse("product-not-allowed", `the policy does not allow processors of ${vek.product}`);
  }
  if (!rules.signingKeys.includes(vek.kind)) {
    refuse("signing-key-not-allowed", `the policy allows no report signed by a ${vek.kind}`);
  }
  if (vek.cspId !== undefined && rules.cspIds.length && !rules.cspIds.includes(vek.cspId)) {
    refuse("csp-not-allowed", "AMD made this VLEK for a cloud that is not on the list");
  }
  if (report.maskChipKey && !rules.allowMaskedChipKey) {
    refuse("chip-key-masked", "the host masks the chip's key (MASK_CHIP_KEY)");
  }
  const chip = chipId(report, vek);
  if (rules.deniedChipIds.length && chip === undefined) {
    refuse("chip-unknown", "the policy denies chips, and the report does not say which it is");
  }
  if (chip !== undefined && rules.deniedChipIds.includes(chip)) refuse("chip-denied", "the policy denies this chip");
  if (report.platformInfo & ~PLATFORM_KNOWN && !rules.allowUnknownPlatformBits) {
    refuse("platform-info-unknown", "PLATFORM_INFO has a bit whose meaning is not known");
  }
  checkFlags("platform", report.platformFlags, rules.platformRequired, rules.platformForbidden);
  for (const [name, demanded, found] of [
    ["launch", rules.launchMitigations, report.launchMitVector],
    ["current", rules.currentMitigations, report.currentMitVector],
  ] as const) {
    const lacking = demanded & ~(found ?? 0n);
    if (lacking) {
      refuse("mitigation-missing", `the ${name} mitigation vector lacks bit ${lacking.toString(2).length - 1}`);
    }
  }
}

/** Return the chip's id as reports write it, also where the host masks it but the VCEK names it. */
function chipId(report: Report, vek: Vek): string | undefined {
  if (nonZero(report.chipId)) return hex(report.chipId);
  return vek.chipId && hex(padded(vek.chipId));
}

function padded(id: Bytes): Bytes {
  return concat(id, new Uint8Array(CHIP_ID_BYTES - id.length));
}

function measurements(report: Report): ReadonlyMap<string, string> {
  return new Map([
    ["measurement", hex(report.measurement)],
    ["host_data", hex(report.hostData)],
    ["id_key_digest", hex(report.idKeyDigest)],
    ["author_key_digest", hex(report.authorKeyDigest)],
    ["family_id", hex(report.familyId)],
    ["image_id", hex(report.imageId)],
  ]);
}

function facts(report: Report, vek: Vek): ReadonlyMap<string, string> {
  return new Map([
    ["product", vek.product],
    ["signed by", vek.cspId ? `VLEK of ${vek.cspId}` : "VCEK"],
    ["chip", chipId(report, vek) ?? "masked"],
    ["report version", String(report.version)],
    ["firmware", `${report.current.join(".")} (committed ${report.committed.join(".")})`],
    ["vmpl", String(report.vmpl)],
    ["guest svn", String(report.guestSvn)],
    ["policy", `0x${report.policy.toString(16)}`],
    ["platform info", `0x${report.platformInfo.toString(16)}`],
    ["report id", hex(report.reportId)],
    ["reported tcb", levels(vek.product, report.reportedTcb)],
    ["committed tcb", levels(vek.product, report.committedTcb)],
    ["current tcb", levels(vek.product, report.currentTcb)],
    ["launch tcb", levels(vek.product, report.launchTcb)],
  ]);
}
