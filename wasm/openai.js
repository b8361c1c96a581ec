/**
 * The face without state, in the OpenAI SDK's form: what its types say of requests and answers holds here. Each answer has
 * two fields more: `skipstone`, what ran, and `timings`.
 *
 * @typedef {object} Skipstone  What ran.
 * @property {number | null} cluster that the prompt was routed to; null: none
 * @property {number | null} distance to its centroid; null: without a cluster
 * @property {number} depth share of the blocks' MACs that the mask runs at least, by the bank's levels; without a bank, what runs
 * @property {number} blocks_run
 * @property {number} blocks_total
 * @property {number} macs_skipped share
 * @property {string} skip the blocks left out, as the option of that name takes them
 *
 * @typedef {object} Usage
 * @property {number} prompt_tokens
 * @property {number} completion_tokens an end token included
 * @property {number} total_tokens
 * @property {{cached_tokens: number}} prompt_tokens_details cached_tokens: of the prompt, that were not computed again
 *
 * @typedef {{token: string, logprob: number, bytes: number[]}} TokenLogprob
 *   bytes: the token's own, where `token` is no whole character
 * @typedef {{content: (TokenLogprob & {top_logprobs: TokenLogprob[]})[], refusal: null}} ChatLogprobs
 * @typedef {{tokens: string[], token_logprobs: number[], top_logprobs: Record<string, number>[],
 *   text_offset: number[]}} CompletionLogprobs
 *
 * @typedef {object} Common
 * @property {string} id
 * @property {number} created seconds
 * @property {string} model
 * @property {string} system_fingerprint equal ones with an equal seed answer equally
 *
 * @typedef {Skipstone & {seed: string, logits_hash: string}} Ran
 *   seed: that was used, as decimal digits; logits_hash: of the logits of the last pick, the same on every machine
 *
 * @typedef {Common & {object: 'chat.completion', choices: {index: 0, finish_reason: 'stop' | 'length',
 *   logprobs: ChatLogprobs | null, message: {role: 'assistant', content: string, refusal: null}}[], usage: Usage, skipstone: Ran,
 *   timings: import('./generate.js').Timings}} ChatCompletion
 *
 * @typedef {Common & {object: 'chat.completion.chunk', choices: {index: 0, finish_reason: 'stop' | 'length' | null,
 *   logprobs: ChatLogprobs | null, delta: {role?: 'assistant', content?: string}}[], usage?: Usage | null,
 *   skipstone?: Skipstone | Ran, timings?: import('./generate.js').Timings}} ChatCompletionChunk
 *   The first chunk has `skipstone` as far as it is known before the first token, the one with the finish_reason all of it and
 *   `timings`.
 *
 * @typedef {Common & {object: 'text_completion', choices: {index: 0, finish_reason: 'stop' | 'length', text: string,
 *   logprobs: CompletionLogprobs | null}[], usage: Usage, skipstone: Ran, timings: import('./generate.js').Timings}} Completion
 *
 * @typedef {Common & {object: 'text_completion', choices: {index: 0, finish_reason: 'stop' | 'length', text: string,
 *   logprobs: CompletionLogprobs | null}[], usage?: Usage, skipstone?: Skipstone | Ran,
 *   timings?: import('./generate.js').Timings}} CompletionChunk
 *   As in the SDK's type, and there as here: finish_reason and usage are null in the chunks before the last.
 *
 * @typedef {{object: 'list', model: string, data: {object: 'embedding', index: number, embedding: number[]}[],
 *   usage: {prompt_tokens: number, total_tokens: number}}} EmbeddingList
 *   embedding: base64 of the floats where encoding_format asks for it, whatever the type says (as in the SDK)
 *
 * @typedef {import('./llm.js').Inner} Inner
 * @typedef {import('./generate.js').Result} Result
 * @typedef {import('./generate.js').Chunk} Chunk
 * @typedef {import('./openai_body.js').ChatBody} ChatBody
 * @typedef {import('./openai_body.js').CompletionBody} CompletionBody
 * @typedef {{signal?: AbortSignal}} CallOptions
 */
import { SkipstoneError } from './errors.js';
import { callSignal, chatBody, completionBody, embeddingBody } from './openai_body.js';
import { makeRequest } from './options.js';

/**
 * An answer that streams. Iterate it once; leaving the loop cancels the answer.
 * @template T
 * @implements {AsyncIterable<T>}
 */
export class Stream {
  #chunks;
  #cancel;
  /** Its `abort()` ends the answer, and the loop with an AbortError. */
  controller;

  /** @param {AsyncGenerator<T, void, void>} chunks @param {AbortController} controller @param {() => void} cancel */
  constructor(chunks, controller, cancel) {
    this.#chunks = chunks;
    this.#cancel = cancel;
    this.controller = controller;
  }

  [Symbol.asyncIterator]() {
    return this.#chunks;
  }

  /** Lines of JSON, as the SDK's `toReadableStream` gives. @returns {ReadableStream<Uint8Array>} */
  toReadableStream() {
    const chunks = this.#chunks;
    const encoder = new TextEncoder();
    return new ReadableStream({
      async pull(stream) {
        const { value, done } = await chunks.next();
        if (done) stream.close();
        else stream.enqueue(encoder.encode(`${JSON.stringify(value)}\n`));
      },
      cancel: () => this.#cancel(),
    });
  }
}

/** What chats and plain prompts have in common. */
class Answers {
  /** @type {Inner} */ inner;

  /** @param {Inner} inner */
  constructor(inner) {
    this.inner = inner;
  }

  /** @param {string} prefix @returns {Common} */
  head(prefix) {
    const { model, version, numerics } = this.inner.info();
    return {
      id: prefix + randomId(),
      created: Math.floor(Date.now() / 1000),
      model: model.name || 'skipstone',
      system_fingerprint: `skipstone-${version}-numerics-${numerics}`,
    };
  }

  /** @param {import('./generate.js').Request} request @param {AbortSignal | undefined} signal */
  async whole(request, signal) {
    const generation = this.inner.generate(request, signal);
    /** @type {Chunk[]} */
    const chunks = [];
    for await (const chunk of generation) chunks.push(chunk);
    return { chunks, result: await generation.result };
  }

  /**
   * Resolves when the prompt is the engine's next.
   * @template {{id: string}} T
   * @template C
   * @param {T} head of each chunk
   * @param {import('./generate.js').Request} request
   * @param {AbortSignal | undefined} signal
   * @param {boolean} usage
   * @param {(part: {chunk?: Chunk, finish?: 'stop' | 'length'}) => C | undefined} choice of a part; of the first, which is empty
   * @returns {Promise<Stream<T & {choices: C[], usage?: Usage | null, skipstone?: Skipstone | Ran,
   *   timings?: import('./generate.js').Timings}>>}
   */
  async stream(head, request, signal, usage, choice) {
    const controller = new AbortController();
    const follow = () => controller.abort(signal?.reason);
    if (signal?.aborted) follow();
    signal?.addEventListener('abort', follow, { once: true });
    const generation = this.inner.generate(request, controller.signal);
    const { mask, route } = await generation.started;
    /** @param {{chunk?: Chunk, finish?: 'stop' | 'length'}} part */
    function* chunkOf(part, more = {}) {
      const only = choice(part);
      if (only) yield { ...head, choices: [only], ...(usage ? { usage: null } : {}), ...more };
    }
    async function* chunks() {
      try {
        yield* chunkOf({}, { skipstone: whatRuns(mask, route) });
        for await (const chunk of generation) yield* chunkOf({ chunk });
        const result = await generation.result;
        yield* chunkOf({ finish: finishReason(result) }, { skipstone: ran(result), timings: result.timings });
        if (usage) yield { ...head, choices: [], usage: usageOf(result) };
      } finally {
        generation.cancel();
        signal?.removeEventListener('abort', follow);
      }
    }
    return new Stream(chunks(), controller, () => generation.cancel());
  }
}

export class ChatCompletions extends Answers {
  /**
   * @overload
   * @param {ChatBody & {stream: true}} body
   * @param {CallOptions} [options]
   * @returns {Promise<Stream<ChatCompletionChunk>>}
   */
  /**
   * @overload
   * @param {ChatBody & {stream?: false | null}} body
   * @param {CallOptions} [options]
   * @returns {Promise<ChatCompletion>}
   */
  /**
   * @overload
   * @param {ChatBody} body
   * @param {CallOptions} [options]
   * @returns {Promise<ChatCompletion | Stream<ChatCompletionChunk>>}
   */
  /**
   * Answers a chat.
   * @param {ChatBody} body
   * @param {CallOptions} [options]
   * @returns {Promise<ChatCompletion | Stream<ChatCompletionChunk>>}
   */
  async create(body, options) {
    const signal = callSignal('chat.completions.create', options);
    const { messages, options: sampling, logprobs, stream, usage } = chatBody(body);
    const { template, routeBy } = this.inner;
    const what = { prompt: template(messages, true), bos: false, routeBy: routeBy(messages), logprobs };
    const request = makeRequest(what, sampling);
    const head = this.head('chatcmpl-');
    if (stream) {
      const object = /** @type {const} */ ('chat.completion.chunk');
      return this.stream({ ...head, object }, request, signal, usage, ({ chunk, finish = null }) => {
        if (chunk && !chunk.text && !chunk.logprobs) return undefined;
        /** @type {ChatCompletionChunk['choices'][0]['delta']} */
        const delta = chunk ? { content: chunk.text } : finish ? {} : { role: 'assistant', content: '' };
        return { index: 0, delta, logprobs: chunk ? chatLogprobs([chunk]) : null, finish_reason: finish };
      });
    }
    const { chunks, result } = await this.whole(request, signal);
    const message = { role: /** @type {const} */ ('assistant'), content: result.text, refusal: null };
    return {
      ...head,
      object: 'chat.completion',
      choices: [{ index: 0, message, logprobs: chatLogprobs(chunks), finish_reason: finishReason(result) }],
      usage: usageOf(result),
      skipstone: ran(result),
      timings: result.timings,
    };
  }
}

export class Completions extends Answers {
  /**
   * @overload
   * @param {CompletionBody & {stream: true}} body
   * @param {CallOptions} [options]
   * @returns {Promise<Stream<CompletionChunk>>}
   */
  /**
   * @overload
   * @param {CompletionBody & {stream?: false | null}} body
   * @param {CallOptions} [options]
   * @returns {Promise<Completion>}
   */
  /**
   * @overload
   * @param {CompletionBody} body
   * @param {CallOptions} [options]
   * @returns {Promise<Completion | Stream<CompletionChunk>>}
   */
  /**
   * Continues a prompt.
   * @param {CompletionBody} body
   * @param {CallOptions} [options]
   * @returns {Promise<Completion | Stream<CompletionChunk>>}
   */
  async create(body, options) {
    const signal = callSignal('completions.create', options);
    const { prompt, options: sampling, logprobs, stream, usage } = completionBody(body);
    const request = makeRequest({ prompt, bos: typeof prompt === 'string', logprobs }, sampling);
    const head = { ...this.head('cmpl-'), object: /** @type {const} */ ('text_completion') };
    if (stream) {
      let offset = 0;
      /** @type {Stream<any>} */
      const chunks = await this.stream(head, request, signal, usage, ({ chunk, finish = null }) => {
        if (chunk && !chunk.text && !chunk.logprobs) return undefined;
        const at = offset;
        offset += chunk?.text.length ?? 0;
        const logs = chunk ? completionLogprobs([chunk], at) : null;
        return { index: 0, text: chunk?.text ?? '', logprobs: logs, finish_reason: finish };
      });
      return chunks;
    }
    const { chunks, result } = await this.whole(request, signal);
    return {
      ...head,
      choices: [{ index: 0, text: result.text, logprobs: completionLogprobs(chunks, 0), finish_reason: finishReason(result) }],
      usage: usageOf(result),
      skipstone: ran(result),
      timings: result.timings,
    };
  }
}

export class Embeddings {
  #inner;

  /** @param {Inner} inner */
  constructor(inner) {
    this.#inner = inner;
  }

  /**
   * Sentence embeddings, vectors of unit length.
   * @param {import('./openai_body.js').EmbeddingBody} body
   * @param {CallOptions} [options]
   * @returns {Promise<EmbeddingList>}
   */
  async create(body, options) {
    const signal = callSignal('embeddings.create', options);
    const { texts, base64, dimensions } = embeddingBody(body);
    /** @type {{embedding: Float32Array<ArrayBuffer>, tokens: number}[]} */
    const vectors = await this.#inner.call('embed', { texts }, signal);
    const { length } = vectors[0].embedding;
    if (dimensions !== undefined && dimensions !== length) {
      throw new SkipstoneError('argument', `embeddings.create: dimensions is ${dimensions}, the encoder has ${length}`);
    }
    const { model, bank } = this.#inner.info();
    const tokens = vectors.reduce((sum, vector) => sum + vector.tokens, 0);
    return {
      object: 'list',
      model: (bank?.encoder.kind !== 'self' && bank?.encoder.name) || model.name || 'skipstone',
      data: vectors.map(({ embedding }, index) => ({
        object: 'embedding',
        index,
        embedding: base64 ? /** @type {any} */ (toBase64(new Uint8Array(embedding.buffer))) : Array.from(embedding),
      })),
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    };
  }
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID is for secure contexts alone
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @param {Result} result @returns {'stop' | 'length'} */
const finishReason = ({ finishReason: reason }) => (reason === 'length' ? 'length' : 'stop');

/** @param {Result} result @returns {Usage} */
const usageOf = ({ promptTokens, cachedTokens, tokens }) => ({
  prompt_tokens: promptTokens,
  completion_tokens: tokens.length,
  total_tokens: promptTokens + tokens.length,
  prompt_tokens_details: { cached_tokens: cachedTokens },
});

/** @param {import('./generate.js').MaskReport} mask @param {import('./generate.js').Route | null} route @returns {Skipstone} */
const whatRuns = (mask, route) => ({
  cluster: route?.cluster ?? null,
  distance: route && route.cluster !== null ? route.distance : null,
  depth: route?.depth ?? 1 - mask.macsSkipped,
  blocks_run: mask.blocksRun,
  blocks_total: mask.blocksTotal,
  macs_skipped: mask.macsSkipped,
  skip: mask.skip,
});

/** @param {Result} result @returns {Ran} */
export const ran = ({ mask, route, seed, logitsHash }) => ({ ...whatRuns(mask, route), seed: String(seed), logits_hash: logitsHash });

/** @param {import('./generate.js').Likelihood} likelihood @returns {TokenLogprob} */
const tokenLogprob = ({ text, logprob, bytes }) => ({ token: text, logprob, bytes: Array.from(bytes) });

/** @param {Chunk[]} chunks @returns {ChatLogprobs | null} null: nobody asked */
function chatLogprobs(chunks) {
  const content = chunks.flatMap(({ logprobs }) =>
    logprobs ? [{ ...tokenLogprob(logprobs), top_logprobs: logprobs.top.map(tokenLogprob) }] : [],
  );
  return content.length ? { content, refusal: null } : null;
}

/** @param {Chunk[]} chunks @param {number} offset of their text in the answer's @returns {CompletionLogprobs | null} */
function completionLogprobs(chunks, offset) {
  /** @type {CompletionLogprobs} */
  const all = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
  for (const { text, logprobs } of chunks) {
    if (logprobs) {
      all.tokens.push(logprobs.text);
      all.token_logprobs.push(logprobs.logprob);
      all.top_logprobs.push(Object.fromEntries(logprobs.top.map((other) => [other.text, other.logprob])));
      all.text_offset.push(offset);
    }
    offset += text.length;
  }
  return all.tokens.length ? all : null;
}
