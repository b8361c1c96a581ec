/**
 * What is timed of ours in WebAssembly, in Node.js and in a page's worker alike: the engine runs on this thread, so that
 * nothing but the core is timed. Each task loads the model anew and lets V8 optimise first.
 *
 * @typedef {object} Job
 * @property {keyof typeof TASKS} task
 * @property {import('../../wasm/loader.js').Variant | 'auto'} variant
 * @property {number} threads
 * @property {number} prefill tokens of a prompt
 * @property {number} decode tokens decoded one by one
 * @property {number} behind tokens of context in front of these
 * @property {string} [skip] the masked side of `blocks`
 * @property {boolean} [maskedFirst] of the two sides of `blocks`
 * @property {number[]} [contexts] of `context`, ascending
 *
 * @typedef {{prefill_tps: number, decode_tps: number}} Speed
 * @typedef {{prefill: number, decode: number}} BlocksRatio time in blocks, masked over dense
 * @typedef {{context: number, ms: number}[]} ContextTimes of one token behind so many
 * @typedef {{bytes_per_s: number}} Repacking
 * @typedef {{bytes: number, packed_bytes: number, kv_bytes: number}} MemoryUse
 */
import { Engine } from '../../wasm/engine.js';
import { chunkTokens } from '../../wasm/loading.js';

const PIECE = 1 << 20; // bytes of the file that are fed at once
const WARM_UP = 16; // decoded tokens

/** A model in an engine of its own. */
class Bench {
  #seed = 1;

  /** @param {Engine} engine @param {Uint8Array} file */
  constructor(engine, file) {
    this.engine = engine;
    engine.openModel();
    const start = performance.now();
    for (let at = 0, complete = false; !complete; at += PIECE) {
      if (at >= file.length) throw new Error('the model file is truncated');
      ({ complete } = engine.feed(at, file.subarray(at, at + PIECE)));
    }
    this.feedSeconds = (performance.now() - start) / 1000;
    engine.endFeed();
    this.model = engine.modelInfo();
    const costs = Array.from({ length: this.model.blocks }, (_, block) => engine.blockCost(block));
    this.chunk = chunkTokens(costs, engine.module.threads);
  }

  /** @param {number} context @param {string} [skip] */
  open(context, skip = '') {
    const mask = this.engine.parseMask(skip, this.model.layers);
    this.blocksRun = mask.blocksRun;
    this.engine.openSession(mask, context, this.chunk);
    return this.engine.sessionSize(mask, context, this.chunk);
  }

  /** Ordinary tokens. @param {number} n */
  tokens(n) {
    return Array.from(
      { length: n },
      () => 100 + ((this.#seed = (this.#seed * 48271) % 2147483647) % (this.model.vocabulary - 200)),
    );
  }

  /**
   * Milliseconds of running so many more tokens, with logits of the last: all of it, and without the output head.
   * @param {number} n
   */
  run(n) {
    const tokens = this.tokens(n);
    const blocks = Math.ceil(n / this.chunk) * (this.blocksRun ?? 0);
    const start = performance.now();
    this.engine.begin(tokens);
    this.engine.step(blocks); // stops in front of the head
    const inBlocks = performance.now() - start;
    this.engine.step(0);
    return { all: performance.now() - start, inBlocks };
  }

  /** @param {number} n one by one */
  decode(n) {
    const sum = { all: 0, inBlocks: 0 };
    for (let i = 0; i < n; i++) {
      const { all, inBlocks } = this.run(1);
      sum.all += all;
      sum.inBlocks += inBlocks;
    }
    return sum;
  }

  /** @param {Job} job */
  prefillAndDecode({ prefill, decode, behind }) {
    this.engine.keep(0);
    const first = this.run(prefill);
    this.engine.keep(0);
    this.run(behind);
    return { prefill: first, decode: this.decode(decode) };
  }

  /** @param {Job} job */
  warmUp({ prefill }) {
    this.run(prefill);
    this.decode(WARM_UP);
  }
}

/** @param {Job} job */
const contextOf = ({ prefill, decode, behind }) => Math.max(prefill + WARM_UP, behind + decode);

const TASKS = {
  /** @param {Bench} bench @param {Job} job @returns {Speed} */
  speed(bench, job) {
    bench.open(contextOf(job));
    bench.warmUp(job);
    const { prefill, decode } = bench.prefillAndDecode(job);
    return { prefill_tps: (1000 * job.prefill) / prefill.all, decode_tps: (1000 * job.decode) / decode.all };
  },

  /** @param {Bench} bench @param {Job} job @returns {BlocksRatio} */
  blocks(bench, job) {
    const sums = { masked: { prefill: 0, decode: 0 }, dense: { prefill: 0, decode: 0 } };
    /** @type {('masked' | 'dense')[]} */
    const order = job.maskedFirst ? ['masked', 'dense', 'dense', 'masked'] : ['dense', 'masked', 'masked', 'dense'];
    order.forEach((side, i) => {
      // so that a drift of the machine's speed hits both
      bench.open(contextOf(job), side === 'masked' ? job.skip : '');
      if (i < 2) bench.warmUp(job);
      const { prefill, decode } = bench.prefillAndDecode(job);
      sums[side].prefill += prefill.inBlocks;
      sums[side].decode += decode.inBlocks;
    });
    const { masked, dense } = sums;
    return { prefill: masked.prefill / dense.prefill, decode: masked.decode / dense.decode };
  },

  /** @param {Bench} bench @param {Job} job @returns {ContextTimes} */
  context(bench, job) {
    const contexts = job.contexts ?? [];
    bench.open(Math.max(contextOf(job), ...contexts.map((context) => context + job.decode)));
    bench.warmUp(job);
    bench.engine.keep(0);
    let held = 0;
    return contexts.map((context) => {
      bench.run(context - held);
      const ms = bench.decode(job.decode).all / job.decode;
      bench.engine.keep((held = context));
      return { context, ms };
    });
  },

  /** @param {Bench} bench @param {Job} job @param {Uint8Array} file @returns {Repacking} */
  repack(bench, job, file) {
    return { bytes_per_s: file.length / bench.feedSeconds };
  },

  /** @param {Bench} bench @param {Job} job @returns {MemoryUse} */
  memory(bench, job) {
    const { kvBytes } = bench.open(contextOf(job));
    bench.prefillAndDecode(job);
    return { bytes: bench.engine.memory().bytes, packed_bytes: bench.model.packedBytes, kv_bytes: kvBytes };
  },
};

/**
 * @param {Job} job
 * @param {Uint8Array} file the model's
 */
export async function runTask(job, file) {
  const { task, variant, threads } = job;
  if (task === 'repack') {
    const warm = await Engine.create({ variant, threads });
    new Bench(warm, file); // V8 optimises while this one is fed
    await warm.close();
  }
  const engine = await Engine.create({ variant, threads });
  const bench = new Bench(engine, file);
  const result = TASKS[task](bench, job, file);
  await engine.close();
  return { result, kernels: bench.model.kernels };
}
