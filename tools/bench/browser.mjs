/* Ours in Chromium: each task in a page of its own, the engine in the page's worker; and what visits to a page take. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { findChromium } from '../setup/packages.mjs';
import { root } from '../setup/steps.mjs';
import { serveFolders } from '../static_server.mjs';
import { BenchError } from './command.mjs';
import { peakOfRenderers } from './processes.mjs';
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

/**
 * @typedef {import('./sections.mjs').Case} Case
 * @typedef {{model: string, threads: number, context: number, folder: string}} VisitOptions  of a page: URLs' paths
 * @typedef {{seconds: number}} Visit  from the import of the package to the first token of an answer
 *
 * @typedef {object} Visits  A first one, which fetches the model, and the next.
 * @property {number} cold_seconds
 * @property {number} warm_seconds
 * @property {number} runtime_bytes  of all that was fetched but the model and the page
 * @property {number | undefined} page_bytes  JavaScript's and WebAssembly's memory of the page and its workers, with the model in it
 * @property {number | undefined} process_bytes  the most memory that the page's process had; known on Linux
 */

/** A Chromium with a server of the project's files, of the models' folders and of one more. */
export class Chromium {
  #playwright;
  #executablePath;
  /** @type {import('../static_server.mjs').Served} */ #server;
  /** @type {import('playwright-core').Browser | undefined} */ #browser;
  /** What the server has sent, by path. @type {Map<string, number>} */ #sent;

  /**
   * @param {typeof import('playwright-core')} playwright
   * @param {string} executablePath
   * @param {import('../static_server.mjs').Served} server
   * @param {Map<string, number>} sent
   */
  constructor(playwright, executablePath, server, sent) {
    this.#playwright = playwright;
    this.#executablePath = executablePath;
    this.#server = server;
    this.#sent = sent;
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
    /** @type {Map<string, number>} */
    const sent = new Map();
    const server = await serveFolders({
      folders: { '/': root, ...served, ...folders },
      handler(request, response) {
        const name = request.url ?? '';
        response.on('finish', () => sent.set(name, (sent.get(name) ?? 0) + Number(response.getHeader('content-length') ?? 0)));
        return false;
      },
    });
    return new Chromium(playwright, executablePath, server, sent);
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
    const side = wasmSide('chromium', async ({ model }, job) => {
      const argument = { model: this.url(model), job: { variant: /** @type {const} */ ('auto'), ...job } };
      const { result } = await this.inPage(taskInWorker, argument);
      return result;
    });
    /** @type {import('./sections.mjs').Side['visits']} */
    const visits = (where, context, weigh) => this.visits(visitInPage, '/', where, context, weigh);
    return { ...side, visits };
  }

  /**
   * Two visits to a page, with a profile on disk of their own.
   * @param {(options: VisitOptions) => Promise<Visit>} visit  in the page
   * @param {string} folder  of the package, in URLs
   * @param {Case} where
   * @param {number} contextSize
   * @param {boolean} weigh  the page's memory too, which takes the browser a minute
   * @returns {Promise<Visits>}
   */
  async visits(visit, folder, { model, threads }, contextSize, weigh) {
    const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-bench-'));
    const context = await this.#playwright.chromium.launchPersistentContext(profile, this.#launchOptions());
    const options = { model: this.url(model), threads, context: contextSize, folder };
    const one = async () => {
      const page = await context.newPage();
      await page.goto(this.#server.url + PAGE);
      this.#sent.clear();
      const { seconds } = await page.evaluate(visit, options);
      return { page, seconds };
    };
    try {
      const cold = await one();
      const runtime = [...this.#sent].filter(([name]) => name !== options.model);
      const process_bytes = peakOfRenderers(profile);
      const page_bytes = weigh ? await cold.page.evaluate(memoryOfPage) : undefined;
      await cold.page.close();
      const warm = await one();
      return {
        cold_seconds: cold.seconds,
        warm_seconds: warm.seconds,
        runtime_bytes: runtime.reduce((sum, [, bytes]) => sum + bytes, 0),
        page_bytes,
        process_bytes,
      };
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

/** @param {VisitOptions} options @returns {Promise<Visit>} */
async function visitInPage({ model, threads, context, folder }) {
  const start = performance.now();
  const { load } = await import(/** @type {string} */ (`${folder}web/index.js`));
  const llm = await load(model, { threads, contextSize: context });
  const answer = llm.generate({ messages: [{ role: 'user', content: 'Hello!' }] }, { maxTokens: 1, temperature: 0 });
  for await (const chunk of answer) void chunk;
  return { seconds: (performance.now() - start) / 1000 };
}

/** @returns {Promise<number | undefined>} */
async function memoryOfPage() {
  const asking = /** @type {any} */ (performance).measureUserAgentSpecificMemory?.();
  return (await asking)?.bytes;
}
