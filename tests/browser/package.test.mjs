/** The packed package in a page: from a static server as it is, and through bundlers without a plug-in. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as esbuild from 'esbuild';
import { bundler, bundlersPresent } from '../../tools/setup/bundlers.mjs';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { packAndInstall } from '../packed.js';
import { MODEL, chromium, noModel } from './browser.js';

const browser = chromium();
const noBundlers = bundlersPresent() ? false : 'Vite and webpack are not installed (npm run setup -- --test)';

const APP = `
import { load } from 'skipstone';
globalThis.ask = async (model, options) => {
  const llm = await load(model, { contextSize: 512, threads: 2, bank: false, ...options });
  const generation = llm.generate({ messages: [{ role: 'user', content: 'What is 2 plus 2?' }] }, { temperature: 0 });
  const { text } = await generation.result;
  const { threads } = llm.info.module;
  await llm.free();
  return { text, threads };
};
`;
const PAGE = `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="/web/demo/icon.svg">
<title>app</title>
<script type="module" src="./main.js"></script>
`;

describe('the packed package in a page', { skip: noModel }, () => {
  /** @type {import('../packed.js').Packed} */ let packed;
  /** @type {string} */ let app;
  before(() => {
    packed = packAndInstall();
    app = join(packed.folder, 'app');
    mkdirSync(app);
    writeFileSync(join(app, 'main.js'), APP);
    writeFileSync(join(app, 'index.html'), PAGE);
  });
  after(() => packed?.remove());

  /** Asks the app that is in a folder. @param {import('node:test').TestContext} t @param {string} folder @param {object} [options] */
  async function asked(t, folder, options = {}) {
    const { page } = await browser.open(t, { folders: { '/app/': folder }, path: '/app/index.html', csp: STRICT_CSP });
    await page.waitForFunction(() => 'ask' in globalThis);
    const answer = await page.evaluate(
      ({ model, options }) => /** @type {any} */ (globalThis).ask(model, options),
      { model: MODEL, options },
    );
    assert.deepEqual(answer, { text: 'The answer to this classic math problem is 4.', threads: 2 });
  }

  test('answers from a static server, as it is', async (t) => {
    const folder = join(packed.folder, 'plain');
    cpSync(join(packed.folder, 'node_modules/skipstone'), join(folder, 'skipstone'), { recursive: true });
    writeFileSync(join(folder, 'main.js'), APP.replace("'skipstone'", "'./skipstone/web/index.js'"));
    writeFileSync(join(folder, 'index.html'), PAGE);
    await asked(t, folder);
  });

  test('answers in a bundle by Vite', { skip: noBundlers }, async (t) => {
    const { build } = await bundler('vite');
    const outDir = join(packed.folder, 'out-vite');
    await build({ root: app, base: './', configFile: false, logLevel: 'error', build: { outDir } });
    await asked(t, outDir);
  });

  test('answers in a bundle by webpack', { skip: noBundlers }, async (t) => {
    const { default: webpack } = await bundler('webpack');
    const path = join(packed.folder, 'out-webpack');
    const performance = { assetFilter: (/** @type {string} */ name) => !name.endsWith('.gguf') }; // no hints at a bank's size
    const config = { mode: 'production', context: app, entry: './main.js', output: { path, filename: 'main.js' }, performance };
    const stats = await new Promise((resolve, reject) =>
      webpack(config, (/** @type {Error | null} */ error, /** @type {any} */ done) => (error ? reject(error) : resolve(done))),
    );
    const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
    assert.deepEqual([...errors, ...warnings], []);
    writeFileSync(join(path, 'index.html'), PAGE);
    await asked(t, path);
  });

  // esbuild leaves `new URL(..., import.meta.url)` alone: the package's folder goes beside the bundle.
  test('answers in a bundle by esbuild, with its folder beside it', async (t) => {
    const outdir = join(packed.folder, 'out-esbuild');
    const entryPoints = [join(app, 'main.js')];
    await esbuild.build({ entryPoints, bundle: true, format: 'esm', minify: true, outdir, logLevel: 'error' });
    cpSync(join(packed.folder, 'node_modules/skipstone'), join(outdir, 'skipstone'), { recursive: true });
    writeFileSync(join(outdir, 'index.html'), PAGE);
    await asked(t, outdir, { workerUrl: '/app/skipstone/web/worker.js' });
  });
});
