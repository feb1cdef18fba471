import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type Bytes, concat, equal, fromHex, hex, sha256, text, utf8 } from "../src/bytes.ts";
import { Der } from "../src/der.ts";
import { MitaiError } from "../src/errors.ts";
import {
  ECDSA_WITH_SHA256,
  holds,
  publicKey,
  RSASSA_PSS,
  rawSignature,
  readAlgorithm,
  readKey,
  verifySignature,
} from "../src/keys.ts";
import {
  attributeOf,
  type Certificate,
  COMMON_NAME,
  ecKey,
  extensionOf,
  KEY_USAGE,
  MAX_PEM_BYTES,
  P256,
  P384,
  type Profile,
  parseChain,
  parseDer,
  readRole,
  verifyChain,
  verifyCrl,
} from "../src/x509.ts";
import { refusal } from "./intel_lab.ts";
import * as lab from "./x509_lab.ts";
import { NOW, type Party } from "./x509_lab.ts";

const CODE = "attest.pck-chain-invalid";
const EXPIRED = "attest.pck-chain-expired";
const UNSUPPORTED = "attest.certificate-key-unsupported";

let root: Party;
let ca: Party;
let leaf: Party;
let rootDer: Bytes;
let caDer: Bytes;
let leafDer: Bytes;
let chain: readonly Certificate[];

beforeAll(async () => {
  [root, ca, leaf] = await Promise.all([lab.party("root"), lab.party("CA"), lab.party("leaf")]);
  rootDer = await lab.certificate(root, root, { extensions: lab.roles(1) });
  caDer = await lab.certificate(ca, root, { extensions: lab.roles(0) });
  leafDer = await lab.certificate(leaf, ca);
  chain = await parse(leafDer, caDer, rootDer);
});

function only<T>(list: readonly T[]): T {
  const [first] = list;
  if (first === undefined) throw new Error("none");
  return first;
}

function parse(...encoded: readonly Bytes[]): Promise<Certificate[]> {
  return Promise.all(encoded.map((der) => parseDer(der, CODE)));
}

async function refused(attempt: Promise<unknown>): Promise<string> {
  return (await refusal(attempt)).code;
}

/** Why a chain is refused whose leaf or CA is made of these parts. */
async function why(parts: { leaf?: lab.Parts; ca?: lab.Parts; root?: lab.Parts }, profile?: Profile, below?: number) {
  const certificates = await parse(
    await lab.certificate(leaf, ca, parts.leaf),
    await lab.certificate(ca, root, { extensions: lab.roles(0), ...parts.ca }),
    await lab.certificate(root, root, { extensions: lab.roles(1), ...parts.root }),
  );
  return refused(verifyChain(certificates, "pck", NOW, profile, below));
}

describe("PEM", () => {
  test("is read, with either end of line, and one NUL behind the last", async () => {
    const pem = lab.pem(leafDer, caDer, rootDer);
    for (const spelled of [
      pem,
      pem.replaceAll("\n", "\r\n"),
      `${pem}\0`,
      pem.trimEnd(),
      pem.replaceAll("-----\n-----B", "----------B"),
    ]) {
      const parsed = await parseChain(utf8(spelled), CODE);
      expect(parsed.map(({ commonName }) => commonName)).toEqual(["leaf", "CA", "root"]);
      expect(parsed.map(({ der }) => hex(der))).toEqual([leafDer, caDer, rootDer].map(hex));
    }
    expect(await parseChain(new Uint8Array(), CODE)).toEqual([]);
  });

  test.each<[string, (pem: string) => string]>([
    ["text in front", (pem) => `x${pem}`],
    ["newline in front", (pem) => `\n${pem}`],
    ["text behind", (pem) => `${pem}x`],
    ["newline behind", (pem) => `${pem}\n`],
    ["two NULs", (pem) => `${pem}\0\0`],
    ["a NUL instead of the last newline", (pem) => `${pem.trimEnd()}\0`],
    ["a NUL within", (pem) => `${pem}\0${pem}`],
    ["an empty line", (pem) => pem.replace("\n", "\n\n")],
    ["a space", (pem) => pem.replace("\n", " \n")],
    ["a lone carriage return", (pem) => pem.replace("\n", "\r")],
    ["another label", (pem) => pem.replaceAll("CERTIFICATE", "X509 CRL")],
    ["a longer line", (pem) => pem.replace(/([^-\n])\n([^-\n])/g, "$1$2")],
    ["no end", (pem) => pem.slice(0, -20)],
    ["no padding", (pem) => pem.replace(/=+/, "")],
    ["more padding", (pem) => pem.replace(/\n-----E/, "====\n-----E")],
    ["base64url", (pem) => pem.replace(/[A-Za-z0-9+/](?=\n-----E|=)/, "_")],
    ["a byte above ASCII", (pem) => pem.replace("M", "\u00cd")],
  ])("is refused with %s", async (_, spoil) => {
    let right = lab.pem(caDer);
    while (!right.includes("=")) right = lab.pem(await lab.certificate(leaf, ca)); // a signature is as long as it is
    const pem = spoil(right);
    expect(pem).not.toBe(right);
    expect(await refused(parseChain(utf8(pem), CODE))).toBe(CODE);
  });

  test("is refused above the limit", async () => {
    expect(await refused(parseChain(new Uint8Array(MAX_PEM_BYTES + 1), CODE))).toBe(CODE);
    expect(await refused(parseDer(new Uint8Array(MAX_PEM_BYTES + 1), CODE))).toBe(CODE);
  });

  test("has one base64 for one certificate", async () => {
    // Of "…Q==" the last four bits count for nothing: "…R==" is the same certificate.
    for (let size = 0; size < 3; size++) {
      const padded = await lab.certificate(leaf, ca, { extensions: [lab.extension("1.2.3", new Uint8Array(size))] });
      const pem = lab.pem(padded);
      const spelled = pem.replace(
        /(.)(=+)\n/,
        (_, last: string, pads: string) => `${String.fromCharCode(last.charCodeAt(0) + 1)}${pads}\n`,
      );
      if (pem !== spelled) expect(await refused(parseChain(utf8(spelled), CODE))).toBe(CODE);
    }
  });
});

describe("a certificate", () => {
  test("says what is in it", async () => {
    const parts = {
      serial: lab.der(2, fromHex("0080")),
      validity: lab.validity(0, 20_000),
      extensions: [...lab.roles(), lab.extension("1.2.3", utf8("x"))],
    };
    const certificate = only(await parse(await lab.certificate(leaf, ca, parts)));
    expect(certificate.fingerprint).toBe(hex(await sha256(certificate.der)));
    expect([certificate.commonName, attributeOf(certificate.issuer, COMMON_NAME), certificate.serial]).toEqual([
      "leaf",
      "CA",
      "0080",
    ]);
    expect([certificate.notBefore, certificate.notAfter]).toEqual([NOW, lab.days(20_000)]);
    expect(equal(certificate.spki, leaf.spki)).toBe(true);
    expect(text(extensionOf(certificate, "1.2.3") ?? new Uint8Array())).toBe("x");
    expect(extensionOf(certificate, "1.2.4")).toBeUndefined();
    expect(readRole(certificate, CODE)).toEqual({
      ca: false,
      pathLength: undefined,
      digitalSignature: true,
      keyCertSign: false,
    });
    expect(ecKey(certificate).curve).toBe("P-256");
    const ofCa = { ca: true, pathLength: 0, digitalSignature: false, keyCertSign: true };
    expect(readRole(only(await parse(caDer)), CODE)).toEqual(ofCa);
  });

  test("may have a serial number of 0, as AMD's have", async () => {
    const parsed = await parse(await lab.certificate(leaf, ca, { serial: fromHex("020100") }), caDer, rootDer);
    await verifyChain(parsed, "pck", NOW);
  });

  test("of version 1 has no extensions, which a leaf needs none of", async () => {
    const parsed = await parse(
      await lab.certificate(leaf, ca, { version: new Uint8Array(), extensions: [] }),
      caDer,
      rootDer,
    );
    await verifyChain(parsed, "pck", NOW);
  });

  test("has no common name where it has two, or one that is no text", async () => {
    const attribute = (tag: number, value: Uint8Array) =>
      lab.der(0x31, lab.sequence(lab.oid(COMMON_NAME), lab.der(tag, value)));
    const subjects: [Bytes, string][] = [
      [lab.sequence(), ""],
      [lab.sequence(attribute(0x0c, utf8("a")), attribute(0x0c, utf8("b"))), ""],
      [lab.sequence(attribute(0x1e, fromHex("0061"))), ""],
      [lab.sequence(attribute(0x0c, fromHex("ff"))), ""],
      [lab.sequence(attribute(0x13, utf8("A b'()+,-./:=?"))), "A b'()+,-./:=?"],
      [lab.sequence(attribute(0x0c, utf8("ä".repeat(70)))), "ä".repeat(64)],
    ];
    for (const [subject, expected] of subjects) {
      const [parsed] = await parse(await lab.certificate(leaf, ca, { subject }));
      expect(parsed?.commonName).toBe(expected);
    }
  });

  test.each<[string, () => lab.Parts]>([
    ["version 2", () => ({ version: lab.explicit(0, lab.integer(1)) })],
    ["version 1 spelled out", () => ({ version: lab.explicit(0, lab.integer(0)) })],
    ["two versions", () => ({ version: lab.explicit(0, concat(lab.integer(2), lab.integer(2))) })],
    ["serial below 0", () => ({ serial: fromHex("0201ff") })],
    ["serial not minimal", () => ({ serial: fromHex("02020001") })],
    ["no serial", () => ({ serial: new Uint8Array() })],
    [
      "a name of several parts",
      () => ({
        subject: lab.sequence(
          lab.der(
            0x31,
            lab.sequence(lab.oid("2.5.4.3"), lab.octets(utf8("a"))),
            lab.sequence(lab.oid("2.5.4.4"), lab.octets(utf8("a"))),
          ),
        ),
      }),
    ],
    [
      "a name that is not printable",
      () => ({ subject: lab.sequence(lab.der(0x31, lab.sequence(lab.oid("2.5.4.3"), lab.der(0x13, utf8("a@b"))))) }),
    ],
    ["something behind the extensions", () => ({ more: lab.integer(1) })],
    [
      "two lists of extensions",
      () => ({ extensions: [], more: lab.explicit(3, concat(lab.sequence(...lab.roles()), lab.sequence())) }),
    ],
    ["ends before it begins", () => ({ validity: lab.validity(2, 1) })],
    ["the year 0", () => ({ validity: lab.sequence(lab.der(0x18, utf8("00000101000000Z")), lab.time(NOW)) })],
    ["three times", () => ({ validity: lab.sequence(lab.time(NOW), lab.time(NOW), lab.time(NOW)) })],
    ["bytes behind the key", () => ({ spki: concat(leaf.spki, leaf.spki) })],
    ["no key", () => ({ spki: lab.sequence() })],
    [
      "a critical extension spelled as FALSE",
      () => ({ extensions: [lab.sequence(lab.oid("1.2.3"), fromHex("010100"), lab.octets(new Uint8Array()))] }),
    ],
    ["an extension that is no octets", () => ({ extensions: [lab.sequence(lab.oid("1.2.3"), lab.integer(1))] })],
    [
      "an extension of three parts",
      () => ({ extensions: [lab.sequence(lab.oid("1.2.3"), lab.octets(new Uint8Array()), lab.integer(1))] }),
    ],
    [
      "an algorithm of three parts",
      () => ({ outer: lab.sequence(lab.oid(ECDSA_WITH_SHA256), lab.der(5), lab.der(5)) }),
    ],
    ["ECDSA with parameters", () => ({ outer: lab.sequence(lab.oid(ECDSA_WITH_SHA256), lab.integer(1)) })],
  ])("is refused: %s", async (_, parts) => {
    expect(await refused(parse(await lab.certificate(leaf, ca, parts())))).toBe(CODE);
  });

  test("is refused with bytes in front, behind, or missing", async () => {
    for (const der of [leafDer.slice(0, -1), concat(leafDer, new Uint8Array(1)), leafDer.slice(1), new Uint8Array()]) {
      expect(await refused(parse(der))).toBe(CODE);
    }
    const unused = leafDer.slice();
    const at = unused.findLastIndex(
      (byte, position) => byte === 0x03 && unused[position + 2] === 0 && unused[position + 3] === 0x30,
    );
    unused[at + 2] = 1;
    expect(await refused(parse(unused))).toBe(CODE);
  });
});

describe("a chain", () => {
  test("of right certificates holds", async () => {
    await verifyChain(chain, "pck", NOW);
    await verifyChain(chain.slice(2), "pck", NOW);
    await verifyChain([], "pck", NOW);
  });

  test("holds on the first and on the last second", async () => {
    const parsed = await parse(await lab.certificate(leaf, ca, { validity: lab.validity(0, 1) }), caDer, rootDer);
    for (const now of [NOW, lab.days(1)]) await verifyChain(parsed, "pck", now);
    for (const now of [new Date(NOW.getTime() - 1), new Date(lab.days(1).getTime() + 1)]) {
      expect(await refused(verifyChain(parsed, "pck", now))).toBe(EXPIRED);
    }
  });

  test("holds for the one moment of its validity", async () => {
    const parsed = await parse(await lab.certificate(leaf, ca, { validity: lab.validity(0, 0) }), caDer, rootDer);
    await verifyChain(parsed, "pck", NOW);
  });

  test("is refused where a certificate is not in its place", async () => {
    const [a, b, c] = chain;
    if (!(a && b && c)) throw new Error("no chain");
    for (const order of [
      [a, c],
      [b, a, c],
      [a, b, a],
      [c, b, a],
      [a, a],
    ]) {
      expect(await refused(verifyChain(order, "pck", NOW))).toBe(CODE);
    }
  });

  test.each<[string, () => Parameters<typeof why>, string]>([
    ["expired leaf", () => [{ leaf: { validity: lab.validity(-2, -1) } }], EXPIRED],
    ["expired CA", () => [{ ca: { validity: lab.validity(-2, -1) } }], EXPIRED],
    ["root from tomorrow on", () => [{ root: { validity: lab.validity(1, 2) } }], EXPIRED],
    ["another issuer's name", () => [{ leaf: { issuer: lab.name("another") } }], CODE],
    [
      "another algorithm in the signed part",
      () => [{ leaf: { algorithm: lab.sequence(lab.oid("1.2.840.10045.4.3.3")) } }],
      CODE,
    ],
    [
      "another algorithm",
      () => [
        {
          leaf: {
            outer: lab.sequence(lab.oid("1.2.840.10045.4.3.3")),
            algorithm: lab.sequence(lab.oid("1.2.840.10045.4.3.3")),
          },
        },
      ],
      CODE,
    ],
    [
      "an algorithm that only the signed part has",
      () => [{ leaf: { algorithm: lab.sequence(lab.oid(ECDSA_WITH_SHA256), lab.der(5)) } }],
      CODE,
    ],
    [
      "unknown critical extension",
      () => [{ leaf: { extensions: [lab.extension("1.2.3", new Uint8Array(), true)] } }],
      CODE,
    ],
    ["extension twice", () => [{ leaf: { extensions: [...lab.roles(), ...lab.roles()] } }], CODE],
    ["malformed basicConstraints", () => [{ leaf: { extensions: [lab.extension("2.5.29.19", utf8("x"))] } }], CODE],
    ...["2.5.29.14", "2.5.29.31", "2.5.29.35"].map((oid): [string, () => Parameters<typeof why>, string] => [
      `malformed ${oid}`,
      () => [{ leaf: { extensions: [lab.extension(oid, concat(lab.sequence(), lab.TRUE))] } }],
      CODE,
    ]),
    [
      "basicConstraints with more",
      () => [
        { leaf: { extensions: [lab.extension("2.5.29.19", lab.sequence(lab.TRUE, lab.integer(1), lab.integer(1)))] } },
      ],
      CODE,
    ],
    [
      "malformed keyUsage",
      () => [{ leaf: { extensions: [lab.extension(KEY_USAGE, lab.octets(new Uint8Array(1)))] } }],
      CODE,
    ],
    [
      "keyUsage with more",
      () => [{ leaf: { extensions: [lab.extension(KEY_USAGE, concat(lab.bits(new Uint8Array(1)), lab.TRUE))] } }],
      CODE,
    ],
    ["no CA", () => [{ ca: { extensions: lab.roles() } }], CODE],
    ["a CA that does not say so", () => [{ ca: { extensions: lab.roles(0).slice(0, 1) } }], CODE],
    ["a CA without keyUsage", () => [{ ca: { extensions: lab.roles(0).slice(1) } }], CODE],
    [
      "a CA that may sign lists only",
      () => [{ ca: { extensions: [lab.extension(KEY_USAGE, lab.bits(fromHex("02"), 1)), ...lab.roles(0).slice(1)] } }],
      CODE,
    ],
    ["a root whose path is too short", () => [{ root: { extensions: lab.roles(0) } }], CODE],
    ["a path that began below", () => [{}, P256, 1], CODE],
    ["a key on another curve", () => [{}, { ...P256, curves: ["P-384"] }], UNSUPPORTED],
    ["keys of RSA", () => [{}, { ...P256, curves: [], minRsaBits: 2048 }], UNSUPPORTED],
    ["signatures of another kind", () => [{}, { ...P256, signatures: [RSASSA_PSS] }], CODE],
    [
      "a point off the curve",
      () => [{ leaf: { spki: concat(leaf.spki.slice(0, -1), Uint8Array.of((leaf.spki.at(-1) ?? 0) ^ 1)) } }],
      UNSUPPORTED,
    ],
    [
      "a point in the hybrid form",
      () => [{ leaf: { spki: leaf.spki.map((byte, at) => (at === 26 ? 6 + ((leaf.spki.at(-1) ?? 0) & 1) : byte)) } }],
      UNSUPPORTED,
    ],
    [
      "a compressed point",
      () => [
        {
          leaf: {
            spki: lab.sequence(
              lab.sequence(lab.oid("1.2.840.10045.2.1"), lab.oid("1.2.840.10045.3.1.7")),
              lab.bits(concat(Uint8Array.of(2), leaf.spki.slice(-64, -32))),
            ),
          },
        },
      ],
      UNSUPPORTED,
    ],
    [
      "an unknown curve",
      () => [
        {
          leaf: {
            spki: lab.sequence(
              lab.sequence(lab.oid("1.2.840.10045.2.1"), lab.oid("1.3.132.0.10")),
              lab.bits(leaf.spki.slice(-65)),
            ),
          },
        },
      ],
      UNSUPPORTED,
    ],
    [
      "an unknown kind of key",
      () => [{ leaf: { spki: lab.sequence(lab.sequence(lab.oid("1.3.101.112")), lab.bits(new Uint8Array(32))) } }],
      UNSUPPORTED,
    ],
  ])("is refused: %s", async (_, parts, code) => {
    expect(await why(...parts())).toBe(code);
  });

  test("without keyUsage holds where the profile allows it", async () => {
    const parsed = await parse(
      leafDer,
      await lab.certificate(ca, root, { extensions: lab.roles(0).slice(1) }),
      rootDer,
    );
    await verifyChain(parsed, "pck", NOW, { ...P256, usageOptional: true });
  });

  test("with a critical extension holds where the profile knows it", async () => {
    const extensions = [...lab.roles(), lab.extension("1.2.3", new Uint8Array(), true)];
    const parsed = await parse(await lab.certificate(leaf, ca, { extensions }), caDer, rootDer);
    await verifyChain(parsed, "pck", NOW, { ...P256, critical: [...P256.critical, "1.2.3"] });
  });

  test("on P-384", async () => {
    const [first, second] = await Promise.all([lab.party("leaf", "P-384"), lab.party("root", "P-384")]);
    const parsed = await parse(
      await lab.certificate(first, second),
      await lab.certificate(second, second, { extensions: lab.roles(0) }),
    );
    await verifyChain(parsed, "snp", NOW, P384);
    expect(await refused(verifyChain(parsed, "snp", NOW, P256))).toBe(UNSUPPORTED);
  });

  test("is refused with whatever byte changed", async () => {
    const change = fc.tuple(fc.nat({ max: leafDer.length - 1 }), fc.constantFrom(1, 0x20, 0x80));
    await fc.assert(
      fc.asyncProperty(change, async ([at, mask]) => {
        const changed = leafDer.slice();
        changed[at] = (changed[at] ?? 0) ^ mask;
        const attempt = parse(changed).then((parsed) => verifyChain([...parsed, ...chain.slice(1)], "pck", NOW));
        expect([CODE, EXPIRED, UNSUPPORTED]).toContain(await refused(attempt));
      }),
      { numRuns: 500 },
    );
  });
});

describe("RSASSA-PSS", () => {
  const HASHES = { "SHA-256": "2.16.840.1.101.3.4.2.1", "SHA-384": "2.16.840.1.101.3.4.2.2" } as const;
  const hash = (id: string) => lab.sequence(lab.oid(id), lab.der(5));
  const parameters = (digest: string, mask: string, salt: Bytes, ...more: Bytes[]) =>
    lab.sequence(
      lab.explicit(0, hash(digest)),
      lab.explicit(1, lab.sequence(lab.oid("1.2.840.113549.1.1.8"), hash(mask))),
      lab.explicit(2, salt),
      ...more,
    );
  const algorithm = (given: Bytes) => readAlgorithm(new Der(lab.sequence(lab.oid(RSASSA_PSS), given)));
  const { "SHA-256": sha2, "SHA-384": sha3 } = HASHES;
  const message = utf8("signed");

  test("holds with its own parameters alone", async () => {
    const kind = { name: "RSA-PSS", modulusLength: 2048, publicExponent: fromHex("010001"), hash: "SHA-384" };
    const pair = await crypto.subtle.generateKey(kind, true, ["sign", "verify"]);
    const spki = new Uint8Array(await crypto.subtle.exportKey("spki", pair.publicKey));
    const signature = new Uint8Array(
      await crypto.subtle.sign({ name: "RSA-PSS", saltLength: 48 }, pair.privateKey, message),
    );
    const key = await readKey(spki);
    if (key?.kind !== "rsa") throw new Error("not a key of RSA");
    expect(key.bits).toBe(2048);
    for (const right of [
      parameters(sha3, sha3, lab.integer(48)),
      parameters(sha3, sha3, lab.integer(48), lab.explicit(3, lab.integer(1))),
    ]) {
      expect(await holds(algorithm(right), key, signature, message)).toBe(true);
    }
    for (const wrong of [
      parameters(sha2, sha2, lab.integer(48)),
      parameters(sha3, sha2, lab.integer(48)),
      parameters(sha3, sha3, lab.integer(32)),
      parameters(sha3, sha3, lab.integer(48), lab.explicit(3, lab.integer(2))),
      parameters(sha3, sha3, lab.integer(48), lab.integer(1)),
      parameters("1.3.14.3.2.26", "1.3.14.3.2.26", lab.integer(48)),
      concat(parameters(sha3, sha3, lab.integer(48)).slice(0, 2)),
      lab.sequence(),
      lab.der(5),
    ]) {
      const attempt = () => holds(algorithm(wrong), key, signature, message);
      expect(
        await Promise.resolve()
          .then(attempt)
          .catch(() => false),
      ).toBe(false);
    }
    expect(await holds(algorithm(parameters(sha3, sha3, lab.integer(48))), key, signature, utf8("other"))).toBe(false);
    const ecdsa = readAlgorithm(new Der(lab.algorithm(leaf)));
    expect(await holds(ecdsa, key, signature, message)).toBe(false);
  });

  const spki = (...numbers: Bytes[]) =>
    lab.sequence(lab.sequence(lab.oid("1.2.840.113549.1.1.1"), lab.der(5)), lab.bits(lab.sequence(...numbers)));

  test("keys are measured by their modulus", async () => {
    for (const bits of [1024, 1031, 3072]) {
      const key = await readKey(spki(lab.integer(1n << BigInt(bits - 1)), lab.integer(65537)));
      expect(key).toMatchObject({ kind: "rsa", bits });
    }
  });

  test("keys of another form are none", async () => {
    const [modulus, exponent] = [lab.integer(1n << 2047n), lab.integer(65537)];
    const negative = lab.der(2, concat(Uint8Array.of(0x80), new Uint8Array(255)));
    for (const other of [spki(modulus), spki(modulus, exponent, exponent), spki(negative, exponent), spki()]) {
      expect(await readKey(other)).toBeUndefined();
    }
  });

  test("keys are none of a profile of curves", async () => {
    const key = spki(lab.integer(1n << 4095n), lab.integer(65537));
    expect(await why({ leaf: { spki: key } })).toBe(UNSUPPORTED);
  });
});

describe("ECDSA", () => {
  test("signatures in DER have one encoding", () => {
    const [r, s] = [new Uint8Array(32).fill(0x81), concat(new Uint8Array(31), Uint8Array.of(5))];
    const encoded = lab.signatureValue(concat(r, s));
    expect(hex(rawSignature(encoded, 32))).toBe(hex(r) + hex(s));
    const { sequence, integer, der } = lab;
    for (const other of [
      concat(encoded, new Uint8Array(1)),
      encoded.slice(0, -1),
      sequence(integer(1)),
      sequence(integer(1), integer(1), integer(1)),
      sequence(der(2, fromHex("0001")), integer(1)),
      sequence(der(2, fromHex("80")), integer(1)),
      sequence(integer(1n << 256n), integer(1)),
      new Uint8Array(),
    ]) {
      expect(() => rawSignature(other, 32)).toThrow(RangeError);
    }
  });

  test("signatures as r ‖ s have one length", async () => {
    const key = ecKey(only(chain));
    const [message, code] = [utf8("signed"), "attest.quote-signature-invalid"];
    const signature = await lab.sign(leaf, message);
    await verifySignature(key, signature, message, code, "");
    for (const other of [
      signature.slice(1),
      concat(new Uint8Array(1), signature),
      new Uint8Array(64),
      new Uint8Array(),
    ]) {
      expect(await refused(verifySignature(key, other, message, code, ""))).toBe(code);
    }
    expect(await refused(verifySignature(key, signature, utf8("other"), code, ""))).toBe(code);
  });

  test("keys are points of their curve", async () => {
    const point = leaf.spki.slice(-64);
    expect((await publicKey(point, CODE)).curve).toBe("P-256");
    for (const other of [
      new Uint8Array(64),
      point.slice(1),
      concat(point, new Uint8Array(1)),
      new Uint8Array(64).fill(0xff),
    ]) {
      expect(await refused(publicKey(other, CODE))).toBe(CODE);
    }
    expect(await refused(publicKey(point, CODE, "P-384"))).toBe(CODE);
  });
});

describe("a revocation list", () => {
  const verify = async (parts: lab.ListParts = {}, issuer = root) =>
    verifyCrl(await lab.revocationList(issuer, parts), only(await parse(rootDer)), "root-crl");

  test("revokes those that are on it", async () => {
    const entries = [
      lab.revoked(lab.integer(7)),
      lab.sequence(lab.integer(0x1234), lab.time(NOW), lab.sequence(lab.extension("2.5.29.21", fromHex("0a0101")))),
    ];
    const list = await verify({ revoked: entries, extensions: [lab.extension("2.5.29.20", lab.integer(1))] });
    expect([list.notBefore, list.notAfter]).toEqual([lab.days(-1), lab.days(30)]);
    expect(list.issuerFingerprint).toBe(chain[2]?.fingerprint);
    for (const [serial, isRevoked] of [
      [7, true],
      [0x1234, true],
      [8, false],
    ] as const) {
      const numbered = only(await parse(await lab.certificate(leaf, ca, { serial: lab.integer(serial) })));
      const attempt = () => list.refuseRevoked(numbered, "attest.pck-revoked");
      if (isRevoked) expect(attempt).toThrowError(expect.objectContaining({ code: "attest.pck-revoked" }));
      else attempt();
    }
  });

  test.each<[string, () => lab.ListParts, string]>([
    ["version 1", () => ({ version: new Uint8Array() }), "attest.root-crl-malformed"],
    ["version 3", () => ({ version: lab.integer(2) }), "attest.root-crl-malformed"],
    ["no end", () => ({ times: [lab.time(NOW)] }), "attest.root-crl-malformed"],
    [
      "no end, with entries",
      () => ({ times: [lab.time(NOW)], revoked: [lab.revoked(lab.integer(1))] }),
      "attest.root-crl-malformed",
    ],
    [
      "critical extension",
      () => ({ extensions: [lab.extension("1.2.3", new Uint8Array(), true)] }),
      "attest.root-crl-malformed",
    ],
    [
      "extension twice",
      () => ({ extensions: [lab.extension("1.2.3", new Uint8Array()), lab.extension("1.2.3", new Uint8Array())] }),
      "attest.root-crl-malformed",
    ],
    ["something behind the extensions", () => ({ more: lab.integer(1) }), "attest.root-crl-malformed"],
    ["malformed entry", () => ({ revoked: [lab.sequence(lab.integer(1))] }), "attest.root-crl-malformed"],
    [
      "entry with more",
      () => ({ revoked: [lab.sequence(lab.integer(1), lab.time(NOW), lab.sequence(), lab.integer(1))] }),
      "attest.root-crl-malformed",
    ],
    [
      "issuer's name that can't be read",
      () => ({ issuer: lab.sequence(lab.der(0x31, lab.sequence(lab.oid(COMMON_NAME), lab.der(0x0c, fromHex("ff"))))) }),
      "attest.root-crl-malformed",
    ],
    ["issuer's name", () => ({ issuer: lab.name("another") }), "attest.root-crl-signature-invalid"],
    [
      "algorithm in the signed part",
      () => ({ algorithm: lab.sequence(lab.oid("1.2.840.10045.4.3.3")) }),
      "attest.root-crl-malformed",
    ],
    [
      "algorithm",
      () => ({
        algorithm: lab.sequence(lab.oid("1.2.840.10045.4.3.3")),
        outer: lab.sequence(lab.oid("1.2.840.10045.4.3.3")),
      }),
      "attest.root-crl-signature-invalid",
    ],
  ])("is refused: %s", async (_, parts, code) => {
    expect(await refused(verify(parts()))).toBe(code);
  });

  test("is refused when another signed it in the issuer's name", async () => {
    expect(await refused(verify({ times: [lab.time(NOW)] }, { ...ca, name: "root" }))).toBe(
      "attest.root-crl-signature-invalid",
    );
    expect(await refused(verify({}, { ...ca, name: "root" }))).toBe("attest.root-crl-signature-invalid");
  });

  test("is refused with whatever byte changed", async () => {
    const issuer = only(await parse(rootDer));
    const der = await lab.revocationList(root, {
      revoked: [lab.revoked(lab.integer(7))],
      extensions: [lab.extension("2.5.29.20", lab.integer(1))],
    });
    await verifyCrl(der, issuer, "root-crl");
    for (const at of der.keys()) {
      for (const mask of [1, 0x20, 0x80]) {
        const changed = der.slice();
        changed[at] = (changed[at] ?? 0) ^ mask;
        expect(["attest.root-crl-malformed", "attest.root-crl-signature-invalid"]).toContain(
          await refused(verifyCrl(changed, issuer, "root-crl")),
        );
      }
    }
  });
});

test("any bytes are a certificate or refused", async () => {
  const spliced = fc.tuple(fc.nat({ max: 400 }), fc.nat({ max: 20 }), fc.uint8Array({ maxLength: 20 }));
  await fc.assert(
    fc.asyncProperty(spliced, async ([at, gone, bytes]) => {
      for (const der of [Uint8Array.from(bytes), concat(leafDer.slice(0, at), bytes, leafDer.slice(at + gone))]) {
        await parseDer(der, CODE).catch((error: unknown) => expect(error).toBeInstanceOf(MitaiError));
        await parseChain(der, CODE).catch((error: unknown) => expect(error).toBeInstanceOf(MitaiError));
      }
    }),
    { numRuns: 300 },
  );
});
