/**
 * How fast this device runs a model, from runs of some blocks: what a token costs outside blocks, and per multiply-add in them.
 * A prediction for a mask is then a sum.
 *
 * Decoding is bound by how fast weights come from memory, so it is timed on all the blocks that are there; a prefill is bound
 * by arithmetic, so two layers are enough, with as many tokens as a real step has.
 */

const BUDGET_MS = 200;
const PREFILL_BLOCKS = 4;
const CONTEXT = 512; // as long as a step may be

/**
 * @typedef {object} Speed  Milliseconds for each token; `perMac` for a multiply-add of block matmuls.
 * @property {{base: number, perMac: number}} prefill
 * @property {{base: number, perMac: number}} decode
 */

/**
 * @param {import('./engine.js').Engine} engine
 * @param {number} layers
 * @param {import('./engine.js').BlockCost[]} costs
 * @param {number} chunk tokens of a prefill step
 * @param {boolean[]} present  by block: whether it can run
 * @returns {Speed}
 */
export function measure(engine, layers, costs, chunk, present) {
  let token = 0;
  /** Milliseconds of running n tokens. @param {number} n */
  const run = (n) => {
    const tokens = Array.from({ length: n }, () => (token = (token + 7) % 200));
    const started = performance.now();
    engine.begin(tokens);
    while (!engine.step(0));
    return performance.now() - started;
  };
  /**
   * Milliseconds for each of n tokens at once, with the first `blocks` of those that are there: the median of as many runs as
   * the time allows, after one that does not count.
   * @param {number} n @param {number} blocks @param {number} budget ms
   */
  const time = (n, blocks, budget) => {
    const left = present.map((there, block) => there && present.slice(0, block).filter(Boolean).length < blocks);
    engine.openSession(engine.parseMask(skipOf(left.map((runs) => !runs)), layers), CONTEXT, chunk);
    const times = [];
    const started = performance.now();
    for (let i = 0; i < 2 || (performance.now() - started < budget && i < 32); i++) {
      if (n > 1) engine.keep(0);
      times.push(run(n) / n);
    }
    engine.closeSession();
    const macs = costs.reduce((sum, cost, block) => sum + (left[block] ? cost.macs : 0), 0);
    return { ms: times.slice(1).toSorted((a, b) => a - b)[(times.length - 1) >> 1], macs };
  };
  /** @param {number} n @param {number} blocks @param {number} budget */
  const speed = (n, blocks, budget) => {
    const { ms: base } = time(n, 0, budget / 4);
    const { ms, macs } = time(n, blocks, (3 * budget) / 4);
    return { base, perMac: macs ? Math.max(0, ms - base) / macs : 0 };
  };
  return { decode: speed(1, costs.length, BUDGET_MS / 2), prefill: speed(chunk, PREFILL_BLOCKS, BUDGET_MS / 2) };
}

/** Tokens per second. @param {{base: number, perMac: number}} speed @param {number} macs of the blocks that run */
export const tokensPerSecond = ({ base, perMac }, macs) => 1000 / (base + perMac * macs);

/**
 * The greatest depth, 1 or one of a bank's, that decodes at least so fast; the deepest level where none does.
 * @param {Speed} speed
 * @param {number} macs of all blocks
 * @param {number[]} levels shares that are skipped, ascending
 * @param {number} wanted tokens per second
 */
export function depthFor(speed, macs, levels, wanted) {
  const skips = [0, ...levels];
  const skip = skips.find((share) => tokensPerSecond(speed.decode, (1 - share) * macs) >= wanted) ?? skips[skips.length - 1];
  return { depth: 1 - skip, decodeTokensPerSecond: tokensPerSecond(speed.decode, (1 - skip) * macs) };
}

/** @param {boolean[]} skipped by block */
export function skipOf(skipped) {
  const kinds = ['attn', 'ffn'].map((kind, i) => {
    const layers = skipped.flatMap((skip, block) => (skip && block % 2 === i ? [block >> 1] : []));
    return layers.length ? `${kind}:${layers.join(',')}` : '';
  });
  return kinds.filter(Boolean).join(';');
}
