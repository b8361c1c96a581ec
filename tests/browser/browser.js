/**
 * What the browser tests share: one browser a file, and pages on a server of their own.
 *
 *     const browser = chromium();
 *     test('a page answers', { skip: noBrowser }, async (t) => {
 *       const { page } = await browser.open(t, { isolated: true });
 *       await page.evaluate(async () => {
 *         const { load } = await import(/** @type {string} *\/ ('/web/index.js'));
 *       });
 *     });
 *
 * The server's root is the project's folder, so a page imports the sources as they are. SKIPSTONE_CHROMIUM and
 * SKIPSTONE_FIREFOX name other browsers than those on PATH.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import * as playwright from 'playwright-core';
import { findChromium, findFirefox } from '../../tools/setup/packages.mjs';
import { root } from '../../tools/setup/steps.mjs';
import { serveFolders } from '../../tools/static_server.mjs';

const chromiumPath = findChromium();
const firefoxPath = findFirefox();

const MODULES = ['simd128', 'simd128-threads', 'relaxed', 'relaxed-threads'];
/** Path of the model, for a page. */
export const MODEL = '/models/SmolLM2-135M-Instruct.Q4_1.gguf';
const modules = MODULES.every((name) => existsSync(`${root}/wasm/dist/skipstone-${name}.wasm`));

const noModules = modules ? false : 'wasm/dist is not built (npm run build)';

/** Why a test is skipped, or false: no browser or no modules. @type {string | false} */
export const noBrowser = chromiumPath ? noModules : 'no Chromium on PATH, and SKIPSTONE_CHROMIUM is not set';
/** @type {string | false} */
export const noFirefox = firefoxPath ? noModules : 'no Firefox on PATH, and SKIPSTONE_FIREFOX is not set';
/** No Chromium, no modules or no model. @type {string | false} */
export const noModel = noBrowser || (existsSync(root + MODEL) ? false : `${root}${MODEL} is not there (npm run setup)`);

const CHROMIUM_ARGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

/**
 * @typedef {object} OpenOptions
 * @property {boolean} [isolated]  cross-origin isolated: shared memory and threads; default true
 * @property {string} [csp]
 * @property {Record<string, string>} [folders]  beside the project's own at '/'
 * @property {import('../../tools/static_server.mjs').ServeOptions['handler']} [handler]
 * @property {string} [path]  of the page; default: an empty one
 * @property {boolean} [errors]  true: errors on the page are the test's own affair
 * @property {playwright.BrowserContextOptions} [context]
 * @property {boolean} [persistent]  a browser of its own with a profile on disk, where quotas hold; default: as a private window
 *
 * @typedef {object} Opened
 * @property {playwright.Page} page
 * @property {playwright.BrowserContext} context  with storage of its own, empty at first
 * @property {string} url  of the server
 * @property {string[]} errors  what went wrong on the page
 */

export class Browser {
  /** @type {Promise<playwright.Browser> | undefined} */ #running;
  #launch;

  #launchPersistent;

  /**
   * @param {() => Promise<playwright.Browser>} launch
   * @param {(folder: string) => Promise<playwright.BrowserContext>} launchPersistent
   */
  constructor(launch, launchPersistent) {
    this.#launch = launch;
    this.#launchPersistent = launchPersistent;
    after(async () => (await this.#running)?.close());
  }

  /** The browser itself, started at the first call. */
  running() {
    this.#running ??= this.#launch();
    return this.#running;
  }

  /**
   * A page on a server of its own. Both end with the test, which fails when an error went by unseen on the page.
   * @param {import('node:test').TestContext} t
   * @param {OpenOptions} [options]
   * @returns {Promise<Opened>}
   */
  async open(t, options = {}) {
    const { isolated = true, csp, folders = {}, handler, path = '/tests/browser/page.html' } = options;
    const server = await serveFolders({ folders: { '/': root, ...folders }, isolated, csp, handler });
    t.after(() => server.close());
    const profile = options.persistent ? mkdtempSync(join(tmpdir(), 'skipstone-profile-')) : '';
    const context = profile ? await this.#launchPersistent(profile) : await (await this.running()).newContext(options.context);
    t.after(async () => {
      await context.close();
      if (profile) rmSync(profile, { recursive: true, force: true });
    });
    /** @type {string[]} */
    const errors = [];
    context.on('weberror', (error) => errors.push(error.error().stack ?? error.error().message));
    const page = await context.newPage();
    await page.goto(server.url + path);
    if (!options.errors) t.after(() => assert.deepEqual(errors, [], 'errors on the page'));
    return { page, context, url: server.url, errors };
  }
}

const CHROMIUM = { executablePath: chromiumPath, headless: true, args: CHROMIUM_ARGS };
// By WebDriver BiDi. playwright-core 1.65 sends what Firefox 153 does not know yet, 1.64 does not.
const FIREFOX = { channel: 'moz-firefox', executablePath: firefoxPath, headless: true };

/** Of a whole test file; call it once, at its top. */
export const chromium = () =>
  new Browser(
    () => playwright.chromium.launch(CHROMIUM),
    (folder) => playwright.chromium.launchPersistentContext(folder, CHROMIUM),
  );
export const firefox = () =>
  new Browser(
    () => playwright.firefox.launch(FIREFOX),
    (folder) => playwright.firefox.launchPersistentContext(folder, FIREFOX),
  );
