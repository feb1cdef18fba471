/** The chat page: shows itself, reads what the host offers, and begins with what this device has pinned. */
import proofWorker from "virtual:proof-worker";
import { ChatApp } from "./components/app.ts";
import { installDesign } from "./design/index.ts";
import { startLanguage } from "./i18n.ts";
import { connect } from "./live.ts";
import { keepPage } from "./offline.ts";
import { fetchOffer, keptPin, openedLink } from "./pinning.ts";
import { Proofs } from "./proofs.ts";
import { provenApp } from "./proven/begin.ts";
import { keptProof, linkedProof } from "./proven/offer.ts";
import { ChatState } from "./state.ts";
import { DeviceStore } from "./store/index.ts";
import { startTheme } from "./theme.ts";

installDesign(document);
startTheme();
startLanguage();
const proofs = new Proofs(proofWorker);
const [link, pin] = [openedLink(), await keptPin()];
const proof = link === undefined ? (linkedProof(location.hash) ?? (pin ? undefined : keptProof())) : undefined;
void keepPage();
window.addEventListener("hashchange", () => location.reload()); // another link
if (proof !== undefined) document.body.append(provenApp(proofs, proof, pin !== undefined));
else await sealed();

/** The chat that is encrypted for a verified machine. */
async function sealed(): Promise<void> {
  const store = await DeviceStore.open();
  const chat = new ChatState(connect, store, fetchOffer);
  const app = new ChatApp();
  app.chat = chat;
  app.store = store;
  app.proofs = proofs;
  document.body.append(app);
  store.watch(() => void app.kept());
  await Promise.all([chat.refresh(), chat.start(pin, link)]);
  const open = chat.standing.kind === "none" && chat.offer?.proof !== undefined;
  if (open && link === undefined) app.replaceWith(provenApp(proofs, undefined, false)); // it says that a link is needed
}
