/** What the console's pages have in common: they follow the state, and show digests and failures in one way. */
import { css, html, type TemplateResult } from "lit";
import { property } from "lit/decorators.js";
import { failureStyles } from "../components/failure.ts";
import { icons, View } from "../design/index.ts";
import { strings } from "../i18n.ts";
import type { ConsoleState } from "./state.ts";

const t = strings({
  en: { waiting: "Checking …", copy: "Copy {what}" },
  zh: { waiting: "检查中……", copy: "复制{what}" },
});

export abstract class Page extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      :host {
        display: grid;
        gap: var(--gap-l);
        grid-template-columns: minmax(0, 1fr);
      }
      .digest {
        display: inline-flex;
        align-items: center;
        gap: var(--gap-xs);
        max-width: 100%;
      }
      .digest m-copy {
        margin-block: -0.25rem;
      }
      .button:focus-within {
        outline: 2px solid var(--accent);
        outline-offset: 2px;
      }
      pre {
        margin: 0;
        padding: 0.75rem;
        background: var(--sunken);
        border-radius: var(--round);
        font: var(--small) / 1.5 var(--mono);
        white-space: pre-wrap;
        overflow-wrap: anywhere;
      }
    `,
  ];

  @property({ attribute: false }) accessor state!: ConsoleState;
  private readonly follow = () => this.requestUpdate();

  override connectedCallback(): void {
    super.connectedCallback();
    this.state.addEventListener("change", this.follow);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.state.removeEventListener("change", this.follow);
  }
}

export function waiting(): TemplateResult {
  return html`<p class="row muted" role="status">${icons.clock}${t("waiting")}</p>`;
}

/** A digest or key, shortened for the eye, whole in its title and for copying. */
export function digest(value: string, what: string): TemplateResult {
  const short = value.length > 20 ? `${value.slice(0, 12)}…${value.slice(-4)}` : value;
  return html`<span class="digest"
    ><code title=${value}>${short}</code><m-copy bare .text=${value} label=${t("copy", { what })}></m-copy
  ></span>`;
}
