/**
 * `<proven-app>`: the page of a service of answers with a proof. Nothing is confidential there, which it always says.
 *
 * Which service it may be, the link says (`proven/offer.ts`); without a link, or where this device knew the address as
 * something else, nothing is sent before the user has decided.
 */
import { html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { prompt } from "../conversations.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { printable } from "../printable.ts";
import type { Proofs } from "../proofs.ts";
import type { ProvenOffer } from "../proven/offer.ts";
import type { ProvenState } from "../proven/state.ts";
import { t as chat } from "../strings/chat.ts";
import { t } from "../strings/proven.ts";
import { appStyles } from "./app-styles.ts";
import type { ChatComposer, Draft } from "./composer.ts";
import "./composer.ts";
import { failureCard, failureStyles } from "./failure.ts";
import "./proof-dialog.ts";
import "./proven-turn.ts";
import "./settings-dialog.ts";
import { welcomeStyles } from "./welcome.ts";

type Sheet = "known" | "settings" | "proof";

@customElement("proven-app")
export class ProvenApp extends View {
  static override styles = [View.styles, failureStyles, welcomeStyles, appStyles];

  @property({ attribute: false }) accessor chat!: ProvenState;
  @property({ attribute: false }) accessor proofs!: Proofs;
  /** The user takes this link's service, whatever was pinned; or leaves it. */
  @property({ attribute: false }) accessor goOn: () => void = () => undefined;
  @property({ attribute: false }) accessor keep: () => void = () => undefined;
  @state() private accessor sheet: Sheet | undefined;
  @state() private accessor announced = "";
  @query("chat-composer") private accessor composer!: ChatComposer;
  @query("main") private accessor main!: HTMLElement;
  private heard = new Map<string, string>();

  override connectedCallback(): void {
    super.connectedCallback();
    this.chat.addEventListener("change", this.changed);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.chat.removeEventListener("change", this.changed);
  }

  private readonly changed = (): void => {
    for (const { id, signed, proof } of this.chat.turns) {
      const now = `${signed.kind} ${proof.kind}`;
      if (this.heard.get(id) === now) continue;
      this.heard.set(id, now);
      if (proof.kind === "proven") this.announced = t("announceProven");
      else if (proof.kind === "refused") this.announced = t("announceRefused");
      else if (proof.kind === "missing") this.announced = t("announceMissing");
      else if (proof.kind !== "none") this.announced = t("proofAsking");
      else if (signed.kind === "signed") this.announced = t("announceSigned");
      else if (signed.kind === "refused" || signed.kind === "missing") this.announced = t("announceUnsigned");
    }
    this.requestUpdate();
  };

  private send({ text, files }: Draft): void {
    void this.chat.send(prompt({ text, files }));
  }

  private begin(): void {
    this.chat.close();
    void this.updateComplete.then(() => this.composer.focus());
  }

  protected override updated(_: PropertyValues): void {
    if (this.chat.busy) this.main.scrollTop = this.main.scrollHeight;
  }

  protected override render() {
    const { status, turns, busy, ready } = this.chat;
    const known = status.kind === "open" ? status.service.offer : undefined;
    const close = () => {
      this.sheet = undefined;
    };
    return html`<section class="bar stripes" aria-label=${t("barLabel")}>${icons.warning}${t("bar")}</section>
      <div
        class="frame"
        @m-close=${close}
        @check-proof=${() => {
          this.sheet = "proof";
        }}
      >
        <div class="column">
          ${this.header(known)}
          <main tabindex="0" aria-label=${chat("messages")}>
            ${
              turns.length === 0
                ? hello()
                : html`<div
                    class="messages"
                    role="log"
                    @prove-answer=${(event: CustomEvent<string>) => this.chat.prove(event.detail)}
                    @leave-proof=${(event: CustomEvent<string>) => this.chat.leave(event.detail)}
                    @sign-answer=${(event: CustomEvent<string>) => this.chat.sign(event.detail)}
                  >
                    ${repeat(
                      turns,
                      ({ id }) => id,
                      (turn) => html`<proven-turn .turn=${turn}></proven-turn>`,
                    )}
                  </div>`
            }
          </main>
          <footer>
            <p class="hidden" role="status">${busy ? chat("writing") : this.announced}</p>
            <div class="notices">${this.notice()}</div>
            <chat-composer
              ?shut=${status.kind !== "open"}
              ?waiting=${status.kind === "starting"}
              ?busy=${busy}
              ?ready=${ready}
              @send-message=${(event: CustomEvent<Draft>) => this.send(event.detail)}
              @stop-answer=${() => this.chat.stop()}
            ></chat-composer>
          </footer>
        </div>
        <m-dialog ?open=${this.sheet === "known"} heading=${t("known")}>${known ? pinned(known) : nothing}</m-dialog>
        <proof-dialog ?open=${this.sheet === "proof"} .proofs=${this.proofs}></proof-dialog>
        <settings-dialog ?open=${this.sheet === "settings"} ?proofs=${true}></settings-dialog>
      </div>`;
  }

  private header(known: ProvenOffer | undefined) {
    const label = chat("settings");
    const open = (sheet: Sheet) => () => {
      this.sheet = sheet;
    };
    return html`<header>
      <span class="grow clip">${printable(known?.model ?? "mitai")}</span>
      ${this.chat.turns.length > 0 ? html`<button class="quiet" @click=${this.begin}>${icons.plus}${t("newChat")}</button>` : nothing}
      ${known ? html`<button class="quiet" @click=${open("known")}>${icons.eye}${t("known")}</button>` : nothing}
      <button class="quiet icon" title=${label} aria-label=${label} @click=${open("settings")}>${icons.settings}</button>
    </header>`;
  }

  private notice(): TemplateResult | typeof nothing {
    const { status } = this.chat;
    if (status.kind === "starting") return html`<p class="note">${t("starting")}</p>`;
    if (status.kind === "refused") {
      const again = html`<button class="primary" @click=${() => this.goOn()}>${icons.retry}${t("tryAgain")}</button>`;
      return failureCard(status.failure, "nothing-sent", again);
    }
    if (status.kind === "no-link") return note(t("noLink"), t("noLinkText"));
    if (status.kind !== "ask") return nothing;
    const confidential = status.before === "confidential";
    return note(
      t(confidential ? "askConfidential" : "askOther"),
      t(confidential ? "askConfidentialText" : "askOtherText"),
      html`<div class="row wrap">
        <button class="primary" @click=${() => this.keep()}>${t("keep")}</button>
        <button @click=${() => this.goOn()}>${t("goOn")}</button>
      </div>`,
    );
  }
}

function note(what: string, text: string, actions: unknown = nothing): TemplateResult {
  return html`<section class="note warn stack" role="alert"><strong>${what}</strong><span>${text}</span>${actions}</section>`;
}

function hello(): TemplateResult {
  const points = [
    [t("pointSigned"), t("pointSignedText"), icons.receipt],
    [t("pointProven"), t("pointProvenText"), icons.shield],
    [t("pointOpen"), t("pointOpenText"), icons.trash],
  ] as const;
  return html`<div class="welcome">
    <div>
      <h1>${t("hello")}</h1>
      <p class="lead">${t("helloText")}</p>
    </div>
    <p class="note warn">${t("helloPrivate")}</p>
    <ol>
      ${points.map(
        ([title, text, icon]) => html`<li class="card">
          <h2>${icon}${title}</h2>
          <p class="small muted">${text}</p>
        </li>`,
      )}
    </ol>
  </div>`;
}

function pinned({ model, identity, key, tokenizer, unaudited }: ProvenOffer): TemplateResult {
  return html`<div class="stack">
    <p>${t("knownText")}</p>
    <dl class="facts">
      <dt>${t("model")}</dt>
      <dd>${printable(model)}</dd>
      <dt>${t("identity")}</dt>
      <dd><code>${identity}</code></dd>
      <dt>${t("key")}</dt>
      <dd><code>${key}</code></dd>
      <dt>${t("tokenizer")}</dt>
      <dd><code>${tokenizer}</code></dd>
      <dt>${t("audits")}</dt>
      <dd>${t(unaudited ? "unaudited" : "audited")}</dd>
    </dl>
    <p class="small muted">${t("ownPage")}</p>
  </div>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "proven-app": ProvenApp;
  }
}
