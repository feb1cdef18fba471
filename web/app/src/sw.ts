/**
 * The service worker: keeps the page's files on the device, so that old conversations open without a network.
 *
 * - It keeps whole pages only: the files that `page.sha256` lists, each with the SHA-256 that the list says.
 * - A page comes from the network while there is one, so nobody is left with an old page; files whose names change with
 *   their content come from what is kept.
 * - Everything else (evidence, sealed exchanges, what the host offers) passes by: none of it is ever kept.
 *
 * It defends against nothing: the host that delivers the page delivers this file too.
 */

/** What TypeScript's DOM library leaves out of service workers. */
interface Extended extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface Fetched extends Extended {
  readonly request: Request;
  respondWith(answer: Promise<Response>): void;
}
interface Worker {
  readonly location: Location;
  readonly clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  addEventListener(type: "install" | "activate", listener: (event: Extended) => void): void;
  addEventListener(type: "fetch", listener: (event: Fetched) => void): void;
}

const worker = self as unknown as Worker;
const HERE = new URL("./", worker.location.href);
const LIST = new URL("page.sha256", HERE).href;
const PAGES: Readonly<Record<string, string>> = { "": "index.html" };
const PREFIX = `mitai-page-${HERE.pathname}:`; // other folders of the host may hold other pages
const MAX_FILES = 100;
const LINE = /^([0-9a-f]{64}) {2}([A-Za-z0-9._/-]{1,200})$/;

worker.addEventListener("install", (event) => event.waitUntil(keep().then(() => worker.skipWaiting())));
worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const path = pathOf(request.url);
  if (request.method !== "GET" || path === undefined) return;
  if (request.mode === "navigate") {
    if (!isPage(path)) return;
    event.respondWith(fetch(request).catch(() => kept(path)));
    event.waitUntil(keep().catch(() => undefined));
  } else if (path.startsWith("assets/")) {
    event.respondWith(kept(path).then((found) => (found.type === "error" ? fetch(request) : found)));
  }
});

/** The path of an address below the page's own folder, without query and fragment. */
function pathOf(url: string): string | undefined {
  const { origin, pathname } = new URL(url);
  if (origin !== HERE.origin || !pathname.startsWith(HERE.pathname)) return undefined;
  return pathname.slice(HERE.pathname.length);
}

function isPage(path: string): boolean {
  return Object.entries(PAGES).some((names) => names.includes(path));
}

async function kept(path: string): Promise<Response> {
  const file = PAGES[path] ?? path;
  return (await caches.match(new URL(file, HERE), { ignoreSearch: true })) ?? Response.error();
}

/** Fetch the page that the host has now, unless it is kept already, and forget the others. */
async function keep(): Promise<void> {
  const answer = await fetch(LIST, { cache: "no-cache" });
  if (!answer.ok) throw new Error("the page's list can't be read");
  const list = new Uint8Array(await answer.arrayBuffer());
  const name = PREFIX + (await sha256(list));
  if (!(await caches.has(name))) await fill(name, filesOf(new TextDecoder().decode(list)));
  const others = (await caches.keys()).filter((other) => other.startsWith(PREFIX) && other !== name);
  await Promise.all(others.map((other) => caches.delete(other)));
}

/** What the chat needs: not the console, which does nothing without a network, nor the badge of other sites, nor licences. */
function filesOf(list: string): Map<string, string> {
  const lines = list.split("\n").map((line) => LINE.exec(line));
  const files = lines.flatMap((line) => (line?.[1] && line[2] ? [[line[2], line[1]] as const] : []));
  const needed = (path: string) => isPage(path) || /^assets\/(?!console-)/.test(path);
  return new Map(files.filter(([path]) => needed(path)).slice(0, MAX_FILES));
}

async function fill(name: string, files: Map<string, string>): Promise<void> {
  const fetched = [...files].map(async ([path, digest]) => {
    const answer = await fetch(new URL(path, HERE), { cache: "no-cache" });
    const body = await answer.arrayBuffer();
    if (!answer.ok || (await sha256(body)) !== digest) throw new Error(`${path} is not what the list says`);
    return [path, new Response(body, { headers: answer.headers })] as const; // browsers open none that was redirected
  });
  const whole = await Promise.all(fetched);
  const cache = await caches.open(name);
  try {
    for (const [path, answer] of whole) await cache.put(new URL(path, HERE), answer);
  } catch (error) {
    await caches.delete(name); // no room: half a page is none
    throw error;
  }
}

async function sha256(data: BufferSource): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
