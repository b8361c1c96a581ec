import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { loadModel, longPrompt, MODEL, NATIVE, noModel, noRelaxed, QUESTION } from './helpers.js';

const SKIP = 'attn:12,17;ffn:20';

describe('generate', { skip: noModel }, () => {
  /** @type {import('../../node/index.js').Llm} */
  let llm;
  before(async () => {
    llm = await loadModel({ maxSessions: 2 });
  });
  after(() => llm.free());

  test('streams the text of the result, token by token', async () => {
    const answer = llm.generate(QUESTION, { temperature: 0, maxTokens: 24 });
    let text = '';
    const tokens = [];
    for await (const chunk of answer) {
      text += chunk.text;
      if (chunk.token !== null) tokens.push(chunk.token);
    }
    const result = await answer.result;
    assert.match(text, /4/);
    assert.equal(result.text, text);
    assert.deepEqual(result.tokens.slice(0, tokens.length), tokens);
    assert.ok(result.tokens.length - tokens.length <= 1, 'only an end token is not streamed');
    assert.match(result.logitsHash, /^[0-9a-f]{16}$/);
    assert.deepEqual(result.mask, { blocksRun: 60, blocksTotal: 60, macsSkipped: 0, skip: '' });
    assert.equal(result.route, null);
    const { timings } = result;
    assert.equal(timings.prefill_tokens + result.cachedTokens, result.promptTokens);
    assert.equal(timings.decode_tokens, result.tokens.length - 1);
    assert.ok(timings.prefill_tps > 0 && timings.decode_tps > 0);
  });

  test('a prompt may be text, a chat or tokens', async () => {
    const options = { temperature: 0, maxTokens: 4 };
    const text = 'The capital of France is';
    const a = await llm.generate(text, options).result;
    const b = await llm.generate(await llm.tokenize(text, { bos: true }), options).result;
    const c = await llm.generate(llm.chatTemplate(QUESTION.messages), options).result;
    const d = await llm.generate(QUESTION, options).result;
    assert.deepEqual(b.tokens, a.tokens);
    assert.equal(b.logitsHash, a.logitsHash);
    assert.equal(d.text, c.text);
    for (const bad of [undefined, null, 7, {}, [1.5], [-1]]) {
      assert.throws(() => llm.generate(/** @type {any} */ (bad)), { code: 'argument' });
    }
    assert.throws(() => llm.generate(/** @type {any} */ ({ ...QUESTION, stream: true })), { code: 'argument', message: /'stream'/ });
    await assert.rejects(llm.generate('').result, { code: 'argument', message: /prompt is empty/ });
    await assert.rejects(llm.generate([49152]).result, { code: 'argument', message: /49152/ });
    assert.match((await llm.generate(text, options).result).text, /\w/, 'it goes on after an error');
  });

  test('what a prompt has in common with the last one is not computed again, and changes nothing', async () => {
    const options = { temperature: 0, maxTokens: 8 };
    const prompt = await longPrompt(llm, 200);
    await llm.generate(await llm.tokenize('Something else'), options).result;
    const cold = await llm.generate(prompt, options).result;
    const warm = await llm.generate(prompt, options).result;
    const longer = await llm.generate([...prompt, ...warm.tokens, 28, 29], options).result;
    assert.equal(warm.cachedTokens, 199);
    assert.equal(warm.timings.prefill_tokens, 1);
    assert.equal(warm.logitsHash, cold.logitsHash);
    assert.deepEqual(warm.tokens, cold.tokens);
    assert.equal(longer.cachedTokens, 200 + 7);
  });

  test('a mask is per call and reported; the same mask written differently is the same', async () => {
    const options = { temperature: 0, maxTokens: 8 };
    const dense = await llm.generate(QUESTION, options).result;
    const masked = await llm.generate(QUESTION, { ...options, skip: SKIP }).result;
    const again = await llm.generate(QUESTION, { ...options, skip: { ffn: [20], attn: [17, 12] } }).result;
    const denseAgain = await llm.generate(QUESTION, { ...options, skip: '' }).result;
    assert.equal(masked.mask.blocksRun, 57);
    assert.ok(Math.abs(masked.mask.macsSkipped - 5 / 120) < 1e-9, 'attention 1 unit, feed-forward 3, of 120');
    assert.notEqual(masked.logitsHash, dense.logitsHash);
    assert.equal(again.logitsHash, masked.logitsHash);
    assert.ok(again.cachedTokens > 0);
    assert.equal(denseAgain.logitsHash, dense.logitsHash);
    assert.ok(denseAgain.cachedTokens > 0, 'each mask has a KV cache');
    await assert.rejects(llm.generate(QUESTION, { skip: 'ffn:30' }).result, { code: 'argument', message: /30/ });
  });

  test('the same seed gives the same text', async () => {
    const options = { maxTokens: 12, seed: 7, temperature: 1 };
    const a = await llm.generate(QUESTION, options).result;
    const b = await llm.generate(QUESTION, options).result;
    const c = await llm.generate(QUESTION, { ...options, seed: undefined }).result;
    assert.equal(a.text, b.text);
    assert.equal(a.seed, 7n);
    assert.equal(typeof c.seed, 'bigint');
  });

  test('it ends at maxTokens, an end token, a stop string, or the end of the context', async () => {
    const greedy = { temperature: 0 };
    assert.equal((await llm.generate(QUESTION, { ...greedy, maxTokens: 2 }).result).finishReason, 'length');
    const whole = await llm.generate(QUESTION, { ...greedy, maxTokens: 200 }).result;
    assert.equal(whole.finishReason, 'stop');
    const stop = whole.text.slice(8, 12);
    const cut = await llm.generate(QUESTION, { ...greedy, maxTokens: 200, stop: ['never said', stop] }).result;
    assert.equal(cut.finishReason, 'stop');
    assert.equal(cut.text, whole.text.slice(0, whole.text.indexOf(stop)));
    const tight = await llm.generate(await longPrompt(llm, 1020), { ...greedy, skip: 'attn:2-27;ffn:1-28' }).result;
    assert.ok(tight.finishReason === 'stop' || tight.tokens.length === 5, 'the last logits of a full context give one more token');
    await assert.rejects(llm.generate(await longPrompt(llm, 1025)).result, { code: 'context_full', message: /1025 tokens.*1024/ });
  });

  test('penalties change the text and not the bookkeeping', async () => {
    const prompt = 'a a a a a a a a a a a a';
    const plain = await llm.generate(prompt, { temperature: 0, maxTokens: 8 }).result;
    const penalised = await llm.generate(prompt, { temperature: 0, maxTokens: 8, repetitionPenalty: 1.5 }).result;
    assert.notEqual(penalised.text, plain.text);
    assert.match(penalised.logitsHash, /^[0-9a-f]{16}$/);
  });

  test('text comes in whole characters', async () => {
    const text = '👩‍👩‍👧‍👦 naïve 日本語 🎉🎉🎉 ﷽ e\u0301';
    assert.equal(await llm.detokenize(await llm.tokenize(text)), text);
    const party = (await llm.tokenize('🎉')).length;
    assert.ok(party > 1, 'an emoji of several tokens');
    const answer = llm.generate(`Confetti: ${'🎉'.repeat(24)}`, { temperature: 0, maxTokens: 4 * party });
    let all = '';
    for await (const { text: piece } of answer) {
      assert.ok(!piece.includes('\ufffd') && !/[\ud800-\udfff]/u.test(piece), JSON.stringify(piece));
      all += piece;
    }
    assert.match(all, /🎉/);
    assert.equal((await llm.detokenize((await llm.tokenize('🎉')).slice(0, 1))), '\ufffd', 'a half is flushed as U+FFFD');
  });

  test('special tokens in a text are tokens unless asked otherwise', async () => {
    const [token, ...rest] = await llm.tokenize('<|im_end|>');
    assert.equal(rest.length, 0);
    assert.ok((await llm.tokenize('<|im_end|>', { special: false })).length > 1);
    assert.equal(await llm.detokenize([token]), '');
    await assert.rejects(llm.tokenize('x', /** @type {any} */ ({ plain: true })), { code: 'argument', message: /'plain'/ });
  });

  test('info says what runs and why', () => {
    const { info } = llm;
    assert.equal(info.model.architecture, 'llama');
    assert.equal(info.model.layers, 30);
    assert.equal(info.context.size, 1024);
    assert.ok(info.module.threads >= 1 && info.module.threadsReason && info.module.variantReason);
    assert.ok(info.memory.used > info.model.packedBytes && info.memory.bytes >= info.memory.used);
    assert.ok(info.memory.bytes < 1.5 * info.model.packedBytes, 'weights are not held twice');
    info.model.layers = 0;
    assert.equal(llm.info.model.layers, 30, 'a copy');
  });
});

describe('the same bits', { skip: noModel }, () => {
  /** @param {import('../../node/index.js').LoadOptions} how @param {string} skip */
  async function answer(how, skip) {
    const llm = await loadModel(how);
    const { info } = llm;
    const { text, tokens, logitsHash } = await llm.generate(QUESTION, { temperature: 0, maxTokens: 12, skip }).result;
    const sampled = await llm.generate(QUESTION, { temperature: 1, seed: 3, maxTokens: 12, skip }).result;
    await llm.free();
    assert.equal(info.module.threads, how.threads);
    assert.equal(info.module.variant, how.variant);
    return { text, tokens, logitsHash, sampled: sampled.text };
  }

  for (const skip of ['', SKIP]) {
    test(`in every module, with 1, 2 and 3 threads, ${skip ? 'masked' : 'dense'}`, async (t) => {
      const first = await answer({ variant: 'simd128', threads: 1 }, skip);
      assert.deepEqual(await answer({ variant: 'simd128', threads: 2 }, skip), first);
      if (noRelaxed) t.diagnostic(`relaxed modules not compared: ${noRelaxed}`);
      else {
        assert.deepEqual(await answer({ variant: 'relaxed', threads: 1 }, skip), first);
        assert.deepEqual(await answer({ variant: 'relaxed', threads: 3 }, skip), first);
        assert.deepEqual(await answer({ variant: 'relaxed-dot', threads: 2 }, skip), first);
      }
    });
  }

  test('as every other target: the hashes in tests/golden', async (t) => {
    const golden = (/** @type {string} */ name) => JSON.parse(readFileSync(new URL(`../golden/${name}`, import.meta.url), 'utf8'));
    const hashes = golden('hashes.json');
    const { tokens } = golden('smollm2-q4_1.json');
    const masks = { dense: '', masked: 'attn:3,7,11,15,19,23,27;ffn:2,6,9,13,16,20,23,27' };
    if (noRelaxed) t.diagnostic(`relaxed modules not compared: ${noRelaxed}`);
    /** @type {import('../../wasm/loader.js').Variant[]} */
    const variants = noRelaxed ? ['simd128'] : ['simd128', 'relaxed', 'relaxed-dot'];
    for (const variant of variants)
      for (const threads of [1, 2]) {
        const llm = await loadModel({ variant, threads });
        for (const n of [24, 600])
          for (const [name, skip] of Object.entries(masks)) {
            const { logitsHash } = await llm.generate(tokens.slice(0, n), { temperature: 0, maxTokens: 1, skip }).result;
            assert.equal(logitsHash, hashes[`${name}_${n}`], `${variant}, ${threads} threads, ${name}, ${n} tokens`);
          }
        await llm.free();
      }
  });

  test('as the native command', { skip: existsSync(NATIVE) ? false : 'build/release/skipstone is not built' }, async () => {
    const llm = await loadModel({ threads: 1 });
    for (const skip of ['', SKIP]) {
      const args = ['run', '-m', MODEL, '-p', 'The capital of France is', '-n', '12', '--temp', '0', '--json'];
      if (skip) args.push('--skip', skip);
      const native = JSON.parse(execFileSync(NATIVE, args, { encoding: 'utf8' }));
      const { text, tokens, logitsHash } = await llm.generate('The capital of France is', { temperature: 0, maxTokens: 12, skip }).result;
      assert.deepEqual({ text, tokens, hash: logitsHash }, { text: native.text, tokens: native.tokens, hash: native.logits_hash });
    }
    await llm.free();
  });
});
