import type { Calls } from "./calls.js";
import type { Kinds } from "./check.js";
import type { Core } from "./core.js";
import type { Outbox } from "./outbox.js";
import type { Topics } from "./topics.js";

/**
 * A part of the client that an application may leave out, to make its bundle smaller: `history`, `presence` or `requests`.
 * `Adds` are the methods that it adds to the client.
 */
export interface Feature<Adds = object> {
  /** The type of the methods; there is no such property. */
  readonly adds?: Adds;
  /** @internal The kinds of its options. */
  readonly kinds: Kinds;
  /** @internal Adds it to a client. */
  install(core: Core, outbox: Outbox, calls: Calls, topics: Topics): Adds | void;
}

/** The methods that a list of features adds to a client. */
export type Added<Features extends readonly Feature<any>[]> = (
  Features[number] extends infer One ? (One extends Feature<infer Adds> ? (adds: Adds) => void : never) : never
) extends (adds: infer All) => void
  ? All
  : never;
