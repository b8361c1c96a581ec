/** The weight store's storage in Node: a cache folder. */
import { createHash, randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import fs from 'node:fs/promises';
import { homedir, hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { SkipstoneError } from '../wasm/errors.js';

const LOCKS = '.locks';
const LOOK_MS = 200; // between two looks at a lock that another holds
const BEAT_MS = 4_000; // between two signs of life of a holder
const STALE_MS = 20_000; // without one, after which it is taken for dead

/** $XDG_CACHE_HOME/skipstone, or what the system has for it. */
export function cacheFolder() {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, 'skipstone');
  if (process.platform === 'win32' && LOCALAPPDATA) return join(LOCALAPPDATA, 'skipstone', 'cache');
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'skipstone');
  return join(homedir(), '.cache', 'skipstone');
}

/** @param {unknown} error @param {...string} codes */
const is = (error, ...codes) => codes.includes(String(/** @type {NodeJS.ErrnoException} */ (error)?.code));

/**
 * @param {string} [root]
 * @returns {import('../store/store.js').Storage}
 */
export function folderStorage(root = cacheFolder()) {
  /** @param {string} folder @param {string} name */
  const path = (folder, name) => join(root, folder, name);
  return {
    place: root,
    async list() {
      try {
        const entries = await fs.readdir(root, { withFileTypes: true });
        return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.')).map(({ name }) => name);
      } catch (error) {
        if (is(error, 'ENOENT')) return [];
        throw failed(root, error);
      }
    },
    async read(folder, name) {
      try {
        return await fs.readFile(path(folder, name));
      } catch (error) {
        if (is(error, 'ENOENT', 'ENOTDIR')) return undefined;
        throw failed(path(folder, name), error);
      }
    },
    async write(folder, name, bytes) {
      const whole = path(folder, name);
      const part = `${whole}.${randomUUID()}.part`;
      await fs.mkdir(dirname(whole), { recursive: true });
      try {
        await fs.writeFile(part, bytes, { flush: true });
        await fs.rename(part, whole);
      } catch (error) {
        await fs.rm(part, { force: true });
        throw error;
      }
    },
    async size(folder, name) {
      return (await fs.stat(path(folder, name)).catch(() => undefined))?.size ?? 0;
    },
    async remove(folder) {
      await fs.rm(join(root, folder), { recursive: true, force: true });
    },
    async open(folder, name) {
      await fs.mkdir(join(root, folder), { recursive: true });
      const file = await fs.open(path(folder, name), 'a');
      await file.close();
      const fd = openSync(path(folder, name), 'r+');
      return {
        read(at, bytes) {
          let n = 0;
          for (let got = 1; got && n < bytes.length; n += got) got = readSync(fd, bytes, n, bytes.length - n, at + n);
          return n;
        },
        write(at, bytes) {
          for (let n = 0; n < bytes.length; ) n += writeSync(fd, bytes, n, bytes.length - n, at + n);
        },
        close: () => closeSync(fd),
      };
    },
    async lock(name, { wait, signal }) {
      const file = path(LOCKS, `${name}.lock`);
      await fs.mkdir(dirname(file), { recursive: true }).catch((error) => {
        throw failed(dirname(file), error);
      });
      const id = randomUUID();
      const mine = JSON.stringify({ id, pid: process.pid, host: hostname() });
      while (!(await take(file, mine))) {
        if (await removeStale(file)) continue;
        if (!wait) return undefined;
        signal?.throwIfAborted();
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      }
      const beat = setInterval(() => {
        const now = new Date();
        fs.utimes(file, now, now).catch(() => {}); // somebody removed it: there is nobody to tell
      }, BEAT_MS);
      beat.unref();
      return async () => {
        clearInterval(beat);
        if ((await fs.readFile(file, 'utf8').catch(() => '')) === mine) await fs.rm(file, { force: true });
      };
    },
    async available() {
      for (let folder = root; ; folder = dirname(folder)) {
        try {
          const { bavail, bsize } = await fs.statfs(folder);
          return bavail * bsize;
        } catch (error) {
          if (!is(error, 'ENOENT') || folder === dirname(folder)) return Infinity;
        }
      }
    },
    isFull: (error) => is(error, 'ENOSPC', 'EDQUOT', 'EFBIG'),
  };
}

/** @returns {import('../store/store.js').Hasher} */
export function sha256() {
  const hash = createHash('sha256');
  return { update: (bytes) => hash.update(bytes), digest: () => hash.digest('hex') };
}

/** Makes the lock's file, unless it is there. @param {string} file @param {string} mine */
async function take(file, mine) {
  const own = `${file}.${randomUUID()}`;
  try {
    await fs.writeFile(own, mine);
    await fs.link(own, file); // never seen without its content, unlike a file that is made and then written
    return true;
  } catch (error) {
    if (is(error, 'EEXIST')) return false;
    throw failed(file, error);
  } finally {
    await fs.rm(own, { force: true });
  }
}

/** Removes a lock whose holder is dead. @param {string} file @returns {Promise<boolean>} whether to try again at once */
async function removeStale(file) {
  try {
    const text = await fs.readFile(file, 'utf8');
    const { mtimeMs } = await fs.stat(file);
    if (Date.now() - mtimeMs < STALE_MS && isAlive(text)) return false;
    // of several that find it stale one alone can rename it; and it must still be what was looked at
    const aside = `${file}.${randomUUID()}`;
    await fs.rename(file, aside);
    if ((await fs.readFile(aside, 'utf8')) !== text) await fs.link(aside, file).catch(() => {}); // a new one: give it back
    await fs.rm(aside, { force: true });
    return true;
  } catch (error) {
    if (is(error, 'ENOENT')) return true;
    throw failed(file, error);
  }
}

/** Whether the process that made a lock may be there still. @param {string} text */
function isAlive(text) {
  try {
    const { pid, host } = JSON.parse(text);
    if (host !== hostname()) return true;
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return is(error, 'EPERM');
  }
}

/** @param {string} path @param {unknown} error */
function failed(path, error) {
  return new SkipstoneError('io', `${path}: ${error instanceof Error ? error.message : error}`, { cause: error });
}
