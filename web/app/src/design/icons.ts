/** Icons as inline SVG, in the colour of the text beside them. They are decoration: the label says what they mean. */
import { html, type SVGTemplateResult, svg, type TemplateResult } from "lit";

function icon(shape: SVGTemplateResult): TemplateResult {
  return html`<svg
    viewBox="0 0 24 24"
    fill="none"
    stroke="currentColor"
    stroke-width="1.75"
    stroke-linecap="round"
    stroke-linejoin="round"
    aria-hidden="true"
    focusable="false"
  >
    ${shape}
  </svg>`;
}

export const icons = {
  menu: icon(svg`<path d="M4 6h16M4 12h16M4 18h16" />`),
  plus: icon(svg`<path d="M12 5v14M5 12h14" />`),
  close: icon(svg`<path d="M6 6l12 12M18 6L6 18" />`),
  send: icon(svg`<path d="M12 19V5M6 11l6-6 6 6" />`),
  stop: icon(svg`<rect x="7" y="7" width="10" height="10" rx="1.5" fill="currentColor" />`),
  clip: icon(
    svg`<path d="M20 11.5l-8.1 8.1a5 5 0 0 1-7.1-7.1l8.5-8.5a3.4 3.4 0 0 1 4.8 4.8L9.6 17.3a1.7 1.7 0 0 1-2.4-2.4l7.4-7.4" />`,
  ),
  copy: icon(svg`<rect x="9" y="9" width="11" height="11" rx="2" /><path d="M5 15V6a2 2 0 0 1 2-2h8" />`),
  check: icon(svg`<path d="M5 12.5l4.5 4.5L19 7.5" />`),
  cross: icon(svg`<circle cx="12" cy="12" r="8.5" /><path d="M9.2 9.2l5.6 5.6M14.8 9.2l-5.6 5.6" />`),
  warning: icon(svg`<path d="M12 4.5l8.6 15H3.4zM12 10.5v4M12 17.2v.1" />`),
  shield: icon(
    svg`<path d="M12 3.5l7 2.6v5.4c0 4.3-2.9 7.4-7 9-4.1-1.6-7-4.7-7-9V6.1z" /><path d="M9 11.8l2.2 2.2 3.9-4.1" />`,
  ),
  lock: icon(svg`<rect x="5" y="10.5" width="14" height="9.5" rx="2" /><path d="M8 10.5V8a4 4 0 0 1 8 0v2.5" />`),
  clock: icon(svg`<circle cx="12" cy="12" r="8.5" /><path d="M12 7.5V12l3 2" />`),
  retry: icon(svg`<path d="M19.5 12a7.5 7.5 0 1 1-2.3-5.4M19.5 4.5v4h-4" />`),
  pencil: icon(svg`<path d="M4.5 19.5l.9-4L16 4.9a1.8 1.8 0 0 1 2.6 0l.5.5a1.8 1.8 0 0 1 0 2.6L8.5 18.6z" />`),
  trash: icon(svg`<path d="M5 7h14M10 7V4.5h4V7M7 7l.8 12a1.5 1.5 0 0 0 1.5 1.5h5.4a1.5 1.5 0 0 0 1.5-1.5L17 7" />`),
  search: icon(svg`<circle cx="11" cy="11" r="6" /><path d="M20 20l-4.6-4.6" />`),
  settings: icon(
    svg`<path d="M4 7h10M18 7h2M4 17h2M10 17h10" /><circle cx="16" cy="7" r="2" /><circle cx="8" cy="17" r="2" />`,
  ),
  eye: icon(
    svg`<path d="M2.8 12S6 5.8 12 5.8 21.2 12 21.2 12 18 18.2 12 18.2 2.8 12 2.8 12z" /><circle cx="12" cy="12" r="2.6" />`,
  ),
  receipt: icon(svg`<path d="M6 3.5h12v17l-3-1.8-3 1.8-3-1.8-3 1.8zM9 8.5h6M9 12.5h6" />`),
  download: icon(svg`<path d="M12 4v11M7 10.5l5 5 5-5M5 20h14" />`),
  file: icon(svg`<path d="M7 3.5h7l4.5 4.5v12.5H7zM14 3.5V8h4.5" />`),
  chevron: icon(svg`<path d="M8 10l4 4 4-4" />`),
} as const;
