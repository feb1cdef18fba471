/**
 * `<chat-composer>`: the message field, attached files, send and stop. Tells `send-message` with a `Draft`, and
 * `stop-answer`. Files are read here, and go nowhere but into the draft.
 */
import { css, html, nothing, type PropertyValues } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { type Attachment, attachment, MAX_FILE_BYTES, MAX_FILES, type UserMessage } from "../conversations.ts";
import { icons, toast, View } from "../design/index.ts";
import { size } from "../i18n.ts";
import { t } from "../strings/chat.ts";

export interface Draft {
  readonly text: string;
  readonly files: readonly Attachment[];
  /** The message that this one replaces. */
  readonly instead: string | undefined;
}

@customElement("chat-composer")
export class ChatComposer extends View {
  static override styles = [
    View.styles,
    css`
      .box {
        background: var(--raised);
        border: 1px solid var(--line-strong);
        border-radius: 1.25rem;
        padding: 0.5rem;
        box-shadow: var(--lift);
      }
      .box:focus-within {
        border-color: var(--accent);
        outline: 1px solid var(--accent);
      }
      .shut {
        box-shadow: none;
        background: var(--sunken);
      }
      textarea {
        display: block;
        resize: none;
        border: 0;
        outline: 0;
        background: none;
        padding: 0.375rem 0.625rem;
        min-height: 2.5rem;
        max-height: min(40dvh, 20rem);
        line-height: 1.5;
        font-size: max(1rem, var(--medium));
        overflow-y: auto;
      }
      textarea::placeholder {
        white-space: nowrap;
        overflow: hidden;
        text-overflow: ellipsis;
      }
      textarea:focus-visible {
        outline: none;
      }
      .send {
        border-radius: 99px;
      }
      .files {
        padding: 0.25rem 0.375rem 0.5rem;
      }
      .files .tag {
        padding-inline-end: 0.125rem;
        max-width: 100%;
      }
      .tag button {
        min-height: 1.625rem;
        width: 1.625rem;
        color: inherit;
      }
      .hint {
        padding: 0 0.25rem;
      }
      @media (pointer: coarse), (max-width: 480px) {
        .hint {
          visibility: hidden;
        }
      }
    `,
  ];

  @property({ type: Boolean }) accessor shut = false;
  /** It will be open in a moment. */
  @property({ type: Boolean }) accessor waiting = false;
  @property({ type: Boolean }) accessor busy = false;
  @property({ type: Boolean }) accessor ready = false;
  @state() private accessor files: readonly Attachment[] = [];
  @state() private accessor instead: string | undefined;
  @state() private accessor text = "";
  @query("textarea") private accessor field!: HTMLTextAreaElement;
  @query("input") private accessor picker!: HTMLInputElement;

  /** Put the cursor into the field, once it is open. */
  override focus(): void {
    void this.updateComplete.then(() => this.field.focus());
  }

  /** Put a message that was sent back into the field. */
  edit(message: UserMessage): void {
    this.text = message.text;
    this.files = message.files;
    this.instead = message.id;
    this.focus();
  }

  /** Another conversation is shown: what was meant for a message of the former one is dropped. */
  leave(): void {
    if (this.instead !== undefined) this.clear();
  }

  clear(): void {
    this.text = "";
    this.files = [];
    this.instead = undefined;
  }

  /** Attach files, and say of each that can't be why. */
  async attach(files: Iterable<File>): Promise<void> {
    for (const file of files) {
      const read = await attachment(file, this.files.length);
      if (typeof read === "object") this.files = [...this.files, read];
      else if (read === "too-many") return toast(t("fileTooMany", { limit: MAX_FILES }), "bad");
      else if (read === "too-large") toast(t("fileTooLarge", { name: file.name, limit: size(MAX_FILE_BYTES) }), "bad");
      else toast(t("fileNotText", { name: file.name }), "bad");
    }
    this.focus();
  }

  protected override updated(changed: PropertyValues): void {
    if (!changed.has("text" as never) && changed.size > 0 && this.field.value === this.text) return;
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }

  private typed(): void {
    this.text = this.field.value;
  }

  private key(event: KeyboardEvent): void {
    if (event.isComposing || event.keyCode === 229) return; // Enter ends a word of an input method
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !touch) {
      event.preventDefault();
      this.send();
    } else if (event.key === "Escape" && this.instead !== undefined && !this.busy) this.clear();
  }

  private send(): void {
    if (!this.ready || (this.text.trim() === "" && this.files.length === 0)) return;
    const draft: Draft = { text: this.text, files: this.files, instead: this.instead };
    this.clear();
    this.tell("send-message", draft);
  }

  private async picked(): Promise<void> {
    await this.attach([...(this.picker.files ?? [])]);
    this.picker.value = "";
  }

  private paste(event: ClipboardEvent): void {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    void this.attach(files);
  }

  protected override render() {
    const empty = this.text.trim() === "" && this.files.length === 0;
    return html`<div class="box ${this.shut ? "shut" : ""}">
      ${this.instead ? html`<p class="row small muted files"><span class="grow">${t("editing")}</span><button class="quiet tiny" @click=${this.clear}>${t("cancel")}</button></p>` : nothing}
      ${this.files.length > 0 ? html`<div class="row wrap files">${this.files.map((file) => this.chip(file))}</div>` : nothing}
      <textarea
        id="message"
        rows="1"
        aria-label=${t("message")}
        placeholder=${t(this.shut ? (this.waiting ? "placeholderWaiting" : "placeholderShut") : "placeholder")}
        ?disabled=${this.shut}
        .value=${this.text}
        @input=${this.typed}
        @keydown=${this.key}
        @paste=${this.paste}
      ></textarea>
      <div class="row">
        <button class="quiet icon" title=${t("attach")} aria-label=${t("attach")} ?disabled=${this.shut} @click=${() => this.picker.click()}>
          ${icons.clip}
        </button>
        <input type="file" multiple hidden aria-label=${t("attach")} @change=${this.picked} />
        <span class="grow small muted hint clip">${t("keys")}</span>
        ${
          this.busy
            ? html`<button class="icon send primary" title="${t("stop")} (Esc)" aria-label=${t("stop")} @click=${() => this.tell("stop-answer")}>
              ${icons.stop}
            </button>`
            : html`<button class="icon send primary" title=${t("send")} aria-label=${t("send")} ?disabled=${!this.ready || empty} @click=${this.send}>
              ${icons.send}
            </button>`
        }
      </div>
    </div>`;
  }

  private chip(file: Attachment) {
    const remove = () => {
      this.files = this.files.filter((other) => other !== file);
    };
    const label = t("detach", { name: file.name });
    return html`<span class="tag">
      ${icons.file}<span class="clip">${file.name}</span> ${size(new Blob([file.text]).size)}
      <button class="quiet tiny icon" title=${label} aria-label=${label} @click=${remove}>${icons.close}</button>
    </span>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "chat-composer": ChatComposer;
  }
}
