/** `<set-policy-dialog>`: an owner's new policy and budget for a capsule, signed in this browser. */
import { html, nothing } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import type { Failure } from "../conversations.ts";
import { View } from "../design/index.ts";
import { strings } from "../i18n.ts";
import { unseen } from "../printable.ts";
import { failureOf } from "../state.ts";
import type { Capsule, Grant, Owner } from "./model.ts";
import { Page } from "./page.ts";
import { MAX_COUNT } from "./signing.ts";
import { LATEST, localTime, momentOf } from "./terms.ts";

const t = strings({
  en: {
    heading: "Change your policy",
    about: "It replaces your present one. The broker checks it before it takes effect, and logs its digest.",
    text: "Policy, in Cedar",
    uses: "Uses, counted from the first release on; empty: any number",
    until: "Until; empty: no end",
    used: "{n} used so far",
    unseen: "This text holds characters that can't be seen ({which}): it may do something else than it seems to say.",
    cancel: "Cancel",
    send: "Sign and set",
  },
  zh: {
    heading: "更换您的策略",
    about: "它将取代您现在的策略。密钥代理会先检查再生效，并把其摘要记入账本。",
    text: "策略（Cedar 语言）",
    uses: "使用次数，从第一次放出密钥算起；留空：不限",
    until: "期限；留空：无期限",
    used: "已用 {n} 次",
    unseen: "文本中有看不见的字符（{which}）：它的实际含义可能与看上去不同。",
    cancel: "取消",
    send: "签名并设置",
  },
});

const MAX_POLICY_CHARACTERS = 65_536;

@customElement("set-policy-dialog")
export class SetPolicyDialog extends View {
  static override styles = [Page.styles];

  @property({ attribute: false }) accessor owner!: Owner;
  @property({ attribute: false }) accessor capsule!: Capsule;
  @property({ attribute: false }) accessor grant!: Grant;
  @state() private accessor trouble: Failure | undefined;
  @state() private accessor busy = false;
  /** What stands in the field once it was changed. */
  @state() private accessor text: string | undefined;

  protected override render() {
    const { policy, budget, uses } = this.grant;
    const hidden = unseen(this.text ?? policy ?? "");
    return html`<m-dialog wide open heading=${t("heading")} ?firm=${this.busy}>
      <form class="stack" id="policy" @submit=${this.send}>
        <p>${t("about")}</p>
        <label>
          <span>${t("text")}</span>
          <textarea name="policy" class="mono" rows="12" required maxlength=${MAX_POLICY_CHARACTERS} spellcheck="false" .value=${policy ?? ""} @input=${this.look}></textarea>
        </label>
        ${hidden.length > 0 ? html`<p class="note warn" role="status">${t("unseen", { which: hidden.join(", ") })}</p>` : nothing}
        <label>
          <span>${t("uses")} (${t("used", { n: uses })})</span>
          <input name="uses" type="number" min="0" max=${MAX_COUNT} step="1" .value=${String(budget.uses ?? "")} />
        </label>
        <label>
          <span>${t("until")}</span>
          <input name="until" type="datetime-local" step="1" max=${LATEST} .value=${budget.not_after_s === null ? "" : localTime(momentOf(budget.not_after_s))} />
        </label>
        ${this.trouble ? failureCard(this.trouble, "") : nothing}
        <div class="row end">
          <button type="button" ?disabled=${this.busy} @click=${() => this.tell("m-close")}>${t("cancel")}</button>
          <button class="primary" ?disabled=${this.busy}>${t("send")}</button>
        </div>
      </form>
    </m-dialog>`;
  }

  private look(event: Event): void {
    if (event.target instanceof HTMLTextAreaElement) this.text = event.target.value;
  }

  private async send(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    if (!(event.target instanceof HTMLFormElement)) return;
    const data = new FormData(event.target);
    const [policy, uses, until] = ["policy", "uses", "until"].map((name) => String(data.get(name) ?? ""));
    this.busy = true;
    this.trouble = undefined;
    try {
      const budget = {
        ...this.grant.budget, // limits of amounts stay as they are
        uses: uses ? Number(uses) : null,
        not_after_s: until ? Math.floor(new Date(until).getTime() / 1000) : null,
      };
      this.tell("m-done", await this.owner.setPolicy(this.capsule.id, policy ?? "", budget));
    } catch (error) {
      this.trouble = failureOf(error);
    }
    this.busy = false;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "set-policy-dialog": SetPolicyDialog;
  }
}
