/** A failure in plain words: what happened, why, what next; the code and the technical message beside it. */
import { css, html, nothing, type TemplateResult } from "lit";
import type { Failure } from "../conversations.ts";
import { icons } from "../design/index.ts";
import { t } from "../strings/chat.ts";
import { plainly } from "../strings/failures.ts";

export const failureStyles = css`
  .failure {
    display: grid;
    grid-template-columns: auto minmax(0, 1fr);
    gap: 0.25rem 0.75rem;
    padding: 0.875rem 1rem;
    border-radius: var(--round-l);
    background: var(--bad-soft);
  }
  .failure > svg {
    color: var(--bad);
    width: 1.5rem;
    height: 1.5rem;
  }
  .failure .body {
    display: grid;
    gap: 0.375rem;
  }
  .failure h2 {
    font-size: var(--medium);
    color: var(--bad);
  }
  .failure details {
    font-size: var(--small);
    color: var(--muted);
  }
`;

export function failureCard(failure: Failure, sent: "nothing-sent" | "", actions?: unknown): TemplateResult {
  const { what, why, next } = plainly(failure.code);
  return html`<section class="failure" role="alert">
    ${icons.cross}
    <div class="body">
      <h2>${what} ${sent ? t("nothingSent") : nothing}</h2>
      <p>${why}</p>
      <p>${next}</p>
      <details>
        <summary>${t("technical")}: <code>${failure.code}</code></summary>
        <p lang="en">${failure.message}${failure.hint ? html` (${failure.hint})` : nothing}</p>
        ${failure.step ? html`<p>${t("failedStep")}: ${failure.step}</p>` : nothing}
      </details>
      ${actions === undefined ? nothing : html`<div class="row wrap">${actions}</div>`}
    </div>
  </section>`;
}
