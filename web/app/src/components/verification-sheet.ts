/**
 * `<verification-sheet>`: every check of the verification with its values; the program's measurements beside what the
 * policy and signed releases expect; the platform; the policy. Tells `verify-again`, `decide-policy`, `forget-policy`.
 */
import type { Appraisal } from "@mitai/verify";
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { Machine, Reference } from "../backend.ts";
import "../design/copy.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import { moment, number } from "../i18n.ts";
import type { Pin } from "../pinning.ts";
import type { Status } from "../state.ts";
import { t, type Word } from "../strings/chat.ts";
import { explain, stepName } from "../strings/steps.ts";
import type { Verdict } from "./badge.ts";
import { failureCard, failureStyles } from "./failure.ts";
import { summary, summaryStyles } from "./policy-dialog.ts";

const VERDICTS: Readonly<Record<Verdict, readonly [text: Word, tone: string]>> = {
  starting: ["verdictVerifying", ""],
  undecided: ["verdictUndecided", "warn"],
  verifying: ["verdictVerifying", ""],
  verified: ["verdictVerified", "good"],
  simulated: ["verdictSimulated", "stripes"],
  stale: ["verdictStale", "warn"],
  refused: ["verdictRefused", "bad"],
  unverified: ["verdictUnreachable", "bad"],
};
const SOURCES: Readonly<Record<Pin["source"], Word>> = {
  link: "sourceLink",
  file: "sourceFile",
  consent: "sourceConsent",
};

@customElement("verification-sheet")
export class VerificationSheet extends View {
  static override styles = [
    View.styles,
    failureStyles,
    summaryStyles,
    css`
      :host {
        display: contents;
      }
      .verdict {
        font-weight: 560;
      }
      .verdict.stripes {
        background: repeating-linear-gradient(-45deg, var(--stripe-a) 0 14px, var(--stripe-b) 14px 28px);
        color: var(--on-stripe);
      }
      section {
        display: grid;
        grid-template-columns: minmax(0, 1fr);
        gap: var(--gap-s);
        padding-top: var(--gap);
        border-top: 1px solid var(--line);
      }
      ol {
        list-style: none;
        display: grid;
        gap: 0.875rem;
      }
      ol > li {
        display: grid;
        grid-template-columns: 1.5rem minmax(0, 1fr);
        gap: 0.125rem 0.5rem;
      }
      ol > li > svg {
        color: var(--good);
        margin-top: 0.15em;
      }
      .register {
        display: grid;
        gap: 0.125rem;
        padding: var(--gap-s) 0;
        border-bottom: 1px solid var(--line);
      }
      .register:last-child {
        border: 0;
      }
      .register code {
        font-size: 0.75rem;
        line-height: 1.45;
      }
      pre {
        margin: var(--gap-s) 0 0;
        padding: 0.75rem;
        max-height: 24rem;
        overflow: auto;
        background: var(--sunken);
        border-radius: var(--round);
        font: 0.75rem/1.5 var(--mono);
      }
    `,
  ];

  @property({ type: Boolean }) accessor open = false;
  @property() accessor verdict: Verdict = "starting";
  @property({ attribute: false }) accessor status: Status = { kind: "starting" };
  @property({ attribute: false }) accessor verifiedAt: Date | undefined;
  @property({ type: Boolean }) accessor stale = false;
  @property({ attribute: false }) accessor pin: Pin | undefined;

  protected override render() {
    return html`<m-dialog side ?open=${this.open} heading=${t("verification")}>
      ${this.open ? this.content() : nothing}
    </m-dialog>`;
  }

  private content() {
    const [words, tone] = VERDICTS[this.verdict];
    const { status } = this;
    return html`<div class="stack">
      <p class="note verdict ${tone}" role="status">${t(words)}</p>
      ${this.stale && tone === "stripes" ? html`<p class="note warn">${t("verdictStale")}</p>` : nothing}
      ${status.kind === "refused" ? failureCard(status.failure, "") : nothing} ${this.again()}
      ${status.kind === "verified" ? machine(status.machine) : nothing} ${this.pin ? this.policy(this.pin) : nothing}
    </div>`;
  }

  private again() {
    if (this.verdict === "undecided")
      return html`<div><button class="primary" @click=${() => this.tell("decide-policy")}>${t("decide")}</button></div>`;
    const busy = this.verdict === "verifying" || this.verdict === "starting";
    return html`<div><button ?disabled=${busy} @click=${() => this.tell("verify-again")}>${icons.retry}${t("verifyAgain")}</button></div>`;
  }

  private policy(pin: Pin) {
    return html`<section>
      <h3>${t("policyTitle")}</h3>
      <dl class="facts">
        <dt>${t("policyDigest")}</dt>
        <dd class="row"><code>${pin.sha256}</code><m-copy bare .text=${pin.sha256}></m-copy></dd>
        <dt>${t("policySource")}</dt>
        <dd>${t(SOURCES[pin.source])}</dd>
      </dl>
      ${summary(pin)}
      <details>
        <summary>${t("showPolicy")}</summary>
        <pre tabindex="0" lang="en">${pin.toml}</pre>
      </details>
      <div class="row wrap">
        <button @click=${() => this.tell("pick-policy-file")}>${icons.file}${t("openFile")}</button>
        <button class="quiet danger" @click=${() => this.tell("forget-policy")}>${icons.trash}${t("forgetPolicy")}</button>
      </div>
    </section>`;
  }
}

function machine({ verified, references }: Machine): TemplateResult {
  const { appraisal, verifiedAt, staleAt } = verified;
  return html`
    <dl class="facts">
      <dt>${t("verifiedAt")}</dt>
      <dd>${moment(verifiedAt)}</dd>
      <dt>${t("validUntil")}</dt>
      <dd>${moment(staleAt)}</dd>
    </dl>
    <section>
      <div class="row">
        <h3 class="grow">${t("checks")}</h3>
        <span class="tag good">${icons.check}${t("checksPassed", { n: number(appraisal.checks.length) })}</span>
      </div>
      <ol>
        ${appraisal.checks.map(
          ({ step, detail }) => html`<li>
            ${icons.check}
            <div>
              <h3>${stepName(appraisal.tee, step)}</h3>
              <p class="small muted">${explain(appraisal.tee, step)}</p>
              ${detail ? html`<p class="small mono" lang="en">${detail}</p>` : nothing}
            </div>
          </li>`,
        )}
      </ol>
    </section>
    ${program(appraisal, references)}${platform(appraisal)}${claims(appraisal)}
  `;
}

/** Each register as measured, and who expects it so; first those that somebody pins. */
function program({ workload, tee, measurements }: Appraisal, references: readonly Reference[]) {
  const candidates = references.filter((values) => values.name === workload && values.tee === tee);
  const pinned = (register: string) => candidates.some(({ registers }) => registers.has(register));
  const show = ([register, value]: readonly [string, string]) => {
    const words = (from: Reference["from"]) =>
      candidates.filter((values) => values.from === from).map(({ registers }) => registers.get(register));
    return html`<div class="register">
      <div class="row wrap">
        <b class="small grow">${register.toUpperCase()}</b>
        ${comparison("policy", value, words("policy"))} ${comparison("release", value, words("release"))}
      </div>
      <code>${value}</code>
    </div>`;
  };
  const all = [...measurements];
  return html`<section>
    <h3>${t("code")}: ${workload}</h3>
    <div>${all.filter(([register]) => pinned(register)).map(show)}</div>
    <details>
      <summary>${t("otherRegisters")}</summary>
      ${all.filter(([register]) => !pinned(register)).map(show)}
    </details>
  </section>`;
}

function comparison(from: Reference["from"], value: string, expected: readonly (string | undefined)[]) {
  const values = expected.filter((word) => word !== undefined);
  if (values.length === 0) return nothing;
  const who = t(from === "policy" ? "byPolicy" : "byRelease");
  if (values.includes(value)) return html`<span class="tag good">${icons.check}${who}: ${t("same")}</span>`;
  if (values.includes("any")) return html`<span class="tag warn">${who}: ${t("any")}</span>`;
  return html`<span class="tag">${who}: ${t("differs")}</span>`;
}

function platform({ machine, tee, tcbStatus, advisoryIds, tcbEvaluationNumber, notAfter, evidenceSha256 }: Appraisal) {
  return html`<section>
    <h3>${t("platform")}</h3>
    <dl class="facts">
      <dt>${t("tee")}</dt>
      <dd>${machine.title || tee.toUpperCase()}${machine.simulated ? ` (${t("simulated")})` : nothing}</dd>
      <dt>${t("tcb")}</dt>
      <dd>${tcbStatus || t("none")}</dd>
      <dt>${t("advisories")}</dt>
      <dd>${advisoryIds.length > 0 ? advisoryIds.join(", ") : t("none")}</dd>
      <dt>${t("evaluation")}</dt>
      <dd>${tcbEvaluationNumber}</dd>
      <dt>${t("collateralUntil")}</dt>
      <dd>${moment(notAfter)}</dd>
      ${[...machine.facts].map(
        ([name, value]) =>
          html`<dt lang="en">${name}</dt>
            <dd><code>${value}</code></dd>`,
      )}
      <dt>${t("evidence")}</dt>
      <dd><code>${evidenceSha256}</code></dd>
    </dl>
  </section>`;
}

function claims({ claims: { capsules, ledger } }: Appraisal) {
  return html`<section>
    <h3>${t("offers")}</h3>
    <dl class="facts">
      <dt>${t("capsules")}</dt>
      <dd>
        ${capsules.length > 0 ? capsules.map(({ id, manifestSha256 }) => html`<div><code>${id}</code><br /><code class="muted">${manifestSha256}</code></div>`) : t("none")}
      </dd>
      <dt>${t("ledger")}</dt>
      <dd>${ledger ? html`<code>${ledger.vkey}</code>` : t("none")}</dd>
    </dl>
  </section>`;
}

declare global {
  interface HTMLElementTagNameMap {
    "verification-sheet": VerificationSheet;
  }
}
