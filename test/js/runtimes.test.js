// Runs the packed client in each runtime that is installed.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { browser, noBrowser, olderChromium } from "./browser.js";
import { noGo, startHub } from "./hub.js";

const run = promisify(execFile);
const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const works = "default, json, protobuf, flatbuffers, msgpack and sealing work";

const runtimes = {
  "this Node": [process.execPath],
  "Node 20.0": [local("node_modules/node-20/bin/node")],
  "Node 22.0": [local("node_modules/node-22/bin/node")],
  Deno: [local("node_modules/deno-linux/deno"), "run", "--allow-all", "--node-modules-dir=manual"],
  Bun: [local("node_modules/bun-linux/bin/bun")],
};

for (const [name, [program, ...args]] of Object.entries(runtimes)) {
  const skip = existsSync(program) ? noGo : `npm has no ${name} for this machine`;
  for (const script of ["import.mjs", "require.cjs"]) {
    test(`${name}: ${script}`, { skip, timeout: 120_000 }, async (t) => {
      const { url } = await startHub(t);
      const { stdout } = await run(program, [...args, local(`runtimes/${script}`), url], { cwd: local(".") });
      assert.equal(stdout.trim(), works);
    });
  }
}

// Its engine is that of Chrome 81.
const node14 = local("node_modules/node-14/bin/node");
test("an engine of April 2020 loads the minified file", { skip: existsSync(node14) ? false : "npm has no Node 14 for this machine" }, async () => {
  const script = `import(${JSON.stringify(local("node_modules/hypgo-websocket/dist/hub.min.js"))}).then(({ codecs }) => console.log(typeof codecs.json.encode({ type: "t" })))`;
  const { stdout } = await run(node14, ["-e", script]);
  assert.equal(stdout.trim(), "string");
});

test("Jest, in a CommonJS project, with its environments node and jsdom", { skip: noGo, timeout: 120_000 }, async (t) => {
  const { url, page } = await startHub(t);
  const jest = local("node_modules/jest/bin/jest.js");
  const cwd = local("runtimes/jest");
  const args = [jest, "--rootDir", cwd, "--testEnvironmentOptions", JSON.stringify({ url: page })];
  const { stderr } = await run(process.execPath, args, { cwd, env: { ...process.env, HUB_URL: url } });
  assert.match(stderr, /Tests: +3 passed, 3 total/);
});

test("a page and a worker, with the minified file", { skip: noGo || noBrowser, timeout: 120_000 }, async (t) => {
  await pageAndWorker(t, await browser(t));
});

test("a page and a worker, in an older Chromium", { skip: noGo, timeout: 120_000 }, async (t) => {
  const path = await olderChromium();
  if (path) await pageAndWorker(t, await browser(t, path));
  else t.skip("npm has no Chromium for this machine");
});

async function pageAndWorker(t, context) {
  const files = mkdtempSync(join(tmpdir(), "hypgo-page-"));
  t.after(() => rmSync(files, { recursive: true }));
  cpSync(local("runtimes/scenario.js"), join(files, "scenario.js"));
  cpSync(local("runtimes/worker.js"), join(files, "worker.js"));
  cpSync(local("node_modules/hypgo-websocket/dist/hub.min.js"), join(files, "hub.js"));
  const { url, page: origin } = await startHub(t, files);
  const page = await context.newPage();
  await page.goto(`${origin}/`);

  const inPage = await page.evaluate(async (url) => {
    const [hub, { scenario }] = await Promise.all([import("/hub.js"), import("/scenario.js")]);
    return scenario(hub, url);
  }, url);
  assert.equal(inPage, works);

  const inWorker = await page.evaluate(
    (url) =>
      new Promise((resolve, reject) => {
        const worker = new Worker("/worker.js", { type: "module" });
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message ?? "the worker did not start"));
        worker.postMessage(url);
      }),
    url,
  );
  assert.equal(inWorker, works);
}
