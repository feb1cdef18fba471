/** What both ends know of one sealed exchange: its id, and the digests of what went over the wire. */

import { hex, utf8 } from "@mitai/verify";
import { sha256 } from "@noble/hashes/sha2.js";

export const EXCHANGE_HEADER = "mitai-exchange"; // sealed response header with the exchange's id
export const REFUSAL_HEADER = "mitai-refusal"; // sealed response header with the code of a refusal by the channel itself

/** One request and its answer. */
export class Exchange {
  readonly protocol = "ohttp-chunked";
  /** Random hex, chosen by the server and told to the client under the seal; empty until it is known. */
  id = "";
  /** Digest (hex) of the sealed request body as on the wire; undefined until it was sent whole. */
  requestSha256: string | undefined;
  /** Digest (hex) of the sealed response body as on the wire; undefined until it ended well. */
  responseSha256: string | undefined;

  /** What the exchange is called in public (receipts, ledger): a digest, since the id fetches the receipt. */
  get name(): string {
    return hex(sha256(utf8(`mitai exchange v1\0${this.id}`))).slice(0, 32);
  }
}
