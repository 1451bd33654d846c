// The client with options that tests can write briefly: codecs by their names, and
// security by its keys.

import * as hub from "../dist/hub.js";

/** Replaces the name of a codec by the codec, and keys by a Sealer. */
export function named(options) {
  if (!options) return options;
  const { codec, security, getToken, ...others } = options;
  if (codec !== undefined) others.codec = Object.hasOwn(hub.codecs, codec) ? hub.codecs[codec] : codec;
  if (security) others.security = new hub.Sealer(security);
  if (getToken) {
    others.getToken = async (...args) => {
      const given = await getToken(...args);
      return given?.security ? { ...given, security: new hub.Sealer(given.security) } : given;
    };
  }
  return others;
}

export const connect = (url, options) => hub.connect(url, named(options));

export class HubClient extends hub.HubClient {
  constructor(url, options) {
    super(url, named(options));
  }
}
