// A tab of the chat, operated through its controls. It records its console, its
// errors and the frames it receives.

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";

/** The timeout of every step, in milliseconds. It is long because test machines may be slow. */
export const stepTimeout = 30_000;

/** Calls `read` until it returns a value equal to `wanted`. Fails with the difference after the timeout. */
export async function until(description, read, wanted) {
  for (const end = Date.now() + stepTimeout; ; await delay(50)) {
    const got = await read();
    try {
      assert.deepEqual(got, wanted, description);
      return;
    } catch (error) {
      if (Date.now() > end) throw error;
    }
  }
}

export class Tab {
  console = []; // lines of the console, for the log file
  errors = []; // unexpected errors; the test fails if there are any
  frames = []; // received WebSocket frames, as text or Buffer
  serverIsAway = false;

  constructor(page) {
    this.page = page;
    page.setDefaultTimeout(stepTimeout);
    page.on("console", (message) => this.#logged(message));
    page.on("pageerror", (error) => this.#failed(error.stack ?? String(error)));
    page.on("dialog", (dialog) => {
      this.#failed(`a dialog opened: ${dialog.message()}`);
      dialog.dismiss();
    });
    page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => this.frames.push(payload)));
  }

  /** Opens a new tab. Its address contains the settings. */
  static async open(context, url, { name, codec = "json", sealed = false, room = "lobby" }) {
    const tab = new Tab(await context.newPage());
    Object.assign(tab, { name, codec, sealed });
    const query = new URLSearchParams({ name, codec, encrypt: sealed ? "1" : "0" });
    await tab.page.goto(`${url}/?${query}#${encodeURIComponent(room)}`);
    await tab.isConnected();
    return tab;
  }

  #logged(message) {
    const line = `${message.type()}: ${message.text()}`;
    this.console.push(line);
    if (message.type() !== "error") return;
    const refused = /ERR_CONNECTION_(REFUSED|RESET|CLOSED|ABORTED)|ERR_EMPTY_RESPONSE|ERR_SOCKET_NOT_CONNECTED|ERR_NETWORK_CHANGED|^WebSocket connection to /;
    if (!this.serverIsAway || !refused.test(message.text())) this.errors.push(line);
  }

  #failed(text) {
    this.console.push(`failure: ${text}`);
    this.errors.push(text);
  }

  $(testId) {
    return this.page.getByTestId(testId);
  }

  /** The text of this tab in the list of members. */
  get entry() {
    const codec = { json: "JSON", protobuf: "Protobuf", flatbuffers: "FlatBuffers", msgpack: "MessagePack" }[this.codec];
    return `${this.name}: ${codec}${this.sealed ? ", sealed" : ""}`;
  }

  async isConnected() {
    const text = `Connected: ${this.entry.slice(this.name.length + 2)}`;
    await until(`${this.name} is connected`, () => this.$("connection-text").textContent(), text);
  }

  async say(text) {
    await this.$("text").fill(text);
    await this.$("text").press("Enter");
  }

  /** The texts of the messages. Unconfirmed ones are in parentheses. */
  messages() {
    return this.$("messages").evaluate((log) =>
      [...log.querySelectorAll("[data-testid=message]")].map((node) => {
        const text = node.querySelector("[data-testid=message-text]").textContent;
        return node.matches(".pending, .failed") ? `(${text})` : text;
      }),
    );
  }

  notices() {
    return this.$("notice").allTextContents();
  }

  /** The list of members, as "name: tag". */
  members() {
    return this.$("members").evaluate((list) =>
      [...list.querySelectorAll("[data-testid=member]")].map((node) => {
        const name = node.querySelector(".title").textContent.replace(/ \(you\)$/, "");
        return `${name}: ${node.querySelector(".tag").textContent}`;
      }),
    );
  }

  /** The table of sizes, as an object: codec -> bytes. */
  sizes() {
    return this.$("wire").evaluate((table) => {
      const rows = [...table.tBodies[0].rows];
      const bytes = (row) => Number(row.querySelector(".bytes").textContent.replace(/\D/g, ""));
      return Object.fromEntries(rows.map((row) => [row.dataset.testid.replace("wire-", ""), bytes(row)]));
    });
  }

  async stat(name) {
    const text = await this.$(`stat-${name}`).textContent();
    return Number(text.replace(/\D/g, "") || "0");
  }

  /** Describes an element that is wider than the window; empty if there is none. */
  overflow() {
    return this.page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      if (scrollWidth > clientWidth) return `the page is ${scrollWidth} wide, the window ${clientWidth}`;
      const inScroller = (node) => {
        for (let up = node.parentElement; up; up = up.parentElement) {
          if (getComputedStyle(up).overflowX !== "visible") return true;
        }
        return false;
      };
      for (const node of document.querySelectorAll("body *")) {
        const { right, left, width, height } = node.getBoundingClientRect();
        if (width === 0 || height === 0 || node.closest(".hidden, .skip") || inScroller(node)) continue;
        if (right > clientWidth + 1 || left < -1) return `${node.tagName}#${node.id}.${node.className} reaches from ${left} to ${right}`;
      }
      for (const node of document.querySelectorAll(".panel, #log, dialog[open]")) {
        if (node.scrollWidth > node.clientWidth + 1) return `#${node.id} scrolls sideways`;
      }
      return "";
    });
  }
}
