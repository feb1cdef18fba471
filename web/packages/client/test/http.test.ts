/** Answers of strangers: bounded in size and time, and errors that say no more than they should. */

import { MitaiError, utf8 } from "@mitai/verify";
import { afterEach, describe, expect, it, vi } from "vitest";
import { errorFrom, get, refusal } from "../src/http.ts";

const URL_ = "http://gateway.test/x";
const answers = (response: Response) => async () => response;
const refused = (promise: Promise<unknown>) => expect(promise).rejects;

describe("get", () => {
  afterEach(() => vi.useRealTimers());

  it("sends nothing along, follows no redirect and keeps nothing", async () => {
    const fetcher = vi.fn(answers(new Response("ok")));
    await get(fetcher, URL_, 10);
    expect(fetcher).toHaveBeenCalledWith(
      URL_,
      expect.objectContaining({
        credentials: "omit",
        redirect: "error",
        cache: "no-store",
        referrerPolicy: "no-referrer",
      }),
    );
  });

  it.each([
    [10, "0123456789"],
    [9, undefined],
  ])("reads up to %i bytes", async (limit, expected) => {
    const { body } = await get(answers(new Response("0123456789")), URL_, limit);
    expect(body && new TextDecoder().decode(body)).toBe(expected);
  });

  it("stops an endless body soon after the limit", async () => {
    let sent = 0;
    const endless = new ReadableStream({
      pull: (controller) => {
        sent++;
        controller.enqueue(new Uint8Array(1000));
      },
    });
    expect((await get(answers(new Response(endless)), URL_, 10_000)).body).toBeUndefined();
    expect(sent).toBeLessThan(15);
  });

  it("says that a server is gone", async () => {
    const gone = () => Promise.reject(new TypeError("fetch failed"));
    await refused(get(gone, URL_, 10)).toMatchObject({
      code: "client.unreachable",
      hint: expect.stringContaining("?"),
    });
  });

  const hanging: typeof fetch = (_, init) =>
    new Promise((_resolve, reject) => init?.signal?.addEventListener("abort", () => reject(init.signal?.reason)));

  it("waits 30 s for an answer to begin", async () => {
    vi.useFakeTimers();
    const answer = refused(get(hanging, URL_, 10)).toMatchObject({ code: "client.timeout" });
    await vi.advanceTimersByTimeAsync(30_000);
    await answer;
  });

  it("does not wait for ever for a body that drips", async () => {
    vi.useFakeTimers();
    const drip: typeof fetch = async (_, init) => {
      let timer: ReturnType<typeof setInterval>;
      const body = new ReadableStream({
        start: (controller) => {
          timer = setInterval(() => controller.enqueue(new Uint8Array(1)), 1000);
          init?.signal?.addEventListener("abort", () => {
            clearInterval(timer);
            controller.error(init.signal?.reason);
          });
        },
      });
      return new Response(body);
    };
    const answer = refused(get(drip, URL_, 1000)).toMatchObject({ code: "client.timeout" });
    await vi.advanceTimersByTimeAsync(121_000);
    await answer;
  });

  it("ends with the caller's reason when the caller ends it", async () => {
    const stop = new AbortController();
    const answer = refused(get(hanging, URL_, 10, stop.signal)).toThrow("enough");
    stop.abort(new Error("enough"));
    await answer;
  });
});

describe("errors", () => {
  const problem = (members: unknown) => errorFrom(503, utf8(JSON.stringify(members)), "client.no-evidence", "it");

  it("is what a problem document says", () => {
    const error = problem({ type: "about:blank", status: 503, code: "workload.busy", detail: "wait", hint: "a bit" });
    expect(error).toBeInstanceOf(MitaiError);
    expect([error.code, error.message, error.hint]).toEqual(["workload.busy", "wait", "a bit"]);
  });

  it.each([
    [{}],
    [[]],
    [null],
    [{ code: 5 }],
    [{ code: null }],
    [{ code: "a", detail: 5 }],
    [{ code: "a", status: "5" }],
    [{ code: "a", hint: {} }],
  ])("is the fallback for %j", (members) => {
    expect([problem(members).code, problem(members).message]).toEqual([
      "client.no-evidence",
      "it answered with status 503",
    ]);
  });

  it("never shows control characters, nor more than a few lines", () => {
    const error = problem({ code: "a\u001b[31m\n", detail: "x\u202e\u2028".repeat(1000), hint: "\u0000" });
    expect(error.code).toBe("a[31m");
    expect(error.message).toMatch(/^x{100,500}$/);
    expect(error.hint).toBe("");
  });

  it("takes OpenAI's form", () => {
    const body = utf8('{"error":{"message":"too long","type":"x","param":null,"code":"context_length_exceeded"}}');
    expect(refusal(400, body)).toMatchObject({ code: "context_length_exceeded", message: "too long" });
  });

  it.each([["not JSON"], ['{"error":"no"}'], ["{}"], ['{"error":{"code":7}}'], ["\uffff"]])(
    "takes %s as no reason",
    (body) => {
      expect(refusal(500, utf8(body))).toMatchObject({
        code: "client.refused",
        message: "the server answered with status 500",
      });
    },
  );
});
