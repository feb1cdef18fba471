/** `<machine-card>`: one machine: the verdict, what its claims say, every check with its values, the evidence to keep. */
import { hex } from "@mitai/verify";
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import { icons, View } from "../design/index.ts";
import { save } from "../files.ts";
import { moment, strings } from "../i18n.ts";
import { explain, stepName } from "../strings/steps.ts";
import { BROKER, type Findings, type Machine } from "./model.ts";
import { digest, Page, waiting } from "./page.ts";
import type { Found } from "./state.ts";

const t = strings({
  en: {
    broker: "Key broker",
    replica: "Replica {name}",
    verified: "Verified",
    simulated: "Verified, simulated",
    refused: "Refused",
    checking: "Checking",
    again: "Verify again",
    download: "Download evidence",
    workload: "Workload",
    platform: "Hardware",
    noHardware: "none: a simulation",
    at: "Verified at",
    until: "Collateral valid until",
    evidence: "Evidence",
    tcb: "Patch level",
    advisories: "Advisories",
    capsules: "Open capsules",
    noCapsules: "none",
    policies: "Policies in force",
    ledger: "Ledger",
    witnesses: "Witnesses",
    noWitnesses: "none: its host could put the whole database back unseen",
    checks: "All {n} checks",
    step: "Check",
    found: "Found",
    measurements: "Measurements",
    register: "Register",
    value: "Value",
    nonce: "Nonce",
    digest: "digest",
  },
  zh: {
    broker: "密钥代理",
    replica: "副本 {name}",
    verified: "已验证",
    simulated: "已验证（模拟）",
    refused: "拒绝",
    checking: "检查中",
    again: "重新验证",
    download: "下载证据",
    workload: "工作负载",
    platform: "硬件",
    noHardware: "无：模拟环境",
    at: "验证时间",
    until: "验证材料有效至",
    evidence: "证据",
    tcb: "补丁级别",
    advisories: "安全公告",
    capsules: "已打开的密封模型",
    noCapsules: "无",
    policies: "生效的策略",
    ledger: "账本",
    witnesses: "见证者",
    noWitnesses: "无：主机可以悄悄恢复整个旧数据库",
    checks: "全部 {n} 项检查",
    step: "检查项",
    found: "结果",
    measurements: "度量值",
    register: "寄存器",
    value: "值",
    nonce: "随机数",
    digest: "摘要",
  },
});

const HARDWARE: Readonly<Record<string, string>> = {
  tdx: "Intel TDX",
  sgx: "Intel SGX",
  snp: "AMD SEV-SNP",
  nitro: "AWS Nitro",
  cca: "Arm CCA",
  csv: "Hygon CSV",
};

@customElement("machine-card")
export class MachineCard extends View {
  static override styles = [
    Page.styles,
    css`
      :host {
        display: block;
      }
      .card {
        display: grid;
        gap: var(--gap);
        grid-template-columns: minmax(0, 1fr);
      }
      .waiting {
        min-height: 31rem; /* about what it becomes: nothing jumps then */
        grid-template-rows: auto minmax(0, 1fr) auto;
      }
      .head {
        min-height: 1.75rem;
      }
      dd.list {
        display: grid;
        justify-items: start;
      }
      td:first-child {
        white-space: nowrap;
      }
      @media (max-width: 480px) {
        .waiting {
          min-height: 44rem;
        }
        td:first-child {
          white-space: normal;
        }
      }
      table {
        margin-top: var(--gap-s);
        font-size: var(--small);
      }
    `,
  ];

  @property() accessor name = "";
  @property({ attribute: false }) accessor machine: Found<Machine> = { kind: "waiting" };

  protected override render() {
    const title = this.name === BROKER ? t("broker") : t("replica", { name: this.name });
    return html`<section class="card ${this.machine.kind}" aria-label=${title}>
      <div class="row wrap head">
        <h3 class="grow">${title}</h3>
        ${this.verdict()}
      </div>
      ${this.body()}
      <div class="row wrap">
        <button class="tiny" ?disabled=${this.machine.kind === "waiting"} @click=${() => this.tell("m-verify")}>
          ${icons.retry}${t("again")}
        </button>
        ${
          this.machine.kind === "found"
            ? html`<button class="tiny" @click=${this.download}>${icons.download}${t("download")}</button>`
            : nothing
        }
      </div>
    </section>`;
  }

  private verdict(): TemplateResult {
    if (this.machine.kind === "waiting")
      return html`<span class="tag" role="status">${icons.clock}${t("checking")}</span>`;
    if (this.machine.kind === "failed")
      return html`<span class="tag bad" role="status">${icons.cross}${t("refused")}</span>`;
    return this.machine.value.findings.simulated
      ? html`<span class="tag warn" role="status">${icons.warning}${t("simulated")}</span>`
      : html`<span class="tag good" role="status">${icons.shield}${t("verified")}</span>`;
  }

  private body() {
    if (this.machine.kind === "waiting") return waiting();
    if (this.machine.kind === "failed") return failureCard(this.machine.failure, "");
    const { findings, nonce, verifiedAt } = this.machine.value;
    return html`<dl class="facts">
        ${fact(t("workload"), findings.workload)}
        ${fact(t("platform"), findings.simulated ? t("noHardware") : (HARDWARE[findings.tee] ?? findings.tee))}
        ${fact(t("at"), moment(verifiedAt))} ${fact(t("until"), moment(findings.notAfter))}
        ${fact(t("evidence"), digest(findings.evidenceSha256, t("digest")))} ${fact(t("tcb"), findings.tcbStatus)}
        ${findings.advisoryIds.length > 0 ? fact(t("advisories"), findings.advisoryIds.join(", ")) : nothing}
        ${this.claims(findings)}
      </dl>
      <details>
        <summary>${t("checks", { n: findings.checks.length })}</summary>
        <table>
          <thead>
            <tr><th scope="col">${t("step")}</th><th scope="col">${t("found")}</th></tr>
          </thead>
          <tbody>
            ${findings.checks.map(({ step, detail }) => html`<tr><td>${stepName(findings.tee, step)}</td><td>${explain(findings.tee, step)}<div class="mono muted">${detail}</div></td></tr>`)}
          </tbody>
        </table>
      </details>
      <details>
        <summary>${t("measurements")}</summary>
        <table>
          <thead>
            <tr><th scope="col">${t("register")}</th><th scope="col">${t("value")}</th></tr>
          </thead>
          <tbody>
            ${[...findings.measurements].map(
              ([name, value]) => html`<tr><td>${name}</td><td class="mono">${value}</td></tr>`,
            )}
            <tr><td>${t("nonce")}</td><td class="mono">${hex(nonce)}</td></tr>
          </tbody>
        </table>
      </details>`;
  }

  private claims({ capsules, policies, ledger, extra, workload }: Findings) {
    const witnesses = (extra.get("witnesses") ?? "").split(" ").filter((witness) => witness !== "");
    return html`${
      workload === BROKER
        ? fact(
            t("witnesses"),
            witnesses.length > 0 ? witnesses.map((key) => digest(key, t("witnesses"))) : t("noWitnesses"),
          )
        : fact(t("capsules"), capsules.length > 0 ? capsules.map(({ id }) => digest(id, t("digest"))) : t("noCapsules"))
    }
    ${fact(t("policies"), policies.length > 0 ? policies.map((policy) => digest(policy, t("digest"))) : t("noCapsules"))}
    ${ledger ? fact(t("ledger"), digest(ledger.vkey, t("ledger"))) : nothing}`;
  }

  private download(): void {
    if (this.machine.kind === "found") save(`evidence-${this.name}.json`, this.machine.value.evidence);
  }
}

function fact(name: string, value: unknown): TemplateResult {
  return html`<dt>${name}</dt><dd class=${Array.isArray(value) ? "list" : ""}>${value}</dd>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "machine-card": MachineCard;
  }
}
