// Checks the package with the tools that find faults of published packages.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const tarball = "node_modules/.hypgo-websocket.tgz";
const check = (script, ...args) =>
  run(process.execPath, [local(`node_modules/${script}`), ...args], { cwd: local(".") }).catch((error) => error);

test("publint finds nothing", { timeout: 120_000 }, async () => {
  const { stdout } = await check("publint/src/cli.js", "--strict", tarball);
  assert.match(stdout, /All good!/);
});

test("arethetypeswrong finds nothing", { timeout: 120_000 }, async () => {
  const { stdout } = await check("@arethetypeswrong/cli/dist/index.js", "--format", "json", tarball);
  assert.deepEqual(JSON.parse(stdout).problems ?? {}, {});
});
