/* Banks on the command line, end to end, on a random model of two layers: cluster, bank build, inspect, route, run, chat,
 * bench. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { binary, corpus, fails, json, model, phrases, root, skip, skipstone, smollm2 } from './skipstone.mjs';

const foreign = path.join(root, 'tests/golden/tiny/qwen2.gguf');

describe('banks', { skip }, () => {
  let folder = '';
  /** @param {string} name */
  const at = (name) => path.join(folder, name);
  /** @param {string} out @param {string[]} more */
  const build = (out, ...more) => ['bank', 'build', '-m', model, '--corpus', at('train.jsonl'), '-k', '2', '--levels', '0.25,0.5',
    '--tokens-per-loss', '128', '--window', '32', '--out', at(out), ...more];

  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-bank-'));
    fs.writeFileSync(at('train.jsonl'), corpus(40));
    fs.writeFileSync(at('plain.txt'), 'A first paragraph of plain text.\n\nA second one, which is longer than that.\n'.repeat(40));
    const { code, err } = skipstone(build('bank.gguf'));
    assert.equal(code, 0, err);
  });
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('every command has a help with examples', () => {
    for (const name of ['cluster', 'bank', 'route']) {
      const { code, out } = skipstone([name, '--help']);
      assert.equal(code, 0);
      assert.match(out, new RegExp(`^Usage: skipstone ${name} [^]*-m, --model PATH[^]*\nExamples:\n {2}skipstone ${name} `));
      assert.ok(Math.max(...out.split('\n').map((line) => line.length)) <= 120, `${name}: help is at most 120 wide`);
      assert.match(skipstone(['--help']).out, new RegExp(`\n  ${name} +\\S`));
    }
  });

  test('cluster finds the two kinds, for several K and from raw rows too', () => {
    const [two, three] = json(['cluster', '-m', model, '--corpus', at('train.jsonl'), '-k', '2,3', '--json']);
    assert.equal(two.k, 2);
    assert.deepEqual(two.clusters.map((/** @type {any} */ c) => Object.keys(c.domains)).flat().sort(), ['sums', 'tales']);
    assert.ok(two.silhouette > 0.3 && two.converged);
    assert.equal(three.clusters.length, 3);
    assert.ok(three.inertia < two.inertia);
    fs.writeFileSync(at('rows'), Buffer.from(new Float32Array([1, 0, 0.9, 0.1, 0, 1, 0.1, 0.9]).buffer));
    const [raw] = json(['cluster', '--embeddings', at('rows'), '--dim', '2', '-k', '2', '--json']);
    assert.deepEqual(raw.clusters.map((/** @type {any} */ c) => c.size), [2, 2]);
    fails(['cluster', '--embeddings', at('rows'), '--dim', '3'], 1, /32 bytes, want a multiple of 12/);
    fails(['cluster', '-m', model, '--corpus', at('train.jsonl'), '-k', '41'], 1, /41 clusters of 40 points/);
    fails(['cluster', '-m', model, '--corpus', at('train.jsonl'), '-k', '2,x'], 2, /--clusters 2,x/);
    fails(['cluster', '-m', model], 2, /want --corpus/);
  });

  test('plain text is a corpus, and a wrong line is named', () => {
    const [one] = json(['cluster', '-m', model, '--corpus', at('plain.txt'), '-k', '1', '--json']);
    assert.ok(one.n >= 2);
    const count = (/** @type {string} */ text) => {
      fs.writeFileSync(at('long.txt'), text);
      return json(['cluster', '-m', model, '--corpus', at('long.txt'), '-k', '1', '--json'])[0].n;
    };
    const words = 'some words '.repeat(100); // 1100 bytes
    assert.equal(count(`${words}\n \r\n`.repeat(12)), 12, 'a line of spaces ends a sample');
    assert.equal(count(`${words}\n`.repeat(12)), 6, 'without blank lines the end of a line does');
    assert.equal(count(words.repeat(12)), 4, 'without lines a space does');
    for (const [line, message] of /** @type {[string, RegExp][]} */ ([
      ['{"text": "x"', /line 2, byte \d+: want ',' or '}'/],
      ['{"prompt": "x"}', /line 2: no "text"/],
      ['{"text": "\\q"}', /line 2.*want a valid escape/],
      ['[1]', /line 2.*want an object/],
      ['{"text": "x"} y', /line 2.*want the end/],
    ])) {
      fs.writeFileSync(at('wrong.jsonl'), `{"text": "fine", "n": [1, {"a": null}], "t": true}\n${line}\n`);
      fails(['cluster', '-m', model, '--corpus', at('wrong.jsonl')], 1, message);
    }
  });

  test('inspect shows clusters, levels, losses and masks', () => {
    const bank = json(['inspect', at('bank.gguf'), '--json']);
    assert.deepEqual(bank.levels, [0.25, 0.5]);
    assert.equal(bank.clusters.length, 3);
    assert.equal(bank.clusters[2].cluster, null);
    assert.equal(bank.clusters[0].size + bank.clusters[1].size, 40);
    assert.equal(bank.encoder.kind, 'self');
    assert.equal(bank.encoder.family, bank.model.family);
    assert.equal(bank.provenance, 'samples: sums 20, tales 20');
    assert.equal(JSON.parse(bank.training).tokens_per_loss, 128);
    for (const c of bank.clusters) for (const m of c.masks) assert.ok(Number.isFinite(m.loss) && m.blocks_run < 4 && m.skip);
    const { out } = skipstone(['inspect', at('bank.gguf')]);
    assert.match(out, /mask bank, version 1[^]*cluster 0, \d+ samples[^]* 25\.00 % [^]*global mask/);
  });

  test('the same command gives the same bytes, for any number of threads', () => {
    const { code } = skipstone(build('again.gguf', '--threads', '1'));
    assert.equal(code, 0);
    assert.deepEqual(fs.readFileSync(at('again.gguf')), fs.readFileSync(at('bank.gguf')));
  });

  test('resume measures nothing again, and refuses the state of another run', () => {
    fs.writeFileSync(at('bank.gguf.state/cluster-0.losses'), fs.readFileSync(at('bank.gguf.state/cluster-0.losses'), 'utf8').slice(0, -9));
    const done = json(build('bank.gguf', '--resume', '--json'));
    assert.equal(done.losses_measured, 1, 'the line that was cut');
    assert.ok(done.losses_known > 10);
    assert.deepEqual(fs.readFileSync(at('again.gguf')), fs.readFileSync(at('bank.gguf')));
    fails(build('bank.gguf', '--resume', '--seed', '5'), 1, /of another run/);
  });

  test('a build that is killed at any moment goes on to the same bank', async () => {
    for (const ms of [2, 8, 20, 40]) {
      fs.rmSync(at('killed.state'), { recursive: true, force: true });
      const child = spawn(binary, build('killed.gguf', '--state', at('killed.state')), { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.on('exit', resolve)); // on a fast machine it ends by itself
      await new Promise((resolve) => setTimeout(resolve, ms));
      child.kill('SIGKILL');
      await ended;
      const { code, err } = skipstone(build('killed.gguf', '--state', at('killed.state'), '--resume'));
      assert.equal(code, 0, err);
      assert.deepEqual(fs.readFileSync(at('killed.gguf')), fs.readFileSync(at('again.gguf')));
    }
  });

  test('leave-one-out measures a loss a block and one a level', () => {
    const done = json(build('loo.gguf', '--leave-one-out', '--json'));
    for (const m of done.masks) assert.equal(m.n_losses, 1 + 4 + 2);
    assert.equal(json(['inspect', at('loo.gguf'), '--json']).method, 'leave-one-out');
  });

  test('route names cluster, distance and the masks of all levels', () => {
    const a = json(['route', '-m', model, '--bank', at('bank.gguf'), '--json', phrases[0][0]]);
    const b = json(['route', '-m', model, '--bank', at('bank.gguf'), '--json', phrases[1][0]]);
    assert.notEqual(a.routing.cluster, b.routing.cluster);
    assert.ok(a.routing.distance > 0 && a.routing.distance < 1);
    const bank = json(['inspect', at('bank.gguf'), '--json']);
    a.levels.forEach((/** @type {any} */ level, /** @type {number} */ i) =>
      assert.equal(level.mask.skip, bank.clusters[a.routing.cluster].masks[i].skip));
    const lines = skipstone(['route', '-m', model, '--bank', at('bank.gguf'), '--lines', '-f', '-'], `${phrases[0][0]}\n${phrases[1][0]}\n`);
    assert.deepEqual(lines.out.trim().split('\n').map((l) => Number(l.split('\t')[0])), [a.routing.cluster, b.routing.cluster]);
    assert.match(skipstone(['route', '-m', model, '--bank', at('bank.gguf'), '']).out, /no cluster: the global mask/);
    fails(['route', '-m', model, 'x'], 2, /no bank/);
  });

  test('an option that needs a bank is refused without one', () => {
    fails(['run', '-m', model, '-p', 'x', '--depth', '0.9'], 2, /--depth needs --bank/);
    fails(['bench', '-m', model, '--bank-depth', '0.9'], 2, /--bank-depth needs --bank/);
  });

  test('run takes the mask of the prompt\'s cluster', () => {
    const args = ['run', '-m', model, '-p', phrases[1][1], '-n', '4', '--temp', '0', '--json'];
    const routed = json([...args, '--bank', at('bank.gguf'), '--depth', '0.5']);
    const bank = json(['inspect', at('bank.gguf'), '--json']);
    const { skip: want } = bank.clusters[routed.routing.cluster].masks[1];
    assert.equal(routed.mask.skip, want);
    assert.equal(routed.routing.level, 0.5);
    assert.ok(routed.routing.routing_ms > 0);
    assert.equal(json([...args, '--skip', want]).logits_hash, routed.logits_hash);
    const dense = json([...args, '--bank', at('bank.gguf'), '--depth', '1']);
    assert.equal(dense.routing.level, null);
    assert.equal(dense.logits_hash, json(args).logits_hash);
    fails([...args, '--bank', at('bank.gguf'), '--depth', '0.4'], 1, /deepest level runs 0\.5000/);
    fails([...args, '--bank', at('bank.gguf'), '--skip', 'attn:0'], 2, /exclude each other/);
  });

  test('a bank of another model, a damaged and a missing one are named', () => {
    fails(['run', '-m', foreign, '-p', 'x', '--bank', at('bank.gguf')], 1, /another model: the bank wants family [0-9a-f]+, the model is of family [0-9a-f]+/);
    const bytes = fs.readFileSync(at('bank.gguf'));
    fs.writeFileSync(at('cut.gguf'), bytes.subarray(0, 900));
    fails(['run', '-m', model, '-p', 'x', '--bank', at('cut.gguf')], 1, /cut\.gguf: /);
    fails(['run', '-m', model, '-p', 'x', '--bank', model], 1, /general\.architecture is 'llama', want 'skipstone-bank'/);
    fails(['run', '-m', model, '-p', 'x', '--bank', at('none.gguf')], 1, /none\.gguf: No such file/);
    fails(['inspect', at('cut.gguf')], 1, /cut\.gguf: /);
  });

  test('bench reports the routing beside the speed', () => {
    const r = json(['bench', '-m', model, '--bank', at('bank.gguf'), '--bank-depth', '0.5', '--prompt', phrases[0][0], '-p', '8', '-n', '2',
      '-d', '4', '-r', '1', '--json']);
    assert.ok(r.routing.routing_ms > 0 && r.mask.blocks_run < 4);
    fails(['bench', '-m', model, '--bank', at('bank.gguf'), '--skip', 'attn:0'], 2, /exclude each other/);
  });

  test('chat routes the first message, or every one', { skip: !fs.existsSync(smollm2) && `no ${smollm2}` }, () => {
    const made = skipstone(['bank', 'build', '-m', smollm2, '--corpus', at('train.jsonl'), '-k', '2', '--levels', '0.0625', '--leave-one-out',
      '--tokens-per-loss', '32', '--global-tokens', '32', '--window', '32', '--out', at('chat.gguf')]);
    assert.equal(made.code, 0, made.err);
    const chat = (/** @type {string} */ policy) => skipstone(['chat', '-m', smollm2, '--bank', at('chat.gguf'), '--depth', '0.9375', '--policy', policy,
      '-n', '4', '--temp', '0', '-v'], `${phrases[0][0]}\n${phrases[1][0]}\n${phrases[1][1]}\n`);
    const clusters = (/** @type {string} */ err) => [...err.matchAll(/\[cluster (\d+)/g)].map((m) => m[1]);
    const kept = (/** @type {string} */ err) => [...err.matchAll(/\[(\d+) kept/g)].map((m) => Number(m[1]));
    const pinned = chat('session');
    assert.equal(pinned.code, 0, pinned.err);
    assert.equal(new Set(clusters(pinned.err)).size, 1);
    assert.ok(kept(pinned.err)[1] > 0 && kept(pinned.err)[2] > 0);
    const routed = chat('turn');
    const [first, second, third] = clusters(routed.err);
    assert.notEqual(first, second);
    assert.equal(second, third);
    assert.equal(kept(routed.err)[1], 0, 'another mask: the history is prefilled again');
    assert.ok(kept(routed.err)[2] > 0, 'the same mask: it is not');
    fails(['chat', '-m', smollm2, '--bank', at('chat.gguf'), '--policy', 'word'], 2, /want session or turn/);
  });
});
