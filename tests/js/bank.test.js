/* Mask banks in wasm: routed as the native command routes, and a routed chat has the logits of a fresh prefill. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { load, SkipstoneError } from '../../node/index.js';
import { folder, loadModel, MODEL, NATIVE, noModel, noModules, noRelaxed, QUESTION } from './helpers.js';

const BANK = fileURLToPath(new URL('../golden/bank.gguf', import.meta.url));
const FIRST = { role: 'user', content: 'Write a Python function that reverses a list.' };
const SECOND = { role: 'user', content: 'KING. What news from the north?' };
const greedy = { temperature: 0, maxTokens: 8 };

describe('a bank', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */ let llm;
  before(async () => {
    llm = await loadModel({ bank: BANK, depth: 0.875 });
  });
  after(() => llm.free());

  test('is described by info', () => {
    const { bank } = llm.info;
    assert.equal(bank?.clusters, 8);
    assert.deepEqual(bank.levels.map((level) => Math.round(120 * level)), [8, 15, 23, 30]);
    assert.equal(bank.encoder.kind, 'self');
    assert.equal(bank.examples.length, 8);
    assert.equal(bank.note, '');
  });

  test('routes 1,000 prompts as the native command does', { skip: existsSync(NATIVE) ? false : 'build/release/skipstone is not built' }, async (t) => {
    const lines = (/** @type {string} */ name) => readFileSync(new URL(`../golden/${name}`, import.meta.url), 'utf8').trimEnd().split('\n');
    const prompts = [...lines('sentences.txt'), ...lines('tokens.txt').filter((_, i) => i % 13 === 0)].slice(0, 1000);
    const file = join(folder(t), 'prompts.txt');
    writeFileSync(file, prompts.join('\n'));
    const args = ['route', '-m', MODEL, '--bank', BANK, '--lines', '--json', '-f', file];
    const native = execFileSync(NATIVE, args, { encoding: 'utf8', maxBuffer: 1 << 28 }).trimEnd().split('\n');
    assert.equal(native.length, 1000);
    for (const [i, text] of prompts.entries()) {
      const { routing } = JSON.parse(native[i]);
      const { cluster, distance } = await llm.route(text);
      assert.equal(cluster, routing.cluster, text);
      assert.equal(Math.fround(distance), Math.fround(routing.distance), text);
    }
    assert.equal((await llm.route('')).cluster, null, 'a text without tokens has no cluster');
  });

  test('gives a prompt the mask of its cluster, and says so', async () => {
    const routed = await llm.generate({ messages: [FIRST] }, greedy).result;
    const route = await llm.route(FIRST.content);
    assert.equal(routed.route?.cluster, route.cluster);
    assert.equal(routed.route?.depth, 0.875);
    assert.deepEqual(routed.mask, route.mask);
    assert.equal(Math.round(120 * routed.mask.macsSkipped), 15);
    const byHand = await llm.generate({ messages: [FIRST] }, { ...greedy, skip: route.mask.skip }).result;
    assert.equal(byHand.logitsHash, routed.logitsHash);
    assert.equal(byHand.route, null);
  });

  test('has a dial: 1 is dense, between levels the shallower mask, below the deepest an error', async () => {
    const units = async (/** @type {number} */ depth) => Math.round(120 * (await llm.route('Hello', { depth })).mask.macsSkipped);
    assert.deepEqual([await units(1), await units(0.99), await units(0.9375), await units(0.8), await units(0.75)], [0, 0, 8, 23, 30]);
    assert.equal((await llm.route('Hello', { depth: 1 })).depth, 1);
    await assert.rejects(llm.route('Hello', { depth: 0.5 }), /depth/);
    await assert.rejects(llm.generate(QUESTION, { depth: 0.5 }).result, /depth/);
    await assert.rejects(llm.generate(QUESTION, { depth: 0.875, skip: '' }).result, /exclude/);
  });
});

test('recovery has the pinned logits in every module', { skip: noModules }, async (t) => {
  const golden = (/** @type {string} */ name) => fileURLToPath(new URL(`../golden/${name}`, import.meta.url));
  const { recovered } = JSON.parse(readFileSync(golden('hashes.json'), 'utf8'));
  if (noRelaxed) t.diagnostic(`relaxed modules not compared: ${noRelaxed}`);
  for (const variant of /** @type {const} */ (['simd128', 'relaxed', 'relaxed-dot']).slice(0, noRelaxed ? 1 : 3))
    for (const threads of [1, 2]) {
      const llm = await load(golden('tiny/q4_1.gguf'), { bank: golden('recovery.gguf'), depth: 0.5, contextSize: 64, variant, threads });
      assert.equal(llm.info.bank?.recovered, 6);
      const routed = await llm.generate('A farmer has twelve sheep.', { ...greedy, maxTokens: 1 }).result;
      assert.equal(routed.logitsHash, recovered, `${variant}, ${threads} threads`);
      const byHand = await llm.generate('A farmer has twelve sheep.', { ...greedy, maxTokens: 1, skip: routed.mask.skip }).result;
      assert.notEqual(byHand.logitsHash, recovered, 'the mask alone is something else');
      assert.equal((await llm.generate('A farmer has twelve sheep.', { ...greedy, maxTokens: 1 }).result).logitsHash, recovered);
      await llm.free();
    }
});

for (const policy of /** @type {const} */ (['session', 'turn'])) {
  test(`a chat that goes on has the logits of a fresh prefill, policy ${policy}`, { skip: noModel }, async () => {
    const llm = await loadModel({ bank: BANK, policy });
    const first = await llm.generate({ messages: [FIRST] }, greedy).result;
    const messages = [FIRST, { role: 'assistant', content: first.text }, SECOND];
    const second = await llm.generate({ messages }, greedy).result;
    const { cluster } = await llm.route((policy === 'turn' ? SECOND : FIRST).content);
    assert.equal(second.route?.cluster, cluster);
    assert.notEqual((await llm.route(SECOND.content)).cluster, first.route?.cluster, 'the two are of different clusters');
    if (policy === 'session') assert.ok(second.cachedTokens > 0, 'the first turn is not computed again');
    else assert.equal(second.cachedTokens, 0, 'another mask, another KV');
    await llm.free();
    const fresh = await loadModel({ bank: BANK, policy });
    assert.equal((await fresh.generate({ messages }, greedy).result).logitsHash, second.logitsHash);
    await fresh.free();
  });
}

test('a bank that does not fit is an error that names it', { skip: noModel }, async (t) => {
  const bytes = readFileSync(BANK);
  const where = folder(t);
  const write = (/** @type {string} */ name, /** @type {Uint8Array} */ data) => {
    writeFileSync(join(where, name), data);
    return join(where, name);
  };
  /** @param {string} bank @param {RegExp} message */
  const rejects = (bank, message) =>
    assert.rejects(loadModel({ bank }), (error) => error instanceof SkipstoneError && message.test(error.message));
  await rejects(join(where, 'none.gguf'), /none\.gguf: no such file/);
  await rejects(write('short.gguf', bytes.subarray(0, bytes.length - 100)), /short\.gguf: .*truncated/);
  await rejects(write('text.gguf', new TextEncoder().encode('not a bank at all, just some words')), /text\.gguf: /);
  await rejects(MODEL, /\.gguf: /);
  await assert.rejects(loadModel({ depth: 0.9 }), /depth needs the option bank/);
});
