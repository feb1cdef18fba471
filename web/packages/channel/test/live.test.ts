import { createHash } from "node:crypto";
import { type Bytes, concat, text } from "@mitai/verify";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exchangeOf, sealedFetch, type WirePiece } from "../src/index.ts";
import { available, PythonServer } from "./python.ts";

const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");

describe.skipIf(!available).each(["x25519", "x-wing"] as const)("against the Python server, %s", (kem) => {
  let server: PythonServer;
  beforeAll(async () => {
    server = await PythonServer.start(kem);
  });
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
});
