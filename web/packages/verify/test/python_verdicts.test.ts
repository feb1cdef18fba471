/** The same verdict, code and result as the Python package, on every input of the fixtures. */

import { describe, expect, test } from "vitest";
import { fromHex, hex, text } from "../src/bytes.ts";
import { VerifiedCache } from "../src/cache.ts";
import { PublicKey } from "../src/dsse.ts";
import { checkRtmrLog } from "../src/eventlog.ts";
import { Claims, Evidence } from "../src/evidence.ts";
import { decodeEntry } from "../src/ledger/entry.ts";
import { verifyCheckpoint } from "../src/ledger/note.ts";
import { ReceiptBundle, verifyReceipt } from "../src/ledger/receipt.ts";
import { Policy } from "../src/policy.ts";
import { withReleases } from "../src/release.ts";
import { verify } from "../src/verify.ts";
import { compare, load } from "./fixtures.ts";

describe("of evidence", () => {
  const fixtures = load("evidence");

  test("claims", async () => {
    expect(await compare(fixtures, "claims", (data) => Claims.decode(data).workload)).toBeGreaterThan(250);
  });

  test("policies, and their digests", async () => {
    expect(await compare(fixtures, "policy", (data) => Policy.fromToml(text(data)).sha256())).toBeGreaterThan(500);
  });

  test("evidence under policies, nonces and times", async () => {
    const cache = new VerifiedCache();
    const runs = await compare(fixtures, "evidence", async (data, { policy, nonce, now }) => {
      const options = { nonce: fromHex(nonce), now: new Date(now), cache };
      return (await verify(Evidence.decode(data), Policy.fromToml(policy), options)).evidenceSha256;
    });
    expect(runs).toBeGreaterThan(500);
  });

  test("releases", async () => {
    const runs = await compare(fixtures, "release", async (data, { policy, now }) =>
      (await withReleases(Policy.fromToml(policy), [data], new Date(now))).sha256(),
    );
    expect(runs).toBeGreaterThan(150);
  });

  test("event logs", async () => {
    const runs = await compare(fixtures, "log", async (data, { policy, rtmrs }) => {
      const facts = await checkRtmrLog(data, rtmrs.map(fromHex), Policy.fromToml(policy).eventLog);
      return JSON.stringify(Object.fromEntries(facts));
    });
    expect(runs).toBeGreaterThan(300);
  });
});

describe("of the ledger", () => {
  const fixtures = load("ledger");

  test("checkpoints", async () => {
    const runs = await compare(fixtures, "note", async (data, { vkey, witnesses, threshold }) => {
      const { size, root, cosignatures } = await verifyCheckpoint(data, vkey, witnesses, threshold);
      return JSON.stringify([String(size), hex(root), cosignatures.map(({ timeS }) => Number(timeS))]);
    });
    expect(runs).toBeGreaterThan(250);
  });

  test("entries", async () => {
    expect(await compare(fixtures, "entry", (data) => decodeEntry(data).time)).toBeGreaterThan(300);
  });

  test("receipts", async () => {
    const runs = await compare(fixtures, "receipt", async (data, setting) => {
      const receipt = await verifyReceipt(ReceiptBundle.decode(data), {
        receiptKey: new PublicKey(fromHex(setting.receipt_key)),
        ledgerVkey: setting.ledger_vkey,
        requestSha256: setting.request_sha256 ?? undefined,
        responseSha256: setting.response_sha256 ?? undefined,
        witnesses: setting.witnesses,
        threshold: setting.threshold,
      });
      return receipt.exchange;
    });
    expect(runs).toBeGreaterThan(250);
  });
});
