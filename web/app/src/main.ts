/** The chat page: shows itself, reads what the host offers, and begins with what this device has pinned. */
import { MitaiError } from "@mitai/verify";
import { ChatApp } from "./components/app.ts";
import { installDesign } from "./design/index.ts";
import { startLanguage } from "./i18n.ts";
import { connect } from "./live.ts";
import { keepPage } from "./offline.ts";
import { keptPin, linkDigest, type Offer, readOffer } from "./pinning.ts";
import { ChatState } from "./state.ts";
import { DeviceStore } from "./store/index.ts";
import { startTheme } from "./theme.ts";

installDesign(document);
startTheme();
startLanguage();
const store = await DeviceStore.open();
const chat = new ChatState(connect, store, fetchOffer);
const app = new ChatApp();
app.chat = chat;
app.store = store;
document.body.append(app);
store.watch(() => void app.kept());
void keepPage();
window.addEventListener("hashchange", () => location.reload()); // another link
await Promise.all([chat.refresh(), chat.start(await keptPin(), linkDigest(location.hash))]);

async function fetchOffer(): Promise<Offer> {
  const answer = await fetch("./mitai.json", { cache: "no-store", credentials: "omit" }).catch(() => undefined);
  if (!answer?.ok) throw new MitaiError("client.unreachable", "mitai.json, beside this page, can't be read");
  return readOffer(new Uint8Array(await answer.arrayBuffer()), location.href);
}
