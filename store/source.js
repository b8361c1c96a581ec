/**
 * Where a model's bytes come from, as the loader sees it: a path, a Blob, a URL with or without the store, or several of
 * them that are the shards of one model.
 *
 * @typedef {'file' | 'store' | 'network'} Origin
 * @typedef {[begin: number, end: number]} Range  of bytes, end excluded
 * @typedef {{bytes: Uint8Array, origin: Origin}} Piece  At most 4 MB; the bytes are borrowed until the next piece.
 *
 * @typedef {object} Source
 * @property {string} name for messages
 * @property {number | undefined} size  undefined: not known before the first bytes
 * @property {boolean | undefined} random  whether it comes over a network that fetches a range alone; undefined: not known yet
 * @property {(begin: number, end: number, signal: AbortSignal) => AsyncGenerator<Piece, void, void>} stream
 *   the bytes from `begin` to before `end` (Infinity: to the end of the file), in order. Several streams may run at once.
 * @property {(ranges: Range[]) => Promise<void>} expect  these will be asked for: makes room for them, or fails at once
 * @property {() => Promise<void>} close  it may be used again afterwards
 * @property {() => Traffic} traffic
 *
 * @typedef {object} Traffic
 * @property {number} networkBytes that came over the network
 * @property {number} storeBytes that came from the store
 * @property {number} requests
 * @property {number} retries
 * @property {number} repairedChunks that were damaged in the store
 *
 * @typedef {object} PlainFile  What a path or a Blob is made a source of.
 * @property {string} name
 * @property {number} size
 * @property {(offset: number, buffer: Uint8Array) => Promise<number>} read  how many bytes it got; 0: the end
 * @property {() => Promise<void>} close
 */
import { SkipstoneError } from '../wasm/errors.js';
import { Changed, Remote } from './http.js';
import { CHUNK_BYTES, chunkBytes, fileName } from './store.js';

export const PIECE_BYTES = 1 << 20;

/** @returns {Traffic} */
const noTraffic = () => ({ networkBytes: 0, storeBytes: 0, requests: 0, retries: 0, repairedChunks: 0 });

/** @param {PlainFile} file @returns {Source} */
export function plainSource({ name, size, read, close }) {
  return {
    name,
    size,
    random: false,
    async *stream(begin, end, signal) {
      const buffer = new Uint8Array(4 * PIECE_BYTES);
      for (let at = begin; at < Math.min(end, size); ) {
        signal.throwIfAborted();
        const n = await read(at, buffer.subarray(0, Math.min(buffer.length, Math.min(end, size) - at)));
        if (!n) return;
        yield { bytes: buffer.subarray(0, n), origin: 'file' };
        at += n;
      }
    },
    async expect() {},
    close,
    traffic: noTraffic,
  };
}

/** @param {Blob} blob @param {string} name @returns {Source} */
export function blobSource(blob, name) {
  const { size } = blob;
  return plainSource({
    name,
    size,
    async read(offset, buffer) {
      try {
        const bytes = new Uint8Array(await blob.slice(offset, offset + buffer.length).arrayBuffer());
        buffer.set(bytes);
        return bytes.length;
      } catch (error) {
        throw new SkipstoneError('io', `${name}: ${error instanceof Error ? error.message : error}`, { cause: error });
      }
    },
    async close() {},
  });
}

/**
 * @typedef {object} RemoteFile
 * @property {string} url
 * @property {string} [source] what the user asked for
 * @property {string} [token]
 * @property {number} [size]
 * @property {string} [sha256]
 * @property {string} [advice]
 * @property {Partial<import('./http.js').Timing>} [timing]
 * @property {boolean} [refresh] ask the server whether the file has changed
 */

/**
 * A file by URL, through the store where there is one. What the store has is not asked for again.
 * @implements {Source}
 */
export class RemoteSource {
  #file;
  #store;
  #remote;
  #onWait;
  /** @type {Promise<import('./store.js').Entry> | undefined} */ #opening;
  /** @type {import('./store.js').Entry | undefined} */ #entry;
  /** @type {{at: number, state: import('./store.js').Hasher} | undefined} */ #hash;
  #storeBytes = 0;
  #repaired = 0;

  /**
   * @param {RemoteFile} file
   * @param {() => import('./store.js').Hasher} newSha256
   * @param {import('./store.js').Store} [store]
   * @param {() => void} [onWait] another load is fetching this file: it is waited for
   */
  constructor(file, newSha256, store, onWait) {
    this.#file = file;
    this.#store = store;
    this.#onWait = onWait;
    const { token, size, sha256, advice, timing } = file;
    this.#remote = new Remote(file.url, { token, size, sha256, advice, timing });
    if (sha256) this.#hash = { at: 0, state: newSha256() };
  }

  get name() {
    return fileName(this.#file.url);
  }

  get size() {
    return this.#remote.size;
  }

  get random() {
    return this.#remote.ranges ?? (this.#entry?.storedBytes ? true : undefined);
  }

  traffic() {
    const { bytes, requests, retries } = this.#remote;
    const repairedChunks = this.#repaired + (this.#entry?.repaired ?? 0);
    return { networkBytes: bytes, storeBytes: this.#storeBytes, requests, retries, repairedChunks };
  }

  /** The entry, opened and locked once for all streams. @param {import('./store.js').Store} store @param {AbortSignal} signal */
  #open(store, signal) {
    this.#opening ??= this.#openEntry(store, signal).catch((error) => {
      this.#opening = undefined;
      throw error;
    });
    return this.#opening;
  }

  /** @param {import('./store.js').Store} store @param {AbortSignal} signal */
  async #openEntry(store, signal) {
    const entry = await store.open(this.#file.url, signal, this.#onWait);
    try {
      const { meta } = entry;
      const { size, sha256, source } = this.#file;
      const same = meta && (size ?? meta.size) === meta.size && (sha256 ?? meta.sha256) === (meta.sha256 ?? sha256);
      if (same) {
        this.#remote.size = meta.size;
        this.#remote.etag = meta.etag;
        await entry.begin({ size: meta.size, sha256, source });
        if (meta.verified) this.#hash = undefined;
        if (this.#file.refresh) for await (const _ of this.#remote.stream(0, 1, signal));
      } else if (meta) {
        await entry.clear();
      }
      this.#entry = entry;
      return entry;
    } catch (error) {
      if (error instanceof Changed) await entry.clear();
      await entry.close();
      throw error;
    }
  }

  /**
   * @param {number} begin
   * @param {number} end
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Piece, void, void>}
   */
  async *stream(begin, end, signal) {
    if (!this.#store) {
      let at = begin;
      for await (const bytes of this.#remote.stream(begin, end, signal)) {
        await this.#check(at, bytes);
        at += bytes.length;
        yield* cut(bytes);
      }
      return;
    }
    const entry = await this.#open(this.#store, signal);
    /** @type {Uint8Array | undefined} */
    let buffer;
    try {
      let at = begin - (begin % CHUNK_BYTES);
      while (at < Math.min(end, this.size ?? Infinity)) {
        signal.throwIfAborted();
        let stop = end; // until then it is all stored, or all not
        const stored = entry.has(at / CHUNK_BYTES);
        if (entry.begun) {
          const limit = stored ? Math.min(end, at + PIECE_BYTES) : end;
          for (stop = at; stop < Math.min(limit, this.size ?? 0) && entry.has(stop / CHUNK_BYTES) === stored; ) stop += CHUNK_BYTES;
        }
        for await (const { bytes, origin } of stored ? this.#stored(entry, at, stop, (buffer ??= new Uint8Array(PIECE_BYTES))) : this.#fetched(entry, at, stop, signal)) {
          const piece = bytes.subarray(Math.max(0, begin - at), Math.min(bytes.length, end - at));
          await this.#check(at, bytes);
          at += bytes.length;
          yield { bytes: piece, origin };
        }
      }
    } catch (error) {
      if (error instanceof Changed) await entry.clear();
      throw error;
    }
  }

  /**
   * Stored chunks as one piece, up to one that turns out damaged.
   * @param {import('./store.js').Entry} entry
   * @param {number} begin
   * @param {number} end at most PIECE_BYTES behind it
   * @param {Uint8Array} buffer of PIECE_BYTES
   * @returns {Generator<Piece, void, void>}
   */
  *#stored(entry, begin, end, buffer) {
    const size = this.size ?? 0;
    const length = Math.min(end, size) - begin;
    let n = 0;
    for (let chunk = begin / CHUNK_BYTES; n < length; chunk++) {
      const bytes = buffer.subarray(n, n + chunkBytes(chunk, size));
      if (!entry.get(chunk, bytes)) break;
      n += bytes.length;
    }
    this.#storeBytes += n;
    if (n) yield { bytes: buffer.subarray(0, n), origin: 'store' };
  }

  /**
   * Chunks from the network, each stored before it is passed on.
   * @param {import('./store.js').Entry} entry
   * @param {number} begin
   * @param {number} end
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Piece, void, void>}
   */
  async *#fetched(entry, begin, end, signal) {
    const buffer = new Uint8Array(CHUNK_BYTES);
    let chunk = begin / CHUNK_BYTES;
    let filled = 0;
    for await (const bytes of this.#remote.stream(begin, end, signal)) {
      const { size, etag } = this.#remote;
      if (size === undefined) { // there is no table for a file of unknown length: it is not stored
        yield* cut(bytes);
        continue;
      }
      if (!entry.begun) await entry.begin({ size, etag, sha256: this.#file.sha256, source: this.#file.source });
      for (let i = 0; i < bytes.length; ) {
        const n = Math.min(chunkBytes(chunk, size) - filled, bytes.length - i);
        buffer.set(bytes.subarray(i, i + n), filled);
        i += n;
        filled += n;
        if (filled < chunkBytes(chunk, size)) break;
        await entry.put(chunk++, buffer.subarray(0, filled));
        yield { bytes: buffer.subarray(0, filled), origin: 'network' };
        filled = 0;
      }
    }
  }

  /**
   * SHA-256 of the whole file, where it is known: as far as it was read from its beginning without a gap.
   * @param {number} at @param {Uint8Array} bytes
   */
  async #check(at, bytes) {
    const { size } = this;
    const hash = this.#hash;
    if (!hash || at > hash.at || at + bytes.length <= hash.at) return;
    hash.state.update(bytes.subarray(hash.at - at));
    hash.at = at + bytes.length;
    if (hash.at !== size) return;
    this.#hash = undefined;
    const found = hash.state.digest();
    const { sha256, url } = this.#file;
    if (found === sha256) return this.#entry?.setVerified();
    await this.#entry?.clear();
    throw new SkipstoneError('damaged', `${url}: its SHA-256 is ${found}, want ${sha256}; nothing of it was kept`);
  }

  /** @param {Range[]} ranges */
  async expect(ranges) {
    const { size } = this;
    if (!this.#entry?.begun || size === undefined) return;
    const wanted = new Set();
    for (const [begin, end] of ranges) {
      for (let chunk = Math.floor(begin / CHUNK_BYTES); chunk * CHUNK_BYTES < Math.min(end, size); chunk++) {
        if (!this.#entry.has(chunk)) wanted.add(chunk);
      }
    }
    await this.#entry.expect([...wanted].reduce((sum, chunk) => sum + chunkBytes(chunk, size), 0));
  }

  async close() {
    await this.#remote.close();
    const entry = await this.#opening?.catch(() => undefined);
    this.#repaired += entry?.repaired ?? 0;
    this.#opening = this.#entry = undefined;
    await entry?.close();
  }
}

/** @param {Uint8Array} bytes @returns {Generator<Piece, void, void>} */
function* cut(bytes) {
  for (let at = 0; at < bytes.length; at += 4 * PIECE_BYTES) {
    yield { bytes: bytes.subarray(at, at + 4 * PIECE_BYTES), origin: 'network' };
  }
}
