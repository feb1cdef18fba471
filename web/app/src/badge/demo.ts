/** The demo page: what is typed in, or stands behind `#` in the address, becomes the badge's attributes. */

const badge = document.querySelector("mitai-badge");
const form = document.querySelector("form");

function show(values: Iterable<[string, unknown]>): void {
  for (const [name, value] of values) {
    const field = form?.elements.namedItem(name);
    if (field instanceof HTMLInputElement || field instanceof HTMLSelectElement) field.value = String(value);
    if (value) badge?.setAttribute(name, String(value));
    else badge?.removeAttribute(name);
  }
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  show(new FormData(form).entries());
});
show(new URLSearchParams(location.hash.slice(1)).entries());
