// Builds js/dist from js/src. The files are committed, and embed.go serves one of them.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

const root = fileURLToPath(new URL(".", import.meta.url));

/**
 * Properties of objects that no application sees, which the built files have under short names. They are no properties of
 * the platform's objects, of the wire's or of the public types.
 */
const internal = [
  ..."again allows answer apply asked behindGap buffered changed changes checkNotClosed confirm emit enqueue".split(" "),
  ..."endedByCaller explain finish follows generated giveUp greet greeted handles heard isClosed isOpen keep known lasted learn".split(" "),
  ..."listeners lost measure newClosedError probe refusal refusals release repeat repeats replaying replied report restart restore restored".split(" "),
  ..."scope settle spend startHeartbeat told transmit unbroken".split(" "),
  ..."added dropped install item joinedLater newKey passes publication question sinceOf".split(" "),
  // of byte-io.ts and the codecs
  ..."alignment checkBounds fixMax int64 mapHeader skipHeader uint16 uint32 uint8 varint varint64 vector view vtable".split(" "),
];
const mangleProps = new RegExp(`^(${internal.join("|")})$`);

/** Builds all files and returns their contents by name, without writing them to js/dist. */
export async function outputs() {
  const files = new Map();
  await Promise.all([
    bundle(files, "index", "hub.js", { mangleProps, sourcemap: true }),
    bundle(files, "index", "hub.cjs", { mangleProps, sourcemap: true }),
    bundle(files, "index", "hub.min.js", { mangleProps, minify: true }),
    bundle(files, "react", "react.js", { sourcemap: true }),
    bundle(files, "react", "react.cjs", { sourcemap: true }),
  ]);
  const directory = mkdtempSync(join(root, "build-"));
  try {
    // tsc checks the types and writes one declaration file per module; rollup joins them.
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", ".", "--outDir", directory], { cwd: root, stdio: "inherit" });
    for (const ending of ["ts", "cts"]) {
      files.set(`hub.d.${ending}`, await declarations(directory, "index"));
      files.set(`react.d.${ending}`, await declarations(directory, "react", ending === "ts" ? "./hub.js" : "./hub.cjs"));
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
  const types = files.get("hub.d.ts").replace(/\/\*.*?\*\//gs, "");
  for (const name of internal) {
    if (new RegExp(`\\b${name}\\b`).test(types)) throw new Error(`hub.d.ts has ${name}, which is to be internal`);
  }
  return files;
}

async function bundle(files, entry, name, options) {
  // The hooks import the client from its own bundle, so that an application has it once.
  const hub = {
    name: "hub",
    setup: ({ onResolve }) => onResolve({ filter: /^\.\/index\.js$/ }, () => ({ path: `./hub${extname(name)}`, external: true })),
  };
  const { outputFiles } = await build({
    entryPoints: [`src/${entry}.ts`],
    outfile: `dist/${name}`,
    format: name.endsWith(".cjs") ? "cjs" : "esm",
    absWorkingDir: root,
    bundle: true,
    external: ["react"],
    plugins: [hub],
    target: "es2020",
    charset: "utf8",
    logLevel: "warning",
    write: false,
    ...options,
  });
  for (const { path, text } of outputFiles) files.set(basename(path), text);
}

/** Joins the declarations of a module and of those that it imports. With `hub`, it imports the client's from there. */
async function declarations(directory, entry, hub) {
  const isHub = (id) => hub !== undefined && id.endsWith("index.js");
  const joined = await rollup({
    input: join(directory, `${entry}.d.ts`),
    external: (id) => id === "react" || isHub(id),
    plugins: [dts()],
  });
  const { output } = await joined.generate({ format: "es", paths: (id) => (isHub(id) ? hub : id) });
  return output[0].code;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = await outputs();
  rmSync(join(root, "dist"), { recursive: true, force: true });
  mkdirSync(join(root, "dist"));
  for (const [name, text] of built) writeFileSync(join(root, "dist", name), text);
}
