/** `<mitai-console>`: the console's frame: header, navigation, what must be decided first, and the page that is chosen. */
import { css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { LANGUAGES, type Language, language, setLanguage, strings } from "../i18n.ts";
import { linkDigest } from "../pinning.ts";
import { setTheme, THEMES, type Theme, theme } from "../theme.ts";
import { Page } from "./page.ts";
import "./approvals.ts";
import "./capsules.ts";
import "./gate.ts";
import "./ledger-page.ts";
import "./overview.ts";
import "./usage-page.ts";

const t = strings({
  en: {
    title: "Console",
    chat: "Chat",
    sections: "Sections",
    overview: "Overview",
    capsules: "Capsules",
    approvals: "Approvals",
    ledger: "Ledger",
    usage: "Usage",
    language: "Language",
    theme: "Colours",
    system: "Auto",
    light: "Light",
    dark: "Dark",
    simulated: "Simulation: no hardware protects anything here",
    skip: "To the content",
  },
  zh: {
    title: "控制台",
    chat: "对话",
    sections: "栏目",
    overview: "总览",
    capsules: "密封模型",
    approvals: "审批",
    ledger: "账本",
    usage: "用量",
    language: "语言",
    theme: "配色",
    system: "自动",
    light: "浅色",
    dark: "深色",
    simulated: "模拟环境：这里没有硬件保护",
    skip: "跳到正文",
  },
});

const SECTIONS = ["overview", "capsules", "approvals", "ledger", "usage"] as const;
type Section = (typeof SECTIONS)[number];
const NAMES: Readonly<Record<Language, string>> = { en: "EN", zh: "中文" };

@customElement("mitai-console")
export class MitaiConsole extends Page {
  static override styles = [
    Page.styles,
    css`
      :host {
        display: block;
        min-height: 100dvh;
      }
      header {
        background: var(--surface);
        border-bottom: 1px solid var(--line);
      }
      .bar,
      nav ul,
      main {
        max-width: 68rem;
        margin-inline: auto;
        padding-inline: var(--gap-l);
      }
      .bar {
        min-height: var(--header);
        display: flex;
        align-items: center;
        gap: var(--gap-s);
      }
      .bar h1 {
        font-size: var(--large);
      }
      .bar select {
        width: auto;
        min-height: 2.25rem;
        padding-inline: 0.5rem;
        border-color: transparent;
        background: transparent;
      }
      .bar select:hover {
        background: var(--sunken);
      }
      nav {
        overflow-x: auto;
        scrollbar-width: none;
      }
      .later {
        visibility: hidden; /* its room is kept: nothing jumps */
      }
      nav ul {
        display: flex;
        gap: var(--gap-xs);
        list-style: none;
      }
      nav a {
        display: block;
        padding: 0.5rem 0.75rem;
        color: var(--muted);
        text-decoration: none;
        white-space: nowrap;
        border-bottom: 2px solid transparent;
      }
      nav a:hover {
        color: var(--text);
      }
      nav a[aria-current] {
        color: var(--text);
        font-weight: 560;
        border-bottom-color: var(--accent);
      }
      .stripes {
        text-align: center;
        font-weight: 560;
        padding: 0.375rem var(--gap);
      }
      main {
        padding-block: var(--gap-l) var(--gap-xl);
      }
      .skip:not(:focus) {
        position: absolute;
        clip-path: inset(50%);
      }
      @media (max-width: 640px) {
        .bar,
        nav ul,
        main {
          padding-inline: var(--gap);
        }
        .bar select {
          padding-inline: 0.125rem;
          font-size: var(--small);
        }
        nav a {
          padding-inline: 0.4rem;
          font-size: var(--small);
        }
      }
    `,
  ];

  @state() private accessor section: Section = sectionOf(location.hash);
  private readonly turn = () => {
    if (linkDigest(location.hash) !== undefined) location.reload(); // another link
    this.section = sectionOf(location.hash);
  };

  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener("hashchange", this.turn);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("hashchange", this.turn);
  }

  protected override render() {
    document.title = `${t(this.section)} · mitai`;
    const open = this.state.backend !== undefined;
    return html`${this.state.simulated ? html`<p class="stripes" role="status">${t("simulated")}</p>` : nothing}
      <header>
        <a class="skip button" href="#content" @click=${this.skip}>${t("skip")}</a>
        <div class="bar">
          <h1 class="grow">mitai <span class="muted">${t("title")}</span></h1>
          <a class="button" href="./">${t("chat")}</a>
          ${this.choice(t("theme"), THEMES, theme(), (value) => t(value), this.recolour)}
          ${this.choice(t("language"), LANGUAGES, language(), (value) => NAMES[value], setLanguage)}
        </div>
        <nav aria-label=${t("sections")} class=${open ? "" : "later"}>
          <ul>
            ${SECTIONS.map(
              (name) => html`<li>
                <a href=${`#${name}`} aria-current=${name === this.section ? "page" : nothing}>${t(name)}</a>
              </li>`,
            )}
          </ul>
        </nav>
      </header>
      <main id="content" tabindex="-1">${open ? this.page() : html`<console-gate .state=${this.state}></console-gate>`}</main>`;
  }

  private page(): TemplateResult {
    switch (this.section) {
      case "overview":
        return html`<console-overview .state=${this.state}></console-overview>`;
      case "capsules":
        return html`<console-capsules .state=${this.state}></console-capsules>`;
      case "approvals":
        return html`<console-approvals .state=${this.state}></console-approvals>`;
      case "ledger":
        return html`<console-ledger .state=${this.state}></console-ledger>`;
      case "usage":
        return html`<console-usage .state=${this.state}></console-usage>`;
    }
  }

  private choice<T extends string>(
    label: string,
    values: readonly T[],
    chosen: T,
    name: (value: T) => string,
    choose: (value: T) => void,
  ): TemplateResult {
    const change = (event: Event) => {
      const wanted = event.target instanceof HTMLSelectElement ? event.target.value : undefined;
      const value = values.find((known) => known === wanted);
      if (value) choose(value);
    };
    return html`<select aria-label=${label} title=${label} @change=${change}>
      ${values.map((value) => html`<option value=${value} ?selected=${value === chosen}>${name(value)}</option>`)}
    </select>`;
  }

  private readonly recolour = (chosen: Theme) => {
    setTheme(chosen);
    this.requestUpdate();
  };

  private skip(event: Event): void {
    event.preventDefault(); // the fragment names the section
    this.renderRoot.querySelector("main")?.focus();
  }
}

function sectionOf(hash: string): Section {
  return SECTIONS.find((name) => hash === `#${name}`) ?? "overview";
}

declare global {
  interface HTMLElementTagNameMap {
    "mitai-console": MitaiConsole;
  }
}
