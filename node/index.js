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
import { SkipstoneError } from '../wasm/errors.js';
import { Llm as Loaded } from '../wasm/llm.js';
import { serve } from '../wasm/serve.js';
import { open } from './host.js';

export { SkipstoneError } from '../wasm/errors.js';
export { probe } from '../wasm/loader.js';

/**
 * @typedef {import('../wasm/options.js').LoadOptions} LoadOptions
 * @typedef {import('../wasm/options.js').GenerateOptions} GenerateOptions
 * @typedef {import('../wasm/generate.js').Chunk} Chunk
 * @typedef {import('../wasm/generate.js').Result} Result
 * @typedef {import('../wasm/llm.js').Llm} Llm
 * @typedef {import('../wasm/llm.js').Info} Info
 */

/** @type {import('../wasm/platform.js').WorkerFile} */
const WORKER = { url: new URL('./worker.js', import.meta.url), serve: (port) => serve(open, port) };

/**
 * Loads a GGUF file. The engine runs in a worker thread of its own: the event loop stays free.
 * @param {string | URL} source path or file: URL
 * @param {LoadOptions} [options]
 * @returns {Promise<import('../wasm/llm.js').Llm>}
 */
export async function load(source, options = {}) {
  const files = /** @type {Record<string, unknown>} */ ({});
  for (const name of /** @type {const} */ (['bank', 'encoder']))
    if (options?.[name] !== undefined) files[name] = file(name, options[name]);
  const resolved = typeof options === 'object' ? { ...options, ...files } : options;
  return Loaded.load(WORKER, file('source', source), resolved);
}

/** @param {string} what @param {unknown} source */
function file(what, source) {
  if (source instanceof URL && source.protocol === 'file:') return { path: fileURLToPath(source) };
  if (typeof source === 'string' && source) return { path: resolve(source) };
  throw new SkipstoneError('argument', `load: the ${what} is ${String(source)}, want a path or a file: URL`);
}
