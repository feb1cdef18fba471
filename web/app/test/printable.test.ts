/** Names and policies that look like something else. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { printable, unseen } from "../src/printable.ts";

describe("what others wrote", () => {
  it.each([
    ["mitai-demo", "mitai-demo"],
    ["通义千问 – é ½", "通义千问 – é ½"],
    ["two\n\tlines", "two\n\tlines"],
    ["\u{1f512} \u{20bb7}", "\u{1f512} \u{20bb7}"],
    ["mitai\u200b-demo", "mitai⟨U+200B⟩-demo"],
    ["omed-iatim\u202e", "omed-iatim⟨U+202E⟩"],
    ["\u2066a\u2069\u061c", "⟨U+2066⟩a⟨U+2069⟩⟨U+061C⟩"],
    ["a\u00adb\ufeff\u2028\r\u0000\u009b", "a⟨U+00AD⟩b⟨U+FEFF⟩⟨U+2028⟩⟨U+000D⟩⟨U+0000⟩⟨U+009B⟩"],
    ["a\u3164\u034f\u{e0041}", "a⟨U+3164⟩⟨U+034F⟩⟨U+E0041⟩"],
  ])("%j", (text, shown) => {
    expect(printable(text)).toBe(shown);
    expect(unseen(text).length > 0).toBe(text !== shown);
  });

  it("holds nothing that can't be seen", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(unseen(printable(text))).toEqual([]);
      }),
    );
  });

  it("names each such character once", () => {
    expect(unseen("// \u202e} \u2066// permit\u2069 \u2066\u202e")).toEqual(["U+202E", "U+2066", "U+2069"]);
  });
});
