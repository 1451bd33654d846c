// The guarantee of histories, with the real client, a real hub, and a proxy that cuts connections at random bytes:
// each subscription gets each publication between its beginning and the end once and in order, or is told of a gap
// before the next message. INVARIANT_RUNS=n makes more runs; SEED=n repeats one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

import { codecs } from "../dist/hub.js";
import { HubClient } from "./named.js";
import { Random, seed } from "./random.js";
import { aesKey, hex, hmacKey, skip, startHub, startProxy, WebSocket } from "./real-hub.js";

const runs = Number(process.env.INVARIANT_RUNS ?? 10);

/** The topics: the hub keeps 1,000 publications of those in h, and 3 of those in tiny. */
const topics = [
  ["channel", "h:news"],
  ["room", "h:news"],
  ["channel", "tiny:news"],
];

const methods = { channel: ["subscribe", "publish"], room: ["joinRoom", "publishRoom"] };

/** What a subscription is told, checked on arrival. */
class Subscriber {
  /** The payload by epoch and offset. */
  got = new Map();
  gaps = [];
  lost = 0;
  /** True if its client has other subscriptions to the topic. A gap may then be that of another one. */
  shared = false;

  /** `last` is the position at which it begins, if it is known. */
  constructor(client, [kind, name], options, last) {
    Object.assign(this, { client, kind, name, last });
    client.on("gap", (gap) => {
      if (gap.all || gap[kind] === name) this.gaps.push(gap.count);
    });
    this.sub = client[methods[kind][0]](name, (message) => this.receive(message), options);
    this.sub.ready.then(() => {
      // Between the reply and its handler, messages may have come.
      if (!options) this.last ??= this.sub.position;
    });
  }

  receive(message) {
    const { epoch, offset } = this.sub.position;
    const { gaps, kind, last, name } = this;
    const where = `${kind} ${name} ${epoch} ${offset}, after ${last?.epoch} ${last?.offset}, gaps ${gaps}`;
    assert.equal(message.offset, offset, where);
    if (last?.epoch === epoch) {
      const missing = offset - last.offset - 1;
      assert.ok(missing >= 0, `twice or out of order: ${where}`);
      // A gap after which nothing has arrived is told again after a reconnect, with what is missing since.
      // Its count is 0, not known, if another subscription of the client has an earlier epoch.
      const most = gaps.reduce((sum, count) => sum + count, this.shared && gaps.includes(0) ? Infinity : 0);
      assert.ok(missing <= most, `missing without a gap: ${where}`);
      assert.ok(this.shared || missing >= (gaps.at(-1) ?? 0), `a gap without a loss: ${where}`);
      this.lost += missing;
    } else if (last) {
      assert.ok(gaps.length > 0, `another epoch without a gap: ${where}`);
      this.lost++;
    }
    this.gaps = [];
    this.last = { epoch, offset };
    this.got.set(`${epoch} ${offset}`, message.text());
  }
}

/** Runs clients that publish and subscribe while their connections are cut, and the hub is perhaps restarted. */
async function run(t, random, codec, sealed) {
  const flags = ["-topics", ...(sealed ? ["-aes", hex(aesKey), "-hmac", hex(hmacKey)] : [])];
  let hub = await startHub(t, ...flags);
  const { address } = hub;
  const budget = () => (random.below(4) ? 300 + random.below(20_000) : random.below(900));
  const proxy = await startProxy(t, address, budget);
  const failures = [];
  const open = (url) => {
    const client = new HubClient(url, {
      WebSocket,
      codec,
      security: sealed ? { aesKey, hmacKey } : undefined,
      backoff: { base: 4, max: 20 },
      timeout: Infinity,
      onGap: () => {},
      onError: (error) => failures.push(error.cause ?? error),
    });
    t.after(() => client.close());
    return client;
  };

  const members = [open(proxy.url), open(proxy.url)];
  const stranger = open(proxy.url);
  const subscribers = [];
  for (const client of members) for (const topic of topics) subscribers.push(new Subscriber(client, topic));

  /** The publications: their topic, and whether the promise has resolved. */
  const sent = [];
  const publish = (client, [kind, name]) => {
    const publication = { data: `${sent.length}`, topic: `${kind} ${name}`, client };
    sent.push(publication);
    return client[methods[kind][1]](name, sent.length - 1).then(
      () => (publication.resolved = true),
      (error) => assert.ok(error.outcomeUnknown, `${error}`),
    );
  };
  const publisher = async (client) => {
    const count = 60 + random.below(60);
    const calls = [];
    for (let i = 0; i < count; i++) {
      const call = publish(client, random.pick(topics));
      if (random.below(3)) await Promise.race([call, delay(random.below(6))]);
      calls.push(call);
    }
    await Promise.all(calls);
  };
  const latecomer = async () => {
    for (let i = 0; i < 4; i++) {
      await delay(random.below(60));
      const other = random.pick(subscribers);
      const { client, kind, name, last } = other;
      other.shared = true;
      const options = random.below(2) && last ? { since: last } : { last: random.below(4) };
      subscribers.push(Object.assign(new Subscriber(client, [kind, name], options, options.since), { shared: true }));
    }
  };
  const restarts = async () => {
    for (let i = random.below(4) - 1; i > 0; i--) {
      await delay(20 + random.below(150));
      if (random.below(2)) hub.kill();
      else hub.stop();
      await hub.ended;
      hub = await startHub(t, "-addr", address, ...flags);
    }
  };
  await Promise.all([...[...members, stranger].map(publisher), latecomer(), restarts()]);
  proxy.budget = () => Infinity;
  proxy.cut();
  for (const topic of topics) {
    let resolved;
    while (!resolved) resolved = await publish(members[0], topic);
  }
  const ends = new Map(topics.map(([kind, name], i) => [`${kind} ${name}`, sent.filter(({ resolved }) => resolved).at(i - topics.length).data]));
  const ended = ({ kind, name, got }) => [...got.values()].includes(ends.get(`${kind} ${name}`));
  while (!subscribers.every(ended) && !failures.length) await delay(5);
  assert.deepEqual(failures, []);

  let lost = 0;
  for (const [kind, name] of topics) {
    const all = new Map();
    const here = subscribers.filter((each) => each.kind === kind && each.name === name);
    for (const { got } of here) {
      for (const [place, data] of got) {
        assert.equal(all.get(place) ?? data, data, "two publications have one offset");
        all.set(place, data);
      }
    }
    const published = [...all.values()];
    assert.equal(new Set(published).size, published.length, "a publication was published twice");
    // The first subscriber was there before all publications of its client.
    const [first] = here;
    lost += first.lost;
    if (first.lost) continue;
    const got = [...first.got.values()].map(Number);
    for (const { data, topic, resolved, client } of sent) {
      if (resolved && client === first.client && topic === `${kind} ${name}`) assert.ok(got.includes(Number(data)), `${data} is lost`);
    }
    for (const client of [...members, stranger]) {
      const own = got.filter((i) => sent[i].client === client);
      assert.deepEqual(own, [...own].sort((a, b) => a - b), "out of order");
    }
  }
  return { lost, connections: proxy.connections, unknown: sent.filter(({ resolved }) => !resolved).length };
}

const kinds = [...Object.keys(codecs).map((codec) => [codec, false]), ["msgpack", true]];
for (const [index, [codec, sealed]] of kinds.entries()) {
  const name = `${codec}${sealed ? ", sealed" : ""}`;
  test(`cut at random bytes, nothing is lost without a gap, twice or out of order (seed ${seed}): ${name}`, { skip }, async (t) => {
    const total = { lost: 0, connections: 0, unknown: 0 };
    for (let i = index; i < runs; i += kinds.length) {
      await t.test(`run ${i}`, async (t) => {
        const result = await run(t, new Random(i), codec, sealed);
        for (const key in total) total[key] += result[key];
      });
    }
    t.diagnostic(JSON.stringify(total));
  });
}
