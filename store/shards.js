/**
 * A model that llama.cpp's gguf-split has cut into several GGUF files. The first has all the metadata; each describes
 * its own tensors. Joined, they read as one file: a header made of theirs, and behind it their tensors' bytes where they lie.
 *
 * @typedef {import('./source.js').Source} Source
 */
import { SkipstoneError } from '../wasm/errors.js';
import { PIECE_BYTES } from './source.js';

const MAGIC = 0x46554747; // 'GGUF'
const TYPE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]; // of a metadata type; 8 is a string, 9 an array
const MOST_HEADER_BYTES = 256 << 20;
const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The names of all shards where one is given; of another name itself alone. @param {string} name */
export function shardNames(name) {
  const found = SHARD.exec(name);
  if (!found) return [name];
  const [, stem, , count] = found;
  return Array.from({ length: Number(count) }, (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${count}.gguf`);
}

/** Whether it is a shard, but not the first one. @param {string} name */
export const isLaterShard = (name) => SHARD.test(name) && !/-00001-of-\d{5}\.gguf$/.test(name);

/**
 * @typedef {object} Header
 * @property {number} version
 * @property {number} nKeys
 * @property {Uint8Array} keys  the metadata, as in the file
 * @property {{info: Uint8Array, offset: number}[]} tensors  info: name, dimensions and type, as in the file
 * @property {number} dataAt  where the tensors' bytes begin
 * @property {number} alignment
 * @property {Record<string, number>} split  the numbers among its keys that begin with 'split.'
 */

/** Reads on past the end of what there is. */
class Short extends Error {}

/**
 * The parts of a header; undefined: it goes on behind these bytes.
 * @param {Uint8Array} bytes
 * @param {string} name for messages
 * @returns {Header | undefined}
 */
export function parseHeader(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  /** @param {number} n */
  const skip = (n) => {
    if (n > bytes.length - at) throw new Short();
    at += n;
    return at - n;
  };
  const u32 = () => view.getUint32(skip(4), true);
  const u64 = () => {
    const value = Number(view.getBigUint64(skip(8), true));
    if (!Number.isSafeInteger(value)) throw new SkipstoneError('format', `${name}: a number of ${value} in its header`);
    return value;
  };
  const text = () => {
    const n = u64();
    return decoder.decode(bytes.subarray(skip(n), at));
  };
  /** @param {number} type @returns {number | undefined} */
  const value = (type) => {
    if (type === 8) return void skip(u64());
    if (type === 9) {
      const element = u32();
      const n = u64();
      if (TYPE_BYTES[element]) skip(n * TYPE_BYTES[element]);
      else for (let i = 0; i < n; i++) value(element);
      return undefined;
    }
    if (!TYPE_BYTES[type]) throw new SkipstoneError('format', `${name}: metadata of type ${type}, want 0 to 12`);
    const from = skip(TYPE_BYTES[type]);
    if (type === 2) return view.getUint16(from, true);
    if (type === 4) return view.getUint32(from, true);
    return type === 5 ? view.getInt32(from, true) : undefined;
  };

  try {
    if (u32() !== MAGIC) throw new SkipstoneError('format', `${name}: no GGUF file: it does not begin with 'GGUF'`);
    const version = u32();
    if (version !== 2 && version !== 3) throw new SkipstoneError('unsupported', `${name}: GGUF version ${version}, want 2 or 3`);
    const nTensors = u64();
    const nKeys = u64();
    /** @type {Record<string, number>} */
    const split = {};
    let alignment = 32;
    const keysAt = at;
    for (let i = 0; i < nKeys; i++) {
      const key = text();
      const number = value(u32());
      if (key === 'general.alignment' && number) alignment = number;
      if (key.startsWith('split.') && number !== undefined) split[key] = number;
    }
    const keys = bytes.slice(keysAt, at);
    const tensors = [];
    for (let i = 0; i < nTensors; i++) {
      const infoAt = at;
      text();
      skip(8 * u32() + 4);
      const info = bytes.slice(infoAt, at);
      tensors.push({ info, offset: u64() });
    }
    return { version, nKeys, keys, tensors, dataAt: Math.ceil(at / alignment) * alignment, alignment, split };
  } catch (error) {
    if (error instanceof Short) return undefined;
    throw error;
  }
}

/** @param {Source} source @param {AbortSignal} signal */
async function readHeader(source, signal) {
  let bytes = new Uint8Array();
  for (let more = PIECE_BYTES; ; more *= 2) {
    const pieces = [bytes];
    let n = bytes.length;
    for await (const piece of source.stream(n, bytes.length + more, signal)) {
      pieces.push(piece.bytes.slice());
      n += piece.bytes.length;
    }
    const grown = n > bytes.length;
    const all = new Uint8Array(n);
    pieces.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
    bytes = all;
    const header = parseHeader(bytes, source.name);
    if (header) return header;
    if (!grown || n > MOST_HEADER_BYTES) {
      throw new SkipstoneError('format', `${source.name}: the file ends after ${n} bytes, before the end of its header: it is truncated`);
    }
  }
}

/**
 * The shards of a model as one source, in the order that their headers say.
 * @param {Source[]} sources
 * @param {AbortSignal} signal
 * @returns {Promise<Source>}
 */
export async function joinShards(sources, signal) {
  const shards = [];
  for (const source of sources) {
    const header = await readHeader(source, signal);
    const { 'split.no': no, 'split.count': count } = header.split;
    if (count === undefined || no === undefined) {
      throw new SkipstoneError('format', `${source.name}: no shard: it has no split.no and split.count, as llama.cpp's gguf-split writes them`);
    }
    if (count !== sources.length) {
      throw new SkipstoneError('argument', `${source.name}: one of ${count} shards, but there are ${sources.length}`);
    }
    if (source.size === undefined) throw new SkipstoneError('network', `${source.name}: the server does not say how long the file is`);
    shards.push({ source, header, no, size: source.size });
  }
  shards.sort((a, b) => a.no - b.no);
  shards.forEach(({ no, source }, i) => {
    if (no !== i) throw new SkipstoneError('argument', `${source.name}: shard ${no + 1} of ${shards.length} is there twice, or ${i + 1} is missing`);
  });
  return new JoinedSource(shards);
}

/** @implements {Source} */
class JoinedSource {
  #header;
  #parts;
  size;

  /** @param {{source: Source, header: Header, size: number}[]} shards in order */
  constructor(shards) {
    const { version, nKeys, keys, alignment } = shards[0].header;
    /** @param {number} n */
    const aligned = (n) => Math.ceil(n / alignment) * alignment;
    const infoBytes = shards.flatMap(({ header }) => header.tensors).reduce((sum, { info }) => sum + info.length + 8, 0);
    const dataAt = aligned(24 + keys.length + infoBytes);
    this.#header = new Uint8Array(dataAt);
    const view = new DataView(this.#header.buffer);
    view.setUint32(0, MAGIC, true);
    view.setUint32(4, version, true);
    view.setBigUint64(8, BigInt(shards.reduce((sum, { header }) => sum + header.tensors.length, 0)), true);
    view.setBigUint64(16, BigInt(nKeys), true);
    this.#header.set(keys, 24);
    let at = 24 + keys.length;
    let begin = dataAt;
    this.#parts = shards.map(({ source, header, size }) => {
      for (const { info, offset } of header.tensors) {
        this.#header.set(info, at);
        view.setBigUint64(at + info.length, BigInt(begin - dataAt + offset), true);
        at += info.length + 8;
      }
      const end = begin + Math.max(0, size - header.dataAt);
      const part = { source, begin, end, from: header.dataAt };
      begin = aligned(end);
      return part;
    });
    this.size = this.#parts[this.#parts.length - 1].end;
  }

  get name() {
    return this.#parts[0].source.name;
  }

  get random() {
    const all = this.#parts.map(({ source }) => source.random);
    return all.includes(false) ? false : all.includes(undefined) ? undefined : true;
  }

  /**
   * @param {number} begin @param {number} end @param {AbortSignal} signal
   * @returns {AsyncGenerator<import('./source.js').Piece, void, void>}
   */
  async *stream(begin, end, signal) {
    let at = begin;
    if (at < this.#header.length && at < end) {
      for (; at < Math.min(this.#header.length, end); at += PIECE_BYTES) {
        yield { bytes: this.#header.slice(at, Math.min(at + PIECE_BYTES, this.#header.length, end)), origin: 'file' };
      }
      at = Math.min(this.#header.length, end);
    }
    for (const part of this.#parts) {
      if (part.end <= at || part.begin >= end) continue;
      if (at < part.begin) {
        yield { bytes: new Uint8Array(part.begin - at), origin: 'file' }; // the padding between two
        at = part.begin;
      }
      const stop = Math.min(part.end, end);
      for await (const piece of part.source.stream(at - part.begin + part.from, stop - part.begin + part.from, signal)) {
        at += piece.bytes.length;
        yield piece;
      }
      if (at < stop) return; // the shard ends early
    }
  }

  /** @param {import('./source.js').Range[]} ranges */
  async expect(ranges) {
    for (const { source, begin, end, from } of this.#parts) {
      const own = ranges
        .filter((range) => range[0] < end && range[1] > begin)
        .map((range) => /** @type {import('./source.js').Range} */ ([Math.max(range[0], begin) - begin + from, Math.min(range[1], end) - begin + from]));
      await source.expect(own);
    }
  }

  async close() {
    await Promise.all(this.#parts.map(({ source }) => source.close()));
  }

  traffic() {
    const sum = { networkBytes: 0, storeBytes: 0, requests: 0, retries: 0, repairedChunks: 0 };
    for (const { source } of this.#parts) {
      const one = source.traffic();
      for (const key of /** @type {(keyof typeof sum)[]} */ (Object.keys(sum))) sum[key] += one[key];
    }
    return sum;
  }
}

const decoder = new TextDecoder();
