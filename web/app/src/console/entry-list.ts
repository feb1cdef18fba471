/** `<entry-list>`: ledger entries, each to be opened: its fields, its bytes, and on demand the path that proves its place. */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { failureCard } from "../components/failure.ts";
import { icons, View } from "../design/index.ts";
import { moment, number, strings } from "../i18n.ts";
import { printable } from "../printable.ts";
import type { Entry, Inclusion } from "./model.ts";
import { digest, Page } from "./page.ts";
import { type Found, found } from "./state.ts";

const t = strings({
  en: {
    "party-registered": "Party registered",
    "capsule-registered": "Capsule registered",
    derivation: "Capsule derived",
    "policy-set": "Policy set",
    release: "Key released",
    denial: "Key denied",
    deployment: "Deployment",
    revocation: "Revoked",
    "delegates-set": "Delegates named",
    "export-requested": "Export asked for",
    approval: "Approval",
    export: "Export",
    receipt: "Receipt",
    "capsule-resealed": "New data key",
    "root-key": "Broker's root key",
    "recovery-set": "Recovery plan",
    simulated: "simulated",
    none: "none",
    yes: "yes",
    no: "no",
    prove: "Prove its place",
    proven: "In the tree of {size} entries: {n} hashes lead from this entry to the signed root.",
    leaf: "Entry's hash",
    root: "Signed root",
    value: "value",
    raw: "Bytes as logged",
    empty: "No entries.",
  },
  zh: {
    "party-registered": "登记参与方",
    "capsule-registered": "登记密封模型",
    derivation: "派生密封内容",
    "policy-set": "设置策略",
    release: "放出密钥",
    denial: "拒绝放出密钥",
    deployment: "部署",
    revocation: "撤销",
    "delegates-set": "指定代表",
    "export-requested": "申请导出",
    approval: "审批",
    export: "导出",
    receipt: "回执",
    "capsule-resealed": "更换数据密钥",
    "root-key": "密钥服务的根密钥",
    "recovery-set": "恢复方案",
    simulated: "模拟",
    none: "无",
    yes: "是",
    no: "否",
    prove: "证明其位置",
    proven: "在 {size} 条记录的树中：{n} 个哈希从这条记录通到已签名的根。",
    leaf: "记录的哈希",
    root: "已签名的根",
    value: "值",
    raw: "账本中的原始字节",
    empty: "没有记录。",
  },
});

const KINDS = [
  ...(["party-registered", "capsule-registered", "derivation", "policy-set", "release", "denial"] as const),
  ...([
    "deployment",
    "revocation",
    "delegates-set",
    "export-requested",
    "approval",
    "export",
    "receipt",
    "root-key",
    "recovery-set",
    "capsule-resealed",
  ] as const),
];
const TONES: Readonly<Record<string, string>> = {
  denial: "bad",
  revocation: "warn",
  "root-key": "warn",
  "recovery-set": "warn",
};

@customElement("entry-list")
export class EntryList extends View {
  static override styles = [
    Page.styles,
    css`
      :host {
        display: block;
      }
      .entry {
        border-bottom: 1px solid var(--line);
      }
      .entry > summary {
        display: flex;
        align-items: baseline;
        gap: 0 0.75rem;
        padding-block: 0.5rem;
      }
      .entry > summary:hover {
        background: var(--sunken);
      }
      .entry > summary > svg {
        align-self: center;
        color: var(--muted);
        transform: rotate(-90deg);
        transition: transform var(--quick);
      }
      .entry[open] > summary > svg {
        transform: none;
      }
      @media (max-width: 480px) {
        .entry > summary {
          display: grid;
          grid-template-columns: auto auto minmax(0, 1fr) auto;
        }
        .entry > summary > .tag {
          grid-column: 3 / -1;
          justify-self: start;
        }
        .entry > summary > .clip {
          grid-column: 1 / 4;
        }
      }
      .index {
        min-width: 4ch;
        font-variant-numeric: tabular-nums;
        color: var(--muted);
      }
      .about {
        display: grid;
        gap: var(--gap);
        padding: var(--gap-s) 0 var(--gap);
        grid-template-columns: minmax(0, 1fr);
      }
      .path {
        padding-inline-start: 1.5rem;
        font: var(--small) / 1.6 var(--mono);
        overflow-wrap: anywhere;
      }
    `,
  ];

  @property({ attribute: false }) accessor entries: readonly Entry[] = [];
  @property() accessor empty = "";
  /** Computes an entry's proof; without it none is offered. */
  @property({ attribute: false }) accessor prove: ((index: number) => Promise<Inclusion>) | undefined;
  @state() private accessor proofs: ReadonlyMap<number, Found<Inclusion>> = new Map();

  protected override render() {
    if (this.entries.length === 0) return html`<p class="muted">${this.empty || t("empty")}</p>`;
    return repeat(
      this.entries,
      (entry) => entry.index,
      (entry) => html`<details class="entry">
        <summary>
          ${icons.chevron}
          <span class="index">#${number(entry.index)}</span>
          <span class=${`tag ${TONES[entry.type] ?? ""}`}>${title(entry)}</span>
          <span class="clip grow mono small">${gist(entry)}</span>
          <time class="muted small" datetime=${entry.time.toISOString()}>${moment(entry.time)}</time>
        </summary>
        ${this.about(entry)}
      </details>`,
    );
  }

  private about(entry: Entry): TemplateResult {
    return html`<div class="about">
      <dl class="facts">
        ${Object.entries(entry.fields).map(([name, value]) => html`<dt><code>${name}</code></dt><dd>${shown(value)}</dd>`)}
      </dl>
      ${this.prove ? this.proof(entry.index, this.prove) : nothing}
      <details>
        <summary class="small">${t("raw")}</summary>
        <pre>${printable(new TextDecoder().decode(entry.bytes))}</pre>
      </details>
    </div>`;
  }

  private proof(index: number, prove: (index: number) => Promise<Inclusion>): TemplateResult {
    const proof = this.proofs.get(index);
    const ask = async () => {
      this.proofs = new Map([...this.proofs, [index, await found(prove(index))]]);
    };
    if (!proof) return html`<div><button class="tiny" @click=${ask}>${icons.shield}${t("prove")}</button></div>`;
    if (proof.kind !== "found") return proof.kind === "failed" ? failureCard(proof.failure, "") : html``;
    const { size, leaf, path, root } = proof.value;
    return html`<div class="stack" role="status">
      <p class="note good">${t("proven", { size: number(size), n: path.length })}</p>
      <dl class="facts">
        <dt>${t("leaf")}</dt>
        <dd class="mono">${leaf}</dd>
        <dt>${t("root")}</dt>
        <dd class="mono">${root}</dd>
      </dl>
      ${path.length > 0 ? html`<ol class="path">${path.map((hash) => html`<li>${hash}</li>`)}</ol>` : nothing}
    </div>`;
  }
}

/** What kind of entry it is, in words. */
export function title({ type, fields }: Entry): string {
  const known = KINDS.find((kind) => kind === type);
  const name = known ? t(known) : type;
  return fields.simulated === true ? `${name} · ${t("simulated")}` : name;
}

/** The one field that tells most. */
function gist({ fields }: Entry): string {
  const { code, name, subject, state, capsule, capsules, exchange } = fields;
  const value = code ?? name ?? subject ?? state ?? capsule ?? capsules ?? exchange ?? "";
  return printable(Array.isArray(value) ? value.join(", ") : String(value));
}

function shown(value: unknown): unknown {
  if (value === null || (Array.isArray(value) && value.length === 0))
    return html`<span class="muted">${t("none")}</span>`;
  if (typeof value === "boolean") return value ? t("yes") : t("no");
  if (Array.isArray(value)) return value.map((one: unknown) => html`<div>${shown(one)}</div>`);
  const text = printable(String(value));
  return /^[0-9a-f]{32,}$/.test(text) ? digest(text, t("value")) : text;
}

declare global {
  interface HTMLElementTagNameMap {
    "entry-list": EntryList;
  }
}
