// A real hub in its own process, and a proxy in front of it.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect as netConnect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import ws from "ws";

export const WebSocket = process.env.NATIVE_WEBSOCKET === "1" ? globalThis.WebSocket : ws;
export const skip = spawnSync("go", ["version"]).status === 0 ? false : "Go is missing";
export const aesKey = Uint8Array.from({ length: 32 }, (_, i) => i * 7);
export const hmacKey = Uint8Array.from({ length: 24 }, (_, i) => i + 100);
export const hex = (bytes) => Buffer.from(bytes).toString("hex");

let directory;
let program;

before(() => {
  if (skip) return;
  directory = mkdtempSync(join(tmpdir(), "hypgo-hub-"));
  program = join(directory, "hub");
  const root = fileURLToPath(new URL("../..", import.meta.url));
  execFileSync("go", ["build", "-o", program, "./js/test/testdata/hub"], { cwd: root, stdio: "inherit" });
});

after(() => {
  if (directory) rmSync(directory, { recursive: true });
});

/** Starts a hub in its own process. It stops when the test ends. */
export async function startHub(t, ...flags) {
  const child = spawn(program, flags, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "exit");
  t.after(() => {
    child.stdin.end();
    return ended;
  });
  const [line] = await once(child.stdout, "data");
  const address = line.toString().trim();
  return { url: `ws://${address}`, address, ended, kill: () => child.kill("SIGKILL"), stop: () => child.stdin.end() };
}

/** A proxy that cuts connections and refuses new ones. `budget` returns the number of bytes after which it cuts a new one. */
export async function startProxy(t, address, budget = () => Infinity) {
  const sockets = new Set();
  const proxy = { refuses: false, budget, connections: 0, cut: () => sockets.forEach((socket) => socket.destroy()) };
  const server = createServer((client) => {
    if (proxy.refuses) return client.destroy();
    proxy.connections++;
    let left = proxy.budget();
    const hub = netConnect(Number(address.split(":")[1]), "127.0.0.1");
    for (const [socket, other] of [
      [client, hub],
      [hub, client],
    ]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => sockets.delete(socket) && other.destroy());
      socket.on("data", (bytes) => {
        const part = bytes.subarray(0, Math.max(0, left));
        left -= bytes.length;
        other.write(part, () => left < 0 && socket.destroy());
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    proxy.cut();
    server.close();
  });
  proxy.url = `ws://127.0.0.1:${server.address().port}`;
  return proxy;
}
