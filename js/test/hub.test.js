// End-to-end tests of the client with a real hub. Skipped if Go is not installed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import ws from "ws";

import { codecs, HubError } from "../dist/hub.js";
import { connect } from "./named.js";
import { Random, seed } from "./random.js";
import { aesKey, hex, hmacKey, skip, startHub, startProxy, WebSocket } from "./real-hub.js";

/** Returns a list, a function that appends to it, and functions to wait for a condition or a length. */
function collect() {
  const items = [];
  let waiting = [];
  const add = (item) => {
    items.push(item);
    waiting = waiting.filter(({ condition, resolve }) => !condition() || resolve());
  };
  const until = (condition) => condition() || new Promise((resolve) => waiting.push({ condition, resolve }));
  return { items, add, until, atLeast: (n) => until(() => items.length >= n) };
}

async function dial(t, hub, options) {
  const messages = collect();
  const states = collect();
  const client = await connect(hub.url, {
    WebSocket,
    backoff: { base: 10, max: 100 },
    onMessage: messages.add,
    onStateChange: states.add,
    ...options,
  });
  t.after(() => client.close());
  return { client, messages, states };
}

const hubError =
  (code, message = /./) =>
  (error) =>
    error instanceof HubError && error.code === code && message.test(error.message);

const texts = ({ items }) => items.map((message) => message.text());

const sealings = {
  open: [[], undefined],
  "AES only": [["-aes", hex(aesKey)], { aesKey }],
  "HMAC only": [["-hmac", hex(hmacKey)], { hmacKey }],
  "sign then encrypt": [["-aes", hex(aesKey), "-hmac", hex(hmacKey)], { aesKey, hmacKey }],
  "encrypt then sign": [
    ["-aes", hex(aesKey), "-hmac", hex(hmacKey), "-encrypt-then-sign"],
    { aesKey, hmacKey, signThenEncrypt: false },
  ],
};

for (const [name, [flags, security]] of Object.entries(sealings)) {
  test(`clients with different codecs exchange messages: ${name}`, { skip }, async (t) => {
    const hub = await startHub(t, ...flags);
    const members = [];
    for (const codec of Object.keys(codecs)) {
      const news = collect();
      const lobby = collect();
      const { client, messages } = await dial(t, hub, { codec, security });
      await client.subscribe("news", news.add).ready;
      await client.joinRoom("lobby/漢😀", lobby.add).ready;
      members.push({ client, messages, news, lobby });
    }
    const payloads = [{ a: [1, "é", null] }, "text", 0, false, Uint8Array.of(0, 128, 255), null, 'x"\\'.repeat(9000)];
    for (const { client } of members) {
      for (const payload of payloads) {
        await client.publish("news", payload);
        await client.publishRoom("lobby/漢😀", payload);
      }
      await client.broadcast("to all");
    }
    const want = payloads.map((payload) =>
      Buffer.from(payload instanceof Uint8Array ? payload : payload === null ? "" : JSON.stringify(payload)).toString(
        "hex",
      ),
    );
    const all = Array(members.length).fill(want).flat();
    for (const { messages, news, lobby } of members) {
      await messages.atLeast(members.length);
      assert.deepEqual(
        news.items.map((message) => hex(message.bytes())),
        all,
      );
      assert.deepEqual(
        lobby.items.map((message) => hex(message.bytes())),
        all,
      );
      assert.deepEqual(
        messages.items.map(({ type }) => type),
        Array(members.length).fill("broadcast"),
      );
      for (const message of news.items) {
        assert.deepEqual([message.type, message.channel], ["message", "news"]);
        assert.ok(Math.abs(message.timestamp - Date.now()) < 60_000);
      }
      assert.deepEqual([lobby.items[0].type, lobby.items[0].channel], ["room_message", "lobby/漢😀"]);
      // All members see the same senders and timestamps.
      const stamps = (list) => list.items.map(({ clientId, timestampNs }) => `${clientId} ${timestampNs}`);
      assert.deepEqual(stamps(news), stamps(members[0].news));
    }
  });
}

for (const codec of Object.keys(codecs)) {
  test(`calls that the hub rejects: ${codec}`, { skip }, async (t) => {
    const hub = await startHub(t, "-max-subscriptions", "3");
    const errors = collect();
    const { client } = await dial(t, hub, { codec, onError: errors.add });
    await assert.rejects(
      client.subscribe("secret plan", () => {}).ready,
      hubError("forbidden", /that is secret/),
    );
    await assert.rejects(client.publishRoom("secret room", 1), hubError("forbidden"));
    await assert.rejects(client.publish("x".repeat(300), 1), hubError("bad_request"));
    await assert.rejects(
      client.joinRoom("line\nbreak", () => {}).ready,
      hubError("bad_request"),
    );
    for (const name of ["a", "b", "c"]) await client.subscribe(name, () => {}).ready;
    await assert.rejects(
      client.joinRoom("d", () => {}).ready,
      hubError("limit"),
    );
    await client.unsubscribe("a");
    await client.joinRoom("d", () => {}).ready;
    client.send("publish", 1, { channel: "secret channel" });
    await errors.until(() => errors.items.some(({ target }) => target === "secret channel"));
    assert.equal(errors.items.at(-1).code, "forbidden");
  });

  test(`any payload is echoed unchanged (seed ${seed}): ${codec}`, { skip }, async (t) => {
    const hub = await startHub(t);
    const { client, messages } = await dial(t, hub, { codec });
    const random = new Random(20);
    const any = () => (random.below(2) ? random.bytes(random.below(3000)) : random.json());
    const fits = (payload) => Buffer.byteLength(JSON.stringify(payload)) < 60_000;
    const sent = Array.from({ length: 300 }, any).filter(fits);
    for (const payload of sent) client.send("echo", payload);
    await messages.atLeast(sent.length);
    for (const [i, message] of messages.items.entries()) {
      if (sent[i] instanceof Uint8Array) assert.equal(hex(message.bytes()), hex(sent[i]));
      else assert.deepEqual(message.json(), JSON.parse(JSON.stringify(sent[i])));
    }
  });

  test(`the client reconnects to a hub that restarts: ${codec}`, { skip }, async (t) => {
    const hub = await startHub(t);
    const resumed = collect();
    const { client, states } = await dial(t, hub, { codec, onResumed: resumed.add });
    const news = collect();
    const lobby = collect();
    await client.subscribe("news", news.add).ready;
    await client.joinRoom("lobby", lobby.add).ready;
    await client.publish("news", "before");
    client.send("restart");
    await hub.ended;
    await startHub(t, "-addr", hub.address);
    await client.publish("news", "after");
    await client.publishRoom("lobby", "after");
    await resumed.atLeast(1);
    assert.deepEqual(texts(news), ['"before"', '"after"']);
    assert.deepEqual(texts(lobby), ['"after"']);
    assert.equal(states.items[1].code, 1001);
    assert.deepEqual([resumed.items[0].channels, resumed.items[0].rooms], [["news"], ["lobby"]]);
  });
}

test("the client reports close codes and reasons", { skip }, async (t) => {
  const hub = await startHub(t);
  for (const [code, reason, reconnects] of [
    [1000, "done", false],
    [1008, "flood", false],
    [1011, "panic", true],
    [1013, "too slow", true],
    [3000, "expired", false],
    [3003, "", false],
    [4000, "é".repeat(50), false],
  ]) {
    const { client, states } = await dial(t, hub, {});
    client.send("close", { code, reason });
    await states.atLeast(2);
    const { state, ...change } = states.items[1];
    assert.deepEqual([change.code, change.reason, state], [code, reason, reconnects ? "reconnecting" : "closed"]);
  }
});

test("tokens, refused handshakes and replaced clients", { skip }, async (t) => {
  const hub = await startHub(t, "-tokens", "-replace");
  await assert.rejects(connect(hub.url, { WebSocket }), hubError("unreachable"));
  const first = await dial(t, hub, { token: "álice" });
  const { client, messages } = await dial(t, hub, { getToken: () => "bob" });
  await client.broadcast("hi");
  await messages.atLeast(1);
  assert.equal(messages.items[0].clientId, "bob");
  await dial(t, hub, { token: "álice" });
  await first.states.atLeast(2);
  assert.deepEqual([first.states.items[1].state, first.states.items[1].code], ["closed", 4409]);
});

test("each connection may have its own keys", { skip }, async (t) => {
  const hub = await startHub(t, "-tokens", "-client-keys");
  const names = ["x1", "y2"];
  const getToken = () => {
    const token = names.shift();
    return { token, security: { aesKey: new Uint8Array(32).fill(token.charCodeAt(0)) } };
  };
  for (const codec of ["json", "msgpack"]) {
    names.splice(0, 2, `x${codec}`, `y${codec}`);
    const { client, states } = await dial(t, hub, { codec, getToken });
    const { add, items } = collect();
    await client.subscribe("c", add).ready;
    await client.publish("c", 1);
    client.send("close", { code: 1012 });
    await states.atLeast(3);
    await client.publish("c", 2);
    assert.deepEqual(
      items.map(({ clientId }) => clientId),
      [`x${codec}`, `y${codec}`],
    );
  }
});

test("a message that the hub cannot open or decode ends the connection", { skip }, async (t) => {
  const hub = await startHub(t, "-aes", hex(aesKey));
  const otherKey = { aesKey: new Uint8Array(32) };
  await assert.rejects(dial(t, hub, { security: otherKey }), hubError("unreachable", /1008 message does not open/));
  await assert.rejects(dial(t, hub, {}), hubError("unreachable"));
});

test("messages of the largest size that the hub accepts", { skip }, async (t) => {
  const hub = await startHub(t, "-aes", hex(aesKey), "-hmac", hex(hmacKey));
  for (const codec of Object.keys(codecs)) {
    const { client, messages } = await dial(t, hub, { codec, security: { aesKey, hmacKey } });
    let size = 524_288;
    for (; ; size--) {
      try {
        client.send("echo", "x".repeat(size));
        break;
      } catch (error) {
        assert.equal(error.code, "too_large");
      }
    }
    assert.ok(size > 523_000);
    await messages.atLeast(1);
    assert.equal(messages.items[0].json().length, size);
  }
});

test("memberships made by the server and application-defined types", { skip }, async (t) => {
  const hub = await startHub(t);
  const { client, messages } = await dial(t, hub, {});
  const room = collect();
  client.send("join me", { channel: "c", room: "r" });
  await client.joinRoom("r", room.add).ready;
  client.send("publish as", { type: "alert", channel: "c", room: "r" });
  await messages.atLeast(1);
  await room.atLeast(1);
  assert.deepEqual([messages.items[0].type, messages.items[0].channel], ["alert", "c"]);
  assert.deepEqual([room.items[0].type, room.items[0].channel, room.items[0].clientId], ["alert", "r", ""]);
});

for (const codec of Object.keys(codecs)) {
  test(`a slow client receives every message or a gap that counts it: ${codec}`, { skip }, async (t) => {
    const hub = await startHub(t, "-drop-newest");
    let socket;
    class Watched extends ws {
      constructor(...args) {
        super(...args);
        socket = this;
      }
    }
    const received = [];
    const { client } = await dial(t, hub, {
      codec,
      WebSocket: Watched,
      onGap: (gap) => received.push(gap),
      timeout: 60_000,
    });
    await client.subscribe("c", (message) => received.push(message)).ready;
    const { client: publisher, messages } = await dial(t, hub, {});
    socket.pause();
    const count = 6000;
    publisher.send("flood", { channel: "c", count, size: 8000 });
    await messages.atLeast(1);
    socket.resume();
    // The reply follows all messages and gaps before it.
    await client.publish("c", "end");
    const gaps = received.filter(({ reason }) => reason);
    assert.ok(gaps.length > 0);
    let next = 0;
    for (const item of received) {
      if (item.reason) {
        assert.deepEqual([item.channel, item.room, item.reason], ["c", "", "slow_consumer"]);
        assert.ok(item.firstNs <= item.lastNs && item.firstNs > 2n ** 60n);
        next += item.count;
      } else if (item.text() !== '"end"') {
        assert.equal(item.json().i, next++);
      }
    }
    assert.equal(next, count);
    assert.equal(received.at(-1).text(), '"end"');
  });
}

test(`lost connections lose no acknowledged message (seed ${seed})`, { skip }, async (t) => {
  const hub = await startHub(t);
  const random = new Random(30);
  const sockets = [];
  class Watched extends ws {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const { client } = await dial(t, hub, { codec: "protobuf", WebSocket: Watched, backoff: { base: 2, max: 20 } });
  const got = new Set();
  await client.subscribe("c", (message) => got.add(message.json()));
  const confirmed = [];
  const outcomes = { resolved: 0, unknown: 0 };
  const calls = [];
  for (let i = 0; i < 1500; i++) {
    calls.push(
      client.publish("c", i).then(
        () => {
          outcomes.resolved++;
          confirmed.push(i);
        },
        (error) => {
          assert.equal(error.code, "disconnected");
          assert.equal(error.outcomeUnknown, true);
          outcomes.unknown++;
        },
      ),
    );
    if (random.below(60) === 0) sockets.at(-1).terminate();
    if (random.below(4) === 0) await new Promise((resolve) => setTimeout(resolve, random.below(3)));
  }
  await Promise.all(calls);
  await client.publish("c", "end");
  assert.equal(outcomes.resolved + outcomes.unknown, 1500);
  assert.ok(sockets.length > 5);
  // A subscribed publisher receives its own publication before the ack.
  assert.deepEqual(
    confirmed.filter((i) => !got.has(i)),
    [],
  );
});

test("the hub tells who the client is, answers pings, and spares a publisher its own publication", { skip }, async (t) => {
  const hub = await startHub(t, "-tokens");
  for (const codec of Object.keys(codecs)) {
    const sends = collect();
    class Watched extends WebSocket {
      send(frame) {
        sends.add(frame);
        super.send(frame);
      }
    }
    const { client } = await dial(t, hub, { codec, token: `ann ${codec}`, heartbeat: 20, WebSocket: Watched });
    const got = collect();
    await client.subscribe("c", got.add).ready;
    assert.equal(client.id, `ann ${codec}`);
    assert.equal(typeof client.limits, "object");
    await client.publish("c", 1, { exceptSelf: true });
    await client.publish("c", 2);
    assert.deepEqual(texts(got), ["2"]);
    await sends.atLeast(sends.items.length + 5); // pings
    assert.equal(client.state, "open", "the hub answers the pings of a quiet client");
    await client.close();
  }
});

test("floods are paced below the hub's rates", { skip }, async (t) => {
  const hub = await startHub(t, "-message-rate", "500");
  const { client, messages, states } = await dial(t, hub, {});
  await client.publish("c", 0); // the reply to hub:hello has arrived before this reply
  assert.equal(client.limits.messageRate, 500);
  for (let i = 0; i < 1200; i++) client.send("echo", i);
  await messages.atLeast(1200);
  assert.equal(states.items.length, 1);
});

// Continuity

for (const codec of Object.keys(codecs)) {
  test(`over 30 cuts nothing of a history is lost, twice or out of order: ${codec}`, { skip, timeout: 120_000 }, async (t) => {
    const keys = codec === "msgpack" ? { aesKey, hmacKey } : undefined;
    const hub = await startHub(t, "-topics", ...(keys ? ["-aes", hex(aesKey), "-hmac", hex(hmacKey)] : []));
    const proxy = await startProxy(t, hub.address);
    const options = { codec, security: keys, timeout: Infinity, backoff: { base: 5, max: 20 } };
    const { client: reader } = await dial(t, { url: proxy.url }, options);
    const { client: writer } = await dial(t, { url: proxy.url }, options);
    const got = [];
    const gaps = [];
    reader.onGap = (gap) => gaps.push(gap);
    const sub = reader.subscribe("h:cuts", (message) => got.push(message.json()));
    await sub.ready;
    await writer.subscribe("h:cuts", () => {}).ready; // only members repeat their publications
    await writer.publish("h:cuts", 0);
    const random = new Random();
    let count = 1;
    let cuts = 0;
    const cutting = (async () => {
      for (; cuts < 30; cuts++) {
        await delay(5 + random.below(25));
        proxy.cut();
      }
    })();
    while (cuts < 30) await Promise.all([writer.publish("h:cuts", count++), delay(1)]);
    await cutting;
    await writer.publish("h:cuts", count);
    while (got.at(-1) !== count) await delay(10);
    assert.deepEqual(got, Array.from({ length: count + 1 }, (_, i) => i));
    assert.deepEqual(gaps, []);
  });
}

test("a history that has lost publications tells how many, a hub that was restarted that it cannot know", { skip }, async (t) => {
  const hub = await startHub(t, "-topics");
  const proxy = await startProxy(t, hub.address);
  const { client } = await dial(t, { url: proxy.url }, {});
  const { client: writer } = await dial(t, hub, {});
  const [got, gaps, resumed] = [collect(), collect(), collect()];
  client.on("gap", gaps.add);
  client.on("resumed", resumed.add);
  const sub = client.subscribe("tiny:a", got.add);
  await sub.ready;
  await writer.publish("tiny:a", 1);
  await got.atLeast(1);
  proxy.refuses = true;
  proxy.cut();
  for (let i = 2; i <= 9; i++) await writer.publish("tiny:a", i);
  proxy.refuses = false;
  await got.atLeast(4);
  assert.deepEqual(got.items.map((message) => message.json()), [1, 7, 8, 9]);
  assert.deepEqual(gaps.items.map(({ channel, count, reason }) => [channel, count, reason]), [["tiny:a", 5, "history"]]);
  await resumed.atLeast(1);
  assert.deepEqual(resumed.items[0].incomplete, [{ kind: "channel", name: "tiny:a", reason: "expired" }]);
  assert.equal(sub.resumed.reason, "expired");

  const page = await sub.history({ limit: 2 });
  assert.deepEqual(page.messages.map((message) => message.json()), [8, 9]);
  assert.deepEqual((await sub.history({ before: page.messages[0].offset })).messages.map((message) => message.json()), [7]);
  const from = { epoch: page.epoch, offset: page.messages[0].offset };
  const again = collect();
  await client.subscribe("tiny:a", again.add, { since: from }).ready;
  await again.atLeast(1);
  assert.deepEqual(again.items.map((message) => message.json()), [9]);
  const latest = collect();
  client.subscribe("tiny:a", latest.add, { last: 2 });
  await latest.atLeast(2);
  assert.deepEqual(latest.items.map((message) => message.json()), [8, 9]);

  const port = hub.address.split(":")[1];
  writer.close();
  client.send("restart");
  await hub.ended;
  const second = await startHub(t, "-topics", "-addr", `127.0.0.1:${port}`);
  await resumed.atLeast(2);
  assert.equal(resumed.items[1].incomplete[0].reason, "epoch");
  await gaps.atLeast(2);
  assert.deepEqual(gaps.items[1].count, 0);
  assert.ok(second);
});

test("presence: members see joins, leaves and changes", { skip }, async (t) => {
  for (const codec of Object.keys(codecs)) {
    const hub = await startHub(t, "-topics", "-tokens");
    const open = async (name) => (await dial(t, hub, { codec, token: name })).client;
    const ann = await open("ann");
    assert.equal(ann.user, "user of ann");
    const changes = collect();
    const names = (members) => members.map(({ clientId }) => clientId).join(" ");
    const sub = ann.joinRoom("p:hall", undefined, { onPresence: changes.add });
    await changes.until(() => names(sub.members()) === "ann");
    const bob = await open("bob");
    const other = bob.joinRoom("p:hall");
    await changes.until(() => names(sub.members()) === "ann bob");
    assert.deepEqual(other.members(), []);
    bob.send("info", { away: true });
    await changes.until(() => sub.members()[1].info?.away === true);
    assert.deepEqual(changes.items.at(-1).updated.map(({ user }) => user), ["user of bob"]);
    await bob.close();
    await changes.until(() => names(sub.members()) === "ann");
    assert.equal(names(changes.items.at(-1).left), "bob");
  }
});

test("requests in both directions", { skip }, async (t) => {
  for (const codec of Object.keys(codecs)) {
    const hub = await startHub(t);
    const { client, messages } = await dial(t, hub, { codec });
    assert.equal((await client.request("sum", [1, 2, 3.5])).json(), 6.5);
    await assert.rejects(client.request("sum", "x"), hubError("no_numbers", /list of numbers/));
    await assert.rejects(client.request("sum", []), hubError("internal"));
    await assert.rejects(client.request("nobody", 1, { timeout: 50 }), hubError("timeout"));
    client.handle("double", (message) => 2 * message.json());
    client.handle("busy", () => Promise.reject(new HubError("busy", "later")));
    client.send("ask", 21, { channel: "double" });
    client.send("ask", 1, { channel: "busy" });
    client.send("ask", 1, { channel: "unknown" });
    await messages.atLeast(3);
    const answers = messages.items.map((message) => message.json());
    assert.deepEqual(new Set(answers), new Set([42, "busy", "unsupported"]));
  }
});
