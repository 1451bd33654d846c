// A client on a fake socket and fake time.

import assert from "node:assert/strict";

import { HubError } from "../dist/hub.js";
import { fakeWebSocket } from "./fake-socket.js";
import { HubClient } from "./named.js";

export const noop = () => {};

/** Runs all pending promise callbacks. */
export const flushPromises = () => new Promise((resolve) => setImmediate(resolve));

/** Creates a client on a fake socket and fake time, and opens it unless `open` is false. */
export async function setup(t, { open = true, create = (all) => new HubClient("ws://hub/ws", all), ...options } = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  t.mock.method(performance, "now", () => Date.now());
  const WebSocket = fakeWebSocket();
  const events = { states: [], messages: [], resumed: [], errors: [], gaps: [] };
  const client = create({
    WebSocket,
    onStateChange: (change) => events.states.push(change),
    onMessage: (message) => events.messages.push(message),
    onResumed: (info) => events.resumed.push(info),
    onError: (error) => events.errors.push(error),
    onGap: (gap) => events.gaps.push(gap),
    ...options,
  });
  // Tests may inspect a rejection later; without this, Node would report it as unhandled.
  for (const name of ["publish", "publishRoom", "broadcast", "request"]) {
    const original = client[name];
    if (!original) continue;
    client[name] = (...args) => {
      const promise = original(...args);
      promise.catch(noop);
      return promise;
    };
  }
  await flushPromises();
  if (open) WebSocket.last.accept();
  const tick = async (ms) => {
    t.mock.timers.tick(ms);
    await flushPromises();
  };
  return {
    client,
    events,
    tick,
    WebSocket,
    get socket() {
      return WebSocket.last;
    },
  };
}

/** Returns "pending", "resolved" or the error of a rejected promise. */
export async function outcome(promise) {
  let result = "pending";
  promise.then(
    () => (result = "resolved"),
    (error) => (result = error),
  );
  await flushPromises();
  return result;
}

export async function assertRejected(promise, code, outcomeUnknown) {
  const error = await outcome(promise);
  assert.ok(error instanceof HubError, `${error}`);
  assert.deepEqual([error.code, error.outcomeUnknown], [code, outcomeUnknown]);
}
