import { Aes128Gcm, Aes256Gcm } from "@hpke/core";
import { type Bytes, concat, fromHex, MitaiError, utf8 } from "@mitai/verify";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { encodeRequest, varint } from "../src/bhttp.ts";
import { FrameReader, MAX_CHUNK_BYTES } from "../src/frames.ts";
import { KeyConfig, RequestSealer, type ResponseOpener } from "../src/ohttp.ts";
import { paddedSize } from "../src/padding.ts";
import { codeOf, refusal } from "../src/problems.ts";
import { Gateway } from "./gateway.ts";

const HEAD = encodeRequest({ method: "GET", scheme: "https", authority: "a", path: "/", fields: [] }, 0);
const NOTHING = new Uint8Array();
const code = (expected: string) => expect.objectContaining({ code: expected });

/** Open a whole response, fed in pieces of `step` bytes. */
async function openAll(opener: ResponseOpener, wire: Bytes, step = wire.length): Promise<Bytes> {
  const opened: Bytes[] = [];
  for (let at = 0; at < wire.length; at += step || 1)
    for await (const plaintext of opener.feed(wire.slice(at, at + step))) opened.push(plaintext);
  return concat(...opened, await opener.finish());
}

describe("key configurations", () => {
  const X25519 = `07 0020 ${"11".repeat(32)}`;
  const bytes = (digits: string) => fromHex(digits.replaceAll(" ", ""));

  test("what we have is kept, in order", () => {
    const config = KeyConfig.decode(bytes(`${X25519} 0010 0001 0003 0002 0002 0001 0002 0001 0001`));
    expect(config).toMatchObject({ keyId: 7, kem: { id: 0x20 }, aeads: [{ id: 2 }, { id: 1 }] });
    expect(config.publicKey).toEqual(new Uint8Array(32).fill(0x11));
    expect(KeyConfig.decode(bytes(`ff 647a ${"00".repeat(1216)} 0004 0001 0002`)).kem.id).toBe(0x647a);
  });

  test.each([
    ["nothing", "", "unsupported"],
    ["an unknown KEM", `07 0021 ${"11".repeat(32)} 0004 0001 0002`, "unsupported"],
    ["only ChaCha20-Poly1305", `${X25519} 0004 0001 0003`, "unsupported"],
    ["another KDF", `${X25519} 0004 0002 0002`, "unsupported"],
    ["no suites", `${X25519} 0000`, "malformed"],
    ["half a suite", `${X25519} 0002 0001`, "malformed"],
    ["less than it says", `${X25519} 0008 0001 0002`, "malformed"],
    ["trailing bytes", `${X25519} 0004 0001 0002 00`, "malformed"],
    ["a length before it", `0027 ${X25519} 0004 0001 0002`, "unsupported"],
    ["a key that ends early", "07 0020 1111", "malformed"],
    ["a KEM that ends early", "07 20", "malformed"],
  ])("refuses %s", (_, digits, expected) => {
    expect(() => KeyConfig.decode(bytes(digits))).toThrow(code(`channel.key-config-${expected}`));
  });

  test.each(["00".repeat(32), `${"00".repeat(31)}80`, `01${"00".repeat(31)}`])(
    "refuses the point %s",
    async (point) => {
      const config = KeyConfig.decode(bytes(`07 0020 ${point} 0004 0001 0002`));
      await expect(RequestSealer.start(config)).rejects.toThrow(code("channel.key-malformed"));
    },
  );

  test.each(["00".repeat(1216), "ff".repeat(1216)])("refuses a bad X-Wing key", async (key) => {
    const config = KeyConfig.decode(bytes(`07 647a ${key} 0004 0001 0002`));
    await expect(RequestSealer.start(config)).rejects.toThrow(code("channel.key-malformed"));
  });

  test("AES-256-GCM is preferred", async () => {
    const { keyConfig } = await Gateway.create();
    const config = concat(keyConfig.slice(0, 35), bytes("0008 0001 0001 0001 0002"));
    const sealed = await (await RequestSealer.start(KeyConfig.decode(config))).seal(HEAD, true);
    expect(sealed.slice(0, 7)).toEqual(bytes("07 0020 0001 0002"));
  });

  test.each([
    [0, 1],
    [MAX_CHUNK_BYTES - 1, 1],
    [MAX_CHUNK_BYTES, 1],
    [MAX_CHUNK_BYTES + 1, 2],
    [2 * MAX_CHUNK_BYTES, 2],
  ])("a message of %i bytes makes %i chunks", async (size, chunks) => {
    const sealer = await RequestSealer.start(KeyConfig.decode((await Gateway.create()).keyConfig));
    let count = 0;
    for await (const _ of sealer.sealRest(new Uint8Array(size))) count += 1;
    expect(count).toBe(chunks);
  });

  test("any bytes are a configuration or an error", () => {
    const near = fc
      .tuple(fc.uint8Array({ maxLength: 40 }), fc.constantFrom("0020", "647a"))
      .map(([tail, kem]) => concat(Uint8Array.of(1), fromHex(kem), new Uint8Array(kem === "0020" ? 32 : 1216), tail));
    fc.assert(
      fc.property(fc.oneof(near, fc.uint8Array({ maxLength: 60 })), (data) => {
        try {
          expect(KeyConfig.decode(Uint8Array.from(data)).aeads.length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(MitaiError);
        }
      }),
    );
  });
});

describe.each([
  ["x25519", new Aes256Gcm()],
  ["x25519", new Aes128Gcm()],
  ["x-wing", new Aes256Gcm()],
] as const)("sealed streams, %s", (kem, aead) => {
  let gateway: Gateway;
  let sealer: RequestSealer;
  let chunks: Bytes[];
  let wire: Bytes;
  const PLAINTEXTS = ["first", "second", "x".repeat(70), ""].map(utf8);
  beforeAll(async () => {
    gateway = await Gateway.create(7, kem, aead);
    sealer = await RequestSealer.start(KeyConfig.decode(gateway.keyConfig));
    const opened = await gateway.open(await sealer.seal(HEAD, true));
    const seal = await gateway.sealer(opened);
    chunks = [];
    for (const [at, plaintext] of PLAINTEXTS.entries()) chunks.push(await seal(plaintext, at === 3));
    wire = concat(...chunks);
  });

  test("pieces don't matter", async () => {
    for (const step of [1, 2, 15, 16, 17, 33, 100, wire.length])
      expect(await openAll(await sealer.responseOpener(), wire, step)).toEqual(concat(...PLAINTEXTS));
  });

  test("a flipped byte is an error, wherever it is", async () => {
    for (let at = 0; at < wire.length; at++) {
      for (const bad of [(wire[at] ?? 0) ^ 0x01, (wire[at] ?? 0) ^ 0x20, 0, 10, 13, 32, 61]) {
        if (bad === wire[at]) continue;
        const forged = wire.slice();
        forged[at] = bad;
        await expect(openAll(await sealer.responseOpener(), forged)).rejects.toBeInstanceOf(MitaiError);
      }
    }
  });

  test("a cut is an error, wherever it is", async () => {
    for (let end = 0; end < wire.length; end++) {
      const opening = openAll(await sealer.responseOpener(), wire.slice(0, end));
      const inFinal = end >= wire.length - 16;
      await expect(opening).rejects.toThrow(code(inFinal ? "channel.unopenable" : "channel.truncated"));
    }
  });

  test.each([
    ["swapped", [0, 2, 1, 3]],
    ["repeated", [0, 1, 1, 2, 3]],
    ["left out", [0, 2, 3]],
    ["after the end", [0, 1, 2, 3, 1]],
  ])("chunks that are %s are an error", async (_, order) => {
    const forged = concat(...order.map((at) => chunks[at] ?? NOTHING));
    await expect(openAll(await sealer.responseOpener(), forged)).rejects.toThrow(code("channel.unopenable"));
  });

  test("an answer to another request does not open", async () => {
    const other = await RequestSealer.start(KeyConfig.decode(gateway.keyConfig));
    await expect(openAll(await other.responseOpener(), wire)).rejects.toThrow(code("channel.unopenable"));
  });

  test("after an error an opener stays broken", async () => {
    const opener = await sealer.responseOpener();
    const forged = wire.slice();
    forged[40] = (forged[40] ?? 0) ^ 1;
    await expect(openAll(opener, forged)).rejects.toThrow(code("channel.unopenable"));
    await expect(openAll(opener, wire)).rejects.toThrow(code("channel.unopenable"));
    await expect(opener.finish()).rejects.toThrow(code("channel.truncated"));
  });

  test("after its end an opener takes nothing more", async () => {
    const opener = await sealer.responseOpener();
    await openAll(opener, wire);
    await expect(opener.finish()).rejects.toThrow(code("channel.truncated"));
    await expect(openAll(opener, wire)).rejects.toThrow(code("channel.unopenable"));
  });

  test("an empty chunk that is not the final one is an error", async () => {
    const seal = await gateway.sealer(await gateway.open(await freshRequest()));
    await expect(openAll(await sealer.responseOpener(), await seal(NOTHING))).rejects.toThrow(
      code("channel.unopenable"),
    );
  });

  /** A further request of a fresh sealer, which then is the one to open with. */
  async function freshRequest(): Promise<Bytes> {
    sealer = await RequestSealer.start(KeyConfig.decode(gateway.keyConfig));
    return await sealer.seal(HEAD, true);
  }
});

describe("frames", () => {
  const frame = (size: number) => concat(varint(size), new Uint8Array(size).fill(size));

  test("pieces don't matter", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 300 }), { maxLength: 5 }),
        fc.integer({ min: 1, max: 400 }),
        fc.uint8Array({ maxLength: 50 }),
        (sizes, step, final) => {
          const wire = concat(...sizes.map(frame), Uint8Array.of(0), final);
          const reader = new FrameReader();
          const frames: Bytes[] = [];
          for (let at = 0; at < wire.length; at += step)
            for (const one of reader.feed(wire.slice(at, at + step))) frames.push(one.slice());
          expect(frames.map(({ length }) => length)).toEqual(sizes);
          expect(frames.every((one) => one.every((byte) => byte === one.length % 256))).toBe(true);
          expect(reader.finish()).toEqual(Uint8Array.from(final));
        },
      ),
    );
  });

  test.each([MAX_CHUNK_BYTES + 17, 2 ** 31, 2 ** 53 - 1])("a frame of %i bytes is refused at its length", (size) => {
    expect(() => [...new FrameReader().feed(varint(size))]).toThrow(code("channel.too-large"));
  });

  test("the largest frame is taken, whole or split, also as the final one", () => {
    const size = MAX_CHUNK_BYTES + 16;
    for (const wire of [concat(varint(size), new Uint8Array(size)), concat(Uint8Array.of(0), new Uint8Array(size))]) {
      const reader = new FrameReader();
      const frames = [0, 1, 2].flatMap((at) => [...reader.feed(wire.slice(at * 100_000, (at + 1) * 100_000))]);
      expect(frames[0]?.length ?? reader.finish().length).toBe(size);
    }
    const reader = new FrameReader();
    expect(() => [...reader.feed(new Uint8Array(size + 2))]).toThrow(code("channel.too-large"));
  });
});

describe("padding", () => {
  test.each([
    [0, 1024],
    [1024, 1024],
    [1025, 1088],
    [10_000, 10_240],
    [1_000_000, 1_015_808],
    [2 ** 31 + 1, 2 ** 31 + 2 ** 26],
  ])("%i becomes %i", (size, padded) => expect(paddedSize(size)).toBe(padded));

  test("it never shrinks, is at most 12 % more, and padding again changes nothing", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1025, max: 2 ** 40 }), (size) => {
        const padded = paddedSize(size);
        expect(padded).toBeGreaterThanOrEqual(size);
        expect(padded).toBeLessThanOrEqual(size * 1.12);
        expect(paddedSize(padded)).toBe(padded);
      }),
    );
  });
});

describe("problem documents", () => {
  const TYPE = "https://iana.org/assignments/http-problem-types#ohttp-key";
  test.each([
    [{ type: TYPE }, "channel.keys-changed"],
    [{ type: TYPE, code: "channel.busy" }, "channel.keys-changed"],
    [{ code: "channel.keys-changed" }, "channel.keys-changed"],
    [{ code: "channel.busy", status: 503, more: [1] }, "channel.busy"],
    [{ code: 7 }, ""],
    [{ code: "channel.busy", status: "x" }, ""],
    [{ code: "channel.busy", title: null }, ""],
    [[], ""],
    ["channel.busy", ""],
    [null, ""],
  ])("%j", (problem, expected) => expect(codeOf(utf8(JSON.stringify(problem)))).toBe(expected));

  test("anything else has no code", () => {
    fc.assert(
      fc.property(fc.uint8Array(), (body) => {
        expect(typeof codeOf(Uint8Array.from(body))).toBe("string");
      }),
    );
    expect(codeOf(utf8("[".repeat(20_000)))).toBe("");
    expect(codeOf(fromHex("efbbbf7b7d"))).toBe("");
    expect(codeOf(utf8('{"__proto__": {"code": "channel.busy"}}'))).toBe("");
  });

  test.each([
    ["channel.keys-changed", "channel.keys-changed"],
    ["channel.replayed", "channel.replayed"],
    ["channel.date", "channel.date"],
    ["channel.too-large", "channel.too-large"],
    ["channel.unopenable", "channel.refused"],
    ["", "channel.refused"],
    ["constructor", "channel.refused"],
  ])("%j is refused as %s", (given, expected) => expect(refusal(given, 400).code).toBe(expected));
});
