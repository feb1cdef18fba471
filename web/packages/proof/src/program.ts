/**
 * Integer programs: what a proof says was computed, as a list of operations (docs/spec/proof-programs.md).
 *
 * A program has one encoding, and its digest names it: two programs of one digest are the same operations and tables.
 */
import { utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Packable, pack } from "./msgpack.ts";
import { MEMBERS, type Operation, type Value } from "./operations.ts";

const VERSION = "mitai proof program v1";

/** A public result. */
export interface Output {
  readonly name: string;
  readonly operand: number;
}

/** Operations in the order of computation, what is known of their results, and which come out. */
export interface Program {
  readonly operations: readonly Operation[];
  readonly values: readonly Value[];
  readonly outputs: readonly Output[];
}

function encodeProgram({ operations, outputs }: Program): Uint8Array<ArrayBuffer> {
  return pack(
    new Map<string, Packable>([
      ["v", VERSION],
      ["operations", operations.map(packed)],
      [
        "outputs",
        outputs.map(({ name, operand }) => new Map<string, Packable>(Object.entries({ name, operand, public: true }))),
      ],
    ]),
  );
}

/** SHA-256 over label and encoding: the program's name. */
export function digestOf(program: Program): Uint8Array {
  return sha256
    .create()
    .update(utf8(`${VERSION}\0`))
    .update(encodeProgram(program))
    .digest();
}

function packed(operation: Operation): Packable {
  const members = operation as unknown as Readonly<Record<string, Packable>>;
  return new Map(["op", ...MEMBERS[operation.op]].map((name) => [name, members[name] as Packable]));
}
