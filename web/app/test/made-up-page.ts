/** The chat page over a made-up machine, which plays the script in the fragment `#play=` (JSON); for tests in a browser. */
import { MitaiError } from "@mitai/verify";
import { ChatApp } from "../src/components/app.ts";
import { installDesign } from "../src/design/index.ts";
import { startLanguage } from "../src/i18n.ts";
import { linkDigest, policyOf } from "../src/pinning.ts";
import { ChatState } from "../src/state.ts";
import { DeviceStore } from "../src/store/index.ts";
import { startTheme } from "../src/theme.ts";
import { madeUp, OTHER_POLICY, type Script, SIMULATED_POLICY } from "./made-up.ts";

export interface Play extends Omit<Script, "refusal"> {
  /** The code of a refusal. */
  readonly refused?: string;
  /** Whether the offered policy, or another one, is pinned. */
  readonly pinned?: "this" | "other";
  /** A question that is asked at once. */
  readonly ask?: string;
}

const play: Play = JSON.parse(new URLSearchParams(location.hash.slice(1)).get("play") ?? "{}");
const refusal = play.refused && new MitaiError(play.refused, "a made-up refusal", "a hint", "13 workload");
const { connect } = madeUp({ ...play, ...(refusal && { refusal }) });
const offered = await policyOf(SIMULATED_POLICY);
const pinned = play.pinned && {
  ...(play.pinned === "this" ? offered : await policyOf(OTHER_POLICY)),
  source: "consent" as const,
};

installDesign(document);
startTheme();
startLanguage();
const app = new ChatApp();
app.store = await DeviceStore.open({ name: "made-up" });
app.chat = new ChatState(connect, app.store, async () => ({ gateway: location.origin, policy: offered, releases: [] }));
document.body.append(app);
await app.chat.start(pinned || undefined, linkDigest(location.hash));
if (play.ask) await app.chat.send(play.ask, [{ name: "notes.txt", text: "x".repeat(5000) }]);
document.documentElement.dataset.played = "";
