// js/dist is committed, so that Go programs embed it and the repository can be used
// without npm. This test fails if it was not built from js/src.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { outputs } from "../build.mjs";

const dist = new URL("../dist/", import.meta.url);

test("js/dist is built from js/src", async () => {
  const built = await outputs();
  assert.deepEqual(readdirSync(dist).sort(), [...built.keys()].sort());
  for (const [name, text] of built) {
    assert.ok(text === readFileSync(new URL(name, dist), "utf8"), `dist/${name} is outdated: run npm run build`);
  }
});
