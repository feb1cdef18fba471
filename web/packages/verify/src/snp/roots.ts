/**
 * AMD's root keys for SEV-SNP and the signing keys below them, as AMD's key distribution service publishes them.
 *
 * The roots (ARK) are trusted by the SHA-256 of their DER, given below. The signing keys (ASK for VCEKs, ASVK for VLEKs)
 * are here for verifiers that got none with the evidence; they are verified like those that came with it.
 */
import { utf8 } from "../bytes.ts";
import { MitaiError } from "../errors.ts";
import { RSASSA_PSS } from "../keys.ts";
import { type Certificate, P384, type Profile, parseChain } from "../x509.ts";
import { AMD_PEM } from "./amd.ts";
import type { Product } from "./report.ts";

const ARK_SHA256: ReadonlyMap<string, Product> = new Map([
  ["69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd", "Milan"],
  ["4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1", "Genoa"],
  ["1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a", "Turin"],
]);

/** Which roots are trusted, by fingerprint, for which product each, and what certificates look like below them. */
export interface Trust {
  readonly roots: ReadonlyMap<string, Product>;
  readonly profile: Profile;
}

/** AMD's: RSASSA-PSS with 4096 bits above, a key on P-384 in the leaf (VCEK specification 57230, section 2). */
export const AMD: Trust = {
  roots: ARK_SHA256,
  profile: { ...P384, signatures: [RSASSA_PSS], minRsaBits: 4096 },
};

/** Return the product that a root stands for; refuse a root that is not trusted. */
export function productOfRoot({ roots }: Trust, root: Certificate): Product {
  const product = roots.get(root.fingerprint);
  if (!product) {
    const why = `the chain ends in "${root.commonName}", which is not a root of AMD's for SEV-SNP`;
    throw new MitaiError("attest.snp-root-untrusted", why);
  }
  return product;
}

let parsed: Promise<readonly Certificate[]> | undefined;

/** Return AMD's own certificates: for each product its ARK, ASK and ASVK. */
export function published(): Promise<readonly Certificate[]> {
  parsed ??= parseChain(utf8(AMD_PEM), "attest.snp-chain-malformed");
  return parsed;
}
