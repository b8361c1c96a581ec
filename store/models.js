/** What the store holds, for who wants to show or clear it. Needs no engine and no worker. */
import { SkipstoneError } from '../wasm/errors.js';
import { fileUrl, HUB } from './hub.js';
import { parseModel } from './parse.js';
import { Store } from './store.js';

/**
 * @typedef {import('./store.js').Stored} Stored
 * @typedef {{endpoint?: string, cache?: string | {folder?: string}}} StoreOptions
 *   cache: the folder, where it is not the usual one (Node)
 */

/**
 * @param {import('./open.js').Host} host
 * @param {(text: string) => import('./parse.js').Place} path
 */
export function modelsOf(host, path) {
  /** @param {StoreOptions} options @param {string} call */
  async function open({ cache, endpoint: _, ...unknown }, call) {
    for (const name in unknown) throw new SkipstoneError('argument', `models.${call}: unknown option '${name}'; there are endpoint, cache`);
    const { storage } = await host.storage(typeof cache === 'string' ? { folder: cache } : (cache ?? {}), 'look');
    return storage && new Store(storage);
  }

  /** The entries that a name stands for. @param {Store} store @param {import('./parse.js').ModelName} name @param {string} endpoint */
  async function find(store, name, endpoint) {
    const places = parseModel('source', name, path);
    const parts = places.kind === 'shards' ? places.parts : [places];
    const entries = await store.list();
    return entries.filter(({ url, sources }) =>
      parts.some((place) => {
        if (place.kind === 'url') return place.url === url;
        if (place.kind !== 'hub') return false;
        const { repo, revision, file, quant } = place;
        const source = `${endpoint}/${repo}@${revision}:${file ?? quant ?? ''}`;
        return sources.includes(source) || (file !== undefined && url === fileUrl(endpoint, repo, revision, file));
      }),
    );
  }

  return {
    /**
     * The stored files, the one used last first.
     * @param {StoreOptions} [options]
     * @returns {Promise<Stored[]>}
     */
    async list(options = {}) {
      const entries = (await (await open(options, 'list'))?.list()) ?? [];
      return entries.map(({ folder: _, ...stored }) => stored);
    },

    /**
     * Whether a model is stored: 'complete', 'partial' (what some masks need, or an unfinished download), or false.
     * @param {import('./parse.js').ModelName} name as load takes it
     * @param {StoreOptions} [options]
     * @returns {Promise<'complete' | 'partial' | false>}
     */
    async has(name, options = {}) {
      const store = await open(options, 'has');
      const entries = store ? await find(store, name, options.endpoint ?? HUB) : [];
      return entries.length > 0 && (entries.every(({ complete }) => complete) ? 'complete' : 'partial');
    },

    /**
     * Removes a stored model. One that is being loaded, here or in another tab or process, is an error of code 'state'.
     * @param {import('./parse.js').ModelName} name as load takes it
     * @param {StoreOptions} [options]
     * @returns {Promise<boolean>} whether there was anything
     */
    async delete(name, options = {}) {
      const store = await open(options, 'delete');
      const entries = store ? await find(store, name, options.endpoint ?? HUB) : [];
      for (const { folder, name: file } of entries) {
        if (!(await store?.remove(folder))) throw new SkipstoneError('state', `${file}: it is being loaded; free that model first`);
      }
      return entries.length > 0;
    },

    /**
     * Bytes that stored models take, and how many more there is room for.
     * @param {StoreOptions} [options]
     * @returns {Promise<{bytes: number, available: number, place: string}>} place: the folder, or words for it; '' without a store
     */
    async usage(options = {}) {
      const store = await open(options, 'usage');
      if (!store) return { bytes: 0, available: 0, place: '' };
      return { bytes: await store.usage(), available: await store.storage.available(), place: store.storage.place };
    },

    /**
     * Removes what was not used for longest until the rest takes at most maxBytes (default 0: all), but nothing in use.
     * @param {StoreOptions & {maxBytes?: number}} [options]
     * @returns {Promise<{removed: string[], bytes: number}>} names of the files that went, and the bytes that are left
     */
    async prune({ maxBytes = 0, ...options } = {}) {
      if (!(maxBytes >= 0)) throw new SkipstoneError('argument', `models.prune: maxBytes is ${maxBytes}, want a number from 0`);
      return (await (await open(options, 'prune'))?.prune(maxBytes)) ?? { removed: [], bytes: 0 };
    },
  };
}
