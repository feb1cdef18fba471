/** A server whose evidence is a line of JSON, and a verifier that believes it: for tests of all that is around them. */

// Not from the package, which the tests replace by what is here.
import { type Bytes, text, utf8 } from "../../verify/src/bytes.ts";
import { MitaiError } from "../../verify/src/errors.ts";
import type { Fetch } from "../src/http.ts";

export interface Said {
  workload?: string;
  nonce: string;
  key: number;
  notAfter?: string;
}

/** What stands in for the parts of `@mitai/verify` that need real evidence. */
export const believing = {
  Evidence: { decode: (data: Bytes): Said => JSON.parse(text(data)) },
  withReleases: async (policy: object, releases: readonly Bytes[]) => ({ ...policy, given: releases }),
  verify: async (said: Said, policy: object, { nonce }: { nonce: Bytes }) => {
    if (said.nonce !== String(nonce)) throw new MitaiError("attest.nonce-mismatch", "another nonce", "", "2 nonce");
    return {
      policy,
      workload: said.workload ?? "serve",
      simulated: true,
      notAfter: new Date(said.notAfter ?? "2100-01-01"),
      claims: { keyConfig: Uint8Array.of(said.key) },
    };
  },
};

/** Answers requests for evidence; `next` replaces the answers. */
export class Server {
  readonly asked: string[] = [];
  key = 1;
  said: Partial<Said> = {};
  next: (() => Response | Promise<Response>) | undefined;

  readonly fetch: Fetch = async (input) => {
    this.asked.push(String(input));
    if (this.next) return this.next();
    const nonce = Buffer.from(new URL(String(input)).searchParams.get("nonce") ?? "", "hex").join();
    const said: Said = { nonce, key: this.key, ...this.said };
    return new Response(utf8(JSON.stringify(said)), { headers: { "mitai-replica": `r${this.key}` } });
  };
}
