/** `toast("Copied")`: a short message below the page's header, where nobody types. Failures stay until they are closed. */
import { css, html } from "lit";
import { customElement, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { strings } from "../i18n.ts";
import { icons } from "./icons.ts";
import { View } from "./view.ts";

const t = strings({ en: { close: "Dismiss" }, zh: { close: "关闭提示" } });
const SHOWN_MS = 4000;

interface Toast {
  readonly id: number;
  readonly text: string;
  readonly bad: boolean;
}

@customElement("m-toasts")
export class Toasts extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        position: fixed;
        inset: 5.5rem 0 auto;
        z-index: 10;
        display: grid;
        justify-items: center;
        gap: var(--gap-s);
        pointer-events: none;
        border: 0;
        padding: 0;
        margin: 0;
        width: auto;
        background: none;
        color: inherit;
        overflow: visible;
      }
      div {
        pointer-events: auto;
        display: flex;
        align-items: center;
        gap: var(--gap-s);
        max-width: calc(100vw - 2rem);
        padding: 0.375rem 0.5rem 0.375rem 1rem;
        background: var(--text);
        color: var(--ground);
        border-radius: var(--round);
        box-shadow: var(--lift);
      }
      div.bad {
        background: var(--bad-soft);
        color: var(--bad);
      }
      button:hover {
        background: none;
        text-decoration: underline;
      }
    `,
  ];

  @state() private accessor toasts: readonly Toast[] = [];
  private count = 0;

  add(text: string, bad: boolean): void {
    const id = ++this.count;
    this.toasts = [...this.toasts.slice(-2), { id, text, bad }];
    if (!bad) setTimeout(() => this.drop(id), SHOWN_MS);
    if (this.isConnected && this.popover !== null) {
      this.hidePopover(); // again on top of whatever dialog is open
      this.showPopover();
    }
  }

  private drop(id: number): void {
    this.toasts = this.toasts.filter((toast) => toast.id !== id);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.popover = "manual";
    this.showPopover();
    this.role = "status";
  }

  protected override render() {
    return repeat(
      this.toasts,
      (toast) => toast.id,
      (toast) => html`<div class=${toast.bad ? "bad" : ""}>
        <span>${toast.text}</span>
        <button class="quiet icon tiny" aria-label=${t("close")} @click=${() => this.drop(toast.id)}>${icons.close}</button>
      </div>`,
    );
  }
}

let shown: Toasts | undefined;

export function toast(text: string, kind: "info" | "bad" = "info"): void {
  if (!shown) {
    shown = new Toasts();
    document.body.append(shown);
  }
  shown.add(text, kind === "bad");
}

declare global {
  interface HTMLElementTagNameMap {
    "m-toasts": Toasts;
  }
}
