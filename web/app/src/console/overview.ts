/** `<console-overview>`: the broker and every replica, each verified in this browser on its own. */
import { css, html, nothing } from "lit";
import { customElement } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { failureCard } from "../components/failure.ts";
import { icons } from "../design/index.ts";
import { strings } from "../i18n.ts";
import { BROKER } from "./model.ts";
import { Page, waiting } from "./page.ts";
import "./machine-card.ts";

const t = strings({
  en: {
    heading: "Machines",
    about:
      "Each machine was asked for evidence over a fresh number, and the evidence was checked here, in this browser.",
    again: "Verify all again",
    told: "Which replicas there are is what the gateway says; a host can leave some out. Each one that it names is verified.",
    none: "The gateway names no replicas.",
    twice: "{names} have the same key: the gateway shows one machine under several names.",
  },
  zh: {
    heading: "机器",
    about: "每台机器都针对一个新的随机数给出证据，证据就在这个浏览器里验证。",
    again: "全部重新验证",
    told: "有哪些副本由网关说了算，主机可以隐瞒一些；它报出的每一个都会验证。",
    none: "网关没有报出任何副本。",
    twice: "{names} 的密钥相同：网关把同一台机器报成了几个名字。",
  },
});

@customElement("console-overview")
export class Overview extends Page {
  static override styles = [
    Page.styles,
    css`
      .machines {
        display: grid;
        gap: var(--gap);
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
        align-items: start;
      }
    `,
  ];

  protected override render() {
    const { machines, replicas } = this.state;
    return html`<div class="row wrap">
        <h2 class="grow">${t("heading")}</h2>
        <button @click=${() => this.state.refresh()}>${icons.retry}${t("again")}</button>
      </div>
      <p>${t("about")}</p>
      <div class="machines">
        ${repeat(
          machines,
          ([name]) => name,
          ([name, machine]) => html`<machine-card
            .name=${name}
            .machine=${machine}
            @m-verify=${() => this.state.verify(name)}
          ></machine-card>`,
        )}
      </div>
      ${this.twice().map((names) => html`<p class="note warn" role="alert">${t("twice", { names: names.join(", ") })}</p>`)}
      ${replicas.kind === "waiting" ? waiting() : nothing}
      ${replicas.kind === "failed" ? failureCard(replicas.failure, "") : nothing}
      ${replicas.kind === "found" && replicas.value.length === 0 ? html`<p class="note warn">${t("none")}</p>` : nothing}
      ${[...machines.keys()].some((name) => name !== BROKER) ? html`<p class="muted small">${t("told")}</p>` : nothing}`;
  }

  /** Names of machines that have the same key. */
  private twice(): readonly (readonly string[])[] {
    const names = new Map<string, string[]>();
    for (const [name, machine] of this.state.machines) {
      if (machine.kind !== "found") continue;
      const { keySha256 } = machine.value.findings;
      names.set(keySha256, [...(names.get(keySha256) ?? []), name]);
    }
    return [...names.values()].filter(({ length }) => length > 1);
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "console-overview": Overview;
  }
}
