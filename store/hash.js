/**
 * Checksums: XXH32 for the chunks of the store, where speed matters and an accident is all there is to guard against; SHA-256
 * in pieces, which crypto.subtle cannot do, for whole files.
 */

const P1 = 0x9e3779b1;
const P2 = 0x85ebca77;
const P3 = 0xc2b2ae3d;
const P4 = 0x27d4eb2f;
const P5 = 0x165667b1;
const { imul } = Math;

/** @param {number} x @param {number} n */
const rotl = (x, n) => (x << n) | (x >>> (32 - n));
/** @param {number} lane @param {number} word */
const round = (lane, word) => imul(rotl((lane + imul(word, P2)) | 0, 13), P1);

/**
 * XXH32 with seed 0, as the reference has it.
 * @param {Uint8Array} bytes
 * @returns {number} unsigned
 */
export function xxh32(bytes) {
  const n = bytes.length;
  const data = new DataView(bytes.buffer, bytes.byteOffset, n);
  let at = 0;
  let hash = P5;
  if (n >= 16) {
    let a = (P1 + P2) | 0;
    let b = P2 | 0;
    let c = 0;
    let d = -P1 | 0;
    for (; at <= n - 16; at += 16) {
      a = round(a, data.getInt32(at, true));
      b = round(b, data.getInt32(at + 4, true));
      c = round(c, data.getInt32(at + 8, true));
      d = round(d, data.getInt32(at + 12, true));
    }
    hash = rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18);
  }
  hash = (hash + n) | 0;
  for (; at <= n - 4; at += 4) hash = imul(rotl((hash + imul(data.getInt32(at, true), P3)) | 0, 17), P4);
  for (; at < n; at++) hash = imul(rotl((hash + imul(bytes[at], P5)) | 0, 11), P1);
  hash = imul(hash ^ (hash >>> 15), P2);
  hash = imul(hash ^ (hash >>> 13), P3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** The first 32 bits of the fractional parts of roots of the first primes. @param {number} n @param {number} root */
function fractions(n, root) {
  /** @type {number[]} */
  const primes = [];
  for (let p = 2; primes.length < n; p++) if (primes.every((q) => p % q)) primes.push(p);
  return Int32Array.from(primes, (p) => ((p ** (1 / root)) % 1) * 2 ** 32);
}
const K = fractions(64, 3);
const START = fractions(8, 2);

/** SHA-256 of bytes that come in pieces. */
export class Sha256 {
  #state = START.slice();
  #block = new Uint8Array(64);
  #view = new DataView(this.#block.buffer);
  #words = new Int32Array(64);
  #length = 0;

  /** @param {Uint8Array} bytes */
  update(bytes) {
    let at = 0;
    while (at < bytes.length) {
      const filled = this.#length % 64;
      if (!filled && bytes.length - at >= 64) {
        const end = at + ((bytes.length - at) & ~63);
        const view = new DataView(bytes.buffer, bytes.byteOffset);
        this.#length += end - at;
        for (; at < end; at += 64) compress(this.#state, this.#words, view, at);
        continue;
      }
      const n = Math.min(64 - filled, bytes.length - at);
      this.#block.set(bytes.subarray(at, at + n), filled);
      this.#length += n;
      at += n;
      if (filled + n === 64) compress(this.#state, this.#words, this.#view, 0);
    }
    return this;
  }

  /** In hex. The object is of no more use then. */
  digest() {
    const bits = this.#length * 8;
    this.update(Uint8Array.of(0x80));
    while (this.#length % 64 !== 56) this.update(Uint8Array.of(0));
    this.#view.setUint32(56, Math.floor(bits / 2 ** 32));
    this.#view.setUint32(60, bits >>> 0);
    compress(this.#state, this.#words, this.#view, 0);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }
}

/**
 * SHA-256's compression of one block.
 * @param {Int32Array} s [8], the state
 * @param {Int32Array} w [64], scratch
 * @param {DataView} view
 * @param {number} at where the block's 64 bytes begin
 */
function compress(s, w, view, at) {
  for (let i = 0; i < 16; i++) w[i] = view.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15];
    const y = w[i - 2];
    const s0 = ((x << 25) | (x >>> 7)) ^ ((x << 14) | (x >>> 18)) ^ (x >>> 3);
    const s1 = ((y << 15) | (y >>> 17)) ^ ((y << 13) | (y >>> 19)) ^ (y >>> 10);
    w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
  }
  let a = s[0];
  let b = s[1];
  let c = s[2];
  let d = s[3];
  let e = s[4];
  let f = s[5];
  let g = s[6];
  let h = s[7];
  for (let i = 0; i < 64; i++) {
    const s1 = ((e << 26) | (e >>> 6)) ^ ((e << 21) | (e >>> 11)) ^ ((e << 7) | (e >>> 25));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
    const s0 = ((a << 30) | (a >>> 2)) ^ ((a << 19) | (a >>> 13)) ^ ((a << 10) | (a >>> 22));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  s[0] += a;
  s[1] += b;
  s[2] += c;
  s[3] += d;
  s[4] += e;
  s[5] += f;
  s[6] += g;
  s[7] += h;
}
