/**
 * Chat sessions, by the names of the browser's own Prompt API (https://webmachinelearning.github.io/prompt-api/):
 *
 *     const session = await llm.languageModel.create({ initialPrompts: [{ role: 'system', content: 'Be brief.' }] });
 *     console.log(await session.prompt('Why is the sky blue?'));
 *     for await (const text of session.promptStreaming('And at dusk?')) process.stdout.write(text);
 *
 * A session remembers what was said, as messages and as the tokens that the engine computed. The engine keeps a KV cache
 * for it as long as there is room (`maxSessions` of load); a turn computes only what is new. Calls of one session run in order.
 *
 * @typedef {object} ContentPart
 * @property {string} type 'text'; other kinds are an error
 * @property {unknown} value
 *
 * @typedef {object} PromptMessage
 * @property {'system' | 'user' | 'assistant'} role a system message must be the first
 * @property {string | readonly ContentPart[]} content
 * @property {boolean} [prefix] of the last message, the assistant's: the answer goes on from there
 *
 * @typedef {string | readonly PromptMessage[]} PromptInput  a string: what the user says
 *
 * @typedef {object} Expected
 * @property {string} type 'text'
 * @property {readonly string[]} [languages] passes
 *
 * @typedef {object} SessionOptions
 * @property {readonly PromptMessage[]} [initialPrompts]
 * @property {number} [temperature] as in `generate`, and so are those that follow
 * @property {number} [topK]
 * @property {number} [topP]
 * @property {number} [minP]
 * @property {number} [repetitionPenalty]
 * @property {number} [frequencyPenalty]
 * @property {number} [presencePenalty]
 * @property {number | bigint} [seed] of each answer; default: a new one for each
 * @property {number} [maxTokens] of an answer
 * @property {string | string[]} [stop]
 * @property {import('./options.js').Skip} [skip]
 * @property {number} [depth]
 * @property {'error' | 'drop-oldest'} [onContextFull] what to do when a prompt does not fit: reject with code context_full (the
 *   default), or forget the oldest turns and compute the rest again; a system message is never forgotten
 * @property {readonly Expected[]} [expectedInputs]
 * @property {readonly Expected[]} [expectedOutputs]
 * @property {unknown} [monitor] passes: the model is there already
 * @property {AbortSignal} [signal] ends the creation
 *
 * @typedef {{signal?: AbortSignal}} SignalOption
 * @typedef {import('./template.js').Message} Message
 * @typedef {import('./llm.js').Inner} Inner
 * @typedef {import('./openai.js').Ran} Ran
 *
 * @typedef {object} Turn  How the last answer came about.
 * @property {'stop' | 'length' | 'cancelled'} finishReason
 * @property {number} promptTokens
 * @property {number} cachedTokens of the prompt, that were not computed again
 * @property {Ran} skipstone
 * @property {import('./generate.js').Timings} timings
 */
import { abortError, SkipstoneError } from './errors.js';
import { ran } from './openai.js';
import { textOf } from './openai_body.js';
import { check, DEFAULTS, GENERATE, isSignal, makeRequest, oneOf, show } from './options.js';
import { pack, unpack } from './saved_session.js';

/** @typedef {import('./options.js').Check} Check */

/** @type {Check} */
const isAllText = (value) =>
  Array.isArray(value) && value.every((item) => item?.type === 'text') ? undefined : "an array of {type: 'text'}";
/** @type {Check} */
const isNothing = (value) => (Array.isArray(value) && !value.length ? undefined : 'nothing: this is not supported');

const { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty } = GENERATE;
const { seed, maxTokens, stop, skip, depth } = GENERATE;
/** What an answer depends on; saved with a session. @type {Record<string, Check>} */
const LASTING = {
  temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty, seed, maxTokens, stop, skip, depth,
  onContextFull: oneOf('error', 'drop-oldest'),
};
/** @type {Record<string, Check>} */
const CREATE = {
  ...LASTING,
  initialPrompts: () => undefined, // messagesOf() looks at it
  expectedInputs: isAllText,
  expectedOutputs: isAllText,
  tools: isNothing,
  monitor: () => undefined,
  signal: isSignal,
};

/** @param {string} call @param {any} options @returns {AbortSignal | undefined} */
function signalOf(call, options = {}) {
  check(call, options, { signal: isSignal });
  return options.signal;
}

let sessions = 0; // owners of KV caches: a number for each session

/** What `llm.languageModel` is. */
export class SessionMaker {
  #inner;

  /** @param {Inner} inner */
  constructor(inner) {
    this.#inner = inner;
  }

  /**
   * Whether `create` would take these options: the model itself is there.
   * @param {Omit<SessionOptions, 'signal' | 'monitor' | 'initialPrompts'>} [options]
   * @returns {Promise<'available' | 'unavailable'>}
   */
  async availability(options = {}) {
    try {
      check('availability', options, CREATE);
    } catch {
      return 'unavailable';
    }
    return this.#inner.ended() ? 'unavailable' : 'available';
  }

  /**
   * A session; its initial prompts are computed.
   * @param {SessionOptions} [options]
   * @returns {Promise<Session>}
   */
  async create(options = {}) {
    check('create', options, CREATE);
    const { initialPrompts = [], signal } = options;
    const session = new Session(this.#inner, lasting(options), { messages: [], text: '', tokens: [] });
    if (initialPrompts.length) await session.append(initialPrompts, { signal });
    else if (signal?.aborted) throw abortError(signal);
    return session;
  }

  /**
   * The session that `save` gave the bytes of, by this model. Codes of errors: format, not such bytes, or damaged ones;
   * unsupported, from another version; argument, of another model, or of a bank or depth that skips other blocks;
   * context_full, it does not fit.
   * @param {Uint8Array | ArrayBuffer | Blob} saved
   * @param {SignalOption} [options]
   * @returns {Promise<Session>}
   */
  async restore(saved, options) {
    const signal = signalOf('restore', options);
    const { state, kv } = unpack(saved instanceof Blob ? await saved.arrayBuffer() : saved);
    const { messages, text, options: said } = state;
    const own = typeof said.seed === 'string' ? { ...said, seed: BigInt(said.seed) } : said;
    check('restore', own, LASTING);
    const past = messages.length ? messagesOf('restore', messages).messages : [];
    const session = new Session(this.#inner, own, { messages: past, text, tokens: [] });
    await session.fill(kv, signal);
    return session;
  }
}

/** @param {SessionOptions} options */
const lasting = (options) =>
  Object.fromEntries(Object.entries(options).filter(([name, value]) => name in LASTING && value !== undefined));

/**
 * What was said, and the tokens that its text was computed as.
 * @typedef {{messages: Message[], text: string, tokens: number[]}} State
 */

/** A conversation. Made by `languageModel.create`, `restore` or `clone`. Fires `contextoverflow` when it forgets. */
export class Session extends EventTarget {
  #inner;
  #options;
  #state;
  #owner = ++sessions;
  #life = new AbortController();
  /** @type {Promise<unknown>} */ #tail = Promise.resolve(); // the call before the next one
  /** @type {Turn | undefined} */ #turn;
  /** @type {((event: Event) => void) | null} */ #onOverflow = null;

  /**
   * @param {Inner} inner
   * @param {Record<string, any>} options
   * @param {State} state
   */
  constructor(inner, options, state) {
    super();
    this.#inner = inner;
    this.#options = options;
    this.#state = state;
  }

  /* ---- what is ---- */

  /** Tokens that the session takes up. */
  get contextUsage() {
    return this.#state.tokens.length;
  }

  /** Tokens that there is room for. */
  get contextWindow() {
    return this.#inner.info().context.size;
  }

  /** @returns {number} */
  get temperature() {
    return this.#options.temperature ?? DEFAULTS.temperature;
  }

  /** @returns {number} */
  get topK() {
    return this.#options.topK ?? DEFAULTS.topK;
  }

  /** What was said so far. A copy. @returns {Message[]} */
  get messages() {
    return this.#state.messages.map((message) => ({ ...message }));
  }

  /** How the last answer came about: what ran, what was cached, how long it took. */
  get lastTurn() {
    return this.#turn;
  }

  get oncontextoverflow() {
    return this.#onOverflow;
  }

  set oncontextoverflow(listener) {
    if (this.#onOverflow) this.removeEventListener('contextoverflow', this.#onOverflow);
    this.#onOverflow = typeof listener === 'function' ? listener : null;
    if (this.#onOverflow) this.addEventListener('contextoverflow', this.#onOverflow);
  }

  /* ---- what it does ---- */

  /**
   * Answers. What was said and the answer become part of the session; after an error or an abort it is as before.
   * @param {PromptInput} input
   * @param {SignalOption} [options]
   * @returns {Promise<string>}
   */
  async prompt(input, options) {
    const signal = signalOf('prompt', options);
    const added = messagesOf('prompt', input);
    return this.#inOrder(signal, (both) => this.#answer(added, both));
  }

  /**
   * The same as a stream of pieces of text. Cancelling the stream, or leaving a loop over it, ends the answer where it is; what
   * there is of it stays in the session.
   * @param {PromptInput} input
   * @param {SignalOption} [options]
   * @returns {ReadableStream<string> & AsyncIterable<string>}
   */
  promptStreaming(input, options) {
    const signal = signalOf('promptStreaming', options);
    const added = messagesOf('promptStreaming', input);
    let cancel = () => {};
    let cancelled = false;
    const stream = new ReadableStream({
      start: (controller) => {
        const answer = this.#inOrder(signal, async (both) => {
          if (cancelled) throw abortError();
          await this.#answer(added, both, (generation) => {
            cancel = () => generation.cancel();
            return (text) => void (cancelled || controller.enqueue(text));
          });
        });
        answer.then(
          () => cancelled || controller.close(),
          (error) => cancelled || controller.error(error),
        );
      },
      cancel: () => {
        cancelled = true;
        cancel();
      },
    });
    return iterable(stream);
  }

  /**
   * Takes messages into the session and computes them, without an answer.
   * @param {PromptInput} input
   * @param {SignalOption} [options]
   * @returns {Promise<void>}
   */
  async append(input, options) {
    const signal = signalOf('append', options);
    const { messages: added, prefix } = messagesOf('append', input);
    if (prefix) throw new SkipstoneError('argument', 'append: a prefix is for prompt and promptStreaming');
    return this.#inOrder(signal, async (both) => {
      const messages = await this.#room(this.#with(added), '', both, false);
      const request = this.#request(messages, '', false);
      const tokens = await this.#inner.call('prefill', { request }, both);
      this.#state = { messages, text: /** @type {string} */ (request.prompt), tokens };
    });
  }

  /**
   * How many tokens a prompt would add.
   * @param {PromptInput} input
   * @param {SignalOption} [options]
   * @returns {Promise<number>}
   */
  async measureContextUsage(input, options) {
    const signal = signalOf('measureContextUsage', options);
    const { messages, prefix } = messagesOf('measureContextUsage', input);
    const request = this.#request(this.#with(messages), prefix, true);
    return (await this.#inner.call('count', { request }, signal)) - this.contextUsage;
  }

  /**
   * A session with the same past that goes its own way.
   * @param {SignalOption} [options]
   * @returns {Promise<Session>}
   */
  async clone(options) {
    return this.#inOrder(signalOf('clone', options), async () => {
      const { messages, text, tokens } = this.#state;
      return new Session(this.#inner, { ...this.#options }, { messages: [...messages], text, tokens: [...tokens] });
    });
  }

  /**
   * The session as bytes, for `restore` after a reload or on another machine: about 13 KB a token of SmolLM2-135M.
   * @param {SignalOption} [options]
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async save(options) {
    return this.#inOrder(signalOf('save', options), async (both) => {
      const { messages, text, tokens } = this.#state;
      const request = this.#requestFor(text, messages);
      const kv = tokens.length ? await this.#inner.call('save', { request }, both) : new Uint8Array();
      const { seed: own, ...rest } = this.#options;
      return pack({ messages, text, options: own === undefined ? rest : { ...rest, seed: String(own) } }, kv);
    });
  }

  /** Ends the session: calls under way and later ones reject with AbortError. A second time does nothing. */
  destroy() {
    if (this.#life.signal.aborted) return;
    this.#life.abort(new DOMException('the session was destroyed', 'AbortError'));
    this.#inner.post({ call: 'release', owner: this.#owner });
  }

  async [Symbol.asyncDispose]() {
    this.destroy();
    await this.#tail;
  }

  /* ---- how ---- */

  /**
   * Runs work behind the call before it, unless the session or the call has been given up.
   * @template T
   * @param {AbortSignal | undefined} signal
   * @param {(signal: AbortSignal) => Promise<T>} work its signal: of the call and the session
   * @returns {Promise<T>}
   */
  async #inOrder(signal, work) {
    const both = new AbortController();
    const given = new Promise((_, reject) => both.signal.addEventListener('abort', () => reject(abortError(both.signal))));
    for (const one of [this.#life.signal, signal]) {
      if (one?.aborted) both.abort(one.reason);
      one?.addEventListener('abort', () => both.abort(one.reason), { signal: both.signal });
    }
    const before = this.#tail;
    const mine = (async () => {
      await before;
      if (both.signal.aborted) throw abortError(both.signal);
      return work(both.signal);
    })();
    this.#tail = mine.then(nothing, nothing);
    given.catch(nothing);
    try {
      return /** @type {T} */ (await Promise.race([mine, given])); // an abort does not wait for the calls before
    } finally {
      both.abort(); // takes the listeners away
    }
  }

  /** @param {Message[]} added */
  #with(added) {
    const { messages } = this.#state;
    if (messages.length && added[0]?.role === 'system') {
      throw new SkipstoneError('argument', 'a system message must be the first of a session');
    }
    return [...messages, ...added];
  }

  /**
   * @param {Added} added
   * @param {AbortSignal} signal
   * @param {(generation: import('./llm.js').Generation) => (text: string) => void} [listen]
   */
  async #answer({ messages: added, prefix }, signal, listen) {
    const messages = await this.#room(this.#with(added), prefix, signal, true);
    const request = this.#request(messages, prefix, true);
    const generation = this.#inner.generate(request, signal);
    const show = listen?.(generation);
    if (show) for await (const { text } of generation) if (text) show(text);
    const result = await generation.result;
    const { text, finishReason, promptTokens, cachedTokens, timings, endText, held } = result;
    this.#turn = { finishReason, promptTokens, cachedTokens, skipstone: ran(result), timings };
    const prompt = /** @type {string} */ (request.prompt);
    const said = [...messages, { role: 'assistant', content: prefix + text }];
    this.#state =
      endText === undefined
        ? { messages: said, text: prompt, tokens: held.slice(0, promptTokens) }
        : { messages: said, text: prompt + text + endText, tokens: held };
    return text;
  }

  /**
   * Makes room by forgetting the oldest turns, where the session may. For an answer a quarter of the context is kept free,
   * or less where it may not be as long.
   * @param {Message[]} messages @param {string} prefix @param {AbortSignal} signal @param {boolean} answer
   * @returns {Promise<Message[]>}
   */
  async #room(messages, prefix, signal, answer) {
    if (this.#options.onContextFull !== 'drop-oldest') return messages; // the engine refuses what does not fit
    const size = this.contextWindow;
    const room = answer ? Math.min(this.#options.maxTokens ?? size, size >> 2) : 0;
    let fitting = messages;
    for (;;) {
      const used = await this.#inner.call('count', { request: this.#request(fitting, prefix, answer) }, signal);
      const fewer = used + room > size ? withoutOldest(fitting) : undefined;
      if (!fewer) break;
      fitting = fewer;
    }
    if (fitting.length < messages.length) this.dispatchEvent(new Event('contextoverflow'));
    return fitting;
  }

  /** @param {Message[]} messages @param {string} prefix @param {boolean} answer */
  #request(messages, prefix, answer) {
    return this.#requestFor(this.#inner.template(messages, answer) + prefix, messages);
  }

  /** @param {string} prompt @param {Message[]} messages */
  #requestFor(prompt, messages) {
    const { text, tokens } = this.#state;
    const known = tokens.length ? { text, tokens } : undefined;
    return makeRequest({ prompt, bos: false, routeBy: this.#inner.routeBy(messages), owner: this.#owner, known }, this.#options);
  }

  /**
   * Takes over the KV cache that was saved, or computes it where none was. Of `restore` alone.
   * @param {Uint8Array} kv @param {AbortSignal | undefined} signal
   */
  async fill(kv, signal) {
    const { messages, text } = this.#state;
    if (!text) return;
    const request = this.#requestFor(text, messages);
    const args = kv.length ? { bytes: kv, request } : { request };
    this.#state = { messages, text, tokens: await this.#inner.call(kv.length ? 'restore' : 'prefill', args, signal) };
  }
}

const nothing = () => {};

/**
 * @typedef {{messages: Message[], prefix: string}} Added
 *
 * @param {string} call
 * @param {unknown} input
 * @returns {Added}
 */
function messagesOf(call, input) {
  if (typeof input === 'string') return { messages: [{ role: 'user', content: input }], prefix: '' };
  if (!Array.isArray(input) || !input.length) {
    throw new SkipstoneError('argument', `${call}: the input is ${show(input)}, want a string or a non-empty array of messages`);
  }
  let prefix = '';
  const messages = input.map((message, i) => {
    const where = `${call}: message ${i}`;
    check(where, message, MESSAGE);
    const { role, content, prefix: isPrefix } = message;
    if (!role || (role === 'system' && i)) {
      throw new SkipstoneError('argument', `${where}: role is ${show(role)}, want ${i ? '' : 'system, '}user or assistant`);
    }
    if (isPrefix && (role !== 'assistant' || i !== input.length - 1)) {
      throw new SkipstoneError('argument', `${where}: prefix is for the last message, the assistant's`);
    }
    if (isPrefix) prefix = textOf(`${where}.content`, content, 'value');
    return { role, content: textOf(`${where}.content`, content, 'value') };
  });
  if (input.at(-1).prefix) messages.pop();
  return { messages, prefix };
}

/** @type {Record<string, Check>} */
const MESSAGE = { role: oneOf('system', 'user', 'assistant'), content: () => undefined, prefix: oneOf(true, false) };

/**
 * Without the oldest turn: what comes before the second thing that the user says, but for a system message. undefined: there is
 * but one turn.
 * @param {Message[]} messages
 */
function withoutOldest(messages) {
  const first = messages[0]?.role === 'system' ? 1 : 0;
  const next = messages.findIndex(({ role }, i) => i > first && role === 'user');
  return next < 0 ? undefined : [...messages.slice(0, first), ...messages.slice(next)];
}

/**
 * Gives a stream the loop that some browsers' streams lack.
 * @param {ReadableStream<string>} stream
 * @returns {any}
 */
function iterable(stream) {
  if (typeof (/** @type {any} */ (stream)[Symbol.asyncIterator]) === 'function') return stream;
  return Object.assign(stream, {
    async *[Symbol.asyncIterator]() {
      const reader = stream.getReader();
      try {
        for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
      } finally {
        await reader.cancel();
      }
    },
  });
}
