const { HubClient, HubError, protobuf } = require("hypgo-websocket");
const WebSocket = require("ws");

test("a test of a CommonJS project uses the client", async () => {
  const client = new HubClient(process.env.HUB_URL, { codec: protobuf, WebSocket });
  const received = new Promise((resolve) => client.subscribe("jest", resolve));
  client.publish("jest", { from: "jest" });
  expect((await received).json()).toEqual({ from: "jest" });
  await client.close();
  await expect(client.publish("jest", 1)).rejects.toThrow(HubError);
});
