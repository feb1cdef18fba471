/** `<console-capsules>`: an owner opens the own identity, and sees the capsules that it has a say over. */
import { html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { failureCard } from "../components/failure.ts";
import type { Failure } from "../conversations.ts";
import { icons } from "../design/index.ts";
import { number, strings } from "../i18n.ts";
import { printable } from "../printable.ts";
import { failureOf } from "../state.ts";
import type { Owner, Party } from "./model.ts";
import { digest, Page, waiting } from "./page.ts";
import { type Found, found } from "./state.ts";
import "./capsule-card.ts";

const t = strings({
  en: {
    heading: "Capsules",
    about:
      "Capsules are sealed models. Their owners decide who may open them; the key broker holds the keys and obeys.",
    open: "Open your identity",
    why: "Choose the file owner/identity.pem from the home folder of mitai (by default ~/.mitai). It is read in this browser and never sent; the key is kept for as long as this page is open, in a form that can't be read out.",
    trust:
      "Who can change this page could use the key while it is open. Open it only in a page that you trust: one that you built or host yourself, or whose digest is that of the release.",
    choose: "Choose the key file …",
    you: "You are",
    revoked: "You have revoked everything: this identity can't command any more.",
    close: "Forget the key",
    identity: "identity",
    none: "The broker knows no capsule of yours. To make one: mitai seal, then mitai publish.",
    unknown: "The broker does not know this identity. It is registered when you publish a capsule: mitai publish.",
    count: "Newest first, {n} in all",
    newer: "Newer",
    older: "Older",
  },
  zh: {
    heading: "密封模型",
    about: "密封模型由其所有者决定谁可以打开；密钥代理保管密钥，并照此执行。",
    open: "打开您的身份",
    why: "请从 mitai 的主文件夹（默认 ~/.mitai）选择文件 owner/identity.pem。它只在这个浏览器里读取，绝不发送；密钥只在本页打开期间保留，且无法读出。",
    trust:
      "能改动本页的人，可以在密钥打开期间使用它。请只在您信任的页面中打开：自己构建或托管的，或者摘要与发布版一致的。",
    choose: "选择密钥文件……",
    you: "您的身份",
    revoked: "您已撤销一切：这个身份不能再发命令。",
    close: "忘记密钥",
    identity: "身份",
    none: "密钥代理没有您的密封模型。制作方法：mitai seal，然后 mitai publish。",
    unknown: "密钥代理不认识这个身份。发布密封模型时会登记：mitai publish。",
    count: "新的在前，共 {n} 个",
    newer: "更新",
    older: "更早",
  },
});

const MAX_KEY_FILE_BYTES = 4096;

@customElement("console-capsules")
export class Capsules extends Page {
  @state() private accessor trouble: Failure | undefined;
  @state() private accessor opening = false;
  @state() private accessor party: Found<Party> = { kind: "waiting" };
  @state() private accessor page: number | undefined;
  private asked: Owner | undefined;

  protected override willUpdate(): void {
    const { owner } = this.state;
    if (owner === this.asked) return;
    this.asked = owner;
    this.page = undefined;
    if (owner) void this.read(owner);
  }

  /** Read a page; without a number the last one, where the newest are. */
  private async read(owner: Owner, page?: number): Promise<void> {
    this.party = { kind: "waiting" };
    const first = await found(owner.party(page ?? 0));
    const last = first.kind === "found" ? Math.max(0, Math.ceil(first.value.total / owner.pageSize) - 1) : 0;
    const party = page === undefined && last > 0 ? await found(owner.party(last)) : first;
    if (this.state.owner !== owner) return;
    this.party = party;
    this.page = page ?? last;
  }

  protected override render() {
    const { owner } = this.state;
    return html`<h2>${t("heading")}</h2>
      <p>${t("about")}</p>
      ${owner ? this.opened(owner) : this.closed()}`;
  }

  private closed(): TemplateResult {
    return html`<section class="card stack">
      <h3>${t("open")}</h3>
      <p>${t("why")}</p>
      <p class="note">${t("trust")}</p>
      ${this.trouble ? failureCard(this.trouble, "") : nothing}
      ${
        this.opening
          ? waiting()
          : html`<div>
              <label class="button">
                ${icons.lock}${t("choose")}<input class="hidden" type="file" @change=${this.open} />
              </label>
            </div>`
      }
    </section>`;
  }

  private async open(event: Event): Promise<void> {
    const file = event.target instanceof HTMLInputElement ? event.target.files?.[0] : undefined;
    if (!file) return;
    this.trouble = undefined;
    this.opening = true;
    try {
      await this.state.open(await file.slice(0, MAX_KEY_FILE_BYTES + 1).text());
    } catch (error) {
      this.trouble = failureOf(error);
    }
    this.opening = false;
  }

  private opened(owner: Owner): TemplateResult {
    const name = this.party.kind === "found" ? printable(this.party.value.name) : "";
    return html`<div class="row wrap card">
        <span class="grow">${t("you")} <b>${name}</b> ${digest(owner.keyId, t("identity"))}</span>
        <button class="tiny" @click=${() => this.state.close()}>${t("close")}</button>
      </div>
      ${this.list(owner)}`;
  }

  private list(owner: Owner) {
    if (this.party.kind === "waiting") return waiting();
    if (this.party.kind === "failed") {
      const isNew = this.party.failure.code === "broker.party-unknown";
      return isNew ? html`<p class="note">${t("unknown")}</p>` : failureCard(this.party.failure, "");
    }
    const { capsules, total, revoked } = this.party.value;
    const page = this.page ?? 0;
    return html`${revoked ? html`<p class="note warn">${t("revoked")}</p>` : nothing}
      ${
        total === 0
          ? html`<p class="note">${t("none")}</p>`
          : html`<div class="row wrap">
              <span class="muted small grow">${t("count", { n: number(total) })}</span>
              ${
                total > owner.pageSize
                  ? html`<button class="tiny" ?disabled=${(page + 1) * owner.pageSize >= total} @click=${() => this.read(owner, page + 1)}>
                        ${t("newer")}
                      </button>
                      <button class="tiny" ?disabled=${page === 0} @click=${() => this.read(owner, page - 1)}>${t("older")}</button>`
                  : nothing
              }
            </div>`
      }
      ${repeat(
        capsules.toReversed(),
        (id) => id,
        (id) => html`<capsule-card
          .state=${this.state}
          .owner=${owner}
          .capsuleId=${id}
          .silenced=${revoked}
        ></capsule-card>`,
      )}`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "console-capsules": Capsules;
  }
}
