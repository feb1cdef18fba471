import { expect, test } from "vitest";
import { utf8 } from "../src/bytes.ts";
import { BEGINNING, NO_END, type Verified, VerifiedCache } from "../src/cache.ts";

const NOW = new Date("2026-06-01T12:00:00Z");
let made = 0;

async function make(notBefore = BEGINNING, notAfter = NO_END): Promise<Verified<number>> {
  made += 1;
  return { value: made, notBefore, notAfter };
}

test("verifies once for the same bytes as the same kind", async () => {
  const cache = new VerifiedCache();
  const get = async (kind: string, ...inputs: string[]) => (await cache.get(kind, inputs.map(utf8), NOW, make)).value;
  const first = await get("chain", "ab", "c");
  expect(await get("chain", "ab", "c")).toBe(first);
  const others = [
    await get("list", "ab", "c"),
    await get("chain", "a", "bc"),
    await get("chain", "abc"),
    await get("chain", "ab"),
  ];
  expect(new Set([first, ...others]).size).toBe(5);
});

test("answers inside the window alone", async () => {
  const cache = new VerifiedCache();
  const get = async (now: Date) => (await cache.get("chain", [], now, () => make(NOW, NOW))).value;
  const first = await get(NOW);
  expect(await get(NOW)).toBe(first);
  for (const shift_ms of [-1, 1]) expect(await get(new Date(NOW.getTime() + shift_ms))).not.toBe(first);
});

test("does not remember a refusal", async () => {
  const cache = new VerifiedCache();
  await expect(cache.get("chain", [], NOW, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect((await cache.get("chain", [], NOW, make)).value).toBe(made);
});

test("forgets what was not used for longest", async () => {
  const cache = new VerifiedCache(2);
  const get = async (name: string) => (await cache.get("chain", [utf8(name)], NOW, make)).value;
  const [a, b] = [await get("a"), await get("b")];
  expect(await get("a")).toBe(a);
  await get("c");
  expect(await get("a")).toBe(a);
  expect(await get("b")).not.toBe(b);
});
