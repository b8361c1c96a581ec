/* skipstone eval on a random model of two layers: losses, multiple choice and plots; answers need a model that chats. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { binary, corpus, fails, json, model, skip, skipstone, smollm2 } from './skipstone.mjs';

/** @typedef {Record<string, any>} Row */
/** @param {any} result @returns {Record<string, Row>} */
const byName = (result) => Object.fromEntries(result.rows.map((/** @type {Row} */ row) => [row.name, row]));

describe('eval', { skip }, () => {
  let folder = '';
  /** @param {string} name */
  const at = (name) => path.join(folder, name);
  /** @param {string} name @param {object[]} lines */
  const write = (name, lines) => fs.writeFileSync(at(name), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));

  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-eval-'));
    fs.writeFileSync(at('train.jsonl'), corpus(40));
    fs.writeFileSync(at('heldout.jsonl'), corpus(16, 1000));
    fs.writeFileSync(at('long.txt'), 'The stone skips over the water, once and twice, and it sinks in the end of it all. '.repeat(60));
    const common = ['-m', model, '--corpus', at('train.jsonl'), '--levels', '0.25,0.5', '--window', '32'];
    for (const args of [
      ['bank', 'build', ...common, '-k', '2', '--tokens-per-loss', '128', '--out', at('bank.gguf')],
      ['bank', 'baseline', ...common, '--method', 'greedy', '-n', '512', '--out', at('greedy.gguf')],
      ['bank', 'baseline', ...common, '--method', 'random', '-n', '512', '--draws', '4', '--out', at('random.gguf')],
    ]) assert.equal(skipstone(args).code, 0);
    write('easy.jsonl', Array.from({ length: 30 }, (_, i) => ({ context: `Question: what is ${i} and ${i + 1}?\nAnswer:`,
      choices: [' a stone', ` the number ${2 * i + 1}`, ' it is raining in the old town', ' no'].slice(0, i % 2 ? 4 : 3), gold: i % 3 })));
    write('hellaswag.mini.jsonl', Array.from({ length: 12 }, (_, i) => ({ context: `He takes ${i} steps and`, choices: [' falls.', ' goes home again.'], gold: i % 2 })));
    write('two.jsonl', Array.from({ length: 12 }, (_, i) => ({ contexts: [`Sarah met Maria ${i} times so Sarah`, `Sarah met Maria ${i} times so Maria`],
      continuation: ' was glad.', gold: i % 2 })));
    write('last.jsonl', Array.from({ length: 10 }, (_, i) => ({ context: `The ${i} birds sat in the`, continuation: ' tree' })));
  });
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('every task has a help with examples', () => {
    assert.match(skipstone(['eval', '--help']).out, /Tasks:[^]*nll [^]*choice [^]*generate [^]*plot /);
    for (const task of ['nll', 'choice', 'generate', 'plot']) {
      const { code, out } = skipstone(['eval', task, '--help']);
      assert.equal(code, 0);
      assert.match(out, new RegExp(`^Usage: skipstone eval ${task} [^]*\nExamples:\n {2}skipstone eval ${task} `));
      assert.ok(Math.max(...out.split('\n').map((line) => line.length)) <= 125, `${task}: help is at most 125 wide`);
    }
    fails(['eval', '-m', model], 2, /want a task: nll, choice/);
    fails(['eval', 'chioce', '-m', model], 2, /did you mean choice/);
  });

  describe('nll', () => {
    const args = () => ['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--bank', at('bank.gguf'), '--depth', '0.75,0.5', '--control',
      'random', '--control', 'oracle', '--control', 'static', '--mask', 'ffn:1', '--tokens', '200', '--window', '32'];

    test('dense, masks, a bank and its controls', () => {
      const r = json([...args(), '--json', '-o', at('result.json')]);
      assert.deepEqual(JSON.parse(fs.readFileSync(at('result.json'), 'utf8')), r);
      assert.equal(r.rows.length, 2 + 2 * 4);
      const rows = byName(r);
      assert.deepEqual(rows.dense.kl, { mean: 0, low: 0, high: 0 });
      assert.deepEqual(Object.keys(rows.dense.domains), ['sums', 'tales']);
      for (const depth of ['0.75', '0.5']) {
        const [routed, oracle] = [rows[`bank.gguf ${depth} routed`], rows[`bank.gguf ${depth} oracle`]];
        assert.ok(oracle.nll.mean <= routed.nll.mean && routed.kl.mean > 0);
        assert.ok(routed.excess_nll.low <= routed.excess_nll.mean && routed.excess_nll.mean <= routed.excess_nll.high);
        assert.equal(routed.series, 'bank.gguf routed');
        const mean = (routed.domains.sums.nll + routed.domains.tales.nll) / 2;
        assert.ok(Math.abs(mean - routed.nll.mean) < 1e-5, 'the mean over domains');
      }
      assert.equal(rows['ffn:1'].macs_skipped, 0.3);
      const again = json([...args(), '--json', '-o', at('result.json'), '--resume']);
      assert.equal(again.measured, 0);
      assert.deepEqual(again.rows, r.rows);
      const { out } = skipstone([...args(), '--threads', '1']);
      assert.match(out, /over dense +KL\ndense +0\.00 %[^]*NLL over dense by domain\nrow +sums +tales\n/);
    });

    test('several banks and baselines are compared pairwise, depth by depth', () => {
      const r = json(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--bank', `mine=${at('bank.gguf')}`, '--bank', at('random.gguf'),
        '--baseline', `greedy=${at('greedy.gguf')}`, '--depth', '0.75,0.5', '--control', 'random', '--tokens', '300', '--window', '32', '--json']);
      const rows = byName(r);
      assert.deepEqual(Object.keys(rows), ['dense', ...['greedy 0.75 static', 'greedy 0.5 static'],
        ...['mine', 'random.gguf'].flatMap((bank) => ['0.75', '0.5'].flatMap((depth) => [`${bank} ${depth} routed`, `${bank} ${depth} random`]))]);
      assert.deepEqual(rows.dense.against, []);
      assert.deepEqual(rows['greedy 0.5 static'].against, []);
      for (const depth of ['0.75', '0.5']) {
        const [routed, greedy] = [rows[`mine ${depth} routed`], rows[`greedy ${depth} static`]];
        const [to] = routed.against;
        assert.equal(to.row, `greedy ${depth} static`);
        assert.ok(Math.abs(to.nll_difference.mean - (routed.nll.mean - greedy.nll.mean)) < 1e-5);
        assert.ok(Math.abs(to.excess_ratio.mean - routed.excess_nll.mean / greedy.excess_nll.mean) < 1e-4);
        assert.ok(Math.abs(to.kl_ratio.mean - routed.kl.mean / greedy.kl.mean) < 1e-4);
        assert.ok(to.kl_ratio.low <= to.kl_ratio.mean && to.kl_ratio.mean <= to.kl_ratio.high);
      }
      const other = byName(json(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--bank', `mine=${at('bank.gguf')}`, '--control', 'random',
        '--depth', '0.5', '--against', 'mine random', '--tokens', '300', '--window', '32', '--json']));
      assert.equal(other['mine 0.5 routed'].against[0].row, 'mine 0.5 random');
    });

    test('a context of whole windows, and the speed of every row when asked', () => {
      const r = json(['eval', 'nll', '-m', model, '--data', at('long.txt'), '--mask', 'ffn:0-1', '--window', '300', '--whole', '--tokens', '900', '--speed', '2', '--json']);
      assert.equal(r.scored_tokens.long % 299, 0);
      for (const row of r.rows) assert.ok(row.prefill_tokens_per_second > 0 && row.decode_tokens_per_second > 0);
      const parts = json(['eval', 'nll', '-m', model, '--data', at('long.txt'), '--window', '300', '--whole', '--tokens', '900', '--threads', '1', '--json']);
      assert.deepEqual(parts.rows[0].nll, r.rows[0].nll);
      assert.ok(!('prefill_tokens_per_second' in parts.rows[0]));
      fails(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--window', '4000', '--whole'], 1, /no text has 4000 tokens/);
    });

    test('what is missing or wrong is named', () => {
      fails(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--control', 'random'], 2, /--control wants a --bank/);
      fails([...args(), '--control', 'best'], 1, /--control best: want random, oracle or static/);
      fails(['eval', 'nll', '-m', model], 2, /no text/);
      fails([...args(), '--against', 'nobody'], 1, /--against nobody: no row has that name/);
      fails([...args(), '--bank', at('bank.gguf')], 1, /two banks are named bank\.gguf/);
      fails([...args(), '--depth', '0.75,x'], 1, /--depth 0\.75,x/);
      fails([...args(), '--depth', '0.1'], 1, /deepest level/);
      fails([...args(), '--resume'], 2, /give --out FILE/);
      fails(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '--baseline', at('none.gguf')], 1, /none\.gguf: No such file/);
      fails(['eval', 'nll', '-m', path.join(path.dirname(model), 'q8_0.gguf'), '--data', at('heldout.jsonl'), '-o', at('result.json'), '--resume'], 1, /of another run/);
    });
  });

  describe('choice', () => {
    const sets = () => ['easy.jsonl', 'hellaswag.mini.jsonl', 'two.jsonl', 'last.jsonl'].map(at);
    /** @param {string[]} more */
    const args = (...more) => ['eval', 'choice', '-m', model, ...sets(), '--bank', at('bank.gguf'), '--baseline', `greedy=${at('greedy.gguf')}`,
      '--depth', '0.5', ...more];

    test('every set has both accuracies, and its headline by its name', () => {
      const r = json(args('--json', '-o', at('choice.json')));
      assert.deepEqual(r.items, { easy: 30, hellaswag: 12, two: 12, last: 10 });
      const rows = byName(r);
      const { dense } = rows;
      assert.deepEqual(Object.values(dense.sets).map((/** @type {any} */ s) => s.headline), ['plain', 'normalised', 'plain', 'plain']);
      const headline = Object.values(dense.sets).map((/** @type {any} */ s) => s[s.headline].mean);
      assert.ok(Math.abs(headline.reduce((a, b) => a + b) / 4 - dense.accuracy.mean) < 1e-6, 'the mean over sets');
      assert.deepEqual(dense.retention, { mean: 1, low: 1, high: 1 });
      assert.deepEqual(dense.sets.two.plain, dense.sets.two.normalised, 'one continuation: its length changes nothing');
      assert.ok(dense.sets.last.perplexity.low <= dense.sets.last.perplexity.mean);
      const routed = rows['bank.gguf 0.5 routed'];
      assert.ok(Math.abs(routed.retention.mean - routed.accuracy.mean / dense.accuracy.mean) < 1e-5);
      assert.equal(routed.against[0].row, 'greedy 0.5 static');
      assert.match(skipstone(args()).out, /headline accuracy[^]*easy +hellaswag\* +two +last *\ndense [^]*last perplexity: dense \d/);
    });

    test('scores are those of the continuation behind its context, whatever was run before it', () => {
      /** Perplexity of one item alone, and in a file with others that share its beginning. @param {string} context @param {string} continuation */
      const alone = (context, continuation) => {
        write('one.jsonl', [{ context, continuation }]);
        return json(['eval', 'choice', '-m', model, at('one.jsonl'), '--json']).rows[0].sets.one.perplexity.mean;
      };
      const items = [['The grey', ' cat'], ['The grey cat', ' sat on the mat'], ['The grey cat', ' sat'], ['The', ' grey cat'], ['A', ' cat']];
      write('many.jsonl', items.map(([context, continuation]) => ({ context, continuation })));
      const product = items.reduce((sum, [a, b]) => sum + Math.log(alone(a, b)), 0);
      const mean = json(['eval', 'choice', '-m', model, at('many.jsonl'), '--json']).rows[0].sets.many.perplexity.mean;
      assert.ok(Math.abs(product / items.length - Math.log(mean)) < 1e-5);
    });

    test('the limit draws the same items for a seed, whatever the other files', () => {
      const few = json(args('--limit', '8', '--json'));
      assert.deepEqual(few.items, { easy: 8, hellaswag: 8, two: 8, last: 8 });
      const alone = json(['eval', 'choice', '-m', model, at('two.jsonl'), '--limit', '8', '--json']);
      assert.deepEqual(alone.rows[0].sets.two, few.rows[0].sets.two);
    });

    test('a headline can be normalised by an option', () => {
      const r = json(['eval', 'choice', '-m', model, at('easy.jsonl'), at('two.jsonl'), '--normalised', 'ea', '--json']);
      assert.deepEqual(Object.values(r.rows[0].sets).map((/** @type {any} */ s) => s.headline), ['normalised', 'plain']);
    });

    test('resume scores nothing again, after a kill too', async () => {
      const want = json(args('--json', '-o', at('choice.json')));
      const again = json(args('--json', '-o', at('choice.json'), '--resume', '--threads', '1'));
      assert.equal(again.measured, 0);
      assert.deepEqual(again.rows, want.rows);
      const child = spawn(binary, args('-o', at('killed.json')), { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.on('exit', resolve));
      await new Promise((resolve) => setTimeout(resolve, 15));
      child.kill('SIGKILL');
      await ended;
      assert.deepEqual(json(args('--json', '-o', at('killed.json'), '--resume')).rows, want.rows);
      fails(['eval', 'nll', '-m', model, '--data', at('heldout.jsonl'), '-o', at('choice.json'), '--resume'], 1, /of another run/);
    });

    test('wrong files are named, with their line', () => {
      for (const [lines, message] of /** @type {[object[], RegExp][]} */ ([
        [[], /wrong\.jsonl: no items/],
        [[{ context: 'a', choices: [' b', ' c'], gold: 0 }, { context: 'a', choices: [' b', ' c'], gold: 2 }], /line 2: gold: want a number from 0 to 1/],
        [[{ context: 'a', choices: [' b'], gold: 0 }], /line 1: choices: want at least two strings/],
        [[{ context: 'a', choices: [' b', 7], gold: 0 }], /line 1: choices: want at least two strings/],
        [[{ context: '', choices: [' b', ' c'], gold: 0 }], /line 1: want context and choices/],
        [[{ text: 'a' }], /line 1: want context and choices/],
        [[{ context: 'a', continuation: ' b' }, { context: 'a', choices: [' b', ' c'], gold: 0 }], /line 2: its form is not that of the lines before/],
        [[{ context: 'a', continuation: '' }], /line 1: the continuation is empty/],
        [[['a']], /line 1: want an object/],
      ])) {
        write('wrong.jsonl', lines);
        fails(['eval', 'choice', '-m', model, at('wrong.jsonl')], 1, message);
      }
      fails(['eval', 'choice', '-m', model, at('none.jsonl')], 1, /none\.jsonl: No such file/);
      fails(['eval', 'choice', '-m', model, at('two.jsonl'), at('two.jsonl')], 1, /there is a set two already/);
      fails(['eval', 'choice', '-m', model], 2, /no items/);
      fails(args('--control', 'oracle'), 1, /oracle needs the loss of a text/);
    });
  });

  describe('plot', () => {
    test('one SVG of losses and retention, a line each', () => {
      const rows = ['--bank', at('bank.gguf'), '--baseline', `greedy=${at('greedy.gguf')}`, '--depth', '0.75,0.5'];
      json(['eval', 'nll', '-m', model, at('heldout.jsonl'), ...rows, '--tokens', '200', '--window', '64', '--speed', '1', '-o', at('nll.json'), '--json']);
      json(['eval', 'choice', '-m', model, at('easy.jsonl'), ...rows, '-o', at('plot-choice.json'), '--json']);
      const { code, err } = skipstone(['eval', 'plot', at('nll.json'), at('plot-choice.json'), '-o', at('plot.svg')]);
      assert.equal(code, 0, err);
      const svg = fs.readFileSync(at('plot.svg'), 'utf8');
      assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"[^]*prefers-color-scheme:dark[^]*<\/svg>\n$/);
      assert.ok(!/https?:\/\/(?!www\.w3\.org\/2000\/svg)|NaN|inf/.test(svg), 'nothing is fetched, every number is one');
      for (const name of ['dense', 'bank.gguf routed', 'greedy static']) assert.match(svg, new RegExp(`<text[^>]*>${name}</text>`));
      assert.equal(svg.match(/<title>[^<]*bank\.gguf 0\.5 routed: /g)?.length, 2);
      for (const x of ['prefill', 'decode']) assert.match(skipstone(['eval', 'plot', at('nll.json'), '--x', x, '--loss', 'kl', '--max-loss', '1']).out, /tokens\/s/);
      assert.ok(!skipstone(['eval', 'plot', at('nll.json'), '--without', 'greedy']).out.includes('greedy'));
    });

    test('results of one depth each make one line', () => {
      const results = ['0.75', '0.5'].map((depth) => {
        const file = at(`depth-${depth}.json`);
        json(['eval', 'nll', '-m', model, at('heldout.jsonl'), '--bank', at('bank.gguf'), '--depth', depth, '--tokens', '200', '--window', '64', '-o', file, '--json']);
        return file;
      });
      const { out, err } = skipstone(['eval', 'plot', ...results]);
      assert.equal(out.match(/<title>[^<]*bank\.gguf 0\.(75|5) routed: /g)?.length, 2, err);
      assert.equal(out.match(/<title>[^<]*dense: /g)?.length, 1);
    });

    test('what cannot be drawn is named', () => {
      fails(['eval', 'plot'], 2, /no results/);
      fails(['eval', 'plot', at('none.json')], 1, /none\.json: No such file/);
      fs.writeFileSync(at('other.json'), '{"rows": []}');
      fails(['eval', 'plot', at('other.json')], 1, /no result of eval nll or eval choice/);
      fs.writeFileSync(at('other.json'), '{"rows": [');
      fails(['eval', 'plot', at('other.json')], 1, /other\.json: byte \d+: want a value/);
      fails(['eval', 'plot', at('nll.json'), at('nll.json')], 1, /a second row/);
      fails(['eval', 'plot', at('plot-choice.json'), '--x', 'decode'], 1, /nothing to draw: no row has a speed/);
      fails(['eval', 'plot', at('nll.json'), '--x', 'time'], 2, /--x time/);
    });
  });

  test('generate: answers under masks', { skip: !fs.existsSync(smollm2) && `no ${smollm2}` }, () => {
    fs.writeFileSync(at('prompts.txt'), 'Count from one to ten.\n\nName a colour.\n');
    const args = ['eval', 'generate', '-m', smollm2, '--prompts', at('prompts.txt'), '-n', '12', '--mask', 'ffn:12', '--mask', 'attn:3-20', '-o', at('generate.json'), '--json'];
    const r = json(args);
    const [dense, one, many] = r.rows;
    assert.equal(r.prompts, 2);
    assert.deepEqual([dense.kl.mean, dense.same_first_sentence.mean], [0, 1]);
    assert.ok(dense.answer_tokens.mean > 1 && dense.answer_tokens.mean <= 12);
    assert.ok(one.kl.mean > 0 && many.kl.mean > one.kl.mean);
    for (const row of r.rows) assert.ok(row.repetition.mean >= 0 && row.repetition.mean < 1);
    const again = json([...args, '--resume', '--threads', '1']);
    assert.equal(again.measured, 0);
    assert.deepEqual(again.rows, r.rows);
    assert.match(skipstone([...args.slice(0, -1), '--resume']).out, /2 prompts, greedy answers of at most 12 tokens[^]*dense +0\.00 %/);
    fs.writeFileSync(at('prompts.txt'), '\n');
    fails(args, 1, /prompts\.txt: no prompts/);
  });
});
