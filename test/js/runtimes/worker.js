import * as hub from "/hub.js";
import { scenario } from "/scenario.js";

onmessage = ({ data }) => scenario(hub, data).then(postMessage, (error) => postMessage(String(error)));
