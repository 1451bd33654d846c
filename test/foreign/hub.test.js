// Tests of a real hub with clients that share no code with it.

import assert from "node:assert/strict";
import { get } from "node:http";
import { once } from "node:events";
import { test } from "node:test";
import WebSocket from "ws";

import { asJSON, codecs } from "./codecs.js";
import { keys, Peer, refusal, urlOf, utf8 } from "./peer.js";
import { sealerOf } from "./sealing.js";

const names = Object.keys(codecs);
const overLimit = 512 * 1024 + 1; // Config.MaxMessageSize defaults to 512 KiB
const deflate = { perMessageDeflate: { threshold: 0 } };
const setups = {
  plain: { path: "/plain" },
  "sign then encrypt": { path: "/sign-then-encrypt", sealer: await sealerOf({ ...keys, signThenEncrypt: true }) },
  "encrypt then sign": { path: "/encrypt-then-sign", sealer: await sealerOf({ ...keys, signThenEncrypt: false }) },
  "sealed, deflate agreed": {
    path: "/sign-then-encrypt",
    sealer: await sealerOf({ ...keys, signThenEncrypt: true }),
    ...deflate,
  },
  deflated: { path: "/plain", ...deflate },
};

const payloads = [
  utf8('{"a":[1,"é",null]}'),
  utf8('"text"'),
  utf8("0"),
  Uint8Array.of(0, 128, 255),
  utf8("not JSON"),
  new Uint8Array(0),
  utf8(JSON.stringify('漢😀"\\'.repeat(2000))),
];

/** Returns the value of a JSON payload, whose formatting the JSON codec may change, or the bytes of another. */
const comparable = (bytes) => asJSON(bytes) ?? Buffer.from(bytes).toString("hex");

for (const [name, { path, ...options }] of Object.entries(setups)) {
  test(`clients with different codecs exchange messages: ${name}`, async (t) => {
    const peers = [];
    for (const codec of names) peers.push(await Peer.connect(t, path, { codec, ...options }));
    for (const peer of peers) {
      assert.equal(peer.socket.protocol, peer.name);
      assert.equal(peer.socket.extensions, options.perMessageDeflate ? "permessage-deflate" : "");
      const ack = await peer.acked(peer.subscription("news"));
      assert.equal(ack.channel, "news");
      assert.ok(Math.abs(Number(ack.timestamp / 1_000_000n) - Date.now()) < 60_000);
      assert.equal((await peer.acked(peer.membership("頻道 é😀"))).channel, "頻道 é😀");
    }
    for (const peer of peers) {
      for (const data of payloads) {
        await peer.acked({ type: "publish", channel: "news", data });
        await peer.acked({ type: "publish_room", channel: "頻道 é😀", data });
      }
      // The publisher receives its own message before the ack.
      assert.equal(peer.messages.filter(({ clientId, type }) => type === "message" && clientId !== "").at(-1)?.channel, "news");
      await peer.acked({ type: "broadcast", data: utf8('"to all"') });
    }
    for (const peer of peers) {
      const of = (type) => peer.messages.filter((message) => message.type === type);
      const all = peers.length * payloads.length;
      await peer.until(() => of("broadcast").length === peers.length);
      assert.equal(of("message").length, all);
      assert.equal(of("room_message").length, all);
      for (const [type, channel] of [
        ["message", "news"],
        ["room_message", "頻道 é😀"],
      ]) {
        assert.deepEqual(
          of(type).map(({ channel, data }) => [channel, comparable(data)]),
          peers.flatMap(() => payloads.map((data) => [channel, comparable(data)])),
        );
      }
      // All clients see the same order, senders and timestamps.
      const order = (list) => list.filter(({ type }) => /message|broadcast/.test(type)).map((m) => [m.type, m.clientId, m.timestamp]);
      assert.deepEqual(order(peer.messages), order(peers[0].messages));
      assert.equal(new Set(of("message").map(({ clientId }) => clientId)).size, peers.length);
    }
    if (name === "deflated") {
      for (const { socket, messages } of peers) {
        const size = messages.reduce((sum, { data }) => sum + data.length, 0);
        assert.ok(socket._socket.bytesRead < size / 4, `${socket._socket.bytesRead} bytes on the wire for ${size}`);
      }
    }

    const ids = await Promise.all(peers.map((peer) => peer.whoAmI()));
    for (const [i, peer] of peers.entries()) {
      const to = (i + 1) % peers.length;
      await peer.send({ type: "forward", channel: ids[to], data: Uint8Array.of(i, 0xff) });
      const direct = await peers[to].until(({ type }) => type === "direct");
      assert.deepEqual([direct.clientId, direct.channel, [...direct.data]], [ids[i], "", [i, 0xff]]);
    }
    await peers[0].send({ type: "announce", data: utf8("{}") });
    for (const peer of peers) {
      const announced = await peer.until(({ type, clientId }) => type === "broadcast" && clientId === "");
      assert.deepEqual(asJSON(announced.data), {});
    }

    const [first, ...others] = peers;
    await first.acked(first.subscription("news", "unsubscribe"));
    await first.acked(first.membership("頻道 é😀", "leave_room"));
    first.messages.length = 0;
    for (const channel of ["news", "頻道 é😀"]) {
      const type = channel === "news" ? "publish" : "publish_room";
      await others[0].acked({ type, channel, data: utf8('"the last"') });
    }
    for (const peer of others) {
      await peer.until(({ type, data }) => type === "room_message" && asJSON(data) === "the last");
    }
    await first.whoAmI();
    assert.deepEqual(first.messages.map(({ type }) => type), ["you"]);

    for (const peer of peers) {
      peer.socket.close(1000, "bye");
      assert.equal((await peer.closed).code, 1000);
      assert.equal(peer.error, undefined);
    }
  });
}

for (const codec of names) {
  test(`requests that the hub rejects: ${codec}`, async (t) => {
    const peer = await Peer.connect(t, "/limited", { codec });
    assert.equal((await peer.rejected(peer.subscription("secret plan"), "forbidden")).channel, "secret plan");
    assert.match((await peer.rejected(peer.membership("secret"), "forbidden")).message, /that is secret/);
    await peer.rejected({ type: "publish", channel: "secret" }, "forbidden");
    await peer.rejected({ type: "publish", channel: "" }, "bad_request");
    await peer.rejected(peer.subscription("x".repeat(256)), "bad_request");
    await peer.rejected(peer.membership("line\nbreak"), "bad_request");
    await peer.rejected({ type: "subscribe" }, "bad_request");
    await peer.rejected({ type: "join_room", data: Uint8Array.of(0xff) }, "bad_request");
    await peer.acked(peer.subscription("a"));
    await peer.acked(peer.subscription("a")); // subscribing twice is allowed
    await peer.acked(peer.membership("a"));
    assert.equal((await peer.rejected(peer.membership("b"), "limit")).channel, "b");
    await peer.acked(peer.subscription("never", "unsubscribe"));
    await peer.rejected({ type: "publish", channel: "a", data: new Uint8Array(5000) }, "too_large");
    await peer.send({ type: "publish", channel: "secret" });
    const noReply = await peer.until(({ type, id }) => type === "error" && id === "");
    assert.equal(peer.codec.error(noReply.data).code, "forbidden");
  });

  test(`a slow client receives every message or a gap that counts it: ${codec}`, async (t) => {
    const peer = await Peer.connect(t, "/dropping", { codec });
    const channel = `flood of ${codec}`;
    await peer.acked(peer.subscription(channel));
    const publisher = await Peer.connect(t, "/dropping");
    peer.socket.pause();
    const count = 600;
    const flood = { Channel: channel, Count: count, Size: 40_000 };
    await publisher.send({ type: "flood", data: utf8(JSON.stringify(flood)) });
    await publisher.whoAmI(); // its response follows the last publication
    peer.socket.resume();
    const got = () => peer.messages.filter(({ type }) => type === "message");
    const gaps = () => peer.messages.filter(({ type }) => type === "gap");
    const missed = () => gaps().reduce((sum, { data }) => sum + peer.codec.gap(data).count, 0);
    await peer.until(() => got().length + missed() >= count + 1);
    assert.equal(got().length + missed(), count + 1);
    for (const gap of gaps()) {
      const notice = peer.codec.gap(gap.data);
      assert.deepEqual([gap.channel, notice.channel, notice.reason], [channel, channel, "slow_consumer"]);
      assert.ok(notice.first <= notice.last);
    }
    assert.ok(gaps().length > 0);
    assert.ok(got().length > 0);
  });

  for (const [path, sealer] of [["/plain"], ["/sign-then-encrypt", setups["sign then encrypt"].sealer]]) {
    test(`close codes after invalid frames: ${codec} at ${path}`, async (t) => {
      const text = codecs[codec].text && !sealer;
      const tests = [
        ["wrong frame type", 1003, (socket) => socket.send(text ? Buffer.from("{}") : "{}")],
        ["frame that cannot be decoded", sealer ? 1008 : 1007, (socket) => socket.send(text ? "{" : Buffer.of(0xc1))],
        ["too large", 1009, (socket) => socket.send(text ? " ".repeat(overLimit) : Buffer.alloc(overLimit))],
        ["reserved bits", 1002, (socket) => socket._socket.write(Buffer.of(0xf1, 0x80, 0, 0, 0, 0))],
      ];
      for (const [name, want, send] of tests) {
        const peer = await Peer.connect(t, path, { codec, sealer });
        send(peer.socket);
        const { code, reason } = await peer.closed;
        assert.equal(code, want, name);
        assert.notEqual(reason, "", name);
      }
      if (sealer) {
        const peer = await Peer.connect(t, path, { codec, sealer });
        const sealed = await sealer.seal(Uint8Array.of(0xc1));
        peer.socket.send(sealed);
        assert.equal((await peer.closed).code, 1007);
      }
    });
  }
}

test("close codes that the hub sends on its own", async (t) => {
  let peer = await Peer.connect(t, "/plain");
  await peer.send({ type: "close", data: utf8('{"Code":4321,"Reason":"é"}') });
  assert.deepEqual(await peer.closed, { code: 4321, reason: "é" });

  peer = await Peer.connect(t, "/plain");
  await peer.send({ type: "panic" });
  assert.equal((await peer.closed).code, 1011);

  peer = await Peer.connect(t, "/expiring");
  assert.equal((await peer.closed).code, 3000);

  const offers = ["json", `bearer.${Buffer.from("zoë").toString("base64url")}`];
  peer = await Peer.connect(t, "/replacing", { offers });
  assert.equal(peer.socket.protocol, "json");
  assert.equal(await peer.whoAmI(), "zoë");
  await Peer.connect(t, "/replacing", { offers });
  assert.equal((await peer.closed).code, 4409);

  peer = await Peer.connect(t, "/evicting");
  await peer.acked(peer.subscription("flood"));
  const publisher = await Peer.connect(t, "/evicting");
  peer.socket.pause();
  await publisher.send({ type: "flood", data: utf8('{"Channel":"flood","Count":600,"Size":40000}') });
  await publisher.whoAmI();
  peer.socket.resume();
  assert.equal((await peer.closed).code, 1013);

  peer = await Peer.connect(t, "/stopping");
  await peer.send({ type: "shut down" });
  assert.equal((await peer.closed).code, 1001);
  const { status, headers } = await refusal("/stopping", ["json"]);
  assert.deepEqual([status, headers["retry-after"]], [503, "1"]);
});

test("the hub pings, and closes clients that send no pong", async (t) => {
  const responsive = await Peer.connect(t, "/impatient");
  const dead = await Peer.connect(t, "/impatient", { autoPong: false });
  assert.equal((await dead.closed).code, 3008);
  assert.ok(dead.pings > 0);
  while (responsive.pings < 3) await once(responsive.socket, "ping");
  responsive.socket.ping("are you there");
  const [payload] = await once(responsive.socket, "pong");
  assert.equal(payload.toString(), "are you there");
  assert.notEqual(await responsive.whoAmI(), "");
});

test("the hub selects the first offered subprotocol that it knows", async (t) => {
  for (const [offers, selected] of [
    [[], ""],
    [["msgpack", "json"], "msgpack"],
    [["unknown", "flatbuffers"], "flatbuffers"],
    [["bearer.eA", "protobuf", "json"], "protobuf"],
  ]) {
    const peer = await Peer.connect(t, "/plain", { codec: selected || "json", offers });
    assert.equal(peer.socket.protocol, selected);
    assert.notEqual(await peer.whoAmI(), "");
  }
});

test("the hub accepts permessage-deflate unless the client limits the server's window", async (t) => {
  for (const [perMessageDeflate, want] of [
    [true, "permessage-deflate"],
    [{ clientMaxWindowBits: 9 }, "permessage-deflate"],
    [{ serverNoContextTakeover: true, clientNoContextTakeover: true }, "permessage-deflate"],
    [{ serverMaxWindowBits: 10 }, ""],
    [{ serverMaxWindowBits: 15 }, ""],
    [false, ""],
  ]) {
    const peer = await Peer.connect(t, "/plain", { perMessageDeflate });
    assert.equal(peer.socket.extensions, want, JSON.stringify(perMessageDeflate));
    const data = utf8(JSON.stringify("x".repeat(5000)));
    const response = await peer.ask({ type: "who am I", data });
    assert.equal(asJSON(response.data).length, 5000);
  }
});

test("handshakes that the hub refuses", async (t) => {
  const none = await refusal("/json-only", ["protobuf", "msgpack"]);
  assert.equal(none.status, 400);
  assert.match(none.body, /json/);
  assert.equal((await refusal("/tokens", ["json"])).status, 401);
  assert.equal((await refusal("/plain", ["json"], { origin: "https://elsewhere.test" })).status, 403);
  const { status, headers } = await new Promise((resolve) => {
    get(urlOf("/plain").replace("ws:", "http:"), (response) => {
      response.resume();
      resolve({ status: response.statusCode, headers: response.headers });
    });
  });
  assert.deepEqual([status, headers.upgrade], [426, "websocket"]);

  const authorization = { headers: { Authorization: "Bearer me" } };
  const first = await Peer.connect(t, "/tokens", authorization);
  assert.equal(await first.whoAmI(), "me");
  assert.equal((await refusal("/tokens", ["json"], authorization)).status, 409);
  first.socket.close();
  await first.closed;

  const only = await Peer.connect(t, "/full");
  const full = await refusal("/full", ["json"]);
  assert.deepEqual([full.status, full.headers["retry-after"]], [503, "1"]);
  only.socket.close();
  await only.closed;
  assert.equal(WebSocket.CLOSED, only.socket.readyState);
});
