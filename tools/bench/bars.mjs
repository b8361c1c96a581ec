/* What is wanted, and whether it was reached. */

/**
 * @typedef {object} Bar  A number to reach, or not to pass.
 * @property {number} [least]
 * @property {number} [aim] better than least
 * @property {number} [most]
 *
 * @typedef {'yes' | 'no' | 'the bar, not the aim' | '-'} Met
 */

/** Speeds against a peer with as many threads. */
export const AGAINST_PEERS = [
  { ours: 'native', theirs: 'llama.cpp', quantisation: 'Q4_1', prefill: { least: 2.5 }, decode: { least: 1.6 } },
  {
    ours: 'native',
    theirs: 'llama.cpp',
    quantisation: 'Q4_0',
    prefill: { least: 1.3, aim: 1.6 },
    decode: { least: 1.3 },
  },
  {
    ours: 'chromium',
    theirs: 'llama.cpp',
    quantisation: 'Q4_1',
    prefill: { least: 1.3, aim: 1.7 },
    decode: { least: 1.2, aim: 1.6 },
  },
  {
    ours: 'chromium',
    theirs: 'llama.cpp',
    quantisation: 'Q4_0',
    prefill: { least: 0.75, aim: 1 },
    decode: { least: 1 },
  },
  { ours: 'chromium', theirs: 'wllama', quantisation: '', prefill: { least: 15 }, decode: { least: 10 } },
];
/** Two threads against one. */
export const SCALING = { prefill: { least: 1.85 }, decode: { least: 1.6 } };
/** Time in blocks, masked at 25 % against dense. */
export const MASKED = { skipped: 0.25, prefill: { most: 0.765 }, decode: { most: 0.775 } };
/** What a token of context costs more at the end than on average over the first contexts; 1 is linear. */
export const GROWTH = { most: 1.1 };
/** Bytes of the file per second. */
export const REPACKING = { native: { least: 1e9 }, wasm: { least: 0.5e9 } };
/** Seconds from load() to the first token, the model being stored. */
export const WARM_LOAD = { most: 0.7 };
/** A visit to a page with ours over one with wllama: bytes of the runtime, and seconds to the first token with a stored model. */
export const VISIT = { runtime: { most: 1 / 20 }, warm: { most: 1 / 4 } };
/** Memory over packed weights and KV cache. */
export const MEMORY = { most: 1.15 };

/** @param {number} value @param {Bar} [bar] @returns {Met} */
export function met(value, bar) {
  if (!bar || !Number.isFinite(value)) return '-';
  if (bar.most !== undefined && value > bar.most) return 'no';
  if (bar.least !== undefined && value < bar.least) return 'no';
  return bar.aim !== undefined && value < bar.aim ? 'the bar, not the aim' : 'yes';
}

/** A bar in words. @param {Bar} [bar] @param {(value: number) => string} [text] of a number */
export function wanted(bar, text = String) {
  if (!bar) return '-';
  if (bar.most !== undefined) return `at most ${text(bar.most)}`;
  const least = `at least ${text(bar.least ?? 0)}`;
  return bar.aim === undefined ? least : `${least}, aim ${text(bar.aim)}`;
}
