/* The options of npm run bench. */
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { root } from '../setup/steps.mjs';
import { BenchError } from './command.mjs';
import { SECTIONS } from './sections.mjs';

const SIDES = ['native', 'node', 'chromium'];
const MODELS = ['Q4_1', 'Q4_0'].map((type) => path.join(root, `models/SmolLM2-135M-Instruct.${type}.gguf`));
const RESULTS = 'tools/bench/results.json';

export const HELP = `usage: npm run bench -- [options]

Measures Skipstone native, in Node.js and in Chromium, by turns: in each round every side once, loaded anew and warmed up.
Prints medians and spreads, and whether each bar of the project is met, and keeps the sections that were measured in the
results file, with the machine, the versions and the day.

  --model FILE         GGUF file; may be repeated (default: SmolLM2-135M-Instruct of models/ in Q4_1, and in Q4_0 if it is there)
  --only LIST          sections: ${Object.keys(SECTIONS).join(', ')} (default: all)
  --sides LIST         of ours: ${SIDES.join(', ')} (default: all that are here)
  --threads LIST       numbers of threads (default: 1,2)
  --rounds N           rounds; contexts are taken at most 3 times, memory and kernels once (default: 5)
  --prefill N          tokens of the prompt (default: 512)
  --decode N           tokens to decode (default: 128)
  --behind N           tokens of context in front of the decoded ones (default: 480)
  --skipped F          share of the blocks that the mask skips (default: 0.25)
  --contexts LIST      contexts to decode behind (default: 128,512,2048,4096,8192)
  --kernel TEXT        of the kernels only those whose name contains TEXT
  --peers              also llama.cpp and wllama in the sections speed and page
  --llama-bench FILE   llama.cpp's bench program (or SKIPSTONE_LLAMA_BENCH)
  --wllama FOLDER      where npm has installed @wllama/wllama (or SKIPSTONE_WLLAMA)
  --out FILE           the results file (default: ${RESULTS})
  --show               print the results file instead of measuring; with --only some of its sections
  --json               print JSON instead of tables
  --help               this text

Wants a quiet machine: other programs make every figure too low. SKIPSTONE_CHROMIUM names another Chromium than that on
PATH.`;

/** @param {string} name @param {string} text */
function whole(name, text) {
  const n = Number(text);
  if (Number.isInteger(n) && n >= 1) return n;
  throw new BenchError(`--${name} ${text}: want a whole number from 1`);
}

/** @param {string} name @param {string} text @param {string[]} known */
function someOf(name, text, known) {
  const words = text.split(',');
  const wrong = words.find((word) => !known.includes(word));
  if (wrong !== undefined) throw new BenchError(`--${name} ${text}: '${wrong}', want some of ${known.join(', ')}`);
  return known.filter((word) => words.includes(word));
}

/** @param {string} name @param {string | undefined} file */
function present(name, file) {
  if (file && !fs.existsSync(file)) throw new BenchError(`${name} ${file}: there is no such file`);
  return file ? path.resolve(file) : '';
}

function parse() {
  try {
    return parseArgs({
      options: {
        model: { type: 'string', multiple: true },
        only: { type: 'string', default: Object.keys(SECTIONS).join() },
        sides: { type: 'string' },
        threads: { type: 'string', default: '1,2' },
        rounds: { type: 'string', default: '5' },
        prefill: { type: 'string', default: '512' },
        decode: { type: 'string', default: '128' },
        behind: { type: 'string', default: '480' },
        skipped: { type: 'string', default: '0.25' },
        contexts: { type: 'string', default: '128,512,2048,4096,8192' },
        kernel: { type: 'string', default: '' },
        peers: { type: 'boolean', default: false },
        'llama-bench': { type: 'string' },
        wllama: { type: 'string' },
        out: { type: 'string', default: path.join(root, RESULTS) },
        show: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    throw new BenchError(`${error instanceof Error ? error.message : error}; see --help`);
  }
}

/** Checked, or a BenchError. */
export function readOptions() {
  const values = parse();
  const skipped = Number(values.skipped);
  if (!(skipped > 0 && skipped < 1)) throw new BenchError(`--skipped ${values.skipped}: want a share between 0 and 1`);
  const contexts = values.contexts
    .split(',')
    .map((text) => whole('contexts', text))
    .sort((a, b) => a - b);
  if (new Set(contexts).size < 3)
    throw new BenchError(`--contexts ${values.contexts}: want three or more, to see how they grow`);
  const models = values.model?.map((file) => present('--model', file)) ?? MODELS.filter((file) => fs.existsSync(file));
  if (!models.length && !values.show) throw new BenchError(`${MODELS[0]} is not there: npm run setup, or --model FILE`);
  const llamaBench = values.peers
    ? present('--llama-bench', values['llama-bench'] ?? process.env.SKIPSTONE_LLAMA_BENCH)
    : '';
  const wllama = values.peers ? present('--wllama', values.wllama ?? process.env.SKIPSTONE_WLLAMA) : '';
  if (values.peers && !llamaBench && !wllama)
    throw new BenchError('--peers: where are they? give --llama-bench FILE, --wllama FOLDER or both');
  return {
    models,
    sections: someOf('only', values.only, Object.keys(SECTIONS)),
    sides: someOf('sides', values.sides ?? SIDES.join(), SIDES),
    sidesAsked: values.sides !== undefined,
    threads: values.threads.split(',').map((text) => whole('threads', text)),
    rounds: whole('rounds', values.rounds),
    sizes: {
      prefill: whole('prefill', values.prefill),
      decode: whole('decode', values.decode),
      behind: whole('behind', values.behind),
      skipped,
    },
    contexts,
    kernel: values.kernel,
    llamaBench,
    wllama,
    out: path.resolve(values.out),
    show: values.show,
    json: values.json,
    help: values.help,
  };
}
