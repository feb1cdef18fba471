/** Refusals of the channel (RFC 9457 problem documents), as errors on the client's side. Nothing in them is authenticated. */

import { type Bytes, MitaiError, text } from "@mitai/verify";

const OHTTP_KEY_TYPE = "https://iana.org/assignments/http-problem-types#ohttp-key"; // RFC 9458 section 5.3
const MEMBERS = ["type", "title", "code", "detail", "hint"] as const;

// The codes that a server of ours refuses with, apart from those in `refusal`.
const KNOWN: ReadonlySet<string> = new Set(
  ["not-found", "method", "idle", "too-large", "media-type", "app-failed", "busy", "replay-cache-full", "timeout"].map(
    (name) => `channel.${name}`,
  ),
);

/** Read the code of a problem document leniently: of what can't be read it is empty. */
export function codeOf(body: Bytes): string {
  let problem: unknown;
  try {
    problem = JSON.parse(text(body));
  } catch {
    return "";
  }
  if (typeof problem !== "object" || problem === null) return "";
  const members = new Map<string, unknown>(Object.entries(problem));
  const wellTyped = MEMBERS.every((name) => !members.has(name) || typeof members.get(name) === "string");
  if (!wellTyped || (members.has("status") && !Number.isInteger(members.get("status")))) return "";
  return members.get("type") === OHTTP_KEY_TYPE ? "channel.keys-changed" : String(members.get("code") ?? "");
}

/** Return the error for a refusal with this code, which may come from an untrusted hop. */
export function refusal(code: string, status: number): MitaiError {
  if (code === "channel.keys-changed")
    return new MitaiError(
      code,
      "the server does not hold the key any more that this request was sealed to",
      "verify the server again",
    );
  if (code === "channel.replayed") return new MitaiError(code, "the server has seen this request before");
  if (code === "channel.date")
    return new MitaiError(code, "the server's clock and this device's differ too much", "set the clock");
  const known = KNOWN.has(code) ? code : "channel.refused";
  return new MitaiError(known, `the sealed request was refused with status ${status}`);
}
