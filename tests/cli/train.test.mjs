/* skipstone train and report, end to end, on a random model of two layers. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { binary, corpus, fails, json, model, phrases, root, skip, skipstone } from './skipstone.mjs';

const mpiBinary = path.join(root, 'build/mpi/skipstone');

describe('train', { skip }, () => {
  let folder = '';
  /** @param {string} name */
  const at = (name) => path.join(folder, name);
  /** @param {string} out @param {string[]} more */
  const train = (out, ...more) => ['train', '-m', model, '--corpus', at('train.jsonl'), '-k', '2', '--levels', '0.25,0.5', '--window', '32',
    '--step-tokens', '128', '--global-steps', '16', '--steps', '8', '--greedy-tokens', '128', '--swap-tokens', '128', '--recover-steps', '4', '--out', at(out), ...more];
  /** @param {string} name */
  const read = (name) => fs.readFileSync(at(name));
  /** The log of a state folder, all files one behind the other. @param {string} name */
  const log = (name) => fs.readdirSync(at(name)).filter((file) => file.endsWith('.jsonl')).sort()
    .flatMap((file) => fs.readFileSync(at(`${name}/${file}`), 'utf8').trim().split('\n').map((line) => JSON.parse(line)));
  /** @param {any[]} lines */
  const order = (lines) => lines.map(({ phase, cluster, level, step, loss, skipped }) => [phase, cluster, level, step, loss, skipped]);

  /** A finished run without its bank. @param {string} name */
  const copyState = (name) => fs.cpSync(at('bank.gguf.state'), at(`${name}.state`), { recursive: true });

  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-train-'));
    fs.writeFileSync(at('train.jsonl'), corpus(60));
    const { code, err } = skipstone(train('bank.gguf', '--provenance', 'made up'));
    assert.equal(code, 0, err);
  });
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('the help tells the defaults of both profiles', () => {
    const { code, out } = skipstone(['train', '--help']);
    assert.equal(code, 0);
    assert.match(out, /--steps N [^]*\(default: full \d+, fast \d+\)/);
    assert.match(out, /--levels LIST [^]*full 0\.0625,0\.125,0\.1875,0\.25, fast 0\.125,0\.25/);
    assert.ok(Math.max(...out.split('\n').map((line) => line.length)) <= 120, 'at most 120 wide');
    for (const name of ['train', 'report']) assert.match(skipstone(['--help']).out, new RegExp(`\n  ${name} +\\S`));
  });

  test('a dry run says what it would cost and makes nothing', () => {
    const { out, code } = skipstone(train('dry.gguf', '--dry-run'));
    assert.equal(code, 0);
    assert.match(out, /60 samples, 2 clusters, levels 25 % \(3\), 50 % \(5\) of 10 units\n[^]*swap search[^]*hours/);
    const plan = json(train('dry.gguf', '--dry-run', '--json', '--profile', 'fast'));
    assert.equal(plan.plan.profile, 'fast');
    assert.equal(plan.plan.steps, 8);
    const [, , all, clusters] = plan.cost.phases;
    assert.deepEqual([all.tokens, clusters.tokens], [2 * 16 * 128, 2 * 2 * 8 * 128]);
    assert.ok(plan.cost.phases.every((/** @type {any} */ phase) => phase.seconds >= 0) && Number.isFinite(plan.cost.hours));
    assert.ok(!fs.existsSync(at('dry.gguf')) && !fs.existsSync(at('dry.gguf.state')));
  });

  test('every mask of the bank has exactly its budget', () => {
    const bank = json(['inspect', at('bank.gguf'), '--json']);
    assert.deepEqual(bank.levels, [0.25, 0.5]);
    assert.equal(bank.clusters.length, 3);
    assert.match(bank.method, /^l0/);
    assert.equal(bank.provenance, 'made up; samples: sums 30, tales 30');
    const training = JSON.parse(bank.training);
    assert.equal(training.plan.steps, 8);
    assert.equal(training.first_masks, 'greedy');
    assert.equal(training.chats, true);
    assert.ok(bank.recovered_masks > 0);
    /** Two layers: an attention block is 2 of 10 units, a feed-forward block 3. @param {string} text */
    const units = (text) => text.split(';').reduce((sum, part) => sum + (part.startsWith('attn') ? 2 : 3) * part.split(/[,-]/).length, 0);
    for (const c of bank.clusters) {
      assert.deepEqual(c.masks.map((/** @type {any} */ m) => units(m.skip)), [3, 5]);
      for (const m of c.masks) assert.ok(Number.isFinite(m.loss));
    }
    assert.equal(skipstone(['route', '-m', model, '--bank', at('bank.gguf'), phrases[0][0]]).code, 0);
  });

  test('the log has a line for each step and each mask', () => {
    const lines = log('bank.gguf.state');
    const steps = lines.filter((line) => line.phase === 'l0'), masks = lines.filter((line) => line.phase === 'mask');
    assert.equal(steps.length, 2 * 16 + 2 * 2 * 8);
    assert.equal(masks.length, 6);
    const whole = fs.readFileSync(at('bank.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(whole.length, lines.length, 'and one file has them all');
    assert.equal(whole[0].cluster, null);
    for (const step of steps) {
      for (const key of ['loss', 'skipped', 'target', 'tokens', 'tokens_per_second']) assert.ok(Number.isFinite(step[key]), key);
      assert.equal(step.lambda.length, 2);
    }
    for (const m of masks) {
      const other = m.other_text ?? { search: 0, kept: 'search' };
      if (other.kept === 'search') assert.ok(m.loss <= Math.min(m.start_loss, m.trained_loss), 'what the bank has is the best that was found');
      if (m.cluster !== null && other.kept !== 'all text') assert.ok(!(other['all text'] <= other[other.kept]), 'and is better on text that no search has seen');
      assert.equal(m.mask.units_skipped, m.level === 0.25 ? 3 : 5);
      assert.equal(m.open.length, 4);
      assert.ok(m.recovery.kl <= m.recovery.kl_before, 'recovery is left out where it does not help');
    }
  });

  test('the same command gives the same bytes, for any number of threads and any memory', () => {
    const { code, err } = skipstone(train('again.gguf', '--threads', '1', '--memory', '64', '--provenance', 'made up'));
    assert.equal(code, 0, err);
    assert.deepEqual(read('again.gguf'), read('bank.gguf'));
    assert.deepEqual(order(log('again.gguf.state')), order(log('bank.gguf.state')));
    assert.notDeepEqual(json(train('seed.gguf', '--seed', '1', '--json')).masks, json(train('again.gguf', '--resume', '--json')).masks);
  });

  test('a finished run that goes on reads all masks and writes the same bank', () => {
    copyState('finished.gguf');
    const done = json(train('finished.gguf', '--resume', '--json', '--provenance', 'made up'));
    assert.equal(done.masks_loaded, 6);
    assert.deepEqual(read('finished.gguf'), read('bank.gguf'));
  });

  /** Starts the command and kills it after so many ms. @param {string[]} args @param {number} ms @param {NodeJS.Signals} signal */
  async function killed(args, ms, signal) {
    const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', (data) => (said += data));
    const ended = new Promise((resolve) => child.on('close', (code) => resolve(code)));
    const timer = setTimeout(() => child.kill(signal), ms);
    const code = await ended;
    clearTimeout(timer);
    return { code, said };
  }

  test('a run that is killed at 20 random moments goes on to the same bank and log', async () => {
    const args = (/** @type {string[]} */ ...more) => train('killed.gguf', '--checkpoint', '0', '--provenance', 'made up', '--resume', ...more);
    const start = performance.now();
    assert.equal(skipstone(args()).code, 0);
    const whole = performance.now() - start;
    let kills = 0;
    for (let round = 0; kills < 20 && round < 60; round++) {
      fs.rmSync(at('killed.gguf'), { force: true });
      if (round % 4 === 0) fs.rmSync(at('killed.gguf.state'), { recursive: true, force: true });
      const { code } = await killed(args(), Math.random() * whole, 'SIGKILL');
      kills += code === null ? 1 : 0;
      if (round % 4 !== 3) continue;
      const { code: last, err } = skipstone(args());
      assert.equal(last, 0, err);
      assert.deepEqual(read('killed.gguf'), read('bank.gguf'));
      assert.deepEqual(order(log('killed.gguf.state')), order(log('bank.gguf.state')));
    }
    assert.ok(kills >= 10, `killed ${kills} times`); // on a busy machine some ends come first
  });

  test('Ctrl-C and a scheduler\'s signal write the state and say how to go on', async () => {
    for (const signal of /** @type {NodeJS.Signals[]} */ (['SIGINT', 'SIGTERM'])) {
      fs.rmSync(at('stopped.gguf.state'), { recursive: true, force: true });
      fs.rmSync(at('stopped.gguf'), { force: true });
      const args = train('stopped.gguf', '--global-steps', '100000');
      const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.on('data', (data) => (said += data));
      const ended = new Promise((resolve) => child.on('close', resolve));
      const growing = at('stopped.gguf.state/global.level-0.jsonl');
      while (!fs.existsSync(growing) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
      child.kill(signal);
      assert.equal(await ended, 130, said);
      assert.match(said, /stopped; what was done is in .*stopped\.gguf\.state: --resume goes on/);
      assert.ok(fs.existsSync(at('stopped.gguf.state/global.level-0.l0')) && !fs.existsSync(at('stopped.gguf')));
    }
    const report = skipstone(['report', at('stopped.gguf.state')]);
    assert.equal(report.code, 0, report.err);
    assert.ok(fs.statSync(at('stopped.gguf.state.html')).size > 10000);
  });

  test('a bank of the same clustering gives clusters and first masks', () => {
    const made = skipstone(['bank', 'build', '-m', model, '--corpus', at('train.jsonl'), '-k', '2', '--levels', '0.25,0.5', '--tokens-per-loss', '128',
      '--window', '32', '--out', at('greedy.gguf')]);
    assert.equal(made.code, 0, made.err);
    const args = ['train', '-m', model, '--corpus', at('train.jsonl'), '--levels', '0.25,0.5', '--window', '32', '--step-tokens', '64', '--global-steps', '2',
      '--steps', '2', '--swap-tokens', '128', '--no-swap', '--recover', 'none', '--init', at('greedy.gguf'), '--out', at('from.gguf')];
    assert.equal(skipstone(args).code, 0);
    const [from, greedy] = ['from.gguf', 'greedy.gguf'].map((name) => json(['inspect', at(name), '--json']));
    assert.equal(JSON.parse(from.training).first_masks, "a bank's");
    assert.deepEqual([from.method, from.recovered_masks], ['l0', 0]);
    assert.deepEqual(from.clusters.map((/** @type {any} */ c) => c.size), greedy.clusters.map((/** @type {any} */ c) => c.size));
    assert.ok(!fs.existsSync(at('from.gguf.state/greedy.losses')), 'nothing was searched for');
    fails([...args, '--resume', '-k', '3'], 2, /the bank of --init has 2/);
    fails(args.map((word) => (word === '0.25,0.5' ? '0.2,0.5' : word === at('from.gguf') ? at('level.gguf') : word)), 1,
      /the bank of --init has no mask that skips 2 units, for level 1/);
    const foreign = path.join(root, 'tests/golden/tiny/qwen2.gguf');
    fails(['train', '-m', foreign, '--corpus', at('train.jsonl'), '--init', at('greedy.gguf'), '--out', at('x.gguf')], 1, /another model/);
  });

  test('what is in the way or impossible is named', () => {
    fails(train('bank.gguf'), 2, /bank\.gguf is there already/);
    copyState('taken.gguf');
    fails(train('taken.gguf'), 1, /taken\.gguf\.state holds a run: --resume/);
    fails(train('taken.gguf', '--resume', '--seed', '2'), 1, /it has 'seed 0', this command 'seed 2'/);
    fails(train('new.gguf', '-k', '31'), 1, /60 samples for 31 clusters, want at least 62/);
    fails(train('new.gguf', '--levels', '0.01'), 1, /level 1 %: the nearest that blocks of this model make is 0 of 10 units, no block at all/);
    fails(train('none/new.gguf'), 1, /none\/new\.gguf: No such file/);
    fails(train('new.gguf', '--report', at('none/x.html')), 1, /none\/x\.html: No such file/);
    fails(train('new.gguf', '--objective', 'mse'), 2, /want lm or kl/);
    fails(train('new.gguf', '--profile', 'slow'), 2, /want full or fast/);
    fails(train('new.gguf', '--held-back', '0.95'), 2, /from 0\.01 to 0\.9/);
    fails(['train', '-m', model, '--corpus', at('train.jsonl')], 2, /nowhere to write/);
    fails(['train', '-m', model, '--out', at('new.gguf')], 2, /no corpus/);
    fails(['report'], 2, /want the state folder/);
    fails(['report', at('none')], 1, /run\.json: No such file/);
    fs.writeFileSync(at('short.jsonl'), '{"text": "one"}\n'.repeat(40));
    fails(['train', '-m', model, '--corpus', at('short.jsonl'), '-k', '1', '--levels', '0.5', '--out', at('new.gguf')], 1, /0 of the 40 samples have the 16 tokens/);
  });

  test('a damaged file of the state is named', () => {
    copyState('damaged.gguf');
    const file = at('damaged.gguf.state/cluster-1.level-1.mask');
    const bytes = fs.readFileSync(file);
    bytes[bytes.length - 3] ^= 1;
    fs.writeFileSync(file, bytes);
    fails(train('damaged.gguf', '--resume'), 1, /cluster-1\.level-1\.mask: damaged, or of another run: remove it/);
    fs.rmSync(file);
    assert.equal(skipstone(train('damaged.gguf', '--resume', '--provenance', 'made up')).code, 0);
    assert.deepEqual(read('damaged.gguf'), read('bank.gguf'), 'and taken again once it is removed');
  });

  test('a full disk ends the run with the file\'s name, and it goes on when there is room', () => {
    const args = train('full.gguf', '--provenance', 'made up');
    const limited = spawnSync('sh', ['-c', 'ulimit -f 20; trap "" XFSZ; exec "$@"', 'sh', binary, ...args], { encoding: 'utf8' });
    assert.equal(limited.status, 1);
    assert.match(limited.stderr, /full\.gguf\.state\/\S+: File too large/);
    assert.ok(!fs.readdirSync(at('full.gguf.state')).some((name) => name.endsWith('.tmp')), 'no part of a file is left');
    const { code, err } = skipstone([...args, '--resume']);
    assert.equal(code, 0, err);
    assert.deepEqual(read('full.gguf'), read('bank.gguf'));
  });

  test('the report is one file that asks nothing of the network and shows no text of the corpus', () => {
    const page = fs.readFileSync(at('bank.html'), 'utf8');
    assert.doesNotMatch(page, /@(run|log|script)@/);
    assert.deepEqual([...new Set(page.match(/\bhttps?:[^'"\s)]+/g))], ['http://www.w3.org/2000/svg']);
    assert.doesNotMatch(page, /<link|<img|@import|url\(|fetch\(|import\(/);
    for (const phrase of phrases.flat()) assert.ok(!page.includes(phrase), phrase);
    const run = JSON.parse(/id="run">([^]*?)<\/script>/.exec(page)?.[1] ?? '');
    assert.equal(run.clusters.length, 2);
    assert.equal(run.clusters.flatMap((/** @type {any} */ c) => c.examples).length, 50, 'each of our prompts is routed to one cluster');
    const lines = (/id="log">([^]*?)<\/script>/.exec(page)?.[1] ?? '').trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(lines.filter((line) => line.phase === 'mask').length, 6);
  });

  const noMpi = !fs.existsSync(mpiBinary) ? `no ${mpiBinary} (cmake --preset mpi)` : spawnSync('mpirun', ['--version']).error ? 'no mpirun' : false;
  test('two processes train the gates of one, up to the order of summation', { skip: noMpi }, () => {
    /** Log alphas of a checkpoint: behind its head of 40 bytes and 64 of the state. @param {string} file */
    const alphas = (file) => {
      const bytes = read(file);
      return Array.from({ length: bytes.readUInt32LE(40) }, (_, i) => bytes.readDoubleLE(40 + 64 + 8 * i));
    };
    for (const n of [1, 2, 3]) {
      const done = spawnSync('mpirun', ['-np', `${n}`, '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', mpiBinary, ...train(`mpi-${n}.gguf`, '--threads', '1')],
        { encoding: 'utf8' });
      assert.equal(done.status, 0, done.stderr);
    }
    for (const file of ['global.level-0.l0', 'global.level-1.l0']) {
      const one = alphas(`mpi-1.gguf.state/${file}`);
      for (const n of [2, 3]) alphas(`mpi-${n}.gguf.state/${file}`).forEach((a, i) => assert.ok(Math.abs(a - one[i]) < 1e-6, `${file}: ${a} and ${one[i]}`));
    }
    for (const n of [2, 3]) assert.equal(json(['inspect', at(`mpi-${n}.gguf`), '--json']).clusters.length, 3);
  });
});
