/**
 * How fast this device runs a model, from runs of a few blocks: what a token costs outside blocks, and per multiply-add in
 * them. A prediction for a mask is then a sum.
 */

const BUDGET_MS = 200;
const PREFILL_TOKENS = 64;

/**
 * @typedef {object} Speed  Milliseconds for each token; `perMac` for a multiply-add of block matmuls.
 * @property {{base: number, perMac: number}} prefill
 * @property {{base: number, perMac: number}} decode
 */

/**
 * @param {import('./engine.js').Engine} engine
 * @param {number} layers
 * @param {import('./engine.js').BlockCost[]} costs
 * @param {boolean[]} present  by block: whether it can run
 * @returns {Speed}
 */
export function measure(engine, layers, costs, present) {
  const some = engine.parseMask(skipOf(present.map((there) => !there)), layers);
  const none = engine.parseMask(skipOf(present.map(() => true)), layers);
  const macs = costs.reduce((sum, cost, block) => sum + (present[block] ? cost.macs : 0), 0);
  let token = 0;
  /** @param {number} n */
  const run = (n) => {
    const tokens = Array.from({ length: n }, () => (token = (token + 7) % 200));
    const started = performance.now();
    engine.begin(tokens);
    while (!engine.step(0));
    return performance.now() - started;
  };
  /** The median of runs, after one that does not count. @param {number} n @param {number} budget ms */
  const median = (n, budget) => {
    const times = [];
    const started = performance.now();
    for (let i = 0; i < 4 || (performance.now() - started < budget && i < 24); i++) {
      if (n > 1) engine.keep(0);
      times.push(run(n) / n);
    }
    return times.slice(1).toSorted((a, b) => a - b)[(times.length - 1) >> 1];
  };
  engine.openSession(none, 128, PREFILL_TOKENS);
  const base = { prefill: median(PREFILL_TOKENS, BUDGET_MS / 8), decode: (engine.keep(0), median(1, BUDGET_MS / 8)) };
  engine.openSession(some, 128, PREFILL_TOKENS);
  const with_ = { prefill: median(PREFILL_TOKENS, BUDGET_MS / 2), decode: (engine.keep(0), median(1, BUDGET_MS / 4)) };
  engine.closeSession();
  /** @param {'prefill' | 'decode'} kind */
  const speed = (kind) => ({ base: base[kind], perMac: macs ? Math.max(0, with_[kind] - base[kind]) / macs : 0 });
  return { prefill: speed('prefill'), decode: speed('decode') };
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
