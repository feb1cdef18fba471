/** `<status-badge>`: what the verification says, in one word and one colour; a click opens the checks. */
import { css, html } from "lit";
import { customElement, property } from "lit/decorators.js";
import { icons, View } from "../design/index.ts";
import { t, type Word } from "../strings/chat.ts";

export type Verdict =
  | "starting"
  | "undecided"
  | "verifying"
  | "verified"
  | "simulated"
  | "stale"
  | "refused"
  | "unverified";

const LOOKS: Readonly<Record<Verdict, readonly [word: Word, tone: string, icon: unknown]>> = {
  starting: ["starting", "", icons.clock],
  undecided: ["undecided", "warn", icons.warning],
  verifying: ["verifying", "", icons.clock],
  verified: ["verified", "good", icons.shield],
  simulated: ["simulated", "stripes", icons.warning],
  stale: ["stale", "warn", icons.clock],
  refused: ["refused", "bad", icons.cross],
  unverified: ["unverified", "bad", icons.cross],
};

@customElement("status-badge")
export class StatusBadge extends View {
  static override styles = [
    View.styles,
    css`
      button {
        border-color: transparent;
        border-radius: 99px;
        min-height: 2.25rem;
        padding: 0 0.875rem 0 0.625rem;
        font-weight: 600;
        font-size: var(--small);
        white-space: nowrap;
        background: var(--sunken);
        color: var(--muted);
      }
      button.good {
        background: var(--good-soft);
        color: var(--good);
      }
      button.warn {
        background: var(--warn-soft);
        color: var(--warn);
      }
      button.bad {
        background: var(--bad-soft);
        color: var(--bad);
      }
      button.stripes {
        background: repeating-linear-gradient(-45deg, var(--stripe-a) 0 8px, var(--stripe-b) 8px 16px);
        color: var(--on-stripe);
        letter-spacing: 0.02em;
      }
      button:hover {
        filter: brightness(0.96);
      }
      .pulse svg {
        animation: pulse 1.2s ease-in-out infinite alternate;
      }
      @keyframes pulse {
        to {
          opacity: 0.35;
        }
      }
    `,
  ];

  @property() accessor verdict: Verdict = "starting";

  protected override render() {
    const [word, tone, icon] = LOOKS[this.verdict];
    const status = t(word);
    const pulse = this.verdict === "verifying" || this.verdict === "starting";
    return html`<button
      class="${tone} ${pulse ? "pulse" : ""}"
      aria-label=${t("statusLabel", { status })}
      @click=${() => this.tell("show-verification")}
    >
      ${icon}<span>${status}</span>
    </button>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "status-badge": StatusBadge;
  }
}
