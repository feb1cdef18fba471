import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { hexdump } from "../src/components/bytes-view.ts";
import { strings } from "../src/i18n.ts";
import { plainly } from "../src/strings/failures.ts";
import { explain, stepName } from "../src/strings/steps.ts";

const root = new URL("../../../", import.meta.url);

describe("strings", () => {
  it("take values as text, once", () => {
    const t = strings({ en: { a: "{x} and {y}" }, zh: { a: "{y}" } });
    expect(t("a", { x: "{y}", y: 2 })).toBe("{y} and 2");
    expect(t("a", {})).toBe("{x} and {y}");
  });

  it.each(["chat", "keeping", "proof", "proven"])("of %s have the same values in both languages", async (name) => {
    const source = readFileSync(new URL(`web/app/src/strings/${name}.ts`, root), "utf8");
    const [, en = "", zh = ""] = source.split(/^ {2}(?:en|zh): \{$/m);
    const values = (table: string) =>
      Object.fromEntries(
        [...table.matchAll(/^ {4}(\w+):\s+"([^"\n]*)",$/gm)].map(([, key, text]) => [
          key,
          [...new Set(text?.match(/\{\w+\}/g))].sort(),
        ]),
      );
    expect(Object.keys(values(en)).length).toBeGreaterThan(20);
    expect(values(zh)).toEqual(values(en));
  });
});

describe("failures in plain words", () => {
  it("are those of the longest beginning that is known", () => {
    expect(plainly("attest.measurement-mismatch", "en").what).toBe("Another program runs there.");
    expect(plainly("attest.quote-signature-invalid", "en").what).toBe("The machine's evidence does not hold.");
    expect(plainly("nonsense", "en").what).toBe("Something went wrong.");
    expect(plainly("__proto__", "zh").what).toBe("出现了问题。");
  });

  it("exist for every code of the parts that the page uses", () => {
    const codes = readFileSync(new URL("docs/errors.md", root), "utf8").matchAll(
      /^\| `((?:attest|broker|channel|identity|ledger|proof|serve)\.[^`]+)`/gm,
    );
    const unknown = [...codes]
      .map(([, code = ""]) => code)
      .filter((code) => plainly(code, "en").what === "Something went wrong.");
    expect(unknown).toEqual([]);
  });
});

describe("steps", () => {
  const python = new URL("src/mitai/attest/explain.py", root);

  it.skipIf(!existsSync(python))("of Intel's and AMD's machines are explained as Python explains them", () => {
    const source = readFileSync(python, "utf8");
    const own = source.slice(source.indexOf("# Any evidence"), source.indexOf("# AWS Nitro"));
    const names = [...own.matchAll(/^ {4}"([^"]+)":/gm)].map(([, name = ""]) => name);
    const ours = names.filter((name) => name !== "second opinion"); // Python's alone
    expect(ours.length).toBeGreaterThan(15);
    expect(ours.filter((name) => explain("", name) === "")).toEqual([]);
  });

  it("have names", () => {
    expect(stepName("tdx", "5 platform")).toBe("Platform");
    expect(explain("tdx", "5 platform")).toContain("Intel");
    expect(explain("tdx", "5 constructor")).toBe("");
  });
});

describe("a hexdump", () => {
  it("shows offset, bytes and characters", () => {
    expect(hexdump(new TextEncoder().encode("mitai\n<b>"))).toBe(
      "00000  6d 69 74 61 69 0a 3c 62  mitai·<b\n00008  3e                       >",
    );
  });
});
