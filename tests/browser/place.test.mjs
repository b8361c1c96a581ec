/** Where the engine can run beside its own worker: on the page's thread, inside another worker, inside a service worker. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { MODEL, chromium, noModel } from './browser.js';

const browser = chromium();
const messages = [{ role: 'user', content: 'What is 2 plus 2?' }];
const ANSWER = 'The answer to this classic math problem is 4.';

describe('the engine', { skip: noModel }, () => {
  test('runs in place, under a strict policy, and leaves the page its turns', async (t) => {
    const { page } = await browser.open(t, { csp: STRICT_CSP });
    const { text, module, turns } = await page.evaluate(
      async ({ model, messages }) => {
        const { load } = await import(/** @type {string} */ ('/web/index.js'));
        const llm = await load(model, { contextSize: 256, worker: false });
        let turns = 0;
        const timer = setInterval(() => turns++, 1);
        const { choices } = await llm.chat.completions.create({ messages, temperature: 0 });
        clearInterval(timer);
        const { module } = llm.info;
        await llm.free();
        return { text: choices[0].message.content, module, turns };
      },
      { model: MODEL, messages },
    );
    assert.equal(text, ANSWER);
    assert.equal(module.threads, 1);
    assert.match(module.threadsReason, /in place/);
    assert.ok(turns > 3, `${turns} turns of the event loop`);
  });

  test('runs inside another worker, with threads', async (t) => {
    const { page } = await browser.open(t);
    const answer = await page.evaluate(
      ({ model, messages }) =>
        new Promise((resolve) => {
          const worker = new Worker('/tests/browser/outer-worker.js', { type: 'module' });
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = (event) => resolve({ error: event.message });
          worker.postMessage({ model, messages });
        }),
      { model: MODEL, messages },
    );
    assert.deepEqual(answer, { text: ANSWER, threads: 2 });
  });

  test('runs inside a service worker, in steps and with one thread', async (t) => {
    const { page } = await browser.open(t);
    const { error, chat, text, threads, threadsReason, turns } = await page.evaluate(
      async ({ model, messages }) => {
        await navigator.serviceWorker.register('/tests/browser/service-worker.js', { type: 'module' });
        const { active } = await navigator.serviceWorker.ready;
        const { port1, port2 } = new MessageChannel();
        return new Promise((resolve) => {
          port1.onmessage = ({ data }) => resolve(data);
          active?.postMessage({ model, messages }, [port2]);
        });
      },
      { model: MODEL, messages },
    );
    assert.equal(error, undefined);
    assert.deepEqual([chat, text, threads], [ANSWER, ANSWER, 1]);
    assert.match(threadsReason, /in place/);
    assert.ok(turns > 3, `${turns} turns of the event loop`);
  });
});
