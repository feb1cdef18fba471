/** From a card follow the same programs as in the Python package, to the last bit. */
import { hex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ModelCard } from "../src/index.ts";
import { digestOf } from "../src/program.ts";
import { PROGRAMS, python, withoutPython } from "./fixtures.ts";

function ours(card: string, prompt: number, answer: number, drawn = false): string {
  try {
    return hex(digestOf(ModelCard.parse(utf8(card)).program(prompt, answer, drawn)));
  } catch (error) {
    if (error instanceof MitaiError) return error.code;
    throw error;
  }
}

test.each(PROGRAMS)("of model $identity", ({ card, identity, digests }) => {
  expect(ModelCard.parse(utf8(card)).identity).toBe(identity);
  for (const [prompt, answer, drawn, digest] of digests) expect(ours(card, prompt, answer, drawn)).toBe(digest);
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

test.skipIf(withoutPython)("of any card, or the same refusal (skipped without Python)", { timeout: 600_000 }, () => {
  const lengths = [fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 3 })] as const;
  const cases = fc.sample(fc.tuple(changed, ...lengths, fc.boolean()), {
    numRuns: Number(process.env.MITAI_RUNS ?? 40),
  });
  const theirs = python(
    ["programs"],
    cases.map((one) => JSON.stringify(one)),
  );
  expect(theirs.length).toBe(cases.length);
  for (const [at, one] of cases.entries()) expect([one, ours(...one)]).toEqual([one, theirs[at]]);
});
