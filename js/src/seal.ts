import { type ByteArray, type Bytes, concat, decodeUTF8, encodeUTF8, isBytes, viewOf } from "./bytes.js";
import { DecodeError, HubError } from "./errors.js";
import type { Pipe, PipeEnds } from "./options.js";

const nonceSize = 12;
const tagSize = 16;
const macSize = 32;

/** The keys and their order. At least one key is required. `fromHex` and `fromBase64` convert text to bytes. */
export interface Keys {
  /** 32 bytes, to encrypt with AES-256-GCM. */
  aesKey?: Bytes | undefined;
  /** At least one byte, to sign with HMAC-SHA256. */
  hmacKey?: Bytes | undefined;
  /** The order of the steps if there are both keys. It must equal the hub's. Defaults to true. */
  signThenEncrypt?: boolean | undefined;
}

const noop = () => {};

type Step = (bytes: ByteArray) => Promise<ByteArray>;

/** Seals and opens messages with keys. It imports the keys once. */
export class Sealer {
  /** The number of bytes that sealing adds to a message. */
  readonly overhead: number;
  private readonly sealSteps: Step[];
  private readonly openSteps: Step[];

  /** Throws a TypeError if a key is invalid, and a HubError "security" if WebCrypto is missing. */
  constructor({ aesKey, hmacKey, signThenEncrypt = true }: Keys) {
    if (!aesKey && !hmacKey) throw new TypeError("security needs an aesKey, an hmacKey or both");
    if (!globalThis.crypto?.subtle) {
      throw new HubError("security", "WebCrypto is missing; browsers provide it only to https and localhost pages");
    }
    const seal: Step[] = [];
    const open: Step[] = [];
    if (hmacKey) {
      if (keyBytes(hmacKey).length === 0) throw new TypeError("hmacKey is empty");
      const key = importKey(hmacKey, { name: "HMAC", hash: "SHA-256" }, ["sign", "verify"]);
      seal.push(async (bytes) => sign(await key, bytes));
      open.push(async (bytes) => verify(await key, bytes));
    }
    if (aesKey) {
      if (keyBytes(aesKey).length !== 32) throw new TypeError("aesKey is not 32 bytes");
      const key = importKey(aesKey, "AES-GCM", ["encrypt", "decrypt"]);
      seal.push(async (bytes) => encrypt(await key, bytes));
      open.push(async (bytes) => decrypt(await key, bytes));
    }
    this.overhead = (hmacKey ? macSize : 0) + (aesKey ? nonceSize + tagSize : 0);
    this.sealSteps = signThenEncrypt ? seal : seal.reverse();
    this.openSteps = signThenEncrypt ? open.reverse() : open;
  }

  /** Signs and encrypts, in the configured order. */
  async seal(bytes: Uint8Array): Promise<ByteArray> {
    for (const step of this.sealSteps) bytes = await step(bytes as ByteArray);
    return bytes as ByteArray;
  }

  /** Reverses seal. Rejects with a HubError "security" if the bytes were altered or have other keys. */
  async open(bytes: Uint8Array): Promise<ByteArray> {
    for (const step of this.openSteps) bytes = await step(bytes as ByteArray);
    return bytes as ByteArray;
  }

  /** Returns a pipe that seals and opens the frames of one connection. Clients call it. */
  pipe({ send, deliver, fail, text }: PipeEnds): Pipe {
    let inbound: Promise<unknown> = Promise.resolve(); // settles when all received frames are opened and delivered
    const pipe: Pipe = {
      waiting: 0,
      sent: Promise.resolve(),

      send: (frame) => {
        pipe.waiting += frame.length;
        const sealed = this.seal(typeof frame === "string" ? encodeUTF8(frame) : frame);
        sealed.catch(noop); // handled below, after the frames before it
        pipe.sent = pipe.sent.then(async () => {
          try {
            send(await sealed);
          } catch (error) {
            fail(1008, error);
          }
          pipe.waiting -= frame.length;
        });
      },

      receive: (frame) => {
        if (typeof frame === "string") {
          const error = new HubError("security", "received a text frame, but sealed frames are binary");
          pipe.inOrder(() => fail(1003, error));
          return;
        }
        const opened = this.open(frame);
        opened.catch(noop); // handled below, after the frames before it
        pipe.inOrder(async () => {
          try {
            const plain = await opened;
            deliver(text ? decodeUTF8(plain, "json") : plain);
          } catch (error) {
            fail(error instanceof DecodeError ? 1007 : 1008, error);
          }
        });
      },

      inOrder(task) {
        inbound = inbound.then(task);
      },
    };
    return pipe;
  }
}

async function sign(key: CryptoKey, bytes: ByteArray): Promise<ByteArray> {
  return concat(new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes)), bytes);
}

async function verify(key: CryptoKey, bytes: ByteArray): Promise<ByteArray> {
  if (bytes.length < macSize) throw new HubError("security", "message is too short for a signature");
  const data = bytes.subarray(macSize);
  const genuine = await crypto.subtle.verify("HMAC", key, bytes.subarray(0, macSize), data);
  if (!genuine) throw new HubError("security", "signature does not match");
  return data;
}

async function encrypt(key: CryptoKey, bytes: ByteArray): Promise<ByteArray> {
  const iv = crypto.getRandomValues(new Uint8Array(nonceSize));
  return concat(iv, new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, bytes)));
}

async function decrypt(key: CryptoKey, bytes: ByteArray): Promise<ByteArray> {
  if (bytes.length < nonceSize + tagSize) throw new HubError("security", "message is too short to be encrypted");
  const iv = bytes.subarray(0, nonceSize);
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, bytes.subarray(nonceSize)));
  } catch (cause) {
    throw new HubError("security", "message cannot be decrypted", { cause });
  }
}

function keyBytes(key: Bytes): ByteArray {
  if (!isBytes(key)) throw new TypeError("a key must be bytes; use fromHex or fromBase64 to convert text");
  return viewOf(key);
}

function importKey(
  key: Bytes,
  algorithm: AlgorithmIdentifier | HmacImportParams,
  usages: KeyUsage[],
): Promise<CryptoKey> {
  // Copied, because importKey may read the key after the caller has wiped it.
  const imported = crypto.subtle.importKey("raw", keyBytes(key).slice() as ByteArray, algorithm, false, usages);
  imported.catch(noop); // seal and open await the key and report the failure
  return imported;
}
