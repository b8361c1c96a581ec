/** How a model's file is read in Node: in pieces, never whole. */
import fs from 'node:fs/promises';
import { basename } from 'node:path';
import { SkipstoneError } from '../wasm/errors.js';

/** @param {{path: string}} place @returns {Promise<import('../wasm/serve.js').Source>} */
export async function open({ path }) {
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
      read: async (/** @type {number} */ offset, /** @type {Uint8Array} */ buffer) => {
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
