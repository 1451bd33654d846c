// Compiles the recipes of docs/frameworks.md and runs them in a browser.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compile, compileModule } from "svelte/compiler";
import { compileScript, parse } from "vue/compiler-sfc";

import { browser, noBrowser, until } from "./browser.js";
import { noGo, startHub } from "./hub.js";

const local = (path) => fileURLToPath(new URL(path, import.meta.url));
const recipes = readFileSync(local("../../docs/frameworks.md"), "utf8");
const listings = [...recipes.matchAll(/<!-- file: (\S+) -->\n```\w+\n(.*?)```\n/gs)].map(([, path, source]) => ({ path, source }));

const mounts = {
  vue: `
    import { createApp, h, reactive } from "vue";
    import News from "./News.vue";
    const props = reactive({ channel: "news" });
    const app = createApp({ render: () => h(News, props) });
    app.mount("#root");
    window.controls = { setChannel: (channel) => (props.channel = channel), unmount: () => app.unmount() };`,
  svelte: `
    import { mount, unmount } from "svelte";
    import { props } from "./props.svelte.js";
    import News from "./News.svelte";
    const app = mount(News, { target: document.querySelector("#root"), props });
    window.controls = { setChannel: (channel) => (props.channel = channel), unmount: () => unmount(app) };`,
};

const compilers = [
  [/\.vue$/, (source, filename) => compileScript(parse(source, { filename }).descriptor, { id: "news", inlineTemplate: true }).content],
  [/\.svelte$/, (source, filename) => checked(compile(source, { filename, generate: "client" }))],
  [/\.svelte\.js$/, (source, filename) => checked(compileModule(source, { filename, generate: "client" }))],
];

function checked({ js, warnings }) {
  assert.deepEqual(warnings, []);
  return js.code;
}

const plugin = {
  name: "components",
  setup({ onLoad }) {
    for (const [filter, compiler] of compilers) {
      onLoad({ filter, namespace: "file" }, ({ path }) => {
        return { contents: compiler(readFileSync(path, "utf8"), path), loader: "js", resolveDir: dirname(path) };
      });
    }
  },
};

for (const [framework, entry] of Object.entries(mounts)) {
  test(`the recipe for ${framework}`, { skip: noGo || noBrowser, timeout: 120_000 }, async (t) => {
    const directory = mkdtempSync(join(tmpdir(), `hypgo-${framework}-`));
    t.after(() => rmSync(directory, { recursive: true }));
    const { url, page: origin } = await startHub(t, directory);
    for (const { path, source } of listings.filter(({ path }) => path.startsWith(framework))) {
      mkdirSync(dirname(join(directory, path)), { recursive: true });
      writeFileSync(join(directory, path), source.replace("ws://localhost:8080/ws", url));
    }
    const sources = join(directory, framework);
    writeFileSync(join(sources, "main.js"), entry);
    writeFileSync(join(sources, "props.svelte.js"), `export const props = $state({ channel: "news" });`);
    await build({
      entryPoints: [join(sources, "main.js")],
      outfile: join(directory, "page.js"),
      bundle: true,
      format: "esm",
      nodePaths: [local("node_modules")],
      conditions: ["browser", "production"],
      define: {
        "process.env.NODE_ENV": '"production"',
        __VUE_OPTIONS_API__: "true",
        __VUE_PROD_DEVTOOLS__: "false",
        __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
      },
      logLevel: "error",
      plugins: [plugin],
    });
    writeFileSync(join(directory, "index.html"), `<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="page.js"></script>`);

    const context = await browser(t);
    const page = await context.newPage();
    const sockets = [];
    const problems = [];
    page.on("websocket", (socket) => sockets.push(socket));
    page.on("pageerror", (error) => problems.push(String(error)));
    const shows = (wanted) => until(framework, () => page.locator("#root p").allTextContents(), wanted);
    const publisher = await context.newPage();
    await publisher.goto(`${origin}/nothing`);
    const publish = (channel, data) =>
      publisher.evaluate(
        ([url, channel, data]) =>
          new Promise((resolve) => {
            const socket = new WebSocket(url, "json");
            socket.onopen = () => socket.send(JSON.stringify({ type: "publish", channel, data, id: "1" }));
            socket.onmessage = () => resolve(socket.close());
          }),
        [url, channel, data],
      );

    await page.goto(`${origin}/`);
    await shows(["open"]);
    await publish("news", "first");
    await shows(["open", "first"]);
    await page.evaluate(() => controls.setChannel("secret"));
    await shows(["that is secret", "first"]);
    await page.evaluate(() => controls.setChannel("sports"));
    await shows(["open", "first"]);
    await publish("sports", "second");
    await shows(["open", "first", "second"]);
    await page.evaluate(() => controls.unmount());
    await until("the connections", () => sockets.filter((socket) => !socket.isClosed()).length, 0);
    assert.equal(sockets.length, 1);
    assert.deepEqual(problems, []);
  });
}
