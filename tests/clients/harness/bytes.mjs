// Test data, and values computed from it.

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

/** Returns `size` bytes that look random and are the same for the same seed (xorshift32, four bytes per step). */
export function noise(size, seed = 1) {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  for (let i = 0; i < words.length; i += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return Buffer.from(words.buffer, 0, size);
}

/** Returns random numbers that repeat with their seed (mulberry32), so that a failed run can be repeated. */
export function random(seed) {
  let state = seed >>> 0;
  const unit = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    unit,
    /** Returns a whole number from `low` to `high`, inclusive. */
    between: (low, high) => low + Math.floor(unit() * (high - low + 1)),
    chance: (probability) => unit() < probability,
    pick: (list) => list[Math.floor(unit() * list.length)],
  };
}

const CASTAGNOLI = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

/** A running CRC-32C and SHA-256 over chunks. */
export class Digester {
  #crc = 0xffffffff;
  #sha256 = createHash('sha256');
  size = 0;

  update(chunk) {
    let crc = this.#crc;
    for (let i = 0; i < chunk.length; i += 1) crc = CASTAGNOLI[(crc ^ chunk[i]) & 0xff] ^ (crc >>> 8);
    this.#crc = crc;
    this.#sha256.update(chunk);
    this.size += chunk.length;
    return this;
  }

  /** Returns `{size, crc32c, sha256}`, digests in lower-case hexadecimal. */
  finish() {
    const crc32c = ((this.#crc ^ 0xffffffff) >>> 0).toString(16).padStart(8, '0');
    return { size: this.size, crc32c, sha256: this.#sha256.digest('hex') };
  }
}

export function digestOf(bytes) {
  return new Digester().update(bytes).finish();
}

export async function digestOfStream(stream) {
  const digester = new Digester();
  for await (const chunk of stream) digester.update(chunk);
  return digester.finish();
}

export function digestOfFile(path) {
  return digestOfStream(createReadStream(path, { highWaterMark: 1 << 20 }));
}
