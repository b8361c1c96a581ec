/* The WebAssembly core's speed in this Node.js: prefill of 512 tokens, then decode of 128 behind 480, as `skipstone
 * bench` measures the native one. Medians; the engine runs on this thread, so nothing but the core is timed.
 *
 *   node tools/bench.mjs --threads 1,2 --variant simd128,relaxed --json */
import { open } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { Engine } from '../wasm/engine.js';
import { SkipstoneError } from '../wasm/errors.js';
import { probe } from '../wasm/loader.js';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: fileURLToPath(new URL('../models/SmolLM2-135M-Instruct.Q4_1.gguf', import.meta.url)) },
    threads: { type: 'string', default: '1,2' },
    variant: { type: 'string', default: probe().relaxed ? 'simd128,relaxed' : 'simd128' },
    skip: { type: 'string', default: '' },
    prefill: { type: 'string', default: '512' },
    decode: { type: 'string', default: '128' },
    behind: { type: 'string', default: '480' },
    chunk: { type: 'string', default: '128' },
    runs: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
});
const prefill = Number(values.prefill);
const decode = Number(values.decode);
const behind = Number(values.behind);
const runs = Number(values.runs);

/** @param {number[]} numbers */
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** @param {'simd128' | 'relaxed'} variant @param {number} threads */
async function bench(variant, threads) {
  const engine = await Engine.create({ variant, threads });
  engine.openModel();
  const file = await open(values.model);
  const buffer = new Uint8Array(4 << 20);
  for (let at = 0, complete = false; !complete; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (!bytesRead) throw new SkipstoneError('format', `${values.model} is truncated`);
    ({ complete } = engine.feed(at, buffer.subarray(0, bytesRead)));
    at += bytesRead;
  }
  await file.close();
  engine.endFeed();
  const model = engine.modelInfo();
  const mask = engine.parseMask(values.skip, model.layers);
  engine.openSession(mask, Math.max(prefill, behind + decode) + 8, Number(values.chunk));

  /** Seconds of running tokens. @param {number[]} tokens */
  const run = (tokens) => {
    const start = performance.now();
    engine.begin(tokens);
    while (!engine.step(0));
    return (performance.now() - start) / 1000;
  };
  let seed = 1;
  const token = () => 100 + ((seed = (seed * 48271) % 2147483647) % (model.vocabulary - 200));
  const some = (/** @type {number} */ n) => Array.from({ length: n }, token);

  run(some(prefill)); // compiles
  const prefills = [];
  const decodes = [];
  for (let i = 0; i < runs; i++) {
    engine.keep(0);
    prefills.push(prefill / run(some(prefill)));
    engine.keep(0);
    run(some(behind));
    let seconds = 0;
    for (let n = 0; n < decode; n++) seconds += run(some(1));
    decodes.push(decode / seconds);
  }
  await engine.close();
  return {
    prefill_tps: median(prefills),
    decode_tps: median(decodes),
    threads,
    kernels: model.kernels,
    mask: { blocks_run: mask.blocksRun, blocks_total: mask.blocks },
    node: process.versions.node,
  };
}

const results = [];
for (const variant of values.variant.split(',')) {
  for (const threads of values.threads.split(',').map(Number)) {
    const result = await bench(/** @type {'simd128' | 'relaxed'} */ (variant), threads);
    results.push(result);
    if (!values.json) {
      const { prefill_tps, decode_tps } = result;
      console.log(
        `${result.kernels.padEnd(14)} ${threads} threads   prefill ${prefill_tps.toFixed(1).padStart(7)} tok/s   ` +
          `decode ${decode_tps.toFixed(1).padStart(6)} tok/s   ${result.mask.blocks_run} of ${result.mask.blocks_total} blocks`,
      );
    }
  }
}
if (values.json) console.log(JSON.stringify(results, null, 2));
