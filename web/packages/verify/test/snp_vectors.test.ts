/** Every public SEV-SNP report: accepted or refused as its index says; with its chain and with AMD's published one. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, hex } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { Checklist } from "../src/checks.ts";
import type { Machine } from "../src/machine.ts";
import { AMD_PEM } from "../src/snp/amd.ts";
import { parseReport, tcbComponents } from "../src/snp/report.ts";
import { AMD, published } from "../src/snp/roots.ts";
import { type SnpRules, snpRules } from "../src/snp/rules.ts";
import { verifyEndorsements } from "../src/snp/vek.ts";
import { appraiseSnp } from "../src/snp/verify.ts";
import { parseDer, verifyChain, verifyCrl } from "../src/x509.ts";
import { refusal } from "./intel_lab.ts";
import { haveVectors, type Vector, vector, vectorFile, vectors, vectorTime, WHY_SKIPPED } from "./vectors.ts";

const ALL = vectors(["snp"], ["report-v2", "report-v3", "mutation", null]).map((entry) => [entry.id, entry] as const);
const REPORTS = ALL.filter(([, { files }]) => files && "report.bin" in files);
const MUTATIONS = ALL.filter(([, { kind }]) => kind === "mutation");
const LAX = snpRules({ policyForbidden: [], allowMaskedChipKey: true });

function appraise(
  entry: Vector,
  rules: SnpRules,
  { chain = true, quote = vectorFile(entry, "report.bin"), now = vectorTime(entry), cache, crl }: More = {},
): Promise<Machine> {
  const endorsements = new Map([["vek", vectorFile(entry, "vek.der")]]);
  const pem = concat(vectorFile(entry, "ask_or_asvk.pem"), vectorFile(entry, "ark.pem"));
  if (chain) endorsements.set("chain", pem);
  if (crl) endorsements.set("crl", crl);
  const hardware = { tee: "snp", quote, endorsements, eventLog: new Uint8Array(), collateral: null };
  return appraiseSnp(new Checklist(), hardware, rules, { now, cache });
}

interface More {
  readonly chain?: boolean;
  readonly quote?: Bytes;
  readonly now?: Date;
  readonly cache?: VerifiedCache;
  readonly crl?: Bytes;
}

function crlOf(product: string): Bytes {
  const pem = vectorFile(vector("snp/amd-ark-crls"), `test_amd_${product.toLowerCase()}_crl.pem`);
  return Uint8Array.from(
    Buffer.from(
      Buffer.from(pem)
        .toString()
        .replace(/-----.*-----/g, ""),
      "base64",
    ),
  );
}

describe.skipIf(!haveVectors)(haveVectors ? "public SEV-SNP reports" : WHY_SKIPPED, () => {
  test("there are six reports", () => {
    expect(REPORTS.length).toBe(6);
    expect(MUTATIONS.length).toBe(1);
  });

  test.each(REPORTS)("verdict: %s", async (_, entry) => {
    for (const chain of [true, false]) {
      if (entry.expected.signature_chain !== "valid") {
        const { step } = await refusal(appraise(entry, LAX, { chain }));
        expect(["2 endorsement", "3 signature"]).toContain(step);
        continue;
      }
      expect(await appraise(entry, LAX, { chain })).toMatchObject({ tee: "snp", simulated: false });
      if (entry.expected.strict_policy === "accept") await appraise(entry, snpRules(), { chain });
      else expect((await refusal(appraise(entry, snpRules(), { chain }))).code).toBe("attest.snp-debug");
    }
  });

  test.each(REPORTS.filter(([, entry]) => entry.key_fields))("fields: %s", async (_, entry) => {
    const fields = entry.key_fields;
    const report = parseReport(vectorFile(entry, "report.bin"));
    expect(report).toMatchObject({
      version: fields.version,
      guestSvn: fields.guest_svn,
      policy: BigInt(fields.policy),
      vmpl: fields.vmpl,
      platformInfo: BigInt(fields.platform_info),
      authorKeyEn: Boolean(fields.author_key_en),
      maskChipKey: Boolean(fields.mask_chip),
      signingKey: ["vcek", "vlek"][fields.signing_key],
    });
    for (const [found, name] of [
      [report.reportData, "report_data"],
      [report.measurement, "measurement"],
      [report.hostData, "host_data"],
      [report.idKeyDigest, "id_key_digest"],
      [report.authorKeyDigest, "author_key_digest"],
      [report.reportId, "report_id"],
      [report.currentTcb, "current_tcb"],
      [report.reportedTcb, "reported_tcb"],
      [report.committedTcb, "committed_tcb"],
      [report.launchTcb, "launch_tcb"],
      [report.chipId, "chip_id"],
    ] as const) {
      expect([name, hex(found)]).toEqual([name, fields[name]]);
    }
    const given = new Map([["vek", vectorFile(entry, "vek.der")]]);
    const { vek } = (await verifyEndorsements(given, report.signingKey, vectorTime(entry), AMD)).value;
    const names: Record<string, string> = { bootloader: "bl", microcode: "ucode" };
    const levels = tcbComponents(vek.product, vek.tcb).map(([name, level]) => [names[name] ?? name, level]);
    expect(Object.fromEntries(levels)).toEqual(fields.tcb);
    expect(vek.product).toBe(fields.product.split("-")[0]);
    if (fields.csp !== null) expect(vek.cspId).toBe(Buffer.from(fields.csp, "hex").subarray(2).toString());
  });

  test.each(MUTATIONS)("refused: %s", async (_, entry) => {
    const base = vector(entry.base);
    const cache = new VerifiedCache();
    await appraise(base, LAX, { cache });
    for (const { offset, xor, what } of entry.mutations) {
      const quote = vectorFile(base, entry.file);
      quote[offset] = (quote[offset] ?? 0) ^ xor;
      const { code } = await refusal(appraise(base, LAX, { quote, cache }));
      expect([what, code]).toEqual([what, "attest.snp-signature-invalid"]);
    }
  });

  test("a revocation list with a report", async () => {
    const entry = vector("snp/trustee-milan-v2");
    const crl = crlOf("Milan");
    const now = new Date("2025-06-01T00:00:00Z");
    const rules = snpRules({ crlRequired: true });
    expect((await appraise(entry, rules, { crl, now })).notAfter.toISOString()).toBe("2026-05-12T00:00:00.000Z");
    for (const [code, more] of [
      ["attest.snp-crl-expired", { crl }],
      ["attest.snp-crl-expired", { crl, now: new Date("2026-06-01") }],
      ["attest.snp-crl-missing", { now }],
      ["attest.snp-crl-signature-invalid", { crl: crlOf("Genoa"), now }],
    ] as const) {
      expect((await refusal(appraise(entry, rules, more))).code).toBe(code);
    }
  });

  test("revocation lists under their own root and no other", async () => {
    for (const product of ["Milan", "Genoa"]) {
      for (const issuer of await published()) {
        const verified = verifyCrl(crlOf(product), issuer, "snp-crl", AMD.profile);
        if (issuer.commonName === `ARK-${product}`)
          expect((await verified).notBefore < (await verified).notAfter).toBe(true);
        else expect((await refusal(verified)).code).toBe("attest.snp-crl-signature-invalid");
      }
    }
  });

  test("a Turin VCEK without a report", async () => {
    const entry = vector("snp/virtee-turin-chain");
    const vek = vectorFile(entry, "vcek.der");
    const now = (await parseDer(vek, "code")).notBefore;
    for (const given of [
      new Map([["vek", vek]]),
      new Map([
        ["vek", vek],
        ["chain", vectorFile(entry, "cert_chain.pem")],
      ]),
    ]) {
      const { value } = await verifyEndorsements(given, "vcek", now, AMD);
      expect([value.vek.product, value.vek.chipId?.length]).toEqual(["Turin", 8]);
    }
  });
});

test("AMD's own certificates are those of the Python package", () => {
  const pem = join(import.meta.dirname, "../../../../src/mitai/attest/snp/amd.pem");
  expect(AMD_PEM).toBe(readFileSync(pem, "utf8"));
});

test("AMD's own certificates hold up to the pinned roots", async () => {
  const known = await published();
  expect(known.length).toBe(9);
  for (const [fingerprint, product] of AMD.roots) {
    const root = known.find((each) => each.commonName === `ARK-${product}`);
    expect(root?.fingerprint).toBe(fingerprint);
    for (const name of [`SEV-${product}`, `SEV-VLEK-${product}`]) {
      const signer = known.find((each) => each.commonName === name);
      if (!root || !signer) throw new Error(`${name} is missing`);
      await verifyChain([signer, root, root], "snp", signer.notBefore, AMD.profile);
    }
  }
});
