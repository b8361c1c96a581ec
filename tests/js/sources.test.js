/* What load takes: addresses, files of a hub, Blobs, shards; and how a server's faults are met. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { load } from '../../node/index.js';
import { Changed, Remote } from '../../store/http.js';
import { chooseFiles, parseHub } from '../../store/hub.js';
import { parsePlace } from '../../store/parse.js';
import { parseHeader, shardNames } from '../../store/shards.js';
import { faultServer } from '../server.js';
import { shards, tinyModel, tinyParts } from './gguf.js';
import { folder, noModules } from './helpers.js';

const BYTES = new Uint8Array(1_000_000).map((_, i) => (i * 31) ^ (i >> 8));
const soon = { stall: 300, backoff: 5, tries: 3 };
const forever = new AbortController().signal;

/** What a stream gives, as one. @param {AsyncIterable<Uint8Array>} stream */
async function collect(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece.slice());
  return Buffer.concat(pieces);
}

/** @param {import('node:test').TestContext} t @param {import('../server.js').Fault[]} faults */
async function remote(t, ...faults) {
  const server = await faultServer(t, { '/file': BYTES });
  server.fault('/file', ...faults);
  return { server, remote: new Remote(`${server.url}/file`, { timing: soon }) };
}

describe('a file by HTTP', () => {
  test('is read whole and in ranges', async (t) => {
    const { server, remote: file } = await remote(t);
    assert.deepEqual(await collect(file.stream(0, Infinity, forever)), Buffer.from(BYTES));
    assert.deepEqual(await collect(file.stream(1000, 70_000, forever)), Buffer.from(BYTES.subarray(1000, 70_000)));
    assert.deepEqual(server.requests.map(({ range }) => range), ['bytes=0-', 'bytes=1000-69999']);
    assert.equal(file.size, BYTES.length);
    assert.equal(file.ranges, true);
  });

  for (const [what, fault] of /** @type {[string, import('../server.js').Fault][]} */ ([
    ['is cut', { cutAfter: 300_000 }],
    ['stalls', { stallAfter: 300_000 }],
  ])) {
    test(`goes on where it was when the connection ${what}`, async (t) => {
      const { server, remote: file } = await remote(t, { ...fault, times: 2 });
      assert.deepEqual(await collect(file.stream(0, Infinity, forever)), Buffer.from(BYTES));
      assert.deepEqual(server.requests.map(({ range }) => range), ['bytes=0-', 'bytes=300000-', 'bytes=600000-']);
      assert.equal(file.retries, 2);
    });
  }

  test('is read through by a server without ranges, and skipped through after a cut', async (t) => {
    const { server, remote: file } = await remote(t, { noRange: true, cutAfter: 300_000, times: 1 }, { noRange: true });
    assert.deepEqual(await collect(file.stream(0, 100_000, forever)), Buffer.from(BYTES.subarray(0, 100_000)));
    assert.equal(file.ranges, false);
    assert.deepEqual(await collect(file.stream(100_000, 900_000, forever)), Buffer.from(BYTES.subarray(100_000, 900_000)));
    assert.equal(server.requests.length, 2, 'one request goes on from piece to piece; the cut one is made again');
    assert.deepEqual(await collect(file.stream(5, 10, forever)), Buffer.from(BYTES.subarray(5, 10)));
  });

  test('gives up on a server that gives nothing, and says how often it tried', async (t) => {
    const { server, remote: file } = await remote(t, { times: 1, cutAfter: 300_000 }, { status: 503 });
    await assert.rejects(collect(file.stream(0, Infinity, forever)), { code: 'network', message: /answers 503 .*at byte 300000; tried 3 times/ });
    assert.equal(server.requests.length, 3);
  });

  test('waits for a server that has too much to do', async (t) => {
    const { remote: file } = await remote(t, { times: 1, status: 500 }, { times: 1, status: 429, headers: { 'Retry-After': '0' } });
    const patient = new Remote(file.url, { timing: { ...soon, tries: 6 } });
    assert.equal((await collect(patient.stream(0, 10, forever))).length, 10);
  });

  test('that is another one meanwhile is noticed: by its ETag, its size, and before a byte is taken', async (t) => {
    const other = BYTES.slice(0, 900_000);
    for (const fault of [{ etag: '"other"' }, { bytes: other }, { moreTotal: 1 }, { bytes: other.slice(0, 200_000), noRange: true }]) {
      const { remote: file } = await remote(t, { times: 1, cutAfter: 300_000 }, fault);
      const got = /** @type {number[]} */ ([]);
      await assert.rejects(async () => {
        for await (const piece of file.stream(0, Infinity, forever)) got.push(piece.length);
      }, Changed);
      assert.equal(got.reduce((a, b) => a + b), 300_000);
    }
  });

  test('of a wrong length is not taken for whole', async (t) => {
    const { remote: file } = await remote(t, { lessLength: 1000, times: 1 });
    assert.deepEqual(await collect(file.stream(0, Infinity, forever)), Buffer.from(BYTES), 'Content-Range says how long it is');
  });

  test('is found behind a redirect, which is asked for once and again when it has run out; a token stays at home', async (t) => {
    const other = await faultServer(t, { '/real': BYTES });
    other.fault('/real', { skip: 1, times: 1, status: 403 });
    const { server, remote: file } = await remote(t, { redirect: `${other.url}/real` });
    const known = new Remote(file.url, { token: 'secret', timing: soon });
    for (const at of [0, 10, 20]) assert.deepEqual(await collect(known.stream(at, at + 5, forever)), Buffer.from(BYTES.subarray(at, at + 5)));
    assert.equal(server.requests.length, 2);
    assert.ok(server.requests.every(({ headers }) => headers.authorization === 'Bearer secret'));
    assert.ok(other.requests.every(({ headers }) => headers.authorization === undefined));
  });

  test('that is missing or forbidden is an error at once', async (t) => {
    for (const [status, code, message] of /** @type {const} */ ([
      [404, 'not_found', /answers 404/],
      [401, 'auth', /401.*option 'token'/],
      [403, 'auth', /403/],
      [400, 'network', /400/],
    ])) {
      const { server, remote: file } = await remote(t, { status });
      await assert.rejects(collect(file.stream(0, 10, forever)), { code, message });
      assert.equal(server.requests.length, 1, String(status));
    }
  });

  test('can be aborted while it is connected, read or waited for', async (t) => {
    for (const fault of [{ stallAfter: 0 }, { stallAfter: 300_000 }, { status: 503 }]) {
      const { remote: file } = await remote(t, fault);
      const patient = new Remote(file.url, { timing: { stall: 60_000, backoff: 60_000, tries: 5 } });
      const stop = new AbortController();
      const reading = collect(patient.stream(0, Infinity, stop.signal));
      setTimeout(() => stop.abort(), 100);
      await assert.rejects(reading, { name: 'AbortError' });
    }
  });
});

describe('a name', () => {
  const path = (/** @type {string} */ text) => /** @type {const} */ ({ kind: 'path', path: text });

  test('is a path, an address, a file of the hub, or refused', () => {
    assert.deepEqual(parsePlace('source', 'a/b.gguf', path), { kind: 'path', path: 'a/b.gguf' });
    assert.deepEqual(parsePlace('source', 'https://example.org/b c.gguf', path), { kind: 'url', url: 'https://example.org/b%20c.gguf' });
    assert.deepEqual(parsePlace('source', 'hf:owner/some.repo:Q4_K_M', path), { kind: 'hub', repo: 'owner/some.repo', quant: 'Q4_K_M', revision: 'main' });
    assert.deepEqual(parseHub('hf:a/b@v1.0'), { repo: 'a/b', quant: undefined, revision: 'v1.0' });
    assert.deepEqual(parsePlace('source', { repo: 'a/b', file: 'x.gguf', revision: 'v2' }, path), { kind: 'hub', repo: 'a/b', file: 'x.gguf', revision: 'v2' });
    assert.equal(parsePlace('source', new Blob(['x']), path).kind, 'blob');
    assert.throws(() => parsePlace('source', 'hf:just-a-name', path), { code: 'argument', message: /'hf:owner\/repo:QUANT'/ });
    assert.throws(() => parsePlace('source', { repo: 'a/b', file: 'x', branch: 'y' }, path), { code: 'argument', message: /unknown 'branch'/ });
    assert.throws(() => parsePlace('source', { repo: 'ab', file: 'x' }, path), { code: 'argument', message: /owner\/name/ });
  });

  test('of a quantisation is one file, or all its shards, or an error that lists what there is', () => {
    const files = ['m.Q4_0.gguf', 'm.Q4_1.gguf', 'm-Q8_0-00001-of-00002.gguf', 'm-Q8_0-00002-of-00002.gguf', 'mmproj-Q4_1.gguf', 'm.bank.gguf', 'README.md'];
    const list = files.map((name) => ({ name }));
    const choose = (/** @type {string | undefined} */ quant) => chooseFiles({ repo: 'a/b', revision: 'main', quant }, list).map(({ name }) => name);
    assert.deepEqual(choose('Q4_1'), ['m.Q4_1.gguf']);
    assert.deepEqual(choose('q8_0'), ['m-Q8_0-00001-of-00002.gguf', 'm-Q8_0-00002-of-00002.gguf']);
    assert.deepEqual(choose(undefined), ['m.Q4_0.gguf']);
    assert.throws(() => choose('Q4'), { code: 'argument', message: /for Q4: m.Q4_0.gguf, m.Q4_1.gguf/ });
    assert.throws(() => choose('Q2_K'), { code: 'not_found', message: /quantisation Q2_K; there are m.Q4_0.gguf, m.Q4_1.gguf/ });
    const twice = [...list, { name: 'n.Q4_1.gguf' }];
    assert.throws(() => chooseFiles({ repo: 'a/b', revision: 'main', quant: 'Q4_1' }, twice), { code: 'argument', message: /m.Q4_1.gguf, n.Q4_1.gguf/ });
    assert.throws(() => chooseFiles({ repo: 'a/b', revision: 'main', file: 'x-00001-of-00002.gguf' }, list), { code: 'not_found' });
    assert.throws(() => chooseFiles({ repo: 'a/b', revision: 'main' }, [{ name: 'x.bin' }]), { code: 'not_found', message: /no GGUF file at all/ });
  });
});

describe('a model', { skip: noModules }, () => {
  const model = tinyModel();
  const options = { threads: 1, cache: false };
  let hash = '';
  /** The hash of its logits. @param {any} source @param {import('../../node/index.js').LoadOptions} [more] */
  const run = async (source, more) => {
    const llm = await load(source, { ...options, ...more });
    try {
      return (await llm.generate('Hello', { temperature: 0, maxTokens: 3 }).result).logitsHash;
    } finally {
      await llm.free();
    }
  };
  before(async () => {
    hash = await run(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (model)]));
  });

  test('loads from a path, an address and a hub alike', async (t) => {
    const server = await faultServer(t, { '/m.gguf': model });
    server.hub('owner/name', { files: { 'm.Q4_1.gguf': model }, token: 'secret' });
    const path = join(folder(t), 'm.gguf');
    writeFileSync(path, model);
    assert.equal(await run(path), hash);
    assert.equal(await run(`${server.url}/m.gguf`), hash);
    const hub = { endpoint: server.url, token: async () => 'secret' };
    assert.equal(await run('hf:owner/name:Q4_1', hub), hash);
    assert.equal(await run({ repo: 'owner/name', file: 'm.Q4_1.gguf' }, hub), hash);
  });

  test('of a gated or misspelt repository is an error that says what to do', async (t) => {
    const server = await faultServer(t);
    server.hub('owner/name', { files: { 'm.Q4_1.gguf': model }, token: 'secret' });
    const endpoint = server.url;
    await assert.rejects(run('hf:owner/name:Q4_1', { endpoint }), { code: 'auth', message: /401.*gated, private or misspelt: accept its terms at .*\/owner\/name.*option token/ });
    await assert.rejects(run('hf:owner/name:Q4_1', { endpoint, token: 'wrong' }), { code: 'auth', message: /403.*the token has no access/ });
    await assert.rejects(run('hf:owner/other', { endpoint }), { code: 'auth', message: /misspelt/ });
    await assert.rejects(run('hf:owner/name:Q8_0', { endpoint, token: 'secret' }), { code: 'not_found', message: /Q8_0; there are m.Q4_1.gguf/ });
  });

  test('whose content is not what the hub says is refused', async (t) => {
    const server = await faultServer(t);
    server.hub('owner/name', { files: { 'm.Q4_1.gguf': model }, commit: 'c0ffee' });
    const bad = model.slice();
    bad[bad.length - 100] ^= 1;
    server.fault('/owner/name/resolve/c0ffee/m.Q4_1.gguf', { bytes: bad });
    await assert.rejects(run('hf:owner/name:Q4_1', { endpoint: server.url }), { code: 'damaged', message: /its SHA-256 is [0-9a-f]{64}, want/ });
  });

  test('that changes on the server in the middle is read anew', async (t) => {
    const old = tinyModel(7);
    const server = await faultServer(t, { '/m.gguf': model });
    server.fault('/m.gguf', { times: 1, bytes: old, cutAfter: 3_000_000 });
    assert.equal(await run(`${server.url}/m.gguf`), hash);
    assert.deepEqual(server.requests.map(({ range }) => range), ['bytes=0-', 'bytes=3000000-', 'bytes=0-']);
  });

  test('of which the server does not say the length is read all the same', async (t) => {
    const server = await faultServer(t, { '/m.gguf': model });
    server.fault('/m.gguf', { noLength: true, noRange: true });
    assert.equal(await run(`${server.url}/m.gguf`), hash);
    assert.equal(await run(`${server.url}/m.gguf`, { cache: folder(t) }), hash);
  });

  test('that ends early on the server is a format error', async (t) => {
    const server = await faultServer(t, { '/m.gguf': model.subarray(0, 5_000_000) });
    server.fault('/m.gguf', { bytesPerSecond: 4_000_000 });
    await assert.rejects(run(`${server.url}/m.gguf`), { code: 'format', message: /m\.gguf: the file has 5000000 bytes, its header describes/ });
    assert.ok(server.sent < 4_000_000, 'and is not read to its end');
  });

  test('may be aborted while it is fetched', async (t) => {
    const server = await faultServer(t, { '/m.gguf': model });
    server.fault('/m.gguf', { stallAfter: 2_000_000 });
    const stop = new AbortController();
    const loading = run(`${server.url}/m.gguf`, { signal: stop.signal, onProgress: ({ loaded }) => loaded > 1_000_000 && stop.abort() });
    await assert.rejects(loading, { name: 'AbortError' });
  });

  describe('in shards', () => {
    const { meta, tensors } = tinyParts();
    const files = shards(meta, tensors, 3);
    const names = shardNames('m-00001-of-00003.gguf');
    /** @type {string} */ let where;
    /** @type {(() => void)[]} */ const later = [];
    before((t) => {
      where = folder(/** @type {any} */ ({ after: (/** @type {() => void} */ f) => later.push(f) }));
      names.forEach((name, i) => writeFileSync(join(where, name), files[i]));
      void t;
    });
    after(() => later.forEach((f) => f()));

    test('is found by the name of one, named as an array in any order, and fetched from a hub', async (t) => {
      assert.equal(await run(join(where, names[0])), hash);
      assert.equal(await run(names.toReversed().map((name) => join(where, name))), hash);
      const server = await faultServer(t, Object.fromEntries(names.map((name, i) => [`/${name}`, files[i]])));
      server.hub('owner/name', { files: { ...Object.fromEntries(names.map((name, i) => [`Q4_1/${name}`, files[i]])), 'other.Q8_0.gguf': model } });
      assert.equal(await run(`${server.url}/${names[1]}`), hash);
      assert.equal(await run('hf:owner/name', { endpoint: server.url }).catch((error) => error.code), hash, 'the only preferred one');
      assert.equal(await run('hf:owner/name:Q4_1', { endpoint: server.url }), hash);
    });

    test('is an error where one is missing, twice there or none at all', async () => {
      const paths = names.map((name) => join(where, name));
      await assert.rejects(run(paths.slice(0, 2)), { code: 'argument', message: /one of 3 shards, but there are 2/ });
      await assert.rejects(run([paths[0], paths[0], paths[2]]), { code: 'argument', message: /twice/ });
      const path = join(where, 'x.gguf');
      writeFileSync(path, model);
      await assert.rejects(run([path, path]), { code: 'format', message: /x\.gguf: no shard/ });
    });

    test("written by llama.cpp's own tools is joined too", async () => {
      const golden = (/** @type {string} */ name) => fileURLToPath(new URL(`../golden/tiny/${name}`, import.meta.url));
      assert.equal(await run(golden('q8_0-00001-of-00003.gguf')), await run(golden('q8_0.gguf')));
    });
  });

  test('header is parsed as far as it goes, and nonsense is refused', () => {
    const header = parseHeader(model, 'm');
    assert.equal(header?.tensors.length, tinyParts().tensors.length);
    for (const n of [0, 3, 10, 24, 500]) assert.equal(parseHeader(model.subarray(0, n), 'm'), undefined, String(n));
    assert.throws(() => parseHeader(new Uint8Array(100), 'm'), { code: 'format', message: /no GGUF/ });
    const newer = model.slice(0, 100);
    newer[4] = 9;
    assert.throws(() => parseHeader(newer, 'm'), { code: 'unsupported', message: /version 9/ });
    const file = readFileSync(new URL('../golden/tiny/q8_0.gguf', import.meta.url));
    assert.ok(parseHeader(file, 'm'));
  });
});
