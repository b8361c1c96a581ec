/** Models by their name on the Hugging Face hub, or on a server that speaks its API. */
import { SkipstoneError } from '../wasm/errors.js';
import { fetchText } from './http.js';
import { isLaterShard, shardNames } from './shards.js';

export const HUB = 'https://huggingface.co';
const MOST_LIST_BYTES = 32 << 20;
const SOURCE = /^hf:([\w.-]+\/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?$/;
/** What is taken where no quantisation is named, the first that is there. */
const PREFERRED = ['Q4_K_M', 'Q4_0', 'Q4_1', 'Q5_K_M', 'Q8_0'];

/**
 * @typedef {object} HubModel
 * @property {string} repo 'owner/name'
 * @property {string} revision a branch, tag or commit
 * @property {string} [file] in the repository
 * @property {string} [quant] or what its name must contain
 *
 * @typedef {{name: string, size?: number, sha256?: string}} HubFile
 */

/** @param {string} text 'hf:owner/repo', 'hf:owner/repo:QUANT', either with '@revision' @returns {HubModel} */
export function parseHub(text) {
  const found = SOURCE.exec(text);
  if (!found) throw new SkipstoneError('argument', `load: '${text}', want 'hf:owner/repo' or 'hf:owner/repo:QUANT', as in 'hf:owner/repo:Q4_1'`);
  const [, repo, quant, revision = 'main'] = found;
  return { repo, revision, quant };
}

/**
 * What the repository has, and the commit that the revision stands for.
 * @param {string} endpoint
 * @param {HubModel} model
 * @param {{token?: string, signal: AbortSignal, timing?: Partial<import('./http.js').Timing>}} options
 * @returns {Promise<{commit: string, files: HubFile[]}>}
 */
export async function listRepository(endpoint, { repo, revision }, { token, signal, timing }) {
  const url = `${endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const advice = permission(endpoint, repo, token);
  /** @type {any} */
  let answer;
  try {
    answer = JSON.parse(await fetchText(url, { token, signal, timing, advice, most: MOST_LIST_BYTES }));
  } catch (error) {
    if (error instanceof SyntaxError) throw new SkipstoneError('network', `${url}: the answer is no JSON`);
    if (error instanceof SkipstoneError && error.code === 'not_found') {
      throw new SkipstoneError('not_found', `${endpoint} has no model ${repo} at revision ${revision}`);
    }
    throw error;
  }
  if (!Array.isArray(answer?.siblings)) throw new SkipstoneError('network', `${url}: the answer has no list 'siblings'`);
  /** @type {HubFile[]} */
  const files = answer.siblings.map((/** @type {any} */ { rfilename, size, lfs }) => ({
    name: String(rfilename),
    size: Number.isSafeInteger(lfs?.size ?? size) ? (lfs?.size ?? size) : undefined,
    sha256: typeof lfs?.sha256 === 'string' ? lfs.sha256 : undefined,
  }));
  return { commit: typeof answer.sha === 'string' ? answer.sha : revision, files };
}

/** What to do about a 401 or 403. @param {string} endpoint @param {string} repo @param {string} [token] */
export function permission(endpoint, repo, token) {
  const terms = `accept its terms at ${endpoint}/${repo} while signed in`;
  return token
    ? `the token has no access to ${repo}: ${terms}, and check that the token may read gated repositories`
    : `${repo} is gated, private or misspelt: ${terms}, make a token at ${endpoint}/settings/tokens and give it as the option token`;
}

/**
 * The files of the model that is asked for: one, or all its shards.
 * @param {HubModel} model
 * @param {HubFile[]} files of the repository
 * @param {boolean} [alone] that one file, even if its name is that of a shard
 */
export function chooseFiles({ repo, file, quant }, files, alone = false) {
  /** @param {string} name */
  const find = (name) => files.find((other) => other.name === name);
  /** @param {string} first */
  const whole = (first) =>
    (alone ? [first] : shardNames(first)).map((name) => {
      const found = find(name);
      if (!found) throw new SkipstoneError('not_found', `${repo} has no file ${name}; ${there(files)}`);
      return found;
    });
  if (file !== undefined) return whole(file);

  const models = files.filter(({ name }) => /\.gguf$/i.test(name) && !isLaterShard(name) && !/mmproj|imatrix|\.bank\.gguf$/i.test(name));
  /** @param {string} wanted */
  const matching = (wanted) => {
    const escaped = wanted.replace(/[.\\-]/g, '\\$&');
    /** @param {string} marks that may stand before and behind it */
    const named = (marks) => models.filter(({ name }) => new RegExp(`(^|[${marks}])${escaped}($|[${marks}])`, 'i').test(name));
    const exact = named('-./');
    const found = exact.length ? exact : named('-./_');
    const top = found.filter(({ name }) => !name.includes('/'));
    return top.length ? top : found;
  };
  const found = quant !== undefined ? matching(quant) : models.length === 1 ? models : (PREFERRED.map(matching).find((list) => list.length) ?? []);
  const wanted = quant === undefined ? 'a GGUF file of a usual quantisation' : `a GGUF file of quantisation ${quant}`;
  if (!found.length) throw new SkipstoneError('not_found', `${repo} has not ${wanted}; ${there(files)}`);
  if (found.length > 1) {
    const names = found.map(({ name }) => name).join(', ');
    throw new SkipstoneError('argument', `${repo} has more than one GGUF file for ${quant ?? 'that'}: ${names}; name one as {repo, file}`);
  }
  return whole(found[0].name);
}

/** @param {HubFile[]} files */
function there(files) {
  const models = files.filter(({ name }) => /\.gguf$/i.test(name)).map(({ name }) => name);
  return models.length ? `there are ${models.join(', ')}` : 'it has no GGUF file at all';
}

/** @param {string} endpoint @param {string} repo @param {string} revision @param {string} file */
export const fileUrl = (endpoint, repo, revision, file) =>
  `${endpoint}/${repo}/resolve/${encodeURIComponent(revision)}/${file.split('/').map(encodeURIComponent).join('/')}`;
