/** Appraisal of SEV-SNP evidence: each refusal has its code and its step, as in Python. */

import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type Bytes, concat, hex, utf8 } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { MitaiError } from "../src/errors.ts";
import type { Machine } from "../src/machine.ts";
import type { Product, SigningKey } from "../src/snp/report.ts";
import { AMD, published, type Trust } from "../src/snp/roots.ts";
import { type SnpRules, snpRules, snpTcb } from "../src/snp/rules.ts";
import { type Endorsed, verifyEndorsements } from "../src/snp/vek.ts";
import {
  Amd,
  amdName,
  CHIP,
  CHIP_ID,
  type Changes,
  COMMITTED,
  COMMITTED_TCB,
  CPU,
  CPUID,
  CURRENT,
  CURRENT_TCB,
  type Extensions,
  ia5,
  KEY_INFO,
  LAUNCH_TCB,
  little,
  PLATFORM,
  POLICY,
  REPORTED_TCB,
  TCB,
  table,
  VMPL,
} from "./snp_lab.ts";
import { days, der, integer, NOW, party, pem, roles, validity } from "./x509_lab.ts";

const PRODUCTS: readonly Product[] = ["Milan", "Genoa", "Turin"];
const labs = new Map<Product, Amd>();
let amd: Amd;

beforeAll(async () => {
  for (const product of PRODUCTS) labs.set(product, await Amd.create(product));
  amd = lab("Genoa");
});

function lab(product: Product): Amd {
  const found = labs.get(product);
  if (!found) throw new Error(`no ${product}`);
  return found;
}

/** Return "accepted", or the code (without its beginning) and the step of the refusal. */
async function outcome(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
  } catch (error) {
    if (!(error instanceof MitaiError)) throw error;
    return `${error.code.replace("attest.snp-", "")} ${error.step}`.trim();
  }
  return "accepted";
}

type Given = Readonly<Partial<Record<"vek" | "chain" | "crl" | "certs", Bytes | null>>>;
interface More {
  readonly product?: Product;
  readonly version?: number;
  readonly kind?: SigningKey;
  readonly given?: Given;
}

async function appraise(changes: Changes = {}, rules: Partial<SnpRules> = {}, more: More = {}): Promise<Machine> {
  const { product = "Genoa", version = 3, kind = "vcek", given = {} } = more;
  const own = lab(product);
  return own.appraise(await own.report(changes, { version, kind }), await own.endorsements(kind, given), rules);
}

const refusal = (changes?: Changes, rules?: Partial<SnpRules>, more?: More) => outcome(appraise(changes, rules, more));

function bits(offset: typeof POLICY | typeof PLATFORM, ...numbers: readonly number[]): Changes {
  const value = numbers.reduce((sum, bit) => sum | (1n << BigInt(bit)), offset === POLICY ? 1n << 17n : 0n);
  return { [offset]: little(value, 8) };
}

describe("the report", () => {
  test.each(PRODUCTS)("of a %s is accepted, in every version, under either key", async (product) => {
    for (const version of [2, 3, 4, 5]) {
      for (const kind of ["vcek", "vlek"] as const) {
        const machine = await appraise({}, {}, { product, version, kind });
        expect(machine).toMatchObject({ tee: "snp", title: "AMD SEV-SNP", simulated: false, memory: "encrypted" });
        expect(machine.measurements.get("measurement")).toBe("11".repeat(48));
        expect(machine.measurements.get("host_data")).toBe("22".repeat(32));
        expect(hex(machine.reportData)).toBe("33".repeat(64));
        expect(machine.notAfter).toEqual(days(30)); // of the revocation list
        expect(machine.facts.get("signed by")).toBe(kind === "vcek" ? "VCEK" : "VLEK of CN=cloud.example");
        expect(machine.checks.map(({ step }) => step)).toEqual([
          "1 report",
          "2 endorsement",
          "3 signature",
          "4 binding",
          "5 tcb",
          "6 guest",
          "7 platform",
        ]);
      }
    }
  });

  test("comes with nothing but its endorsements", async () => {
    const attempt = amd.appraise(await amd.report(), await amd.endorsements(), {}, { eventLog: utf8("log") });
    expect(await outcome(attempt)).toBe("extra-input 1 report");
  });

  test("is signed, by the key of the certificate", async () => {
    const report = await amd.report();
    for (const offset of [0x90, 0x2a0, 0x2a0 + 72]) {
      const spoiled = report.slice();
      spoiled[offset] = (spoiled[offset] ?? 0) ^ 1;
      expect(await outcome(amd.appraise(spoiled, await amd.endorsements()))).toBe("signature-invalid 3 signature");
    }
    const unsigned = concat(report.slice(0, 0x2a0), new Uint8Array(512));
    expect(await outcome(amd.appraise(unsigned, await amd.endorsements()))).toBe("signature-invalid 3 signature");
    const other = await amd.vek("vcek", { spki: amd.party("vlek").spki });
    expect(await refusal({}, {}, { given: { vek: other } })).toBe("signature-invalid 3 signature");
    expect(await refusal({ [KEY_INFO]: little(4, 4) })).toBe("role-mismatch 2 endorsement");
  });

  test("is of the product, TCB and chip of the certificate", async () => {
    expect(await refusal({ [CPU]: CPUID.Turin })).toBe("product-mismatch 4 binding");
    expect(await refusal({ [REPORTED_TCB]: Uint8Array.of(8, 0, 0, 0, 0, 0, 24, 219) })).toBe(
      "vek-tcb-mismatch 4 binding",
    );
    expect(await refusal({ [REPORTED_TCB]: Uint8Array.of(9, 0, 1, 0, 0, 0, 24, 219) })).toBe(
      "vek-tcb-mismatch 4 binding",
    );
    const vek = await amd.vek("vcek", { changes: { "3.8": integer(218) } });
    expect(await refusal({}, {}, { given: { vek } })).toBe("vek-tcb-mismatch 4 binding");
    expect(await refusal({ [CHIP_ID]: new Uint8Array(64).fill(0xbb) })).toBe("chip-id-mismatch 4 binding");
    expect(await refusal({ [CHIP_ID]: CHIP }, {}, { product: "Turin" })).toBe("chip-id-mismatch 4 binding");
    expect(await refusal({ [CHIP_ID]: new Uint8Array(64) })).toBe("accepted");
  });

  test("has TCBs and firmware in order", async () => {
    const higher = Uint8Array.of(10, 0, 0, 0, 0, 0, 24, 219);
    for (const changes of [
      { [COMMITTED_TCB]: Uint8Array.of(8, 0, 0, 0, 0, 0, 24, 219) },
      { [COMMITTED_TCB]: higher },
      { [LAUNCH_TCB]: higher },
      { [COMMITTED]: Uint8Array.of(41, 55, 1) },
      { [COMMITTED]: Uint8Array.of(0, 56, 1) },
      { [CURRENT]: Uint8Array.of(255, 255, 0) },
    ]) {
      expect(await refusal(changes)).toBe("tcb-order 5 tcb");
    }
    expect(await refusal({ [CURRENT_TCB]: higher, [CURRENT]: Uint8Array.of(0, 0, 2) })).toBe("accepted");
  });

  test("has a TCB and firmware that are not below the minima", async () => {
    const minima = (part: "bootloader" | "tee" | "snp" | "microcode", level: number) =>
      new Map([["Genoa", snpTcb({ [part]: level })]]);
    for (const [part, level] of [
      ["bootloader", 9],
      ["snp", 24],
      ["microcode", 219],
    ] as const) {
      expect(await refusal({}, { minTcb: minima(part, level), minLaunchTcb: minima(part, level) })).toBe("accepted");
      expect(await refusal({}, { minTcb: minima(part, level + 1) })).toBe("tcb-too-low 5 tcb");
      expect(await refusal({}, { minLaunchTcb: minima(part, level + 1) })).toBe("launch-tcb-too-low 5 tcb");
    }
    const elsewhere = new Map([["Milan", snpTcb({})]]);
    expect(await refusal({}, { minTcb: elsewhere })).toBe("tcb-minimum-missing 5 tcb");
    expect(await refusal({}, { minLaunchTcb: elsewhere })).toBe("tcb-minimum-missing 5 tcb");
    for (const least of [
      [1, 55, 41],
      [1, 56, 0],
      [2, 0, 0],
    ] as const) {
      expect(await refusal({}, { minFirmware: least })).toBe("firmware-too-old 5 tcb");
    }
    for (const least of [
      [1, 55, 40],
      [1, 54, 99],
      [0, 99, 99],
    ] as const) {
      expect(await refusal({}, { minFirmware: least })).toBe("accepted");
    }
  });

  test("may be of firmware that is not committed, or not", async () => {
    for (const changes of [
      { [CURRENT]: Uint8Array.of(41, 55, 1) },
      { [CURRENT_TCB]: Uint8Array.of(9, 0, 0, 0, 0, 0, 24, 220) },
    ]) {
      expect(await refusal(changes)).toBe("accepted");
      expect(await refusal(changes, { allowProvisionalFirmware: false })).toBe("firmware-provisional 5 tcb");
    }
  });

  test("has the bits of policy that the rules want", async () => {
    expect(await refusal(bits(POLICY, 19))).toBe("debug 6 guest");
    expect(await refusal(bits(POLICY, 18))).toBe("migration-agent 6 guest");
    expect((await appraise(bits(POLICY, 18, 19, 21), { policyForbidden: [] })).memory).toBe("visible");
    expect((await appraise(bits(POLICY, 18, 21), { policyForbidden: [] })).memory).toBe("encrypted");
    expect(await refusal(bits(POLICY, 21), { policyForbidden: ["cxl-allow"] })).toBe("policy-forbidden 6 guest");
    const required = { policyRequired: ["smt", "page-swap-disable"] };
    expect(await refusal(bits(POLICY, 16), required)).toBe("policy-missing 6 guest");
    expect(await refusal(bits(POLICY, 16, 25), required)).toBe("accepted");
    expect(await refusal({}, { minPolicyAbi: [0, 31] })).toBe("accepted");
    for (const least of [
      [0, 32],
      [1, 0],
    ] as const) {
      expect(await refusal({}, { minPolicyAbi: least })).toBe("policy-abi-too-low 6 guest");
    }
  });

  test("is of the guest that the rules want", async () => {
    expect(await refusal({ [VMPL]: little(3, 4) })).toBe("accepted");
    expect(await refusal({ [VMPL]: little(2, 4) }, { maxVmpl: 1 })).toBe("vmpl-too-high 6 guest");
    const fitting = { minGuestSvn: 7, familyId: hex(utf8("family id 16 byt")), hostData: "22".repeat(32) };
    expect(await refusal({}, fitting)).toBe("accepted");
    const [id, key] = ["00".repeat(16), "00".repeat(48)];
    expect(await refusal({}, { minGuestSvn: 8 })).toBe("guest-svn-too-low 6 guest");
    expect(await refusal({}, { familyId: id })).toBe("family-id-mismatch 6 guest");
    expect(await refusal({}, { imageId: id })).toBe("image-id-mismatch 6 guest");
    expect(await refusal({}, { hostData: "00".repeat(32) })).toBe("host-data-mismatch 6 guest");
    expect(await refusal({}, { idKeyDigests: [key] })).toBe("id-key-not-allowed 6 guest");
    expect(await refusal({}, { authorKeyDigests: [key] })).toBe("author-key-not-allowed 6 guest");
    const author = { authorKeyDigests: [key, "55".repeat(48)] };
    expect(await refusal({}, { idKeyDigests: [key, "44".repeat(48)], ...author })).toBe("accepted");
    expect(await refusal({ [KEY_INFO]: new Uint8Array(4) }, author)).toBe("author-key-not-allowed 6 guest");
  });

  test("is of a product, key and cloud that the rules allow", async () => {
    expect(await refusal({}, { products: ["Milan", "Turin"] })).toBe("product-not-allowed 7 platform");
    const vlek = { kind: "vlek" } as const;
    expect(await refusal({}, { signingKeys: ["vcek"] }, vlek)).toBe("signing-key-not-allowed 7 platform");
    expect(await refusal({}, { cspIds: ["CN=other.example"] }, vlek)).toBe("csp-not-allowed 7 platform");
    expect(await refusal({}, { cspIds: ["CN=cloud.example"] }, vlek)).toBe("accepted");
    expect(await refusal({}, { cspIds: ["CN=other.example"] })).toBe("accepted"); // no VLEK at all
    const masked = { [KEY_INFO]: little(2, 4) };
    expect(await refusal(masked)).toBe("chip-key-masked 7 platform");
    expect(await refusal(masked, { allowMaskedChipKey: true })).toBe("accepted");
  });

  test("is of a chip that is not denied", async () => {
    const masked = { [CHIP_ID]: new Uint8Array(64) };
    const [denied, other] = [{ deniedChipIds: [hex(CHIP)] }, { deniedChipIds: ["ab".repeat(64)] }];
    const vlek = { kind: "vlek" } as const;
    expect(await refusal({}, other)).toBe("accepted");
    expect((await appraise(masked, other)).facts.get("chip")).toBe(hex(CHIP)); // the VCEK names it
    expect(await refusal({}, denied)).toBe("chip-denied 7 platform");
    expect(await refusal(masked, denied)).toBe("chip-denied 7 platform");
    expect(await refusal({}, denied, vlek)).toBe("chip-denied 7 platform");
    expect(await refusal(masked, other, vlek)).toBe("chip-unknown 7 platform");
    expect((await appraise(masked, {}, vlek)).facts.get("chip")).toBe("masked");
    const turin = { deniedChipIds: [hex(CHIP.slice(0, 8)) + "00".repeat(56)] };
    expect(await refusal({}, turin, { product: "Turin" })).toBe("chip-denied 7 platform");
  });

  test("is of a platform as demanded", async () => {
    expect(await refusal(bits(PLATFORM, 0), { platformRequired: ["tsme"] })).toBe("platform-missing 7 platform");
    expect(await refusal(bits(PLATFORM, 0), { platformForbidden: ["smt"] })).toBe("platform-forbidden 7 platform");
    expect(await refusal(bits(PLATFORM), { platformForbidden: ["smt"] })).toBe("accepted");
    expect(await refusal(bits(PLATFORM, 0, 8))).toBe("platform-info-unknown 7 platform");
    expect(await refusal(bits(PLATFORM, 0, 8, 63), { allowUnknownPlatformBits: true })).toBe("accepted");
    const v5 = { version: 5 };
    expect(await refusal({}, { launchMitigations: 5n, currentMitigations: 6n }, v5)).toBe("accepted");
    for (const rules of [{ launchMitigations: 2n }, { currentMitigations: 8n }, { currentMitigations: 1n << 63n }]) {
      expect(await refusal({}, rules, v5)).toBe("mitigation-missing 7 platform");
    }
    expect(await refusal({}, { launchMitigations: 1n }, { version: 4 })).toBe("mitigation-missing 7 platform");
  });

  test("is verified each time, whatever is remembered", async () => {
    const cache = new VerifiedCache();
    const [report, endorsements] = [await amd.report(), await amd.endorsements()];
    expect(await amd.appraise(report, endorsements, {}, { cache })).toEqual(
      await amd.appraise(report, endorsements, {}, { cache }),
    );
    const spoiled = report.slice();
    spoiled[0x90] = 0;
    expect(await outcome(amd.appraise(spoiled, endorsements, {}, { cache }))).toBe("signature-invalid 3 signature");
    const later = amd.appraise(report, endorsements, {}, { cache, now: days(31) });
    expect(await outcome(later)).toBe("crl-expired 2 endorsement");
    const without = await amd.endorsements("vcek", { crl: null });
    const required = amd.appraise(report, without, { crlRequired: true }, { cache });
    expect(await outcome(required)).toBe("crl-missing 2 endorsement");
    expect(await outcome(amd.appraise(report, without, {}, { cache }))).toBe("accepted");
  });

  test("with any byte changed is refused", async () => {
    const [report, endorsements, cache] = [await amd.report(), await amd.endorsements(), new VerifiedCache()];
    const check = async (at: number, value: number) => {
      const spoiled = report.slice();
      spoiled[at] = value;
      if (value !== report[at])
        expect(await outcome(amd.appraise(spoiled, endorsements, {}, { cache }))).not.toBe("accepted");
    };
    for (let at = 0; at < report.length; at++) await check(at, (report[at] ?? 0) ^ 1);
    const values = fc.oneof(fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d), fc.integer({ min: 0, max: 255 }));
    await fc.assert(fc.asyncProperty(fc.nat(report.length - 1), values, check), { numRuns: 300 });
  });
});

describe("the endorsement", () => {
  async function verify(
    given: Given = {},
    more: { kind?: SigningKey; own?: Amd; now?: Date; trust?: Trust } = {},
  ): Promise<Endorsed> {
    const { kind = "vcek", own = amd, now = NOW, trust = await own.trust() } = more;
    const all = new Map(await own.endorsements(kind, { crl: null, ...given }));
    return (await verifyEndorsements(all, kind, now, trust)).value;
  }
  const refused = (...given: Parameters<typeof verify>) => outcome(verify(...given));

  test("names product, TCB, chip or cloud", async () => {
    for (const product of PRODUCTS) {
      const own = lab(product);
      const { vek } = await verify({}, { own });
      expect(vek).toMatchObject({ product, kind: "vcek", tcb: TCB[product], cspId: undefined });
      expect(vek.chipId).toEqual(product === "Turin" ? CHIP.slice(0, 8) : CHIP);
      const other = await verify({}, { own, kind: "vlek" });
      expect(other.vek).toMatchObject({ kind: "vlek", cspId: "CN=cloud.example", chipId: undefined });
    }
    const octets = await amd.vek("vcek", { changes: { 4: der(4, CHIP) } });
    expect((await verify({ vek: octets })).vek.chipId).toEqual(CHIP);
  });

  test.each(["Genoa-B1", "Bergamo", "Siena-A0", "Genoa"])("may name its product %s", async (name) => {
    expect((await verify({ vek: await amd.vek("vcek", { changes: { 2: ia5(name) } }) })).vek.product).toBe("Genoa");
  });

  test.each(["Milan-B0", "Turin", "", "genoa", "constructor"])("may not name its product %s", async (name) => {
    expect(await refused({ vek: await amd.vek("vcek", { changes: { 2: ia5(name) } }) })).toBe("product-mismatch");
  });

  test("has extensions of AMD's form", async () => {
    const malformed: Extensions[] = [
      { 1: integer(1) },
      { 1: null },
      { 2: null },
      { 2: Uint8Array.of(0x16) },
      { 2: concat(Uint8Array.of(0x16, 0x81, 0x80), utf8("x".repeat(128))) },
      { 2: der(0x0c, utf8("Genoa")) },
      { 2: concat(Uint8Array.of(0x16, 6), utf8("Genoa")) },
      { 2: concat(Uint8Array.of(0x16, 5), utf8("Geno"), Uint8Array.of(0xff)) },
      { "3.1": null },
      { "3.8": new Uint8Array() },
      { "3.8": Uint8Array.of(2, 1) },
      { "3.8": Uint8Array.of(2, 2, 1, 0) },
      { "3.8": Uint8Array.of(2, 1, 0xdb) },
      { "3.8": Uint8Array.of(2, 2, 0, 1) },
      { "3.8": Uint8Array.of(4, 1, 1) },
      { 4: CHIP.slice(0, 63) },
      { 4: CHIP.slice(0, 8) },
      { 4: der(5, CHIP) },
    ];
    for (const changes of malformed) {
      expect(await refused({ vek: await amd.vek("vcek", { changes }) })).toBe("vek-malformed");
    }
    for (const changes of [{ 4: null }, { 5: ia5("CN=x") }, { 4: null, 5: ia5("CN=x") }]) {
      expect(await refused({ vek: await amd.vek("vcek", { changes }) })).toBe("vek-identity-missing");
    }
    for (const changes of [{ 5: null }, { 4: CHIP }]) {
      const vek = await amd.vek("vlek", { changes });
      expect(await refused({ vek }, { kind: "vlek" })).toBe("vek-identity-missing");
    }
  });

  test("is there", async () => {
    expect(await refused({ vek: null })).toBe("vek-missing");
    expect(await refused({ vek: new Uint8Array() })).toBe("vek-missing");
    const certs = table({ vcek: await amd.vek() });
    expect(await refused({ vek: null, certs }, { kind: "vlek" })).toBe("vek-missing");
    const unknown = verifyEndorsements(new Map([["vcek", certs]]), "vcek", NOW, AMD);
    expect(await outcome(unknown)).toBe("endorsement-unknown");
  });

  test("is well-formed", async () => {
    const vek = await amd.vek();
    expect(await refused({ vek: vek.slice(0, -1) })).toBe("vek-malformed");
    expect(await refused({ vek: concat(vek, new Uint8Array(1)) })).toBe("vek-malformed");
    expect(await refused({ vek: amd.chain() })).toBe("chain-malformed");
    const [ask, ark] = [amd.ask, amd.ark];
    for (const chain of [amd.chain().slice(0, -3), utf8(pem(ark)), utf8(pem(ask, ark, ark))]) {
      expect(await refused({ chain })).toBe("chain-malformed");
    }
    const empty = new Map([
      ["vek", vek],
      ["chain", new Uint8Array()],
    ]);
    expect(await outcome(verifyEndorsements(empty, "vcek", NOW, await amd.trust()))).toBe("chain-malformed");
  });

  test("may be the whole chain in one piece, as Azure hands it out", async () => {
    const whole = concat(utf8(pem(await amd.vek())), amd.chain());
    expect((await verify({ vek: whole, chain: null })).vek.chipId).toEqual(CHIP);
    expect(await refused({ vek: whole })).toBe("chain-malformed");
    const roots = concat(amd.chain(), utf8(pem(amd.ark)));
    expect(await refused({ vek: roots, chain: null })).toBe("role-mismatch");
  });

  test("ends in a pinned root", async () => {
    expect(await refused({}, { trust: AMD })).toBe("root-untrusted");
    expect(await refused({ chain: utf8(pem(amd.ask, lab("Milan").ark)) })).toBe("root-untrusted");
    expect(await refused({ chain: utf8(pem(amd.ark, amd.ask)) })).toBe("root-untrusted");
    const { roots } = await amd.trust();
    // The real profile wants RSASSA-PSS.
    expect(await refused({}, { trust: { ...AMD, roots } })).toBe("chain-invalid");
  });

  test("takes AMD's own chain where none came", async () => {
    const trust = { ...AMD, profile: (await amd.trust()).profile };
    const signer = (await published()).find(({ commonName }) => commonName === "SEV-Genoa");
    const vek = await amd.vek("vcek", { issuer: signer?.subject.der ?? new Uint8Array() });
    expect(await refused({ chain: null, vek }, { trust })).toBe("attest.certificate-key-unsupported"); // RSA
    const nobody = await amd.vek("vcek", { issuer: amdName("SEV-Rome") });
    expect(await refused({ chain: null, vek: nobody })).toBe("root-untrusted");
    const unreadable = await amd.vek("vcek", { issuer: amdName("SEV-\udcff") });
    unreadable[hex(unreadable).indexOf(hex(utf8("\ufffd"))) / 2] = 0xff;
    expect(await refused({ chain: null, vek: unreadable })).toBe("vek-malformed");
  });

  test("is signed by what stands above it", async () => {
    const other = await Amd.create("Genoa");
    expect(await refused({ chain: utf8(pem(other.ask, amd.ark)) })).toBe("chain-invalid");
    expect(await refused({ vek: await other.vek() })).toBe("chain-invalid");
    const { spki } = await party("SEV-VCEK", "P-256");
    expect(await refused({ vek: await amd.vek("vcek", { spki }) })).toBe("attest.certificate-key-unsupported");
    for (const extensions of [roles(), roles(0).slice(0, 1), roles(0).slice(1), []]) {
      const ask = await amd.issuer("ask", 0x10001, { extensions });
      expect(await refused({ chain: utf8(pem(ask, amd.ark)) })).toBe("chain-invalid");
    }
  });

  test("is current", async () => {
    const own = amd.vek("vcek", { validity: validity(-1, 1) });
    for (const [now, expected] of [
      [NOW, "accepted"],
      [days(1.01), "chain-expired"],
      [days(-1.01), "chain-expired"],
    ] as const) {
      expect(await refused({ vek: await own }, { now })).toBe(expected);
    }
  });

  test("stands in its place", async () => {
    expect(await refused({ vek: await amd.vek("vlek"), chain: amd.chain("vlek") })).toBe("role-mismatch");
    const wrong = { vek: await amd.vek(), chain: amd.chain() };
    expect(await refused(wrong, { kind: "vlek" })).toBe("role-mismatch");
    const signer = amd.party("asvk");
    expect(await refused({ vek: await amd.vek("vcek", { signer }), chain: amd.chain("vlek") })).toBe("role-mismatch");
    const subject = amdName("SEV-VCEK", "Someone Else");
    expect(await refused({ vek: await amd.vek("vcek", { subject }) })).toBe("role-mismatch");
    const { roots, profile } = await amd.trust();
    const milan = new Map([...roots.keys()].map((root): [string, Product] => [root, "Milan"]));
    expect(await refused({}, { trust: { roots: milan, profile } })).toBe("role-mismatch");
  });

  test("is not revoked", async () => {
    expect((await verify({ crl: await amd.crl() })).crl).toBeDefined();
    expect((await verify()).crl).toBeUndefined();
    expect((await verify({ crl: await amd.crl(0x10101) })).crl).toBeDefined(); // the VLEKs' signing key
    for (const [kind, serial] of [
      ["vcek", 0x10001],
      ["vlek", 0x10101],
      ["vcek", 0x10000],
    ] as const) {
      expect(await refused({ crl: await amd.crl(serial) }, { kind })).toBe("intermediate-revoked");
    }
    expect(await refused({ crl: utf8("nonsense") })).toBe("crl-malformed");
    expect(await refused({ crl: await lab("Milan").crl() })).toBe("crl-signature-invalid");
    expect(await refused({ crl: await amd.crl() }, { now: days(31) })).toBe("crl-expired");
  });

  test("may come in the table of an extended report", async () => {
    const [vcek, crl] = [await amd.vek(), await amd.crl()];
    const none = { vek: null, chain: null };
    const certs = table({ vcek, ask: amd.ask, ark: amd.ark, crl, other: utf8("x") });
    expect((await verify({ ...none, certs })).crl).toBeDefined();
    const texts = table({ vcek: utf8(pem(vcek)), ask: utf8(pem(amd.ask)), ark: utf8(pem(amd.ark)) });
    expect((await verify({ ...none, certs: texts })).vek.chipId).toEqual(CHIP);
    expect((await verify({ certs: table({ vcek: utf8("worse") }) })).vek.chipId).toEqual(CHIP);
    for (const half of [table({ ask: amd.ask }), table({ ask: amd.chain(), ark: amd.ark })]) {
      expect(await refused({ chain: null, certs: half })).toBe("chain-malformed");
    }
    expect(await refused({ chain: null, certs: table({ ask: amd.chain() }) })).toBe("accepted"); // both in one entry
  });

  test("is remembered by its exact bytes, roots and time", async () => {
    const [cache, all, trust] = [new VerifiedCache(), await amd.endorsements(), await amd.trust()];
    const first = await verifyEndorsements(all, "vcek", NOW, trust, cache);
    expect(await verifyEndorsements(all, "vcek", NOW, trust, cache)).toBe(first);
    const again = new Map([...all, ["crl", await amd.crl()]]);
    expect(await verifyEndorsements(again, "vcek", NOW, trust, cache)).not.toBe(first);
    expect(await outcome(verifyEndorsements(all, "vcek", days(9999), trust, cache))).toBe("chain-expired");
    expect(await outcome(verifyEndorsements(all, "vcek", NOW, AMD, cache))).toBe("root-untrusted");
    expect(await outcome(verifyEndorsements(all, "vlek", NOW, trust, cache))).toBe("role-mismatch");
  });

  test("with any byte changed is refused, or names the same key", async () => {
    const endorsements = await amd.endorsements();
    const trust = await amd.trust();
    const names = ["vek", "chain", "crl"] as const;
    const values = fc.oneof(fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d), fc.integer({ min: 0, max: 255 }));
    const { value } = await verifyEndorsements(endorsements, "vcek", NOW, trust);
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...names), fc.nat(4095), values, async (name, offset, byte) => {
        const changed = endorsements.get(name)?.slice() ?? new Uint8Array();
        const at = offset % changed.length;
        fc.pre(changed[at] !== byte);
        changed[at] = byte;
        const attempt = verifyEndorsements(new Map([...endorsements, [name, changed]]), "vcek", NOW, trust);
        // The kind of line ending in PEM is the only thing that is not signed.
        if ((await outcome(attempt)) === "accepted") {
          expect([name, (await attempt).value.vek.certificate.der]).toEqual(["chain", value.vek.certificate.der]);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

test("rules that can't be are refused", () => {
  for (const wrong of [
    { products: ["Rome"] },
    { signingKeys: ["ark"] },
    { minTcb: new Map([["Rome", snpTcb({})]]) },
    { minLaunchTcb: new Map([["", snpTcb({})]]) },
    { policyRequired: ["reserved"] },
    { policyForbidden: ["Debug"] },
    { platformRequired: ["tme"] },
    { platformForbidden: [""] },
    { familyId: "00" },
    { imageId: "AB".repeat(16) },
    { hostData: "" },
    { idKeyDigests: ["any"] },
    { authorKeyDigests: ["00".repeat(32)] },
    { deniedChipIds: ["00".repeat(8)] },
    { minFirmware: [-1, 0, 0] },
    { minPolicyAbi: [0, -1] },
    { maxVmpl: -1 },
    { minGuestSvn: -1 },
    { launchMitigations: -1n },
  ] as Partial<SnpRules>[]) {
    expect(() => snpRules(wrong)).toThrowError(expect.objectContaining({ code: "attest.policy-malformed" }));
  }
  for (const level of [-1, 256, 0.5]) {
    expect(() => snpTcb({ snp: level })).toThrowError(expect.objectContaining({ code: "attest.policy-malformed" }));
  }
});
