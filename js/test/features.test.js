// Tests of clients without some features, on fake time.

import assert from "node:assert/strict";
import { test } from "node:test";

import { build } from "esbuild";

import { connectWith, CoreClient, history, HubClient, presence, requests } from "../dist/hub.js";
import { noop, outcome, setup } from "./fake-time.js";

const told = ["ping", "except_self", "history", "presence", "requests"];

/** Creates a client with some features, whose hub has all. */
async function begin(t, features, options) {
  const context = await setup(t, { create: (all) => new CoreClient("ws://hub/ws", all, features), ...options });
  context.socket.welcome({ features: told });
  return context;
}

const deliver = ({ socket }, envelope) => socket.deliverRaw(JSON.stringify({ data: null, timestamp: 1, ...envelope }));

const ack = (context, index, data) => deliver(context, { type: "ack", id: context.socket.sent.at(index).id, data });

test("a client without features subscribes, publishes and comes back", async (t) => {
  const context = await begin(t, []);
  const { client, events } = context;
  const got = [];
  const sub = client.joinRoom("a", (message) => got.push(message.json()));
  ack(context, 0, { epoch: "e", offset: 5, replayed: 0, complete: true });
  await sub.ready;
  const message = { type: "room_message", channel: "a", room: true, offset: 6, data: 1 };
  deliver(context, message);
  deliver(context, { type: "presence_diff", channel: "a", data: { room: true, joins: [] } });
  deliver(context, { type: "server asks", id: "hub:1" });
  const published = client.publishRoom("a", 2);
  ack(context, -1, { epoch: "e", offset: 7 });
  await published;
  assert.deepEqual(got, [1, { room: true, joins: [] }]);

  const lost = client.publishRoom("a", 3);
  context.socket.drop();
  assert.equal((await outcome(lost)).code, "disconnected");
  const queued = client.publishRoom("a", 4, { timeout: Infinity });
  await context.tick(31_000);
  context.socket.accept().welcome({ features: told });
  const sent = context.socket.sent.map(({ type, data }) => [type, `${Buffer.from(data)}`]);
  assert.deepEqual(sent, [["join_room", '{"room_id":"a"}'], ["publish_room", "4"]]);
  ack(context, 0, { epoch: "e", offset: 7 });
  ack(context, 1);
  await queued;
  assert.deepEqual(events.resumed[0].incomplete, [{ kind: "room", name: "a", reason: "none" }]);
  deliver(context, message); // without positions it is not known
  assert.equal(got.length, 3);
  assert.deepEqual([client.request, client.handle, sub.members, sub.history], Array(4).fill(undefined));
});

test("options of missing features are a TypeError that names them", async (t) => {
  const { client } = await begin(t, []);
  const since = { epoch: "e", offset: 1 };
  for (const [name, value] of Object.entries({ since, last: 3, onPresence: noop })) {
    const message = new RegExp(`option ${name}:`);
    assert.throws(() => client.subscribe("a", noop, { [name]: value }), { name: "TypeError", message });
  }
  const handlers = { sum: noop };
  assert.throws(() => new CoreClient("ws://hub/ws", { handlers }), { name: "TypeError", message: /option handlers:/ });
  await new CoreClient("ws://hub/ws", { handlers, WebSocket: class {} }, [requests]).close();
});

test("each feature works without the others", async (t) => {
  const present = await begin(t, [presence]);
  const changes = [];
  const followed = present.client.subscribe("a", noop, { onPresence: ({ joined }) => changes.push(joined.length) });
  ack(present, 0, {});
  deliver(present, { type: "ack", id: present.socket.toHub.at(-1).id, data: { members: [{ client_id: "x" }] } });
  assert.deepEqual([changes, followed.members().length], [[1], 1]);

  t.mock.timers.reset();
  const asking = await begin(t, [requests]);
  const answer = asking.client.request("sum", [1]);
  ack(asking, 0, 3);
  assert.equal((await answer).json(), 3);

  t.mock.timers.reset();
  const resuming = await begin(t, [history]);
  resuming.client.subscribe("a", noop, { since: { epoch: "e", offset: 4 } });
  assert.deepEqual(JSON.parse(Buffer.from(resuming.socket.sent[0].data)), { channel: "a", since: { epoch: "e", offset: 4 } });
});

test("connectWith resolves with a client that has the methods of its features", async (t) => {
  const WebSocket = class extends EventTarget {
    readyState = 1;
    bufferedAmount = 0;
    protocol = "json";
    constructor() {
      super();
      queueMicrotask(() => this.dispatchEvent(new Event("open")));
    }
    send(frame) {
      const { id } = JSON.parse(frame);
      queueMicrotask(() => this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ type: "ack", id, data: null, timestamp: 1 }) })));
    }
    close(code) {
      queueMicrotask(() => this.dispatchEvent(Object.assign(new Event("close"), { code, reason: "" })));
    }
  };
  const client = await connectWith([requests], "ws://hub/ws", { WebSocket });
  t.after(() => client.close());
  assert.equal(client.state, "open");
  assert.ok(!(client instanceof HubClient));
  assert.deepEqual([typeof client.request, typeof client.handle], ["function", "function"]);
});

test("bundlers leave out features, codecs and sealing", async () => {
  const bundled = async (contents) => {
    const { outputFiles } = await build({
      stdin: { contents, resolveDir: new URL("../dist", import.meta.url).pathname },
      bundle: true,
      format: "esm",
      write: false,
    });
    return outputFiles[0].text;
  };
  const core = await bundled('import { connectWith } from "./hub.js"; connectWith([], "/ws");');
  const full = await bundled('import { connect } from "./hub.js"; connect("/ws");');
  for (const part of ["hub:presence", "hub:published", "hub:history", "no handler for this type"]) {
    assert.ok(full.includes(part) && !core.includes(part), part);
  }
  for (const part of ["protobuf", "flatbuffers", "msgpack", "AES-GCM"]) assert.ok(!full.includes(part), part);
});
