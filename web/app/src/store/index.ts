/** Conversations on this device: see `device.ts`. */

export { type Change, type DeviceOptions, DeviceStore, type Protection } from "./device.ts";
export type { Passkeys } from "./passkey.ts";
