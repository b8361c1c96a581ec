/**
 * The engine's worker, but for how a model's bytes are read: node/worker.js gives that.
 *
 *   in    {id, call: 'load' | 'generate' | 'prefill' | 'count' | 'save' | 'restore' | 'embed' | 'route' | 'tokenize' |
 *         'detokenize', ...}; {call: 'interrupt', id, how}; {call: 'release', owner}
 *   out   {type: 'ready'}; then for each id any number of {id, start}, {id, chunk} or {id, progress}, and one
 *         {id, value, memory} or {id, error}; {type: 'dead', error} when a helper crashed
 *
 * Calls run one after the other in the order they came; interrupts and releases act at once.
 */
import { Engine, TOKENIZE } from './engine.js';
import { FATAL_CODES, SkipstoneError, toWire } from './errors.js';
import { Aborted, Runner } from './generate.js';
import { parentPort } from './platform.js';

const READ_BYTES = 4 << 20;
const MOST_BANK_BYTES = 64 << 20;

/**
 * @typedef {object} Source  Where the model's file is read from.
 * @property {string} name for messages
 * @property {number} size
 * @property {(offset: number, buffer: Uint8Array) => Promise<number>} read returns how many bytes it got; 0: the end
 * @property {() => Promise<void>} close
 *
 * @typedef {object} LoadCall
 * @property {any} source as the host's `open` takes it
 * @property {import('./loader.js').LoadOptions} module
 * @property {number} contextSize 0: the core's default
 * @property {string} skip
 * @property {any} [bank] as `open` takes it
 * @property {any} [encoder] the model of a bank's encoder, where it has one
 * @property {number} depth
 * @property {number} maxSessions KV caches at once
 */

/**
 * @param {(source: any) => Promise<Source>} open
 * @param {import('./platform.js').Port} [port] to who calls; default: to who started this worker
 */
export function serve(open, port = parentPort()) {
  /** @type {Engine | undefined} */ let engine;
  /** @type {Runner | undefined} */ let runner;
  /** @type {any[]} */ const queue = [];
  /** @type {Map<number, 'abort' | 'cancel'>} */ const interrupts = new Map();
  /** @type {number | undefined} */ let current;

  /** @param {any} message */
  async function answer(message) {
    const { id, call } = message;
    if (call === 'load') {
      return load(message, (progress) => port.post({ id, progress }));
    }
    const interrupted = () => interrupts.get(id);
    if (!engine || !runner) throw new SkipstoneError('state', `${call} before load`);
    if (call === 'generate') {
      const emit = {
        start: (/** @type {import('./generate.js').Start} */ start) => port.post({ id, start }),
        chunk: (/** @type {import('./generate.js').Chunk} */ chunk) => port.post({ id, chunk }),
      };
      return runner.generate(message.request, emit, interrupted);
    }
    if (call === 'prefill') {
      return runner.prefill(message.request, interrupted);
    }
    if (call === 'count') {
      return runner.count(message.request).length;
    }
    if (call === 'save') {
      return runner.save(message.request, interrupted);
    }
    if (call === 'restore') {
      return runner.restore(message.bytes, message.request);
    }
    if (call === 'embed') {
      return runner.embed(message.texts, interrupted);
    }
    if (call === 'tokenize') {
      return engine.tokenize(message.text, (message.special ? TOKENIZE.SPECIAL : 0) | (message.bos ? TOKENIZE.BOS : 0));
    }
    if (call === 'detokenize') {
      return engine.textOf(message.tokens);
    }
    if (call === 'route') {
      const { mask, route } = runner.route(message.text, message.depth);
      return { ...route, mask: runner.report(mask) };
    }
    throw new SkipstoneError('internal', `no call ${call}`);
  }

  async function work() {
    for (let message = queue.shift(); message; message = queue.shift()) {
      const { id } = message;
      current = id;
      try {
        if (interrupts.has(id)) throw new Aborted();
        const value = await answer(message);
        port.post({ id, value, memory: engine?.memory() });
      } catch (error) {
        if (error instanceof Aborted) port.post({ id, error: { code: 'aborted', message: 'the call was aborted' } });
        else port.post({ id, error: toWire(error) });
        if (error instanceof SkipstoneError && FATAL_CODES.has(error.code)) port.post({ type: 'dead', error: toWire(error) });
      }
      interrupts.delete(id);
    }
    current = undefined;
  }

  port.listen((message) => {
    if (message.call === 'interrupt') {
      const { id, how } = message;
      if (id === current || queue.some((waiting) => waiting.id === id)) interrupts.set(id, how); // else it is done
      return;
    }
    if (message.call === 'release') return runner?.release(message.owner);
    queue.push(message);
    if (current === undefined) void work();
  });
  port.post({ type: 'ready' });

  /**
   * @param {LoadCall} call
   * @param {(progress: import('./options.js').Progress) => void} onProgress
   */
  async function load({ source: from, module, contextSize, skip, bank: bankFrom, encoder, depth, maxSessions }, onProgress) {
    const started = performance.now();
    const source = await open(from);
    try {
      engine = await Engine.create(module, (reason) =>
        port.post({ type: 'dead', error: { code: 'worker_crashed', message: reason } }),
      );
      engine.openModel();
      const moduleMs = performance.now() - started;
      await feed(engine, source, onProgress, () => engine && checkRoom(engine, contextSize));
      const bank = bankFrom === undefined ? undefined : await loadBank(engine, bankFrom, encoder, onProgress);
      const special = engine.openTokenizer();
      const model = engine.modelInfo();
      const costs = Array.from({ length: model.blocks }, (_, block) => engine?.blockCost(block) ?? never());
      const chunk = chunkTokens(costs);
      runner = new Runner(engine, { layers: model.layers, costs, contextSize, chunk, skip, bank, depth, maxSessions });
      const mask = runner.parse();
      runner.open(mask);
      return {
        ...engine.version,
        module: engine.module,
        model,
        context: { size: runner.context, kvBytes: engine.sessionSize(mask, contextSize, chunk).kvBytes },
        mask: runner.report(mask),
        bank: bank ?? null,
        special: {
          ...special,
          bosText: engine.tokenText(special.bos),
          eosText: engine.tokenText(special.eos),
          unknownText: engine.tokenText(special.unknown),
          padText: engine.tokenText(special.pad),
        },
        template: engine.metaText('tokenizer.chat_template'),
        timings: { module_ms: moduleMs, load_ms: performance.now() - started },
      };
    } finally {
      await source.close();
    }
  }

  /**
   * Opens a bank and the encoder that routes by it.
   * @param {Engine} target
   * @param {any} from
   * @param {any} encoderFrom
   * @param {(progress: import('./options.js').Progress) => void} onProgress
   */
  async function loadBank(target, from, encoderFrom, onProgress) {
    const file = await open(from);
    try {
      const bytes = await readAll(file);
      const bank = about(target, file, () => target.openBank(bytes));
      const own = bank.encoder.kind !== 'self';
      if (own && encoderFrom === undefined) {
        const need = `it routes by ${bank.encoder.name}; give that model's GGUF file as the option encoder`;
        throw new SkipstoneError('argument', `${file.name}: ${need}`);
      }
      if (own) {
        const model = await open(encoderFrom);
        try {
          target.openEncoderModel();
          await feed(target, model, onProgress);
        } finally {
          await model.close();
        }
      }
      const note = about(target, file, () => target.checkBank());
      target.openEncoder();
      return { ...bank, note, bytes: { bank: bytes.length } };
    } finally {
      await file.close();
    }
  }
}

/** A small file, whole. @param {Source} source */
async function readAll(source) {
  if (source.size > MOST_BANK_BYTES) throw new SkipstoneError('format', `${source.name}: ${source.size} bytes are too many for a bank`);
  const bytes = new Uint8Array(source.size);
  for (let at = 0; at < bytes.length; ) {
    const n = await source.read(at, bytes.subarray(at));
    if (!n) throw new SkipstoneError('format', `${source.name}: the file ends after ${at} of ${bytes.length} bytes`);
    at += n;
  }
  return bytes;
}

/**
 * Names the file in an error that the core found in it.
 * @template T @param {Engine} engine @param {Source} source @param {() => T} call @returns {T}
 */
function about(engine, source, call) {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof SkipstoneError) || engine.dead) throw error;
    throw new SkipstoneError(error.code, `${source.name}: ${error.message}`, { cause: error });
  }
}

/**
 * Tokens per prefill step: as many as keep the largest block short, since an abort waits for the end of a block.
 * Results do not depend on it.
 * @param {import('./engine.js').BlockCost[]} costs
 */
function chunkTokens(costs) {
  const tokens = 0.5e9 / Math.max(...costs.map(({ macs }) => macs));
  return Math.min(128, Math.max(32, Math.floor(tokens / 8) * 8));
}

/** @returns {never} */
function never() {
  throw new SkipstoneError('internal', 'the engine is gone');
}

/**
 * Streams the file through the core's repack; at no time is more than a piece of it held.
 * @param {Engine} engine
 * @param {Source} source
 * @param {(progress: import('./options.js').Progress) => void} onProgress
 * @param {() => void} [onHeader] called when the header is known; may throw
 */
async function feed(engine, source, onProgress, onHeader) {
  const buffer = new Uint8Array(READ_BYTES);
  let at = 0;
  let known = false;
  for (let complete = false; !complete; ) {
    const n = await source.read(at, buffer);
    if (!n) throw truncated(engine, source, at);
    const state = about(engine, source, () => engine.feed(at, buffer.subarray(0, n)));
    at += n;
    complete = state.complete;
    if (state.headerDone && !known) {
      known = true;
      if (state.fileBytes > source.size) throw truncated(engine, source, source.size, state.fileBytes);
      onHeader?.();
    }
    onProgress({ phase: 'repack', file: source.name, loaded: at, total: known ? state.fileBytes : source.size });
  }
  engine.endFeed();
}

/** @param {Engine} engine @param {Source} source @param {number} at @param {number} [wanted] */
function truncated(engine, source, at, wanted) {
  const where = wanted ? `its header describes ${wanted}` : 'before the end of its header';
  const verb = wanted ? 'has' : 'ends after';
  return new SkipstoneError('format', `${source.name}: the file ${verb} ${at} bytes, ${where}: it is truncated`);
}

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
