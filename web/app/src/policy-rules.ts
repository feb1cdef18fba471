/**
 * What a policy accepts beside the obvious: rules that are not the strict defaults, and registers that it leaves open.
 *
 * A host offers the policy that a user says yes to, so a summary must not leave out what makes it a careless one.
 */
import { Policy, type ReferenceValues } from "@mitai/verify";

const MACHINES = [
  "tcb",
  "tdx",
  "sgx",
  "snp",
  "nitro",
  "cca",
  "csv",
  "tpm",
  "azure",
  "gcp",
  "nvidia",
  "eventLog",
] as const;

/** Rules about machines that differ from the defaults, in the words of a policy's file: `sgx.allow_debug = true`. */
export function otherRules(policy: Policy): readonly string[] {
  const strict = Policy.fromToml("version = 1\n");
  return MACHINES.flatMap((section) => {
    const usual = new Map<string, unknown>(Object.entries(strict[section]));
    return Object.entries(policy[section])
      .map(([name, value]) => [name, written(value), written(usual.get(name))] as const)
      .filter(([, value, usual]) => value !== usual)
      .map(([name, value]) => `${snake(section)}.${snake(name)} = ${value}`);
  });
}

/** The registers in which a workload may measure anything. */
export function openRegisters({ registers }: ReferenceValues): readonly string[] {
  return [...registers].filter(([, value]) => value === "any").map(([name]) => name);
}

function written(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part === "bigint") return Number(part);
    return part instanceof Map ? Object.fromEntries(part) : part;
  });
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
