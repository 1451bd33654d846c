// Tests of the client on real sockets, against the fake hub in this process.

import assert from "node:assert/strict";
import { test } from "node:test";
import ws from "ws";

import { closeCodes, codecs, HubError } from "../dist/hub.js";
import { connect, HubClient } from "./named.js";
import { FakeHub } from "./fake-hub.js";

// NATIVE_WEBSOCKET=1 uses the platform's WebSocket class, which Node has since version 22.
const native = process.env.NATIVE_WEBSOCKET === "1";
const WebSocket = native ? globalThis.WebSocket : ws;

const quick = { base: 1, max: 5 };
const keys = {
  aesKey: Uint8Array.from({ length: 32 }, (_, i) => i),
  hmacKey: Uint8Array.from({ length: 20 }, (_, i) => i + 1),
};

/** Starts a hub and connects a client whose callbacks are recorded. */
async function setup(t, { hub: hubOptions, ...options } = {}) {
  const hub = await FakeHub.start(t, hubOptions);
  const events = recorder();
  const client = await connect(hub.url, { WebSocket, backoff: quick, ...events.callbacks, ...options });
  t.after(() => client.close());
  return { hub, client, events, peer: hub.peers[0] };
}

/** Returns callbacks that record their arguments in lists, and functions to wait for them. */
function recorder() {
  const events = { states: [], messages: [], gaps: [], resumed: [], errors: [] };
  let waiting = [];
  const push = (list) => (item) => {
    events[list].push(item);
    waiting = waiting.filter(({ condition, resolve }) => !condition() || resolve());
  };
  events.until = (condition) => condition() || new Promise((resolve) => waiting.push({ condition, resolve }));
  events.record = push;
  events.callbacks = {
    onStateChange: push("states"),
    onMessage: push("messages"),
    onGap: push("gaps"),
    onResumed: push("resumed"),
    onError: push("errors"),
  };
  return events;
}

/** Returns a handler, the list of its messages, and a function to wait for a number of them. */
function collector() {
  const messages = [];
  let waiting = [];
  const handler = (message) => {
    messages.push(message);
    waiting = waiting.filter(({ count, resolve }) => messages.length < count || resolve());
  };
  const until = (count) => messages.length >= count || new Promise((resolve) => waiting.push({ count, resolve }));
  return { messages, handler, until };
}

const hubError =
  (code, outcomeUnknown = false) =>
  (error) => {
    assert.ok(error instanceof HubError, error);
    assert.equal(error.code, code);
    assert.equal(error.outcomeUnknown, outcomeUnknown);
    return true;
  };

const sealings = {
  open: undefined,
  "sign then encrypt": keys,
  "encrypt then sign": { ...keys, signThenEncrypt: false },
};

for (const codec of Object.keys(codecs)) {
  for (const [sealing, security] of Object.entries(sealings)) {
    test(`all calls and notices: ${codec}, ${sealing}`, async (t) => {
      const { client, events, peer, hub } = await setup(t, { codec, security, hub: { keys: security } });
      assert.deepEqual(peer.offers, [codec]);

      const news = collector();
      const lobby = collector();
      await client.subscribe("news", news.handler).ready;
      await client.joinRoom("lobby", lobby.handler).ready;
      await client.publish("news", { headline: "Breaking News!" });
      await client.publishRoom("lobby", "hello");
      await client.publish("news", Uint8Array.of(0, 128, 255));
      await client.broadcast([1, 2, 3]);
      client.send("move", { x: 1 }, { channel: "game" });
      client.send("ping");
      await news.until(2);
      await lobby.until(1);
      await events.until(() => events.messages.length === 1);

      const [headline, binary] = news.messages;
      assert.equal(headline.type, "message");
      assert.equal(headline.channel, "news");
      assert.equal(headline.clientId, "client-1");
      assert.equal(headline.timestampNs, 1_763_769_600_123_456_791n);
      assert.deepEqual(headline.json(), { headline: "Breaking News!" });
      assert.deepEqual(Uint8Array.from(binary.bytes()), Uint8Array.of(0, 128, 255));
      assert.equal(lobby.messages[0].type, "room_message");
      assert.equal(lobby.messages[0].channel, "lobby");
      assert.equal(lobby.messages[0].json(), "hello");
      assert.equal(events.messages[0].type, "broadcast");
      assert.deepEqual(events.messages[0].json(), [1, 2, 3]);

      await peer.until(() => peer.received.length === 8);
      const [move, ping] = peer.received.slice(-2);
      assert.deepEqual(
        [move.type, move.channel, Buffer.from(move.data).toString(), move.id],
        ["move", "game", '{"x":1}', ""],
      );
      assert.deepEqual([ping.type, ping.channel, ping.data.length], ["ping", "", 0]);

      await client.unsubscribe("news");
      await client.leaveRoom("lobby");
      assert.equal(peer.memberships.size, 0);
      await client.publish("news", 1);
      assert.equal(news.messages.length, 2);

      hub.intercept = (from, message) => {
        from.replyError(message, "forbidden", "not for you");
        return true;
      };
      await assert.rejects(client.publish("secret", 1), (error) => {
        assert.equal(error.target, "secret");
        assert.equal(error.message, "not for you");
        return hubError("forbidden")(error);
      });
      await assert.rejects(
        client.subscribe("secret", () => {}).ready,
        hubError("forbidden"),
      );

      peer.replyError({ id: "", channel: "x" }, "bad_request", "bad name");
      const gap = {
        channel: "news",
        room: "",
        all: false,
        count: 3,
        firstNs: 2n ** 60n + 1n,
        lastNs: 2n ** 60n + 2n,
        reason: "slow_consumer",
      };
      peer.send({ type: "gap", data: peer.codec.gap(gap) });
      const roomGap = { ...gap, channel: "", room: "lobby" };
      peer.send({ type: "gap", data: peer.codec.gap(roomGap) });
      const gapAnywhere = { ...gap, channel: "", all: true };
      peer.send({ type: "gap", data: peer.codec.gap(gapAnywhere) });
      await events.until(() => events.gaps.length === 3);
      assert.deepEqual(
        events.gaps.map((notice) => ({ ...notice })),
        [gap, roomGap, gapAnywhere],
      );
      assert.deepEqual(
        events.errors.map(({ code, target }) => [code, target]),
        [
          ["forbidden", ""],
          ["bad_request", "x"],
        ],
      );

      await client.close(3500, "done");
      await peer.until(() => peer.ended);
      assert.deepEqual(peer.ended, { code: 3500, reason: "done" });
      assert.deepEqual(
        events.states.map(({ state }) => state),
        ["open", "closed"],
      );
    });
  }

  test(`sealing keeps the order in both directions: ${codec}`, async (t) => {
    const { client, peer, events } = await setup(t, { codec, security: keys, hub: { keys } });
    // Large messages take longer to seal and open than the small ones that follow them.
    const count = 200;
    const value = (i) => ({ i, pad: "x".repeat(i % 10 === 0 ? 20_000 : 10) });
    const inOrder = Array.from({ length: count }, (_, i) => i);
    const { messages, handler } = collector();
    await client.subscribe("c", handler).ready;
    peer.received = [];
    for (let i = 0; i < count; i++) client.send("n", value(i));
    await peer.until(() => peer.received.length === count);
    assert.deepEqual(
      peer.received.map(({ data }) => JSON.parse(Buffer.from(data)).i),
      inOrder,
    );
    for (let i = 0; i < count; i++) {
      peer.send({ type: "message", channel: "c", data: Buffer.from(JSON.stringify(value(i))) });
    }
    peer.socket.close(1000, "last");
    await events.until(() => client.state === "closed");
    assert.deepEqual(
      messages.map((message) => message.json().i),
      inOrder,
    );
    assert.equal(events.states.at(-1).reason, "last");
  });
}

test("close sends the sealed messages first", async (t) => {
  const { client, peer } = await setup(t, { security: keys, hub: { keys } });
  for (let i = 0; i < 50; i++) client.send("n", i);
  await client.close();
  await peer.until(() => peer.ended);
  assert.equal(peer.received.length, 50);
});

test("handlers may call all methods and wait for the replies", async (t) => {
  const { client, events } = await setup(t);
  const second = collector();
  await client.subscribe("a", async (message) => {
    await client.subscribe("b", second.handler).ready;
    await client.publish("b", message.json());
    await client.unsubscribe("a");
    await client.joinRoom("r", second.handler).ready;
    await client.publishRoom("r", "room");
  });
  await client.publish("a", "first");
  await second.until(2);
  assert.deepEqual(
    second.messages.map((message) => message.json()),
    ["first", "room"],
  );
  assert.deepEqual(events.errors, []);
});

test("failed handlers are reported and do not affect the client", async (t) => {
  const { client, events } = await setup(t);
  const { handler, until } = collector();
  const failures = [
    () => {
      throw new Error("at once");
    },
    async () => {
      throw new Error("later");
    },
    () => {
      throw null;
    },
    () => Promise.reject(Object.create(null)),
  ];
  await client.subscribe("c", (message) => failures.shift()?.() ?? handler(message)).ready;
  for (let i = 0; i < 6; i++) await client.publish("c", i);
  await until(2);
  await events.until(() => events.errors.length === 4);
  assert.deepEqual(
    events.errors.map(({ code }) => code),
    Array(4).fill("handler"),
  );
  assert.deepEqual(
    events.errors
      .map(({ message }) => message)
      .sort()
      .slice(2),
    ["a handler failed: at once", "a handler failed: later"],
  );
  assert.equal(client.state, "open");
});

test("errors of onError are written to the console", async (t) => {
  const logged = t.mock.method(console, "error", () => {});
  const { client, peer } = await setup(t, { onError: () => assert.fail("again") });
  peer.replyError({ id: "", channel: "" }, "limit", "enough");
  await client.publish("c", 1);
  assert.equal(logged.mock.callCount(), 1);
  client.onError = async () => assert.fail("again");
  peer.replyError({ id: "", channel: "" }, "limit", "enough");
  await client.publish("c", 1);
  assert.equal(logged.mock.callCount(), 2);
});

test("after a reconnect the client restores memberships before it sends queued calls", async (t) => {
  const { client, events, peer, hub } = await setup(t);
  const news = collector();
  const lobby = collector();
  await client.subscribe("news", news.handler).ready;
  await client.joinRoom("lobby", lobby.handler).ready;
  await client.publish("news", "before");

  hub.intercept = () => true; // sends no replies
  const lost = client.publish("news", "lost");
  await peer.until(() => peer.types().at(-1) === "publish");
  const before = Date.now();
  const nextPeer = hub.nextPeer();
  peer.socket.terminate();
  await assert.rejects(lost, hubError("disconnected", true));
  assert.equal(client.state, "reconnecting");
  hub.intercept = () => false;
  await client.publish("news", "after");

  const second = await nextPeer;
  assert.deepEqual(second.types(), ["subscribe", "join_room", "publish"]);
  await news.until(2);
  assert.deepEqual(
    news.messages.map((message) => message.json()),
    ["before", "after"],
  );
  assert.deepEqual(
    events.states.map(({ state, previous }) => [previous, state]),
    [
      ["connecting", "open"],
      ["open", "reconnecting"],
      ["reconnecting", "open"],
    ],
  );
  assert.equal(events.states[1].code, 1006);
  assert.ok(events.states[1].retryIn <= quick.base);

  assert.equal(events.resumed.length, 1);
  const [{ from, to, lastTimestampNs, channels, rooms }] = events.resumed;
  assert.ok(from <= before + 5 && to >= from);
  assert.equal(lastTimestampNs, news.messages[0].timestampNs);
  assert.deepEqual([channels, rooms], [["news"], ["lobby"]]);
});

test("the client reconnects to a hub that restarts", async (t) => {
  const { client, events, hub } = await setup(t);
  const { handler, messages, until } = collector();
  await client.subscribe("c", handler).ready;
  for (const code of [1001, 1012]) {
    hub.peers.at(-1).socket.close(code, "restart");
    await events.until(() => client.state === "reconnecting");
    await hub.stop();
    await events.until(() => events.states.at(-1).state === "reconnecting" && events.states.at(-1).error);
    await hub.listen();
    await client.publish("c", code);
  }
  await until(2);
  assert.deepEqual(
    messages.map((message) => message.json()),
    [1001, 1012],
  );
  assert.equal(events.states[1].code, 1001);
  assert.equal(events.resumed.length, 2);
});

test("the close code decides whether the client reconnects", async (t) => {
  const { hub, client } = await setup(t);
  await client.close();
  const codes = Object.keys(closeCodes).map(Number);
  assert.equal(codes.length, 16);
  const sendable = codes.filter((code) => code !== 1005 && code !== 1006);
  for (const code of [...sendable, 3001, 4000, 4999]) {
    const events = recorder();
    const other = await connect(hub.url, { WebSocket, backoff: quick, ...events.callbacks });
    hub.peers.at(-1).socket.close(code, `because ${code}`);
    await events.until(() => events.states.length === 2);
    const { state, code: got, reason } = events.states[1];
    assert.equal(state, closeCodes[code]?.reconnect === true ? "reconnecting" : "closed", code);
    assert.deepEqual([got, reason], [code, `because ${code}`]);
    if (state === "closed") await assert.rejects(other.publish("c", 1), hubError("closed"));
    await other.close();
  }
});

test("the client reconnects after a Close without a code", async (t) => {
  const { hub, events, client } = await setup(t);
  hub.peers[0].socket.close();
  await events.until(() => events.states.length === 3);
  assert.equal(events.states[1].code, 1005);
  assert.equal(client.state, "open");
});

test("shouldReconnect overrides closeCodes unless it returns undefined", async (t) => {
  const asked = [];
  const shouldReconnect = ({ code, reason }) => {
    asked.push([code, reason]);
    if (asked.length === 3) throw new Error("no idea");
    return { 4000: true, 1012: false }[code];
  };
  const { hub, events, client } = await setup(t, { shouldReconnect });
  for (const code of [4000, 1001, 1001, 1012]) {
    const opened = events.states.length;
    hub.peers.at(-1).socket.close(code, "x");
    await events.until(() => events.states.length > opened && client.state !== "reconnecting");
  }
  assert.equal(client.state, "closed");
  assert.deepEqual(asked, [
    [4000, "x"],
    [1001, "x"],
    [1001, "x"],
    [1012, "x"],
  ]);
  assert.deepEqual(
    events.errors.map(({ message }) => message),
    ["a handler failed: no idea"],
  );
});

test("the token is offered as a subprotocol after the codec", async (t) => {
  const { peer } = await setup(t, { codec: "msgpack", token: "sécret/+?" });
  assert.equal(peer.token, "sécret/+?");
  assert.deepEqual(peer.offers, ["msgpack", "bearer.c8OpY3JldC8rPw"]);
});

test("getToken is called for every connection, also after code 3000", async (t) => {
  const tokens = ["first", "second", new Error("no session"), "third"];
  const getToken = async ({ signal }) => {
    assert.ok(signal instanceof AbortSignal);
    const token = tokens.shift();
    if (token instanceof Error) throw token;
    return token;
  };
  const { hub, events } = await setup(t, { getToken });
  hub.peers[0].socket.close(3000, "expired");
  await events.until(() => events.states.length === 3);
  hub.peers[1].socket.close(1001);
  await events.until(() => events.states.length === 6);
  assert.deepEqual(
    hub.peers.map(({ token }) => token),
    ["first", "second", "third"],
  );
  assert.deepEqual(
    events.states.map(({ state }) => state),
    ["open", "reconnecting", "open", "reconnecting", "reconnecting", "open"],
  );
  assert.equal(events.states[4].error.message, "no session");
});

test("getToken may return keys for one connection", async (t) => {
  const hub = await FakeHub.start(t);
  let connections = 0;
  const getToken = async () => {
    hub.keys = { ...keys, hmacKey: Uint8Array.of(++connections) };
    return { token: `ticket ${connections}`, security: hub.keys };
  };
  const events = recorder();
  const client = await connect(hub.url, { WebSocket, backoff: quick, getToken, ...events.callbacks });
  t.after(() => client.close());
  const { handler, messages } = collector();
  await client.subscribe("c", handler).ready;
  hub.peers[0].socket.terminate();
  await events.until(() => client.state === "reconnecting");
  await client.publish("c", "sealed anew");
  assert.equal(messages[0].json(), "sealed anew");
  assert.deepEqual(
    hub.peers.map(({ token }) => token),
    ["ticket 1", "ticket 2"],
  );
});

test("invalid keys from getToken are reported, and getToken is called again", async (t) => {
  const hub = await FakeHub.start(t);
  const events = recorder();
  const given = [{ security: { aesKey: new Uint8Array(3) } }, undefined];
  const getToken = () => given.shift();
  const client = new HubClient(hub.url, { WebSocket, backoff: quick, getToken, ...events.callbacks });
  t.after(() => client.close());
  await events.until(() => client.state === "open");
  assert.match(events.states[0].error.message, /aesKey is not 32 bytes/);
});

test("an invalid frame closes the client with a code and a reason", async (t) => {
  const hub = await FakeHub.start(t);
  const sealed = { security: keys };
  const cases = [
    ["json", {}, "{", 1007, /json: /],
    ["json", {}, '{"type":5}', 1007, /type is not a string/],
    ["json", {}, Buffer.from("{}"), 1003, /not text/],
    ["protobuf", {}, Buffer.from("0aff", "hex"), 1007, /protobuf/],
    ["protobuf", {}, "{}", 1003, /not binary/],
    ["flatbuffers", {}, Buffer.from("ffffff7f", "hex"), 1007, /flatbuffers/],
    ["msgpack", {}, Buffer.from("c0", "hex"), 1007, /not a map/],
    ["json", {}, '{"type":"error","data":"x"}', 1007, /error reply: not an object/],
    ["json", {}, '{"type":"error"}', 1007, /error reply: /],
    ["json", {}, '{"type":"gap","data":{"count":"x"}}', 1007, /count is not an integer/],
    ["protobuf", {}, Buffer.from("0a056572726f721a02ffff", "hex"), 1007, /error reply/],
    ["json", sealed, "{}", 1003, /received a text frame/],
    ["json", sealed, Buffer.from("short"), 1008, /too short/],
    ["json", sealed, Buffer.alloc(100), 1008, /cannot be decrypted/],
    ["json", { security: { hmacKey: keys.hmacKey } }, Buffer.alloc(100), 1008, /signature does not match/],
  ];
  for (const [codec, options, frame, code, message] of cases) {
    const events = recorder();
    const client = await connect(hub.url, { WebSocket, codec, ...options, ...events.callbacks });
    const peer = hub.peers.at(-1);
    peer.socket.send(frame);
    peer.socket.send(frame);
    await events.until(() => events.states.length === 2);
    const last = events.states[1];
    assert.equal(client.state, "closed", codec);
    assert.equal(last.code, code);
    assert.match(last.error.message, message);
    assert.equal(last.reason, last.error.message);
    await peer.until(() => peer.ended);
    assert.equal(peer.ended.code, code + 3000);
    assert.match(peer.ended.reason, message);
    assert.deepEqual(events.errors, []);
  }
});

test("sealed frames with invalid content close the client", async (t) => {
  for (const [codec, frame] of [
    ["json", "{"],
    ["json", Buffer.of(0xff)],
    ["msgpack", Buffer.of(0xc0)],
  ]) {
    const { events, peer } = await setup(t, { codec, security: keys, hub: { keys } });
    peer.socket.send(peer.sealer.seal(frame));
    await events.until(() => events.states.length === 2);
    assert.deepEqual([events.states[1].state, events.states[1].code], ["closed", 1007]);
  }
});

test("connect rejects if the hub selects another subprotocol", async (t) => {
  const hub = await FakeHub.start(t);
  hub.choose = () => "bearer.dG9rZW4";
  const connecting = connect(hub.url, { WebSocket, codec: "protobuf", token: "token" });
  await assert.rejects(
    connecting,
    (error) => hubError("unreachable")(error) && /subprotocol/.test(error.cause.message),
  );
});

test("connect rejects when the first attempt fails", async (t) => {
  const { hub } = await setup(t);
  hub.refuse = 401;
  const states = [];
  const options = { WebSocket, onStateChange: ({ state }) => states.push(state) };
  await assert.rejects(
    connect(hub.url, options),
    (error) => hubError("unreachable")(error) && (native || /401/.test(error.message)),
  );
  if (!native) assert.deepEqual(states, ["closed"], "a refused token is not sent again");
  await hub.stop();
  await assert.rejects(
    connect(hub.url, options),
    (error) => hubError("unreachable")(error) && (native || /ECONNREFUSED/.test(error.message)),
  );
  await assert.rejects(connect("no url", options), hubError("unreachable"));
  await assert.rejects(connect(hub.url, { ...options, getToken: () => Promise.reject(new Error("no session")) }), /no session/);
  await hub.listen();
  hub.refuse = undefined;
});

test("new HubClient keeps trying when the first attempt fails", async (t) => {
  const { hub } = await setup(t);
  await hub.stop();
  const events = recorder();
  const client = new HubClient(hub.url, { WebSocket, backoff: quick, ...events.callbacks });
  t.after(() => client.close());
  assert.equal(client.state, "connecting");
  const { handler, until } = collector();
  const subscribed = client.subscribe("c", handler).ready;
  const published = client.publish("c", 1);
  await events.until(() => events.states.length === 3);
  assert.deepEqual(
    events.states.map(({ state }) => state),
    Array(3).fill("reconnecting"),
  );
  await hub.listen();
  await Promise.all([subscribed, published]);
  await until(1);
  assert.deepEqual(events.resumed, [], "no message can be missed before the first connection");
});

test("aborting the client closes it", async (t) => {
  const { hub } = await setup(t);
  const controller = new AbortController();
  const client = new HubClient(hub.url, { WebSocket, signal: controller.signal });
  const connected = await connect(hub.url, { WebSocket, signal: controller.signal });
  t.after(() => connected.close());
  controller.abort();
  assert.equal(client.state, "closed");
  assert.equal(connected.state, "open", "connect's signal ends only the attempt");
  await assert.rejects(connect(hub.url, { WebSocket, signal: controller.signal }), hubError("aborted"));
  await assert.rejects(connect(hub.url, { WebSocket, signal: AbortSignal.abort() }), hubError("aborted"));
});

test("close ends although the hub sends no Close frame", async (t) => {
  const { client, peer } = await setup(t);
  peer.socket.pause();
  const start = Date.now();
  await client.close();
  assert.ok(Date.now() - start < 3000);
  peer.socket.resume();
  await peer.until(() => peer.ended);
});

test("a half-open connection is replaced", async (t) => {
  const { hub, events, peer, client } = await setup(t, { heartbeat: 100 });
  await client.publish("c", 1); // the reply to hub:hello has arrived before this reply
  const nextPeer = hub.nextPeer();
  peer.socket.pause(); // no data in either direction
  await events.until(() => events.states.length > 1);
  assert.equal(events.states[1].code, 3008);
  assert.match(events.states[1].error.message, /received nothing/);
  await nextPeer;
  peer.socket.resume();
});

test("messages go to the handler of their channel or room", async (t) => {
  const { client, peer, events } = await setup(t);
  const channel = collector();
  const room = collector();
  await client.subscribe("same", channel.handler).ready;
  await client.joinRoom("same", room.handler).ready;
  await client.joinRoom("only-room", room.handler).ready;
  const send = (type, name) => peer.send({ type, channel: name, data: Buffer.from(`"${type} ${name}"`) });
  send("message", "same");
  send("room_message", "same");
  send("alert", "same");
  send("alert", "only-room");
  send("alert", "elsewhere");
  send("message", "only-room");
  send("room_message", "other");
  send("broadcast", "");
  send("broadcast", "same");
  send("hello", "");
  send("", "");
  await events.until(() => events.messages.length === 7);
  const texts = (list) => list.map((message) => message.json());
  assert.deepEqual(texts(channel.messages), ["message same", "alert same"]);
  assert.deepEqual(texts(room.messages), ["room_message same", "alert only-room"]);
  assert.deepEqual(texts(events.messages), [
    "alert elsewhere",
    "message only-room",
    "room_message other",
    "broadcast ",
    "broadcast same",
    "hello ",
    " ",
  ]);
});

test("calls with invalid arguments reject without sending", async (t) => {
  const { client, peer } = await setup(t);
  for (const name of ["", undefined, 5, "\ud800"]) {
    assert.throws(() => client.subscribe(name, () => {}), TypeError);
    await assert.rejects(client.unsubscribe(name), TypeError);
    assert.throws(() => client.joinRoom(name, () => {}), TypeError);
    await assert.rejects(client.leaveRoom(name), TypeError);
    await assert.rejects(client.publish(name, 1), TypeError);
    await assert.rejects(client.publishRoom(name, 1), TypeError);
  }
  assert.throws(() => client.subscribe("c", 5), TypeError);
  await assert.rejects(
    client.publish("c", () => {}),
    TypeError,
  );
  await assert.rejects(client.publish("c", 10n), TypeError);
  await assert.rejects(client.broadcast(Symbol("s")), TypeError);
  await assert.rejects(client.close(1001), RangeError);
  await assert.rejects(client.close(5000), RangeError);
  for (const type of ["subscribe", "unsubscribe", "join_room", "leave_room"])
    assert.throws(() => client.send(type, {}), TypeError);
  assert.throws(() => client.send(5), TypeError);
  assert.throws(() => new HubClient("ws://x", { WebSocket, codec: "toString" }), TypeError);
  assert.throws(() => new HubClient("ws://x", { WebSocket, codec: "xml" }), TypeError);
  assert.throws(() => new HubClient("ws://x", { WebSocket, security: {} }), TypeError);
  assert.deepEqual(peer.received, []);
});

test("the error names the option if the platform has no WebSocket", { skip: globalThis.WebSocket && "this platform has one" }, () => {
  assert.throws(() => new HubClient("ws://x"), /pass a class as the WebSocket option/);
});

test("messages above the hub's limit are not sent", async (t) => {
  const { client, peer } = await setup(t, { maxMessageSize: 1000, security: keys, hub: { keys } });
  await assert.rejects(client.publish("c", "x".repeat(1000)), hubError("too_large"));
  await assert.rejects(client.publish("c", "é".repeat(480)), hubError("too_large"));
  assert.throws(() => client.send("t", "x".repeat(1000)), hubError("too_large"));
  assert.throws(() => client.subscribe("é".repeat(480), () => {}), hubError("too_large"));
  await client.publish("c", "x".repeat(850));
  assert.equal(peer.received.length, 1);
});
