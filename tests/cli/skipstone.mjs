/* What the tests of the command share. SKIPSTONE names another binary than build/release/skipstone. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../', import.meta.url));
export const binary = process.env.SKIPSTONE ?? path.join(root, 'build/release/skipstone');
export const model = path.join(root, 'tests/golden/tiny/q4_1.gguf'); /* random weights, two layers */
export const smollm2 = path.join(root, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');
/** Why the tests cannot run, or false. */
export const skip = !fs.existsSync(binary) ? `no ${binary}` : false;

/** @param {string[]} args @param {string} [input] */
export function skipstone(args, input = '') {
  const { SKIPSTONE_MODEL, ...env } = process.env;
  const done = spawnSync(binary, args, { encoding: 'utf8', input, env, maxBuffer: 1 << 26 });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

/** The JSON that a command prints. @param {string[]} args */
export function json(args) {
  const { code, out, err } = skipstone(args);
  assert.equal(code, 0, err);
  return JSON.parse(out);
}

/** @param {string[]} args @param {number} code @param {RegExp} message */
export function fails(args, code, message) {
  const done = skipstone(args);
  assert.match(done.err, message);
  assert.equal(done.code, code);
}

export const phrases = [
  ['add seven and nine, then halve the sum', 'a farmer has twelve sheep and buys five more'],
  ['the old ship sailed into the night and the storm', 'she opened the letter and wept beside the window'],
];
/** JSON Lines of two kinds of text, by turns. @param {number} n @param {number} first */
export const corpus = (n, first = 0) =>
  Array.from({ length: n }, (_, i) => {
    const kind = phrases[i % 2];
    const prompt = `${kind[(i >> 1) % 2]} ${first + i}`;
    return `${JSON.stringify({ domain: ['sums', 'tales'][i % 2], prompt, text: `${prompt} \u2013 so: ${kind.join(' ')}` })}\n`;
  }).join('');
