const hub = require("hypgo-websocket");

const [url] = process.argv.slice(2);
import("./scenario.js")
  .then(({ scenario }) => scenario(hub, url, globalThis.WebSocket ?? require("ws")))
  .then(console.log, (error) => {
    console.error(error);
    process.exitCode = 1;
  });
