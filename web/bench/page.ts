/**
 * The page of the benchmarks: the packages that the chat uses, with a clock around them. `run.mjs` drives it.
 *
 * Never shipped; built like the chat (minified, the same target), so that the same code runs.
 */
import { type Peer, sealedFetch } from "@mitai/channel";
import { withOffered } from "@mitai/client";
import { Answer, checkAnswer } from "@mitai/proof";
import { Evidence, fromBase64, Policy, utf8, verify } from "@mitai/verify";

export interface Subject {
  /** The evidence's bytes and its nonce, in base64. */
  readonly evidence: string;
  readonly nonce: string;
  readonly policy: string;
  readonly releases: readonly string[];
}

/** One verification as a session does it once the evidence has arrived: parse, take in the releases, verify. */
async function verifyOnce({ evidence, nonce, policy, releases }: Subject) {
  const [bytes, ours, pinned] = [fromBase64(evidence), fromBase64(nonce), Policy.fromToml(policy)];
  const offered = releases.map(utf8);
  const now = new Date();
  const start = performance.now();
  const decoded = Evidence.decode(bytes);
  const trusted = await withOffered(pinned, offered, now);
  const appraisal = await verify(decoded, trusted, { nonce: ours, now });
  return { ms: performance.now() - start, evidenceSha256: appraisal.evidenceSha256 };
}

/** One check of an answer with a proof, from the file's bytes (base64); the page does it in a worker. */
function verifyProof(file: string, model: string) {
  const bytes = fromBase64(file);
  const start = performance.now();
  const { bits } = checkAnswer(Answer.parse(bytes), model);
  return { ms: performance.now() - start, bits };
}

export interface Ask {
  readonly plain: string;
  readonly sealed: string;
  /** The key configuration of the sealed address, in base64: what a verification would have given. */
  readonly keyConfig: string;
  readonly body: string;
}

/** Milliseconds to the first token, in plaintext and sealed, one after the other. */
async function firstTokens({ plain, sealed, keyConfig, body }: Ask, sealedFirst: boolean) {
  const key = fromBase64(keyConfig);
  const peer: Peer = {
    baseUrl: sealed,
    keyConfig: async () => key,
    replica: () => undefined,
    renew: () => Promise.reject(new Error("the server's key changed during the benchmark")),
  };
  const path = "/v1/chat/completions";
  const init = { method: "POST", headers: { "content-type": "application/json" }, body };
  const sides = {
    plain: () => timed(() => fetch(plain + path, { ...init, cache: "no-store", credentials: "omit" })),
    sealed: () => timed(() => sealedFetch(peer)(sealed + path, init)),
  };
  const times: Record<string, number> = {};
  for (const side of sealedFirst ? (["sealed", "plain"] as const) : (["plain", "sealed"] as const))
    times[side] = await sides[side]();
  return times;
}

/** The milliseconds to the first piece of the answer's text; the answer is read to its end. */
async function timed(ask: () => Promise<Response>): Promise<number> {
  const start = performance.now();
  const answer = await ask();
  const reader = answer.body?.getReader();
  if (answer.status !== 200 || !reader) throw new Error(`status ${answer.status}: ${await answer.text()}`);
  const words = new TextDecoder();
  let first: number | undefined;
  let head = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    if (first !== undefined) continue;
    head += words.decode(piece.value, { stream: true });
    if (head.includes('"content"')) first = performance.now() - start;
  }
  if (first === undefined) throw new Error(`an answer without words: ${head.slice(0, 200)}`);
  return first;
}

export interface Bench {
  readonly verifyOnce: typeof verifyOnce;
  readonly firstTokens: typeof firstTokens;
  readonly verifyProof: typeof verifyProof;
}

declare global {
  var bench: Bench;
}
globalThis.bench = { verifyOnce, firstTokens, verifyProof };
