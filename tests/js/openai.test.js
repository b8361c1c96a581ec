/* The OpenAI SDK's form: requests, answers, streams, and what is refused. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { chatBody, completionBody, embeddingBody } from '../../wasm/openai_body.js';
import { loadModel, noModel, QUESTION, STORY } from './helpers.js';

const BANK = fileURLToPath(new URL('../golden/bank.gguf', import.meta.url));
const { messages } = QUESTION;
const ANSWER = 'The answer to this classic math problem is 4.';
const greedy = { messages, temperature: 0 };
/** @type {any} */
const body = { messages: [{ role: 'user', content: 'x' }] };

/** @param {() => unknown} call @param {RegExp} message */
const refuses = (call, message) => assert.throws(call, { name: 'SkipstoneError', code: 'argument', message });

describe('a request', () => {
  test('with something that would change the answer and is not supported throws and names it', () => {
    const cases = {
      n: 2,
      tools: [{ type: 'function', function: { name: 'f' } }],
      tool_choice: 'required',
      functions: [{ name: 'f' }],
      function_call: { name: 'f' },
      response_format: { type: 'json_schema', json_schema: { name: 'x' } },
      logit_bias: { 50256: -100 },
      modalities: ['text', 'audio'],
      audio: { voice: 'alloy', format: 'wav' },
      reasoning_effort: 'high',
      verbosity: 'low',
      web_search_options: {},
      best_of: 2,
    };
    for (const [name, value] of Object.entries(cases)) {
      refuses(() => chatBody({ ...body, [name]: value }), new RegExp(`chat\\.completions\\.create: .*\\b${name}\\b`));
    }
    for (const [name, value] of Object.entries({ n: 2, best_of: 3, echo: true, suffix: '.', logit_bias: { 1: 1 } })) {
      refuses(() => completionBody(/** @type {any} */ ({ prompt: 'x', [name]: value })), new RegExp(`completions\\.create: ${name} is`));
    }
    refuses(() => chatBody({ ...body, temprature: 1 }), /unknown option 'temprature'/);
  });

  test('with something that cannot change it, or with null, passes', () => {
    const fine = {
      user: 'me', metadata: { a: 'b' }, store: true, service_tier: 'auto', safety_identifier: 'x', prompt_cache_key: 'k', model: 'any',
      parallel_tool_calls: true, tools: [], logit_bias: {}, response_format: { type: 'text' }, modalities: ['text'], n: 1, tool_choice: 'auto',
      temperature: null, top_p: null, stop: null, seed: null, max_tokens: null, stream: null, stream_options: null, logprobs: null,
      audio: null, reasoning_effort: null,
    };
    const { options, stream, logprobs } = chatBody({ ...body, ...fine });
    assert.deepEqual([options.temperature, options.maxTokens, options.stop, stream, logprobs], [undefined, undefined, undefined, false, undefined]);
  });

  test('is checked for ranges and kinds', () => {
    refuses(() => chatBody({ ...body, temperature: -1 }), /temperature is -1/);
    refuses(() => chatBody({ ...body, top_p: 2 }), /top_p is 2/);
    refuses(() => chatBody({ ...body, max_tokens: 0 }), /max_tokens is 0/);
    refuses(() => chatBody({ ...body, max_completion_tokens: 1.5 }), /max_completion_tokens is 1.5/);
    refuses(() => chatBody({ ...body, top_logprobs: 21, logprobs: true }), /top_logprobs is 21/);
    refuses(() => chatBody({ ...body, top_logprobs: 2 }), /top_logprobs needs logprobs/);
    refuses(() => chatBody({ ...body, stream_options: { include_usage: true } }), /stream_options needs stream/);
    refuses(() => chatBody({ ...body, stream: 'yes' }), /stream is "yes"/);
    refuses(() => chatBody(/** @type {any} */ (null)), /options must be an object/);
    refuses(() => completionBody({ prompt: ['a', 'b'] }), /prompt is .*want one text/);
    refuses(() => completionBody({ prompt: [1, -1] }), /prompt is/);
    refuses(() => embeddingBody({ input: [] }), /input is/);
    refuses(() => embeddingBody({ input: [1, 2] }), /input is/);
    assert.equal(chatBody({ ...body, seed: -1 }).options.seed, 2n ** 64n - 1n);
    assert.deepEqual(completionBody({ prompt: ['a'] }).prompt, 'a');
    assert.deepEqual(completionBody({ prompt: [[5, 6]] }).prompt, Int32Array.of(5, 6));
  });

  test('has text parts as one text, and other parts are an error', () => {
    const parts = [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }];
    const chat = chatBody({ messages: [{ role: 'developer', content: parts }, { role: 'user', content: 'c' }] });
    assert.deepEqual(chat.messages, [{ role: 'system', content: 'ab' }, { role: 'user', content: 'c' }]);
    const image = { type: 'image_url', image_url: { url: 'data:' } };
    refuses(() => chatBody({ messages: [{ role: 'user', content: [image] }] }), /messages\[0\]\.content\[0\] is .*image_url/);
    refuses(() => chatBody({ messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] }), /input_audio/);
    refuses(() => chatBody({ messages: [{ role: 'tool', content: 'x' }] }), /messages\[0\]: role is "tool"/);
    refuses(() => chatBody(/** @type {any} */ ({ messages: [{ content: 'x' }] })), /messages\[0\]\.role is undefined/);
    refuses(() => chatBody({ messages: [{ role: 'user' }] }), /messages\[0\]\.content is undefined/);
    refuses(() => chatBody({ messages: [] }), /messages is \[\]/);
    const own = { role: 'assistant', content: 'x', refusal: null, tool_calls: [], annotations: [] }; // as an answer gives it
    assert.equal(chatBody({ messages: [own] }).messages[0].content, 'x');
  });
});

describe('chat.completions', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */ let llm;
  before(async () => {
    llm = await loadModel({ contextSize: 512, bank: BANK });
  });
  after(() => llm.free());

  test('answers with usage, what ran, and timings', async () => {
    const answer = await llm.chat.completions.create({ ...greedy, model: 'any', depth: 1 });
    const [choice] = answer.choices;
    assert.deepEqual(choice, { index: 0, message: { role: 'assistant', content: ANSWER, refusal: null }, logprobs: null, finish_reason: 'stop' });
    assert.equal(answer.object, 'chat.completion');
    assert.match(answer.id, /^chatcmpl-[0-9a-f]{24}$/);
    assert.ok(Number.isInteger(answer.created) && answer.created <= Date.now() / 1000);
    assert.deepEqual(answer.usage, { prompt_tokens: 38, completion_tokens: 12, total_tokens: 50, prompt_tokens_details: { cached_tokens: 0 } });
    assert.equal(answer.timings.prefill_tokens, 38);
    const { blocks_run, blocks_total, macs_skipped, depth, cluster, seed, logits_hash } = answer.skipstone;
    assert.deepEqual({ blocks_run, blocks_total, macs_skipped, depth }, { blocks_run: 60, blocks_total: 60, macs_skipped: 0, depth: 1 });
    assert.equal(cluster, (await llm.route(messages[0].content)).cluster);
    assert.match(seed, /^\d+$/);
    assert.equal(logits_hash, (await llm.generate(QUESTION, { temperature: 0, depth: 1 }).result).logitsHash);
  });

  test('runs the mask that the prompt is routed to', async () => {
    const { skipstone } = await llm.chat.completions.create({ ...greedy, max_tokens: 1, depth: 0.75 });
    const route = await llm.route(messages[0].content, { depth: 0.75 });
    assert.equal(skipstone.skip, route.mask.skip);
    assert.equal(skipstone.distance, route.distance);
    assert.equal(Math.round(120 * skipstone.macs_skipped), 30);
    assert.equal(skipstone.depth, 0.75);
  });

  test('streams what it answers, usage last', async () => {
    const request = /** @type {const} */ ({ ...greedy, depth: 1, stream: true, stream_options: { include_usage: true } });
    const chunks = [];
    for await (const chunk of await llm.chat.completions.create(request)) chunks.push(chunk);
    const [first, ...rest] = chunks;
    assert.deepEqual(first.choices[0].delta, { role: 'assistant', content: '' });
    assert.equal(first.skipstone?.blocks_run, 60);
    const end = rest.pop();
    assert.deepEqual(end?.choices, []);
    assert.deepEqual([end?.usage?.prompt_tokens, end?.usage?.completion_tokens], [38, 12]);
    assert.ok((end?.usage?.prompt_tokens_details.cached_tokens ?? 0) >= 37, 'the same prompt again');
    const last = rest.pop();
    assert.deepEqual([last?.choices[0].delta, last?.choices[0].finish_reason, last?.usage], [{}, 'stop', null]);
    assert.ok(last?.timings && 'logits_hash' in (last.skipstone ?? {}));
    assert.equal(rest.map(({ choices }) => choices[0].delta.content).join(''), ANSWER);
    assert.ok(rest.every(({ id, usage }) => id === first.id && usage === null));
  });

  test('a stream may be read as lines of JSON; cancelling it ends the answer', async () => {
    const stream = await llm.chat.completions.create({ ...greedy, depth: 1, stream: true });
    const lines = (await new Response(stream.toReadableStream()).text()).trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(lines.map(({ choices }) => choices[0].delta.content ?? '').join(''), ANSWER);
    const long = await llm.chat.completions.create({ ...STORY, temperature: 0, stream: true });
    await long.toReadableStream().cancel();
    await llm.tokenize('x'); // answered: the engine is free
  });

  test('leaving the loop cancels, and abort rejects with AbortError', async () => {
    for await (const { choices } of await llm.chat.completions.create({ ...STORY, temperature: 0, stream: true })) {
      if (choices[0].delta.content) break;
    }
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 100);
    await assert.rejects(llm.chat.completions.create(STORY, { signal: stop.signal }), { name: 'AbortError' });
    const streamed = await llm.chat.completions.create({ ...STORY, stream: true });
    await assert.rejects(async () => {
      for await (const _ of streamed) streamed.controller.abort();
    }, { name: 'AbortError' });
    await assert.rejects(llm.chat.completions.create(STORY, { signal: AbortSignal.abort() }), { name: 'AbortError' });
    assert.equal((await llm.chat.completions.create({ ...greedy, depth: 1 })).choices[0].message.content, ANSWER);
  });

  test('a chat that goes on prefills only what is new, in several chats at once', async () => {
    const say = (/** @type {string} */ content) => ({ role: 'user', content });
    /** @type {import('../../wasm/openai_body.js').ChatMessage[][]} */
    const chats = [[say('Name a river.')], [say('Name a mountain.')]];
    /** @type {import('../../wasm/openai.js').Usage[][]} */
    const usage = [[], []];
    const hashes = [];
    for (const turn of ['And another.', 'One more.', '']) {
      for (const [i, chat] of chats.entries()) {
        const answer = await llm.chat.completions.create({ messages: chat, temperature: 0, max_tokens: 6, depth: 1 });
        usage[i].push(answer.usage);
        hashes[i] = answer.skipstone.logits_hash;
        chat.push(answer.choices[0].message, say(turn));
      }
    }
    for (const [first, second, third] of usage) {
      assert.ok(second.prompt_tokens_details.cached_tokens >= first.prompt_tokens, 'the whole first turn');
      assert.ok(third.prompt_tokens_details.cached_tokens >= second.prompt_tokens);
    }
    const fresh = await loadModel({ contextSize: 512 });
    for (const [i, chat] of chats.entries()) {
      const again = await fresh.chat.completions.create({ messages: chat.slice(0, -2), temperature: 0, max_tokens: 6 });
      assert.equal(again.skipstone.logits_hash, hashes[i], 'as a fresh prefill');
    }
    await fresh.free();
  });

  test('options change the answer as they should', async () => {
    const text = async (/** @type {Partial<import('../../wasm/openai_body.js').ChatBody>} */ more) =>
      (await llm.chat.completions.create({ messages, max_tokens: 8, depth: 1, ...more, stream: false })).choices[0].message.content;
    const seeded = await text({ seed: 5, temperature: 1.5, top_k: 0, top_p: 1, min_p: 0 });
    assert.equal(await text({ seed: 5, temperature: 1.5, top_k: 0, top_p: 1, min_p: 0 }), seeded);
    assert.notEqual(await text({ seed: 6, temperature: 1.5, top_k: 0, top_p: 1, min_p: 0 }), seeded);
    const likeliest = await text({ temperature: 0 });
    assert.equal(await text({ temperature: 1.5, top_k: 1 }), likeliest);
    assert.equal(await text({ temperature: 1.5, top_p: 0.01 }), likeliest);
    assert.equal(await text({ temperature: 1.5, min_p: 1 }), likeliest);
    for (const penalty of ['frequency_penalty', 'presence_penalty', 'repetition_penalty']) {
      assert.notEqual(await text({ temperature: 0, [penalty]: 50 }), likeliest, penalty);
    }
    const stopped = await llm.chat.completions.create({ ...greedy, depth: 1, stop: ['math', 'never'] });
    assert.deepEqual([stopped.choices[0].message.content, stopped.choices[0].finish_reason], ['The answer to this classic ', 'stop']);
    const { choices } = await llm.chat.completions.create({ ...greedy, depth: 1, max_tokens: 9, max_completion_tokens: 2 });
    assert.deepEqual([choices[0].message.content, choices[0].finish_reason], ['The answer', 'length']);
    const skipped = await llm.chat.completions.create({ ...greedy, max_tokens: 1, skip: 'ffn:12' });
    assert.deepEqual([skipped.skipstone.skip, skipped.skipstone.cluster], ['ffn:12', null]);
  });

  test('tells logprobs, which sum up to no more than one', async () => {
    const answer = await llm.chat.completions.create({ ...greedy, depth: 1, max_tokens: 3, logprobs: true, top_logprobs: 4 });
    const content = answer.choices[0].logprobs?.content ?? [];
    assert.equal(content.map(({ token }) => token).join(''), 'The answer to');
    for (const { token, logprob, bytes, top_logprobs } of content) {
      assert.equal(top_logprobs.length, 4);
      assert.deepEqual({ token, logprob, bytes }, top_logprobs[0], 'greedy picks the likeliest');
      assert.deepEqual([...new TextEncoder().encode(token)], bytes);
      assert.ok(top_logprobs.every((one, i) => !i || one.logprob <= top_logprobs[i - 1].logprob));
      assert.ok(top_logprobs.reduce((sum, one) => sum + Math.exp(one.logprob), 0) <= 1 + 1e-6);
    }
    const streamed = [];
    for await (const { choices } of await llm.chat.completions.create({ ...greedy, depth: 1, max_tokens: 3, logprobs: true, top_logprobs: 4, stream: true })) {
      streamed.push(...(choices[0].logprobs?.content ?? []));
    }
    assert.deepEqual(streamed, content);
  });

  test('a prompt that does not fit is an error before a stream begins', async () => {
    const long = [{ role: 'user', content: 'word '.repeat(600) }];
    const full = { code: 'context_full', message: /the context has 512/ };
    await assert.rejects(llm.chat.completions.create({ messages: long }), full);
    await assert.rejects(llm.chat.completions.create({ messages: long, stream: true }), full);
    await assert.rejects(llm.chat.completions.create({ messages, depth: 0.1 }), { code: 'argument', message: /depth/ });
  });

  test('completions continues a prompt, as text or tokens', async () => {
    const request = { prompt: 'The capital of France is', temperature: 0, max_tokens: 4, depth: 1, logprobs: 2 };
    const answer = await llm.completions.create(request);
    const [{ text, logprobs, finish_reason }] = answer.choices;
    assert.deepEqual([answer.object, text, finish_reason], ['text_completion', ' Paris.\n\n', 'length']);
    assert.equal(logprobs?.tokens.join(''), text);
    assert.deepEqual(logprobs?.text_offset, [0, 6, 7, 8]);
    assert.equal(Object.keys(logprobs?.top_logprobs[0] ?? {})[0], ' Paris');
    const tokens = await llm.tokenize(request.prompt, { bos: true });
    assert.equal((await llm.completions.create({ ...request, prompt: tokens })).choices[0].text, text);
    let streamed = '';
    const offsets = [];
    for await (const { choices } of await llm.completions.create({ ...request, stream: true })) {
      streamed += choices[0].text;
      offsets.push(...(choices[0].logprobs?.text_offset ?? []));
    }
    assert.equal(streamed, text);
    assert.deepEqual(offsets, logprobs?.text_offset);
  });

  test('embeddings gives vectors of unit length, also as base64', async () => {
    const { data, usage, object } = await llm.embeddings.create({ input: ['A cat sleeps.', 'A kitten naps.', 'Stocks fell.'], model: 'any' });
    assert.equal(object, 'list');
    assert.deepEqual(data.map(({ index }) => index), [0, 1, 2]);
    const dot = (/** @type {number[]} */ a, /** @type {number[]} */ b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
    for (const { embedding } of data) assert.ok(Math.abs(dot(embedding, embedding) - 1) < 1e-5);
    assert.ok(dot(data[0].embedding, data[1].embedding) > dot(data[0].embedding, data[2].embedding));
    assert.equal(usage.prompt_tokens, (await llm.tokenize('A cat sleeps.')).length + (await llm.tokenize('A kitten naps.')).length + (await llm.tokenize('Stocks fell.')).length);
    const coded = await llm.embeddings.create({ input: 'A cat sleeps.', encoding_format: 'base64', dimensions: 576 });
    const bytes = Buffer.from(/** @type {any} */ (coded.data[0].embedding), 'base64');
    assert.deepEqual(new Float32Array(new Uint8Array(bytes).buffer), Float32Array.from(data[0].embedding));
    assert.deepEqual(await llm.embed('A cat sleeps.'), Float32Array.from(data[0].embedding));
    await assert.rejects(llm.embeddings.create({ input: 'x', dimensions: 5 }), { code: 'argument', message: /dimensions is 5.*576/ });
  });
});
