/** In the engine's worker: a load, from what names the file to an engine that can answer. */
import { Changed } from '../store/http.js';
import { Opener } from '../store/open.js';
import { Engine } from './engine.js';
import { SkipstoneError } from './errors.js';
import { Runner } from './generate.js';
import { depthFor, measure } from './measure.js';
import { Weights } from './weights.js';

const MOST_BANK_BYTES = 64 << 20;
const SELF_BLOCKS = 8; // of the encoder `self`: the first four layers
const READING_SPEED = 20; // tokens per second that depth 'auto' wants

/**
 * @typedef {import('./options.js').Progress} Progress
 * @typedef {import('../store/parse.js').Places} Places
 * @typedef {import('../store/parse.js').Place} Place
 * @typedef {number | 'auto' | {decodeTokensPerSecond: number}} Depth
 *
 * @typedef {object} LoadCall
 * @property {Places} source
 * @property {import('../store/parse.js').Access} access
 * @property {import('./loader.js').LoadOptions} module
 * @property {number} contextSize 0: the core's default
 * @property {string} skip
 * @property {Place | 'auto'} [bank]
 * @property {Place} [encoder] the model of a bank's encoder, where it has one
 * @property {Depth} depth
 * @property {boolean} partial fetch only what the masks need
 * @property {number} maxSessions KV caches at once
 *
 * @typedef {object} Surroundings
 * @property {import('../store/open.js').Host} host
 * @property {AbortSignal} signal ends the load, and what it left going
 * @property {(progress: Progress) => void} onProgress
 * @property {(reason: string) => void} onHelperEnd
 *
 * @typedef {import('./engine.js').BankInfo & {note: string, from: string, bytes: {bank: number}}} LoadedBank
 *   note: what to know about its fit, or ''; from: where it was found
 */

/**
 * @param {LoadCall} call
 * @param {Surroundings} surroundings
 */
export async function load(call, surroundings) {
  for (let tries = 1; ; tries++) {
    const loading = new Loading(call, surroundings);
    try {
      return await loading.run();
    } catch (error) {
      await loading.close();
      if (!(error instanceof Changed)) throw error;
      if (tries === 3) throw new SkipstoneError('network', `${error.message}: it changed ${tries} times while it was read`);
    }
  }
}

class Loading {
  #call;
  #host;
  #signal;
  #onProgress;
  #onHelperEnd;
  #opener;
  /** @type {Engine | undefined} */ #engine;
  /** @type {import('../store/source.js').Source | undefined} */ #source;
  #started = performance.now();
  #timings = { module_ms: 0, open_ms: 0, weights_ms: 0, bank_ms: 0, warmup_ms: 0, load_ms: 0, complete_ms: 0 };

  /** @param {LoadCall} call @param {Surroundings} surroundings */
  constructor(call, { host, signal, onProgress, onHelperEnd }) {
    this.#call = call;
    this.#host = host;
    this.#signal = signal;
    this.#onProgress = onProgress;
    this.#onHelperEnd = onHelperEnd;
    this.#opener = new Opener(host, call.access, signal, (name) => onProgress({ phase: 'download', file: name, loaded: 0, total: 0 }));
  }

  async close() {
    await Promise.all([this.#source?.close(), this.#engine?.close()]);
  }

  /** Adds what `work` takes to a timing. @template T @param {keyof Loading['timings']} name @param {() => Promise<T> | T} work */
  async #timed(name, work) {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.#timings[name] += performance.now() - started;
    }
  }

  get timings() {
    return this.#timings;
  }

  async run() {
    const { source: places, module, contextSize, skip, partial, bank: bankFrom, maxSessions } = this.#call;
    const source = (this.#source = await this.#timed('open_ms', () => this.#opener.model(places)));
    const engine = (this.#engine = await this.#timed('module_ms', () => Engine.create(module, this.#onHelperEnd)));
    this.#signal.throwIfAborted();
    engine.openModel();
    const weights = new Weights(engine, source, this.#signal, this.#onProgress);
    const check = () => checkRoom(engine, contextSize);
    const byNeed = partial && (bankFrom !== undefined || skip !== '');
    await this.#timed('weights_ms', () => (byNeed ? weights.header(check) : weights.whole(check)));

    let bank = bankFrom && (await this.#timed('bank_ms', () => this.#bank(engine, bankFrom)));
    const { layers, blocks } = engine.modelInfo();
    const costs = Array.from({ length: blocks }, (_, block) => engine.blockCost(block));
    if (byNeed) {
      await this.#timed('weights_ms', async () => {
        if (!weights.random) return weights.whole();
        weights.byNeed();
        const first = bankFrom ? weights.firstBlocks().flat() : []; // to route by, and to measure
        await weights.need([...weights.common(), ...first]);
      });
    }
    if (bankFrom === 'auto' && !bank) bank = await this.#timed('bank_ms', () => this.#bankOfFamily(engine));
    const fits = bank && this.#fits(engine, bank);
    if (fits) engine.openEncoder();

    const depth = fits ? await this.#timed('warmup_ms', () => this.#depth(engine, fits, layers, costs, weights.isByNeed)) : 1;
    if (weights.isByNeed) {
      const masks = fits
        ? Array.from({ length: fits.clusters + 1 }, (_, cluster) => engine.bankMask(cluster, depth, layers))
        : [engine.parseMask(skip, layers)];
      weights.want(weights.ofBlocks(byUse(masks, blocks)), false);
      await weights.makeRoom();
    }
    const special = engine.openTokenizer();
    const chunk = chunkTokens(costs, engine.module.threads);
    const runner = new Runner(engine, { layers, costs, contextSize, chunk, skip, bank: fits, depth, maxSessions, weights });
    const mask = runner.parse();
    runner.open(mask);
    const value = {
      ...engine.version,
      module: engine.module,
      model: engine.modelInfo(),
      fingerprint: engine.fingerprint(),
      context: { size: runner.context, kvBytes: engine.sessionSize(mask, contextSize, chunk).kvBytes },
      mask: runner.report(mask),
      bank: fits ?? null,
      bankReason: bankFrom === undefined ? 'not asked for' : this.#reason,
      depth,
      special: {
        ...special,
        bosText: engine.tokenText(special.bos),
        eosText: engine.tokenText(special.eos),
        unknownText: engine.tokenText(special.unknown),
        padText: engine.tokenText(special.pad),
      },
      template: engine.metaText('tokenizer.chat_template'),
      download: weights.download(this.#opener.why),
      timings: this.#timings,
    };
    this.#timings.load_ms = performance.now() - this.#started;
    if (weights.isComplete) this.#timings.complete_ms = this.#timings.load_ms;
    return { engine, runner, weights, value, status: () => this.#status(engine, weights) };
  }

  /** What changes while tensors go on coming. @param {Engine} engine @param {Weights} weights */
  #status(engine, weights) {
    if (weights.isComplete) this.#timings.complete_ms ||= performance.now() - this.#started;
    return { download: weights.download(this.#opener.why), fingerprint: engine.fingerprint(), timings: this.#timings };
  }

  /* ---- banks ---- */

  #reason = '';

  /**
   * Opens the bank that was named, or finds one.
   * @param {Engine} engine
   * @param {Place | 'auto'} from
   * @returns {Promise<LoadedBank | undefined>}
   */
  async #bank(engine, from) {
    if (from !== 'auto') return this.#openBank(engine, from);
    const name = engine.metaText('general.name');
    const packed = this.#opener.banks.filter(({ model }) => model === name);
    const places = await this.#opener.banksBeside(this.#call.source);
    for (const place of [...places, ...packed]) {
      try {
        return await this.#openBank(engine, place);
      } catch (error) {
        if (!(error instanceof SkipstoneError) || error.code !== 'not_found') throw error;
      }
    }
    return undefined;
  }

  /** One of the package's, for a model of another name but of the same weights. @param {Engine} engine */
  async #bankOfFamily(engine) {
    const { family } = engine.fingerprint();
    const packed = this.#opener.banks.find((bank) => bank.family === family);
    if (packed) return this.#openBank(engine, packed);
    this.#reason = `there is no bank beside the model, and the package has none for '${engine.metaText('general.name')}', family ${family}`;
    return undefined;
  }

  /** @param {Engine} engine @param {Place | import('../store/open.js').PackedBank} place @returns {Promise<LoadedBank>} */
  async #openBank(engine, place) {
    const { encoder: encoderFrom } = this.#call;
    const file = await this.#opener.file(place);
    const bytes = await readAll(file, this.#signal);
    const bank = about(engine, file.name, () => engine.openBank(bytes));
    if (bank.encoder.kind !== 'self') {
      if (encoderFrom === undefined) {
        const need = `it routes by ${bank.encoder.name}; give that model's GGUF file as the option encoder`;
        throw new SkipstoneError('argument', `${file.name}: ${need}`);
      }
      const source = await this.#opener.model(encoderFrom);
      try {
        engine.openEncoderModel();
        await new Weights(engine, source, this.#signal, this.#onProgress, 'encoder').whole();
      } finally {
        await source.close();
      }
    }
    this.#reason = 'model' in place ? `${file.name}, of the package` : file.name;
    return { ...bank, note: '', from: file.name, bytes: { bank: bytes.length } };
  }

  /** The bank, if it was made for this model; one that was only found is left out otherwise. @param {Engine} engine @param {LoadedBank} bank */
  #fits(engine, bank) {
    try {
      return { ...bank, note: about(engine, bank.from, () => engine.checkBank()) };
    } catch (error) {
      if (this.#call.bank !== 'auto' || !(error instanceof SkipstoneError) || engine.dead) throw error;
      this.#reason = `none that fits: ${error.message}`;
      engine.closeBank();
      engine.closeEncoder();
      return undefined;
    }
  }

  /**
   * The depth as a number, measured where it depends on this device.
   * @param {Engine} engine @param {LoadedBank} bank @param {number} layers
   * @param {import('./engine.js').BlockCost[]} costs
   * @param {boolean} byNeed only the first blocks are there
   */
  #depth(engine, bank, layers, costs, byNeed) {
    const { depth } = this.#call;
    if (typeof depth === 'number') {
      engine.bankMask(0, depth, layers); // below the deepest level: said now, not at the first prompt
      return depth;
    }
    const file = bank.from;
    this.#onProgress({ phase: 'warm-up', file, loaded: 0, total: 1 });
    const present = costs.map((_, block) => !byNeed || block < SELF_BLOCKS);
    const speed = measure(engine, layers, costs, chunkTokens(costs, engine.module.threads), present);
    const wanted = depth === 'auto' ? READING_SPEED : depth.decodeTokensPerSecond;
    const chosen = depthFor(speed, sumOf(costs, 'macs'), bank.levels, wanted);
    this.#onProgress({ phase: 'warm-up', file, loaded: 1, total: 1 });
    return chosen.depth;
  }
}

/**
 * The blocks that masks run: those of most masks first, then in the order of the model.
 * @param {import('./engine.js').Mask[]} masks
 * @param {number} blocks
 */
function byUse(masks, blocks) {
  const uses = Array.from({ length: blocks }, (_, block) => masks.filter((mask) => mask.runs(block)).length);
  return [...uses.keys()].filter((block) => uses[block] > 0).sort((a, b) => uses[b] - uses[a] || a - b);
}

/** A small file, whole. @param {import('../store/source.js').Source} source @param {AbortSignal} signal */
async function readAll(source, signal) {
  const pieces = [];
  let n = 0;
  try {
    for await (const { bytes } of source.stream(0, Infinity, signal)) {
      n += bytes.length;
      if (n > MOST_BANK_BYTES) throw new SkipstoneError('format', `${source.name}: more than ${MOST_BANK_BYTES} bytes are too many for a bank`);
      pieces.push(bytes.slice());
    }
  } finally {
    await source.close();
  }
  const all = new Uint8Array(n);
  pieces.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
  return all;
}

/**
 * Names the file in an error that the core found in it.
 * @template T @param {Engine} engine @param {string} name @param {() => T} call @returns {T}
 */
function about(engine, name, call) {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof SkipstoneError) || engine.dead) throw error;
    throw new SkipstoneError(error.code, `${name}: ${error.message}`, { cause: error });
  }
}

/**
 * Tokens per prefill step: as many as keep the largest block short, since an abort waits for the end of a block, and for each
 * of up to 4 threads, since each unpacks the weights for its own. Results do not depend on it.
 * @param {import('./engine.js').BlockCost[]} costs
 * @param {number} threads
 */
export function chunkTokens(costs, threads) {
  const tokens = 0.5e9 / Math.max(...costs.map(({ macs }) => macs));
  return Math.min(4, threads) * Math.min(128, Math.max(32, Math.floor(tokens / 8) * 8));
}

/** @param {import('./engine.js').BlockCost[]} costs @param {keyof import('./engine.js').BlockCost} what */
export const sumOf = (costs, what) => costs.reduce((sum, cost) => sum + cost[what], 0);

/** What cannot fit is refused when the header is known, before the rest is read. @param {Engine} engine @param {number} contextSize */
function checkRoom(engine, contextSize) {
  const { contextTrained, packedBytes } = engine.modelInfo();
  if (contextTrained && contextSize > contextTrained) {
    throw new SkipstoneError('argument', `contextSize is ${contextSize}, the model was trained for ${contextTrained} tokens`);
  }
  const { maximum } = engine.memory();
  if (packedBytes > maximum) {
    throw new SkipstoneError('memory', `the weights take ${packedBytes} bytes, the wasm memory may grow to ${maximum}`);
  }
}
