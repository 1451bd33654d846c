// Bundles applications that use parts of the client, and fails if one is larger
// than its limit, in bytes after minifying and gzip.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const use = (names, call) => `import { ${names} } from "./dist/hub.js"; ${call}.then(console.log);`;
const applications = {
  "JSON, no features": [9_970, use("connectWith", 'connectWith([], "/ws")')],
  "JSON, presence": [10_800, use("connectWith, presence", 'connectWith([presence], "/ws")')],
  "JSON, requests": [10_260, use("connectWith, requests", 'connectWith([requests], "/ws")')],
  "JSON, history": [11_260, use("connectWith, history", 'connectWith([history], "/ws")')],
  "JSON only": [12_350, use("connect", 'connect("/ws")')],
  everything: [16_690, 'import * as hub from "./dist/hub.js"; console.log(hub);'],
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
