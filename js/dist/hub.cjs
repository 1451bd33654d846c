"use strict";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/index.ts
var index_exports = {};
__export(index_exports, {
  DecodeError: () => DecodeError,
  HubClient: () => HubClient,
  HubError: () => HubError,
  Message: () => Message,
  NoTokenError: () => NoTokenError,
  Sealer: () => Sealer,
  closeCodes: () => closeCodes,
  codecs: () => codecs,
  connect: () => connect,
  flatbuffers: () => flatbuffers,
  fromBase64: () => fromBase64,
  fromHex: () => fromHex,
  json: () => json,
  msgpack: () => msgpack,
  protobuf: () => protobuf
});
module.exports = __toCommonJS(index_exports);

// src/errors.ts
var HubError = class extends Error {
  constructor(code, message, options = {}) {
    super(message);
    /** True if the hub may have carried out the call although it rejected. */
    this.outcomeUnknown = false;
    this.name = "HubError";
    this.code = code;
    this.target = options.target;
    if (options.cause !== void 0) this.cause = options.cause;
  }
};
var DecodeError = class extends HubError {
  constructor(message, cause) {
    super("malformed", message, { cause });
    this.name = "DecodeError";
  }
};
var NoTokenError = class extends HubError {
  constructor(message = "no token", options) {
    super("no_token", message, options);
    this.name = "NoTokenError";
  }
};

// src/bytes.ts
var encoder = /* @__PURE__ */ new TextEncoder();
var decoder = /* @__PURE__ */ new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
var noBytes = /* @__PURE__ */ new Uint8Array(0);
var encodeUTF8 = (text) => encoder.encode(text);
function decodeUTF8(bytes, label) {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    throw new DecodeError(`${label} is not valid UTF-8`, error);
  }
}
var cutUTF8 = (text, size) => text.slice(0, encoder.encodeInto(text, new Uint8Array(size)).read);
var isBytes = (data) => ArrayBuffer.isView(data) || /Buffer]$/.test(Object.prototype.toString.call(data));
var viewOf = (data) => ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
function concat(a, b) {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
function toBase64(bytes) {
  const chunk = 32768;
  let binary = "";
  for (let i = 0; i < bytes.length; i += chunk) {
    binary += String.fromCharCode(...bytes.subarray(i, i + chunk));
  }
  return btoa(binary);
}
function fromBase64(text) {
  let binary;
  try {
    binary = atob(text);
  } catch (error) {
    throw new DecodeError("not base64", error);
  }
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}
function fromHex(text) {
  if (text.length % 2 !== 0 || /[^0-9a-f]/i.test(text)) throw new DecodeError("not hexadecimal");
  return Uint8Array.from(
    { length: text.length / 2 },
    (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16)
  );
}

// src/json-text.ts
function parseObject(text, label) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new DecodeError(`${label}: ${error.message}`, error);
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new DecodeError(`${label}: not an object`);
  }
  return fields;
}
function stringField(fields, key) {
  const value = fields[key] ?? "";
  if (typeof value !== "string") throw new DecodeError(`json: ${key} is not a string`);
  return value;
}
function integerSource(sources, key) {
  const source = sources.get(key) ?? "null";
  if (source === "null") return BigInt(0);
  if (!/^-?\d{1,20}$/.test(source)) throw new DecodeError(`json: ${key} is not an integer`);
  const value = BigInt(source);
  if (BigInt.asIntN(64, value) !== value) throw new DecodeError(`json: ${key} does not fit in 64 bits`);
  return value;
}
function memberSources(text) {
  const sources = /* @__PURE__ */ new Map();
  let depth = 0;
  let key = "";
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"':
        i = endOfString(text, i);
        break;
      case ":":
        if (depth !== 1) break;
        key = JSON.parse(text.slice(start, i));
        start = i + 1;
        break;
      case "{":
      case "[":
        if (depth++ === 0) start = i + 1;
        break;
      case "}":
      case "]":
        depth--;
      // fall through
      case ",":
        if (depth > 1 || depth === 1 && text[i] !== ",") break;
        sources.set(key, text.slice(start, i).trim());
        start = i + 1;
    }
  }
  return sources;
}
function endOfString(text, i) {
  for (; ; ) {
    i = text.indexOf('"', i + 1);
    let start = i;
    while (text[start - 1] === "\\") start--;
    if ((i - start) % 2 === 0) return i;
  }
}

// src/notices.ts
function plain(fields) {
  const all = {};
  for (const [key, value] of Object.entries(fields)) all[key] = typeof value === "bigint" ? `${value}` : value;
  return all;
}
var Notice = class {
  constructor(fields) {
    Object.assign(this, fields);
  }
  /** Returns the fields with BigInts as text. */
  toJSON() {
    return plain(this);
  }
};

// src/message.ts
var values = /* @__PURE__ */ new WeakMap();
var Message = class {
  constructor(fields) {
    const { type = "", channel = "", data, payload = encodePayload(data), clientId = "", id = "" } = fields;
    const { timestampNs = BigInt(0), exceptSelf = false } = fields;
    if (BigInt.asIntN(64, timestampNs) !== timestampNs) {
      throw new RangeError(`${timestampNs} does not fit in 64 bits`);
    }
    this.type = type;
    this.channel = channel;
    this.payload = payload;
    this.timestampNs = timestampNs;
    this.clientId = clientId;
    this.id = id;
    this.exceptSelf = exceptSelf;
  }
  /** The hub's time in Unix milliseconds, for `new Date()`. */
  get timestamp() {
    return Number(this.timestampNs / BigInt(1e6));
  }
  /**
   * Returns the payload parsed as JSON, or null if it is empty. Throws a
   * DecodeError if it is not JSON. Every call returns the same object.
   */
  json() {
    if (!this.payload.length) return null;
    if (!values.has(this)) {
      try {
        values.set(this, JSON.parse(this.text()));
      } catch (error) {
        throw error instanceof DecodeError ? error : new DecodeError("payload is not JSON", error);
      }
    }
    return values.get(this);
  }
  /** Returns the payload as bytes. The array may belong to the message: copy it before changing it. */
  bytes() {
    return typeof this.payload === "string" ? encodeUTF8(this.payload) : this.payload;
  }
  /** Returns the payload as text; a JSON string keeps its quotes. Throws a DecodeError if it is not UTF-8. */
  text() {
    return typeof this.payload === "string" ? this.payload : decodeUTF8(this.payload, "payload");
  }
  /** Returns the fields, with the payload as JSON, or as base64 and `encoding: "base64"`, in `data`. */
  toJSON() {
    let data, encoding;
    try {
      data = this.json();
    } catch {
      data = toBase64(this.bytes());
      encoding = "base64";
    }
    return plain({ ...this, payload: void 0, data, encoding });
  }
};
function encodePayload(data) {
  if (data === void 0 || data === null) return noBytes;
  if (isBytes(data)) return viewOf(data);
  const text = JSON.stringify(data, (key, value) => {
    if (isJSON(value)) return value;
    throw new TypeError(`data ${key && `(${key}) `}is no JSON value: ${Object.prototype.toString.call(value)}`);
  });
  return text && text !== "null" ? text : noBytes;
}
function isJSON(value) {
  if (typeof value === "number") return isFinite(value);
  if (typeof value !== "object") return typeof value !== "function" && typeof value !== "symbol";
  const prototype = value && Object.getPrototypeOf(value);
  return Array.isArray(value) || !prototype || !Object.getPrototypeOf(prototype);
}
function setValue(message, value) {
  values.set(message, value);
  return message;
}

// src/codec.ts
var asMessage = (message) => message instanceof Message ? message : new Message(message);
var encodedTexts = ({ type, channel, clientId, id }) => [type, channel, clientId, id].map(encodeUTF8);
var jsonTarget = (key, name) => ({ [key]: name });
function jsonError(message) {
  const fields = parseObject(message.text(), "error reply");
  return { code: stringField(fields, "code"), message: stringField(fields, "message") };
}
function jsonGap(message) {
  const text = message.text();
  const fields = parseObject(text, "gap notice");
  const sources = memberSources(text);
  return {
    channel: stringField(fields, "channel"),
    room: stringField(fields, "room_id"),
    all: fields.all === true,
    count: Number(integerSource(sources, "count")),
    firstNs: integerSource(sources, "first"),
    lastNs: integerSource(sources, "last"),
    reason: stringField(fields, "reason")
  };
}

// src/codec-json.ts
var json = {
  name: "json",
  text: true,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,
  encode(fields) {
    const { type, channel, payload, timestampNs, clientId, id, exceptSelf } = asMessage(fields);
    let text = `{"type":${JSON.stringify(type)}`;
    if (channel) text += `,"channel":${JSON.stringify(channel)}`;
    text += `,"data":${payloadSource(payload)},"timestamp":${timestampNs}`;
    if (clientId) text += `,"client_id":${JSON.stringify(clientId)}`;
    if (id) text += `,"id":${JSON.stringify(id)}`;
    if (exceptSelf) text += `,"except_self":true`;
    return text + "}";
  },
  decode(text) {
    const fields = parseObject(text, "json");
    const sources = memberSources(text);
    const field = (key) => stringField(fields, key);
    const encoding = field("encoding");
    const { data } = fields;
    let payload = noBytes;
    if (encoding === "base64") payload = fromBase64(field("data"));
    else if (encoding) throw new DecodeError(`json: unknown encoding ${JSON.stringify(encoding)}`);
    else if (data !== void 0 && data !== null) payload = sources.get("data");
    const message = new Message({
      type: field("type"),
      channel: field("channel"),
      payload,
      timestampNs: integerSource(sources, "timestamp"),
      clientId: field("client_id"),
      id: field("id")
    });
    return encoding ? message : setValue(message, data);
  }
};
function payloadSource(payload) {
  if (typeof payload === "string") return payload;
  return payload.length ? `"${toBase64(payload)}","encoding":"base64"` : "null";
}

// src/check.ts
var kinds = {
  ack: "boolean",
  backoff: "object",
  base: 1,
  channel: "string",
  codec: "encode",
  exceptSelf: "boolean",
  handshakeTimeout: 1,
  heartbeat: 0,
  max: 1,
  maxMessageSize: 1,
  maxPending: 1,
  maxQueuedBytes: 1,
  resetAfter: 0,
  security: "pipe",
  signal: "addEventListener",
  timeout: 1,
  token: "string",
  volatile: "boolean"
};
var functions = /^(on[A-Z]\w+|getToken|WebSocket|shouldReconnect)$/;
function check(options, defaults) {
  const all = { ...defaults };
  for (const name in options) {
    const value = options[name];
    const kind = kinds[name] ?? (functions.test(name) ? "function" : NaN);
    if (value === void 0) continue;
    if (value === null || !(typeof kind === "number" ? value >= kind && typeof value === "number" : typeof value === kind || value[kind])) {
      throw new TypeError(`invalid option ${name}: ${value}`);
    }
    all[name] = value;
  }
  return all;
}
function checkOptions(options) {
  const all = check(options, {
    codec: json,
    WebSocket: globalThis.WebSocket,
    timeout: 1e4,
    handshakeTimeout: 1e4,
    maxPending: 1024,
    maxQueuedBytes: 4 << 20
  });
  all.backoff = check(all.backoff, { base: 500, max: 3e4, resetAfter: 1e4 });
  if (!all.WebSocket) throw new TypeError("this platform has no WebSocket; pass a class as the WebSocket option");
  return all;
}
function checkName(name) {
  try {
    if (typeof name === "string" && encodeURIComponent(name)) return name;
  } catch {
  }
  throw new TypeError("a name must be non-empty, well-formed text");
}
function checkFunction(value) {
  if (typeof value !== "function") throw new TypeError("a handler must be a function");
}

// src/backoff.ts
var backoff = (failures, base, max) => Math.random() * Math.min(max, 2 ** 31 - 1, base * 2 ** failures);

// src/timers.ts
var clock = () => performance.now();
var after = (ms, task) => ms < 2 ** 31 ? setTimeout(task, ms) : void 0;
var cancel = (timer) => clearTimeout(timer);

// src/calls.ts
var noop = () => {
};
function createCalls(client) {
  const { outbox, options, encode: encode2, measure, transmit, checkNotClosed, timedOut, isOwnEnd } = client;
  const calls = /* @__PURE__ */ new Set();
  const replies = /* @__PURE__ */ new Map();
  let lastId = 0;
  const request = (fields, ack, error = noop, send = outbox.add) => {
    const id = `${++lastId}`;
    const item = { ...measure({ ...fields, id }), awaited: true };
    replies.set(id, { item, ack, error, lost: noop });
    send(item);
  };
  const call = (fields, { timeout = options.timeout, signal }, acked = noop, leaving) => {
    checkNotClosed();
    const newAborted = () => new HubError("aborted", "the call was aborted", { cause: signal.reason });
    if (signal?.aborted) throw newAborted();
    if (!leaving && calls.size >= options.maxPending) {
      throw new HubError("overflow", `${calls.size} calls are waiting for a reply`);
    }
    const id = `${++lastId}`;
    const item = { ...encode2({ ...fields, id }), awaited: true };
    let settle;
    const promise = new Promise((...both) => settle = both);
    const finish = (error) => {
      if (!calls.delete(fail)) return;
      cancel(timer);
      signal?.removeEventListener("abort", abort);
      replies.delete(id);
      outbox.remove(item);
      if (isOwnEnd()) promise.catch(noop);
      if (error) settle[1](error);
      else settle[0]();
    };
    const fail = (error) => {
      error.outcomeUnknown = Boolean(item.sent);
      finish(error);
    };
    const abort = () => fail(newAborted());
    const timer = after(timeout, () => {
      fail(new HubError("timeout", `no reply within ${timeout} ms`));
      timedOut();
    });
    calls.add(fail);
    signal?.addEventListener("abort", abort);
    replies.set(id, {
      item,
      ack() {
        acked();
        finish();
      },
      error: finish,
      lost: leaving ? () => finish() : fail,
      keep: !leaving
    });
    try {
      transmit(item);
    } catch (error) {
      fail(error);
    }
    return promise;
  };
  return {
    request,
    call,
    /** Returns what to do with a reply, once. A call that timed out or was aborted has nothing to do. */
    take(id) {
      const reply = replies.get(id);
      replies.delete(id);
      return reply;
    },
    /** Ends the requests that were sent on a lost connection. */
    lost(newError) {
      for (const [id, { item, keep, lost }] of replies) {
        if (keep && !item.sent) continue;
        replies.delete(id);
        outbox.remove(item);
        lost(newError());
      }
    },
    /** Ends all requests. */
    end(newError) {
      for (const fail of [...calls]) fail(newError());
      replies.clear();
    }
  };
}

// src/close-codes.ts
var reconnectCodes = [1001, 1005, 1006, 1011, 1012, 1013, 3008];
var names = {
  1e3: "normal",
  1001: "going away",
  1002: "protocol error",
  1003: "wrong frame type",
  1005: "no code",
  1006: "abnormal",
  1007: "malformed message",
  1008: "policy violation",
  1009: "message too big",
  1011: "internal error",
  1012: "service restart",
  1013: "try again later",
  3e3: "unauthorized",
  3003: "forbidden",
  3008: "timeout",
  4409: "replaced"
};
var closeCodes = /* @__PURE__ */ (() => {
  const all = {};
  for (const code of Object.keys(names).map(Number)) {
    const reconnect = code === 3e3 ? "credentials" : reconnectCodes.includes(code);
    all[code] = Object.freeze({ name: names[code], reconnect });
  }
  return Object.freeze(all);
})();

// src/heartbeat.ts
var probeTimeout = 5e3;
function createHeartbeat(ping, lost) {
  let interval = Infinity;
  let running = false;
  let heardAt = 0;
  let waiting = 0;
  let timer;
  const arm = (ms) => {
    cancel(timer);
    timer = after(ms, check2);
  };
  const check2 = () => {
    const quiet = clock() - heardAt;
    if (waiting) lost(waiting);
    else if (quiet < interval) arm(interval - quiet);
    else probe(interval);
  };
  const probe = (wait) => {
    if (!running || waiting) return;
    waiting = wait;
    arm(wait);
    ping();
  };
  return {
    /** Begins with the hub's reply that it answers pings. */
    start(ms) {
      interval = ms || Infinity;
      running = true;
      arm(interval);
    },
    /** Records that a frame was received. */
    heard() {
      heardAt = clock();
      if (waiting) arm(interval);
      waiting = 0;
    },
    /** Checks at once whether the connection is alive. */
    probe: () => probe(Math.min(interval, probeTimeout)),
    stop: () => {
      running = false;
      cancel(timer);
    }
  };
}

// src/connection.ts
var closeTimeout = 1e3;
function openConnection(socket, codec, sealer, on) {
  let finished = false;
  let failure;
  const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
  const finish = () => {
    finished = true;
    heartbeat.stop();
  };
  const end = (close) => {
    if (finished) return false;
    finish();
    on.ended(close);
    return true;
  };
  const closeSocket = async (code, reason) => {
    let timer;
    const timedOut = new Promise((resolve) => timer = setTimeout(resolve, closeTimeout));
    socket.close(code, cutUTF8(reason, 123));
    await Promise.race([closed, timedOut]);
    cancel(timer);
    socket.terminate?.();
  };
  const fail = (code, error) => {
    const reason = error.message;
    if (end({ code, reason, error })) void closeSocket(code < 3e3 ? code + 3e3 : code, reason);
  };
  const heartbeat = createHeartbeat(
    () => on.ping(),
    (ms) => fail(3008, new HubError("timeout", `received nothing for ${ms} ms after a ping`))
  );
  const heard = () => {
    connection.received = Date.now();
    heartbeat.heard();
  };
  const deliver = (frame) => {
    if (finished) return;
    try {
      if (typeof frame === "string" !== codec.text) {
        const want = codec.text ? "text; does the hub seal messages?" : "binary";
        fail(1003, new HubError("malformed", `the hub's frame is not ${want}`));
      } else {
        on.message(codec.decode(frame));
      }
    } catch (error) {
      fail(1007, error);
    }
  };
  const pipe = sealer?.pipe({ send: (frame) => socket.send(frame), deliver, fail, text: codec.text });
  const connection = {
    /** When the last frame arrived or the connection opened, in Unix milliseconds; 0 before that. */
    received: 0,
    fail,
    heartbeat,
    /** Returns the number of bytes that were passed to send but not written to the network yet. */
    buffered: () => (pipe?.waiting ?? 0) + socket.bufferedAmount,
    send: (frame) => (pipe ?? socket).send(frame),
    /**
     * Closes the connection after sending the frames passed to send before. It calls
     * no event. Resolves when the socket is closed or was terminated.
     */
    async close(code, reason) {
      finish();
      await pipe?.sent;
      await closeSocket(code, reason);
    }
  };
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => {
    if (finished) return;
    const { protocol } = socket;
    if (protocol !== codec.name && (protocol || codec.name !== "json")) {
      fail(1002, new HubError("malformed", `the server selected subprotocol "${protocol}", not "${codec.name}"`));
      return;
    }
    heard();
    on.opened();
  });
  socket.addEventListener("message", ({ data }) => {
    if (finished) return;
    heard();
    (pipe ? pipe.receive : deliver)(typeof data === "string" ? data : new Uint8Array(data));
  });
  socket.addEventListener("error", ({ error, message }) => {
    failure = error ?? (message ? new Error(message) : void 0);
    if (!connection.received) end({ code: 1006, reason: "", error: failure });
  });
  socket.addEventListener("close", ({ code, reason }) => {
    const task = () => end({ code, reason, error: failure });
    if (pipe) pipe.inOrder(task);
    else task();
  });
  socket.on?.("ping", heard);
  return connection;
}

// src/listeners.ts
var callbackNames = {
  statechange: "onStateChange",
  message: "onMessage",
  gap: "onGap",
  resumed: "onResumed",
  error: "onError"
};
function createListeners(callbacks, options) {
  for (const name of Object.values(callbackNames)) callbacks[name] = options[name];
  const all = {};
  const warned = /* @__PURE__ */ new Set();
  const run = (callback, argument, failed = fail) => {
    try {
      const result = callback(argument);
      if (typeof result?.then === "function") result.then(void 0, failed);
    } catch (cause) {
      failed(cause);
    }
  };
  const fail = (cause) => {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    report(new HubError("handler", `a handler failed${why}`, { cause }));
  };
  const emit = (type, detail) => {
    const listeners = [callbacks[callbackNames[type]], ...all[type] ?? []].filter(Boolean);
    for (const listener of listeners) run(listener, detail, type === "error" ? console.error : fail);
    return listeners.length > 0;
  };
  const report = (error) => {
    if (emit("error", error) || warned.has(error.code)) return;
    warned.add(error.code);
    console.warn(error);
  };
  const off = (type, listener) => {
    all[type]?.delete(listener);
  };
  const on = (type, listener, options2) => {
    if (!(type in callbackNames)) throw new TypeError(`there is no event ${type}`);
    checkFunction(listener);
    const { signal } = check(options2);
    const end = () => off(type, listener);
    if (!signal?.aborted) (all[type] ?? (all[type] = /* @__PURE__ */ new Set())).add(listener);
    signal?.addEventListener("abort", end);
    return end;
  };
  return { run, emit, report, on, off };
}

// src/network.ts
function watchNetwork(changed) {
  const scope = globalThis;
  const { document, navigator } = scope;
  const shown = () => document.visibilityState === "visible" && changed();
  const targets = [
    [scope, "online", changed],
    [scope, "offline", changed],
    [document, "visibilitychange", shown],
    [navigator?.connection, "change", changed]
  ];
  for (const [target, type, listener] of targets) target?.addEventListener?.(type, listener);
  return () => {
    for (const [target, type, listener] of targets) target?.removeEventListener?.(type, listener);
  };
}

// src/pacing.ts
var share = 0.9;
function createPacing() {
  let perMessage = 1 / 1e3;
  let perByte = 1 / (4 << 20);
  let messages = 0;
  let bytes = 0;
  return {
    limit({ messageRate, byteRate }) {
      perMessage = 1 / (messageRate || Infinity);
      perByte = 1 / (byteRate || Infinity);
    },
    spend(size) {
      messages = Math.max(messages, clock()) + 1e3 / share * perMessage;
      bytes = Math.max(bytes, clock()) + 1e3 / share * perByte * size;
    },
    /** Returns the milliseconds until more may be sent. */
    wait: () => Math.max(messages, bytes) - 1e3 - clock()
  };
}

// src/outbox.ts
var headerSize = 14;
var byteLength = (frame) => typeof frame === "string" ? encodeUTF8(frame).length : frame.length;
function createOutbox(isOpen, write) {
  const pacing = createPacing();
  let queue = /* @__PURE__ */ new Set();
  let timer;
  const send = (item) => {
    item.sent = true;
    pacing.spend(item.size + headerSize);
    write(item.frame);
  };
  const flush = () => {
    cancel(timer);
    for (const item of queue) {
      if (!isOpen()) return;
      const wait = pacing.wait();
      if (wait > 0) {
        timer = after(wait, flush);
        return;
      }
      remove(item);
      send(item);
    }
  };
  const remove = (item) => {
    if (queue.delete(item)) outbox.bytes -= item.size;
  };
  const outbox = {
    /** The size of all queued frames. */
    bytes: 0,
    limit: pacing.limit,
    /** Sends a frame before all queued ones, at once. */
    send,
    remove,
    flush,
    add(item) {
      queue.add(item);
      outbox.bytes += item.size;
      flush();
    },
    /** Begins a connection: the frames that `first` adds go before the queued ones. */
    restart(first) {
      const queued = queue;
      queue = /* @__PURE__ */ new Set();
      first();
      for (const item of queued) queue.add(item);
      flush();
    },
    /** Discards the queue. Returns the number of frames whose loss no call reports. */
    clear() {
      cancel(timer);
      const lost = [...queue].filter(({ awaited }) => !awaited).length;
      queue.clear();
      return lost;
    }
  };
  return outbox;
}

// src/topics.ts
var maxBuffered = 1024;
var kinds2 = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"]
};
var topicTypes = ["subscribe", "unsubscribe", "join_room", "leave_room"];
var noop2 = () => {
};
function createTopics({ codec, listeners, isOpen, encode: encode2, request, leave, changed, closedError }) {
  const topics = /* @__PURE__ */ new Map();
  const keyOf = (kind, name) => `${kind} ${name}`;
  const control = (verb, kind, name) => ({
    type: kinds2[kind][verb],
    data: codec.target(kinds2[kind][2], name)
  });
  const remove = (topic) => {
    const key = keyOf(topic.kind, topic.name);
    if (topics.get(key) === topic) topics.delete(key);
    changed();
  };
  const ask = (topic) => {
    if (topic.asked) return;
    topic.asked = true;
    request(
      control(0, topic.kind, topic.name),
      () => {
        topic.active = true;
        for (const handle of topic.handles) handle.confirm();
        changed();
      },
      (error) => {
        topic.asked = false;
        if (error.code === "unavailable" || !topic.handles.size) return;
        remove(topic);
        for (const handle of [...topic.handles]) handle.end(error, true);
      }
    );
  };
  const unsubscribe = (kind, name, options) => {
    const topic = topics.get(keyOf(kind, checkName(name)));
    check(options);
    for (const handle of [...topic?.handles ?? []]) handle.end();
    const gone = () => topic && remove(topic);
    const open = isOpen();
    const left = open ? leave(control(1, kind, name), options, gone) : Promise.resolve(gone());
    if (open) changed();
    left.catch(noop2);
    return left;
  };
  const subscribe = (kind, name, onMessage, options) => {
    if (onMessage) checkFunction(onMessage);
    const { signal, onError } = check(options);
    encode2(control(0, kind, checkName(name)));
    let topic = topics.get(keyOf(kind, name));
    let buffer = onMessage ? void 0 : [];
    let wake = noop2;
    let settle;
    const end = (error, tell) => {
      if (sub.state === "ended") return;
      sub.state = "ended";
      sub.error = error;
      topic?.handles.delete(handle);
      signal?.removeEventListener("abort", abort);
      settle[1](error ?? new HubError("aborted", "the subscription has ended"));
      wake();
      if (tell) onError ? listeners.run(onError, error) : listeners.report(error);
    };
    const stop = (error) => {
      const last = sub.state !== "ended" && topic?.handles.size === 1;
      end(error, Boolean(error));
      return last ? unsubscribe(kind, name) : Promise.resolve();
    };
    const abort = () => void stop();
    const sub = {
      kind,
      name,
      state: "pending",
      error: void 0,
      ready: new Promise((...both) => settle = both),
      unsubscribe: () => stop(),
      async *[Symbol.asyncIterator]() {
        buffer ?? (buffer = []);
        try {
          for (; ; ) {
            while (buffer.length) yield buffer.shift();
            if (sub.error) throw sub.error;
            if (sub.state === "ended") return;
            await new Promise((resolve) => wake = resolve);
          }
        } finally {
          void stop();
        }
      }
    };
    sub.ready.catch(noop2);
    const handle = {
      sub,
      end,
      confirm() {
        sub.state = "active";
        settle[0]();
      },
      receive(message) {
        if (sub.state === "ended") return;
        if (onMessage) listeners.run(onMessage, message);
        if (!buffer) return;
        if (buffer.push(message) > maxBuffered) {
          void stop(new HubError("overflow", `${maxBuffered} messages wait for a loop`, { target: name }));
        }
        wake();
      }
    };
    const closed = closedError();
    if (closed || signal?.aborted) {
      end(closed);
      return sub;
    }
    signal?.addEventListener("abort", abort);
    if (!topic?.handles.size) topics.set(keyOf(kind, name), topic = { kind, name, handles: /* @__PURE__ */ new Set() });
    topic.handles.add(handle);
    if (topic.active) handle.confirm();
    else if (isOpen()) ask(topic);
    return sub;
  };
  return {
    subscribe,
    unsubscribe,
    /** Passes a message to the subscriptions of its topic, if there are any. */
    deliver(message) {
      const { type, channel } = message;
      const topic = type === "broadcast" ? void 0 : type !== "room_message" && topics.get(keyOf("channel", channel)) || type !== "message" && topics.get(keyOf("room", channel)) || void 0;
      for (const handle of [...topic?.handles ?? []]) handle.receive(message);
      return topic !== void 0;
    },
    restore: () => topics.forEach(ask),
    /** Forgets the memberships of a lost connection. */
    reset() {
      for (const [key, topic] of topics) {
        topic.asked = topic.active = false;
        for (const { sub } of topic.handles) sub.state = "pending";
        if (!topic.handles.size) topics.delete(key);
      }
    },
    /** Reports whether the hub confirmed all topics. */
    restored: () => [...topics.values()].every(({ active, handles }) => active || !handles.size),
    names: (kind) => [...topics.values()].filter((topic) => topic.kind === kind).map(({ name }) => name),
    close(error) {
      for (const { handles } of topics.values()) for (const handle of [...handles]) handle.end(error);
      topics.clear();
    }
  };
}

// src/session.ts
var maxOverhead = 60;
var noop3 = () => {
};
var base64url = (text) => toBase64(encodeUTF8(text)).replace(/[+/=]/g, (char) => ({ "+": "-", "/": "_" })[char] ?? "");
var hint = "handshake failed: origin or token refused, CSP, TLS, or server away; see the server's log and the browser's console";
var isNoToken = (error) => error?.code === "no_token";
var statusOf = (error) => Number(/response: (\d+)/.exec(`${error}`)?.[1]);
var attempt = (task) => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};
function createSession(url, given, client) {
  const options = checkOptions(given);
  const { codec, getToken, signal } = options;
  const listeners = createListeners(client, options);
  const { run, emit, report } = listeners;
  let connection;
  let sealer = options.security;
  let giveUp = noop3;
  let retryTimer;
  let failures = 0;
  let openedAt = 0;
  let renew = false;
  let ended;
  let endedByCaller = false;
  let closing;
  let missed;
  let lastTimestampNs = BigInt(0);
  const isOpen = () => client.state === "open";
  const isClosed = () => client.state === "closed";
  const newClosedError = () => {
    const { code, reason, error } = ended;
    return new HubError("closed", `the client is closed: ${code} ${reason}`, { cause: error ?? ended });
  };
  const checkNotClosed = () => {
    if (isClosed()) throw newClosedError();
  };
  const outbox = createOutbox(isOpen, (frame) => connection.send(frame));
  const measure = (fields) => {
    const frame = codec.encode(fields);
    return { frame, size: byteLength(frame) + (getToken ? maxOverhead : sealer?.overhead ?? 0) };
  };
  const encode2 = (fields) => {
    const item = measure(fields);
    const { maxMessageSize = client.limits ? Infinity : 524288 } = options;
    const limit = Math.min(maxMessageSize, client.limits?.maxMessageSize || Infinity);
    if (item.size > limit) throw new HubError("too_large", `the message has ${item.size} bytes; the limit is ${limit}`);
    return item;
  };
  const transmit = (item) => {
    const waiting = outbox.bytes + (isOpen() ? connection.buffered() : 0);
    if (waiting + item.size > options.maxQueuedBytes) {
      throw new HubError("overflow", `${waiting} bytes are waiting to be sent`);
    }
    outbox.add(item);
  };
  const calls = createCalls({
    outbox,
    options,
    encode: encode2,
    measure,
    transmit,
    checkNotClosed,
    timedOut: () => connection?.heartbeat.probe(),
    isOwnEnd: () => endedByCaller
  });
  const { request, call } = calls;
  const topics = createTopics({
    codec,
    listeners,
    isOpen,
    encode: encode2,
    request,
    leave: (fields, given2, acked) => call(fields, check(given2), acked, true),
    changed: () => notifyResumed(),
    closedError: () => isClosed() ? newClosedError() : void 0
  });
  const abort = () => void close();
  const dial = async () => {
    if (isClosed()) return;
    cancel(retryTimer);
    retryTimer = void 0;
    const { WebSocket, handshakeTimeout } = options;
    const controller = new AbortController();
    let reject;
    const expired = new Promise((_, no) => reject = no);
    expired.catch(noop3);
    giveUp = (error) => {
      cancel(timer);
      controller.abort(error);
      reject(error);
      connection?.fail(1006, error);
    };
    const timer = after(
      handshakeTimeout,
      () => giveUp(new HubError("timeout", `not connected within ${handshakeTimeout} ms`))
    );
    let { token } = options;
    sealer = options.security;
    try {
      if (getToken) {
        const result = await Promise.race([getToken({ signal: controller.signal, renew }), expired]);
        if (typeof result === "object" && result) {
          token = result.token;
          sealer = result.security ?? sealer;
        } else {
          token = result;
        }
      }
    } catch (error) {
      cancel(timer);
      lost({ code: isNoToken(error) ? 3e3 : 1006, reason: "no credentials", error });
      return;
    }
    if (isClosed()) return;
    const protocols = [codec.name];
    if (token) protocols.push(`bearer.${base64url(token)}`);
    try {
      connection = openConnection(new WebSocket(url, protocols), codec, sealer, {
        opened() {
          cancel(timer);
          opened();
        },
        message: received,
        ended(close2) {
          cancel(timer);
          lost(close2);
        },
        ping: () => request({ type: "hub:ping" }, noop3, noop3, outbox.send)
      });
    } catch (error) {
      cancel(timer);
      finish({ code: 1006, reason: error.message, error });
    }
  };
  const opened = () => {
    const previous = client.state;
    client.state = "open";
    openedAt = Date.now();
    renew = false;
    request({ type: "hub:hello" }, welcomed, noop3, outbox.send);
    outbox.restart(topics.restore);
    if (!isOpen()) return;
    notifyState(previous);
    notifyResumed();
  };
  const welcomed = (message) => {
    const { client_id: clientId = "", user = "", limits = {}, heartbeat, features = [] } = message.json() ?? {};
    client.id = clientId;
    client.user = user;
    const all = {};
    for (const name of Object.keys(limits)) {
      all[name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())] = limits[name];
    }
    outbox.limit(client.limits = all);
    if (features.includes("ping")) connection.heartbeat.start(options.heartbeat ?? heartbeat ?? 15e3);
  };
  const reconnects = ({ code, reason, error }, wasOpen) => {
    let decision;
    run(() => decision = options.shouldReconnect?.({ code, reason }), void 0);
    if (typeof decision === "boolean") return decision;
    if (isNoToken(error)) return false;
    const status = statusOf(error);
    if (code === 3e3 || status === 401) {
      const again = getToken !== void 0 && (wasOpen || !renew);
      renew = true;
      return again;
    }
    if (status >= 400 && status < 500) return [408, 409, 429].includes(status);
    return reconnectCodes.includes(code);
  };
  const lost = (close2, now) => {
    if (isClosed()) return;
    const previous = client.state;
    const wasOpen = previous === "open";
    if (wasOpen) {
      missed ?? (missed = { from: connection.received, lastTimestampNs });
      if (Date.now() - openedAt >= options.backoff.resetAfter) failures = 0;
      topics.reset();
    } else if (connection && !close2.error?.code && !statusOf(close2.error)) {
      renew = true;
      close2.error ?? (close2.error = new HubError("unreachable", hint));
    }
    connection = void 0;
    client.state = "reconnecting";
    const { code, reason, error } = close2;
    calls.lost(() => new HubError("disconnected", `the connection was lost: ${code} ${reason}`, { cause: error }));
    if (!now && !reconnects(close2, wasOpen)) finish(close2, previous);
    if (isClosed()) return;
    const retryIn = now ? 0 : backoff(failures++, options.backoff.base, options.backoff.max);
    retryTimer = setTimeout(dial, retryIn);
    notifyState(previous, { ...close2, retryIn });
  };
  const finish = (close2, previous = client.state) => {
    if (isClosed()) return;
    client.state = "closed";
    ended = close2;
    signal?.removeEventListener("abort", abort);
    unwatch();
    cancel(retryTimer);
    connection = void 0;
    giveUp(newClosedError());
    topics.close(endedByCaller ? void 0 : newClosedError());
    calls.end(newClosedError);
    const unsent = outbox.clear();
    if (unsent) report(new HubError("closed", `${unsent} messages were not sent`));
    notifyState(previous, close2);
  };
  const close = async (code = 1e3, reason = "") => {
    if (code !== 1e3 && !(code >= 3e3 && code <= 4999)) throw new RangeError(`cannot send close code ${code}`);
    if (!isClosed()) {
      endedByCaller = true;
      closing = connection?.close(code, reason);
      finish({ code, reason });
    }
    await closing;
  };
  const notifyState = (previous, close2) => {
    emit("statechange", { state: client.state, previous, ...close2 });
  };
  const notifyResumed = () => {
    if (!isOpen() || !missed || !topics.restored()) return;
    const fields = { ...missed, to: Date.now(), channels: topics.names("channel"), rooms: topics.names("room") };
    missed = void 0;
    emit("resumed", new Notice(fields));
  };
  const received = (message) => {
    const { type, id, timestampNs } = message;
    if (timestampNs > 0) lastTimestampNs = timestampNs;
    if (type === "ack") {
      calls.take(id)?.ack(message);
    } else if (type === "error") {
      const { code, message: text } = codec.error(message);
      const error = new HubError(code, text, { target: message.channel });
      if (id) calls.take(id)?.error(error);
      else report(error);
    } else if (type === "gap") {
      const gap = new Notice(codec.gap(message));
      if (!emit("gap", gap)) report(new HubError("gap", `${gap.count} messages were dropped`, { cause: gap }));
    } else if (!topics.deliver(message)) {
      emit("message", message);
    }
  };
  let unwatch = noop3;
  queueMicrotask(() => {
    if (isClosed()) return;
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) {
      abort();
      return;
    }
    unwatch = watchNetwork(() => {
      if (isOpen()) connection.heartbeat.probe();
      else if (retryTimer) void dial();
    });
    void dial();
  });
  const publisher = (type) => (channel, data, given2) => attempt(() => {
    const { exceptSelf, ack = true, ...others } = check(given2);
    if (type !== "broadcast") checkName(channel);
    const fields = { type, channel, data, exceptSelf };
    if (ack) return call(fields, others);
    const item = encode2(fields);
    try {
      checkNotClosed();
      transmit(item);
    } catch (error) {
      report(error);
    }
    return Promise.resolve();
  });
  const broadcast = publisher("broadcast");
  const { subscribe, unsubscribe } = topics;
  const methods = {
    state: "connecting",
    id: "",
    user: "",
    limits: void 0,
    on: listeners.on,
    off: listeners.off,
    close,
    subscribe: (channel, ...others) => subscribe("channel", channel, ...others),
    joinRoom: (room, ...others) => subscribe("room", room, ...others),
    unsubscribe: (channel, given2) => attempt(() => unsubscribe("channel", channel, given2)),
    leaveRoom: (room, given2) => attempt(() => unsubscribe("room", room, given2)),
    publish: publisher("publish"),
    publishRoom: publisher("publish_room"),
    broadcast: (data, given2) => broadcast(void 0, data, given2),
    send(type, data, given2) {
      if (typeof type !== "string") throw new TypeError("a message type must be a string");
      if (topicTypes.includes(type)) throw new TypeError(`use the client's method for ${type}`);
      const { channel, volatile } = check(given2);
      checkNotClosed();
      const item = encode2({ type, channel, data });
      if (volatile && !isOpen()) return false;
      transmit(item);
      return true;
    },
    reconnect() {
      checkNotClosed();
      if (isOpen()) {
        void connection.close(1e3, "");
        lost({ code: 1e3, reason: "reconnect" }, true);
      } else if (retryTimer) {
        void dial();
      }
    }
  };
  Object.assign(client, methods);
}

// src/client.ts
var HubClient = class {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url, options) {
    if (typeof url !== "string" && !url?.href) throw new TypeError(`invalid url: ${url}`);
    createSession(`${url}`, options, this);
  }
};
async function connect(url, options) {
  const { signal } = check({ signal: options?.signal });
  const client = new HubClient(url, { ...options, signal: void 0 });
  return new Promise((resolve, reject) => {
    const fail = (error) => {
      end();
      void client.close().then(() => reject(error));
    };
    const abort = () => fail(new HubError("aborted", "connecting was aborted", { cause: signal.reason }));
    const off = client.on("statechange", ({ state, code, reason, error }) => {
      end();
      if (state === "open") resolve(client);
      else {
        const text = error ? error.message : reason;
        fail(new HubError("unreachable", `cannot connect: ${code} ${text}`, { cause: error }));
      }
    });
    const end = () => {
      off();
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
  });
}

// src/byte-io.ts
var zero = /* @__PURE__ */ BigInt(0);
var Writer = class {
  constructor(capacity) {
    this.length = 0;
    this.buffer = new Uint8Array(capacity);
    this.view = new DataView(this.buffer.buffer);
  }
  uint8(value) {
    this.buffer[this.length++] = value;
  }
  int64(value) {
    this.view.setBigInt64(this.length, value);
    this.length += 8;
  }
  varint(value) {
    const seven = BigInt(7);
    for (; value > 127; value >>= seven) this.uint8(Number(BigInt.asUintN(7, value)) | 128);
    this.uint8(Number(value));
  }
  bytes(bytes) {
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }
  done() {
    return this.buffer.subarray(0, this.length);
  }
};
var Reader = class {
  constructor(label, buffer) {
    this.label = label;
    this.buffer = buffer;
    this.position = 0;
    this.view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  }
  get left() {
    return this.buffer.length - this.position;
  }
  fail(reason) {
    throw new DecodeError(`${this.label}: ${reason} at byte ${this.position}`);
  }
  /** Skips `length` bytes and returns the position of the first of them. */
  take(length) {
    if (length > this.left) this.fail(`${length} bytes wanted, ${this.left} left`);
    const start = this.position;
    this.position += length;
    return start;
  }
  bytes(length) {
    const start = this.take(length);
    return this.buffer.subarray(start, start + length);
  }
  uint8() {
    return this.buffer[this.take(1)];
  }
  /** Reads a varint as a number, which is exact up to 2^53 and approximate above. */
  varint() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.uint8();
      if (scale === 2 ** 63 && byte > 1) this.fail("varint longer than 64 bits");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }
  /** Reads a varint as a signed 64-bit BigInt. */
  varint64() {
    const seven = BigInt(7);
    let value = zero;
    const start = this.position;
    this.varint();
    for (let i = this.position - 1; i >= start; i--) value = value << seven | BigInt(this.buffer[i] & 127);
    return BigInt.asIntN(64, value);
  }
};

// src/codec-flatbuffers.ts
var slotNames = ["type", "channel", "data", "timestamp", "client_id", "id"];
var flatbuffers = {
  name: "flatbuffers",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,
  encode(fields) {
    const message = asMessage(fields);
    const [type, channel, clientId, id] = encodedTexts(message);
    const data = message.bytes();
    const builder = new FlatBuilder(type.length + channel.length + data.length + clientId.length + id.length);
    const typeAt = builder.string(type);
    const channelAt = builder.string(channel);
    const dataAt = data.length > 0 ? builder.vector(data) : 0;
    const clientAt = builder.string(clientId);
    const idAt = id.length > 0 ? builder.string(id) : 0;
    return builder.finish([typeAt, channelAt, dataAt, message.timestampNs, clientAt, idAt, 0, 0, 0, message.exceptSelf]);
  },
  decode(frame) {
    const table = new FlatTable(frame);
    return new Message({
      type: table.text(0),
      channel: table.text(1),
      payload: table.vector(2),
      timestampNs: table.int64(3),
      clientId: table.text(4),
      id: table.text(5)
    });
  }
};
var FlatBuilder = class {
  constructor(content) {
    this.alignment = 1;
    this.buffer = new Uint8Array(content + 128);
    this.view = new DataView(this.buffer.buffer);
    this.start = this.buffer.length;
  }
  get position() {
    return this.buffer.length - this.start;
  }
  /** Adds padding so that a value of `size` bytes is aligned after `further` more bytes. */
  align(size, further = 0) {
    this.alignment = Math.max(this.alignment, size);
    this.start -= -(this.position + further) & size - 1;
  }
  uint32(value) {
    this.align(4);
    this.start -= 4;
    this.view.setUint32(this.start, value, true);
  }
  uint16(value) {
    this.start -= 2;
    this.view.setUint16(this.start, value, true);
  }
  int64(value) {
    this.align(8);
    this.start -= 8;
    this.view.setBigInt64(this.start, value, true);
  }
  vector(bytes) {
    this.align(4, bytes.length);
    this.start -= bytes.length;
    this.buffer.set(bytes, this.start);
    this.uint32(bytes.length);
    return this.position;
  }
  /** Writes a vector followed by a zero byte, which its length does not include. */
  string(bytes) {
    this.align(4, bytes.length + 1);
    this.start--;
    return this.vector(bytes);
  }
  /** Writes the table. Each slot is a position, a BigInt or a boolean. Zero values are omitted. */
  finish(slots) {
    const tableEnd = this.position;
    const fields = slots.map((value) => {
      if (!value) return 0;
      if (typeof value === "boolean") {
        this.buffer[--this.start] = 1;
      } else if (typeof value === "bigint") {
        this.int64(value);
      } else {
        this.align(4);
        this.uint32(this.position + 4 - value);
      }
      return this.position;
    });
    this.uint32(0);
    const table = this.position;
    while (fields[fields.length - 1] === 0) fields.pop();
    for (const field of fields.reverse()) this.uint16(field && table - field);
    this.uint16(table - tableEnd);
    this.uint16(4 + 2 * fields.length);
    this.view.setInt32(this.buffer.length - table, this.position - table, true);
    this.align(this.alignment, 4);
    this.uint32(this.position + 4 - table);
    return this.buffer.subarray(this.start);
  }
};
var FlatTable = class {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.table = this.uint32(0, "root offset");
    this.checkBounds(this.table, 4, "table");
    this.vtable = this.table - this.view.getInt32(this.table, true);
    this.checkBounds(this.vtable, 4, "vtable");
    const size = this.view.getUint16(this.vtable, true);
    if (size < 4 || size % 2 !== 0) throw new DecodeError(`flatbuffers: impossible vtable size ${size}`);
    this.checkBounds(this.vtable, size, "vtable");
    this.slots = (size - 4) / 2;
  }
  checkBounds(position, length, label) {
    if (position < 0 || position + length > this.bytes.length) {
      throw new DecodeError(`flatbuffers: ${label} at byte ${position} is outside the buffer`);
    }
  }
  uint32(position, label) {
    this.checkBounds(position, 4, label);
    return this.view.getUint32(position, true);
  }
  /** Returns the position of a field, or 0 if the table does not have the field. */
  field(slot) {
    if (slot >= this.slots) return 0;
    const offset = this.view.getUint16(this.vtable + 4 + 2 * slot, true);
    return offset && this.table + offset;
  }
  vector(slot) {
    const field = this.field(slot);
    if (field === 0) return noBytes;
    const label = slotNames[slot];
    const start = field + this.uint32(field, label);
    const length = this.uint32(start, label);
    this.checkBounds(start + 4, length, label);
    return this.bytes.subarray(start + 4, start + 4 + length);
  }
  text(slot) {
    return decodeUTF8(this.vector(slot), `flatbuffers: ${slotNames[slot]}`);
  }
  int64(slot) {
    const field = this.field(slot);
    if (field === 0) return zero;
    this.checkBounds(field, 8, slotNames[slot]);
    return this.view.getBigInt64(field, true);
  }
};

// src/codec-msgpack.ts
var msgpack = {
  name: "msgpack",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,
  encode(value) {
    const message = asMessage(value);
    const [type, channel, clientId, id] = encodedTexts(message);
    const data = message.bytes();
    const writer = new Writer(96 + type.length + channel.length + data.length + clientId.length + id.length);
    writer.uint8(128 | 5 + Number(id.length > 0) + Number(message.exceptSelf));
    writeField(writer, "type", msgpackStr, type);
    writeField(writer, "channel", msgpackStr, channel);
    writeField(writer, "data", msgpackBin, data);
    writer.bytes(msgpackKey("timestamp"));
    writer.uint8(211);
    writer.int64(message.timestampNs);
    writeField(writer, "client_id", msgpackStr, clientId);
    if (id.length > 0) writeField(writer, "id", msgpackStr, id);
    if (message.exceptSelf) {
      writer.bytes(msgpackKey("except_self"));
      writer.uint8(195);
    }
    return writer.done();
  },
  decode(frame) {
    const reader = new MsgpackReader("msgpack", frame);
    const fields = {};
    for (let members = reader.mapHeader(); members > 0; members--) {
      const key = reader.text("map key");
      switch (key) {
        case "type":
        case "channel":
        case "client_id":
        case "id":
          fields[key] = reader.text(key);
          break;
        case "data":
          fields.payload = reader.binary("data", true);
          break;
        case "timestamp":
          fields.timestampNs = reader.integer("timestamp");
          break;
        default:
          reader.skip();
      }
    }
    if (reader.left > 0) reader.fail("bytes after the message");
    return new Message({ ...fields, clientId: fields.client_id });
  }
};
var msgpackStr = { fix: 160, fixMax: 31, 8: 217, 16: 218, 32: 219 };
var msgpackBin = { fix: 0, fixMax: -1, 8: 196, 16: 197, 32: 198 };
var msgpackNil = 192;
var msgpackKey = (key) => Uint8Array.of(msgpackStr.fix | key.length, ...encodeUTF8(key));
function writeField(writer, key, format, value) {
  writer.bytes(msgpackKey(key));
  if (format === msgpackBin && value.length === 0) {
    writer.uint8(msgpackNil);
  } else {
    writeHeader(writer, format, value.length);
    writer.bytes(value);
  }
}
function writeHeader(writer, format, length) {
  if (length <= format.fixMax) {
    writer.uint8(format.fix | length);
    return;
  }
  const bits = length < 2 ** 8 ? 8 : length < 2 ** 16 ? 16 : 32;
  writer.uint8(format[bits]);
  for (let shift = bits - 8; shift >= 0; shift -= 8) writer.uint8(length >>> shift);
}
var MsgpackReader = class extends Reader {
  mapHeader() {
    const format = this.uint8();
    if (format >>> 4 === 8) return format & 15;
    if (format === 222) return this.uint(2);
    if (format === 223) return this.uint(4);
    return this.fail("message is not a map");
  }
  /** Reads a str or nil. */
  text(label) {
    return decodeUTF8(this.binary(label, false), `msgpack: ${label}`);
  }
  /** Reads a str or nil, or a bin if `bin` is true. */
  binary(label, bin) {
    const format = this.uint8();
    const length = this.length(msgpackStr, format) ?? (bin ? this.length(msgpackBin, format) : void 0);
    if (length !== void 0) return this.bytes(length);
    if (format !== msgpackNil) this.fail(`${label} is not a string${bin ? " or bin" : ""}`);
    return noBytes;
  }
  /** Reads an integer of any size, or nil as 0. */
  integer(label) {
    const format = this.uint8();
    if (format < 128) return BigInt(format);
    if (format >= 224) return BigInt(format - 256);
    const { view } = this;
    switch (format) {
      case msgpackNil:
        return zero;
      case 204:
      case 205:
      case 206:
        return BigInt(this.uint(2 ** (format - 204)));
      case 207: {
        const value = view.getBigUint64(this.take(8));
        if (BigInt.asIntN(64, value) < zero) this.fail(`${label} does not fit in 64 bits`);
        return value;
      }
      case 208:
        return BigInt(view.getInt8(this.take(1)));
      case 209:
        return BigInt(view.getInt16(this.take(2)));
      case 210:
        return BigInt(view.getInt32(this.take(4)));
      case 211:
        return view.getBigInt64(this.take(8));
      default:
        return this.fail(`${label} is not an integer`);
    }
  }
  /**
   * Skips one value and everything nested in it, without recursion. Every value
   * takes at least one byte, so a forged count fails at the end of the input.
   */
  skip() {
    for (let values2 = 1; values2 > 0; values2--) values2 += this.skipHeader();
  }
  /** Skips one value except for its nested values, and returns their number. */
  skipHeader() {
    const format = this.uint8();
    const length = this.length(msgpackStr, format) ?? this.length(msgpackBin, format);
    if (length !== void 0) return this.pass(length);
    if (format < 128 || format >= 224) return 0;
    if (format < 144) return 2 * (format & 15);
    if (format < 160) return format & 15;
    switch (format) {
      case msgpackNil:
      case 194:
      // false
      case 195:
        return 0;
      case 199:
      // ext: one more byte for the type
      case 200:
      case 201:
        return this.pass(1 + this.uint(2 ** (format - 199)));
      case 202:
      // floats
      case 203:
        return this.pass(2 ** (format - 200));
      case 204:
      // unsigned integers
      case 205:
      case 206:
      case 207:
        return this.pass(2 ** (format - 204));
      case 208:
      // signed integers
      case 209:
      case 210:
      case 211:
        return this.pass(2 ** (format - 208));
      case 212:
      // fixext
      case 213:
      case 214:
      case 215:
      case 216:
        return this.pass(1 + 2 ** (format - 212));
      case 220:
      // arrays
      case 221:
        return this.uint(format === 220 ? 2 : 4);
      case 222:
      // maps
      case 223:
        return 2 * this.uint(format === 222 ? 2 : 4);
      default:
        return this.fail("unknown format byte");
    }
  }
  pass(length) {
    this.take(length);
    return 0;
  }
  /** Reads the length after a format byte of this kind; undefined if it is of another. */
  length(kind, format) {
    if (kind === msgpackStr && format >= 160 && format <= 191) return format & 31;
    if (format === kind[8]) return this.uint(1);
    if (format === kind[16]) return this.uint(2);
    if (format === kind[32]) return this.uint(4);
    return void 0;
  }
  uint(size) {
    const at = this.take(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }
};

// src/codec-protobuf.ts
var varintType = 0;
var fixed64Type = 1;
var lengthType = 2;
var fixed32Type = 5;
var protobuf = {
  name: "protobuf",
  text: false,
  encode(fields) {
    const message = asMessage(fields);
    const { type, channel, timestampNs, clientId, id, exceptSelf } = message;
    return encode([
      [1, type],
      [2, channel],
      [3, message.bytes()],
      [4, timestampNs],
      [5, clientId],
      [6, id],
      [10, BigInt(exceptSelf)]
    ]);
  },
  decode(frame) {
    const fields = decode("protobuf", frame, {
      1: "text",
      2: "text",
      3: "bytes",
      4: "int64",
      5: "text",
      6: "text"
    });
    return new Message({
      type: fields[1],
      channel: fields[2],
      payload: fields[3] ?? noBytes,
      timestampNs: fields[4],
      clientId: fields[5],
      id: fields[6]
    });
  },
  target: (_key, name) => encode([[1, name]]),
  error(message) {
    const { 1: code = "", 2: text = "" } = decode("error reply", message.bytes(), { 1: "text", 2: "text" });
    return { code, message: text };
  },
  gap(message) {
    const fields = decode("gap notice", message.bytes(), {
      1: "text",
      2: "text",
      3: "int64",
      4: "int64",
      5: "int64",
      6: "text",
      7: "int64"
    });
    return {
      channel: fields[1] ?? "",
      room: fields[2] ?? "",
      count: Number(fields[3] ?? 0),
      firstNs: fields[4] ?? zero,
      lastNs: fields[5] ?? zero,
      reason: fields[6] ?? "",
      all: Boolean(fields[7])
    };
  }
};
function encode(pairs) {
  const fields = pairs.map(([number, value]) => [number, typeof value === "string" ? encodeUTF8(value) : value]).filter(([, value]) => typeof value === "bigint" ? value : value.length);
  const size = fields.reduce((sum, [, value]) => sum + 11 + (typeof value === "bigint" ? 0 : value.length), 0);
  const writer = new Writer(size);
  for (const [number, value] of fields) {
    if (typeof value === "bigint") {
      writer.uint8(number << 3 | varintType);
      writer.varint(BigInt.asUintN(64, value));
    } else {
      writer.uint8(number << 3 | lengthType);
      writer.varint(BigInt(value.length));
      writer.bytes(value);
    }
  }
  return writer.done();
}
function decode(label, bytes, kinds3) {
  const reader = new Reader(label, bytes);
  const fields = {};
  while (reader.left > 0) {
    const tag = reader.varint();
    const wireType = tag % 8;
    const number = (tag - wireType) / 8;
    if (number < 1 || number >= 2 ** 29) reader.fail("invalid field number");
    const kind = kinds3[number];
    switch (wireType) {
      case varintType: {
        if (kind === "int64") fields[number] = reader.varint64();
        else reader.varint();
        break;
      }
      case fixed64Type:
        reader.take(8);
        break;
      case lengthType: {
        const value = reader.bytes(reader.varint());
        if (kind === "bytes") fields[number] = value;
        if (kind === "text") fields[number] = decodeUTF8(value, `${label}: field ${number}`);
        break;
      }
      case fixed32Type:
        reader.take(4);
        break;
      default:
        reader.fail(`unknown wire type ${wireType}`);
    }
  }
  return fields;
}

// src/codecs.ts
var codecs = { json, protobuf, flatbuffers, msgpack };

// src/seal.ts
var nonceSize = 12;
var tagSize = 16;
var macSize = 32;
var noop4 = () => {
};
var Sealer = class {
  /** Throws a TypeError if a key is invalid, and a HubError "security" if WebCrypto is missing. */
  constructor({ aesKey, hmacKey, signThenEncrypt = true }) {
    if (!aesKey && !hmacKey) throw new TypeError("security needs an aesKey, an hmacKey or both");
    if (!globalThis.crypto?.subtle) {
      throw new HubError("security", "WebCrypto is missing; browsers provide it only to https and localhost pages");
    }
    const seal = [];
    const open = [];
    if (hmacKey) {
      if (keyBytes(hmacKey).length === 0) throw new TypeError("hmacKey is empty");
      const key = importKey(hmacKey, { name: "HMAC", hash: "SHA-256" }, ["sign", "verify"]);
      seal.push(async (bytes) => sign(await key, bytes));
      open.push(async (bytes) => verify(await key, bytes));
    }
    if (aesKey) {
      if (keyBytes(aesKey).length !== 32) throw new TypeError("aesKey is not 32 bytes");
      const key = importKey(aesKey, "AES-GCM", ["encrypt", "decrypt"]);
      seal.push(async (bytes) => encrypt(await key, bytes));
      open.push(async (bytes) => decrypt(await key, bytes));
    }
    this.overhead = (hmacKey ? macSize : 0) + (aesKey ? nonceSize + tagSize : 0);
    this.sealSteps = signThenEncrypt ? seal : seal.reverse();
    this.openSteps = signThenEncrypt ? open.reverse() : open;
  }
  /** Signs and encrypts, in the configured order. */
  async seal(bytes) {
    for (const step of this.sealSteps) bytes = await step(bytes);
    return bytes;
  }
  /** Reverses seal. Rejects with a HubError "security" if the bytes were altered or have other keys. */
  async open(bytes) {
    for (const step of this.openSteps) bytes = await step(bytes);
    return bytes;
  }
  /** Returns a pipe that seals and opens the frames of one connection. Clients call it. */
  pipe({ send, deliver, fail, text }) {
    let inbound = Promise.resolve();
    const pipe = {
      waiting: 0,
      sent: Promise.resolve(),
      send: (frame) => {
        pipe.waiting += frame.length;
        const sealed = this.seal(typeof frame === "string" ? encodeUTF8(frame) : frame);
        sealed.catch(noop4);
        pipe.sent = pipe.sent.then(async () => {
          try {
            send(await sealed);
          } catch (error) {
            fail(1008, error);
          }
          pipe.waiting -= frame.length;
        });
      },
      receive: (frame) => {
        if (typeof frame === "string") {
          const error = new HubError("security", "received a text frame, but sealed frames are binary");
          pipe.inOrder(() => fail(1003, error));
          return;
        }
        const opened = this.open(frame);
        opened.catch(noop4);
        pipe.inOrder(async () => {
          try {
            const plain2 = await opened;
            deliver(text ? decodeUTF8(plain2, "json") : plain2);
          } catch (error) {
            fail(error instanceof DecodeError ? 1007 : 1008, error);
          }
        });
      },
      inOrder(task) {
        inbound = inbound.then(task);
      }
    };
    return pipe;
  }
};
async function sign(key, bytes) {
  return concat(new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes)), bytes);
}
async function verify(key, bytes) {
  if (bytes.length < macSize) throw new HubError("security", "message is too short for a signature");
  const data = bytes.subarray(macSize);
  const genuine = await crypto.subtle.verify("HMAC", key, bytes.subarray(0, macSize), data);
  if (!genuine) throw new HubError("security", "signature does not match");
  return data;
}
async function encrypt(key, bytes) {
  const iv = crypto.getRandomValues(new Uint8Array(nonceSize));
  return concat(iv, new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, bytes)));
}
async function decrypt(key, bytes) {
  if (bytes.length < nonceSize + tagSize) throw new HubError("security", "message is too short to be encrypted");
  const iv = bytes.subarray(0, nonceSize);
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, bytes.subarray(nonceSize)));
  } catch (cause) {
    throw new HubError("security", "message cannot be decrypted", { cause });
  }
}
function keyBytes(key) {
  if (!isBytes(key)) throw new TypeError("a key must be bytes; use fromHex or fromBase64 to convert text");
  return viewOf(key);
}
function importKey(key, algorithm, usages) {
  const imported = crypto.subtle.importKey("raw", keyBytes(key).slice(), algorithm, false, usages);
  imported.catch(noop4);
  return imported;
}
//# sourceMappingURL=hub.cjs.map
