/* The weight store: what it keeps, finds damaged, gives up to others, and never keeps half. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { canRun, load, models } from '../../node/index.js';
import { cacheFolder, folderStorage, sha256 } from '../../node/storage.js';
import { Sha256, xxh32 } from '../../store/hash.js';
import { RemoteSource } from '../../store/source.js';
import { CHUNK_BYTES, folderOf, Store } from '../../store/store.js';
import { faultServer } from '../server.js';
import { tinyModel } from './gguf.js';
import { folder, noModules, sleep } from './helpers.js';

const BYTES = new Uint8Array(10 * CHUNK_BYTES + 1234).map((_, i) => (i * 31) ^ (i >> 8));
const timing = { stall: 500, backoff: 5, tries: 3 };
const forever = new AbortController().signal;

/**
 * A store with a server: `read` is a load of the file, or of a part.
 * @param {import('node:test').TestContext} t
 * @param {{storage?: import('../../store/store.js').Storage, maxBytes?: number, bytes?: Uint8Array}} [options]
 */
async function setUp(t, { storage, maxBytes, bytes = BYTES } = {}) {
  const root = folder(t);
  const server = await faultServer(t, { '/file': bytes });
  const store = new Store(storage ?? folderStorage(root), { maxBytes });
  const url = `${server.url}/file`;
  /** @param {{begin?: number, end?: number, signal?: AbortSignal, file?: object, at?: string}} [options] */
  const read = async ({ begin = 0, end = Infinity, signal = forever, file = {}, at = url } = {}) => {
    const source = new RemoteSource({ url: at, timing, ...file }, sha256, store);
    const pieces = [];
    try {
      for await (const piece of source.stream(begin, end, signal)) {
        if (!pieces.length) await source.expect([[begin, end]]);
        pieces.push(piece.bytes.slice());
      }
    } finally {
      await source.close();
    }
    return { bytes: Buffer.concat(pieces), ...source.traffic() };
  };
  const path = (/** @type {string} */ name) => join(root, folderOf(url), name);
  return { root, server, store, url, read, path };
}

/** Changes a byte of a file. @param {string} path @param {number} at */
function spoil(path, at) {
  const byte = readFileSync(path)[at] ^ 1;
  const file = openSync(path, 'r+');
  writeSync(file, Uint8Array.of(byte), 0, 1, at);
  closeSync(file);
}

describe('checksums', () => {
  test('XXH32 is that of the reference', () => {
    const of = (/** @type {string} */ text) => xxh32(new TextEncoder().encode(text)).toString(16);
    assert.equal(of(''), '2cc5d05');
    assert.equal(of('a'), '550d7456');
    assert.equal(of('Nobody inspects the spammish repetition'), 'e2293b2f');
  });

  test('SHA-256 in pieces is that of Node', () => {
    for (const n of [0, 1, 55, 56, 63, 64, 65, 119, 128, 100_003]) {
      const bytes = BYTES.subarray(0, n);
      const own = new Sha256();
      for (let at = 0; at < n; at += 37) own.update(bytes.subarray(at, at + 37));
      const node = sha256();
      node.update(bytes);
      assert.equal(own.digest(), node.digest(), String(n));
    }
  });
});

describe('a stored file', () => {
  test('is fetched once, and then comes from the store, offline too', async (t) => {
    const { server, read, store, path } = await setUp(t);
    assert.deepEqual((await read()).bytes, Buffer.from(BYTES));
    assert.deepEqual(readFileSync(path('data')), Buffer.from(BYTES), 'in order: it is the file itself');
    await server.close();
    const { bytes, networkBytes, storeBytes, requests } = await read();
    assert.deepEqual(bytes, Buffer.from(BYTES));
    assert.deepEqual({ networkBytes, storeBytes, requests }, { networkBytes: 0, storeBytes: BYTES.length, requests: 0 });
    const [entry] = await store.list();
    assert.equal(entry.complete, true);
    assert.equal(entry.storedBytes, BYTES.length);
  });

  test('may be fetched in parts, in any order, and none of them twice', async (t) => {
    const { server, read, path } = await setUp(t);
    const part = async (/** @type {number} */ begin, /** @type {number} */ end) =>
      assert.deepEqual((await read({ begin, end })).bytes, Buffer.from(BYTES.subarray(begin, end)), `${begin} to ${end}`);
    await part(9 * CHUNK_BYTES, BYTES.length);
    await part(3 * CHUNK_BYTES, 5 * CHUNK_BYTES);
    assert.equal(statSync(path('data')).size, 4 * CHUNK_BYTES, 'no room for what is not there');
    await part(2 * CHUNK_BYTES + 5, 6 * CHUNK_BYTES - 5);
    assert.deepEqual((await read()).bytes, Buffer.from(BYTES));
    assert.deepEqual((await read()).bytes, Buffer.from(BYTES));
    assert.equal(server.sent, BYTES.length);
    assert.deepEqual(server.requests.map(({ range }) => range), [
      `bytes=${9 * CHUNK_BYTES}-${BYTES.length - 1}`,
      `bytes=${3 * CHUNK_BYTES}-${5 * CHUNK_BYTES - 1}`,
      `bytes=${2 * CHUNK_BYTES}-${3 * CHUNK_BYTES - 1}`,
      `bytes=${5 * CHUNK_BYTES}-${6 * CHUNK_BYTES - 1}`,
      `bytes=0-${2 * CHUNK_BYTES - 1}`,
      `bytes=${6 * CHUNK_BYTES}-${9 * CHUNK_BYTES - 1}`,
    ]);
  });

  test('whose fetching broke off goes on where it was', async (t) => {
    const { server, read } = await setUp(t);
    const patience = { timing: { ...timing, tries: 2 } };
    server.fault('/file', { times: 1, cutAfter: 5 * CHUNK_BYTES + 100 }, { times: 1, status: 503 });
    await assert.rejects(read({ file: patience }), { code: 'network' });
    const { bytes, networkBytes } = await read({ file: patience });
    assert.deepEqual(bytes, Buffer.from(BYTES));
    assert.equal(networkBytes, BYTES.length - 5 * CHUNK_BYTES);
  });

  test('that was damaged is repaired by the chunk', async (t) => {
    const { read, path } = await setUp(t);
    await read();
    spoil(path('data'), 3 * CHUNK_BYTES + 7);
    spoil(path('data'), 7 * CHUNK_BYTES);
    for (const [what, n] of /** @type {const} */ ([['damaged', 2], ['repaired', 0]])) {
      const { bytes, networkBytes, repairedChunks } = await read();
      assert.deepEqual(bytes, Buffer.from(BYTES), what);
      assert.deepEqual({ networkBytes, repairedChunks }, { networkBytes: n * CHUNK_BYTES, repairedChunks: n }, what);
    }
    assert.equal(statSync(path('data')).size, BYTES.length, 'in the place of the damaged ones');
  });

  test('of which a part or the whole of a file is gone is fetched again as far as need be', async (t) => {
    const { read, path } = await setUp(t);
    await read();
    truncateSync(path('data'), 8 * CHUNK_BYTES + 5);
    assert.equal((await read()).networkBytes, BYTES.length - 8 * CHUNK_BYTES);
    spoil(path('chunks'), 12 * 4);
    assert.equal((await read()).networkBytes, CHUNK_BYTES, 'a slot of the table that is not what its check says');
    truncateSync(path('chunks'), 12 * 6 + 3);
    assert.equal((await read()).networkBytes, BYTES.length - 6 * CHUNK_BYTES);
    for (const name of ['meta.json', 'chunks', 'data']) {
      rmSync(path(name));
      assert.deepEqual((await read()).bytes, Buffer.from(BYTES), name);
    }
    writeFileSync(path('meta.json'), '{"url": "');
    assert.deepEqual((await read()).bytes, Buffer.from(BYTES), 'a description that was cut off');
  });

  test('that is another one on the server is not mixed with it', async (t) => {
    const { server, read, store } = await setUp(t);
    await read({ end: 3 * CHUNK_BYTES });
    const other = BYTES.map((byte) => byte ^ 255);
    server.put('/file', other);
    await assert.rejects(read(), { name: 'Error', message: /its ETag was/ });
    assert.deepEqual(await store.list(), [], 'nothing of the old one is left');
    assert.deepEqual((await read()).bytes, Buffer.from(other));
  });

  test('is asked after when that is wanted, and when it is not complete', async (t) => {
    const { server, read } = await setUp(t);
    await read();
    assert.equal((await read({ file: { refresh: true } })).bytes.length, BYTES.length);
    server.put('/file', BYTES.slice(0, 100));
    assert.equal((await read()).bytes.length, BYTES.length);
    await assert.rejects(read({ file: { refresh: true } }), { message: /its ETag was|it had .* bytes/ });
    assert.equal((await read()).bytes.length, 100);
  });

  test('is checked by its SHA-256 once, where that is known', async (t) => {
    const { server, read, store } = await setUp(t);
    const hash = sha256();
    hash.update(BYTES);
    const file = { sha256: hash.digest() };
    await read({ file, end: 5 * CHUNK_BYTES });
    assert.equal((await store.list())[0].verified, false, 'not while a part is missing');
    await read({ file });
    assert.equal((await store.list())[0].verified, true);
    const bad = BYTES.slice();
    bad[70_000] ^= 1;
    server.put('/bad', bad);
    await assert.rejects(read({ file, at: `${server.url}/bad` }), { code: 'damaged', message: /\/bad: its SHA-256 is .*, want / });
    assert.equal((await store.list()).length, 1, 'nothing of it is kept');
  });

  test('is waited for by another load of it, which then fetches nothing', async (t) => {
    const { server, read } = await setUp(t);
    server.fault('/file', { bytesPerSecond: 2_000_000 });
    const both = await Promise.all([read(), read()]);
    both.forEach(({ bytes }) => assert.deepEqual(bytes, Buffer.from(BYTES)));
    assert.equal(server.requests.length, 1);
    assert.deepEqual(both.map(({ networkBytes }) => networkBytes).sort((a, b) => a - b), [0, BYTES.length]);
  });

  test('that another load fetches need not be waited for: abort', async (t) => {
    const { server, read } = await setUp(t);
    server.fault('/file', { stallAfter: 1000 });
    const stop = new AbortController();
    const first = read({ signal: stop.signal, file: { timing: { ...timing, stall: 60_000 } } });
    await sleep(50);
    const other = new AbortController();
    const second = read({ signal: other.signal });
    await sleep(50);
    other.abort();
    await assert.rejects(second, { name: 'AbortError' });
    stop.abort();
    await assert.rejects(first, { name: 'AbortError' });
  });
});

describe('a lock', () => {
  /** @param {string} root @param {string} text @param {number} [age] seconds */
  async function leave(root, text, age = 0) {
    await mkdir(join(root, '.locks'), { recursive: true });
    const path = join(root, '.locks', 'x.lock');
    writeFileSync(path, text);
    const then = Date.now() / 1000 - age;
    utimesSync(path, then, then);
  }

  test('has one holder', async (t) => {
    const storage = folderStorage(folder(t));
    const unlock = await storage.lock('x', { wait: false });
    assert.ok(unlock);
    assert.equal(await storage.lock('x', { wait: false }), undefined);
    const waiting = storage.lock('x', { wait: true });
    await unlock();
    const again = await waiting;
    assert.ok(again);
    await again();
  });

  test('of a process that is gone, or that gave no sign of life, is nobody\'s', async (t) => {
    const root = folder(t);
    const storage = folderStorage(root);
    const { hostname } = await import('node:os');
    await leave(root, JSON.stringify({ id: 'a', pid: 2 ** 22 + 1, host: hostname() }));
    await (await storage.lock('x', { wait: false }))?.();
    await leave(root, JSON.stringify({ id: 'a', pid: 1, host: 'elsewhere' }), 60);
    await (await storage.lock('x', { wait: false }))?.();
    await leave(root, 'nonsense');
    await (await storage.lock('x', { wait: false }))?.();
    await leave(root, JSON.stringify({ id: 'a', pid: process.pid, host: hostname() }));
    assert.equal(await storage.lock('x', { wait: false }), undefined, 'a living one stays');
    assert.deepEqual(readdirSync(join(root, '.locks')), ['x.lock'], 'nothing else lies about');
  });

  test('is had by one alone of many that ask at once', async (t) => {
    const root = folder(t);
    await leave(root, 'nonsense');
    const storages = Array.from({ length: 8 }, () => folderStorage(root));
    const unlocks = await Promise.all(storages.map((storage) => storage.lock('x', { wait: false })));
    assert.ok(unlocks.filter(Boolean).length <= 1);
    await Promise.all(unlocks.map((unlock) => unlock?.()));
    assert.ok(await storages[0].lock('x', { wait: false }));
  });
});

describe('a full store', () => {
  test('gives up what was not used for longest', async (t) => {
    const { server, read, store } = await setUp(t, { maxBytes: 2.5 * BYTES.length });
    for (const name of ['/a', '/b', '/c']) {
      server.put(name, BYTES);
      await read({ at: server.url + name });
      if (name === '/b') await read({ at: `${server.url}/a` });
      await sleep(5);
    }
    assert.deepEqual((await store.list()).map(({ name }) => name), ['c', 'a']);
  });

  test('refuses what does not fit with the bytes that it needs and has, and keeps what there is', async (t) => {
    const { server, read, store } = await setUp(t, { maxBytes: 1.5 * BYTES.length });
    await read();
    server.put('/large', new Uint8Array(2 * BYTES.length));
    await assert.rejects(read({ at: `${server.url}/large` }), (/** @type {any} */ error) => {
      assert.equal(error.code, 'quota');
      assert.match(error.message, /large: storing it takes \d+ more bytes, .* has room for \d+ .*models\.delete\(\)/);
      const [needs, has] = [...error.message.matchAll(/takes (\d+)|room for (\d+)/g)].map(([, a, b]) => Number(a ?? b));
      assert.ok(needs > has, `${needs} > ${has}`);
      return true;
    });
    assert.ok((await store.list()).some(({ name }) => name === 'large' || name === 'file'));
  });

  test('that fills while it is written to is an error too, and what was written is whole', async (t) => {
    const root = folder(t);
    const plain = folderStorage(root);
    let left = 5;
    /** @type {import('../../store/store.js').Storage} */
    const storage = {
      ...plain,
      available: async () => (left > 100 ? Infinity : 1e9),
      async open(where, name) {
        const file = await plain.open(where, name);
        if (name !== 'data') return file;
        return {
          ...file,
          write(at, bytes) {
            if (left-- <= 0) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
            file.write(at, bytes);
          },
        };
      },
    };
    const { read, store } = await setUp(t, { storage });
    await assert.rejects(read(), { code: 'quota', message: /file: storing it takes \d+ more bytes/ });
    assert.equal((await store.list())[0].storedBytes, 5 * CHUNK_BYTES);
    left = Infinity;
    const { bytes, networkBytes } = await read();
    assert.deepEqual(bytes, Buffer.from(BYTES));
    assert.equal(networkBytes, BYTES.length - 5 * CHUNK_BYTES);
  });

  test('that cannot be written to says where', async (t) => {
    const root = folder(t);
    const file = join(root, 'a file');
    writeFileSync(file, '');
    const { read } = await setUp(t, { storage: folderStorage(file) });
    await assert.rejects(read(), { code: 'io', message: /a file/ });
  });
});

test('the cache folder follows the system', () => {
  const { XDG_CACHE_HOME } = process.env;
  process.env.XDG_CACHE_HOME = '/somewhere';
  assert.equal(cacheFolder(), join('/somewhere', 'skipstone'));
  if (XDG_CACHE_HOME === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = XDG_CACHE_HOME;
  assert.match(cacheFolder(), /skipstone/);
});

describe('models', { skip: noModules }, () => {
  const model = tinyModel();

  test('are listed, found, counted, removed and pruned', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t, { '/m.gguf': model });
    server.hub('owner/name', { files: { 'n.Q4_1.gguf': model } });
    const options = { cache, endpoint: server.url, threads: 1 };
    const url = `${server.url}/m.gguf`;
    const hub = 'hf:owner/name:Q4_1';
    const look = { cache, endpoint: server.url };
    assert.deepEqual(await models.list({ cache }), []);
    assert.equal(await models.has(url, look), false);
    assert.deepEqual(await models.usage({ cache }).then(({ bytes, place }) => ({ bytes, place })), { bytes: 0, place: cache });
    for (const source of [url, hub]) await (await load(source, options)).free();
    assert.deepEqual((await models.list(look)).map(({ name, bytes, complete, verified }) => ({ name, bytes, complete, verified })), [
      { name: 'n.Q4_1.gguf', bytes: model.length, complete: true, verified: true },
      { name: 'm.gguf', bytes: model.length, complete: true, verified: false },
    ]);
    assert.equal(await models.has(url, look), 'complete');
    assert.equal(await models.has(hub, look), 'complete');
    assert.equal(await models.has('hf:owner/name:Q8_0', look), false);
    assert.ok((await models.usage(look)).bytes > 2 * model.length);
    const asked = server.requests.length;
    await (await load(hub, options)).free();
    assert.equal(server.requests.length, asked, 'what is stored is not asked after');
    assert.equal(await models.delete(hub, look), true);
    assert.equal(await models.delete(hub, look), false);
    const { removed, bytes } = await models.prune(look);
    assert.deepEqual({ removed, bytes }, { removed: ['m.gguf'], bytes: 0 });
    await assert.rejects(models.list(/** @type {any} */ ({ folder: cache })), { code: 'argument', message: /unknown option 'folder'/ });
  });

  test('that are being loaded are not removed', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t, { '/m.gguf': model });
    server.fault('/m.gguf', { stallAfter: 4_000_000 });
    const stop = new AbortController();
    const url = `${server.url}/m.gguf`;
    const loading = load(url, { cache, threads: 1, signal: stop.signal });
    while (!(await models.has(url, { cache }))) await sleep(20);
    await assert.rejects(models.delete(url, { cache }), { code: 'state', message: /m\.gguf: it is being loaded/ });
    assert.deepEqual((await models.prune({ cache })).removed, []);
    stop.abort();
    await assert.rejects(loading, { name: 'AbortError' });
    assert.equal(await models.delete(url, { cache }), true, 'free again as soon as the load has rejected');
    assert.ok(!existsSync(join(cache, folderOf(url))));
  });

  test('in shards, of a hub, under a new commit: only what changed is fetched', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t);
    server.hub('owner/name', { files: { 'm.gguf': model }, commit: 'one' });
    const options = { endpoint: server.url, threads: 1 };
    await (await load('hf:owner/name', { ...options, cache })).free();
    server.hub('owner/name', { files: { 'm.gguf': model, 'README.md': new Uint8Array(5) }, commit: 'two' });
    const refresh = { folder: cache, refresh: true };
    let llm = await load('hf:owner/name', { ...options, cache: refresh });
    assert.equal(llm.info.download.networkBytes, 0, 'the same content');
    await llm.free();
    server.hub('owner/name', { files: { 'm.gguf': tinyModel(9) }, commit: 'three' });
    llm = await load('hf:owner/name', { ...options, cache: refresh });
    assert.equal(llm.info.download.networkBytes, model.length);
    await llm.free();
    assert.equal((await models.list({ cache })).length, 1, 'the old one is gone');
  });

  test('are not stored by canRun', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t, { '/m.gguf': model });
    await canRun(`${server.url}/m.gguf`, { cache, threads: 1 });
    assert.deepEqual(await models.list({ cache }), []);
  });

  test('may be aborted at any point of a load, and leave nothing locked', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t, { '/m.gguf': model });
    server.hub('owner/name', { files: { 'm.gguf': model } });
    server.fault('/api/models/owner/name/revision/main', { bytesPerSecond: 5000 });
    const options = { cache, threads: 1, endpoint: server.url, skip: 'ffn:1' };
    let aborted = 0;
    for (const after of [0, 10, 30, 60, 100, 200, 400]) {
      const loading = load('hf:owner/name', { ...options, signal: AbortSignal.timeout(after) });
      await loading.then(
        (llm) => llm.free(),
        (error) => {
          assert.equal(error.name, 'AbortError');
          aborted++;
        },
      );
      assert.deepEqual(existsSync(join(cache, '.locks')) ? readdirSync(join(cache, '.locks')) : [], [], `after ${after} ms`);
    }
    assert.ok(aborted > 0);
    const llm = await load('hf:owner/name', options);
    await llm.complete;
    await llm.free();
  });

  test('are free for another load after free, and free may be called twice', async (t) => {
    const cache = folder(t);
    const server = await faultServer(t, { '/m.gguf': model });
    for (let n = 0; n < 2; n++) {
      const llm = await load(`${server.url}/m.gguf`, { cache, threads: 1, skip: 'ffn:1' });
      await llm.free();
      await llm.free();
      assert.deepEqual(readdirSync(join(cache, '.locks')), []);
    }
  });
});
