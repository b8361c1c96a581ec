/** skipstone models: what is in the weight store. */
import { models as store, SkipstoneError } from '../index.js';
import { UsageError } from './options.js';
import { CODE, JSON_OPTION, megabytes, write, writeJson } from './shared.js';

const ACTIONS = ['list', 'has', 'delete', 'usage', 'prune'];
const UNITS = /** @type {Record<string, number>} */ ({ '': 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12 });

/** @param {string} text */
function bytesOf(text) {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([KMGT]?)B?$/i.exec(text) ?? [];
  if (!number) throw new UsageError(`--max ${text}: want a size as 2G, 500M or 0`);
  return Number(number) * UNITS[unit.toUpperCase()];
}

/** @type {import('./options.js').Command} */
export const models = {
  name: 'models',
  summary: 'list and remove stored models',
  usage: '[list | has MODEL | delete MODEL | usage | prune] [options]',
  about: `Shows and clears the store of downloaded models. has exits with 0 where all of a model is stored, else with 1.
prune removes what was not used for longest until the rest takes at most --max; nothing that is in use goes.`,
  examples: `  npx skipstone models
  npx skipstone models delete hf:owner/repo:Q4_1
  npx skipstone models prune --max 2G`,
  options: [
    { name: 'max', argument: 'SIZE', help: 'of prune: what may stay, as 2G or 500M (default 0: nothing)' },
    { name: 'cache', argument: 'FOLDER', help: 'the folder of the store, where it is not the usual one' },
    JSON_OPTION,
  ],
  operands: 2,
  async run({ max, cache, json }, [action = 'list', name]) {
    if (!ACTIONS.includes(action)) throw new UsageError(`unknown action ${action}; there are ${ACTIONS.join(', ')}`);
    const needsName = action === 'has' || action === 'delete';
    if (needsName && name === undefined) throw new UsageError(`${action} what? give a model`);
    if (!needsName && name !== undefined) throw new UsageError(`unexpected argument ${name}`);
    if (max !== undefined && action !== 'prune') throw new UsageError('--max belongs to prune');
    if (action === 'list') {
      const stored = await store.list({ cache });
      if (json) writeJson(stored);
      else write(stored.length ? stored.map(line).join('') : 'nothing is stored\n');
    } else if (action === 'has') {
      const has = await store.has(name, { cache });
      if (json) writeJson({ stored: has });
      else write(`${has || 'no'}\n`);
      return has === 'complete' ? CODE.ok : CODE.failed;
    } else if (action === 'delete') {
      const removed = await store.delete(name, { cache });
      if (!removed) throw new SkipstoneError('not_found', `${name} is not stored`);
      if (json) writeJson({ removed });
    } else if (action === 'usage') {
      const { bytes, available, place } = await store.usage({ cache });
      if (json) writeJson({ bytes, available, place });
      else write(`${megabytes(bytes)} in ${place}, room for ${megabytes(available)}\n`);
    } else {
      const { removed, bytes } = await store.prune({ maxBytes: bytesOf(max ?? '0'), cache });
      if (json) writeJson({ removed, bytes });
      else write(`${removed.map((file) => `removed ${file}\n`).join('')}${megabytes(bytes)} left\n`);
    }
    return CODE.ok;
  },
};

/** @param {import('../../store/models.js').Stored} stored */
function line({ url, bytes, storedBytes, complete, used }) {
  const size = complete ? megabytes(bytes) : `${megabytes(storedBytes)} of ${megabytes(bytes)}`;
  return `${used.toISOString().slice(0, 10)}  ${size.padStart(18)}  ${url}\n`;
}
