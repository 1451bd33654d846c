"use strict";
"use client";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/react.ts
var react_exports = {};
__export(react_exports, {
  HubProvider: () => HubProvider,
  useChannel: () => useChannel,
  useConnectionState: () => useConnectionState,
  useHub: () => useHub,
  useMembers: () => useMembers,
  useRoom: () => useRoom
});
module.exports = __toCommonJS(react_exports);
var import_react = require("react");
var import_index = require("./hub.cjs");
var pending = { state: "pending", error: void 0 };
var Context = (0, import_react.createContext)(null);
function HubProvider(props) {
  return (0, import_react.createElement)(Context.Provider, { value: props.client }, props.children);
}
function useLatest(value) {
  const latest = (0, import_react.useRef)(value);
  (0, import_react.useInsertionEffect)(() => {
    latest.current = value;
  });
  return latest;
}
function useHub(url, options) {
  const provided = (0, import_react.useContext)(Context);
  const [client, setClient] = (0, import_react.useState)();
  const latest = useLatest(options);
  const address = url?.toString();
  if (address === void 0 && provided === null) throw new Error("useHub without a URL needs a HubProvider");
  (0, import_react.useEffect)(() => {
    if (address === void 0) return void 0;
    const created = new import_index.HubClient(address, withLatest(latest));
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
  const [shown, setShown] = (0, import_react.useState)(pending);
  (0, import_react.useEffect)(() => {
    if (!client) return void 0;
    let mounted = true;
    const show = ({ state, error }) => {
      if (mounted) setShown({ state, error, of: [client, join, name] });
    };
    let subscription;
    try {
      subscription = client[join](name, (message) => latest.current?.(message), withLatest(latestOptions));
    } catch (error) {
      if (!(error instanceof import_index.HubError)) throw error;
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
  const [shown, setShown] = (0, import_react.useState)({ members: none });
  (0, import_react.useEffect)(() => {
    if (!client) return void 0;
    const join = kind === "room" ? client.joinRoom : client.subscribe;
    try {
      const subscription = join(name, noop, {
        onPresence: () => setShown({ of: [client, kind, name], members: subscription.members() })
      });
      return () => void subscription.unsubscribe();
    } catch (error) {
      if (!(error instanceof import_index.HubError)) throw error;
      return void 0;
    }
  }, [client, kind, name]);
  return shown.of?.every((value, i) => value === [client, kind, name][i]) ? shown.members : none;
}
var none = [];
function useConnectionState(client) {
  const subscribe = (0, import_react.useCallback)((changed) => client?.on("statechange", changed) ?? noop, [client]);
  return (0, import_react.useSyncExternalStore)(
    subscribe,
    () => client?.state ?? "connecting",
    () => "connecting"
  );
}
var noop = () => {
};
//# sourceMappingURL=react.cjs.map
