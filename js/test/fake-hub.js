// A hub in this process, on real sockets, that uses the codecs of the oracles.
// Tests may change its behaviour with intercept, choose and refuse.

import { once } from "node:events";
import { WebSocketServer } from "ws";

import { oracles, OracleSealer } from "./oracles.js";

const blank = { channel: "", data: new Uint8Array(0), timestampNs: 0n, clientId: "", id: "" };

/** Reports whether a message is for the hub itself. An old hub knows none of these, but replies to every unsubscribe. */
export const isToHub = ({ type, data }) =>
  type.startsWith("hub:") || (type === "unsubscribe" && Buffer.from(data).includes("hub:"));

export class FakeHub {
  /** One peer per connection, in order of connection. */
  peers = [];
  /** Called as intercept(peer, message). If it returns true, the hub does not handle the message. */
  intercept = () => false;
  /** Selects a subprotocol of the offered ones. */
  choose = (offers) => offers.find((offer) => offer in oracles) ?? false;
  /** The data of the reply to hub:hello; undefined as in a hub that does not know it. */
  hello = { limits: {}, heartbeat: 15_000, version: "test", features: ["ping", "except_self"] };
  now = 1_763_769_600_123_456_789n;

  #server;
  #waiting = [];

  static async start(t, options = {}) {
    const hub = Object.assign(new FakeHub(), options);
    await hub.listen();
    t.after(() => hub.stop());
    return hub;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  async listen() {
    this.#server = new WebSocketServer({
      port: this.port ?? 0,
      host: "127.0.0.1",
      handleProtocols: (offers) => this.choose([...offers]),
      verifyClient: ({ req }, done) => done(!this.refuse, this.refuse, undefined, req),
    });
    this.#server.on("connection", (socket, request) => this.#connected(new Peer(this, socket, request)));
    await once(this.#server, "listening");
    this.port = this.#server.address().port;
  }

  async stop() {
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Resolves with the peer of the next connection. */
  nextPeer() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  publish(message) {
    const key = message.type === "room_message" ? "room" : "channel";
    for (const peer of this.peers) {
      if (message.type === "broadcast" || peer.memberships.has(`${key} ${message.channel}`)) peer.send(message);
    }
  }

  #connected(peer) {
    this.peers.push(peer);
    peer.socket.on("message", (frame, isBinary) => this.#received(peer, frame, isBinary));
    for (const resolve of this.#waiting.splice(0)) resolve(peer);
  }

  #received(peer, frame, isBinary) {
    let message;
    try {
      message = peer.decode(frame, isBinary);
    } catch {
      return; // A client with other keys.
    }
    if (isToHub(message)) {
      peer.toHub.push(message);
      if (message.type !== "hub:hello") peer.send({ type: "ack", id: message.id });
      else if (this.hello) {
        const data = Buffer.from(JSON.stringify({ client_id: peer.id, user: "", ...this.hello }));
        peer.send({ type: "ack", id: message.id, data });
      }
      peer.notify();
      return;
    }
    peer.received.push(message);
    if (!this.intercept(peer, message)) this.handle(peer, message);
    peer.notify();
  }

  handle(peer, message) {
    const { type, channel, data } = message;
    const stamped = { channel, data, timestampNs: this.now++, clientId: peer.id };
    const targetOf = { subscribe: "channel", unsubscribe: "channel", join_room: "room_id", leave_room: "room_id" };
    const target = type in targetOf ? peer.codec.target(targetOf[type], data) : channel;
    switch (type) {
      case "subscribe":
        peer.memberships.add(`channel ${target}`);
        break;
      case "unsubscribe":
        peer.memberships.delete(`channel ${target}`);
        break;
      case "join_room":
        peer.memberships.add(`room ${target}`);
        break;
      case "leave_room":
        peer.memberships.delete(`room ${target}`);
        break;
      case "publish":
        this.publish({ ...stamped, type: "message" });
        break;
      case "publish_room":
        this.publish({ ...stamped, type: "room_message" });
        break;
      case "broadcast":
        this.publish({ ...stamped, type: "broadcast" });
        break;
      default:
        return;
    }
    peer.ack(message, target);
  }
}

class Peer {
  received = [];
  /** The messages to the hub itself. */
  toHub = [];
  memberships = new Set();
  ended; // {code, reason} once the connection has ended
  #watchers = [];

  constructor(hub, socket, request) {
    this.socket = socket;
    this.id = `client-${hub.peers.length + 1}`;
    this.codec = oracles[socket.protocol || "json"];
    this.isText = this.codec === oracles.json;
    this.sealer = hub.keys && new OracleSealer(hub.keys);
    this.offers = request.headers["sec-websocket-protocol"].split(/, */);
    socket.on("close", (code, reason) => {
      this.ended = { code, reason: reason.toString() };
      this.notify();
    });
  }

  get token() {
    const offer = this.offers.find((name) => name.startsWith("bearer."));
    return offer && Buffer.from(offer.slice(7), "base64url").toString();
  }

  decode(frame, isBinary) {
    if (isBinary !== Boolean(this.sealer || !this.isText)) throw new Error("wrong frame type");
    const plain = this.sealer ? this.sealer.open(frame) : frame;
    return this.codec.decode(this.isText ? plain.toString() : Uint8Array.from(plain));
  }

  send(message) {
    const frame = this.codec.encode({ ...blank, ...message });
    this.socket.send(this.sealer ? this.sealer.seal(frame) : frame);
  }

  ack({ id }, target) {
    if (id !== "") this.send({ type: "ack", id, channel: target });
  }

  replyError({ id, channel }, code, message) {
    this.send({ type: "error", id, channel, data: this.codec.error(code, message) });
  }

  /** Resolves once `condition(peer)` holds. */
  until(condition) {
    return new Promise((resolve) => {
      this.#watchers.push({ condition, resolve });
      this.notify();
    });
  }

  notify() {
    this.#watchers = this.#watchers.filter(({ condition, resolve }) => {
      if (!condition(this)) return true;
      resolve(this);
      return false;
    });
  }

  types() {
    return this.received.map(({ type }) => type);
  }
}
