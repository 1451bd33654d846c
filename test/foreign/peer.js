// A client of the hub, made of the ws package, a codec and a sealer.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";

import { codecs } from "./codecs.js";

/** The keys of the hubs that seal. */
export const keys = { aesKey: new Uint8Array(32).fill(7), hmacKey: Buffer.from("signing key of the tests") };

export const utf8 = (text) => new Uint8Array(Buffer.from(text));

let address;
let server;
let directory;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "hub-"));
  const program = join(directory, "server");
  const root = fileURLToPath(new URL("../..", import.meta.url));
  execFileSync("go", ["build", "-o", program, "./test/foreign/server"], { cwd: root, stdio: "inherit" });
  server = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
  const [line] = await once(server.stdout, "data");
  address = line.toString().trim();
});

after(async () => {
  if (server) {
    server.stdin.end();
    await once(server, "exit");
  }
  rmSync(directory, { recursive: true });
});

export const urlOf = (path) => `ws://${address}${path}`;

/** Returns the HTTP response to a handshake that the hub refuses. */
export async function refusal(path, offers, options) {
  const socket = new WebSocket(urlOf(path), offers, options);
  const [, response] = await once(socket, "unexpected-response");
  let body = "";
  for await (const chunk of response.setEncoding("utf8")) body += chunk;
  return { status: response.statusCode, headers: response.headers, body };
}

export class Peer {
  #waiting = [];
  #inbound = Promise.resolve();
  #lastId = 0;

  /** The messages received so far, replies included. */
  messages = [];
  pings = 0;

  static async connect(t, path, { codec = "json", sealer, offers = [codec], ...options } = {}) {
    const peer = new Peer();
    peer.name = codec;
    peer.codec = codecs[codec];
    peer.sealer = sealer;
    const socket = (peer.socket = new WebSocket(urlOf(path), offers, { perMessageDeflate: false, ...options }));
    socket.on("message", (data, isBinary) => {
      peer.#inbound = peer.#inbound.then(() => peer.#receive(data, isBinary));
    });
    socket.on("ping", () => peer.pings++);
    peer.closed = once(socket, "close").then(([code, reason]) => ({ code, reason: reason.toString() }));
    socket.on("error", (error) => (peer.error = error));
    t.after(() => socket.terminate());
    await once(socket, "open");
    return peer;
  }

  async #receive(data, isBinary) {
    assert.equal(isBinary, !this.codec.text || Boolean(this.sealer), "frame type");
    let bytes = new Uint8Array(data);
    if (this.sealer) bytes = await this.sealer.open(bytes);
    this.messages.push(this.codec.decode(this.codec.text ? Buffer.from(bytes).toString() : bytes));
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async send(message) {
    let frame = this.codec.encode({ type: "", channel: "", clientId: "", id: "", ...message });
    if (this.sealer) frame = await this.sealer.seal(typeof frame === "string" ? utf8(frame) : frame);
    this.socket.send(frame);
  }

  /** Returns the first received message that fulfils the condition, and waits for it if necessary. */
  async until(condition) {
    for (;;) {
      const found = this.messages.find(condition);
      if (found) return found;
      await new Promise((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Sends a request and returns the reply. */
  async ask(message) {
    const id = `${this.name}-${++this.#lastId}`;
    await this.send({ ...message, id });
    return this.until((reply) => reply.id === id);
  }

  async acked(message) {
    const reply = await this.ask(message);
    assert.equal(reply.type, "ack", JSON.stringify(this.codec.error(reply.data)));
    assert.equal(reply.data.length, 0);
    return reply;
  }

  async rejected(message, code) {
    const reply = await this.ask(message);
    assert.equal(reply.type, "error");
    const error = this.codec.error(reply.data);
    assert.equal(error.code, code);
    assert.notEqual(error.message, "");
    return { ...reply, ...error };
  }

  subscription(channel, type = "subscribe") {
    return { type, data: this.codec.request({ channel }) };
  }

  membership(roomId, type = "join_room") {
    return { type, data: this.codec.request({ room_id: roomId }) };
  }

  async whoAmI() {
    return (await this.ask({ type: "who am I" })).clientId;
  }
}
