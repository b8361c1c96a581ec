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

const HELP = `usage: npm run bench -- [options]

Measures the WebAssembly core in this Node.js: tokens per second of prefill, and of decode behind a filled context.
Prints the median of several runs for each module variant and number of threads.

  --model FILE         GGUF file (default: models/SmolLM2-135M-Instruct.Q4_1.gguf)
  --threads LIST       numbers of threads (default: 1,2)
  --variant LIST       simd128, relaxed (default: all that this Node.js has)
  --skip SPEC          blocks to skip, as in attn:3,7;ffn:12 (default: none)
  --prefill N          tokens of the prompt (default: 512)
  --decode N           tokens to decode (default: 128)
  --behind N           tokens of context in front of the decoded ones (default: 480)
  --chunk N            tokens of a prefill step (default: 128)
  --runs N             timed runs (default: 5)
  --json               a JSON array instead of the table
  --help               this text`;

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
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
/** @param {string} name @param {string} text */
function whole(name, text) {
  const n = Number(text);
  if (Number.isInteger(n) && n >= 1) return n;
  console.error(`bench: --${name} ${text}: want a whole number from 1`);
  process.exit(2);
}
const prefill = whole('prefill', values.prefill);
const decode = whole('decode', values.decode);
const behind = whole('behind', values.behind);
const runs = whole('runs', values.runs);
const chunk = whole('chunk', values.chunk);
const threadCounts = values.threads.split(',').map((text) => whole('threads', text));

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
  engine.openSession(mask, Math.max(prefill, behind + decode) + 8, chunk);

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
  for (const threads of threadCounts) {
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
