/**
 * Options of the public calls: known names, types and ranges. An unknown or impossible one throws and is named.
 *
 * @typedef {string | {attn?: number[], ffn?: number[]}} Skip
 *   The blocks to skip, by layer: 'attn:3,7-9;ffn:12', or {attn: [3, 7, 8, 9], ffn: [12]}.
 *
 * @typedef {object} Progress
 * @property {'download' | 'verify' | 'repack' | 'warm-up'} phase  Where the bytes come from, all of which are repacked at once:
 *   the network; the store, each chunk checked by its hash; a local file. warm-up: measuring for the depth
 * @property {string} file
 * @property {number} loaded bytes; download with a total of 0: another load fetches the file, and is waited for
 * @property {number} total
 *
 * @typedef {object} EngineOptions
 * @property {number | 'auto'} [threads]
 * @property {number} [contextSize] tokens; the default is the smaller of 2048 and what the model was trained for
 * @property {'auto' | 'simd128' | 'relaxed' | 'relaxed-dot'} [variant]
 * @property {boolean} [sharedMemory] false: one thread, as where SharedArrayBuffer is missing
 * @property {Skip} [skip] blocks that every call skips unless it says otherwise
 * @property {false | 'auto' | import('../store/parse.js').FileName} [bank] the file of a mask bank: prompts are routed over it. 'auto':
 *   one beside the model (MODEL.bank.gguf, or in the same repository), else one that the package has for it
 * @property {import('../store/parse.js').FileName} [encoder] the file of the bank's sentence encoder, where it is not `self`
 * @property {number | 'auto' | {decodeTokensPerSecond: number}} [depth] share of the blocks' MACs that a routed prompt runs at
 *   least; 1: all; default 0.875. {decodeTokensPerSecond}: the least skipping that decodes so fast here, by a measurement of a
 *   fifth of a second, or the deepest level. 'auto': the same with 20 tokens per second, faster than anyone reads
 * @property {boolean} [partial] false: the whole file is fetched; default: only the tensors that the masks of the bank, or
 *   skip, need at this depth, in the order of their use, and what another depth needs when a prompt asks for it
 * @property {'session' | 'turn'} [policy] a chat is routed by the first thing that the user says (the default) or by the
 *   last; a mask that changes from turn to turn costs the prefill of all that was said
 * @property {string} [wasmUrl] folder of the wasm modules, ending in '/'
 * @property {string | URL} [workerUrl] the engine's worker
 * @property {boolean} [worker] false: the engine runs on the caller's thread, in steps of some milliseconds and with one thread, as in a
 *   service worker, which has no others; default: a worker where there are workers
 * @property {number} [maxSessions] KV caches held at once, for chat sessions and for prompts that begin alike; each takes up to
 *   `info.context.kvBytes`. One that was not used for longest makes room, and its tokens are computed again when they are
 *   asked for. Default 4
 * @property {number} [maxQueue] calls that may wait for the one that runs; one more is refused with code queue_full. Default 64
 * @property {(progress: Progress) => void} [onProgress]
 * @property {AbortSignal} [signal]
 *
 * @typedef {EngineOptions & import('../store/parse.js').AccessOptions} LoadOptions
 *
 * @typedef {object} GenerateOptions
 * @property {number} [maxTokens] default: until the context is full
 * @property {number} [temperature] 0: greedy; default 0.8
 * @property {number} [topK] 0: off; default 40
 * @property {number} [topP] 1: off; default 0.95
 * @property {number} [minP] 0: off; default 0.05
 * @property {number} [repetitionPenalty] 1: off, the default
 * @property {number} [frequencyPenalty] 0: off, the default
 * @property {number} [presencePenalty] 0: off, the default
 * @property {number} [repetitionWindow] tokens that the penalties see; default 64
 * @property {number | bigint} [seed] default: random; the result says which
 * @property {string | string[]} [stop] texts that end the answer and are not part of it
 * @property {Skip} [skip] blocks to skip, whatever the bank says
 * @property {number} [depth] as in load, for this call
 * @property {AbortSignal} [signal]
 */
import { SkipstoneError } from './errors.js';

/** @typedef {(value: any) => string | undefined} Check  What was wanted, or undefined when the value is fine. */

/** @param {number} low @param {number} high @returns {Check} */
export const whole = (low, high) => (value) =>
  Number.isInteger(value) && value >= low && value <= high ? undefined : `a whole number from ${low} to ${high}`;
/** @param {number} low @param {number} high @returns {Check} */
const real = (low, high) => (value) =>
  typeof value === 'number' && value >= low && value <= high ? undefined : `a number from ${low} to ${high}`;
/** @type {(...values: unknown[]) => Check} */
export const oneOf = (...values) => (value) =>
  values.includes(value) ? undefined : values.map((v) => (typeof v === 'string' ? `'${v}'` : String(v))).join(', ');
/** @param {Check} check @param {Check} other @returns {Check} */
export const either = (check, other) => (value) => {
  const a = check(value);
  const b = a && other(value);
  return b && `${a} or ${b}`;
};
/** @type {Check} */
export const isFunction = (value) => (typeof value === 'function' ? undefined : 'a function');
/** @type {Check} */
export const isText = (value) => (typeof value === 'string' ? undefined : 'a string');
/** @type {Check} */
export const isSignal = (value) =>
  typeof value?.addEventListener === 'function' && typeof value.aborted === 'boolean' ? undefined : 'an AbortSignal';
/** @type {Check} */
const isSeed = (value) =>
  (typeof value === 'bigint' && value >= 0n && value < 1n << 64n) || (Number.isSafeInteger(value) && value >= 0)
    ? undefined
    : 'a whole number from 0, a bigint beyond 2^53';
/** @type {Check} */
const isStop = (value) => {
  const list = Array.isArray(value) ? value : [value];
  return list.every((stop) => typeof stop === 'string' && stop.length > 0) ? undefined : 'a non-empty string or an array of them';
};
/** @type {Check} */
const isSkip = (value) => {
  if (typeof value === 'string') return undefined;
  const wanted = "'attn:3,7;ffn:12' or {attn: [3, 7], ffn: [12]}";
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return wanted;
  const fine = Object.entries(value).every(
    ([key, layers]) =>
      (key === 'attn' || key === 'ffn') && Array.isArray(layers) && layers.every((l) => Number.isInteger(l) && l >= 0),
  );
  return fine ? undefined : wanted;
};

/** The rest is checked where it is parsed. @type {Check} */
const isSource = (value) => (value ? undefined : 'the address of a file');
/** @type {Check} */
const isDepth = (value) => {
  const wanted = value?.decodeTokensPerSecond;
  if (typeof value === 'object' && value !== null && Object.keys(value).length === 1 && wanted > 0 && Number.isFinite(wanted)) return undefined;
  return either(oneOf('auto'), real(0, 1))(value) && "a number from 0 to 1, 'auto' or {decodeTokensPerSecond: number}";
};
/** @type {Check} */
const isEndpoint = (value) => (/^https?:\/\/[^/]+/.test(value) ? undefined : "a URL as 'https://huggingface.co'");
/** @type {Check} */
const isCache = (value) => {
  if (typeof value === 'boolean' || (typeof value === 'string' && value)) return undefined;
  const known = { folder: isText, maxBytes: whole(0, Number.MAX_SAFE_INTEGER), refresh: oneOf(true, false), persist: oneOf(true, false) };
  const fine =
    typeof value === 'object' &&
    value !== null &&
    Object.entries(value).every(([key, one]) => Object.hasOwn(known, key) && (one === undefined || !known[/** @type {keyof typeof known} */ (key)](one)));
  return fine ? undefined : 'true, false, a folder or {folder, maxBytes, refresh, persist}';
};

/** @type {Record<string, Check>} */
const LOAD = {
  threads: either(oneOf('auto'), whole(1, 64)),
  contextSize: whole(1, 2 ** 31 - 1),
  variant: oneOf('auto', 'simd128', 'relaxed', 'relaxed-dot'),
  sharedMemory: oneOf(true, false),
  skip: isSkip,
  bank: either(oneOf(false), isSource),
  encoder: isSource,
  depth: isDepth,
  partial: oneOf(true, false),
  policy: oneOf('session', 'turn'),
  wasmUrl: isText,
  workerUrl: (value) => (value instanceof URL ? undefined : isText(value)),
  worker: oneOf(true, false),
  maxSessions: whole(1, 1024),
  maxQueue: whole(0, 2 ** 31 - 1),
  endpoint: isEndpoint,
  token: either(isText, isFunction),
  cache: isCache,
  onProgress: isFunction,
  signal: isSignal,
};

/** @type {Record<string, Check>} */
export const GENERATE = {
  maxTokens: whole(1, 2 ** 31 - 1),
  temperature: real(0, 100),
  topK: whole(0, 2 ** 31 - 1),
  topP: real(0, 1),
  minP: real(0, 1),
  repetitionPenalty: real(0.01, 100),
  frequencyPenalty: real(-100, 100),
  presencePenalty: real(-100, 100),
  repetitionWindow: whole(1, 65536),
  seed: isSeed,
  stop: isStop,
  skip: isSkip,
  depth: real(0, 1),
  signal: isSignal,
};

/**
 * @param {string} call
 * @param {unknown} options
 * @param {Record<string, Check>} known
 */
export function check(call, options, known) {
  if (typeof options !== 'object' || options === null) throw new SkipstoneError('argument', `${call}: options must be an object`);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name)) {
      throw new SkipstoneError('argument', `${call}: unknown option '${name}'; there are ${Object.keys(known).join(', ')}`);
    }
    const wanted = value === undefined ? undefined : known[name](value);
    if (wanted) throw new SkipstoneError('argument', `${call}: ${name} is ${show(value)}, want ${wanted}`);
  }
}

/** A value in a message. @param {unknown} value */
export function show(value) {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return 'a function';
  return JSON.stringify(value) ?? String(value);
}

/** @param {unknown} options @returns {asserts options is LoadOptions} */
export function checkLoadOptions(options) {
  check('load', options, LOAD);
}

/** @param {unknown} options @returns {asserts options is GenerateOptions} */
export function checkGenerateOptions(options) {
  check('generate', options, GENERATE);
}

/** The core's spelling of a skip. @param {Skip} skip */
export function skipText(skip) {
  if (typeof skip === 'string') return skip;
  return ['attn', 'ffn']
    .filter((kind) => skip[/** @type {'attn' | 'ffn'} */ (kind)]?.length)
    .map((kind) => `${kind}:${skip[/** @type {'attn' | 'ffn'} */ (kind)]?.join(',')}`)
    .join(';');
}

/** Those of the core (ss_sampler_defaults). */
export const DEFAULTS = {
  temperature: 0.8,
  topK: 40,
  topP: 0.95,
  minP: 0.05,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionWindow: 64,
};

/**
 * The sampler's settings.
 * @param {GenerateOptions} options
 * @returns {import('./engine.js').Samples}
 */
function samples(options) {
  const settings = Object.entries(DEFAULTS).map(([name, value]) => [name, options[/** @type {keyof typeof DEFAULTS} */ (name)] ?? value]);
  return { ...Object.fromEntries(settings), seed: BigInt(options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]) };
}

/**
 * A request for the engine's worker.
 * @param {Pick<import('./generate.js').Request, 'prompt' | 'bos' | 'routeBy' | 'known' | 'owner' | 'logprobs'>} what
 * @param {GenerateOptions} options that were checked
 * @returns {import('./generate.js').Request}
 */
export function makeRequest(what, options) {
  const { maxTokens, stop = [], skip, depth } = options;
  return {
    ...what,
    maxTokens,
    samples: samples(options),
    stop: typeof stop === 'string' ? [stop] : stop,
    skip: skip === undefined ? undefined : skipText(skip),
    depth,
  };
}
