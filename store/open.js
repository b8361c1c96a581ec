/**
 * In the engine's worker: opens what a load names, and finds a bank beside it.
 *
 * @typedef {import('./parse.js').Place} Place
 * @typedef {import('./parse.js').Places} Places
 * @typedef {import('./source.js').Source} Source
 *
 * @typedef {object} Host  What Node and browsers have of their own.
 * @property {(path: string) => Promise<import('./source.js').PlainFile>} [openPath]
 * @property {(path: string) => Promise<boolean>} [isFile]
 * @property {(cache: {folder?: string}, use: 'look' | 'load') => Promise<{storage?: import('./store.js').Storage, why: string}>} storage
 *   look: to list and remove; load: to open files too. why: there is none
 * @property {() => import('./store.js').Hasher} sha256
 * @property {readonly PackedBank[]} banks that the package has
 *
 * @typedef {object} PackedBank
 * @property {string} model the `general.name` of its model
 * @property {string} family the fingerprint of that, 16 hex digits
 * @property {URL} url
 */
import { SkipstoneError } from '../wasm/errors.js';
import { readUrl } from '../wasm/platform.js';
import { chooseFiles, fileUrl, listRepository, permission } from './hub.js';
import { joinShards, shardNames } from './shards.js';
import { blobSource, plainSource, RemoteSource } from './source.js';
import { fileName, Store } from './store.js';

export class Opener {
  /** Why nothing is stored, or ''. */
  why = '';
  #host;
  #access;
  #signal;
  #onWait;
  /** @type {Promise<Store | undefined> | undefined} */ #store;
  /** @type {Map<string, ReturnType<typeof listRepository>>} */ #lists = new Map();

  /**
   * @param {Host} host
   * @param {import('./parse.js').Access} access
   * @param {AbortSignal} signal
   * @param {(name: string) => void} [onWait] another load is fetching that file: it is waited for
   */
  constructor(host, access, signal, onWait) {
    this.#host = host;
    this.#access = access;
    this.#signal = signal;
    this.#onWait = onWait;
  }

  #openStore() {
    this.#store ??= (async () => {
      const { cache } = this.#access;
      if (!cache) {
        this.why = 'cache is false';
        return undefined;
      }
      const { storage, why } = await this.#host.storage(cache, 'load');
      this.why = why;
      return storage && new Store(storage, { maxBytes: cache.maxBytes });
    })();
    return this.#store;
  }

  get #refresh() {
    const { cache } = this.#access;
    return cache !== false && cache.refresh;
  }

  /** A model, of all its shards. @param {Places} places @returns {Promise<Source>} */
  async model(places) {
    const sources = places.kind === 'shards' ? (await Promise.all(places.parts.map((part) => this.#open(part, true)))).flat() : await this.#open(places);
    if (sources.length === 1) return sources[0];
    try {
      return await joinShards(sources, this.#signal);
    } catch (error) {
      await Promise.all(sources.map((source) => source.close()));
      throw error;
    }
  }

  /** A bank. @param {Place | PackedBank} place @returns {Promise<Source>} */
  async file(place) {
    if (!('model' in place)) return (await this.#open(place))[0];
    // a part of the package, like its modules: the store would keep that of an older version
    const bytes = await readUrl(place.url).catch((error) => {
      throw new SkipstoneError('io', `cannot load ${place.url.href}: ${error.message}`, { cause: error });
    });
    return blobSource(new Blob([bytes]), fileName(place.url.href));
  }

  /** @param {Place} place @param {boolean} [alone] even if its name is that of a shard @returns {Promise<Source[]>} */
  async #open(place, alone = false) {
    if (place.kind === 'blob') return [blobSource(place.blob, place.name)];
    if (place.kind === 'path') return this.#paths(alone ? [place.path] : shardNames(place.path));
    if (place.kind === 'hub') return this.#hub(place, alone);
    const { token, timing } = this.#access;
    const urls = alone ? [place.url] : shardNames(place.url);
    return Promise.all(urls.map((url) => this.#remote({ url, token, timing })));
  }

  /** @param {string[]} paths */
  async #paths(paths) {
    const { openPath } = this.#host;
    if (!openPath) throw new SkipstoneError('internal', `${paths[0]}: there are no paths here`);
    return Promise.all(paths.map(async (name) => plainSource(await openPath(name))));
  }

  /** @param {import('./source.js').RemoteFile} file @returns {Promise<Source>} */
  async #remote(file) {
    const store = await this.#openStore();
    const source = new RemoteSource({ refresh: this.#refresh, ...file }, this.#host.sha256, store, () => this.#onWait?.(source.name));
    return source;
  }

  /** @param {import('./hub.js').HubModel} model */
  #list(model) {
    const key = `${model.repo}@${model.revision}`;
    const { endpoint, token, timing } = this.#access;
    const list = this.#lists.get(key) ?? listRepository(endpoint, model, { token, signal: this.#signal, timing });
    this.#lists.set(key, list);
    return list;
  }

  /**
   * What was chosen for this name before and is stored needs no question to the hub: so it loads offline.
   * @param {import('./hub.js').HubModel} model
   * @param {boolean} alone
   */
  async #hub(model, alone) {
    const { endpoint, token, timing } = this.#access;
    const source = `${endpoint}/${model.repo}@${model.revision}:${model.file ?? model.quant ?? ''}`;
    const advice = permission(endpoint, model.repo, token);
    const store = await this.#openStore();
    const stored = ((await store?.list()) ?? []).filter(({ sources }) => sources.includes(source));
    const names = !stored.length ? [] : alone ? [stored[0].name] : shardNames(stored[0].name);
    const known = names.length > 0 && names.every((name) => stored.some((entry) => entry.name === name));
    if (known && !this.#refresh) {
      const files = names.map((name) => stored.find((entry) => entry.name === name));
      return Promise.all(
        files.map(async (file) => {
          const meta = file && (await store?.meta(file.folder));
          if (!meta) throw new SkipstoneError('internal', `${source}: lost in the store`);
          const { url, size, sha256 } = meta;
          return this.#remote({ url, source, token, timing, size, sha256, advice });
        }),
      );
    }
    const { commit, files } = await this.#list(model);
    return Promise.all(
      chooseFiles(model, files, alone).map(async ({ name, size, sha256 }) => {
        // the same content under another commit is the same file
        const same = stored.find((entry) => sha256 && entry.sha256 === sha256);
        for (const entry of stored) if (entry !== same && entry.name === name.split('/').at(-1)) await store?.remove(entry.folder);
        const url = same?.url ?? fileUrl(endpoint, model.repo, commit, name);
        return this.#remote({ url, source, token, timing, size, sha256, advice, refresh: false }); // a commit does not change
      }),
    );
  }

  /**
   * Where a bank for the model may lie: beside it, under its name or its name without the quantisation.
   * @param {Places} places
   * @returns {Promise<Place[]>}
   */
  async banksBeside(places) {
    const place = places.kind === 'shards' ? places.parts[0] : places;
    if (place.kind === 'path') {
      const found = [];
      for (const path of bankNames(place.path)) if (await this.#host.isFile?.(path)) found.push({ ...place, path });
      return found;
    }
    if (place.kind === 'hub') {
      const { files } = await this.#list(place).catch((error) => {
        if (error instanceof SkipstoneError && error.code === 'network') return { files: [] }; // offline, the model is stored
        throw error;
      });
      const banks = files.filter(({ name }) => /\.bank\.gguf$/i.test(name));
      return banks.map(({ name }) => ({ kind: 'hub', repo: place.repo, revision: place.revision, file: name }));
    }
    if (place.kind === 'url') return bankNames(place.url).map((url) => ({ kind: 'url', url }));
    return [];
  }

  get banks() {
    return this.#host.banks;
  }
}

/** @param {string} model its path or URL */
function bankNames(model) {
  const stem = model.replace(/(-\d{5}-of-\d{5})?\.gguf$/i, '');
  const family = stem.replace(/[-.](I?Q\d\w*|B?F16|F32)$/i, '');
  return [...new Set([stem, family])].map((name) => `${name}.bank.gguf`);
}
