// The scenario of every runtime: all codecs, a lost connection, sealing.

/** Runs the scenario with the package's exports. Throws if anything goes wrong. */
export async function scenario(hub, url, WebSocket) {
  const tested = [];
  for (const codec of [undefined, hub.json, hub.protobuf, hub.flatbuffers, hub.msgpack]) {
    const name = codec?.name ?? "default";
    let resumed;
    const isResumed = new Promise((resolve) => (resumed = resolve));
    const client = await hub.connect(url, { codec, WebSocket, backoff: { base: 10 }, onResumed: resumed });
    check(client.state === "open", `${name}: the client is ${client.state}`);

    const handled = [];
    const handle = client.subscribe(name, (message) => handled.push(message));
    const iterated = client.subscribe(name);
    await Promise.all([handle.ready, iterated.ready]);
    await client.publish(name, { text: "漢😀" });
    client.send("close", { Code: 1012, Reason: "restart" });
    await isResumed;
    await client.publish(name, new Uint8Array([0, 128, 255]));

    const [json, bytes] = await take(iterated, 2);
    check(json.json().text === "漢😀", `${name}: the text is ${json.text()}`);
    check(String([...bytes.bytes()]) === "0,128,255", `${name}: the bytes are ${bytes.bytes()}`);
    check(json.timestampNs > 0n, `${name}: there is no timestamp`);
    check(json.clientId !== "", `${name}: there is no client ID`);
    check(handled.length === 2, `${name}: the handler got ${handled.length} messages`);
    const refused = await client.subscribe("secret", () => {}, { onError: () => {} }).ready.catch((error) => error);
    check(refused instanceof hub.HubError && refused.code === "forbidden", `${name}: refused with ${refused}`);
    await client.close();
    tested.push(name);
  }

  const sealer = new hub.Sealer({ aesKey: new Uint8Array(32).fill(1), hmacKey: new Uint8Array(20).fill(2) });
  const opened = await sealer.open(await sealer.seal(new Uint8Array([1, 2, 3])));
  check(String([...opened]) === "1,2,3", `opened ${opened}`);
  return `${tested.join(", ")} and sealing work`;
}

async function take(subscription, count) {
  const messages = [];
  for await (const message of subscription) {
    if (messages.push(message) === count) break;
  }
  return messages;
}

function check(condition, failure) {
  if (!condition) throw new Error(failure);
}
