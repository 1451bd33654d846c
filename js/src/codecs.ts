import { flatbuffers } from "./codec-flatbuffers.js";
import { json } from "./codec-json.js";
import { msgpack } from "./codec-msgpack.js";
import { protobuf } from "./codec-protobuf.js";

/** All codecs, by the names of their subprotocols. Import a codec by itself to bundle it alone. */
export const codecs = { json, protobuf, flatbuffers, msgpack } as const;
