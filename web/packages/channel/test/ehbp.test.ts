/** The stock `ehbp` client of npm, against the Python server. */

import { createTransport, type Transport } from "ehbp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { available, PythonServer } from "./python.ts";

describe.skipIf(!available)("the stock EHBP client", () => {
  let server: PythonServer;
  let transport: Transport;
  beforeAll(async () => {
    server = await PythonServer.start("x25519");
    transport = await createTransport(server.baseUrl);
  }, 60_000);
  afterAll(() => server.stop());

  test.each([1, 1000, 2 << 20])("%i bytes and back", async (size) => {
    const body = new Uint8Array(size).map((_, at) => at * 7);
    const response = await transport.post(`${server.baseUrl}/v1/echo`, body);
    expect(response.status).toBe(200);
    expect(Buffer.compare(Buffer.from(await response.arrayBuffer()), body)).toBe(0);
  });

  test("events arrive as they are written", async () => {
    const response = await transport.post(`${server.baseUrl}/v1/events`, "4");
    const arrived: number[] = [];
    const pieces: Uint8Array[] = [];
    for await (const piece of response.body ?? []) {
      arrived.push(performance.now());
      pieces.push(piece);
    }
    expect(
      Buffer.concat(pieces)
        .toString()
        .match(/^data: .*$/gm),
    ).toEqual([0, 1, 2, 3].map((n) => `data: ${n} é密态`));
    expect((arrived.at(-1) ?? 0) - (arrived[0] ?? 0)).toBeGreaterThan(100);
  });

  test("a rotated key is told", async () => {
    await server.control({ rotate: true });
    await expect(transport.post(`${server.baseUrl}/v1/echo`, "x")).rejects.toThrow(
      expect.objectContaining({ name: "KeyConfigMismatchError" }),
    );
    transport = await createTransport(server.baseUrl);
    expect(await (await transport.post(`${server.baseUrl}/v1/echo`, "x")).text()).toBe("x");
  });
});
