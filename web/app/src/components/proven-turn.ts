/**
 * `<proven-turn>`: a question, its answer, and how far that is signed and proven. Tells `prove-answer`, `leave-proof`
 * and `sign-answer` with the turn's id.
 */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import "../design/copy.ts";
import { icons, View } from "../design/index.ts";
import { save } from "../files.ts";
import { number } from "../i18n.ts";
import type { Proof, Turn } from "../proven/state.ts";
import { t as chat } from "../strings/chat.ts";
import { t } from "../strings/proven.ts";
import { failureCard, failureStyles } from "./failure.ts";
import "./markdown-view.ts";

@customElement("proven-turn")
export class ProvenTurn extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      :host {
        display: grid;
        gap: var(--gap-l);
        grid-template-columns: minmax(0, 1fr);
      }
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
      .standing {
        min-height: 2rem;
        color: var(--muted);
        font-size: var(--small);
      }
      .good {
        color: var(--good);
      }
      .bad {
        color: var(--bad);
        font-weight: 620;
      }
      .standing span {
        display: inline-flex;
        align-items: center;
        gap: 0.375rem;
      }
      .standing svg {
        width: 1.125rem;
        height: 1.125rem;
      }
    `,
  ];

  @property({ attribute: false }) accessor turn!: Turn;

  protected override render() {
    const { turn } = this;
    const writing = turn.state === "writing";
    return html`<article class="user" aria-label=${chat("you")}><div class="bubble">${turn.question}</div></article>
      <article aria-label=${chat("answer")} aria-busy=${writing}>
        <markdown-view .text=${turn.answer}></markdown-view>
        ${writing ? nothing : [this.ending(turn), this.standing(turn)]}
      </article>`;
  }

  private ending(turn: Turn) {
    if (turn.failure) return failureCard(turn.failure, "");
    if (turn.state === "stopped") return html`<p class="muted small">${chat("stopped")} ${t("leftOut")}</p>`;
    if (turn.answer === "") return html`<p class="muted">${chat("emptyAnswer")}</p>`;
    return turn.limited ? html`<p class="muted small">${chat("limited")}</p>` : nothing;
  }

  private standing({ id, answer, state, signed, proof }: Turn) {
    const copy = answer ? html`<m-copy bare .text=${answer} label=${chat("copyAnswer")}></m-copy>` : nothing;
    if (state !== "complete" || signed.kind === "none") return html`<div class="row wrap standing">${copy}</div>`;
    if (signed.kind === "checking") return html`<div class="row wrap standing">${copy}${t("signedChecking")}</div>`;
    if (signed.kind === "refused") {
      const words = html`<span class="bad">${icons.cross}${t("signedRefused")}</span>`;
      return html`<div class="row wrap standing">${copy}${words} ${t("leftOut")}</div>${failureCard(signed.failure, "")}`;
    }
    if (signed.kind === "missing") {
      const again = this.button("checkAgain", "sign-answer", id, icons.retry);
      const words = html`<span class="bad">${icons.warning}${t("signedMissing")}</span>`;
      return html`<div class="row wrap standing">${copy}${words} ${t("leftOut")}</div>${failureCard(signed.failure, "", again)}`;
    }
    const failed = proof.kind === "missing" || proof.kind === "refused" ? failureCard(proof.failure, "") : nothing;
    return html`<div class="row wrap standing">${copy}${this.proof(id, proof)}</div>${failed}`;
  }

  private proof(id: string, proof: Proof) {
    switch (proof.kind) {
      case "none":
        return [
          html`<span>${icons.receipt}${t("signedSigned")}</span>`,
          this.button("prove", "prove-answer", id, icons.shield),
        ];
      case "proven": {
        const keep = async () => {
          const file = new Uint8Array(await proof.file.arrayBuffer());
          save("answer.proof", file, "application/octet-stream");
        };
        return [
          html`<span class="good">${icons.check}${t("proofProven", { bits: number(Math.floor(proof.bits)) })}</span>`,
          html`<button class="tiny" @click=${keep}>${icons.download}${t("saveProof")}</button>`,
        ];
      }
      case "refused":
        return html`<span class="bad">${icons.cross}${t("proofRefused")}</span> ${t("leftOut")}`;
      case "missing":
        return [
          html`<span class="bad">${icons.warning}${t("proofMissing")}</span>`,
          this.button("proveAgain", "prove-answer", id, icons.retry),
        ];
      default:
        return [html`<span>${progressOf(proof)}</span>`, this.button("leave", "leave-proof", id, icons.close)];
    }
  }

  private button(
    words: "prove" | "proveAgain" | "leave" | "checkAgain",
    event: string,
    id: string,
    icon: TemplateResult,
  ) {
    return html`<button class="tiny" @click=${() => this.tell(event, id)}>${icon}${t(words)}</button>`;
  }
}

function progressOf(proof: Proof): string {
  if (proof.kind === "checking") return t("proofChecking", { part: Math.floor(100 * proof.part) });
  if (proof.kind !== "coming") return t("proofAsking");
  const { state, ahead, seconds, expectedS } = proof.progress;
  if (state === "waiting") return t("proofWaiting", { ahead: number(ahead) });
  const told = { seconds: number(Math.round(seconds)), expected: number(Math.round(expectedS ?? 0)) };
  return t(expectedS === null ? "proofProving" : "proofProvingOf", told);
}

declare global {
  interface HTMLElementTagNameMap {
    "proven-turn": ProvenTurn;
  }
}
