/** `<console-approvals>`: owners' approvals, and the exports that they allowed, as the ledger has them. */
import { html } from "lit";
import { customElement } from "lit/decorators.js";
import { failureCard } from "../components/failure.ts";
import { number, strings } from "../i18n.ts";
import { NEWEST } from "./model.ts";
import { Page, waiting } from "./page.ts";
import "./entry-list.ts";

const t = strings({
  en: {
    heading: "Approvals",
    about:
      "Before something that was derived from a capsule leaves in the clear, each of its owners must approve. The ledger keeps every answer.",
    later:
      "Votes are signed on the command line: mitai export list CAPSULE shows what waits for you, mitai export approve and refuse answer it.",
    none: "There is no approval and no export among the newest {n} ledger entries.",
  },
  zh: {
    heading: "审批",
    about: "由密封模型派生的内容要以明文离开，必须经其每位所有者同意。每个答复都记入账本。",
    later: "表决在命令行上签名：mitai export list CAPSULE 列出等待您的申请，mitai export approve 和 refuse 作答。",
    none: "最新的 {n} 条账本记录中没有审批，也没有导出。",
  },
});

const SHOWN: ReadonlySet<string> = new Set(["delegates-set", "export-requested", "approval", "export"]);

@customElement("console-approvals")
export class Approvals extends Page {
  protected override willUpdate(): void {
    void this.state.readRecent();
  }

  protected override render() {
    return html`<h2>${t("heading")}</h2>
      <p>${t("about")}</p>
      <p class="note">${t("later")}</p>
      ${this.list()}`;
  }

  private list() {
    const { ledger, recent } = this.state;
    if (ledger.kind === "failed") return failureCard(ledger.failure, "");
    if (recent.kind === "failed") return failureCard(recent.failure, "");
    if (ledger.kind === "waiting" || recent.kind === "waiting") return waiting();
    const entries = recent.value.filter(({ type }) => SHOWN.has(type));
    return html`<entry-list
      .entries=${entries.toReversed()}
      .prove=${(index: number) => ledger.value.prove(index)}
      .empty=${t("none", { n: number(Math.min(NEWEST, ledger.value.head.size)) })}
    ></entry-list>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "console-approvals": Approvals;
  }
}
