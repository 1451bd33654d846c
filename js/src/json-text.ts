import { DecodeError } from "./errors.js";

export type Fields = { [key: string]: unknown };

export function parseObject(text: string, label: string): Fields {
  let fields: unknown;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new DecodeError(`${label}: ${(error as Error).message}`, error);
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new DecodeError(`${label}: not an object`);
  }
  return fields as Fields;
}

export function stringField(fields: Fields, key: string): string {
  const value = fields[key] ?? "";
  if (typeof value !== "string") throw new DecodeError(`json: ${key} is not a string`);
  return value;
}

export function integerSource(sources: Map<string, string>, key: string): bigint {
  const source = sources.get(key) ?? "null";
  if (source === "null") return BigInt(0);
  if (!/^-?\d{1,20}$/.test(source)) throw new DecodeError(`json: ${key} is not an integer`);
  const value = BigInt(source);
  if (BigInt.asIntN(64, value) !== value) throw new DecodeError(`json: ${key} does not fit in 64 bits`);
  return value;
}

/**
 * Returns the keys of a JSON object and the source text of their values. The
 * elements of an array have empty keys. JSON.parse rounds 64-bit integers and
 * drops the formatting of the payload. The text must be JSON: it is not
 * validated again.
 */
export function memberSources(text: string): [string, string][] {
  const sources: [string, string][] = [];
  let depth = 0;
  let key = "";
  let start = 0; // of the member's key, then of its value
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"':
        i = endOfString(text, i);
        break;
      case ":":
        if (depth !== 1) break;
        key = JSON.parse(text.slice(start, i));
        start = i + 1;
        break;
      case "{":
      case "[":
        if (depth++ === 0) start = i + 1;
        break;
      case "}":
      case "]":
        depth--;
      // fall through
      case ",":
        if (depth > 1 || (depth === 1 && text[i] !== ",")) break;
        sources.push([key, text.slice(start, i).trim()]);
        start = i + 1;
    }
  }
  return sources;
}

/** Returns the index of the closing quote of the string that begins at i. */
function endOfString(text: string, i: number): number {
  for (;;) {
    i = text.indexOf('"', i + 1);
    let start = i;
    while (text[start - 1] === "\\") start--;
    if ((i - start) % 2 === 0) return i;
  }
}
