/** The weight store on a page: OPFS, Web Locks, quota; the logic they share with Node is tested in tests/js/store.test.js. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { tinyBank, tinyModel } from '../js/gguf.js';
import { faultServer } from '../server.js';
import { chromium, noBrowser } from './browser.js';

const browser = chromium();
const model = tinyModel();

/**
 * Loads on a page and answers: what the page saw.
 * @param {import('playwright-core').Page} page
 * @param {string} url
 * @param {object} [options]
 */
const run = (page, url, options = {}) =>
  page.evaluate(
    async ({ url, options }) => {
      const { load } = await import(/** @type {string} */ ('/web/index.js'));
      /** @type {Set<string>} */
      const phases = new Set();
      try {
        const llm = await load(url, { threads: 1, onProgress: (/** @type {any} */ { phase }) => phases.add(phase), ...options });
        const { logitsHash } = await llm.generate('Hello', { temperature: 0, maxTokens: 3 }).result;
        await llm.complete;
        const { download, bankReason, fingerprint } = llm.info;
        await llm.free();
        return { logitsHash, download, bankReason, fingerprint, phases: [...phases], code: '', message: '' };
      } catch (error) {
        const { code, message } = /** @type {any} */ (error);
        return { logitsHash: '', download: undefined, code: code ?? String(error), message, phases: [...phases] };
      }
    },
    { url, options },
  );

/** @param {import('playwright-core').Page} page @param {string} call @param {...unknown} args */
const models = (page, call, ...args) =>
  page.evaluate(
    async ({ call, args }) => {
      const { models } = await import(/** @type {string} */ ('/web/index.js'));
      return models[call](...args);
    },
    { call, args },
  );

describe('the store of a page', { skip: noBrowser }, () => {
  /** @param {import('node:test').TestContext} t @param {import('./browser.js').OpenOptions} [options] */
  async function setUp(t, options = {}) {
    const server = await faultServer(t, { '/m.gguf': model });
    const csp = STRICT_CSP.replace("connect-src 'self'", `connect-src 'self' ${server.url}`);
    const opened = await browser.open(t, { csp, ...options });
    return { server, file: `${server.url}/m.gguf`, ...opened };
  }

  test('fetches once under a strict policy, then loads offline; lists, counts and removes', async (t) => {
    const { server, file, page } = await setUp(t);
    const cold = await run(page, file);
    assert.equal(cold.code, '', cold.message);
    assert.equal(cold.download.networkBytes, model.length);
    assert.equal(cold.download.store, '');
    await page.reload();
    server.fault('/m.gguf', { status: 500 });
    const warm = await run(page, file);
    assert.equal(warm.code, '', warm.message);
    assert.equal(warm.logitsHash, cold.logitsHash);
    assert.deepEqual({ network: warm.download.networkBytes, store: warm.download.storeBytes }, { network: 0, store: model.length });
    assert.deepEqual(warm.phases, ['verify']);
    assert.equal(await models(page, 'has', file), 'complete');
    const [stored] = await models(page, 'list');
    assert.equal(stored.storedBytes, model.length);
    const { bytes, available } = await models(page, 'usage');
    assert.ok(bytes > model.length && available > 0);
    assert.equal(await models(page, 'delete', file), true);
    assert.deepEqual(await models(page, 'list'), []);
  });

  test('goes on after a reload where it was', async (t) => {
    const { server, file, page } = await setUp(t);
    server.fault('/m.gguf', { stallAfter: 4_000_000, times: 1 });
    void run(page, file).catch(() => {}); // the page goes
    while (server.sent < 4_000_000) await new Promise((resolve) => setTimeout(resolve, 50));
    await new Promise((resolve) => setTimeout(resolve, 500));
    await page.reload();
    const { code, message, download } = await run(page, file);
    assert.equal(code, '', message);
    assert.ok(download.storeBytes > 2_000_000, `${download.storeBytes} were stored`);
    assert.equal(download.storeBytes + download.networkBytes, model.length);
  });

  test('repairs what was damaged', async (t) => {
    const { file, page } = await setUp(t);
    const { logitsHash } = await run(page, file);
    await page.evaluate(async () => {
      const folders = await (await navigator.storage.getDirectory()).getDirectoryHandle('skipstone');
      for await (const folder of /** @type {any} */ (folders).values()) {
        const stream = await (await folder.getFileHandle('data')).createWritable({ keepExistingData: true });
        await stream.write({ type: 'write', position: 1_000_000, data: new Uint8Array(100) });
        await stream.close();
      }
    });
    const again = await run(page, file);
    assert.equal(again.code, '', again.message);
    assert.equal(again.logitsHash, logitsHash);
    assert.equal(again.download.repairedChunks, 1);
    assert.equal(again.download.networkBytes, 65536);
  });

  test('is full: the error says how much is needed and there, and without a store it loads', async (t) => {
    const { file, page, context, url } = await setUp(t, { persistent: true });
    const devtools = await context.newCDPSession(page);
    await devtools.send('Storage.overrideQuotaForOrigin', { origin: url, quotaSize: 3_000_000 });
    const { code, message } = await run(page, file);
    assert.equal(code, 'quota');
    assert.match(message, /m\.gguf: storing it takes \d+ more bytes, the storage that the browser gives this site (has room for|is full, although) .*models\.delete\(\)/);
    const [{ storedBytes, complete }] = await models(page, 'list');
    assert.ok(storedBytes > 0 && !complete, 'what fitted is kept, and whole');
    const without = await run(page, file, { cache: false });
    assert.equal(without.code, '', without.message);
    assert.equal(without.download.store, 'cache is false');
  });

  test('is shared by two tabs, which fetch the file once', async (t) => {
    const { server, file, page, context, url } = await setUp(t);
    server.fault('/m.gguf', { bytesPerSecond: 8_000_000 });
    const other = await context.newPage();
    await other.goto(`${url}/tests/browser/page.html`);
    const both = await Promise.all([run(page, file), run(other, file)]);
    for (const { code, message } of both) assert.equal(code, '', message);
    assert.equal(both[0].logitsHash, both[1].logitsHash);
    assert.deepEqual(both.map(({ download }) => download.networkBytes).sort((a, b) => a - b), [0, model.length]);
    assert.equal(server.sent, model.length);
  });

  test('keeps what the masks need and no more', async (t) => {
    const { server, file, page } = await setUp(t);
    const { fingerprint } = await run(page, file, { cache: false });
    const skipped = [[[8, 9, 10, 11, 12, 14, 15], [8, 9, 10, 11, 12, 13, 14]]];
    server.put('/m.bank.gguf', tinyBank(fingerprint.family, { skipped }));
    const part = await run(page, file, { bank: 'auto', depth: 0.875 });
    assert.equal(part.code, '', part.message);
    assert.equal(part.bankReason, 'm.bank.gguf');
    assert.ok(part.download.savedBytes > 1_500_000);
    assert.equal(await models(page, 'has', file), 'partial');
    const whole = await run(page, file, { bank: 'auto', depth: 0.875, partial: false });
    assert.equal(whole.logitsHash, part.logitsHash);
    assert.equal(whole.download.networkBytes, part.download.savedBytes, 'the rest of it, nothing twice');
  });

  test('is not needed for a File', async (t) => {
    const { file, page } = await setUp(t);
    const { code, size, phases } = await page.evaluate(async (url) => {
      const { load } = await import(/** @type {string} */ ('/web/index.js'));
      const blob = await (await fetch(url)).blob();
      /** @type {Set<string>} */
      const phases = new Set();
      try {
        const llm = await load(new File([blob], 'mine.gguf'), { threads: 1, onProgress: (/** @type {any} */ { phase }) => phases.add(phase) });
        const size = llm.info.download.fileBytes;
        await llm.free();
        return { code: '', size, phases: [...phases] };
      } catch (error) {
        return { code: String(error), size: 0, phases: [] };
      }
    }, file);
    assert.deepEqual({ code, size, phases }, { code: '', size: model.length, phases: ['repack'] });
  });

  test('tells of what canRun finds before anything is fetched', async (t) => {
    const { server, file, page } = await setUp(t);
    const verdict = await page.evaluate(async (url) => {
      const { canRun } = await import(/** @type {string} */ ('/web/index.js'));
      return canRun(url, { threads: 1 });
    }, file);
    assert.equal(verdict.fits, true);
    assert.ok(verdict.decodeTokensPerSecond > 0);
    assert.ok(server.sent < 4_000_000);
    assert.deepEqual(await models(page, 'list'), []);
  });
});
