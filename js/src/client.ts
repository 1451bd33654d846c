import { deferred, noop, onAbort } from "./async.js";
import { check } from "./check.js";
import { HubError } from "./errors.js";
import type { Added, Feature } from "./feature.js";
import { history } from "./history.js";
import type { Payload } from "./message.js";
import type {
  CallOptions,
  Callbacks,
  Events,
  Handler,
  Limits,
  Options,
  Published,
  PublishOptions,
  SendOptions,
  State,
} from "./options.js";
import { presence } from "./presence.js";
import { type RequestMethods, requests } from "./requests.js";
import { createSession } from "./session.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";

export interface CoreClient extends Callbacks {
  readonly state: State;
  /** This connection's client ID, from the hub; empty before the hub told it. */
  readonly id: string;
  /** The user that the hub knows the client as, likewise. */
  readonly user: string;
  /** The hub's limits; undefined before the hub told them. */
  readonly limits: Limits | undefined;

  /**
   * Subscribes to a channel and passes its messages to `onMessage`, if there is one. Any number of subscriptions share
   * a channel. It may be called at any time; the client restores the subscription when it reconnects.
   */
  subscribe(channel: string, onMessage?: Handler, options?: SubscribeOptions): Subscription;
  /** Ends all subscriptions to a channel. */
  unsubscribe(channel: string, options?: CallOptions): Promise<void>;
  /** Joins a room, as `subscribe` does for a channel. */
  joinRoom(room: string, onMessage?: Handler, options?: SubscribeOptions): Subscription;
  /** Leaves a room, as `unsubscribe` does for a channel. */
  leaveRoom(room: string, options?: CallOptions): Promise<void>;

  /** Publishes a JSON value or bytes to the subscribers of a channel. */
  publish(channel: string, data?: Payload, options?: PublishOptions): Promise<Published>;
  /** Publishes a JSON value or bytes to the members of a room. */
  publishRoom(room: string, data?: Payload, options?: PublishOptions): Promise<Published>;
  /** Broadcasts a JSON value or bytes to every client of the hub. */
  broadcast(data?: Payload, options?: PublishOptions): Promise<Published>;

  /**
   * Sends a message of an application-defined type to the server, which does not
   * acknowledge it. Returns whether it was sent or queued: a volatile message is
   * dropped while there is no connection. Throws if it can be neither sent nor queued.
   */
  send(type: string, data?: Payload, options?: SendOptions): boolean;

  /** Adds a listener for an event. Returns the function that removes it; the signal removes it too. */
  on<Type extends keyof Events>(
    type: Type,
    listener: (event: Events[Type]) => unknown,
    options?: { signal?: AbortSignal | undefined },
  ): () => void;
  /** Removes a listener. */
  off<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => unknown): void;

  /** Replaces the connection, or ends the wait for the next attempt. */
  reconnect(): void;

  /**
   * Closes the client permanently: it calls no handlers any more and rejects the
   * calls that have no reply. Resolves when the connection has ended. The code is
   * 1000, which is the default, or 3000 to 4999.
   */
  close(code?: number, reason?: string): Promise<void>;
}

/** A client with the given features only. Bundlers leave out the others. `HubClient` has all of them. */
export class CoreClient {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url: string | URL, options?: Options, features: readonly Feature<unknown>[] = []) {
    if (typeof url !== "string" && !(url as URL | undefined)?.href) throw new TypeError(`invalid url: ${url}`);
    createSession(`${url}`, options, this, features);
  }
}

/**
 * A client that reconnects until it is closed. Its calls resolve when the hub
 * acknowledges them and reject with a HubError otherwise. After `close` they
 * reject with the code "closed". The callbacks may be replaced at any time.
 */
export class HubClient extends CoreClient {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url: string | URL, options?: Options) {
    super(url, options, [history, presence, requests]);
  }
}

export interface HubClient extends RequestMethods {}

/**
 * Creates a client and resolves with it when it is open. Rejects and closes the
 * client if the first attempt fails, whereas `new HubClient` keeps trying. The
 * signal ends only the attempt.
 */
export const connect = (url: string | URL, options?: Options): Promise<HubClient> =>
  opened(options, (others) => new HubClient(url, others));

/**
 * Like `connect`, but the client has the given features only, and bundlers leave out the others. Without the feature
 * `requests` it has no methods `request` and `handle`. Options of missing features are a TypeError.
 */
export const connectWith = <Features extends readonly [] | readonly Feature<any>[]>(
  features: Features,
  url: string | URL,
  options?: Options,
): Promise<CoreClient & Added<Features>> => opened(options, (others) => new CoreClient(url, others, features) as CoreClient & Added<Features>);

async function opened<Client extends CoreClient>(options: Options | undefined, create: (options: Options) => Client): Promise<Client> {
  const { signal } = check({ signal: options?.signal });
  const client = create({ ...options, signal: undefined });
  const [open, resolve, reject] = deferred<void>();
  const abort = () => reject(new HubError("aborted", "connecting was aborted", { cause: signal.reason }));
  const ends = [
    onAbort(signal, abort),
    client.on("statechange", ({ state, code, reason, error }) => {
      const text = error ? (error as Error).message : reason;
      // Any reply means that the hub has told the ID, or that it is too old for that.
      if (state === "open") void client.unsubscribe("hub:hello").catch(noop).then(resolve);
      else reject(new HubError("unreachable", `cannot connect: ${code} ${text}`, { cause: error }));
    }),
  ];
  if (signal?.aborted) abort();
  try {
    await open;
    return client;
  } catch (error) {
    await client.close();
    throw error;
  } finally {
    for (const end of ends) end();
  }
}
