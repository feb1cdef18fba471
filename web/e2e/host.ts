/** The untrusted host: a proxy in front of the gateway that passes everything on, but for what a test makes it change. */
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";

export interface Trick {
  /** Which requests, by method and path. */
  on: RegExp;
  /** Change the answer's body; it is held back until it is whole. */
  answer?: (body: Buffer, path: string) => Buffer | Promise<Buffer>;
  /** Pause so long before each piece of the answer. */
  pauseMs?: number;
  /** End the connection after so many bytes of the answer. */
  cutAfter?: number;
  /** Send the browser elsewhere. */
  redirect?: string;
  /** Send the request twice; the browser gets the second answer. */
  twice?: boolean;
}

export interface Seen {
  method: string;
  path: string;
  body: Buffer;
}

export class Host {
  readonly seen: Seen[] = [];
  tricks: Trick[] = [];
  url = "";
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async before(gateway: string): Promise<Host> {
    const server = createServer();
    const host = new Host(server);
    server.on("request", async (incoming, outgoing) => {
      const path = incoming.url ?? "/";
      const body = await whole(incoming);
      host.seen.push({ method: incoming.method ?? "", path, body });
      const trick = host.tricks.find(({ on }) => on.test(`${incoming.method} ${path}`));
      try {
        if (trick?.redirect) {
          outgoing.writeHead(302, { location: trick.redirect }).end();
          return;
        }
        if (trick?.twice) await whole(await forward(gateway, incoming, body));
        const answer = await forward(gateway, incoming, body);
        if (trick?.answer) {
          const changed = await trick.answer(await whole(answer), path);
          const { "transfer-encoding": _, ...headers } = answer.headers;
          outgoing.writeHead(answer.statusCode ?? 502, { ...headers, "content-length": changed.length });
          outgoing.end(changed);
          return;
        }
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        let left = trick?.cutAfter ?? Number.POSITIVE_INFINITY;
        for await (const part of answer as AsyncIterable<Buffer>) {
          if (trick?.pauseMs) await new Promise((resolve) => setTimeout(resolve, trick.pauseMs));
          outgoing.write(part.subarray(0, Math.max(0, left)));
          left -= part.length;
          if (left <= 0) {
            await new Promise((resolve) => setTimeout(resolve, 50));
            outgoing.destroy();
            return;
          }
        }
        outgoing.end();
      } catch {
        outgoing.destroy();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    host.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return host;
  }

  /** The sealed requests for an answer: what a user typed is in one of these. */
  sealed(): Seen[] {
    return this.seen.filter(({ method, path }) => method === "POST" && path.endsWith("/ohttp"));
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function forward(gateway: string, incoming: IncomingMessage, body: Buffer): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const { "accept-encoding": _, host: __, ...headers } = incoming.headers; // bodies that a test can change
    const outgoing = request(gateway + (incoming.url ?? "/"), { method: incoming.method, headers }, resolve);
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

async function whole(message: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of message as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts);
}
