// A page of one room that moves between the nodes of a cluster. The room is that in the address, as in
// ?name=Ann&codec=msgpack&seal=1#lobby. Texts are inserted as text, never as markup.

import { HubClient, Sealer, codecs, fromBase64 } from "./hub.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const name = query.get("name") ?? `Guest ${Math.floor(Math.random() * 1000)}`;
const room = decodeURIComponent(location.hash.slice(1)) || "lobby";
const tab = crypto.getRandomValues(new Uint32Array(4)).join("-"); // the secret from which nodes make the ID of this tab

// Moving

let nodes = []; // the addresses of all nodes that have been alive since the page was loaded
let target = location.host; // the address to connect to: of a node, or of the front
let connected = ""; // the node to which the latest connection leads
let wanted = false; // true if the person has chosen the target

/** Returns the node to try when the target does not answer. The front itself knows which nodes do. */
function nextNode() {
  const i = nodes.indexOf(target);
  return i < 0 ? target : nodes[(i + 1) % nodes.length];
}

/**
 * A connection to the target. The client makes one whenever it connects, and restores everything over it: so it moves to
 * another node just as it reconnects to the same one.
 */
class NodeSocket extends WebSocket {
  constructor(url, protocols) {
    const address = new URL(url);
    address.host = target;
    super(address, protocols);
    const mine = target;
    this.addEventListener("close", () => {
      if (mine === target) target = nextNode(); // the connection has ended, or was never made
    });
  }
}

/** Fetches keys for one connection, from the node to which the connection will be. */
async function fetchKeys({ signal }) {
  if (!query.has("seal")) return undefined;
  const from = target;
  try {
    const response = await fetch(`${location.protocol}//${from}/api/key`, { method: "POST", signal });
    if (!response.ok) throw new Error(`no keys: ${response.status}`);
    const { ticket, aes, hmac } = await response.json();
    return { token: ticket, security: new Sealer({ aesKey: fromBase64(aes), hmacKey: fromBase64(hmac) }) };
  } catch (error) {
    if (from === target) target = nextNode();
    throw error; // the client tries again
  }
}

const url = new URL("/ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
url.hash = "";
url.searchParams.set("name", name);
url.searchParams.set("tab", tab);

const client = new HubClient(url, {
  WebSocket: NodeSocket,
  codec: codecs[query.get("codec") ?? "json"],
  getToken: fetchKeys,
  backoff: { base: 300, max: 2_000 },
  onStateChange: showConnection,
  onMessage: (message) => message.type === "nodes" && showNodes(message.json()),
  onResumed: showResumed,
  onGap: showGap,
});

// The room

/** The page begins with everything that is kept. After that it goes on behind the latest message that it has. */
const membership = { since: { epoch: "", offset: 0 }, onPresence: showMembers, onError: joinRefused };
let entered = false; // true once there was a message
let subscription = client.joinRoom(room, showMessage, membership);

/** Tries again later: the engine may be away. */
function joinRefused(error) {
  showLine(`The room cannot be joined: ${error.message}`, "gap");
  setTimeout(() => (subscription = client.joinRoom(room, showMessage, { ...membership, since: subscription.position })), 2_000);
}

function showMessage(message) {
  entered = true;
  const { text, name, node } = message.json();
  const about = document.createElement("small");
  about.append(` at ${node}`);
  const author = document.createElement("b");
  author.append(name);
  showLine([author, `: ${text}`, about]);
}

/**
 * Publishes a text. While there is no connection, or no engine, it waits. The client sends it again with the same key, so
 * that it is published once, also if another node gets it.
 */
async function say(text) {
  const item = document.createElement("li");
  const waits = setTimeout(() => $("waiting").append(item), 300);
  item.append(`${text} (waits to be published)`);
  try {
    await client.publishRoom(room, { text }, { timeout: Infinity });
  } catch (error) {
    showLine(`${error.outcomeUnknown ? "Perhaps not" : "Not"} published: ${text} (${error.message})`, "gap");
  }
  clearTimeout(waits);
  item.remove();
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  void say($("text").value);
  $("text").value = "";
});

// What the page tells

function showConnection({ state, reason }) {
  const texts = {
    connecting: "Connecting…",
    open: `Connected to ${connected}`,
    reconnecting: "No connection, trying the nodes…",
    closed: `Closed: ${reason}`,
  };
  $("connection").textContent = texts[state];
}

/** Shows the nodes, and where this page is connected. */
function showNodes({ node, nodes: alive }) {
  nodes = [...new Set([...nodes, ...alive])].sort();
  if (connected && connected !== node) showLine(wanted ? `Moved to ${node}` : `No connection to ${connected} any more, moved to ${node}`, "notice");
  connected = node;
  wanted = false;
  showConnection(client);
  const choices = nodes.includes(location.host) ? nodes : [location.host, ...nodes];
  $("node").replaceChildren(
    ...choices.map((address) => {
      const text = address === location.host && !nodes.includes(address) ? `any node (${address})` : address;
      return new Option(alive.includes(address) || address !== text ? text : `${address} (away)`, address);
    }),
  );
  $("node").value = target;
}

$("node").addEventListener("change", () => {
  target = $("node").value;
  wanted = true;
  client.reconnect();
});

/** Tells how the page has come back. If something is missing, a gap tells it. */
function showResumed({ incomplete }) {
  if (incomplete.length > 0) return;
  const replayed = subscription.resumed?.replayed ?? 0;
  showLine(`Back with nothing missed${replayed > 0 ? `: ${replayed} from the history` : ""}`, "notice");
}

/** Messages are missing, or may be. Without a count nobody knows. A page that enters lacks those that are not kept any more. */
function showGap({ all, count, reason, room: name }) {
  if (!all && name !== room) return; // this page needs no broadcasts, and nodes repeat their lists
  if (!entered) showLine("Older messages may not be kept any more.", "notice");
  else showLine(count > 0 ? `${count} messages are missing (${reason})` : `Messages may be missing (${reason})`, "gap");
}

function showMembers() {
  const all = subscription.members().map(({ clientId, info, node }) => {
    const item = document.createElement("li");
    const where = document.createElement("small");
    where.append(` ${node}, ${info.codec}${info.sealed ? ", sealed" : ""}`);
    item.append(clientId === client.id ? `${info.name} (you)` : info.name, where);
    return item;
  });
  $("members").replaceChildren(...all);
  $("members-title").textContent = `Members: ${all.length}`;
}

function showLine(content, className = "") {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 50;
  const item = document.createElement("li");
  item.className = className;
  item.append(...[content].flat());
  log.append(item);
  while (log.children.length > 1000) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// The servers, on the page that the front serves

let servers = "";

async function showServers() {
  const response = await fetch("/control").catch(() => undefined);
  const told = response?.ok ? await response.text() : servers; // nodes tell of none
  if (told === servers) return; // an unchanged list keeps the focus
  servers = told;
  const rows = JSON.parse(told).map(({ name, url, state }) => {
    const item = document.createElement("li");
    const text = document.createElement("span");
    text.append(`${name}: ${state}`);
    text.title = url;
    item.append(text, ...(state === "stopped" ? ["start"] : ["stop", "kill"]).map((command) => button(command, name)));
    return item;
  });
  $("servers").replaceChildren(...rows);
  $("control").hidden = rows.length === 0;
}

function button(command, server) {
  const node = document.createElement("button");
  node.append(command);
  node.setAttribute("aria-label", `${command} ${server}`);
  node.addEventListener("click", async () => {
    node.disabled = true;
    const response = await fetch(`/control?${new URLSearchParams({ command, name: server })}`, { method: "POST" }).catch(() => undefined);
    $("problem").textContent = response?.ok ? "" : ((await response?.text()) ?? "The front does not answer.");
    await showServers();
  });
  return node;
}

$("room").textContent = `Room ${room}`;
$("name").textContent = name;
showConnection(client);
await showServers();
if (!$("control").hidden) setInterval(showServers, 2_000);
