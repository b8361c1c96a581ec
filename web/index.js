/**
 * Skipstone in a browser.
 *
 *     import { load } from 'skipstone';
 *     const llm = await load('hf:owner/repo:Q4_1', { bank: 'auto' });
 *     for await (const { text } of llm.generate({ messages: [{ role: 'user', content: 'Hello!' }] })) show(text);
 *     await llm.free();
 */
import { modelsOf } from '../store/models.js';
import { canRun as canRunHere, Llm as Loaded } from '../wasm/llm.js';
import { serve } from '../wasm/serve.js';
import { host } from './host.js';

export { SkipstoneError } from '../wasm/errors.js';
export { probe } from '../wasm/loader.js';

/**
 * @typedef {import('../wasm/options.js').LoadOptions} LoadOptions
 * @typedef {import('../wasm/options.js').GenerateOptions} GenerateOptions
 * @typedef {import('../wasm/generate.js').Chunk} Chunk
 * @typedef {import('../wasm/generate.js').Result} Result
 * @typedef {import('../wasm/llm.js').Llm} Llm
 * @typedef {import('../wasm/llm.js').Info} Info
 * @typedef {import('../wasm/can_run.js').Verdict} Verdict
 * @typedef {import('../store/parse.js').ModelName} ModelName
 * @typedef {import('../wasm/openai_body.js').ChatBody} ChatBody
 * @typedef {import('../wasm/openai_body.js').ChatMessage} ChatMessage
 * @typedef {import('../wasm/openai.js').ChatCompletion} ChatCompletion
 * @typedef {import('../wasm/openai.js').ChatCompletionChunk} ChatCompletionChunk
 * @typedef {import('../wasm/session.js').Session} Session
 * @typedef {import('../wasm/session.js').SessionOptions} SessionOptions
 */

const here = import.meta.url;
/** @type {import('../wasm/platform.js').WorkerFile} */
const WORKER = {
  url: new URL('./worker.js', here),
  start: () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'skipstone engine' }),
  serve: (port) => serve(host, port),
};

/** @param {string} text What a string is that is no address: one relative to the page. @returns {import('../store/parse.js').Place} */
const relative = (text) => ({ kind: 'url', url: new URL(text, globalThis.document?.baseURI ?? globalThis.location.href).href });

/**
 * Loads a model: 'hf:owner/repo:QUANT', {repo, file, revision}, a URL, a File or Blob, or an array of shards. The engine runs in
 * a worker of its own: the page stays free. What is fetched is stored, and not fetched again.
 * @param {ModelName} source
 * @param {LoadOptions} [options]
 * @returns {Promise<import('../wasm/llm.js').Llm>}
 */
export async function load(source, options = {}) {
  const cache = options?.cache ?? true;
  if (cache !== false && (typeof cache !== 'object' || cache.persist !== false)) void persist();
  return Loaded.load(WORKER, source, options, relative);
}

/**
 * Whether this device can run a model, and how fast: reads the header of its file alone.
 * @param {ModelName} source
 * @param {LoadOptions} [options]
 * @returns {Promise<import('../wasm/can_run.js').Verdict>}
 */
export async function canRun(source, options = {}) {
  return canRunHere(WORKER, source, options, relative);
}

/** Asks the browser to keep the store when room runs short; it may say no, and nothing depends on it. */
async function persist() {
  if (!globalThis.document || (await navigator.storage?.persisted?.())) return;
  await navigator.storage?.persist?.().catch(() => {});
}

/** The stored models. */
export const models = modelsOf(host, relative);
