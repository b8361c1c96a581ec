/**
 * The core as an object: the one module that touches wasm memory. Synchronous and for one thread, that of the worker
 * it lives in; the helpers of the pool are started by `Engine.create`.
 *
 * Every call into the core may grow memory, so views are never kept over one: #view() makes them anew when the buffer
 * has changed. A trap leaves the core in an unknown state: the engine is then dead and says so.
 */
import { STATUS_CODES, SkipstoneError } from './errors.js';
import { loadModule } from './loader.js';
import { spawn } from './platform.js';

const KIND = { model: 0, tokenizer: 1, session: 2, sampler: 3, stopper: 4, encoder: 5, bank: 6 }; // ss_destroy in exports.c
const ERROR_AT = 256; // io.error in exports.c
const MASK_BYTES = 128; // sizeof(ss_mask)
const NOTE_BYTES = 512;
const FEED_BYTES = 4 << 20;
const here = import.meta.url;
/** @type {import('./platform.js').WorkerFile} */
const POOL_WORKER = {
  url: new URL('./pool-worker.js', here),
  start: () => new Worker(new URL('./pool-worker.js', import.meta.url), { type: 'module', name: 'skipstone helper' }),
};
export const TOKENIZE = { SPECIAL: 1, BOS: 2 };

/**
 * @typedef {object} Samples  What ss_sampler_options has; seed is 64 bits.
 * @property {number} temperature
 * @property {number} topK
 * @property {number} topP
 * @property {number} minP
 * @property {number} repetitionPenalty
 * @property {number} frequencyPenalty
 * @property {number} presencePenalty
 * @property {number} repetitionWindow
 * @property {bigint} seed
 *
 * @typedef {object} ModelInfo
 * @property {string} architecture
 * @property {string} name
 * @property {string} quantisation
 * @property {string} kernels
 * @property {number} layers
 * @property {number} blocks
 * @property {number} embedding
 * @property {number} feedForward
 * @property {number} heads
 * @property {number} kvHeads
 * @property {number} headDim
 * @property {number} vocabulary
 * @property {number} contextTrained
 * @property {number} parameters
 * @property {number} packedBytes
 * @property {number} ropeTheta
 * @property {number} normEps
 * @property {boolean} tiedHead
 *
 * @typedef {object} BankInfo
 * @property {string} name
 * @property {number} clusters
 * @property {number[]} levels shares of the blocks' MACs that its masks skip, ascending
 * @property {number} recovered masks, global ones included, that make up for skipped blocks; its answers always do so
 * @property {{kind: string, name: string}} encoder 'self' or 'bert', and the name of its model
 * @property {string[]} examples a prompt of each cluster
 *
 * @typedef {{pointer: number, context: number, tokens: number}} CoreSession  tokens: int32_t[context] that it borrows
 * @typedef {{name: string, offset: number, bytes: number, block: number, dimensions: number}} Tensor
 *   block: that it belongs to, or -1
 * @typedef {{macs: number, fileBytes: number, packedBytes: number, kvBytes: number}} BlockCost
 * @typedef {{bos: number, eos: number, eot: number, unknown: number, pad: number, addBos: boolean}} SpecialTokens
 */

export class Engine {
  /** @type {import('./loader.js').Loaded} */ #core;
  /** @type {Uint8Array} */ #u8 = new Uint8Array();
  /** @type {DataView} */ #data = new DataView(new ArrayBuffer(0));
  /** @type {Error | undefined} */ #dead;
  /** @type {import('./platform.js').Spawned[]} */ #helpers = [];
  #io = 0;
  #model = 0;
  #tokenizer = 0;
  /** @type {CoreSession | undefined} */ #session; // that begin() and what follows it are about
  #sampler = 0;
  #stopper = 0;
  #encoderModel = 0; // of a sentence encoder with a file of its own
  #encoder = 0;
  #encoderDim = 0;
  #bank = 0;
  #mask = 0; // ss_mask
  #stream = 0; // ss_detokenizer
  #feedBuffer = 0;
  #scratch = 0;
  #scratchBytes = 0;
  #nVocab = 0;
  #version = { version: '', numerics: 0, layout: 0 };
  /** @type {SpecialTokens | undefined} */ #special;

  /** @param {import('./loader.js').Loaded} core */
  constructor(core) {
    this.#core = core;
    this.#io = core.exports.ss_start(core.info.threads, core.info.variant === 'relaxed-dot' ? 1 : 0) >>> 0;
    if (!this.#io) throw new SkipstoneError('memory', `no memory for ${core.info.threads} threads`);
    const [numerics, layout, version] = this.#numbers(3);
    this.#version = { version: this.#cText(version), numerics, layout };
    this.#mask = this.#alloc(MASK_BYTES);
    this.#stream = this.#alloc(8);
  }

  /**
   * Loads the module and starts its helpers.
   * @param {import('./loader.js').LoadOptions} options
   * @param {(reason: string) => void} [onHelperEnd] a helper crashed: the engine must not be used any more
   */
  static async create(options, onHelperEnd = () => {}) {
    const engine = new Engine(await loadModule(options));
    await engine.#startHelpers(onHelperEnd);
    return engine;
  }

  /** @param {(reason: string) => void} onEnd */
  async #startHelpers(onEnd) {
    const { module, memory, info, exports } = this.#core;
    const joined = [];
    for (let index = 1; index < info.threads; index++) {
      const stack = exports.ss_worker_stack(index) >>> 0;
      joined.push(
        new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
          /** @param {string} reason */
          const failed = (reason) => {
            const error = new SkipstoneError('worker_crashed', `helper thread ${index}: ${reason}`);
            this.#dead ??= error;
            reject(error);
            onEnd(error.message);
          };
          const helper = spawn(POOL_WORKER, `skipstone helper ${index}`, {
            onMessage: (message) => {
              if (message.type === 'ready') helper.post({ module, memory, index, stack });
              else if (message.type === 'joined') resolve();
              else if (message.type === 'failed') failed(message.message);
            },
            onEnd: failed,
          });
          this.#helpers.push(helper);
        }),
      );
    }
    await Promise.all(joined);
  }

  /** Ends the helpers. The memory goes when the last reference to the engine does. */
  async close() {
    this.#dead ??= new SkipstoneError('freed', 'the engine was closed');
    this.#core.exports.ss_pool_stop(0);
    await Promise.all(this.#helpers.map((helper) => helper.terminate()));
  }

  /* ---- calls and memory ---- */

  /**
   * @param {string} name
   * @param {...number} args
   * @returns {number}
   */
  #call(name, ...args) {
    if (this.#dead) throw this.#dead;
    try {
      return Number(this.#core.exports[name](...args));
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      this.#dead = new SkipstoneError('trapped', `the core trapped in ${name}: ${text}`, { cause: error });
      this.#core.exports.ss_pool_stop(0);
      throw this.#dead;
    }
  }

  /** The error of the call just made. @param {number} [status] */
  #error(status) {
    const at = this.#io + ERROR_AT;
    const code = STATUS_CODES[status ?? this.#view().getInt32(at, true)] ?? 'internal';
    return new SkipstoneError(code, this.#cText(at + 4) || `status ${status}`);
  }

  /** @param {string} name @param {...number} args */
  #checked(name, ...args) {
    const status = this.#call(name, ...args);
    if (status < 0) throw this.#error(status);
    return status;
  }

  /** A call that returns an object, or NULL and an error. @param {string} name @param {...number} args */
  #created(name, ...args) {
    const pointer = this.#call(name, ...args) >>> 0;
    if (!pointer) throw this.#error();
    return pointer;
  }

  #view() {
    const { buffer } = this.#core.memory;
    if (this.#data.buffer !== buffer) {
      this.#u8 = new Uint8Array(buffer);
      this.#data = new DataView(buffer);
    }
    return this.#data;
  }

  /** The first n of io.numbers. @param {number} n */
  #numbers(n) {
    const view = this.#view();
    return Array.from({ length: n }, (_, i) => view.getFloat64(this.#io + 8 * i, true));
  }

  /** @param {number} bytes */
  #alloc(bytes) {
    const pointer = this.#call('ss_alloc', bytes) >>> 0;
    if (!pointer) throw new SkipstoneError('memory', `the wasm memory cannot grow by ${bytes} bytes`);
    this.#view();
    this.#u8.fill(0, pointer, pointer + bytes);
    return pointer;
  }

  /** A buffer that lasts until the next call of #room. @param {number} bytes */
  #room(bytes) {
    if (bytes > this.#scratchBytes) {
      this.#call('ss_free', this.#scratch);
      this.#scratchBytes = 0;
      this.#scratch = this.#alloc(Math.max(4096, 2 * bytes));
      this.#scratchBytes = Math.max(4096, 2 * bytes);
    }
    return this.#scratch;
  }

  /** A copy, since a decoder takes no shared memory. @param {number} at @param {number} length */
  #text(at, length) {
    this.#view();
    return decoder.decode(this.#u8.slice(at, at + length));
  }

  /** @param {number} at */
  #cText(at) {
    this.#view();
    return this.#text(at, this.#u8.indexOf(0, at) - at);
  }

  /** @param {number} at @param {Uint8Array} bytes */
  #write(at, bytes) {
    this.#view();
    this.#u8.set(bytes, at);
  }

  /** Bytes of the wasm memory, and of it what the core uses now and used at most. */
  memory() {
    this.#call('ss_heap');
    const [used, peak] = this.#numbers(2);
    return { bytes: this.#core.memory.buffer.byteLength, used, peak, maximum: this.#core.info.memoryMaximum };
  }

  get module() {
    return this.#core.info;
  }

  get version() {
    return this.#version;
  }

  get dead() {
    return this.#dead;
  }

  /* ---- model ---- */

  openModel() {
    this.#model = this.#created('ss_model_new');
  }

  /** A second model in the same memory, for `openEncoder`. */
  openEncoderModel() {
    this.closeEncoder();
    this.#encoderModel = this.#created('ss_model_new');
  }

  /**
   * Hands over a piece of the model's file, or of the encoder's.
   * @param {number} offset
   * @param {Uint8Array} bytes at most 4 MB
   * @param {'model' | 'encoder'} [to]
   */
  feed(offset, bytes, to = 'model') {
    if (bytes.length > FEED_BYTES) throw new SkipstoneError('argument', `a piece of ${bytes.length} bytes`);
    this.#feedBuffer ||= this.#alloc(FEED_BYTES);
    this.#write(this.#feedBuffer, bytes);
    const model = to === 'model' ? this.#model : this.#encoderModel;
    const status = this.#checked('ss_model_give', model, offset, this.#feedBuffer, bytes.length);
    const [nextOffset, fileBytes, headerDone] = this.#numbers(3);
    return { complete: status === 0, nextOffset, fileBytes, headerDone: headerDone !== 0 };
  }

  /** No more is fed for now: the buffer can go. */
  endFeed() {
    this.#call('ss_free', this.#feedBuffer);
    this.#feedBuffer = 0;
  }

  /** The model's tensors, as its header has them. @returns {Tensor[]} */
  tensors() {
    /** @type {Tensor[]} */
    const tensors = [];
    for (let n = 1; tensors.length < n; ) {
      this.#checked('ss_model_part', this.#model, tensors.length);
      const [count, offset, bytes, block, dimensions, name] = this.#numbers(6);
      n = count;
      tensors.push({ name: this.#cText(name), offset, bytes, block, dimensions });
    }
    return tensors;
  }

  /** 16 hex digits each; exact is '' while tensors are missing. Needs the norm tensors. */
  fingerprint() {
    this.#checked('ss_model_print', this.#model);
    const [family, familyHigh, exact, exactHigh] = this.#numbers(4);
    return { family: hex64(familyHigh, family), exact: exact || exactHigh ? hex64(exactHigh, exact) : '' };
  }

  /** @returns {ModelInfo} */
  modelInfo() {
    this.#checked('ss_model_about', this.#model);
    const n = this.#numbers(18);
    this.#nVocab = n[7];
    return {
      architecture: this.#cText(n[14]),
      name: this.#cText(n[15]),
      quantisation: this.#cText(n[16]),
      kernels: this.#cText(n[17]),
      layers: n[0],
      blocks: n[1],
      embedding: n[2],
      feedForward: n[3],
      heads: n[4],
      kvHeads: n[5],
      headDim: n[6],
      vocabulary: n[7],
      contextTrained: n[8],
      parameters: n[9],
      packedBytes: n[10],
      ropeTheta: n[11],
      normEps: n[12],
      tiedHead: n[13] !== 0,
    };
  }

  /** @param {number} block @returns {BlockCost} */
  blockCost(block) {
    this.#checked('ss_model_block', this.#model, block);
    const [macs, fileBytes, packedBytes, kvBytes] = this.#numbers(4);
    return { macs, fileBytes, packedBytes, kvBytes };
  }

  /** A string of the metadata, or undefined. @param {string} key */
  metaText(key) {
    const bytes = encoder.encode(`${key}\0`);
    const at = this.#room(bytes.length);
    this.#write(at, bytes);
    if (!this.#call('ss_model_key', this.#model, at, -1)) return undefined;
    const [type, , , , text, length] = this.#numbers(6);
    return type === 8 ? this.#text(text, length) : undefined;
  }

  /* ---- tokenizer ---- */

  openTokenizer() {
    this.#tokenizer = this.#created('ss_tokenizer_new', this.#model);
    const [bos, eos, eot, unknown, pad, addBos] = this.#numbers(6);
    this.#special = { bos, eos, eot, unknown, pad, addBos: addBos !== 0 };
    return this.#special;
  }

  /**
   * @param {string} text
   * @param {number} flags of TOKENIZE
   * @returns {Int32Array}
   */
  tokenize(text, flags) {
    const bytes = encoder.encode(text);
    const capacity = bytes.length + 2; // no token is shorter than a byte, and one BOS
    const start = (bytes.length + 3) & ~3;
    const at = this.#room(start + 4 * capacity);
    this.#write(at, bytes);
    const n = this.#checked('ss_text_tokens', this.#tokenizer, at, bytes.length, flags, at + start, capacity);
    if (n > capacity) throw new SkipstoneError('internal', `${n} tokens of ${bytes.length} bytes`);
    this.#view();
    return new Int32Array(this.#u8.slice(at + start, at + start + 4 * n).buffer);
  }

  /** The bytes of one token, special ones included: not always whole characters. @param {number} token */
  tokenBytes(token) {
    if (token < 0) return new Uint8Array();
    const n = this.#call('ss_token_text', this.#tokenizer, token, 0, 0);
    const at = this.#room(n);
    this.#call('ss_token_text', this.#tokenizer, token, at, n);
    this.#view();
    return this.#u8.slice(at, at + n);
  }

  /** @param {number} token */
  tokenText(token) {
    return decoder.decode(this.tokenBytes(token));
  }

  /** @param {number} token */
  endsAnswer(token) {
    return this.#call('ss_token_ends', this.#tokenizer, token) !== 0;
  }

  /** Starts a stream of text. */
  startText() {
    this.#view();
    this.#u8.fill(0, this.#stream, this.#stream + 8);
  }

  /** The whole characters that `token` completes; -1 flushes. @param {number} token */
  addText(token) {
    for (;;) {
      const room = this.#room(1024);
      const capacity = this.#scratchBytes;
      const n = this.#call('ss_token_stream', this.#stream, this.#tokenizer, token, room, capacity);
      if (n <= capacity) return n ? this.#text(room, n) : '';
      this.#room(n);
    }
  }

  /** The text of tokens; special ones have none. @param {ArrayLike<number>} tokens */
  textOf(tokens) {
    this.startText();
    let text = '';
    for (let i = 0; i < tokens.length; i++) text += this.addText(tokens[i]);
    return text + this.addText(-1);
  }

  /* ---- session ---- */

  /**
   * The mask that skips what `skip` names, as a string that identifies it.
   * @param {string} skip for example 'attn:3,7-9;ffn:12'
   * @param {number} layers
   */
  parseMask(skip, layers) {
    const bytes = encoder.encode(`${skip}\0`);
    const at = this.#room(bytes.length);
    this.#write(at, bytes);
    this.#checked('ss_mask_skip', this.#mask, layers, at);
    this.#view();
    return new Mask(this.#u8.slice(this.#mask, this.#mask + MASK_BYTES), 2 * layers);
  }

  /** @param {Mask} mask @param {number} context @param {number} chunk */
  sessionSize(mask, context, chunk) {
    this.#write(this.#mask, mask.bytes);
    this.#call('ss_session_size', this.#model, context, chunk, this.#mask);
    const [bytes, kvBytes] = this.#numbers(2);
    return { bytes, kvBytes };
  }

  /**
   * A new session, which is the one in use from now on.
   * @param {Mask} mask
   * @param {number} context 0: the core's default
   * @param {number} chunk
   */
  openSession(mask, context, chunk) {
    this.#write(this.#mask, mask.bytes);
    const pointer = this.#created('ss_session_new', this.#model, context, chunk, this.#mask, mask.recovery);
    return this.#opened(pointer, 0);
  }

  /** @param {number} pointer @param {number} tokens int32_t[its context], or 0: to be allocated */
  #opened(pointer, tokens) {
    const [context] = this.#numbers(1);
    try {
      return (this.#session = { pointer, context, tokens: tokens || this.#alloc(4 * context) });
    } catch (error) {
      if (!this.dead) this.#destroy('session', pointer);
      throw error;
    }
  }

  /** begin() and what follows it are about this one from now on. @param {CoreSession} session */
  use(session) {
    this.#session = session;
  }

  /** @param {CoreSession | undefined} [session] default: the one in use */
  closeSession(session = this.#session) {
    if (!session) return;
    this.#destroy('session', session.pointer);
    this.#call('ss_free', session.tokens);
    if (session === this.#session) this.#session = undefined;
  }

  get #used() {
    if (!this.#session) throw new SkipstoneError('state', 'no session is in use');
    return this.#session;
  }

  /**
   * Starts on tokens behind those held.
   * @param {ArrayLike<number>} tokens
   * @param {0 | 1} [logits] of the last
   */
  begin(tokens, logits = 1) {
    const { pointer, tokens: at, context } = this.#used;
    if (tokens.length > context) throw new SkipstoneError('context_full', `${tokens.length} tokens, the context has ${context}`);
    const view = this.#view();
    for (let i = 0; i < tokens.length; i++) view.setInt32(at + 4 * i, tokens[i], true);
    this.#checked('ss_session_start', pointer, at, tokens.length, logits);
  }

  /** Runs at most so many blocks; true when the logits are there. @param {number} maxBlocks */
  step(maxBlocks) {
    return this.#checked('ss_session_step', this.#used.pointer, maxBlocks) === 0;
  }

  /** Gives up what was begun; returns the tokens held. */
  cancel() {
    return this.#call('ss_session_stop', this.#used.pointer);
  }

  /** Keeps the first n tokens. @param {number} n */
  keep(n) {
    this.#checked('ss_session_keep', this.#used.pointer, n);
  }

  /** Makes the session in use hold the first n tokens of another with the same mask. @param {CoreSession} from @param {number} n */
  copySession(from, n) {
    this.#checked('ss_session_clone', this.#used.pointer, from.pointer, n);
  }

  /**
   * The session in use as bytes (saved.c describes them).
   * @param {ArrayLike<number>} tokens that it holds
   * @returns {Uint8Array<ArrayBuffer>}
   */
  saveSession(tokens) {
    const { pointer, tokens: list } = this.#used;
    const n = this.#call('ss_session_weight', pointer) >>> 0;
    const at = this.#alloc(n);
    try {
      const view = this.#view();
      for (let i = 0; i < tokens.length; i++) view.setInt32(list + 4 * i, tokens[i], true);
      this.#checked('ss_session_put', pointer, list, at);
      this.#view();
      return this.#u8.slice(at, at + n);
    } finally {
      if (!this.dead) this.#call('ss_free', at);
    }
  }

  /**
   * A session from bytes, which is the one in use from now on, and the tokens that it holds.
   * @param {Uint8Array} bytes
   * @param {Mask} mask it must be theirs
   * @param {number} context
   * @param {number} chunk
   */
  restoreSession(bytes, mask, context, chunk) {
    const at = this.#alloc(bytes.length);
    const tokens = this.#alloc(4 * context);
    try {
      this.#write(at, bytes);
      this.#write(this.#mask, mask.bytes);
      const pointer = this.#created(
        'ss_session_get', this.#model, context, chunk, this.#mask, mask.recovery, at, bytes.length, tokens,
      );
      const [, n] = this.#numbers(2);
      const session = this.#opened(pointer, tokens);
      this.#view();
      return { session, held: Array.from(new Int32Array(this.#u8.slice(tokens, tokens + 4 * n).buffer)) };
    } catch (error) {
      if (!this.dead) this.#call('ss_free', tokens);
      throw error;
    } finally {
      if (!this.dead) this.#call('ss_free', at);
    }
  }

  #logits() {
    const at = this.#call('ss_session_row', this.#used.pointer, 0) >>> 0;
    if (!at) throw new SkipstoneError('state', 'there are no logits');
    return at;
  }

  /** The logits' fingerprint, 16 hex digits. */
  logitsHash() {
    this.#call('ss_row_hash', this.#logits(), this.#nVocab);
    const [low, high] = this.#numbers(2);
    return hex64(high, low);
  }

  /**
   * Log softmax of the logits: of `token`, and the `top` most likely tokens with theirs.
   * @param {number} token
   * @param {number} top
   */
  logprobs(token, top) {
    const at = this.#room(8 * top);
    this.#call('ss_row_top', this.#logits(), this.#nVocab, token, top, at, at + 4 * top);
    const [logprob] = this.#numbers(1);
    const view = this.#view();
    return {
      logprob,
      top: Array.from({ length: top }, (_, i) => ({
        token: view.getInt32(at + 4 * i, true),
        logprob: view.getFloat32(at + 4 * (top + i), true),
      })),
    };
  }

  /* ---- sentence encoder ---- */

  /**
   * Of the encoder's model when one was opened; else `self`, the language model's first layers.
   * @returns {{kind: string, dim: number}}
   */
  openEncoder() {
    this.#destroy('encoder', this.#encoder);
    this.#encoder = 0;
    this.#encoder = this.#created('ss_encoder_new', this.#encoderModel || this.#model);
    const [dim, kind] = this.#numbers(2);
    this.#encoderDim = dim;
    return { kind: this.#cText(kind), dim };
  }

  /** The encoder, and its model where it has its own. */
  closeEncoder() {
    this.#destroy('encoder', this.#encoder);
    this.#destroy('model', this.#encoderModel);
    this.#encoder = this.#encoderModel = 0;
  }

  get hasEncoder() {
    return this.#encoder !== 0;
  }

  /** A vector of unit length, or of zeros when `self` finds no token, and how many tokens were read. @param {string} text */
  embed(text) {
    const bytes = encoder.encode(text);
    const start = (bytes.length + 3) & ~3;
    const at = this.#room(start + 4 * this.#encoderDim);
    this.#write(at, bytes);
    this.#checked('ss_text_vector', this.#encoder, at, bytes.length, at + start);
    const [tokens] = this.#numbers(1);
    this.#view();
    return { embedding: new Float32Array(this.#u8.slice(at + start, at + start + 4 * this.#encoderDim).buffer), tokens };
  }

  /** @param {string} text */
  encode(text) {
    return this.embed(text).embedding;
  }

  /* ---- bank ---- */

  /**
   * @param {Uint8Array} bytes of the bank's file
   * @returns {BankInfo}
   */
  openBank(bytes) {
    this.closeBank();
    const at = this.#alloc(bytes.length);
    try {
      this.#write(at, bytes);
      this.#bank = this.#created('ss_bank_new', at, bytes.length);
    } finally {
      if (!this.dead) this.#call('ss_free', at);
    }
    const [clusters, nLevels, name, nameLength, kind, kindLength, of, ofLength, levels, recovered] = this.#numbers(10);
    const view = this.#view();
    return {
      name: this.#text(name, nameLength),
      clusters,
      levels: Array.from({ length: nLevels }, (_, i) => view.getFloat32(levels + 4 * i, true)),
      recovered,
      encoder: { kind: this.#text(kind, kindLength), name: this.#text(of, ofLength) },
      examples: Array.from({ length: clusters }, (_, cluster) => {
        this.#call('ss_bank_prompt', this.#bank, cluster);
        const [text, length] = this.#numbers(2);
        return this.#text(text, length);
      }),
    };
  }

  /** Throws unless the bank was made for this model and encoder. Returns what the user should know, or ''. */
  checkBank() {
    const at = this.#room(NOTE_BYTES);
    this.#checked('ss_bank_fits', this.#bank, this.#model, this.#encoderModel || this.#model, at, NOTE_BYTES);
    return this.#cText(at);
  }

  /**
   * The cluster of a text and its mask.
   * @param {string} text
   * @param {number} depth
   * @param {number} layers of the model
   */
  route(text, depth, layers) {
    const embedding = new Uint8Array(this.encode(text).buffer);
    const at = this.#room(embedding.length);
    this.#write(at, embedding);
    this.#checked('ss_bank_nearest', this.#bank, at, this.#encoderDim);
    const [cluster, distance] = this.#numbers(2);
    this.#checked('ss_bank_pick', this.#bank, cluster, depth, this.#mask);
    const [level, recovery] = this.#numbers(2);
    this.#view();
    const mask = new Mask(this.#u8.slice(this.#mask, this.#mask + MASK_BYTES), 2 * layers, recovery);
    return { cluster, distance, level, mask };
  }

  /**
   * The mask of a cluster, or of all prompts without one.
   * @param {number} cluster
   * @param {number} depth
   * @param {number} layers of the model
   */
  bankMask(cluster, depth, layers) {
    this.#checked('ss_bank_pick', this.#bank, cluster, depth, this.#mask);
    this.#view();
    return new Mask(this.#u8.slice(this.#mask, this.#mask + MASK_BYTES), 2 * layers);
  }

  closeBank() {
    this.#destroy('bank', this.#bank);
    this.#bank = 0;
  }

  /* ---- sampler and stop strings ---- */

  /** @param {Samples} o */
  openSampler(o) {
    this.closeSampler();
    const seed = BigInt.asUintN(64, o.seed);
    const view = this.#view();
    [
      o.temperature, o.topK, o.topP, o.minP, o.repetitionPenalty, o.frequencyPenalty, o.presencePenalty,
      o.repetitionWindow, Number(seed & 0xffffffffn), Number(seed >> 32n),
    ].forEach((value, i) => view.setFloat64(this.#io + 8 * i, value, true));
    this.#sampler = this.#created('ss_sampler_new', this.#nVocab);
  }

  closeSampler() {
    this.#destroy('sampler', this.#sampler);
    this.#sampler = 0;
  }

  /** Puts a token of the prompt into the penalties' window. @param {number} token */
  accept(token) {
    this.#call('ss_sampler_take', this.#sampler, token);
  }

  pick() {
    return this.#call('ss_sampler_next', this.#sampler, this.#logits());
  }

  /** @param {string[]} stops */
  openStopper(stops) {
    this.closeStopper();
    const texts = stops.map((stop) => encoder.encode(stop));
    let at = this.#room(8 * texts.length + texts.reduce((sum, text) => sum + text.length, 0));
    const pairs = at;
    at += 8 * texts.length;
    texts.forEach((text, i) => {
      this.#view().setUint32(pairs + 8 * i, at, true);
      this.#view().setUint32(pairs + 8 * i + 4, text.length, true);
      this.#write(at, text);
      at += text.length;
    });
    this.#stopper = this.#created('ss_stopper_new', pairs, texts.length);
  }

  closeStopper() {
    this.#destroy('stopper', this.#stopper);
    this.#stopper = 0;
  }

  /**
   * What of the text may be shown now, and whether a stop string was reached.
   * @param {string} text
   * @param {boolean} flush no more text follows
   */
  filterStops(text, flush) {
    if (!this.#stopper) return { text, stopped: false };
    const bytes = encoder.encode(text);
    const at = this.#room(bytes.length);
    this.#write(at, bytes);
    const stopped = this.#call('ss_stopper_give', this.#stopper, at, bytes.length, flush ? 1 : 0) !== 0;
    if (this.#view().getInt32(this.#io + ERROR_AT, true) < 0) throw this.#error();
    const [out, length] = this.#numbers(2);
    return { text: length ? this.#text(out, length) : '', stopped };
  }

  /** @param {keyof typeof KIND} kind @param {number} pointer */
  #destroy(kind, pointer) {
    if (pointer) this.#call('ss_destroy', KIND[kind], pointer);
  }
}

/** Which blocks run: bit 2l is the attention of layer l, bit 2l+1 its feed-forward. */
export class Mask {
  /**
   * @param {Uint8Array} bytes
   * @param {number} blocks
   * @param {number} [recovery] address of what the bank makes up for the skipped blocks with; 0: nothing
   */
  constructor(bytes, blocks, recovery = 0) {
    this.bytes = bytes;
    this.blocks = blocks;
    this.recovery = recovery;
    this.key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('') + recovery;
  }

  /** @param {number} block */
  runs(block) {
    return ((this.bytes[block >> 3] >> (block & 7)) & 1) === 1;
  }

  get blocksRun() {
    let n = 0;
    for (let block = 0; block < this.blocks; block++) n += this.runs(block) ? 1 : 0;
    return n;
  }

  /** What is skipped, as parseMask reads it. */
  get skip() {
    const kinds = ['attn', 'ffn'].map((kind, i) => {
      const layers = [];
      for (let block = i; block < this.blocks; block += 2) if (!this.runs(block)) layers.push(block >> 1);
      return layers.length ? `${kind}:${layers.join(',')}` : '';
    });
    return kinds.filter(Boolean).join(';');
  }

  /** The share of the blocks' MACs that is skipped. @param {BlockCost[]} costs */
  macsSkipped(costs) {
    let all = 0;
    let skipped = 0;
    costs.forEach(({ macs }, block) => {
      all += macs;
      if (!this.runs(block)) skipped += macs;
    });
    return all ? skipped / all : 0;
  }
}

/** @param {number} high @param {number} low */
const hex64 = (high, low) => high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0');

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
