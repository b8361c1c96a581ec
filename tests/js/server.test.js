/* The HTTP server, by fetch: answers, events, errors in OpenAI's form, clients that go away. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { serve } from '../../node/server.js';
import { loadModel, noModel, QUESTION, sleep, STORY } from './helpers.js';

const ask = { ...QUESTION, temperature: 0 };
const ANSWER = 'The answer to this classic math problem is 4.';

describe('the server', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */ let llm;
  /** @type {import('../../node/server.js').Server} */ let server;
  /** @type {string[]} */ const lines = [];
  before(async () => {
    llm = await loadModel({ contextSize: 512, threads: 1, maxQueue: 1 });
    server = await serve(llm, { port: 0, log: (line) => lines.push(line) });
  });
  after(async () => {
    await server.close();
    await llm.free();
  });
  /** @param {string} path @param {unknown} body @param {RequestInit} [more] */
  const post = (path, body, more) =>
    fetch(server.url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), ...more });

  test('answers chats, prompts and texts as the library does', async () => {
    const chat = await post('/v1/chat/completions', { ...ask, model: 'any' });
    assert.equal(chat.status, 200);
    const body = await chat.json();
    assert.equal(body.choices[0].message.content, ANSWER);
    assert.equal(body.usage.completion_tokens, 12);
    assert.equal(body.skipstone.blocks_total, 60);
    const completion = await (await post('/v1/completions', { prompt: 'The capital of France is', temperature: 0, max_tokens: 1 })).json();
    assert.equal(completion.choices[0].text, ' Paris');
    const embeddings = await (await post('/v1/embeddings', { input: ['a', 'b'], model: 'any' })).json();
    assert.deepEqual([embeddings.data.length, embeddings.data[0].embedding.length], [2, 576]);
  });

  test('streams server-sent events, [DONE] last', async () => {
    const response = await post('/v1/chat/completions', { ...ask, stream: true, stream_options: { include_usage: true } });
    assert.equal(response.headers.get('content-type'), 'text/event-stream');
    const events = (await response.text()).split('\n\n').filter(Boolean);
    assert.equal(events.pop(), 'data: [DONE]');
    const chunks = events.map((event) => JSON.parse(event.replace(/^data: /, '')));
    assert.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), ANSWER);
    assert.equal(chunks.at(-1).usage.completion_tokens, 12);
  });

  test('lists its model, and its health', async () => {
    const { data } = await (await fetch(`${server.url}/v1/models`)).json();
    assert.equal(data.length, 1);
    const { id } = await (await fetch(`${server.url}/v1/models/${encodeURIComponent(data[0].id)}`)).json();
    assert.equal(id, data[0].id);
    assert.equal((await fetch(`${server.url}/v1/models/other`)).status, 404);
    const health = await (await fetch(`${server.url}/health`)).json();
    assert.deepEqual([health.status, health.context, health.calls], ['ok', 512, 0]);
  });

  test("errors have OpenAI's form and a status", async () => {
    /** @param {Promise<Response>} call @param {number} status @param {string | null} code @param {RegExp} message */
    const fails = async (call, status, code, message) => {
      const response = await call;
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code, error.param], [status, code, null]);
      assert.match(error.message, message);
      assert.match(error.type, status === 429 ? /rate_limit/ : /invalid_request/);
    };
    await fails(post('/v1/chat/completions', { ...ask, n: 2 }), 400, 'argument', /n is 2/);
    await fails(post('/v1/chat/completions', { ...ask, tools: [{}], stream: true }), 400, 'argument', /tools/);
    const long = { messages: [{ role: 'user', content: 'word '.repeat(600) }], stream: true };
    await fails(post('/v1/chat/completions', long), 400, 'context_length_exceeded', /the context has 512/);
    await fails(post('/v1/chat/completions', undefined, { body: '{' }), 400, null, /not JSON/);
    await fails(post('/v1/chat/completions', undefined, { body: '{}', headers: { 'content-type': 'text/plain' } }), 415, null, /Content-Type/);
    const large = request(`${server.url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json', 'content-length': 9 << 20 } });
    large.on('error', () => {});
    large.flushHeaders();
    const [{ statusCode }] = await once(large, 'response');
    assert.equal(statusCode, 413, 'before any of the body is sent');
    large.destroy();
    await fails(fetch(`${server.url}/v1/chat/completions`), 405, null, /wants POST/);
    await fails(fetch(`${server.url}/v1/nothing`), 404, null, /there is no \/v1\/nothing/);
    const running = llm.generate(STORY);
    const waiting = llm.tokenize('x');
    await fails(post('/v1/chat/completions', ask), 429, 'queue_full', /calls? wait/);
    running.cancel();
    await waiting;
  });

  test('a client that goes away cancels its call', async () => {
    for (const stream of [true, false]) {
      const stop = new AbortController();
      const call = post('/v1/chat/completions', { ...STORY, stream }, { signal: stop.signal });
      while (!llm.pendingCalls) await sleep(5);
      if (stream) await (await call).body?.getReader().read();
      stop.abort();
      await call.catch(() => {});
      while (llm.pendingCalls) await sleep(5);
      assert.equal((await (await post('/v1/completions', { prompt: 'x', max_tokens: 1 })).json()).choices.length, 1);
    }
    assert.ok(lines.some((line) => /^POST \/v1\/chat\/completions 200 in \d+ ms, the client went away$/.test(line)), lines.join('\n'));
  });
});

describe('options of the server', { skip: noModel }, () => {
  test('cors, an API key, a port that is taken', async () => {
    const llm = await loadModel({ contextSize: 256, threads: 1 });
    const server = await serve(llm, { port: 0, cors: 'https://example.org', apiKey: 'secret' });
    const preflight = await fetch(`${server.url}/v1/models`, { method: 'OPTIONS' });
    assert.deepEqual([preflight.status, preflight.headers.get('access-control-allow-origin')], [204, 'https://example.org']);
    assert.equal((await fetch(`${server.url}/v1/models`)).status, 401);
    assert.equal((await fetch(`${server.url}/health`)).status, 200);
    const listed = await fetch(`${server.url}/v1/models`, { headers: { authorization: 'Bearer secret' } });
    assert.deepEqual([listed.status, listed.headers.get('access-control-allow-origin')], [200, 'https://example.org']);
    await assert.rejects(serve(llm, { port: server.port }), { code: 'EADDRINUSE' });
    await assert.rejects(serve(llm, /** @type {any} */ ({ prot: 1 })), { code: 'argument', message: /unknown option 'prot'/ });
    // closing ends what is under way
    const pending = new Promise((resolve) => {
      const headers = { 'content-type': 'application/json', authorization: 'Bearer secret' };
      request(`${server.url}/v1/chat/completions`, { method: 'POST', headers }).on('error', resolve).end(JSON.stringify(STORY));
    });
    while (!llm.pendingCalls) await sleep(5);
    await server.close();
    await pending;
    while (llm.pendingCalls) await sleep(5);
    await llm.free();
  });
});
