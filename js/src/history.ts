import type { Calls } from "./calls.js";
import { check, checkPosition } from "./check.js";
import { json } from "./codec-json.js";
import { memberSources } from "./json-text.js";
import type { HistoryPage, HistoryQuery } from "./subscription.js";

/** Reads a page of the history of a channel or room. Requests for the hub itself are JSON in every codec. */
export async function readHistory(call: Calls["call"], key: string, name: string, query?: HistoryQuery): Promise<HistoryPage> {
  const { signal, timeout, ...asked } = check(query);
  checkPosition(asked.since);
  return call({ type: "hub:history", data: { [key]: name, ...asked } }, { signal, timeout }, (reply) => {
    const messages = new Map(memberSources(reply!.text())).get("messages") ?? "[]";
    const decoded = memberSources(messages).flatMap(([, text]) => (text ? json.decode(text) : []));
    return { ...reply!.json(), messages: decoded };
  });
}
