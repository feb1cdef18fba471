/** The chat page: shows itself, reads what the host offers, and begins with what this device has pinned. */
import proofWorker from "virtual:proof-worker";
import { ChatApp } from "./components/app.ts";
import { installDesign } from "./design/index.ts";
import { startLanguage } from "./i18n.ts";
import { connect } from "./live.ts";
import { keepPage } from "./offline.ts";
import { fetchOffer, keptPin, openedLink } from "./pinning.ts";
import { Proofs } from "./proofs.ts";
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
app.proofs = new Proofs(proofWorker);
document.body.append(app);
store.watch(() => void app.kept());
void keepPage();
window.addEventListener("hashchange", () => location.reload()); // another link
await Promise.all([chat.refresh(), chat.start(await keptPin(), openedLink())]);
