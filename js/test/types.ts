// Compiled by types.test.js, never run.

import {
  closeCodes,
  codecs,
  connect,
  connectWith,
  DecodeError,
  fromBase64,
  fromHex,
  history,
  HubClient,
  HubError,
  Message,
  msgpack,
  presence,
  requests,
  Sealer,
  type Gap,
  type HistoryPage,
  type Member,
  type Options,
  type Resumed,
  type StateChange,
  type Subscription,
} from "hypgo-websocket";

const options: Options = {
  codec: msgpack,
  security: new Sealer({ aesKey: fromHex("00"), hmacKey: fromBase64("AA=="), signThenEncrypt: false }),
  getToken: async ({ signal, renew }) => ({ token: String(signal.aborted && renew), security: new Sealer({ aesKey: new ArrayBuffer(32) }) }),
  WebSocket: class {},
  backoff: { base: 1 },
  shouldReconnect: ({ code }) => (code === 4000 ? true : undefined),
  onStateChange: ({ state, retryIn = 0 }: StateChange) => console.log(state, retryIn.toFixed()),
  onGap: (gap: Gap) => gap.lastNs - gap.firstNs,
  onResumed: ({ from, to, lastTimestampNs }: Resumed) => [to - from, lastTimestampNs],
  onError: (error) => error.code satisfies string,
  signal: AbortSignal.timeout(1000),
};

const client: HubClient = await connect(new URL("ws://localhost/ws"), options);
interface Score {
  points: number;
}
const score: Score = { points: 1 };
const sub: Subscription = client.subscribe("news", async (message: Message) => {
  const data: unknown = message.json();
  const typed: number = message.json<Score>().points;
  const bytes: Uint8Array = message.bytes();
  const time: Date = new Date(message.timestamp);
  const exact: bigint = message.timestampNs;
  console.log(data, typed, bytes, time, exact, message.text(), JSON.stringify(message));
  new Blob([message.bytes()]);
  await crypto.subtle.digest("SHA-256", message.bytes());
  new Message(structuredClone(message));
});
await sub.ready;
for await (const message of client.joinRoom("lobby")) console.log(message.clientId, sub.state, sub.error?.code);
await sub.unsubscribe();
await client.publish("news", { nested: [1, null, { deep: undefined }] }, { timeout: 5, signal: AbortSignal.abort() });
await client.publish("news", score, { exceptSelf: true, ack: false });
await client.publish("news", new Date());
await client.publish("news");
await client.publishRoom("lobby", new Uint8Array(3));
await client.broadcast(new ArrayBuffer(3));
await client.leaveRoom("lobby");
const queued: boolean = client.send("move", undefined, { channel: "game", volatile: true });
client.onMessage = undefined;
const off: () => void = client.on("statechange", ({ state }) => console.log(state, queued));
client.off("error", (error: HubError) => console.log(error));
client.reconnect();
off();
const present = client.joinRoom("hall", undefined, {
  last: 20,
  onPresence: ({ joined, left, updated }) => console.log(joined.length, left[0]?.user, updated),
  onError: undefined,
});
client.subscribe("news", undefined, { since: present.position });
const page: HistoryPage = await present.history({ before: 9, since: undefined, timeout: 5 });
const names: string[] = present.members().map((member: Member) => member.clientId);
console.log(names, page.messages[0]?.offset, page.reason, present.resumed?.complete);
client.on("resumed", ({ incomplete }) => console.log(incomplete[0]?.reason));
const price: number = (await client.request("price", { id: 1 }, { timeout: 5 })).json<number>();
client.handle("confirm", async (message) => ({ ok: message.json<number>() > price }))();
client.handle("nothing", () => {});
await client.publish("news", 1, { key: "mine" });
console.log(client.id, client.user, client.limits?.messageRate);
await client.close(3000, "bye");

const frame: Uint8Array = codecs.protobuf.encode({ type: "t", data: "x", timestampNs: 5n });
const text: string = codecs.json.encode(codecs.protobuf.decode(frame));
const sealed: Uint8Array = await new Sealer({ hmacKey: frame }).seal(frame);
const reconnect: boolean | "credentials" | undefined = closeCodes[1001]?.reconnect;
const error: HubError = new DecodeError("no");
console.log(text, sealed, reconnect, error.outcomeUnknown, error.target, error.cause);

// @ts-expect-error a codec is an object
new HubClient("ws://x", { codec: "json" });
// @ts-expect-error keys are bytes
new Sealer({ aesKey: "secret" });
// @ts-expect-error BigInt is not JSON
await client.publish("news", 5n);
// @ts-expect-error a Blob would be {}
await client.publish("news", new Blob(["x"]));
// @ts-expect-error a Map would be {}
await client.publish("news", new Map());
// @ts-expect-error a Promise would be {}
await client.publish("news", Promise.resolve(1));
// @ts-expect-error an Error would be {}
await client.publish("news", new Error("x"));
// @ts-expect-error a function is not JSON
await client.publish("news", () => 1);
// @ts-expect-error there is no such event
client.on("open", () => {});
// @ts-expect-error states are read only
client.state = "open";

const small = await connectWith([presence, history], "ws://localhost/ws", { codec: msgpack });
small.joinRoom("hall", undefined, { last: 1 });
// @ts-expect-error: it lacks the feature
void small.request;
const asking = await connectWith([presence, requests], "ws://localhost/ws");
const two: number = (await asking.request("sum", [1, 1])).json<number>();
console.log(two, asking.state);
