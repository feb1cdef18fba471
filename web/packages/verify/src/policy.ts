/**
 * The appraisal policy: what a verifier accepts, as a small TOML file.
 *
 * The format is written down in `docs/spec/appraisal-policy.md`. Port of `mitai/attest/policy.py`.
 *
 * Invariants:
 * - What is not allowed is refused: a policy that says nothing accepts no simulation, no debug mode, no outdated
 *   platform, no advisory and, without reference values, no workload.
 * - Unknown keys, unknown versions and malformed values are refused when the policy is read, not when it is used.
 * - Whether a simulated root is accepted is decided here alone.
 *
 * Example: `const policy = Policy.fromToml(text); await policy.sha256();`
 */

import { parse } from "smol-toml";
import { fromHex, hex, sha256, utf8 } from "./bytes.ts";
import { PublicKey } from "./dsse.ts";
import { MitaiError } from "./errors.ts";
import { ANY, POLICY_MALFORMED } from "./fields.ts";
import {
  array,
  bigint,
  boolean,
  bytes,
  checked,
  type Decoded,
  dictionary,
  integer,
  type Json,
  JsonObject,
  moment,
  nullable,
  optional,
  pattern,
  string,
  struct,
} from "./json.ts";
import * as sections from "./sections.ts";

const MAX_POLICY_CHARACTERS = 1 << 20;

// The registers that reference values must name, by TEE; a register that is to be left open says "any", visibly.
const REGISTERS: Readonly<Record<string, readonly string[]>> = {
  tdx: ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"],
  sgx: ["mrenclave", "mrsigner"],
  snp: ["measurement"],
  nitro: ["pcr0", "pcr1", "pcr2"],
  cca: ["rim"],
  csv: ["measure"],
  "az-snp-vtpm": ["snp.measurement", "pcr4", "pcr7", "pcr9", "pcr11"],
  "az-tdx-vtpm": ["tdx.mrtd", "pcr4", "pcr7", "pcr9", "pcr11"],
  "gcp-vtpm": ["pcr4", "pcr7", "pcr9", "pcr11"],
  tpm: ["pcr4", "pcr7", "pcr9", "pcr11"],
};

/** The measurements of one build of one workload: hex by register, or "any". */
export interface ReferenceValues {
  readonly name: string;
  readonly registers: ReadonlyMap<string, string>;
  readonly tee: string;
}

/** Whether reference values of this TEE can be used. */
export function knowsTee(tee: string): boolean {
  return Object.hasOwn(REGISTERS, tee);
}

/** Throw `RangeError` unless every register that the TEE needs is there, and each value is hex or "any". */
export function checkReferenceValues({ name, registers, tee }: ReferenceValues): void {
  if (!knowsTee(tee)) throw new RangeError(`reference values of an unknown TEE "${tee.slice(0, 32)}"`);
  const missing = REGISTERS[tee]?.filter((register) => !registers.has(register)) ?? [];
  if (missing.length) throw new RangeError(`the reference values of "${name}" leave out ${missing.join(", ")}`);
  for (const [register, value] of registers) {
    pattern(/^[a-z0-9_.]{1,40}$/)(register);
    pattern(/^(?:any|(?:[0-9a-f]{2})*)$/)(value);
  }
}

/** Return the name of the first register that differs from what was measured. */
export function mismatch(values: ReferenceValues, measurements: ReadonlyMap<string, string>): string | undefined {
  return [...values.registers].find(([name, value]) => value !== ANY && value !== measurements.get(name))?.[0];
}

const claims = checked(
  struct({
    // Capsules that must be open in the workload, at a given manifest where one is named.
    capsules: optional(
      array(struct({ id: string, manifest_sha256: optional(nullable(sections.hexOf(32)), null) })),
      [],
    ),
    policies: optional(array(string), []), // digests that must be in force
    ledger_vkey: optional(nullable(string), null),
  }),
  ({ capsules, ledgerVkey }) => {
    if (ledgerVkey === null && capsules.some((pin) => pin.manifestSha256 === null)) {
      throw new RangeError(
        "a capsule pinned by its id alone needs ledger_vkey beside it: at another broker others may use the id",
      );
    }
  },
);

/** What the claims must say. */
export type ClaimRules = Decoded<typeof claims>;

const sigstoreIdentity = checked(
  struct({
    issuer: string,
    repository: optional(string, ""),
    ref_prefix: optional(string, "refs/tags/"),
    workflow: optional(string, ""),
    subject: optional(string, ""),
  }),
  ({ issuer, repository, subject }) => {
    if (!issuer || Boolean(repository) === Boolean(subject)) {
      throw new RangeError("a sigstore identity names its issuer, and either a repository or a subject");
    }
  },
);

const releaseTrust = checked(
  struct({
    workload: string,
    key: optional(string, ""), // Ed25519 public key, 32 bytes in hex
    sigstore: optional(nullable(sigstoreIdentity), null), // not checked in a browser
    sigstore_root: optional(string, ""),
    min_version: optional(integer(0), 0), // releases below it are refused
    not_before: optional(nullable(rfc3339), null), // releases signed before are refused
  }),
  ({ key, sigstore, sigstoreRoot }) => {
    if (Boolean(key) === Boolean(sigstore) || Boolean(sigstore) !== Boolean(sigstoreRoot)) {
      throw new RangeError("trust in releases needs either a key, or a sigstore identity with sigstore_root");
    }
    if (key) new PublicKey(fromHex(sections.hexOf(32)(key)));
  },
);

/** Who may say what a workload measures, and from which version on. */
export type ReleaseTrust = Decoded<typeof releaseTrust>;

const rules = checked(
  struct({
    version: optional(bigint, 1n),
    allow_simulation: optional(boolean, false),
    sim_roots: optional(array(string), []), // "sha256:" and the fingerprint, or the DER certificate in base64
    tcb: sections.section(sections.tcb),
    tdx: sections.section(sections.tdx),
    sgx: sections.section(sections.sgx),
    snp: sections.section(sections.snp),
    nitro: sections.section(sections.nitro),
    cca: sections.section(sections.cca),
    csv: sections.section(sections.csv),
    tpm: sections.section(sections.tpm),
    azure: sections.section(sections.azure),
    gcp: sections.section(sections.gcp),
    nvidia: sections.section(sections.nvidia),
    event_log: sections.section(sections.eventLog),
    claims: sections.section(claims),
    releases: optional(array(releaseTrust), []), // who may add to `workloads`: see `release.ts`
    workloads: optional(
      array(
        checked(
          struct({ name: string, registers: dictionary(string), tee: optional(string, "tdx") }),
          checkReferenceValues,
        ),
      ),
      [],
    ),
  }),
  ({ version, simRoots, workloads, nitro }) => {
    if (version !== 1n) {
      throw new MitaiError("attest.policy-version-unsupported", `an appraisal policy of version ${version}`);
    }
    for (const simRoot of simRoots) {
      if (simRoot.startsWith("sha256:")) sections.hexOf(32)(simRoot.slice(7));
      else bytes(simRoot);
    }
    for (const { name, tee, registers } of workloads) {
      // An instance's registers: those of its boot chain are others than an enclave's.
      const isInstance = tee === "nitro" && nitro.source === "nitrotpm";
      if (isInstance && !(registers.has("pcr4") && registers.has("pcr7"))) {
        throw new RangeError(`the reference values of "${name}" on a NitroTPM leave out pcr4 or pcr7`);
      }
    }
  },
);

type Rules = Decoded<typeof rules>;

/** An appraisal policy; strict by default. */
export interface Policy extends Rules {
  /** The digest that names this policy: over every rule spelled out, in hex; Python's `Policy.sha256`. */
  sha256(): Promise<string>;
}

export const Policy = {
  /** Read a policy; throw on unknown keys, wrong types and malformed values. */
  fromToml(text: string): Policy {
    if (text.length > MAX_POLICY_CHARACTERS) {
      throw new MitaiError(POLICY_MALFORMED, `a policy of ${text.length} characters is above the limit`);
    }
    try {
      return policyOf(rules(fromToml(text)));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new MitaiError(POLICY_MALFORMED, `the appraisal policy is malformed: ${error.message}`);
    }
  },
};

/** Return the policy with these reference values too. */
export function withWorkloads(policy: Policy, added: readonly ReferenceValues[]): Policy {
  return policyOf({ ...policy, workloads: [...policy.workloads, ...added] });
}

/** Return the policy without what it asks of claims, which is each client's own matter: what brokers apply. */
export function withoutClaimRules(policy: Policy): Policy {
  return policyOf({ ...policy, claims: claims(new JsonObject([])) });
}

/** Return the fingerprints of the simulated roots that a policy names. */
export async function simRootFingerprints({ simRoots }: Policy): Promise<ReadonlySet<string>> {
  const fingerprints = simRoots.map(async (root) =>
    root.startsWith("sha256:") ? root.slice(7) : hex(await sha256(bytes(root))),
  );
  return new Set(await Promise.all(fingerprints));
}

function policyOf(decoded: Rules): Policy {
  const spelledOut = `${tomlLines(decoded, "").join("\n")}\n`;
  return Object.freeze({ ...decoded, sha256: async () => hex(await sha256(utf8(spelledOut))) });
}

/** Parse TOML into the values that decoders take. */
function fromToml(text: string): Json {
  if (text.startsWith("\ufeff")) throw new RangeError("a policy begins with a byte order mark");
  try {
    const unix = text.replaceAll("\r\n", "\n"); // as Python reads it: also inside of texts
    return json(parse(unix, { integersAsBigInt: true }), unix);
  } catch (error) {
    throw new RangeError(error instanceof Error ? error.message.split("\n")[0] : "not TOML"); // or nested too deeply
  }
}

function json(value: unknown, source: string): Json {
  if (Array.isArray(value)) return value.map((item) => json(item, source));
  if (value instanceof Date) {
    // The parser moves 30 February to March, and needs no seconds: the time must be there as it is read.
    const [date, time] = [value.toISOString().slice(0, 10), value.toISOString().slice(11, 19)];
    if (!["T", "t", " "].some((between) => source.includes(date + between + time))) throw new RangeError("not a time");
    return value;
  }
  if (typeof value === "object" && value !== null) {
    return new JsonObject(Object.entries(value).map(([name, member]) => [name, json(member, source)]));
  }
  if (["string", "bigint", "number", "boolean"].includes(typeof value)) return value as Json;
  throw new RangeError("not TOML");
}

/** Read a moment, of TOML or as text, and write it as msgspec does. */
function rfc3339(value: Json): string {
  const written = value instanceof Date ? value.toISOString() : string(value);
  moment(written);
  const [, date, time, fraction = "", zone = "Z"] =
    /^(.{10}).(.{8})(?:\.(\d+))?(?:[Zz]|[+-]00:?00|(.+))$/.exec(written) ?? [];
  const micros = fraction.slice(0, 6).padEnd(6, "0");
  const offset = zone.length === 5 ? `${zone.slice(0, 3)}:${zone.slice(3)}` : zone;
  return `${date}T${time}${/[1-9]/.test(micros) ? `.${micros}` : ""}${offset}`;
}

/** Write every rule: scalars and lists of scalars first, then sub-tables, then arrays of tables. */
function tomlLines(table: object, path: string): string[] {
  const lines: string[] = [];
  const below: string[] = [];
  const members = table instanceof Map ? [...table] : Object.entries(table).map(([key, value]) => [snake(key), value]);
  for (const [key, value] of members) {
    const own = /^[A-Za-z0-9_-]+$/.test(key) ? key : toml(key);
    const name = path ? `${path}.${own}` : own;
    if (Array.isArray(value) && typeof value[0] === "object") {
      for (const entry of value) below.push("", `[[${name}]]`, ...tomlLines(entry, name));
    } else if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      below.push("", `[${name}]`, ...tomlLines(value, name));
    } else if (value !== null && typeof value !== "function") {
      lines.push(`${own} = ${toml(value)}`);
    }
  }
  return [...lines, ...below];
}

function toml(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  return typeof value === "string" ? JSON.stringify(value).replaceAll("\x7f", "\\u007f") : String(value);
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
