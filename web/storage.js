/**
 * The weight store's storage in a browser: the origin's private file system (OPFS). Files are read and written through
 * synchronous handles, which workers alone have; listing and removing work on a page as well.
 */
import { SkipstoneError } from '../wasm/errors.js';

const FOLDER = 'skipstone';

/** Why there is no store here, or ''. @param {'look' | 'load'} use */
export async function whyNoStorage(use) {
  if (!globalThis.isSecureContext) return 'no store: the page is neither https: nor on localhost';
  if (!navigator.storage?.getDirectory) return 'no store: this browser has no private file system (OPFS)';
  if (!navigator.locks) return 'no store: this browser has no Web Locks';
  if (use === 'load' && !('createSyncAccessHandle' in FileSystemFileHandle.prototype)) {
    return 'no store: files can be opened in a worker alone, and the engine runs in place';
  }
  try {
    await navigator.storage.getDirectory();
    return '';
  } catch (error) {
    return `no store: ${error instanceof Error ? error.message : error}`; // private windows of some browsers
  }
}

/** @param {unknown} error @param {...string} names */
const is = (error, ...names) => error instanceof DOMException && names.includes(error.name);

/** @returns {import('../store/store.js').Storage} */
export function opfsStorage() {
  /** @param {boolean} create */
  const root = async (create) => {
    const all = await navigator.storage.getDirectory();
    return all.getDirectoryHandle(FOLDER, { create });
  };
  /** @param {string} folder @param {string} name @param {boolean} create */
  const handle = async (folder, name, create) => {
    const directory = await (await root(create)).getDirectoryHandle(folder, { create });
    return directory.getFileHandle(name, { create });
  };
  /** What a missing file or folder gives. @template T @param {Promise<T>} promise @returns {Promise<T | undefined>} */
  const there = (promise) =>
    promise.catch((error) => {
      if (is(error, 'NotFoundError')) return undefined;
      throw failed(error);
    });

  return {
    place: 'the storage that the browser gives this site',
    async list() {
      const directory = await there(root(false));
      const names = [];
      if (directory) for await (const [name, entry] of /** @type {any} */ (directory)) if (entry.kind === 'directory') names.push(name);
      return names;
    },
    async read(folder, name) {
      const file = await there(handle(folder, name, false).then((found) => found.getFile()));
      return file && new Uint8Array(await file.arrayBuffer());
    },
    async write(folder, name, bytes) {
      const file = await handle(folder, name, true);
      if ('createWritable' in file) { // writes a copy, which takes the file's place when it is closed
        const stream = await file.createWritable();
        try {
          await stream.write(/** @type {Uint8Array<ArrayBuffer>} */ (bytes));
        } catch (error) {
          await stream.abort();
          throw error;
        }
        return stream.close();
      }
      const access = await /** @type {any} */ (file).createSyncAccessHandle();
      try {
        access.truncate(0);
        access.write(bytes, { at: 0 });
        access.flush();
      } finally {
        access.close();
      }
    },
    async size(folder, name) {
      return (await there(handle(folder, name, false).then((found) => found.getFile())))?.size ?? 0;
    },
    async remove(folder) {
      const directory = await there(root(false));
      if (directory) await there(directory.removeEntry(folder, { recursive: true }));
    },
    async open(folder, name) {
      const file = /** @type {any} */ (await handle(folder, name, true));
      // the handle of a worker that was just ended may take a moment to go
      for (let tries = 0; ; tries++) {
        try {
          const access = await file.createSyncAccessHandle();
          return {
            read: (at, bytes) => access.read(bytes, { at }),
            write(at, bytes) {
              const n = access.write(bytes, { at });
              if (n < bytes.length) throw new DOMException(`${n} of ${bytes.length} bytes were written`, 'QuotaExceededError');
            },
            close: () => access.close(),
          };
        } catch (error) {
          if (!is(error, 'NoModificationAllowedError', 'InvalidStateError') || tries >= 20) throw error;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
    },
    lock(name, { wait, signal }) {
      return new Promise((resolve, reject) => {
        /** @type {() => void} */ let release;
        const held = new Promise((/** @type {(value: void) => void} */ done) => (release = done));
        const options = wait ? { signal } : { ifAvailable: true };
        const request = navigator.locks.request(`skipstone:${name}`, options, (lock) => {
          if (!lock) return resolve(undefined);
          resolve(async () => {
            release();
            await request;
          });
          return held;
        });
        request.catch(reject);
      });
    },
    async available() {
      const { quota, usage } = await navigator.storage.estimate();
      return quota === undefined ? Infinity : Math.max(0, quota - (usage ?? 0));
    },
    isFull: (error) => is(error, 'QuotaExceededError') || /** @type {any} */ (error)?.name === 'QuotaExceededError',
  };
}

/** @param {unknown} error */
function failed(error) {
  return new SkipstoneError('io', `the browser's storage: ${error instanceof Error ? error.message : error}`, { cause: error });
}
