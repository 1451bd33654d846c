// Tests with testdata/vectors.json, with which the hub and its clients are tested too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { asJSON, codecs } from "./codecs.js";
import { sealerOf } from "./sealing.js";

const bytesOf = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const hexOf = (bytes) => Buffer.from(bytes).toString("hex");
const file = JSON.parse(readFileSync(new URL("../../testdata/vectors.json", import.meta.url), "utf8"));

const sealers = Object.fromEntries(
  await Promise.all(
    file.modes.map(async ({ name, aes, hmac, sign_then_encrypt: signThenEncrypt }) => [
      name,
      await sealerOf({
        aesKey: aes && bytesOf(file.aes_key_hex),
        hmacKey: hmac && bytesOf(file.hmac_key_hex),
        signThenEncrypt,
      }),
    ]),
  ),
);

/** Returns the value of a JSON payload, because JSON.stringify may format it differently. */
const payload = (vector, bytes) => (vector.codec === "json" ? (asJSON(bytes) ?? hexOf(bytes)) : hexOf(bytes));
const fieldsOf = (vector, message) => ({ ...message, data: payload(vector, message.data) });

for (const vector of file.messages) {
  test(`vector ${vector.name}/${vector.codec}`, async () => {
    const codec = codecs[vector.codec];
    const decode = (bytes) => codec.decode(codec.text ? Buffer.from(bytes).toString() : bytes);
    const data = bytesOf(vector.data_hex);
    const want = {
      type: vector.type,
      channel: vector.channel,
      data,
      timestamp: BigInt(vector.timestamp),
      clientId: vector.client_id,
      id: vector.id,
      ...(vector.room && { room: true }),
      ...(vector.except_self && { exceptSelf: true }),
      ...(vector.trace && { trace: vector.trace }),
    };
    const plain = bytesOf(vector.wire[0].bytes_hex);
    const got = decode(plain);
    assert.deepEqual(fieldsOf(vector, got), fieldsOf(vector, want));
    if (!codec.text) assert.deepEqual(codec.decode(codec.encode(want)), want);

    if (vector.type === "error") assert.deepEqual(codec.error(got.data), vector.control);
    if (vector.type === "gap") {
      const { all, ...control } = vector.control;
      const numbers = ["count", "first", "last"].map((key) => [key, Number(control[key])]);
      const want = { ...control, ...Object.fromEntries(numbers) };
      assert.deepEqual(codec.gap(got.data), all ? { ...want, all: true } : want);
    }
    if (vector.control && vector.from === "client") assert.equal(hexOf(codec.request(vector.control)), vector.data_hex);

    for (const { mode, nonce_hex: nonce, bytes_hex: wire } of vector.wire) {
      assert.equal(hexOf(await sealers[mode].open(bytesOf(wire))), vector.wire[0].bytes_hex, mode);
      assert.equal(hexOf(await sealers[mode].seal(plain, nonce && bytesOf(nonce))), wire, mode);
    }
  });
}
