// Renders an application with the hooks on the server, and runs it in a browser.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { createElement as h, StrictMode } from "react";
import { renderToString } from "react-dom/server";

import { browser, noBrowser, until } from "./browser.js";
import { noGo, startHub } from "./hub.js";
import { App } from "./react/app.js";

const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const render = (url) => renderToString(h(StrictMode, null, h(App, { url, controls: {} })));

test("server rendering opens no connection", () => {
  const text = render("ws://localhost/ws").replace(/<[^>]*>/g, " ");
  assert.match(text, /connecting/);
  assert.match(text, /news pending fine room pending/);
});

test("hooks without a provider or a URL say so", async () => {
  const { useHub } = await import("hypgo-websocket/react");
  const Orphan = () => h("p", null, String(useHub()));
  assert.throws(() => renderToString(h(Orphan)), /HubProvider/);
});

test("an application under StrictMode, in a browser", { skip: noGo || noBrowser, timeout: 120_000 }, async (t) => {
  const files = mkdtempSync(join(tmpdir(), "hypgo-react-"));
  t.after(() => rmSync(files, { recursive: true }));
  const { url, page: origin } = await startHub(t, files);
  await build({
    entryPoints: [local("react/page.js")],
    outfile: join(files, "page.js"),
    bundle: true,
    format: "esm",
    define: { "process.env.NODE_ENV": '"development"' },
    logLevel: "error",
  });
  const html = `<!doctype html><link rel="icon" href="data:,"><div id="root">${render(url)}</div><script type="module" src="page.js"></script>`;
  writeFileSync(join(files, "index.html"), html);

  const page = await (await browser(t)).newPage();
  const sockets = [];
  const problems = [];
  page.on("websocket", (socket) => sockets.push(socket));
  page.on("console", (message) => problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  const open = () => sockets.filter((socket) => !socket.isClosed()).map((socket) => socket.url());
  const shows = (id, wanted) => until(`#${id}`, () => page.locator(`#${id}`).textContent(), wanted);
  const publish = (channel, data) => page.evaluate(([channel, data]) => controls.client.publish(channel, data), [channel, data]);
  await page.goto(`${origin}/`);

  // One connection. Both components of a channel get its messages.
  await shows("connection", "open");
  for (const id of ["first", "second"]) await shows(id, "news active fine room active");
  assert.deepEqual(sockets.map((socket) => socket.url()), [url]);
  await publish("news", 1);
  for (const id of ["first", "second"]) await shows(id, "news active fine room active a1");

  // The handler of the newest render is called.
  await page.evaluate(() => controls.first("b"));
  await publish("news", 2);
  await shows("first", "news active fine room active a1 b2");
  await shows("second", "news active fine room active a1 a2");

  // A component that changes its channel or leaves does not end the others' subscription.
  await page.evaluate(() => controls.setPanels({ first: "news", second: "sports" }));
  await shows("second", "sports active fine room active a1 a2");
  await publish("news", 3);
  await publish("sports", 4);
  await shows("first", "news active fine room active a1 b2 b3");
  await shows("second", "sports active fine room active a1 a2 a4");

  // The history of a channel.
  for (const data of [7, 8, 9]) await publish("h:kept", data);
  await page.evaluate(() => controls.setPanels({ first: "news", second: "h:kept" }));
  await shows("second", "h:kept active fine room active a1 a2 a4 a8 a9");

  // A refused channel.
  await page.evaluate(() => controls.setPanels({ first: "news", second: "secret" }));
  await shows("second", "secret ended forbidden room active a1 a2 a4 a8 a9");
  await page.evaluate(() => controls.setPanels({ first: "news" }));

  // The members of a room.
  await shows("members", "p:hall true 1");
  const other = await page.context().newPage();
  await other.goto(`${origin}/`);
  await shows("members", "p:hall true 2");
  await page.evaluate(() => controls.setRoom("p:garden"));
  await shows("members", "p:garden true 1");
  await until("the other page", () => other.locator("#members").textContent(), "p:hall true 1");
  await other.close();

  // A lost connection.
  await page.evaluate(() => controls.client.send("close", { Code: 1012, Reason: "restart" }));
  await until("a second connection", () => sockets.length, 2);
  await shows("connection", "open");
  await shows("first", "news active fine room active a1 b2 b3");
  await publish("news", 5);
  await shows("first", "news active fine room active a1 b2 b3 b5");

  // Discarded renders have opened no connection.
  await page.evaluate(() => controls.showLate());
  await shows("late", "waiting");
  assert.deepEqual(open(), [url]);
  await page.evaluate(() => controls.resolveLate("here"));
  await shows("late", "here open");
  await until("the connections", open, [url, `${url}?late`]);

  // A client that the hub closes for good. A component may mount after that.
  await page.evaluate(() => controls.client.send("close", { Code: 1008, Reason: "policy" }));
  await shows("connection", "closed");
  await until("the connections", open, [`${url}?late`]);
  await page.evaluate(() => controls.setPanels({ first: "news", second: "news" }));
  await until("both components tell the end", async () => {
    const texts = await Promise.all(["first", "second"].map((id) => page.locator(`#${id}`).textContent()));
    return texts.map((text) => /^news ended \w+ room ended/.test(text));
  }, [true, true]);

  // Another URL.
  await page.evaluate(() => controls.setPath(`${controls.url}?other`));
  await until("the connections", () => open().sort(), [`${url}?late`, `${url}?other`]);
  await shows("first", "news active fine room active a1 b2 b3 b5");
  await publish("news", 6);
  await shows("first", "news active fine room active a1 b2 b3 b5 b6");

  // Unmounting closes.
  await page.evaluate(() => controls.unmount());
  await until("the connections", open, []);
  assert.equal(sockets.length, 4);
  assert.deepEqual(await page.evaluate(() => controls.errors), []);
  assert.deepEqual(problems.filter((text) => !/secret|React DevTools/.test(text)), []);
});
