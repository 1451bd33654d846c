import type { Calls } from "./calls.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Hello } from "./hello.js";
import type { Message } from "./message.js";
import { type Gap, Notice, type Resumed } from "./notices.js";
import type { Topics } from "./topics.js";

/** Passes on the messages of the hub. */
export function createReceiver(core: Core, calls: Calls, topics: Topics, hello: Hello) {
  const { codec } = core.options;
  const { emit, report } = core.listeners;
  let missed: { from: number; lastTimestampNs: bigint } | undefined; // of a lost connection, until all topics are restored
  let lastTimestampNs = BigInt(0);

  return {
    receive(message: Message) {
      const { type, id, timestampNs } = message;
      if (timestampNs > 0) lastTimestampNs = timestampNs;
      if (type === "ack") {
        calls.finish(id, undefined, message);
        hello.replied();
      } else if (type === "error") {
        const { code, message: text } = codec.error(message);
        const error = new HubError(code, text, { target: message.channel });
        if (!id) return report(error);
        calls.finish(id, error);
        hello.replied();
      } else if (type === "gap") {
        const gap = new Notice(codec.gap(message)) as Notice & Gap;
        topics.gap(gap);
        if (!emit("gap", gap)) report(new HubError("gap", `${gap.count} messages were dropped`, { cause: gap }));
      } else if (id.startsWith("hub:")) {
        void core.answer?.(message);
      } else if (!topics.deliver(message)) {
        emit("message", message);
      }
    },

    /** Records that the connection is lost. */
    lost() {
      missed ??= { from: core.connection!.received(), lastTimestampNs };
    },

    /** Tells that a lost connection was replaced, if all topics are restored. */
    resumed() {
      if (!core.isOpen() || !missed || !topics.restored()) return;
      const fields = { ...missed, to: Date.now(), channels: topics.names("channel"), rooms: topics.names("room"), incomplete: topics.incomplete() };
      missed = undefined;
      emit("resumed", new Notice(fields) as Notice & Resumed);
    },
  };
}

export type Receiver = ReturnType<typeof createReceiver>;
