// Starts Chromium for a test.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { chromium } from "playwright-core";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

/** Why the tests with a browser are skipped, or false. */
export const noBrowser = existsSync(executablePath) ? false : `${executablePath} is missing`;

/** Returns the path of an older Chromium, which a package of npm contains, or undefined if it does not run here. */
export async function olderChromium() {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const { default: packed } = await import("@sparticuz/chromium");
  return packed.executablePath(); // unpacks it to the directory for temporary files
}

/** Starts a browser with an empty profile, which closes when the test ends. Returns a context for pages. */
export async function browser(t, path = executablePath) {
  const started = await chromium.launch({ executablePath: path, args: args.split(" "), timeout: 60_000 });
  t.after(() => started.close());
  t.diagnostic(`Chromium ${started.version()}`);
  return started.newContext();
}

/** Calls `read` until it returns a value equal to `wanted`. Fails with the difference after a while. */
export async function until(description, read, wanted) {
  for (const end = Date.now() + 30_000; ; await delay(20)) {
    const got = await read();
    try {
      assert.deepEqual(got, wanted, description);
      return;
    } catch (error) {
      if (Date.now() > end) throw error;
    }
  }
}
