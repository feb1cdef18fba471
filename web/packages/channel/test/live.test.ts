import { createHash } from "node:crypto";
import { type Bytes, concat, text, utf8 } from "@mitai/verify";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exchangeOf, sealedFetch, type WirePiece } from "../src/index.ts";
import { available, PythonServer } from "./python.ts";

const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");

describe.skipIf(!available).each(["x25519", "x-wing"] as const)("against the Python server, %s", (kem) => {
  let server: PythonServer;
  beforeAll(async () => {
    server = await PythonServer.start(kem);
  }, 60_000);
  afterAll(() => server.stop());

  test.each([0, 1, 1000, 262_100, 262_144, 300_000, 2 << 20])("%i bytes and back", async (size) => {
    const body = new Uint8Array(size).map((_, at) => at * 7);
    const wire: WirePiece[] = [];
    const fetch = sealedFetch(server, { onWire: (piece) => wire.push(piece) });
    const response = await fetch(`${server.baseUrl}/v1/echo?a=b`, { method: "POST", body, headers: { "x-y": "ü" } });
    expect(response.status).toBe(200);
    expect(Buffer.compare(Buffer.from(await response.arrayBuffer()), body)).toBe(0);
    const seen = JSON.parse(Buffer.from(response.headers.get("x-seen") ?? "", "hex").toString());
    expect(seen).toMatchObject({ method: "POST", url: `${server.baseUrl.replace("http:", "https:")}/v1/echo?a=b` });
    expect(seen.headers["x-y"]).toBe("ü");

    const side = (direction: string) => concat(...wire.filter((p) => p.direction === direction).map((p) => p.bytes));
    const exchange = exchangeOf(response);
    expect(exchange.requestSha256).toBe(sha256(side("sent")));
    expect(exchange.responseSha256).toBe(sha256(side("received")));
    const known = (await server.control({})).exchanges.at(-1);
    expect(known).toEqual({
      id: exchange.id,
      name: exchange.name,
      request: exchange.requestSha256,
      response: exchange.responseSha256,
    });
  });

  test("a stream arrives as it is written", async () => {
    const response = await sealedFetch(server)("/v1/events", { method: "POST", body: "5" });
    const arrived: { at: number; piece: Bytes }[] = [];
    for await (const piece of response.body ?? []) arrived.push({ at: performance.now(), piece });
    const lines = text(concat(...arrived.map(({ piece }) => piece))).split("\n");
    expect(lines.filter((line) => line.startsWith("data:"))).toEqual([0, 1, 2, 3, 4].map((n) => `data: ${n} é密态`));
    expect(arrived.length).toBeGreaterThanOrEqual(5);
    expect((arrived.at(-1)?.at ?? 0) - (arrived[0]?.at ?? 0)).toBeGreaterThan(150);
  });

  test("a stream goes up as it is written", async () => {
    const body = new ReadableStream<Bytes>({
      async start(controller) {
        for (const part of ["a".repeat(300_000), "b"]) {
          controller.enqueue(utf8(part));
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        controller.close();
      },
    });
    const response = await sealedFetch(server)("/v1/echo", { method: "PUT", body, duplex: "half" });
    expect((await response.text()).length).toBe(300_001);
    expect((await server.control({})).exchanges.at(-1)?.request).toBe(exchangeOf(response).requestSha256);
  });

  test("an answer that breaks off is an error, not an end", async () => {
    const response = await sealedFetch(server)("/v1/fail");
    await expect(response.text()).rejects.toThrow(expect.objectContaining({ code: "channel.truncated" }));
  });

  test.each([204, 304, 404, 500])("status %i", async (status) => {
    const response = await sealedFetch(server)(`/v1/status/${status}`);
    expect([response.status, await response.text()]).toEqual([status, ""]);
    expect(exchangeOf(response).responseSha256).toBeDefined();
  });

  test("a rotated key is learnt anew, once", async () => {
    server.renewals = 0;
    await server.control({ rotate: true });
    const fetch = sealedFetch(server);
    for (const body of ["one", "two"]) {
      const response = await fetch("/v1/echo", { method: "POST", body });
      expect(await response.text()).toBe(body);
    }
    expect(server.renewals).toBe(1);
  });

  test("a request that is sent twice is refused", async () => {
    const twice: typeof fetch = async (input, init) => {
      await (await fetch(input, init)).arrayBuffer();
      return await fetch(input, init);
    };
    const sending = sealedFetch(server, { fetch: twice })("/v1/echo", { method: "POST", body: "x" });
    await expect(sending).rejects.toThrow(expect.objectContaining({ code: "channel.replayed" }));
  });

  test("a request that was changed on its way is refused, and not sent again", async () => {
    let sent = 0;
    const changing: typeof fetch = async (input, init) => {
      sent += 1;
      const body = new Uint8Array(await new Response(init?.body).arrayBuffer());
      body[body.length - 1] = (body.at(-1) ?? 0) ^ 1;
      return await fetch(input, { ...init, body });
    };
    const sending = sealedFetch(server, { fetch: changing })("/v1/echo", { method: "POST", body: "x" });
    await expect(sending).rejects.toThrow(expect.objectContaining({ code: "channel.keys-changed" }));
    expect(sent).toBe(1);
  });

  test("a clock that differs is told", async () => {
    await server.control({ clock_offset_s: 200 });
    await expect(sealedFetch(server)("/v1/echo")).rejects.toThrow(expect.objectContaining({ code: "channel.date" }));
  });
});
