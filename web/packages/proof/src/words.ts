/**
 * Decoders of tokenizers: the steps by which the texts of tokens become words.
 *
 * Follows docs/spec/proof-answer.md ("Words"); a step does what the decoder of its name in Hugging Face's `tokenizers`
 * does.
 *
 * Invariants:
 * - Special tokens, and those that nobody knows, stay pieces of their own through all steps: no word can pass for one.
 * - What is not known here is refused by its name, and no step makes a text longer.
 *
 * Example: `decodeJson(description, decoder, code, message)([{ kind: "text", text: "ĠTEE" }])` gives `" TEE"`.
 */
import { concat, utf8 } from "@mitai/verify";
import {
  array,
  boolean,
  type Decoder,
  integer,
  type Json,
  nullable,
  oneOf,
  optional,
  pattern,
  string,
  struct,
} from "@mitai/verify/json";
import { refuse } from "./errors.ts";

/** Some words, a special token, or the number of a token that the tokenizer does not have. */
export interface Piece {
  readonly kind: "text" | "special" | "unknown";
  readonly text: string;
}

export type Step = (pieces: readonly Piece[]) => readonly Piece[];

const MAX_STEPS = 16;
const BROKEN = "\ufffd";
const LENIENT = new TextDecoder("utf-8", { ignoreBOM: true });
const STRICT = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

const any = (value: Json): Json => value;
const character = pattern(/^.$/su);
const named = struct({ type: string }, "ignored");
const replace = struct({ type: string, pattern: any, content: character });
const literal = struct({ String: character });
const strip = struct({ type: string, content: character, start: integer(0, 1), stop: integer(0, 0) });
const metaspace = struct({
  type: string,
  replacement: character,
  prepend_scheme: optional(oneOf("always", "first", "never"), "always"),
  add_prefix_space: optional(nullable(boolean), null),
  split: optional(boolean, true),
  str_rep: optional(string, ""),
});
const sequence = struct({ type: string, decoders: array(any, 1, MAX_STEPS) });

/** Reads the description of a decoder. */
export const decoder: Decoder<Step> = (value) => {
  if (value === null) return unsupported("no decoder");
  if (named(value).type !== "Sequence") return stepOf(value, false);
  let fused = false; // all tokens are one text
  const steps = sequence(value).decoders.map((one) => {
    const step = stepOf(one, fused);
    fused ||= ["ByteLevel", "Fuse"].includes(named(one).type);
    return step;
  });
  return (pieces) => steps.reduce((before, step) => step(before), pieces);
};

export function unsupported(what: string): never {
  const hint = "check the proof without words, or show them with: mitai proof verify";
  return refuse("proof.tokenizer-unsupported", `the tokenizer has ${what}, which is not known here`, "tokenizer", hint);
}

function stepOf(value: Json, fused: boolean): Step {
  const { type } = named(value);
  if (type === "Replace") return replaced(value);
  if (type === "Strip") return stripped(value, fused);
  if (fused) return unsupported(`the decoder ${JSON.stringify(type.slice(0, 40))} behind one that joins all tokens`);
  if (type === "ByteLevel") return (pieces) => joined(pieces, (texts) => LENIENT.decode(concat(...texts.map(bytesOf))));
  if (type === "ByteFallback") return fallback;
  if (type === "Fuse") return fuse;
  if (type === "Metaspace") return spaced(value);
  return unsupported(`the decoder ${JSON.stringify(type.slice(0, 40))}`);
}

/** All words between special tokens as one piece. */
export const fuse: Step = (pieces) => joined(pieces, (texts) => texts.join(""));

/** Make one text of each run of words, and of each special token. */
function joined(pieces: readonly Piece[], join: (texts: readonly string[]) => string): readonly Piece[] {
  const done: Piece[] = [];
  let run: string[] = [];
  const flush = () => {
    if (run.length > 0) done.push({ kind: "text", text: join(run) });
    run = [];
  };
  for (const piece of pieces) {
    if (piece.kind === "text") {
      run.push(piece.text);
      continue;
    }
    flush();
    done.push(piece.kind === "special" ? { ...piece, text: join([piece.text]) } : piece);
  }
  flush();
  return done;
}

/** GPT-2's letters for bytes: those that can be seen are themselves, the others follow from U+0100 on. */
const BYTE_OF: ReadonlyMap<string, number> = (() => {
  const seen = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 0x100;
  const letters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(seen(byte) ? byte : next++));
  return new Map(letters.map((letter, byte) => [letter, byte]));
})();

/** The bytes that a token's letters stand for; of a text with another letter, its own. */
function bytesOf(text: string): Uint8Array {
  const bytes = Array.from(text, (letter) => BYTE_OF.get(letter));
  return bytes.every((byte) => byte !== undefined) ? Uint8Array.from(bytes) : utf8(text);
}

/** Make characters of tokens such as `<0xE4>`, as many as follow each other. */
function fallback(pieces: readonly Piece[]): readonly Piece[] {
  const done: Piece[] = [];
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length > 0) done.push({ kind: "text", text: textOf(bytes) });
    bytes = [];
  };
  for (const piece of pieces) {
    const [, digits] = (piece.kind === "text" && /^<0x([0-9a-f]{2})>$/i.exec(piece.text)) || [];
    if (digits) bytes.push(Number.parseInt(digits, 16));
    else {
      flush();
      done.push(piece);
    }
  }
  flush();
  return done;
}

function textOf(bytes: readonly number[]): string {
  try {
    return STRICT.decode(Uint8Array.from(bytes));
  } catch {
    return BROKEN.repeat(bytes.length);
  }
}

function replaced(value: Json): Step {
  const { pattern, content } = replace(value);
  const { String: from } = literal(pattern);
  return (pieces) => pieces.map((piece) => edited(piece, (text) => text.replaceAll(from, () => content)));
}

/** Without the character before each token's text; before the first, where they are one. */
function stripped(value: Json, fused: boolean): Step {
  const { content, start } = strip(value);
  const cut = (text: string) => (start === 1 && text.startsWith(content) ? text.slice(content.length) : text);
  return (pieces) => {
    const first = pieces.findIndex(({ kind, text }) => kind !== "unknown" && text !== "");
    return pieces.map((piece, at) => (!fused || at === first ? edited(piece, cut) : piece));
  };
}

/** SentencePiece's mark is a space; before the first word there is none. */
function spaced(value: Json): Step {
  const { replacement, prependScheme, addPrefixSpace } = metaspace(value);
  if (addPrefixSpace === false && prependScheme !== "never") throw new RangeError("two words about the first space");
  return (pieces) => {
    const first = prependScheme === "never" ? -1 : pieces.findIndex(({ kind }) => kind !== "unknown");
    return pieces.map((piece, at) =>
      edited(piece, (text) => text.replaceAll(replacement, () => (at === first ? "" : " "))),
    );
  };
}

function edited(piece: Piece, edit: (text: string) => string): Piece {
  return piece.kind === "unknown" ? piece : { ...piece, text: edit(piece.text) };
}
