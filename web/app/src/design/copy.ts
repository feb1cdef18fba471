/** `<m-copy .text=${…}>`: a button that copies, and says that it did. */
import { html } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { strings } from "../i18n.ts";
import { icons } from "./icons.ts";
import { toast } from "./toasts.ts";
import { View } from "./view.ts";

const t = strings({
  en: {
    copy: "Copy",
    copied: "Copied",
    refused: "The browser does not let this page copy. Select the text and copy it yourself.",
  },
  zh: { copy: "复制", copied: "已复制", refused: "浏览器不允许本页复制，请选中文字后自行复制。" },
});

@customElement("m-copy")
export class Copy extends View {
  @property({ attribute: false }) accessor text = "";
  @property() accessor label = "";
  @property({ type: Boolean }) accessor bare = false;
  @state() private accessor done = false;

  private async copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.text);
    } catch {
      toast(t("refused"), "bad");
      return;
    }
    this.done = true;
    setTimeout(() => {
      this.done = false;
    }, 1500);
  }

  protected override render() {
    const label = this.done ? t("copied") : this.label || t("copy");
    return html`<button class=${`quiet tiny ${this.bare ? "icon" : ""}`} title=${label} @click=${this.copy}>
      ${this.done ? icons.check : icons.copy}<span class=${this.bare ? "hidden" : ""} aria-live="polite">${label}</span>
    </button>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "m-copy": Copy;
  }
}
