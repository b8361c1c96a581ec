/* Calls queue in order on one engine, up to a bound; the engine may also run in place, and inside another worker. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { loadModel, longPrompt, MODEL, noModel, QUESTION, sleep, STORY } from './helpers.js';

const greedy = { temperature: 0, maxTokens: 6 };
const AbortErrorLike = { name: 'AbortError' };

describe('the queue', { skip: noModel }, () => {
  test('is answered in order, on all faces', async () => {
    const llm = await loadModel({ contextSize: 512, threads: 1 });
    const session = await llm.createSession(greedy);
    /** @type {string[]} */
    const order = [];
    const note = (/** @type {string} */ name) => () => void order.push(name);
    await Promise.all([
      llm.generate(QUESTION, greedy).result.then(note('generate')),
      llm.chat.completions.create({ ...QUESTION, temperature: 0, max_tokens: 2 }).then(note('chat')),
      session.prompt('Hi').then(note('session')),
      llm.embed('text').then(note('embed')),
      llm.tokenize('x').then(note('tokenize')),
    ]);
    // the session's call is made when its own calls before are done: a moment later
    assert.deepEqual(order.filter((name) => name !== 'session'), ['generate', 'chat', 'embed', 'tokenize']);
    await llm.free();
  });

  test('refuses more calls than it may hold, with code queue_full, and goes on', async () => {
    const llm = await loadModel({ contextSize: 512, threads: 1, maxQueue: 2 });
    const running = llm.generate(STORY, { maxTokens: 200 });
    const waiting = [llm.tokenize('a'), llm.tokenize('b')];
    await assert.rejects(llm.tokenize('c'), { name: 'SkipstoneError', code: 'queue_full', message: /2 calls wait already/ });
    await assert.rejects(llm.chat.completions.create({ ...QUESTION, stream: true }), { code: 'queue_full' });
    running.cancel();
    await Promise.all(waiting);
    assert.equal(llm.pendingCalls, 0);
    assert.ok((await llm.tokenize('c')).length);
    await llm.free();
  });

  test('a call that was freed, or comes later, rejects; disposal is free', async () => {
    const llm = await loadModel({ contextSize: 512, threads: 1 });
    const session = await llm.createSession();
    const pending = [llm.chat.completions.create(STORY), session.prompt('Hi'), llm.embeddings.create({ input: 'x' })];
    const rejected = pending.map((call) => assert.rejects(call, { code: 'freed' }));
    await llm[Symbol.asyncDispose]();
    await Promise.all(rejected);
    assert.equal(await llm.languageModel.availability(), 'unavailable');
    await assert.rejects(llm.completions.create({ prompt: 'x', stream: true }), { code: 'freed' });
    await assert.rejects(session.prompt('x'), { code: 'freed' });
    session.destroy();
    assert.match(llm.ended?.message ?? '', /freed/);
  });
});

describe('in place', { skip: noModel }, () => {
  test('answers with the same bits, one thread, and says why', async () => {
    const [worker, place] = await Promise.all([loadModel({ contextSize: 512, threads: 1 }), loadModel({ contextSize: 512, worker: false })]);
    const [a, b] = [await worker.generate(QUESTION, greedy).result, await place.generate(QUESTION, greedy).result];
    assert.equal(b.logitsHash, a.logitsHash);
    assert.equal(place.info.module.threads, 1);
    assert.match(place.info.module.threadsReason, /in place/);
    await Promise.all([worker.free(), place.free()]);
    await assert.rejects(place.tokenize('x'), { code: 'freed' });
    await assert.rejects(loadModel({ worker: false, threads: 2 }), { code: 'unsupported', message: /in place/ });
  });

  test('leaves the thread to others between slices, and abort acts there', async () => {
    const llm = await loadModel({ contextSize: 512, worker: false });
    const prompt = await longPrompt(llm, 400);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const stop = new AbortController();
    const running = llm.generate(prompt, { signal: stop.signal });
    while (ticks < 3) await sleep(1); // turns of the event loop while the engine computes
    assert.ok(llm.pendingCalls === 1, 'it is not done');
    stop.abort();
    await assert.rejects(running.result, AbortErrorLike);
    clearInterval(timer);
    assert.match((await llm.generate(QUESTION, { temperature: 0, maxTokens: 12 }).result).text, /4/);
    const freed = llm.generate(STORY);
    await llm.free();
    await assert.rejects(freed.result, { code: 'freed' });
  });

  test('two of them, and a session over both faces', async () => {
    const [a, b] = await Promise.all([loadModel({ contextSize: 256, worker: false }), loadModel({ contextSize: 256, worker: false })]);
    const ask = { ...QUESTION, temperature: 0, max_tokens: 12 };
    const [x, y] = await Promise.all([a.chat.completions.create(ask), (await b.createSession({ temperature: 0 })).prompt(QUESTION.messages[0].content)]);
    assert.equal(x.choices[0].message.content, y);
    await Promise.all([a.free(), b.free()]);
  });
});

for (const options of [{ worker: false }, { threads: 2 }]) {
  test(`runs inside another worker, ${JSON.stringify(options)}`, { skip: noModel }, async () => {
    const code = `
      import { parentPort, workerData } from 'node:worker_threads';
      const { load } = await import(workerData.entry);
      const llm = await load(workerData.model, { contextSize: 256, ...workerData.options });
      const { text } = await llm.generate({ messages: workerData.messages }, { temperature: 0, maxTokens: 12 }).result;
      await llm.free();
      parentPort.postMessage(text);
    `;
    const workerData = { entry: new URL('../../node/index.js', import.meta.url).href, model: MODEL, options, messages: QUESTION.messages };
    const outer = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
    const [text] = await Promise.race([once(outer, 'message'), once(outer, 'error').then(([error]) => Promise.reject(error))]);
    assert.match(text, /4/);
    await outer.terminate();
  });
}
