/** Light, dark, or as the system has it; the choice is kept on this device. */
import { recall, remember } from "./preferences.ts";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEPT = "mitai-theme";

export function theme(): Theme {
  return THEMES.find((known) => known === recall(KEPT)) ?? "system";
}

export function setTheme(chosen: Theme): void {
  remember(KEPT, chosen === "system" ? undefined : chosen);
  startTheme();
}

/** Show the theme that was chosen. */
export function startTheme(): void {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}
