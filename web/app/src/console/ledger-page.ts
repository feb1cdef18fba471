/** `<console-ledger>`: the signed head with its witnesses, what it extends, and the entries, all checked in this browser. */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import { icons } from "../design/index.ts";
import { save } from "../files.ts";
import { moment, number, strings } from "../i18n.ts";
import type { Entry, Head, Ledger } from "./model.ts";
import { digest, Page, waiting } from "./page.ts";
import { type Found, found } from "./state.ts";
import "./entry-list.ts";

const t = strings({
  en: {
    heading: "Ledger",
    about:
      "The broker writes every decision into an append-only log. Its files come from the host; every hash and signature was checked here against the key in the broker's attested claims.",
    again: "Read again",
    head: "Signed head",
    origin: "Name",
    size: "Entries",
    root: "Root",
    cosigned: "Cosigned by",
    witness: "{witness}, {at}",
    uncosigned: "nobody: only a witness notices when different readers are shown different logs",
    missing: "Of the witnesses that the broker names, {n} of {all} did not cosign this head yet.",
    first: "This device sees this ledger for the first time.",
    extends: "It extends the {n} entries that this device saw before: proven with {proof} hashes.",
    same: "It is the head that this device saw before.",
    note: "Download checkpoint",
    entries: "Entries",
    range: "{from} to {to} of {size}",
    older: "Older",
    newer: "Newer",
    find: "Entry number",
    go: "Show",
    value: "value",
    none: "The ledger is empty.",
  },
  zh: {
    heading: "账本",
    about:
      "密钥代理把每个决定写入只增不减的日志。日志文件来自主机；这里用密钥代理经验证的声明中的公钥，检查了每个哈希和签名。",
    again: "重新读取",
    head: "已签名的头",
    origin: "名称",
    size: "记录数",
    root: "根",
    cosigned: "共同签名",
    witness: "{witness}，{at}",
    uncosigned: "无：只有见证者能发现不同读者看到不同的日志",
    missing: "密钥代理所列 {all} 个见证者中，有 {n} 个还没有签这个头。",
    first: "本设备第一次看到这个账本。",
    extends: "它延续了本设备先前看到的 {n} 条记录：用 {proof} 个哈希证明。",
    same: "它就是本设备先前看到的头。",
    note: "下载检查点",
    entries: "记录",
    range: "第 {from} 至 {to} 条，共 {size} 条",
    older: "更早",
    newer: "更新",
    find: "记录编号",
    go: "查看",
    value: "值",
    none: "账本是空的。",
  },
});

const PER_PAGE = 20;

@customElement("console-ledger")
export class LedgerPage extends Page {
  static override styles = [
    Page.styles,
    css`
      .range {
        flex: 1 0 auto;
      }
      .find button {
        flex: none;
      }
      .find input {
        width: 10rem;
      }
    `,
  ];

  /** Of the newest entry that is shown, and one more; `undefined` follows the head. */
  @state() private accessor end: number | undefined;
  @state() private accessor entries: Found<readonly Entry[]> = { kind: "waiting" };
  private shown: { readonly ledger: Ledger; readonly end: number } | undefined;

  protected override willUpdate(): void {
    const { ledger } = this.state;
    if (ledger.kind !== "found") return;
    const end = this.end ?? ledger.value.head.size;
    if (this.shown?.ledger !== ledger.value || this.shown.end !== end) void this.read(ledger.value, end);
  }

  private async read(ledger: Ledger, end: number): Promise<void> {
    const wanted = { ledger, end };
    this.shown = wanted;
    const entries = await found(ledger.entries(Math.max(0, end - PER_PAGE), end));
    if (this.shown === wanted) this.entries = entries;
  }

  protected override render() {
    const { ledger } = this.state;
    return html`<div class="row wrap">
        <h2 class="grow">${t("heading")}</h2>
        <button ?disabled=${ledger.kind === "waiting"} @click=${this.again}>${icons.retry}${t("again")}</button>
      </div>
      <p>${t("about")}</p>
      ${ledger.kind === "waiting" ? waiting() : ledger.kind === "failed" ? failureCard(ledger.failure, "") : this.found(ledger.value)}`;
  }

  private again(): void {
    this.end = undefined;
    void this.state.readLedger();
  }

  private found(ledger: Ledger): TemplateResult {
    return html`${head(ledger.head)}
      <section class="stack">
        <h3>${t("entries")}</h3>
        ${ledger.head.size > 0 ? this.page(ledger) : html`<p class="muted">${t("none")}</p>`}
      </section>`;
  }

  private page(ledger: Ledger): TemplateResult {
    const { size } = ledger.head;
    const end = this.end ?? size;
    const start = Math.max(0, end - PER_PAGE);
    return html`<div class="row wrap">
        <button class="tiny" ?disabled=${start === 0} @click=${() => this.turn(start)}>${t("older")}</button>
        <button class="tiny" ?disabled=${end >= size} @click=${() => this.turn(Math.min(size, end + PER_PAGE))}>
          ${t("newer")}
        </button>
        <span class="range muted small grow" role="status"
          >${t("range", { from: number(start), to: number(end - 1), size: number(size) })}</span
        >
        <form class="row find" @submit=${(event: SubmitEvent) => this.find(event, size)}>
          <input
            name="index" type="number" min="0" max=${size - 1} required
            aria-label=${t("find")} placeholder=${t("find")}
          />
          <button>${t("go")}</button>
        </form>
      </div>
      ${
        this.entries.kind === "found"
          ? html`<entry-list
              .entries=${this.entries.value.toReversed()}
              .prove=${(index: number) => ledger.prove(index)}
            ></entry-list>`
          : this.entries.kind === "failed"
            ? failureCard(this.entries.failure, "")
            : waiting()
      }`;
  }

  private turn(end: number): void {
    this.end = end;
  }

  private find(event: SubmitEvent, size: number): void {
    event.preventDefault();
    const form = event.target instanceof HTMLFormElement ? new FormData(event.target) : undefined;
    const index = Number(form?.get("index"));
    if (Number.isSafeInteger(index) && index >= 0 && index < size) this.turn(index + 1);
  }
}

function head(head: Head): TemplateResult {
  const missing = head.witnesses.length - head.cosignatures.length;
  return html`<section class="card stack" aria-label=${t("head")}>
    <dl class="facts">
      <dt>${t("origin")}</dt>
      <dd class="mono">${head.origin}</dd>
      <dt>${t("size")}</dt>
      <dd>${number(head.size)}</dd>
      <dt>${t("root")}</dt>
      <dd>${digest(head.root, t("value"))}</dd>
      <dt>${t("cosigned")}</dt>
      <dd>
        ${
          head.cosignatures.length === 0
            ? t("uncosigned")
            : head.cosignatures.map(({ witness, at }) => html`<div>${t("witness", { witness, at: moment(at) })}</div>`)
        }
      </dd>
    </dl>
    ${missing > 0 ? html`<p class="note warn">${t("missing", { n: missing, all: head.witnesses.length })}</p>` : nothing}
    <p class=${head.before ? "note good" : "note"}>${history(head)}</p>
    <div>
      <button class="tiny" @click=${() => save("checkpoint.txt", head.note, "text/plain")}>
        ${icons.download}${t("note")}
      </button>
    </div>
  </section>`;
}

function history({ before, size }: Head): string {
  if (!before) return t("first");
  return before.size === size ? t("same") : t("extends", { n: number(before.size), proof: before.proof });
}

declare global {
  interface HTMLElementTagNameMap {
    "console-ledger": LedgerPage;
  }
}
