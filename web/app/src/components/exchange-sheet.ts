/** `<exchange-sheet>`: one answer's receipt, and what the server sees of it: the very bytes beside the text. */
import { concat } from "@mitai/verify";
import { css, html } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { AnswerMessage, ReceiptNote } from "../conversations.ts";
import "../design/copy.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { save } from "../files.ts";
import { number, size } from "../i18n.ts";
import type { Exchange } from "../state.ts";
import { t } from "../strings/chat.ts";
import "./bytes-view.ts";
import { failureCard, failureStyles } from "./failure.ts";

@customElement("exchange-sheet")
export class ExchangeSheet extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      :host {
        display: contents;
      }
      .beside {
        display: grid;
        grid-template-columns: minmax(0, 1fr) minmax(0, 1.35fr);
        gap: var(--gap-s) var(--gap);
      }
      .beside h4 {
        margin: 0 0 var(--gap-xs);
        font-size: var(--small);
        font-weight: 500;
        color: var(--muted);
      }
      .plain {
        margin: 0;
        padding: 0.625rem 0.75rem;
        max-height: 22rem;
        overflow: auto;
        border: 1px solid var(--line);
        border-radius: var(--round);
        font: 0.75rem/1.5 var(--mono);
        white-space: pre-wrap;
        overflow-wrap: anywhere;
      }
      ol {
        padding-inline-start: 2em;
        columns: 12em;
      }
      section + section {
        border-top: 1px solid var(--line);
        padding-top: var(--gap);
      }
      @media (max-width: 600px) {
        .beside {
          grid-template-columns: minmax(0, 1fr);
        }
      }
    `,
  ];

  @property({ attribute: false }) accessor message: AnswerMessage | undefined;
  /** A receipt that failed can be asked for again. */
  @property({ type: Boolean }) accessor provable = false;
  @property({ attribute: false }) accessor exchange: Exchange | undefined;

  protected override render() {
    return html`<m-dialog side wide ?open=${this.message !== undefined} heading=${t("exchange")}>
      <div class="stack">
        <section class="stack">
          <h3>${t("receipt")}</h3>
          ${this.receipt(this.message?.receipt)}
        </section>
        <section class="stack">
          <h3>${t("serverSees")}</h3>
          ${this.exchange ? this.wire(this.exchange) : html`<p class="muted">${t("wireGone")}</p>`}
        </section>
      </div>
    </m-dialog>`;
  }

  private receipt(receipt: ReceiptNote | undefined) {
    if (!receipt) return html`<p class="muted">${t("receiptNone")}</p>`;
    if (receipt.state === "waiting") return html`<p class="muted" role="status">${t("receiptWaitingText")}</p>`;
    if (receipt.state === "failed") {
      const again = html`<button @click=${() => this.tell("prove-again", this.message?.id)}>${icons.retry}${t("tryAgain")}</button>`;
      const failure = { code: receipt.code ?? "", message: receipt.message ?? "", hint: "", step: "" };
      return failureCard(failure, "", this.provable ? again : undefined);
    }
    const digest = (value = "") => html`<dd><code>${value}</code></dd>`;
    return html`<p>${t("receiptText")}</p>
      <dl class="facts">
        <dt>${t("ledgerEntry")}</dt>
        <dd><span class="tag good">${icons.check}${number(receipt.index ?? 0)}</span></dd>
        <dt>${t("ledger")}</dt>
        ${digest(receipt.ledger)}
        <dt>${t("exchangeId")}</dt>
        ${digest(receipt.exchange)}
        <dt>${t("requestDigest")}</dt>
        ${digest(receipt.requestSha256)}
        <dt>${t("responseDigest")}</dt>
        ${digest(receipt.responseSha256)}
      </dl>
      <p class="muted small">${t("downloadText")}</p>
      <div><button @click=${() => save(`mitai-proof-${receipt.index}.json`, receipt.file ?? "")}>${icons.download}${t("download")}</button></div>`;
  }

  private wire({ plain, wire, startedAt }: Exchange) {
    const sent = wire.filter(({ direction }) => direction === "sent");
    const received = wire.filter(({ direction }) => direction === "received");
    const time = ({ at, bytes }: (typeof wire)[number]) =>
      html`<li>${t("afterMs", { ms: number(Math.round(at - startedAt)) })}: ${size(bytes.length)}</li>`;
    const pair = (before: string, pieces: typeof wire, title: string) => html`<div class="stack">
      <details>
        <summary><b>${title}</b></summary>
        <ol class="small muted">${pieces.map(time)}</ol>
      </details>
      <div class="beside">
        <div>
          <h4>${t("typed")}</h4>
          <pre class="plain" tabindex="0" aria-label=${t("typed")}>${before}</pre>
        </div>
        <div>
          <h4>${t("onWire")}</h4>
          <bytes-view label=${title} .bytes=${concat(...pieces.map(({ bytes }) => bytes))}></bytes-view>
        </div>
      </div>
    </div>`;
    const sum = (pieces: typeof wire) => size(pieces.reduce((total, { bytes }) => total + bytes.length, 0));
    return html`<p>${t("wireText")}</p>
      ${pair(plain, sent, t("sentTitle", { size: sum(sent) }))}
      ${pair(this.message?.text ?? "", received, t("receivedTitle", { size: sum(received), pieces: number(received.length) }))}`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "exchange-sheet": ExchangeSheet;
  }
}
