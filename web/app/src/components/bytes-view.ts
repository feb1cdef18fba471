/** `<bytes-view .bytes=${…}>`: the very bytes, as a hexdump. Long ones are cut until all are asked for. */
import { css, html, nothing, type PropertyValues } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { View } from "../design/index.ts";
import { size } from "../i18n.ts";
import { t } from "../strings/chat.ts";

const SHOWN_BYTES = 512;
const WIDTH = 8;

@customElement("bytes-view")
export class BytesView extends View {
  static override styles = [
    View.styles,
    css`
      pre {
        margin: 0;
        padding: 0.625rem 0.75rem;
        max-height: 22rem;
        overflow: auto;
        background: var(--sunken);
        border-radius: var(--round);
        font: 0.75rem/1.5 var(--mono);
        color: var(--muted);
      }
    `,
  ];

  @property({ attribute: false }) accessor bytes = new Uint8Array();
  @property() accessor label = "";
  @state() private accessor all = false;

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has("label")) this.all = false;
  }

  protected override render() {
    const shown = this.all ? this.bytes : this.bytes.subarray(0, SHOWN_BYTES);
    const more = this.bytes.length > shown.length;
    return html`<pre tabindex="0" aria-label=${this.label}>${hexdump(shown)}${more ? "\n…" : ""}</pre>
      ${
        more
          ? html`<button
            class="quiet tiny"
            @click=${() => {
              this.all = true;
            }}
          >
            ${t("more", { size: size(this.bytes.length) })}
          </button>`
          : nothing
      }`;
  }
}

/** Offset, eight bytes, and the characters among them, a line each. */
export function hexdump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += WIDTH) {
    const row = [...bytes.subarray(at, at + WIDTH)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const characters = row.map((byte) => (byte > 0x1f && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(5, "0")}  ${digits.padEnd(3 * WIDTH - 1)}  ${characters}`);
  }
  return lines.join("\n");
}

declare global {
  interface HTMLElementTagNameMap {
    "bytes-view": BytesView;
  }
}
