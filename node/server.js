/**
 * An OpenAI-compatible HTTP server over a loaded model, on Node's own http.
 *
 *     const server = await serve(llm, { port: 8080 });        // http://127.0.0.1:8080/v1
 *     await server.close();
 *
 *   POST /v1/chat/completions   POST /v1/completions   POST /v1/embeddings   GET /v1/models   GET /v1/models/ID   GET /health
 *
 * Bodies and answers are those of `llm.chat.completions.create` and its kin; with stream: true they come as server-sent events
 * and end with `data: [DONE]`. A client that goes away cancels its call. Calls queue on the one engine; when too many wait the
 * answer is 429. Errors have OpenAI's form: {error: {message, type, param, code}}.
 *
 * @typedef {object} ServeOptions
 * @property {number} [port] 0: a free one; default 8080
 * @property {string} [host] default 127.0.0.1: this machine alone
 * @property {string | boolean} [cors] the origin whose pages may call, or true for all; default: none
 * @property {string} [apiKey] that calls must carry as `Authorization: Bearer ...`; default: none
 * @property {(line: string) => void} [log] gets a line for each call
 *
 * @typedef {{url: string, port: number, close: () => Promise<void>}} Server  close: ends what is under way, and the listening
 *
 * @typedef {import('../wasm/llm.js').Llm} Llm
 * @typedef {import('node:http').IncomingMessage} Incoming
 * @typedef {import('node:http').ServerResponse} Outgoing
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { SkipstoneError } from '../wasm/errors.js';
import { check, either, isFunction, isText, oneOf, whole } from '../wasm/options.js';

const MOST_BODY_BYTES = 8 << 20;

/** HTTP status of an error's code; others are 500. @type {Record<string, number>} */
const STATUS = {
  argument: 400, unsupported: 400, template: 400, context_full: 400, queue_full: 429, freed: 503, trapped: 503, worker_crashed: 503,
};

/** OpenAI's word for a kind of error. @type {Record<number, string>} */
const TYPES = { 401: 'authentication_error', 429: 'rate_limit_error' };

/** An error of the server's own. */
class HttpError extends Error {
  /** @param {number} status @param {string} message @param {string} [code] */
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Serves a model until `close`. The model stays the caller's to free.
 * @param {Llm} llm
 * @param {ServeOptions} [options]
 * @returns {Promise<Server>}
 */
export async function serve(llm, options = {}) {
  check('serve', options, {
    port: whole(0, 65535),
    host: isText,
    cors: either(oneOf(true, false), isText),
    apiKey: isText,
    log: isFunction,
  });
  const { port = 8080, host = '127.0.0.1' } = options;
  const service = new Service(llm, options);
  const server = createServer((request, response) => void service.take(request, response));
  server.listen(port, host);
  await once(server, 'listening'); // rejects when the port is taken
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  const name = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  return {
    url: `http://${name}:${address.port}`,
    port: address.port,
    async close() {
      service.close();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

class Service {
  #llm;
  #options;
  #started = Math.floor(Date.now() / 1000);
  /** @type {Set<AbortController>} */ #calls = new Set();

  /** @param {Llm} llm @param {ServeOptions} options */
  constructor(llm, options) {
    this.#llm = llm;
    this.#options = options;
  }

  close() {
    for (const call of this.#calls) call.abort();
  }

  /** @param {Incoming} request @param {Outgoing} response */
  async take(request, response) {
    const started = performance.now();
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const call = new AbortController();
    this.#calls.add(call);
    response.on('close', () => {
      if (!response.writableFinished) call.abort(); // the client went away
    });
    try {
      this.#setCors(response);
      await this.#answer(request, response, pathname, call.signal);
    } catch (error) {
      fail(response, error);
    }
    this.#calls.delete(call);
    const gone = response.writableEnded ? '' : ', the client went away';
    const ms = (performance.now() - started).toFixed(0);
    this.#options.log?.(`${request.method} ${pathname} ${response.statusCode} in ${ms} ms${gone}`);
  }

  /** @param {Outgoing} response */
  #setCors(response) {
    const { cors } = this.#options;
    if (!cors) return;
    response.setHeader('Access-Control-Allow-Origin', cors === true ? '*' : cors);
    response.setHeader('Access-Control-Allow-Methods', 'GET, POST, OPTIONS');
    response.setHeader('Access-Control-Allow-Headers', '*, Authorization, Content-Type');
    if (cors !== true) response.setHeader('Vary', 'Origin');
  }

  /** @param {Incoming} request @param {Outgoing} response @param {string} pathname @param {AbortSignal} signal */
  async #answer(request, response, pathname, signal) {
    const { chat, completions, embeddings } = this.#llm;
    /** @type {Record<string, (body: any, options: {signal: AbortSignal}) => Promise<any>>} */
    const posts = {
      '/v1/chat/completions': (body, options) => chat.completions.create(body, options),
      '/v1/completions': (body, options) => completions.create(body, options),
      '/v1/embeddings': (body, options) => embeddings.create(body, options),
    };
    const isPost = Object.hasOwn(posts, pathname);
    const isModel = pathname === '/v1/models' || pathname.startsWith('/v1/models/');
    if (!isPost && !isModel && pathname !== '/health') {
      throw new HttpError(404, `there is no ${pathname}; there are ${Object.keys(posts).join(', ')}, /v1/models, /health`);
    }
    if (request.method === 'OPTIONS') return void response.writeHead(204).end();
    const method = isPost ? 'POST' : 'GET';
    if (request.method !== method && !(method === 'GET' && request.method === 'HEAD')) {
      response.setHeader('Allow', `${method}, OPTIONS`);
      throw new HttpError(405, `${pathname} wants ${method}, not ${request.method}`);
    }
    if (pathname === '/health') return this.#health(response);
    this.#authorize(request);
    if (isModel) return send(response, 200, this.#models(pathname.slice('/v1/models/'.length)));
    const answer = await posts[pathname](await readBody(request), { signal });
    if (Symbol.asyncIterator in answer) await sendEvents(response, answer);
    else send(response, 200, answer);
  }

  /** @param {Incoming} request */
  #authorize({ headers }) {
    const { apiKey } = this.#options;
    if (apiKey === undefined) return;
    const digest = (/** @type {string} */ text) => createHash('sha256').update(text).digest();
    const given = headers.authorization ?? '';
    if (!timingSafeEqual(digest(given), digest(`Bearer ${apiKey}`))) {
      throw new HttpError(401, 'want the header Authorization: Bearer and the API key', 'invalid_api_key');
    }
  }

  /** @param {string} id of one, as in a URL; '': all */
  #models(id) {
    const { model } = this.#llm.info;
    const one = { id: model.name || 'skipstone', object: 'model', created: this.#started, owned_by: 'skipstone' };
    if (!id) return { object: 'list', data: [one] };
    if (id !== encodeURIComponent(one.id)) {
      throw new HttpError(404, `there is no model '${id}'; there is '${one.id}'`, 'model_not_found');
    }
    return one;
  }

  /** @param {Outgoing} response */
  #health(response) {
    const { pendingCalls, ended, info } = this.#llm;
    send(response, ended ? 503 : 200, {
      status: ended ? ended.message : 'ok',
      model: info.model.name,
      context: info.context.size,
      memory_bytes: info.memory.bytes,
      calls: pendingCalls,
    });
  }
}

/** A body of JSON. @param {Incoming} request */
async function readBody(request) {
  // a page of another origin can send other types without asking
  if (!/^application\/(.*\+)?json\b/i.test(request.headers['content-type'] ?? '')) {
    throw new HttpError(415, 'want the header Content-Type: application/json');
  }
  const tooLong = new HttpError(413, `the body has more than ${MOST_BODY_BYTES} bytes`);
  if (Number(request.headers['content-length']) > MOST_BODY_BYTES) throw tooLong;
  const pieces = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > MOST_BODY_BYTES) throw tooLong;
    pieces.push(piece);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString());
  } catch (error) {
    throw new HttpError(400, `the body is not JSON: ${error instanceof Error ? error.message : error}`);
  }
}

/** @param {Outgoing} response @param {number} status @param {unknown} body */
function send(response, status, body) {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}

/** @param {Outgoing} response @param {AsyncIterable<unknown>} chunks */
async function sendEvents(response, chunks) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no' });
  response.flushHeaders();
  for await (const chunk of chunks) {
    const room = response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    if (!room) await Promise.race([once(response, 'drain'), once(response, 'close')]);
  }
  response.end('data: [DONE]\n\n');
}

/** @param {Outgoing} response @param {unknown} error */
function fail(response, error) {
  if (response.destroyed || (error instanceof DOMException && error.name === 'AbortError')) return void response.destroy();
  const { message } = error instanceof Error ? error : new Error(String(error));
  const code = error instanceof SkipstoneError || error instanceof HttpError ? error.code : undefined;
  const status = error instanceof HttpError ? error.status : (STATUS[code ?? ''] ?? 500);
  const body = {
    error: {
      message,
      type: TYPES[status] ?? (status < 500 ? 'invalid_request_error' : 'server_error'),
      param: null,
      code: code === 'context_full' ? 'context_length_exceeded' : (code ?? null),
    },
  };
  if (response.headersSent) return void response.end(`data: ${JSON.stringify(body)}\n\n`); // in the middle of a stream
  if (status === 413) response.setHeader('Connection', 'close'); // the rest of the body is not read
  send(response, status, body);
}
