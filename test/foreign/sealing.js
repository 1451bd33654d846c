// The sealed format, implemented with WebCrypto.

const { subtle } = globalThis.crypto;
const concat = (...parts) => new Uint8Array(Buffer.concat(parts.map((part) => new Uint8Array(part))));

/** Returns a sealer. A step without a key is omitted. seal takes an optional nonce, which is random by default. */
export async function sealerOf({ aesKey, hmacKey, signThenEncrypt }) {
  const steps = [];
  if (hmacKey) {
    const key = await subtle.importKey("raw", hmacKey, { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
    steps.push({
      seal: async (bytes) => concat(await subtle.sign("HMAC", key, bytes), bytes),
      open: async (bytes) => {
        const data = bytes.subarray(32);
        if (!(await subtle.verify("HMAC", key, bytes.subarray(0, 32), data))) throw new Error("wrong signature");
        return data;
      },
    });
  }
  if (aesKey) {
    const key = await subtle.importKey("raw", aesKey, "AES-GCM", false, ["encrypt", "decrypt"]);
    steps.push({
      seal: async (bytes, nonce) => {
        const iv = nonce ?? globalThis.crypto.getRandomValues(new Uint8Array(12));
        return concat(iv, await subtle.encrypt({ name: "AES-GCM", iv }, key, bytes));
      },
      open: async (bytes) => {
        const iv = bytes.subarray(0, 12);
        return new Uint8Array(await subtle.decrypt({ name: "AES-GCM", iv }, key, bytes.subarray(12)));
      },
    });
  }
  if (!signThenEncrypt) steps.reverse();
  return {
    async seal(bytes, nonce) {
      for (const step of steps) bytes = await step.seal(bytes, nonce);
      return bytes;
    },
    async open(bytes) {
      for (const step of steps.toReversed()) bytes = await step.open(bytes);
      return bytes;
    },
  };
}
