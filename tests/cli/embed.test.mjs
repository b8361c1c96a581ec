/* `skipstone embed`, end to end. SKIPSTONE names another binary than build/release/skipstone. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const binary = process.env.SKIPSTONE ?? path.join(root, 'build/release/skipstone');
const model = path.join(root, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');
const encoder = path.join(root, 'models/all-MiniLM-L6-v2.Q8_0.gguf');
const missing = [binary, model, encoder].find((file) => !fs.existsSync(file));
const skip = missing ? `no ${missing}` : false;

/** @param {string[]} args @param {string} [input] */
function embed(args, input = '') {
  const done = spawnSync(binary, ['embed', ...args], { encoding: 'utf8', input, maxBuffer: 1 << 26 });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

/** @param {string[]} args @param {string} [input] @returns {number[][]} */
function vectors(args, input) {
  const { code, out, err } = embed(args, input);
  assert.deepEqual({ code, err }, { code: 0, err: '' });
  return out.trimEnd().split('\n').map((line) => JSON.parse(line));
}

/** @param {number[]} a @param {number[]} b */
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

describe('embed', { skip }, () => {
  const folder = skip ? '' : fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-'));
  after(() => folder && fs.rmSync(folder, { recursive: true }));

  test('close meanings have close vectors', () => {
    const [a, b, c] = vectors(['-e', encoder, 'How do I bake bread?', 'A recipe for a loaf of bread', 'The stock market fell']);
    assert.equal(a.length, 384);
    assert.ok(Math.abs(dot(a, a) - 1) < 1e-5);
    assert.ok(dot(a, b) > 0.5 && dot(a, c) < 0.2, `${dot(a, b)}, ${dot(a, c)}`);
  });

  test('self needs no other file', () => {
    const [a] = vectors(['-m', model, 'How do I bake bread?']);
    assert.equal(a.length, 576);
    assert.deepEqual(vectors(['-m', model, '--encoder', 'self', '-t', '2'], 'How do I bake bread?\n'), [a]);
  });

  test('a matrix has a row per text, as .npy and as plain floats', () => {
    const lines = path.join(folder, 'prompts.jsonl');
    fs.writeFileSync(lines, '{"prompt": "one", "text": "one and more"}\n{"text": "two"}\n');
    const want = vectors(['-e', encoder], 'one\ntwo\n');
    const [npy, f32] = ['m.npy', 'm.f32'].map((name) => path.join(folder, name));
    for (const out of [npy, f32]) assert.deepEqual(embed(['-e', encoder, '-f', lines, '-o', out]), { code: 0, out: '', err: '' });
    const bytes = fs.readFileSync(npy);
    assert.equal(bytes.length, 128 + 2 * 384 * 4);
    assert.match(bytes.toString('latin1', 0, 128), /^\x93NUMPY\x01\0v\0\{'descr': '<f4', 'fortran_order': False, 'shape': \(2, 384\), \} +\n$/);
    assert.deepEqual(bytes.subarray(128), fs.readFileSync(f32));
    assert.deepEqual([bytes.readFloatLE(128), bytes.readFloatLE(128 + 384 * 4)], [want[0][0], want[1][0]].map(Math.fround));
  });

  test('wrong use is said', () => {
    const of = (/** @type {string[]} */ ...args) => embed(args);
    assert.match(of('-e', encoder, '-m', model, 'x').err, /leave out --model/);
    assert.equal(of('-e', encoder, '-m', model, 'x').code, 2);
    assert.match(of('-e', path.join(folder, 'none.gguf'), 'x').err, /none\.gguf: No such file/);
    assert.match(of('-e', encoder, '-f', path.join(folder, 'none.jsonl')).err, /none\.jsonl/);
    assert.match(of('-e', encoder, '-o', path.join(folder, 'no/m.npy'), 'x').err, /m\.npy: No such file/);
    const run = spawnSync(binary, ['run', '-m', encoder, '-p', 'hi'], { encoding: 'utf8' });
    assert.equal(run.status, 1);
    assert.match(run.stderr, /bert/);
  });
});
