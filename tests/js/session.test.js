/* Chat sessions by the Prompt API's names: turns, clones, sessions as bytes, the context's end. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { loadModel, noModel, sleep } from './helpers.js';

const BANK = fileURLToPath(new URL('../golden/bank.gguf', import.meta.url));
const SYSTEM = /** @type {const} */ ({ role: 'system', content: 'Be brief.' });
const SUM = 'What is 2 plus 2?';
const greedy = { temperature: 0, maxTokens: 14 };
const AbortErrorLike = { name: 'AbortError' };

/** @typedef {import('../../wasm/session.js').Session} Session */

/** The logits' hash of the next answer, by a session and by a fresh one with the same past. @param {Session} session @param {import('../../node/index.js').Llm} llm */
async function sameAsFresh(session, llm) {
  const fresh = await llm.languageModel.create({ ...greedy, initialPrompts: /** @type {any} */ (session.messages) });
  const [a, b] = [await session.prompt('Thanks.'), await fresh.prompt('Thanks.')];
  assert.equal(a, b);
  assert.equal(session.lastTurn?.skipstone.logits_hash, fresh.lastTurn?.skipstone.logits_hash);
}

describe('a session', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */ let llm;
  /** @type {import('../../node/index.js').Llm} */ let other; // a KV cache that knows nothing
  before(async () => {
    [llm, other] = await Promise.all([loadModel({ contextSize: 512, threads: 1 }), loadModel({ contextSize: 512, threads: 1, maxSessions: 1 })]);
  });
  after(() => Promise.all([llm.free(), other.free()]));

  test('remembers, prefills only what is new, and counts its tokens', async () => {
    const session = await llm.createSession({ ...greedy, initialPrompts: [SYSTEM] });
    const start = session.contextUsage;
    assert.ok(start > 0 && session.contextWindow === 512);
    const added = await session.measureContextUsage(SUM);
    assert.match(await session.prompt(SUM), /4/);
    const first = session.lastTurn;
    assert.ok(first && first.promptTokens === start + added && first.cachedTokens === start, 'initial prompts are computed once');
    const used = session.contextUsage;
    assert.match(await session.prompt([{ role: 'user', content: [{ type: 'text', value: 'And 3 plus ' }, { type: 'text', value: '3?' }] }]), /6/);
    assert.ok((session.lastTurn?.cachedTokens ?? 0) >= used - 1, 'all but the end token, which was never run');
    assert.deepEqual(session.messages.map(({ role }) => role), ['system', 'user', 'assistant', 'user', 'assistant']);
    await sameAsFresh(session, other);
  });

  test('streams text as a ReadableStream; leaving the loop keeps what there is', async () => {
    const session = await llm.createSession(greedy);
    const stream = session.promptStreaming(SUM);
    assert.ok(stream instanceof ReadableStream);
    let text = '';
    for await (const piece of stream) text += piece;
    assert.equal(session.messages[1].content, text);
    for await (const piece of session.promptStreaming('Tell me a long story.')) if (piece) break;
    await session.append([{ role: 'user', content: 'Go on.' }]); // behind the cancelled answer
    assert.equal(session.messages.length, 5);
    assert.equal(session.lastTurn?.finishReason, 'cancelled');
    assert.ok(session.messages[3].content.length > 0);
  });

  test('append computes without an answer, and a prefix is gone on from', async () => {
    const session = await llm.createSession(greedy);
    await session.append([{ role: 'user', content: SUM }, { role: 'assistant', content: '4' }]);
    const used = session.contextUsage;
    assert.ok(used > 0);
    const answer = await session.prompt([{ role: 'user', content: 'What is the capital of France?' }, { role: 'assistant', content: 'Sure: The capital of', prefix: true }]);
    assert.ok((session.lastTurn?.cachedTokens ?? 0) >= used);
    assert.match(answer, /^ France is Paris/);
    assert.match(session.messages.at(-1)?.content ?? '', /^Sure: The capital of France is Paris/);
    await assert.rejects(session.append([{ role: 'assistant', content: 'x', prefix: true }]), { code: 'argument', message: /prefix/ });
    await assert.rejects(session.prompt([SYSTEM]), { code: 'argument', message: /system message must be the first/ });
  });

  test('runs its calls in order; an abort gives up one and leaves the session as it was', async () => {
    const session = await llm.createSession(greedy);
    const stop = new AbortController();
    const first = session.prompt(SUM);
    const second = session.prompt('Tell me a story.', { signal: stop.signal });
    const third = session.prompt('And 3 plus 3?');
    stop.abort();
    await assert.rejects(second, AbortErrorLike);
    assert.match(await first, /4/);
    assert.match(await third, /6/);
    assert.deepEqual(session.messages.map(({ content }) => content).filter((_, i) => i % 2 === 0), [SUM, 'And 3 plus 3?']);
    const running = new AbortController();
    const long = (await llm.createSession()).prompt('word '.repeat(300), { signal: running.signal });
    await sleep(60);
    running.abort();
    await assert.rejects(long, AbortErrorLike);
    await assert.rejects(session.prompt('x', { signal: AbortSignal.abort() }), AbortErrorLike);
    await sameAsFresh(session, other);
  });

  test('clones go their own way', async () => {
    const session = await llm.createSession({ ...greedy, initialPrompts: [SYSTEM] });
    await session.prompt(SUM);
    const used = session.contextUsage;
    const clone = await session.clone();
    assert.equal(clone.contextUsage, used);
    assert.match(await clone.prompt('And 4 plus 4?'), /8/);
    assert.ok((clone.lastTurn?.cachedTokens ?? 0) >= used - 1, 'from the original KV cache');
    assert.match(await session.prompt('And 3 plus 3?'), /6/);
    assert.ok((session.lastTurn?.cachedTokens ?? 0) >= used - 1, 'which is still there');
    assert.equal(session.messages.length, 5);
    await sameAsFresh(clone, other);
    await sameAsFresh(session, other);
  });

  test('is the same after save and restore, also in another engine', async () => {
    const session = await llm.createSession({ ...greedy, seed: 3n, initialPrompts: [SYSTEM] });
    await session.prompt(SUM);
    const bytes = await session.save();
    const restored = [await llm.languageModel.restore(bytes), await other.languageModel.restore(new Blob([bytes]))];
    const answer = await session.prompt('And 3 plus 3?');
    for (const one of restored) {
      assert.equal(await one.prompt('And 3 plus 3?'), answer);
      assert.equal(one.lastTurn?.skipstone.logits_hash, session.lastTurn?.skipstone.logits_hash);
      assert.ok((one.lastTurn?.cachedTokens ?? 0) >= session.contextUsage - 40, 'the KV cache came along');
      assert.deepEqual([one.messages, one.contextUsage, one.temperature], [session.messages, session.contextUsage, 0]);
    }
    const empty = await llm.languageModel.restore(await (await llm.createSession()).save());
    assert.equal(empty.contextUsage, 0);
  });

  test('a foreign, truncated, damaged or newer file is refused and says why', async () => {
    const session = await llm.createSession(greedy);
    await session.append(SUM);
    const bytes = await session.save();
    const { restore } = llm.languageModel;
    const rejects = (/** @type {any} */ saved, /** @type {string} */ code, /** @type {RegExp} */ message) =>
      assert.rejects(restore.call(llm.languageModel, saved), { name: 'SkipstoneError', code, message });
    /** @param {number} at @param {number} value */
    const changed = (at, value) => {
      const copy = bytes.slice();
      copy[at] = value;
      return copy;
    };
    await rejects('text', 'argument', /want the bytes/);
    await rejects(new Uint8Array(200), 'format', /not a saved session/);
    for (const n of [0, 7, 12, 30, 200, bytes.length - 1]) await rejects(bytes.subarray(0, n), 'format', /saved session/);
    await rejects(changed(8, 2), 'unsupported', /version 2/);
    for (const at of [13, 25, 60]) await rejects(changed(at, bytes[at] ^ 4), 'format', /truncated or damaged/);
    const kv = bytes.length - 1000;
    await rejects(changed(kv, bytes[kv] ^ 1), 'format', /truncated or damaged/);
    const text = new TextDecoder('latin1').decode(bytes);
    const inner = text.indexOf('SKIPKV');
    await rejects(changed(inner + 8, 9), 'unsupported', /version 9/);
    await rejects(changed(inner + 12, 7), 'unsupported', /numbers 7/);
    const small = await loadModel({ contextSize: 8, threads: 1 });
    await assert.rejects(small.languageModel.restore(bytes), { code: 'context_full', message: /the context has 8/ });
    await small.free();
  });

  test('options are checked, and what is not supported is named', async () => {
    const rejects = (/** @type {any} */ options, /** @type {RegExp} */ message) =>
      assert.rejects(llm.createSession(options), { name: 'SkipstoneError', code: 'argument', message });
    await rejects({ temprature: 1 }, /unknown option 'temprature'/);
    await rejects({ topK: -1 }, /topK is -1/);
    await rejects({ tools: [{ name: 'f' }] }, /tools is/);
    await rejects({ expectedInputs: [{ type: 'image' }] }, /expectedInputs is/);
    await rejects({ initialPrompts: [{ role: 'robot', content: 'x' }] }, /role is "robot"/);
    await rejects({ initialPrompts: [{ role: 'user', content: [{ type: 'audio', value: 1 }] }] }, /audio/);
    await rejects({ initialPrompts: [{ role: 'user', content: 'x' }, SYSTEM] }, /message 1: role is "system"/);
    const session = await llm.createSession({ expectedInputs: [{ type: 'text', languages: ['en'] }], monitor: () => {} });
    await assert.rejects(session.prompt('x', /** @type {any} */ ({ responseConstraint: {} })), { code: 'argument', message: /responseConstraint/ });
    await assert.rejects(session.prompt([]), { code: 'argument', message: /want a string or/ });
    assert.deepEqual([session.temperature, session.topK], [0.8, 40]);
    assert.equal(await llm.languageModel.availability(), 'available');
    assert.equal(await llm.languageModel.availability(/** @type {any} */ ({ expectedInputs: [{ type: 'image' }] })), 'unavailable');
    await assert.rejects(llm.createSession({ signal: AbortSignal.abort() }), AbortErrorLike);
  });

  test('destroyed, it rejects with AbortError; twice is fine', async () => {
    const session = await llm.createSession(greedy);
    const running = session.prompt('Tell me a story.');
    await sleep(30);
    session.destroy();
    session.destroy();
    await assert.rejects(running, AbortErrorLike);
    await assert.rejects(session.prompt('x'), AbortErrorLike);
    await assert.rejects(session.clone(), AbortErrorLike);
    const disposed = await llm.createSession();
    await disposed[Symbol.asyncDispose]();
    await assert.rejects(disposed.append('x'), AbortErrorLike);
  });

  test('more sessions than KV caches: each answers as if it were alone', async () => {
    const many = await loadModel({ contextSize: 512, threads: 1, maxSessions: 2 });
    const names = ['river', 'mountain', 'colour'];
    const sessions = await Promise.all(names.map(() => many.createSession({ ...greedy, maxTokens: 5 })));
    for (const i of [0, 1, 2, 0, 2, 1]) await sessions[i].prompt(`Name a ${names[i]}.`);
    const alone = await other.createSession({ ...greedy, maxTokens: 5 });
    for (let turn = 0; turn < 2; turn++) await alone.prompt('Name a colour.');
    assert.deepEqual(sessions[2].messages, alone.messages);
    assert.equal(sessions[2].lastTurn?.skipstone.logits_hash, alone.lastTurn?.skipstone.logits_hash);
    const { memory, model, context } = many.info;
    assert.ok(memory.peak < model.packedBytes + 3 * (context.kvBytes + 8e6), 'two KV caches, not three');
    await many.free();
  });
});

describe('a full context', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */ let llm;
  before(async () => {
    llm = await loadModel({ contextSize: 160, threads: 1 });
  });
  after(() => llm.free());
  const options = { temperature: 0, maxTokens: 16, initialPrompts: [SYSTEM] };

  test('is a typed error, and the session stays as it was', async () => {
    const session = await llm.createSession(options);
    await session.prompt(SUM);
    const { messages, contextUsage } = session;
    await assert.rejects(session.prompt('word '.repeat(150)), { name: 'SkipstoneError', code: 'context_full', message: /the context has 160/ });
    await assert.rejects(session.append('word '.repeat(150)), { code: 'context_full' });
    assert.deepEqual([session.messages, session.contextUsage], [messages, contextUsage]);
    assert.match(await session.prompt('And 3 plus 3?'), /6/);
    await assert.rejects(llm.createSession({ initialPrompts: [{ role: 'system', content: 'word '.repeat(200) }] }), { code: 'context_full' });
  });

  test("with 'drop-oldest' forgets the oldest turns, never the system message, and says so", async () => {
    const session = await llm.createSession({ ...options, onContextFull: 'drop-oldest' });
    let overflows = 0;
    session.oncontextoverflow = () => overflows++;
    for (let i = 0; i < 6; i++) await session.prompt(`What is ${i} plus ${i}? Answer with the number and nothing else.`);
    assert.ok(overflows > 0 && session.messages.length < 13);
    assert.deepEqual(session.messages[0], SYSTEM);
    assert.equal(session.messages[1].role, 'user');
    assert.match(session.messages.at(-2)?.content ?? '', /5 plus 5/);
    assert.ok(session.contextUsage <= 160);
    const fresh = await llm.createSession({ ...options, onContextFull: 'drop-oldest', initialPrompts: /** @type {any} */ (session.messages) });
    session.oncontextoverflow = null;
    assert.equal(await session.prompt('Hi'), await fresh.prompt('Hi'));
    assert.equal(session.lastTurn?.skipstone.logits_hash, fresh.lastTurn?.skipstone.logits_hash);
    await assert.rejects(session.prompt('word '.repeat(170)), { code: 'context_full' });
  });
});

for (const policy of /** @type {const} */ (['session', 'turn'])) {
  test(`with a bank, policy ${policy}, a session runs the routed mask and survives save and restore`, { skip: noModel }, async () => {
    const texts = ['Write a Python function that reverses a list.', 'KING. What news from the north?'];
    const llm = await loadModel({ contextSize: 512, threads: 1, bank: BANK, policy });
    const session = await llm.createSession({ ...greedy, maxTokens: 6, initialPrompts: [SYSTEM] });
    await session.prompt(texts[0]);
    const clusters = await Promise.all(texts.map(async (text) => (await llm.route(text)).cluster));
    assert.equal(session.lastTurn?.skipstone.cluster, clusters[0]);
    const saved = await session.save();
    await session.prompt(texts[1]);
    const turn = session.lastTurn;
    assert.equal(turn?.skipstone.cluster, clusters[policy === 'turn' ? 1 : 0]);
    assert.equal((turn?.cachedTokens ?? 0) > 0, policy === 'session');
    await llm.free();
    const again = await loadModel({ contextSize: 512, threads: 1, bank: BANK, policy });
    const restored = await again.languageModel.restore(saved);
    await restored.prompt(texts[1]);
    assert.equal(restored.lastTurn?.skipstone.logits_hash, turn?.skipstone.logits_hash);
    await again.free();
    const dense = await loadModel({ contextSize: 512, threads: 1 });
    await assert.rejects(dense.languageModel.restore(saved), { code: 'argument', message: /skips other blocks/ });
    await dense.free();
  });
}
