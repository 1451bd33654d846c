// Packs the client as "npm publish" does, and installs the package here. The tests use
// this copy, so that they test the published files.

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "hypgo-pack-"));
try {
  // The npm of the path would run with a Node of node_modules/.bin.
  const output = execFileSync(process.execPath, [process.env.npm_execpath, "pack", "--json", "--pack-destination", scratch], { cwd: local("../../js"), encoding: "utf8" });
  const [{ filename, files, size }] = Object.values(JSON.parse(output));
  const target = local("node_modules/hypgo-websocket");
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target);
  execFileSync("tar", ["-xzf", join(scratch, filename), "-C", target, "--strip-components=1"]);
  copyFileSync(join(scratch, filename), local("node_modules/.hypgo-websocket.tgz"));
  console.log(`installed ${filename}: ${files.length} files, ${size} bytes packed`);
} finally {
  rmSync(scratch, { recursive: true });
}
