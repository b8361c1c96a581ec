/* Static masks to compare with, on a random model of two layers: skipstone bank baseline. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { binary, corpus, fails, json, model, skip, skipstone } from './skipstone.mjs';

/** An attention block has 2 of the model's 10 units, a feed-forward block 3. @param {string} skipped "attn:0-1;ffn:1" */
const units = (skipped) =>
  skipped.split(';').reduce((sum, kind) => sum + (kind.startsWith('attn') ? 2 : 3) * (kind.includes('0-1') ? 2 : 1), 0);
const methods = ['greedy', 'leave-one-out', 'block-influence', 'evolution', 'random'];

describe('baselines', { skip }, () => {
  let folder = '';
  /** @param {string} name */
  const at = (name) => path.join(folder, name);
  /** @param {string} method @param {string[]} more */
  const args = (method, ...more) => ['bank', 'baseline', '-m', model, '--method', method, '--corpus', at('train.jsonl'), '--levels', '0.25,0.5',
    '-n', '400', '--window', '32', '--generations', '6', '--offspring', '8', '--out', at(`${method}.gguf`), '--json', ...more];
  /** @type {Record<string, any>} */
  const made = {};

  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-baseline-'));
    fs.writeFileSync(at('train.jsonl'), corpus(40));
    for (const method of methods) made[method] = json(args(method));
  });
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('every method skips exactly the same number of units', () => {
    for (const method of methods) {
      assert.deepEqual(made[method].levels.map((/** @type {any} */ l) => l.units), [3, 5], method);
      const bank = json(['inspect', at(`${method}.gguf`), '--json']);
      assert.equal(bank.method, method);
      for (const c of bank.clusters) assert.deepEqual(c.masks.map((/** @type {any} */ m) => units(m.skip)), [3, 5], method);
    }
    assert.equal(json(['inspect', at('random.gguf'), '--json']).clusters.length, 8 + 1);
  });

  test('evolution finds the best of all masks of that size', () => {
    const random = json([...args('random', '--draws', '64').map((a) => a.replace('random.gguf', 'many.gguf'))]);
    [0, 1].forEach((level) =>
      assert.equal(made.evolution.levels[level].losses[0], Math.min(...random.levels[level].losses)));
    for (const method of methods) assert.equal(made[method].dense_loss, random.dense_loss);
  });

  test('the same seed gives the same bytes, for any number of threads, and another seed other random masks', () => {
    for (const method of ['evolution', 'random']) {
      const before = fs.readFileSync(at(`${method}.gguf`));
      json(args(method, '--threads', '1'));
      assert.deepEqual(fs.readFileSync(at(`${method}.gguf`)), before);
    }
    const before = fs.readFileSync(at('random.gguf'));
    json(args('random', '--seed', '7'));
    assert.notDeepEqual(fs.readFileSync(at('random.gguf')), before);
  });

  test('resume measures nothing again, across methods too, and refuses the state of other settings', () => {
    for (const method of methods.slice(0, 4)) assert.equal(json(args(method, '--resume')).losses_measured, 0, method);
    const shared = json(args('leave-one-out', '--resume', '--state', at('greedy.gguf.state')));
    assert.equal(shared.losses_measured, 0, 'greedy has measured each block alone');
    fails(args('evolution', '--resume', '-n', '300'), 1, /of another run/);
    fails(args('evolution', '--resume', '--window', '16'), 1, /of another run/);
  });

  test('a search that is killed goes on to the same bank', async () => {
    const want = fs.readFileSync(at('evolution.gguf'));
    for (const ms of [3, 12, 30]) {
      fs.rmSync(at('killed.state'), { recursive: true, force: true });
      const child = spawn(binary, args('evolution', '--state', at('killed.state')), { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.on('exit', resolve));
      await new Promise((resolve) => setTimeout(resolve, ms));
      child.kill('SIGKILL');
      await ended;
      json(args('evolution', '--state', at('killed.state'), '--resume'));
      assert.deepEqual(fs.readFileSync(at('evolution.gguf')), want);
    }
  });

  test('evolution starts from the masks of a bank', () => {
    const done = skipstone(args('evolution', '--start', at('greedy.gguf')));
    assert.equal(done.code, 0, done.err);
    const started = [...done.err.matchAll(/([\d.]+) -> ([\d.]+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
    started.forEach(([first, last], i) => {
      assert.ok(Math.abs(first - made.greedy.levels[i].losses[0]) < 1e-4);
      assert.ok(last <= first);
    });
    fails(args('evolution', '--start', at('greedy.gguf'), '--levels', '0.75'), 1, /deepest level/);
    fails(args('random', '--start', at('greedy.gguf')), 2, /--start is for --method evolution/);
  });

  test('what is missing or wrong is named', () => {
    fails(args('evolutoin'), 2, /did you mean evolution/);
    fails(['bank', 'baseline', '-m', model, '--corpus', at('train.jsonl'), '--out', at('x')], 2, /--method: want greedy/);
    fails(['bank', 'baseline', '-m', model, '--method', 'random', '--out', at('x')], 2, /no corpus/);
    fails(['bank', 'baseline', '-m', model, '--method', 'random', '--corpus', at('none.jsonl'), '--out', at('x')], 1, /none\.jsonl: No such file/);
    fails(args('greedy', '--levels', '0.5,0.25'), 2, /--levels 0\.5,0\.25/);
    fails(['bank', '-m', model], 2, /want: skipstone bank build, baseline or recover/);
    assert.match(skipstone(['bank', 'baseline', '--help']).out, /Usage: skipstone bank baseline [^]*Examples:/);
  });
});
