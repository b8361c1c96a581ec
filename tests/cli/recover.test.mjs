/* skipstone bank recover, end to end on a random model of two layers. SKIPSTONE names another binary than build/release/skipstone. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const binary = process.env.SKIPSTONE ?? path.join(root, 'build/release/skipstone');
const model = path.join(root, 'tests/golden/tiny/q4_1.gguf');
const skip = !fs.existsSync(binary) ? `no ${binary}` : false;

/** @param {string[]} args */
function skipstone(args) {
  const { SKIPSTONE_MODEL, ...env } = process.env;
  const done = spawnSync(binary, args, { encoding: 'utf8', env, maxBuffer: 1 << 26 });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

/** @param {string[]} args */
function json(args) {
  const { code, out, err } = skipstone(args);
  assert.equal(code, 0, err);
  return JSON.parse(out);
}

/** @param {string[]} args @param {number} code @param {RegExp} message */
function fails(args, code, message) {
  const done = skipstone(args);
  assert.match(done.err, message);
  assert.equal(done.code, code);
}

const phrases = [
  ['add seven and nine, then halve the sum', 'a farmer has twelve sheep and buys five more'],
  ['the old ship sailed into the night and the storm', 'she opened the letter and wept beside the window'],
];
const corpus = Array.from({ length: 60 }, (_, i) => {
  const kind = phrases[i % 2];
  const prompt = `${kind[(i >> 1) % 2]} ${i}`;
  return `${JSON.stringify({ domain: ['sums', 'tales'][i % 2], prompt, text: `${prompt} \u2013 so: ${kind.join(' ')}` })}\n`;
}).join('');

describe('bank recover', { skip }, () => {
  let folder = '';
  /** @param {string} name */
  const at = (name) => path.join(folder, name);
  /** @param {string} out @param {string[]} more */
  const recover = (out, ...more) => ['bank', 'recover', '-m', model, '--bank', at('bank.gguf'), '--corpus', at('train.jsonl'), '--out', at(out),
    '--window', '32', '--tokens-per-step', '64', '--held-tokens', '96', ...more];
  /** @type {any} */ let done;

  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-recover-'));
    fs.writeFileSync(at('train.jsonl'), corpus);
    const { code, err } = skipstone(['bank', 'build', '-m', model, '--corpus', at('train.jsonl'), '-k', '2', '--levels', '0.25,0.5',
      '--tokens-per-loss', '128', '--window', '32', '--out', at('bank.gguf')]);
    assert.equal(code, 0, err);
    done = json(recover('recovered.gguf', '--json'));
  });
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('lowers the KL of every mask on held-back text, and says by what', () => {
    assert.equal(done.masks.length, 6);
    for (const m of done.masks) {
      assert.ok(m.final.kl < m.none.kl && m.final.kl <= m.closed_form.kl);
      assert.ok(m.kl_without_gains > m.final.kl && m.gains_bytes > 0);
    }
    const log = fs.readFileSync(at('recovered.gguf.state/log.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
    assert.ok(log.length > 6 * 30);
    assert.deepEqual(log.filter((line) => line.final).map((line) => line.final.kl), done.masks.map((/** @type {any} */ m) => m.final.kl));
  });

  test('writes a bank of the same masks that inspect shows with their recovery', () => {
    const before = json(['inspect', at('bank.gguf'), '--json']);
    const bank = json(['inspect', at('recovered.gguf'), '--json']);
    assert.equal(before.version, 1);
    assert.equal(bank.version, 2);
    assert.equal(before.recovered_masks, 0);
    assert.equal(bank.recovered_masks, 6);
    assert.equal(JSON.parse(bank.training).recovery.steps, 30);
    assert.equal(JSON.parse(bank.training).tokens_per_loss, 128);
    for (const key of ['name', 'model', 'encoder', 'levels', 'method', 'provenance']) assert.deepEqual(bank[key], before[key]);
    bank.clusters.forEach((/** @type {any} */ c, /** @type {number} */ i) => {
      const { masks } = before.clusters[i];
      for (const key of ['cluster', 'size', 'example', 'dense_loss']) assert.equal(c[key], before.clusters[i][key]);
      c.masks.forEach((/** @type {any} */ m, /** @type {number} */ k) => {
        assert.equal(m.skip, masks[k].skip);
        assert.equal(m.recovery_bytes.gains, 2 * 64 * (m.blocks_run + 1));
        assert.equal(m.recovery_bytes.scales, 2 * m.blocks_run);
        assert.equal(m.recovery_bytes.stand_ins, 4 * 64 * (4 - m.blocks_run));
      });
    });
    assert.match(skipstone(['inspect', at('recovered.gguf')]).out, /recovery: gains scales stand-ins, \d+ B/);
  });

  test('run, bench and eval apply it, or not', () => {
    const run = ['run', '-m', model, '--bank', at('recovered.gguf'), '--depth', '0.5', '-p', 'a farmer', '-n', '1', '--temp', '0', '--json'];
    const on = json(run);
    const off = json([...run, '--recovery', 'off']);
    assert.deepEqual([on.routing.recovery, off.routing.recovery], [true, false]);
    assert.deepEqual(on.mask, off.mask);
    assert.notEqual(on.logits_hash, off.logits_hash);
    assert.equal(off.logits_hash, json(['run', '-m', model, '--skip', on.mask.skip, '-p', 'a farmer', '-n', '1', '--temp', '0', '--json']).logits_hash);
    const bench = json(['bench', '-m', model, '--bank', at('recovered.gguf'), '--bank-depth', '0.5', '-p', '16', '-n', '4', '-d', '8', '-r', '1',
      '--compare-dense', '--json']);
    assert.ok(bench.recovery_ratio.prefill_blocks > 0 && bench.routing.recovery);
    const { rows } = json(['eval', 'nll', '-m', model, '--data', at('train.jsonl'), '--bank', at('recovered.gguf'), '--depth', '0.5', '--recovery',
      'both', '--control', 'static', '--tokens', '300', '--json']);
    /** @param {RegExp} name */
    const kl = (name) => rows.filter((/** @type {any} */ r) => name.test(r.name)).map((/** @type {any} */ r) => r.kl.mean);
    for (const control of ['routed', 'static']) {
      const [with_, without] = kl(new RegExp(control));
      assert.ok(with_ < without, `${control}: ${with_} and ${without}`);
    }
  });

  test('the same command gives the same bytes, for any number of threads and any memory', () => {
    for (const more of [['--threads', '1'], ['--threads', '3', '--memory', '0']]) {
      const { code, err } = skipstone(recover('again.gguf', ...more));
      assert.equal(code, 0, err);
      assert.deepEqual(fs.readFileSync(at('again.gguf')), fs.readFileSync(at('recovered.gguf')));
    }
  });

  test('a run that is killed at any moment goes on to the same bank', async () => {
    for (const ms of [30, 120, 300]) {
      fs.rmSync(at('killed.state'), { recursive: true, force: true });
      const child = spawn(binary, recover('killed.gguf', '--state', at('killed.state')), { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.on('exit', resolve)); // on a fast machine it ends by itself
      await new Promise((resolve) => setTimeout(resolve, ms));
      child.kill(ms === 120 ? 'SIGINT' : 'SIGKILL');
      await ended;
      const { code, err } = skipstone(recover('killed.gguf', '--state', at('killed.state'), '--resume'));
      assert.equal(code, 0, err);
      assert.deepEqual(fs.readFileSync(at('killed.gguf')), fs.readFileSync(at('recovered.gguf')));
    }
    assert.equal(json(recover('killed.gguf', '--state', at('killed.state'), '--resume', '--json')).steps_taken, 0);
    fails(recover('killed.gguf', '--state', at('killed.state'), '--resume', '--rate', '0.01'), 1, /mask-0-2\.state: .*other data.*without --resume/);
  });

  test('fits the parts and levels that it is asked for', () => {
    const { masks } = json(recover('some.gguf', '--parts', 'scales,stand-ins', '--levels', '0.5', '--steps', '5', '--json'));
    assert.equal(masks.length, 3);
    for (const m of masks) assert.ok(m.level === 0.5 && m.gains_bytes === 0);
    const bank = json(['inspect', at('some.gguf'), '--json']);
    assert.equal(bank.clusters[0].masks[0].recovery_bytes, undefined);
    assert.equal(bank.clusters[0].masks[1].recovery_bytes.gains, 0);
    const closed = json(recover('closed.gguf', '--steps', '0', '--json'));
    for (const m of closed.masks) assert.ok(m.step === 0 && m.gains_bytes === 0 && m.scales_bytes === 0 && m.final.kl <= m.none.kl);
  });

  test('goes on from the recovery that a bank has, and leaves other levels as they are', () => {
    const from = (/** @type {string[]} */ ...more) => recover('more.gguf', '--bank', at('recovered.gguf'), '--levels', '0.5', '--steps', '5', '--json', '--seed', '1', ...more);
    const more = json(from('--continue'));
    for (const m of more.masks) assert.ok(m.closed_form.kl < m.none.kl && m.final.kl <= m.closed_form.kl);
    const [before, after] = ['recovered.gguf', 'more.gguf'].map((name) => json(['inspect', at(name), '--json']));
    const { recovery, recovery_2: second } = JSON.parse(after.training);
    assert.deepEqual([recovery.continued, second.continued, second.levels, second.steps], [false, true, '0.5', 5]);
    for (const [c, cluster] of before.clusters.entries()) assert.deepEqual(after.clusters[c].masks[0], cluster.masks[0]);
    const losses = (/** @type {string} */ bank) => json(['eval', 'nll', '-m', model, at('train.jsonl'), '--bank', `bank=${at(bank)}`, '--depth', '0.75', '--json'])
      .rows.map((/** @type {any} */ row) => row.nll.mean);
    assert.deepEqual(losses('more.gguf'), losses('recovered.gguf'), 'the numbers of the other level are the same');
    const again = json(from()).masks;
    for (const [i, m] of more.masks.entries()) assert.ok(m.closed_form.kl < again[i].closed_form.kl, 'the start is better than the closed form alone');
  });

  test('what is wrong is said', () => {
    fails(recover('x.gguf', '--parts', 'gains,biases'), 2, /--parts gains,biases: want some of/);
    fails(recover('x.gguf', '--levels', '0.3'), 1, /--levels 0\.3: the bank has 0 of these/);
    fails(['bank', 'recover', '-m', model, '--corpus', at('train.jsonl'), '--out', at('x.gguf')], 2, /no bank/);
    fails(['bank', 'recover', '-m', model, '--bank', at('bank.gguf'), '--corpus', at('train.jsonl')], 2, /nowhere to write/);
    fails(['bank', 'recover', '-m', model, '--bank', at('bank.gguf'), '--out', at('x.gguf')], 2, /no corpus/);
    fails(['run', '-m', model, '--bank', at('bank.gguf'), '--recovery', 'maybe', '-p', 'x'], 2, /--recovery maybe: want on or off/);
    fails(['run', '-m', model, '--recovery', 'off', '-p', 'x'], 2, /--recovery needs --bank/);
    const few = at('few.jsonl');
    fs.writeFileSync(few, corpus.split('\n').slice(0, 2).join('\n'));
    fails(['bank', 'recover', '-m', model, '--bank', at('bank.gguf'), '--corpus', few, '--out', at('x.gguf')], 1, /cluster \d: of its \d samples/);
    assert.match(skipstone(['bank', 'recover', '--help']).out, /stand-in[^]*--resume/);
  });
});
