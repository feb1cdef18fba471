/** Begins the open chat: with the service that the link pins, if this device knew the address as nothing else. */
import { MitaiError } from "@mitai/verify";
import { ProvenApp } from "../components/proven-app.ts";
import { failureOf } from "../conversations.ts";
import { fetchOffer } from "../pinning.ts";
import type { Proofs } from "../proofs.ts";
import { before, keepProof, readProven } from "./offer.ts";
import { Service } from "./service.ts";
import { ProvenState } from "./state.ts";

/** Return the page's element for the service with this digest; `wanted` is nothing where no link was opened. */
export function provenApp(proofs: Proofs, wanted: string | undefined, policyPinned: boolean): ProvenApp {
  const chat = new ProvenState(proofs);
  const app = new ProvenApp();
  app.chat = chat;
  app.proofs = proofs;
  app.keep = () => {
    history.replaceState(null, "", location.pathname);
    location.reload();
  };
  if (wanted === undefined) {
    chat.show({ kind: "no-link" });
    return app;
  }
  app.goOn = () =>
    void chat.open(async () => {
      const { gateway, proof } = await fetchOffer();
      const service = await Service.connect(gateway, await readProven(proof, wanted));
      await proofs.requireReadable(service.tokenizer, service.offer.tokenizer).catch((error: unknown) => {
        throw new MitaiError("proof.page-unsupported", failureOf(error).message, "use: mitai chat", "tokenizer");
      });
      keepProof(wanted);
      return service;
    });
  const was = before(wanted, policyPinned);
  if (was === "same" || was === "nothing") app.goOn();
  else chat.show({ kind: "ask", before: was });
  return app;
}
