/**
 * Requests of the OpenAI SDK's form. A field that would change the answer and is not supported is an error that names it;
 * one that cannot (user, metadata, store) passes. null is the default, as there.
 *
 * @typedef {object} TextPart
 * @property {string} type 'text'; other kinds are an error
 * @property {string} [text]
 *
 * @typedef {object} ChatMessage
 * @property {string} role system, developer (the same here), user or assistant
 * @property {string | null | readonly TextPart[]} [content]
 *
 * @typedef {object} SamplingBody  Defaults are those of `generate`: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05.
 * @property {string | null} [model] passes: the loaded model answers
 * @property {boolean | null} [stream]
 * @property {{include_usage?: boolean, include_obfuscation?: boolean} | null} [stream_options] include_usage: a last chunk
 *   without choices has the usage
 * @property {number | null} [max_tokens] default: until the context is full
 * @property {string | readonly string[] | null} [stop]
 * @property {number | null} [seed] default: random; the answer says which
 * @property {number | null} [temperature]
 * @property {number | null} [top_p]
 * @property {number | null} [top_k]
 * @property {number | null} [min_p]
 * @property {number | null} [frequency_penalty] over the last 64 tokens, those of the prompt included, as all penalties
 * @property {number | null} [presence_penalty]
 * @property {number | null} [repetition_penalty]
 * @property {number | null} [n] 1
 * @property {string} [user] passes
 * @property {import('./options.js').Skip} [skip] blocks to skip, whatever the bank says
 * @property {number} [depth] share of the blocks' MACs to run at least
 *
 * @typedef {SamplingBody & {messages: readonly ChatMessage[], logprobs?: boolean | null, top_logprobs?: number | null,
 *   max_completion_tokens?: number | null} & Passing} ChatBody
 *
 * @typedef {{metadata?: unknown, store?: unknown, service_tier?: unknown, safety_identifier?: unknown, prompt_cache_key?: unknown,
 *   prompt_cache_options?: unknown, prompt_cache_retention?: unknown, parallel_tool_calls?: unknown, prediction?: unknown}} Passing
 *   What cannot change an answer here.
 *
 * @typedef {SamplingBody & {prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[] | null,
 *   logprobs?: number | null}} CompletionBody
 *   prompt: one, as text or tokens
 *
 * @typedef {object} EmbeddingBody
 * @property {string | readonly string[] | readonly number[] | readonly (readonly number[])[]} input a text or texts; the first 256
 *   tokens count
 * @property {string} [model] passes
 * @property {'float' | 'base64'} [encoding_format]
 * @property {number} [dimensions] those that the encoder has
 * @property {string} [user]
 */
import { SkipstoneError } from './errors.js';
import { check, GENERATE, isSignal, oneOf, show, whole } from './options.js';

/** @typedef {import('./options.js').Check} Check */

const passes = () => undefined;
/** @type {Check} */
const isEmpty = (value) =>
  typeof value === 'object' && Object.keys(value).length === 0 ? undefined : 'nothing: this is not supported';
const never = () => 'nothing: this is not supported';
/** @type {Check} */
const isUsage = (value) => {
  const known = ['include_usage', 'include_obfuscation'];
  const flags = typeof value === 'object' ? Object.entries(value) : [['', value]];
  return flags.every(([key, flag]) => known.includes(key) && typeof flag === 'boolean') ? undefined : '{include_usage: true}';
};

/** @type {Record<string, Check>} */
const SAMPLING = {
  model: passes,
  stream: oneOf(true, false),
  stream_options: isUsage,
  max_tokens: GENERATE.maxTokens,
  stop: GENERATE.stop,
  seed: (value) => (Number.isSafeInteger(value) ? undefined : 'a whole number'),
  temperature: GENERATE.temperature,
  top_p: GENERATE.topP,
  top_k: GENERATE.topK,
  min_p: GENERATE.minP,
  frequency_penalty: GENERATE.frequencyPenalty,
  presence_penalty: GENERATE.presencePenalty,
  repetition_penalty: GENERATE.repetitionPenalty,
  n: oneOf(1),
  logit_bias: isEmpty,
  skip: GENERATE.skip,
  depth: GENERATE.depth,
  user: passes,
};

/** @type {Record<string, Check>} */
const CHAT = {
  messages: passes, // chatMessages() looks at them
  ...SAMPLING,
  max_completion_tokens: GENERATE.maxTokens,
  logprobs: oneOf(true, false),
  top_logprobs: whole(0, 20),
  response_format: (value) => (value?.type === 'text' ? undefined : "{type: 'text'}"),
  modalities: (value) => (Array.isArray(value) && value.every((kind) => kind === 'text') ? undefined : "['text']"),
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: oneOf('none', 'auto'),
  function_call: oneOf('none', 'auto'),
  audio: never,
  moderation: never,
  reasoning_effort: oneOf('none'),
  verbosity: never,
  web_search_options: never,
  parallel_tool_calls: passes,
  prediction: passes,
  metadata: passes,
  store: passes,
  service_tier: passes,
  safety_identifier: passes,
  prompt_cache_key: passes,
  prompt_cache_options: passes,
  prompt_cache_retention: passes,
};

/** @type {Record<string, Check>} */
const COMPLETION = {
  prompt: passes, // onePrompt() looks at it
  ...SAMPLING,
  logprobs: whole(0, 20),
  best_of: oneOf(1),
  echo: oneOf(false),
  suffix: never,
};

/** @type {Record<string, Check>} */
const EMBEDDING = {
  input: passes, // texts() looks at it
  model: passes,
  encoding_format: oneOf('float', 'base64'),
  dimensions: whole(1, 2 ** 31 - 1),
  user: passes,
};

/**
 * Checks a body and leaves out what is null.
 * @template {object} T
 * @param {string} call @param {T} body @param {Record<string, Check>} known
 * @returns {T}
 */
function given(call, body, known) {
  const isObject = typeof body === 'object' && body !== null;
  const left = isObject ? Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null && value !== undefined)) : body;
  check(call, left, known);
  return /** @type {T} */ (left);
}

/**
 * @param {string} call
 * @param {SamplingBody} body that was checked
 * @param {number | null} [maxTokens]
 * @returns {import('./options.js').GenerateOptions}
 */
function options(call, body, maxTokens = body.max_tokens) {
  const { stop, seed, temperature, top_p, top_k, min_p, skip, depth } = body;
  const { frequency_penalty, presence_penalty, repetition_penalty } = body;
  if (body.stream_options && !body.stream) throw new SkipstoneError('argument', `${call}: stream_options needs stream: true`);
  return {
    maxTokens: maxTokens ?? undefined,
    stop: stop === null || stop === undefined ? undefined : typeof stop === 'string' ? stop : [...stop],
    seed: typeof seed === 'number' ? BigInt.asUintN(64, BigInt(seed)) : undefined,
    temperature: temperature ?? undefined,
    topP: top_p ?? undefined,
    topK: top_k ?? undefined,
    minP: min_p ?? undefined,
    frequencyPenalty: frequency_penalty ?? undefined,
    presencePenalty: presence_penalty ?? undefined,
    repetitionPenalty: repetition_penalty ?? undefined,
    skip,
    depth,
  };
}

/**
 * @param {ChatBody} body
 * @returns {{messages: import('./template.js').Message[], options: import('./options.js').GenerateOptions,
 *   logprobs: number | undefined, stream: boolean, usage: boolean}}
 *   logprobs: how many of the most likely tokens; undefined: none
 */
export function chatBody(body) {
  const call = 'chat.completions.create';
  const b = given(call, body, CHAT);
  if (b.top_logprobs && !b.logprobs) throw new SkipstoneError('argument', `${call}: top_logprobs needs logprobs: true`);
  return {
    messages: chatMessages(call, b.messages),
    options: options(call, b, b.max_completion_tokens ?? b.max_tokens),
    logprobs: b.logprobs ? (b.top_logprobs ?? 0) : undefined,
    stream: b.stream === true,
    usage: b.stream_options?.include_usage === true,
  };
}

/** @param {CompletionBody} body */
export function completionBody(body) {
  const call = 'completions.create';
  const b = given(call, body, COMPLETION);
  return {
    prompt: onePrompt(call, b.prompt),
    options: options(call, b),
    logprobs: b.logprobs ?? undefined,
    stream: b.stream === true,
    usage: b.stream_options?.include_usage === true,
  };
}

/** @param {EmbeddingBody} body */
export function embeddingBody(body) {
  const call = 'embeddings.create';
  const b = given(call, body, EMBEDDING);
  const texts = typeof b.input === 'string' ? [b.input] : b.input;
  if (!Array.isArray(texts) || !texts.length || !texts.every((text) => typeof text === 'string')) {
    throw new SkipstoneError('argument', `${call}: input is ${show(b.input)}, want a text or an array of texts`);
  }
  return { texts: /** @type {string[]} */ (texts), base64: b.encoding_format === 'base64', dimensions: b.dimensions };
}

/** @param {string} call @param {unknown} prompt @returns {string | Int32Array} */
function onePrompt(call, prompt) {
  const only = Array.isArray(prompt) && prompt.length === 1 && typeof prompt[0] !== 'number' ? prompt[0] : prompt;
  if (typeof only === 'string') return only;
  const isToken = (/** @type {unknown} */ token) => whole(0, 0x7fffffff)(token) === undefined;
  if (!Array.isArray(only) || !only.length || !only.every(isToken)) throw new SkipstoneError('argument', `${call}: prompt is ${show(prompt)}, want one text or the tokens of one`);
  return Int32Array.from(only);
}

const ROLES = ['system', 'developer', 'user', 'assistant'];
/** Fields that say nothing when they are null or empty. @type {Record<string, Check>} */
const MESSAGE = {
  role: oneOf(...ROLES),
  content: passes,
  name: never,
  refusal: never,
  audio: never,
  function_call: never,
  tool_calls: isEmpty,
  annotations: isEmpty,
};

/** Messages with their content as one text. @param {string} call @param {unknown} messages */
function chatMessages(call, messages) {
  if (!Array.isArray(messages) || !messages.length) {
    throw new SkipstoneError('argument', `${call}: messages is ${show(messages)}, want a non-empty array`);
  }
  return messages.map((message, i) => {
    const where = `messages[${i}]`;
    const { role, content } = given(`${call}: ${where}`, message, MESSAGE);
    if (typeof role !== 'string') {
      throw new SkipstoneError('argument', `${call}: ${where}.role is ${show(role)}, want ${ROLES.join(', ')}`);
    }
    return { role: role === 'developer' ? 'system' : role, content: textOf(`${call}: ${where}.content`, content, 'text') };
  });
}

/**
 * A content, which is text or parts that are.
 * @param {string} where
 * @param {unknown} content
 * @param {'text' | 'value'} key of a part's text
 */
export function textOf(where, content, key) {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) {
    throw new SkipstoneError('argument', `${where} is ${show(content)}, want a string or an array of text parts`);
  }
  return content
    .map((part, i) => {
      if (part?.type === 'text' && typeof part[key] === 'string') return part[key];
      throw new SkipstoneError('argument', `${where}[${i}] is ${show(part)}, want {type: 'text', ${key}: '...'}`);
    })
    .join('');
}

/** @param {string} call @param {any} options @returns {AbortSignal | undefined} */
export function callSignal(call, options = {}) {
  check(call, options, { signal: isSignal });
  return options.signal;
}
