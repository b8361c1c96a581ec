/**
 * What `load` gives. It lives on the caller's thread and only passes messages; the engine is in a worker, or in place where
 * there are none. The two faces stand on it: openai.js (no state) and session.js (chat sessions).
 */
import { parseAccess, parseModel, parsePlace } from '../store/parse.js';
import { abortError, FATAL_CODES, fromWire, SkipstoneError } from './errors.js';
import { ChatCompletions, Completions, Embeddings } from './openai.js';
import { checkGenerateOptions, checkLoadOptions, makeRequest, skipText } from './options.js';
import { hasWorkers, runInPlace, spawn } from './platform.js';
import { SessionMaker } from './session.js';
import { ChatTemplate } from './template.js';

const DEFAULT_DEPTH = 0.875;
const DEFAULT_SESSIONS = 4;
const DEFAULT_QUEUE = 64;
const CLOSE_MS = 1000;

/**
 * @typedef {import('./options.js').LoadOptions} LoadOptions
 * @typedef {import('./options.js').GenerateOptions} GenerateOptions
 * @typedef {import('./template.js').Message} Message
 * @typedef {import('./generate.js').Chunk} Chunk
 * @typedef {import('./generate.js').Result} Result
 * @typedef {string | {messages: Message[]} | ArrayLike<number>} Prompt
 *   Text as it is, a chat for the model's template, or tokens.
 *
 * @typedef {object} Info
 * @property {string} version
 * @property {number} numerics the numerics version: equal numbers, equal logits
 * @property {number} layout
 * @property {import('./loader.js').ModuleInfo} module variant, threads, and why not more
 * @property {import('./engine.js').ModelInfo} model
 * @property {{size: number, kvBytes: number}} context
 * @property {import('./generate.js').MaskReport} mask of calls without a bank or a skip of their own
 * @property {import('./loading.js').LoadedBank | null} bank
 * @property {string} bankReason which bank it is, or why there is none
 * @property {number} depth of prompts that ask for none; measured where the option was not a number
 * @property {{family: string, exact: string}} fingerprint exact: '' while tensors are missing
 * @property {import('./weights.js').Download} download what came from where, and what was saved
 * @property {{bytes: number, used: number, peak: number, maximum: number}} memory of the wasm instance
 * @property {LoadTimings} timings
 *
 * @typedef {object} LoadTimings  Milliseconds.
 * @property {number} open_ms finding the file: the hub's list
 * @property {number} module_ms the wasm module and its threads
 * @property {number} weights_ms fetching, checking and repacking what had to be there first
 * @property {number} bank_ms
 * @property {number} warmup_ms measuring, where the depth asks for it
 * @property {number} load_ms from the worker's start until prompts can be taken
 * @property {number} complete_ms until all that is needed was there; 0: not yet
 *
 * @typedef {object} Inner  What the two faces see of an Llm.
 * @property {() => Info} info
 * @property {() => Error | undefined} ended
 * @property {(messages: Message[], generationPrompt: boolean) => string} template
 * @property {(messages: Message[]) => string | undefined} routeBy
 * @property {(request: import('./generate.js').Request, signal?: AbortSignal) => Generation} generate
 * @property {(call: string, args: object, signal?: AbortSignal) => Promise<any>} call
 * @property {(message: object) => void} post
 *
 * @typedef {object} Pending
 * @property {(value: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(start: any) => void} [onStart]
 * @property {(chunk: any) => void} [onChunk]
 * @property {(progress: any) => void} [onProgress]
 */

/** The worker and the calls that wait for it. */
class Client {
  /** @type {import('./platform.js').Spawned} */ #worker;
  /** @type {Map<number, Pending>} */ #pending = new Map();
  /** @type {Error | undefined} */ #dead;
  #maxQueue;
  #nextId = 1;
  /** @type {(memory: any) => void} */ onMemory = () => {};
  /** @type {(status: any, error?: Error) => void} */ onStatus = () => {};

  /**
   * @param {import('./platform.js').WorkerFile} worker
   * @param {{inPlace: boolean, maxQueue: number}} options
   */
  constructor(worker, { inPlace, maxQueue }) {
    this.#maxQueue = maxQueue;
    /** @type {any[]} */
    let waiting = [];
    /** @type {(message: any) => void} */
    this.post = (message) => void waiting.push(message);
    /** @type {import('./platform.js').SpawnEvents} */
    const events = {
      onMessage: (message) => {
        if (message.type === 'ready') {
          this.#ready = true;
          this.post = (next) => this.#worker.post(next);
          waiting.forEach((early) => this.post(early));
          waiting = [];
        } else if (message.type === 'dead') {
          void this.end(fromWire(message.error));
        } else if (message.type === 'closed') {
          this.#onClosed();
        } else if (message.type === 'status') {
          this.onMemory(message.memory);
          this.fetching = false;
          this.onStatus(message.status, message.error && fromWire(message.error));
        } else {
          this.#receive(message);
        }
      },
      onEnd: (reason) => {
        this.#ready = false;
        void this.end(new SkipstoneError('worker_crashed', `the engine's worker crashed: ${reason}`));
      },
    };
    if (inPlace && !worker.serve) throw new SkipstoneError('unsupported', 'load: worker is false, but workerUrl names a worker');
    this.#worker = inPlace && worker.serve ? runInPlace(worker.serve, events) : spawn(worker, 'skipstone engine', events);
  }

  /** @param {any} message */
  #receive({ id, value, error, start, chunk, progress, memory }) {
    const pending = this.#pending.get(id);
    if (memory) this.onMemory(memory);
    if (!pending) return; // aborted meanwhile
    if (start) return pending.onStart?.(start);
    if (chunk) return pending.onChunk?.(chunk);
    if (progress) return pending.onProgress?.(progress);
    this.#settle(id);
    if (error) pending.reject(fromWire(error));
    else pending.resolve(value);
  }

  /** @param {number} id */
  #settle(id) {
    this.#pending.delete(id);
    this.#stay();
  }

  /** A process must not end while calls wait, nor while tensors are still coming. */
  #stay() {
    this.#worker.keepAlive(this.#pending.size > 0 || this.#fetching);
  }

  /** @param {boolean} fetching tensors that a load left to come */
  set fetching(fetching) {
    this.#fetching = fetching;
    if (!this.#dead) this.#stay();
  }
  #fetching = false;

  /**
   * @param {string} call
   * @param {object} args
   * @param {{signal?: AbortSignal} & Pick<Pending, 'onStart' | 'onChunk' | 'onProgress'>} [listeners]
   * @returns {{id: number, done: Promise<any>}}
   */
  call(call, args, { signal, ...listeners } = {}) {
    const id = this.#nextId++;
    const done = new Promise((resolve, reject) => {
      if (this.#dead) throw this.#dead;
      if (signal?.aborted) throw abortError(signal);
      if (this.#pending.size > this.#maxQueue) {
        throw new SkipstoneError('queue_full', `${this.#pending.size - 1} calls wait already: maxQueue is ${this.#maxQueue}`);
      }
      const abort = () => {
        this.interrupt(id, 'abort');
        this.#settle(id);
        settled();
        reject(abortError(signal));
      };
      const settled = () => signal?.removeEventListener('abort', abort);
      signal?.addEventListener('abort', abort, { once: true });
      this.#pending.set(id, {
        resolve: (value) => (settled(), resolve(value)),
        reject: (error) => (settled(), reject(error)),
        ...listeners,
      });
      this.#stay();
      this.post({ id, call, ...args });
    });
    return { id, done };
  }

  /** @param {number} id @param {'abort' | 'cancel'} how */
  interrupt(id, how) {
    if (this.#pending.has(id)) this.post({ call: 'interrupt', id, how });
  }

  get pendingCalls() {
    return this.#pending.size;
  }

  /** Why it ended. */
  get ended() {
    return this.#dead;
  }

  /** Ends the worker; what is pending and what comes later rejects with `error`. @param {Error} error */
  async end(error) {
    if (!this.#dead) {
      this.#dead = error;
      for (const { reject } of [...this.#pending.values()]) reject(error);
      this.#pending.clear();
      this.onStatus({}, error);
      this.#ended = this.#close();
    }
    await this.#ended;
  }

  /** Gives the worker a moment to let go of its files, so that another load finds them free. */
  async #close() {
    if (this.#ready) {
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let timer;
      await new Promise((resolve) => {
        timer = setTimeout(resolve, CLOSE_MS);
        this.#onClosed = () => resolve(undefined);
        this.post({ call: 'close' });
      });
      clearTimeout(timer);
    }
    await this.#worker.terminate();
  }
  #ready = false;
  #onClosed = () => {};
  /** @type {Promise<void> | undefined} */ #ended;
}

/**
 * An answer in the making. Iterate it for the text as it comes, and await `result` for the whole; leaving the loop
 * cancels it. It runs from the call on, iterated or not.
 *
 * @implements {AsyncIterable<Chunk>}
 */
export class Generation {
  /** @type {Chunk[]} */ #chunks = [];
  /** @type {(() => void)[]} */ #wakers = [];
  /** @type {{error?: unknown} | undefined} */ #end;
  #cancel;

  /**
   * @param {(listeners: Pick<Pending, 'onStart' | 'onChunk'>) => {done: Promise<Result>, cancel: () => void}} start
   */
  constructor(start) {
    /** @type {(start: import('./generate.js').Start) => void} */
    let onStart = () => {};
    const started = new Promise((/** @type {(start: import('./generate.js').Start) => void} */ resolve) => (onStart = resolve));
    const { done, cancel } = start({
      onStart,
      onChunk: (chunk) => {
        this.#chunks.push(chunk);
        this.#wake();
      },
    });
    this.#cancel = cancel;
    /** What is known when it begins: the route, the mask, what of the prompt is cached. Rejects as the loop does. */
    this.started = Promise.race([started, done]);
    this.started.catch(() => {}); // who does not ask for it learns it from the result
    /** The whole answer. Rejects as the loop does. @type {Promise<Result>} */
    this.result = done;
    done.then(
      () => this.#finish({}),
      (error) => this.#finish({ error }),
    );
  }

  /** @param {{error?: unknown}} end */
  #finish(end) {
    this.#end = end;
    this.#wake();
  }

  #wake() {
    this.#wakers.splice(0).forEach((wake) => wake());
  }

  /** Ends the answer where it is: `result` has what there is and the reason 'cancelled'. */
  cancel() {
    this.#cancel();
  }

  /** @returns {AsyncGenerator<Chunk, void, void>} */
  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        const chunk = this.#chunks.shift();
        if (chunk) yield chunk;
        else if (this.#end) break;
        else await new Promise((resolve) => this.#wakers.push(() => resolve(undefined)));
      }
      if (this.#end && 'error' in this.#end) throw this.#end.error;
    } finally {
      if (!this.#end) this.cancel();
    }
  }
}

export class Llm {
  #client;
  #info;
  #template;
  #policy;
  /**
   * Resolves when all that the masks need is there; `load` resolves before, as soon as prompts can be taken. Rejects when it
   * cannot be had: prompts that need it then try again.
   * @type {Promise<void>}
   */
  complete;

  /** @param {Client} client @param {any} loaded */
  constructor(client, loaded) {
    const { special, template, policy, ...info } = loaded;
    this.#policy = policy;
    this.#client = client;
    /** @type {Info} */
    this.#info = info;
    this.#template = { source: template, special, chat: /** @type {ChatTemplate | undefined} */ (undefined) };
    client.onMemory = (memory) => (this.#info.memory = memory);
    this.complete = new Promise((resolve, reject) => {
      if (this.#info.download.complete) resolve();
      else client.fetching = true;
      client.onStatus = (status, error) => {
        Object.assign(this.#info, status);
        if (error) reject(error);
        else resolve();
      };
    });
    this.complete.catch(() => {}); // who does not wait for it learns it from the prompt that needs what is missing

    /** @type {Inner} */
    const inner = {
      info: () => this.#info,
      ended: () => this.#client.ended,
      template: (messages, generationPrompt) => this.chatTemplate(messages, { addGenerationPrompt: generationPrompt }),
      routeBy: (messages) => userText(messages, this.#policy),
      generate: (request, signal) => this.#run(request, signal),
      call: (call, args, signal) => this.#fatal(this.#client.call(call, args, { signal }).done),
      post: (message) => this.#client.post(message),
    };
    /** The OpenAI SDK's `chat`: `chat.completions.create(body, {signal})`. */
    this.chat = { completions: new ChatCompletions(inner) };
    /** The OpenAI SDK's `completions`, for prompts that are no chat. */
    this.completions = new Completions(inner);
    /** The OpenAI SDK's `embeddings`, by the sentence encoder of the bank, or `self`. */
    this.embeddings = new Embeddings(inner);
    /** Chat sessions by the names of the browser's own Prompt API: `availability`, `create`; and `restore`. */
    this.languageModel = new SessionMaker(inner);
  }

  /**
   * @param {import('./platform.js').WorkerFile} worker unless the options name another
   * @param {import('../store/parse.js').ModelName} name of the model
   * @param {LoadOptions} options
   * @param {(text: string) => import('../store/parse.js').Place | undefined} [path] what a string is that is no address
   */
  static async load(worker, name, options, path = () => undefined) {
    checkLoadOptions(options);
    const { threads, variant, sharedMemory, wasmUrl, contextSize = 0, skip = '', onProgress, signal, partial = true } = options;
    const { depth = DEFAULT_DEPTH, policy = 'session' } = options;
    const source = parseModel('source', name, path);
    const bank = !options.bank ? undefined : options.bank === 'auto' ? 'auto' : parsePlace('bank', options.bank, path);
    const encoder = options.encoder && parsePlace('encoder', options.encoder, path);
    const { maxSessions = DEFAULT_SESSIONS, maxQueue = DEFAULT_QUEUE, worker: wanted = hasWorkers } = options;
    if (bank === undefined) {
      for (const [name, value] of Object.entries({ encoder, depth: options.depth, policy: options.policy })) {
        if (value !== undefined) throw new SkipstoneError('argument', `load: ${name} needs the option bank`);
      }
    }
    if (signal?.aborted) throw abortError(signal);
    const access = await parseAccess(options);
    if (signal?.aborted) throw abortError(signal);
    const inPlace = !wanted;
    const client = new Client(options.workerUrl === undefined ? worker : { url: options.workerUrl }, { inPlace, maxQueue });
    /** @type {any} */
    let memory;
    client.onMemory = (m) => (memory = m);
    try {
      const module = { threads, variant, sharedMemory, inPlace, wasmUrl };
      const args = { source, module, contextSize, skip: skipText(skip), bank, encoder, depth, partial, access, maxSessions };
      const loaded = await client.call('load', args, { signal, onProgress }).done;
      return new Llm(client, { ...loaded, policy, memory });
    } catch (error) {
      await client.end(error instanceof Error ? error : new SkipstoneError('internal', String(error)));
      throw error;
    }
  }

  /** What runs, how and why. A copy. @returns {Info} */
  get info() {
    return structuredClone(this.#info);
  }

  /** Calls that run or wait. */
  get pendingCalls() {
    return this.#client.pendingCalls;
  }

  /** Why there is no engine any more: it was freed, or crashed. undefined: there is one. @returns {Error | undefined} */
  get ended() {
    return this.#client.ended;
  }

  /**
   * Continues a prompt, or answers a chat: the call that the faces stand on. Calls run one after the other.
   * @param {Prompt} prompt
   * @param {GenerateOptions} [options]
   * @returns {Generation}
   */
  generate(prompt, options = {}) {
    checkGenerateOptions(options);
    return this.#run(makeRequest(this.#prompt(prompt), options), options.signal);
  }

  /** @param {import('./generate.js').Request} request @param {AbortSignal} [signal] */
  #run(request, signal) {
    return new Generation((listeners) => {
      const { id, done } = this.#client.call('generate', { request }, { signal, ...listeners });
      return { done: this.#fatal(done), cancel: () => this.#client.interrupt(id, 'cancel') };
    });
  }

  /** @param {Prompt} prompt */
  #prompt(prompt) {
    if (typeof prompt === 'string') return { prompt, bos: true };
    if (typeof prompt === 'object' && prompt !== null && 'messages' in prompt) {
      const extra = Object.keys(prompt).filter((key) => key !== 'messages');
      if (extra.length) throw new SkipstoneError('argument', `generate: unknown '${extra[0]}' beside messages`);
      // a template writes its own BOS
      return { prompt: this.chatTemplate(prompt.messages), bos: false, routeBy: userText(prompt.messages, this.#policy) };
    }
    return { prompt: tokenList('generate', prompt), bos: false };
  }

  /**
   * The chat as the text that the model was trained on.
   * @param {Message[]} messages
   * @param {{addGenerationPrompt?: boolean, [variable: string]: unknown}} [options] more variables for the template
   */
  chatTemplate(messages, { addGenerationPrompt = true, ...variables } = {}) {
    this.#template.chat ??= new ChatTemplate(this.#template.source, this.#template.special);
    return this.#template.chat.render(messages, { add_generation_prompt: addGenerationPrompt, ...variables });
  }

  /**
   * @param {string} text
   * @param {{special?: boolean, bos?: boolean}} [options] special: text like <|im_end|> becomes its token (default true);
   *   bos: a BOS token in front where the model wants one (default false)
   * @returns {Promise<number[]>}
   */
  async tokenize(text, { special = true, bos = false, ...unknown } = {}) {
    if (typeof text !== 'string') throw new SkipstoneError('argument', `tokenize: the text is ${typeof text}, want a string`);
    for (const name in unknown) throw new SkipstoneError('argument', `tokenize: unknown option '${name}'; there are special, bos`);
    return Array.from(await this.#fatal(this.#client.call('tokenize', { text, special, bos }).done));
  }

  /**
   * The text of tokens; special ones have none.
   * @param {ArrayLike<number>} tokens
   * @returns {Promise<string>}
   */
  async detokenize(tokens) {
    return this.#fatal(this.#client.call('detokenize', { tokens: tokenList('detokenize', tokens) }).done);
  }

  /**
   * Where the bank sends a text, and the mask that it would run with.
   * @param {string} text
   * @param {{depth?: number}} [options]
   * @returns {Promise<import('./generate.js').Route & {mask: import('./generate.js').MaskReport}>}
   */
  async route(text, { depth, ...unknown } = {}) {
    if (typeof text !== 'string') throw new SkipstoneError('argument', `route: the text is ${typeof text}, want a string`);
    for (const name in unknown) throw new SkipstoneError('argument', `route: unknown option '${name}'; there is depth`);
    checkGenerateOptions({ depth });
    return this.#fatal(this.#client.call('route', { text, depth }).done);
  }

  /**
   * The text as a vector of unit length, by the sentence encoder of the bank, or `self`.
   * @param {string} text
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Float32Array>}
   */
  async embed(text, { signal, ...unknown } = {}) {
    if (typeof text !== 'string') throw new SkipstoneError('argument', `embed: the text is ${typeof text}, want a string`);
    for (const name in unknown) throw new SkipstoneError('argument', `embed: unknown option '${name}'; there is signal`);
    const [{ embedding }] = await this.#fatal(this.#client.call('embed', { texts: [text] }, { signal }).done);
    return embedding;
  }

  /** The same as `languageModel.create`. @param {import('./session.js').SessionOptions} [options] */
  createSession(options) {
    return this.languageModel.create(options);
  }

  /** Ends the engine and gives its memory back. What is pending rejects; so do later calls, and a second `free` does nothing. */
  async free() {
    await this.#client.end(new SkipstoneError('freed', 'the model was freed'));
  }

  async [Symbol.asyncDispose]() {
    await this.free();
  }

  /**
   * After a trap nothing of the engine can be trusted: it goes, and all that waits for it.
   * @template T @param {Promise<T>} done @returns {Promise<T>}
   */
  #fatal(done) {
    done.catch((error) => {
      if (error instanceof SkipstoneError && FATAL_CODES.has(error.code)) void this.#client.end(error);
    });
    return done;
  }
}

/**
 * What `canRun` of the entries does: a worker of its own, which is gone afterwards.
 * @param {import('./platform.js').WorkerFile} worker
 * @param {import('../store/parse.js').ModelName} name
 * @param {LoadOptions} options
 * @param {(text: string) => import('../store/parse.js').Place | undefined} path
 * @returns {Promise<import('./can_run.js').Verdict>}
 */
export async function canRun(worker, name, options, path) {
  checkLoadOptions(options);
  const { threads, variant, sharedMemory, wasmUrl, contextSize = 0, skip = '', signal, worker: wanted = hasWorkers } = options;
  const source = parseModel('source', name, path);
  const access = await parseAccess(options);
  if (signal?.aborted) throw abortError(signal);
  const inPlace = !wanted;
  const client = new Client(options.workerUrl === undefined ? worker : { url: options.workerUrl }, { inPlace, maxQueue: 0 });
  try {
    const module = { threads, variant, sharedMemory, inPlace, wasmUrl };
    const args = { source, access, module, contextSize, skip: skipText(skip), bank: options.bank ? 'auto' : undefined };
    return await client.call('canRun', args, { signal }).done;
  } finally {
    await client.end(new SkipstoneError('freed', 'canRun is done'));
  }
}

/**
 * What a chat is routed by: the first thing that the user said (the mask then holds for the whole session), or the last.
 * @param {Message[]} messages
 * @param {'session' | 'turn'} policy
 */
function userText(messages, policy) {
  const texts = messages.filter(({ role }) => role === 'user').map(({ content }) => content);
  return texts.at(policy === 'turn' ? -1 : 0);
}

/** @param {string} call @param {any} tokens */
function tokenList(call, tokens) {
  const list = typeof tokens === 'object' && tokens !== null && typeof tokens.length === 'number' ? Array.from(tokens) : undefined;
  if (!list) throw new SkipstoneError('argument', `${call}: want text, {messages} or tokens, got ${JSON.stringify(tokens)}`);
  const bad = list.findIndex((token) => !Number.isInteger(token) || token < 0 || token > 0x7fffffff);
  if (bad >= 0) throw new SkipstoneError('argument', `${call}: token ${bad} is ${JSON.stringify(list[bad])}, want a whole number`);
  return Int32Array.from(list);
}
