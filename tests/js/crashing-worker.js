/** The engine's worker with a fault inside: texts to tokenize say which. */
import { parentPort } from 'node:worker_threads';

const { instantiate } = WebAssembly;
/** @type {any} */
let exports;
// @ts-expect-error the overload with a module alone
WebAssembly.instantiate = async (/** @type {WebAssembly.Module} */ module, /** @type {WebAssembly.Imports} */ imports) => {
  const instance = await instantiate(module, imports);
  exports = { ...instance.exports };
  return { exports };
};
parentPort?.on('message', ({ call, text }) => {
  if (call !== 'tokenize') return;
  if (text === 'throw') throw new Error('planted');
  if (text === 'exit') process.exit(3);
  if (text === 'trap') {
    exports.ss_text_tokens = () => {
      throw new WebAssembly.RuntimeError('planted trap');
    };
  }
  if (text === 'helper') exports.ss_pool_stop(1); // as a helper does that trapped
});

await import('../../node/worker.js');
