/**
 * Build the page into src/mitai/web/page, or with `--check` compare what is there with a fresh build, byte for byte.
 *
 *   node app/build.mjs [--check] [--out DIR]
 */

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

process.env.NODE_ENV = "production"; // whatever the environment says: it would change the bytes
const { build } = await import("vite");

const app = import.meta.dirname;
const kept = resolve(app, "../../src/mitai/web/page");
const { values } = parseArgs({ options: { check: { type: "boolean", default: false }, out: { type: "string" } } });
const entries = [
  ["index", "index.html"],
  ["console", "console.html"],
  ["badge", "src/badge.ts"],
  ["sw", "src/sw.ts"],
].filter(([, file]) => existsSync(join(app, file)));

/** Build every entry into an empty folder, then write the list of its files. */
async function buildPage(folder) {
  for (const [mode] of entries) {
    await build({ configFile: join(app, "vite.config.ts"), mode, logLevel: "error", build: { outDir: folder } });
  }
  writeFileSync(join(folder, "page.sha256"), listOf(filesOf(folder)));
}

/** The files of a folder, by path with `/`. */
function filesOf(folder) {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = found.map((entry) =>
    join(entry.parentPath, entry.name)
      .slice(folder.length + 1)
      .replaceAll("\\", "/"),
  );
  return new Map(paths.sort().map((path) => [path, readFileSync(join(folder, path))]));
}

/** The list that `page.sha256` holds; docs/spec/web.md. */
function listOf(files) {
  const line = ([path, bytes]) => `${createHash("sha256").update(bytes).digest("hex")}  ${path}\n`;
  return `# mitai page v1\n${[...files].map(line).join("")}`;
}

const built = mkdtempSync(join(tmpdir(), "mitai-page-"));
try {
  await buildPage(built);
  if (values.check) check(filesOf(built), existsSync(kept) ? filesOf(kept) : new Map());
  else {
    const folder = resolve(values.out ?? kept);
    rmSync(folder, { recursive: true, force: true });
    cpSync(built, folder, { recursive: true });
  }
} finally {
  rmSync(built, { recursive: true, force: true });
}

/** Say which files of the kept page differ from a fresh build, and how to make them the same. */
function check(fresh, old) {
  const paths = [...new Set([...fresh.keys(), ...old.keys()])];
  const differ = paths.filter((path) => !fresh.get(path)?.equals(old.get(path) ?? Buffer.alloc(0)));
  if (differ.length === 0) return;
  process.stderr.write(`src/mitai/web/page is not what the sources build: ${differ.join(", ")}\nUpdate it: make web\n`);
  process.exitCode = 1;
}
