/** Shows the console over a backend: first its frame, then what the host offers and this device has pinned. */
import { MitaiError } from "@mitai/verify";
import { installDesign } from "../design/index.ts";
import { startLanguage } from "../i18n.ts";
import { keptPin, linkDigest, type Offer, readOffer } from "../pinning.ts";
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
  await page.state.start(offer, await keptPin(), linkDigest(location.hash));
}

async function fetchOffer(): Promise<Offer> {
  const answer = await fetch("./mitai.json", { cache: "no-store", credentials: "omit" }).catch(() => undefined);
  if (!answer?.ok) throw new MitaiError("client.unreachable", "mitai.json, beside this page, can't be read");
  return readOffer(new Uint8Array(await answer.arrayBuffer()), location.href);
}
