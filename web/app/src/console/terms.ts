/** What follows from owners' terms: what keeps a capsule's key from being released, and how much time is left. */
import { language } from "../i18n.ts";
import type { Capsule, Grant } from "./model.ts";

export type Block = "revoked" | "no-policy" | "ended" | "used-up";

/** The first reason why no key is released whatever the policies say, in the broker's order; `undefined` for none. */
export function blockOf({ grants }: Capsule, now: Date): Block | undefined {
  return grants.map((grant) => blocked(grant, now)).find((block) => block !== undefined);
}

function blocked({ revoked, policySha256, budget, uses }: Grant, now: Date): Block | undefined {
  if (revoked) return "revoked";
  if (policySha256 === undefined) return "no-policy";
  if (budget.not_after_s !== null && budget.not_after_s * 1000 < now.getTime()) return "ended";
  return budget.uses !== null && uses >= budget.uses ? "used-up" : undefined;
}

const UNITS = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
] as const;

/** The time from `now` to `end`, such as "in 12 days"; `undefined` when it is over. */
export function left(end: Date, now: Date): string | undefined {
  const time = end.getTime() - now.getTime();
  if (time <= 0) return undefined;
  const [unit, length] = UNITS.find(([, unit]) => time >= unit) ?? (["second", 1000] as const);
  const format = new Intl.RelativeTimeFormat(language() === "zh" ? "zh-CN" : "en-GB", { numeric: "always" });
  return format.format(Math.floor(time / length), unit);
}

/** A moment that others wrote, in seconds; what is later than every date of JavaScript is the last of them. */
export function momentOf(timeS: number): Date {
  return new Date(Math.min(timeS * 1000, 8.64e15));
}

/** The last moment that a field for local time takes. */
export const LATEST = "9999-12-31T23:59:59";

/** A moment as a field for local time has it. */
export function localTime(moment: Date): string {
  const local = moment.getTime() - moment.getTimezoneOffset() * 60_000;
  return new Date(Math.min(local, Date.parse(`${LATEST}Z`))).toISOString().slice(0, 19);
}
