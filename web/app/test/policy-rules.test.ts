/** What a summary of a policy must not leave out. */
import { Policy } from "@mitai/verify";
import { describe, expect, it } from "vitest";
import { openRegisters, otherRules } from "../src/policy-rules.ts";

const WORKLOAD = (mrtd: string) => `
[[workloads]]
name = "serve"
registers = { mrtd = "${mrtd}", rtmr0 = "00", rtmr1 = "00", rtmr2 = "any", rtmr3 = "00" }
`;

describe("a policy's rules", () => {
  it.each([
    "version = 1",
    'allow_simulation = true\n[claims]\nledger_vkey = "a+0a1b2c3d+AaRA"',
    `[tdx]\nmrsignerseam = "${"00".repeat(48)}"`,
  ])("are the defaults: %j", (toml) => {
    expect(otherRules(Policy.fromToml(toml))).toEqual([]);
  });

  it.each([
    ['[tdx]\ntd_attributes_allowed = "010000d000000080"', 'tdx.td_attributes_allowed = "010000d000000080"'],
    ['[tdx]\nmrsignerseam = "any"\n', 'tdx.mrsignerseam = "any"'],
    ['[tcb]\naccepted_advisories = ["any"]', 'tcb.accepted_advisories = ["any"]'],
    ["[sgx]\nallow_debug = true", "sgx.allow_debug = true"],
    ["[snp]\npolicy_forbidden = []", "snp.policy_forbidden = []"],
    ["[snp]\nlaunch_mitigations = 3", "snp.launch_mitigations = 3"],
    ["[snp.min_tcb.Milan]\nsnp = 7", 'snp.min_tcb = {"Milan":{"fmc":0,"bootloader":0,"tee":0,"snp":7,"microcode":0}}'],
  ])("are others: %j", (toml, told) => {
    expect(otherRules(Policy.fromToml(toml))).toEqual([told]);
  });

  it("leave code open, register by register", () => {
    const [closed, open] = ["ab", "any"].map((mrtd) => Policy.fromToml(WORKLOAD(mrtd)).workloads[0]);
    expect(closed && openRegisters(closed)).toEqual(["rtmr2"]);
    expect(open && openRegisters(open)).toEqual(["mrtd", "rtmr2"]);
  });
});
