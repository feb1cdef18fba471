/**
 * What stands above the message field when nothing can be sent, or not as before: what happened, why, what next. The
 * buttons tell `verify-again`, `show-verification`, `decide-policy`, `new-conversation` and `list-models`.
 */
import { html, nothing, type TemplateResult } from "lit";
import { icons } from "../design/index.ts";
import type { ChatState } from "../state.ts";
import { t, type Word } from "../strings/chat.ts";
import { failureCard } from "./failure.ts";

export function notices({ status, downgrade, modelFailure }: ChatState): TemplateResult | typeof nothing {
  if (status.kind === "refused") {
    const again = button("verify-again", "tryAgain", icons.retry, "primary");
    return failureCard(status.failure, "nothing-sent", [again, button("show-verification", "showChecks")]);
  }
  if (status.kind === "undecided")
    return note("verdictUndecided", button("decide-policy", "decide", nothing, "primary"));
  if (downgrade) return note("downgrade", button("new-conversation", "newChat", icons.plus));
  if (modelFailure) return failureCard(modelFailure, "", button("list-models", "tryAgain", icons.retry));
  return nothing;
}

function note(words: Word, action: TemplateResult): TemplateResult {
  return html`<section class="note warn row wrap"><span class="words">${t(words)}</span>${action}</section>`;
}

/** A button that tells an event. */
export function button(event: string, words: Word, icon: unknown = nothing, kind = ""): TemplateResult {
  const tell = ({ currentTarget }: Event) =>
    currentTarget?.dispatchEvent(new CustomEvent(event, { bubbles: true, composed: true }));
  return html`<button class=${kind} @click=${tell}>${icon}${t(words)}</button>`;
}
