import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import { describe, test } from 'node:test';
import { loadModel, longPrompt, noModel, QUESTION, sleep, STORY } from './helpers.js';

const AbortErrorLike = { name: 'AbortError' };

describe('abort', { skip: noModel }, () => {
  for (const how of [{ threads: 1, sharedMemory: false }, { threads: 2 }]) {
    const name = how.sharedMemory === false ? 'without shared memory' : 'with two threads';
    test(`acts within 100 ms in prefill, ${name}`, async () => {
      const llm = await loadModel(how);
      const prompt = await longPrompt(llm, 1000);
      /** @type {number[]} */
      const times = [];
      for (let i = 0; i < 5; i++) {
        const stop = new AbortController();
        const answer = llm.generate([i, ...prompt], { signal: stop.signal });
        await sleep(80);
        const start = performance.now();
        stop.abort();
        await assert.rejects(answer.result, AbortErrorLike);
        await assert.rejects(async () => {
          for await (const _ of answer);
        }, AbortErrorLike);
        await llm.tokenize('x'); // answered when the engine has let go
        times.push(performance.now() - start);
      }
      times.sort((a, b) => a - b);
      assert.ok(times[2] < 100, `${times.map((t) => t.toFixed(0))} ms; the median counts, on a machine that does other work too`);
      const { text } = await llm.generate(QUESTION, { temperature: 0, maxTokens: 12 }).result;
      assert.match(text, /4/, 'it goes on as if nothing had been');
      await llm.free();
    });
  }

  test('acts in decode, before the start, and in the queue', async () => {
    const llm = await loadModel({ threads: 1 });
    await assert.rejects(llm.generate(QUESTION, { signal: AbortSignal.abort() }).result, AbortErrorLike);

    const stop = new AbortController();
    const queued = new AbortController();
    const first = llm.generate(STORY, { temperature: 0, maxTokens: 500, stop: 'answer', signal: stop.signal });
    const second = llm.generate(QUESTION, { signal: queued.signal });
    const third = llm.generate(QUESTION, { temperature: 0, maxTokens: 3 });
    let n = 0;
    await assert.rejects(async () => {
      for await (const _ of first) {
        if (++n === 2) queued.abort(new Error('my own reason'));
        if (n === 5) stop.abort();
      }
    }, AbortErrorLike);
    assert.ok(n >= 5 && n < 10, `${n} chunks`);
    const reason = await second.result.catch((error) => error);
    assert.equal(reason.name, 'AbortError');
    assert.equal(reason.cause.message, 'my own reason');
    assert.match((await third.result).text, /answer/, 'the stop string of an aborted call is gone');
    await llm.free();
  });

  test('leaving the loop cancels and keeps what there is', async () => {
    const llm = await loadModel({ threads: 1 });
    const answer = llm.generate(STORY, { temperature: 0, maxTokens: 500 });
    let text = '';
    for await (const chunk of answer) {
      text += chunk.text;
      if (text.length > 8) break;
    }
    const result = await answer.result;
    assert.equal(result.finishReason, 'cancelled');
    assert.ok(result.text.startsWith(text) && result.tokens.length < 100);
    assert.equal((await llm.generate(QUESTION, { maxTokens: 2 }).result).finishReason, 'length');
    await llm.free();
  });
});

test('the event loop stays free while tokens are made', { skip: noModel }, async () => {
  const llm = await loadModel({ threads: 1 });
  const before = performance.eventLoopUtilization();
  let ticks = 0;
  const start = performance.now();
  const timer = setInterval(() => ticks++, 5);
  await llm.generate(await longPrompt(llm, 200), { temperature: 0, maxTokens: 20 }).result;
  clearInterval(timer);
  const elapsed = performance.now() - start;
  const { utilization } = performance.eventLoopUtilization(before);
  await llm.free();
  assert.ok(utilization < 0.3, `the loop was busy ${(100 * utilization).toFixed(0)} % of the time`);
  assert.ok(ticks > elapsed / 5 / 4, `${ticks} ticks of 5 ms in ${elapsed.toFixed(0)} ms`);
});

describe('life and death', { skip: noModel }, () => {
  const workerUrl = new URL('./crashing-worker.js', import.meta.url);

  test('free during use rejects what is pending; free again and calls later are defined', async () => {
    const llm = await loadModel();
    const running = llm.generate(STORY);
    const queued = llm.tokenize('x');
    await sleep(50);
    await Promise.all([
      llm.free(),
      assert.rejects(running.result, { code: 'freed' }),
      assert.rejects(queued, { code: 'freed' }),
      assert.rejects(async () => {
        for await (const _ of running);
      }, { code: 'freed' }),
    ]);
    await llm.free();
    await assert.rejects(llm.tokenize('x'), { code: 'freed' });
    await assert.rejects(llm.generate('x').result, { code: 'freed' });
    assert.equal(llm.info.model.layers, 30);
  });

  test('two models at once do not disturb each other', async () => {
    const [a, b] = await Promise.all([loadModel({ threads: 1 }), loadModel({ threads: 2 })]);
    const options = { temperature: 0, maxTokens: 6 };
    const [x, y] = await Promise.all([a.generate(QUESTION, options).result, b.generate(QUESTION, options).result]);
    assert.equal(x.logitsHash, y.logitsHash);
    await Promise.all([a.free(), b.free()]);
  });

  for (const [fault, code, message] of /** @type {const} */ ([
    ['throw', 'worker_crashed', /planted/],
    ['exit', 'worker_crashed', /code 3/],
    ['trap', 'trapped', /planted trap/],
  ])) {
    test(`a worker that meets ${fault} rejects all that waits, and a new load works`, async () => {
      const llm = await loadModel({ workerUrl, threads: 2 });
      const broken = llm.tokenize(fault);
      const waiting = llm.generate(QUESTION);
      await assert.rejects(broken, { code, message });
      await assert.rejects(waiting.result, { code });
      await assert.rejects(llm.tokenize('x'), { code });
      await llm.free();
      const again = await loadModel({ threads: 1 });
      assert.ok((await again.tokenize('x')).length > 0);
      await again.free();
    });
  }

  test('a trap in a helper ends the engine instead of hanging it', async () => {
    const llm = await loadModel({ workerUrl, threads: 2 });
    await llm.tokenize('helper');
    const { code } = await llm.generate(QUESTION).result.catch((error) => error);
    assert.ok(code === 'trapped' || code === 'worker_crashed', code); // whichever is heard of first
    await llm.free();
  });
});
