// Tests of timing, with fake timers and fake sockets that the test controls.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { codecs, HubError } from "../dist/hub.js";
import { connect, HubClient } from "./named.js";
import { fakeWebSocket } from "./fake-socket.js";
import { assertRejected, flushPromises, noop, outcome, setup } from "./fake-time.js";
import { oracles, OracleSealer } from "./oracles.js";

test("the wait between attempts doubles up to a limit, with full jitter", async (t) => {
  const random = t.mock.method(Math, "random", () => 0.5);
  const { events, tick, WebSocket } = await setup(t, { open: false, backoff: { base: 100, max: 1000 } });
  for (const retryIn of [50, 100, 200, 400, 500, 500, 500]) {
    const attempts = WebSocket.sockets.length;
    WebSocket.last.error("refused");
    WebSocket.last.drop();
    assert.equal(events.states.at(-1).retryIn, retryIn);
    assert.equal(events.states.at(-1).error.message, "refused");
    await tick(retryIn - 1);
    assert.equal(WebSocket.sockets.length, attempts);
    await tick(1);
    assert.equal(WebSocket.sockets.length, attempts + 1);
  }
  random.mock.mockImplementation(() => 0);
  WebSocket.last.drop();
  assert.equal(events.states.at(-1).retryIn, 0);
});

test("only a connection that lasts for resetAfter resets the backoff", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const context = await setup(t, { backoff: { base: 100, max: 10_000, resetAfter: 5000 } });
  const { events, tick } = context;
  const dropAfter = async (ms) => {
    await tick(ms);
    context.socket.drop(1013);
    const { retryIn } = events.states.at(-1);
    await tick(retryIn);
    context.socket.accept();
    return retryIn;
  };
  assert.deepEqual(
    [await dropAfter(0), await dropAfter(4999), await dropAfter(10), await dropAfter(5000)],
    [100, 200, 400, 100],
  );
});

test("a thousand failures do not overflow the backoff", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const context = await setup(t, { open: false, backoff: { base: 1, max: 2 } });
  for (let i = 0; i < 1100; i++) {
    context.socket.drop();
    await context.tick(2);
  }
  assert.equal(context.events.states.at(-1).retryIn, 2);
});

test("a handshake ends after handshakeTimeout", async (t) => {
  const context = await setup(t, { open: false, handshakeTimeout: 3000 });
  await context.tick(2999);
  assert.deepEqual(context.events.states, []);
  await context.tick(1);
  const [{ state, code, error }] = context.events.states;
  assert.deepEqual(
    [state, code, error.code, error.message],
    ["reconnecting", 1006, "timeout", "not connected within 3000 ms"],
  );
  assert.ok(context.socket.closed);
  const [first] = context.WebSocket.sockets;
  await context.tick(1000);
  assert.ok(first.terminated);
  first.accept(); // too late
  assert.equal(context.client.state, "reconnecting");
});

test("getToken is aborted after handshakeTimeout", async (t) => {
  let given;
  const getToken = ({ signal }) => {
    given = signal;
    return new Promise(noop);
  };
  const context = await setup(t, { open: false, getToken, handshakeTimeout: 3000 });
  await context.tick(3000);
  assert.equal(given.aborted, true);
  assert.equal(context.events.states[0].state, "reconnecting");
  assert.equal(context.WebSocket.sockets.length, 0);
});

test("getToken is called again after it throws", async (t) => {
  const getToken = t.mock.fn(() => {
    throw new Error("no session");
  });
  const { client, events, tick } = await setup(t, { open: false, getToken });
  assert.equal(events.states[0].error.message, "no session");
  await tick(500);
  assert.equal(getToken.mock.callCount(), 2);
  await client.close();
  await flushPromises();
});

test("close during getToken opens no connection", async (t) => {
  let give;
  const getToken = () => new Promise((resolve) => (give = resolve));
  const { client, WebSocket } = await setup(t, { open: false, getToken });
  await client.close();
  give("token");
  await flushPromises();
  assert.equal(WebSocket.sockets.length, 0);
  assert.equal(client.state, "closed");
});

test("close right after getToken resolves opens no connection", async (t) => {
  let give;
  const getToken = () => new Promise((resolve) => (give = resolve));
  const { client, WebSocket } = await setup(t, { open: false, getToken });
  give("token");
  client.close();
  await flushPromises();
  assert.equal(WebSocket.sockets.length, 0);
});

test("no callback is called before the constructor has returned", async () => {
  const seen = [];
  const client = new HubClient("ws://hub", {
    WebSocket: fakeWebSocket(),
    signal: AbortSignal.abort(),
    onStateChange: () => seen.push(client.state),
  });
  await flushPromises();
  assert.deepEqual(seen, ["closed"]);
});

test("calls and clients remove their listeners from signals", async (t) => {
  const { signal } = new AbortController();
  const { client, socket } = await setup(t, { signal });
  const call = client.publish("c", 1, { signal });
  assert.equal(getEventListeners(signal, "abort").length, 2);
  socket.ackAll();
  await call;
  assert.equal(getEventListeners(signal, "abort").length, 1);
  client.close();
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("close during the backoff cancels the next attempt", async (t) => {
  const context = await setup(t);
  context.socket.drop();
  await context.client.close();
  await context.tick(60_000);
  assert.equal(context.WebSocket.sockets.length, 1);
  assert.deepEqual(
    context.events.states.map(({ state }) => state),
    ["open", "reconnecting", "closed"],
  );
});

test("close during the handshake closes the socket", async (t) => {
  const { client, socket, tick, events } = await setup(t, { open: false });
  const closed = client.close(3000, "no more");
  await flushPromises();
  assert.deepEqual(socket.closed, { code: 3000, reason: "no more" });
  socket.drop();
  assert.equal(await outcome(closed), "resolved");
  await tick(60_000);
  assert.deepEqual(
    events.states.map(({ state, code }) => [state, code]),
    [["closed", 3000]],
  );
});

test("connect resolves when the hub has told the ID and rejects when its signal aborts", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const WebSocket = fakeWebSocket();
  const connecting = connect("ws://hub", { WebSocket });
  await flushPromises();
  assert.equal(await outcome(connecting), "pending");
  WebSocket.last.accept();
  assert.equal(await outcome(connecting), "pending");
  WebSocket.last.welcome();
  WebSocket.last.pong();
  const { state, id, user } = await connecting;
  assert.deepEqual([state, id, user], ["open", "c1", "u1"]);

  const toOld = connect("ws://hub", { WebSocket });
  await flushPromises();
  WebSocket.last.accept().pong(); // an old hub, which replies to unsubscribe only
  assert.deepEqual([(await toOld).state, (await toOld).id], ["open", ""]);

  const controller = new AbortController();
  const reason = new Error("enough");
  const aborted = connect("ws://hub", { WebSocket, signal: controller.signal });
  await flushPromises();
  controller.abort(reason);
  await flushPromises();
  WebSocket.last.drop();
  const error = await outcome(aborted);
  assert.deepEqual([error.code, error.cause], ["aborted", reason]);
});

test("after close no message is delivered and every call rejects", async (t) => {
  const { client, socket, events } = await setup(t);
  const subscribing = client.subscribe("c", (message) => events.messages.push(message));
  socket.ackAll();
  await subscribing.ready;
  const pending = client.publish("c", 1);
  const leaving = client.unsubscribe("d");
  const closed = client.close();
  socket.deliver({ type: "message", channel: "c" });
  socket.deliver({ type: "other" });
  assert.deepEqual(events.messages, []);
  await assertRejected(pending, "closed", true);
  await assertRejected(leaving, "closed", true);
  for (const call of [
    client.subscribe("c", noop).ready,
    client.joinRoom("c", noop).ready,
    client.publish("c", 1),
    client.publishRoom("c", 1),
    client.broadcast(1),
  ]) {
    await assertRejected(call, "closed", false);
  }
  assert.throws(() => client.send("t"), { code: "closed" });
  socket.drop(1000);
  await closed;
  await client.close();
  assert.deepEqual(
    events.states.map(({ state }) => state),
    ["open", "closed"],
  );
});

test("each call has its own timeout", async (t) => {
  const { client, socket, tick } = await setup(t, { timeout: 5000 });
  const usual = client.publish("c", 1);
  const short = client.publish("c", 2, { timeout: 100 });
  const patient = client.publish("c", 3, { timeout: Infinity });
  await tick(100);
  await assertRejected(short, "timeout", true);
  assert.equal(await outcome(usual), "pending");
  await tick(4900);
  await assertRejected(usual, "timeout", true);
  for (let i = 0; i < 100; i++) {
    socket.pong();
    await tick(15_000);
  }
  socket.ackAll(); // too late for the first two calls
  assert.equal(await outcome(patient), "resolved");
});

test("calls are aborted by a signal", async (t) => {
  const { client, socket } = await setup(t);
  const controller = new AbortController();
  const call = client.publish("c", 1, { signal: controller.signal });
  const done = client.publish("c", 2, { signal: controller.signal });
  socket.deliver({ type: "ack", id: socket.sent[1].id });
  const reason = new Error("cancelled");
  controller.abort(reason);
  await assertRejected(call, "aborted", true);
  assert.equal((await outcome(call)).cause, reason);
  assert.equal(await outcome(done), "resolved");
  const late = client.publish("c", 3, { signal: controller.signal });
  await assertRejected(late, "aborted", false);
  assert.equal(socket.frames.length, 2);
});

test("a queued call that times out or is aborted is not sent", async (t) => {
  const context = await setup(t, { open: false });
  const { client, tick } = context;
  const controller = new AbortController();
  const early = client.publish("c", 1, { timeout: 100 });
  const aborted = client.publish("c", 2, { signal: controller.signal });
  const patient = client.publish("c", 3);
  client.send("t");
  await tick(100);
  controller.abort();
  await assertRejected(early, "timeout", false);
  await assertRejected(aborted, "aborted", false);
  context.socket.accept();
  assert.deepEqual(context.socket.types, ["publish", "t"]);
  context.socket.ackAll();
  assert.equal(await outcome(patient), "resolved");
});

test("replies to no waiting call are ignored", async (t) => {
  const { client, socket, events, tick } = await setup(t, { timeout: 10 });
  const call = client.publish("c", 1);
  await tick(10);
  await assertRejected(call, "timeout", true);
  socket.replyError(0, "forbidden");
  socket.deliver({ type: "ack", id: "no such" });
  socket.deliver({ type: "ack" });
  assert.deepEqual([events.errors, events.messages, client.state], [[], [], "open"]);
});

test("maxPending limits the calls that wait for a reply", async (t) => {
  const { client, socket } = await setup(t, { maxPending: 3 });
  const calls = [client.publish("c", 1), client.publishRoom("c", 1), client.unsubscribe("d")];
  await assertRejected(client.broadcast(1), "overflow", false);
  const sub = client.subscribe("e"); // not limited: it waits for as long as it takes
  sub.unsubscribe(); // not limited: nothing may keep it from ending
  assert.equal(socket.frames.length, 5);
  client.send("t"); // not limited: it has no reply
  socket.ackAll();
  for (const call of calls) assert.equal(await outcome(call), "resolved");
  client.broadcast(1);
  assert.equal(socket.types.at(-1), "broadcast");
});

test("maxQueuedBytes limits the queue before a connection", async (t) => {
  const context = await setup(t, { open: false, maxQueuedBytes: 1000 });
  const { client } = context;
  const first = client.publish("c", "x".repeat(400), { timeout: 50 });
  client.send("t", "x".repeat(400));
  await assertRejected(client.publish("c", "x".repeat(400)), "overflow", false);
  assert.throws(() => client.send("t", "x".repeat(400)), { code: "overflow" });
  await context.tick(50);
  await assertRejected(first, "timeout", false);
  client.send("t", "x".repeat(400)); // the timed-out call left the queue
  context.socket.accept();
  assert.equal(context.socket.frames.length, 2);
  context.socket.drop();
  client.send("t", "x".repeat(800)); // the queue was sent
});

test("a queued call that was sent without a reply has an unknown outcome", async (t) => {
  const context = await setup(t, { open: false });
  const call = context.client.publish("c", 1);
  context.socket.accept();
  context.socket.drop();
  await assertRejected(call, "disconnected", true);
});

test("maxQueuedBytes limits the bytes buffered by the socket", async (t) => {
  const { client, socket } = await setup(t, { maxQueuedBytes: 1000 });
  socket.bufferedAmount = 990;
  await assertRejected(client.publish("c", 1), "overflow", false);
  assert.throws(() => client.send("t"), { code: "overflow" });
  socket.bufferedAmount = 0;
  client.send("t");
  assert.equal(socket.frames.length, 1);
});

test("maxQueuedBytes limits the bytes that are being sealed", async (t) => {
  const { client, socket } = await setup(t, { maxQueuedBytes: 1000, security: { aesKey: new Uint8Array(32) } });
  client.send("t", "x".repeat(600));
  assert.throws(() => client.send("t", "x".repeat(600)), { code: "overflow" });
  while (socket.frames.length < 2) await flushPromises();
  await flushPromises();
  client.send("t", "x".repeat(600));
});

test("a value may be changed after the call returned", async (t) => {
  const context = await setup(t, { open: false, codec: "msgpack" });
  const bytes = Uint8Array.of(1, 2, 3);
  const value = { n: 1 };
  context.client.send("t", bytes);
  context.client.send("t", value);
  bytes.fill(9);
  value.n = 9;
  context.socket.accept();
  const [first, second] = context.socket.sent;
  assert.deepEqual([...first.data], [1, 2, 3]);
  assert.equal(Buffer.from(second.data).toString(), '{"n":1}');
});

test("subscribe keeps waiting for a reply when connections are lost", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const context = await setup(t);
  const { client, tick, events } = context;
  const call = client.subscribe("c", noop).ready;
  assert.deepEqual(context.socket.types, ["subscribe"]);
  for (let i = 0; i < 3; i++) {
    context.socket.drop();
    await tick(0);
    context.socket.accept();
    assert.deepEqual(context.socket.types, ["subscribe"]);
    assert.equal(await outcome(call), "pending");
  }
  context.socket.ackAll();
  assert.equal(await outcome(call), "resolved");
  assert.equal(events.resumed.length, 1);
});

test("a rejected subscription ends all its handles and is not restored", async (t) => {
  const context = await setup(t);
  const told = [];
  const subs = [
    context.client.subscribe("c", noop, { onError: (error) => told.push(error) }),
    context.client.subscribe("c", noop),
  ];
  assert.deepEqual(context.socket.types, ["subscribe"]);
  context.socket.replyError(0, "limit");
  for (const sub of subs) {
    await assertRejected(sub.ready, "limit", false);
    assert.deepEqual([sub.state, sub.error.code], ["ended", "limit"]);
  }
  assert.deepEqual(
    [told, context.events.errors].map((errors) => errors.map(({ code }) => code)),
    [["limit"], ["limit"]],
  );
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  assert.deepEqual(context.socket.types, []);
});

test("unsubscribe takes effect at once", async (t) => {
  const { client, socket, events } = await setup(t);
  const got = [];
  client.subscribe("c", () => got.push("old"));
  socket.ackAll();
  const leaving = client.unsubscribe("c");
  socket.deliver({ type: "message", channel: "c" });
  const again = client.subscribe("c", () => got.push("new"));
  assert.deepEqual(socket.types, ["subscribe", "unsubscribe", "subscribe"]);
  socket.ackAll();
  assert.equal(await outcome(leaving), "resolved");
  assert.equal(await outcome(again.ready), "resolved");
  socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual(got, ["new"]);
  assert.deepEqual(events.messages, []);
  client.unsubscribe("c");
  socket.ackAll();
  socket.deliver({ type: "message", channel: "c" }); // the server subscribed the client
  assert.equal(events.messages.length, 1);
});

test("unsubscribe before the reply aborts subscribe", async (t) => {
  const { client, socket } = await setup(t);
  const joining = client.subscribe("c", noop);
  const leaving = client.unsubscribe("c");
  await assertRejected(joining.ready, "aborted", false);
  assert.deepEqual(socket.types, ["subscribe", "unsubscribe"]);
  socket.ackAll();
  assert.equal(await outcome(leaving), "resolved");
});

test("unsubscribe resolves when there is no connection", async (t) => {
  const context = await setup(t);
  const { client } = context;
  client.subscribe("a", noop);
  client.subscribe("b", noop);
  client.joinRoom("r", noop);
  context.socket.ackAll();
  const leaving = client.unsubscribe("a");
  context.socket.drop();
  assert.equal(await outcome(leaving), "resolved");
  assert.equal(await outcome(client.unsubscribe("b")), "resolved");
  assert.equal(await outcome(client.unsubscribe("never there")), "resolved");
  const joining = client.subscribe("late", noop);
  assert.equal(await outcome(client.unsubscribe("late")), "resolved");
  await assertRejected(joining.ready, "aborted", false);
  await context.tick(1000);
  context.socket.accept();
  assert.deepEqual(context.socket.types, ["join_room"]);
});

test("a rejected unsubscribe still ends the handler's calls", async (t) => {
  const context = await setup(t);
  const { client, events } = context;
  const got = [];
  client.subscribe("c", () => got.push("c"));
  context.socket.ackAll();
  const leaving = client.unsubscribe("c");
  context.socket.replyError(1, "unavailable");
  await assertRejected(leaving, "unavailable", false);
  context.socket.deliver({ type: "message", channel: "c" });
  assert.deepEqual([got, events.messages], [[], []]);
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  assert.deepEqual(context.socket.types, [], "the subscription is not restored");
});

test("onResumed is called when all memberships are restored", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const context = await setup(t, { backoff: { base: 1000 } });
  const { client, tick, events } = context;
  for (const name of ["a", "b"]) client.subscribe(name, noop);
  context.socket.ackAll();
  await tick(500);
  context.socket.deliver({ type: "message", channel: "a", timestampNs: 77n }); // sets resumed.from
  await tick(300);
  context.socket.drop();
  await tick(1000);
  context.socket.accept();
  context.socket.deliver({ type: "ack", id: context.socket.sent[0].id });
  context.socket.drop(); // before all memberships are restored
  await tick(2000);
  context.socket.accept();
  context.socket.deliver({ type: "ack", id: context.socket.sent[0].id });
  assert.deepEqual(events.resumed, []);
  await tick(10);
  context.socket.deliver({ type: "message", channel: "a", timestampNs: 99n });
  context.socket.ackAll();
  const incomplete = ["a", "b"].map((name) => ({ kind: "channel", name, reason: "none" }));
  assert.deepEqual(
    { ...events.resumed[0] },
    { from: 1_000_500, to: 1_003_810, lastTimestampNs: 77n, channels: ["a", "b"], rooms: [], incomplete },
  );
  assert.deepEqual(context.socket.types, ["subscribe", "subscribe"]);
});

test("onResumed is called without memberships too, because broadcasts may be missed", async (t) => {
  const context = await setup(t);
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  assert.equal(context.events.resumed.length, 1);
  assert.deepEqual(context.events.resumed[0].channels, []);
});

test("onResumed does not wait for a membership that is left meanwhile", async (t) => {
  const context = await setup(t);
  const { client, events } = context;
  for (const name of ["a", "b"]) client.subscribe(name, noop);
  context.socket.ackAll();
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  context.socket.deliver({ type: "ack", id: context.socket.sent[0].id });
  assert.deepEqual(events.resumed, []);
  client.unsubscribe("b");
  assert.equal(events.resumed.length, 1);
});

test("a membership that cannot be restored is reported to onError", async (t) => {
  const context = await setup(t);
  const { client, events } = context;
  for (const name of ["a", "b"]) client.subscribe(name, noop);
  context.socket.ackAll();
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  const { id } = context.socket.sent[0];
  context.socket.deliver({
    type: "error",
    id,
    channel: "a",
    data: Buffer.from('{"code":"forbidden","message":"not any more"}'),
  });
  context.socket.ackAll();
  assert.deepEqual(
    events.errors.map(({ code, target }) => [code, target]),
    [["forbidden", "a"]],
  );
  assert.deepEqual(events.resumed[0].channels, ["b"]);
});

test("a membership rejected with unavailable is restored on the next connection", async (t) => {
  const context = await setup(t);
  const { client, events, tick } = context;
  client.subscribe("a", noop);
  context.socket.ackAll();
  context.socket.drop();
  await tick(1000);
  context.socket.accept();
  context.socket.replyError(0, "unavailable");
  assert.deepEqual([events.errors, events.resumed], [[], []]);
  const again = client.subscribe("a", noop);
  assert.deepEqual(context.socket.types, ["subscribe"], "it waits with the other");
  context.socket.drop(1001);
  await tick(1000);
  context.socket.accept();
  context.socket.ackAll();
  assert.equal(await outcome(again.ready), "resolved");
  assert.equal(events.resumed.length, 1);
});

test("queued calls are sent in order, after the memberships", async (t) => {
  const context = await setup(t, { open: false });
  const { client } = context;
  client.publish("c", 1);
  client.send("t", 2);
  client.subscribe("c", noop);
  client.broadcast(3);
  client.joinRoom("r", noop);
  context.socket.accept();
  client.send("t", 4);
  assert.deepEqual(context.socket.types, ["subscribe", "join_room", "publish", "t", "broadcast", "t"]);
});

test("shouldReconnect may use the client and close it", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const WebSocket = fakeWebSocket();
  const states = [];
  const client = new HubClient("ws://hub", {
    WebSocket,
    shouldReconnect: () => {
      client.send("t");
      if (WebSocket.sockets.length === 2) client.close();
    },
    onStateChange: ({ previous, state }) => states.push(`${previous} ${state}`),
  });
  await flushPromises();
  WebSocket.last.accept().drop();
  t.mock.timers.tick(1000);
  await flushPromises();
  WebSocket.last.accept().drop();
  t.mock.timers.tick(1000);
  await flushPromises();
  assert.deepEqual(WebSocket.last.types, ["t"]);
  assert.deepEqual(states, ["connecting open", "open reconnecting", "reconnecting open", "reconnecting closed"]);
  assert.equal(WebSocket.sockets.length, 2);
});

test("onError may subscribe again when a subscription is not restored", async (t) => {
  const context = await setup(t);
  const { client, events } = context;
  let again;
  client.onError = () => (again = client.subscribe("a", noop));
  client.subscribe("a", noop);
  context.socket.ackAll();
  context.socket.drop();
  await context.tick(1000);
  context.socket.accept();
  context.socket.replyError(0, "limit");
  assert.deepEqual(context.socket.types, ["subscribe", "subscribe"]);
  context.socket.deliver({ type: "ack", id: context.socket.sent[1].id });
  assert.equal(await outcome(again.ready), "resolved");
  assert.deepEqual(events.resumed[0].channels, []);
});

test("callbacks may close the client in every state", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  for (const when of ["open", "reconnecting"]) {
    const WebSocket = fakeWebSocket();
    const states = [];
    const client = new HubClient("ws://hub", {
      WebSocket,
      onStateChange: ({ state }) => {
        states.push(state);
        if (state === when) client.close();
      },
      onResumed: () => assert.fail(),
    });
    await flushPromises();
    WebSocket.last.accept();
    WebSocket.last.drop();
    t.mock.timers.tick(60_000);
    await flushPromises();
    assert.equal(states.at(-1), "closed");
    assert.equal(WebSocket.sockets.length, 1);
  }
});

test("after a handler closes the client no further message is delivered", async (t) => {
  const { client, socket } = await setup(t);
  const got = [];
  client.subscribe("c", (message) => {
    got.push(message.json());
    client.close();
  });
  socket.ackAll();
  for (const n of [1, 2]) socket.deliver({ type: "message", channel: "c", data: Buffer.from(`${n}`) });
  assert.deepEqual(got, [1]);
});

test("a dead network is noticed within two heartbeats, whatever the client sends", async (t) => {
  const { events, tick, socket, client } = await setup(t);
  socket.welcome();
  await tick(10_000);
  socket.deliver({ type: "t" });
  for (let i = 0; i < 14; i++) {
    await tick(1000);
    client.send("t");
  }
  assert.equal(socket.pings.length, 0);
  await tick(1000);
  assert.equal(socket.pings.length, 1);
  await tick(14_999);
  assert.equal(client.state, "open");
  await tick(1);
  assert.equal(client.state, "reconnecting");
  assert.deepEqual([events.states.at(-1).code, events.states.at(-1).error.code], [3008, "timeout"]);
});

test("a quiet healthy connection is not cut", async (t) => {
  const { client, tick, socket } = await setup(t);
  socket.welcome();
  for (let i = 1; i <= 20; i++) {
    await tick(15_000);
    assert.equal(socket.pings.length, i);
    await tick(14_000);
    socket.pong();
  }
  assert.equal(client.state, "open");
});

test("pings of the hub spare the client's own, if the platform reports them", async (t) => {
  const { client, tick, socket } = await setup(t);
  socket.welcome();
  for (let i = 0; i < 5; i++) {
    await tick(14_000);
    socket.dispatchEvent(new Event("ping"));
  }
  assert.deepEqual([client.state, socket.pings.length], ["open", 0]);
});

test("the heartbeat is the hub's or the option's", async (t) => {
  for (const [heartbeat, hub, first] of [
    [undefined, 7000, 7000],
    [undefined, undefined, 15_000],
    [2000, 7000, 2000],
    [0, 7000, Infinity],
    [Infinity, 7000, Infinity],
  ]) {
    const { tick, socket, client } = await setup(t, { heartbeat });
    socket.welcome({ heartbeat: hub });
    await tick(Math.min(first, 1e9) - 1);
    assert.equal(socket.pings.length, 0);
    await tick(1);
    assert.equal(socket.pings.length, first === Infinity ? 0 : 1);
    client.close();
    t.mock.timers.reset();
  }
});

test("a network that dies before the reply to hub:hello is noticed", async (t) => {
  const { client, tick, socket } = await setup(t);
  await tick(15_000);
  assert.equal(socket.pings.length, 1);
  await tick(14_999);
  assert.equal(client.state, "open");
  await tick(1);
  assert.equal(client.state, "reconnecting");
});

test("a quiet hub that does not know hub:hello is not cut, and gets only requests that it knows", async (t) => {
  const { client, tick, socket } = await setup(t);
  for (let i = 1; i <= 20; i++) {
    await tick(15_000);
    assert.equal(socket.pings.length, i);
    await tick(14_000);
    socket.pong();
  }
  assert.deepEqual([client.state, client.id, client.user, client.limits], ["open", "", "", undefined]);
  assert.deepEqual([...new Set(socket.toHub.map(({ type }) => type))], ["hub:hello", "unsubscribe"]);
});

test("an error event without a close event counts as a close", async (t) => {
  const { events, socket } = await setup(t, { open: false });
  socket.error("refused");
  assert.deepEqual(
    [events.states[0].state, events.states[0].code, events.states[0].error.message],
    ["reconnecting", 1006, "refused"],
  );
  socket.drop();
  assert.equal(events.states.length, 1);
});

const aesKey = new Uint8Array(32).fill(3);
const sealed = (data) => {
  const message = { type: "t", channel: "", data: Buffer.from(data), timestampNs: 0n, clientId: "", id: "" };
  return new OracleSealer({ aesKey }).seal(oracles.json.encode(message));
};

test("messages received before a close are delivered before it, even if opening is slow", async (t) => {
  const { client, socket, events } = await setup(t, { security: { aesKey } });
  socket.deliverRaw(sealed(JSON.stringify("x".repeat(100_000))));
  socket.deliverRaw(sealed("1"));
  socket.drop(1000, "bye");
  assert.equal(client.state, "open");
  while (client.state === "open") await flushPromises();
  assert.equal(events.messages.length, 2);
  assert.equal(events.messages[1].json(), 1);
});

test("messages before a frame that cannot be opened are delivered, those after it are not", async (t) => {
  const { client, socket, events } = await setup(t, { security: { aesKey } });
  socket.deliverRaw(sealed(JSON.stringify("x".repeat(100_000))));
  socket.deliverRaw(Buffer.from("short"));
  socket.deliverRaw(sealed("1"));
  while (client.state === "open") await flushPromises();
  assert.equal(events.messages.length, 1);
  assert.equal(events.states[1].code, 1008);
});

test("an error while sealing ends the connection", async (t) => {
  const { client, socket, events } = await setup(t, { security: { aesKey } });
  const encrypt = crypto.subtle.encrypt.bind(crypto.subtle);
  let calls = 0;
  t.mock.method(crypto.subtle, "encrypt", (...args) => {
    if (calls++ === 1) return Promise.reject(new Error("out of order"));
    return encrypt(...args);
  });
  for (let i = 0; i < 3; i++) client.send("t", "x".repeat(50_000 - 20_000 * i));
  while (client.state === "open") await flushPromises();
  assert.deepEqual([events.states[1].code, events.states[1].error.message], [1008, "out of order"]);
  assert.equal(socket.frames.length, 2, "no frame is sent after the one that failed"); // the first is hub:hello
});

test("only json accepts a handshake without a subprotocol", async (t) => {
  for (const codec of Object.keys(codecs)) {
    const { client, socket } = await setup(t, { codec, open: false });
    socket.accept("");
    assert.equal(client.state, codec === "json" ? "open" : "closed");
    if (codec !== "json") assert.equal(socket.closed.code, 4002);
    t.mock.timers.reset();
  }
});

test("long close reasons are cut at a character boundary", async (t) => {
  const { socket } = await setup(t);
  socket.deliverRaw(`{"type":"t","data":1,"encoding":"${"é".repeat(200)}"}`);
  await flushPromises();
  assert.ok(Buffer.byteLength(socket.closed.reason) <= 123);
  assert.ok(Buffer.byteLength(socket.closed.reason) >= 122);
  assert.ok(!socket.closed.reason.includes("\ufffd"));
});
