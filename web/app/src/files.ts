/** Files that the user keeps: made in the page, saved by the browser. */

export function save(name: string, content: Uint8Array<ArrayBuffer> | string, type = "application/json"): void {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
