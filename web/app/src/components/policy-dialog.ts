/**
 * `<policy-dialog>`: the user's decision for a policy. Shows digest and plain summary, and whose word it is. Tells
 * `choose-policy` with policy and source, `keep-pinned`, `pick-policy-file`; `m-close` leaves everything undecided.
 */
import { MitaiError, type ReferenceValues, Policy as Rules } from "@mitai/verify";
import { css, html, nothing } from "lit";
import { customElement, property } from "lit/decorators.js";
import "../design/copy.ts";
import "../design/dialog.ts";
import { icons, View } from "../design/index.ts";
import type { Policy, Standing } from "../pinning.ts";
import { openRegisters, otherRules } from "../policy-rules.ts";
import { printable } from "../printable.ts";
import { t, type Word } from "../strings/chat.ts";

const WORDS: Readonly<Record<Exclude<Standing["kind"], "use">, readonly [title: Word, text: Word]>> = {
  ask: ["askTitle", "askText"],
  changed: ["changedTitle", "changedText"],
  "other-than-link": ["linkTitle", "linkText"],
  none: ["noneTitle", "noneText"],
};

/** For `summary`. */
export const summaryStyles = css`
  .accepted ul {
    padding-inline-start: 1.1em;
  }
  .accepted .note {
    margin-block: 0.375rem;
  }
  .accepted code {
    overflow-wrap: anywhere;
  }
  .accepted li::marker {
    color: var(--muted);
  }
  .kind {
    padding: 0.375rem 0.75rem;
    border-radius: var(--round);
    font-weight: 600;
  }
`;

@customElement("policy-dialog")
export class PolicyDialog extends View {
  static override styles = [
    View.styles,
    summaryStyles,
    css`
      :host {
        display: contents;
      }
      .policy {
        background: var(--ground);
        display: grid;
        gap: var(--gap-s);
      }
    `,
  ];

  @property({ attribute: false }) accessor standing: Standing = { kind: "none" };
  @property({ type: Boolean }) accessor open = false;

  protected override render() {
    const { standing } = this;
    if (standing.kind === "use") return nothing;
    const [title, words] = WORDS[standing.kind];
    const offered = "offered" in standing ? standing.offered : undefined;
    return html`<m-dialog ?wide=${standing.kind === "changed"} ?open=${this.open} heading=${t(title)}>
      <div class="stack">
        <p>${t(words)}</p>
        ${
          standing.kind === "other-than-link"
            ? html`<dl class="facts"><dt>${t("wanted")}</dt><dd><code>${standing.wanted.slice(0, 80)}</code></dd></dl>`
            : nothing
        }
        ${standing.kind === "changed" ? policyCard(t("pinned"), standing.pinned) : nothing} ${offered ? policyCard(t("offered"), offered) : nothing}
        <p class="small muted">${t("dropPolicy")}</p>
      </div>
      <div class="row wrap end" slot="actions">
        <button class="quiet" @click=${() => this.tell("pick-policy-file")}>${icons.file}${t("openFile")}</button>
        <span class="grow"></span>
        ${
          standing.kind === "changed"
            ? html`<button class="primary" @click=${() => this.tell("keep-pinned")}>${t("keepMine")}</button>`
            : html`<button @click=${() => this.tell("m-close")}>${t("notNow")}</button>`
        }
        ${
          offered && standing.kind !== "other-than-link" && facts(offered)
            ? html`<button class=${standing.kind === "changed" ? "" : "primary"} @click=${() => this.tell("choose-policy", { policy: offered, source: "consent" })}>
              ${t(standing.kind === "changed" ? "takeOffered" : "acceptPolicy")}
            </button>`
            : nothing
        }
      </div>
    </m-dialog>`;
  }
}

function policyCard(title: string, policy: Policy) {
  return html`<section class="card policy">
    <h3>${title}</h3>
    <div class="row">
      <span class="grow"><span class="muted small">${t("policyDigest")}</span><br /><code>${policy.sha256}</code></span>
      <m-copy bare .text=${policy.sha256}></m-copy>
    </div>
    ${summary(policy)}
  </section>`;
}

/** What a policy accepts, in plain words. */
export function summary(policy: Policy) {
  const rules = facts(policy);
  if (!rules) return html`<p class="note bad">${reason(policy)}</p>`;
  const { workloads, releases, allowSimulation, simRoots, claims, tcb } = rules;
  const simulated = allowSimulation && simRoots.length > 0;
  const names = [...new Set(workloads.map(accepting))];
  const others = otherRules(rules);
  const publishers = releases.map(({ workload, key, sigstore }) =>
    t("publisher", {
      workload,
      signer: key ? `${key.slice(0, 16)}…` : (sigstore?.repository ?? sigstore?.subject ?? ""),
    }),
  );
  const accepted = [...names, ...publishers];
  return html`<p class="small kind ${simulated ? "stripes" : "note good"}">${t(simulated ? "acceptsSimulated" : "acceptsReal")}</p>
    <div class="small accepted">
      <span class="muted">${t("accepts")}</span>
      <ul>
        ${accepted.length > 0 ? accepted.map((item) => html`<li>${printable(item)}</li>`) : html`<li>${t("acceptsNothing")}</li>`}
        <li>${t("acceptsTcb", { statuses: tcb.acceptedStatuses.join(", ") })}</li>
        <li>${claims.ledgerVkey ? t("acceptsLedger", { ledger: printable(claims.ledgerVkey.split("+", 1)[0] ?? "") }) : t("acceptsNoLedger")}</li>
      </ul>
      ${
        others.length > 0
          ? html`<p class="note warn">${t("acceptsOther")}</p>
            <ul>${others.map((rule) => html`<li><code>${printable(rule)}</code></li>`)}</ul>`
          : nothing
      }
    </div>`;
}

function accepting(workload: ReferenceValues): string {
  const name = `${workload.name} (${workload.tee.toUpperCase()})`;
  const open = openRegisters(workload);
  return open.length > 0 ? t("acceptsOpen", { name, registers: open.join(", ") }) : name;
}

function facts(policy: Policy): Rules | undefined {
  try {
    return Rules.fromToml(policy.toml);
  } catch {
    return undefined;
  }
}

function reason(policy: Policy): string {
  try {
    Rules.fromToml(policy.toml);
    return "";
  } catch (error) {
    return t(
      "policyBroken",
      error instanceof MitaiError ? { code: error.code, message: error.message } : { code: "", message: "" },
    );
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "policy-dialog": PolicyDialog;
  }
}
