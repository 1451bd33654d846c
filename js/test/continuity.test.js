// Tests of positions, resumes, repeated publications, presence, history and requests, on fake time.

import assert from "node:assert/strict";
import { test } from "node:test";

import { HubError } from "../dist/hub.js";
import { assertRejected, flushPromises, noop, outcome, setup } from "./fake-time.js";

const features = ["ping", "except_self", "history", "presence", "requests"];

/** Creates a client whose hub has told its features. */
async function begin(t, options) {
  const context = await setup(t, options);
  context.socket.welcome({ features });
  return context;
}

/** Delivers an envelope. */
const deliver = (context, envelope) => context.socket.deliverRaw(JSON.stringify({ data: null, timestamp: 1, ...envelope }));

/** Acknowledges the request that the client has sent as number `index`. */
const ack = (context, index, data) => deliver(context, { type: "ack", id: context.socket.sent.at(index).id, data });

const publication = (context, channel, offset) => deliver(context, { type: "message", channel, offset, data: offset });

/** Returns the data of all control messages of a type. */
const asked = ({ socket }, type = "subscribe") =>
  socket.sent.filter((message) => message.type === type).map(({ data }) => JSON.parse(Buffer.from(data)));

/** Loses the connection and opens the next one. */
async function comeBack(context, hello = {}) {
  context.socket.drop();
  await context.tick(31_000);
  context.socket.accept().welcome({ features, ...hello });
}

const collect = () => {
  const items = [];
  return Object.assign((message) => items.push(message.json()), { items });
};

// Positions

test("a subscription goes on behind its latest message, and gets none twice", async (t) => {
  const context = await begin(t);
  const got = collect();
  const sub = context.client.subscribe("a", got);
  ack(context, 0, { epoch: "e", offset: 5, replayed: 0, complete: true });
  assert.deepEqual(sub.position, { epoch: "e", offset: 5 });
  for (const offset of [6, 7]) publication(context, "a", offset);
  assert.deepEqual(sub.position, { epoch: "e", offset: 7 });
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "e", offset: 7 } }]);
  ack(context, 0, { epoch: "e", offset: 9, replayed: 2, complete: true });
  for (const offset of [7, 8, 9, 9, 10]) publication(context, "a", offset);
  assert.deepEqual(got.items, [6, 7, 8, 9, 10]);
  assert.deepEqual(sub.resumed, { epoch: "e", offset: 9, replayed: 2, complete: true });
  assert.deepEqual(context.events.resumed[0].incomplete, []);
  assert.deepEqual(context.events.gaps, []);
});

test("a client that received nothing comes back with the position at which it joined", async (t) => {
  const context = await begin(t);
  context.client.joinRoom("r", noop);
  ack(context, 0, { epoch: "e", offset: 0, replayed: 0, complete: true });
  for (let i = 0; i < 2; i++) {
    await comeBack(context);
    assert.deepEqual(asked(context, "join_room"), [{ room_id: "r", since: { epoch: "e", offset: 0 } }]);
  }
});

test("last and since are sent, and each subscription begins where it asked to", async (t) => {
  const context = await begin(t);
  const [plain, last, since] = [collect(), collect(), collect()];
  context.client.subscribe("a", plain);
  context.client.subscribe("a", last, { last: 2 });
  assert.deepEqual(asked(context), [{ channel: "a" }, { channel: "a", last: 2 }]);
  ack(context, 0, { epoch: "e", offset: 5, replayed: 0, complete: true });
  publication(context, "a", 6);
  ack(context, 1, { epoch: "e", offset: 6, replayed: 2, complete: true });
  for (const offset of [5, 6, 7]) publication(context, "a", offset);
  const third = context.client.subscribe("a", since, { since: { epoch: "e", offset: 3 } });
  assert.equal(third.state, "pending");
  publication(context, "a", 8);
  ack(context, 2, { epoch: "e", offset: 8, replayed: 5, complete: true });
  assert.equal(third.state, "active");
  for (const offset of [4, 5, 6, 7, 8, 9]) publication(context, "a", offset);
  assert.deepEqual([plain.items, last.items, since.items], [[6, 7, 8, 9], [5, 6, 7, 8, 9], [4, 5, 6, 7, 8, 9]]);
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "e", offset: 9 } }]);
});

test("a subscription that begins in the past asks again if it was not confirmed", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop, { last: 3 });
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", last: 3 }]);
  // One of the three is the client's own, published with exceptSelf.
  ack(context, 0, { epoch: "e", offset: 9, replayed: 2, complete: true });
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "e", offset: 6 } }]);
  ack(context, 0, { epoch: "e", offset: 4, replayed: 0, complete: true });
  publication(context, "a", 5);
  assert.deepEqual(sub.position, { epoch: "e", offset: 5 });
});

test("the latest publications may be far apart", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop, { last: 3 });
  ack(context, 0, { epoch: "e", offset: 5000, replayed: 3, after: 10, complete: true });
  assert.deepEqual(sub.position, { epoch: "e", offset: 10 });
  for (const offset of [11, 4000, 5000]) publication(context, "a", offset);
  assert.deepEqual(sub.position, { epoch: "e", offset: 5000 });
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "e", offset: 5000 } }]);
});

test("without a history no position is sent, and the client is told that messages may be missing", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop);
  ack(context, 0);
  assert.deepEqual([sub.position, sub.resumed.complete], [undefined, true]);
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a" }]);
  ack(context, 0);
  assert.deepEqual(context.events.resumed[0].incomplete, [{ kind: "channel", name: "a", reason: "none" }]);
  assert.deepEqual(sub.resumed, { epoch: "", offset: 0, replayed: 0, complete: false, reason: "none" });
});

test("a resume that is not complete tells why, and its gap is told again until something follows", async (t) => {
  const context = await begin(t);
  const got = collect();
  const sub = context.client.subscribe("a", got);
  ack(context, 0, { epoch: "e", offset: 5, replayed: 0, complete: true });
  await comeBack(context);
  ack(context, 0, { epoch: "f", offset: 2, replayed: 0, complete: false, reason: "epoch" });
  assert.deepEqual(context.events.resumed[0].incomplete, [{ kind: "channel", name: "a", reason: "epoch" }]);
  await comeBack(context); // before the gap
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "e", offset: 5 } }]);
  ack(context, 0, { epoch: "f", offset: 2, replayed: 0, complete: false, reason: "epoch" });
  deliver(context, { type: "gap", data: { channel: "a", count: 0, reason: "history" } });
  assert.deepEqual(sub.position, { epoch: "f", offset: 2 });
  assert.equal(context.events.gaps.length, 1);
  await comeBack(context);
  assert.deepEqual(asked(context), [{ channel: "a", since: { epoch: "f", offset: 2 } }]);
  ack(context, 0, { epoch: "f", offset: 3, replayed: 1, complete: true });
  publication(context, "a", 3);
  assert.deepEqual(got.items, [3]);
});

test("a position that is given and lost is not told as lost again", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop, { since: { epoch: "e", offset: 5 } });
  ack(context, 0, { epoch: "f", offset: 2, replayed: 0, complete: false, reason: "epoch" });
  assert.deepEqual(sub.position, { epoch: "e", offset: 5 });
  let told;
  context.client.on("gap", () => (told = sub.position));
  deliver(context, { type: "gap", data: { channel: "a", count: 0, reason: "history" } });
  assert.deepEqual(told, { epoch: "f", offset: 2 });
});

test("the latest values of a topic with conflation may be old", async (t) => {
  const context = await begin(t);
  const got = collect();
  context.client.subscribe("a", got, { last: 2 });
  ack(context, 0, { epoch: "e", offset: 9, replayed: 2, complete: true, conflate: true });
  for (const offset of [3, 9]) publication(context, "a", offset);
  assert.deepEqual(got.items, [3, 9]);
});

test("a message of an application's type belongs to a channel or to a room of the same name", async (t) => {
  for (const [channelEpoch, roomEpoch] of [["c", undefined], [undefined, "r"], ["c", "r"]]) {
    const context = await begin(t);
    const [inChannel, inRoom] = [collect(), collect()];
    const subs = [context.client.subscribe("a", inChannel), context.client.joinRoom("a", inRoom)];
    for (const [index, epoch] of [channelEpoch, roomEpoch].entries()) {
      ack(context, index, epoch && { epoch, offset: 5, replayed: 0, complete: true });
    }
    if (channelEpoch) deliver(context, { type: "alert", channel: "a", offset: 6, data: "of the channel" });
    if (roomEpoch) deliver(context, { type: "alert", channel: "a", offset: 7, data: "of the room", room: true });
    deliver(context, { type: "alert", channel: "a", data: "not kept" });
    const both = channelEpoch && roomEpoch;
    assert.deepEqual(inChannel.items, both ? ["of the channel", "not kept"] : channelEpoch ? ["of the channel"] : ["not kept"]);
    assert.deepEqual(inRoom.items, both ? ["of the room"] : channelEpoch ? ["not kept"] : ["of the room"]);
    assert.deepEqual(subs.map(({ position }) => position?.offset), [channelEpoch && 6, roomEpoch && 7]);
    assert.deepEqual(context.events.gaps, []);
    context.client.close();
    t.mock.timers.reset();
  }
});

test("a subscription after the last one ended begins now, or behind the position that it is given", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop);
  ack(context, 0, { epoch: "e", offset: 5, replayed: 0, complete: true });
  sub.unsubscribe();
  context.client.subscribe("a", noop).unsubscribe();
  context.client.subscribe("a", noop, { since: sub.position });
  assert.deepEqual(asked(context).slice(1), [{ channel: "a" }, { channel: "a", since: { epoch: "e", offset: 5 } }]);
});

test("invalid positions and numbers are TypeErrors that name the option", async (t) => {
  const { client } = await begin(t);
  const position = { epoch: "e", offset: 1 };
  for (const options of [{ last: -1 }, { last: 1.5 }, { last: "1" }, { last: Infinity }]) {
    assert.throws(() => client.subscribe("a", noop, options), { name: "TypeError", message: /last/ });
  }
  for (const since of [5, {}, { epoch: "e" }, { epoch: 1, offset: 1 }, { epoch: "e", offset: -1 }, { epoch: "e", offset: 0.5 }]) {
    assert.throws(() => client.subscribe("a", noop, { since }), { name: "TypeError", message: /since/ });
  }
  assert.throws(() => client.subscribe("a", noop, { since: position, last: 1 }), { name: "TypeError", message: /last/ });
  assert.throws(() => client.subscribe("a", noop, { onPresence: 1 }), { name: "TypeError", message: /onPresence/ });
  await assert.rejects(client.publish("a", 1, { key: "\ud800" }), { name: "TypeError", message: /key/ });
  assert.deepEqual(client.state, "open");
});

test("a position of null is none", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop, { since: null, last: 2 });
  assert.deepEqual(asked(context), [{ channel: "a", last: 2 }]);
  assert.equal(sub.position, undefined);
  void sub.history({ since: null });
  assert.deepEqual(JSON.parse(Buffer.from(context.socket.toHub.at(-1).data)), { channel: "a" });
});

// Publishing once

/** Joins a channel with history. */
function join(context, channel, handler = noop) {
  const sub = context.client.subscribe(channel, handler);
  ack(context, -1, { epoch: "e", offset: 1, replayed: 0, complete: true });
  return sub;
}

/** Confirms the latest subscription of a client that has come back, with nothing lost. */
const rejoin = (context, more) => ack(context, -1, { epoch: "e", offset: 1, replayed: 0, complete: true, ...more });

const keyOf = ({ frames }, index) => JSON.parse(frames.at(index)).key;

/** Returns the data of the publications that were sent on this connection. */
const published = ({ socket }) => socket.sent.filter(({ type }) => type.startsWith("publish")).map(({ data }) => Number(Buffer.from(data)));

const questions = ({ socket }) => socket.toHub.filter(({ type }) => type === "hub:published");

/** Returns the data of the questions that were asked on this connection. */
const questioned = (context) => questions(context).map(({ data }) => JSON.parse(Buffer.from(data)));

const answer = (context, index, data) => deliver(context, { type: "ack", id: questions(context).at(index).id, data });

const yes = { published: true, complete: true };
const no = { published: false, complete: true };
const unknown = { published: false, complete: false };

test("a publication without a reply is sent again with its key, before later ones, if the hub has it not", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const calls = [0, 1, 2, 3].map((data) => context.client.publish("a", data));
  const keys = [0, 1, 2, 3].map((index) => keyOf(context.socket, index + 1));
  assert.match(keys[0], /^[\w-]{22}$/);
  assert.equal(new Set(keys).size, 4);
  context.socket.drop();
  calls.push(context.client.publish("a", 4));
  await context.tick(500);
  context.socket.accept();
  context.client.unsubscribe("b");
  context.socket.welcome({ features });
  assert.deepEqual([context.socket.types, questioned(context)], [["subscribe"], []]);
  rejoin(context);
  const since = { epoch: "e", offset: 1 };
  assert.deepEqual(questioned(context), keys.map((key) => ({ channel: "a", key, since })));
  calls.push(context.client.publish("a", 5));
  for (const [index, told] of [[1, yes], [3, no], [2, unknown]]) answer(context, index, told);
  assert.deepEqual(context.socket.types, ["subscribe"]);
  answer(context, 0, no);
  join(context, "b");
  assert.deepEqual([published(context), questions(context).length], [[0, 3, 4, 5], 4]);
  assert.deepEqual([keyOf(context.socket, 1), keyOf(context.socket, 2)], [keys[0], keys[3]]);
  await assertRejected(calls[2], "disconnected", true);
  await assert.rejects(calls[2], { message: "the connection was lost: 1006" });
  assert.deepEqual([await outcome(calls[1]), await outcome(calls[0])], ["resolved", "pending"]);
  for (const [index, type] of context.socket.types.entries()) if (type === "publish") ack(context, index, { epoch: "e", offset: 2 + index });
  for (const index of [0, 3, 4, 5]) assert.equal(await outcome(calls[index]), "resolved");
});

test("a refused question and an answer without sense leave the outcome unknown", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const [first, second] = [1, 2].map((data) => context.client.publish("a", data));
  context.socket.drop();
  await context.tick(500);
  context.socket.accept().welcome({ features });
  rejoin(context);
  deliver(context, { type: "error", id: questions(context)[0].id, data: { code: "forbidden", message: "no" } });
  answer(context, 1, 3);
  for (const call of [first, second]) await assertRejected(call, "disconnected", true);
  assert.deepEqual(context.socket.types, ["subscribe"]);
});

test("a publisher that is no member sends again what the hub has not", async (t) => {
  const context = await begin(t);
  const first = context.client.publishRoom("r", 0);
  ack(context, -1, { epoch: "e", offset: 7 });
  await first;
  const [known, other] = [context.client.publishRoom("r", 1), context.client.publish("r", 2)];
  const key = keyOf(context.socket, -2);
  context.socket.drop();
  await assertRejected(other, "disconnected", true);
  await context.tick(500);
  context.socket.accept().welcome({ features });
  assert.deepEqual(questioned(context), [{ room_id: "r", key, since: { epoch: "e", offset: 7 } }]);
  answer(context, 0, no);
  assert.deepEqual([published(context), keyOf(context.socket, 0)], [[1], key]);
  ack(context, 0, { epoch: "e", offset: 9 });
  assert.equal(await outcome(known), "resolved");
});

test("a publication comes behind the latest position that was known when it was sent", async (t) => {
  const context = await begin(t);
  const sub = join(context, "a");
  context.client.publish("a", -1);
  ack(context, -1, { epoch: "e", offset: 2 });
  assert.equal(sub.position.offset, 1); // the publication is still to come
  publication(context, "a", 5);
  const first = context.client.publish("a", 0, { timeout: Infinity });
  publication(context, "a", 6);
  context.socket.drop();
  const second = context.client.publish("a", 1, { timeout: Infinity });
  await context.tick(500);
  context.socket.accept().welcome({ features });
  rejoin(context, { epoch: "f", offset: 3, complete: false, reason: "epoch" });
  const since = ({ epoch, offset }) => `${epoch} ${offset}`;
  assert.deepEqual(questioned(context).map((each) => since(each.since)), ["e 5"]);
  answer(context, 0, unknown);
  await assertRejected(first, "disconnected", true);
  await comeBack(context);
  rejoin(context, { epoch: "f", offset: 8 });
  assert.deepEqual(questioned(context).map((each) => since(each.since)), ["f 3"]);
  answer(context, 0, no);
  await comeBack(context);
  rejoin(context, { epoch: "f", offset: 9 });
  assert.deepEqual(questioned(context).map((each) => since(each.since)), ["f 8"]);
  answer(context, 0, yes);
  assert.equal(await outcome(second), "resolved");
});

test("a topic without a history, or with conflation, is not asked about", async (t) => {
  for (const told of [null, { epoch: "e", offset: 2, conflate: true }]) {
    const context = await begin(t);
    join(context, "a");
    await comeBack(context);
    ack(context, -1, told);
    const call = context.client.publish("a", 1);
    context.socket.drop();
    await assertRejected(call, "disconnected", true);
    context.client.close();
    t.mock.timers.reset();
  }
});

test("the client remembers the positions of 1024 topics", async (t) => {
  const context = await begin(t, { maxPending: Infinity });
  const publish = (name) => context.client.publish(name, 1, { timeout: Infinity });
  for (let i = 0; i < 1025; i++) {
    publish(`t${i}`);
    ack(context, -1, { epoch: "e", offset: i + 1 });
  }
  const calls = ["t0", "t1", "t1024"].map(publish);
  context.socket.drop();
  assert.equal((await outcome(calls[0])).code, "disconnected");
  for (const call of calls.slice(1)) assert.equal(await outcome(call), "pending");
});

test("a connection that is lost before the answer makes the client ask again", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const calls = [1, 2].map((data) => context.client.publish("a", data, { timeout: Infinity }));
  await comeBack(context);
  rejoin(context);
  answer(context, 0, no);
  await comeBack(context);
  assert.deepEqual(questioned(context), []);
  rejoin(context);
  // The answer that has come is not asked for again.
  assert.deepEqual([questions(context).length, context.socket.types], [1, ["subscribe"]]);
  answer(context, 0, no);
  assert.deepEqual(published(context), [1, 2]);
  await comeBack(context); // and after they were sent again
  rejoin(context);
  for (const index of [0, 1]) answer(context, index, yes);
  for (const call of calls) assert.equal(await outcome(call), "resolved");
  assert.deepEqual(context.events.errors, []);
});

test("a publication that waits for the rates is not sent twice after another loss", async (t) => {
  const context = await begin(t);
  join(context, "a");
  context.client.publish("a", 1, { timeout: Infinity });
  context.client.publish("a", 2, { timeout: Infinity });
  const limits = { message_rate: 1 };
  context.socket.drop();
  await context.tick(31_000);
  context.socket.accept().welcome({ features, limits });
  rejoin(context);
  for (let i = 0; i < 4; i++) await context.tick(2000);
  for (const index of [0, 1]) answer(context, index, no);
  assert.deepEqual(published(context), [1]);
  await comeBack(context);
  rejoin(context);
  assert.equal(questions(context).length, 1);
  answer(context, 0, no);
  await context.tick(5000);
  assert.deepEqual(published(context), [1, 2]);
});

test("a publication that was made while away can be sent again too", async (t) => {
  const context = await begin(t);
  join(context, "a");
  context.socket.drop();
  const call = context.client.publish("a", 1, { timeout: Infinity });
  await context.tick(500);
  context.socket.accept().welcome({ features });
  assert.deepEqual(context.socket.types, ["subscribe"]);
  rejoin(context);
  const key = keyOf(context.socket, -1);
  context.socket.drop();
  await context.tick(31_000);
  context.socket.accept(); // lost before the hub tells the user
  await comeBack(context);
  rejoin(context);
  answer(context, 0, no);
  assert.equal(keyOf(context.socket, -1), key);
  ack(context, -1, { epoch: "e", offset: 2 });
  assert.equal(await outcome(call), "resolved");
});

test("a publication is not sent again for another user, or to a hub without histories", async (t) => {
  for (const hello of [{ user: "another" }, { features: ["ping"] }]) {
    const context = await begin(t);
    join(context, "a");
    const call = context.client.publish("a", 1);
    const own = context.client.publish("a", 2, { key: "mine" });
    assert.equal(keyOf(context.socket, -1), "mine");
    context.socket.drop();
    const later = context.client.publish("a", 3);
    assert.equal(await outcome(call), "pending");
    await context.tick(500);
    context.socket.accept().welcome({ features, ...hello });
    rejoin(context);
    assert.deepEqual([questions(context), published(context)], [[], [3]]);
    for (const each of [call, own]) await assertRejected(each, "disconnected", true);
    assert.equal(await outcome(later), "pending");
    context.client.close();
    t.mock.timers.reset();
  }
});

test("a publisher that excludes itself does not get its publication when it comes back with another ID", async (t) => {
  const context = await begin(t);
  const got = collect();
  const sub = join(context, "a", got);
  const confirmed = context.client.publish("a", 1, { exceptSelf: true });
  ack(context, -1, { epoch: "e", offset: 2 });
  await confirmed;
  assert.deepEqual(sub.position, { epoch: "e", offset: 2 });
  const call = context.client.publish("a", 2, { exceptSelf: true, timeout: Infinity });
  const other = context.client.publish("a", 3, { timeout: Infinity });
  const keys = [keyOf(context.socket, -2), keyOf(context.socket, -1)];
  await comeBack(context);
  rejoin(context, { offset: 5, replayed: 3 });
  for (const [index, key] of [...keys, "other"].entries()) {
    deliver(context, { type: "message", channel: "a", offset: 3 + index, data: 2 + index, key });
  }
  for (const index of [0, 1]) answer(context, index, yes);
  for (const each of [call, other]) assert.equal(await outcome(each), "resolved");
  assert.deepEqual([got.items, sub.position.offset], [[3, 4], 5]);
});

/** Refuses the request that the client has sent as number `index` as a hub does whose engine is away. */
const refuse = (context, index) => context.socket.replyError(index, "unavailable");

test("a publication that the hub refuses because its engine is away is sent again with its key", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const call = context.client.publish("a", 1, { timeout: 60_000 });
  const key = keyOf(context.socket, -1);
  refuse(context, -1);
  assert.equal(published(context).length, 1, "not at once");
  for (let refusals = 1; refusals <= 4; refusals++) {
    await context.tick(500 * 2 ** refusals);
    assert.equal(published(context).length, refusals + 1);
    assert.equal(keyOf(context.socket, -1), key);
    if (refusals < 4) refuse(context, -1);
  }
  ack(context, -1, { epoch: "e", offset: 2 });
  assert.equal(await outcome(call), "resolved");

  for (const channel of ["never told", "c"]) {
    // The hub could publish it twice.
    if (channel === "c") context.client.publish(channel, 3), ack(context, -1, { epoch: "e", offset: 1, conflate: true });
    const other = context.client.publish(channel, 4);
    refuse(context, -1);
    await assertRejected(other, "unavailable", false);
  }

  const controller = new AbortController();
  const aborted = context.client.publish("a", 5, { signal: controller.signal });
  refuse(context, -1);
  controller.abort();
  await assertRejected(aborted, "aborted", false);
  const count = published(context).length;
  await context.tick(2000);
  assert.equal(published(context).length, count);

  t.mock.method(Math, "random", () => 0.9);
  const late = context.client.publish("a", 2, { timeout: 900 });
  refuse(context, -1);
  await context.tick(500);
  refuse(context, -1);
  await context.tick(1000);
  await assertRejected(late, "timeout", false);
  assert.equal((await outcome(late)).cause.code, "unavailable");
});

test("a refused publication goes to the next connection, with the question of its first attempt", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const call = context.client.publish("a", 1);
  refuse(context, -1);
  context.client.publish("a", 2);
  ack(context, -1, { epoch: "e", offset: 9 });
  context.socket.drop();
  await context.tick(500);
  context.socket.accept();
  await context.tick(2000); // it does not go before the memberships are restored
  assert.deepEqual(published(context), []);
  context.socket.welcome({ features });
  rejoin(context, { offset: 9 });
  assert.deepEqual([published(context), questions(context)], [[1], []], "the hub has refused it, so that there is nothing to ask");
  context.socket.drop();
  await context.tick(2000);
  context.socket.accept().welcome({ features });
  rejoin(context, { offset: 9 });
  assert.deepEqual(questioned(context).map(({ since }) => since.offset), [1]);
  deliver(context, { type: "error", id: questions(context)[0].id, data: { code: "unavailable", message: "no" } });
  await context.tick(500);
  assert.equal(questions(context).length, 2, "the question is repeated");
  answer(context, 1, yes);
  assert.equal(await outcome(call), "resolved");
});

test("a subscription that the hub refuses because its engine is away is repeated", async (t) => {
  const context = await begin(t);
  const got = collect();
  const sub = context.client.subscribe("a", got);
  const room = context.client.joinRoom("r", noop, { last: 3 });
  refuse(context, 0);
  refuse(context, 1);
  assert.deepEqual([sub.state, room.state], ["pending", "pending"]);
  const joined = room.unsubscribe();
  ack(context, -1, null);
  await joined;
  await context.tick(500);
  assert.deepEqual(context.socket.types, ["subscribe", "join_room", "leave_room", "subscribe"], "the room is not joined again");
  refuse(context, -1);
  context.client.subscribe("a", noop);
  context.client.subscribe("a", noop, { last: 2 });
  await context.tick(1000);
  assert.deepEqual(asked(context).map(({ last }) => last), [undefined, undefined, 2, undefined]);
  ack(context, -1, { epoch: "e", offset: 5, replayed: 0, complete: true });
  assert.equal(sub.state, "active");
  publication(context, "a", 6);
  assert.deepEqual([got.items, context.events.errors], [[6], []]);
  await context.tick(5000);
  assert.equal(asked(context).length, 4);
});

test("the reply to a publication tells whether it stayed on the hub's node", async (t) => {
  const context = await begin(t);
  for (const [data, local] of [[null, false], [{ local: true }, true], [{ epoch: "e", offset: 1 }, false]]) {
    const calls = [context.client.publish("a", 1), context.client.publishRoom("a", 1), context.client.broadcast(1)];
    for (const index of [-3, -2, -1]) ack(context, index, data);
    assert.deepEqual(await Promise.all(calls), Array(3).fill({ local }));
  }
  assert.deepEqual(await context.client.publish("a", 1, { ack: false }), { local: false });
});

test("a publication that waits to be sent again can time out and be aborted", async (t) => {
  const context = await begin(t);
  join(context, "a");
  const controller = new AbortController();
  const aborted = context.client.publish("a", 1, { signal: controller.signal });
  const late = context.client.publish("a", 2, { timeout: 600 });
  const closed = context.client.publish("a", 3);
  context.socket.drop();
  controller.abort();
  await assertRejected(aborted, "aborted", true);
  await context.tick(500);
  context.socket.accept().welcome({ features });
  rejoin(context);
  await context.tick(100);
  await assertRejected(late, "timeout", true);
  for (const index of [0, 1]) answer(context, index, no);
  assert.deepEqual(published(context), [3]);
  context.client.close();
  await assertRejected(closed, "closed", true);
});

test("without the feature a publication has no key", async (t) => {
  const context = await setup(t);
  context.socket.welcome();
  context.client.publish("a", 1);
  assert.equal(keyOf(context.socket, -1), undefined);
  context.client.broadcast(1);
  assert.equal(keyOf(context.socket, -1), undefined);
});

// Presence

const member = (id, more) => ({ client_id: id, user: "", info: null, since: Number(id.slice(1)), node: "", ...more });
const ids = (members) => members.map(({ clientId }) => clientId);

test("presence is a live set", async (t) => {
  const context = await begin(t);
  const changes = [];
  const onPresence = ({ joined, left, updated }) => changes.push([ids(joined), ids(left), ids(updated)]);
  const messages = collect();
  const sub = context.client.subscribe("a", messages, { onPresence });
  ack(context, 0);
  const { toHub } = context.socket;
  assert.deepEqual([toHub.at(-1).type, JSON.parse(Buffer.from(toHub.at(-1).data))], ["hub:presence", { channel: "a" }]);
  assert.deepEqual(sub.members(), []);
  deliver(context, { type: "ack", id: toHub.at(-1).id, data: { members: [member("c2"), member("c1", { user: "ann" })], count: 2 } });
  assert.deepEqual(ids(sub.members()), ["c1", "c2"]);
  deliver(context, { type: "join", channel: "a", client_id: "c3", data: { since: 3, first: true } });
  deliver(context, { type: "leave", channel: "a", client_id: "c9", data: { last: true } });
  deliver(context, { type: "update", channel: "a", client_id: "c1", data: { user: "bob", info: { away: true } } });
  deliver(context, {
    type: "presence_diff",
    channel: "a",
    data: { leaves: [{ client_id: "c2" }], joins: [member("c2"), member("c4")], updates: [{ client_id: "c4", info: 7 }] },
  });
  deliver(context, { type: "leave", channel: "a", client_id: "c3", data: {} });
  deliver(context, { type: "join", channel: "a", client_id: "c5", data: { room: true } }); // of a room with this name
  assert.deepEqual(changes, [
    [["c1", "c2"], [], []],
    [["c3"], [], []],
    [[], [], ["c1"]],
    [["c4"], [], ["c2"]],
    [[], ["c3"], []],
  ]);
  assert.deepEqual(sub.members()[0], { clientId: "c1", user: "bob", info: { away: true }, since: 1, node: "" });
  assert.deepEqual(messages.items, [{ room: true }]);

  // A gap may have hidden a change, and so may a lost connection.
  deliver(context, { type: "gap", data: { channel: "a", count: 1, reason: "slow_consumer" } });
  deliver(context, { type: "ack", id: toHub.at(-1).id, data: { members: [member("c1", { user: "bob", info: { away: true } })] } });
  assert.deepEqual(changes.at(-1), [[], ["c2", "c4"], []]);
  await comeBack(context);
  assert.deepEqual(ids(sub.members()), ["c1"]);
  ack(context, 0);
  deliver(context, { type: "ack", id: context.socket.toHub.at(-1).id, data: { members: [member("c7")] } });
  assert.deepEqual(changes.at(-1), [["c7"], ["c1"], []]);
});

test("changes of the members are not reported before the hub has told all of them", async (t) => {
  const context = await begin(t);
  const changes = [];
  const onPresence = ({ joined, left, updated }) => changes.push([ids(joined), ids(left), ids(updated)]);
  const join = (id, since) => deliver(context, { type: "join", channel: "a", client_id: id, data: { since, first: true } });
  const reply = (...members) => deliver(context, { type: "ack", id: context.socket.toHub.at(-1).id, data: { members } });
  context.client.subscribe("a", noop, { onPresence });
  ack(context, 0);
  join("c2", 2); // the client's own
  context.client.subscribe("a", noop, { onPresence });
  assert.deepEqual(changes, []);
  assert.equal(context.socket.toHub.filter(({ type }) => type === "hub:presence").length, 1);
  reply(member("c1"), member("c2"));
  const all = [["c1", "c2"], [], []];
  assert.deepEqual(changes.splice(0), [all, all]);
  context.client.subscribe("a", noop, { onPresence });
  assert.deepEqual(changes.splice(0), [all]);

  await comeBack(context);
  join("c3", 3);
  ack(context, 0);
  join("c4", 4);
  assert.deepEqual(changes, []);
  reply(member("c1"), member("c4"));
  const difference = [["c4"], ["c2"], []];
  assert.deepEqual(changes.splice(0), [difference, difference, difference]);
  join("c5", 5);
  assert.deepEqual(changes.length, 3);
});

test("the members are asked for again when a subscription follows them again", async (t) => {
  const context = await begin(t);
  const reply = (...members) => deliver(context, { type: "ack", id: context.socket.toHub.at(-1).id, data: { members } });
  context.client.subscribe("a", noop);
  const first = context.client.subscribe("a", noop, { onPresence: noop });
  ack(context, 0);
  reply(member("c1"));
  first.unsubscribe();
  deliver(context, { type: "join", channel: "a", client_id: "c2", data: { since: 2 } });
  const second = context.client.subscribe("a", noop, { onPresence: noop });
  assert.deepEqual(second.members(), []);
  reply(member("c1"), member("c2"));
  assert.deepEqual(ids(second.members()), ["c1", "c2"]);
});

test("an application's own messages with the names of presence reach their handler", async (t) => {
  const context = await begin(t);
  const got = [];
  context.client.subscribe("a", (message) => got.push(message.type));
  context.client.subscribe("b", (message) => got.push(message.type), { onPresence: noop });
  for (const index of [0, 1]) ack(context, index);
  deliver(context, { type: "join", channel: "a", data: 1 });
  deliver(context, { type: "update", channel: "b", data: "AAA=", encoding: "base64" });
  deliver(context, { type: "leave", channel: "b", data: { user: "x" }, offset: 4 });
  assert.deepEqual(got, ["join", "update", "leave"]);
});

test("only the reply to the latest request for the members counts", async (t) => {
  const context = await begin(t);
  const sub = context.client.subscribe("a", noop, { onPresence: noop });
  ack(context, 0);
  const [first] = context.socket.toHub.slice(-1);
  deliver(context, { type: "gap", data: { all: true, count: 1, reason: "slow_consumer" } });
  const [second] = context.socket.toHub.slice(-1);
  deliver(context, { type: "ack", id: second.id, data: { members: [member("c2")] } });
  deliver(context, { type: "ack", id: first.id, data: { members: [member("c1")] } });
  assert.deepEqual(ids(sub.members()), ["c2"]);
  deliver(context, { type: "gap", data: { all: true, count: 1, reason: "slow_consumer" } });
  context.socket.drop();
  assert.deepEqual(context.events.errors, []);
});

test("messages about members reach the handlers when no subscription follows them any more", async (t) => {
  const context = await begin(t);
  const got = collect();
  context.client.subscribe("a", got);
  const follower = context.client.subscribe("a", noop, { onPresence: noop });
  ack(context, 0);
  deliver(context, { type: "ack", id: context.socket.toHub.at(-1).id, data: { members: [] } });
  deliver(context, { type: "join", channel: "a", client_id: "c3", data: { since: 3 } });
  assert.deepEqual(ids(follower.members()), ["c3"]);
  follower.unsubscribe();
  deliver(context, { type: "leave", channel: "a", client_id: "c3", data: { last: true } });
  assert.deepEqual(got.items, [{ last: true }]);
});

test("a hub that refuses or is not able to tell the members is reported", async (t) => {
  const context = await begin(t);
  context.client.subscribe("a", noop, { onPresence: noop });
  ack(context, 0);
  deliver(context, { type: "error", id: context.socket.toHub.at(-1).id, data: { code: "forbidden", message: "no" } });
  await comeBack(context, { features: ["ping"] });
  ack(context, 0);
  assert.deepEqual(context.events.errors.map(({ code }) => code), ["forbidden", "unsupported"]);
});

// History

test("history reads a page", async (t) => {
  const context = await begin(t);
  const sub = context.client.joinRoom("r", noop);
  ack(context, 0, { epoch: "e", offset: 9, replayed: 0, complete: true });
  const reading = sub.history({ before: 9, limit: 2 });
  await flushPromises();
  const { id, data } = context.socket.toHub.at(-1);
  assert.deepEqual(JSON.parse(Buffer.from(data)), { room_id: "r", before: 9, limit: 2 });
  const one = '{"type":"room_message","channel":"r","data":{"n":12345678901234567890},"timestamp":1763769600123456789,"offset":7}';
  const two = '{"type":"room_message","channel":"r","data":"AQI=","encoding":"base64","timestamp":5,"offset":8}';
  context.socket.deliverRaw(`{"type":"ack","id":"${id}","data":{"epoch":"e","offset":9,"complete":true,"messages":[${one} , ${two}]},"timestamp":1}`);
  const page = await reading;
  assert.deepEqual([page.epoch, page.offset, page.complete, page.messages.length], ["e", 9, true, 2]);
  assert.deepEqual([page.messages[0].text(), page.messages[0].timestampNs, page.messages[0].offset], ['{"n":12345678901234567890}', 1763769600123456789n, 7]);
  assert.deepEqual([...page.messages[1].bytes()], [1, 2]);

  const empty = sub.history();
  await flushPromises();
  deliver(context, { type: "ack", id: context.socket.toHub.at(-1).id, data: { epoch: "e", offset: 0, complete: true, messages: [] } });
  assert.deepEqual((await empty).messages, []);
  await assert.rejects(sub.history({ limit: -1 }), { name: "TypeError", message: /limit/ });
});

// Requests

test("a request resolves with the answer and rejects with the refusal", async (t) => {
  const context = await begin(t);
  const asking = context.client.request("sum", [1, 2]);
  assert.deepEqual(context.socket.sent[0].type, "sum");
  ack(context, 0, 3);
  assert.equal((await asking).json(), 3);
  const refused = context.client.request("sum", [1, 2]);
  deliver(context, { type: "error", id: context.socket.sent[1].id, data: { code: "too_many", message: "no" } });
  await assertRejected(refused, "too_many", false);
  const late = context.client.request("sum", undefined, { timeout: 100 });
  late.catch(noop);
  await context.tick(100);
  await assertRejected(late, "timeout", true);
  for (const type of ["", "publish", "ack", "hub:hello", "subscribe", "message", 5]) {
    await assert.rejects(context.client.request(type), TypeError, `${type}`);
  }
});

test("handlers answer the hub's requests", async (t) => {
  const handlers = { early: () => "there" };
  const context = await begin(t, { handlers });
  const { client, events } = context;
  const off = client.handle("sum", async (message) => message.json().reduce((a, b) => a + b));
  client.handle("nothing", noop);
  client.handle("refuses", () => Promise.reject(new HubError("busy", "later")));
  client.handle("fails", () => {
    throw new Error("a secret");
  });
  client.handle("bad", () => new Map());
  const answers = async (type, data) => {
    deliver(context, { type, id: "hub:7", data });
    await flushPromises();
    const { id, ...answer } = context.socket.sent.at(-1);
    assert.equal(id, "hub:7");
    return [answer.type, Buffer.from(answer.data).toString()];
  };
  assert.deepEqual(await answers("early"), ["ack", '"there"']);
  assert.deepEqual(await answers("sum", [1, 2]), ["ack", "3"]);
  assert.deepEqual(await answers("nothing"), ["ack", ""]);
  assert.deepEqual(await answers("refuses"), ["error", '{"code":"busy","message":"later"}']);
  assert.deepEqual(await answers("fails"), ["error", '{"code":"internal","message":"internal error"}']);
  assert.deepEqual(await answers("bad"), ["error", '{"code":"internal","message":"internal error"}']);
  assert.deepEqual(events.errors.map(({ cause }) => cause.message.slice(0, 8)), ["a secret", "data is "]);
  off();
  assert.deepEqual(await answers("sum", [1]), ["error", '{"code":"unsupported","message":"no handler for this type"}']);
  assert.throws(() => client.handle("nothing", noop), /has a handler/);
  assert.throws(() => client.handle("ack", noop), TypeError);
  assert.throws(() => client.handle("x", 5), TypeError);
});

test("an answer does not go over another connection", async (t) => {
  const context = await begin(t);
  let answer;
  context.client.handle("slow", () => new Promise((resolve) => (answer = resolve)));
  deliver(context, { type: "slow", id: "hub:1" });
  await comeBack(context);
  answer(1);
  await flushPromises();
  assert.deepEqual(context.socket.types, []);
});
