/** `<console-gate>`: nothing is asked of a platform before this device has a policy that its user agreed to. */
import { html, nothing } from "lit";
import { customElement, query, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import type { Failure } from "../conversations.ts";
import { strings } from "../i18n.ts";
import { MAX_POLICY_BYTES, type Policy, policyOf, type Source } from "../pinning.ts";
import { failureOf } from "../state.ts";
import { Page, waiting } from "./page.ts";
import "../components/policy-dialog.ts";

const t = strings({
  en: {
    heading: "By which rules?",
    why: "This page verifies machines by an appraisal policy. Nothing is asked of this platform before you have said which one you trust.",
    decide: "Decide",
  },
  zh: {
    heading: "按什么规则验证？",
    why: "本页按验证策略检查机器。在您说明信任哪一份策略之前，不会向这个平台询问任何内容。",
    decide: "去决定",
  },
});

@customElement("console-gate")
export class Gate extends Page {
  @state() private accessor open = true;
  @state() private accessor trouble: Failure | undefined;
  @query("input") private accessor file!: HTMLInputElement;

  protected override render() {
    const { offer, standing } = this.state;
    if (offer.kind === "waiting") return waiting();
    if (offer.kind === "failed") return failureCard(offer.failure, "");
    return html`<h2>${t("heading")}</h2>
      <p>${t("why")}</p>
      ${this.trouble ? failureCard(this.trouble, "") : nothing}
      <div><button class="primary" @click=${() => this.show(true)}>${t("decide")}</button></div>
      <policy-dialog
        @dragover=${(event: DragEvent) => event.preventDefault()}
        @drop=${this.drop}
        .standing=${standing}
        .open=${this.open}
        @m-close=${() => this.show(false)}
        @choose-policy=${(event: CustomEvent<{ policy: Policy; source: Source }>) => this.choose(event.detail.policy, event.detail.source)}
        @keep-pinned=${() => (standing.kind === "changed" ? this.choose(standing.pinned, "file") : undefined)}
        @pick-policy-file=${() => this.file.click()}
      ></policy-dialog>
      <input hidden type="file" accept=".toml,text/plain" @change=${() => this.take(this.file.files?.[0])} />`;
  }

  private show(open: boolean): void {
    this.open = open;
  }

  private async choose(policy: Policy, source: Source): Promise<void> {
    this.trouble = undefined;
    try {
      await this.state.choose(policy, source);
    } catch (error) {
      this.show(false);
      this.trouble = failureOf(error);
    }
  }

  private async drop(event: DragEvent): Promise<void> {
    event.preventDefault();
    await this.take(event.dataTransfer?.files[0]);
  }

  private async take(file: File | undefined): Promise<void> {
    if (file) await this.choose(await policyOf(await file.slice(0, MAX_POLICY_BYTES + 1).text()), "file");
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "console-gate": Gate;
  }
}
