/** The console signs the very bytes that the Python client signs; `tests/interop/test_web_owner.py` wrote the file. */
import { readFileSync } from "node:fs";
import { fromHex, PublicKey, text } from "@mitai/verify";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { audience, commandRequest, Identity, type Order, queryHeader } from "../src/console/signing.ts";

interface Vectors {
  readonly identity_pem: string;
  readonly key_id: string;
  readonly ledger_key: string;
  readonly audience: string;
  readonly sequence: number;
  readonly time_s: number;
  readonly commands: Readonly<Record<string, { readonly order: Order; readonly body: string }>>;
  readonly queries: Readonly<Record<string, string>>;
}

const vectors: Vectors = JSON.parse(readFileSync(new URL("vectors/owner.json", import.meta.url), "utf8"));
const addressed = { broker: vectors.audience, sequence: vectors.sequence, timeS: vectors.time_s };

describe("what an owner signs", () => {
  it("names the broker by its ledger's key", async () => {
    expect(await audience(new PublicKey(fromHex(vectors.ledger_key)))).toBe(vectors.audience);
  });

  it.each(Object.entries(vectors.commands))("%s: the same bytes as Python's", async (_, { order, body }) => {
    const identity = await Identity.open(vectors.identity_pem);
    expect(identity.keyId).toBe(vectors.key_id);
    expect(text(await commandRequest(identity, order, addressed))).toBe(body);
  });

  it.each(Object.entries(vectors.queries))("a query for %s: the same bytes as Python's", async (target, header) => {
    expect(await queryHeader(await Identity.open(vectors.identity_pem), target, addressed)).toBe(header);
  });
});

describe("limits", () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY, -1, 0.5, 2 ** 53 + 2])(
    "%s is never signed as no limit",
    async (limit) => {
      const identity = await Identity.open(vectors.identity_pem);
      const none = { uses: null, not_after_s: null };
      for (const budget of [
        { ...none, uses: limit },
        { ...none, not_after_s: limit },
      ]) {
        const order = {
          type: "set-policy",
          capsule: "c",
          policy: "permit(principal, action, resource);",
          budget,
        } as const;
        await expect(commandRequest(identity, order, addressed)).rejects.toMatchObject({ code: "broker.malformed" });
      }
    },
  );
});

describe("key files", () => {
  it("takes the line ends of other systems", async () => {
    const file = `\r\n${vectors.identity_pem.replaceAll("\n", "\r\n")}\r\n`;
    expect((await Identity.open(file)).keyId).toBe(vectors.key_id);
  });

  it("keeps a key that can't be read out", async () => {
    const identity = await Identity.open(vectors.identity_pem);
    expect(JSON.stringify(identity)).not.toContain(vectors.identity_pem.split("\n")[1]);
    const key: unknown = Reflect.get(identity, "key");
    if (!(key instanceof CryptoKey)) throw new TypeError("no key");
    await expect(crypto.subtle.exportKey("pkcs8", key)).rejects.toThrow();
    await expect(crypto.subtle.exportKey("jwk", key)).rejects.toThrow();
  });

  it.each([
    ["nothing", ""],
    ["no PEM", "MC4CAQAwBQYDK2VwBCIEIAABAgME"],
    ["a public key", vectors.identity_pem.replaceAll("PRIVATE", "PUBLIC")],
    ["an encrypted key", vectors.identity_pem.replaceAll("PRIVATE", "ENCRYPTED PRIVATE")],
    ["two keys", vectors.identity_pem + vectors.identity_pem],
    ["another curve", vectors.identity_pem.replace("K2Vw", "K2Vx")],
    ["a longer key", vectors.identity_pem.replace(/(?=\n-----END)/, "AAAA")],
    ["too much", vectors.identity_pem + " ".repeat(5000)],
  ])("refuses %s", async (_, file) => {
    await expect(Identity.open(file)).rejects.toMatchObject({ code: "identity.key-malformed" });
  });

  it("refuses any other text", async () => {
    const files = fc.oneof(
      fc.string(),
      fc.base64String().map((body) => vectors.identity_pem.replace(/\n.*\n/, body)),
    );
    await fc.assert(
      fc.asyncProperty(files, async (file) => {
        await expect(Identity.open(file)).rejects.toMatchObject({ code: "identity.key-malformed" });
      }),
    );
  });
});
