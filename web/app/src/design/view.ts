/** What our components have in common: the shared styles, and that they follow the language. */
import { type CSSResultGroup, LitElement } from "lit";
import { LanguageController } from "../i18n.ts";
import { base } from "./base.ts";

export abstract class View extends LitElement {
  static override styles: CSSResultGroup = [base];

  constructor() {
    super();
    new LanguageController(this);
  }

  /** Tell whoever is above, across shadow roots. */
  protected tell<T>(name: string, detail?: T): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}
