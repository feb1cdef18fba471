/**
 * `<proof-dialog>`: checks an answer with a proof, for an identity that the user enters. Leaving it ends the check.
 *
 * With the model's tokenizer, it says prompt and answer in words once the proof holds.
 *
 * The identity of the last proof that held is kept on this device, and filled in the next time.
 */
import type { Agreed, Checked, Piece } from "@mitai/proof";
import { css, html, nothing, type PropertyValues } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { type Failure, failureOf } from "../conversations.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { number, size } from "../i18n.ts";
import { recall, remember } from "../preferences.ts";
import { printable } from "../printable.ts";
import type { Proofs } from "../proofs.ts";
import { t } from "../strings/proof.ts";
import { failureCard, failureStyles } from "./failure.ts";

const KEPT = "mitai-proof-model";
const HEX = /^[0-9a-f]{64}$/;

type Outcome =
  | { readonly kind: "none" | "cancelled" }
  | { readonly kind: "checking"; readonly part: number }
  | { readonly kind: "wrong"; readonly what: "identityWrong" | "temperatureWrong" | "hexWrong" }
  | { readonly kind: "holds"; readonly checked: Checked; readonly agreed: Agreed | undefined; readonly took_ms: number }
  | { readonly kind: "failed"; readonly failure: Failure };

@customElement("proof-dialog")
export class ProofDialog extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      :host {
        display: contents;
      }
      label {
        display: grid;
        gap: 0.25rem;
      }
      label > span:first-child {
        font-weight: 560;
      }
      code,
      input.hex {
        font-family: var(--mono, monospace);
      }
      progress {
        width: 100%;
      }
      .words {
        margin: 0;
        padding: 0.5rem 0.75rem;
        border-inline-start: 3px solid var(--line);
        white-space: pre-wrap;
        overflow-wrap: anywhere;
      }
      .words bdi {
        border: 1px solid var(--line);
        border-radius: var(--round);
        padding-inline: 0.25rem;
        font: var(--small) var(--mono, monospace);
        color: var(--muted);
      }
    `,
  ];

  @property({ type: Boolean }) accessor open = false;
  @property({ attribute: false }) accessor proofs!: Proofs;
  @property({ attribute: false }) accessor file: File | undefined;
  @property({ attribute: false }) accessor tokenizer: File | undefined;
  @state() private accessor outcome: Outcome = { kind: "none" };
  @query("form") private accessor form!: HTMLFormElement;
  private running: AbortController | undefined;

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (!changed.has("open") && !changed.has("file") && !changed.has("tokenizer")) return;
    this.running?.abort();
    this.outcome = { kind: "none" };
  }

  private readonly picked = (event: Event & { target: HTMLInputElement }): void => {
    const picker = event.target;
    const [file] = picker.files ?? [];
    picker.value = "";
    if (file) this[picker.name as "file" | "tokenizer"] = file;
  };

  /** What was entered; or what is wrong with it. */
  private expected(): { model: string; agreed: Agreed | undefined } | Outcome {
    const entered = new FormData(this.form);
    const [model, temperature, nonce, commitment] = ["model", "temperature", "nonce", "commitment"].map((name) =>
      String(entered.get(name) ?? "")
        .trim()
        .toLowerCase(),
    ) as [string, string, string, string];
    if (!HEX.test(model)) return { kind: "wrong", what: "identityWrong" };
    if (!temperature && !nonce && !commitment) return { model, agreed: undefined };
    const thousandths = Math.round(1000 * Number(temperature));
    if (!(thousandths >= 1 && thousandths <= 2000)) return { kind: "wrong", what: "temperatureWrong" };
    if ([nonce, commitment].some((one) => one && !HEX.test(one))) return { kind: "wrong", what: "hexWrong" };
    return {
      model,
      agreed: { temperature: thousandths, nonce: nonce || undefined, commitment: commitment || undefined },
    };
  }

  private readonly check = async (event: Event): Promise<void> => {
    event.preventDefault();
    const { file, tokenizer, running } = this;
    const expected = this.expected();
    if ("kind" in expected) {
      this.outcome = expected;
      return;
    }
    if (!file || running) return;
    const controller = new AbortController();
    this.running = controller;
    const show = (outcome: Outcome) => {
      if (this.running === controller) this.outcome = outcome;
    };
    show({ kind: "checking", part: 0 });
    const start = performance.now();
    try {
      const heard = (part: number) => show({ kind: "checking", part });
      const checked = await this.proofs.check(file, { ...expected, tokenizer }, heard, controller.signal);
      remember(KEPT, checked.model);
      show({ kind: "holds", checked, agreed: expected.agreed, took_ms: performance.now() - start });
    } catch (error) {
      if (controller.signal.aborted) show({ kind: "cancelled" });
      else show({ kind: "failed", failure: failureOf(error) });
    } finally {
      if (this.running === controller) this.running = undefined;
    }
  };

  private readonly cancel = (): void => this.running?.abort();

  protected override render() {
    const checking = this.outcome.kind === "checking";
    return html`<m-dialog ?open=${this.open} heading=${t("title")}>
      <form id="check" class="stack" @submit=${this.check}>
        <p>${t("text")}</p>
        ${this.chooser("file", this.file, checking)}
        <label>
          <span>${t("identity")}</span>
          <input class="hex" name="model" required autocomplete="off" autocapitalize="off" spellcheck="false" ?disabled=${checking} value=${recall(KEPT) ?? ""} />
          <span class="small muted">${t("identityText")}</span>
        </label>
        ${this.chooser("tokenizer", this.tokenizer, checking)}
        <details>
          <summary>${t("drawn")}</summary>
          <div class="stack">
            <p class="small muted">${t("drawnText")}</p>
            ${this.field("temperature")} ${this.field("nonce")} ${this.field("commitment")}
          </div>
        </details>
        <div role="status">${this.shown()}</div>
      </form>
      <div class="row wrap end" slot="actions">
        ${
          checking
            ? html`<button @click=${this.cancel}>${t("cancel")}</button>`
            : html`<button class="primary" type="submit" form="check" ?disabled=${!this.file}>${t("check")}</button>`
        }
      </div>
    </m-dialog>`;
  }

  private chooser(name: "file" | "tokenizer", chosen: File | undefined, checking: boolean) {
    const pick = () => this.form.querySelector<HTMLInputElement>(`input[name=${name}]`)?.click();
    const leave = () => {
      this.tokenizer = undefined;
    };
    return html`<div>
      <div class="row wrap">
        <button type="button" ?disabled=${checking} @click=${pick}>${icons.file}${t(name === "file" ? "choose" : "chooseTokenizer")}</button>
        <input type="file" name=${name} hidden aria-label=${t(name)} @change=${this.picked} />
        ${chosen ? html`<span class="clip grow">${t("chosen", { name: printable(chosen.name), size: size(chosen.size) })}</span>` : nothing}
        ${chosen && name === "tokenizer" ? html`<button type="button" ?disabled=${checking} @click=${leave}>${t("leaveTokenizer")}</button>` : nothing}
      </div>
      <p class="small muted">${t(name === "file" ? "chooseText" : "tokenizerText")}</p>
    </div>`;
  }

  private field(name: "temperature" | "nonce" | "commitment") {
    const kind = name === "temperature" ? "" : "hex";
    return html`<label>
      <span>${t(name)}</span>
      <input class=${kind} name=${name} autocomplete="off" autocapitalize="off" spellcheck="false" inputmode=${name === "temperature" ? "decimal" : "text"} />
    </label>`;
  }

  private shown() {
    const { outcome } = this;
    switch (outcome.kind) {
      case "none":
        return nothing;
      case "cancelled":
        return html`<p class="muted">${t("cancelled")}</p>`;
      case "wrong":
        return html`<p class="note bad">${t(outcome.what)}</p>`;
      case "checking": {
        const words = t("checking", { percent: Math.round(100 * outcome.part) });
        return html`<p class="muted" aria-hidden="true">${words}</p>
          <progress max="1" .value=${outcome.part} aria-label=${t("title")}></progress>`;
      }
      case "failed":
        return failureCard(outcome.failure, "");
      case "holds":
        return holds(outcome.checked, outcome.agreed, outcome.took_ms);
    }
  }
}

function holds({ model, prompt, answer, bits, words }: Checked, agreed: Agreed | undefined, took_ms: number) {
  return html`<section class="card stack">
    <p class="note good">${icons.check} <strong>${t("holds")}</strong></p>
    <p>${t(!agreed ? "holdsText" : agreed.nonce && agreed.commitment ? "drawnHolds" : "drawnCould")}</p>
    ${words ? [said(t("prompt"), words.prompt), said(t("answer"), words.answer), html`<p class="small muted">${t("wordsText")}</p>`] : nothing}
    <dl class="facts">
      <dt>${t("identity")}</dt>
      <dd><code>${model}</code></dd>
      <dt>${t("prompt")}</dt>
      <dd>${t("tokens", { count: number(prompt) })}</dd>
      <dt>${t("answer")}</dt>
      <dd>${t("tokens", { count: number(answer) })}</dd>
      <dt>${t("security")}</dt>
      <dd>${t("bits", { bits: Math.floor(bits) })}</dd>
      <dt>${t("took")}</dt>
      <dd>${t("seconds", { seconds: (took_ms / 1000).toFixed(1) })}</dd>
    </dl>
    <p class="small muted">${t("not")}</p>
  </section>`;
}

/** Words as text and nothing else; in a frame, what is no word. */
function said(heading: string, pieces: readonly Piece[]) {
  return html`<figure>
    <figcaption>${heading}</figcaption>
    <blockquote class="words" dir="auto">${pieces.map(({ kind, text }) =>
      kind === "text"
        ? printable(text)
        : html`<bdi>${kind === "special" ? printable(text) : t("unknown", { number: text })}</bdi>`,
    )}</blockquote>
  </figure>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "proof-dialog": ProofDialog;
  }
}
