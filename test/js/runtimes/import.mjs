import * as hub from "hypgo-websocket";
import { scenario } from "./scenario.js";

const WebSocket = globalThis.WebSocket ?? (await import("ws")).default;
const [url] = process.argv.slice(2);
console.log(await scenario(hub, url, WebSocket));
