/* npm run demo: one prompt answered by the WebAssembly core in Node, dense and with the mask of its cluster.
 *
 *   npm run demo -- --prompt 'Why is the sky blue?' --max-tokens 80 --depth 0.9375 */
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { load, SkipstoneError } from '../node/index.js';

const MODEL = fileURLToPath(new URL('../models/SmolLM2-135M-Instruct.Q4_1.gguf', import.meta.url));
const BANK = fileURLToPath(new URL('../banks/SmolLM2-135M-Instruct.gguf', import.meta.url));
const PROMPT = 'Write a short story about a small lighthouse.';

const HELP = `usage: npm run demo -- [options]

Answers one prompt twice with SmolLM2-135M-Instruct, by the WebAssembly core in this Node.js: with every block of the
transformer, and with the blocks that the mask of the prompt's cluster keeps. Ends with a table of both.

  --prompt TEXT        what to ask (default: '${PROMPT}')
  --depth D            the dial: 1 runs every block, 0.75 the fewest (default: 0.875)
  --max-tokens N       length of each answer at most (default: 96)
  --threads N          worker threads with the main one (default: what the machine has)
  --bank FILE          another mask bank (default: banks/SmolLM2-135M-Instruct.gguf)
  --model FILE         another GGUF file (default: models/SmolLM2-135M-Instruct.Q4_1.gguf)
  --help               this text

A small model pays for skipped blocks: expect the second answer to be faster and worse.`;

const colour = process.stdout.isTTY && !process.env.NO_COLOR;
const STYLES = { bold: 1, dim: 2, cyan: 36 };
/** @param {keyof typeof STYLES} name @param {string} text */
const style = (name, text) => (colour ? `\x1b[${STYLES[name]}m${text}\x1b[0m` : text);

function options() {
  const { values } = parseArgs({
    options: {
      prompt: { type: 'string', default: PROMPT },
      'max-tokens': { type: 'string', default: '96' },
      threads: { type: 'string' },
      depth: { type: 'string', default: '0.875' },
      bank: { type: 'string', default: BANK },
      model: { type: 'string', default: MODEL },
      help: { type: 'boolean', default: false },
    },
  });
  const whole = (/** @type {'max-tokens' | 'threads'} */ name, /** @type {string} */ text) => {
    const n = Number(text);
    if (!Number.isInteger(n) || n < 1) throw new SkipstoneError('argument', `--${name} ${text}: want a whole number from 1`);
    return n;
  };
  const depth = Number(values.depth);
  if (!(depth > 0 && depth <= 1)) throw new SkipstoneError('argument', `--depth ${values.depth}: want a number up to 1`);
  return {
    ...values,
    depth,
    maxTokens: whole('max-tokens', values['max-tokens']),
    threads: values.threads === undefined ? /** @type {const} */ ('auto') : whole('threads', values.threads),
  };
}

/**
 * Streams an answer to the terminal.
 * @param {import('../node/index.js').Llm} llm
 * @param {string} prompt
 * @param {import('../node/index.js').GenerateOptions} how
 */
async function answer(llm, prompt, how) {
  const generation = llm.generate({ messages: [{ role: 'user', content: prompt }] }, { temperature: 0, ...how });
  for await (const { text } of generation) process.stdout.write(text);
  const result = await generation.result;
  process.stdout.write(result.finishReason === 'length' ? style('dim', ' …\n\n') : '\n\n');
  return result;
}

/** @param {string[][]} rows the first is the head; the first column is left-aligned */
function table(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  rows.forEach((row, n) => {
    const line = row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('   ');
    console.log(`  ${n ? line : style('bold', line)}`);
  });
}

const kilobytes = (/** @type {number} */ bytes) => `${(bytes / 1000).toFixed(0)} KB`;
const megabytes = (/** @type {number} */ bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

async function main() {
  const { prompt, maxTokens, threads, depth, bank, model, help } = options();
  if (help) return console.log(HELP);

  const tty = process.stdout.isTTY;
  const llm = await load(model, {
    threads,
    bank,
    depth,
    onProgress: ({ loaded, total }) => {
      if (tty) process.stdout.write(`\r\x1b[Kloading ${((100 * loaded) / total).toFixed(0)} %`);
    },
  });
  if (tty) process.stdout.write('\r\x1b[K');
  const { info } = llm;
  const { module } = info;
  console.log(
    `${style('bold', `Skipstone ${info.version}`)}  ${info.model.name || 'model'}, ${info.model.quantisation}; ` +
      `module ${module.variant}, ${module.threads} thread${module.threads > 1 ? 's' : ''}; ` +
      `loaded in ${info.timings.load_ms.toFixed(0)} ms`,
  );
  if (module.variant === 'simd128') {
    console.log(style('dim', `Node ${process.versions.node} has no relaxed SIMD: Node 22 or newer runs the faster module.`));
  }
  // A first, short run lets the JavaScript engine finish compiling the module; it is not counted.
  await llm.generate('Hello', { temperature: 0, maxTokens: 8 }).result;

  console.log(`\n${style('cyan', `> ${prompt}`)}\n`);
  console.log(style('bold', `every block (${info.mask.blocksTotal})`));
  const dense = await answer(llm, prompt, { maxTokens, depth: 1 });
  const { cluster, distance, mask, ms } = await llm.route(prompt);
  const example = cluster === null ? undefined : info.bank?.examples[cluster];
  const where = cluster === null ? 'no cluster: the global mask' : `cluster ${cluster} of ${info.bank?.clusters}, distance ${distance.toFixed(3)}`;
  console.log(style('bold', `routed in ${ms.toFixed(1)} ms to ${where}`));
  if (example) console.log(style('dim', `its prompts are like "${example}"`));
  console.log(style('bold', `skipping ${mask.skip || 'nothing'}`));
  const masked = await answer(llm, prompt, { maxTokens });

  const row = (/** @type {string} */ name, /** @type {import('../node/index.js').Result} */ { timings, mask }) => [
    name,
    `${timings.prefill_tps.toFixed(0)} tok/s`,
    `${timings.decode_tps.toFixed(0)} tok/s`,
    `${mask.blocksRun} of ${mask.blocksTotal}`,
    `${(100 * mask.macsSkipped).toFixed(1)} %`,
  ];
  table([['', 'prefill', 'decode', 'blocks run', 'MACs skipped'], row('dense', dense), row('routed', masked)]);
  console.log(
    style(
      'dim',
      `\n  prompt ${dense.promptTokens} tokens; runtime ${kilobytes(module.moduleBytes)} of WebAssembly; ` +
        `memory ${megabytes(llm.info.memory.bytes)}; ${module.threads} thread${module.threads > 1 ? 's' : ''} (${module.threadsReason})`,
    ),
  );
  await llm.free();
}

try {
  if (!process.argv.includes('--model') && !process.argv.includes('--help') && !fs.existsSync(MODEL)) {
    throw new SkipstoneError('not_found', `${MODEL} is not there: run 'npm run setup', or give --model FILE`);
  }
  await main();
} catch (error) {
  const known = error instanceof SkipstoneError || (error instanceof TypeError && 'code' in error); // parseArgs
  console.error(known ? `demo: ${/** @type {Error} */ (error).message}` : error);
  process.exitCode = 1;
}
