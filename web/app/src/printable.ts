/**
 * What others wrote, for people to read: what can't be seen, or turns the text around it, is shown by its code point, so
 * that two names which differ also look different, and a text does what it seems to say.
 *
 * Markup can't come of it either: Lit puts it in as text.
 */

const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

export function printable(text: string): string {
  return text.replace(UNSEEN, (found) => `⟨${codePoint(found)}⟩`);
}

/** The code points of what can't be seen in a text, each once. */
export function unseen(text: string): readonly string[] {
  return [...new Set(Array.from(text.matchAll(UNSEEN), ([found]) => codePoint(found)))];
}

function codePoint(character: string): string {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
}
