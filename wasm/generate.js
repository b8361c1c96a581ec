/**
 * One answer at a time: prompt tokens in, sampled text out, in slices of some milliseconds between which the worker
 * looks at its messages. That is how an abort takes effect between blocks, in prefill as in decode, with or without
 * shared memory.
 *
 * KV caches are kept from call to call (slots.js): what a prompt has in common with one of the same mask is not computed
 * again.
 */
import { TOKENIZE } from './engine.js';
import { SkipstoneError } from './errors.js';
import { yieldToMessages } from './platform.js';
import { Slots } from './slots.js';

const SLICE_MS = 12;
const MOST_ROUTES = 16;

/**
 * @typedef {object} Request
 * @property {string | Int32Array} prompt text, or its tokens
 * @property {boolean} bos whether a BOS token goes in front of a text, where the model wants one
 * @property {number | undefined} maxTokens
 * @property {import('./engine.js').Samples} samples
 * @property {string[]} stop
 * @property {string | undefined} skip
 * @property {number | undefined} depth
 * @property {string | undefined} [routeBy] the text to route by, where it is not the prompt
 * @property {number} [logprobs] how many of the most likely tokens to tell with each token; undefined: none
 * @property {number} [owner] the chat session that asks
 * @property {Known} [known]
 *
 * @typedef {{text: string, tokens: ArrayLike<number>}} Known
 *   What a prompt's text begins with, as the tokens that it was made of: an answer need not be what the tokenizer makes of
 *   its text.
 *
 * @typedef {object} Chunk
 * @property {string} text
 * @property {number | null} token null: text that was held back until the end
 * @property {Logprobs} [logprobs] where the call asks for them
 *
 * @typedef {Likelihood & {top: Likelihood[]}} Logprobs  top: the most likely tokens, best first
 * @typedef {{token: number, text: string, bytes: Uint8Array, logprob: number}} Likelihood  bytes: of the token, whose text need not be
 *   whole characters; logprob: log softmax, after penalties and before temperature, top-k, top-p and min-p
 *
 * @typedef {{promptTokens: number, cachedTokens: number, mask: MaskReport, route: Route | null}} Start
 *   What is known when the prompt's first block runs.
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
 * @property {string} [endText] of the end token, '' where there is none; undefined: `tokens` are more than `text` says, since a stop
 *   string or `cancel` cut it
 * @property {number[]} held the prompt's tokens and the answer's, as the KV cache of the next turn begins
 *
 * @typedef {{blocksRun: number, blocksTotal: number, macsSkipped: number, skip: string}} MaskReport
 *   skip: what is left out, as the option of that name takes it
 *
 * @typedef {object} Route
 * @property {number | null} cluster null: the text has no token, and the bank's global mask is taken
 * @property {number} distance to its centroid; 0 without a cluster
 * @property {number} depth of the mask: 1 less the level's share of MACs
 * @property {number} ms what routing took; next to nothing for a text that was routed a moment ago
 */

/** Thrown by a slice when the call was aborted; never leaves the worker. */
export class Aborted extends Error {}

/** What there is of an answer so far. */
class Answer {
  text = '';
  /** @type {number[]} */ tokens = [];
  /** @type {FinishReason} */ finishReason = 'length';
  /** @type {string | undefined} */ endText = '';
  logitsHash = '';
  firstLogits = 0; // when they were there; 0: not yet
  lastLogits = 0;

  /** @param {(chunk: Chunk) => void} emit */
  constructor(emit) {
    this.emit = emit;
  }

  /** @param {string} text @param {number | null} token @param {Logprobs} [logprobs] */
  show(text, token, logprobs) {
    this.text += text;
    this.emit(logprobs ? { text, token, logprobs } : { text, token });
  }
}

export class Runner {
  #engine;
  #layers;
  #costs;
  #skip;
  #bank;
  #depth;
  #weights;
  #slots;
  /**
   * Where texts went: a chat asks for the same one at each turn.
   * @type {Map<string, ReturnType<import('./engine.js').Engine['route']>>}
   */
  #routes = new Map();

  /**
   * @param {import('./engine.js').Engine} engine with its model fed and its tokenizer open
   * @param {{layers: number, costs: import('./engine.js').BlockCost[], contextSize: number, chunk: number, skip: string,
   *   bank?: import('./engine.js').BankInfo, depth: number, maxSessions: number, weights: import('./weights.js').Weights}} options
   *   contextSize and chunk in tokens; skip: of requests without one; bank: the one that the engine has open; maxSessions: KV
   *   caches at once; weights: which may still be coming
   */
  constructor(engine, { layers, costs, contextSize, chunk, skip, bank, depth, maxSessions, weights }) {
    this.#engine = engine;
    this.#layers = layers;
    this.#costs = costs;
    this.#skip = skip;
    this.#bank = bank;
    this.#depth = depth;
    this.#weights = weights;
    this.#slots = new Slots(engine, { contextSize, chunk, most: maxSessions });
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
    const key = `${depth} ${text}`;
    const routed = this.#routes.get(key) ?? this.#engine.route(text, depth, this.#layers);
    this.#routes.delete(key);
    this.#routes.set(key, routed); // the last one used is the last of the map
    if (this.#routes.size > MOST_ROUTES) this.#routes.delete(this.#routes.keys().next().value ?? '');
    const { cluster, distance, level, mask } = routed;
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

  /** Makes the first KV cache. @param {import('./engine.js').Mask} mask */
  open(mask) {
    this.#slots.open(mask);
  }

  get context() {
    return this.#slots.context;
  }

  /** @param {Request} request */
  #tokens({ prompt, bos, known }) {
    const engine = this.#engine;
    if (typeof prompt !== 'string') return Array.from(prompt);
    if (known && prompt.startsWith(known.text)) {
      const rest = engine.tokenize(prompt.slice(known.text.length), TOKENIZE.SPECIAL);
      // a special token is a seam: no other reaches over it
      const isSpecial = (/** @type {number} */ token) => engine.textOf([token]) === '';
      const last = known.tokens[known.tokens.length - 1];
      if (!rest.length || isSpecial(last) || isSpecial(rest[0])) return [...Array.from(known.tokens), ...rest];
    }
    return Array.from(engine.tokenize(prompt, TOKENIZE.SPECIAL | (bos ? TOKENIZE.BOS : 0)));
  }

  /**
   * The prompt's tokens, and a slot that holds what it can of them.
   * @param {Request} request @param {number} fresh tokens that are left to compute at least
   */
  #begin(request, fresh) {
    const { mask, route } = this.#choose(request);
    const prompt = this.#tokens(request);
    if (!prompt.length) throw new SkipstoneError('argument', 'generate: the prompt is empty');
    if (prompt.length > this.context) {
      const room = `the context has ${this.context}; raise contextSize or shorten the prompt`;
      throw new SkipstoneError('context_full', `generate: the prompt has ${prompt.length} tokens, ${room}`);
    }
    this.#weights.wantMask(mask);
    const slot = this.#slots.take(mask, prompt, request.owner, fresh);
    return { mask, route, prompt, slot, cachedTokens: slot.held.length };
  }

  /**
   * @param {Request} request
   * @param {{start: (start: Start) => void, chunk: (chunk: Chunk) => void}} emit
   * @param {() => 'abort' | 'cancel' | undefined} interrupted abort: give up with Aborted; cancel: end with what there is
   * @returns {Promise<Result>}
   */
  async generate(request, emit, interrupted) {
    const engine = this.#engine;
    const { mask, route, prompt, slot, cachedTokens } = this.#begin(request, 1);
    emit.start({ promptTokens: prompt.length, cachedTokens, mask: this.report(mask), route });
    const prefillTokens = prompt.length - cachedTokens;
    const answer = new Answer(emit.chunk);
    const started = performance.now();
    try {
      await this.#answer(answer, slot, prompt, request, interrupted);
    } catch (error) {
      if (!(error instanceof Aborted) || interrupted() !== 'cancel') throw error;
      answer.finishReason = 'cancelled';
      answer.endText = undefined;
    } finally {
      if (!engine.dead) {
        engine.closeStopper();
        engine.closeSampler();
      }
    }

    const { text, tokens, finishReason, endText, logitsHash, firstLogits, lastLogits } = answer;
    const prefillMs = (firstLogits || performance.now()) - started;
    const decodeMs = lastLogits - firstLogits;
    const decodeTokens = Math.max(0, slot.held.length - prompt.length);
    return {
      text,
      tokens,
      finishReason,
      endText,
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
      held: [...prompt, ...tokens],
    };
  }

  /* ---- chat sessions ---- */

  /** The tokens of a prompt; nothing is computed. @param {Request} request */
  count(request) {
    return this.#tokens(request);
  }

  /**
   * Computes the KV of a prompt that goes on later. Where the bank has nothing to route by yet, only its tokens are known.
   * @param {Request} request
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   * @returns {Promise<number[]>} its tokens
   */
  async prefill(request, interrupted) {
    if (!this.#isRouted(request)) return this.#tokens(request);
    const { prompt, slot } = this.#begin(request, 0);
    const fresh = prompt.slice(slot.held.length);
    if (fresh.length) await this.#run(slot, fresh, { slice: performance.now() }, interrupted, true, 0);
    return prompt;
  }

  /** @param {Request} request */
  #isRouted({ skip, depth, routeBy }) {
    return routeBy !== undefined || (depth === undefined && (skip !== undefined || !this.#bank));
  }

  /**
   * The KV of a prompt as bytes; none where the bank has nothing to route by yet.
   * @param {Request} request
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   */
  async save(request, interrupted) {
    const tokens = await this.prefill(request, interrupted);
    return this.#isRouted(request) ? this.#engine.saveSession(tokens) : new Uint8Array();
  }

  /**
   * What `save` gave, as the KV cache of a chat session.
   * @param {Uint8Array} bytes
   * @param {Request} request of the saved prompt
   * @returns {number[]} its tokens
   */
  restore(bytes, request) {
    const { mask } = this.#choose(request);
    return this.#slots.restore(bytes, mask, request.owner ?? 0).held.slice();
  }

  /** @param {number} owner */
  release(owner) {
    this.#slots.release(owner);
  }

  /* ---- sentence encoder ---- */

  /**
   * @param {string[]} texts
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   */
  async embed(texts, interrupted) {
    if (!this.#engine.hasEncoder) this.#engine.openEncoder();
    await this.#weights.needFirst();
    const vectors = [];
    for (const text of texts) {
      vectors.push(this.#engine.embed(text));
      await yieldToMessages();
      if (interrupted()) throw new Aborted();
    }
    return vectors;
  }

  /* ---- the work ---- */

  /**
   * Prefill, then one token after the other.
   * @param {Answer} answer
   * @param {import('./slots.js').Slot} slot
   * @param {number[]} prompt
   * @param {Request} request
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   */
  async #answer(answer, slot, prompt, { samples, stop, maxTokens = Infinity, logprobs }, interrupted) {
    const engine = this.#engine;
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = samples;
    const penalised = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
    engine.openSampler(samples);
    if (penalised) prompt.forEach((token) => engine.accept(token));
    if (stop.length) engine.openStopper(stop);
    engine.startText();

    const clock = { slice: performance.now() };
    await this.#run(slot, prompt.slice(slot.held.length), clock, interrupted, true);
    answer.firstLogits = answer.lastLogits = performance.now();
    for (;;) {
      if (penalised) answer.logitsHash = engine.logitsHash(); // penalties change the logits in place
      const token = engine.pick();
      answer.tokens.push(token);
      if (engine.endsAnswer(token)) {
        answer.finishReason = 'stop';
        answer.endText = engine.tokenText(token);
        break;
      }
      const { text, stopped } = engine.filterStops(engine.addText(token), false);
      answer.show(text, token, logprobs === undefined ? undefined : this.#logprobs(token, logprobs));
      if (stopped) {
        answer.finishReason = 'stop';
        answer.endText = undefined;
        break;
      }
      if (answer.tokens.length >= maxTokens || slot.held.length >= this.context) break;
      await this.#run(slot, [token], clock, interrupted, false);
      answer.lastLogits = performance.now();
    }
    if (!penalised) answer.logitsHash = engine.logitsHash();
    // what an unfinished character or a possible stop string held back
    const { text } = engine.filterStops(engine.addText(-1), true);
    if (text) answer.show(text, null);
  }

  /** @param {number} token @param {number} top @returns {Logprobs} */
  #logprobs(token, top) {
    const engine = this.#engine;
    /** @param {number} t @param {number} logprob */
    const likelihood = (t, logprob) => ({ token: t, text: engine.tokenText(t), bytes: engine.tokenBytes(t), logprob });
    const all = engine.logprobs(token, top);
    return { ...likelihood(token, all.logprob), top: all.top.map((other) => likelihood(other.token, other.logprob)) };
  }

  /**
   * Runs tokens through the blocks.
   * @param {import('./slots.js').Slot} slot in use
   * @param {ArrayLike<number>} tokens
   * @param {{slice: number}} clock when the slice began
   * @param {() => 'abort' | 'cancel' | undefined} interrupted
   * @param {boolean} prefill
   * @param {0 | 1} [logits] of the last token
   */
  async #run(slot, tokens, clock, interrupted, prefill, logits = 1) {
    const engine = this.#engine;
    const before = slot.held.length;
    try {
      if (interrupted()) throw new Aborted();
      engine.begin(tokens, logits);
      // A prefill feels its way from one block on, since blocks of a chunk take long.
      let msPerBlock = prefill ? 0 : slot.msPerBlock;
      let budget = 1;
      for (;;) {
        const start = performance.now();
        budget = msPerBlock ? Math.max(1, Math.min(Math.floor(SLICE_MS / msPerBlock), 4 * budget)) : prefill ? 1 : 8;
        let done = false;
        try {
          done = engine.step(budget);
        } catch (error) {
          if (!(error instanceof SkipstoneError) || error.code !== 'missing') throw error;
          await this.#weights.arrival(); // of the tensor that the next block needs, or another
          if (interrupted()) throw new Aborted();
          continue;
        }
        const now = performance.now();
        if (!done) msPerBlock = (now - start) / budget;
        if (now - clock.slice >= SLICE_MS) {
          await yieldToMessages();
          clock.slice = performance.now();
          if (interrupted()) throw new Aborted();
        }
        if (done) break;
      }
      if (!prefill) slot.msPerBlock = msPerBlock;
      for (let i = 0; i < tokens.length; i++) slot.held.push(tokens[i]);
    } catch (error) {
      if (!engine.dead) {
        const length = engine.cancel(); // chunks that are complete stay
        for (let i = 0; before + i < length && i < tokens.length; i++) slot.held.push(tokens[i]);
      }
      throw error;
    }
  }
}

/** @param {number} n @param {number} ms */
const perSecond = (n, ms) => (ms > 0 ? (1000 * n) / ms : 0);
