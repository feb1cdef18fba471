/**
 * Styles that every component's shadow root shares: focus, text, buttons, fields, notes, tables. Classes, not wrapped
 * elements: a button stays a button for forms, keyboards and assistive technology.
 */
import { css } from "lit";

export const base = css`
  *,
  *::before,
  *::after {
    box-sizing: border-box;
  }
  :host {
    display: block;
  }
  :host([hidden]),
  [hidden] {
    display: none !important;
  }
  :focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
    border-radius: var(--round);
  }
  h1,
  h2,
  h3,
  p,
  ul,
  ol,
  dl,
  dd,
  figure {
    margin: 0;
    padding: 0;
  }
  h1 {
    font-size: var(--huge);
    line-height: 1.25;
    font-weight: 620;
    letter-spacing: -0.015em;
  }
  h2 {
    font-size: var(--large);
    line-height: 1.35;
    font-weight: 620;
  }
  h3 {
    font-size: var(--medium);
    font-weight: 620;
  }
  a {
    color: var(--accent);
    text-underline-offset: 0.15em;
  }
  code,
  .mono {
    font-family: var(--mono);
    font-size: 0.9em;
    overflow-wrap: anywhere;
  }
  svg {
    width: 1.25em;
    height: 1.25em;
    flex: none;
    vertical-align: -0.25em;
  }
  .muted {
    color: var(--muted);
  }
  .small {
    font-size: var(--small);
  }
  .hidden {
    position: absolute;
    width: 1px;
    height: 1px;
    margin: -1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
  .row {
    display: flex;
    align-items: center;
    gap: var(--gap-s);
    min-width: 0;
  }
  .row.wrap {
    flex-wrap: wrap;
  }
  .row.end {
    justify-content: flex-end;
  }
  .stack {
    display: grid;
    gap: var(--gap);
    grid-template-columns: minmax(0, 1fr);
  }
  .grow {
    flex: 1;
    min-width: 0;
  }
  .clip {
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
  .card {
    background: var(--surface);
    border: 1px solid var(--line);
    border-radius: var(--round-l);
    padding: var(--gap);
  }

  button,
  .button {
    font: inherit;
    color: inherit;
    display: inline-flex;
    align-items: center;
    justify-content: center;
    gap: var(--gap-s);
    min-height: 2.5rem;
    padding: 0.375rem 0.875rem;
    border: 1px solid var(--line);
    border-radius: var(--round);
    background: var(--surface);
    text-decoration: none;
    cursor: pointer;
    transition: background var(--quick), border-color var(--quick);
  }
  button:hover,
  .button:hover {
    background: var(--sunken);
  }
  button:disabled {
    color: var(--muted);
    cursor: not-allowed;
    background: transparent;
  }
  button.primary {
    background: var(--accent);
    border-color: transparent;
    color: var(--on-accent);
    font-weight: 560;
  }
  button.primary:hover {
    background: color-mix(in oklab, var(--accent) 88%, var(--text));
  }
  button.primary:disabled {
    background: var(--sunken);
    color: var(--muted);
  }
  button.danger {
    color: var(--bad);
  }
  button.quiet {
    border-color: transparent;
    background: transparent;
  }
  button.quiet:hover {
    background: var(--sunken);
  }
  button.icon {
    padding: 0;
    width: 2.5rem;
    flex: none;
  }
  button.tiny {
    min-height: 1.75rem;
    padding: 0.125rem 0.5rem;
    font-size: var(--small);
  }
  button.tiny.icon {
    padding: 0;
    width: 1.75rem;
  }

  input,
  select,
  textarea {
    font: inherit;
    color: inherit;
    width: 100%;
    min-height: 2.5rem;
    padding: 0.375rem 0.75rem;
    background: var(--surface);
    border: 1px solid var(--line-strong);
    border-radius: var(--round);
  }
  input[type="checkbox"],
  input[type="radio"] {
    width: 1.125rem;
    min-height: 1.125rem;
    margin: 0.2em 0 0;
    flex: none;
    accent-color: var(--accent);
  }
  ::placeholder {
    color: var(--muted);
    opacity: 1;
  }
  label {
    display: block;
  }
  label > span:first-child {
    display: block;
    font-size: var(--small);
    color: var(--muted);
    margin-bottom: var(--gap-xs);
  }

  .note {
    padding: 0.625rem 0.875rem;
    border-radius: var(--round);
    background: var(--sunken);
  }
  .note.good {
    background: var(--good-soft);
    color: var(--good);
  }
  .note.warn {
    background: var(--warn-soft);
    color: var(--warn);
  }
  .note.bad {
    background: var(--bad-soft);
    color: var(--bad);
  }
  .tag {
    display: inline-flex;
    align-items: center;
    gap: 0.25em;
    padding: 0.05rem 0.5rem;
    border-radius: 99px;
    font-size: var(--small);
    background: var(--sunken);
    color: var(--muted);
    white-space: nowrap;
  }
  .tag.good {
    background: var(--good-soft);
    color: var(--good);
  }
  .tag.warn {
    background: var(--warn-soft);
    color: var(--warn);
  }
  .tag.bad {
    background: var(--bad-soft);
    color: var(--bad);
  }
  .stripes {
    background: repeating-linear-gradient(-45deg, var(--stripe-a) 0 14px, var(--stripe-b) 14px 28px);
    color: var(--on-stripe);
  }

  .scroll {
    overflow-x: auto;
  }
  table {
    width: 100%;
    border-collapse: collapse;
  }
  th,
  td {
    text-align: start;
    vertical-align: top;
    padding: 0.5rem 0.75rem 0.5rem 0;
    border-bottom: 1px solid var(--line);
  }
  th {
    font-weight: 500;
    font-size: var(--small);
    color: var(--muted);
  }
  dl.facts {
    display: grid;
    grid-template-columns: minmax(6.5rem, max-content) minmax(0, 1fr);
    gap: var(--gap-xs) var(--gap);
  }
  dl.facts dt {
    color: var(--muted);
  }
  summary {
    cursor: pointer;
  }

  @media (max-width: 480px) {
    dl.facts {
      grid-template-columns: minmax(0, 1fr);
    }
    dl.facts dd {
      margin-bottom: var(--gap-s);
    }
  }
  @media (prefers-reduced-motion: reduce) {
    *,
    *::before,
    *::after {
      animation-duration: 1ms !important;
      animation-iteration-count: 1 !important;
      transition: none !important;
      scroll-behavior: auto !important;
    }
  }
`;
