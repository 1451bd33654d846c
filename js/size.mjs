// Bundles an application that uses JSON only and one that uses everything, and
// fails if one is larger than its limit, in bytes after minifying and gzip.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const applications = {
  "JSON only": [11_720, 'import { connect } from "./dist/hub.js"; connect("/ws").then(console.log);'],
  everything: [16_350, 'import * as hub from "./dist/hub.js"; console.log(hub);'],
};

for (const [name, [limit, contents]] of Object.entries(applications)) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: new URL(".", import.meta.url).pathname },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2020",
    write: false,
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${name}: ${size} bytes of ${limit}`);
  if (size > limit) process.exitCode = 1;
}
