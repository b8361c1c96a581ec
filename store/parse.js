/**
 * What a caller may name a file by, and what the engine's worker is told: plain data.
 *
 * @typedef {{repo: string, file: string, revision?: string}} HubName
 * @typedef {string | URL | Blob | HubName} FileName
 *   'hf:owner/repo:QUANT', the address of a file, a File or Blob, a file of a hub's repository; in Node also a path
 * @typedef {FileName | FileName[]} ModelName  An array: the shards of one model.
 *
 * @typedef {{kind: 'path', path: string} | {kind: 'url', url: string} | {kind: 'blob', blob: Blob, name: string}
 *   | ({kind: 'hub'} & import('./hub.js').HubModel)} Place
 * @typedef {Place | {kind: 'shards', parts: Place[]}} Places
 *
 * @typedef {false | {folder?: string, maxBytes?: number, refresh: boolean}} CacheOptions
 *
 * @typedef {object} Access  How files are fetched and kept, as the worker is told.
 * @property {string} endpoint of the hub, without a slash at its end
 * @property {string} [token]
 * @property {CacheOptions} cache
 * @property {Partial<import('./http.js').Timing>} [timing]
 *
 * @typedef {object} AccessOptions
 * @property {string} [endpoint] of the hub; default https://huggingface.co
 * @property {string | (() => string | Promise<string>)} [token] for gated and private files: goes to the hub, and to a URL
 *   that was given, but never where they redirect to
 * @property {boolean | string | {folder?: string, maxBytes?: number, refresh?: boolean, persist?: boolean}} [cache] false: nothing is
 *   stored; a path: the folder to store in (Node); refresh: ask whether the file has changed, which is otherwise done for files
 *   that are not complete; maxBytes: that all stored files may take together; persist: false: do not ask the browser to
 *   keep the store when room runs short, which in Firefox is a question to the user
 */
import { SkipstoneError } from '../wasm/errors.js';
import { HUB, parseHub } from './hub.js';

/**
 * @param {string} what of the load is named, for messages
 * @param {unknown} name
 * @param {(text: string) => Place | undefined} path what a string is that is no address
 * @returns {Places}
 */
export function parseModel(what, name, path) {
  if (!Array.isArray(name)) return parsePlace(what, name, path);
  if (!name.length) throw new SkipstoneError('argument', `load: the ${what} is an empty array, want the shards of a model`);
  return { kind: 'shards', parts: name.map((part) => parsePlace(`${what}'s part`, part, path)) };
}

/** @param {string} what @param {any} name @param {(text: string) => Place | undefined} path @returns {Place} */
export function parsePlace(what, name, path) {
  if (typeof Blob !== 'undefined' && name instanceof Blob) {
    return { kind: 'blob', blob: name, name: /** @type {File} */ (name).name ?? 'the Blob' };
  }
  if (name instanceof URL || (typeof name === 'string' && name)) {
    const text = String(name);
    if (text.startsWith('hf:')) return { kind: 'hub', ...parseHub(text) };
    if (/^https?:\/\//i.test(text)) return { kind: 'url', url: new URL(text).href };
    const found = path(text);
    if (found) return found;
  } else if (typeof name?.repo === 'string' && typeof name.file === 'string') {
    const { repo, file, revision = 'main', ...rest } = name;
    const [unknown] = Object.keys(rest);
    if (unknown) throw new SkipstoneError('argument', `load: the ${what} has an unknown '${unknown}'; there are repo, file, revision`);
    if (typeof revision !== 'string' || !/^[\w.-]+\/[\w.-]+$/.test(repo)) {
      throw new SkipstoneError('argument', `load: the ${what} is ${JSON.stringify(name)}, want {repo: 'owner/name', file, revision}`);
    }
    return { kind: 'hub', repo, file, revision };
  }
  const shown = typeof name === 'object' ? JSON.stringify(name) : String(name);
  throw new SkipstoneError('argument', `load: the ${what} is ${shown}, want 'hf:owner/repo:QUANT', {repo, file}, a URL, a Blob${path('x') ? ' or a path' : ''}`);
}

/**
 * @param {AccessOptions} options
 * @returns {Promise<Access>}
 */
export async function parseAccess({ endpoint = HUB, token, cache = true }) {
  const secret = typeof token === 'function' ? await token() : token;
  if (secret !== undefined && typeof secret !== 'string') {
    throw new SkipstoneError('argument', `load: the function token returned ${typeof secret}, want a string`);
  }
  const { persist: _, ...kept } = cache === true || cache === false ? {} : typeof cache === 'string' ? { folder: cache } : cache;
  return {
    endpoint: endpoint.replace(/\/+$/, ''),
    token: secret || undefined,
    cache: cache !== false && { refresh: false, ...kept },
  };
}
