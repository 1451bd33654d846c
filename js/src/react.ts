"use client";

// Hooks for React 18 and later. The package exports them as "hypgo-websocket/react".

import {
  createContext,
  createElement,
  type FunctionComponentElement,
  type ProviderProps,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useInsertionEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";

import {
  type Handler,
  HubClient,
  HubError,
  type Member,
  type Message,
  type Options,
  type State,
  type SubscribeOptions,
  type Subscription,
} from "./index.js";

/** A client, or undefined before the first effect and in server rendering. */
export type MaybeClient = HubClient | undefined;

/** The state of a component's subscription. */
export interface TopicStatus {
  /** "active" once the hub has confirmed the subscription; "ended" if the hub refused it or the client is closed. */
  readonly state: Subscription["state"];
  /** Why the subscription ended. */
  readonly error: HubError | undefined;
}

const pending: TopicStatus = { state: "pending", error: undefined };
const Context = createContext<MaybeClient | null>(null);

/** Gives a client to the components below it, which get it with `useHub()`. */
export function HubProvider(props: {
  client: MaybeClient;
  children?: ReactNode;
}): FunctionComponentElement<ProviderProps<MaybeClient | null>> {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/** Returns a ref to the value of the newest committed render. */
function useLatest<T>(value: T): { readonly current: T } {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}

/**
 * Returns the client of the nearest HubProvider, or with a URL a client of this
 * component. The component's client connects after the first render and closes
 * when the component unmounts. Until it exists, the result is undefined. Another
 * URL makes a new client. Functions in the options may change with every render:
 * the client calls the newest. It does not notice changes of the other options.
 */
export function useHub(url?: string | URL, options?: Options): MaybeClient {
  const provided = useContext(Context);
  const [client, setClient] = useState<MaybeClient>();
  const latest = useLatest(options);
  const address = url?.toString();
  if (address === undefined && provided === null) throw new Error("useHub without a URL needs a HubProvider");

  useEffect(() => {
    if (address === undefined) return undefined;
    // The client dials later than this effect. Under StrictMode the cleanup closes the first client before it dials.
    const created = new HubClient(address, withLatest(latest));
    setClient(created);
    return () => {
      setClient(undefined);
      void created.close();
    };
  }, [address, latest]);
  return address === undefined ? (provided ?? undefined) : client;
}

/** Returns the options with functions that call those of the newest options. */
function withLatest<T extends object>(latest: { readonly current: T | undefined }): T {
  const options: Record<string, unknown> = { ...latest.current };
  for (const [key, value] of Object.entries(options)) {
    if (typeof value !== "function" || key === "WebSocket") continue;
    options[key] = (...args: unknown[]) => {
      const newest = latest.current?.[key as keyof T] as ((...args: unknown[]) => unknown) | undefined;
      return newest?.(...args);
    };
  }
  return options as T;
}

/**
 * Subscribes to a channel while the component is mounted, and calls the `onMessage` of the newest render. Functions in the
 * options may change with every render too; changes of the other options count when the client or the channel changes.
 */
export function useChannel(client: MaybeClient, channel: string, onMessage?: Handler, options?: SubscribeOptions): TopicStatus {
  return useTopic("subscribe", client, channel, onMessage, options);
}

/** Joins a room, as `useChannel` does for a channel. */
export function useRoom(client: MaybeClient, room: string, onMessage?: Handler, options?: SubscribeOptions): TopicStatus {
  return useTopic("joinRoom", client, room, onMessage, options);
}

function useTopic(
  join: "subscribe" | "joinRoom",
  client: MaybeClient,
  name: string,
  onMessage: Handler | undefined,
  options: SubscribeOptions | undefined,
): TopicStatus {
  const latest = useLatest(onMessage);
  const latestOptions = useLatest(options);
  const [shown, setShown] = useState<TopicStatus & { readonly of?: readonly unknown[] }>(pending);
  useEffect(() => {
    if (!client) return undefined;
    let mounted = true;
    const show = ({ state, error }: TopicStatus) => {
      if (mounted) setShown({ state, error, of: [client, join, name] });
    };
    let subscription: Subscription;
    try {
      subscription = client[join](name, (message: Message) => latest.current?.(message), withLatest(latestOptions));
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      show({ state: "ended", error }); // the client is closed
      return undefined;
    }
    const update = () => show(subscription);
    subscription.ready.then(update, update);
    // The client confirms its subscriptions again on every connection.
    const offs = [client.on("statechange", update), client.on("resumed", update)];
    return () => {
      mounted = false;
      for (const off of offs) off();
      void subscription.unsubscribe();
    };
  }, [client, join, name, latest, latestOptions]);
  const isCurrent = shown.of?.every((value, i) => value === [client, join, name][i]);
  return isCurrent ? shown : pending;
}

/**
 * Returns the members of a channel or room with presence, those that joined first first, and renders the component again
 * when they change. It subscribes while the component is mounted. The list is empty until the hub has told it.
 */
export function useMembers(client: MaybeClient, kind: Subscription["kind"], name: string): readonly Member[] {
  const [shown, setShown] = useState<{ readonly of?: readonly unknown[]; readonly members: readonly Member[] }>({ members: none });
  useEffect(() => {
    if (!client) return undefined;
    const join = kind === "room" ? client.joinRoom : client.subscribe;
    try {
      const subscription = join(name, noop, {
        onPresence: () => setShown({ of: [client, kind, name], members: subscription.members() }),
      });
      return () => void subscription.unsubscribe();
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      return undefined; // the client is closed
    }
  }, [client, kind, name]);
  return shown.of?.every((value, i) => value === [client, kind, name][i]) ? shown.members : none;
}

const none: readonly Member[] = [];

/** Returns the client's connection state, and renders the component again when it changes. */
export function useConnectionState(client: MaybeClient): State {
  const subscribe = useCallback((changed: () => void) => client?.on("statechange", changed) ?? noop, [client]);
  return useSyncExternalStore(
    subscribe,
    () => client?.state ?? "connecting",
    () => "connecting" as const,
  );
}

const noop = () => {};
