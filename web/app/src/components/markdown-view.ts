/** `<markdown-view .text=${…}>`: an answer's text. Blocks that did not change stay as they are while it grows. */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import "../design/copy.ts";
import { View } from "../design/index.ts";
import { type Block, blocks, nodes } from "../markdown.ts";
import { t } from "../strings/chat.ts";

@customElement("markdown-view")
export class MarkdownView extends View {
  static override styles = [
    View.styles,
    css`
      :host {
        display: grid;
        gap: 0.875rem;
        grid-template-columns: minmax(0, 1fr);
        overflow-wrap: anywhere;
      }
      .block > :first-child {
        margin-top: 0;
      }
      .block :is(p, ul, ol, blockquote, pre, table) + :is(p, ul, ol, blockquote, pre, table) {
        margin-top: 0.75rem;
      }
      h1,
      h2,
      h3,
      h4,
      h5,
      h6 {
        font-size: 1.0625rem;
        font-weight: 640;
        letter-spacing: 0;
        line-height: 1.4;
        margin: 0.375rem 0 0;
      }
      h1 {
        font-size: 1.3125rem;
      }
      h2 {
        font-size: 1.1875rem;
      }
      ul,
      ol {
        padding-inline-start: 1.5em;
      }
      li + li {
        margin-top: 0.25rem;
      }
      blockquote {
        margin: 0;
        padding-inline-start: 1rem;
        border-inline-start: 3px solid var(--line);
        color: var(--muted);
      }
      hr {
        border: 0;
        border-top: 1px solid var(--line);
        margin: 0.25rem 0;
      }
      :not(pre) > code {
        background: var(--sunken);
        border-radius: 0.3em;
        padding: 0.1em 0.35em;
      }
      pre {
        margin: 0;
        padding: 0.75rem 1rem;
        overflow-x: auto;
        font-size: 0.875rem;
        line-height: 1.55;
        tab-size: 2;
        background: var(--sunken);
        border-radius: var(--round);
      }
      pre code {
        font-size: inherit;
        overflow-wrap: normal;
      }
      figure {
        background: var(--sunken);
        border: 1px solid var(--line);
        border-radius: var(--round);
        overflow: hidden;
      }
      figcaption {
        display: flex;
        align-items: center;
        justify-content: space-between;
        padding: 0.125rem 0.25rem 0.125rem 1rem;
        border-bottom: 1px solid var(--line);
        color: var(--muted);
        font-size: var(--small);
      }
      .block:has(> table) {
        overflow-x: auto;
      }
      th,
      td {
        padding-inline-end: 1.25rem;
      }
      th {
        color: var(--text);
        font-weight: 600;
      }
    `,
  ];

  @property({ attribute: false }) accessor text = "";
  private shown = new Map<string, TemplateResult>();

  protected override render() {
    const before = this.shown;
    this.shown = new Map();
    return blocks(this.text).map((block, index) => {
      const key = `${index} ${block.kind} ${block.raw}`;
      const template = before.get(key) ?? show(block);
      this.shown.set(key, template);
      return template;
    });
  }
}

function show(block: Block): TemplateResult {
  if (block.kind === "html") return html`<div class="block">${nodes(block.html)}</div>`;
  return html`<figure>
    <figcaption>
      <span>${block.language || nothing}</span><m-copy .text=${block.text} label=${t("copyCode")}></m-copy>
    </figcaption>
    <pre tabindex="0"><code>${block.text}</code></pre>
  </figure>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "markdown-view": MarkdownView;
  }
}
