/** Parsing of SEV-SNP reports and their tables: every version, every reserved bit, any bytes. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Bytes, concat, fromHex, utf8 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import { PLATFORM_BITS, POLICY_BITS, parseCertificateTable, parseReport, tcbComponents } from "../src/snp/report.ts";
import { ALGORITHM, Amd, CPU, CPUID, KEY_INFO, little, MITIGATIONS, PLATFORM, POLICY, table, VMPL } from "./snp_lab.ts";

const amd = await Amd.create("Genoa");
const reports = new Map(
  await Promise.all([2, 3, 4, 5].map(async (version) => [version, await amd.report({}, { version })] as const)),
);

/** A report with other bytes; its signature is not the parser's to check. */
function changed(offset: number, bytes: Bytes, version = 3): Bytes {
  const report = (reports.get(version) ?? new Uint8Array()).slice();
  report.set(bytes, offset);
  return report;
}

function code(read: () => unknown): string {
  try {
    read();
  } catch (error) {
    if (error instanceof MitaiError) return error.code.replace("attest.snp-", "");
    throw error;
  }
  return "accepted";
}

test("fields", async () => {
  const report = parseReport(changed(0, new Uint8Array()));
  expect(report).toMatchObject({
    version: 3,
    guestSvn: 7,
    vmpl: 0,
    signingKey: "vcek",
    policyFlags: new Set(["smt"]),
    policyAbi: [0, 31],
    platformFlags: new Set(["smt", "tsme", "ecc", "alias-check-complete"]),
    authorKeyEn: true,
    maskChipKey: false,
    product: "Genoa",
    current: [1, 55, 40],
    launchMitVector: undefined,
  });
  expect(report.signed.length).toBe(0x2a0);
  expect(parseReport(changed(0, new Uint8Array(), 2)).product).toBeUndefined();
  expect(parseReport(changed(0, new Uint8Array(), 4)).currentMitVector).toBeUndefined();
  expect(parseReport(changed(0, new Uint8Array(), 5))).toMatchObject({ launchMitVector: 5n, currentMitVector: 7n });
});

test.each([0, 1, 6, 0xffffffff])("version %i is refused", (version) => {
  expect(code(() => parseReport(changed(0, little(version, 4))))).toBe("report-version-unsupported");
});

test.each([0, 1, 1183, 1185, 4096])("%i bytes are refused", (size) => {
  expect(code(() => parseReport(new Uint8Array(size)))).toBe("report-malformed");
});

test("reserved bytes are zero", () => {
  const everywhere = [0x4c, 0x4f, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x208, 0x29f, 0x2d0, 0x2e7, 0x318, 0x32f, 0x330, 1183];
  const cases = [3, 4, 5].flatMap((version) => everywhere.map((offset) => [version, offset]));
  for (const [version = 0, offset = 0] of [...cases, [2, CPU], [2, CPU + 2], [3, MITIGATIONS], [4, MITIGATIONS + 15]]) {
    const report = changed(offset, Uint8Array.of(1), version);
    expect([version, offset, code(() => parseReport(report))]).toEqual([version, offset, "report-malformed"]);
  }
});

test("key information", () => {
  for (let bit = 5; bit < 32; bit++) {
    expect(code(() => parseReport(changed(KEY_INFO, little(1n << BigInt(bit), 4))))).toBe("report-malformed");
  }
  for (let selector = 0; selector < 8; selector++) {
    const wrong = selector === 7 ? "unsigned" : "signing-key-unsupported";
    const expected = selector < 2 ? "accepted" : wrong;
    expect(code(() => parseReport(changed(KEY_INFO, little(selector << 2, 4))))).toBe(expected);
  }
});

test("algorithm and privilege level", () => {
  for (const algorithm of [0, 2, 2 ** 31]) {
    expect(code(() => parseReport(changed(ALGORITHM, little(algorithm, 4))))).toBe("signature-algorithm-unsupported");
  }
  for (const vmpl of [4, 0xffffffff]) {
    expect(code(() => parseReport(changed(VMPL, little(vmpl, 4))))).toBe("vmpl-invalid");
  }
});

test("every bit of the policy and of PLATFORM_INFO", () => {
  for (let bit = 0n; bit < 64n; bit++) {
    const platform = parseReport(changed(PLATFORM, little(1n << bit, 8)));
    const named = [...PLATFORM_BITS].filter(([, number]) => number === Number(bit)).map(([name]) => name);
    expect([platform.platformInfo, [...platform.platformFlags]]).toEqual([1n << bit, named]);
    const flags = [...POLICY_BITS].filter(([, number]) => number === Number(bit)).map(([name]) => name);
    const report = changed(POLICY, little((1n << 17n) ^ (1n << bit), 8));
    if (flags.length || bit < 16n) expect([...parseReport(report).policyFlags]).toEqual(flags);
    else expect(code(() => parseReport(report))).toBe("policy-reserved");
  }
});

test.each([
  [0x19, 0x01, "Milan"],
  [0x19, 0x11, "Genoa"],
  [0x19, 0xa0, "Genoa"],
  [0x1a, 0x02, "Turin"],
  [0x1a, 0x11, "Turin"],
])("family %i, model %i", (family, model, product) => {
  expect(parseReport(changed(CPU, Uint8Array.of(family, model, 0))).product).toBe(product);
});

test("other processors, and those of the lab", () => {
  for (const [family = 0, model = 0] of [
    [0x17, 0x31],
    [0x19, 0x20],
    [0x1a, 0x50],
    [0x1a, 0x12],
    [0, 0],
  ]) {
    expect(code(() => parseReport(changed(CPU, Uint8Array.of(family, model, 0))))).toBe("product-unknown");
  }
  for (const [product, cpuid] of Object.entries(CPUID)) expect(parseReport(changed(CPU, cpuid)).product).toBe(product);
});

test("components of a TCB", () => {
  const tcb = Uint8Array.of(4, 1, 9, 9, 9, 9, 24, 219);
  const expected = [
    ["bootloader", 4],
    ["tee", 1],
    ["snp", 24],
    ["microcode", 219],
  ];
  expect(tcbComponents("Milan", tcb)).toEqual(expected);
  const names = tcbComponents("Turin", tcb).map(([name]) => name);
  expect(names).toEqual(["fmc", "bootloader", "tee", "snp", "microcode"]);
});

describe("tables of certificates", () => {
  const one = table({ vcek: utf8("one") });

  test("are read", () => {
    const found = parseCertificateTable(concat(table({ vcek: utf8("one"), other: utf8("two") }), utf8("padding")));
    expect([...found]).toEqual([
      ["63da758d-e664-4564-adc5-f4b93be8accd", utf8("one")],
      ["ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", utf8("two")],
    ]);
    expect(parseCertificateTable(new Uint8Array(24)).size).toBe(0);
  });

  const overlapping = concat(
    fromHex("01".repeat(16)),
    little(0, 4),
    little(60, 4),
    fromHex("02".repeat(16)),
    little(0, 4),
    little(60, 4),
    new Uint8Array(24),
  );
  test.each([
    ["empty", new Uint8Array()],
    ["short", new Uint8Array(23)],
    ["without end", one.slice(0, 24)],
    ["outside", one.slice(0, -1)],
    ["double", concat(one.slice(0, 24), one.slice(0, 24), new Uint8Array(24), utf8("one"))],
    ["large", new Uint8Array((64 << 10) + 1)],
    ["overlapping", overlapping],
  ])("are refused: %s", (_, data) => {
    expect(code(() => parseCertificateTable(data))).toBe("certificate-table-malformed");
  });
});

test("any bytes give a value or a refusal", () => {
  const bytes = fc.uint8Array({ maxLength: 200 });
  fc.assert(
    fc.property(bytes, fc.constantFrom(2, 3, 4, 5), fc.nat(1183), (noise, version, offset) => {
      code(() => parseReport(changed(Math.min(offset, 1184 - noise.length), new Uint8Array(noise), version)));
      code(() => parseReport(new Uint8Array(noise)));
      code(() => parseCertificateTable(concat(noise, new Uint8Array(24))));
    }),
  );
});
