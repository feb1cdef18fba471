/** From a card follow the same programs as in the Python package, to the last bit. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { hex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ModelCard } from "../src/index.ts";
import { digestOf } from "../src/program.ts";
import { PROGRAMS } from "./fixtures.ts";

const PYTHON = process.env.MITAI_PYTHON ?? fileURLToPath(new URL("../../../../.venv/bin/python", import.meta.url));

function ours(card: string, prompt: number, answer: number): string {
  try {
    return hex(digestOf(ModelCard.parse(utf8(card)).program(prompt, answer)));
  } catch (error) {
    if (error instanceof MitaiError) return error.code;
    throw error;
  }
}

test.each(PROGRAMS)("of model $identity", ({ card, identity, digests }) => {
  expect(ModelCard.parse(utf8(card)).identity).toBe(identity);
  for (const [prompt, answer, digest] of digests) expect(ours(card, prompt, answer)).toBe(digest);
});

test("have at least a token of each, and 4096 together", () => {
  const [first] = PROGRAMS;
  for (const [prompt, answer] of [
    [0, 1],
    [1, 0],
    [4000, 97],
  ] as const)
    expect(ours(first?.card ?? "", prompt, answer)).toBe("proof.statement-invalid");
});

/** A card whose reaches are others, some beyond what makes sense; or of another configuration, or of none. */
const changed = fc
  .tuple(
    fc.constantFrom(...PROGRAMS.map(({ card }) => card)),
    fc.array(fc.tuple(fc.nat(60), fc.oneof(fc.integer({ min: -2, max: 2 }), fc.integer({ min: -70, max: 70 }))), {
      maxLength: 4,
    }),
    fc.option(
      fc.tuple(
        fc.constantFrom(
          "vocab_size",
          "n_head",
          "num_attention_heads",
          "head_dim",
          "rms_norm_eps",
          "rope_theta",
          "mlp_bias",
        ),
        fc.constantFrom<unknown>(0, 1, 2, 3, 50, 2 ** 20, 0.25, 1e-5, -1, null, true, "x"),
      ),
    ),
  )
  .map(([card, reaches, member]) => {
    const parsed = JSON.parse(card);
    const names = Object.keys(parsed.reaches);
    for (const [at, by] of reaches) parsed.reaches[names[at % names.length] ?? ""] += by;
    if (member) parsed.config = JSON.stringify({ ...JSON.parse(parsed.config), [member[0]]: member[1] });
    return JSON.stringify(parsed);
  });

test.skipIf(!existsSync(PYTHON))(
  "of any card, or the same refusal (skipped without Python)",
  { timeout: 600_000 },
  () => {
    const cases = fc.sample(fc.tuple(changed, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 3 })), {
      numRuns: Number(process.env.MITAI_RUNS ?? 40),
    });
    const script = fileURLToPath(new URL("../../../scripts/fixtures_proofs.py", import.meta.url));
    const input = cases.map((one) => JSON.stringify(one)).join("\n");
    const theirs = execFileSync(PYTHON, [script, "programs"], { input }).toString().trim().split("\n");
    expect(theirs.length).toBe(cases.length);
    cases.forEach(([card, prompt, answer], at) => {
      expect([card, prompt, answer, ours(card, prompt, answer)]).toEqual([card, prompt, answer, theirs[at]]);
    });
  },
);
