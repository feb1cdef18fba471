/**
 * The design's values, as custom properties of the document: colours (light and dark in one place), type, space, shape.
 *
 * - Components use these names only, never a colour of their own. Text on its surface has a contrast of at least 4.5:1.
 * - Green, amber and red are kept for what a verification says; the accent is blue.
 */
import { css } from "lit";

const tokens = css`
  :root {
    color-scheme: light dark;

    --ground: light-dark(#f7f7f5, #131517);
    --surface: light-dark(#ffffff, #1b1e21);
    --raised: light-dark(#ffffff, #22262a);
    --sunken: light-dark(#efefec, #0e1011);
    --line: light-dark(#dfe0dc, #30353a);
    --line-strong: light-dark(#85888c, #737a82);
    --text: light-dark(#1b1d20, #e9eaec);
    --muted: light-dark(#5a6068, #a3aab2);
    --accent: light-dark(#2450b8, #9db9ff);
    --on-accent: light-dark(#ffffff, #10182c);
    --accent-soft: light-dark(#e8eefb, #222d45);
    --shade: light-dark(rgb(20 24 30 / 45%), rgb(0 0 0 / 62%));

    --good: light-dark(#13693d, #74d29d);
    --good-soft: light-dark(#e2f3e8, #17301f);
    --warn: light-dark(#7d4a00, #f3bd5b);
    --warn-soft: light-dark(#fff0d2, #382a10);
    --bad: light-dark(#ad1f2d, #ff9a9a);
    --bad-soft: light-dark(#fde8e8, #3f1b1e);
    --stripe-a: #ffc247;
    --stripe-b: #f5ae1f;
    --on-stripe: #2b1d00;

    --sans:
      system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC",
      "Noto Sans SC", "WenQuanYi Micro Hei", sans-serif;
    --mono: ui-monospace, "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
    --small: 0.8125rem;
    --medium: 0.9375rem;
    --large: 1.1875rem;
    --huge: 1.75rem;

    --gap-xs: 0.25rem;
    --gap-s: 0.5rem;
    --gap: 1rem;
    --gap-l: 1.5rem;
    --gap-xl: 2.5rem;
    --round: 0.5rem;
    --round-l: 0.875rem;
    --lift: 0 1px 2px light-dark(rgb(20 24 30 / 6%), rgb(0 0 0 / 30%)), 0 8px 28px light-dark(rgb(20 24 30 / 9%), rgb(0 0 0 / 38%));
    --quick: 140ms ease-out;
    --header: 3.5rem;
  }

  :root[data-theme="light"] {
    color-scheme: light;
  }
  :root[data-theme="dark"] {
    color-scheme: dark;
  }

  html,
  body {
    margin: 0;
    height: 100%;
    background: var(--ground);
    color: var(--text);
    font: 400 var(--medium) / 1.55 var(--sans);
    -webkit-text-size-adjust: 100%;
    overflow-wrap: break-word;
  }
  :root:lang(zh) {
    line-height: 1.7;
  }

  @media (prefers-reduced-motion: reduce) {
    :root {
      --quick: 1ms linear;
    }
  }
`;

/** Give a document these values; to be called once, before the first component is shown. */
export function installDesign(target: Document): void {
  if (tokens.styleSheet) target.adoptedStyleSheets = [...target.adoptedStyleSheets, tokens.styleSheet];
}
