// Builds the chat server and runs it in its own process, and a network that can be cut.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const repository = new URL("../../", import.meta.url);

export class Server {
  #directory = mkdtempSync(join(tmpdir(), "hypgo-chat-"));
  #binary = join(this.#directory, "chat");
  #process;
  #address = "127.0.0.1:0";
  log = "";

  constructor() {
    const { status, stderr } = spawnSync("go", ["build", "-o", this.#binary, "./examples/chat"], {
      cwd: repository,
      encoding: "utf8",
    });
    if (status !== 0) throw new Error(`go build: ${stderr}`);
  }

  get url() {
    return `http://${this.#address}`;
  }

  /** Starts the server, on a free port the first time and on the same port after that. */
  async start() {
    const child = spawn(this.#binary, ["-addr", this.#address], { stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    child.stderr.setEncoding("utf8").on("data", (text) => (this.log += text));
    for await (const line of createInterface({ input: child.stdout })) {
      const [, address] = line.match(/^chat on http:\/\/(\S+),/) ?? [];
      if (!address) continue;
      this.#address = address;
      child.stdout.resume();
      return;
    }
    throw new Error(`the server did not start: ${this.log}`);
  }

  async stop(signal) {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  }

  async dispose() {
    if (this.#process) await this.stop("SIGKILL");
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** Passes connections on to a server. */
export class Network {
  #sockets = new Set();
  #isCut = false;
  #server = createServer((socket) => {
    const { hostname, port } = new URL(this.target);
    const onward = connect(port, hostname);
    for (const [from, to] of [[socket, onward], [onward, socket]]) {
      this.#sockets.add(from);
      from.on("error", () => {}); // "close" follows
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
    if (this.#isCut) this.cut();
  });

  constructor(target) {
    this.target = target;
  }

  async start() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Ends all connections, and every new one until `mend`. */
  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  mend() {
    this.#isCut = false;
  }

  dispose() {
    this.cut();
    this.#server.close();
  }
}
