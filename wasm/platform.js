/**
 * The few things that Node and browsers name differently: workers, their ports, bytes of a file beside this one.
 *
 * @typedef {object} Port  The other side of a worker.
 * @property {(message: any, transfer?: any[]) => void} post
 * @property {(listener: (message: any) => void) => void} listen  One listener; messages wait for it.
 * @property {() => void} close  Nothing more is listened to: the worker can end.
 *
 * @typedef {object} Spawned  A worker, seen by who made it.
 * @property {(message: any) => void} post
 * @property {() => Promise<void>} terminate
 * @property {(busy: boolean) => void} keepAlive  Whether the process must stay for it (Node).
 *
 * @typedef {object} WorkerFile
 * @property {URL | string} url
 * @property {() => Worker} [start]  In a browser. `new Worker(new URL('./x.js', import.meta.url), {type: 'module', ...})` must
 *   stand there literally: that is how bundlers know a worker from an asset. `url` is then made from a variable.
 * @property {(port: Port) => void} [serve]  What the file does, for an engine that runs in place.
 *
 * @typedef {object} SpawnEvents
 * @property {(message: any) => void} onMessage
 * @property {(reason: string) => void} onEnd  It crashed or ended, and not by terminate().
 */

const process = /** @type {any} */ (globalThis).process;
export const isNode = typeof process?.versions?.node === 'string' && !process.versions.electron;

/** A module of Node's. No import: bundlers for the web would look for it. @param {string} name */
const builtin = (name) => process.getBuiltinModule(`node:${name}`);

/** @type {typeof import('node:worker_threads') | undefined} */
const threads = isNode ? builtin('worker_threads') : undefined;

/** How many threads can run at once here. */
export async function availableThreads() {
  if (isNode) return /** @type {typeof import('node:os')} */ (builtin('os')).availableParallelism();
  return globalThis.navigator?.hardwareConcurrency ?? 1;
}

/** Memory that the device has for us, as far as it tells. @returns {{bytes: number, text: string}} */
export function deviceMemory() {
  if (isNode) {
    const bytes = process.availableMemory?.() ?? /** @type {typeof import('node:os')} */ (builtin('os')).freemem();
    return { bytes, text: `this machine has ${bytes} free` };
  }
  // in GB, a power of two, at most 8 or 32 however much there is; a tab gets about half of it
  const gigabytes = /** @type {any} */ (globalThis.navigator)?.deviceMemory;
  if (!gigabytes) return { bytes: Infinity, text: '' };
  const bytes = gigabytes >= 8 ? Infinity : gigabytes * 2 ** 29;
  return { bytes, text: `this device has ${gigabytes} GB, of which a page may count on half` };
}

/**
 * Starts a module worker.
 * @param {WorkerFile} file
 * @param {string} name
 * @param {SpawnEvents} events
 * @returns {Spawned}
 */
export function spawn({ url, start = () => new Worker(url, { type: 'module', name }) }, name, { onMessage, onEnd }) {
  let ended = false;
  /** @param {string} reason */
  const end = (reason) => {
    if (!ended) onEnd(reason);
    ended = true;
  };
  if (threads) {
    const worker = new threads.Worker(new URL(url), { name });
    worker.on('message', onMessage);
    worker.on('error', (error) => end(error instanceof Error ? (error.stack ?? error.message) : String(error)));
    worker.on('messageerror', (error) => end(`a message could not be read: ${error.message}`));
    worker.on('exit', (code) => end(`it ended with code ${code}`));
    return {
      post: (message) => worker.postMessage(message),
      async terminate() {
        ended = true;
        await worker.terminate();
      },
      keepAlive: (busy) => (busy ? worker.ref() : worker.unref()),
    };
  }
  const worker = start();
  worker.onmessage = (event) => onMessage(event.data);
  worker.onmessageerror = () => end('a message could not be read');
  worker.onerror = (event) => {
    event.preventDefault();
    end(event.message || `the worker at ${url} did not load`);
  };
  return {
    post: (message) => worker.postMessage(message),
    async terminate() {
      ended = true;
      worker.terminate();
    },
    keepAlive() {},
  };
}

/**
 * Runs what a worker would run on this thread: both sides of a port, messages by turns of the event loop's microtasks.
 * @param {(port: Port) => void} serve
 * @param {SpawnEvents} events
 * @returns {Spawned}
 */
export function runInPlace(serve, { onMessage }) {
  let ended = false;
  /** @type {(message: any) => void} */
  let toEngine = () => {};
  serve({
    post: (message) => queueMicrotask(() => ended || onMessage(message)),
    listen: (listener) => (toEngine = listener),
    close() {},
  });
  return {
    post: (message) => queueMicrotask(() => ended || toEngine(message)),
    async terminate() {
      ended = true;
    },
    keepAlive() {},
  };
}

/** Whether workers can be started here: a service worker cannot. */
export const hasWorkers = threads !== undefined || typeof Worker === 'function';

/**
 * Inside a worker: the way to who made it.
 * @returns {Port}
 */
export function parentPort() {
  const port = threads?.parentPort;
  if (port) {
    return {
      post: (message, transfer) => port.postMessage(message, transfer),
      listen: (listener) => void port.on('message', listener),
      close: () => port.close(),
    };
  }
  const scope = /** @type {any} */ (globalThis);
  return {
    post: (message, transfer) => scope.postMessage(message, transfer ?? []),
    listen: (listener) => {
      scope.onmessage = (/** @type {MessageEvent} */ event) => listener(event.data);
    },
    close: () => scope.close(),
  };
}

/**
 * Lets waiting messages and timers have their turn, then goes on.
 * @type {() => Promise<void>}
 */
export const yieldToMessages = (() => {
  if (typeof setImmediate === 'function') return () => new Promise((resolve) => setImmediate(resolve));
  const channel = new MessageChannel();
  /** @type {(() => void)[]} */
  const waiting = [];
  channel.port1.onmessage = () => waiting.shift()?.();
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      channel.port2.postMessage(0);
    });
})();

/**
 * The whole of a small file by URL.
 * @param {URL} url
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function readUrl(url) {
  if (isNode && url.protocol === 'file:') {
    const { readFile } = /** @type {typeof import('node:fs/promises')} */ (builtin('fs/promises'));
    return new Uint8Array(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}
