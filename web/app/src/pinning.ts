/**
 * Whose policy: what the page was offered (`mitai.json`, from an untrusted host), what this device has pinned, and what
 * follows. docs/architecture.md, "In the browser".
 *
 * - A policy is used only if the SHA-256 of its text is pinned: by the link, by a file that the user chose, or by a yes.
 * - A pinned policy is kept on the device. When the host offers another one later, nothing is verified until the user decides.
 */
import { get } from "@mitai/client";
import { type Bytes, MitaiError } from "@mitai/verify";
import { recall, remember } from "./preferences.ts";

export const MAX_OFFER_BYTES = 4 << 20;
export const MAX_POLICY_BYTES = 1 << 20;
const MAX_RELEASES = 64;
const KEPT = "mitai-policy";

export interface Offer {
  /** Where the machine is reached. */
  readonly gateway: string;
  readonly policy: Policy | undefined;
  readonly releases: readonly Bytes[];
  /** What a service of answers with a proof says that it is; see proven/offer.ts. */
  readonly proof?: string | undefined;
}

export interface Policy {
  readonly toml: string;
  readonly sha256: string;
}

export type Source = "link" | "file" | "consent";

export interface Pin extends Policy {
  readonly source: Source;
}

/** What the user's device makes of it. */
export type Standing =
  | { readonly kind: "use"; readonly pin: Pin }
  /** Nobody has said yes to the offered policy. */
  | { readonly kind: "ask"; readonly offered: Policy }
  /** Another policy is pinned than the one that is offered now. */
  | { readonly kind: "changed"; readonly offered: Policy; readonly pinned: Pin }
  /** The link names a policy that neither the host nor this device has. */
  | { readonly kind: "other-than-link"; readonly offered: Policy | undefined; readonly wanted: string }
  | { readonly kind: "none" };

export async function policyOf(toml: string): Promise<Policy> {
  if (/\p{Surrogate}/u.test(toml)) throw malformed("a policy is UTF-8"); // otherwise two texts would have one digest
  const text = new TextEncoder().encode(toml);
  if (text.length > MAX_POLICY_BYTES) throw malformed("a policy has at most 1 MiB");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return { toml, sha256: Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") };
}

/** What follows from the offer, the pinned policy and the link's digest. */
export function standing(offered: Policy | undefined, pinned: Pin | undefined, link: string | undefined): Standing {
  if (link !== undefined && pinned?.sha256 !== link) {
    if (offered?.sha256 !== link) return { kind: "other-than-link", offered, wanted: link };
    if (pinned) return { kind: "changed", offered, pinned };
    return { kind: "use", pin: { ...offered, source: "link" } };
  }
  if (!pinned) return offered ? { kind: "ask", offered } : { kind: "none" };
  if (!offered || offered.sha256 === pinned.sha256 || pinned.source === "file") return { kind: "use", pin: pinned };
  return { kind: "changed", offered, pinned };
}

/** The digest in a link such as `…/#policy=SHA256`; one that is malformed is no policy's, so it refuses all. */
export function linkDigest(fragment: string): string | undefined {
  return new URLSearchParams(fragment.replace(/^#/, "")).get("policy")?.trim().toLowerCase();
}

/**
 * The digest in the link that the user opened. Where the host sent the browser on, the fragment may be the host's word,
 * so it counts for nothing, and is forgotten before a reload could hide where it came from.
 */
export function openedLink(): string | undefined {
  const [arrival] = performance.getEntriesByType("navigation");
  if (arrival instanceof PerformanceNavigationTiming && arrival.redirectCount > 0)
    history.replaceState(null, "", location.pathname);
  return linkDigest(location.hash);
}

export async function keptPin(): Promise<Pin | undefined> {
  const kept = recall(KEPT);
  if (kept === undefined) return undefined;
  try {
    const { toml, source }: { toml?: unknown; source?: unknown } = JSON.parse(kept);
    if (typeof toml !== "string" || (source !== "link" && source !== "file" && source !== "consent")) return undefined;
    return { ...(await policyOf(toml)), source };
  } catch {
    return undefined;
  }
}

export function keepPin(pin: Pin | undefined): void {
  remember(KEPT, undefined); // where there is no space for the new one, the old one must not come back
  if (pin) remember(KEPT, JSON.stringify({ toml: pin.toml, source: pin.source }));
}

/** Read what the host offers, beside the page. */
export async function fetchOffer(): Promise<Offer> {
  const url = new URL("./mitai.json", location.href).href;
  const { status, body } = await get((request, init) => fetch(request, init), url, MAX_OFFER_BYTES);
  if (status !== 200) throw new MitaiError("client.unreachable", "mitai.json, beside this page, can't be read");
  if (!body) throw malformed("mitai.json is too large");
  return readOffer(body, location.href);
}

/** Read `mitai.json`; throws `MitaiError` for anything that is not one. `page` is the page's own address. */
export async function readOffer(bytes: Bytes, page: string): Promise<Offer> {
  if (bytes.length > MAX_OFFER_BYTES) throw malformed("mitai.json is too large");
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw malformed("mitai.json is not JSON");
  }
  if (!isRecord(value) || value.v !== 1) throw malformed("mitai.json is of an unknown version");
  const { gateway = "", policy, releases = [], proof } = value;
  if (typeof gateway !== "string" || (policy !== undefined && policy !== null && typeof policy !== "string"))
    throw malformed("mitai.json is malformed");
  if (!Array.isArray(releases) || releases.length > MAX_RELEASES)
    throw malformed("mitai.json has a malformed list of releases");
  if (proof !== undefined && typeof proof !== "string") throw malformed("mitai.json is malformed");
  return {
    ...(proof !== undefined && { proof }),
    gateway: gatewayUrl(gateway, page),
    policy: policy ? await policyOf(policy) : undefined,
    releases: releases.map((release: unknown) =>
      new TextEncoder().encode(typeof release === "string" ? release : JSON.stringify(release)),
    ),
  };
}

function gatewayUrl(gateway: string, page: string): string {
  if (gateway === "") return new URL(page).origin;
  if (!URL.canParse(gateway)) throw malformed("the gateway's address in mitai.json is no address");
  const url = new URL(gateway);
  if (!/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash)
    throw malformed("the gateway's address in mitai.json is malformed");
  return url.href.replace(/\/$/, "");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function malformed(message: string): MitaiError {
  return new MitaiError("client.page-malformed", message);
}
