/** `<settings-dialog>`: language, appearance, and what is kept on this device (slot `keeping`). */
import { css, html, nothing } from "lit";
import { customElement, property } from "lit/decorators.js";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { language, setLanguage } from "../i18n.ts";
import { t, type Word } from "../strings/chat.ts";
import { t as proof } from "../strings/proof.ts";
import { setTheme, THEMES, type Theme, theme } from "../theme.ts";

const THEME_WORDS: Readonly<Record<Theme, Word>> = { system: "themeSystem", light: "themeLight", dark: "themeDark" };

@customElement("settings-dialog")
export class SettingsDialog extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        display: contents;
      }
      fieldset {
        border: 0;
        margin: 0;
        padding: 0;
        min-width: 0;
      }
      legend {
        padding: 0;
        font-weight: 620;
        margin-bottom: var(--gap-s);
      }
      .choice {
        display: flex;
        gap: var(--gap-s);
        flex-wrap: wrap;
      }
      button[aria-pressed="true"] {
        border-color: var(--accent);
        background: var(--accent-soft);
        color: var(--accent);
        font-weight: 560;
      }
    `,
  ];

  @property({ type: Boolean }) accessor open = false;
  /** Whether answers with a proof can be checked here. Tells `check-proof`. */
  @property({ type: Boolean }) accessor proofs = false;

  private choice<T extends string>(
    legend: Word,
    options: readonly (readonly [T, string])[],
    chosen: T,
    choose: (value: T) => void,
  ) {
    return html`<fieldset>
      <legend>${t(legend)}</legend>
      <div class="choice">
        ${options.map(
          ([value, label]) => html`<button
            aria-pressed=${value === chosen}
            @click=${() => {
              choose(value);
              this.requestUpdate();
            }}
          >
            ${label}
          </button>`,
        )}
      </div>
    </fieldset>`;
  }

  protected override render() {
    const themes = THEMES.map((value) => [value, t(THEME_WORDS[value])] as const);
    return html`<m-dialog ?open=${this.open} heading=${t("settings")}>
      <div class="stack">
        ${this.choice(
          "language",
          [
            ["en", "English"],
            ["zh", "简体中文"],
          ] as const,
          language(),
          setLanguage,
        )}
        ${this.choice("theme", themes, theme(), setTheme)}
        <slot name="keeping"></slot>
        ${
          this.proofs
            ? html`<fieldset>
                <legend>${proof("settings")}</legend>
                <p class="small muted">${proof("settingsText")}</p>
                <button @click=${() => this.tell("check-proof")}>${icons.receipt}${proof("open")}</button>
              </fieldset>`
            : nothing
        }
        <fieldset>
          <legend>${t("source")}</legend>
          <p class="small muted">${t("sourceText")}</p>
          <p class="small"><a href="./console.html">${t("console")}</a></p>
        </fieldset>
      </div>
    </m-dialog>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "settings-dialog": SettingsDialog;
  }
}
