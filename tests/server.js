/**
 * A file server that goes wrong on purpose, for the tests of everything that fetches: cut connections, stalls, wrong
 * lengths, servers without ranges, files that change, statuses, redirects; and a hub that speaks the API of Hugging Face's.
 *
 *     const server = await faultServer(t, { '/model.gguf': bytes });
 *     server.fault('/model.gguf', { cutAfter: 100_000, times: 2 });
 *     await load(`${server.url}/model.gguf`, ...);
 *     server.requests.map(({ range }) => range);
 *
 * It allows every origin, as a hub does. It listens on this machine alone.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';

/**
 * @typedef {object} Fault  What goes wrong with a file, in any combination.
 * @property {number} [times]  of the next requests; default: of all
 * @property {number} [skip]  requests that go well before
 * @property {[number, number]} [inside]  requests for ranges that begin in there alone
 * @property {number} [cutAfter]  bytes of the body, then the connection breaks
 * @property {number} [stallAfter]  bytes of the body, then nothing more comes
 * @property {number} [bytesPerSecond]  a slow line
 * @property {boolean} [noRange]  Range is ignored
 * @property {boolean} [noLength]  no Content-Length and no ETag
 * @property {number} [lessLength]  Content-Length, and the body, are so much too short
 * @property {number} [moreTotal]  the total of Content-Range is so much too large
 * @property {string} [etag]  another one
 * @property {Uint8Array} [bytes]  other content
 * @property {number} [status]  instead of the file
 * @property {Record<string, string>} [headers]
 * @property {string} [redirect]  where it is instead
 * @property {boolean} [hide]  the headers that another origin must allow are not allowed
 *
 * @typedef {object} Seen
 * @property {string} path
 * @property {string | undefined} range
 * @property {import('node:http').IncomingHttpHeaders} headers
 * @property {number} sent  bytes of the body
 *
 * @typedef {object} HubRepository
 * @property {Record<string, Uint8Array>} files
 * @property {string} [commit]
 * @property {string} [token]  gated: who has not this one gets 401, or 403 with another
 */

export class FaultServer {
  /** What was asked for, in order. @type {Seen[]} */ requests = [];
  url = '';
  /** @type {Map<string, Uint8Array>} */ #files = new Map();
  /** @type {Map<string, Fault[]>} */ #faults = new Map();
  /** @type {Map<string, HubRepository>} */ #repositories = new Map();
  #server = http.createServer((request, response) => void this.#answer(request, response));

  /** @param {Record<string, Uint8Array>} files by path */
  constructor(files) {
    for (const [path, bytes] of Object.entries(files)) this.put(path, bytes);
  }

  async listen() {
    await new Promise((/** @type {(value: void) => void} */ resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    const { port } = /** @type {import('node:net').AddressInfo} */ (this.#server.address());
    this.url = `http://127.0.0.1:${port}`;
    return this;
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** @param {string} path @param {Uint8Array} bytes */
  put(path, bytes) {
    this.#files.set(path, bytes);
  }

  /** A repository of the hub. @param {string} name 'owner/name' @param {HubRepository} repository */
  hub(name, repository) {
    this.#repositories.set(name, { commit: createHash('sha1').update(name).digest('hex'), ...repository });
  }

  /** From now on; the first fault that has requests left is the one that acts. @param {string} path @param {Fault[]} faults */
  fault(path, ...faults) {
    this.#faults.set(path, faults.map((fault) => ({ ...fault })));
  }

  /** Bytes of bodies that were sent. */
  get sent() {
    return this.requests.reduce((sum, { sent }) => sum + sent, 0);
  }

  /** @param {string} path @param {string | undefined} range @returns {Fault} */
  #next(path, range) {
    const begin = Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1] ?? 0);
    for (const fault of this.#faults.get(path) ?? []) {
      if (fault.inside && (begin < fault.inside[0] || begin >= fault.inside[1])) continue;
      if (fault.skip) {
        fault.skip--;
        return {};
      }
      if (fault.times === 0) continue;
      if (fault.times !== undefined) fault.times--;
      return fault;
    }
    return {};
  }

  /** @param {http.IncomingMessage} request @param {http.ServerResponse} response */
  async #answer(request, response) {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
    if (request.method === 'OPTIONS') {
      response.writeHead(204, { 'Access-Control-Allow-Headers': 'Range, If-Range, Authorization' }).end();
      return;
    }
    const seen = { path, range: request.headers.range, headers: request.headers, sent: 0 };
    this.requests.push(seen);
    const fault = this.#next(path, request.headers.range);
    if (!fault.hide) response.setHeader('Access-Control-Expose-Headers', 'ETag, Content-Range, X-Linked-ETag, X-Linked-Size');
    if (fault.status) {
      response.writeHead(fault.status, fault.headers).end(`status ${fault.status}`);
      return;
    }
    if (fault.redirect) {
      response.writeHead(302, { Location: fault.redirect, ...fault.headers }).end();
      return;
    }
    const found = this.#find(path, request, response);
    if (!found) return;
    await this.#send(fault.bytes ?? found, fault, request, response, seen);
  }

  /**
   * The file, after the hub's own answers were given.
   * @param {string} path @param {http.IncomingMessage} request @param {http.ServerResponse} response
   */
  #find(path, request, response) {
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(path);
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const name = api?.[1] ?? file?.[1];
    const repository = name === undefined ? undefined : this.#repositories.get(name);
    if (!repository) {
      const bytes = this.#files.get(path);
      if (!bytes) response.writeHead(api ? 401 : 404).end('not found');
      return bytes;
    }
    const { authorization } = request.headers;
    if (repository.token && authorization !== `Bearer ${repository.token}`) {
      response.writeHead(authorization ? 403 : 401).end('gated');
      return undefined;
    }
    if (file) {
      const bytes = repository.files[file[3]];
      if (!bytes) response.writeHead(404).end('Entry not found');
      return bytes;
    }
    const siblings = Object.entries(repository.files).map(([rfilename, bytes]) => ({
      rfilename,
      size: bytes.length,
      lfs: { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length },
    }));
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify({ sha: repository.commit, siblings }));
    return undefined;
  }

  /** @param {Uint8Array} bytes @param {Fault} fault @param {http.IncomingMessage} request @param {http.ServerResponse} response @param {Seen} seen */
  async #send(bytes, fault, request, response, seen) {
    const etag = fault.etag ?? etagOf(bytes);
    const { range, 'if-range': ifRange } = request.headers;
    const wanted = fault.noRange || (ifRange && ifRange !== etag) ? null : /^bytes=(\d+)-(\d*)$/.exec(range ?? '');
    const begin = wanted ? Number(wanted[1]) : 0;
    const end = wanted?.[2] ? Math.min(bytes.length, Number(wanted[2]) + 1) : bytes.length;
    const total = bytes.length + (fault.moreTotal ?? 0);
    if (wanted && begin >= bytes.length) {
      response.writeHead(416, { 'Content-Range': `bytes */${total}` }).end();
      return;
    }
    const body = bytes.subarray(begin, end - (fault.lessLength ?? 0));
    /** @type {Record<string, string | number>} */
    const headers = { 'Content-Type': 'application/octet-stream', ...fault.headers };
    if (!fault.noLength) Object.assign(headers, { 'Content-Length': body.length, ETag: etag });
    if (wanted) headers['Content-Range'] = `bytes ${begin}-${end - 1}/${total}`;
    response.writeHead(wanted ? 206 : 200, headers);
    const stop = Math.min(fault.cutAfter ?? Infinity, fault.stallAfter ?? Infinity, body.length);
    const closed = once(response, 'close');
    const step = fault.bytesPerSecond ? Math.max(1, Math.floor(fault.bytesPerSecond / 50)) : 1 << 18;
    for (let at = 0; at < stop && !response.destroyed; at += step) {
      const piece = body.subarray(at, Math.min(at + step, stop));
      if (!response.write(piece)) await Promise.race([once(response, 'drain'), closed]);
      if (!response.destroyed) seen.sent += piece.length;
      if (fault.bytesPerSecond) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    if (fault.stallAfter !== undefined) return;
    if (fault.cutAfter === undefined) response.end();
    else setTimeout(() => response.destroy(), 100); // what is on its way arrives first: a reset would throw it away
  }
}

/** @type {WeakMap<Uint8Array, string>} */
const etags = new WeakMap();

/** @param {Uint8Array} bytes */
function etagOf(bytes) {
  const etag = etags.get(bytes) ?? `"${createHash('md5').update(bytes).digest('hex')}"`;
  etags.set(bytes, etag);
  return etag;
}

/**
 * One that ends with the test.
 * @param {import('node:test').TestContext} t
 * @param {Record<string, Uint8Array>} [files]
 */
export async function faultServer(t, files = {}) {
  const server = await new FaultServer(files).listen();
  t.after(() => server.close());
  return server;
}
