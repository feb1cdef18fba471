/**
 * `<chat-sidebar>`: the conversations on this device, newest first, with search, rename and delete. Tells
 * `open-conversation`, `new-conversation`, `rename-conversation` and `remove-conversation`.
 */
import { css, html, nothing } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import type { Summary } from "../conversations.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { t } from "../strings/chat.ts";

@customElement("chat-sidebar")
export class ChatSidebar extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        display: flex;
        flex-direction: column;
        gap: var(--gap-s);
        min-height: 0;
        height: 100%;
      }
      .search {
        position: relative;
      }
      .search svg {
        position: absolute;
        inset: 0.625rem auto auto 0.625rem;
        color: var(--muted);
        pointer-events: none;
      }
      .search input {
        padding-inline-start: 2.25rem;
        border-color: var(--line);
      }
      ul {
        list-style: none;
        overflow-y: auto;
        flex: 1;
        margin-inline: -0.25rem;
        padding-inline: 0.25rem;
      }
      li {
        position: relative;
        display: flex;
        align-items: center;
        border-radius: var(--round);
      }
      li:hover,
      li.here {
        background: var(--sunken);
      }
      li > button:first-child {
        flex: 1;
        min-width: 0;
        justify-content: flex-start;
        text-align: start;
      }
      li:is(:hover, :focus-within, .here) {
        padding-inline-end: 3.75rem;
      }
      .actions {
        position: absolute;
        inset-inline-end: 0.125rem;
        color: var(--muted);
        opacity: 0;
      }
      li:is(:hover, :focus-within, .here) .actions {
        opacity: 1;
      }
      @media (hover: none) {
        li {
          padding-inline-end: 3.75rem;
        }
        .actions {
          opacity: 1;
        }
      }
      .new {
        justify-content: flex-start;
      }
      .place {
        padding: var(--gap-s) 0.25rem 0;
        border-top: 1px solid var(--line);
      }
    `,
  ];

  @property({ attribute: false }) accessor summaries: readonly Summary[] = [];
  @property() accessor here = "";
  @state() private accessor query_ = "";
  @state() private accessor asked: { readonly what: "rename" | "remove"; readonly summary: Summary } | undefined;
  @query("#name") private accessor nameField!: HTMLInputElement | null;

  private found(): readonly Summary[] {
    const words = this.query_.toLowerCase().trim();
    return this.summaries.filter(({ title }) => title.toLowerCase().includes(words));
  }

  private confirm(): void {
    if (!this.asked) return;
    const { what, summary } = this.asked;
    if (what === "remove") this.tell("remove-conversation", summary.id);
    else this.tell("rename-conversation", { id: summary.id, title: this.nameField?.value ?? "" });
    this.asked = undefined;
  }

  private readonly leave = (event?: Event): void => {
    event?.stopPropagation(); // this dialog may be in another one
    this.asked = undefined;
  };

  protected override render() {
    const found = this.found();
    return html`
      <button class="new" @click=${() => this.tell("new-conversation")}>${icons.plus}${t("newChat")}</button>
      <label class="search">
        <span class="hidden">${t("search")}</span>${icons.search}
        <input
          type="search"
          placeholder=${t("search")}
          .value=${this.query_}
          @input=${(event: InputEvent & { target: HTMLInputElement }) => {
            this.query_ = event.target.value;
          }}
        />
      </label>
      ${
        found.length === 0
          ? html`<p class="muted small grow">${this.query_ ? t("noMatches", { query: this.query_ }) : t("noConversations")}</p>`
          : html`<ul>
            ${repeat(
              found,
              (summary) => summary.id,
              (summary) => this.item(summary),
            )}
          </ul>`
      }
      <div class="place"><slot name="place"></slot></div>
      ${this.dialog()}
    `;
  }

  private item(summary: Summary) {
    const here = summary.id === this.here;
    const action = (what: "rename" | "remove", icon: unknown) =>
      html`<button
        class="quiet tiny icon"
        title=${t(what)}
        aria-label="${t(what)}: ${summary.title}"
        @click=${() => {
          this.asked = { what, summary };
        }}
      >
        ${icon}
      </button>`;
    return html`<li class=${here ? "here" : ""}>
      <button class="quiet" aria-current=${here ? "true" : nothing} title=${summary.title} @click=${() => this.tell("open-conversation", summary.id)}>
        <span class="clip">${summary.title}</span>
      </button>
      <span class="actions">${action("rename", icons.pencil)}${action("remove", icons.trash)}</span>
    </li>`;
  }

  private dialog() {
    const rename = this.asked?.what === "rename";
    const title = this.asked?.summary.title ?? "";
    return html`<m-dialog ?open=${this.asked !== undefined} heading=${t(rename ? "renameTitle" : "removeTitle")} @m-close=${this.leave}>
      ${
        rename
          ? html`<label>
            <span>${t("name")}</span>
            <input
              id="name"
              maxlength="120"
              .value=${title}
              autofocus
              @keydown=${(event: KeyboardEvent) => event.key === "Enter" && !event.isComposing && this.confirm()}
            />
          </label>`
          : html`<p>${t("removeText", { title })}</p>`
      }
      <div class="row end" slot="actions">
        <button @click=${this.leave}>${t("cancel")}</button>
        <button class=${rename ? "primary" : "danger"} @click=${this.confirm}>${t(rename ? "save" : "remove")}</button>
      </div>
    </m-dialog>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "chat-sidebar": ChatSidebar;
  }
}
