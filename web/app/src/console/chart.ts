/** `<bar-chart>`: counts over time as bars, and the same as a table. */
import { css, html, nothing, svg, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { View } from "../design/index.ts";
import { number, strings } from "../i18n.ts";

const t = strings({
  en: { table: "As a table", most: "most: {n}", total: "{n} in all", none: "none", count: "Count" },
  zh: { table: "以表格查看", most: "最多：{n}", total: "共 {n}", none: "无", count: "数量" },
});

export interface Column {
  readonly label: string;
  readonly count: number;
}

const HEIGHT = 100;
const STEP = 10; // of one bar with its gap, in the drawing's own units
const GAP = 2;

@customElement("bar-chart")
export class BarChart extends View {
  static override styles = [
    View.styles,
    css`
      .bars {
        display: block;
        width: 100%;
        height: 7rem;
        border-bottom: 1px solid var(--line-strong);
      }
      rect {
        fill: var(--accent);
      }
      rect.hit {
        fill: transparent;
      }
      .ends {
        display: flex;
        justify-content: space-between;
        gap: var(--gap);
      }
      td:last-child,
      th:last-child {
        text-align: end;
        font-variant-numeric: tabular-nums;
        padding-inline-end: 0;
      }
    `,
  ];

  @property() accessor heading = "";
  /** What the columns are, as the heading of a table's first column. */
  @property() accessor of = "";
  @property({ attribute: false }) accessor columns: readonly Column[] = [];

  protected override render() {
    const total = this.columns.reduce((sum, { count }) => sum + count, 0);
    const most = Math.max(0, ...this.columns.map(({ count }) => count));
    return html`<figure class="card stack">
      <figcaption class="row wrap">
        <h3 class="grow">${this.heading}</h3>
        <span class="muted small">${total > 0 ? `${t("total", { n: number(total) })} · ${t("most", { n: number(most) })}` : t("none")}</span>
      </figcaption>
      ${
        total === 0
          ? nothing
          : html`<div>
        <svg class="bars" viewBox=${`0 0 ${this.columns.length * STEP} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
          ${this.columns.map((column, at) => bar(column, at, most))}
        </svg>
        <div class="ends muted small" aria-hidden="true">
          <span>${this.columns.at(0)?.label}</span><span>${this.columns.at(-1)?.label}</span>
        </div>
      </div>
      ${this.table()}`
      }
    </figure>`;
  }

  private table(): TemplateResult {
    return html`<details>
      <summary class="small">${t("table")}</summary>
      <table class="small">
        <thead>
          <tr><th scope="col">${this.of}</th><th scope="col">${t("count")}</th></tr>
        </thead>
        <tbody>
          ${this.columns
            .filter(({ count }) => count > 0)
            .map(({ label, count }) => html`<tr><td>${label}</td><td>${number(count)}</td></tr>`)}
        </tbody>
      </table>
    </details>`;
  }
}

function bar({ label, count }: Column, at: number, most: number) {
  const height = most > 0 ? (HEIGHT * count) / most : 0;
  return svg`<g>
    <title>${label}: ${number(count)}</title>
    <rect x=${at * STEP + GAP / 2} y=${HEIGHT - height} width=${STEP - GAP} height=${height} />
    <rect class="hit" x=${at * STEP} y="0" width=${STEP} height=${HEIGHT} />
  </g>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "bar-chart": BarChart;
  }
}
