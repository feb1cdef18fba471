/** A live server of the Python package, for tests; `available` says why there is none. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Bytes, fromHex } from "@mitai/verify";
import type { Peer } from "../src/index.ts";

export const PYTHON =
  process.env.MITAI_PYTHON ?? fileURLToPath(new URL("../../../../.venv/bin/python", import.meta.url));
export const available = existsSync(PYTHON);

export class PythonServer implements Peer {
  renewals = 0;
  #config: Bytes = new Uint8Array();

  private constructor(
    readonly baseUrl: string,
    readonly stop: () => void,
  ) {}

  static async start(kem: "x25519" | "x-wing"): Promise<PythonServer> {
    const script = fileURLToPath(new URL("server.py", import.meta.url));
    const child = spawn(PYTHON, [script, kem], { stdio: ["pipe", "pipe", "inherit"] });
    for await (const line of createInterface({ input: child.stdout })) {
      const server = new PythonServer(line, () => child.stdin.end());
      await server.renew();
      server.renewals = 0;
      return server;
    }
    throw new Error("the Python server did not start");
  }

  async keyConfig(): Promise<Bytes> {
    return this.#config;
  }

  replica(): string | undefined {
    return undefined;
  }

  async renew(): Promise<void> {
    this.renewals += 1;
    this.#config = fromHex((await this.control({})).key_config);
  }

  async control(command: object): Promise<{ key_config: string; exchanges: Record<string, string>[] }> {
    const answer = await fetch(`${this.baseUrl}/control`, { method: "POST", body: JSON.stringify(command) });
    return await answer.json();
  }
}
