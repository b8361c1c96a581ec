/**
 * The engine's worker, but for what Node and browsers have of their own: node/worker.js and web/worker.js give that.
 *
 *   in    {id, call: 'load' | 'canRun' | 'generate' | 'prefill' | 'count' | 'save' | 'restore' | 'embed' | 'route' | 'tokenize' |
 *         'detokenize', ...}; {call: 'interrupt', id, how}; {call: 'release', owner}; {call: 'close'}
 *   out   {type: 'ready'}; then for each id any number of {id, start}, {id, chunk} or {id, progress}, and one
 *         {id, value, memory} or {id, error}; {type: 'status', status, memory, error} when the tensors that a load left to come
 *         are there, or failed; {type: 'dead', error} when a helper crashed; {type: 'closed'}: files and locks are free
 *
 * Calls run one after the other in the order they came; the rest acts at once.
 */
import { canRun } from './can_run.js';
import { TOKENIZE } from './engine.js';
import { abortError, FATAL_CODES, SkipstoneError, toWire } from './errors.js';
import { Aborted } from './generate.js';
import { load as loadModel } from './loading.js';
import { parentPort } from './platform.js';

/**
 * @param {import('../store/open.js').Host} host
 * @param {import('./platform.js').Port} [port] to who calls; default: to who started this worker
 */
export function serve(host, port = parentPort()) {
  const life = new AbortController(); // of the load, and of what it left to be fetched
  /** @type {import('./engine.js').Engine | undefined} */ let engine;
  /** @type {import('./generate.js').Runner | undefined} */ let runner;
  /** @type {import('./weights.js').Weights | undefined} */ let weights;
  /** @type {any[]} */ const queue = [];
  /** @type {Map<number, 'abort' | 'cancel'>} */ const interrupts = new Map();
  /** @type {number | undefined} */ let current;
  let idle = () => {};

  /** @param {any} message */
  async function answer(message) {
    const { id, call } = message;
    if (call === 'load') {
      return load(message, (progress) => port.post({ id, progress }));
    }
    if (call === 'canRun') {
      return canRun(message, { host, signal: life.signal });
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
    idle();
  }

  port.listen((message) => {
    if (message.call === 'interrupt') {
      const { id, how } = message;
      if (id !== current && !queue.some((waiting) => waiting.id === id)) return; // it is done
      interrupts.set(id, how);
      if (!engine) life.abort(abortError()); // a load that is given up: nothing else goes on yet
      return;
    }
    if (message.call === 'close') return void close();
    if (message.call === 'release') return runner?.release(message.owner);
    queue.push(message);
    if (current === undefined) void work();
  });
  port.post({ type: 'ready' });

  /** Lets go of files and locks; the worker is ended then. */
  async function close() {
    queue.length = 0;
    if (current !== undefined) interrupts.set(current, 'abort');
    life.abort(abortError());
    if (current !== undefined) await new Promise((resolve) => (idle = () => resolve(undefined)));
    await weights?.close().catch(() => {}); // nobody is left to be told
    port.post({ type: 'closed' });
  }

  /**
   * @param {any} message
   * @param {(progress: import('./options.js').Progress) => void} onProgress
   */
  async function load(message, onProgress) {
    const onHelperEnd = (/** @type {string} */ reason) =>
      port.post({ type: 'dead', error: { code: 'worker_crashed', message: reason } });
    const loaded = await loadModel(message, { host, signal: life.signal, onProgress, onHelperEnd });
    ({ engine, runner, weights } = loaded);
    weights.onEnd = (error) => {
      if (life.signal.aborted || loaded.engine.dead) return;
      port.post({ type: 'status', status: loaded.status(), memory: loaded.engine.memory(), error: error && toWire(error) });
    };
    return loaded.value;
  }
}
