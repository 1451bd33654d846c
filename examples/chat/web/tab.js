// Keeps this tab in its rooms. A tab without keys leaves reconnecting to
// HubClient. A sealed one has keys that are good for one connection, so that
// every further connection needs new keys and a HubClient of its own.

import { HubClient, closeCodes, fromBase64 } from "./hub.js";

const backoff = { base: 400, max: 5_000 };

/** How long a message waits for a connection, in milliseconds. */
const patience = 10_000;

/** Answers of the server that end a membership; all else is made good later. */
const refusals = new Set(["forbidden", "bad_request", "limit"]);

export class Tab {
  #options;
  #client;
  #memberships = new Map(); // "room/name" or "channel/name" -> how to enter it
  #waiting = new Set(); // who wants to publish, while there is no client
  #failures = 0;
  #timer;
  #over = new AbortController();

  /**
   * `on` has state({state, code, reason}), message(message), gap(gap) and
   * refused(room, error).
   */
  constructor({ url, codec, sealed, on }) {
    this.#options = { url, codec, sealed, on };
    on.state({ state: "connecting" });
    this.#start();
  }

  subscribe(channel, handler) {
    return this.#enter(`channel/${channel}`, (client) => client.subscribe(channel, handler, { timeout: Infinity }));
  }

  join(room, handler) {
    return this.#enter(`room/${room}`, (client) => client.joinRoom(room, handler, { timeout: Infinity }));
  }

  async leave(room) {
    this.#memberships.delete(`room/${room}`);
    await this.#client?.leaveRoom(room);
  }

  async publish(room, data) {
    const client = this.#client ?? (await this.#nextClient());
    await client.publishRoom(room, data);
  }

  close() {
    this.#over.abort();
    clearTimeout(this.#timer);
    this.#client?.close();
  }

  #enter(key, enter) {
    this.#memberships.set(key, enter);
    if (this.#client) this.#restore(this.#client, key, enter);
  }

  async #restore(client, key, enter) {
    try {
      await enter(client);
    } catch (error) {
      if (!refusals.has(error.code)) return;
      this.#memberships.delete(key);
      this.#options.on.refused(key.slice(key.indexOf("/") + 1), error);
    }
  }

  #nextClient() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(take);
        reject(new Error("there is no connection"));
      }, patience);
      const take = (client) => {
        clearTimeout(timer);
        resolve(client);
      };
      this.#waiting.add(take);
    });
  }

  async #start() {
    const { url, codec, sealed, on } = this.#options;
    const { signal } = this.#over;
    let keys = {};
    if (sealed) {
      try {
        keys = await fetchKeys(signal);
      } catch (error) {
        this.#again({ code: 1006, reason: error.message });
        return;
      }
      if (signal.aborted) return;
      keys.shouldReconnect = () => false;
    }
    const client = (this.#client = new HubClient(url, {
      codec,
      ...keys,
      backoff,
      onStateChange: (change) => this.#changed(change),
      onMessage: on.message,
      onGap: on.gap,
      onError: (error) => console.warn(error),
    }));
    for (const [key, enter] of this.#memberships) this.#restore(client, key, enter);
    for (const take of this.#waiting) take(client);
    this.#waiting.clear();
  }

  #changed(change) {
    if (this.#over.signal.aborted) return;
    if (change.state === "open") this.#failures = 0;
    if (change.state === "closed" && this.#options.sealed && closeCodes[change.code]?.reconnect) this.#again(change);
    else this.#options.on.state(change);
  }

  #again({ code, reason }) {
    if (this.#over.signal.aborted) return;
    this.#client = undefined;
    const wait = Math.random() * Math.min(backoff.max, backoff.base * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.#start(), wait);
    this.#options.on.state({ state: "reconnecting", code, reason });
  }
}

async function fetchKeys(signal) {
  const response = await fetch("/api/key", { method: "POST", signal });
  if (!response.ok) throw new Error(`no keys: ${response.status}`);
  const { ticket, aes, hmac } = await response.json();
  return { token: ticket, security: { aesKey: fromBase64(aes), hmacKey: fromBase64(hmac) } };
}
