/** Work before challenges: as much as Python asks for, and nothing else passes for it. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concat, MitaiError } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { afterEach, describe, expect, test, vi } from "vitest";
import { P } from "../src/field.ts";
import { Answer, checkAnswer, ModelCard } from "../src/index.ts";
import * as soundness from "../src/soundness.ts";
import { Verifier } from "../src/transcript.ts";
import { beforeLookups, beforeOpenings } from "../src/work.ts";
import { FILE, HIDDEN_FILE, python, WORK, withoutPython } from "./fixtures.ts";

const shares = vi.hoisted(() => ({ little: false }));

/** With little shares, as `fixtures_proofs.py worked` has them, small proofs need work, too. */
vi.mock("../src/soundness.ts", async (original) => {
  const exact = await original<typeof soundness>();
  const work: typeof exact.work = (errors, { parts, halvings }) => {
    const lookups = parts === exact.LOOKUPS.parts;
    const little = { parts: P * P, halvings: lookups ? 120n : 108n };
    return exact.work(errors, shares.little ? little : { parts, halvings });
  };
  return { ...exact, work };
});

afterEach(() => {
  shares.little = false;
  vi.restoreAllMocks();
});

function refusal(check: () => unknown): [code: string, step: string] {
  try {
    check();
  } catch (error) {
    if (error instanceof MitaiError) return [error.code, error.step];
    throw error;
  }
  return ["", ""];
}

describe("work", () => {
  test("is as much as Python asks for, at all sizes", () => {
    for (const { lookups, before } of WORK.lookups) {
      const looked = lookups.map(([log, tableLog, width]) => ({
        shapes: [[2 ** log]],
        table: { log: tableLog, width },
      }));
      expect([lookups, beforeLookups(looked)]).toEqual([lookups, before]);
    }
    for (const { opened, before } of WORK.openings) {
      expect([opened, beforeOpenings(opened)]).toEqual([opened, before]);
    }
    expect(WORK.lookups.filter(({ before }) => before.some((bits) => bits > 0)).length).toBeGreaterThan(9);
    expect(WORK.openings.filter(({ before }) => before.some((bits) => bits > 0)).length).toBeGreaterThan(9);
  });

  test("is refused beyond the most that there may be", () => {
    const error = { parts: P * P, halvings: 82n };
    expect(soundness.work([error], soundness.LOOKUPS)).toEqual([20]);
    const more = { parts: P * P + 1n, halvings: 82n };
    expect(refusal(() => soundness.work([more], soundness.LOOKUPS))).toEqual(["proof.too-few-bits", "soundness"]);
  });

  test("counts zeros from the first bit of the hash of what was said before", () => {
    const nonces = Array.from({ length: 4096 }, (_, at) => new Uint8Array(BigUint64Array.of(BigInt(at)).buffer));
    const state = sha256(new TextEncoder().encode("mitai proof transcript v1\0"));
    const label = new TextEncoder().encode("mitai proof work v1\0");
    for (const bits of [1, 5, 8, 9]) {
      const ours = nonces.filter((nonce) => refusal(() => new Verifier(nonce).work(bits))[0] === "");
      const theirs = nonces.filter((nonce) => {
        const hash = sha256(concat(label, state, nonce));
        return Array.from(hash, (byte) => byte.toString(2).padStart(8, "0"))
          .join("")
          .startsWith("0".repeat(bits));
      });
      expect(ours).toEqual(theirs);
      expect(ours.length).toBeGreaterThan(0);
    }
    new Verifier(new Uint8Array()).work(0);
  });

  test.each([FILE, HIDDEN_FILE])("is missed where it was not done", (file) => {
    const answer = Answer.parse(file);
    shares.little = true;
    const [code] = refusal(() => checkAnswer(answer, ModelCard.parse(answer.card).identity));
    expect(code).toBe("proof.work-refuted");
  });
});

test.each([FILE, HIDDEN_FILE])("a proof of too few bits is refused", (file) => {
  const answer = Answer.parse(file);
  const { identity } = ModelCard.parse(answer.card);
  const { bits } = checkAnswer(answer, identity);
  const check = (leastBits: number) => refusal(() => checkAnswer(answer, identity, { leastBits }));
  expect(check(Math.floor(bits))).toEqual(["", ""]);
  expect(check(Math.floor(bits) + 1)).toEqual(["proof.too-few-bits", "soundness"]);
});

test.skipIf(withoutPython)("answers with work hold (skipped without Python)", { timeout: 120_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "mitai-work-"));
  try {
    const all = python(["worked", folder]).map((line) => JSON.parse(line));
    expect(all.map(({ agreed }) => agreed)).toEqual([null, null]);
    for (const { file, identity, bits } of all) {
      const answer = Answer.parse(new Uint8Array(readFileSync(join(folder, file))));
      shares.little = true;
      const asked = vi.spyOn(Verifier.prototype, "work");
      const heard = vi.spyOn(Verifier.prototype, "receiveBytes");
      expect(checkAnswer(answer, identity).bits).toBeCloseTo(bits, 9);
      expect(asked.mock.calls.filter(([work]) => work > 0).length).toBeGreaterThan(8);
      let end = 0;
      const nonces = heard.mock.calls.flatMap(([label, size]) => {
        end += size;
        return label === "work" ? [end - 8] : [];
      });
      vi.restoreAllMocks();
      for (const at of nonces.filter((_, index) => index % 4 === 0)) {
        const proof = answer.proof.slice();
        proof[at + 7] = 0xff;
        expect(refusal(() => checkAnswer({ ...answer, proof } as Answer, identity))[0]).not.toBe("");
      }
      shares.little = false;
      expect(refusal(() => checkAnswer(answer, identity))[0]).not.toBe("");
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
