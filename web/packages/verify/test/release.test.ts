import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromBase64 } from "../src/bytes.ts";
import { MitaiError } from "../src/errors.ts";
import { Policy } from "../src/policy.ts";
import { verifyRelease, withReleases } from "../src/release.ts";
import { load } from "./fixtures.ts";

const { bases, settings } = load("evidence");
const MANIFEST = fromBase64(bases.release ?? "");
const POLICY = Policy.fromToml(settings["release plain"].policy);
const NOW = new Date(settings["release plain"].now);

describe("releases", () => {
  test("add what they pin, of TEEs that are known", async () => {
    const pinned = await withReleases(POLICY, [MANIFEST, MANIFEST], NOW);
    expect(pinned.workloads.map(({ name, tee }) => [name, tee])).toEqual([
      ["serve", "tdx"],
      ["serve", "tdx"],
    ]);
    expect(POLICY.workloads).toEqual([]);
    expect(await withReleases(POLICY, [], NOW)).toMatchObject({ workloads: [] });
  });

  test("tell what was built", async () => {
    const [trust] = POLICY.releases;
    const release = await verifyRelease(MANIFEST, trust ?? expect.fail("trust"), NOW);
    expect(release).toMatchObject({ workload: "serve", version: 12, released: NOW, builder: "us", notAfter: null });
  });

  test("of a sigstore identity are not for a browser", async () => {
    const sigstore = `[[releases]]\nworkload="serve"\nsigstore_root="{}"\nsigstore={issuer="i",subject="s"}\n`;
    const policy = Policy.fromToml(sigstore);
    await expect(withReleases(policy, [MANIFEST], NOW)).rejects.toMatchObject({ code: "attest.not-in-browser" });
    const both = Policy.fromToml(`${sigstore}[[releases]]\nworkload="serve"\nkey="${POLICY.releases[0]?.key}"`);
    expect((await withReleases(both, [MANIFEST], NOW)).workloads).toHaveLength(1);
  });

  test("flip any byte: it throws, or pins the same", async () => {
    const digest = await (await withReleases(POLICY, [MANIFEST], NOW)).sha256();
    const puts = fc.oneof(fc.nat(255), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x3d));
    await fc.assert(
      fc.asyncProperty(fc.nat(MANIFEST.length - 1), puts, async (at, byte) => {
        try {
          expect(await (await withReleases(POLICY, [MANIFEST.with(at, byte)], NOW)).sha256()).toBe(digest);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
