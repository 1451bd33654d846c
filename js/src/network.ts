/** Calls `changed` when the network or the page may have come back. Returns the function that ends it. */
export function watchNetwork(changed: () => void): () => void {
  const scope: any = globalThis;
  const { document, navigator } = scope;
  const shown = () => document.visibilityState === "visible" && changed();
  const targets: [any, string, () => void][] = [
    [scope, "online", changed],
    [scope, "offline", changed],
    [document, "visibilitychange", shown],
    [navigator?.connection, "change", changed],
  ];
  // Node's global object is no EventTarget.
  for (const [target, type, listener] of targets) target?.addEventListener?.(type, listener);
  return () => {
    for (const [target, type, listener] of targets) target?.removeEventListener?.(type, listener);
  };
}
