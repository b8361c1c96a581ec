/* Checked by tsc alone: requests typed by the openai package are accepted, and answers are assignable to its types. */
/** @typedef {import('openai').OpenAI} OpenAI */
/** @typedef {import('openai').OpenAI.ChatCompletionCreateParamsNonStreaming} ChatParams */
/** @typedef {import('openai').OpenAI.ChatCompletionCreateParamsStreaming} ChatStreamParams */
/** @typedef {import('openai').OpenAI.CompletionCreateParamsNonStreaming} CompletionParams */
/** @typedef {import('openai').OpenAI.CompletionCreateParamsStreaming} CompletionStreamParams */
/** @typedef {import('openai').OpenAI.EmbeddingCreateParams} EmbeddingParams */

/**
 * @param {import('../../node/index.js').Llm} llm
 * @param {{chat: ChatParams, chatStream: ChatStreamParams, completion: CompletionParams, completionStream: CompletionStreamParams,
 *   embedding: EmbeddingParams}} params
 */
export async function typed(llm, params) {
  /** @type {import('openai').OpenAI.ChatCompletion} */
  const chat = await llm.chat.completions.create(params.chat, { signal: new AbortController().signal });
  /** @type {AsyncIterable<import('openai').OpenAI.ChatCompletionChunk>} */
  const chunks = await llm.chat.completions.create(params.chatStream);
  /** @type {import('openai').OpenAI.Completion} */
  const completion = await llm.completions.create(params.completion);
  /** @type {AsyncIterable<import('openai').OpenAI.Completion>} */
  const pieces = await llm.completions.create(params.completionStream);
  /** @type {import('openai').OpenAI.CreateEmbeddingResponse} */
  const embeddings = await llm.embeddings.create(params.embedding);
  // what an answer says may be asked again
  /** @type {ChatParams} */
  const next = { model: 'any', messages: [...params.chat.messages, chat.choices[0].message] };
  await llm.chat.completions.create(next);
  const literal = await llm.chat.completions.create({ model: 'any', messages: [{ role: 'user', content: 'x' }], top_k: 1, user: 'me' });
  // @ts-expect-error an answer is text
  literal.choices[0].message.content.toFixed();
  // @ts-expect-error a seed is a number
  await llm.chat.completions.create({ messages: [{ role: 'user', content: 'x' }], seed: 'one' });
  return { chat, chunks, completion, pieces, embeddings };
}
