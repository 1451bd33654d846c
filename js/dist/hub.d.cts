/** Binary data, of any realm. */
type Bytes = ArrayBufferLike | ArrayBufferView;
/** A Uint8Array on an ArrayBuffer, which Blob and WebCrypto accept in every version of TypeScript. */
type ByteArray = ReturnType<Uint8Array["slice"]>;
/** Decodes base64. Throws a DecodeError if the text is invalid. */
declare function fromBase64(text: string): ByteArray;
/** Decodes hexadecimal digits. Throws a DecodeError if the text is invalid. */
declare function fromHex(text: string): ByteArray;

/**
 * A part of the client that an application may leave out, to make its bundle smaller: `history`, `presence` or `requests`.
 * `Adds` are the methods that it adds to the client.
 */
interface Feature<Adds = object> {
    /** The type of the methods; there is no such property. */
    readonly adds?: Adds;
}
/** The methods that a list of features adds to a client. */
type Added<Features extends readonly Feature<any>[]> = (Features[number] extends infer One ? (One extends Feature<infer Adds> ? (adds: Adds) => void : never) : never) extends (adds: infer All) => void ? All : never;

/** An array, a plain object, or an object with a toJSON method. Other objects would lose their content. */
type JSONObject = readonly unknown[] | {
    readonly [key: string]: unknown;
} | {
    toJSON(key?: any): unknown;
} | (object & {
    readonly [Symbol.toStringTag]?: never;
    readonly arrayBuffer?: never;
    readonly stack?: never;
    readonly bind?: never;
    readonly exec?: never;
});
/** The data of a message: a JSON value or bytes. `null` and `undefined` are an empty payload. */
type Payload = string | number | boolean | JSONObject | Bytes | null | undefined;
/** The fields of a message to encode. Missing fields are empty. */
interface MessageFields {
    type?: string | undefined;
    channel?: string | undefined;
    data?: Payload;
    /** The payload as JSON text or bytes, as in `Message.payload`. It replaces `data`. */
    payload?: string | Uint8Array | undefined;
    /** Unix nanoseconds. The hub overwrites the value that a client sends. */
    timestampNs?: bigint | undefined;
    clientId?: string | undefined;
    id?: string | undefined;
    /** The place in the topic's history. Clients send none. */
    offset?: number | undefined;
    /** Makes a publication unique in the topic's history. */
    key?: string | undefined;
    /** True in a publication of a room with history. Clients send none. */
    room?: boolean | undefined;
    /** True if the hub shall not send the publication to its publisher. */
    exceptSelf?: boolean | undefined;
    /** The W3C trace context: a traceparent, or a traceparent, a space and a tracestate. */
    trace?: string | undefined;
}
/** A message to or from the hub. */
declare class Message {
    readonly type: string;
    /** The channel's name, or the room's ID in a room message. */
    readonly channel: string;
    /**
     * The payload as JSON text if it was made from JSON, or as bytes. It survives structuredClone: `new Message(clone)`
     * restores the message.
     */
    readonly payload: string | ByteArray;
    /** The hub's time in Unix nanoseconds, exactly. */
    readonly timestampNs: bigint;
    /** The ID of the client that published the message; empty if the server did. */
    readonly clientId: string;
    /** The request ID. The hub's reply has the ID of its request. */
    readonly id: string;
    /** The place in the history of the channel or room; 0 without a history. */
    readonly offset: number;
    /** The key that makes the publication unique in the history; empty without one. */
    readonly key: string;
    /** True if the message is a publication of a room with history; false without a history. */
    readonly room: boolean;
    /** True in a request whose publication the hub shall not send to the publisher. */
    readonly exceptSelf: boolean;
    /** The publisher's W3C trace context: a traceparent, or a traceparent, a space and a tracestate; empty without one. */
    readonly trace: string;
    constructor(fields: MessageFields);
    /** The hub's time in Unix milliseconds, for `new Date()`. */
    get timestamp(): number;
    /**
     * Returns the payload parsed as JSON, or null if it is empty. Throws a
     * DecodeError if it is not JSON. Every call returns the same object.
     */
    json<T = any>(): T;
    /** Returns the payload as bytes. The array may belong to the message: copy it before changing it. */
    bytes(): ByteArray;
    /** Returns the payload as text; a JSON string keeps its quotes. Throws a DecodeError if it is not UTF-8. */
    text(): string;
    /** Returns the fields, with the payload as JSON, or as base64 and `encoding: "base64"`, in `data`. */
    toJSON(): {
        [key: string]: unknown;
    };
}

/** The fields of the hub's notice of dropped messages. */
interface GapFields {
    /** The channel of the dropped messages. `channel` and `room` are empty for broadcasts and direct messages. */
    channel: string;
    /** The room of the dropped messages. */
    room: string;
    /** True if the dropped messages may be of any channel or room, broadcasts or direct messages. */
    all: boolean;
    /** The number of dropped messages. */
    count: number;
    /** The timestamp of the first dropped message, in Unix nanoseconds. */
    firstNs: bigint;
    /** The timestamp of the last dropped message, in Unix nanoseconds. */
    lastNs: bigint;
    /** Why the hub dropped them, such as "slow_consumer". */
    reason: string;
}
/** A place in the history of a channel or room. */
interface Position {
    /** Changes when the history begins anew. */
    epoch: string;
    /** That of the latest publication before the place. */
    offset: number;
}
/** Where a subscription to a channel or room with history begins. It has at most one of the fields. */
interface Begin {
    /** Begins behind a position. */
    since?: Position | undefined;
    /** Begins with the latest publications, as many as this number. */
    last?: number | undefined;
}
/** Converts messages to frames and back. */
interface Codec<Frame extends string | Uint8Array = any> {
    /** Also the name of the codec's subprotocol. */
    readonly name: string;
    /** True if its frames are text. */
    readonly text: boolean;
    encode(message: Message | MessageFields): Frame;
    /** Throws a DecodeError if the frame is invalid. */
    decode(frame: Frame): Message;
    /** Returns the data of a message that begins or ends a subscription; key is "channel" or "room_id". */
    target(key: string, name: string, begin?: Begin): object;
    /** Parses the hub's error reply. */
    error(message: Message): {
        code: string;
        message: string;
    };
    /** Parses the hub's notice of dropped messages. */
    gap(message: Message): GapFields;
}

/** The codes of a HubError. The hub may send codes that are not listed here. */
type ErrorCode = 
/** From the hub: it cannot decode the message, or the name is not allowed. */
"bad_request"
/** From the hub: the application does not allow the call. */
 | "forbidden"
/** From the hub: the application failed to decide. The hub's log has the reason. */
 | "internal"
/** From the hub: a limit is reached, such as the number of subscriptions. */
 | "limit"
/** From the hub, or from the client before it sends: the message is too large. */
 | "too_large"
/** From the hub: it is shutting down, or the engine that keeps the topic's history is away. */
 | "unavailable"
/** No reply, no connection or no received frame within the time limit. */
 | "timeout"
/** A signal aborted the call, or the subscription ended before the hub confirmed it. */
 | "aborted"
/** The connection was lost before the reply. */
 | "disconnected"
/** The client is closed. `cause` says why. */
 | "closed"
/** Too many calls wait for a reply, or too many bytes or messages are buffered. */
 | "overflow"
/** An attempt to connect failed. */
 | "unreachable"
/** The input is not valid in its codec. */
 | "malformed"
/** A message cannot be opened, or the platform cannot seal. */
 | "security"
/** A handler or callback of the application failed. `cause` is its error. */
 | "handler"
/** Messages were dropped, and there is no listener for gaps. */
 | "gap"
/** The hub lacks a feature, or the client has no handler for a request. */
 | "unsupported"
/** `getToken` has no other token. */
 | "no_token" | (string & {});
/** The error class of this library. Invalid arguments throw a TypeError or RangeError instead. */
declare class HubError extends Error {
    readonly code: ErrorCode;
    /** True if the hub may have carried out the call although it rejected. */
    readonly outcomeUnknown: boolean;
    /** The channel or room that the error concerns; empty or undefined if none. */
    readonly target: string | undefined;
    /** The error or the close that led to this error, if any. */
    readonly cause?: unknown;
    constructor(code: ErrorCode, message: string, { cause, target }?: {
        cause?: unknown;
        target?: string | undefined;
    });
}
/** Input that its codec cannot decode. The code is "malformed". */
declare class DecodeError extends HubError {
    constructor(message: string, cause?: unknown);
}
/** A `getToken` throws it to end the client: there is no other token. */
declare class NoTokenError extends HubError {
    constructor(message?: string, options?: {
        cause?: unknown;
    });
}

/** Reports messages that the hub dropped instead of delivering them to this client. */
interface Gap extends GapFields {
    /** Returns the fields with BigInts as text. */
    toJSON(): {
        [key: string]: unknown;
    };
}
/** Reports that a lost connection was replaced. Broadcasts and messages to this client sent between `from` and `to` may be missing. */
interface Resumed {
    /** When the lost connection last received a frame, in Unix milliseconds of the local clock. */
    from: number;
    /** When all subscriptions were restored, in Unix milliseconds of the local clock. */
    to: number;
    /** The timestamp of the last message before the loss, in Unix nanoseconds; 0 if there was none. */
    lastTimestampNs: bigint;
    /** The restored channels. */
    channels: string[];
    /** The restored rooms. */
    rooms: string[];
    /**
     * The restored channels and rooms of which publications may be missing, and why: "none" (there is no history),
     * "expired", or "epoch" (the history has begun anew). Of the others nothing is missing.
     */
    incomplete: {
        kind: "channel" | "room";
        name: string;
        reason: string;
    }[];
    /** Returns the fields with BigInts as text. */
    toJSON(): {
        [key: string]: unknown;
    };
}

type State = "connecting" | "open" | "reconnecting" | "closed";
interface StateChange {
    state: State;
    previous: State;
    /** The close code, if a connection ended or an attempt failed. */
    code?: number;
    /** The close reason, as `code`. */
    reason?: string;
    /** The error of the platform or the client, if there is one. */
    error?: unknown;
    /** Milliseconds until the next attempt, if the state is "reconnecting". */
    retryIn?: number;
}
/** The hub's limits. 0 or undefined: no limit. */
interface Limits {
    /** Messages per second that the hub reads from a client. */
    messageRate?: number;
    /** Bytes per second that the hub reads from a client. */
    byteRate?: number;
    /** Bytes of a message. */
    maxMessageSize?: number;
    /** Bytes of the name of a channel or room. */
    maxNameLength?: number;
    /** Channels and rooms of a client. */
    maxSubscriptions?: number;
}
/**
 * Handles the messages of a channel or room, one at a time and in the hub's
 * order. The client does not wait for a promise that it returns.
 */
type Handler = (message: Message) => unknown;
/** The events of a client, with the type of their argument. */
interface Events {
    statechange: StateChange;
    message: Message;
    gap: Gap;
    resumed: Resumed;
    error: HubError;
}
/**
 * Answers a request of the hub. The result is the data of the answer. A HubError is an answer too, with its code and
 * text. After other errors the hub is only told that the handler has failed.
 */
type RequestHandler = (message: Message) => Payload | void | Promise<Payload | void>;
interface Callbacks {
    onStateChange?: ((change: StateChange) => unknown) | undefined;
    /** Receives the messages without a handler: broadcasts, direct messages, memberships made by the server. */
    onMessage?: Handler | undefined;
    /** Reports dropped messages. Without it, onError gets an error with the code "gap". */
    onGap?: ((gap: Gap) => unknown) | undefined;
    onResumed?: ((resumed: Resumed) => unknown) | undefined;
    /** Receives the errors that no waiting call can report. Without it, console.warn gets the first of each code. */
    onError?: ((error: HubError) => unknown) | undefined;
}
/** Where a pipe passes frames on. */
interface PipeEnds {
    send(frame: string | Uint8Array): void;
    deliver(frame: string | Uint8Array): void;
    fail(code: number, error: unknown): void;
    /** True if the codec's frames are text. */
    text: boolean;
}
/** Seals and opens the frames of one connection. It keeps their order. */
interface Pipe {
    /** The number of bytes that wait to be sealed. */
    waiting: number;
    /** Resolves when all frames so far were sealed and sent. */
    sent: Promise<unknown>;
    send(frame: string | Uint8Array): void;
    receive(frame: string | Uint8Array): void;
    /** Runs a task after all frames received so far have been delivered. */
    inOrder(task: () => unknown): void;
}
/** Seals and opens messages. `Sealer` is one. */
interface Seal {
    /** The number of bytes that sealing adds to a message. */
    readonly overhead: number;
    pipe(ends: PipeEnds): Pipe;
}
/** The result of `getToken`. */
interface Credentials {
    token?: string | undefined;
    /** Seals the messages of the next connection. It replaces that of the options. */
    security?: Seal | undefined;
}
interface TokenRequest {
    /** Aborts after `handshakeTimeout` and when the client closes. */
    signal: AbortSignal;
    /** True if the hub refused the last token, or may have: browsers do not tell why a handshake failed. */
    renew: boolean;
}
interface Options extends Callbacks {
    /** Defaults to json. */
    codec?: Codec | undefined;
    /** A Sealer with the hub's keys. Without it messages are not sealed. */
    security?: Seal | undefined;
    /** Sent with every handshake, as the subprotocol `bearer.<base64url>`. */
    token?: string | undefined;
    /**
     * Called before every handshake. Returns the token to send, or a token and a
     * Sealer, and replaces `token`. Throws a NoTokenError to end the client; after
     * other errors the client tries again.
     */
    getToken?: ((request: TokenRequest) => string | undefined | Credentials | Promise<string | undefined | Credentials>) | undefined;
    /** Handlers by message type, as `handle` adds them. They are there before the first connection. */
    handlers?: {
        [type: string]: RequestHandler;
    } | undefined;
    /** The WebSocket class. Defaults to the platform's. Node before 22 has none: pass that of the ws package. */
    WebSocket?: unknown;
    /** Milliseconds that a call waits for its reply. Infinity waits without a limit. Defaults to 10 s. */
    timeout?: number | undefined;
    /** Milliseconds for `getToken` and the handshake together. Defaults to 10 s. */
    handshakeTimeout?: number | undefined;
    /**
     * Milliseconds without a received frame after which the client sends a ping. After
     * as many again it replaces the connection. 0 or Infinity: never. Defaults to the hub's figure.
     */
    heartbeat?: number | undefined;
    backoff?: {
        /** The longest wait before the first attempt, in milliseconds. It doubles with each failure. Defaults to 500. */
        base?: number | undefined;
        /** The longest wait before any attempt, in milliseconds. Defaults to 30 s. */
        max?: number | undefined;
        /** Milliseconds that a connection must last to reset the wait to `base`. Defaults to 10 s. */
        resetAfter?: number | undefined;
    } | undefined;
    /** Decides whether to reconnect after a close. If it returns undefined, `closeCodes` decides. */
    shouldReconnect?: ((close: {
        code: number;
        reason: string;
    }) => boolean | undefined) | undefined;
    /** The largest message in bytes, sealing included. Larger ones are not sent. Defaults to the hub's limit, or 512 KiB. */
    maxMessageSize?: number | undefined;
    /** The maximum number of calls that wait for a reply. Defaults to 1024. */
    maxPending?: number | undefined;
    /** The approximate number of bytes that may wait for a connection or for the network. Defaults to 4 MiB. */
    maxQueuedBytes?: number | undefined;
    /** Closes the client when it aborts. With `connect`, it only ends the attempt. */
    signal?: AbortSignal | undefined;
}
interface CallOptions {
    /** Milliseconds to wait for the reply. Defaults to the client's `timeout`. */
    timeout?: number | undefined;
    /** Rejects the call when it aborts. The hub may still carry out a call that was sent. */
    signal?: AbortSignal | undefined;
}
interface PublishOptions extends CallOptions {
    /** True: the publisher does not receive its own publication. */
    exceptSelf?: boolean | undefined;
    /**
     * Makes the publication unique: while the history has one of this user with the same key, the hub publishes no other.
     * Defaults to a random key. Users without a name share their keys, so choose one that cannot be guessed.
     */
    key?: string | undefined;
    /** The W3C trace context of the publication: a traceparent, or a traceparent, a space and a tracestate. */
    trace?: string | undefined;
    /** False: the promise resolves at once, and errors go to onError. */
    ack?: boolean | undefined;
}
/** What the hub tells about a publication. */
interface Published {
    /**
     * True if it reached only the clients of this client's hub, which is one of several nodes: its broker was not available.
     * False if that was not so or is not known. Always false in channels and rooms with a history.
     */
    local: boolean;
}
interface SendOptions {
    /** A channel or room that the message concerns. */
    channel?: string | undefined;
    /** True: the message is dropped while there is no connection. */
    volatile?: boolean | undefined;
}

interface RequestMethods {
    /**
     * Sends a request of an application-defined type to the server, and resolves with the answer of its handler. Rejects
     * with a HubError if the handler refuses. A server without a handler does not answer: then it is a timeout.
     */
    request(type: string, data?: Payload, options?: CallOptions): Promise<Message>;
    /** Answers the server's requests of a type. Returns the function that removes the handler. */
    handle(type: string, handler: RequestHandler): () => void;
}
/** Requests to the server and of the server: `request`, `handle`, and the option `handlers`. */
declare const requests: Feature<RequestMethods>;

/**
 * Positions in histories: subscriptions that begin in the past and go on behind their latest message after a lost
 * connection, `history()`, and publications that are sent again with the same key if the hub has not got them.
 */
declare const history: Feature;

/** A client that is in a channel or room with presence. */
interface Member {
    readonly clientId: string;
    /** The user's name; empty without one. */
    readonly user: string;
    /** Data that the hub's application has set with Client.SetInfo. */
    readonly info: any;
    /** When it joined, in Unix milliseconds. */
    readonly since: number;
    /** The name of its node in a cluster; empty without one. */
    readonly node: string;
}
/** The argument of `onPresence`. A user with several clients is several members. */
interface PresenceChange {
    joined: Member[];
    left: Member[];
    /** Those of which the user or the info is another. */
    updated: Member[];
}
type PresenceHandler = (change: PresenceChange) => unknown;
/** Follows the members of channels and rooms: `onPresence` and `members()` of subscriptions. */
declare const presence: Feature;

interface SubscribeOptions {
    /** Ends the subscription when it aborts. */
    signal?: AbortSignal | undefined;
    /** Passes the latest publications of the history first, as many as this number. Defaults to 0. */
    last?: number | undefined;
    /** Passes the publications behind a position of the history first, such as the `position` of a subscription that has ended. Null means none. */
    since?: Position | null | undefined;
    /**
     * Makes the client follow the members of the channel or room, and is told each change: at first all members, this
     * client among them, and after a reconnect the difference.
     */
    onPresence?: PresenceHandler | undefined;
    /** Is told why the subscription ended, if the hub refused it. Otherwise the client's onError is. */
    onError?: ((error: HubError) => unknown) | undefined;
}
/** How the client has joined a channel or room. */
interface TopicResumed extends Position {
    /** The number of publications that the hub sends from the history. */
    replayed: number;
    /** True if nothing is missing since the position from which the subscription goes on. */
    complete: boolean;
    /** Why something may be missing: "none" (there is no history), "expired", or "epoch" (the history has begun anew). */
    reason?: string;
}
interface HistoryQuery extends CallOptions {
    /** Publications behind a position. Null means none. */
    since?: Position | null | undefined;
    /** Publications before an offset. */
    before?: number | undefined;
    /** The maximum number of publications. Defaults to 100, at most 1000. */
    limit?: number | undefined;
}
/** A part of a history. The position is that of the latest publication in the history. */
interface HistoryPage extends Position {
    /** Oldest first. */
    messages: Message[];
    /** True if nothing that was asked for is missing before the messages. */
    complete: boolean;
    /** Why something is missing, as in `TopicResumed`. */
    reason?: string;
}
/**
 * A lasting wish for the messages of a channel or room. It begins when the hub
 * confirms it, is restored after a lost connection, and ends with `unsubscribe`,
 * its signal, the client, or the hub's refusal.
 *
 * `for await` receives its messages too. At most 1024 messages wait for the
 * loop: beyond that the subscription ends and the loop throws a HubError
 * "overflow". Leaving the loop ends the subscription.
 */
interface Subscription extends AsyncIterable<Message> {
    readonly kind: "channel" | "room";
    readonly name: string;
    /** "active" while the hub has confirmed it on this connection. */
    readonly state: "pending" | "active" | "ended";
    /** Why the subscription ended, unless the application ended it. */
    readonly error: HubError | undefined;
    /** Resolves when the hub confirms the subscription, and rejects if it ends before. */
    readonly ready: Promise<void>;
    /** The place behind the latest message that was passed on; undefined without a history or the feature `history`. */
    readonly position: Position | undefined;
    /** How the client has joined the latest time, at first or after a reconnect; undefined without the feature `history`. */
    readonly resumed: TopicResumed | undefined;
    /**
     * Returns the members, those that joined first first. It follows them with `onPresence` only; otherwise it is empty.
     * Missing without the feature `presence`.
     */
    members(): Member[];
    /** Reads publications that the history has. Only members may. Missing without the feature `history`. */
    history(query?: HistoryQuery): Promise<HistoryPage>;
    /** Ends this subscription. The client leaves the channel or room with the last one. */
    unsubscribe(): Promise<void>;
}

interface CoreClient extends Callbacks {
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
    on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => unknown, options?: {
        signal?: AbortSignal | undefined;
    }): () => void;
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
declare class CoreClient {
    /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
    constructor(url: string | URL, options?: Options, features?: readonly Feature<unknown>[]);
}
/**
 * A client that reconnects until it is closed. Its calls resolve when the hub
 * acknowledges them and reject with a HubError otherwise. After `close` they
 * reject with the code "closed". The callbacks may be replaced at any time.
 */
declare class HubClient extends CoreClient {
    /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
    constructor(url: string | URL, options?: Options);
}
interface HubClient extends RequestMethods {
}
/**
 * Creates a client and resolves with it when it is open. Rejects and closes the
 * client if the first attempt fails, whereas `new HubClient` keeps trying. The
 * signal ends only the attempt.
 */
declare const connect: (url: string | URL, options?: Options) => Promise<HubClient>;
/**
 * Like `connect`, but the client has the given features only, and bundlers leave out the others. Without the feature
 * `requests` it has no methods `request` and `handle`. Options of missing features are a TypeError.
 */
declare const connectWith: <Features extends readonly [] | readonly Feature<any>[]>(features: Features, url: string | URL, options?: Options) => Promise<CoreClient & Added<Features>>;

interface CloseCode {
    readonly name: string;
    /** Whether the client reconnects. "credentials": only if it has a `getToken` to get a new token from. */
    readonly reconnect: boolean | "credentials";
}
/**
 * The close codes, and whether the client reconnects after each of them. It does
 * not reconnect after other codes. 1005 stands for a Close frame without a code,
 * 1006 for a connection that ended without a Close frame.
 */
declare const closeCodes: {
    readonly [code: number]: CloseCode | undefined;
};

/** FlatBuffers, with the schema proto/message.fbs. */
declare const flatbuffers: Codec<Uint8Array>;

/** The default codec. Its frames are text. */
declare const json: Codec<string>;

/** MessagePack. */
declare const msgpack: Codec<Uint8Array>;

/** Protobuf, with the schema proto/message.proto. */
declare const protobuf: Codec<Uint8Array>;

/** All codecs, by the names of their subprotocols. Import a codec by itself to bundle it alone. */
declare const codecs: {
    readonly json: Codec<string>;
    readonly protobuf: Codec<Uint8Array<ArrayBufferLike>>;
    readonly flatbuffers: Codec<Uint8Array<ArrayBufferLike>>;
    readonly msgpack: Codec<Uint8Array<ArrayBufferLike>>;
};

/** The keys and their order. At least one key is required. `fromHex` and `fromBase64` convert text to bytes. */
interface Keys {
    /** 32 bytes, to encrypt with AES-256-GCM. */
    aesKey?: Bytes | undefined;
    /** At least one byte, to sign with HMAC-SHA256. */
    hmacKey?: Bytes | undefined;
    /** The order of the steps if there are both keys. It must equal the hub's. Defaults to true. */
    signThenEncrypt?: boolean | undefined;
}
/** Seals and opens messages with keys. It imports the keys once. */
declare class Sealer {
    /** The number of bytes that sealing adds to a message. */
    readonly overhead: number;
    private readonly sealSteps;
    private readonly openSteps;
    /** Throws a TypeError if a key is invalid, and a HubError "security" if WebCrypto is missing. */
    constructor({ aesKey, hmacKey, signThenEncrypt }: Keys);
    /** Signs and encrypts, in the configured order. */
    seal(bytes: Uint8Array): Promise<ByteArray>;
    /** Reverses seal. Rejects with a HubError "security" if the bytes were altered or have other keys. */
    open(bytes: Uint8Array): Promise<ByteArray>;
    /** Returns a pipe that seals and opens the frames of one connection. Clients call it. */
    pipe({ send, deliver, fail, text }: PipeEnds): Pipe;
}

export { CoreClient, DecodeError, HubClient, HubError, Message, NoTokenError, Sealer, closeCodes, codecs, connect, connectWith, flatbuffers, fromBase64, fromHex, history, json, msgpack, presence, protobuf, requests };
export type { Added, Begin, ByteArray, Bytes, CallOptions, Callbacks, CloseCode, Codec, Credentials, ErrorCode, Events, Feature, Gap, Handler, HistoryPage, HistoryQuery, JSONObject, Keys, Limits, Member, MessageFields, Options, Payload, Pipe, PipeEnds, Position, PresenceChange, PresenceHandler, PublishOptions, Published, RequestHandler, RequestMethods, Resumed, Seal, SendOptions, State, StateChange, SubscribeOptions, Subscription, TokenRequest, TopicResumed };
