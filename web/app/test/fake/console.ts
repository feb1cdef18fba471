/** The console over a made-up platform. */
import { startConsole } from "../../src/console/start.ts";
import { policyOf } from "../../src/pinning.ts";
import { FakeBackend } from "./platform.ts";

const POLICY = `version = 1
allow_simulation = true
sim_roots = ["sha256:${"ab".repeat(32)}"]
`;

async function offer() {
  return { gateway: location.origin, policy: await policyOf(POLICY), releases: [] };
}

await startConsole(() => new FakeBackend(), offer());
