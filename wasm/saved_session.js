/**
 * A saved chat session as bytes:
 *
 *     'SKIPCHAT'   u32 version   u32 hash of the JSON   u32 its length   JSON, UTF-8   the KV cache (saved.c), to the end
 *
 * The KV cache has a hash of its own, and says which model and masks it belongs to.
 *
 * @typedef {object} SavedState
 * @property {import('./template.js').Message[]} messages
 * @property {string} text that the KV cache is of
 * @property {Record<string, any>} options of the session; seed as decimal digits
 */
import { SkipstoneError } from './errors.js';

const MAGIC = new TextEncoder().encode('SKIPCHAT');
const VERSION = 1;
const HEAD_BYTES = MAGIC.length + 12;

/** FNV-1a, 32 bits. @param {Uint8Array} bytes */
function hashOf(bytes) {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * @param {SavedState} state
 * @param {Uint8Array} kv
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function pack(state, kv) {
  const json = new TextEncoder().encode(JSON.stringify(state));
  const bytes = new Uint8Array(HEAD_BYTES + json.length + kv.length);
  const view = new DataView(bytes.buffer, MAGIC.length);
  bytes.set(MAGIC);
  [VERSION, hashOf(json), json.length].forEach((number, i) => view.setUint32(4 * i, number, true));
  bytes.set(json, HEAD_BYTES);
  bytes.set(kv, HEAD_BYTES + json.length);
  return bytes;
}

/**
 * @param {unknown} saved
 * @returns {{state: SavedState, kv: Uint8Array}}
 */
export function unpack(saved) {
  const bytes = saved instanceof Uint8Array ? saved : saved instanceof ArrayBuffer ? new Uint8Array(saved) : undefined;
  if (!bytes) throw new SkipstoneError('argument', 'restore: want the bytes that save gave, as Uint8Array, ArrayBuffer or Blob');
  if (bytes.length < HEAD_BYTES || !MAGIC.every((byte, i) => byte === bytes[i])) {
    throw new SkipstoneError('format', 'restore: this is not a saved session, or it is truncated');
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + MAGIC.length);
  const [version, hash, length] = [0, 4, 8].map((at) => view.getUint32(at, true));
  if (version !== VERSION) {
    throw new SkipstoneError('unsupported', `restore: the saved session has version ${version}, this is for ${VERSION}`);
  }
  const json = bytes.subarray(HEAD_BYTES, HEAD_BYTES + length);
  if (json.length < length || hashOf(json) !== hash) {
    throw new SkipstoneError('format', 'restore: the saved session is truncated or damaged');
  }
  return { state: parse(new TextDecoder().decode(json)), kv: bytes.subarray(HEAD_BYTES + length) };
}

/** @param {string} json @returns {SavedState} */
function parse(json) {
  try {
    const state = JSON.parse(json);
    const { messages, text, options } = state;
    if (Array.isArray(messages) && typeof text === 'string' && typeof options === 'object' && options !== null) return state;
  } catch {
    // said below
  }
  throw new SkipstoneError('format', 'restore: the saved session has no messages, text and options');
}
