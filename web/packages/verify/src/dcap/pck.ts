/**
 * The PCK certificate: which platform, at which security version.
 *
 * Port of `mitai/attest/dcap/pck.py`. Follows "Intel SGX PCK Certificate and Certificate Revocation List Profile
 * Specification" 1.5, section 1.3.5 (the SGX extension, OID 1.2.840.113741.1.13.1).
 *
 * Invariants:
 * - The extension is read as strict DER: definite minimal lengths, no trailing bytes, no field twice.
 * - FMSPC, PCEID, all sixteen component SVNs and the PCE SVN must be there.
 */

import type { Bytes } from "../bytes.ts";
import { refusing } from "../checks.ts";
import { Der, OCTET_STRING, SEQUENCE } from "../der.ts";
import { MitaiError } from "../errors.ts";
import { type Certificate, extensionOf, quoted } from "../x509.ts";

const SGX = "1.2.840.113741.1.13.1";
const MALFORMED = "attest.pck-extension-malformed";

/** What the PCK certificate says about its platform. */
export interface PckTcb {
  /** 6 bytes: family, model, stepping, platform, custom SKU. */
  readonly fmspc: Bytes;
  /** 2 bytes. */
  readonly pceId: Bytes;
  /** 16 numbers. */
  readonly componentSvns: readonly number[];
  readonly pceSvn: number;
  readonly cpuSvn: Bytes;
}

/** Read the SGX extension of a PCK certificate. */
export function pckTcb(leaf: Certificate): PckTcb {
  const value = extensionOf(leaf, SGX);
  if (value === undefined) throw new MitaiError(MALFORMED, `${quoted(leaf)} has no SGX extension`);
  return parseSgxExtension(value);
}

/** Parse the extension's value. */
export function parseSgxExtension(data: Bytes): PckTcb {
  return refusing(MALFORMED, "the SGX extension of the PCK certificate is malformed", () => {
    const outer = new Der(data);
    const fields = readFields(outer, SGX);
    outer.end();
    const tcb = readFields(field(fields, `${SGX}.2`), `${SGX}.2`);
    return {
      fmspc: octets(field(fields, `${SGX}.4`), 6),
      pceId: octets(field(fields, `${SGX}.3`), 2),
      componentSvns: Array.from({ length: 16 }, (_, at) => svn(field(tcb, `${SGX}.2.${at + 1}`), 0xff)),
      pceSvn: svn(field(tcb, `${SGX}.2.17`), 0xffff),
      cpuSvn: octets(field(tcb, `${SGX}.2.18`), 16),
    };
  });
}

/** Read pairs of identifier and value. */
function readFields(from: Der, prefix: string): ReadonlyMap<string, Bytes> {
  const fields = new Map<string, Bytes>();
  for (const list = from.inside(SEQUENCE); list.has(); ) {
    const pair = list.inside(SEQUENCE);
    const name = pair.oid();
    if (fields.has(name) || !name.startsWith(`${prefix}.`)) throw new RangeError("a field that does not belong here");
    fields.set(name, pair.element().whole);
    pair.end();
  }
  return fields;
}

function field(fields: ReadonlyMap<string, Bytes>, name: string): Der {
  const whole = fields.get(name);
  if (whole === undefined) throw new RangeError("a field is missing");
  return new Der(whole);
}

function octets(value: Der, size: number): Bytes {
  const { content } = value.element(OCTET_STRING);
  if (content.length !== size) throw new RangeError("a field is of another size");
  return content;
}

function svn(value: Der, limit: number): number {
  const number = value.small();
  if (number > limit) throw new RangeError("a number is out of range");
  return number;
}
