// The page of the chat. Names and messages are inserted as text, never as markup.

import { HubClient, Sealer, codecs, fromBase64 } from "./hub.js";

const $ = (id) => document.getElementById(id);
const firstRoom = "lobby";
const shownMessages = 300; // of each room
const historyMessages = 200; // of them, those that a tab gets when it enters
const retryAfter = 3_000;
const typingEvery = 2_000;
const noticeFor = 3_000;
const returnWithin = 5_000; // a member that comes back within that time has not left
const sealOverhead = 12 + 16 + 32; // nonce, tag, signature

const codecNames = { json: "JSON", protobuf: "Protobuf", flatbuffers: "FlatBuffers", msgpack: "MessagePack" };
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const clockDay = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const number = new Intl.NumberFormat();
const names = new Intl.ListFormat("en");

let settings; // {name, codec, encrypt}
let client;
let me = {};
let active;
let nonce = Date.now();
let connectionText = "";
let heardAt; // when the connection was made, or the latest statistics arrived
let stats; // the latest statistics of the hub, with their time
const rates = [];
const hues = new Map(); // by name
const rooms = new Map(); // the rooms that this tab has joined: name -> Room

class Room {
  items = [];
  pending = new Map(); // nonce -> item whose message the hub has not sent back yet
  leaving = new Map(); // client ID -> timer that says that the member left
  typing = new Map(); // client ID -> timer that ends the notice
  typedAt = 0; // when this tab last told that it is typing
  lostAt = 0; // when the connection was lost, until the client is in the room again
  unread = 0;
  subscription;
  entry; // how this tab has entered the room: the messages up to the offset are older
  newest; // the latest message, for the table of sizes

  constructor(name) {
    this.name = name;
  }

  /** The members, sorted by name. */
  get members() {
    const all = this.subscription.members().map(({ clientId: id, info }) => ({ id, ...info }));
    return all.sort((a, b) => a.name.localeCompare(b.name));
  }
}

// Settings

/** A storage that the browser may block. Then nothing is kept. */
const storage = (kind) => ({
  get: (key) => attempt(() => JSON.parse(kind().getItem(key))) ?? null,
  set: (key, value) => attempt(() => kind().setItem(key, JSON.stringify(value))),
});
const perTab = storage(() => sessionStorage);
const perBrowser = storage(() => localStorage);

/**
 * The secret from which the server makes the ID of this tab, so that a reloaded tab has the same ID. The storage has it
 * only between two pages, because a browser that duplicates a tab copies the storage.
 */
const secret = perTab.get("secret") ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
addEventListener("pageshow", () => perTab.set("secret", null));
addEventListener("pagehide", () => perTab.set("secret", secret));

/** Reads the settings from the address, as in ?name=Ann&codec=msgpack&encrypt=1#room, or from the storage. */
function initialSettings() {
  const query = new URLSearchParams(location.search);
  const saved = perTab.get("settings");
  const given = {
    name: query.get("name") ?? saved?.name ?? perBrowser.get("name") ?? "",
    codec: query.get("codec") ?? saved?.codec ?? "json",
    encrypt: query.has("encrypt") ? query.get("encrypt") !== "0" : (saved?.encrypt ?? false),
  };
  return { given, known: saved !== null || query.has("name") };
}

/** Returns why settings cannot be used, if they cannot. */
function problemOf({ codec, encrypt }) {
  if (!Object.hasOwn(codecNames, codec)) return `There is no codec ${codec}.`;
  return encrypt && !isSecureContext ? "Messages were to be sealed, which is not possible on this page." : "";
}

function showSettings({ name, codec, encrypt }, problem = "") {
  $("name").value = name;
  for (const choice of $("join-form").elements.codec) choice.checked = choice.value === codec;
  $("encrypt").checked = encrypt && isSecureContext;
  setText($("join-problem"), problem);
  setText($("join-title"), client ? "Settings" : "Join the chat");
  setText($("join-submit"), client ? "Apply" : "Join");
  $("cancel").hidden = !client;
  $("join").showModal();
}

$("join").addEventListener("close", () => client ?? $("join").showModal()); // the first dialog cannot be cancelled
$("cancel").addEventListener("click", () => $("join").close());
$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { name, codec, encrypt } = $("join-form").elements;
  start({ name: name.value.trim(), codec: codec.value, encrypt: encrypt.checked });
  $("join").close();
  $("text").focus();
});
$("settings").addEventListener("click", () => showSettings({ ...settings, name: me.name ?? settings.name }));
$("retry").addEventListener("click", () => (client.state === "closed" ? start(settings) : client.reconnect()));

if (!isSecureContext) {
  $("encrypt").disabled = true;
  $("encrypt-note").textContent = "Browsers provide the cryptography for this only on https pages and on localhost.";
}

// Connecting

function start(chosen) {
  settings = chosen;
  perTab.set("settings", settings);
  perBrowser.set("name", settings.name);
  const earlier = client;
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("name", settings.name);
  url.searchParams.set("tab", secret);
  const current = (client = new HubClient(url, {
    codec: codecs[settings.codec],
    getToken: ({ signal }) => (chosen.encrypt ? fetchKeys(signal) : undefined),
    backoff: { base: 400, max: 5_000 },
    onStateChange: (change) => current === client && stateChanged(change),
    onResumed: showResumed,
    onMessage: received,
    onGap: showGap,
  }));
  void earlier?.close();
  stateChanged(client);
  client.subscribe("stats", showStats);
  for (const room of rooms.values()) join(room);
  if (rooms.size === 0) enter(roomInAddress());
}

/** Fetches keys for one connection. Every connection needs its own. */
async function fetchKeys(signal) {
  const response = await fetch("/api/key", { method: "POST", signal });
  if (!response.ok) throw new Error(`no keys: ${response.status}`);
  const { ticket, aes, hmac } = await response.json();
  return { token: ticket, security: new Sealer({ aesKey: fromBase64(aes), hmacKey: fromBase64(hmac) }) };
}

function stateChanged({ state, previous, reason, error }) {
  if (previous === "open") for (const room of rooms.values()) room.lostAt = heardAt;
  if (state === "open") heardAt = Date.now();
  const sealed = settings.encrypt ? ", sealed" : "";
  const texts = {
    connecting: "Connecting…",
    open: `Connected: ${codecNames[settings.codec]}${sealed}`,
    reconnecting: "No connection, trying again…",
    closed: `Closed: ${reason || (error ? inWords(error) : "the server gave no reason")}`,
  };
  $("connection").dataset.state = document.body.dataset.connection = state;
  connectionText = texts[state];
  setText($("connection-text"), connectionText);
  $("retry").hidden = state === "open" || state === "connecting";
  showWire();
}

/** Handles messages that belong to no room. */
function received(message) {
  if (message.type === "welcome") welcomed(message.json());
  else if (message.channel.startsWith("typing:")) setTyping(rooms.get(message.channel.slice(7)), message.clientId, true);
}

function welcomed(person) {
  me = person;
  setText($("me-name"), me.name);
  $("me-hint").hidden = false;
}

/** The client has replaced a lost connection. It gets the messages that it missed from the histories of the rooms. */
function showResumed({ incomplete }) {
  const lacking = incomplete.filter(({ kind }) => kind === "room");
  for (const room of rooms.values()) if (!lacking.some(({ name }) => name === room.name)) room.lostAt = 0;
  for (const { name, reason } of lacking) if (reason === "none") showLoss(rooms.get(name)); // otherwise a gap follows
  if (lacking.length > 0) return;
  setText($("connection-text"), "Reconnected, nothing missed");
  setTimeout(() => setText($("connection-text"), connectionText), noticeFor);
}

function showGap({ room: name, count, reason }) {
  const room = rooms.get(name);
  for (const affected of room ? [room] : rooms.values()) showLoss(affected, count, reason);
}

/** Says that messages are missing, or may be. A hub that was restarted does not know their number. */
function showLoss(room, count = 0, reason = "history") {
  const outage = room.lostAt ? `No connection from ${clockSeconds.format(room.lostAt)} to ${clockSeconds.format(Date.now())}. ` : "";
  const missing = count === 0 ? "Messages may be missing" : count === 1 ? "1 message is missing" : `${number.format(count)} messages are missing`;
  room.lostAt = 0;
  add(room, notice(`${outage}${missing}${reason === "slow_consumer" ? ", because this page was too slow" : ""}.`, "gap"));
}

/** Joins a room, behind the messages that it has. The client restores the membership when it reconnects. */
function join(room) {
  const since = room.subscription?.position;
  const subscription = client.joinRoom(room.name, (message) => receivedInRoom(room, message), {
    since,
    last: since ? 0 : historyMessages,
    onPresence: (change) => showPresence(room, change),
    onError: (error) => joinRefused(room, error),
  });
  room.subscription = subscription;
  subscription.ready.then(() => (room.entry ??= subscription.resumed)).catch(() => {}); // onError is told
}

function joinRefused(room, error) {
  if (room.name === firstRoom && rooms.size === 1) {
    setTimeout(() => rooms.get(room.name) === room && join(room), retryAfter); // a tab needs a room
  } else {
    rooms.delete(room.name);
    if (active === room) show([...rooms.values()].at(-1) ?? enter(firstRoom));
    showRooms();
  }
  showProblem(room.name, inWords(error));
}

// Rooms

const roomInAddress = () => attempt(() => decodeURIComponent(location.hash.slice(1))) || firstRoom;

function enter(name) {
  let room = rooms.get(name);
  if (!room) {
    room = new Room(name);
    rooms.set(name, room);
    join(room);
  }
  show(room);
  return room;
}

function leave(room) {
  rooms.delete(room.name);
  room.subscription.unsubscribe();
  show([...rooms.values()].at(-1) ?? enter(firstRoom));
}

function show(room) {
  active = room;
  room.unread = 0;
  history.replaceState(null, "", `#${encodeURIComponent(room.name)}`);
  setText($("room-title"), room.name);
  $("leave").hidden = rooms.size < 2;
  const log = $("log");
  silence();
  log.replaceChildren(...room.items.map((item) => item.node));
  log.scrollTop = log.scrollHeight;
  $("newest").hidden = true;
  showProblem("");
  showRooms();
  showMembers();
  showTyping();
  showWire();
}

/** Keeps screen readers from announcing old messages that are inserted now. */
function silence() {
  $("log").setAttribute("aria-live", "off");
  requestAnimationFrame(() => $("log").setAttribute("aria-live", "polite"));
}

function receivedInRoom(room, message) {
  if (message.type === "room_message") showMessage(room, message);
}

/** Shows who is in a room. A member that only loses its connection does not leave. */
function showPresence(room, { joined = [], left = [] } = {}) {
  const say = (text) => add(room, notice(text));
  for (const { clientId, info } of left) {
    room.leaving.set(clientId, setTimeout(() => room.leaving.delete(clientId) && say(`${info.name} left`), returnWithin));
  }
  const me = room.subscription.members().find(({ clientId }) => clientId === client.id);
  for (const { clientId, info, since } of joined) {
    clearTimeout(room.leaving.get(clientId));
    if (!room.leaving.delete(clientId) && since > me?.since) say(`${info.name} joined with ${describe(info)}`);
  }
  if (room === active) showMembers();
  showRooms();
}

const describe = ({ codec, sealed }) => `${codecNames[codec] ?? codec}${sealed ? ", sealed" : ""}`;

// Typing

function tellTyping() {
  const text = $("text").value.trim();
  if (text === "" || text.startsWith("/") || client?.state !== "open" || Date.now() < active.typedAt + typingEvery) return;
  active.typedAt = Date.now();
  client.publish(`typing:${active.name}`, null, { exceptSelf: true, ack: false });
}

/** Shows for a while, or does not show any more, that a member is typing. */
function setTyping(room, id, on) {
  clearTimeout(room?.typing.get(id));
  if (on) room?.typing.set(id, setTimeout(setTyping, noticeFor, room, id, false));
  else room?.typing.delete(id);
  if (room === active) showTyping();
}

function showTyping() {
  const typing = active.members.filter(({ id }) => active.typing.has(id)).map(({ name }) => name);
  const verb = typing.length === 1 ? "is" : "are";
  setText($("typing"), typing.length > 0 ? `${typing.length > 3 ? "Several people" : names.format(typing)} ${verb} typing…` : "");
}

// Messages

function showMessage(room, message) {
  const { text, nonce, name = room.members.find(({ id }) => id === message.clientId)?.name ?? "Unknown" } = message.json();
  const mine = message.clientId === client.id;
  const pending = mine ? room.pending.get(nonce) : undefined;
  if (pending) {
    // The message moves to its place in the hub's order.
    room.pending.delete(nonce);
    remove(room, pending);
  }
  const isOld = room.entry === room.subscription.resumed && message.offset > 0 && message.offset <= room.entry.offset;
  if (isOld) silence();
  const state = pending ? `✓ ${number.format(Math.max(1, Math.round(performance.now() - pending.sentAt)))} ms` : "";
  add(room, line({ id: message.clientId, name, text, time: message.timestamp, mine, state }));
  setTyping(room, message.clientId, false);
  room.newest = message;
  if (room !== active) room.unread += isOld ? 0 : 1;
  else showWire();
  showRooms();
}

async function sendMessage(room, text) {
  const state = client.state === "open" ? "sending…" : "waiting for the connection…";
  const item = line({ id: client.id, name: me.name ?? settings.name, text, time: Date.now(), mine: true, state });
  item.node.classList.add("pending");
  item.node.setAttribute("aria-live", "off"); // screen readers announce the message when it has its place
  item.sentAt = performance.now();
  const own = ++nonce;
  room.pending.set(own, item);
  room.typedAt = 0;
  add(room, item, true);
  try {
    await client.publishRoom(room.name, { text, nonce: own }, { timeout: Infinity });
  } catch (error) {
    // The message may have arrived although the call failed, or arrive later.
    if (room.pending.has(own)) markFailed(room, item, text, own, error);
  }
}

/** Sends a command. Only this tab gets the answer. */
async function sendCommand(room, text) {
  try {
    const answer = await client.request("command", { room: room.name, text });
    add(room, notice([isolated(text), `\n${answer.json()}`], "private"), true);
  } catch (error) {
    showProblem(text, inWords(error));
    $("text").value ||= text;
  }
}

function markFailed(room, item, text, own, error) {
  item.node.classList.replace("pending", "failed");
  item.node.removeAttribute("aria-live");
  const again = element("button", "", "Send again");
  again.type = "button";
  again.addEventListener("click", () => {
    room.pending.delete(own);
    remove(room, item);
    sendMessage(room, text);
    $("text").focus();
  });
  const outcome = error.outcomeUnknown ? "may not have been sent" : "not sent";
  item.state.replaceChildren(`${outcome}: ${inWords(error)}`, again);
}

function add(room, item, own = false) {
  const last = room.items.at(-1);
  item.node.classList.toggle("follows", Boolean(last?.id && last.id === item.id && item.time - last.time < 300_000));
  room.items.push(item);
  const dropped = room.items.length > shownMessages ? room.items.shift() : undefined;
  if (room !== active) return;
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  dropped?.node.remove();
  log.append(item.node);
  if (atEnd || own) log.scrollTop = log.scrollHeight;
  else if (item.id) $("newest").hidden = false;
}

function remove(room, item) {
  const at = room.items.indexOf(item);
  if (at >= 0) room.items.splice(at, 1);
  item.node.remove();
}

function notice(text, kind = "") {
  const node = element("p", `notice ${kind}`.trim(), ...[text].flat());
  node.dataset.testid = "notice";
  return { node };
}

function line({ id, name, text, time, mine, state }) {
  const action = text.startsWith("/me ");
  const node = element("article", `message${mine ? " mine" : ""}${action ? " action" : ""}`);
  node.dataset.testid = "message";
  node.style.setProperty("--hue", hueOf(name));
  const avatar = element("span", "avatar", [...name][0].toUpperCase());
  avatar.setAttribute("aria-hidden", "true");
  const isToday = new Date(time).toDateString() === new Date().toDateString();
  const when = element("time", "", (isToday ? clock : clockDay).format(time));
  when.dateTime = new Date(time).toISOString();
  const who = element("div", "who", element("b", "", name), when);
  const words = element("p", "", ...(action ? [`${name} `, isolated(text.slice(4))] : [text]));
  words.dir = "auto";
  words.dataset.testid = "message-text";
  const stateNode = element("span", "state", state);
  stateNode.dataset.testid = "message-state";
  node.append(avatar, element("div", "body", who, element("div", "said", words, stateNode)));
  return { node, id, time, state: stateNode };
}

$("log").addEventListener("scroll", () => {
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 60) $("newest").hidden = true;
});
$("newest").addEventListener("click", () => {
  $("log").scrollTop = $("log").scrollHeight;
  $("text").focus();
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "" || !active) return;
  const length = [...text].length;
  if (length > me.max_text) {
    showProblem(`This text has ${number.format(length)} characters, and a message at most ${number.format(me.max_text)}.`);
    return;
  }
  showProblem("");
  $("text").value = "";
  if (/^\/(?!me )/.test(text)) sendCommand(active, text);
  else sendMessage(active, text);
  $("text").focus();
});
$("text").addEventListener("input", tellTyping);
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});
$("new-room").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("room-name").value.trim().replace(/\s+/g, " ");
  if (name === "" || !client) return;
  $("room-name").value = "";
  open(name);
});
$("leave").addEventListener("click", () => {
  leave(active);
  $("text").focus();
});
addEventListener("hashchange", () => client && enter(roomInAddress()));
document.addEventListener("keydown", (event) => {
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key) || rooms.size < 2) return;
  event.preventDefault();
  const all = [...rooms.values()];
  const step = event.key === "ArrowUp" ? -1 : 1;
  show(all.at((all.indexOf(active) + step) % all.length));
});

function open(name) {
  enter(name);
  view("chat");
  $("text").focus();
}

// Rooms, members and statistics

function showRooms() {
  const counts = new Map(Object.entries(stats?.rooms ?? {}));
  for (const { name, members } of rooms.values()) if (members.length > 0) counts.set(name, members.length);
  const elsewhere = [...counts.keys()].filter((name) => !rooms.has(name)).sort();
  updateList($("rooms"), [...rooms.keys(), ...elsewhere], {
    create(name) {
      const button = element("button", "", element("bdi", "title"), element("span", "badge"), element("span", "count"));
      button.type = "button";
      button.dataset.testid = "room";
      button.dataset.room = name;
      button.addEventListener("click", () => open(name));
      return element("li", "", button);
    },
    update(node, name) {
      const room = rooms.get(name);
      const [button] = node.children;
      const [title, badge, count] = button.children;
      node.className = room ? "" : "elsewhere";
      toggleAttribute(button, "aria-current", room && room === active);
      setWords(title, room ? "" : "Join ", name);
      setWords(badge, ", ", room?.unread || "", " unread");
      setWords(count, ", ", counts.get(name) ?? "", " here");
    },
  });
  const unread = [...rooms.values()].reduce((sum, room) => sum + room.unread, 0);
  $("unread-total").hidden = unread === 0;
  setText($("unread-total"), String(unread));
  document.title = unread > 0 ? `(${unread}) Rooms` : "Rooms";
  $("leave").hidden = rooms.size < 2;
}

function showMembers() {
  const members = new Map(active.members.map((person) => [person.id, person]));
  setText($("room-count"), members.size > 0 ? `${members.size} here` : "");
  updateList($("members"), [...members.keys()], {
    create(id) {
      const dot = element("span", "person-dot");
      dot.setAttribute("aria-hidden", "true");
      const node = element("li", "", dot, element("span", "title"), element("span", "tag"));
      node.dataset.testid = "member";
      node.dataset.id = id;
      return node;
    },
    update(node, id) {
      const person = members.get(id);
      const [, title, tag] = node.children;
      node.style.setProperty("--hue", hueOf(person.name));
      setText(title, id === client.id ? `${person.name} (you)` : person.name);
      setText(tag, describe(person));
    },
  });
}

/** Shows the size of the newest message as a frame for this tab, in each codec. */
function showWire() {
  const message = active?.newest;
  $("wire").classList.toggle("empty", !message);
  const body = $("wire").tBodies[0];
  if (!message) {
    body.replaceChildren();
    setText($("wire-caption"), "Send a message to see its size in each codec.");
    setText($("wire-note"), "");
    return;
  }
  const { type, channel, timestampNs, clientId, id, offset, key, room } = message;
  const data = message.json();
  const sizes = Object.keys(codecNames).map((name) => {
    const frame = codecs[name].encode({ type, channel, timestampNs, clientId, id, offset, key, room, data });
    const payload = (typeof frame === "string" ? new TextEncoder().encode(frame) : frame).length;
    return { name, bytes: frameLength(payload + (settings.encrypt ? sealOverhead : 0)) };
  });
  const largest = Math.max(...sizes.map(({ bytes }) => bytes));
  body.replaceChildren(
    ...sizes.map(({ name, bytes }) => {
      const row = element("tr", name === settings.codec ? "current" : "");
      row.dataset.testid = `wire-${name}`;
      const head = element("th", "", codecNames[name]);
      head.scope = "row";
      const bar = element("span", "");
      const share = Math.round((100 * bytes) / largest);
      bar.style.setProperty("--share", `${share}%`);
      const cell = element("td", "bar", bar);
      cell.setAttribute("aria-label", `${share} %`);
      row.append(head, element("td", "bytes", number.format(bytes)), cell);
      return row;
    }),
  );
  setText($("wire-caption"), "The size of this room's newest message as a frame in each codec.");
  setText(
    $("wire-note"),
    settings.encrypt
      ? `Each size includes ${sealOverhead} bytes for sealing: nonce, tag and signature.`
      : `Sizes before compression, which begins at 256 bytes. Sealing would add ${sealOverhead} bytes.`,
  );
}

/** Returns the length of a server's frame with its header (RFC 6455 section 5.2). */
function frameLength(payload) {
  if (payload < 126) return payload + 2;
  return payload + (payload < 65_536 ? 4 : 10);
}

function showStats(message) {
  heardAt = Date.now();
  const now = { ...message.json(), at: message.timestamp };
  if (stats && now.at > stats.at && now.messages_sent >= stats.messages_sent) {
    rates.push((1000 * (now.messages_sent - stats.messages_sent)) / (now.at - stats.at));
    if (rates.length > 60) rates.shift();
  }
  stats = now;
  const dropped = Object.entries(now.dropped ?? {}).filter(([, count]) => count > 0);
  const values = {
    ...now,
    rate: rates.length > 0 ? Math.round(rates.at(-1)) : 0,
    dropped: dropped.length > 0 ? dropped.map(([reason, count]) => `${number.format(count)} (${reason.replaceAll("_", " ")})`).join(", ") : "0",
  };
  for (const node of $("stats").querySelectorAll("[data-stat]")) {
    const value = values[node.dataset.stat];
    setText(node, typeof value === "number" ? number.format(value) : String(value ?? "–"));
  }
  const top = Math.max(10, ...rates);
  const points = rates.map((rate, i) => `${(240 - 4 * (rates.length - 1 - i)).toFixed(1)},${(46 - (42 * rate) / top).toFixed(1)}`);
  $("spark").querySelector("polyline").setAttribute("points", points.join(" "));
  const left = 240 - 4 * (rates.length - 1);
  $("spark").querySelector(".area").setAttribute("d", points.length > 1 ? `M${left},48 L${points.join(" L")} L240,48 Z` : "");
  $("spark").setAttribute("aria-label", `Deliveries per second: ${values.rate} now, at most ${Math.round(Math.max(0, ...rates))} in the last minute`);
  showRooms();
}

function view(name) {
  document.body.dataset.view = name;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === name));
  }
  if (name === "chat") $("log").scrollTop = $("log").scrollHeight;
}
for (const button of document.querySelectorAll("[data-show]")) button.addEventListener("click", () => view(button.dataset.show));

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").setAttribute("aria-pressed", String(dark));
  return dark;
}
$("theme").addEventListener("click", () => {
  const next = setTheme(document.documentElement.dataset.theme) ? "light" : "dark";
  perBrowser.set("theme", next);
  setTheme(next);
});

// Helpers

function attempt(task) {
  try {
    return task();
  } catch {
    return undefined;
  }
}

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children); // append inserts strings as text
  return node;
}

/** Does not write equal text, because screen readers announce every write. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows a value between words for screen readers. */
function setWords(node, before, value, after = "") {
  const parts = value === "" ? [] : [before, String(value), after];
  if (node.textContent === parts.join("")) return;
  node.replaceChildren(...parts.map((part, i) => (i === 1 ? part : element("span", "hidden", part))));
}

function toggleAttribute(node, name, on) {
  if (on) node.setAttribute(name, "true");
  else node.removeAttribute(name);
}

/** Shows a text for the person. With a problem, the text is what the person wrote. */
function showProblem(text, problem) {
  if (problem) $("problem").replaceChildren(isolated(text), `: ${problem}`);
  else setText($("problem"), text);
}

/** Keeps characters that reverse the direction of text from reversing what follows. */
const isolated = (text) => element("bdi", "", text);

const problems = {
  bad_request: "the server does not accept that",
  disconnected: "the connection was lost",
  internal: "the server failed",
  no_token: "the server gives no keys",
  overflow: "too many messages wait to be sent",
  timeout: "the server did not answer in time",
  too_large: "it is too long",
  unavailable: "the server is restarting",
  unreachable: "the server cannot be reached",
};

/** Returns the text of an error for people. Other errors have texts that the application wrote. */
const inWords = ({ code, message }) => problems[code] ?? message;

/** Updates a list to one node per key, in the order of the keys. It reuses existing nodes. */
function updateList(list, keys, { create, update }) {
  const existing = new Map([...list.children].map((node) => [node.dataset.key, node]));
  keys.forEach((key, i) => {
    let node = existing.get(key);
    if (!node) {
      node = create(key);
      node.dataset.key = key;
    }
    existing.delete(key);
    if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null);
    update(node, key);
  });
  for (const node of existing.values()) node.remove();
}

/** Returns the hue of a person: one of twelve by the hash (FNV-1a) of the name, and another one if a known person has it. */
function hueOf(name) {
  if (!hues.has(name)) {
    if (hues.size >= 1000) hues.clear();
    let hash = 0x811c9dc5;
    for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
    let hue = 30 * ((hash >>> 0) % 12);
    const taken = [...hues.values()].slice(-11); // one is free
    while (taken.includes(hue)) hue = (hue + 150) % 360;
    hues.set(name, hue);
  }
  return hues.get(name);
}

// Start

setTheme(perBrowser.get("theme"));
const { given, known } = initialSettings();
settings = given;
const problem = problemOf(given);
if (known && !problem) start(given);
else showSettings(given, problem);
