/** The core in a page: each module, with and without threads, under the strictest policy that runs WebAssembly. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { load } from '../../node/index.js';
import { root } from '../../tools/setup/steps.mjs';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { MODEL, chromium, noBrowser, noModel } from './browser.js';

const browser = chromium();
const QUESTION = 'What is 2 plus 2?';
const BANK = '/banks/SmolLM2-135M-Instruct.gguf';
const NATIVE = `${root}/build/release/skipstone`;

/**
 * Loads the model on a page, answers one question greedily.
 * @param {import('playwright-core').Page} page @param {object} options of load
 */
const ask = (page, options) =>
  page.evaluate(
    async ({ model, question, options }) => {
      const { load } = await import(/** @type {string} */ ('/web/index.js'));
      const llm = await load(model, options);
      const messages = [{ role: 'user', content: question }];
      const generation = llm.generate({ messages }, { temperature: 0, maxTokens: 40 });
      let streamed = '';
      for await (const { text } of generation) streamed += text;
      const { text, logitsHash } = await generation.result;
      const { module } = llm.info;
      await llm.free();
      return { text, streamed, logitsHash, module };
    },
    { model: MODEL, question: QUESTION, options },
  );

test('a page is isolated or not, as the server says', { skip: noBrowser }, async (t) => {
  for (const isolated of [true, false]) {
    const { page } = await browser.open(t, { isolated });
    assert.equal(await page.evaluate(() => globalThis.crossOriginIsolated), isolated);
  }
});

describe('an answer on a page', { skip: noModel }, () => {
  /** @type {Set<string>} */
  const hashes = new Set();
  for (const variant of /** @type {const} */ (['simd128', 'relaxed', 'relaxed-dot'])) {
    test(`${variant}, isolated, two threads, strict policy`, async (t) => {
      const { page } = await browser.open(t, { csp: STRICT_CSP });
      const { text, streamed, logitsHash, module } = await ask(page, { variant, threads: 2, contextSize: 512 });
      assert.equal(text, 'The answer to this classic math problem is 4.');
      assert.equal(streamed, text);
      assert.deepEqual({ variant: module.variant, threads: module.threads }, { variant, threads: 2 });
      hashes.add(logitsHash);
    });

    test(`${variant}, not isolated: one thread, and the reason`, async (t) => {
      const { page } = await browser.open(t, { isolated: false });
      const { text, logitsHash, module } = await ask(page, { variant, contextSize: 512 });
      assert.equal(text, 'The answer to this classic math problem is 4.');
      assert.equal(module.threads, 1);
      assert.match(module.threadsReason, /cross-origin isolated/);
      hashes.add(logitsHash);
    });
  }

  test('the logits are the same in all of them', () => assert.equal(hashes.size, 1, [...hashes].join()));
});

test('through the shipped bank an answer is the same in Chromium, Node and the native command', { skip: noModel }, async (t) => {
  /** @type {Record<string, [string, string]>} */
  const answers = {};
  for (const variant of /** @type {const} */ (['simd128', 'relaxed', 'relaxed-dot']))
    for (const threads of [1, 2]) {
      const { page } = await browser.open(t);
      const { text, logitsHash } = await ask(page, { variant, threads, bank: BANK, depth: 0.75, contextSize: 512 });
      answers[`Chromium, ${variant}, ${threads} threads`] = [text, logitsHash];
    }
  const llm = await load(root + MODEL, { variant: 'simd128', threads: 2, bank: root + BANK, depth: 0.75, contextSize: 512 });
  const { text, logitsHash } = await llm.generate({ messages: [{ role: 'user', content: QUESTION }] }, { temperature: 0, maxTokens: 40 }).result;
  await llm.free();
  answers.Node = [text, logitsHash];
  if (existsSync(NATIVE)) {
    const args = ['run', '-m', root + MODEL, '--bank', root + BANK, '--depth', '0.75', '--chat', '-p', QUESTION, '-n', '40', '--temp', '0', '--json'];
    const native = JSON.parse(execFileSync(NATIVE, args, { encoding: 'utf8' }));
    answers.native = [native.text, native.logits_hash];
  } else t.diagnostic(`${NATIVE} is not built, and not compared`);
  for (const [where, answer] of Object.entries(answers)) assert.deepEqual(answer, answers.Node, where);
});
