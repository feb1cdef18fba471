/**
 * `<m-dialog heading="…" open>`: a modal dialog; with `side`, a sheet at the page's edge (`side="start"`: where lines begin). The browser's own `<dialog>`
 * keeps the focus inside, and gives it back. Slots: the content, and `actions`.
 *
 * Events: `m-close` when the user leaves it (button, Esc, or a click beside it). The owner then sets `open` to false.
 */
import { css, html, nothing, type PropertyValues } from "lit";
import { customElement, property, query } from "lit/decorators.js";
import { strings } from "../i18n.ts";
import { icons } from "./icons.ts";
import { View } from "./view.ts";

const t = strings({ en: { close: "Close" }, zh: { close: "关闭" } });

@customElement("m-dialog")
export class Dialog extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        display: contents;
      }
      dialog {
        color: inherit;
        background: var(--surface);
        border: 1px solid var(--line);
        border-radius: var(--round-l);
        box-shadow: var(--lift);
        padding: 0;
        width: min(34rem, calc(100vw - 2rem));
        max-height: calc(100dvh - 2rem);
        overflow: hidden;
      }
      dialog[open] {
        display: flex;
        flex-direction: column;
        animation: rise 160ms ease-out;
      }
      dialog::backdrop {
        background: var(--shade);
      }
      :host([wide]) dialog {
        width: min(46rem, calc(100vw - 2rem));
      }
      :host([side]) dialog {
        margin: 0 0 0 auto;
        width: min(36rem, 100vw);
        max-width: 100vw;
        height: 100dvh;
        max-height: 100dvh;
        border-width: 0 0 0 1px;
        border-radius: 0;
      }
      :host([side][wide]) dialog {
        width: min(46rem, 100vw);
      }
      :host([side]) dialog[open] {
        animation: enter 180ms ease-out;
      }
      :host([side="start"]) dialog {
        margin: 0 auto 0 0;
        width: min(20rem, calc(100vw - 3rem));
        border-width: 0 1px 0 0;
      }
      :host([side="start"]) dialog[open] {
        animation-name: rise;
      }
      :host([side="start"]) .content {
        display: flex;
        flex-direction: column;
      }
      .head {
        display: flex;
        align-items: center;
        gap: var(--gap);
        padding: var(--gap) var(--gap) var(--gap-s) var(--gap-l);
      }
      .content {
        padding: var(--gap-s) var(--gap-l) var(--gap-l);
        overflow-y: auto;
        overscroll-behavior: contain;
        flex: 1;
        outline: none;
      }
      .foot ::slotted(*) {
        padding: var(--gap) var(--gap-l);
        border-top: 1px solid var(--line);
      }
      @media (max-width: 480px) {
        .head {
          padding-left: var(--gap);
        }
        .content {
          padding-inline: var(--gap);
        }
        .foot ::slotted(*) {
          padding-inline: var(--gap);
        }
      }
      @keyframes rise {
        from {
          opacity: 0;
          transform: translateY(0.5rem);
        }
      }
      @keyframes enter {
        from {
          opacity: 0;
          transform: translateX(2rem);
        }
      }
    `,
  ];

  @property() accessor heading = "";
  @property({ type: Boolean, reflect: true }) accessor open = false;
  /** Must be answered: Esc and clicks beside it do nothing. */
  @property({ type: Boolean }) accessor firm = false;
  @query("dialog") private accessor dialog!: HTMLDialogElement;
  @query(".content") private accessor content!: HTMLElement;

  protected override updated(changed: PropertyValues<this>): void {
    if (!changed.has("open")) return;
    if (this.open && !this.dialog.open) {
      this.dialog.showModal();
      (this.querySelector<HTMLElement>("[autofocus]") ?? this.content).focus();
    } else if (!this.open && this.dialog.open) this.dialog.close();
  }

  private leave(event: Event): void {
    event.preventDefault();
    if (!this.firm) this.tell("m-close");
  }

  private beside(event: MouseEvent): void {
    if (event.target === this.dialog) this.leave(event);
  }

  protected override render() {
    return html`<dialog aria-labelledby="heading" @cancel=${this.leave} @click=${this.beside}>
      <div class="head">
        <h2 id="heading" class="grow">${this.heading}</h2>
        ${
          this.firm
            ? nothing
            : html`<button class="quiet icon" aria-label=${t("close")} @click=${this.leave}>${icons.close}</button>`
        }
      </div>
      <div class="content" tabindex="-1"><slot></slot></div>
      <div class="foot"><slot name="actions"></slot></div>
    </dialog>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "m-dialog": Dialog;
  }
}
