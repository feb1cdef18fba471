/**
 * An answer's Markdown as blocks that are safe to show. A model's answer is untrusted text.
 *
 * - Raw HTML is shown as text. Images become links: nothing is ever fetched for an answer.
 * - DOMPurify has the last word over what `marked` made, with a short list of elements and two attributes.
 * - Links open elsewhere, without a word about this page.
 */
import DOMPurify from "dompurify";
import { Lexer, Marked, type Token } from "marked";

export type Block =
  | { readonly kind: "code"; readonly raw: string; readonly language: string; readonly text: string }
  | { readonly kind: "html"; readonly raw: string; readonly html: string };

/** Above this, an answer is shown as plain text. */
export const MAX_MARKDOWN_LENGTH = 50_000;
/** Above this, a paragraph is: the time to find emphasis in it grows with its square. */
export const MAX_PARAGRAPH_LENGTH = 5_000;

const TAGS = [
  ..."p br strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 hr a".split(" "),
  ..."table thead tbody tr th td".split(" "),
];

function escaped(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => names[character] ?? "");
}

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Cut Markdown into its top-level blocks; those before the last one stay the same while an answer grows. */
export function blocks(text: string): readonly Block[] {
  if (text.length > MAX_MARKDOWN_LENGTH) return [plain(text)];
  try {
    return lexed(text)
      .filter((token) => token.type !== "space" && token.type !== "def")
      .map(block);
  } catch {
    return [plain(text)]; // nested too deeply
  }
}

function lexed(text: string): Token[] {
  const lexer = new Lexer(marked.defaults);
  lexer.blockTokens(text.replace(/\r\n?/g, "\n"), lexer.tokens);
  for (const { src, tokens } of lexer.inlineQueue) {
    if (src.length <= MAX_PARAGRAPH_LENGTH) lexer.inlineTokens(src, tokens);
    else tokens.push({ type: "text", raw: src, text: src, escaped: false });
  }
  return lexer.tokens;
}

function block(token: Token): Block {
  if (token.type === "code")
    return { kind: "code", raw: token.raw, language: word(token.lang), text: String(token.text) };
  return { kind: "html", raw: token.raw, html: marked.parser([token]) };
}

function plain(text: string): Block {
  return { kind: "code", raw: text, language: "", text };
}

function word(language: unknown): string {
  return /^[\w+#.-]{1,24}/.exec(String(language ?? ""))?.[0] ?? "";
}

/** What may be shown of a block's HTML, as nodes; in browsers only. */
export function nodes(html: string): DocumentFragment {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "align", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.title = link.href;
  }
  return fragment;
}
