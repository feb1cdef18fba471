import { startConsole } from "../../src/console/start.ts";
import { policyOf } from "../../src/pinning.ts";
import { FakeBackend } from "./platform.ts";

const TOML = 'version = 1\nallow_simulation = true\nsim_roots = ["sha256:' + "ab".repeat(32) + '"]\n';

async function offer() {
  return { gateway: location.origin, policy: await policyOf(TOML), releases: [] };
}

await startConsole(() => new FakeBackend(), offer());
