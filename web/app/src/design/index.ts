/**
 * The design system, for the chat page and the console: `installDesign(document)`, then components that extend `View`
 * and use the classes of `base.ts` and the values of `tokens.ts`.
 */
export { base } from "./base.ts";
export { Copy } from "./copy.ts";
export { Dialog } from "./dialog.ts";
export { icons } from "./icons.ts";
export { Toasts, toast } from "./toasts.ts";
export { installDesign } from "./tokens.ts";
export { View } from "./view.ts";
