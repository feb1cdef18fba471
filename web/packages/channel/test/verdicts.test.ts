/** Both packages give the same value or the same error code for the same bytes. */

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type Bytes, concat, fromHex, hex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Decoder, encodeResponse, type Field, varint } from "../src/bhttp.ts";
import { KeyConfig } from "../src/ohttp.ts";
import { codeOf, refusal } from "../src/problems.ts";
import { available, PYTHON } from "./python.ts";

const PARSERS = {
  response(data: Bytes) {
    const decoder = new Decoder("response");
    const events = [...decoder.feed(data), ...decoder.finish()];
    return {
      heads: events.flatMap((event) => (event.kind === "response" ? [[event.head.status, event.head.fields]] : [])),
      trailers: events.flatMap((event) => (event.kind === "trailers" ? [event.fields] : [])),
      content: hex(concat(...events.flatMap((event) => (event.kind === "content" ? [event.piece] : [])))),
    };
  },
  config(data: Bytes) {
    const { keyId, kem, publicKey, aeads } = KeyConfig.decode(data);
    return [keyId, kem.id, hex(publicKey), aeads.map(({ id }) => id)];
  },
  problem: (data: Bytes) => refusal(codeOf(data), 400).code,
};
type Parser = keyof typeof PARSERS;

function ourVerdict(parser: Parser, data: Bytes): unknown {
  try {
    return PARSERS[parser](data);
  } catch (error) {
    if (error instanceof MitaiError) return error.code;
    throw error;
  }
}

const bytes = fc.uint8Array({ maxLength: 60 }).map((data) => Uint8Array.from(data));
const edited = (data: Bytes) =>
  fc
    .tuple(
      fc.nat(data.length),
      fc.nat(3),
      fc.oneof(
        bytes,
        fc.constantFrom(0, 10, 13, 32, 61).map((b) => Uint8Array.of(b)),
      ),
    )
    .map(([at, removed, inserted]) => concat(data.subarray(0, at), inserted, data.subarray(at + removed)));

const field = fc.tuple(fc.stringMatching(/^[a-zA-Z:-]{0,8}$/), fc.stringMatching(/^[ -~\u00ff]{0,70}$/));
const response = fc
  .record({
    status: fc.oneof(fc.constantFrom(99, 100, 103, 200, 599, 600), fc.nat(2 ** 20)),
    fields: fc.oneof(
      fc.array(field, { maxLength: 4 }),
      fc.constantFrom(127, 128, 129).map((n): Field[] => Array(n).fill(["a", "b"])),
    ),
    content: fc.oneof(
      bytes,
      fc.constantFrom(63, 64, 16_384).map((size) => new Uint8Array(size)),
    ),
    known: fc.boolean(),
    value: fc.constantFrom(...Array(20).fill(0), 65_300, 65_535, 65_536),
    tail: fc.oneof(fc.constant(new Uint8Array(3)), bytes),
  })
  .chain(({ status, fields, content, known, value, tail }) => {
    const all: Field[] = value ? [...fields, ["v", "x".repeat(value)]] : fields;
    const head = encodeResponse({ status, fields: all }, known ? content.length : undefined);
    const whole = concat(head, known ? content : concat(varint(content.length), content), tail);
    return fc.oneof(
      fc.constant(whole),
      edited(whole),
      fc.nat(whole.length).map((end) => whole.slice(0, end)),
    );
  });
const CONFIGS = [`070020${"11".repeat(32)}000c000100020001000300010001`, `ff647a${"22".repeat(1216)}000400010002`];
const config = fc.constantFrom(...CONFIGS).chain((digits) => edited(fromHex(digits)));
const member = fc.constantFrom<unknown>(
  "channel.busy",
  "channel.date",
  "about:blank",
  "https://iana.org/assignments/http-problem-types#ohttp-key",
  "",
  400,
  1.5,
  null,
  true,
  [],
);
// ASCII only: Python skips what is not UTF-8 where no member of ours is; the code in it is a hint either way.
const problem = fc
  .dictionary(fc.constantFrom("type", "title", "status", "code", "detail", "hint", "x"), member)
  .chain((document) => fc.oneof(fc.constant(utf8(JSON.stringify(document))), edited(utf8(JSON.stringify(document)))))
  .map((data) => data.map((byte) => byte & 0x7f));

const RUNS = Number(process.env.MITAI_RUNS ?? 300);

test.skipIf(!available)("as the Python package (skipped without it)", { timeout: 600_000 }, () => {
  const inputs: [Parser, Bytes][] = [
    ...fc.sample(fc.oneof(bytes, response), RUNS).map((data): [Parser, Bytes] => ["response", data]),
    ...fc.sample(fc.oneof(bytes, config), RUNS).map((data): [Parser, Bytes] => ["config", data]),
    ...fc.sample(problem, RUNS).map((data): [Parser, Bytes] => ["problem", data]),
  ];
  const lines = inputs.map(([parser, data]) => JSON.stringify([parser, hex(data)])).join("\n");
  const script = fileURLToPath(new URL("verdicts.py", import.meta.url));
  const answers = execFileSync(PYTHON, [script], { input: lines, maxBuffer: 1 << 30 })
    .toString()
    .trim()
    .split("\n");
  expect(answers.length).toBe(inputs.length);
  for (const [at, [parser, data]] of inputs.entries()) {
    const [ours, theirs] = [JSON.stringify(ourVerdict(parser, data)), JSON.stringify(JSON.parse(answers[at] ?? ""))];
    if (ours !== theirs) expect([parser, hex(data), ours]).toEqual([parser, hex(data), theirs]);
  }
});
