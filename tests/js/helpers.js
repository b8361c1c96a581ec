/** What the tests share: the model, the modules, and why a test is skipped where they are not there. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { load, probe } from '../../node/index.js';

export const MODEL = fileURLToPath(new URL('../../models/SmolLM2-135M-Instruct.Q4_1.gguf', import.meta.url));
export const DIST = new URL('../../wasm/dist/', import.meta.url);
export const NATIVE = fileURLToPath(new URL('../../build/release/skipstone', import.meta.url));

const MODULES = ['simd128', 'simd128-threads', 'relaxed', 'relaxed-threads'];
export const moduleUrl = (/** @type {string} */ name) => new URL(`skipstone-${name}.wasm`, DIST);

/** @type {string | false} */
export const noModules = MODULES.every((name) => existsSync(moduleUrl(name))) ? false : 'wasm/dist is not built (npm run build)';
/** @type {string | false} */
export const noModel = noModules || (existsSync(MODEL) ? false : `${MODEL} is not there (npm run setup)`);
/** @type {string | false} */
export const noRelaxed = probe().relaxed ? false : probe().why.relaxed;

/** @param {import('../../node/index.js').LoadOptions} [options] */
export const loadModel = (options) => load(MODEL, { contextSize: 1024, ...options });

/** @param {string} content */
const ask = (content) => ({ messages: [{ role: 'user', content }] });
/** Greedily answered by "The answer to this classic math problem is 4.", 12 tokens with the end token. */
export const QUESTION = ask('What is 2 plus 2?');
/** Answered at length. */
export const STORY = ask('Tell me a long story about a river.');

/** A prompt of n tokens. @param {import('../../node/index.js').Llm} llm @param {number} n */
export async function longPrompt(llm, n) {
  const tokens = await llm.tokenize('The quick brown fox jumps over the lazy dog and runs. '.repeat(Math.ceil(n / 10)));
  return tokens.slice(0, n);
}

/** A folder for one test, removed after it. @param {import('node:test').TestContext} t */
export function folder(t) {
  const path = mkdtempSync(join(tmpdir(), 'skipstone-'));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

export const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));
