// Compiled by types.test.js, never run.

import {
  closeCodes,
  codecs,
  connect,
  DecodeError,
  fromBase64,
  fromHex,
  HubClient,
  HubError,
  Message,
  Sealer,
  type Gap,
  type Options,
  type Resumed,
  type StateChange,
} from "hypgo-websocket";

const options: Options = {
  codec: "msgpack",
  security: { aesKey: fromHex("00"), hmacKey: fromBase64("AA=="), signThenEncrypt: false },
  getToken: async (signal) => ({ token: String(signal.aborted), security: { aesKey: new ArrayBuffer(32) } }),
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
await client.subscribe("news", async (message: Message) => {
  const data: unknown = message.json();
  const bytes: Uint8Array = message.bytes();
  const time: Date = new Date(message.timestamp);
  const exact: bigint = message.timestampNs;
  console.log(data, bytes, time, exact, message.text());
});
await client.publish("news", { nested: [1, null, { deep: undefined }] }, { timeout: 5, signal: AbortSignal.abort() });
await client.publish("news", score);
await client.publish("news", new Date());
await client.publishRoom("lobby", new Uint8Array(3));
await client.broadcast(new ArrayBuffer(3));
await client.joinRoom("lobby", () => {});
await client.leaveRoom("lobby");
client.send("move");
client.send("move", undefined, { channel: "game" });
client.onMessage = undefined;
await client.close(3000, "bye");

const frame: Uint8Array = codecs.protobuf.encode({ type: "t", data: "x", timestampNs: 5n });
const text: string = codecs.json.encode(codecs.protobuf.decode(frame));
const sealed: Uint8Array = await new Sealer({ hmacKey: frame }).seal(frame);
const reconnect: boolean | "credentials" | undefined = closeCodes[1001]?.reconnect;
const error: HubError = new DecodeError("no");
console.log(text, sealed, reconnect, error.outcomeUnknown, error.target, error.cause);

// @ts-expect-error there is no such codec
new HubClient("ws://x", { codec: "xml" });
// @ts-expect-error keys are bytes
new HubClient("ws://x", { security: { aesKey: "secret" } });
// @ts-expect-error a handler is needed
await client.subscribe("news");
// @ts-expect-error BigInt is not JSON
await client.publish("news", 5n);
// @ts-expect-error states are read only
client.state = "open";
