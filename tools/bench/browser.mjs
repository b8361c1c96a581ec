/* Ours in Chromium: each task in a page of its own, the engine in the page's worker; and whole loads by the package. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { findChromium } from '../setup/packages.mjs';
import { root } from '../setup/steps.mjs';
import { serveFolders } from '../static_server.mjs';
import { BenchError } from './command.mjs';
import { wasmSide } from './wasm_side.mjs';

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const PAGE = '/tools/bench/page.html';

/** @typedef {import('./sections.mjs').Case} Case */

/** A Chromium with a server of the project's files, of the models' folders and of one more. */
export class Chromium {
  #playwright;
  #executablePath;
  /** @type {import('../static_server.mjs').Served} */ #server;
  /** @type {import('playwright-core').Browser | undefined} */ #browser;

  /**
   * @param {typeof import('playwright-core')} playwright
   * @param {string} executablePath
   * @param {import('../static_server.mjs').Served} server
   */
  constructor(playwright, executablePath, server) {
    this.#playwright = playwright;
    this.#executablePath = executablePath;
    this.#server = server;
  }

  /**
   * What is missing, in words, or a Chromium that has not started yet.
   * @param {import('./sections.mjs').Model[]} models
   * @param {Record<string, string>} folders more of them, by their path in URLs
   */
  static async find(models, folders) {
    const executablePath = findChromium();
    if (!executablePath) return 'no Chromium on PATH, and SKIPSTONE_CHROMIUM is not set';
    const playwright = await import('playwright-core').catch(() => undefined);
    if (!playwright) return 'npm package playwright-core is not installed (npm ci)';
    const served = Object.fromEntries(models.map(({ file }, i) => [`/model${i}/`, path.dirname(file)]));
    return new Chromium(
      playwright,
      executablePath,
      await serveFolders({ folders: { '/': root, ...served, ...folders } }),
    );
  }

  #launchOptions() {
    return { executablePath: this.#executablePath, headless: true, args: ARGS };
  }

  async #running() {
    this.#browser ??= await this.#playwright.chromium.launch(this.#launchOptions());
    return this.#browser;
  }

  async version() {
    return (await this.#running()).version();
  }

  async close() {
    await this.#browser?.close();
    await this.#server.close();
  }

  /** The path in URLs of a model. @param {import('./sections.mjs').Model} model */
  url({ file, index }) {
    return `/model${index}/${encodeURIComponent(path.basename(file))}`;
  }

  /**
   * What a function returns in a new page, with an argument.
   * @template A, R @param {(argument: A) => Promise<R>} work @param {A} argument
   * @returns {Promise<R>}
   */
  async inPage(work, argument) {
    const context = await (await this.#running()).newContext();
    try {
      const page = await context.newPage();
      await page.goto(this.#server.url + PAGE);
      return await page.evaluate(/** @type {any} */ (work), argument);
    } catch (error) {
      throw new BenchError(`in Chromium: ${error instanceof Error ? error.message : error}`);
    } finally {
      await context.close();
    }
  }

  side() {
    return wasmSide('chromium', async ({ model }, job) => {
      const argument = { model: this.url(model), job: { variant: /** @type {const} */ ('auto'), ...job } };
      const { result } = await this.inPage(taskInWorker, argument);
      return result;
    });
  }

  /**
   * Seconds from load() to the first token of an answer when the model is in the package's store, several times: each in a
   * page of its own, with a profile on disk.
   * @param {Case} where @param {number} rounds
   */
  async warmLoads({ model, threads }, rounds) {
    const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-bench-'));
    const context = await this.#playwright.chromium.launchPersistentContext(profile, this.#launchOptions());
    try {
      const seconds = [];
      for (let i = 0; i <= rounds; i++) {
        const page = await context.newPage();
        await page.goto(this.#server.url + PAGE);
        seconds.push(await page.evaluate(secondsToFirstToken, { model: this.url(model), threads }));
        await page.close();
      }
      return seconds.slice(1); // the first one fetched the model
    } catch (error) {
      throw new BenchError(`in Chromium: ${error instanceof Error ? error.message : error}`);
    } finally {
      await context.close();
      fs.rmSync(profile, { recursive: true, force: true });
    }
  }
}

/* ---- what runs in a page ---- */

/** @param {{model: string, job: import('./tasks.js').Job}} message */
function taskInWorker(message) {
  const worker = new Worker('/tools/bench/page_worker.js', { type: 'module' });
  return new Promise((/** @type {(value: any) => void} */ resolve, reject) => {
    worker.onmessage = ({ data }) => ('done' in data ? resolve(data.done) : reject(new Error(data.failed)));
    worker.onerror = (event) => reject(new Error(event.message || 'the worker did not load'));
    worker.postMessage(message);
  });
}

/** @param {{model: string, threads: number}} options */
async function secondsToFirstToken({ model, threads }) {
  const { load } = await import(/** @type {string} */ ('/web/index.js'));
  const start = performance.now();
  const llm = await load(model, { threads });
  const answer = llm.generate({ messages: [{ role: 'user', content: 'Hello!' }] }, { maxTokens: 1, temperature: 0 });
  for await (const chunk of answer) void chunk;
  const seconds = (performance.now() - start) / 1000;
  await llm.free();
  return seconds;
}
