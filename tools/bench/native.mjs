/* Ours, native: the command `skipstone bench`. */
import fs from 'node:fs';
import path from 'node:path';
import { root } from '../setup/steps.mjs';
import { BenchError, jsonOf } from './command.mjs';

const binary = process.env.SKIPSTONE ?? path.join(root, 'build/release/skipstone');

/** @typedef {import('./sections.mjs').Sizes} Sizes @typedef {import('./sections.mjs').Case} Case */

export function requireNative() {
  if (!fs.existsSync(binary)) throw new BenchError(`${binary} is not there: npm run build`);
}

/** What a model file is: its weights' quantisation and its context. @param {string} file */
export async function describe(file) {
  const { quantisation, context_train } = await jsonOf(binary, ['inspect', file, '--json', '--blocks']);
  return { quantisation: /** @type {string} */ (quantisation), context: /** @type {number} */ (context_train) };
}

/**
 * One timed run.
 * @param {Case} where
 * @param {{prefill?: number, decode?: number, behind?: number}} sizes
 * @param {string[]} [more]
 */
function run({ model, threads }, { prefill = 0, decode = 0, behind = 0 }, more = []) {
  const sizes = ['-p', prefill, '-n', decode, '-d', behind].map(String);
  return jsonOf(binary, [
    'bench',
    '-m',
    model.file,
    ...sizes,
    '-r',
    '1',
    '--threads',
    String(threads),
    '--json',
    ...more,
  ]);
}

export const native = {
  name: 'native',

  /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').Speed>} */
  async speed(where, sizes) {
    const { prefill_tps, decode_tps } = await run(where, sizes);
    return { prefill_tps, decode_tps };
  },

  /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').BlocksRatio>} */
  async blocks(where, sizes) {
    const { ratio } = await run(where, sizes, ['--proportional', String(sizes.skipped), '--compare-dense', '-r', '4']);
    return { prefill: ratio.prefill_blocks, decode: ratio.decode_blocks };
  },

  /**
   * @param {Case} where
   * @param {Sizes} sizes
   * @param {number[]} contexts
   * @returns {Promise<import('./tasks.js').ContextTimes>}
   */
  async context(where, { decode }, contexts) {
    const times = [];
    for (const context of contexts) {
      const { decode_tps } = await run(where, { decode, behind: context });
      times.push({ context, ms: 1000 / decode_tps });
    }
    return times;
  },

  /** @param {Case} where @returns {Promise<import('./tasks.js').Repacking>} */
  async repack(where) {
    const { load } = await run(where, { prefill: 1 }, ['--load']);
    return { bytes_per_s: load.bytes_per_s };
  },

  /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').MemoryUse>} */
  async memory(where, sizes) {
    const { peak_rss_bytes, packed_bytes, kv_bytes } = await run(where, sizes);
    return { bytes: peak_rss_bytes, packed_bytes, kv_bytes };
  },
};

/** The mask that skips this share of a model's blocks, as text. @param {Case} where @param {number} share */
export async function proportionalSkip(where, share) {
  const { mask } = await run(where, { prefill: 1 }, ['--proportional', String(share)]);
  return /** @type {string} */ (mask.skip);
}

/**
 * Each kernel's share of its limit, of each set but the specification.
 * @param {number[]} threads
 * @param {string} only a part of their names, '' all
 */
export async function nativeKernels(threads, only) {
  const more = only ? ['--only', only] : [];
  const reports = await jsonOf(binary, [
    'bench',
    '--roofline',
    '--kernels',
    'all',
    '--threads',
    threads.join(','),
    '--json',
    ...more,
  ]);
  return /** @type {import('./table.mjs').KernelReport[]} */ ([reports].flat()).filter(
    ({ kernels }) => kernels !== 'scalar',
  );
}
