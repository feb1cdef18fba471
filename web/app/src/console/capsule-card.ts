/** `<capsule-card>`: one capsule: who has a say, under which policies, what was decided; and the own say in it. */
import { css, html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import { icons, toast } from "../design/index.ts";
import { moment, number, strings } from "../i18n.ts";
import { printable } from "../printable.ts";
import type { Capsule, Entry, Grant, Owner } from "./model.ts";
import { digest, Page, waiting } from "./page.ts";
import { type Found, found } from "./state.ts";
import { blockOf, left, momentOf } from "./terms.ts";
import "./entry-list.ts";
import "./set-policy-dialog.ts";
import "./revoke-dialog.ts";

const AMOUNTS = ["tokens", "steps", "epsilon_micros"] as const;

const t = strings({
  en: {
    allowed: "Under policy",
    revoked: "Revoked",
    "no-policy": "Waits for a policy",
    ended: "Ended",
    "used-up": "Used up",
    registered: "Registered",
    manifest: "Manifest",
    owners: "Owners",
    you: "you",
    party: "party",
    version: "policy version {n}",
    noPolicy: "no policy yet: nothing is released before this owner sets one",
    uses: "used {used} times of {all}",
    unlimited: "used {used} times, any number allowed",
    until: "until {at} ({left})",
    endless: "without an end",
    tokens: "tokens",
    steps: "training steps",
    epsilon_micros: "privacy loss (millionths of epsilon)",
    spent: "{what}: {used} of {all}",
    over: "over",
    yours: "Your policy",
    change: "Change policy",
    revoke: "Revoke",
    decisions: "Decisions",
    proven: "The newest entries about this capsule, each proven to be in the attested ledger.",
    digest: "digest",
    logged: "Done: ledger entry {n}",
  },
  zh: {
    allowed: "按策略放行",
    revoked: "已撤销",
    "no-policy": "等待策略",
    ended: "已到期",
    "used-up": "次数用完",
    registered: "登记时间",
    manifest: "清单",
    owners: "所有者",
    you: "您",
    party: "参与方",
    version: "策略第 {n} 版",
    noPolicy: "尚无策略：在这位所有者设置之前，不会放出密钥",
    uses: "已用 {used} 次，共 {all} 次",
    unlimited: "已用 {used} 次，不限次数",
    until: "至 {at}（{left}）",
    endless: "无期限",
    tokens: "词元",
    steps: "训练步数",
    epsilon_micros: "隐私损失（epsilon 的百万分之一）",
    spent: "{what}：{used} / {all}",
    over: "已过",
    yours: "您的策略",
    change: "更换策略",
    revoke: "撤销",
    decisions: "决定",
    proven: "关于这个密封模型的最新记录，每条都已证明在经验证的账本中。",
    digest: "摘要",
    logged: "完成：账本记录第 {n} 条",
  },
});

@customElement("capsule-card")
export class CapsuleCard extends Page {
  static override styles = [
    Page.styles,
    css`
      ul {
        list-style: none;
        display: grid;
        gap: var(--gap-s);
      }
    `,
  ];

  @property({ attribute: false }) accessor owner!: Owner;
  @property() accessor capsuleId = "";
  /** The party has revoked everything: it can look, and nothing else. */
  @property({ type: Boolean }) accessor silenced = false;
  @state() private accessor capsule: Found<Capsule> = { kind: "waiting" };
  @state() private accessor decisions: Found<readonly Entry[]> = { kind: "waiting" };
  @state() private accessor asking: "policy" | "revoke" | undefined;

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has("capsuleId") || changed.has("owner")) void this.read();
  }

  private async read(): Promise<void> {
    this.capsule = this.decisions = { kind: "waiting" };
    this.capsule = await found(this.owner.capsule(this.capsuleId));
    this.decisions = await found(this.owner.decisions(this.capsuleId));
  }

  protected override render() {
    return html`<section class="card stack" aria-label=${this.capsuleId}>
      <div class="row wrap">
        <h3 class="grow">${this.name} ${digest(this.capsuleId, t("digest"))}</h3>
        ${this.capsule.kind === "found" ? verdict(this.capsule.value) : nothing}
      </div>
      ${
        this.capsule.kind === "waiting"
          ? waiting()
          : this.capsule.kind === "failed"
            ? failureCard(this.capsule.failure, "")
            : this.found(this.capsule.value)
      }
    </section>`;
  }

  /** What its owner called it, where the registration is among the newest entries. */
  private get name(): string {
    const entries = this.decisions.kind === "found" ? this.decisions.value : [];
    const registered = entries.find(({ type }) => type === "capsule-registered");
    return registered ? printable(String(registered.fields.name)) : "";
  }

  private found(capsule: Capsule): TemplateResult {
    const own = capsule.grants.find(({ party }) => party === this.owner.keyId);
    return html`<dl class="facts">
        <dt>${t("registered")}</dt>
        <dd>${moment(capsule.registered)}</dd>
        <dt>${t("manifest")}</dt>
        <dd>${digest(capsule.manifestSha256, t("digest"))}</dd>
        <dt>${t("owners")}</dt>
        <dd><ul>${capsule.grants.map((grant) => html`<li>${this.grant(grant)}</li>`)}</ul></dd>
      </dl>
      ${own?.policy ? html`<details><summary>${t("yours")}</summary><pre tabindex="0">${printable(own.policy)}</pre></details>` : nothing}
      ${this.log()}
      ${own && !own.revoked && !this.silenced ? this.actions(capsule, own) : nothing}`;
  }

  private grant({ party, version, policySha256, budget, uses, spent, revoked }: Grant): TemplateResult {
    const who = party === this.owner.keyId ? html`<b>${t("you")}</b>` : digest(party, t("party"));
    if (revoked) return html`${who} <span class="tag bad">${t("revoked")}</span>`;
    if (policySha256 === undefined) return html`${who}<div class="muted">${t("noPolicy")}</div>`;
    const counted =
      budget.uses === null
        ? t("unlimited", { used: number(uses) })
        : t("uses", { used: number(uses), all: number(budget.uses) });
    const end = budget.not_after_s === null ? undefined : momentOf(budget.not_after_s);
    const until = end ? t("until", { at: moment(end), left: left(end, new Date()) ?? t("over") }) : t("endless");
    return html`${who}
      <div>${t("version", { n: number(version) })} ${digest(policySha256, t("digest"))}</div>
      <div class="muted">${counted}; ${until}</div>
      ${AMOUNTS.map((what) => {
        const all = budget.amounts?.[what];
        const used = number(spent[what] ?? 0);
        return all === undefined
          ? nothing
          : html`<div class="muted">${t("spent", { what: t(what), used, all: number(all) })}</div>`;
      })}`;
  }

  private log(): TemplateResult {
    return html`<details>
      <summary>${t("decisions")}</summary>
      ${
        this.decisions.kind === "waiting"
          ? waiting()
          : this.decisions.kind === "failed"
            ? failureCard(this.decisions.failure, "")
            : html`<p class="muted small">${t("proven")}</p>
                <entry-list .entries=${this.decisions.value}></entry-list>`
      }
    </details>`;
  }

  private actions(capsule: Capsule, own: Grant): TemplateResult {
    const close = () => {
      this.asking = undefined;
    };
    const done = (event: CustomEvent<number>) => {
      close();
      toast(t("logged", { n: number(event.detail) }));
      void this.read();
      void this.state.readLedger();
    };
    return html`<div class="row wrap">
        <button @click=${() => {
          this.asking = "policy";
        }}>${icons.pencil}${t("change")}</button>
        <button class="danger" @click=${() => {
          this.asking = "revoke";
        }}>${icons.cross}${t("revoke")}</button>
      </div>
      ${
        this.asking === "policy"
          ? html`<set-policy-dialog .owner=${this.owner} .capsule=${capsule} .grant=${own} @m-close=${close} @m-done=${done}></set-policy-dialog>`
          : nothing
      }
      ${
        this.asking === "revoke"
          ? html`<revoke-dialog .owner=${this.owner} .capsule=${capsule} @m-close=${close} @m-done=${done}></revoke-dialog>`
          : nothing
      }`;
  }
}

function verdict(capsule: Capsule): TemplateResult {
  const block = blockOf(capsule, new Date());
  return html`<span class=${`tag ${block ? (block === "revoked" ? "bad" : "warn") : ""}`}>${t(block ?? "allowed")}</span>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "capsule-card": CapsuleCard;
  }
}
