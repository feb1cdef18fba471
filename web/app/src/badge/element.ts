/**
 * `<mitai-badge>`: the visitor's own browser verifies a server and says what it found; a click shows the checks.
 *
 * docs/badge.md. Attributes: `server`, `policy-sha256`, and perhaps `policy`, `workload`, `lang`, `theme`.
 *
 * Invariants:
 * - It says "verified" only while a verification under the named policy is to be relied upon; then it checks again.
 * - Simulated hardware, and memory that the host may read, never look like a verified machine.
 * - It asks nobody but the server and the policy's address, with no cookies; it keeps nothing.
 *
 * Example: `<mitai-badge server="https://llm.example" policy-sha256="3f1c…"></mitai-badge>`
 */

import type { Session } from "@mitai/client";
import { MitaiError } from "@mitai/verify";
import { LANGUAGES, type Language } from "../i18n.ts";
import { plainly } from "../strings/failures.ts";
import { stepName } from "../strings/steps.ts";
import { check } from "./check.ts";
import { element, type Icon, icon, styles } from "./look.ts";
import { type Word, wordsOf } from "./words.ts";

type Found =
  | { readonly kind: "checking" }
  | { readonly kind: "verified"; readonly session: Session }
  | { readonly kind: "refused"; readonly error: MitaiError };

/** What the badge says, in one word: also the detail of its event `mitai-verdict`. */
export type Verdict = "checking" | "verified" | "visible" | "simulated" | "refused";

const LOOKS: Readonly<Record<Verdict, readonly [tone: string, icon: Icon]>> = {
  checking: ["", "clock"],
  verified: ["good", "shield"],
  visible: ["warn", "warning"],
  simulated: ["stripes", "warning"],
  refused: ["bad", "cross"],
};

export class MitaiBadge extends HTMLElement {
  static readonly observedAttributes = ["server", "policy", "policy-sha256", "workload", "lang"];

  readonly #root = this.attachShadow({ mode: "open" });
  readonly #state = element("button", { type: "button", "aria-expanded": "false", "aria-controls": "details" });
  readonly #details = element("div", { class: "details", id: "details", role: "group" });
  #found: Found = { kind: "checking" };
  #attempt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    super();
    this.#root.adoptedStyleSheets = [...styles];
    this.#details.hidden = true;
    this.#root.append(element("div", { role: "status" }, this.#state), this.#details);
    this.#state.addEventListener("click", () => this.#open(Boolean(this.#details.hidden)));
    this.#root.addEventListener("keydown", (event) => {
      if (event instanceof KeyboardEvent && event.key === "Escape" && !this.#details.hidden) this.#open(false);
    });
  }

  get verdict(): Verdict {
    if (this.#found.kind !== "verified") return this.#found.kind;
    const { simulated, machine } = this.#found.session.appraisal;
    if (simulated) return "simulated";
    return machine.memory === "encrypted" ? "verified" : "visible";
  }

  connectedCallback(): void {
    this.#checkSoon();
  }

  disconnectedCallback(): void {
    this.#attempt++;
    clearTimeout(this.#timer);
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (!this.isConnected || before === after) return;
    if (name === "lang") this.#show();
    else this.#checkSoon();
  }

  /** Once for all attributes that change together, as they do when the element begins. */
  #checkSoon(): void {
    const attempt = ++this.#attempt;
    queueMicrotask(() => {
      if (attempt === this.#attempt) void this.check();
    });
  }

  /** Verify, from the beginning. */
  async check(): Promise<void> {
    const attempt = ++this.#attempt;
    this.#become({ kind: "checking" });
    const found = await this.#verify();
    if (attempt !== this.#attempt) return;
    this.#become(found);
    if (found.kind === "verified") {
      // No longer relied upon then. A timer that is late (a device that slept) leaves the word until it wakes.
      const left = found.session.verified.staleAt.getTime() - Date.now();
      this.#timer = setTimeout(() => void this.check(), Math.max(left, 1000));
    }
  }

  async #verify(): Promise<Found> {
    const wanted = {
      server: this.getAttribute("server") ?? "",
      policy: this.getAttribute("policy") ?? "",
      policySha256: (this.getAttribute("policy-sha256") ?? "").trim().toLowerCase(),
      workload: this.getAttribute("workload") || "serve",
    };
    try {
      return { kind: "verified", session: await check(wanted, document.baseURI) };
    } catch (error) {
      if (error instanceof MitaiError) return { kind: "refused", error };
      return { kind: "refused", error: new MitaiError("client.unreachable", "the check could not be made") };
    }
  }

  #become(found: Found): void {
    clearTimeout(this.#timer);
    this.#found = found;
    this.#show();
    this.dispatchEvent(new CustomEvent("mitai-verdict", { detail: this.verdict, bubbles: true, composed: true }));
  }

  #open(open: boolean): void {
    this.#details.hidden = !open;
    this.#state.setAttribute("aria-expanded", String(open));
    if (!open) this.#state.focus();
  }

  get #language(): Language {
    const tags = [this.closest("[lang]")?.getAttribute("lang"), ...navigator.languages];
    const known = tags.map((tag) => LANGUAGES.find((language) => tag?.toLowerCase().startsWith(language)));
    return known.find((language) => language !== undefined) ?? "en";
  }

  #show(): void {
    const language = this.#language;
    const t = wordsOf(language);
    const [tone, shape] = LOOKS[this.verdict];
    this.#state.className = `state ${tone}`;
    this.#state.replaceChildren(icon(shape), t(this.verdict));
    this.#details.setAttribute("aria-label", t(this.verdict));
    this.#details.lang = language;
    const again = element("button", { type: "button", class: "again" }, t("again"));
    again.addEventListener("click", () => void this.check());
    this.#details.replaceChildren(...this.#told(t, language), again);
  }

  #told(t: ReturnType<typeof wordsOf>, language: Language): readonly Node[] {
    const server = this.getAttribute("server") ?? "";
    const found = this.#found;
    if (found.kind === "checking") return [facts([[t("server"), server]])];
    if (found.kind === "refused") {
      const { code, message, step } = found.error;
      const { what, next } = plainly(code, language);
      return [
        element("p", "title", `${what} ${t("saysRefused", { server })}`),
        element("p", {}, next),
        facts([
          [t("server"), server],
          [t("reason"), message],
          [t("step"), step],
          [t("code"), code],
        ]),
      ];
    }
    const { baseUrl, appraisal, verifiedAt } = found.session;
    const { simulated, machine, workload, tcbStatus, checks } = appraisal;
    const says: Readonly<Record<string, Word>> = { simulated: "saysSimulated", visible: "saysVisible" };
    const hardware = simulated ? t("simulatedHardware") : [machine.title, tcbStatus].filter(Boolean).join(", ");
    return [
      element("p", "title", t(says[this.verdict] ?? "says", { server: baseUrl, workload })),
      facts([
        [t("server"), baseUrl],
        [t("workload"), workload],
        [t("hardware"), hardware],
        [t("policy"), (this.getAttribute("policy-sha256") ?? "").trim().toLowerCase()],
        [t("at"), verifiedAt.toLocaleTimeString(language)],
      ]),
      element("p", "title", t("checks")),
      element(
        "ol",
        {},
        ...checks.map(({ step, detail }) =>
          element("li", {}, `${stepName(appraisal.tee, step, language)} `, element("span", "muted", detail)),
        ),
      ),
    ];
  }
}

function facts(rows: readonly (readonly [name: string, value: string])[]): Node {
  const shown = rows.filter(([, value]) => value);
  return element(
    "dl",
    {},
    ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", "mono", value)]),
  );
}
