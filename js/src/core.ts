import type { Kinds, Settings } from "./check.js";
import type { CoreClient } from "./client.js";
import type { Close, Connection } from "./connection.js";
import type { HubError } from "./errors.js";
import type { HistoryPart } from "./history.js";
import type { Listeners } from "./listeners.js";
import type { Message } from "./message.js";
import type { PresencePart } from "./presence.js";

export type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** The state that all parts of a client share. */
export interface Core {
  client: Writable<CoreClient>;
  options: Settings;
  listeners: Listeners;
  /** The kinds of the options that belong to features. */
  kinds: Kinds;
  // The features of this client.
  history?: HistoryPart;
  presence?: PresencePart;
  /** Answers a request of the hub. */
  answer?(message: Message): Promise<void>;
  /** The current connection, from its handshake to its end. */
  connection?: Connection | undefined;
  /** The features of the hub, by its latest reply to hub:hello. */
  features: string[];
  /** True after the hub has replied to hub:hello on this connection, or to a later request because it does not know it. */
  greeted?: boolean;
  /** The features by the reply on this connection; none before. */
  told: string[];
  /** True after the application has closed the client. */
  endedByCaller?: boolean;
  /** Why the client is closed. */
  ended?: Close;
  /** Ends the latest attempt to connect. */
  giveUp(error: unknown): void;
  isOpen(): boolean;
  isClosed(): boolean;
  newClosedError(): HubError;
  /** Throws why the client is closed, if it is. */
  checkNotClosed(): void;
}
