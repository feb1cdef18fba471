/** Shows the console over a backend: first its frame, then what the host offers and this device has pinned. */
import { installDesign } from "../design/index.ts";
import { startLanguage } from "../i18n.ts";
import { fetchOffer, keptPin, type Offer, openedLink } from "../pinning.ts";
import { startTheme } from "../theme.ts";
import { MitaiConsole } from "./app.ts";
import { type Connect, ConsoleState } from "./state.ts";

export async function startConsole(connect: Connect, offer: Promise<Offer> = fetchOffer()): Promise<void> {
  installDesign(document);
  startTheme();
  startLanguage();
  const page = new MitaiConsole();
  page.state = new ConsoleState(connect);
  document.body.append(page);
  await page.state.start(offer, await keptPin(), openedLink());
}
