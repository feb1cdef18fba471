/**
 * How the page is built: each entry (the chat, the console, the badge) becomes one script, so that the integrity of
 * its one tag covers all code that runs. `build.mjs` runs this once for each; `vite` alone serves them for development.
 *
 * Spec: docs/spec/web.md. Invariants of what comes out:
 * - no inline script or style, no import between scripts, no source map, no address of another site;
 * - every script and style sheet carries its SHA-384; the Content-Security-Policy is in the page too;
 * - the same sources give the same bytes, in any folder: no time, no path, names by content.
 */

import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { build, defineConfig, type Plugin, type Rollup } from "vite";

/** What the page may do. The gateway's header says the same, and `frame-ancestors`, which a page can't say of itself. */
const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "connect-src 'self'",
  "font-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
];
/** Of the chat alone: its worker is made of a text in its one script, which that tag's integrity covers. */
const CHAT_CSP = [...CSP, "worker-src 'self' blob:"];

const root = import.meta.dirname;
const GATEWAY_PATHS = ["/mitai.json", "/ohttp", "/.well-known", "/broker", "/healthz"];
const FIXED_NAMES = new Set(["badge", "sw"]); // other sites, or the browser, know these by name

export default defineConfig(({ mode: entry, command }) => {
  const file = entry === "index" || entry === "console" ? `${entry}.html` : `src/${entry}.ts`;
  return {
    root,
    base: "./", // any folder of any host will do
    envDir: false,
    publicDir: entry === "index" || command === "serve" ? "public" : false,
    appType: "mpa",
    plugins: [workerAsText(), ...(command === "build" ? [sealed(entry === "index" ? CHAT_CSP : CSP)] : [])],
    define: command === "build" ? { "process.env.NODE_ENV": '"production"' } : {},
    esbuild: { target: "es2022", legalComments: "none" }, // decorators are lowered; the licences are in a file of their own
    server: {
      // for `npm run dev`: the rest of the gateway, from a running platform
      proxy: Object.fromEntries(
        GATEWAY_PATHS.map((path) => [path, process.env.MITAI_GATEWAY ?? "http://127.0.0.1:8700"]),
      ),
    },
    build: {
      outDir: "../../src/mitai/web/page",
      emptyOutDir: false, // build.mjs does it, once
      target: "es2022",
      sourcemap: false,
      modulePreload: false,
      cssCodeSplit: true,
      reportCompressedSize: false,
      license: { fileName: `licenses/${entry}.md` },
      rollupOptions: {
        input: (command === "serve" ? ["index.html", "console.html"] : [file]).map((name) => resolve(root, name)),
        output: {
          inlineDynamicImports: true,
          entryFileNames: FIXED_NAMES.has(entry) ? "[name].js" : "assets/[name]-[hash].js",
          assetFileNames: "assets/[name]-[hash][extname]",
        },
      },
    },
  };
});

/** The script of `src/proof-worker.ts`, without any import, as the text that the module `virtual:proof-worker` is. */
function workerAsText(): Plugin {
  const name = "virtual:proof-worker";
  return {
    name: "mitai:worker",
    resolveId: (source) => (source === name ? `\0${name}` : undefined),
    async load(id) {
      if (id !== `\0${name}`) return undefined;
      const built = await build({
        root,
        configFile: false,
        envDir: false,
        publicDir: false,
        logLevel: "error",
        esbuild: { target: "es2022", legalComments: "none" },
        build: {
          write: false,
          target: "es2022",
          rollupOptions: { input: resolve(root, "src/proof-worker.ts"), output: { format: "iife" } },
        },
      });
      const [file] = [built].flat().flatMap((result) => ("output" in result ? result.output : []));
      if (file?.type !== "chunk") return this.error("the worker was not built");
      return `export default ${JSON.stringify(file.code)};`;
    },
  };
}

/** Put integrity and policy into the page's HTML, and refuse to build what the invariants above forbid. */
function sealed(policy: readonly string[]): Plugin {
  return {
    name: "mitai:sealed",
    enforce: "post",
    generateBundle: {
      order: "post", // after everyone who still changes a file
      handler(_, bundle) {
        for (const file of Object.values(bundle)) {
          if (file.type === "chunk" && (file.imports.length > 0 || file.dynamicImports.length > 0)) {
            this.error(`${file.fileName} imports another file, which its integrity would not cover`);
          }
          if (file.type === "asset" && file.fileName.endsWith(".html")) {
            file.source = sealedHtml(String(file.source), bundle, policy);
          }
        }
      },
    },
  };
}

type Built = Pick<Rollup.OutputChunk, "type" | "code"> | Pick<Rollup.OutputAsset, "type" | "source">;

export function sealedHtml(
  html: string,
  bundle: Readonly<Record<string, Built>>,
  csp: readonly string[] = CSP,
): string {
  if (/<style|\sstyle=|\son\w+=|javascript:|https?:\/\//i.test(html)) {
    throw new Error("the page's HTML holds an inline style, a handler or another site's address");
  }
  const integral = html.replace(/<script\b[^>]*>|<link\b[^>]*>/gi, (tag) => {
    const source = /\s(?:src|href)="\.\/([^"]+)"/.exec(tag)?.[1];
    if (tag.startsWith("<link") && !/rel="(?:stylesheet|modulepreload|preload)"/.test(tag)) return tag;
    const file = source === undefined ? undefined : bundle[source];
    if (file === undefined) throw new Error(`not a file of this build: ${tag}`);
    const digest = createHash("sha384")
      .update(file.type === "chunk" ? file.code : file.source)
      .digest("base64");
    return tag.replace(/ crossorigin(?:="[^"]*")?/, "").replace(/>$/, ` integrity="sha384-${digest}">`);
  });
  const policy = `<meta http-equiv="Content-Security-Policy" content="${csp.join("; ")}">`;
  const charset = /<meta charset="utf-8"\s*\/?>/i;
  if (!charset.test(integral)) throw new Error('the page\'s HTML has no <meta charset="utf-8">');
  return integral.replace(charset, (found) => `${found}\n    ${policy}`);
}
