/**
 * The weight store: files by URL, kept in chunks that may come in any order.
 *
 * An entry is a folder of three files:
 *   meta.json   what file it is: url, size, ETag, SHA-256 where known, when it was used
 *   chunks      a table with a slot of 12 bytes for each chunk of 64 KB: where it lies in `data` (its place + 1), its XXH32,
 *               and a check of the slot itself; all zero: not there
 *   data        the chunks, in the order in which they came; what came in order is the file itself
 *
 * A chunk's slot is written after its bytes, so a process may end at any time: what its slot does not vouch for is fetched
 * again. Every chunk is checked against its hash when it is read.
 *
 * Where the bytes lie is the storage's affair: node/storage.js (a cache folder), web/storage.js (OPFS).
 *
 * @typedef {object} File  An open file of the storage; its calls return when they are done.
 * @property {(at: number, bytes: Uint8Array) => number} read  how many bytes it got
 * @property {(at: number, bytes: Uint8Array) => void} write
 * @property {() => void} close
 *
 * @typedef {object} Storage
 * @property {string} place  for people
 * @property {() => Promise<string[]>} list  names of the folders
 * @property {(folder: string, name: string) => Promise<Uint8Array | undefined>} read  a small file, whole
 * @property {(folder: string, name: string, bytes: Uint8Array) => Promise<void>} write  whole or not at all
 * @property {(folder: string, name: string) => Promise<number>} size  of a file; 0: not there
 * @property {(folder: string) => Promise<void>} remove  a folder and what is in it; not there: nothing happens
 * @property {(folder: string, name: string) => Promise<File>} open  makes it if it is not there
 * @property {(name: string, options: {signal?: AbortSignal, wait: boolean}) => Promise<(() => Promise<void>) | undefined>} lock
 *   the way to unlock, or undefined where another holder has it and `wait` is false
 * @property {() => Promise<number>} available  bytes that may still be written; Infinity: nobody knows
 * @property {(error: unknown) => boolean} isFull  whether a write failed for want of room
 *
 * @typedef {{update: (bytes: Uint8Array) => unknown, digest: () => string}} Hasher  digest: in hex
 *
 * @typedef {object} Meta
 * @property {string} url
 * @property {string} name of the file
 * @property {string[]} sources what was asked for when this file was chosen: 'hf:owner/repo:Q4_1'
 * @property {number} size
 * @property {string} [etag]
 * @property {string} [sha256] as whoever offers the file says
 * @property {boolean} [verified] whether the whole file was checked by it
 * @property {number} created ms since 1970
 * @property {number} used
 *
 * @typedef {object} Stored  What list() says of an entry.
 * @property {string} url
 * @property {string} name
 * @property {string[]} sources
 * @property {number} bytes of the file
 * @property {string} [sha256]
 * @property {number} storedBytes
 * @property {boolean} complete
 * @property {boolean} verified by the SHA-256 of the whole file
 * @property {Date} created
 * @property {Date} used
 */
import { SkipstoneError } from '../wasm/errors.js';
import { xxh32 } from './hash.js';

export const CHUNK_BYTES = 65536;
const SLOT_WORDS = 3;
const SPARE_BYTES = 16 << 20; // for all else that wants room meanwhile

/** The folder of a URL's file: readable, and unique by a hash. @param {string} url */
export function folderOf(url) {
  const name = fileName(url).replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, 80);
  const bytes = encoder.encode(url);
  const hash = [bytes, encoder.encode(`${url}#`)].map((text) => xxh32(text).toString(16).padStart(8, '0')).join('');
  return `${name}-${hash}`;
}

/** @param {string} url */
export function fileName(url) {
  const { pathname, host } = new URL(url);
  const last = pathname.split('/').filter(Boolean).at(-1) ?? host;
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

export class Store {
  #storage;
  #maxBytes;

  /** @param {Storage} storage @param {{maxBytes?: number}} [options] maxBytes: that all entries may take together */
  constructor(storage, { maxBytes = Infinity } = {}) {
    this.#storage = storage;
    this.#maxBytes = maxBytes;
  }

  get storage() {
    return this.#storage;
  }

  /** @param {string} folder @returns {Promise<Meta | undefined>} */
  async meta(folder) {
    const bytes = await this.#storage.read(folder, 'meta.json');
    if (!bytes) return undefined;
    try {
      const meta = JSON.parse(decoder.decode(bytes));
      return typeof meta.url === 'string' && Number.isSafeInteger(meta.size) ? meta : undefined;
    } catch {
      return undefined; // cut off by a crash: as if it were not there
    }
  }

  /** @param {string} folder @param {Meta} meta */
  async putMeta(folder, meta) {
    await this.#storage.write(folder, 'meta.json', encoder.encode(`${JSON.stringify(meta, null, 1)}\n`));
  }

  /** The entries, the one used last first. @returns {Promise<(Stored & {folder: string})[]>} */
  async list() {
    const entries = [];
    for (const folder of await this.#storage.list()) {
      const meta = await this.meta(folder);
      if (!meta) continue;
      const table = tableOf(await this.#storage.read(folder, 'chunks'), meta.size);
      const storedBytes = bytesOf(table, meta.size);
      const { url, name, sources, size, sha256, verified = false, created, used } = meta;
      entries.push({
        folder, url, name, sources, sha256, bytes: size, storedBytes, complete: storedBytes === size, verified,
        created: new Date(created), used: new Date(used),
      });
    }
    return entries.sort((a, b) => b.used.getTime() - a.used.getTime());
  }

  /**
   * Removes an entry, or leaves it where it is in use.
   * @param {string} folder
   * @returns {Promise<boolean>} whether it is gone
   */
  async remove(folder) {
    const unlock = await this.#storage.lock(folder, { wait: false });
    if (!unlock) return false;
    try {
      await this.#storage.remove(folder);
    } finally {
      await unlock();
    }
    return true;
  }

  /** Bytes on the storage, leftovers included. */
  async usage() {
    let bytes = 0;
    for (const folder of await this.#storage.list()) {
      for (const name of ['data', 'chunks', 'meta.json']) bytes += await this.#storage.size(folder, name);
    }
    return bytes;
  }

  /**
   * Removes what was not used for longest until the rest takes at most so many bytes, and folders that a crash left.
   * @param {number} maxBytes
   * @param {string} [keep] a folder that stays
   * @returns {Promise<{removed: string[], bytes: number}>} names of the files that went, and the bytes that are left
   */
  async prune(maxBytes, keep) {
    const entries = await this.list();
    const known = new Set(entries.map(({ folder }) => folder));
    for (const folder of await this.#storage.list()) if (!known.has(folder) && folder !== keep) await this.remove(folder);
    const removed = [];
    let bytes = await this.usage();
    while (bytes > maxBytes && entries.length) {
      const oldest = entries.pop();
      if (!oldest || oldest.folder === keep || !(await this.remove(oldest.folder))) continue;
      removed.push(oldest.name);
      bytes = await this.usage();
    }
    return { removed, bytes };
  }

  /**
   * Sees to it that `bytes` more fit, if need be by removing what was not used for longest.
   * @param {string} folder of the entry that they are for
   * @param {string} name of its file
   * @param {number} bytes
   */
  async makeRoom(folder, name, bytes) {
    if (bytes <= 0) return;
    const usage = await this.usage();
    const most = Math.min(this.#maxBytes, usage + (await this.#storage.available()) - SPARE_BYTES);
    if (usage + bytes <= most) return;
    const { bytes: left } = await this.prune(Math.max(0, most - bytes), folder);
    // what other entries gave back counts at once, whatever the system says meanwhile
    if (left + bytes > most) throw this.full(name, bytes, Math.max(0, most - left));
  }

  /** @param {string} name @param {number} bytes @param {number} available as the storage says, which need not be true */
  full(name, bytes, available) {
    const limit = Number.isFinite(this.#maxBytes) ? ` (the option cache allows ${this.#maxBytes} in all)` : '';
    const room = available < bytes ? `has room for ${available}${limit}` : `is full, although it reports room for ${available}`;
    return new SkipstoneError(
      'quota',
      `${name}: storing it takes ${bytes} more bytes, ${this.#storage.place} ${room}; ` +
        'make room with models.delete() or models.prune(), or load with the option cache: false',
    );
  }

  /**
   * Opens the entry of a URL and holds its lock: two loads of one file, in this process or another, share one download.
   * @param {string} url
   * @param {AbortSignal} signal
   * @param {() => void} [onWait] another one holds it
   */
  async open(url, signal, onWait) {
    const folder = folderOf(url);
    let unlock = await this.#storage.lock(folder, { wait: false });
    if (!unlock) {
      onWait?.();
      unlock = await this.#storage.lock(folder, { wait: true, signal });
    }
    if (!unlock) throw new SkipstoneError('internal', `${folder}: no lock`);
    try {
      const meta = await this.meta(folder);
      return new Entry(this, folder, url, meta?.url === url ? meta : undefined, unlock);
    } catch (error) {
      await unlock();
      throw error;
    }
  }
}

/** A file of the store, in use by one holder. */
export class Entry {
  /** @type {Meta | undefined} */ meta;
  repaired = 0; // chunks that were found damaged
  #store;
  #url;
  #unlock;
  /** @type {File | undefined} */ #data;
  /** @type {File | undefined} */ #chunks;
  #table = new Uint32Array();
  storedBytes = 0;
  #end = 0; // places of `data` in use, those of damaged chunks included
  /** @type {number[]} */ #holes = []; // of them, those that no chunk has

  /** @param {Store} store @param {string} folder @param {string} url @param {Meta | undefined} meta @param {() => Promise<void>} unlock */
  constructor(store, folder, url, meta, unlock) {
    this.#store = store;
    this.folder = folder;
    this.#url = url;
    this.meta = meta;
    this.#unlock = unlock;
  }

  /**
   * Opens it for a file of this description, without what it holds of another.
   * @param {{size: number, etag?: string, sha256?: string, source?: string}} file
   */
  async begin({ size, etag, sha256, source }) {
    const { storage } = this.#store;
    const old = this.meta;
    const same = old && old.size === size && (sha256 ? !old.sha256 || old.sha256 === sha256 : !etag || !old.etag || old.etag === etag);
    if (!same) {
      await this.clear();
      const now = Date.now();
      this.meta = { url: this.#url, name: fileName(this.#url), sources: [], size, etag, sha256, created: now, used: now };
    }
    const meta = /** @type {Meta} */ (this.meta);
    meta.etag ??= etag;
    meta.sha256 ??= sha256;
    meta.used = Date.now();
    if (source && !meta.sources.includes(source)) meta.sources.push(source);
    await this.#room(() => this.#store.putMeta(this.folder, meta), 0);
    this.#chunks = await storage.open(this.folder, 'chunks');
    this.#data = await storage.open(this.folder, 'data');
    const bytes = new Uint8Array(4 * SLOT_WORDS * chunksOf(size));
    this.#chunks.read(0, bytes);
    this.#table = tableOf(bytes, size);
    this.storedBytes = bytesOf(this.#table, size);
    const used = new Set();
    for (let i = 0; i < this.#table.length; i += SLOT_WORDS) if (this.#table[i]) used.add(this.#table[i]);
    this.#end = [...used].reduce((a, b) => Math.max(a, b), 0);
    this.#holes = Array.from({ length: this.#end }, (_, i) => i + 1).filter((place) => !used.has(place));
  }

  get begun() {
    return this.#data !== undefined;
  }

  /** @param {number} chunk */
  has(chunk) {
    return (this.#table[SLOT_WORDS * chunk] ?? 0) !== 0;
  }

  get complete() {
    return this.begun && this.storedBytes === this.meta?.size;
  }

  /**
   * Reads a chunk. False: it is damaged, and from now on not there.
   * @param {number} chunk
   * @param {Uint8Array} bytes as long as the chunk
   */
  get(chunk, bytes) {
    const slot = SLOT_WORDS * chunk;
    const n = this.#data?.read((this.#table[slot] - 1) * CHUNK_BYTES, bytes);
    if (n === bytes.length && xxh32(bytes) === this.#table[slot + 1]) return true;
    this.#holes.push(this.#table[slot]);
    this.storedBytes -= bytes.length;
    this.#table.fill(0, slot, slot + SLOT_WORDS);
    this.#writeSlot(slot);
    this.repaired++;
    return false;
  }

  /**
   * Writes a chunk.
   * @param {number} chunk
   * @param {Uint8Array} bytes
   */
  async put(chunk, bytes) {
    const slot = SLOT_WORDS * chunk;
    const had = this.has(chunk);
    const place = this.#table[slot] || this.#holes.at(-1) || this.#end + 1;
    await this.#room(() => {
      this.#data?.write((place - 1) * CHUNK_BYTES, bytes);
      const hash = xxh32(bytes);
      this.#table.set([place, hash, checkOf(chunk, place, hash)], slot);
      try {
        this.#writeSlot(slot);
      } catch (error) {
        this.#table.fill(0, slot, slot + SLOT_WORDS);
        throw error;
      }
    }, bytes.length);
    this.storedBytes += had ? 0 : bytes.length;
    this.#end = Math.max(this.#end, place);
    if (this.#holes.at(-1) === place) this.#holes.pop();
  }

  /** @param {number} slot */
  #writeSlot(slot) {
    const words = this.#table.slice(slot, slot + SLOT_WORDS);
    this.#chunks?.write(4 * slot, new Uint8Array(words.buffer));
  }

  /**
   * Makes room before much is written: an early error is a better one.
   * @param {number} bytes that are to be stored still
   */
  async expect(bytes) {
    if (this.meta) await this.#store.makeRoom(this.folder, this.meta.name, bytes);
  }

  /** Writes; when the storage is full, once more with others gone. @param {() => void | Promise<void>} write @param {number} bytes */
  async #room(write, bytes) {
    const { storage } = this.#store;
    const missing = this.meta ? this.meta.size - this.storedBytes : bytes;
    try {
      await write();
    } catch (error) {
      if (!storage.isFull(error)) throw this.#failed(error);
      const { removed } = await this.#store.prune((await this.#store.usage()) - Math.max(bytes, 1 << 20), this.folder);
      try {
        if (!removed.length) throw error;
        await write();
      } catch (again) {
        if (!storage.isFull(again)) throw this.#failed(again);
        throw this.#store.full(this.meta?.name ?? this.#url, missing, await storage.available());
      }
    }
  }

  /** @param {unknown} error */
  #failed(error) {
    const text = error instanceof Error ? error.message : String(error);
    return new SkipstoneError('io', `${this.#store.storage.place}: ${this.folder}: ${text}`, { cause: error });
  }

  /** The whole file agrees with its SHA-256. */
  async setVerified() {
    if (!this.meta || this.meta.verified) return;
    this.meta.verified = true;
    await this.#store.putMeta(this.folder, this.meta);
  }

  /** Forgets all that it holds. */
  async clear() {
    this.#closeFiles();
    this.#table = new Uint32Array();
    this.storedBytes = 0;
    this.meta = undefined;
    await this.#store.storage.remove(this.folder);
  }

  #closeFiles() {
    this.#data?.close();
    this.#chunks?.close();
    this.#data = this.#chunks = undefined;
  }

  async close() {
    this.#closeFiles();
    await this.#unlock();
  }
}

/** @param {number} size */
export const chunksOf = (size) => Math.ceil(size / CHUNK_BYTES);

/** @param {number} chunk @param {number} size of the file */
export const chunkBytes = (chunk, size) => Math.min(CHUNK_BYTES, size - chunk * CHUNK_BYTES);

/** @param {number} chunk @param {number} place @param {number} hash */
const checkOf = (chunk, place, hash) => ~(Math.imul(chunk, 0x9e3779b1) ^ Math.imul(place, 0x85ebca77) ^ hash) >>> 0;

/** The table as it was stored, without slots that are not whole. @param {Uint8Array | undefined} bytes @param {number} size of the file */
function tableOf(bytes, size) {
  const n = chunksOf(size);
  const table = new Uint32Array(SLOT_WORDS * n);
  if (bytes) new Uint8Array(table.buffer).set(bytes.subarray(0, table.byteLength));
  for (let chunk = 0; chunk < n; chunk++) {
    const [place, hash, check] = table.subarray(SLOT_WORDS * chunk, SLOT_WORDS * (chunk + 1));
    const whole = place > 0 && place <= 2 * n && check === checkOf(chunk, place, hash);
    if (!whole) table.fill(0, SLOT_WORDS * chunk, SLOT_WORDS * (chunk + 1));
  }
  return table;
}

/** @param {Uint32Array} table @param {number} size */
function bytesOf(table, size) {
  let bytes = 0;
  for (let chunk = 0; SLOT_WORDS * chunk < table.length; chunk++) {
    if (table[SLOT_WORDS * chunk]) bytes += chunkBytes(chunk, size);
  }
  return bytes;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();
