/* A static file server for the chat page and the browser tests: folders, byte ranges, and the headers that decide what a
 * page may do. It listens on this machine alone. */
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';

const TYPES = /** @type {Record<string, string>} */ ({
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.ico': 'image/x-icon',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.map': 'application/json',
  '.mjs': 'text/javascript; charset=utf-8',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
});

/** Nothing but the page's own files, and WebAssembly: no eval, no blob: or data: scripts, no inline code. */
export const STRICT_CSP =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; " +
  "style-src 'self'; img-src 'self'";

/**
 * @typedef {object} ServeOptions
 * @property {Record<string, string>} folders  Path in the URL ('/', '/models/') to a folder; the longest match wins.
 * @property {boolean} [isolated]  With the headers that make a page cross-origin isolated (COOP, COEP). Default true.
 * @property {string} [csp]  A Content-Security-Policy.
 * @property {number} [port]  0, the default: any that is free.
 * @property {string} [home]  Where '/' redirects to.
 * @property {(request: http.IncomingMessage, response: http.ServerResponse) => boolean | Promise<boolean>} [handler]
 *   Looks at each request first; true: it has answered, or will.
 *
 * @typedef {object} Served
 * @property {string} url  'http://127.0.0.1:1234', without a slash at its end
 * @property {() => Promise<void>} close
 */

/**
 * @param {ServeOptions} options
 * @returns {Promise<Served>}
 */
export async function serveFolders({ folders, isolated = true, csp, port = 0, home, handler }) {
  const headers = /** @type {Record<string, string>} */ ({ 'Cache-Control': 'no-cache', 'X-Content-Type-Options': 'nosniff' });
  if (isolated) {
    headers['Cross-Origin-Opener-Policy'] = 'same-origin';
    headers['Cross-Origin-Embedder-Policy'] = 'require-corp';
  }
  if (csp) headers['Content-Security-Policy'] = csp;

  const server = http.createServer(async (request, response) => {
    try {
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      if (await handler?.(request, response)) return;
      await answer(request, response, folders, home);
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ERR_STREAM_PREMATURE_CLOSE') return; // the other side left
      if (!response.headersSent) response.writeHead(500);
      response.end(error instanceof Error ? error.message : String(error));
    }
  });
  await new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/**
 * The file that a path names, '' if it names none. @param {string} pathname @param {Record<string, string>} folders
 */
function fileOf(pathname, folders) {
  const [prefix] = Object.keys(folders)
    .filter((start) => pathname.startsWith(start))
    .sort((a, b) => b.length - a.length);
  if (prefix === undefined) return '';
  const folder = path.resolve(folders[prefix]);
  const file = path.resolve(folder, `./${pathname.slice(prefix.length)}${pathname.endsWith('/') ? 'index.html' : ''}`);
  const inside = file.startsWith(folder + path.sep);
  const hidden = path.relative(folder, file).split(path.sep).some((part) => part.startsWith('.'));
  return inside && !hidden && fs.statSync(file, { throwIfNoEntry: false })?.isFile() ? file : '';
}

/**
 * @param {http.IncomingMessage} request
 * @param {http.ServerResponse} response
 * @param {Record<string, string>} folders
 * @param {string} [home]
 */
async function answer(request, response, folders, home) {
  /** @param {number} status @param {string} text @param {Record<string, string>} [more] */
  const refuse = (status, text, more) =>
    void response.writeHead(status, { 'Content-Type': TYPES['.txt'], ...more }).end(`${text}\n`);
  const { pathname } = new URL(request.url ?? '/', 'http://localhost');
  if (request.method !== 'GET' && request.method !== 'HEAD') return refuse(405, 'GET and HEAD alone', { Allow: 'GET, HEAD' });
  if (pathname === '/' && home) return refuse(302, home, { Location: home });
  let decoded = '';
  try {
    decoded = decodeURIComponent(pathname);
  } catch {
    return refuse(400, `${pathname}: not a path`);
  }
  const file = fileOf(decoded, folders);
  if (!file) return refuse(404, `${decoded}: not found`);

  const stat = fs.statSync(file);
  const etag = `"${stat.size.toString(16)}-${Math.floor(stat.mtimeMs).toString(16)}"`;
  const type = TYPES[path.extname(file)] ?? 'application/octet-stream';
  const head = { 'Content-Type': type, ETag: etag, 'Accept-Ranges': 'bytes' };
  if (request.headers['if-none-match'] === etag) return void response.writeHead(304, head).end();

  const same = (request.headers['if-range'] ?? etag) === etag;
  const wanted = same ? request.headers.range : undefined;
  const range = wanted === undefined ? undefined : rangeOf(wanted, stat.size);
  if (range === 'outside') {
    return refuse(416, `${wanted}: outside of ${stat.size} bytes`, { 'Content-Range': `bytes */${stat.size}` });
  }
  const { start, end } = range ?? { start: 0, end: stat.size };
  response.writeHead(range ? 206 : 200, {
    ...head,
    'Content-Length': end - start,
    ...(range ? { 'Content-Range': `bytes ${start}-${end - 1}/${stat.size}` } : {}),
  });
  if (request.method === 'HEAD' || start === end) return void response.end();
  await pipeline(fs.createReadStream(file, { start, end: end - 1, highWaterMark: 1 << 18 }), response);
}

/**
 * One range of bytes, end excluded; undefined for what a server may ignore (several ranges, other units).
 * @param {string} header @param {number} size
 * @returns {{start: number, end: number} | 'outside' | undefined}
 */
function rangeOf(header, size) {
  const found = /^bytes=(\d*)-(\d*)$/.exec(header);
  if (!found || (found[1] === '' && found[2] === '')) return undefined;
  if (found[1] === '') { // the last so many bytes
    const n = Math.min(Number(found[2]), size);
    return n === 0 ? 'outside' : { start: size - n, end: size };
  }
  const start = Number(found[1]);
  const last = found[2] === '' ? size - 1 : Math.min(Number(found[2]), size - 1);
  if (start >= size) return 'outside';
  return last < start ? undefined : { start, end: last + 1 };
}
