/** @jest-environment jsdom */
const { connect, HubClient, msgpack } = require("hypgo-websocket");

test("a component that makes a client may be rendered", async () => {
  const client = new HubClient(process.env.HUB_URL);
  await client.close();
  expect(client.state).toBe("closed");
});

test("the client works with the WebSocket of jsdom", async () => {
  // jsdom lacks them. A setup file does the same for all tests of a project.
  Object.assign(globalThis, require("util"));
  const client = await connect(process.env.HUB_URL, { codec: msgpack });
  const received = new Promise((resolve) => client.subscribe("dom", resolve));
  await client.publish("dom", { from: "jsdom", text: "ß" });
  expect((await received).json()).toEqual({ from: "jsdom", text: "ß" });
  await client.publish("dom", new Uint8Array([1, 2]));
  await client.close();
});
