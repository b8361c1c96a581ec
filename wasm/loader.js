/**
 * Picks one of the four modules by what this engine validates, makes its memory, instantiates it. No glue: a module
 * imports env.memory and nothing else. Only engine.js looks into that memory.
 *
 * @typedef {'simd128' | 'relaxed' | 'relaxed-dot'} Variant  the last two are one module with two sets of kernels
 *
 * @typedef {object} Abilities  What this JavaScript engine can run, and in words why not.
 * @property {boolean} simd128
 * @property {boolean} relaxed
 * @property {boolean} threads
 * @property {{simd128: string, relaxed: string, threads: string}} why
 *
 * @typedef {object} LoadOptions
 * @property {Variant | 'auto'} [variant]
 * @property {number | 'auto'} [threads]
 * @property {boolean} [sharedMemory]  false: as if SharedArrayBuffer were missing
 * @property {boolean} [inPlace]  on the caller's thread, which must not wait: one thread
 * @property {string} [wasmUrl]  a folder with the four modules, ending in '/'
 *
 * @typedef {object} Loaded
 * @property {WebAssembly.Module} module
 * @property {WebAssembly.Memory} memory
 * @property {Record<string, any>} exports
 * @property {ModuleInfo} info
 *
 * @typedef {object} ModuleInfo
 * @property {Variant} variant
 * @property {string} variantReason
 * @property {number} threads
 * @property {number | 'auto'} threadsRequested
 * @property {string} threadsReason
 * @property {string} url
 * @property {number} moduleBytes
 * @property {number} memoryMaximum  bytes that the memory may grow to
 */
import { dotTimeRatio } from './dot_timing.js';
import { SkipstoneError } from './errors.js';
import { availableThreads, isNode, readUrl } from './platform.js';

export const MAX_THREADS = 64; // SS_MAX_THREADS
const PAGE = 65536;
const DOT_PAYS_BELOW = 1.3; // measured: 0.64 to 1 with AVX-VNNI, 2.65 without
const INITIAL_PAGES = 32; // SS_WASM_INITIAL_PAGES of build.cmake
const MAXIMUM_PAGES = [65536, 32768, 16384, 8192]; // 4 GB; phones refuse that much address space

// Literal URLs, so that bundlers see them.
const MODULES = {
  'skipstone-simd128.wasm': () => new URL('./dist/skipstone-simd128.wasm', import.meta.url),
  'skipstone-relaxed.wasm': () => new URL('./dist/skipstone-relaxed.wasm', import.meta.url),
  'skipstone-simd128-threads.wasm': () => new URL('./dist/skipstone-simd128-threads.wasm', import.meta.url),
  'skipstone-relaxed-threads.wasm': () => new URL('./dist/skipstone-relaxed-threads.wasm', import.meta.url),
};

/** (module (func (drop BODY))) with BODY of the given bytes. @param {number[]} body */
function validates(body) {
  const code = [0, ...body, 0x1a, 0x0b];
  return WebAssembly.validate(
    new Uint8Array([
      0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // magic, version
      1, 4, 1, 0x60, 0, 0, // type: () -> ()
      3, 2, 1, 0, // one function
      10, code.length + 2, 1, code.length, ...code,
    ]),
  );
}
const V128_ZERO = [0xfd, 12, ...new Array(16).fill(0)];
const SIMD = [...V128_ZERO];
const RELAXED = [...V128_ZERO, ...V128_ZERO, ...V128_ZERO, 0xfd, 0x93, 0x02]; // i32x4.relaxed_dot_i8x16_i7x16_add_s
// (module (memory 1 1 shared) (func (drop (memory.atomic.notify (i32.const 0) (i32.const 0)))))
const ATOMICS = new Uint8Array([
  0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 5, 4, 1, 3, 1, 1, 10, 13, 1, 11, 0, 0x41, 0, 0x41,
  0, 0xfe, 0, 2, 0, 0x1a, 0x0b,
]);

/** @returns {Abilities} */
export function probe() {
  const simd128 = validates(SIMD);
  const relaxed = simd128 && validates(RELAXED);
  const isolated = /** @type {any} */ (globalThis).crossOriginIsolated;
  let threads = true;
  let threadsWhy = 'shared memory and wasm atomics are there';
  if (typeof SharedArrayBuffer === 'undefined' || isolated === false) {
    threads = false;
    threadsWhy = 'no SharedArrayBuffer: the page is not cross-origin isolated (COOP and COEP headers)';
  } else if (!WebAssembly.validate(ATOMICS)) {
    threads = false;
    threadsWhy = 'this engine has no wasm atomics';
  }
  const node = isNode ? ' (Node 20 has it behind --experimental-wasm-relaxed-simd; Node 22 and newer have it on)' : '';
  return {
    simd128,
    relaxed,
    threads,
    why: {
      simd128: simd128 ? 'fixed-width SIMD validates' : 'this engine has no wasm SIMD',
      relaxed: relaxed ? 'relaxed SIMD validates' : `this engine has no wasm relaxed SIMD${node}`,
      threads: threadsWhy,
    },
  };
}

/**
 * @param {LoadOptions} options
 * @param {Abilities} abilities
 * @returns {{variant: Variant, reason: string}}
 */
function chooseVariant({ variant = 'auto' }, abilities) {
  const { why } = abilities;
  if (!abilities.simd128) throw new SkipstoneError('unsupported', why.simd128);
  if (variant === 'auto') {
    if (!abilities.relaxed) return { variant: 'simd128', reason: why.relaxed };
    const ratio = dotTimeRatio();
    return {
      variant: ratio < DOT_PAYS_BELOW ? 'relaxed-dot' : 'relaxed',
      reason: `${why.relaxed}; a 32-bit dot product takes ${ratio.toFixed(2)} of the time of a 16-bit one`,
    };
  }
  if (!['simd128', 'relaxed', 'relaxed-dot'].includes(variant))
    throw new SkipstoneError('argument', `variant: '${variant}', want 'auto', 'simd128', 'relaxed' or 'relaxed-dot'`);
  const needs = variant === 'simd128' ? 'simd128' : 'relaxed';
  if (!abilities[needs]) throw new SkipstoneError('unsupported', `variant '${variant}': ${why[needs]}`);
  return { variant, reason: 'asked for' };
}

/**
 * @param {LoadOptions} options
 * @param {Abilities} abilities
 * @param {number} available
 * @returns {{threads: number, reason: string}}
 */
function chooseThreads({ threads = 'auto', sharedMemory = true, inPlace = false }, abilities, available) {
  const shared = abilities.threads && sharedMemory && !inPlace;
  const asked = inPlace ? 'the engine runs in place, on a thread that must not wait' : 'sharedMemory is false';
  const why = abilities.threads ? asked : abilities.why.threads;
  if (threads === 'auto') {
    if (!shared) return { threads: 1, reason: why };
    if (available <= 1) return { threads: 1, reason: 'the device has one processor' };
    // beyond 4, half of the logical processors are usually second threads of a core, which only get in the way
    const n = available <= 4 ? available : Math.min(8, Math.max(4, available >> 1));
    return { threads: n, reason: `the device has ${available} processors` };
  }
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS)
    throw new SkipstoneError('argument', `threads: ${threads}, want 'auto' or a whole number from 1 to ${MAX_THREADS}`);
  if (threads > 1 && !shared) throw new SkipstoneError('unsupported', `threads: ${threads}, but ${why}`);
  const note = threads > available ? `asked for, though the device has ${available} processors` : 'asked for';
  return { threads, reason: note };
}

/** @param {boolean} shared */
function makeMemory(shared) {
  /** @type {unknown} */
  let last;
  for (const maximum of MAXIMUM_PAGES) {
    try {
      const memory = new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared });
      return { memory, maximum: maximum * PAGE };
    } catch (error) {
      last = error; // too much address space: ask for less
    }
  }
  throw new SkipstoneError('memory', `no memory of ${MAXIMUM_PAGES.at(-1)} pages: ${last}`, { cause: last });
}

/**
 * @param {LoadOptions} options
 * @returns {Promise<Loaded>}
 */
export async function loadModule(options) {
  const abilities = probe();
  const { variant, reason: variantReason } = chooseVariant(options, abilities);
  const { threads, reason: threadsReason } = chooseThreads(options, abilities, await availableThreads());
  const name = /** @type {keyof typeof MODULES} */ (`skipstone-${variant === 'simd128' ? variant : 'relaxed'}${threads > 1 ? '-threads' : ''}.wasm`);
  const url = options.wasmUrl ? new URL(name, options.wasmUrl) : MODULES[name]();

  /** @type {Uint8Array<ArrayBuffer>} */
  let bytes;
  /** @type {WebAssembly.Module} */
  let module;
  try {
    bytes = await readUrl(url);
    module = await WebAssembly.compile(bytes);
  } catch (error) {
    throw new SkipstoneError('io', `cannot load ${url.href}: ${message(error)}`, { cause: error });
  }
  const { memory, maximum } = makeMemory(threads > 1);
  const exports = await instantiate(module, memory);
  return {
    module,
    memory,
    exports,
    info: {
      variant,
      variantReason,
      threads,
      threadsRequested: options.threads ?? 'auto',
      threadsReason,
      url: url.href,
      moduleBytes: bytes.length,
      memoryMaximum: maximum,
    },
  };
}

/**
 * Instantiates a module on a memory; a helper gives its own stack, the engine has the module's.
 * @param {WebAssembly.Module} module
 * @param {WebAssembly.Memory} memory
 * @param {number} [stack]
 * @returns {Promise<Record<string, any>>}
 */
export async function instantiate(module, memory, stack) {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  if (stack !== undefined) /** @type {WebAssembly.Global} */ (exports.__stack_pointer).value = stack;
  return exports;
}

/** @param {unknown} error */
const message = (error) => (error instanceof Error ? error.message : String(error));
