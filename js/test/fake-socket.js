// A WebSocket class for tests of timing. The test plays the part of the server.

import { isToHub } from "./fake-hub.js";
import { oracles } from "./oracles.js";

const blank = { channel: "", data: new Uint8Array(0), timestampNs: 0n, clientId: "", id: "" };

/** Returns a new class, which keeps a list of its sockets. */
export function fakeWebSocket() {
  return class FakeSocket extends EventTarget {
    static sockets = [];

    static get last() {
      return this.sockets.at(-1);
    }

    bufferedAmount = 0;
    protocol = "";
    readyState = 0;
    /** The frames that the client sent, without its messages to the hub itself. */
    frames = [];
    /** The messages to the hub itself. */
    toHub = [];

    constructor(url, protocols) {
      super();
      this.url = url;
      this.protocols = protocols;
      this.constructor.sockets.push(this);
    }

    // Called by clients

    send(frame) {
      if (this.readyState === 0) throw new Error("not open yet");
      if (this.readyState !== 1) return;
      let message;
      try {
        message = oracles[this.protocol || "json"].decode(frame);
      } catch {
        // The frame is sealed.
      }
      if (message && isToHub(message)) this.toHub.push(message);
      else this.frames.push(frame);
    }

    close(code, reason) {
      this.closed = { code, reason };
      this.readyState = 2;
    }

    terminate() {
      this.terminated = true;
    }

    on(name, listener) {
      this.addEventListener(name, listener);
    }

    // Called by tests

    accept(protocol = this.protocols[0]) {
      this.protocol = protocol;
      this.readyState = 1;
      this.dispatchEvent(new Event("open"));
      return this;
    }

    /** The messages that the client sent. */
    get sent() {
      return this.frames.map((frame) => oracles[this.protocol].decode(frame));
    }

    get types() {
      return this.sent.map(({ type }) => type);
    }

    deliver(message) {
      this.deliverRaw(oracles[this.protocol].encode({ ...blank, ...message }));
    }

    deliverRaw(frame) {
      const data = typeof frame === "string" ? frame : Uint8Array.from(frame).buffer;
      this.dispatchEvent(Object.assign(new Event("message"), { data }));
    }

    /** Answers hub:hello as a hub does that knows it, with no limits by default. */
    welcome(data = {}) {
      const hello = this.toHub.find(({ type }) => type === "hub:hello");
      const all = { client_id: "c1", user: "u1", limits: {}, heartbeat: 15_000, features: ["ping", "except_self"], ...data };
      this.deliver({ type: "ack", id: hello.id, data: Buffer.from(JSON.stringify(all)) });
    }

    /** The pings, in the form for hubs that know them or in that for older ones. */
    get pings() {
      return this.toHub.filter(({ type }) => type !== "hub:hello");
    }

    /** Answers the latest ping. */
    pong() {
      this.deliver({ type: "ack", id: this.pings.at(-1).id });
    }

    /** Acknowledges all requests sent so far that have an ID. */
    ackAll() {
      const { sent } = this;
      for (const { id } of sent.slice(this.acked ?? 0)) if (id !== "") this.deliver({ type: "ack", id });
      this.acked = sent.length;
    }

    replyError(index, code) {
      const { id } = this.sent.at(index);
      this.deliver({ type: "error", id, data: oracles[this.protocol].error(code, `no: ${code}`) });
    }

    drop(code = 1006, reason = "") {
      this.readyState = 3;
      this.dispatchEvent(Object.assign(new Event("close"), { code, reason }));
    }

    error(message) {
      this.dispatchEvent(Object.assign(new Event("error"), { message }));
    }
  };
}
