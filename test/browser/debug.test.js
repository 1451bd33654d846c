// Tests of the page of Hub.DebugHandler in a real browser, without JavaScript of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { chromium } from "playwright-core";

const args = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const hostile = `"><img src=x onerror="document.title='broken'">`;

let hub, url, browser;

before(async () => {
  hub = spawn("go", ["run", "./test/browser/hub"], {
    cwd: new URL("../../", import.meta.url),
    stdio: ["pipe", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: hub.stdout })) {
    [, url] = line.match(/^hub on (\S+)/) ?? [];
    if (url) break;
  }
  assert.ok(url, "the hub did not start");
  url += "/debug/hub";
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: args.split(" "), timeout: 60_000 });
});

after(async () => {
  await browser?.close();
  if (hub?.exitCode !== null) return;
  const exited = once(hub, "exit");
  hub.stdin.end();
  await exited;
});

/** Opens the page and runs the test with it. Every error of the page fails the test, such as a style that the policy forbids. */
function scenario(name, options, run) {
  test(name, { timeout: 120_000 }, async () => {
    const context = await browser.newContext({ locale: "en-GB", viewport: { width: 1000, height: 640 }, ...options });
    const page = await context.newPage();
    const errors = [];
    page.on("console", (message) => {
      const icon = message.location().url.endsWith("/favicon.ico"); // the browser asks for it by itself
      if (message.type() === "error" && !icon) errors.push(message.text());
    });
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("request", (request) => request.url().startsWith(url) || errors.push(`request of ${request.url()}`));
    try {
      await page.goto(url);
      await run(page);
      assert.deepEqual(errors, []);
    } finally {
      await context.close();
    }
  });
}

const rows = (page, heading) => page.locator(`h2:text-is("${heading}") + table tbody tr`);
const value = (page, heading, name) => rows(page, heading).filter({ has: page.getByRole("rowheader", { name, exact: true }) }).locator("td");

for (const javaScriptEnabled of [true, false]) {
  scenario(`an operator finds the slow client, ${javaScriptEnabled ? "with" : "without"} JavaScript`, { javaScriptEnabled }, async (page) => {
    assert.equal(await page.title(), "WebSocket hub");
    assert.equal(await value(page, "Health", "running").textContent(), "true");
    assert.equal(await value(page, "Statistics", "active_connections").textContent(), "4");
    assert.deepEqual(await rows(page, "Largest channels").allTextContents(), ["news4"]);
    assert.deepEqual(await rows(page, "Largest rooms").allTextContents(), ["<b>lobby</b>4"]);
    await rows(page, "Largest backlogs").getByRole("link", { name: "slow" }).click();
    await page.waitForURL("**/debug/hub?client=slow");
    assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "Client slow");
    assert.ok(Number(await value(page, "Backlog", "Bytes").textContent()) > 100_000);
    assert.match(await value(page, "Backlog", "Accepts nothing since").textContent(), /^\d{4}-/);
    assert.match(await rows(page, "Latest losses").textContent(), /slow_consumer/);
    assert.equal(await value(page, "Connection", "Codec").textContent(), "json");
    await page.getByRole("link", { name: "Hub" }).click();
    await page.getByRole("searchbox", { name: "Client ID contains" }).fill("img");
    await page.getByRole("button", { name: "Search" }).click();
    await page.waitForURL("**/debug/hub?search=img");
    await rows(page, "Clients found").getByRole("link", { name: hostile }).click();
    assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), `Client ${hostile}`);
    assert.equal(await page.title(), `Client ${hostile}`);
    assert.equal(await page.locator("img").count(), 0);
    assert.ok(!(await page.content()).includes("a secret"));
  });
}

for (const colorScheme of ["light", "dark"]) {
  scenario(`axe-core has no findings: ${colorScheme}`, { colorScheme }, async (page) => {
    const check = async () => {
      const { violations } = await page.evaluate(`${axe.source}; axe.run()`);
      assert.deepEqual(violations.map(({ id, impact, nodes }) => [id, impact, nodes.map(({ html }) => html)]), []);
    };
    await check();
    const [red] = (await page.evaluate("getComputedStyle(document.body).color")).match(/\d+/);
    assert.equal(red, colorScheme === "dark" ? "255" : "0", "the text has the colour of the scheme");
    await page.goto(`${url}?client=slow`);
    await check();
    const width = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    await page.setViewportSize({ width: 320, height: 640 });
    assert.equal(await page.evaluate(width), 0, "nothing is cut off on a narrow screen");
  });
}
