import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { encode as msgpackEncode } from "@msgpack/msgpack";
import * as flatbuffers from "flatbuffers";
import protobuf from "protobufjs";

import { codecs, DecodeError, Message } from "../dist/hub.js";
import { oracles, WsMessage } from "./oracles.js";
import { Random, seed } from "./random.js";

const utf8 = new TextEncoder();
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const fromHex = (text) => Uint8Array.from(Buffer.from(text, "hex"));
const isText = (codec) => codec === codecs.json;
const toFrame = (codec, bytes) => (isText(codec) ? Buffer.from(bytes).toString() : bytes);
const toBytes = (frame) => (typeof frame === "string" ? utf8.encode(frame) : frame);

/** Converts a Message to the plain object that the oracles use. */
const plain = (message) => ({
  type: message.type,
  channel: message.channel,
  data: Uint8Array.from(message.bytes()),
  timestampNs: message.timestampNs,
  clientId: message.clientId,
  id: message.id,
});

const golden = JSON.parse(
  // Timestamps are quoted because JSON.parse rounds integers above 2^53.
  readFileSync(new URL("../../testdata/hypgo-wire.json", import.meta.url), "utf8").replace(
    /"timestamp": (-?\d+)/g,
    '"timestamp": "$1"',
  ),
);

/** Returns the fields to compare. JSON payloads are compared by value. */
const comparable = (message, codec) => {
  const fields = plain(message);
  if (isText(codec)) fields.data = message.json();
  return fields;
};

for (const vector of golden.cases.filter(({ kind, bytes_hex: bytes }) => kind === "codec" && bytes)) {
  const codec = codecs[vector.codec];
  const data = Uint8Array.from(Buffer.from(vector.data_base64, "base64"));
  const want = {
    type: vector.type,
    channel: vector.channel,
    data: isText(codec) ? JSON.parse(Buffer.from(data).toString() || "null") : data,
    timestampNs: BigInt(vector.timestamp),
    clientId: vector.client_id,
    id: "",
  };

  test(`golden ${vector.name}: decode`, () => {
    const message = codec.decode(toFrame(codec, fromHex(vector.bytes_hex)));
    assert.deepEqual(comparable(message, codec), want);
  });

  test(`golden ${vector.name}: encode`, () => {
    const again = codec.encode(codec.decode(toFrame(codec, fromHex(vector.bytes_hex))));
    assert.equal(hex(toBytes(again)), vector.bytes_hex);
    const made = codec.encode({ ...want, timestampNs: BigInt(vector.timestamp) });
    if (isText(codec)) assert.deepEqual(comparable(codec.decode(made), codec), want);
    else assert.equal(hex(made), vector.bytes_hex);
  });
}

test("golden binary payload, which HypGo's JSON codec cannot encode", () => {
  const vector = golden.cases.find(({ name }) => name === "binary-data/json");
  const data = Buffer.from(vector.data_base64, "base64");
  const frame = codecs.json.encode({ type: "message", channel: "bin", data, timestampNs: 7n, clientId: "b" });
  assert.equal(
    frame,
    '{"type":"message","channel":"bin","data":"AAECf4D+/w==","encoding":"base64","timestamp":7,"client_id":"b"}',
  );
  assert.deepEqual(codecs.json.decode(frame).bytes(), Uint8Array.from(data));
});

for (const [name, codec] of Object.entries(codecs)) {
  const oracle = oracles[name];

  test(`${name}: an independent decoder reads our frames (seed ${seed})`, () => {
    const random = new Random(1);
    for (let i = 0; i < 400; i++) {
      const want = random.message();
      assert.deepEqual(withSafeTimestamp(oracle.decode(codec.encode(want))), withSafeTimestamp(want));
    }

    function withSafeTimestamp(message) {
      // The oracle uses JSON.parse, which rounds timestamps.
      return name === "json" ? { ...message, timestampNs: BigInt(Number(message.timestampNs)) } : message;
    }
  });

  test(`${name}: our decoder reads the frames of an independent encoder (seed ${seed})`, () => {
    const random = new Random(2);
    for (let i = 0; i < 400; i++) {
      const want = random.message();
      assert.deepEqual(plain(codec.decode(oracle.encode(want))), want);
    }
  });

  test(`${name}: decoding any bytes returns a message or throws a DecodeError (seed ${seed})`, () => {
    const random = new Random(3);
    for (let i = 0; i < 4000; i++) {
      const [type, channel, clientId, id] = [3, 9, 4, 2].map((length) => random.text(length));
      const message = { type, channel, data: random.bytes(5), timestampNs: random.int64(), clientId, id };
      let bytes = Uint8Array.from(toBytes(codec.encode(message)));
      if (random.below(3) === 0) bytes = bytes.slice(0, random.below(bytes.length + 1));
      for (let n = random.below(4); n > 0; n--) bytes[random.below(bytes.length)] = random.below(256);
      if (random.below(10) === 0) bytes = random.bytes();
      try {
        assert.ok(codec.decode(toFrame(codec, bytes)) instanceof Message);
      } catch (error) {
        assert.ok(error instanceof DecodeError, `${error.stack} of ${hex(bytes)}`);
      }
    }
  });

  test(`${name}: a truncated frame is rejected or has a valid prefix of the fields`, () => {
    const frame = codec.encode({
      type: "message",
      channel: "c",
      data: utf8.encode("xyz"),
      timestampNs: 5n,
      clientId: "me",
      id: "7",
    });
    const whole = plain(codec.decode(frame));
    for (let length = 0; length < frame.length; length++) {
      let fields;
      try {
        fields = plain(codec.decode(frame.slice(0, length)));
      } catch (error) {
        assert.ok(error instanceof DecodeError, error);
        continue;
      }
      // Protobuf has no end mark; a FlatBuffer ends with a zero byte and padding, which may be missing.
      assert.ok(["protobuf", "flatbuffers"].includes(name), `${length} bytes`);
      if (name === "flatbuffers") assert.deepEqual(fields, whole);
      else for (const [key, value] of Object.entries(fields)) if (value.length > 0) assert.deepEqual(value, whole[key]);
    }
  });

  test(`${name}: 64-bit timestamps are exact`, () => {
    for (const timestampNs of [0n, 1n, -1n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)]) {
      assert.equal(codec.decode(codec.encode({ type: "t", timestampNs })).timestampNs, timestampNs);
    }
    assert.throws(() => codec.encode({ type: "t", timestampNs: 2n ** 63n }), RangeError);
    assert.throws(() => codec.encode({ type: "t", timestampNs: 1.5 }), TypeError);
  });

  test(`${name}: payloads`, () => {
    const through = (data) => codec.decode(codec.encode({ type: "t", data }));
    assert.deepEqual(through({ a: [1, "é", null] }).json(), { a: [1, "é", null] });
    assert.equal(through({ a: 1 }).text(), '{"a":1}');
    assert.deepEqual(through("text").json(), "text");
    assert.equal(through("text").text(), '"text"');
    assert.equal(through(0).json(), 0);
    assert.equal(through(false).json(), false);
    for (const empty of [null, undefined, new Uint8Array(0), { toJSON: () => null }]) {
      assert.equal(through(empty).json(), null);
      assert.equal(through(empty).text(), "");
      assert.equal(through(empty).bytes().length, 0);
    }
    const bytes = Uint8Array.of(0, 255, 128);
    for (const binary of [bytes, bytes.buffer, Buffer.from(bytes), new DataView(bytes.buffer), bytes.subarray(0)]) {
      assert.deepEqual(Uint8Array.from(through(binary).bytes()), bytes);
    }
    assert.deepEqual(through(new Uint16Array([258]).subarray(0)).bytes().length, 2);
    assert.throws(() => through(bytes).text(), DecodeError);
    assert.throws(() => through(utf8.encode("{")).json(), DecodeError);
    assert.deepEqual(through(utf8.encode(" [1] ")).text(), " [1] ");
    assert.equal(through(utf8.encode("\ufeffx")).text(), "\ufeffx");
    assert.throws(() => through(() => {}), TypeError);
    assert.throws(() => through(1n), TypeError);
    const message = through({ a: 1 });
    assert.equal(message.json(), message.json());
  });
}

test("text keeps a leading byte order mark", () => {
  const name = "\ufeffname";
  for (const codec of Object.values(codecs)) {
    const { type, channel, clientId, id } = codec.decode(
      codec.encode({ type: name, channel: name, clientId: name, id: name }),
    );
    assert.deepEqual([type, channel, clientId, id], [name, name, name, name]);
  }
});

test("timestamp is in milliseconds, for Date", () => {
  const message = new Message({ type: "t", timestampNs: 1_763_769_600_123_456_789n });
  assert.equal(message.timestamp, 1_763_769_600_123);
  assert.equal(new Date(message.timestamp).toISOString(), "2025-11-22T00:00:00.123Z");
});

test("json: a payload keeps its digits and formatting", () => {
  const payload = '{ "n" : 12345678901234567890.10, "data":{"timestamp":[1]} , "s":"\\u00e9}\\\\" }';
  const message = codecs.json.decode(
    ` \n{"timestamp" : 12 ,"x":[{"data":"no"},"]"], "data" : ${payload} ,\t"type":"a\\u0041" }\r\n`,
  );
  assert.equal(message.text(), payload);
  assert.equal(message.type, "aA");
  assert.equal(message.timestampNs, 12n);
});

test("json: the last of duplicate keys wins, as in JSON.parse", () => {
  const message = codecs.json.decode('{"type":"a","data":1,"timestamp":1,"data":2,"timestamp":2,"type":"b"}');
  assert.deepEqual([message.type, message.json(), message.text(), message.timestampNs], ["b", 2, "2", 2n]);
});

test("json: deep nesting and long strings are decoded", () => {
  const deep = "[".repeat(100_000) + "]".repeat(100_000);
  assert.equal(codecs.json.decode(`{"type":"t","data":${deep}}`).text(), deep);
  const long = JSON.stringify('"\\'.repeat(500_000));
  assert.equal(codecs.json.decode(`{"type":"t","data":${long}}`).text(), long);
});

test("json: absent and null fields are empty", () => {
  for (const frame of [
    "{}",
    '{"type":null,"channel":null,"data":null,"timestamp":null,"client_id":null,"id":null,"encoding":null}',
  ]) {
    assert.deepEqual(plain(codecs.json.decode(frame)), plain(new Message({})));
  }
});

test("json: invalid frames are rejected", () => {
  const rejected = {
    "": /json: /,
    "[]": /not an object/,
    null: /not an object/,
    1: /not an object/,
    "{": /json: /,
    "\ufeff{}": /json: /,
    '{"type":1}': /type is not a string/,
    '{"channel":[]}': /channel is not a string/,
    '{"client_id":{}}': /client_id is not a string/,
    '{"id":7}': /id is not a string/,
    '{"timestamp":1.5}': /timestamp is not an integer/,
    '{"timestamp":1e3}': /timestamp is not an integer/,
    '{"timestamp":"1"}': /timestamp is not an integer/,
    '{"timestamp":9223372036854775808}': /does not fit/,
    '{"timestamp":-9223372036854775809}': /does not fit/,
    '{"data":"AA==","encoding":"hex"}': /unknown encoding "hex"/,
    '{"data":5,"encoding":"base64"}': /data is not a string/,
    '{"data":"A","encoding":"base64"}': /not base64/,
    '{"data":"é","encoding":"base64"}': /not base64/,
  };
  for (const [frame, message] of Object.entries(rejected)) {
    assert.throws(
      () => codecs.json.decode(frame),
      (error) => error instanceof DecodeError && message.test(error.message),
      frame,
    );
  }
});

test("protobuf: unknown fields and wrong wire types are skipped, the last value wins", () => {
  const writer = protobuf.Writer.create();
  writer.uint32((1 << 3) | 2).string("first");
  writer.uint32((9 << 3) | 0).uint64(2 ** 50);
  writer.uint32((10 << 3) | 1).fixed64(1);
  writer.uint32((11 << 3) | 2).bytes(Uint8Array.of(1, 2, 3));
  writer.uint32((12 << 3) | 5).fixed32(1);
  writer.uint32((2 << 3) | 0).uint32(5); // channel as a varint
  writer.uint32((4 << 3) | 2).string("x"); // timestamp as bytes
  writer.uint32((2 ** 29 - 1) * 8).uint32(1);
  writer.uint32((1 << 3) | 2).string("last");
  const message = codecs.protobuf.decode(writer.finish());
  assert.deepEqual(plain(message), plain(new Message({ type: "last" })));
});

test("protobuf: zero values are omitted", () => {
  assert.equal(codecs.protobuf.encode({}).length, 0);
  assert.deepEqual(plain(codecs.protobuf.decode(new Uint8Array(0))), plain(new Message({})));
  assert.equal(hex(codecs.protobuf.encode({ type: "a" })), hex(WsMessage.encode({ type: "a" }).finish()));
});

test("protobuf: invalid frames are rejected", () => {
  const rejected = {
    "0a": /1 bytes wanted, 0 left/,
    "0a05616263": /5 bytes wanted, 3 left/,
    "0aff": /1 bytes wanted, 0 left/,
    "0affffffffffffffffff01": /bytes wanted/, // a length of 2^64-1
    "0affffffffffffffffff02": /longer than 64 bits/,
    "20ffffffffffffffffffff01": /longer than 64 bits/,
    "0a02c328": /field 1 is not valid UTF-8/,
    "3203ffffff": /field 6 is not valid UTF-8/,
    "00": /invalid field number/,
    "0201": /invalid field number/,
    8080808010: /invalid field number/, // 2^29
    "4b4c": /unknown wire type 3/,
    "4c": /unknown wire type 4/,
    "4e": /unknown wire type 6/,
    4901: /8 bytes wanted/,
    "4d01": /4 bytes wanted/,
  };
  for (const [bytes, message] of Object.entries(rejected)) {
    assert.throws(
      () => codecs.protobuf.decode(fromHex(bytes)),
      (error) => error instanceof DecodeError && message.test(error.message),
      bytes,
    );
  }
});

test(`flatbuffers: our bytes equal the official builder's (seed ${seed})`, () => {
  const random = new Random(4);
  for (let i = 0; i < 400; i++) {
    const message = random.message();
    assert.equal(hex(codecs.flatbuffers.encode(message)), hex(oracles.flatbuffers.encode(message)));
  }
});

test("flatbuffers: any valid layout is decoded", () => {
  const builder = new flatbuffers.Builder(16);
  const id = builder.createString("the id");
  const type = builder.createString("the type");
  builder.startObject(9);
  builder.addFieldOffset(5, id, 0);
  builder.addFieldInt8(8, 1, 0); // a field of a later schema
  builder.addFieldOffset(0, type, 0);
  builder.addFieldInt64(3, -2n, 0n);
  builder.finish(builder.endObject());
  const frame = builder.asUint8Array();
  assert.deepEqual(
    plain(codecs.flatbuffers.decode(frame)),
    plain(new Message({ type: "the type", id: "the id", timestampNs: -2n })),
  );
  const shifted = new Uint8Array(frame.length + 3);
  shifted.set(frame, 3);
  assert.equal(codecs.flatbuffers.decode(shifted.subarray(3)).id, "the id");
});

test("flatbuffers: invalid frames are rejected", () => {
  const good = codecs.flatbuffers.encode({ type: "message", channel: "c", data: utf8.encode("xyz"), timestampNs: 5n });
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset);
  const table = view(good).getUint32(0, true);
  const vtable = table - view(good).getInt32(table, true);
  const field = (slot) => table + view(good).getUint16(vtable + 4 + 2 * slot, true);
  const rejected = {
    "no bytes": [() => new Uint8Array(0), /root offset/],
    "huge root offset": [() => fromHex("ffffff7f"), /table at byte 2147483647/],
    "negative root": [() => fromHex("ffffffff"), /table/],
    "vtable before the buffer": [(b) => view(b).setInt32(table, 0x7fffffff, true), /vtable at byte -/],
    "vtable behind the buffer": [(b) => view(b).setInt32(table, -0x80000000, true), /vtable/],
    "vtable too small": [(b) => view(b).setUint16(vtable, 2, true), /impossible vtable size 2/],
    "odd vtable": [(b) => view(b).setUint16(vtable, 15, true), /impossible vtable size 15/],
    "vtable too long": [(b) => view(b).setUint16(vtable, 0xfffe, true), /vtable/],
    "field behind the buffer": [(b) => view(b).setUint16(vtable + 4, 0xffff, true), /type at byte/],
    "timestamp behind the buffer": [
      (b) => view(b).setUint16(vtable + 10, b.length - table - 7, true),
      /timestamp at byte/,
    ],
    "string behind the buffer": [(b) => view(b).setUint32(field(0), 0xffffffff, true), /type at byte/],
    "endless string": [
      (b) => view(b).setUint32(field(1) + view(b).getUint32(field(1), true), 0xffffffff, true),
      /channel at byte/,
    ],
    "endless vector": [
      (b) => view(b).setUint32(field(2) + view(b).getUint32(field(2), true), 0x7fffffff, true),
      /data at byte/,
    ],
    "string not UTF-8": [
      (b) => (b[field(0) + view(b).getUint32(field(0), true) + 4] = 0xff),
      /type is not valid UTF-8/,
    ],
  };
  for (const [name, [change, message]] of Object.entries(rejected)) {
    const copy = Uint8Array.from(good);
    const changed = change(copy);
    const frame = changed instanceof Uint8Array ? changed : copy;
    assert.throws(
      () => codecs.flatbuffers.decode(frame),
      (error) => error instanceof DecodeError && message.test(error.message),
      name,
    );
  }
});

test("msgpack: keys may be in any order, and unknown keys are skipped with any value", () => {
  const extra = {
    nothing: null,
    flags: [true, false],
    numbers: [1, -1, 127, 128, 255, 256, 65536, 2 ** 33, -32, -33, -129, -40000, -(2 ** 33), 1.5],
    texts: ["", "a".repeat(31), "a".repeat(32), "a".repeat(300), "a".repeat(70_000)],
    blobs: [new Uint8Array(3), new Uint8Array(300), new Uint8Array(70_000)],
    lists: [Array(15).fill(0), Array(16).fill([]), Array(70_000).fill(1)],
    maps: [{}, Object.fromEntries(Array.from({ length: 20 }, (_, i) => [i, { i }]))],
    date: new Date(),
  };
  const frame = msgpackEncode({ id: "7", a: extra, client_id: "me", data: "text", b: extra, timestamp: 5, type: "t" });
  assert.deepEqual(
    plain(codecs.msgpack.decode(frame)),
    plain(new Message({ id: "7", clientId: "me", data: utf8.encode("text"), timestampNs: 5n, type: "t" })),
  );
});

test("msgpack: integers of every size are decoded", () => {
  const frame = (integer) => fromHex(`81a974696d657374616d70${integer}`);
  const integers = {
    "7f": 127n,
    e0: -32n,
    c0: 0n,
    ccff: 255n,
    cdffff: 65_535n,
    ceffffffff: 4_294_967_295n,
    cf7fffffffffffffff: 2n ** 63n - 1n,
    d080: -128n,
    d18000: -32_768n,
    d280000000: -2_147_483_648n,
    d38000000000000000: -(2n ** 63n),
  };
  for (const [bytes, want] of Object.entries(integers))
    assert.equal(codecs.msgpack.decode(frame(bytes)).timestampNs, want);
});

test("msgpack: extensions of every size are skipped", () => {
  const key = "a178";
  const id = "a26964a137";
  const zeros = (n) => "00".repeat(n);
  const extensions = [
    `d4${zeros(2)}`,
    `d5${zeros(3)}`,
    `d6${zeros(5)}`,
    `d7${zeros(9)}`,
    `d8${zeros(17)}`,
    `c70201${zeros(2)}`,
    `c8000301${zeros(3)}`,
    `c90000000401${zeros(4)}`,
  ];
  for (const extension of extensions) {
    assert.equal(codecs.msgpack.decode(fromHex(`82${key}${extension}${id}`)).id, "7", extension);
  }
});

test("msgpack: deep nesting does not overflow the stack", () => {
  const depth = 1_000_000;
  const frame = new Uint8Array(3 + depth + 1).fill(0x91);
  frame.set(fromHex("81a178"));
  frame[frame.length - 1] = 0xc0;
  assert.equal(codecs.msgpack.decode(frame).id, "");
});

test("msgpack: invalid frames are rejected", () => {
  const rejected = {
    "": /1 bytes wanted/,
    c0: /not a map/,
    "91c0": /not a map/,
    81: /1 bytes wanted/,
    dfffffffff: /1 bytes wanted/,
    de0001: /1 bytes wanted/,
    "8101c0": /map key is not a string/,
    "81c40178c0": /map key is not a string/,
    "81a47479706501": /type is not a string/,
    "81a474797065c40161": /type is not a string/,
    "81a474797065a1ff": /type is not valid UTF-8/,
    "81a1ffc0": /map key is not valid UTF-8/,
    "81a46461746101": /data is not a string or bin/,
    "81a464617461c4ff00": /255 bytes wanted, 1 left/,
    "81a464617461c6ffffffff00": /4294967295 bytes wanted/,
    "81a974696d657374616d70cb3ff0000000000000": /timestamp is not an integer/,
    "81a974696d657374616d70cfffffffffffffffff": /does not fit/,
    "81a974696d657374616d70d300": /8 bytes wanted/,
    "81a178c1": /unknown format byte/,
    "81a178ddffffffff": /1 bytes wanted/,
    "81a178dfffffffff": /1 bytes wanted/,
    "81a178c9ffffffff": /bytes wanted/,
    8000: /bytes after the message/,
  };
  for (const [bytes, message] of Object.entries(rejected)) {
    assert.throws(
      () => codecs.msgpack.decode(fromHex(bytes)),
      (error) => error instanceof DecodeError && message.test(error.message),
      bytes,
    );
  }
});
