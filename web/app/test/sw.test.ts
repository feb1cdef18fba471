/** The service worker: whole pages only, each folder's for itself, and none that came by a redirect. */
import { createHash } from "node:crypto";
import { afterEach, expect, it, vi } from "vitest";

const WORKER: string = "../src/sw.ts"; // a script, not a module
const ORIGIN = "https://host.example";
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** Just enough of a browser's Cache Storage. */
class Caches {
  readonly kept = new Map<string, Map<string, Response>>();

  async has(name: string) {
    return this.kept.has(name);
  }
  async keys() {
    return [...this.kept.keys()];
  }
  async delete(name: string) {
    return this.kept.delete(name);
  }
  async open(name: string) {
    const cache = this.kept.get(name) ?? new Map<string, Response>();
    this.kept.set(name, cache);
    return { put: async (url: URL, answer: Response) => void cache.set(url.href, answer) };
  }
  async match(url: URL) {
    return [...this.kept.values()]
      .map((cache) => cache.get(url.href))
      .find((found) => found !== undefined)
      ?.clone();
  }
}

type Listener = (event: object) => void;

/** Run the worker of a folder over what its host has; gives what its events do. */
async function worker(folder: string, host: (path: string) => Response, caches: Caches) {
  const listeners = new Map<string, Listener>();
  const self = {
    location: new URL(`${ORIGIN}${folder}sw.js`),
    clients: { claim: async () => undefined },
    skipWaiting: async () => undefined,
    addEventListener: (type: string, listener: Listener) => listeners.set(type, listener),
  };
  const fetched = async (input: URL | string | Request) =>
    host(new URL(input instanceof Request ? input.url : input).pathname.slice(folder.length));
  vi.stubGlobal("self", self);
  vi.stubGlobal("caches", caches);
  vi.stubGlobal("fetch", fetched);
  vi.resetModules();
  await import(WORKER);
  return {
    install: async () => {
      let work: Promise<unknown> = Promise.resolve();
      listeners.get("install")?.({ waitUntil: (given: Promise<unknown>) => (work = given) });
      await work;
    },
    open: async (path: string): Promise<Response | undefined> => {
      let answer: Promise<Response> | undefined;
      const request = { url: `${ORIGIN}${folder}${path}`, method: "GET", mode: "navigate" };
      const respondWith = (given: Promise<Response>) => {
        answer = given;
      };
      listeners.get("fetch")?.({ request, respondWith, waitUntil: (given: Promise<unknown>) => given.catch(() => {}) });
      return answer;
    },
  };
}

const HTML = "<html>chat</html>";
const LIST = `# mitai page v1\n${sha256(HTML)}  index.html\n`;
const online = (path: string) => new Response(path === "page.sha256" ? LIST : HTML);
const offline = () => {
  throw new TypeError("no network");
};

afterEach(() => vi.unstubAllGlobals());

it("opens a page without a network once it was kept", async () => {
  const caches = new Caches();
  await (await worker("/", online, caches)).install();
  const answer = await (await worker("/", offline, caches)).open("");
  expect(await answer?.text()).toBe(HTML);
});

it("keeps nothing of a page that is not its list", async () => {
  const caches = new Caches();
  const lying = (path: string) => new Response(path === "page.sha256" ? LIST : "<html>evil</html>");
  await expect((await worker("/", lying, caches)).install()).rejects.toThrow("index.html");
  expect(caches.kept.size).toBe(0);
});

it("leaves alone what a page in another folder of the host has kept", async () => {
  const caches = new Caches();
  const other = (path: string) =>
    new Response(path === "page.sha256" ? LIST.replace(sha256(HTML), sha256("other")) : "other");
  await (await worker("/one/", online, caches)).install();
  await (await worker("/two/", other, caches)).install();
  await (await worker("/", online, caches)).install();
  expect(await (await (await worker("/one/", offline, caches)).open(""))?.text()).toBe(HTML);
  expect(await (await (await worker("/two/", offline, caches)).open(""))?.text()).toBe("other");
});

it("opens a page whose files the host redirects, which browsers refuse as it came", async () => {
  const caches = new Caches();
  const redirecting = (path: string) => {
    const answer = online(path);
    if (path === "index.html") Object.defineProperty(answer, "redirected", { value: true });
    return answer;
  };
  await (await worker("/", redirecting, caches)).install();
  const [kept] = [...caches.kept.values()].flatMap((cache) => [...cache.values()]);
  expect(kept?.redirected).toBe(false);
  expect(await kept?.text()).toBe(HTML);
});
