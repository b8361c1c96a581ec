/* A side of the comparison that runs tasks.js somewhere. */

/** @typedef {import('./sections.mjs').Sizes} Sizes @typedef {import('./sections.mjs').Case} Case */
/** @typedef {Omit<import('./tasks.js').Job, 'variant'>} Job */

/** @param {string} name @param {(where: Case, job: Job) => Promise<any>} run what gives a task's result */
export function wasmSide(name, run) {
  return {
    name,
    /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').Speed>} */
    speed: (where, sizes) => run(where, { task: 'speed', threads: where.threads, ...sizes }),
    /**
     * @param {Case} where
     * @param {Sizes} sizes
     * @param {{skip: string, maskedFirst: boolean}} mask
     * @returns {Promise<import('./tasks.js').BlocksRatio>}
     */
    blocks: (where, sizes, mask) => run(where, { task: 'blocks', threads: where.threads, ...sizes, ...mask }),
    /**
     * @param {Case} where
     * @param {Sizes} sizes
     * @param {number[]} contexts
     * @returns {Promise<import('./tasks.js').ContextTimes>}
     */
    context: (where, sizes, contexts) => run(where, { task: 'context', threads: where.threads, ...sizes, contexts }),
    /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').Repacking>} */
    repack: (where, sizes) => run(where, { task: 'repack', threads: 1, ...sizes }),
    /** @param {Case} where @param {Sizes} sizes @returns {Promise<import('./tasks.js').MemoryUse>} */
    memory: (where, sizes) => run(where, { task: 'memory', threads: where.threads, ...sizes }),
  };
}
