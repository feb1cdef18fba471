/** What `marked` makes of an answer; what DOMPurify leaves of it is seen in a browser (`e2e`). */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { blocks, MAX_MARKDOWN_LENGTH, MAX_PARAGRAPH_LENGTH } from "../src/markdown.ts";

const html = (text: string) =>
  blocks(text)
    .map((block) => (block.kind === "html" ? block.html : `<code>${block.text}`))
    .join("");

describe("blocks", () => {
  it("are code with its language, and the rest", () => {
    const [text, code] = blocks("**Hi**\n\n```py\nx = 1\n```\n");
    expect(text).toMatchObject({ kind: "html", html: "<p><strong>Hi</strong></p>\n" });
    expect(code).toMatchObject({ kind: "code", language: "py", text: "x = 1" });
  });

  it("are there at once, whatever the text", () => {
    const slow = ["a_", "_a", "__a", "**a", "a*b", "***a", "[a](", "> ", "> - ", "1. ", "a\n-\n", "|a", "`", "<a "];
    for (const part of slow) {
      const text = part.repeat(MAX_MARKDOWN_LENGTH / part.length);
      const begun = performance.now();
      blocks(text);
      expect(performance.now() - begun, part).toBeLessThan(5000);
    }
  });

  it("show a paragraph as it is when it is too long to be read", () => {
    const long = "**a** <b>".repeat(MAX_PARAGRAPH_LENGTH / 9 + 1);
    expect(html(`**A**\n\n${long}\n\n**Z**`)).toBe(
      `<p><strong>A</strong></p>\n<p>${long.replaceAll("<", "&lt;").replaceAll(">", "&gt;")}</p>\n<p><strong>Z</strong></p>\n`,
    );
  });

  it("show HTML as text", () => {
    expect(html("<img src=x onerror=alert(1)>")).not.toMatch(/<img/);
    expect(html("a <b>c</b> <script>alert(1)</script>")).toContain("&lt;b&gt;c&lt;/b&gt;");
  });

  it("make links of images", () => {
    expect(html("![a cat](https://x.example/c.png)")).toBe('<p><a href="https://x.example/c.png">a cat</a></p>\n');
    expect(html('![a"><img src=x>](https://x.example/"onload=y)')).not.toMatch(/<img/);
  });

  it("never hold an element that fetches or runs", () => {
    const part = fc.constantFrom(
      "<",
      ">",
      '"',
      "!",
      "[",
      "]",
      "(",
      ")",
      "img",
      "script",
      "svg",
      " ",
      "\n",
      "`",
      "https://x",
      "&",
      "on",
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 30 }), (parts) => {
        for (const block of blocks(parts.join("")))
          if (block.kind === "html") expect(block.html).not.toMatch(/<(?:img|script|svg|iframe|object|style|link)\b/i);
      }),
      { numRuns: 500 },
    );
  });

  it("before the last one stay the same while an answer grows", () => {
    const text = "# A\n\nfirst\n\n```js\n1\n```\n\nlast";
    const before = blocks(text);
    expect(blocks(`${text} words`).slice(0, -1)).toEqual(before.slice(0, -1));
  });

  it("are plain text when they are too long or too deep", () => {
    expect(blocks("a".repeat(MAX_MARKDOWN_LENGTH + 1))[0]).toMatchObject({ kind: "code" });
    expect(() => blocks("> ".repeat(20_000))).not.toThrow();
    expect(() => blocks("[".repeat(20_000))).not.toThrow();
  });
});
