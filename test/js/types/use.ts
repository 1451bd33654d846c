// Compiled by types.test.js as a module of each kind, never run.

import {
  codecs,
  connect,
  fromHex,
  HubClient,
  HubError,
  Message,
  msgpack,
  NoTokenError,
  protobuf,
  Sealer,
  type Gap,
  type Limits,
  type Options,
  type Payload,
  type Resumed,
  type State,
  type StateChange,
  type Subscription,
} from "hypgo-websocket";
import { HubProvider, useChannel, useConnectionState, useHub, useMembers, useRoom } from "hypgo-websocket/react";
import { createElement } from "react";

interface Score {
  points: number;
}

export async function use(cached: string | undefined): Promise<void> {
  const options: Options = {
    codec: msgpack,
    security: new Sealer({ aesKey: fromHex("00"), hmacKey: new Uint8Array(20), signThenEncrypt: false }),
    getToken: async ({ signal, renew }) => {
      if (signal.aborted || (renew && cached === undefined)) throw new NoTokenError();
      return cached;
    },
    heartbeat: 15_000,
    backoff: { base: 100 },
    onStateChange: ({ state, retryIn = 0 }: StateChange) => console.log(state, retryIn.toFixed()),
    onError: (error: HubError) => console.log(error.code, error.outcomeUnknown),
  };
  const client: HubClient = await connect("ws://localhost/ws", options);
  const state: State = client.state;
  const limits: Limits | undefined = client.limits;
  console.log(state, client.id satisfies string, limits);

  const off: () => void = client.on("gap", (gap: Gap) => console.log(gap.lastNs - gap.firstNs), {
    signal: AbortSignal.timeout(5),
  });
  client.on("resumed", (resumed: Resumed) => console.log(resumed.toJSON()));
  client.on("message", (message) => console.log(message.type));
  const listener = (error: HubError) => console.log(error.target);
  client.on("error", listener);
  client.off("error", listener);
  off();

  const controller = new AbortController();
  const sub: Subscription = client.subscribe("news", (message: Message) => console.log(message.json<Score>().points), {
    signal: controller.signal,
    onError: (error) => console.log(error.code),
  });
  await sub.ready;
  console.log(sub.name, sub.kind, sub.state satisfies "pending" | "active" | "ended", sub.error?.code);
  for await (const message of client.subscribe("news")) {
    new Blob([message.bytes()]);
    await crypto.subtle.digest("SHA-256", message.bytes());
    break;
  }
  await sub.unsubscribe();
  await client.joinRoom("lobby").ready;
  await client.leaveRoom("lobby");

  const payloads: Payload[] = [null, undefined, true, 1, "text", [1, [null]], { deep: { list: ["x"] } }, new Uint8Array(3)];
  for (const payload of payloads) await client.publish("news", payload, { exceptSelf: true, timeout: 5 });
  const score: Score = { points: 1 };
  await client.publish("news", score);
  await client.publishRoom("lobby", new ArrayBuffer(3), { ack: false });
  await client.broadcast(new Date());
  const sent: boolean = client.send("move", { x: 1 }, { channel: "game", volatile: true });
  client.reconnect();
  console.log(sent, protobuf.encode({ type: "t" }).length, Object.keys(codecs));
  await client.close(3000, "bye");
}

export async function misuse(client: HubClient): Promise<void> {
  // @ts-expect-error codecs are objects
  new HubClient("ws://x", { codec: "msgpack" });
  // @ts-expect-error there is no such option
  new HubClient("ws://x", { heartBeat: 1 });
  // @ts-expect-error BigInt is not JSON
  await client.publish("news", 5n);
  // @ts-expect-error a Map is not JSON
  await client.publish("news", new Map());
  // @ts-expect-error a Promise is not JSON
  await client.publish("news", Promise.resolve(1));
  // @ts-expect-error a function is not JSON
  await client.publish("news", () => 1);
  // @ts-expect-error states are read only
  client.state = "open";
  // @ts-expect-error there is no such event
  client.on("opened", () => {});
}

export function Headlines({ client }: { client: HubClient }) {
  const { state, error } = useChannel(client, "news", (message) => console.log(message.text()), { last: 20 });
  useRoom(client, "lobby");
  const names: string[] = useMembers(client, "room", "lobby").map(({ user }) => user);
  return createElement("p", null, useConnectionState(client), state, error?.message);
}

export function App() {
  const client = useHub("ws://localhost/ws", { codec: msgpack });
  return createElement(HubProvider, { client }, client && createElement(Headlines, { client }));
}
