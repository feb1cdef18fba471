export { Exchange } from "./exchange.ts";
export { exchangeOf, type Options, type Peer, type SealedFetch, type SealedInit, sealedFetch } from "./fetch.ts";
export { KeyConfig } from "./ohttp.ts";
export type { OnWire, WirePiece } from "./wire.ts";
