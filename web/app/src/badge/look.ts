/** How the badge looks, and the little that builds it: elements without HTML, so that the strictest CSP lets it be. */

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
  :host { /* light or dark as the page says of itself: color-scheme is inherited */
    --ink: light-dark(#1b1d20, #e9eaec);
    --muted: light-dark(#5a6068, #a3aab2);
    --surface: light-dark(#ffffff, #1b1e21);
    --line: light-dark(#85888c, #737a82);
    --good: light-dark(#13693d, #74d29d);
    --good-soft: light-dark(#e2f3e8, #17301f);
    --warn: light-dark(#7d4a00, #f3bd5b);
    --warn-soft: light-dark(#fff0d2, #382a10);
    --bad: light-dark(#ad1f2d, #ff9a9a);
    --bad-soft: light-dark(#fde8e8, #3f1b1e);
    display: inline-block;
    max-width: 100%;
    font: 400 0.875rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", "Microsoft YaHei", "Noto Sans SC", sans-serif;
    color: var(--ink);
    text-align: start;
  }
  :host([theme="light"]) { color-scheme: light; }
  :host([theme="dark"]) { color-scheme: dark; }
  :host([hidden]), [hidden] { display: none !important; }
  *, *::before { box-sizing: border-box; }
  p, dl, dd, ol { margin: 0; padding: 0; }
  button { font: inherit; color: inherit; cursor: pointer; }
  button:focus-visible { outline: 3px solid Highlight; outline-offset: 2px; }
  .state {
    display: inline-flex; align-items: center; gap: 0.5em; max-width: 100%; min-height: 2.25rem;
    padding: 0.25rem 0.875rem 0.25rem 0.625rem; text-align: start;
    border: 1px solid var(--line); border-radius: 1.125rem; background: var(--surface); font-weight: 600;
  }
  .state::after { content: ""; width: 0.4em; height: 0.4em; border: solid; border-width: 0 2px 2px 0; rotate: 45deg; translate: 0 -0.1em; }
  .state[aria-expanded="true"]::after { rotate: 225deg; translate: 0 0.1em; }
  .state svg { flex: none; width: 1.25em; height: 1.25em; }
  .good { color: var(--good); background: var(--good-soft); }
  .warn { color: var(--warn); background: var(--warn-soft); }
  .bad { color: var(--bad); background: var(--bad-soft); }
  .stripes {
    color: #2b1d00; border-color: #2b1d00; letter-spacing: 0.01em;
    background: repeating-linear-gradient(-45deg, #ffc247 0 8px, #f5ae1f 8px 16px);
  }
  .details {
    display: grid; gap: 0.75rem; width: 28rem; max-width: 100%; margin-top: 0.5rem; padding: 1rem;
    border: 1px solid var(--line); border-radius: 0.875rem; background: var(--surface); overflow-wrap: anywhere;
  }
  dl { display: grid; grid-template-columns: minmax(5.5rem, auto) minmax(0, 1fr); gap: 0.25rem 0.75rem; }
  dt { color: var(--muted); }
  .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.9em; }
  .title { font-weight: 600; }
  ol { padding-inline-start: 1.5rem; display: grid; gap: 0.25rem; }
  li::marker { color: var(--muted); }
  .muted { color: var(--muted); }
  .again { justify-self: start; padding: 0.25rem 0.75rem; border: 1px solid var(--line); border-radius: 0.5rem; background: transparent; }
  @media (max-width: 30rem) { dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: 0.375rem; } }
  @media (forced-colors: active) { .state, .details { border: 2px solid CanvasText; } }
`);

export const styles: readonly CSSStyleSheet[] = [sheet];

const SHAPES = {
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 7.5V12l3 2",
  shield: "M12 3.5l7 2.6v5.4c0 4.3-2.9 7.4-7 9-4.1-1.6-7-4.7-7-9V6.1zM9 11.8l2.2 2.2 3.9-4.1",
  warning: "M12 4.5l8.6 15H3.4zM12 10.5v4M12 17.2v.1",
  cross: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM9.2 9.2l5.6 5.6M14.8 9.2l-5.6 5.6",
} as const;

export type Icon = keyof typeof SHAPES;

/** An icon in the colour of the text beside it; decoration. */
export function icon(name: Icon): SVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const drawn = {
    viewBox: "0 0 24 24",
    fill: "none",
    stroke: "currentColor",
    "stroke-width": "1.75",
    "aria-hidden": "true",
  };
  for (const [attribute, value] of Object.entries(drawn)) svg.setAttribute(attribute, value);
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** An element with attributes (a class as a text of its own) and children; texts stay texts. */
export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: string | Readonly<Record<string, string>>,
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  const named = typeof attributes === "string" ? { class: attributes } : attributes;
  for (const [attribute, value] of Object.entries(named)) if (value) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
