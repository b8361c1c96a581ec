/**
 * A helper thread: joins the pool in the engine's shared memory and does parts of its loops until the pool stops.
 * The same file is a Node worker thread and a Web Worker.
 */
import { instantiate } from './loader.js';
import { parentPort } from './platform.js';

const port = parentPort();
port.listen(async ({ module, memory, index, stack }) => {
  /** @type {Record<string, any> | undefined} */
  let exports;
  try {
    exports = await instantiate(module, memory, stack);
    port.post({ type: 'joined', index });
    exports.ss_worker_run(index); // blocks here for as long as the engine lives
  } catch (error) {
    exports?.ss_pool_stop(1); // its part will never be done: let the engine's thread trap too instead of waiting
    port.post({ type: 'failed', index, message: error instanceof Error ? error.message : String(error) });
  }
  port.close();
});
port.post({ type: 'ready' });
