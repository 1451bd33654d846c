// Builds the chat server and runs it in its own process.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
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
