"use client";

// src/react.ts
import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useInsertionEffect,
  useRef,
  useState,
  useSyncExternalStore
} from "react";
import {
  HubClient,
  HubError
} from "./hub.js";
var pending = { state: "pending", error: void 0 };
var Context = createContext(null);
function HubProvider(props) {
  return createElement(Context.Provider, { value: props.client }, props.children);
}
function useLatest(value) {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}
function useHub(url, options) {
  const provided = useContext(Context);
  const [client, setClient] = useState();
  const latest = useLatest(options);
  const address = url?.toString();
  if (address === void 0 && provided === null) throw new Error("useHub without a URL needs a HubProvider");
  useEffect(() => {
    if (address === void 0) return void 0;
    const created = new HubClient(address, withLatest(latest));
    setClient(created);
    return () => {
      setClient(void 0);
      void created.close();
    };
  }, [address, latest]);
  return address === void 0 ? provided ?? void 0 : client;
}
function withLatest(latest) {
  const options = { ...latest.current };
  for (const [key, value] of Object.entries(options)) {
    if (typeof value !== "function" || key === "WebSocket") continue;
    options[key] = (...args) => {
      const newest = latest.current?.[key];
      return newest?.(...args);
    };
  }
  return options;
}
function useChannel(client, channel, onMessage, options) {
  return useTopic("subscribe", client, channel, onMessage, options);
}
function useRoom(client, room, onMessage, options) {
  return useTopic("joinRoom", client, room, onMessage, options);
}
function useTopic(join, client, name, onMessage, options) {
  const latest = useLatest(onMessage);
  const latestOptions = useLatest(options);
  const [shown, setShown] = useState(pending);
  useEffect(() => {
    if (!client) return void 0;
    let mounted = true;
    const show = ({ state, error }) => {
      if (mounted) setShown({ state, error, of: [client, join, name] });
    };
    let subscription;
    try {
      subscription = client[join](name, (message) => latest.current?.(message), withLatest(latestOptions));
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      show({ state: "ended", error });
      return void 0;
    }
    const update = () => show(subscription);
    subscription.ready.then(update, update);
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
function useMembers(client, kind, name) {
  const [shown, setShown] = useState({ members: none });
  useEffect(() => {
    if (!client) return void 0;
    const join = kind === "room" ? client.joinRoom : client.subscribe;
    try {
      const subscription = join(name, noop, {
        onPresence: () => setShown({ of: [client, kind, name], members: subscription.members() })
      });
      return () => void subscription.unsubscribe();
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      return void 0;
    }
  }, [client, kind, name]);
  return shown.of?.every((value, i) => value === [client, kind, name][i]) ? shown.members : none;
}
var none = [];
function useConnectionState(client) {
  const subscribe = useCallback((changed) => client?.on("statechange", changed) ?? noop, [client]);
  return useSyncExternalStore(
    subscribe,
    () => client?.state ?? "connecting",
    () => "connecting"
  );
}
var noop = () => {
};
export {
  HubProvider,
  useChannel,
  useConnectionState,
  useHub,
  useMembers,
  useRoom
};
//# sourceMappingURL=react.js.map
