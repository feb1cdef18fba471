/** `<chat-message>`: one turn of a conversation, with what can be done about it. */
import { css, html, nothing } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { AnswerMessage, Message, UserMessage } from "../conversations.ts";
import "../design/copy.ts";
import { icons, View } from "../design/index.ts";
import { size } from "../i18n.ts";
import { t } from "../strings/chat.ts";
import { failureCard, failureStyles } from "./failure.ts";
import "./markdown-view.ts";

@customElement("chat-message")
export class ChatMessage extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      article {
        display: grid;
        gap: var(--gap-s);
        grid-template-columns: minmax(0, 1fr);
      }
      .user {
        justify-items: end;
      }
      .bubble {
        background: var(--accent-soft);
        border-radius: var(--round-l);
        padding: 0.625rem 1rem;
        max-width: min(100%, 36rem);
        white-space: pre-wrap;
        overflow-wrap: anywhere;
      }
      .files {
        justify-content: flex-end;
        max-width: 100%;
      }
      .files .tag {
        max-width: 100%;
      }
      .actions {
        color: var(--muted);
        min-height: 1.75rem;
        margin-inline-start: -0.375rem;
      }
      .actions button {
        color: var(--muted);
      }
      .actions .proof.good {
        color: var(--good);
      }
      .actions .proof.bad {
        color: var(--bad);
      }
      .cursor::after {
        content: "";
        display: inline-block;
        width: 0.5rem;
        height: 1.05em;
        vertical-align: text-bottom;
        background: var(--accent);
        border-radius: 2px;
        animation: blink 0.9s steps(2, jump-none) infinite;
      }
      @keyframes blink {
        to {
          opacity: 0.15;
        }
      }
    `,
  ];

  @property({ attribute: false }) accessor message!: Message;
  @property({ type: Boolean }) accessor last = false;
  @property({ type: Boolean }) accessor ready = false;

  protected override render() {
    return this.message.role === "user" ? this.question(this.message) : this.answer(this.message);
  }

  private question(message: UserMessage) {
    return html`<article class="user" aria-label=${t("you")}>
      ${
        message.files.length > 0
          ? html`<div class="row wrap files">
            ${message.files.map((file) => html`<span class="tag">${icons.file}<span class="clip">${file.name}</span> ${size(new Blob([file.text]).size)}</span>`)}
          </div>`
          : nothing
      }
      ${message.text ? html`<div class="bubble">${message.text}</div>` : nothing}
      <div class="row actions">
        <m-copy bare .text=${message.text}></m-copy>
        ${
          this.last && this.ready
            ? html`<button class="quiet tiny icon" title=${t("edit")} aria-label=${t("edit")} @click=${() => this.tell("edit-message", message)}>
              ${icons.pencil}
            </button>`
            : nothing
        }
      </div>
    </article>`;
  }

  private answer(message: AnswerMessage) {
    const writing = message.state === "writing";
    return html`<article aria-label=${t("answer")} aria-busy=${writing}>
      <markdown-view .text=${message.text}></markdown-view>
      ${writing ? html`<span class="cursor" aria-hidden="true"></span>` : nothing} ${this.ending(message)}
      ${writing ? nothing : this.actions(message)}
    </article>`;
  }

  private ending(message: AnswerMessage) {
    if (message.state === "failed" && message.failure) return failureCard(message.failure, "");
    if (message.state === "stopped" || message.state === "interrupted")
      return html`<p class="muted small">${t(message.state)}</p>`;
    if (message.state === "complete" && message.text === "") return html`<p class="muted">${t("emptyAnswer")}</p>`;
    return message.limited ? html`<p class="muted small">${t("limited")}</p>` : nothing;
  }

  private actions(message: AnswerMessage) {
    return html`<div class="row wrap actions">
      ${message.text ? html`<m-copy bare .text=${message.text} label=${t("copyAnswer")}></m-copy>` : nothing}
      ${
        this.last && this.ready
          ? html`<button class="quiet tiny icon" title=${t("retry")} aria-label=${t("retry")} @click=${() => this.tell("retry-answer")}>
            ${icons.retry}
          </button>`
          : nothing
      }
      <button class="quiet tiny proof ${proofTone(message)}" title=${t("details")} @click=${() => this.tell("show-exchange", message.id)}>
        ${message.receipt?.state === "proven" ? icons.receipt : icons.eye} ${proofWords(message)}
      </button>
      ${message.simulated ? html`<span class="tag stripes">${t("answerSimulated")}</span>` : nothing}
    </div>`;
  }
}

function proofTone({ receipt }: AnswerMessage): string {
  return receipt?.state === "proven" ? "good" : receipt?.state === "failed" ? "bad" : "";
}

function proofWords({ receipt }: AnswerMessage): string {
  if (!receipt) return t("serverSees");
  if (receipt.state === "proven") return t("receiptProven", { index: receipt.index ?? "" });
  return t(receipt.state === "waiting" ? "receiptWaiting" : "receiptFailed");
}

declare global {
  interface HTMLElementTagNameMap {
    "chat-message": ChatMessage;
  }
}
