/* How good canRun's estimates are: by turns what it says of a model, and what an answer of that model then takes.
 *
 *   node tools/can_run.mjs --model models/SmolLM2-135M-Instruct.Q4_1.gguf --pairs 5 */
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { canRun, load } from '../node/index.js';

const HELP = `usage: node tools/can_run.mjs [options]

Compares canRun's estimates with what is measured, in interleaved pairs. Prints each pair and the medians of the ratios
estimate / measured, for tokens per second of prefill and of decode, and for the memory at its peak.

  --model FILE      GGUF file, URL or hf:owner/repo:QUANT (default: models/SmolLM2-135M-Instruct.Q4_1.gguf)
  --pairs N         how many (default: 5)
  --threads N       default: as load chooses
  --prefill N       tokens of the prompt (default: 256)
  --decode N        tokens of the answer (default: 64)
  --json            a JSON array of the pairs instead
  --help            this text`;

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: fileURLToPath(new URL('../models/SmolLM2-135M-Instruct.Q4_1.gguf', import.meta.url)) },
    pairs: { type: 'string', default: '5' },
    threads: { type: 'string' },
    prefill: { type: 'string', default: '256' },
    decode: { type: 'string', default: '64' },
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
  console.error(`can_run: --${name} ${text}: want a whole number from 1`);
  process.exit(2);
}
const pairs = whole('pairs', values.pairs);
const prefill = whole('prefill', values.prefill);
const decode = whole('decode', values.decode);
const options = { threads: values.threads === undefined ? undefined : whole('threads', values.threads), contextSize: prefill + decode + 8 };

const llm = await load(values.model, options);
const text = 'The quick brown fox jumps over the lazy dog and runs. ';
const tokens = (await llm.tokenize(text.repeat(prefill))).slice(0, prefill);
/** @type {{estimate: number, measured: number}[][]} */
const results = [];
const names = ['prefill tokens/s', 'decode tokens/s', 'memory MB'];
for (let n = 0; n < pairs; n++) {
  const verdict = await canRun(values.model, options);
  const prompt = [tokens[n], ...tokens.slice(1)]; // nothing of it is in the KV cache
  const { timings } = await llm.generate(prompt, { maxTokens: decode, temperature: 0 }).result;
  const pair = [
    { estimate: verdict.prefillTokensPerSecond, measured: timings.prefill_tps },
    { estimate: verdict.decodeTokensPerSecond, measured: timings.decode_tps },
    { estimate: verdict.memoryBytes / 1e6, measured: llm.info.memory.peak / 1e6 },
  ];
  results.push(pair);
  if (!values.json) {
    const parts = pair.map(({ estimate, measured }, i) => `${names[i]} ${estimate.toFixed(1)} / ${measured.toFixed(1)}`);
    console.log(`pair ${n + 1} of ${pairs}, estimate / measured: ${parts.join('   ')}`);
  }
}
await llm.free();
if (values.json) {
  console.log(JSON.stringify(results, null, 2));
} else {
  names.forEach((name, i) => {
    const ratios = results.map((pair) => pair[i].estimate / pair[i].measured).sort((a, b) => a - b);
    console.log(`${name.padEnd(17)} median of estimate / measured: ${ratios[ratios.length >> 1].toFixed(2)}`);
  });
}
