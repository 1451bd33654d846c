import { ReactNode, FunctionComponentElement, ProviderProps } from 'react';
import { HubClient, Subscription, HubError, Handler, SubscribeOptions, State, Options, Member } from './hub.js';

/** A client, or undefined before the first effect and in server rendering. */
type MaybeClient = HubClient | undefined;
/** The state of a component's subscription. */
interface TopicStatus {
    /** "active" once the hub has confirmed the subscription; "ended" if the hub refused it or the client is closed. */
    readonly state: Subscription["state"];
    /** Why the subscription ended. */
    readonly error: HubError | undefined;
}
/** Gives a client to the components below it, which get it with `useHub()`. */
declare function HubProvider(props: {
    client: MaybeClient;
    children?: ReactNode;
}): FunctionComponentElement<ProviderProps<MaybeClient | null>>;
/**
 * Returns the client of the nearest HubProvider, or with a URL a client of this
 * component. The component's client connects after the first render and closes
 * when the component unmounts. Until it exists, the result is undefined. Another
 * URL makes a new client. Functions in the options may change with every render:
 * the client calls the newest. It does not notice changes of the other options.
 */
declare function useHub(url?: string | URL, options?: Options): MaybeClient;
/**
 * Subscribes to a channel while the component is mounted, and calls the `onMessage` of the newest render. Functions in the
 * options may change with every render too; changes of the other options count when the client or the channel changes.
 */
declare function useChannel(client: MaybeClient, channel: string, onMessage?: Handler, options?: SubscribeOptions): TopicStatus;
/** Joins a room, as `useChannel` does for a channel. */
declare function useRoom(client: MaybeClient, room: string, onMessage?: Handler, options?: SubscribeOptions): TopicStatus;
/**
 * Returns the members of a channel or room with presence, those that joined first first, and renders the component again
 * when they change. It subscribes while the component is mounted. The list is empty until the hub has told it.
 */
declare function useMembers(client: MaybeClient, kind: Subscription["kind"], name: string): readonly Member[];
/** Returns the client's connection state, and renders the component again when it changes. */
declare function useConnectionState(client: MaybeClient): State;

export { HubProvider, useChannel, useConnectionState, useHub, useMembers, useRoom };
export type { MaybeClient, TopicStatus };
