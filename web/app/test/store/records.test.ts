/** A sealed record opens as what it was sealed as, and nowhere else. */

import { describe, expect, it } from "vitest";
import { openPart, sealRecord } from "../../src/store/records.ts";

const newKey = () => crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt", "decrypt"]);
const damaged = { code: "store.record-damaged" };

describe("openPart", () => {
  it("opens both parts", async () => {
    const key = await newKey();
    const record = await sealRecord(key, "a", 3, { title: "标题" }, [1]);
    expect([await openPart(key, record, "head"), await openPart(key, record, "body")]).toEqual([
      { title: "标题" },
      [1],
    ]);
  });

  it("opens no part as the other, as another record's, as another version's, or with another key", async () => {
    const key = await newKey();
    const record = await sealRecord(key, "a", 3, "head", "body");
    for (const change of [{ head: record.body }, { id: "b" }, { version: 4 }, { id: "", version: 3 }]) {
      await expect(openPart(key, { ...record, ...change }, "head")).rejects.toMatchObject(damaged);
    }
    await expect(openPart(await newKey(), record, "head")).rejects.toMatchObject(damaged);
  });

  it("never seals twice with one nonce", async () => {
    const key = await newKey();
    const sealed = await Promise.all(Array.from({ length: 50 }, () => sealRecord(key, "a", 1, "x", "x")));
    const nonces = sealed.flatMap(({ head, body }) => [head, body].map((bytes) => String(bytes.subarray(0, 12))));
    expect(new Set(nonces).size).toBe(100);
  });

  it.each([undefined, null, 5, "x", [], {}, { id: "a", version: 1.5, head: new Uint8Array(), body: new Uint8Array() }])(
    "refuses %j",
    async (record) => {
      await expect(openPart(await newKey(), record, "head")).rejects.toMatchObject(damaged);
    },
  );
});
