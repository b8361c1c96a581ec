import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { load } from '../../node/index.js';
import { folder, loadModel, MODEL, noModel, noModules } from './helpers.js';

/** @param {number} n */
function head(n) {
  const bytes = new Uint8Array(n);
  const file = openSync(MODEL, 'r');
  readSync(file, bytes, 0, n, 0);
  closeSync(file);
  return bytes;
}

test('a missing file is named', { skip: noModules }, async () => {
  await assert.rejects(load('/nowhere/x.gguf'), { name: 'SkipstoneError', code: 'not_found', message: /\/nowhere\/x\.gguf: no such file/ });
});

test('a folder is no model', { skip: noModules }, async (t) => {
  await assert.rejects(load(folder(t)), { code: 'io', message: /not a file/ });
});

test('a file that is no GGUF is a format error that names it', { skip: noModules }, async (t) => {
  const path = join(folder(t), 'text.gguf');
  writeFileSync(path, 'This is not a model at all, and long enough for a header.');
  await assert.rejects(load(path), { code: 'format', message: /text\.gguf/ });
  writeFileSync(path, '');
  await assert.rejects(load(path), { code: 'format', message: /text\.gguf: the file ends after 0 bytes/ });
});

test('a truncated file is a format error that says where it ends', { skip: noModel }, async (t) => {
  const path = join(folder(t), 'cut.gguf');
  for (const n of [3, 20, 1000, 1_000_000]) {
    writeFileSync(path, head(n));
    await assert.rejects(load(path), { code: 'format', message: /cut\.gguf.*truncated/ }, `${n} bytes`);
  }
  writeFileSync(path, head(20_000_000)); // the header whole, the tensors not: refused before they are read
  const seen = /** @type {number[]} */ ([]);
  const loading = load(path, { onProgress: ({ loaded }) => seen.push(loaded) });
  await assert.rejects(loading, { code: 'format', message: /has 20000000 bytes, its header describes 98362432/ });
  assert.ok(seen.every((n) => n <= 8 << 20), String(seen));
});

test('a context longer than the model was trained for is refused before the weights are read', { skip: noModel }, async () => {
  const seen = /** @type {number[]} */ ([]);
  const loading = loadModel({ contextSize: 9000, onProgress: ({ loaded }) => seen.push(loaded) });
  await assert.rejects(loading, { code: 'argument', message: /contextSize is 9000, the model was trained for 8192/ });
  assert.ok(seen.length <= 2);
});

test('progress rises to the whole file', { skip: noModel }, async () => {
  const seen = /** @type {import('../../wasm/options.js').Progress[]} */ ([]);
  const llm = await loadModel({ onProgress: (progress) => seen.push(progress) });
  await llm.free();
  assert.ok(seen.length > 10);
  seen.forEach((p, i) => assert.ok(p.loaded > (seen[i - 1]?.loaded ?? 0)));
  const last = seen[seen.length - 1];
  assert.deepEqual({ ...last, loaded: 0 }, { phase: 'repack', file: 'SmolLM2-135M-Instruct.Q4_1.gguf', loaded: 0, total: 98362432 });
  assert.equal(last.loaded, last.total);
});

test('a load can be aborted', { skip: noModel }, async () => {
  const stop = new AbortController();
  const loading = loadModel({ signal: stop.signal, onProgress: () => stop.abort() });
  await assert.rejects(loading, { name: 'AbortError' });
  await assert.rejects(loadModel({ signal: AbortSignal.abort() }), { name: 'AbortError' });
});

test('a skip of blocks that the model has not is refused at load', { skip: noModel }, async () => {
  await assert.rejects(loadModel({ skip: 'attn:99' }), { code: 'argument', message: /99/ });
  await assert.rejects(loadModel({ skip: 'attention:3' }), { code: 'argument', message: /attention/ });
});
