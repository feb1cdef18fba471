/** `<chat-app>`: the whole page. It shows the state, and turns what its parts tell into calls of the state. */
import { Policy as Rules } from "@mitai/verify";
import { html, nothing, type PropertyValues } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import type { UserMessage } from "../conversations.ts";
import { icons, toast, View } from "../design/index.ts";
import { type Policy, policyOf, type Source } from "../pinning.ts";
import type { Proofs } from "../proofs.ts";
import { type ChatState, failureOf, isRefusal, Trouble } from "../state.ts";
import type { DeviceStore } from "../store/index.ts";
import { t } from "../strings/chat.ts";
import { plainly } from "../strings/failures.ts";
import type { Verdict } from "./badge.ts";
import "./badge.ts";
import { appStyles } from "./app-styles.ts";
import type { ChatComposer, Draft } from "./composer.ts";
import "./composer.ts";
import "./exchange-sheet.ts";
import type { KeepingDialog, Wish } from "./keeping.ts";
import "./keeping.ts";
import { failureStyles } from "./failure.ts";
import "./message.ts";
import { notices } from "./notices.ts";
import "./policy-dialog.ts";
import "./proof-dialog.ts";
import "./settings-dialog.ts";
import "./sidebar.ts";
import "./verification-sheet.ts";
import { welcome, welcomeStyles } from "./welcome.ts";

type Sheet = "verification" | "policy" | "settings" | "sidebar" | "proof";

const NEAR_END_PX = 96;
const AGE_MS = 15_000; // how often it is looked whether a verification is out of date

@customElement("chat-app")
export class ChatApp extends View {
  static override styles = [View.styles, failureStyles, welcomeStyles, appStyles];

  @property({ attribute: false }) accessor chat!: ChatState;
  /** What is kept on this device; without it, nothing is said about it. */
  @property({ attribute: false }) accessor store: DeviceStore | undefined;
  /** What checks answers with a proof; without it, nothing is said about them. */
  @property({ attribute: false }) accessor proofs: Proofs | undefined;
  @state() private accessor proofFile: File | undefined;
  @state() private accessor tokenizer: File | undefined;
  @state() private accessor turn = 0;
  @state() private accessor sheet: Sheet | undefined;
  @state() private accessor shownAnswer: string | undefined;
  @state() private accessor wide = true;
  @state() private accessor sidebar = true;
  @state() private accessor dropping = false;
  @query("chat-composer") private accessor composer!: ChatComposer;
  @query("keeping-dialog") private accessor keeping!: KeepingDialog | null;
  @query("main") private accessor main!: HTMLElement;
  @query("#policy-file") private accessor picker!: HTMLInputElement;
  private readonly room = matchMedia("(min-width: 900px)");
  private following = true;
  private asked: unknown;
  private wasAskable = false;
  private ageing = 0;

  override connectedCallback(): void {
    super.connectedCallback();
    this.chat.addEventListener("change", this.changed);
    this.room.addEventListener("change", this.measured);
    window.addEventListener("keydown", this.key);
    this.chat.addEventListener("trouble", this.trouble);
    window.addEventListener("online", this.online);
    this.measured();
    this.ageing = window.setInterval(() => this.requestUpdate(), AGE_MS);
    if (this.store?.protection === "locked") void this.updateComplete.then(() => this.keeping?.ask("unlock"));
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.chat.removeEventListener("change", this.changed);
    this.chat.removeEventListener("trouble", this.trouble);
    this.room.removeEventListener("change", this.measured);
    window.removeEventListener("keydown", this.key);
    window.removeEventListener("online", this.online);
    clearInterval(this.ageing);
  }

  private readonly changed = (): void => {
    const { standing, status, askable } = this.chat;
    if (status.kind === "undecided" && this.asked !== standing) {
      this.asked = standing; // ask once; the user may leave it for later
      this.sheet = "policy";
    }
    if (status.kind === "verifying" && this.sheet === "policy") this.sheet = undefined;
    this.requestUpdate();
    if (askable && !this.wasAskable) this.invite();
    this.wasAskable = askable;
  };

  /** The network is back: try again what it made fail. */
  private readonly online = (): void => {
    const { status } = this.chat;
    if (status.kind === "refused" && status.failure.code === "client.unreachable") void this.chat.verify();
  };

  /** The field is open: put the cursor there, unless the user is elsewhere or would get a keyboard over the page. */
  private invite(): void {
    const free = !this.sheet && !this.shownAnswer && !this.shadowRoot?.activeElement;
    if (free && matchMedia("(pointer: fine)").matches) void this.updateComplete.then(() => this.composer.focus());
  }

  private readonly trouble = (event: Event): void => {
    const { what, next } = plainly(event instanceof Trouble ? event.failure.code : "");
    toast(`${what} ${next}`, "bad");
  };

  private readonly measured = (): void => {
    this.wide = this.room.matches;
  };

  private readonly key = (event: KeyboardEvent): void => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      this.begin();
    } else if (event.key === "Escape" && this.chat.busy && !this.sheet && !this.shownAnswer) this.chat.stop();
  };

  get verdict(): Verdict {
    const { status, stale } = this.chat;
    if (status.kind === "refused") return isRefusal(status.failure.code) ? "refused" : "unverified";
    if (status.kind !== "verified") return status.kind;
    if (this.chat.simulated) return "simulated";
    return stale ? "stale" : "verified";
  }

  /** The store was locked, unlocked, guarded or emptied, here or in another tab. */
  readonly kept = async (): Promise<void> => {
    this.turn += 1;
    await this.chat.reload();
  };

  private begin(): void {
    this.chat.close();
    this.composer.leave();
    this.sheet = undefined;
    this.following = true;
    void this.updateComplete.then(() => this.composer.focus());
  }

  private async open(id: string): Promise<void> {
    if (!this.wide) this.sheet = undefined;
    this.following = true;
    this.composer.leave();
    await this.chat.open(id);
  }

  private send({ text, files, instead }: Draft): void {
    this.following = true;
    void this.chat.send(text, files, instead);
  }

  private async readPolicy(file: File): Promise<void> {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      Rules.fromToml(text);
      await this.choose(await policyOf(text), "file");
    } catch (error) {
      toast(t("fileBroken", { message: failureOf(error).message }), "bad");
    }
  }

  private async choose(policy: Policy, source: Source): Promise<void> {
    this.sheet = undefined;
    toast(t("policyPinned"));
    history.replaceState(null, "", location.pathname); // the link's word was overruled
    await this.chat.choose(policy, source);
  }

  private forgetPolicy(): void {
    this.sheet = undefined;
    history.replaceState(null, "", location.pathname);
    void this.chat.forget();
  }

  private keepPinned(): void {
    history.replaceState(null, "", location.pathname);
    void this.chat.keepPinned();
  }

  private drop(event: DragEvent): void {
    event.preventDefault();
    this.dropping = false;
    const files = [...(event.dataTransfer?.files ?? [])];
    if (this.proofs && this.dropProof(files)) return;
    const policy = files.length === 1 && files[0]?.name.endsWith(".toml") && this.chat.status.kind !== "verified";
    if (policy && files[0]) void this.readPolicy(files[0]);
    else if (this.chat.status.kind === "verified") void this.composer.attach(files);
  }

  /** Whether these are an answer with its proof and its tokenizer, or one of them while the other is asked for. */
  private dropProof(files: readonly File[]): boolean {
    const proofs = files.filter(({ name }) => name.endsWith(".proof"));
    const tokenizers = files.filter(({ name }) => name.endsWith(".json"));
    if (proofs.length > 1 || tokenizers.length > 1 || proofs.length + tokenizers.length !== files.length) return false;
    if (proofs.length === 0 && this.sheet !== "proof") return false;
    this.proofFile = proofs[0] ?? this.proofFile;
    this.tokenizer = tokenizers[0] ?? this.tokenizer;
    this.sheet = "proof";
    return true;
  }

  private readonly closeSheet = (): void => {
    this.sheet = undefined;
    this.shownAnswer = undefined;
  };

  protected override updated(_: PropertyValues): void {
    const empty = this.chat.conversation === undefined;
    if (this.following) this.main.scrollTop = empty ? 0 : this.main.scrollHeight;
  }

  private scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.main;
    const following = !this.chat.conversation || scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    if (following !== this.following) {
      this.following = following;
      this.requestUpdate();
    }
  }

  protected override render() {
    const { verdict } = this;
    return html`
      <nav aria-label=${t("skip")}><a class="skip" href="#message" @click=${this.skip}>${t("skip")}</a></nav>
      ${verdict === "simulated" ? html`<section class="bar stripes" aria-label=${t("simulated")}>${icons.warning}${t("simulationBar")}</section>` : nothing}
      <div
        class="frame ${this.wide && this.sidebar ? "with-sidebar" : ""}"
        @show-verification=${() => {
          this.sheet = "verification";
        }}
        @list-models=${() => this.chat.listModels()}
        @show-exchange=${(event: CustomEvent<string>) => {
          this.shownAnswer = event.detail;
        }}
        @dragover=${this.dragged}
        @dragleave=${() => {
          this.dropping = false;
        }}
        @drop=${this.drop}
        @m-close=${this.closeSheet}
        @open-conversation=${(event: CustomEvent<string>) => this.open(event.detail)}
        @new-conversation=${this.begin}
        @rename-conversation=${(event: CustomEvent<{ id: string; title: string }>) => this.chat.rename(event.detail.id, event.detail.title)}
        @remove-conversation=${(event: CustomEvent<string>) => this.chat.remove(event.detail)}
        @choose-policy=${(event: CustomEvent<{ policy: Policy; source: Source }>) => this.choose(event.detail.policy, event.detail.source)}
        @check-proof=${() => {
          this.sheet = "proof";
        }}
        @keep-pinned=${this.keepPinned}
        @pick-policy-file=${() => this.picker.click()}
        @keeping=${(event: CustomEvent<Wish>) => this.keeping?.ask(event.detail)}
        @prove-again=${(event: CustomEvent<string>) => this.chat.proveAgain(event.detail)}
        @verify-again=${() => this.chat.verify()}
        @forget-policy=${this.forgetPolicy}
        @decide-policy=${() => {
          this.sheet = "policy";
        }}
      >
        ${this.wide && this.sidebar ? html`<nav class="sidebar" aria-label=${t("conversations")}>${this.list()}</nav>` : nothing}
        <div class="column">${this.header(verdict)} ${this.body(verdict)} ${this.foot()}</div>
        ${this.sheets(verdict)}
        ${this.dropping ? html`<div class="drop">${t(this.chat.status.kind === "verified" ? "dropHere" : "dropPolicy")}</div>` : nothing}
      </div>
      <input id="policy-file" type="file" accept=".toml" hidden aria-label=${t("openFile")} @change=${this.picked} />
    `;
  }

  private readonly skip = (event: Event): void => {
    event.preventDefault();
    this.composer.focus();
  };

  private readonly picked = (): void => {
    const [file] = this.picker.files ?? [];
    this.picker.value = "";
    if (file) void this.readPolicy(file);
  };

  private readonly dragged = (event: DragEvent): void => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.dropping = true;
  };

  private list() {
    return html`<chat-sidebar .summaries=${this.chat.summaries} here=${this.chat.conversation?.id ?? ""} >
      ${this.store ? html`<keeping-place slot="place" .store=${this.store} turn=${this.turn}></keeping-place>` : nothing}
    </chat-sidebar>`;
  }

  private header(verdict: Verdict) {
    const { models, model } = this.chat;
    const toggle = () => {
      if (this.wide) this.sidebar = !this.sidebar;
      else this.sheet = "sidebar";
    };
    const shown = this.wide && this.sidebar;
    const label = t(shown ? "closeSidebar" : "openSidebar");
    return html`<header>
      <button class="quiet icon" title=${label} aria-label=${label} aria-expanded=${shown} @click=${toggle}>${icons.menu}</button>
      <div class="grow">
        ${
          models.length > 0
            ? html`<select
              class="model"
              aria-label=${t("model")}
              .value=${model}
              @change=${(event: Event & { target: HTMLSelectElement }) => this.chat.chooseModel(event.target.value)}
            >
              ${models.map((name) => html`<option value=${name} ?selected=${name === model}>${name}</option>`)}
            </select>`
            : html`<span class="muted clip">mitai</span>`
        }
      </div>
      <status-badge verdict=${verdict}></status-badge>
      <button
        class="quiet icon"
        title=${t("settings")}
        aria-label=${t("settings")}
        @click=${() => {
          this.sheet = "settings";
        }}
      >
        ${icons.settings}
      </button>
    </header>`;
  }

  private body(verdict: Verdict) {
    const { conversation, ready } = this.chat;
    const messages = conversation?.messages ?? [];
    const lastQuestion = messages.findLast(({ role }) => role === "user")?.id;
    const lastAnswer = messages.at(-1)?.id;
    return html`<main tabindex="0" aria-label=${t("messages")} @scroll=${this.scrolled}>
      ${
        messages.length === 0
          ? welcome(verdict)
          : html`<div class="messages" role="log" aria-label=${conversation?.title ?? ""}
              @edit-message=${(event: CustomEvent<UserMessage>) => this.composer.edit(event.detail)}
              @retry-answer=${() => this.chat.retry()}
            >
            <h1 class="hidden">${conversation?.title}</h1>
            ${repeat(
              messages,
              ({ id }) => id,
              (message) => html`<chat-message
                .message=${message}
                ?last=${message.id === lastQuestion || message.id === lastAnswer}
                ?ready=${ready}
              ></chat-message>`,
            )}
          </div>`
      }
    </main>`;
  }

  private foot() {
    const { busy, ready, askable, conversation } = this.chat;
    const notice = notices(this.chat);
    const last = conversation?.messages.at(-1);
    const done = last?.role === "assistant" && last.state === "complete";
    return html`<footer>
      <p class="hidden" role="status">${busy ? t("writing") : done ? t("answered") : ""}</p>
      ${
        this.following
          ? nothing
          : html`<button class="to-end icon" title=${t("toEnd")} aria-label=${t("toEnd")} @click=${this.toEnd}>${icons.chevron}</button>`
      }
      <div class="notices">${notice}</div>
      <chat-composer
        ?shut=${!askable}
        ?waiting=${notice === nothing}
        ?busy=${busy}
        ?ready=${ready}
        @send-message=${(event: CustomEvent<Draft>) => this.send(event.detail)}
        @stop-answer=${() => this.chat.stop()}
      ></chat-composer>
    </footer>`;
  }

  private readonly toEnd = (): void => {
    this.following = true;
    this.requestUpdate();
  };

  private sheets(verdict: Verdict) {
    const { status, standing, pin, conversation, exchanges } = this.chat;
    const answer = conversation?.messages.find(({ id }) => id === this.shownAnswer);
    const verifiedAt = status.kind === "verified" ? status.machine.verified.verifiedAt : undefined;
    return html`
      ${
        this.wide
          ? nothing
          : html`<m-dialog side="start" ?open=${this.sheet === "sidebar"} heading=${t("conversations")}>${this.sheet === "sidebar" ? this.list() : nothing}</m-dialog>`
      }
      <verification-sheet
        ?open=${this.sheet === "verification"}
        verdict=${verdict}
        .status=${status}
        ?stale=${this.chat.stale}
        .verifiedAt=${verifiedAt}
        .pin=${standing.kind === "use" ? pin : undefined}
      ></verification-sheet>
      <exchange-sheet .message=${answer?.role === "assistant" ? answer : undefined} ?provable=${answer && this.chat.canProve(answer.id)} .exchange=${answer && exchanges.get(answer.id)}></exchange-sheet>
      <policy-dialog ?open=${this.sheet === "policy"} .standing=${standing}></policy-dialog>
      ${this.proofs ? html`<proof-dialog ?open=${this.sheet === "proof"} .proofs=${this.proofs} .file=${this.proofFile} .tokenizer=${this.tokenizer}></proof-dialog>` : nothing}
      <settings-dialog ?open=${this.sheet === "settings"} ?proofs=${this.proofs !== undefined}>
        ${this.store ? html`<keeping-settings slot="keeping" .store=${this.store} turn=${this.turn}></keeping-settings>` : nothing}
      </settings-dialog>
      ${this.store ? html`<keeping-dialog .store=${this.store} @kept=${this.kept}></keeping-dialog>` : nothing}
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "chat-app": ChatApp;
  }
}
