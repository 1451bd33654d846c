// Starts Chromium for a test.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { chromium } from "playwright-core";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

/** Why the tests with a browser are skipped, or false. */
export const noBrowser = existsSync(executablePath) ? false : `${executablePath} is missing`;

/** Starts a browser with an empty profile, which closes when the test ends. Returns a context for pages. */
export async function browser(t) {
  const started = await chromium.launch({ executablePath, args: args.split(" "), timeout: 60_000 });
  t.after(() => started.close());
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
