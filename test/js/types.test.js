// Compiles a program that uses the packed client's types, with each compiler and as
// each kind of module.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const require = createRequire(import.meta.url);
const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const flags = "--noEmit --strict --exactOptionalPropertyTypes --noUncheckedIndexedAccess --skipLibCheck false --target es2022 --lib es2022,dom,dom.iterable".split(" ");
const kinds = {
  "node16: CommonJS and ESM": [["use.cts", "use.mts"], "--module", "node16"],
  bundler: [["use.ts"], "--module", "esnext", "--moduleResolution", "bundler"],
};

for (const compiler of ["typescript", "typescript-7"]) {
  const manifest = require.resolve(`${compiler}/package.json`);
  const { version, bin } = JSON.parse(readFileSync(manifest, "utf8"));
  const tsc = join(dirname(manifest), bin.tsc);
  for (const [kind, [files, ...args]] of Object.entries(kinds)) {
    test(`TypeScript ${version}, ${kind}`, { timeout: 300_000 }, async (t) => {
      const directory = mkdtempSync(local("types/compiled-"));
      t.after(() => rmSync(directory, { recursive: true }));
      for (const file of files) cpSync(local("types/use.ts"), join(directory, file));
      const { stdout } = await run(process.execPath, [tsc, ...flags, "--types", "react", ...args, ...files], { cwd: directory }).catch((error) => error);
      assert.equal(stdout, "");
    });
  }
}
