import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { codecs, DecodeError, fromBase64, fromHex, HubError, Sealer } from "../dist/hub.js";
import { OracleSealer } from "./oracles.js";
import { Random, seed } from "./random.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const golden = JSON.parse(readFileSync(new URL("../../testdata/hypgo-wire.json", import.meta.url)));

const securityError = (error) => error instanceof HubError && error.code === "security";

for (const vector of golden.cases.filter(({ kind }) => kind === "security")) {
  const keys = {
    aesKey: vector.aes_key_hex && fromHex(vector.aes_key_hex),
    hmacKey: vector.hmac_key_hex && fromHex(vector.hmac_key_hex),
    signThenEncrypt: vector.order !== "encrypt-then-sign",
  };

  test(`golden ${vector.name}`, async () => {
    const sealer = new Sealer(keys);
    const plain = await sealer.open(fromHex(vector.wire_hex));
    assert.equal(hex(plain), vector.plaintext_hex);
    codecs[vector.codec].decode(vector.codec === "json" ? Buffer.from(plain).toString() : plain);

    const sealed = await sealer.seal(plain);
    assert.equal(sealed.length, vector.wire_hex.length / 2);
    assert.equal(sealed.length, plain.length + sealer.overhead);
    assert.equal(hex(new OracleSealer(keys).open(sealed)), vector.plaintext_hex);
  });
}

const random = new Random(10);
const aesKey = random.bytes(32);
const hmacKey = random.bytes(20);
const setups = {
  "aes only": { aesKey },
  "hmac only": { hmacKey },
  "sign then encrypt": { aesKey, hmacKey },
  "encrypt then sign": { aesKey, hmacKey, signThenEncrypt: false },
};

for (const [name, keys] of Object.entries(setups)) {
  test(`${name}: node:crypto opens our sealed messages, and we open its (seed ${seed})`, async () => {
    const sealer = new Sealer(keys);
    const oracle = new OracleSealer(keys);
    for (let i = 0; i < 50; i++) {
      const plain = random.bytes();
      assert.equal(hex(oracle.open(await sealer.seal(plain))), hex(plain));
      assert.equal(hex(await sealer.open(oracle.seal(plain))), hex(plain));
    }
  });

  test(`${name}: altered and truncated messages are rejected`, async () => {
    const sealer = new Sealer(keys);
    const sealed = await sealer.seal(random.bytes(5));
    for (let i = 0; i < sealed.length; i++) {
      const altered = Uint8Array.from(sealed);
      altered[i] ^= 1 << random.below(8);
      await assert.rejects(sealer.open(altered), securityError);
      await assert.rejects(sealer.open(sealed.slice(0, i)), securityError);
    }
  });

  test(`${name}: messages sealed with other keys are rejected`, async () => {
    const others = { ...keys };
    for (const key of ["aesKey", "hmacKey"]) if (keys[key]) others[key] = random.bytes(32);
    await assert.rejects(new Sealer(others).open(await new Sealer(keys).seal(random.bytes(9))), securityError);
  });
}

test("messages sealed in the other order are rejected", async () => {
  const sealed = await new Sealer(setups["sign then encrypt"]).seal(random.bytes(9));
  await assert.rejects(new Sealer(setups["encrypt then sign"]).open(sealed), securityError);
});

test("nonces are not repeated", async () => {
  const sealer = new Sealer({ aesKey });
  const nonces = new Set();
  for (let i = 0; i < 500; i++) nonces.add(hex((await sealer.seal(new Uint8Array(1))).subarray(0, 12)));
  assert.equal(nonces.size, 500);
});

test("the caller may wipe its keys after the constructor returned", async () => {
  const wiped = { aesKey: aesKey.slice(), hmacKey: hmacKey.slice() };
  const sealer = new Sealer(wiped);
  wiped.aesKey.fill(0);
  wiped.hmacKey.fill(0);
  assert.equal(hex(new OracleSealer({ aesKey, hmacKey }).open(await sealer.seal(Uint8Array.of(7)))), "07");
});

test("invalid keys are rejected", () => {
  assert.throws(() => new Sealer({}), /needs an aesKey, an hmacKey or both/);
  assert.throws(() => new Sealer({ aesKey: new Uint8Array(16) }), /aesKey is not 32 bytes/);
  assert.throws(() => new Sealer({ aesKey: new Uint8Array(31) }), /aesKey is not 32 bytes/);
  assert.throws(() => new Sealer({ hmacKey: new Uint8Array(0) }), /hmacKey is empty/);
  assert.throws(() => new Sealer({ hmacKey: "secret" }), /a key must be bytes/);
  assert.throws(() => new Sealer({ aesKey: "ab".repeat(32) }), /a key must be bytes/);
});

test("the error explains why WebCrypto is missing", (t) => {
  const crypto = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  t.after(() => Object.defineProperty(globalThis, "crypto", crypto));
  Object.defineProperty(globalThis, "crypto", { value: {}, configurable: true });
  assert.throws(
    () => new Sealer({ aesKey }),
    (error) => securityError(error) && /https/.test(error.message),
  );
});

test("fromHex and fromBase64 decode keys", () => {
  assert.equal(hex(fromHex("00ffAB")), "00ffab");
  assert.equal(hex(fromBase64("AP+r")), "00ffab");
  for (const text of ["0", "0g", "zz"]) assert.throws(() => fromHex(text), DecodeError);
  assert.throws(() => fromBase64("*"), DecodeError);
});
