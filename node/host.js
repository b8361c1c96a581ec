/** What the loader needs of Node: files by path, read in pieces and never whole, and the cache folder. */
import fs from 'node:fs/promises';
import { basename } from 'node:path';
import { banks } from '../banks/index.js';
import { SkipstoneError } from '../wasm/errors.js';
import { folderStorage, sha256 } from './storage.js';

/** @param {string} path @returns {Promise<import('../store/source.js').PlainFile>} */
async function openPath(path) {
  const file = await fs.open(path).catch((/** @type {NodeJS.ErrnoException} */ error) => {
    if (error.code === 'ENOENT') throw new SkipstoneError('not_found', `${path}: no such file`);
    throw new SkipstoneError('io', `${path}: ${error.message}`, { cause: error });
  });
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new SkipstoneError('io', `${path}: not a file`);
    return {
      name: basename(path),
      size: stat.size,
      read: async (offset, buffer) => {
        try {
          return (await file.read(buffer, 0, buffer.length, offset)).bytesRead;
        } catch (error) {
          throw new SkipstoneError('io', `${path}: ${error instanceof Error ? error.message : error}`, { cause: error });
        }
      },
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** @type {import('../store/open.js').Host} */
export const host = {
  openPath,
  isFile: async (path) => (await fs.stat(path).catch(() => undefined))?.isFile() ?? false,
  storage: async ({ folder }) => ({ storage: folderStorage(folder), why: '' }),
  sha256,
  banks,
};
