/** `<console-usage>`: what the ledger's newest entries can honestly say about use, as bars and tables. */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import { language, number, strings } from "../i18n.ts";
import { type Entry, NEWEST } from "./model.ts";
import { Page, waiting } from "./page.ts";
import { type Every, KINDS, type Kind, timeline, usageOf } from "./usage.ts";
import "./chart.ts";

const t = strings({
  en: {
    heading: "Usage",
    about:
      "Counted here from ledger entries {from} to {to}, each proven to be in the log. Receipts are in the ledger as digests: it knows nothing of users, tokens, questions or answers.",
    cut: "These are the newest {n} of {size} entries; what is older is not counted.",
    empty: "The ledger is empty: there is nothing to count.",
    by: "Bars",
    hour: "by hour, the last 24",
    day: "by day, the last 14",
    release: "Keys released",
    denial: "Keys denied",
    receipt: "Answers with a receipt",
    deployment: "Deployments begun or ended",
    simulated: "{n} of the releases and denials were on simulated hardware.",
    reasons: "Denials by reason",
    reason: "Reason",
    count: "Count",
    time: "From",
  },
  zh: {
    heading: "用量",
    about:
      "根据第 {from} 至 {to} 条账本记录在此统计，每条都已证明在日志中。账本只存回执的摘要：不含用户、词元、问题或回答。",
    cut: "这是 {size} 条记录中最新的 {n} 条，更早的没有统计。",
    empty: "账本是空的，没有可统计的内容。",
    by: "柱形",
    hour: "按小时，最近 24 小时",
    day: "按天，最近 14 天",
    release: "放出密钥",
    denial: "拒绝放出密钥",
    receipt: "带回执的回答",
    deployment: "部署的开始与结束",
    simulated: "其中 {n} 次放出或拒绝发生在模拟硬件上。",
    reasons: "拒绝的原因",
    reason: "原因",
    count: "次数",
    time: "起始",
  },
});

const BARS: Readonly<Record<Every, number>> = { hour: 24, day: 14 };
const CHARTS = ["receipt", "release", "denial"] as const;

@customElement("console-usage")
export class UsagePage extends Page {
  static override styles = [
    Page.styles,
    css`
      .counts {
        display: grid;
        gap: var(--gap);
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr));
        list-style: none;
      }
      .counts b {
        display: block;
        font-size: var(--huge);
        font-weight: 620;
        line-height: 1.2;
        font-variant-numeric: tabular-nums;
      }
      .charts {
        display: grid;
        gap: var(--gap);
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
        align-items: start;
      }
      select {
        width: auto;
      }
      td:last-child,
      th:last-child {
        text-align: end;
        padding-inline-end: 0;
      }
    `,
  ];

  @state() private accessor every: Every = "hour";

  protected override willUpdate(): void {
    void this.state.readRecent();
  }

  protected override render() {
    return html`<h2>${t("heading")}</h2>
      ${this.body()}`;
  }

  private body() {
    const { ledger, recent } = this.state;
    if (ledger.kind === "failed") return failureCard(ledger.failure, "");
    if (recent.kind === "failed") return failureCard(recent.failure, "");
    if (ledger.kind === "waiting" || recent.kind === "waiting") return waiting();
    const { size } = ledger.value.head;
    if (size === 0) return html`<p class="muted">${t("empty")}</p>`;
    return html`<p>${t("about", { from: number(Math.max(0, size - NEWEST)), to: number(size - 1) })}</p>
      ${size > NEWEST ? html`<p class="note">${t("cut", { n: number(NEWEST), size: number(size) })}</p>` : nothing}
      ${this.counts(recent.value)}
      <label>
        <span>${t("by")}</span>
        <select @change=${this.choose}>
          <option value="hour" ?selected=${this.every === "hour"}>${t("hour")}</option>
          <option value="day" ?selected=${this.every === "day"}>${t("day")}</option>
        </select>
      </label>
      <div class="charts">${CHARTS.map((kind) => this.chart(recent.value, kind))}</div>`;
  }

  private counts(entries: readonly Entry[]): TemplateResult {
    const { counts, denials, simulated } = usageOf(entries);
    const kinds = KINDS.filter((kind) => kind !== "deployment" || counts[kind] > 0); // not every platform logs them
    return html`<ul class="counts">
        ${kinds.map((kind) => html`<li class="card"><b>${number(counts[kind])}</b><span class="small">${t(kind)}</span></li>`)}
      </ul>
      ${simulated > 0 ? html`<p class="note warn">${t("simulated", { n: number(simulated) })}</p>` : nothing}
      ${
        denials.length > 0
          ? html`<section class="stack">
              <h3>${t("reasons")}</h3>
              <table>
                <thead>
                  <tr><th scope="col">${t("reason")}</th><th scope="col">${t("count")}</th></tr>
                </thead>
                <tbody>
                  ${denials.map(([code, n]) => html`<tr><td><code>${code}</code></td><td>${number(n)}</td></tr>`)}
                </tbody>
              </table>
            </section>`
          : nothing
      }`;
  }

  private chart(entries: readonly Entry[], kind: Kind): TemplateResult {
    const bars = timeline(entries, kind, this.every, BARS[this.every], new Date());
    return html`<bar-chart
      .heading=${t(kind)}
      .of=${t("time")}
      .columns=${bars.map(({ from, count }) => ({ label: label(from, this.every), count }))}
    ></bar-chart>`;
  }

  private choose(event: Event): void {
    this.every = event.target instanceof HTMLSelectElement && event.target.value === "day" ? "day" : "hour";
  }
}

/** The start of a bar, in the reader's language. */
function label(from: Date, every: Every): string {
  const style: Intl.DateTimeFormatOptions =
    every === "hour" ? { weekday: "short", hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(language() === "zh" ? "zh-CN" : "en-GB", style).format(from);
}

declare global {
  interface HTMLElementTagNameMap {
    "console-usage": UsagePage;
  }
}
