/**
 * Languages: tables of strings with the same keys in English and Chinese, checked by the compiler, and who shows them.
 *
 * - Values are put in as text; no string holds markup.
 * - The choice is kept on the device; without one, the browser's language decides.
 *
 * Example:
 *   const t = strings({ en: { sent: "Sent {n} bytes" }, zh: { sent: "已发送 {n} 字节" } });
 *   t("sent", { n: 5 });
 */
import type { ReactiveController, ReactiveControllerHost } from "lit";
import { recall, remember } from "./preferences.ts";

export const LANGUAGES = ["en", "zh"] as const;
export type Language = (typeof LANGUAGES)[number];
export type Values = Readonly<Record<string, string | number>>;

const KEPT = "mitai-language";
const listeners = new Set<() => void>();
let current: Language = "en";

/** Return the function that gives the strings of a table in the current language. */
export function strings<Key extends string>(
  table: Readonly<Record<Language, Readonly<Record<Key, string>>>>,
): (key: Key, values?: Values) => string {
  return (key, values = {}) =>
    table[current][key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function language(): Language {
  return current;
}

/** Choose a language, and keep the choice on this device. */
export function setLanguage(chosen: Language): void {
  remember(KEPT, chosen);
  show(chosen);
}

/** Show the language that was kept, or else the browser's. */
export function startLanguage(preferred: readonly string[] = navigator.languages): void {
  const wanted = [recall(KEPT), ...preferred].map((tag) =>
    LANGUAGES.find((known) => tag?.toLowerCase().startsWith(known)),
  );
  show(wanted.find((known) => known !== undefined) ?? "en");
}

function show(chosen: Language): void {
  current = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-Hans" : "en";
  for (const listener of listeners) listener();
}

/** A moment in the reader's language and time zone. */
export function moment(date: Date, style: "short" | "long" = "short"): string {
  return new Intl.DateTimeFormat(locale(), {
    dateStyle: style === "long" ? "long" : "medium",
    timeStyle: "medium",
  }).format(date);
}

/** A number in the reader's language. */
export function number(value: number): string {
  return new Intl.NumberFormat(locale()).format(value);
}

/** A size in bytes, with a unit that people read. */
export function size(bytes: number): string {
  const [value, unit] =
    bytes < 1024 ? [bytes, "B"] : bytes < 1 << 20 ? [bytes / 1024, "KiB"] : [bytes / (1 << 20), "MiB"];
  return `${new Intl.NumberFormat(locale(), { maximumFractionDigits: 1 }).format(value)} ${unit}`;
}

function locale(): string {
  return current === "zh" ? "zh-CN" : "en-GB";
}

/** Renders a component again when the language changes. */
export class LanguageController implements ReactiveController {
  private readonly update: () => void;

  constructor(host: ReactiveControllerHost) {
    this.update = () => host.requestUpdate();
    host.addController(this);
  }

  hostConnected(): void {
    listeners.add(this.update);
  }

  hostDisconnected(): void {
    listeners.delete(this.update);
  }
}
