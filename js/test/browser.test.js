// Tests hub.min.js in a browser. Skipped if Chromium is not installed.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { FakeHub } from "./fake-hub.js";

const chromium = ["chromium", "chromium-browser", "google-chrome"].find(
  (name) => spawnSync(name, ["--version"]).status === 0,
);
const keys = { aesKey: new Uint8Array(32).fill(1), hmacKey: new Uint8Array(20).fill(2) };

/** Runs in the page. The page posts the result to the test. */
async function scenario({ open, sealed }) {
  const { codecs, connect, Sealer } = await import("/hub.js");
  const security = { aesKey: new Uint8Array(32).fill(1), hmacKey: new Uint8Array(20).fill(2) };
  const results = {};
  for (const codec of Object.keys(codecs)) {
    for (const [url, keys] of [[open], [sealed, security]]) {
      const got = [];
      let resumed;
      const isResumed = new Promise((resolve) => (resumed = resolve));
      const states = [];
      const client = await connect(url, {
        codec: codecs[codec],
        security: keys && new Sealer(keys),
        token: "tökén",
        backoff: { base: 10 },
        onStateChange: ({ state, code, reason }) => states.push([state, code, reason]),
        onResumed: resumed,
      });
      await client.subscribe("news", (message) => got.push(message)).ready;
      await client.publish("news", { text: "漢😀" });
      client.send("drop");
      await isResumed;
      await client.publish("news", new Uint8Array([0, 128, 255]));
      client.send("malformed");
      while (client.state !== "closed") await new Promise((resolve) => setTimeout(resolve, 5));
      results[`${codec} ${keys ? "sealed" : "open"}`] = {
        json: got[0].json(),
        bytes: [...got[1].bytes()],
        timestampNs: String(got[0].timestampNs),
        states: states.map(([state, code]) => [state, code]),
      };
    }
  }
  return results;
}

test("hub.js in Chromium", { skip: chromium ? false : "Chromium is missing", timeout: 60_000 }, async (t) => {
  const intercept = (peer, { type }) => {
    if (type === "drop") peer.socket.terminate();
    else if (type === "malformed") peer.socket.send(peer.isText && !peer.sealer ? "{" : Buffer.of(0xc1));
    else return false;
    return true;
  };
  const open = await FakeHub.start(t, { intercept });
  const sealed = await FakeHub.start(t, { intercept, keys });

  const page = `<script type="module">
    const report = (body) => fetch("/report", { method: "POST", body: JSON.stringify(body) });
    addEventListener("unhandledrejection", ({ reason }) => report({ error: String(reason) }));
    addEventListener("error", ({ message }) => report({ error: message }));
    ${scenario}
    scenario(${JSON.stringify({ open: open.url, sealed: sealed.url })}).then(report, (error) => report({ error: error.stack }));
  </script>`;
  let reported;
  const report = new Promise((resolve) => (reported = resolve));
  const server = createServer((request, response) => {
    if (request.url === "/report") {
      request.setEncoding("utf8");
      let body = "";
      request.on("data", (chunk) => (body += chunk));
      request.on("end", () => reported(JSON.parse(body)));
      response.end();
    } else if (request.url === "/hub.js") {
      response.setHeader("Content-Type", "text/javascript");
      response.end(readFileSync(new URL("../dist/hub.min.js", import.meta.url)));
    } else {
      response.setHeader("Content-Type", "text/html; charset=utf-8");
      response.end(page);
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());

  const profile = mkdtempSync(join(tmpdir(), "hypgo-chromium-"));
  const url = `http://127.0.0.1:${server.address().port}/`;
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", `--user-data-dir=${profile}`];
  const browser = spawn(chromium, [...flags, url], { stdio: "ignore" });
  t.after(async () => {
    browser.kill();
    await once(browser, "exit");
    server.closeAllConnections();
    // Chromium's child processes may still write to the profile for a moment.
    await rm(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }).catch(() => {});
  });

  const results = await report;
  assert.equal(results.error, undefined);
  assert.equal(Object.keys(results).length, 8);
  for (const [name, { json, bytes, timestampNs, states }] of Object.entries(results)) {
    assert.deepEqual(json, { text: "漢😀" }, name);
    assert.deepEqual(bytes, [0, 128, 255], name);
    assert.ok(BigInt(timestampNs) >= 1_763_769_600_123_456_789n, name);
    const ending = name.endsWith("sealed") ? 1008 : 1007;
    assert.deepEqual(
      states,
      [
        ["open", null],
        ["reconnecting", 1006],
        ["open", null],
        ["closed", ending],
      ],
      name,
    );
  }
  for (const [hub, code] of [
    [open, 4007],
    [sealed, 4008],
  ]) {
    assert.ok(hub.peers.every(({ token }) => token === "tökén"));
    for (const peer of hub.peers.filter((_, i) => i % 2 === 1)) await peer.until(() => peer.ended?.code === code);
  }
});
