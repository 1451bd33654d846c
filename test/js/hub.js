// Builds the hub of the client's tests and runs it in its own process.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

/** Why the tests with a hub are skipped, or false. */
export const noGo = spawnSync("go", ["version"]).status === 0 ? false : "Go is missing";

const directory = mkdtempSync(join(tmpdir(), "hypgo-hub-"));
const program = join(directory, "hub");
if (!noGo) {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  execFileSync("go", ["build", "-o", program, "./js/test/testdata/hub"], { cwd: root, stdio: "inherit" });
}
after(() => rmSync(directory, { recursive: true }));

/** Starts a hub that also serves the files of a directory. It stops when the test ends. */
export async function startHub(t, files) {
  const child = spawn(program, ["-topics", ...(files ? ["-files", files] : [])], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "exit");
  t.after(() => {
    child.stdin.end();
    return ended;
  });
  const [line] = await once(child.stdout, "data");
  const address = line.toString().trim();
  return { url: `ws://${address}/ws`, page: `http://${address}` };
}
