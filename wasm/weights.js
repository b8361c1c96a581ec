/**
 * How a model's file gets into the engine: whole and in order, or only the tensors that some masks need, the ones
 * needed first in front. Each piece is repacked as it comes; at no time is the file held.
 */
import { Changed } from '../store/http.js';
import { CHUNK_BYTES } from '../store/store.js';
import { SkipstoneError } from './errors.js';
import { yieldToMessages } from './platform.js';

const HEADER_BYTES = 1 << 20; // asked for at first; the double each time after
const MOST_CHUNKS = 64; // of one request: 4 MB
const FETCHERS = 3; // requests at once: enough to hide the way to the server
const BREATH_MS = 12;
const PROGRESS_MS = 50;
const PROGRESS_BYTES = 4 << 20;

/**
 * @typedef {import('../store/source.js').Source} Source
 * @typedef {import('../store/source.js').Range} Range
 * @typedef {import('./options.js').Progress} Progress
 *
 * @typedef {object} Download  What came from where.
 * @property {number} fileBytes of the model's file
 * @property {number} neededBytes of it that the masks need, as far as they are known
 * @property {number} savedBytes that are not fetched, unless another depth asks for them
 * @property {number} networkBytes that came over the network
 * @property {number} storeBytes that came from the store
 * @property {number} requests
 * @property {number} retries after a connection that was cut, stalled or refused
 * @property {number} repairedChunks that were damaged in the store, and fetched again
 * @property {boolean} complete whether all that is needed is there
 * @property {string} store '' or why nothing is stored
 */

const PHASES = /** @type {const} */ ({ file: 'repack', store: 'verify', network: 'download' });

export class Weights {
  #engine;
  #source;
  #signal;
  #onProgress;
  #to;
  #fileBytes = 0;
  #size = 0;
  #at = 0; // of the bytes from the file's beginning on, those that were fed
  #done = false; // the core has every tensor
  #breath = 0;
  #shown = { phase: '', loaded: 0, time: 0 };

  /* fetching by need: one state for each chunk of the file */
  /** @type {Uint8Array} */ #state = new Uint8Array(); // ABSENT, UNDERWAY or FED
  /** @type {Uint8Array} */ #wanted = new Uint8Array();
  #fedBytes = 0;
  #wantedBytes = 0;
  /** @type {Uint8Array} */ #urgent = new Uint8Array(); // those that a prompt waits for
  /** @type {number[][]} */ #queue = []; // chunks, in the order in which they are wanted
  #turn = 0; // counts changes of that order
  /** @type {Promise<void> | undefined} */ #running;
  /** @type {unknown} */ #error;
  /** @type {(() => void)[]} */ #waiting = [];
  /** @type {import('./engine.js').Tensor[]} */ #tensors = [];

  /**
   * @param {import('./engine.js').Engine} engine
   * @param {Source} source
   * @param {AbortSignal} signal
   * @param {(progress: Progress) => void} onProgress
   * @param {'model' | 'encoder'} [to]
   */
  constructor(engine, source, signal, onProgress, to = 'model') {
    this.#engine = engine;
    this.#source = source;
    this.#signal = signal;
    this.#onProgress = onProgress;
    this.#to = to;
  }

  /** Feeds the whole file, in order. @param {() => void} [onHeader] called when the header is known; may throw */
  async whole(onHeader) {
    if (this.#fileBytes) await this.#expectAll();
    for await (const { bytes, origin } of this.#source.stream(this.#at, Infinity, this.#signal)) {
      const known = this.#fileBytes > 0;
      this.#give(bytes, origin, onHeader);
      if (!known && this.#fileBytes) await this.#expectAll();
      await this.#breathe();
    }
    if (!this.#done) throw this.#truncated(this.#at, this.#fileBytes);
    this.#engine.endFeed();
    await this.#source.close();
  }

  /**
   * Feeds the header and little more.
   * @param {() => void} [onHeader]
   */
  async header(onHeader) {
    for (let more = HEADER_BYTES; !this.#fileBytes; more *= 2) {
      const before = this.#at;
      for await (const { bytes, origin } of this.#source.stream(this.#at, this.#at + more, this.#signal)) {
        this.#give(bytes, origin, onHeader);
        await this.#breathe();
      }
      if (this.#at === before) throw this.#truncated(this.#at, 0);
    }
  }

  /** The next bytes in order. @param {Uint8Array} bytes @param {import('../store/source.js').Origin} origin @param {() => void} [onHeader] */
  #give(bytes, origin, onHeader) {
    if (!this.#done) {
      const state = this.#feed(this.#at, bytes);
      if (state.headerDone && !this.#fileBytes) {
        this.#fileBytes = state.fileBytes;
        const { size } = this.#source;
        if (size !== undefined && state.fileBytes > size) throw this.#truncated(size, state.fileBytes);
        onHeader?.();
      }
      this.#done = state.complete;
    }
    this.#at += bytes.length;
    this.#show(origin, this.#at, this.#source.size ?? this.#fileBytes);
  }

  /** @param {number} at @param {Uint8Array} bytes */
  #feed(at, bytes) {
    try {
      return this.#engine.feed(at, bytes, this.#to);
    } catch (error) {
      if (!(error instanceof SkipstoneError) || this.#engine.dead) throw error;
      throw new SkipstoneError(error.code, `${this.#source.name}: ${error.message}`, { cause: error });
    }
  }

  /** How far the file was fed from its beginning on. */
  get fedTo() {
    return this.#at;
  }

  /** Whether a range costs its own bytes only, so that fetching by need saves any. */
  get random() {
    return this.#source.random === true;
  }

  /* ---- by need ---- */

  /** After header(): sets up fetching by need, for tensors in the order that want() says. */
  byNeed() {
    this.#size = this.#source.size ?? this.#fileBytes;
    const n = Math.ceil(this.#size / CHUNK_BYTES);
    this.#state = new Uint8Array(n);
    this.#wanted = new Uint8Array(n);
    this.#urgent = new Uint8Array(n);
    const whole = this.#at === this.#size ? n : Math.floor(this.#at / CHUNK_BYTES);
    this.#state.fill(FED, 0, whole);
    this.#wanted.fill(1, 0, whole);
    this.#fedBytes = this.#wantedBytes = Math.min(whole * CHUNK_BYTES, this.#size);
    this.#tensors = this.#engine.tensors();
  }

  get isByNeed() {
    return this.#state.length > 0;
  }

  /** What every mask needs: all outside blocks, and vectors, since a fingerprint is made of the norms. */
  common() {
    return this.#tensors.filter(({ block, dimensions }) => block < 0 || dimensions === 1);
  }

  /** The tensors of blocks, in the order of the blocks. @param {number[]} blocks @returns {import('./engine.js').Tensor[][]} */
  ofBlocks(blocks) {
    return blocks.map((block) => this.#tensors.filter((tensor) => tensor.block === block));
  }

  /** @param {import('./engine.js').Tensor[]} tensors */
  #chunks(tensors) {
    const chunks = new Set();
    for (const { offset, bytes } of tensors) {
      for (let chunk = Math.floor(offset / CHUNK_BYTES); chunk * CHUNK_BYTES < offset + bytes; chunk++) chunks.add(chunk);
    }
    return /** @type {number[]} */ ([...chunks]).sort((a, b) => a - b);
  }

  /**
   * Puts these in front of the queue, in this order, and fetches what is missing. Does not wait.
   * @param {import('./engine.js').Tensor[][]} groups
   * @param {boolean} [urgent] somebody waits for them: requests for others are given up
   */
  want(groups, urgent = true) {
    const lists = groups.map((group) => this.#chunks(group).filter((chunk) => this.#state[chunk] !== FED)).filter((list) => list.length);
    if (!lists.length) return;
    const flat = lists.flat();
    for (const chunk of flat) {
      if (!this.#wanted[chunk]) this.#wantedBytes += this.#bytesOf(chunk);
      this.#wanted[chunk] = 1;
    }
    if (urgent) {
      this.#urgent.fill(0);
      for (const chunk of flat) this.#urgent[chunk] = 1;
      this.#turn++;
      this.#queue = [...lists, ...this.#queue];
    } else {
      this.#queue.push(...lists);
    }
    this.#start();
  }

  /** A prompt is about to run with this mask: its blocks next, in their order. @param {import('./engine.js').Mask} mask */
  wantMask(mask) {
    if (!this.isByNeed) return;
    const blocks = Array.from({ length: mask.blocks }, (_, block) => block).filter((block) => mask.runs(block));
    this.want(this.ofBlocks(blocks));
  }

  /** What the encoder `self` runs: the first four layers. */
  firstBlocks() {
    const blocks = new Set(this.#tensors.map(({ block }) => block));
    return this.ofBlocks([0, 1, 2, 3, 4, 5, 6, 7].filter((block) => blocks.has(block)));
  }

  /** Waits for them. */
  async needFirst() {
    if (this.isByNeed) await this.need(this.firstBlocks().flat());
  }

  /** Waits until these are fed. @param {import('./engine.js').Tensor[]} tensors */
  async need(tensors) {
    this.want([tensors]);
    const chunks = this.#chunks(tensors);
    while (chunks.some((chunk) => this.#state[chunk] !== FED)) await this.arrival();
  }

  /** Makes room for all that is wanted so far, or fails at once. */
  async makeRoom() {
    /** @type {Range[]} */
    const ranges = [];
    this.#wanted.forEach((wanted, chunk) => {
      if (wanted && this.#state[chunk] !== FED) ranges.push([chunk * CHUNK_BYTES, Math.min((chunk + 1) * CHUNK_BYTES, this.#size)]);
    });
    await this.#source.expect(ranges);
  }

  async #expectAll() {
    await this.#source.expect([[0, this.#source.size ?? this.#fileBytes]]);
  }

  /** Waits until something more is fed; rejects when nothing will be. */
  async arrival() {
    if (this.#error) throw this.#error;
    if (!this.#running) throw new SkipstoneError('internal', `${this.#source.name}: nothing is being fetched`);
    await new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
    if (this.#error) throw this.#error;
  }

  /** Called whenever fetching ends: all that was wanted is there, or it failed. @type {(error?: unknown) => void} */
  onEnd = () => {};

  get isComplete() {
    return this.isByNeed ? this.#fedBytes === this.#wantedBytes : this.#done;
  }

  #wake() {
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  #start() {
    if (this.#running) return;
    this.#error = undefined;
    this.#running = this.#run().then(
      () => this.#stop(),
      (error) => this.#stop(error),
    );
  }

  async #run() {
    const ended = await Promise.allSettled(Array.from({ length: FETCHERS }, () => this.#fetch()));
    const failed = ended.find((end) => end.status === 'rejected');
    if (failed) throw failed.reason;
    if (!this.#engine.dead) this.#engine.endFeed();
    await this.#source.close();
  }

  /** @param {unknown} [error] */
  async #stop(error) {
    if (error) await this.#source.close();
    this.#running = undefined;
    this.#error = error instanceof Changed ? new SkipstoneError('network', `${error.message}; free the model and load it again`) : error;
    if (!error && this.#next(false)) this.#start(); // wanted while the last of it was being closed
    this.#wake();
    if (!this.#running) this.onEnd(this.#error);
  }

  /** One of the fetchers. */
  async #fetch() {
    try {
      for (let run = this.#next(true); run && !this.#error; run = this.#next(true)) await this.#fetchRun(run);
    } catch (error) {
      this.#error ??= error; // the others end too
      throw error;
    }
  }

  /** The next chunks to fetch, neighbours as one run. @param {boolean} take @returns {[number, number] | undefined} */
  #next(take) {
    while (this.#queue.length) {
      const [list] = this.#queue;
      const first = list.find((chunk) => this.#state[chunk] === ABSENT);
      if (first === undefined) {
        this.#queue.shift();
        continue;
      }
      // on into what other groups want, but not past what a prompt waits for
      let end = first + 1;
      const urgent = this.#urgent[first];
      while (end - first < MOST_CHUNKS && this.#wanted[end] && this.#state[end] === ABSENT && this.#urgent[end] === urgent) end++;
      if (take) this.#state.fill(UNDERWAY, first, end);
      return [first, end];
    }
    return undefined;
  }

  /** @param {[number, number]} run */
  async #fetchRun([first, end]) {
    const turn = this.#turn;
    let chunk = first;
    let at = first * CHUNK_BYTES;
    const stop = Math.min(end * CHUNK_BYTES, this.#size);
    try {
      for await (const { bytes, origin } of this.#source.stream(at, stop, this.#signal)) {
        if (this.#error) return;
        this.#feed(at, bytes);
        at += bytes.length;
        for (; (chunk + 1) * CHUNK_BYTES <= at || (at === this.#size && chunk < end); chunk++) {
          this.#state[chunk] = FED;
          this.#fedBytes += this.#bytesOf(chunk);
        }
        this.#wake();
        this.#show(origin, this.#fedBytes, this.neededBytes);
        await this.#breathe();
        if (turn !== this.#turn && chunk < end && !this.#urgent[chunk]) return; // others are waited for
      }
      if (at < stop) throw this.#truncated(at, this.#fileBytes);
    } finally {
      if (chunk < end) {
        this.#state.fill(ABSENT, chunk, end);
        this.#queue.push(Array.from({ length: end - chunk }, (_, i) => chunk + i)); // its list may be gone from the queue
      }
    }
  }

  /** @param {number} chunk */
  #bytesOf(chunk) {
    return Math.min(CHUNK_BYTES, this.#size - chunk * CHUNK_BYTES);
  }

  get neededBytes() {
    return this.isByNeed ? this.#wantedBytes : (this.#source.size ?? this.#fileBytes);
  }

  /* ---- the rest ---- */

  /** @param {string} store @returns {Download} */
  download(store) {
    const fileBytes = this.#source.size ?? this.#fileBytes;
    const { neededBytes, isComplete: complete } = this;
    return { fileBytes, neededBytes, savedBytes: fileBytes - neededBytes, ...this.#source.traffic(), complete, store };
  }

  /** Ends what goes on; the signal is to be aborted before. */
  async close() {
    await this.#running;
    await this.#source.close();
  }

  /** @param {import('../store/source.js').Origin} origin @param {number} loaded @param {number} total */
  #show(origin, loaded, total) {
    const phase = PHASES[origin];
    const time = performance.now();
    const shown = this.#shown;
    const soon = time - shown.time < PROGRESS_MS && Math.abs(loaded - shown.loaded) < PROGRESS_BYTES;
    if (loaded < total && phase === shown.phase && soon) return;
    if (loaded === shown.loaded && phase === shown.phase) return;
    this.#shown = { phase, loaded, time };
    this.#onProgress({ phase, file: this.#source.name, loaded, total });
  }

  /** Lets messages have their turn: stored and local bytes come without ever waiting. */
  async #breathe() {
    if (performance.now() - this.#breath < BREATH_MS) return;
    await yieldToMessages();
    this.#breath = performance.now();
    this.#signal.throwIfAborted();
  }

  /** @param {number} at @param {number} wanted */
  #truncated(at, wanted) {
    const where = wanted ? `its header describes ${wanted}` : 'before the end of its header';
    const verb = wanted ? 'has' : 'ends after';
    return new SkipstoneError('format', `${this.#source.name}: the file ${verb} ${at} bytes, ${where}: it is truncated`);
  }
}

const ABSENT = 0;
const UNDERWAY = 1;
const FED = 2;
