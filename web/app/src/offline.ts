/** Let the browser keep the page for days without a network; a browser that can't is no worse off than before. */

interface TrustedUrls {
  createPolicy(
    name: string,
    rules: { createScriptURL: (url: string) => string },
  ): { createScriptURL(url: string): string };
}

declare global {
  /** Trusted Types, in the browsers that have them. */
  var trustedTypes: TrustedUrls | undefined;
}

export async function keepPage(): Promise<void> {
  const url = "./sw.js";
  const rules = { createScriptURL: () => url };
  const trusted = globalThis.trustedTypes?.createPolicy("mitai-offline", rules).createScriptURL(url) ?? url;
  await navigator.serviceWorker?.register(trusted).catch(() => undefined);
}
