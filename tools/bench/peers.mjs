/* The programs that one would take instead: llama.cpp, native, and wllama, which is llama.cpp in WebAssembly. Neither is a
 * part of this project: their paths are given. wllama answers a prompt of about the tokens that decoding runs behind, which
 * is the prefill that is timed too. */
import fs from 'node:fs';
import path from 'node:path';
import { BenchError, jsonOf } from './command.mjs';

/** @typedef {import('./sections.mjs').Sizes} Sizes @typedef {import('./sections.mjs').Case} Case */

const WLLAMA = 'node_modules/@wllama/wllama';
/** In URLs. */
const WLLAMA_FOLDER = '/wllama/';

/** @param {string} program the path of llama-bench */
export function llamaSide(program) {
  /** @type {any} */
  let last;
  /** @param {Case} where @param {(string | number)[]} args */
  const measure = async ({ model, threads }, args) => {
    [last] = await jsonOf(program, ['-m', model.file, '-t', threads, '-r', 1, '-o', 'json', ...args].map(String));
    return /** @type {number} */ (last.samples_ts[0]);
  };
  return {
    name: 'llama.cpp',
    /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').Speed>} */
    speed: async (where, { prefill, decode, behind }) => ({
      prefill_tps: await measure(where, ['-p', prefill, '-n', 0]),
      decode_tps: await measure(where, ['-p', 0, '-n', decode, '-d', behind]),
    }),
    /** Once it has run. */
    version: () => (last ? `build ${last.build_number} (${last.build_commit})` : ''),
  };
}

/** The folders that a server needs for wllama. @param {string} folder with node_modules/@wllama/wllama in it */
export function wllamaFolders(folder) {
  return { [WLLAMA_FOLDER]: path.join(folder, WLLAMA) };
}

/** @param {import('./browser.mjs').Chromium} chromium @param {string} folder */
export function wllamaSide(chromium, folder) {
  const manifest = path.join(folder, WLLAMA, 'package.json');
  if (!fs.existsSync(manifest))
    throw new BenchError(`${manifest} is not there: want a folder where npm has installed @wllama/wllama`);
  return {
    name: 'wllama',
    /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').Speed>} */
    speed: ({ model, threads }, sizes) =>
      chromium.inPage(completeInPage, { folder: WLLAMA_FOLDER, model: chromium.url(model), threads, sizes }),
    /** @param {Case} where @param {number} context @param {boolean} weigh */
    visits: (where, context, weigh) => chromium.visits(visitInPage, WLLAMA_FOLDER, where, context, weigh),
    version: () => /** @type {string} */ (JSON.parse(fs.readFileSync(manifest, 'utf8')).version),
  };
}

/** @param {{folder: string, model: string, threads: number, sizes: Sizes}} options */
async function completeInPage({ folder, model, threads, sizes: { decode, behind } }) {
  const { Wllama } = await import(/** @type {string} */ (`${folder}esm/index.js`));
  const wllama = new Wllama({ default: `${folder}esm/wasm/wllama.wasm` }, { suppressNativeLog: true });
  const blob = await (await fetch(model)).blob();
  await wllama.loadModel([blob], { n_ctx: 2 * behind + decode, n_threads: threads, n_batch: 512, n_gpu_layers: 0 });
  const line = 'The quick brown fox jumps over the lazy dog while the sun sets behind the distant mountains. ';
  /** @param {number} lines of the prompt @param {number} answer tokens */
  const complete = async (lines, answer) => {
    const options = {
      prompt: line.repeat(lines),
      max_tokens: answer,
      temperature: 0,
      cache_prompt: false,
      ignore_eos: true,
    };
    return (await wllama.createCompletion(options)).timings;
  };
  const { prompt_n } = await complete(1, 4); // V8 optimises, and a line's tokens are counted
  const { prompt_per_second, predicted_per_second } = await complete(
    Math.max(1, Math.round(behind / prompt_n)),
    decode + 1,
  );
  await wllama.exit();
  return { prefill_tps: prompt_per_second, decode_tps: predicted_per_second };
}

/** @param {import('./browser.mjs').VisitOptions} options @returns {Promise<import('./browser.mjs').Visit>} */
async function visitInPage({ model, threads, context, folder }) {
  const start = performance.now();
  const { Wllama } = await import(/** @type {string} */ (`${folder}esm/index.js`));
  const wllama = new Wllama({ default: `${folder}esm/wasm/wllama.wasm` }, { suppressNativeLog: true });
  const url = new URL(model, location.href).href;
  await wllama.loadModelFromUrl(url, { n_ctx: context, n_threads: threads, n_batch: 512, n_gpu_layers: 0 });
  await wllama.createChatCompletion({ messages: [{ role: 'user', content: 'Hello!' }], max_tokens: 1, temperature: 0 });
  return { seconds: (performance.now() - start) / 1000 };
}
