import { DecodeError } from "./errors.js";

/** Binary data, of any realm. */
export type Bytes = ArrayBufferLike | ArrayBufferView;

/** A Uint8Array on an ArrayBuffer, which Blob and WebCrypto accept in every version of TypeScript. */
export type ByteArray = ReturnType<Uint8Array["slice"]>;

// Made when they are used first: jsdom has neither, and importing the client must not fail there.
let encoder: TextEncoder;
let decoder: TextDecoder;
const utf8Encoder = () => (encoder ||= new TextEncoder());

export const noBytes: ByteArray = /* @__PURE__ */ new Uint8Array(0);

export const encodeUTF8 = (text: string): ByteArray => utf8Encoder().encode(text) as ByteArray;

export function decodeUTF8(bytes: Uint8Array, label: string): string {
  try {
    // ignoreBOM keeps a leading U+FEFF as part of the text.
    return (decoder ||= new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })).decode(bytes);
  } catch (error) {
    throw new DecodeError(`${label} is not valid UTF-8`, error);
  }
}

/** Cuts a text to its longest prefix of at most `size` bytes. */
export const cutUTF8 = (text: string, size: number): string =>
  text.slice(0, utf8Encoder().encodeInto(text, new Uint8Array(size)).read);

/** Reports whether data is binary. An ArrayBuffer of another realm is no instance of this realm's class. */
export const isBytes = (data: unknown): data is Bytes =>
  ArrayBuffer.isView(data) || /Buffer]$/.test(Object.prototype.toString.call(data));

/** Returns the bytes of an ArrayBuffer, typed array, DataView or Buffer without copying them. */
export const viewOf = (data: Bytes): ByteArray =>
  (ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data)) as ByteArray;

export function concat(a: Uint8Array, b: Uint8Array): ByteArray {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

export function toBase64(bytes: Uint8Array): string {
  // fromCharCode takes every byte as an argument, and engines limit the number of arguments.
  const chunk = 0x8000;
  let binary = "";
  for (let i = 0; i < bytes.length; i += chunk) {
    binary += String.fromCharCode(...bytes.subarray(i, i + chunk));
  }
  return btoa(binary);
}

/** Encodes base64 with the characters of URLs and without padding. */
export const base64url = (bytes: Uint8Array): string =>
  toBase64(bytes).replace(/[+/=]/g, (char) => ({ "+": "-", "/": "_" })[char] ?? "");

/** Decodes base64. Throws a DecodeError if the text is invalid. */
export function fromBase64(text: string): ByteArray {
  let binary: string;
  try {
    binary = atob(text);
  } catch (error) {
    throw new DecodeError("not base64", error);
  }
  return Uint8Array.from(binary, (char) => char.charCodeAt(0)) as ByteArray;
}

/** Decodes hexadecimal digits. Throws a DecodeError if the text is invalid. */
export function fromHex(text: string): ByteArray {
  if (text.length % 2 !== 0 || /[^0-9a-f]/i.test(text)) throw new DecodeError("not hexadecimal");
  return Uint8Array.from({ length: text.length / 2 }, (_, i) =>
    parseInt(text.slice(2 * i, 2 * i + 2), 16),
  ) as ByteArray;
}
