/**
 * Ranges of a file by HTTP. A connection that is cut or stalls is taken up where it was; a server that ignores Range is
 * read through; a file that changes on the server is an error of its own, so that no two versions are ever mixed.
 */
import { SkipstoneError } from '../wasm/errors.js';
import { isNode } from '../wasm/platform.js';

/**
 * @typedef {object} Timing  Milliseconds, but for `tries`.
 * @property {number} stall  without a byte, after which a connection counts as lost
 * @property {number} backoff  before the first new try; doubles with each
 * @property {number} tries  in a row without a byte gained, of a server that has answered before; of another half as many
 *
 * @typedef {object} RemoteOptions
 * @property {string} [token] goes to the file's own origin alone
 * @property {number} [size] where it is known
 * @property {string} [etag] of what is in the store
 * @property {string} [sha256] where it is known: the content is then checked by it, and an ETag that differs from one
 *   mirror to the next is none of our business
 * @property {string} [advice] for 401 and 403: what to do
 * @property {Partial<Timing>} [timing]
 */

/** @type {Timing} */
const TIMING = { stall: 30_000, backoff: 300, tries: 6 };
const LONGEST_WAIT = 30_000;

/** The file on the server is not the one that was begun with. Caught inside: the load starts anew. */
export class Changed extends Error {}

/** A try that failed, and may be made again. */
class Lost extends Error {
  /** @param {string} message @param {number} [wait] milliseconds that the server asks for */
  constructor(message, wait = 0) {
    super(message);
    this.wait = wait;
  }
}

export class Remote {
  /** @type {number | undefined} */ size;
  /** @type {string | undefined} */ etag;
  /** Whether the server answers ranges; undefined: not known yet. @type {boolean | undefined} */ ranges;
  requests = 0;
  retries = 0;
  bytes = 0; // that came
  #url;
  #direct = ''; // where a redirect led, for the next request
  #token;
  #sha256;
  #advice;
  #timing;
  /** Of a server without ranges: its whole answer, as far as it was read. @type {Body | undefined} */ #whole;

  /** @param {string} url @param {RemoteOptions} [options] */
  constructor(url, { token, size, etag, sha256, advice, timing } = {}) {
    this.#url = url;
    this.#token = token;
    this.#sha256 = sha256;
    this.#advice = advice;
    this.#timing = { ...TIMING, ...timing };
    this.size = size;
    this.etag = etag;
  }

  get url() {
    return this.#url;
  }

  /**
   * The bytes from `begin` to before `end`, or to the end of the file, in pieces as they come.
   * @param {number} begin
   * @param {number} end Infinity: to the end
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Uint8Array, void, void>}
   */
  async *stream(begin, end, signal) {
    let at = begin;
    let failures = 0;
    for (;;) {
      try {
        for await (const bytes of this.#once(at, end, signal)) {
          at += bytes.length;
          this.bytes += bytes.length;
          failures = 0;
          yield bytes;
        }
        this.size ??= at < end ? at : undefined; // of a server that does not say: its answer's end
        if (at >= Math.min(end, this.size ?? end)) return;
        throw new Lost(`it sent ${at - begin} bytes and no more`);
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        this.#direct = '';
        const { tries } = this.#timing;
        if (++failures >= (this.ranges === undefined ? Math.ceil(tries / 2) : tries)) {
          throw new SkipstoneError('network', `${this.#url}: ${error.message}, at byte ${at}; tried ${failures} times`);
        }
        this.retries++;
        const wait = Math.max(error.wait, this.#timing.backoff * 2 ** (failures - 1));
        await pause(Math.min(wait, LONGEST_WAIT), signal);
      }
    }
  }

  /** One request's worth. @param {number} begin @param {number} end @param {AbortSignal} signal @returns {AsyncGenerator<Uint8Array, void, void>} */
  async *#once(begin, end, signal) {
    signal.throwIfAborted();
    if (this.size !== undefined && begin >= this.size) return;
    let body = this.#whole;
    if (!body || body.at > begin || body.done) {
      await this.#whole?.cancel();
      body = this.#whole = undefined;
      const answered = await this.#request(begin, end, signal);
      body = answered.body;
      if (!answered.partial) this.#whole = body;
    }
    const whole = body === this.#whole;
    let finished = false;
    try {
      while (body.at < end) {
        const from = body.at;
        const bytes = await body.read(this.#timing.stall, signal);
        if (!bytes) break;
        const first = Math.max(0, begin - from);
        if (first >= bytes.length) continue;
        const over = from + bytes.length - end;
        if (over > 0) body.unread(bytes.subarray(bytes.length - over));
        yield bytes.subarray(first, over > 0 ? bytes.length - over : bytes.length);
      }
      finished = true;
    } finally {
      // a whole answer stays open for who reads on; a range that was left early is given up
      if (!whole) await body.cancel();
      else if (!finished) {
        await body.cancel();
        this.#whole = undefined;
      }
    }
  }

  /** @param {number} begin @param {number} end @param {AbortSignal} signal */
  async #request(begin, end, signal) {
    const headers = new Headers();
    const ranged = this.ranges !== false;
    if (ranged) headers.set('Range', `bytes=${begin}-${Number.isFinite(end) ? end - 1 : ''}`);
    const url = this.#direct || this.#url;
    // A weak tag cannot be asked for, and another origin would have to allow it first; the answer's tag is compared anyway.
    if (ranged && this.etag?.startsWith('"') && !this.#sha256 && isNear(url)) headers.set('If-Range', this.etag);
    if (this.#token && new URL(url).origin === new URL(this.#url).origin) headers.set('Authorization', `Bearer ${this.#token}`);

    const abort = new AbortController();
    const onAbort = () => abort.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(() => abort.abort(), this.#timing.stall);
    /** @type {Response} */
    let response;
    this.requests++;
    try {
      // the browser's own cache would hold the file a second time
      response = await fetch(url, { headers, signal: abort.signal, cache: 'no-store' });
    } catch (error) {
      signal.removeEventListener('abort', onAbort);
      signal.throwIfAborted();
      throw new Lost(abort.signal.aborted ? 'the server does not answer' : `cannot connect: ${reason(error)}`);
    } finally {
      clearTimeout(timer);
    }
    const body = new Body(response, abort, () => signal.removeEventListener('abort', onAbort));
    try {
      const partial = this.#check(response, begin, end);
      if (response.redirected) this.#direct = response.url;
      body.at = partial ? begin : 0;
      return { body, partial };
    } catch (error) {
      await body.cancel();
      throw error;
    }
  }

  /** Is this the file, and the part of it that was asked for? @param {Response} response @param {number} begin @param {number} end */
  #check(response, begin, end) {
    const { status } = response;
    if (status === 416) throw new Changed(`${this.#url}: it has no byte ${begin} any more`);
    if (status !== 200 && status !== 206) this.#refuse(response);
    const partial = status === 206;
    const etag = response.headers.get('x-linked-etag') ?? response.headers.get('etag') ?? undefined;
    const mirrored = this.#sha256 !== undefined;
    if (!mirrored && this.etag !== undefined && etag !== undefined && plain(etag) !== plain(this.etag)) {
      throw new Changed(`${this.#url}: its ETag was ${this.etag} and is ${etag}`);
    }
    /** @type {number | undefined} */
    let size;
    const length = response.headers.has('content-encoding') ? null : response.headers.get('content-length');
    if (partial) {
      const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
      if (!found || Number(found[1]) !== begin) {
        if (found || response.headers.has('content-range')) {
          throw new Lost(`asked for bytes from ${begin}, it answers ${response.headers.get('content-range')}`);
        }
        // of another origin a browser shows Content-Range only where the server allows it, the length always
        if (length !== null && !Number.isFinite(end)) size = begin + Number(length);
      } else if (found[3] !== '*') size = Number(found[3]);
    } else if (length !== null) {
      size = Number(length);
    }
    if (size !== undefined && this.size !== undefined && size !== this.size) {
      throw new Changed(`${this.#url}: it had ${this.size} bytes and has ${size}`);
    }
    this.size ??= size;
    this.etag ??= etag;
    this.ranges = partial;
    return partial;
  }

  /** @param {Response} response @returns {never} */
  #refuse(response) {
    const { status } = response;
    const answer = `the server answers ${status} ${response.statusText}`.trimEnd();
    if (this.#direct) throw new Lost(answer); // the address that a redirect gave has run out: ask again
    const said = `${this.#url}: ${answer}`;
    if (status === 401 || status === 403) {
      const advice = this.#advice ?? "it needs a permission; give the option 'token' if the server takes bearer tokens";
      throw new SkipstoneError('auth', `${said}: ${advice}`);
    }
    if (status === 404 || status === 410) throw new SkipstoneError('not_found', said);
    if (status === 408 || status === 425 || status === 429 || status >= 500) {
      throw new Lost(answer, 1000 * Number(response.headers.get('retry-after') ?? 0) || 0);
    }
    throw new SkipstoneError('network', said);
  }

  /** Ends what is open. */
  async close() {
    await this.#whole?.cancel();
    this.#whole = undefined;
  }
}

/** The body of an answer, with a position. */
class Body {
  at = 0;
  done = false;
  #reader;
  #abort;
  #cleanUp;
  /** @type {Uint8Array | undefined} */ #rest;

  /** @param {Response} response @param {AbortController} abort @param {() => void} cleanUp */
  constructor(response, abort, cleanUp) {
    this.#reader = response.body?.getReader();
    this.#abort = abort;
    this.#cleanUp = cleanUp;
  }

  /** The next bytes, or undefined at the end. @param {number} stall @param {AbortSignal} signal */
  async read(stall, signal) {
    if (this.#rest) {
      const rest = this.#rest;
      this.#rest = undefined;
      this.at += rest.length;
      return rest;
    }
    let stalled = false;
    const timer = setTimeout(() => {
      stalled = true;
      this.#abort.abort();
    }, stall);
    const onAbort = () => this.#abort.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      signal.throwIfAborted();
      const { value, done } = (await this.#reader?.read()) ?? { value: undefined, done: true };
      this.done = done;
      if (value) this.at += value.length;
      return value;
    } catch (error) {
      signal.throwIfAborted();
      this.done = true;
      throw new Lost(stalled ? `no byte came for ${stall / 1000} s` : `the connection broke: ${reason(error)}`);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Puts back what was read too far. @param {Uint8Array} bytes */
  unread(bytes) {
    this.#rest = bytes;
    this.at -= bytes.length;
  }

  async cancel() {
    this.#cleanUp();
    if (!this.done) {
      this.done = true;
      this.#abort.abort();
    }
    await this.#reader?.cancel().catch(() => {}); // an aborted body has nothing left to cancel
  }
}

/** Whether a request may carry any header: not to another origin, in a browser. @param {string} url */
const isNear = (url) => isNode || new URL(url).origin === globalThis.location?.origin;

/** @param {string} etag */
const plain = (etag) => etag.replace(/^W\//, '').replaceAll('"', '');

/** @param {unknown} error */
function reason(error) {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && cause.message ? `${error.message} (${cause.message})` : error.message;
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  return new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

/**
 * A small answer, whole, with the same errors and new tries: the hub's lists.
 * @param {string} url
 * @param {RemoteOptions & {signal: AbortSignal, most: number}} options most: bytes
 */
export async function fetchText(url, { signal, most, ...options }) {
  const remote = new Remote(url, options);
  const pieces = [];
  let n = 0;
  remote.ranges = false;
  for await (const bytes of remote.stream(0, Infinity, signal)) {
    pieces.push(bytes);
    n += bytes.length;
    if (n > most) throw new SkipstoneError('format', `${url}: more than ${most} bytes`);
  }
  return new TextDecoder().decode(await new Blob(/** @type {BlobPart[]} */ (pieces)).arrayBuffer());
}
