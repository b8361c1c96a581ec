/** A smoke test in Firefox: the model answers, and its logits are those of every other place. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { root } from '../../tools/setup/steps.mjs';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { MODEL, firefox, noFirefox } from './browser.js';

const browser = firefox();
const skip = noFirefox || (existsSync(root + MODEL) ? false : `${root}${MODEL} is not there (npm run setup)`);

describe('Firefox', { skip }, () => {
  /** @type {Set<string>} */
  const hashes = new Set();
  for (const [isolated, threads] of /** @type {const} */ ([[true, 2], [false, 1]])) {
    test(`answers ${isolated ? 'isolated, with two threads' : 'not isolated, with one thread'}, under a strict policy`, async (t) => {
      const { page } = await browser.open(t, { isolated, csp: STRICT_CSP });
      const { text, module, logitsHash } = await page.evaluate(
        async ({ model, threads }) => {
          const { load } = await import(/** @type {string} */ ('/web/index.js'));
          const llm = await load(model, { threads, contextSize: 512 });
          const messages = [{ role: 'user', content: 'What is 2 plus 2?' }];
          const { text, logitsHash } = await llm.generate({ messages }, { temperature: 0 }).result;
          const { module } = llm.info;
          await llm.free();
          return { text, module, logitsHash };
        },
        { model: MODEL, threads },
      );
      assert.equal(text, 'The answer to this classic math problem is 4.');
      assert.match(module.variant, /^relaxed(-dot)?$/);
      assert.equal(module.threads, threads);
      hashes.add(logitsHash);
    });
  }

  test('the logits are the same with one thread and two', () => assert.equal(hashes.size, 1));
});
