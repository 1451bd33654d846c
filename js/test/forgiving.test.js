// Tests of mistakes of applications and faults of networks, on fake time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";

import { HubError, json, Message, NoTokenError } from "../dist/hub.js";
import { fakeWebSocket } from "./fake-socket.js";
import { assertRejected, flushPromises, noop, outcome, setup } from "./fake-time.js";
import { HubClient } from "./named.js";

// Pacing

/** The hub's default limits. */
const limits = { message_rate: 1000, byte_rate: 4 << 20 };

/** Counts frames as the hub does, and returns how far ahead of its rate the client is at most, in seconds. */
function meter(context, rate) {
  let ahead = 0;
  let last = Date.now();
  let seen = 0;
  let most = 0;
  return {
    read() {
      const { socket } = context;
      const count = socket.frames.length + socket.toHub.length;
      ahead = Math.max(0, ahead - (Date.now() - last) / 1000) + (count - seen) / rate;
      last = Date.now();
      seen = count;
      most = Math.max(most, ahead);
    },
    restart: () => (seen = ahead = 0),
    get most() {
      return most;
    },
  };
}

test("sends beyond the hub's rate wait, and none is lost", async (t) => {
  const context = await setup(t);
  context.socket.welcome({ limits });
  const hub = meter(context, 1000);
  for (let i = 0; i < 5000; i++) context.client.send("t", i);
  hub.read();
  assert.ok(context.socket.frames.length <= 900);
  for (let ms = 0; ms < 6000; ms += 20) {
    await context.tick(20);
    hub.read();
  }
  assert.equal(context.socket.frames.length, 5000);
  assert.ok(hub.most < 1, `${hub.most} s ahead`);
  assert.deepEqual(
    context.socket.sent.map(({ data }) => Number(Buffer.from(data))),
    Array.from({ length: 5000 }, (_, i) => i),
  );
});

test("a loop of acknowledged publishes stays below the hub's rate", async (t) => {
  const context = await setup(t);
  context.socket.welcome({ limits });
  const hub = meter(context, 1000);
  const { frames } = context.socket;
  let done = 0;
  const loop = (async () => {
    for (; done < 2500; done++) await context.client.publish("c", done);
  })();
  for (let acked = 0; done < 2500; ) {
    if (frames.length > acked) {
      hub.read();
      context.socket.deliver({ type: "ack", id: JSON.parse(frames[acked++]).id });
      await flushPromises();
    } else {
      await context.tick(1);
    }
  }
  await loop;
  assert.ok(hub.most < 1, `${hub.most} s ahead`);
});

test("the queue of a lost connection is flushed below the hub's rate", async (t) => {
  const context = await setup(t);
  context.socket.drop();
  for (let i = 0; i < 3000; i++) context.client.send("t", i);
  const hub = meter(context, 1000);
  await context.tick(500);
  hub.restart();
  context.socket.accept().welcome({ limits });
  hub.read();
  for (let ms = 0; ms < 4000; ms += 20) {
    await context.tick(20);
    hub.read();
  }
  assert.equal(context.socket.frames.length, 3000);
  assert.ok(hub.most < 1, `${hub.most} s ahead`);
});

test("before the hub has told its limits, few messages are sent", async (t) => {
  const context = await setup(t);
  const { socket } = context;
  for (let i = 0; i < 500; i++) context.client.send("t", i);
  assert.ok(socket.frames.length < 20, `${socket.frames.length}`);
  await context.tick(5000);
  assert.ok(socket.frames.length < 120, `${socket.frames.length}`);
  socket.welcome({ limits });
  assert.equal(socket.frames.length, 500);
});

test("a hub that does not know hub:hello is taken for one with the default limits", async (t) => {
  const context = await setup(t);
  const hub = meter(context, 1000);
  const published = context.client.publish("c", 0);
  for (let i = 0; i < 4000; i++) context.client.send("t", i);
  context.socket.ackAll();
  await published;
  hub.read();
  assert.ok(context.socket.frames.length > 800, `${context.socket.frames.length}`);
  for (let ms = 0; ms < 6000; ms += 20) {
    await context.tick(20);
    hub.read();
  }
  assert.equal(context.socket.frames.length, 4001);
  assert.ok(hub.most < 1, `${hub.most} s ahead`);
});

test("the hub's own limits are used", async (t) => {
  const context = await setup(t);
  context.socket.welcome({ limits: { message_rate: 100, byte_rate: 1e6, max_message_size: 2000, max_name_length: 9 } });
  assert.deepEqual(context.client.limits, { messageRate: 100, byteRate: 1e6, maxMessageSize: 2000, maxNameLength: 9 });
  await context.tick(5000);
  for (let i = 0; i < 300; i++) context.client.send("t", i);
  assert.ok(Math.abs(context.socket.frames.length - 90) <= 1, `${context.socket.frames.length}`);
  await context.tick(1000);
  assert.ok(context.socket.frames.length <= 181, `${context.socket.frames.length}`);
  assert.throws(() => context.client.send("t", "x".repeat(2000)), { code: "too_large" });
  context.socket.welcome({ limits: { byte_rate: 1000 } });
  const before = context.socket.frames.length;
  await context.tick(10_000);
  for (let i = 0; i < 20; i++) context.client.send("t", "x".repeat(100));
  assert.ok(context.socket.frames.length - before < 220);
});

test("the smaller of the hub's and the application's limits for a message holds", async (t) => {
  for (const [option, hub, limit] of [
    [undefined, undefined, 524_288],
    [undefined, 1000, 1000],
    [undefined, 0, Infinity],
    [500, 1000, 500],
    [2000, 1000, 1000],
  ]) {
    const { client, socket } = await setup(t, { maxMessageSize: option });
    if (hub !== undefined) socket.welcome({ limits: { max_message_size: hub } });
    const send = (size) => client.send("t", "x".repeat(size - '{"type":"t","data":"","timestamp":0}'.length));
    if (limit < Infinity) {
      send(limit);
      assert.throws(() => send(limit + 1), { code: "too_large" });
    } else {
      send(1e6);
    }
    client.close();
    t.mock.timers.reset();
  }
});

test("a connection lost while frames wait sends them on the next, and rejects only what was sent", async (t) => {
  const context = await setup(t, { maxPending: 5000 });
  context.socket.welcome({ limits });
  const calls = Array.from({ length: 1000 }, (_, i) => context.client.publish("c", i));
  const sent = context.socket.frames.length;
  context.socket.drop();
  await assertRejected(calls[sent - 1], "disconnected", true);
  assert.equal(await outcome(calls[sent]), "pending");
  await context.tick(500);
  context.socket.accept().welcome({ limits });
  await context.tick(1000);
  assert.equal(context.socket.frames.length, 1000 - sent);
  context.socket.ackAll();
  assert.equal(await outcome(calls.at(-1)), "resolved");
});

// Options

const badOptions = {
  codec: [null, "json", {}, 5],
  security: [null, {}, { aesKey: new Uint8Array(32) }],
  token: [null, 5, {}],
  getToken: [null, "x"],
  WebSocket: [null, {}],
  timeout: [null, "5", 0, -1, NaN],
  handshakeTimeout: [null, "5", 0, -1, NaN],
  heartbeat: [null, "5", -1, NaN, true],
  backoff: [null, 5, "x"],
  shouldReconnect: [null, true],
  maxMessageSize: [null, 0, "1"],
  maxPending: [null, 0, NaN],
  maxQueuedBytes: [null, 0, {}],
  signal: [null, {}, 1],
  onStateChange: [null, 1],
  onMessage: [null, {}],
  onGap: [null, ""],
  onResumed: [null, 1],
  onError: [null, []],
  idleTimeout: [5],
};

test("every invalid option is a TypeError that names it", async () => {
  const { HubClient } = await import("../dist/hub.js");
  const WebSocket = fakeWebSocket();
  for (const [name, values] of Object.entries(badOptions)) {
    for (const value of values) {
      const rejects = (error) => error instanceof TypeError && error.message.includes(name);
      assert.throws(() => new HubClient("ws://hub", { WebSocket, [name]: value }), rejects, `${name}: ${value}`);
    }
  }
  for (const name of ["base", "max", "resetAfter"]) {
    for (const value of [null, "500", -1, NaN, ...(name === "resetAfter" ? [] : [0])]) {
      const rejects = (error) => error instanceof TypeError && error.message.includes(name);
      assert.throws(() => new HubClient("ws://hub", { WebSocket, backoff: { [name]: value } }), rejects);
    }
  }
});

test("the address is checked", async () => {
  const { HubClient } = await import("../dist/hub.js");
  const WebSocket = fakeWebSocket();
  for (const url of [undefined, null, 5, {}]) assert.throws(() => new HubClient(url, { WebSocket }), /url/);
});

test("the smallest limit for messages does not keep the client from connecting", async (t) => {
  const { client, socket } = await setup(t, { maxMessageSize: 1 });
  assert.deepEqual([client.state, socket.toHub.length], ["open", 1]);
  assert.throws(() => client.subscribe("c"), { code: "too_large" });
});

test("undefined options have their defaults", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const names = Object.keys(badOptions).filter((name) => !["WebSocket", "idleTimeout"].includes(name));
  const undefinedOptions = Object.fromEntries(names.map((name) => [name, undefined]));
  const states = [];
  const context = await setup(t, {
    open: false,
    ...undefinedOptions,
    onStateChange: (change) => states.push(change),
    backoff: { base: undefined, max: undefined, resetAfter: undefined },
  });
  context.socket.drop();
  assert.equal(states[0].retryIn, 500);
});

test("infinite and very long times never end, and no timer overflows", async (t) => {
  for (const ms of [Infinity, 2 ** 31, 2 ** 40]) {
    const context = await setup(t, { open: false, handshakeTimeout: ms, timeout: ms, heartbeat: ms, backoff: { base: ms, max: ms } });
    await context.tick(1_000_000);
    assert.deepEqual(context.events.states, []);
    context.socket.accept();
    context.socket.welcome();
    const call = context.client.publish("c", 1);
    await context.tick(1_000_000);
    assert.equal(await outcome(call), "pending");
    t.mock.method(Math, "random", () => 1);
    context.socket.drop();
    assert.ok(context.events.states.at(-1).retryIn > 1e9);
    await context.tick(1_000_000);
    assert.equal(context.WebSocket.sockets.length, 1);
    context.client.close();
    t.mock.timers.reset();
  }
});

test("options of calls are checked too", async (t) => {
  const { client, socket } = await setup(t);
  await assert.rejects(client.publish("c", 1, { timeout: "5" }), /timeout/);
  await assert.rejects(client.publish("c", 1, { signal: {} }), /signal/);
  await assert.rejects(client.publish("c", 1, { exceptSelf: 1 }), /exceptSelf/);
  await assert.rejects(client.publish("c", 1, { trace: 1 }), /trace/);
  await assert.rejects(client.unsubscribe("c", { timeout: -1 }), /timeout/);
  assert.throws(() => client.subscribe("c", noop, { onError: 1 }), /onError/);
  assert.throws(() => client.send("t", 1, { channel: 5 }), /channel/);
  assert.throws(() => client.on("open", noop), TypeError);
  assert.throws(() => client.on("error", null), TypeError);
  assert.deepEqual(socket.frames, []);
});

// Payloads

test("payloads that would lose their content are a TypeError", async (t) => {
  const { client, socket } = await setup(t);
  class Secret {
    #value = 1;
    get value() {
      return this.#value;
    }
  }
  const values = [
    new Blob(["x"]),
    new File(["x"], "x"),
    new Map([[1, 2]]),
    new Set([1]),
    Promise.resolve(1),
    new Error("x"),
    () => 1,
    Symbol("s"),
    new Secret(),
    /x/,
    10n,
    NaN,
    Infinity,
    runInNewContext("new Map()"),
  ];
  for (const value of values) {
    for (const data of [value, { nested: [value] }]) {
      await assert.rejects(client.publish("c", data), TypeError, String(value));
      assert.throws(() => client.send("t", data), TypeError);
    }
  }
  assert.deepEqual(socket.frames, []);
});

test("JSON values and bytes of any realm are sent", async (t) => {
  const { client, socket } = await setup(t, { codec: "msgpack" });
  const sent = (data) => {
    client.send("t", data);
    return Buffer.from(socket.sent.at(-1).data).toString();
  };
  assert.equal(sent({ a: [1, null, undefined], b: undefined, c: "é" }), '{"a":[1,null,null],"c":"é"}');
  assert.equal(sent(new Date(0)), '"1970-01-01T00:00:00.000Z"');
  assert.equal(sent(Object.assign(Object.create(null), { a: 1 })), '{"a":1}');
  assert.equal(sent(runInNewContext('({a: [{b: "x"}]})')), '{"a":[{"b":"x"}]}');
  for (const bytes of ["Uint8Array.of(65, 66)", "Uint8Array.of(65, 66).buffer", "new DataView(Uint8Array.of(65, 66).buffer)"]) {
    assert.equal(sent(runInNewContext(bytes)), "AB");
  }
  assert.equal(sent(new SharedArrayBuffer(2)), "\0\0");
});

// The network

/** Makes this process look like a page, and returns a function that dispatches events. */
function page(t) {
  const targets = { scope: new EventTarget(), document: new EventTarget(), connection: new EventTarget() };
  targets.document.visibilityState = "visible";
  const values = {
    addEventListener: targets.scope.addEventListener.bind(targets.scope),
    removeEventListener: targets.scope.removeEventListener.bind(targets.scope),
    document: targets.document,
    navigator: { connection: targets.connection },
  };
  for (const [name, value] of Object.entries(values)) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
  const dispatch = (target, type) => targets[target].dispatchEvent(new Event(type));
  return { dispatch, document: targets.document };
}

const networkEvents = [
  ["scope", "online"],
  ["scope", "offline"],
  ["document", "visibilitychange"],
  ["connection", "change"],
];

for (const [target, type] of networkEvents) {
  test(`${type} probes the connection, and ends the wait for the next attempt`, async (t) => {
    const { dispatch } = page(t);
    t.mock.method(Math, "random", () => 1);
    const context = await setup(t);
    context.socket.welcome();
    dispatch(target, type);
    dispatch(target, type);
    assert.equal(context.socket.pings.length, 1);
    context.socket.pong();
    await context.tick(5000);
    assert.equal(context.client.state, "open");
    dispatch(target, type);
    await context.tick(5000);
    assert.equal(context.client.state, "reconnecting");
    dispatch(target, type);
    await flushPromises();
    assert.equal(context.WebSocket.sockets.length, 2);
    dispatch(target, type); // an attempt is under way
    await flushPromises();
    assert.equal(context.WebSocket.sockets.length, 2);
    context.client.close();
    dispatch(target, type);
    await flushPromises();
    assert.equal(context.WebSocket.sockets.length, 2);
  });
}

test("a page that becomes hidden probes nothing", async (t) => {
  const { dispatch, document } = page(t);
  const { socket, client } = await setup(t);
  socket.welcome();
  document.visibilityState = "hidden";
  dispatch("document", "visibilitychange");
  assert.equal(socket.pings.length, 0);
  client.close();
});

test("a call that times out probes the connection", async (t) => {
  const { client, socket, tick } = await setup(t);
  socket.welcome();
  const call = client.publish("c", 1, { timeout: 100 });
  await tick(100);
  await assertRejected(call, "timeout", true);
  assert.equal(socket.pings.length, 1);
  await tick(5000);
  assert.equal(client.state, "reconnecting");
});

test("reconnect replaces the connection, or ends the wait", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const context = await setup(t);
  const { client, events, tick, WebSocket } = context;
  client.subscribe("c", noop);
  context.socket.ackAll();
  const [first] = WebSocket.sockets;
  client.reconnect();
  assert.equal(client.state, "reconnecting");
  await tick(0);
  assert.ok(first.closed);
  context.socket.accept();
  assert.deepEqual([WebSocket.sockets.length, context.socket.types], [2, ["subscribe"]]);
  context.socket.drop();
  client.reconnect();
  client.reconnect();
  await flushPromises();
  assert.equal(WebSocket.sockets.length, 3);
  context.socket.accept();
  assert.deepEqual(
    events.states.map(({ state }) => state),
    ["open", "reconnecting", "open", "reconnecting", "open"],
  );
  client.close();
  assert.throws(() => client.reconnect(), { code: "closed" });
});

const goaway = (socket, delay) => socket.deliver({ type: "hub:goaway", data: Buffer.from(JSON.stringify({ delay })) });

test("after hub:goaway the client reconnects at its time, and no call fails", async (t) => {
  const context = await setup(t);
  const { client, events, tick, WebSocket } = context;
  assert.deepEqual(JSON.parse(Buffer.from(context.socket.toHub[0].data)), { features: ["goaway"] });
  client.subscribe("c", noop);
  context.socket.welcome();
  context.socket.ackAll();
  const [first] = WebSocket.sockets;
  goaway(first, 9000);
  goaway(first, 5000);
  const before = client.publish("c", 1);
  await tick(4999);
  assert.deepEqual([client.state, first.closed], ["open", undefined]);
  await tick(1);
  const after = client.publish("c", 2);
  await tick(900);
  assert.deepEqual([client.state, WebSocket.sockets.length], ["open", 1], "a reply is awaited");
  assert.deepEqual(first.types, ["subscribe", "publish"], "nothing more is sent");
  first.ackAll();
  await tick(50);
  assert.ok(first.closed);
  assert.deepEqual(events.states.at(-1), { state: "reconnecting", previous: "open", code: 1012, reason: "goaway", retryIn: 0 });
  assert.deepEqual(await before, { local: false });
  await tick(0);
  assert.equal(WebSocket.sockets.length, 2);
  context.socket.accept();
  context.socket.welcome();
  context.socket.ackAll();
  assert.deepEqual(context.socket.types, ["subscribe", "publish"]);
  assert.deepEqual(await after, { local: false });
  await tick(10_000);
  assert.deepEqual([client.state, WebSocket.sockets.length], ["open", 2]);
  assert.deepEqual(events.errors, []);
});

test("after hub:goaway a reply is awaited for a second", async (t) => {
  const context = await setup(t);
  const { client, tick, WebSocket } = context;
  context.socket.welcome();
  goaway(context.socket, 0);
  const call = client.publish("c", 1);
  await tick(1);
  for (let ms = 0; ms < 1000; ms += 50) {
    assert.equal(client.state, "open");
    await tick(50);
  }
  assert.equal(client.state, "reconnecting");
  await assertRejected(call, "disconnected", true);
  await tick(0);
  assert.equal(WebSocket.sockets.length, 2);
});

test("a lost or closed connection forgets hub:goaway, and shouldReconnect decides", async (t) => {
  const context = await setup(t, { shouldReconnect: ({ code }) => code !== 1012 });
  const { client, tick, WebSocket } = context;
  goaway(context.socket, 2000);
  context.socket.drop();
  await tick(500);
  context.socket.accept();
  context.socket.welcome();
  await tick(5000);
  assert.deepEqual([client.state, WebSocket.sockets.length], ["open", 2]);
  goaway(context.socket, 1000);
  await tick(1000);
  assert.deepEqual([client.state, WebSocket.sockets.length], ["closed", 2]);
  assert.ok(context.socket.closed);
});

test("each connection begins with hub:hello, and the client tells who it is", async (t) => {
  const context = await setup(t);
  assert.deepEqual([context.client.id, context.client.user, context.client.limits], ["", "", undefined]);
  context.client.subscribe("c", noop);
  context.socket.welcome({ client_id: "a", user: "b" });
  assert.deepEqual([context.client.id, context.client.user], ["a", "b"]);
  context.socket.drop();
  await context.tick(500);
  context.socket.accept();
  const first = json.decode(json.encode(context.socket.toHub[0]));
  assert.deepEqual([first.type, context.socket.types], ["hub:hello", ["subscribe"]]);
  assert.ok(Number(first.id) < Number(context.socket.sent[0].id));
});

test("a failed attempt names the possible causes", async (t) => {
  const { events, socket } = await setup(t, { open: false });
  socket.dispatchEvent(new Event("error")); // browsers tell no more
  const { error } = events.states[0];
  assert.equal(error.code, "unreachable");
  for (const cause of ["origin", "CSP", "TLS", "away", "log"]) assert.ok(error.message.includes(cause), error.message);
});

// Subscriptions

test("subscriptions of a channel are counted, and the last one leaves", async (t) => {
  const { client, socket } = await setup(t);
  const got = [];
  const [a, b] = ["a", "b"].map((name) => client.subscribe("c", () => got.push(name)));
  assert.deepEqual([a.state, a.kind, a.name], ["pending", "channel", "c"]);
  socket.ackAll();
  await Promise.all([a.ready, b.ready]);
  const c = client.subscribe("c", () => got.push("c"));
  await c.ready;
  assert.deepEqual([a.state, c.state, socket.types], ["active", "active", ["subscribe"]]);
  socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual(got.splice(0), ["a", "b", "c"]);
  await a.unsubscribe();
  await a.unsubscribe();
  socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual(got.splice(0), ["b", "c"]);
  await b.unsubscribe();
  const left = c.unsubscribe();
  assert.deepEqual(socket.types, ["subscribe", "unsubscribe"]);
  socket.ackAll();
  await left;
  socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual([got, c.state, c.error], [[], "ended", undefined]);
});

test("subscribe, clean up and subscribe again rejects nothing unheard", async (t) => {
  const context = await setup(t, { open: false });
  for (let i = 0; i < 3; i++) {
    context.client.subscribe("c", noop).unsubscribe();
    context.client.joinRoom("r", noop).unsubscribe();
  }
  context.client.subscribe("c", noop);
  context.socket.accept();
  assert.deepEqual(context.socket.types, ["subscribe"]);
  context.client.subscribe("d", noop).unsubscribe();
  context.client.close(); // a rejection here would fail the test
  const other = new HubClient("ws://hub", { WebSocket: context.WebSocket });
  other.publish("c", 1);
  other.close();
  await flushPromises();
});

test("a subscription outlasts any absence of the hub", async (t) => {
  const context = await setup(t, { open: false });
  const sub = context.client.subscribe("c", noop);
  for (let i = 0; i < 5; i++) {
    context.socket.drop();
    await context.tick(60_000);
  }
  assert.equal(await outcome(sub.ready), "pending");
  context.socket.accept().ackAll();
  assert.equal(await outcome(sub.ready), "resolved");
  context.socket.drop();
  assert.equal(sub.state, "pending");
  await context.tick(60_000);
  context.socket.accept().ackAll();
  assert.equal(sub.state, "active");
});

test("a signal ends a subscription", async (t) => {
  const { client, socket } = await setup(t);
  const controller = new AbortController();
  const sub = client.subscribe("c", noop, { signal: controller.signal });
  controller.abort();
  await assertRejected(sub.ready, "aborted", false);
  assert.deepEqual([sub.state, socket.types], ["ended", ["subscribe", "unsubscribe"]]);
  const late = client.subscribe("d", noop, { signal: controller.signal });
  assert.deepEqual([late.state, socket.frames.length], ["ended", 2]);
});

test("for await receives messages, and break ends the subscription", async (t) => {
  const { client, socket } = await setup(t);
  const sub = client.subscribe("c");
  const deliver = (n) => socket.deliver({ type: "message", channel: "c", data: Buffer.from(`${n}`) });
  deliver(1);
  deliver(2);
  const got = [];
  const loop = (async () => {
    for await (const message of sub) {
      got.push(message.json());
      if (got.length === 3) break;
    }
  })();
  await flushPromises();
  assert.deepEqual(got, [1, 2]);
  deliver(3);
  await loop;
  assert.deepEqual([got, sub.state, socket.types], [[1, 2, 3], "ended", ["subscribe", "unsubscribe"]]);
  const other = client.joinRoom("r");
  const ended = (async () => {
    for await (const _ of other);
  })();
  await flushPromises();
  other.unsubscribe();
  await ended;
});

test("a loop that is too slow throws overflow", async (t) => {
  const { client, socket, events } = await setup(t);
  const sub = client.subscribe("c");
  for (let i = 0; i < 2000; i++) socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual([sub.state, sub.error.code, events.errors.length], ["ended", "overflow", 1]);
  let count = 0;
  await assert.rejects(
    (async () => {
      for await (const _ of sub) count++;
    })(),
    { code: "overflow" },
  );
  assert.equal(count, 1025);
});

test("subscriptions of a closed client have ended, and say why", async (t) => {
  const { client, socket } = await setup(t);
  const sub = client.subscribe("c", noop);
  socket.drop(1008, "flood");
  assert.deepEqual([sub.state, sub.error.code], ["ended", "closed"]);
  const late = client.subscribe("d", noop);
  assert.deepEqual([late.state, late.error.code], ["ended", "closed"]);
  await late.unsubscribe();
  await client.unsubscribe("d");
});

// Tokens

test("getToken is told that its token was refused", async (t) => {
  const asked = [];
  const context = await setup(t, {
    open: false,
    getToken: ({ renew }) => {
      asked.push(renew);
      return "cached";
    },
  });
  const next = async () => {
    await context.tick(60_000);
    await flushPromises();
  };
  context.socket.accept().drop(3000, "expired");
  await next();
  context.socket.accept().drop(1001);
  await next();
  context.socket.drop(1006); // browsers do not tell why a handshake failed
  await next();
  context.socket.accept().drop(1001);
  await next();
  context.socket.dispatchEvent(Object.assign(new Event("error"), { error: Object.assign(new Error("x"), { code: "ECONNREFUSED" }) }));
  await next();
  assert.deepEqual(asked, [false, true, false, true, false, false]);
  context.socket.error("Unexpected server response: 401");
  await next();
  assert.equal(asked.at(-1), true);
  context.socket.error("Unexpected server response: 401");
  assert.equal(context.client.state, "closed", "the renewed token was refused too");
});

test("NoTokenError and a refused static token end the client", async (t) => {
  const context = await setup(t, {
    open: false,
    getToken: () => {
      throw new NoTokenError("logged out");
    },
  });
  const { state, code, error } = context.events.states[0];
  assert.deepEqual([state, code, error.message], ["closed", 3000, "logged out"]);
  t.mock.timers.reset();
  for (const status of [401, 403, 404]) {
    const { socket, client } = await setup(t, { open: false, token: "static" });
    socket.error(`Unexpected server response: ${status}`);
    assert.equal(client.state, "closed");
    t.mock.timers.reset();
  }
  for (const status of [408, 409, 429, 503]) {
    const { socket, client } = await setup(t, { open: false, token: "static" });
    socket.error(`Unexpected server response: ${status}`);
    assert.equal(client.state, "reconnecting");
    client.close();
    t.mock.timers.reset();
  }
});

// Promises, errors and gaps

test("later calls of a closed client name the cause", async (t) => {
  const { client, socket } = await setup(t);
  socket.drop(1008, "message rate limit exceeded");
  const error = await outcome(client.publish("c", 1));
  assert.equal(error.code, "closed");
  assert.match(error.message, /1008 message rate limit exceeded/);
  assert.ok(error.cause);
  assert.throws(() => client.send("t"), /1008 message rate/);
});

test("fire and forget: publish without an ack resolves at once, and errors go to onError", async (t) => {
  const context = await setup(t, { maxMessageSize: 1000 });
  const { client, events } = context;
  assert.equal(await outcome(client.publish("c", 1, { ack: false })), "resolved");
  assert.equal(context.socket.sent[0].id, "");
  assert.equal(await outcome(client.publish("c", 1, { ack: false, exceptSelf: true })), "resolved");
  assert.ok(context.socket.frames[1].includes('"except_self":true'));
  await client.publish("c", 1, { ack: false, trace: "00-a" });
  assert.ok(context.socket.frames[2].includes('"trace":"00-a"'));
  client.close();
  assert.equal(await outcome(client.publish("c", 1, { ack: false })), "resolved");
  assert.deepEqual(
    events.errors.map(({ code }) => code),
    ["closed"],
  );
});

test("volatile messages are dropped without a connection", async (t) => {
  const context = await setup(t, { open: false });
  assert.equal(context.client.send("a", 1, { volatile: true }), false);
  assert.equal(context.client.send("b", 1), true);
  context.socket.accept();
  assert.equal(context.client.send("c", 1, { volatile: true }), true);
  assert.deepEqual(context.socket.types, ["b", "c"]);
});

test("messages that close leaves unsent are reported", async (t) => {
  const { client, events } = await setup(t, { open: false });
  client.send("a");
  client.send("b");
  client.close();
  assert.match(events.errors[0].message, /2 messages were not sent/);
});

test("gaps and errors without a listener reach console.warn once per kind", async (t) => {
  const warn = t.mock.method(console, "warn", noop);
  const { socket, client, events } = await setup(t, { onGap: undefined, onError: undefined });
  const gap = () => socket.deliver({ type: "gap", data: Buffer.from('{"channel":"c","count":3,"reason":"x"}') });
  gap();
  gap();
  socket.deliver({ type: "error", data: Buffer.from('{"code":"limit","message":"m"}') });
  socket.deliver({ type: "error", data: Buffer.from('{"code":"limit","message":"m"}') });
  assert.deepEqual(
    warn.mock.calls.map(({ arguments: [error] }) => error.code),
    ["gap", "limit"],
  );
  client.onError = (error) => events.errors.push(error);
  gap();
  assert.equal(events.errors[0].code, "gap");
  const gaps = [];
  client.on("gap", (notice) => gaps.push(notice));
  gap();
  assert.deepEqual([events.errors.length, gaps[0].count, warn.mock.callCount()], [1, 3, 2]);
});

// Listeners and messages

test("several listeners watch a client", async (t) => {
  const context = await setup(t, { open: false });
  const { client } = context;
  const got = [];
  const listener = ({ state }) => got.push(state);
  const off = client.on("statechange", listener);
  client.on("statechange", () => {
    throw new Error("mine");
  });
  const controller = new AbortController();
  client.on("statechange", ({ state }) => got.push(`signal ${state}`), { signal: controller.signal });
  context.socket.accept();
  assert.deepEqual(got.splice(0), ["open", "signal open"]);
  assert.equal(context.events.errors[0].message, "a handler failed: mine");
  controller.abort();
  client.on("message", ({ type }) => got.push(type));
  context.socket.deliver({ type: "hello" });
  context.socket.drop();
  assert.deepEqual(got.splice(0), ["hello", "reconnecting"]);
  off();
  client.off("statechange", listener);
  client.close();
  assert.deepEqual(got, []);
});

test("messages and notices survive JSON and structuredClone", async (t) => {
  const { socket, events, client } = await setup(t, { codec: "protobuf" });
  socket.deliver({ type: "t", channel: "c", data: Buffer.from('{"a":1}'), timestampNs: 2n ** 60n + 1n, clientId: "x" });
  socket.deliver({ type: "t", data: Uint8Array.of(0, 255) });
  const [message, bytes] = events.messages;
  const { data, timestampNs, encoding } = JSON.parse(JSON.stringify(message));
  assert.deepEqual([data, timestampNs, encoding], [{ a: 1 }, "1152921504606846977", undefined]);
  const parsed = JSON.parse(JSON.stringify(bytes));
  assert.deepEqual([parsed.data, parsed.encoding], ["AP8=", "base64"]);
  for (const codec of [undefined, "json"]) {
    const original = codec ? json.decode(json.encode({ ...message })) : message;
    const clone = new Message(structuredClone(original));
    assert.deepEqual(clone.json(), { a: 1 });
    assert.equal(clone.timestampNs, message.timestampNs);
  }
  socket.drop();
  client.close();
});

test("resumed and gap notices survive JSON and structuredClone", async (t) => {
  const context = await setup(t);
  context.socket.deliver({ type: "gap", data: Buffer.from('{"channel":"c","count":3,"first":5,"reason":"x"}') });
  context.socket.drop();
  await context.tick(60_000);
  context.socket.accept();
  const { gaps, resumed } = context.events;
  assert.equal(JSON.parse(JSON.stringify(gaps[0])).firstNs, "5");
  assert.equal(JSON.parse(JSON.stringify(resumed[0])).lastTimestampNs, "0");
  assert.equal(structuredClone(gaps[0]).firstNs, 5n);
});

test("HubError is one class for all errors", () => {
  assert.ok(new NoTokenError() instanceof HubError);
  assert.ok(new HubClient("ws://x", { WebSocket: fakeWebSocket() }).close() instanceof Promise);
});
