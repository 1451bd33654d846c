// A WebSocket class for tests of timing. The test plays the part of the server.

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
    frames = [];

    constructor(url, protocols) {
      super();
      this.url = url;
      this.protocols = protocols;
      this.constructor.sockets.push(this);
    }

    // Called by clients

    send(frame) {
      if (this.readyState === 0) throw new Error("not open yet");
      if (this.readyState === 1) this.frames.push(frame);
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
