/** One platform in simulation for all end-to-end tests: `mitai up` with real processes, gone at the end. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { TestProject } from "vitest/node";

const run = promisify(execFile);
export const PYTHON = process.env.MITAI_PYTHON ?? join(import.meta.dirname, "../../.venv/bin/python");

declare module "vitest" {
  interface ProvidedContext {
    /** Where the gateway answers, the platform's home folder, and the digest of its users' policy. */
    platform: { url: string; home: string; policy: string; policySha256: string };
  }
}

export async function mitai(home: string, ...words: string[]): Promise<string> {
  const { stdout } = await run(PYTHON, ["-m", "mitai.cli", ...words], {
    env: { ...process.env, MITAI_HOME: home },
    maxBuffer: 64 << 20,
    timeout: 240_000,
  });
  return stdout;
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const home = await mkdtemp(join(tmpdir(), "mitai-e2e-"));
  const stop = async () => {
    await mitai(home, "down").catch(() => "");
    await rm(home, { recursive: true, force: true });
  };
  try {
    const up = JSON.parse(await mitai(home, "up", "--detach", "--port", "0", "--replicas", "1", "--json"));
    const policy = await readFile(up.policy, "utf8");
    const policySha256 = createHash("sha256").update(policy).digest("hex");
    project.provide("platform", { url: up.gateway, home, policy, policySha256 });
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}
