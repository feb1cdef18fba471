/**
 * What is kept on this device: `<keeping-place>` says it in the sidebar, `<keeping-settings>` in the settings, and
 * `<keeping-dialog>` asks for passphrase or passkey. The first two tell `keeping` with what the user wants; the dialog
 * tells `kept` when the store has changed.
 */
import { css, html, nothing } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import type { Failure } from "../conversations.ts";
import "../design/dialog.ts";
import { icons, toast, View } from "../design/index.ts";
import { failureOf } from "../state.ts";
import type { DeviceStore } from "../store/index.ts";
import { k } from "../strings/keeping.ts";
import { failureCard, failureStyles } from "./failure.ts";

export type Wish = "keep" | "unlock" | "lock" | "stop" | "forget";

const LEAST_CHARACTERS = 10;

@customElement("keeping-place")
export class KeepingPlace extends View {
  static override styles = [
    View.styles,
    css`
      .words {
        padding-inline: 0.5rem;
      }
    `,
  ];

  @property({ attribute: false }) accessor store!: DeviceStore;
  @property({ type: Number }) accessor turn = 0; // shown anew

  protected override render() {
    const { protection, guard, canKeep } = this.store;
    const [words, wish] =
      guard === "damaged"
        ? ([k("damagedShort"), "forget"] as const)
        : protection === "locked"
          ? ([k("lockedShort"), "unlock"] as const)
          : protection === "unlocked"
            ? ([k("unlockedShort"), "lock"] as const)
            : ([k("noneShort"), canKeep ? "keep" : undefined] as const);
    return html`<div class="small muted">
      <p class="words">${words}</p>
      ${wish ? html`<button class="quiet tiny" @click=${() => this.tell("keeping", wish)}>${icons.lock}${k(wish)}</button>` : nothing}
    </div>`;
  }
}

@customElement("keeping-settings")
export class KeepingSettings extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        display: grid;
        gap: var(--gap-s);
      }
    `,
  ];

  @property({ attribute: false }) accessor store!: DeviceStore;
  @property({ type: Number }) accessor turn = 0;

  private words(): string {
    const { protection, guard, canKeep } = this.store;
    if (guard === "damaged") return k("damaged");
    if (protection === "locked") return k("locked");
    if (protection === "unlocked") return k(guard === "passkey" ? "unlockedPasskey" : "unlockedPassphrase");
    return k(canKeep ? "none" : "cannot");
  }

  protected override render() {
    const { protection, guard, canKeep, damaged } = this.store;
    const wish = (what: Wish, label: string, kind = "") =>
      html`<button class=${kind} @click=${() => this.tell("keeping", what)}>${label}</button>`;
    return html`<h3>${k("keeping")}</h3>
      <p class="small muted">${this.words()}</p>
      ${damaged.length > 0 ? html`<p class="note warn small">${k("unreadable", { n: damaged.length })}</p>` : nothing}
      <div class="row wrap">
        ${protection === "none" && canKeep ? wish("keep", k("keep")) : nothing}
        ${protection === "locked" && guard !== "damaged" ? wish("unlock", k("unlock")) : nothing}
        ${protection === "unlocked" ? [wish("lock", k("lock")), wish("keep", k("newGuard")), wish("stop", k("stopKeeping"))] : nothing}
        ${protection === "none" ? nothing : wish("forget", k("forget"), "danger")}
      </div>`;
  }
}

@customElement("keeping-dialog")
export class KeepingDialog extends View {
  static override styles = [
    View.styles,
    failureStyles,
    css`
      :host {
        display: contents;
      }
      form {
        display: grid;
        gap: var(--gap-s);
      }
    `,
  ];

  @property({ attribute: false }) accessor store!: DeviceStore;
  @state() private accessor wish: "keep" | "unlock" | "forget" | undefined;
  @state() private accessor busy = false;
  @state() private accessor failure: Failure | undefined;
  @state() private accessor fault = "";
  @query("#passphrase") private accessor first!: HTMLInputElement | null;
  @query("#again") private accessor second!: HTMLInputElement | null;

  /** Do what the user wants, or ask for what it takes. */
  async ask(wish: Wish): Promise<void> {
    this.failure = undefined;
    this.fault = "";
    if (wish === "lock") return this.run(async () => this.store.lock(), k("locks"));
    if (wish === "stop") return this.run(() => this.store.removeGuard(), "");
    this.wish = wish;
  }

  private async run(work: () => Promise<void>, said: string): Promise<void> {
    this.busy = true;
    this.failure = undefined;
    try {
      await work();
      this.wish = undefined;
      if (said) toast(said);
    } catch (error) {
      this.failure = failureOf(error);
    } finally {
      this.busy = false;
      this.tell("kept");
    }
  }

  private submit(event: Event): void {
    event.preventDefault();
    const passphrase = this.first?.value ?? "";
    this.fault = "";
    if (this.wish === "unlock") void this.run(() => this.store.unlock(passphrase), "");
    else if ([...passphrase].length < LEAST_CHARACTERS) this.fault = k("tooShort", { n: LEAST_CHARACTERS });
    else if (passphrase !== this.second?.value) this.fault = k("unequal");
    else void this.run(() => this.store.guardWithPassphrase(passphrase), k("done"));
  }

  private readonly leave = (event?: Event): void => {
    event?.stopPropagation();
    if (!this.busy) this.wish = undefined;
  };

  protected override render() {
    const titles = { keep: k("keepTitle"), unlock: k("unlockTitle"), forget: k("forgetTitle") };
    return html`<m-dialog ?open=${this.wish !== undefined} heading=${this.wish ? titles[this.wish] : ""} @m-close=${this.leave}>
      <div class="stack">
        ${this.wish === "keep" ? this.guards() : nothing} ${this.wish === "unlock" ? this.opening() : nothing}
        ${this.wish === "forget" ? html`<p>${k("forgetText")}</p>` : nothing}
        ${this.busy ? html`<p class="muted" role="status">${k("working")}</p>` : nothing}
        ${this.failure ? failureCard(this.failure, "") : nothing}
      </div>
      ${
        this.wish === "forget"
          ? html`<div class="row end" slot="actions">
            <button @click=${this.leave}>${k("cancel")}</button>
            <button class="danger" @click=${() => this.run(() => this.store.forgetEverything(), "")}>${k("forget")}</button>
          </div>`
          : nothing
      }
    </m-dialog>`;
  }

  private guards() {
    return html`<p>${k("keepText")}</p>
      <section class="card stack">
        <h3>${k("withPassphrase")}</h3>
        ${this.form(html`<button class="primary" ?disabled=${this.busy}>${k("keepPassphrase")}</button>`, true)}
      </section>
      <section class="card stack">
        <h3>${k("withPasskey")}</h3>
        <p class="small muted">${k("passkeyText")}</p>
        <div>
          <button ?disabled=${this.busy} @click=${() => this.run(() => this.store.guardWithPasskey(), k("done"))}>${icons.lock}${k("keepPasskey")}</button>
        </div>
      </section>`;
  }

  private opening() {
    const later = html`<button type="button" class="quiet" @click=${this.leave}>${k("notNow")}</button>`;
    const buttons = html`<div class="row end">${later}<button class="primary" ?disabled=${this.busy}>${k("unlock")}</button></div>`;
    return html`<p>${k("unlockText")}</p>
      ${
        this.store.guard === "passkey"
          ? html`<form @submit=${this.submit}>${buttons}</form>`
          : this.form(buttons, false)
      }`;
  }

  private form(buttons: unknown, twice: boolean) {
    const field = (id: string, label: string, autofocus: boolean) => html`<label>
      <span>${label}</span>
      <input id=${id} type="password" required ?autofocus=${autofocus} autocomplete=${twice ? "new-password" : "current-password"} />
    </label>`;
    return html`<form @submit=${this.submit} novalidate>
      ${field("passphrase", k("passphrase"), true)} ${twice ? field("again", k("again"), false) : nothing}
      ${this.fault ? html`<p class="note bad small" role="alert">${this.fault}</p>` : nothing}
      <div>${buttons}</div>
    </form>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "keeping-place": KeepingPlace;
    "keeping-settings": KeepingSettings;
    "keeping-dialog": KeepingDialog;
  }
}
