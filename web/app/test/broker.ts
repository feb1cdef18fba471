/** A live key broker of the Python package, for tests; `available` says whether there can be one. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const PYTHON = process.env.MITAI_PYTHON ?? fileURLToPath(new URL("../../../.venv/bin/python", import.meta.url));
export const available = existsSync(PYTHON);

export interface Told {
  readonly url: string;
  readonly policy: string;
  readonly identity: string;
  readonly key_id: string;
  readonly model: string;
  readonly shared: string;
  readonly foreign: string;
}

export class PythonBroker {
  private constructor(
    private readonly child: ChildProcessWithoutNullStreams,
    private readonly lines: AsyncIterator<string>,
    readonly told: Told,
  ) {}

  static async start(): Promise<PythonBroker> {
    const child = spawn(PYTHON, [fileURLToPath(new URL("broker.py", import.meta.url))]);
    const errors: string[] = [];
    child.stderr.on("data", (data) => errors.push(String(data)));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const first = await lines.next();
    if (first.done) throw new Error(`the Python broker did not start: ${errors.join("")}`);
    return new PythonBroker(child, lines, JSON.parse(first.value));
  }

  /** Give an order; returns the ledger's size after it. */
  async order(what: "release" | "deny" | "quiet"): Promise<number> {
    this.child.stdin.write(`${what}\n`);
    return JSON.parse((await this.lines.next()).value).size;
  }

  stop(): void {
    this.child.stdin.end();
  }
}
