/**
 * One answer at a time: prompt tokens in, sampled text out, in slices of some milliseconds between which the worker
 * looks at its messages. That is how an abort takes effect between blocks, in prefill as in decode, with or without
 * shared memory.
 *
 * The core session is kept from call to call while the mask is the same: what a new prompt has in common with the
 * tokens that it holds is not computed again.
 */
import { TOKENIZE } from './engine.js';
import { SkipstoneError } from './errors.js';
import { yieldToMessages } from './platform.js';

const SLICE_MS = 12;

/**
 * @typedef {object} Request
 * @property {string | Int32Array} prompt text, or its tokens
 * @property {boolean} bos whether a BOS token goes in front of a text, where the model wants one
 * @property {number | undefined} maxTokens
 * @property {import('./engine.js').Samples} samples
 * @property {string[]} stop
 * @property {string | undefined} skip
 * @property {number | undefined} depth
 * @property {string | undefined} routeBy the text to route by, where it is not the prompt
 *
 * @typedef {{text: string, token: number | null}} Chunk  token null: text that was held back until the end
 *
 * @typedef {'stop' | 'length' | 'cancelled'} FinishReason
 *   stop: an end token or a stop string; length: maxTokens or the end of the context; cancelled: the loop was left
 *
 * @typedef {object} Timings
 * @property {number} prefill_ms
 * @property {number} prefill_tokens tokens computed: those of the prompt less the cached ones
 * @property {number} prefill_tps
 * @property {number} decode_ms
 * @property {number} decode_tokens tokens computed one by one: those of the answer less its first, which the prefill gives
 * @property {number} decode_tps
 *
 * @typedef {object} Result
 * @property {string} text
 * @property {number[]} tokens that were picked, an end token included
 * @property {FinishReason} finishReason
 * @property {number} promptTokens
 * @property {number} cachedTokens of the prompt, that were not computed again
 * @property {Timings} timings
 * @property {string} logitsHash of the last logits
 * @property {MaskReport} mask
 * @property {Route | null} route null: without a bank, or with a skip
 * @property {bigint} seed
 *
 * @typedef {{blocksRun: number, blocksTotal: number, macsSkipped: number, skip: string}} MaskReport
 *   skip: what is left out, as the option of that name takes it
 *
 * @typedef {object} Route
 * @property {number | null} cluster null: the text has no token, and the bank's global mask is taken
 * @property {number} distance to its centroid; 0 without a cluster
 * @property {number} depth of the mask: 1 less the level's share of MACs
 * @property {number} ms what routing took
 */

/** Thrown by a slice when the call was aborted; never leaves the worker. */
export class Aborted extends Error {}

/** What there is of an answer so far. */
class Answer {
  text = '';
  /** @type {number[]} */ tokens = [];
  /** @type {FinishReason} */ finishReason = 'length';
  logitsHash = '';
  firstLogits = 0; // when they were there; 0: not yet
  lastLogits = 0;

  /** @param {(chunk: Chunk) => void} emit */
  constructor(emit) {
    this.emit = emit;
  }

  /** @param {string} text @param {number | null} token */
  show(text, token) {
    this.text += text;
    this.emit({ text, token });
  }
}

export class Runner {
  #engine;
  #layers;
  #costs;
  #contextSize;
  #chunk;
  #skip;
  #bank;
  #depth;
  #maskKey = '';
  #context = 0;
  /** @type {number[]} */ #held = []; // the tokens in the core session
  #msPerBlock = 0; // of a decode step, to size its slices; 0: not known

  /**
   * @param {import('./engine.js').Engine} engine with its model fed and its tokenizer open
   * @param {{layers: number, costs: import('./engine.js').BlockCost[], contextSize: number, chunk: number, skip: string,
   *   bank?: import('./engine.js').BankInfo, depth: number}} options
   *   contextSize and chunk in tokens; skip: of requests without one; bank: the one that the engine has open
   */
  constructor(engine, { layers, costs, contextSize, chunk, skip, bank, depth }) {
    this.#engine = engine;
    this.#layers = layers;
    this.#costs = costs;
    this.#contextSize = contextSize;
    this.#chunk = chunk;
    this.#skip = skip;
    this.#bank = bank;
    this.#depth = depth;
  }

  /**
   * Where the bank sends a text.
   * @param {string} text
   * @param {number} [depth]
   * @returns {{mask: import('./engine.js').Mask, route: Route}}
   */
  route(text, depth = this.#depth) {
    if (!this.#bank) throw new SkipstoneError('argument', 'depth and route need a bank: load one with the option bank');
    const started = performance.now();
    const { cluster, distance, level, mask } = this.#engine.route(text, depth, this.#layers);
    const route = {
      cluster: cluster < this.#bank.clusters ? cluster : null,
      distance,
      depth: level < 0 ? 1 : 1 - this.#bank.levels[level],
      ms: performance.now() - started,
    };
    return { mask, route };
  }

  /** @param {import('./engine.js').Mask} mask @returns {MaskReport} */
  report(mask) {
    return { blocksRun: mask.blocksRun, blocksTotal: mask.blocks, macsSkipped: mask.macsSkipped(this.#costs), skip: mask.skip };
  }

  /** The mask of a request: its skip, else the bank's, else that of the load. @param {Request} request */
  #choose({ skip, depth, routeBy, prompt }) {
    if (skip !== undefined && depth !== undefined) throw new SkipstoneError('argument', 'generate: skip and depth exclude each other');
    if (depth === undefined && (skip !== undefined || !this.#bank)) return { mask: this.parse(skip), route: null };
    const text = routeBy ?? (typeof prompt === 'string' ? prompt : this.#engine.textOf(prompt));
    return this.route(text, depth);
  }

  /** @param {string} [skip] */
  parse(skip = this.#skip) {
    return this.#engine.parseMask(skip, this.#layers);
  }

  /** Makes the session for a mask unless it is there. @param {import('./engine.js').Mask} mask */
  open(mask) {
    const engine = this.#engine;
    if (!engine.hasSession || mask.key !== this.#maskKey) {
      this.#held = [];
      this.#maskKey = mask.key;
      this.#msPerBlock = 0;
      this.#context = engine.openSession(mask, this.#contextSize, this.#chunk);
    }
  }

  get context() {
    return this.#context;
  }

  /**
   * @param {Request} request
   * @param {(chunk: Chunk) => void} emit
   * @param {() => 'abort' | 'cancel' | undefined} interrupted abort: give up with Aborted; cancel: end with what there is
   * @returns {Promise<Result>}
   */
  async generate(request, emit, interrupted) {
    const engine = this.#engine;
    const { mask, route } = this.#choose(request);
    this.open(mask);
    const prompt =
      typeof request.prompt === 'string'
        ? engine.tokenize(request.prompt, TOKENIZE.SPECIAL | (request.bos ? TOKENIZE.BOS : 0))
        : request.prompt;
    if (!prompt.length) throw new SkipstoneError('argument', 'generate: the prompt is empty');
    if (prompt.length > this.#context) {
      const room = `the context has ${this.#context}; raise contextSize or shorten the prompt`;
      throw new SkipstoneError('context', `generate: the prompt has ${prompt.length} tokens, ${room}`);
    }

    const cachedTokens = this.#reuse(prompt);
    const prefillTokens = prompt.length - cachedTokens;
    const answer = new Answer(emit);
    const started = performance.now();
    try {
      await this.#answer(answer, prompt, prompt.subarray(cachedTokens), request, interrupted);
    } catch (error) {
      if (!(error instanceof Aborted) || interrupted() !== 'cancel') throw error;
      answer.finishReason = 'cancelled';
    } finally {
      if (!engine.dead) {
        engine.closeStopper();
        engine.closeSampler();
      }
    }

    const { text, tokens, finishReason, logitsHash, firstLogits, lastLogits } = answer;
    const prefillMs = (firstLogits || performance.now()) - started;
    const decodeMs = lastLogits - firstLogits;
    const decodeTokens = Math.max(0, this.#held.length - prompt.length);
    return {
      text,
      tokens,
      finishReason,
      promptTokens: prompt.length,
      cachedTokens,
      timings: {
        prefill_ms: prefillMs,
        prefill_tokens: prefillTokens,
        prefill_tps: perSecond(prefillTokens, prefillMs),
        decode_ms: decodeMs,
        decode_tokens: decodeTokens,
        decode_tps: perSecond(decodeTokens, decodeMs),
      },
      logitsHash,
      mask: this.report(mask),
      route,
      seed: request.samples.seed,
    };
  }

  /**
   * Prefill, then one token after the other.
   * @param {Answer} answer
   * @param {Int32Array} prompt
   * @param {Int32Array} fresh its tokens that the session does not hold
   * @param {Request} request
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   */
  async #answer(answer, prompt, fresh, { samples, stop, maxTokens = Infinity }, interrupted) {
    const engine = this.#engine;
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = samples;
    const penalised = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
    engine.openSampler(samples);
    if (penalised) prompt.forEach((token) => engine.accept(token));
    if (stop.length) engine.openStopper(stop);
    engine.startText();

    const clock = { slice: performance.now() };
    await this.#run(fresh, clock, interrupted, true);
    answer.firstLogits = answer.lastLogits = performance.now();
    for (;;) {
      if (penalised) answer.logitsHash = engine.logitsHash(); // penalties change the logits in place
      const token = engine.pick();
      answer.tokens.push(token);
      if (engine.endsAnswer(token)) {
        answer.finishReason = 'stop';
        break;
      }
      const { text, stopped } = engine.filterStops(engine.addText(token), false);
      answer.show(text, token);
      if (stopped) {
        answer.finishReason = 'stop';
        break;
      }
      if (answer.tokens.length >= maxTokens || this.#held.length >= this.#context) break;
      await this.#run([token], clock, interrupted, false);
      answer.lastLogits = performance.now();
    }
    if (!penalised) answer.logitsHash = engine.logitsHash();
    // what an unfinished character or a possible stop string held back
    const { text } = engine.filterStops(engine.addText(-1), true);
    if (text) answer.show(text, null);
  }

  /**
   * Cuts the session back to what it has in common with the prompt; at least one token is left to compute logits from.
   * @param {Int32Array} prompt
   */
  #reuse(prompt) {
    let n = 0;
    while (n < this.#held.length && n < prompt.length - 1 && this.#held[n] === prompt[n]) n++;
    if (n < this.#held.length) {
      this.#held.length = n;
      this.#engine.keep(n);
    }
    return n;
  }

  /**
   * Runs tokens through the blocks.
   * @param {ArrayLike<number>} tokens
   * @param {{slice: number}} clock when the slice began
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   * @param {boolean} prefill
   */
  async #run(tokens, clock, interrupted, prefill) {
    const engine = this.#engine;
    const before = this.#held.length;
    try {
      if (interrupted()) throw new Aborted();
      engine.begin(tokens);
      // A prefill feels its way from one block on, since blocks of a chunk take long.
      let msPerBlock = prefill ? 0 : this.#msPerBlock;
      let budget = 1;
      for (;;) {
        const start = performance.now();
        budget = msPerBlock ? Math.max(1, Math.min(Math.floor(SLICE_MS / msPerBlock), 4 * budget)) : prefill ? 1 : 8;
        const done = engine.step(budget);
        const now = performance.now();
        if (!done) msPerBlock = (now - start) / budget;
        if (now - clock.slice >= SLICE_MS) {
          await yieldToMessages();
          clock.slice = performance.now();
          if (interrupted()) throw new Aborted();
        }
        if (done) break;
      }
      if (!prefill) this.#msPerBlock = msPerBlock;
      for (let i = 0; i < tokens.length; i++) this.#held.push(tokens[i]);
    } catch (error) {
      if (!engine.dead) {
        const length = engine.cancel(); // chunks that are complete stay
        for (let i = 0; before + i < length && i < tokens.length; i++) this.#held.push(tokens[i]);
      }
      throw error;
    }
  }
}

/** @param {number} n @param {number} ms */
const perSecond = (n, ms) => (ms > 0 ? (1000 * n) / ms : 0);
