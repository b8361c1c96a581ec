/** What the commands share: option tables, loading with progress, Ctrl-C, input and output. */
import { readFile } from 'node:fs/promises';
import { load } from '../index.js';
import { UsageError } from './options.js';

/** @typedef {import('./options.js').Option} Option */

export const CODE = { ok: 0, failed: 1, usage: 2, interrupted: 130, pipe: 141 };

/** One line on stderr. @param {string} text */
export const say = (text) => void process.stderr.write(`skipstone: ${text}\n`);

/* ---- options ---- */

/** @param {number} min @param {number} [max] */
const whole = (min, max) => /** @type {const} */ ({ kind: 'whole', min, max });
/** @param {number} min @param {number} max */
const real = (min, max) => /** @type {const} */ ({ kind: 'real', min, max });

/** @type {Option} */
export const MODEL = {
  name: 'model',
  letter: 'm',
  argument: 'MODEL',
  help: 'a GGUF file, its address, or hf:owner/repo:QUANT\n(default: $SKIPSTONE_MODEL)',
};
/** @type {Option[]} */
export const ENGINE = [
  { name: 'threads', letter: 't', ...whole(1, 64), argument: 'T', help: 'threads (default: what the machine has)' },
  {
    name: 'variant',
    argument: 'NAME',
    choices: ['auto', 'simd128', 'relaxed', 'relaxed-dot'],
    help: 'WebAssembly kernels: simd128, relaxed or relaxed-dot\n(default: the fastest that this Node.js runs)',
  },
];
/** @type {Option[]} */
export const BANK = [
  {
    name: 'bank',
    argument: 'BANK',
    help: 'routes the prompt over this mask bank; none: over no bank\n(default: the one that comes with the model)',
  },
  { name: 'encoder', argument: 'ENC.gguf', help: "the bank's sentence encoder, where it is not `self`" },
];
/** @type {Option} */
export const DEPTH = {
  name: 'depth',
  ...real(0.01, 1),
  argument: 'D',
  help: "share of the blocks' multiply-adds to run at least,\n1: all (default 0.875)",
};
/** @type {Option} */
export const JSON_OPTION = { name: 'json', kind: 'flag', help: 'print one JSON object instead of the text' };
/** @type {Option} */
export const VERBOSE = { name: 'verbose', letter: 'v', kind: 'flag', help: 'a summary on stderr, also where that is no terminal' };
/** @type {Option[]} */
export const SAMPLING = [
  { name: 'tokens', letter: 'n', ...whole(1, 2 ** 31 - 1), argument: 'N', help: 'at most N tokens per answer (default 512)' },
  { name: 'temp', ...real(0, 100), argument: 'X', help: 'temperature; 0: always the likeliest token (default 0.8)' },
  { name: 'top-k', ...whole(0), argument: 'K', help: 'the K likeliest tokens; 0: off (default 40)' },
  { name: 'top-p', ...real(0, 1), argument: 'P', help: 'the likeliest tokens of together P; 1: off (default 0.95)' },
  { name: 'min-p', ...real(0, 1), argument: 'P', help: 'tokens at least P times as likely as the first;\n0: off (default 0.05)' },
  { name: 'repeat-penalty', ...real(0.01, 100), argument: 'X', help: 'divides the odds of recent tokens; 1: off (default 1)' },
  { name: 'repeat-window', ...whole(1, 65536), argument: 'N', help: 'how many tokens are recent (default 64)' },
  { name: 'seed', ...whole(0), argument: 'S', help: 'same seed, same text, on every machine (default 0)' },
  { name: 'stop', kind: 'list', argument: 'TEXT', help: 'ends the answer before TEXT; may be repeated' },
];
/** @type {Option} */
export const SKIP = {
  name: 'skip',
  argument: 'BLOCKS',
  help: 'blocks that do not run, by kind and layer:\n"attn:3,7-9;ffn:12"',
};
/** @param {string} standard @returns {Option} */
export const context = (standard) => ({
  name: 'context',
  letter: 'c',
  ...whole(1, 16777216),
  argument: 'N',
  help: `tokens of context (default: ${standard})`,
});

/**
 * Options of an answer, as the library has them.
 * @param {Record<string, any>} values
 * @returns {import('../index.js').GenerateOptions}
 */
export const sampling = (values) => ({
  maxTokens: values.tokens ?? 512,
  temperature: values.temp,
  topK: values['top-k'],
  topP: values['top-p'],
  minP: values['min-p'],
  repetitionPenalty: values['repeat-penalty'],
  repetitionWindow: values['repeat-window'],
  seed: values.seed ?? 0,
  stop: values.stop,
});

/* ---- loading ---- */

/**
 * Loads what the options name. A line of progress is drawn on a terminal when it takes more than a second.
 * @param {Record<string, any>} values
 * @param {{operand?: string, contextSize?: number}} [more] operand: the model, where it is no option
 */
export async function loadModel(values, { operand, contextSize } = {}) {
  const source = values.model ?? operand ?? process.env.SKIPSTONE_MODEL;
  if (!source) throw new UsageError('no model; give -m MODEL or set SKIPSTONE_MODEL');
  if (values.skip !== undefined && values.bank !== undefined) throw new UsageError('--skip and --bank exclude each other');
  const progress = new ProgressLine();
  const interrupt = new Interrupt();
  try {
    return await load(source, {
      threads: values.threads,
      variant: values.variant,
      contextSize,
      skip: values.skip,
      bank: values.skip !== undefined || values.bank === 'none' ? false : (values.bank ?? 'auto'),
      encoder: values.encoder,
      depth: values.depth,
      policy: values.policy,
      onProgress: (state) => progress.show(state),
      signal: interrupt.signal,
    });
  } finally {
    interrupt.end();
    progress.clear();
  }
}

class ProgressLine {
  #start = performance.now();
  #shown = false;

  /** @param {import('../../wasm/options.js').Progress} state */
  show({ phase, file, loaded, total }) {
    if (!process.stderr.isTTY || performance.now() - this.#start < 1000) return;
    this.#shown = true;
    const share = total ? ` ${((100 * loaded) / total).toFixed(0)} % of ${megabytes(total)}` : '';
    process.stderr.write(`\r\x1b[K${phase} ${file}${share}`);
  }

  clear() {
    if (this.#shown) process.stderr.write('\r\x1b[K');
  }
}

/** Ctrl-C while something runs: the first aborts it, the second ends the process. */
export class Interrupt {
  #controller = new AbortController();
  #listener = () => {
    if (this.#controller.signal.aborted) process.exit(CODE.interrupted);
    this.#controller.abort();
    this.onInterrupt();
  };
  onInterrupt = () => {};

  constructor() {
    process.on('SIGINT', this.#listener);
  }

  get signal() {
    return this.#controller.signal;
  }

  get happened() {
    return this.signal.aborted;
  }

  end() {
    process.off('SIGINT', this.#listener);
  }
}

/* ---- answers ---- */

/**
 * Streams an answer; Ctrl-C ends it where it is.
 * @param {import('../index.js').Llm} llm
 * @param {import('../../wasm/llm.js').Prompt} prompt
 * @param {import('../index.js').GenerateOptions} options
 * @param {(text: string) => void} onText
 */
export async function answer(llm, prompt, options, onText) {
  const interrupt = new Interrupt();
  try {
    const generation = llm.generate(prompt, options);
    interrupt.onInterrupt = () => generation.cancel();
    for await (const { text } of generation) onText(text);
    return { ...(await generation.result), interrupted: interrupt.happened };
  } finally {
    interrupt.end();
  }
}

/* ---- input and output ---- */

/** @param {string} text */
export const write = (text) => void process.stdout.write(text);
/** One object, one line. @param {unknown} value */
export const writeJson = (value) => {
  const plain = (/** @type {string} */ _, /** @type {unknown} */ item) => (typeof item === 'bigint' ? String(item) : item);
  write(`${JSON.stringify(value, plain)}\n`);
};

/** A file, whole; '-': standard input. @param {string} path */
export async function readText(path) {
  if (path !== '-') {
    return readFile(path, 'utf8').catch((error) => {
      throw new Error(`${path}: ${error.code === 'ENOENT' ? 'no such file' : error.message}`);
    });
  }
  let text = '';
  process.stdin.setEncoding('utf8');
  for await (const piece of process.stdin) text += piece;
  return text;
}

/**
 * The one prompt of a command: an operand, -p or -f; '-' is standard input, and so is nothing at all in a pipe.
 * @param {Record<string, any>} values
 * @param {string | undefined} operand
 */
export async function readPrompt({ prompt, file }, operand) {
  const given = [prompt, file, operand].filter((value) => value !== undefined);
  if (given.length > 1) throw new UsageError('more than one prompt; give -p TEXT or -f FILE');
  if (!given.length && process.stdin.isTTY) throw new UsageError('no prompt; give -p TEXT or -f FILE');
  if (!given.length) return readText('-');
  if (file !== undefined || given[0] === '-') return readText(given[0]);
  return given[0];
}

/** @param {number} bytes */
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
/** @param {number} n @param {string} thing */
export const count = (n, thing) => `${n} ${thing}${n === 1 ? '' : 's'}`;

/** @param {import('../index.js').Result} result */
export function routed({ route, mask }) {
  const cluster = route && (route.cluster === null ? 'no cluster' : `cluster ${route.cluster}, distance ${route.distance.toFixed(3)}`);
  const where = cluster ? `${cluster}; ` : '';
  return `${where}${mask.blocksRun} of ${mask.blocksTotal} blocks (${(100 * mask.macsSkipped).toFixed(1)} % of MACs skipped)`;
}
