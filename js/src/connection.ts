import { deferred } from "./async.js";
import { cutUTF8 } from "./bytes.js";
import type { Codec } from "./codec.js";
import { HubError } from "./errors.js";
import { createHeartbeat } from "./heartbeat.js";
import type { Message } from "./message.js";
import type { Seal } from "./options.js";
import type { Frame } from "./outbox.js";
import { cancel } from "./timers.js";

/** How long to wait for the hub's Close frame before terminating the socket, in milliseconds. */
const closeTimeout = 1000;

export interface Close {
  code: number;
  reason: string;
  error?: unknown;
}

interface Events {
  opened(): void;
  message(message: Message): void;
  /** Called at most once, after the last message, and not after a call of close. */
  ended(close: Close): void;
  /** Sends a ping. */
  ping(): void;
}

export type Connection = ReturnType<typeof openConnection>;

/**
 * Opens one WebSocket and serves it to its end. It delivers messages and sends
 * frames in order, although sealing and opening are asynchronous.
 */
export function openConnection(socket: any, codec: Codec, sealer: Seal | undefined, events: Events) {
  let finished = false;
  let received = 0;
  let failure: unknown; // the error of the socket's error event
  const [closed, setClosed] = deferred<unknown>();

  const finish = () => {
    finished = true;
    heartbeat.stop();
  };

  const end = (close: Close) => {
    if (finished) return;
    finish();
    events.ended(close);
  };

  const closeSocket = async (code: number, reason: string) => {
    const timer = setTimeout(setClosed, closeTimeout);
    socket.close(code, cutUTF8(reason, 123));
    await closed;
    cancel(timer);
    socket.terminate?.(); // browsers have no terminate and use a timeout of their own
  };

  /**
   * Ends the connection because of an error or a timeout. Browsers do not let
   * scripts send codes below 3000, so the hub receives 4007 for 1007.
   */
  const fail = (code: number, error: any) => {
    if (finished) return;
    const reason: string = error.message;
    end({ code, reason, error });
    void closeSocket(code < 3000 ? code + 3000 : code, reason);
  };
  const failMalformed = (code: number, text: string) => fail(code, new HubError("malformed", text));

  const heartbeat = createHeartbeat(events.ping, (ms) =>
    fail(3008, new HubError("timeout", `received nothing for ${ms} ms after a ping`)),
  );

  const heard = () => {
    received = Date.now();
    heartbeat.heard();
  };

  const deliver = (frame: Frame) => {
    if (finished) return;
    if ((typeof frame === "string") !== codec.text) {
      failMalformed(1003, `the hub's frame is not ${codec.text ? "text; does the hub seal messages?" : "binary"}`);
      return;
    }
    try {
      events.message(codec.decode(frame));
    } catch (error) {
      fail(1007, error);
    }
  };

  const send = (frame: Frame) => socket.send(frame);
  const pipe = sealer?.pipe({ send, deliver, fail, text: codec.text });

  const listeners: { [type: string]: (event: any) => void } = {
    open() {
      if (finished) return;
      const { protocol } = socket;
      if (protocol !== codec.name && (protocol || codec.name !== "json")) {
        failMalformed(1002, `the server selected subprotocol "${protocol}", not "${codec.name}"`);
        return;
      }
      heard();
      events.opened();
    },
    message({ data }: { data: string | ArrayBuffer }) {
      if (finished) return;
      heard();
      (pipe ? pipe.receive : deliver)(typeof data === "string" ? data : new Uint8Array(data));
    },
    error({ error, message }: { error?: unknown; message?: string }) {
      failure = error ?? (message ? new Error(message) : undefined);
      // Some platforms emit no close event for a connection that never opened.
      if (!received) end({ code: 1006, reason: "", error: failure });
    },
    close({ code, reason }: Close) {
      setClosed(code);
      const task = () => end({ code, reason, error: failure });
      if (pipe) pipe.inOrder(task);
      else task();
    },
  };
  for (const type in listeners) socket.addEventListener(type, listeners[type]);
  // Sockets of the ws package report pings, which prove that the connection is alive.
  socket.on?.("ping", heard);
  socket.binaryType = "arraybuffer";

  return {
    fail,
    startHeartbeat: heartbeat.start,
    /** Checks at once whether the connection is alive. */
    probe: heartbeat.probe,
    /** Returns when the last frame arrived or the connection opened, in Unix milliseconds. */
    received: () => received,
    /** Returns the number of bytes that were passed to send but not written to the network yet. */
    buffered: (): number => (pipe?.waiting ?? 0) + socket.bufferedAmount,
    send: pipe?.send ?? send,

    /**
     * Closes the connection after sending the frames passed to send before. It calls
     * no event. Resolves when the socket is closed or was terminated.
     */
    async close(code: number, reason: string) {
      finish();
      await pipe?.sent;
      await closeSocket(code, reason);
    },
  };
}
