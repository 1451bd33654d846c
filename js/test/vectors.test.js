// Tests with the vectors that the hub and the Go client are tested with too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { closeCodes, codecs, fromHex, HubError, Sealer } from "../dist/hub.js";
import { HubClient } from "./named.js";
import { fakeWebSocket } from "./fake-socket.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const text = (bytes) => Buffer.from(bytes).toString();
const toBytes = (frame) => (typeof frame === "string" ? new TextEncoder().encode(frame) : frame);
const file = JSON.parse(readFileSync(new URL("../../testdata/vectors.json", import.meta.url), "utf8"));

/** The security options of each mode; undefined if the mode has no keys. */
const keysOf = Object.fromEntries(
  file.modes.map(({ name, aes, hmac, sign_then_encrypt: signThenEncrypt }) => {
    const keys = { signThenEncrypt };
    if (aes) keys.aesKey = fromHex(file.aes_key_hex);
    if (hmac) keys.hmacKey = fromHex(file.hmac_key_hex);
    return [name, aes || hmac ? keys : undefined];
  }),
);

const fieldsOf = (message) => ({
  type: message.type,
  channel: message.channel,
  data: hex(message.bytes()),
  timestamp: String(message.timestampNs),
  clientId: message.clientId,
  id: message.id,
  offset: String(message.offset),
  key: message.key,
  room: message.room,
  trace: message.trace,
});

const wantedOf = (vector) => ({
  type: vector.type,
  channel: vector.channel,
  data: vector.data_hex,
  timestamp: vector.timestamp,
  clientId: vector.client_id,
  id: vector.id,
  offset: vector.offset ?? "0",
  key: vector.key ?? "",
  room: vector.room ?? false,
  trace: vector.trace ?? "",
});

/** Parse the hub's notices into the form of the vectors' control fields. */
const controlOf = {
  error: (codec, message) => codec.error(message),
  gap(codec, message) {
    const { channel, room, all, firstNs, lastNs, reason } = codec.gap(message);
    return { channel, room_id: room, all: String(all), first: String(firstNs), last: String(lastNs), reason };
  },
};

for (const vector of file.messages) {
  const codec = codecs[vector.codec];
  const want = wantedOf(vector);
  const decode = (bytes) => codec.decode(codec.text ? text(bytes) : bytes);

  test(`vector ${vector.name}/${vector.codec}`, async (t) => {
    const plain = fromHex(vector.wire[0].bytes_hex);
    const message = decode(plain);
    assert.deepEqual(fieldsOf(message), want);
    const again = codec.encode({ ...message, exceptSelf: vector.except_self });
    assert.equal(typeof again === "string", vector.wire[0].frame === "text");
    assert.deepEqual(fieldsOf(codec.decode(again)), want);
    // JSON.stringify and the hub escape different characters.
    if (vector.name !== "names-to-escape" || !codec.text) assert.equal(hex(toBytes(again)), vector.wire[0].bytes_hex);

    if (vector.control && controlOf[vector.type]) {
      const { count, ...control } = vector.control;
      const absent = vector.type === "gap" ? { channel: "", room_id: "", all: "false" } : {};
      assert.deepEqual(controlOf[vector.type](codec, message), { ...absent, ...control });
      if (count) assert.equal(codec.gap(message).count, Number(count));
    } else if (vector.control) {
      const [[key, name]] = Object.entries(vector.control);
      const request = codec.encode({ type: vector.type, data: codec.target(key, name), id: vector.id });
      assert.deepEqual(fieldsOf(codec.decode(request)), want);
    }

    for (const { mode, frame, nonce_hex: nonce, bytes_hex: wire } of vector.wire.slice(1)) {
      assert.equal(frame, "binary");
      const sealer = new Sealer(keysOf[mode]);
      assert.equal(hex(await sealer.open(fromHex(wire))), vector.wire[0].bytes_hex, mode);
      if (nonce) t.mock.method(crypto, "getRandomValues", (array) => (array.set(fromHex(nonce)), array));
      assert.equal(hex(await sealer.seal(plain)), wire, mode);
      t.mock.restoreAll();
      const altered = fromHex(wire);
      altered[altered.length >> 1] ^= 1;
      await assert.rejects(sealer.open(altered), (error) => error instanceof HubError && error.code === "security");
    }
  });
}

for (const codec of Object.keys(codecs)) {
  for (const [mode, security] of Object.entries(keysOf)) {
    test(`vectors through a connection: ${codec}, ${mode}`, async (t) => {
      const WebSocket = fakeWebSocket();
      const got = [];
      let complete;
      const all = new Promise((resolve) => (complete = resolve));
      const fromHub = file.messages.filter((vector) => vector.codec === codec && vector.from === "hub");
      const plain = fromHub.filter(({ type }) => !["ack", "error", "gap", "hub:goaway"].includes(type));
      const gaps = [];
      const errors = [];
      const client = new HubClient("ws://hub.test/", {
        WebSocket,
        codec,
        security,
        onMessage: (message) => got.push(fieldsOf(message)) === plain.length && complete(),
        onGap: (gap) => gaps.push([gap.channel, gap.room, gap.all, gap.reason]),
        onError: (error) => errors.push(error.code),
      });
      t.after(() => client.close());
      while (!WebSocket.last) await new Promise(setImmediate);
      const socket = WebSocket.last.accept();
      // The plain messages are last, because the test waits for them.
      const notices = fromHub.filter((vector) => !plain.includes(vector));
      for (const vector of [...notices, ...plain]) {
        const { frame, bytes_hex: wire } = vector.wire.find((entry) => entry.mode === mode);
        socket.deliverRaw(frame === "text" ? text(fromHex(wire)) : fromHex(wire));
      }
      await all;
      assert.deepEqual(got, plain.map(wantedOf));
      const control = (type) => fromHub.filter((vector) => vector.type === type).map((vector) => vector.control);
      assert.deepEqual(
        gaps,
        control("gap").map(({ channel = "", room_id: room = "", all, reason }) => [channel, room, all === "true", reason]),
      );
      assert.deepEqual(errors, ["bad_request"]);
      socket.drop(1000);
    });
  }
}

test("closeCodes equals the table of the vectors", () => {
  const reconnectOf = { yes: true, no: false, credentials: "credentials" };
  assert.deepEqual(
    Object.fromEntries(Object.entries(closeCodes).map(([code, { reconnect }]) => [code, reconnect])),
    Object.fromEntries(file.close_codes.map(({ code, reconnect }) => [code, reconnectOf[reconnect]])),
  );
});
