/** Bytes and their text forms. Readers are strict: what is not canonical is refused with `RangeError`. */

// Buffers that WebCrypto takes: never shared memory.
export type Bytes = Uint8Array<ArrayBuffer>;

export function concat(...parts: readonly Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Compare public bytes; not in constant time. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

export function utf8(text: string): Bytes {
  return new TextEncoder().encode(text);
}

/** Decode UTF-8 strictly; a byte order mark is kept as a character. */
export function text(data: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw new RangeError("not UTF-8");
  }
}

export function hex(data: Uint8Array): string {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Read lower-case hex. */
export function fromHex(digits: string): Bytes {
  if (digits.length % 2 || !/^[0-9a-f]*$/.test(digits)) throw new RangeError("not lower-case hex");
  return Uint8Array.from({ length: digits.length / 2 }, (_, at) =>
    Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16),
  );
}

export function base64(data: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < data.length; at += 0x8000) binary += String.fromCharCode(...data.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** Read standard base64 with padding; one value has one text. */
export function fromBase64(encoded: string): Bytes {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(encoded)) throw new RangeError("not base64");
  let binary: string;
  try {
    binary = atob(encoded);
  } catch {
    throw new RangeError("not base64");
  }
  if (btoa(binary) !== encoded) throw new RangeError("base64 is not canonical");
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

export async function sha256(...parts: readonly Uint8Array[]): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

export async function sha384(...parts: readonly Uint8Array[]): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-384", concat(...parts)));
}

export async function sha512(...parts: readonly Uint8Array[]): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-512", concat(...parts)));
}
