/**
 * Skipstone in Node.
 *
 *     import { load } from 'skipstone';
 *     const llm = await load('SmolLM2-135M-Instruct.Q4_1.gguf');
 *     for await (const { text } of llm.generate({ messages: [{ role: 'user', content: 'Hello!' }] })) process.stdout.write(text);
 *     await llm.free();
 */
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
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

/** @type {import('../wasm/platform.js').WorkerFile} */
const WORKER = { url: new URL('./worker.js', import.meta.url), serve: (port) => serve(host, port) };

/** @param {string} text @returns {import('../store/parse.js').Place} */
const path = (text) => ({ kind: 'path', path: text.startsWith('file:') ? fileURLToPath(text) : resolve(text) });

/**
 * Loads a model: a path, 'hf:owner/repo:QUANT', {repo, file, revision}, a URL, a Blob, or an array of shards. The engine runs in
 * a worker thread of its own: the event loop stays free. What is fetched is stored, and not fetched again.
 * @param {ModelName} source
 * @param {LoadOptions} [options]
 * @returns {Promise<import('../wasm/llm.js').Llm>}
 */
export async function load(source, options = {}) {
  return Loaded.load(WORKER, source, options, path);
}

/**
 * Whether this machine can run a model, and how fast: reads the header of its file alone.
 * @param {ModelName} source
 * @param {LoadOptions} [options]
 * @returns {Promise<import('../wasm/can_run.js').Verdict>}
 */
export async function canRun(source, options = {}) {
  return canRunHere(WORKER, source, options, path);
}

/** The stored models. */
export const models = modelsOf(host, path);
