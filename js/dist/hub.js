// src/errors.ts
var HubError = class extends Error {
  constructor(code, message, { cause, target } = {}) {
    super(message);
    /** True if the hub may have carried out the call although it rejected. */
    this.outcomeUnknown = false;
    this.name = "HubError";
    this.code = code;
    this.target = target;
    if (cause !== void 0) this.cause = cause;
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
var encoder;
var decoder;
var utf8Encoder = () => encoder || (encoder = new TextEncoder());
var noBytes = /* @__PURE__ */ new Uint8Array(0);
var encodeUTF8 = (text) => utf8Encoder().encode(text);
function decodeUTF8(bytes, label) {
  try {
    return (decoder || (decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }))).decode(bytes);
  } catch (error) {
    throw new DecodeError(`${label} is not valid UTF-8`, error);
  }
}
var cutUTF8 = (text, size) => text.slice(0, utf8Encoder().encodeInto(text, new Uint8Array(size)).read);
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
var base64url = (bytes) => toBase64(bytes).replace(/[+/=]/g, (char) => ({ "+": "-", "/": "_" })[char] ?? "");
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

// src/async.ts
var noop = () => {
};
function deferred() {
  let settle;
  const promise = new Promise((...both) => settle = both);
  return [promise, ...settle];
}
var attempt = (task) => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};
function onAbort(signal, task) {
  signal?.addEventListener("abort", task);
  return () => signal?.removeEventListener("abort", task);
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
  const sources = [];
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
        sources.push([key, text.slice(start, i).trim()]);
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
    const { timestampNs = BigInt(0), offset = 0, key = "", room = false, exceptSelf = false, trace = "" } = fields;
    if (BigInt.asIntN(64, timestampNs) !== timestampNs) {
      throw new RangeError(`${timestampNs} does not fit in 64 bits`);
    }
    Object.assign(this, { type, channel, payload, timestampNs, clientId, id, offset, key, room, exceptSelf, trace });
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
var jsonTarget = (key, name, begin) => ({ [key]: name, ...begin });
function jsonError(message) {
  const fields = parseObject(message.text(), "error reply");
  return { code: stringField(fields, "code"), message: stringField(fields, "message") };
}
function jsonGap(message) {
  const text = message.text();
  const fields = parseObject(text, "gap notice");
  const sources = new Map(memberSources(text));
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
    const { type, channel, payload, timestampNs, clientId, id, offset, key, room, exceptSelf, trace } = asMessage(fields);
    let text = `{"type":${JSON.stringify(type)}`;
    if (channel) text += `,"channel":${JSON.stringify(channel)}`;
    text += `,"data":${payloadSource(payload)},"timestamp":${timestampNs}`;
    if (clientId) text += `,"client_id":${JSON.stringify(clientId)}`;
    if (id) text += `,"id":${JSON.stringify(id)}`;
    if (offset) text += `,"offset":${offset}`;
    if (key) text += `,"key":${JSON.stringify(key)}`;
    if (room) text += `,"room":true`;
    if (exceptSelf) text += `,"except_self":true`;
    if (trace) text += `,"trace":${JSON.stringify(trace)}`;
    return text + "}";
  },
  decode(text) {
    const fields = parseObject(text, "json");
    const sources = new Map(memberSources(text));
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
      id: field("id"),
      offset: Number(integerSource(sources, "offset")),
      key: field("key"),
      room: fields.room === true,
      trace: field("trace")
    });
    return encoding ? message : setValue(message, data);
  }
};
function payloadSource(payload) {
  if (typeof payload === "string") return payload;
  return payload.length ? `"${toBase64(payload)}","encoding":"base64"` : "null";
}

// src/check.ts
var coreKinds = {
  ack: "boolean",
  backoff: "object",
  base: 1,
  channel: "string",
  codec: "encode",
  exceptSelf: "boolean",
  handshakeTimeout: 1,
  heartbeat: 0,
  key: isText,
  max: 1,
  maxMessageSize: 1,
  maxPending: 1,
  maxQueuedBytes: 1,
  resetAfter: 0,
  security: "pipe",
  signal: "addEventListener",
  timeout: 1,
  token: "string",
  trace: "string",
  volatile: "boolean"
};
var callbackNames = ["onStateChange", "onMessage", "onGap", "onResumed", "onError"];
var functions = [...callbackNames, "getToken", "shouldReconnect", "WebSocket"];
var isCount = (value) => Number.isSafeInteger(value) && value >= 0;
function check(options, defaults, kinds2) {
  const all = { ...defaults };
  for (const name in options) {
    const value = options[name];
    const kind = kinds2?.[name] ?? coreKinds[name] ?? (functions.includes(name) ? "function" : NaN);
    if (value === void 0 || value === null && name === "since") continue;
    if (value === null || !(typeof kind === "number" ? value >= kind && typeof value === "number" : typeof kind === "function" ? kind(value) : typeof value === kind || value[kind])) {
      throw new TypeError(`invalid option ${name}: ${value}`);
    }
    all[name] = value;
  }
  return all;
}
function checkOptions(options, kinds2) {
  const defaults = {
    codec: json,
    WebSocket: globalThis.WebSocket,
    timeout: 1e4,
    handshakeTimeout: 1e4,
    maxPending: 1024,
    maxQueuedBytes: 4 << 20
  };
  const all = check(options, defaults, kinds2);
  all.backoff = check(all.backoff, { base: 500, max: 3e4, resetAfter: 1e4 });
  if (!all.WebSocket) throw new TypeError("this platform has no WebSocket; pass a class as the WebSocket option");
  return all;
}
function isText(value) {
  try {
    return typeof value === "string" && encodeURIComponent(value) !== void 0;
  } catch {
    return false;
  }
}
function checkName(name) {
  if (name && isText(name)) return name;
  throw new TypeError("a name must be non-empty, well-formed text");
}
var reserved = /^((un)?subscribe|(join|leave)_room|hub:.*)$/;
var noRequest = /^(|publish|publish_room|broadcast|message|room_message|ack|error|gap)$/;
function checkType(type, request) {
  if (typeof type !== "string") throw new TypeError("a message type must be a string");
  if (reserved.test(type) || request && noRequest.test(type)) throw new TypeError(`the type "${type}" is reserved`);
}
function checkPosition(since) {
  if (since && !(typeof since.epoch === "string" && since.offset >= 0 && Number.isSafeInteger(since.offset))) {
    throw new TypeError("invalid option since: it needs an epoch and an offset");
  }
}
function checkFunction(value) {
  if (typeof value !== "function") throw new TypeError("a handler must be a function");
}

// src/repeat.ts
var maxReplayed = 255;
function createRepeat(core, { add, U: release }, { fail, n: finish, pending, request }) {
  let replayed = [];
  let asked = 0;
  const answered = () => {
    if (--asked) return;
    for (const call of pending.values()) {
      if (call.e.sent) continue;
      if (call.d && !call.G) call.d.u = call.d.ask();
      if (call.f) add(call.e);
      delete call.f;
    }
    release();
  };
  return {
    /** Returns a key that makes a publication unique, 128 random bits, if the hub has histories. */
    V: () => core.features.includes("history") ? base64url(crypto.getRandomValues(new Uint8Array(16))) : void 0,
    /** Reports whether a key is that of a publication that excepts this client. */
    excepts: (key) => replayed.includes(key) || [...pending.values()].some(({ d: one }) => one?.exceptSelf && one.key === key),
    /** Forgets the questions of a lost connection. */
    reset() {
      asked = 0;
    },
    /** Asks the hub, once on a connection, whether it has the lost publications. Those that it certainly has not are sent again. */
    W() {
      if (asked) return;
      asked = 1;
      for (const [id, { e: item, f: lost, d: publication }] of pending) {
        if (!lost || !item.sent) continue;
        const { exceptSelf, key, u: question } = publication;
        const take = (_error, reply) => {
          if (!asked) return;
          const { complete, published } = reply?.json() ?? {};
          if (published) {
            if (exceptSelf) replayed = [...replayed.slice(-maxReplayed), key];
            finish(id);
          } else if (complete) item.sent = false;
          else fail(id, lost);
          answered();
        };
        asked++;
        if (publication.ask()?.user === question.user) request({ type: "hub:published", data: question.data }, take, void 0, () => true);
        else take();
      }
      answered();
    }
  };
}

// src/subscription.ts
var maxBuffered = 1024;
function createSubscription({ kind, name }, onMessage, { signal, onError }, listeners, leave) {
  const [ready, resolve, reject] = deferred();
  ready.catch(noop);
  let buffer = onMessage ? void 0 : [];
  let wake = noop;
  const end = (error, tell) => {
    if (sub.state === "ended") return;
    sub.state = "ended";
    sub.error = error;
    stopWaiting();
    reject(error ?? new HubError("aborted", "the subscription has ended"));
    wake();
    if (tell) onError ? void listeners.run(onError, error) : listeners.l(error);
  };
  const stop = (error) => {
    const ended = sub.state === "ended";
    end(error, Boolean(error));
    return ended ? Promise.resolve() : leave(handle);
  };
  const stopWaiting = onAbort(signal, () => void stop());
  const sub = {
    kind,
    name,
    state: "pending",
    error: void 0,
    ready,
    unsubscribe: () => stop(),
    async *[Symbol.asyncIterator]() {
      buffer ?? (buffer = []);
      try {
        for (; ; ) {
          while (buffer.length) yield buffer.shift();
          if (sub.error) throw sub.error;
          if (sub.state === "ended") return;
          await new Promise((resolve2) => wake = resolve2);
        }
      } finally {
        void stop();
      }
    }
  };
  const handle = {
    sub,
    end,
    H() {
      sub.state = "active";
      resolve();
    },
    receive(message) {
      if (sub.state === "ended") return;
      if (onMessage) void listeners.run(onMessage, message);
      if (!buffer) return;
      if (buffer.push(message) > maxBuffered) {
        void stop(new HubError("overflow", `${maxBuffered} messages wait for a loop`, { target: name }));
      }
      wake();
    }
  };
  return handle;
}

// src/topics.ts
var kinds = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"]
};
var keyOf = (kind, name) => kind + name;
var nameOf = (kind, name) => ({ [kinds[kind][2]]: name });
function createTopics(core, { encode: encode2 }, { call, request }, changed) {
  const topics = /* @__PURE__ */ new Map();
  const control = (verb, kind, name, begin) => ({
    type: kinds[kind][verb],
    data: core.options.codec.target(kinds[kind][2], name, begin)
  });
  const drop = (topic, handle) => {
    const dropped = topic.a.delete(handle);
    core.presence?.X(topic);
    return dropped;
  };
  const remove = (topic) => {
    if (topics.get(topic.key) === topic) topics.delete(topic.key);
    changed();
  };
  const ask = (topic) => {
    if (topic.g) return;
    topic.g = true;
    const handles = [...topic.a];
    if (handles.some(({ begin }) => !begin)) askFor(topic);
    for (const handle of handles) if (handle.begin) askFor(topic, handle);
  };
  const askFor = (topic, own) => {
    const begin = own ? own.begin : core.history?.Y(topic);
    const waiting = () => [...topic.a].filter((handle) => own ? handle === own : !handle.begin);
    const settle = (error, reply) => {
      const handles = waiting();
      if (!error) {
        topic.active = true;
        core.history?.joined(topic, handles, begin, reply);
        for (const handle of handles) handle.H();
        core.presence?.ask(topic);
        changed();
        return;
      }
      if (!own) topic.g = false;
      if (["unavailable", "disconnected"].includes(error.code)) return;
      for (const handle of handles) drop(topic, handle);
      if (!topic.a.size) remove(topic);
      for (const handle of handles) handle.end(error, true);
    };
    request(control(0, topic.kind, topic.name, begin), settle, void 0, () => waiting().length > 0);
  };
  const unsubscribe = (kind, name, options) => {
    const topic = topics.get(keyOf(kind, checkName(name)));
    const checked = check(options);
    for (const handle of topic?.a ?? []) handle.end();
    topic?.a.clear();
    const gone = () => {
      if (topic) remove(topic);
    };
    if (!core.i()) return Promise.resolve(gone());
    const left = call(control(1, kind, name), checked, gone, { leaves: true });
    changed();
    left.catch(noop);
    return left;
  };
  const subscribe = (kind, name, onMessage, options) => {
    if (onMessage) checkFunction(onMessage);
    const checked = check(options, {}, core.kinds);
    const begin = core.history?.begin(checked);
    encode2(control(0, kind, checkName(name), begin));
    const key = keyOf(kind, name);
    let topic = topics.get(key);
    const leave = (ended) => topic && drop(topic, ended) && !topic.a.size ? unsubscribe(kind, name) : Promise.resolve();
    const handle = createSubscription({ kind, name }, onMessage, checked, core.h, leave);
    core.history?.z(handle, begin);
    core.presence?.z(handle, checked);
    if (core.o() || checked.signal?.aborted) {
      handle.end(core.o() ? core.A() : void 0);
      return handle.sub;
    }
    if (!topic?.a.size) topics.set(key, topic = { key, kind, name, a: /* @__PURE__ */ new Set() });
    topic.a.add(handle);
    if (topic.active && !begin) {
      core.history?.B(topic, handle);
      handle.H();
      core.presence?.B(topic, handle);
    } else if (topic.g && begin) askFor(topic, handle);
    else if (core.i()) ask(topic);
    return handle.sub;
  };
  return {
    subscribe,
    unsubscribe,
    get: (kind, name) => topics.get(keyOf(kind, name)),
    /** Passes a message to the subscriptions of its topic, if there are any. */
    deliver(message) {
      const { type, channel, offset } = message;
      if (core.presence?.take(message)) return true;
      let topic = topics.get(keyOf(message.room ? "room" : "channel", channel));
      if (!offset) {
        if (type === "broadcast") return false;
        if (type === "room_message") topic = void 0;
        const room = type !== "message" && topics.get(keyOf("room", channel));
        if (room && (!topic || topic.epoch && !room.epoch)) topic = room;
      }
      if (!topic) return false;
      for (const handle of [...topic.a]) {
        if (core.history?.Z(topic, handle, message) ?? true) handle.receive(message);
      }
      return true;
    },
    /** Handles the notice that messages were dropped, of one topic or of all. */
    gap({ all, channel, room }) {
      for (const topic of topics.values()) {
        if (!all && topic.name !== (topic.kind === "room" ? room : channel)) continue;
        core.history?.gap(topic);
        if (topic.active) core.presence?.ask(topic);
      }
    },
    /** Returns the topics of which publications may be missing after a lost connection. */
    incomplete: () => [...topics.values()].flatMap(({ kind, name, a: handles }) => {
      const handle = [...handles].find(({ sub }) => !core.history || sub.resumed?.complete === false);
      return handle ? { kind, name, reason: handle.sub.resumed?.reason ?? "none" } : [];
    }),
    _: () => topics.forEach(ask),
    /** Forgets the memberships of a lost connection. */
    reset() {
      for (const [key, topic] of topics) {
        topic.g = topic.active = false;
        if (topic.members) topic.members.v = false;
        for (const { sub } of topic.a) sub.state = "pending";
        if (!topic.a.size) topics.delete(key);
      }
    },
    /** Reports whether the hub confirmed all topics. */
    I: () => [...topics.values()].every(({ active, a: handles }) => active || !handles.size),
    names: (kind) => [...topics.values()].filter((topic) => topic.kind === kind).map(({ name }) => name),
    close(error) {
      for (const { a: handles } of topics.values()) for (const handle of handles) handle.end(error);
      topics.clear();
    }
  };
}

// src/history.ts
var maxPositions = 1024;
var history = {
  kinds: { before: isCount, last: isCount, limit: isCount, since: "object" },
  C(core, outbox, calls, topics) {
    core.history = createHistory(core, outbox, calls, topics);
  }
};
function createHistory(core, outbox, calls, topics) {
  const positions = /* @__PURE__ */ new Map();
  const { excepts, ...repeat } = createRepeat(core, outbox, calls);
  const learn = (key, { conflate, epoch, offset = 0 }) => {
    positions.delete(key);
    if (epoch && !conflate) positions.set(key, { epoch, offset });
    if (positions.size > maxPositions) positions.delete(positions.keys().next().value);
  };
  const read = async ({ kind, name }, query) => {
    const { signal, timeout, ...asked } = check(query, {}, core.kinds);
    checkPosition(asked.since);
    return calls.call({ type: "hub:history", data: { ...nameOf(kind, name), ...asked } }, { signal, timeout }, (reply) => {
      const messages = new Map(memberSources(reply.text())).get("messages") ?? "[]";
      const decoded = memberSources(messages).flatMap(([, text]) => text ? json.decode(text) : []);
      return { ...reply.json(), messages: decoded };
    });
  };
  return {
    ...repeat,
    /** Returns where a subscription with these options begins, if not with the next message. */
    begin({ last, since }) {
      checkPosition(since);
      if (since && last) throw new TypeError("invalid option last: there is since");
      return since ? { since } : last ? { last } : void 0;
    },
    /** Prepares a new subscription. */
    z(handle, begin) {
      const { sub } = handle;
      handle.begin = begin;
      sub.position = begin?.since;
      sub.resumed = void 0;
      sub.history = (query) => read(sub, query);
    },
    /** Returns the position behind which subscriptions of a topic lack publications, if it has a history. */
    Y({ epoch, a: handles }) {
      const positions2 = [...handles].flatMap(({ begin, sub }) => epoch && !begin && sub.position || []);
      const since = positions2.find((position) => position.epoch !== epoch) ?? positions2.sort((a, b) => a.offset - b.offset)[0];
      return since && { since };
    },
    /** Handles the hub's confirmation for subscriptions, of a request that began in `asked`. */
    joined(topic, handles, asked, reply) {
      const told = reply.json() ?? {};
      const { after: after2, conflate, epoch = "", offset = 0, replayed = 0 } = told;
      learn(topic.key, told);
      topic.epoch = epoch;
      topic.J = told.complete === false && !replayed ? { epoch, offset } : void 0;
      for (const handle of handles) {
        const { begin, sub } = handle;
        if (!epoch) sub.position = void 0;
        else if (!sub.position) sub.position = { epoch, offset: conflate && replayed ? 0 : after2 ?? Math.max(0, offset - (begin?.last ?? 0)) };
        else if (sub.position.epoch === epoch && sub.position.offset > offset) sub.position = { epoch, offset: 0 };
        const complete = told.complete ?? !(asked?.since || sub.resumed);
        handle.begin = void 0;
        sub.resumed = { epoch, offset, replayed, complete, ...complete ? {} : { reason: told.reason ?? "none" } };
      }
    },
    /** Handles that a subscription has joined a topic in which the client is already. It begins now. */
    B({ epoch = "", a: handles }, { sub }) {
      const offset = Math.max(0, ...[...handles].map(({ sub: sub2 }) => sub2.position?.epoch === epoch && sub2.position.offset || 0));
      if (epoch) sub.position = { epoch, offset };
      sub.resumed = { epoch, offset, replayed: 0, complete: true };
    },
    /** Reports whether a subscription gets a message, and moves its position behind it. */
    Z({ epoch = "", key }, { begin, sub }, { key: unique, offset }) {
      if (begin) return false;
      if (offset) {
        if (sub.position?.epoch === epoch && sub.position.offset >= offset) return false;
        sub.position = { epoch, offset };
        if (positions.has(key)) positions.set(key, sub.position);
      }
      return !unique || !excepts(unique);
    },
    /** Handles the notice that messages of a topic were dropped. */
    gap(topic) {
      const { J: behindGap, a: handles } = topic;
      for (const { begin, sub } of handles) if (behindGap && !begin) sub.position = behindGap;
      topic.J = void 0;
    },
    /** Returns how a publication is sent again after a lost connection. */
    d(kind, name, key, exceptSelf) {
      const topicKey = keyOf(kind, name);
      return {
        key,
        exceptSelf,
        ask() {
          const since = key && core.p.includes("history") && positions.get(topicKey);
          return since ? { user: core.client.user, data: { ...nameOf(kind, name), key, since } } : void 0;
        },
        // With exceptSelf the hub does not send it to this client: positions move behind it.
        published(reply) {
          if (!reply) return;
          const told = reply.json() ?? {};
          const { epoch = "", offset = 0 } = told;
          learn(topicKey, told);
          for (const { sub } of topics.get(kind, name)?.a ?? []) {
            if (exceptSelf && sub.position?.epoch === epoch && sub.position.offset + 1 === offset) sub.position = { epoch, offset };
          }
        }
      };
    }
  };
}

// src/presence.ts
var toMember = ({ client_id: clientId = "", user = "", info, since = 0, node = "" }) => ({
  clientId,
  user,
  info,
  since,
  node
});
var lists = { leave: "leaves", join: "joins", update: "updates" };
function presenceData(message) {
  if (message.offset || !(message.type in lists || message.type === "presence_diff")) return void 0;
  try {
    return message.json() ?? void 0;
  } catch {
    return void 0;
  }
}
function createMembers() {
  const members = /* @__PURE__ */ new Map();
  return {
    /** True after the hub has told the members on this connection. Until then changes are not reported. */
    v: false,
    /** The latest request for the members, until its reply. */
    g: void 0,
    /** The members, those that joined first first. */
    list: () => [...members.values()].sort((a, b) => a.since - b.since || (a.clientId < b.clientId ? -1 : 1)),
    /** Puts the members that the hub has told in the place of all. */
    set(told) {
      const before = new Map(members);
      members.clear();
      for (const member of told.map(toMember)) {
        const known = before.get(member.clientId);
        members.set(member.clientId, JSON.stringify(known) === JSON.stringify(member) ? known : member);
      }
    },
    /** Applies a message about the members. */
    $({ type, clientId }, data) {
      const told = type in lists ? { [lists[type]]: [{ ...data, client_id: clientId }] } : data;
      const { leaves = [], joins = [], updates = [] } = told;
      for (const { client_id: id } of leaves) members.delete(id);
      for (const one of joins) members.set(one.client_id, toMember(one));
      for (const { client_id: id, user = "", info } of updates) {
        const known = members.get(id);
        if (known) members.set(id, { ...known, user, info });
      }
    },
    /** Returns the difference to an earlier list, if there is one. */
    aa(reported) {
      const before = new Map(reported.map((member) => [member.clientId, member]));
      const change = { joined: [], left: reported.filter(({ clientId }) => !members.has(clientId)), updated: [] };
      for (const member of this.list()) {
        const known = before.get(member.clientId);
        if (known !== member) change[known ? "updated" : "joined"].push(member);
      }
      return change.joined.length + change.left.length + change.updated.length ? change : void 0;
    }
  };
}
var presence = {
  kinds: { onPresence: "function" },
  C(core, _outbox, calls, topics) {
    core.presence = createPresence(core, calls, topics);
  }
};
function createPresence(core, { request }, topics) {
  const isFollowed = ({ a: handles }) => [...handles].some(({ q: changed }) => changed);
  const ask = (topic) => {
    const { a: handles, kind, name } = topic;
    if (!isFollowed(topic)) return;
    if (!core.p.includes("presence")) {
      core.h.l(new HubError("unsupported", "the hub has no presence", { target: name }));
      return;
    }
    const members = topic.members ?? (topic.members = createMembers());
    const asked = members.g = {};
    request({ type: "hub:presence", data: nameOf(kind, name) }, (error, reply) => {
      if (topic.members !== members || members.g !== asked || error?.code === "disconnected") return;
      members.g = void 0;
      if (error) {
        if (error.code !== "unavailable") core.h.l(error);
        return;
      }
      members.set(reply.json().members ?? []);
      members.v = true;
      for (const handle of handles) handle.q?.(members);
    });
  };
  return {
    ask,
    /** Prepares a new subscription. */
    z(handle, { onPresence }) {
      let members = [];
      handle.sub.members = () => members;
      if (!onPresence) return;
      handle.q = (all) => {
        const change = all.aa(members);
        if (!change) return;
        members = all.list();
        void core.h.run(onPresence, change);
      };
    },
    /** Handles that a subscription has joined a topic in which the client is already. */
    B(topic, handle) {
      const { members } = topic;
      if (!handle.q) return;
      if (members?.v) handle.q(members);
      else if (!members?.g) ask(topic);
    },
    /** Forgets the members if no subscription follows them any more. */
    X(topic) {
      if (!isFollowed(topic)) topic.members = void 0;
    },
    /** Takes a message about members that are followed. Reports whether it was one. */
    take(message) {
      const data = presenceData(message);
      const topic = data && topics.get(data.room ? "room" : "channel", message.channel);
      const members = topic?.members;
      if (!members) return false;
      members.$(message, data);
      if (members.v) for (const handle of topic.a) handle.q?.(members);
      return true;
    }
  };
}

// src/requests.ts
var requests = {
  kinds: { handlers: "object" },
  C: createRequests
};
function createRequests(core, { encode: encode2, K: measure, send }, { call }) {
  const handlers = /* @__PURE__ */ new Map();
  const handle = (type, handler) => {
    checkType(type, true);
    checkFunction(handler);
    if (handlers.has(type)) throw new TypeError(`the type ${type} has a handler already`);
    handlers.set(type, handler);
    return () => {
      if (handlers.get(type) === handler) handlers.delete(type);
    };
  };
  for (const [type, handler] of Object.entries(core.options.handlers ?? {})) handle(type, handler);
  core.ba = async (message) => {
    const { type, id } = message;
    const { connection } = core;
    let item;
    try {
      const handler = handlers.get(type);
      if (!handler) throw new HubError("unsupported", "no handler for this type");
      item = encode2({ type: "ack", id, data: await handler(message) });
    } catch (error) {
      let data = { code: "internal", message: "internal error" };
      if (error instanceof HubError) data = { code: error.code, message: error.message };
      else core.h.fail(error);
      item = measure({ type: "error", id, data });
    }
    if (core.i() && core.connection === connection) send(item);
  };
  return {
    handle,
    request: (type, data, given) => attempt(() => {
      checkType(type, true);
      return call({ type, data }, check(given), (reply) => reply);
    })
  };
}

// src/timers.ts
var clock = () => performance.now();
var after = (ms, task) => ms < 2 ** 31 ? setTimeout(task, ms) : void 0;
var jitter = ({ base, max }, failures) => Math.random() * Math.min(max, 2 ** 31 - 1, base * 2 ** failures);
var cancel = (timer) => clearTimeout(timer);

// src/calls.ts
function createCalls(core, { add, encode: encode2, ca: enqueue, K: measure, remove, L: transmit }) {
  const { options } = core;
  const pending = /* @__PURE__ */ new Map();
  let calls = 0;
  let lastId = 0;
  const finish = (id, error, reply) => {
    const ended = pending.get(id);
    if (!ended) return;
    if (error?.code === "unavailable" && (ended.d?.u || ended.M?.())) {
      sendLater(id, ended, error);
      return;
    }
    pending.delete(id);
    cancel(ended.timer);
    remove(ended.e);
    ended.N(error, reply);
  };
  const sendLater = (id, request2, refusal) => {
    const { e: item, da: refusals = 0 } = request2;
    item.sent = false;
    Object.assign(request2, { G: refusal, da: refusals + 1 });
    request2.timer = after(jitter(options.backoff, refusals), () => {
      if (request2.O) enqueue(item);
      else if (request2.M()) add(item);
      else finish(id, refusal);
    });
  };
  const fail = (id, error) => {
    error.outcomeUnknown = Boolean(pending.get(id)?.e.sent);
    finish(id, error);
  };
  const request = (fields, settle = noop, send = add, repeats) => {
    const id = `${++lastId}`;
    const item = measure({ ...fields, id });
    pending.set(id, { e: item, N: settle, M: repeats });
    send(item);
  };
  return {
    pending,
    n: finish,
    fail,
    request,
    /** Sends a request of the application and returns a promise. `read` turns the reply into its value. */
    call(fields, { timeout = options.timeout, signal }, read, kind = {}) {
      const { leaves, d: publication } = kind;
      core.w();
      const newAborted = () => new HubError("aborted", "the call was aborted", { cause: signal.reason });
      if (signal?.aborted) throw newAborted();
      if (!leaves && calls >= options.maxPending) throw new HubError("overflow", `${calls} calls are waiting for a reply`);
      const id = `${++lastId}`;
      const item = encode2({ ...fields, id });
      const [promise, resolve, reject] = deferred();
      const settle = (error, reply) => {
        calls--;
        cancel(timer);
        end();
        if (core.P) promise.catch(noop);
        if (error && !(leaves && error.code === "disconnected")) reject(error);
        else resolve(read(reply));
      };
      const end = onAbort(signal, () => fail(id, newAborted()));
      const timer = after(timeout, () => {
        fail(id, new HubError("timeout", `no reply within ${timeout} ms`, { cause: pending.get(id)?.G }));
        core.connection?.x();
      });
      calls++;
      if (publication) publication.u = publication.ask();
      pending.set(id, { d: publication, e: item, N: settle, O: !leaves });
      try {
        transmit(item);
      } catch (error) {
        fail(id, error);
      }
      return promise;
    },
    /** Ends the requests that need a lost connection and cannot be sent again, or all of a closed client. */
    f(newError, all) {
      core.history?.reset();
      for (const [id, call] of pending) {
        if (!all && call.O && !call.e.sent) continue;
        call.f = newError();
        if (all || !call.d?.u) fail(id, call.f);
      }
    }
  };
}

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
    /** Begins, or changes the interval. 0: never. */
    start(ms) {
      interval = ms || Infinity;
      running = true;
      if (!waiting) arm(interval);
    },
    /** Records that a frame was received. */
    ea() {
      heardAt = clock();
      if (waiting) arm(interval);
      waiting = 0;
    },
    /** Checks at once whether the connection is alive. */
    x: () => probe(Math.min(interval, probeTimeout)),
    stop() {
      running = false;
      cancel(timer);
    }
  };
}

// src/connection.ts
var closeTimeout = 1e3;
function openConnection(socket, codec, sealer, events) {
  let finished = false;
  let received = 0;
  let failure;
  const [closed, setClosed] = deferred();
  const finish = () => {
    finished = true;
    heartbeat.stop();
  };
  const end = (close) => {
    if (finished) return;
    finish();
    events.ended(close);
  };
  const closeSocket = async (code, reason) => {
    const timer = setTimeout(setClosed, closeTimeout);
    socket.close(code, cutUTF8(reason, 123));
    await closed;
    cancel(timer);
    socket.terminate?.();
  };
  const fail = (code, error) => {
    if (finished) return;
    const reason = error.message;
    end({ code, reason, error });
    void closeSocket(code < 3e3 ? code + 3e3 : code, reason);
  };
  const failMalformed = (code, text) => fail(code, new HubError("malformed", text));
  const heartbeat = createHeartbeat(
    events.ping,
    (ms) => fail(3008, new HubError("timeout", `received nothing for ${ms} ms after a ping`))
  );
  const heard = () => {
    received = Date.now();
    heartbeat.ea();
  };
  const deliver = (frame) => {
    if (finished) return;
    if (typeof frame === "string" !== codec.text) {
      failMalformed(1003, `the hub's frame is not ${codec.text ? "text; does the hub seal messages?" : "binary"}`);
      return;
    }
    try {
      events.message(codec.decode(frame));
    } catch (error) {
      fail(1007, error);
    }
  };
  const send = (frame) => socket.send(frame);
  const pipe = sealer?.pipe({ send, deliver, fail, text: codec.text });
  const listeners = {
    open() {
      if (finished) return;
      const { protocol } = socket;
      if (protocol !== codec.name && (protocol || codec.name !== "json")) {
        failMalformed(1002, `the server selected subprotocol "${protocol}", not "${codec.name}"`);
        return;
      }
      heard();
      events.opened();
    },
    message({ data }) {
      if (finished) return;
      heard();
      (pipe ? pipe.receive : deliver)(typeof data === "string" ? data : new Uint8Array(data));
    },
    error({ error, message }) {
      failure = error ?? (message ? new Error(message) : void 0);
      if (!received) end({ code: 1006, reason: "", error: failure });
    },
    close({ code, reason }) {
      setClosed(code);
      const task = () => end({ code, reason, error: failure });
      if (pipe) pipe.inOrder(task);
      else task();
    }
  };
  for (const type in listeners) socket.addEventListener(type, listeners[type]);
  socket.on?.("ping", heard);
  socket.binaryType = "arraybuffer";
  return {
    fail,
    Q: heartbeat.start,
    /** Checks at once whether the connection is alive. */
    x: heartbeat.x,
    /** Returns when the last frame arrived or the connection opened, in Unix milliseconds. */
    received: () => received,
    /** Returns the number of bytes that were passed to send but not written to the network yet. */
    fa: () => (pipe?.waiting ?? 0) + socket.bufferedAmount,
    send: pipe?.send ?? send,
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
}

// src/dial.ts
var isNoToken = (error) => error?.code === "no_token";
async function dial(core, url, renew, events) {
  const { codec, getToken, handshakeTimeout, security, token, WebSocket } = core.options;
  const controller = new AbortController();
  const [expired, , expire] = deferred();
  expired.catch(noop);
  core.D = (error) => {
    cancel(timer);
    controller.abort(error);
    expire(error);
    core.connection?.fail(1006, error);
  };
  const timer = after(
    handshakeTimeout,
    () => core.D(new HubError("timeout", `not connected within ${handshakeTimeout} ms`))
  );
  const ended = (close, final) => {
    cancel(timer);
    events.ended(close, final);
  };
  let credentials = { token };
  try {
    if (getToken) {
      const result = await Promise.race([getToken({ signal: controller.signal, renew }), expired]);
      credentials = typeof result === "object" && result ? result : { token: result };
    }
  } catch (error) {
    ended({ code: isNoToken(error) ? 3e3 : 1006, reason: "no credentials", error });
    return;
  }
  if (core.o()) return;
  const protocols = [codec.name];
  if (credentials.token) protocols.push(`bearer.${base64url(encodeUTF8(credentials.token))}`);
  try {
    core.connection = openConnection(new WebSocket(url, protocols), codec, credentials.security ?? security, {
      ...events,
      ended,
      opened() {
        cancel(timer);
        events.opened();
      }
    });
  } catch (error) {
    ended({ code: 1006, reason: error.message, error }, true);
  }
}

// src/pacing.ts
var share = 0.9;
var safeLimits = { messageRate: 20, byteRate: 1 << 17 };
var defaultLimits = { messageRate: 1e3, byteRate: 1 << 22 };
function createPacing() {
  let rates = [0, 0];
  let ahead = [0, 0];
  let updated = 0;
  const update = () => {
    const seconds = (clock() - updated) / 1e3;
    updated += seconds * 1e3;
    ahead = ahead.map((count, i) => Math.max(0, count - seconds * rates[i]));
  };
  return {
    limit(limits) {
      update();
      rates = [limits.messageRate, limits.byteRate].map((rate) => share * (rate || 1e99));
    },
    ga(size) {
      update();
      ahead[0] += 1;
      ahead[1] += size;
    },
    /** Returns the milliseconds until more may be sent. */
    wait() {
      update();
      return Math.ceil(1e3 * Math.max(...ahead.map((count, i) => count / rates[i])) - 999);
    }
  };
}

// src/hello.ts
var defaultHeartbeat = 15e3;
function createHello(core, { limit, send }, { request }, settled) {
  const { client, options } = core;
  return {
    ha() {
      core.y = false;
      core.p = [];
      core.connection.Q(options.heartbeat ?? defaultHeartbeat);
      const take = (error, message) => {
        if (error) return;
        const { client_id: id = "", user = "", limits = {}, heartbeat = defaultHeartbeat, features = [] } = message.json() ?? {};
        const all = {};
        for (const name in limits) all[name.replace(/_./g, (two) => two[1].toUpperCase())] = limits[name];
        Object.assign(client, { id, user, limits: all });
        core.y = true;
        core.features = core.p = features;
        limit(all);
        settled();
        core.connection.Q(options.heartbeat ?? heartbeat);
      };
      request({ type: "hub:hello", data: { features: ["goaway"] } }, take, send);
    },
    /** Sends a request that does nothing. */
    ping() {
      const leave = { type: "unsubscribe", data: options.codec.target("channel", "hub:ping") };
      request(core.p.includes("ping") ? { type: "hub:ping" } : leave, void 0, send);
    },
    /** Is called after every reply. A hub that replies to another request first does not know hub:hello. */
    R() {
      if (core.y) return;
      core.y = true;
      limit(defaultLimits);
      settled();
    }
  };
}

// src/listeners.ts
var callbackOf = (type) => callbackNames.find((name) => name.toLowerCase() === `on${type}`);
function createListeners(callbacks, options) {
  for (const name of callbackNames) callbacks[name] = options[name];
  const all = {};
  const warned = /* @__PURE__ */ new Set();
  const run = async (callback, argument, failed = fail) => {
    try {
      await callback(argument);
    } catch (cause) {
      failed(cause);
    }
  };
  const fail = (cause) => {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    report(new HubError("handler", `a handler failed${why}`, { cause }));
  };
  const emit = (type, detail) => {
    const listeners = [callbacks[callbackOf(type)], ...all[type] ?? []].filter(Boolean);
    for (const listener of listeners) void run(listener, detail, type === "error" ? console.error : fail);
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
    if (!callbackOf(type)) throw new TypeError(`there is no event ${type}`);
    checkFunction(listener);
    const { signal } = check(options2);
    const end = () => off(type, listener);
    if (!signal?.aborted) (all[type] ?? (all[type] = /* @__PURE__ */ new Set())).add(listener);
    onAbort(signal, end);
    return end;
  };
  return { run, S: emit, fail, l: report, on, off };
}

// src/methods.ts
function createMethods(core, { encode: encode2, L: transmit }, { call }, { subscribe, unsubscribe }) {
  const publisher = (type, kind) => (channel, data, given) => attempt(() => {
    const { exceptSelf, trace, ack = true, key = kind && ack && core.history?.V(), ...others } = check(given);
    if (kind) checkName(channel);
    const fields = { type, channel, data, exceptSelf, key, trace };
    if (ack) {
      const publication = kind && core.history?.d(kind, channel, key, exceptSelf);
      const read = (reply) => {
        publication?.published(reply);
        return { local: reply?.json()?.local === true };
      };
      return call(fields, others, read, { d: publication });
    }
    const item = encode2(fields);
    try {
      core.w();
      transmit(item);
    } catch (error) {
      core.h.l(error);
    }
    return Promise.resolve({ local: false });
  });
  const broadcast = publisher("broadcast");
  const methods = {
    subscribe: (...all) => subscribe("channel", ...all),
    joinRoom: (...all) => subscribe("room", ...all),
    unsubscribe: (...all) => attempt(() => unsubscribe("channel", ...all)),
    leaveRoom: (...all) => attempt(() => unsubscribe("room", ...all)),
    publish: publisher("publish", "channel"),
    publishRoom: publisher("publish_room", "room"),
    broadcast: (...all) => broadcast(void 0, ...all),
    send(type, data, given) {
      checkType(type);
      const { channel, volatile } = check(given);
      core.w();
      const item = encode2({ type, channel, data });
      if (volatile && !core.i()) return false;
      transmit(item);
      return true;
    }
  };
  return methods;
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

// src/outbox.ts
var headerSize = 14;
var maxOverhead = 60;
function createOutbox(core) {
  const { client, options } = core;
  const pacing = createPacing();
  let queue = /* @__PURE__ */ new Set();
  let held;
  let queuedBytes = 0;
  let timer;
  const measure = (fields) => {
    const frame = options.codec.encode(fields);
    const length = typeof frame === "string" ? encodeUTF8(frame).length : frame.length;
    return { frame, size: length + (options.getToken ? maxOverhead : options.security?.overhead ?? 0) };
  };
  const send = (item) => {
    item.sent = true;
    pacing.ga(item.size + headerSize);
    core.connection.send(item.frame);
  };
  const flush = () => {
    cancel(timer);
    for (const item of queue) {
      if (!core.i()) return;
      const wait = pacing.wait();
      if (wait > 0) {
        timer = after(wait, flush);
        return;
      }
      remove(item);
      send(item);
    }
  };
  const add = (item) => {
    queue.add(item);
    queuedBytes += item.size;
    flush();
  };
  const remove = (item) => {
    if (queue.delete(item) || held?.delete(item)) queuedBytes -= item.size;
  };
  const enqueue = (item) => {
    if (!held) return add(item);
    held.add(item);
    queuedBytes += item.size;
  };
  const hold = () => {
    held = /* @__PURE__ */ new Set([...queue, ...held ?? []]);
    queue = /* @__PURE__ */ new Set();
  };
  const release = () => {
    for (const item of held ?? []) queue.add(item);
    held = void 0;
    flush();
  };
  return {
    K: measure,
    send,
    add,
    ca: enqueue,
    hold,
    remove,
    U: release,
    /** Encodes a message. Throws if it is above the hub's limit: the hub would close the connection, and the client with it. */
    encode(fields) {
      const item = measure(fields);
      const { maxMessageSize = client.limits ? Infinity : 524288 } = options;
      const limit = Math.min(maxMessageSize, client.limits?.maxMessageSize || Infinity);
      if (item.size > limit) throw new HubError("too_large", `the message has ${item.size} bytes; the limit is ${limit}`);
      return item;
    },
    /** Sends a message, or queues it until the connection is open and the hub's rates allow it. Throws if too much is queued. */
    L(item) {
      const waiting = queuedBytes + (core.i() ? core.connection.fa() : 0);
      if (waiting + item.size > options.maxQueuedBytes) {
        throw new HubError("overflow", `${waiting} bytes are waiting to be sent`);
      }
      enqueue(item);
    },
    /**
     * Begins a connection whose limits are not known yet. The frames that `first` adds go before the queued ones. If the
     * hub has histories, those of the application wait until `release` is called: a publication with a key can be sent
     * again only if it is known for which user it was sent.
     */
    ia(first) {
      hold();
      pacing.limit(safeLimits);
      first();
      if (!core.history || !core.features.includes("history")) release();
    },
    /** Takes the limits of the hub. */
    limit(limits) {
      pacing.limit(limits);
      flush();
    },
    /** Discards the queue. Returns the number of its frames. */
    clear() {
      cancel(timer);
      const size = queue.size + (held?.size ?? 0);
      queue.clear();
      held = void 0;
      return size;
    }
  };
}

// src/receiver.ts
function createReceiver(core, calls, topics, hello) {
  const { codec } = core.options;
  const { S: emit, l: report } = core.h;
  let missed;
  let lastTimestampNs = BigInt(0);
  return {
    receive(message) {
      const { type, id, timestampNs } = message;
      if (timestampNs > 0) lastTimestampNs = timestampNs;
      if (type === "ack") {
        calls.n(id, void 0, message);
        hello.R();
      } else if (type === "error") {
        const { code, message: text } = codec.error(message);
        const error = new HubError(code, text, { target: message.channel });
        if (!id) return report(error);
        calls.n(id, error);
        hello.R();
      } else if (type === "gap") {
        const gap = new Notice(codec.gap(message));
        topics.gap(gap);
        if (!emit("gap", gap)) report(new HubError("gap", `${gap.count} messages were dropped`, { cause: gap }));
      } else if (id.startsWith("hub:")) {
        void core.ba?.(message);
      } else if (!topics.deliver(message)) {
        emit("message", message);
      }
    },
    /** Records that the connection is lost. */
    f() {
      missed ?? (missed = { from: core.connection.received(), lastTimestampNs });
    },
    /** Tells that a lost connection was replaced, if all topics are restored. */
    resumed() {
      if (!core.i() || !missed || !topics.I()) return;
      const fields = { ...missed, to: Date.now(), channels: topics.names("channel"), rooms: topics.names("room"), incomplete: topics.incomplete() };
      missed = void 0;
      emit("resumed", new Notice(fields));
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

// src/reconnect.ts
var hint = "handshake failed: origin or token refused, CSP, TLS, or server away; see the server's log and the browser's console";
var statusOf = (error) => Number(/response: (\d+)/.exec(`${error}`)?.[1]);
function createReconnect({ options, h: listeners }) {
  const { backoff, getToken, shouldReconnect } = options;
  let failures = 0;
  const reconnect = {
    /** True if the hub refused the last token, or may have. */
    renew: false,
    /** Describes a handshake that failed for an unknown reason. Browsers do not tell: a refused token is one of the possible causes. */
    ja(close) {
      if (close.error?.code || statusOf(close.error)) return;
      reconnect.renew = true;
      close.error ?? (close.error = new HubError("unreachable", hint));
    },
    /** Records how long a connection lasted, in milliseconds. */
    ka(ms) {
      if (ms >= backoff.resetAfter) failures = 0;
    },
    /** Reports whether the client tries again after a close. `wasOpen` tells a connection from a handshake. */
    la({ code, reason, error }, wasOpen) {
      let decision;
      void listeners.run(() => decision = shouldReconnect?.({ code, reason }), void 0);
      if (typeof decision === "boolean") return decision;
      if (isNoToken(error)) return false;
      const status = statusOf(error);
      if (code === 3e3 || status === 401) {
        const again = getToken !== void 0 && (wasOpen || !reconnect.renew);
        reconnect.renew = true;
        return again;
      }
      if (status >= 400 && status < 500) return [408, 409, 429].includes(status);
      return reconnectCodes.includes(code);
    },
    /** Returns the milliseconds to wait. */
    wait: () => jitter(backoff, failures++)
  };
  return reconnect;
}

// src/session.ts
function createSession(url, given, client, features) {
  const kinds2 = Object.assign({}, ...features.map(({ kinds: kinds3 }) => kinds3));
  const options = checkOptions(given, kinds2);
  const listeners = createListeners(client, options);
  const core = {
    client,
    options,
    h: listeners,
    kinds: kinds2,
    D: noop,
    features: [],
    p: [],
    i: () => client.state === "open",
    o: () => client.state === "closed",
    A() {
      const { code, reason, error } = core.ended;
      return new HubError("closed", `the client is closed: ${code} ${reason}`, { cause: error ?? core.ended });
    },
    w() {
      if (core.o()) throw core.A();
    }
  };
  const outbox = createOutbox(core);
  const calls = createCalls(core, outbox);
  const settled = () => {
    if (core.y && topics.I()) core.history?.W();
    receiver.resumed();
  };
  const topics = createTopics(core, outbox, calls, settled);
  const hello = createHello(core, outbox, calls, settled);
  const receiver = createReceiver(core, calls, topics, hello);
  const { on, off } = listeners;
  const life = createLife(core, url, outbox, calls, topics, hello, receiver);
  const methods = createMethods(core, outbox, calls, topics);
  Object.assign(client, { state: "connecting", id: "", user: "", limits: void 0, on, off }, methods, life);
  for (const { C: install } of features) Object.assign(client, install(core, outbox, calls, topics));
}
function createLife(core, url, outbox, calls, topics, hello, receiver) {
  const { client, options, h: listeners, i: isOpen, o: isClosed, A: newClosedError } = core;
  const reconnect = createReconnect(core);
  let leaving = false;
  let retryTimer;
  let openedAt = 0;
  let closing;
  let stopWatching = [];
  const notify = (previous, close2) => {
    listeners.S("statechange", { state: client.state, previous, ...close2 });
  };
  const connect2 = () => {
    if (isClosed()) return;
    cancel(retryTimer);
    retryTimer = void 0;
    void dial(core, url, reconnect.renew, {
      opened: opened2,
      message,
      ping: hello.ping,
      ended: (close2, final) => final ? finish(close2) : lost(close2)
    });
  };
  const opened2 = () => {
    const previous = client.state;
    client.state = "open";
    openedAt = Date.now();
    leaving = false;
    reconnect.renew = false;
    outbox.ia(() => {
      hello.ha();
      topics._();
    });
    if (!isOpen()) return;
    notify(previous);
    receiver.resumed();
  };
  const message = (message2) => {
    if (message2.type !== "hub:goaway") return receiver.receive(message2);
    const delay = message2.json()?.delay;
    if (leaving || !(delay >= 0)) return;
    cancel(retryTimer);
    retryTimer = after(delay, () => leave(20));
  };
  const leave = (turns) => {
    leaving = true;
    outbox.hold();
    if (turns && [...calls.pending.values()].some(({ e: item }) => item.sent)) retryTimer = after(50, () => leave(turns - 1));
    else replace({ code: 1012, reason: "goaway" }, false, Date.now() - openedAt > 1e3);
  };
  const replace = (close2, always, now = true) => {
    void core.connection.close(1e3, "");
    lost(close2, now, always);
  };
  const lost = (close2, now, always) => {
    if (isClosed()) return;
    cancel(retryTimer);
    const wasOpen = isOpen();
    if (wasOpen) {
      receiver.f();
      reconnect.ka(Date.now() - openedAt);
      topics.reset();
    } else if (core.connection) {
      reconnect.ja(close2);
    }
    core.connection = void 0;
    const previous = client.state;
    client.state = "reconnecting";
    const { code, reason, error } = close2;
    calls.f(() => new HubError("disconnected", `the connection was lost: ${code} ${reason}`.trim(), { cause: error }));
    if (!always && !reconnect.la(close2, wasOpen)) finish(close2, previous);
    if (isClosed()) return;
    const retryIn = now ? 0 : reconnect.wait();
    retryTimer = setTimeout(connect2, retryIn);
    notify(previous, { ...close2, retryIn });
  };
  const finish = (close2, previous = client.state) => {
    if (isClosed()) return;
    client.state = "closed";
    core.ended = close2;
    for (const stop of stopWatching) stop();
    cancel(retryTimer);
    core.connection = void 0;
    core.D(newClosedError());
    topics.close(core.P ? void 0 : newClosedError());
    calls.f(newClosedError, true);
    const unsent = outbox.clear();
    if (unsent) listeners.l(new HubError("closed", `${unsent} messages were not sent`));
    notify(previous, close2);
  };
  const close = async (code = 1e3, reason = "") => {
    if (code !== 1e3 && !(code >= 3e3 && code <= 4999)) throw new RangeError(`cannot send close code ${code}`);
    if (!isClosed()) {
      core.P = true;
      closing = core.connection?.close(code, reason);
      finish({ code, reason });
    }
    await closing;
  };
  const begin = () => {
    if (isClosed()) return;
    const { signal } = options;
    const abort = () => void close();
    if (signal?.aborted) {
      abort();
      return;
    }
    const changed = () => {
      if (isOpen()) core.connection.x();
      else if (retryTimer) connect2();
    };
    stopWatching = [onAbort(signal, abort), watchNetwork(changed)];
    connect2();
  };
  queueMicrotask(begin);
  return {
    close,
    reconnect() {
      core.w();
      if (isOpen()) {
        replace({ code: 1e3, reason: "reconnect" }, true);
      } else if (retryTimer) {
        connect2();
      }
    }
  };
}

// src/client.ts
var CoreClient = class {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url, options, features = []) {
    if (typeof url !== "string" && !url?.href) throw new TypeError(`invalid url: ${url}`);
    createSession(`${url}`, options, this, features);
  }
};
var HubClient = class extends CoreClient {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url, options) {
    super(url, options, [history, presence, requests]);
  }
};
var connect = (url, options) => opened(options, (others) => new HubClient(url, others));
var connectWith = (features, url, options) => opened(options, (others) => new CoreClient(url, others, features));
async function opened(options, create) {
  const { signal } = check({ signal: options?.signal });
  const client = create({ ...options, signal: void 0 });
  const [open, resolve, reject] = deferred();
  const abort = () => reject(new HubError("aborted", "connecting was aborted", { cause: signal.reason }));
  const ends = [
    onAbort(signal, abort),
    client.on("statechange", ({ state, code, reason, error }) => {
      const text = error ? error.message : reason;
      if (state === "open") void client.unsubscribe("hub:hello").catch(noop).then(resolve);
      else reject(new HubError("unreachable", `cannot connect: ${code} ${text}`, { cause: error }));
    })
  ];
  if (signal?.aborted) abort();
  try {
    await open;
    return client;
  } catch (error) {
    await client.close();
    throw error;
  } finally {
    for (const end of ends) end();
  }
}

// src/byte-io.ts
var zero = /* @__PURE__ */ BigInt(0);
var Writer = class {
  constructor(capacity) {
    this.length = 0;
    this.buffer = new Uint8Array(capacity);
    this.b = new DataView(this.buffer.buffer);
  }
  c(value) {
    this.buffer[this.length++] = value;
  }
  r(value) {
    this.b.setBigInt64(this.length, value);
    this.length += 8;
  }
  m(value) {
    const seven = BigInt(7);
    for (; value > 127; value >>= seven) this.c(Number(BigInt.asUintN(7, value)) | 128);
    this.c(Number(value));
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
    this.b = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
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
  c() {
    return this.buffer[this.take(1)];
  }
  /** Reads a varint as a number, which is exact up to 2^53 and approximate above. */
  m() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.c();
      if (scale === 2 ** 63 && byte > 1) this.fail("varint longer than 64 bits");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }
  /** Reads a varint as a signed 64-bit BigInt. */
  ma() {
    const seven = BigInt(7);
    let value = zero;
    const start = this.position;
    this.m();
    for (let i = this.position - 1; i >= start; i--) value = value << seven | BigInt(this.buffer[i] & 127);
    return BigInt.asIntN(64, value);
  }
};

// src/envelope.ts
var envelope = [
  ["type", "type", "text"],
  ["channel", "channel", "text"],
  ["data", "payload", "bytes"],
  ["timestamp", "timestampNs", "int64"],
  ["client_id", "clientId", "text"],
  ["id", "id", "text"],
  ["offset", "offset", "count"],
  ["key", "key", "text"],
  ["room", "room", "bool"],
  ["except_self", "exceptSelf", "bool"],
  ["trace", "trace", "text"]
];
var firstOptional = 5;
var valuesOf = (message) => envelope.map(([, name, kind]) => {
  const value = message[name];
  return kind === "text" ? encodeUTF8(value) : kind === "bytes" ? message.bytes() : kind === "count" ? BigInt(value) : value;
});
function toMessage(values2) {
  const fields = {};
  envelope.forEach(([, name, kind], i) => {
    const value = values2[i];
    fields[name] = kind === "count" ? Number(value ?? 0) : kind === "bool" ? Boolean(value) : value;
  });
  return new Message(fields);
}
var isEmpty = (value) => !(typeof value === "object" ? value.length : value);
var totalSize = (values2) => values2.reduce((sum, value) => sum + (typeof value === "object" ? value.length : 0), 0);

// src/codec-flatbuffers.ts
var flatbuffers = {
  name: "flatbuffers",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,
  encode(fields) {
    const values2 = valuesOf(asMessage(fields));
    const builder = new FlatBuilder(totalSize(values2));
    const slots = values2.map((value, i) => {
      if (typeof value !== "object") return value;
      const isText2 = envelope[i][2] === "text";
      if (!value.length && !(isText2 && i < firstOptional)) return 0;
      return isText2 ? builder.string(value) : builder.s(value);
    });
    return builder.n(slots);
  },
  decode(frame) {
    const table = new FlatTable(frame);
    const values2 = envelope.map(([, , kind], slot) => {
      if (kind === "text") return table.text(slot);
      return kind === "bytes" ? table.s(slot) : kind === "bool" ? table.bool(slot) : table.r(slot);
    });
    return toMessage(values2);
  }
};
var FlatBuilder = class {
  constructor(content) {
    this.E = 1;
    this.buffer = new Uint8Array(content + 128);
    this.b = new DataView(this.buffer.buffer);
    this.start = this.buffer.length;
  }
  get position() {
    return this.buffer.length - this.start;
  }
  /** Adds padding so that a value of `size` bytes is aligned after `further` more bytes. */
  align(size, further = 0) {
    this.E = Math.max(this.E, size);
    this.start -= -(this.position + further) & size - 1;
  }
  j(value) {
    this.align(4);
    this.start -= 4;
    this.b.setUint32(this.start, value, true);
  }
  F(value) {
    this.start -= 2;
    this.b.setUint16(this.start, value, true);
  }
  r(value) {
    this.align(8);
    this.start -= 8;
    this.b.setBigInt64(this.start, value, true);
  }
  s(bytes) {
    this.align(4, bytes.length);
    this.start -= bytes.length;
    this.buffer.set(bytes, this.start);
    this.j(bytes.length);
    return this.position;
  }
  /** Writes a vector followed by a zero byte, which its length does not include. */
  string(bytes) {
    this.align(4, bytes.length + 1);
    this.start--;
    return this.s(bytes);
  }
  /** Writes the table. Each slot is a position, a BigInt or a boolean. Zero values are omitted. */
  n(slots) {
    const tableEnd = this.position;
    const fields = slots.map((value) => {
      if (!value) return 0;
      if (typeof value === "boolean") {
        this.buffer[--this.start] = 1;
      } else if (typeof value === "bigint") {
        this.r(value);
      } else {
        this.align(4);
        this.j(this.position + 4 - value);
      }
      return this.position;
    });
    this.j(0);
    const table = this.position;
    while (fields[fields.length - 1] === 0) fields.pop();
    for (const field of fields.reverse()) this.F(field && table - field);
    this.F(table - tableEnd);
    this.F(4 + 2 * fields.length);
    this.b.setInt32(this.buffer.length - table, this.position - table, true);
    this.align(this.E, 4);
    this.j(this.position + 4 - table);
    return this.buffer.subarray(this.start);
  }
};
var labelOf = (slot) => envelope[slot][0];
var FlatTable = class {
  constructor(bytes) {
    this.bytes = bytes;
    this.b = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.table = this.j(0, "root offset");
    this.k(this.table, 4, "table");
    this.t = this.table - this.b.getInt32(this.table, true);
    this.k(this.t, 4, "vtable");
    const size = this.b.getUint16(this.t, true);
    if (size < 4 || size % 2 !== 0) throw new DecodeError(`flatbuffers: impossible vtable size ${size}`);
    this.k(this.t, size, "vtable");
    this.slots = (size - 4) / 2;
  }
  k(position, length, label) {
    if (position < 0 || position + length > this.bytes.length) {
      throw new DecodeError(`flatbuffers: ${label} at byte ${position} is outside the buffer`);
    }
  }
  j(position, label) {
    this.k(position, 4, label);
    return this.b.getUint32(position, true);
  }
  /** Returns the position of a field, or 0 if the table does not have the field. */
  field(slot) {
    if (slot >= this.slots) return 0;
    const offset = this.b.getUint16(this.t + 4 + 2 * slot, true);
    return offset && this.table + offset;
  }
  s(slot) {
    const field = this.field(slot);
    if (field === 0) return noBytes;
    const label = labelOf(slot);
    const start = field + this.j(field, label);
    const length = this.j(start, label);
    this.k(start + 4, length, label);
    return this.bytes.subarray(start + 4, start + 4 + length);
  }
  text(slot) {
    return decodeUTF8(this.s(slot), `flatbuffers: ${labelOf(slot)}`);
  }
  bool(slot) {
    const field = this.field(slot);
    if (field > 0) this.k(field, 1, labelOf(slot));
    return field > 0 && this.bytes[field] !== 0;
  }
  r(slot) {
    const field = this.field(slot);
    if (field === 0) return zero;
    this.k(field, 8, labelOf(slot));
    return this.b.getBigInt64(field, true);
  }
};

// src/codec-msgpack.ts
var msgpack = {
  name: "msgpack",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,
  encode(message) {
    const values2 = valuesOf(asMessage(message));
    const written = values2.map((value, i) => i < firstOptional || !isEmpty(value));
    const writer = new Writer(160 + totalSize(values2));
    writer.c(128 | written.filter(Boolean).length);
    values2.forEach((value, i) => {
      if (!written[i]) return;
      const [key, , kind] = envelope[i];
      writer.c(msgpackStr.fix | key.length);
      writer.bytes(encodeUTF8(key));
      if (typeof value === "boolean") {
        writer.c(msgpackTrue);
      } else if (typeof value === "bigint") {
        writer.c(kind === "count" ? 207 : 211);
        writer.r(value);
      } else if (kind === "bytes" && !value.length) {
        writer.c(msgpackNil);
      } else {
        writeHeader(writer, kind === "bytes" ? msgpackBin : msgpackStr, value.length);
        writer.bytes(value);
      }
    });
    return writer.done();
  },
  decode(frame) {
    const reader = new MsgpackReader("msgpack", frame);
    const values2 = [];
    for (let members = reader.na(); members > 0; members--) {
      const key = reader.text("map key");
      const index = envelope.findIndex(([name]) => name === key);
      const kind = envelope[index]?.[2];
      if (kind === "text") values2[index] = reader.text(key);
      else if (kind === "bytes") values2[index] = reader.binary(key, true);
      else if (kind === "int64" || kind === "count") values2[index] = reader.integer(key);
      else {
        if (kind) values2[index] = frame[frame.length - reader.left] === msgpackTrue;
        reader.skip();
      }
    }
    if (reader.left > 0) reader.fail("bytes after the message");
    return toMessage(values2);
  }
};
var msgpackStr = { fix: 160, T: 31, 8: 217, 16: 218, 32: 219 };
var msgpackBin = { fix: 0, T: -1, 8: 196, 16: 197, 32: 198 };
var msgpackNil = 192;
var msgpackTrue = 195;
function writeHeader(writer, format, length) {
  if (length <= format.T) {
    writer.c(format.fix | length);
    return;
  }
  const bits = length < 2 ** 8 ? 8 : length < 2 ** 16 ? 16 : 32;
  writer.c(format[bits]);
  for (let shift = bits - 8; shift >= 0; shift -= 8) writer.c(length >>> shift);
}
var MsgpackReader = class extends Reader {
  na() {
    const format = this.c();
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
    const format = this.c();
    const length = this.length(msgpackStr, format) ?? (bin ? this.length(msgpackBin, format) : void 0);
    if (length !== void 0) return this.bytes(length);
    if (format !== msgpackNil) this.fail(`${label} is not a string${bin ? " or bin" : ""}`);
    return noBytes;
  }
  /** Reads an integer of any size, or nil as 0. */
  integer(label) {
    const format = this.c();
    if (format < 128) return BigInt(format);
    if (format >= 224) return BigInt(format - 256);
    if (format === msgpackNil) return zero;
    if (format < 204 || format > 211) this.fail(`${label} is not an integer`);
    const bits = 8 << (format & 3);
    const value = bits === 64 ? this.b.getBigUint64(this.take(8)) : BigInt(this.uint(bits / 8));
    const signed = BigInt.asIntN(format < 208 ? 64 : bits, value);
    if (format < 208 && signed < zero) this.fail(`${label} does not fit in 64 bits`);
    return signed;
  }
  /**
   * Skips one value and everything nested in it, without recursion. Every value
   * takes at least one byte, so a forged count fails at the end of the input.
   */
  skip() {
    for (let values2 = 1; values2 > 0; values2--) values2 += this.oa();
  }
  /** Skips one value except for its nested values, and returns their number. */
  oa() {
    const format = this.c();
    const length = this.length(msgpackStr, format) ?? this.length(msgpackBin, format);
    if (length !== void 0) return this.pass(length);
    if (format < 128 || format >= 224) return 0;
    if (format < 144) return 2 * (format & 15);
    if (format < 160) return format & 15;
    if (format === 193) this.fail("unknown format byte");
    if (format < 196) return 0;
    if (format < 202) return this.pass(1 + this.uint(2 ** (format - 199)));
    if (format < 204) return this.pass(2 ** (format - 200));
    if (format < 212) return this.pass(2 ** (format & 3));
    if (format < 220) return this.pass(1 + 2 ** (format - 212));
    return this.uint(format & 1 ? 4 : 2) * (format < 222 ? 1 : 2);
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
    if (size === 1) return this.b.getUint8(at);
    return size === 2 ? this.b.getUint16(at) : this.b.getUint32(at);
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
    return encode(valuesOf(asMessage(fields)));
  },
  decode(frame) {
    return toMessage(decode("protobuf", frame, envelope.map(([, , kind]) => kind)));
  },
  target(_key, name, { since, last = 0 } = {}) {
    const position = since ? encode([encodeUTF8(since.epoch), BigInt(since.offset)]) : noBytes;
    return encode([encodeUTF8(name), position, BigInt(last)]);
  },
  error(message) {
    const [code = "", text = ""] = decode("error reply", message.bytes(), ["text", "text"]);
    return { code, message: text };
  },
  gap(message) {
    const kinds2 = ["text", "text", "int64", "int64", "int64", "text", "bool"];
    const [channel = "", room = "", count = 0, firstNs = zero, lastNs = zero, reason = "", all] = decode("gap notice", message.bytes(), kinds2);
    return { channel, room, count: Number(count), firstNs, lastNs, reason, all: Boolean(all) };
  }
};
function encode(values2) {
  const writer = new Writer(totalSize(values2) + 11 * values2.length);
  values2.forEach((value, i) => {
    if (isEmpty(value)) return;
    const tag = i + 1 << 3;
    if (typeof value === "object") {
      writer.c(tag | lengthType);
      writer.m(BigInt(value.length));
      writer.bytes(value);
    } else {
      writer.c(tag | varintType);
      writer.m(BigInt.asUintN(64, BigInt(value)));
    }
  });
  return writer.done();
}
function decode(label, bytes, kinds2) {
  const reader = new Reader(label, bytes);
  const values2 = [];
  while (reader.left > 0) {
    const tag = reader.m();
    const wireType = tag % 8;
    const number = (tag - wireType) / 8;
    if (number < 1 || number >= 2 ** 29) reader.fail("invalid field number");
    const index = number - 1;
    const kind = kinds2[index];
    switch (wireType) {
      case varintType: {
        const value = reader.ma();
        if (kind && kind !== "text" && kind !== "bytes") values2[index] = value;
        break;
      }
      case fixed64Type:
        reader.take(8);
        break;
      case lengthType: {
        const value = reader.bytes(reader.m());
        if (kind === "bytes") values2[index] = value;
        if (kind === "text") values2[index] = decodeUTF8(value, `${label}: field ${number}`);
        break;
      }
      case fixed32Type:
        reader.take(4);
        break;
      default:
        reader.fail(`unknown wire type ${wireType}`);
    }
  }
  return values2;
}

// src/codecs.ts
var codecs = { json, protobuf, flatbuffers, msgpack };

// src/seal.ts
var nonceSize = 12;
var tagSize = 16;
var macSize = 32;
var noop2 = () => {
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
        sealed.catch(noop2);
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
        const opened2 = this.open(frame);
        opened2.catch(noop2);
        pipe.inOrder(async () => {
          try {
            const plain2 = await opened2;
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
  imported.catch(noop2);
  return imported;
}
export {
  CoreClient,
  DecodeError,
  HubClient,
  HubError,
  Message,
  NoTokenError,
  Sealer,
  closeCodes,
  codecs,
  connect,
  connectWith,
  flatbuffers,
  fromBase64,
  fromHex,
  history,
  json,
  msgpack,
  presence,
  protobuf,
  requests
};
//# sourceMappingURL=hub.js.map
