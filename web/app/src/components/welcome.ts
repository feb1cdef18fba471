/** The first screen: what is verified before anything is sent, in plain words. */
import { css, html, nothing, type TemplateResult } from "lit";
import { icons } from "../design/index.ts";
import { t, type Word } from "../strings/chat.ts";
import type { Verdict } from "./badge.ts";
import { button } from "./notices.ts";

export const welcomeStyles = css`
  .welcome {
    display: grid;
    gap: var(--gap-l);
    margin: auto;
    width: 100%;
    max-width: 42rem;
    padding-block: var(--gap-l);
  }
  .welcome .lead {
    font-size: 1.0625rem;
    color: var(--muted);
    margin-top: var(--gap-s);
    max-width: 36rem;
  }
  .welcome ol {
    list-style: none;
    display: grid;
    grid-template-columns: repeat(3, minmax(0, 1fr));
    gap: var(--gap);
  }
  .welcome li {
    display: grid;
    gap: 0.25rem;
    align-content: start;
  }
  .welcome li h2 {
    font-size: var(--medium);
    display: flex;
    align-items: center;
    gap: 0.4rem;
  }
  .welcome li svg {
    color: var(--muted);
  }
  .welcome li.done svg {
    color: var(--good);
  }
  @media (max-width: 700px) {
    .welcome ol {
      grid-template-columns: minmax(0, 1fr);
    }
  }
`;

const POINTS: readonly (readonly [title: Word, text: Word, icon: TemplateResult])[] = [
  ["stepHardware", "stepHardwareText", icons.shield],
  ["stepCode", "stepCodeText", icons.eye],
  ["stepKey", "stepKeyText", icons.lock],
];

export function welcome(verdict: Verdict): TemplateResult {
  const simulated = verdict === "simulated";
  const verified = simulated || verdict === "verified" || verdict === "stale";
  return html`<div class="welcome">
    <div>
      <h1>${t("hello")}</h1>
      <p class="lead">${t(simulated ? "helloTrial" : "helloText")}</p>
    </div>
    ${simulated ? html`<p class="note warn">${t("helloSimulated")}</p>` : nothing}
    <ol>
      ${POINTS.map(([title, text, icon]) => {
        const done = verified && !(simulated && title === "stepHardware");
        return html`<li class="card ${done ? "done" : ""}">
          <h2>${done ? icons.check : icon}${t(title)}</h2>
          <p class="small muted">${t(text)}</p>
        </li>`;
      })}
    </ol>
    <div class="row wrap small muted">
      <p>${t("stepBefore")}</p>
      ${verified ? button("show-verification", "seeChecks", icons.shield, "tiny quiet") : nothing}
    </div>
  </div>`;
}
