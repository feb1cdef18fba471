/** `<revoke-dialog>`: asks once more before an owner's consent ends for good. */
import { html, nothing } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import type { Failure } from "../conversations.ts";
import { View } from "../design/index.ts";
import { strings } from "../i18n.ts";
import { failureOf } from "../state.ts";
import type { Capsule, Owner } from "./model.ts";
import { Page } from "./page.ts";

const t = strings({
  en: {
    heading: "Revoke this capsule?",
    what: "The broker will not release the key of this capsule any more, to nobody and for good. To offer the model again it must be sealed and published anew.",
    running: "Replicas that hold the key already keep it until they stop.",
    sure: "I know that this can't be undone",
    cancel: "Cancel",
    send: "Revoke for good",
  },
  zh: {
    heading: "撤销这个密封模型？",
    what: "密钥代理将永远不再向任何人放出它的密钥。要再次提供这个模型，必须重新密封并发布。",
    running: "已经持有密钥的副本，会保留到停止为止。",
    sure: "我知道这无法恢复",
    cancel: "取消",
    send: "永久撤销",
  },
});

@customElement("revoke-dialog")
export class RevokeDialog extends View {
  static override styles = [Page.styles];

  @property({ attribute: false }) accessor owner!: Owner;
  @property({ attribute: false }) accessor capsule!: Capsule;
  @state() private accessor trouble: Failure | undefined;
  @state() private accessor busy = false;

  protected override render() {
    return html`<m-dialog open heading=${t("heading")} ?firm=${this.busy}>
      <form class="stack" @submit=${this.send}>
        <p><code>${this.capsule.id}</code></p>
        <p>${t("what")}</p>
        <p class="note warn">${t("running")}</p>
        <label class="row"><input type="checkbox" required />${t("sure")}</label>
        ${this.trouble ? failureCard(this.trouble, "") : nothing}
        <div class="row end">
          <button type="button" ?disabled=${this.busy} @click=${() => this.tell("m-close")}>${t("cancel")}</button>
          <button class="danger" ?disabled=${this.busy}>${t("send")}</button>
        </div>
      </form>
    </m-dialog>`;
  }

  private async send(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    this.busy = true;
    this.trouble = undefined;
    try {
      this.tell("m-done", await this.owner.revoke(this.capsule.id));
    } catch (error) {
      this.trouble = failureOf(error);
    }
    this.busy = false;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "revoke-dialog": RevokeDialog;
  }
}
