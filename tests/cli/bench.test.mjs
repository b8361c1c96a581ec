/* skipstone bench: the kernels against the machine's peaks, and what of a model's bench a tiny model shows. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { fails, json, model, skip, skipstone } from './skipstone.mjs';

describe('bench --roofline', { skip }, () => {
  const roofline = ['bench', '--roofline', '--only', 'scores 8'];
  const sets = skip ? [] : skipstone(['--version']).out.trim().split('\n')[1].split(' ').slice(1);

  test('--only and --json give the rows of one kernel, each with its share of its limit', () => {
    const report = json([...roofline, '--threads', '1', '--json']);
    assert.deepEqual([report.kernels, report.threads], [sets[0], 1]);
    assert.deepEqual(
      report.rows.map((/** @type {any} */ row) => `${row.kernel} ${row.shape}`),
      ['scores 8 512x64 x3', 'scores 8 512x64 x24'],
    );
    for (const { unit, rate, gbytes, limit, bound, share } of report.rows) {
      assert.equal(unit, 'GMAC/s');
      assert.ok(rate > 0 && gbytes > 0);
      if (report.kernels === 'scalar') continue;
      assert.match(bound, /^(compute|memory)$/);
      assert.ok(Math.abs(share - rate / limit) < 0.01, `${share} is not ${rate} / ${limit}`);
    }
    for (const peak of report.peaks) assert.ok(peak.gmacs > 0 && peak.instructions, JSON.stringify(peak));
  });

  test('the scalar set is the specification: its kernels are timed, but have no peak', () => {
    const report = json([...roofline, '--kernels', 'scalar', '--threads', '1', '--json']);
    assert.deepEqual(report.peaks, []);
    for (const row of report.rows) assert.deepEqual([row.limit, row.bound, row.share], [null, null, null]);
  });

  test('kernels that multiply nothing are measured against memory', () => {
    const report = json(['bench', '--roofline', '--only', 'softmax 263', '--threads', '1', '--json']);
    assert.deepEqual(
      report.rows.map((/** @type {any} */ row) => [row.unit, row.bound]),
      [['G elements/s', 'memory']],
    );
  });

  test('several sets and thread counts give an array, and tables', () => {
    const args = [...roofline, '--kernels', 'all', '--threads', '1,2'];
    const reports = json([...args, '--json']);
    assert.deepEqual(
      reports.map((/** @type {any} */ r) => `${r.kernels} ${r.threads}`),
      sets.flatMap((name) => [`${name} 1`, `${name} 2`]),
    );
    const { code, out } = skipstone(args);
    assert.equal(code, 0);
    for (const name of sets) assert.match(out, new RegExp(`^${name}, 2 threads$`, 'm'));
    assert.equal(out.match(/^ {2}scores 8 +512x64 x24 +[\d.]+ +[\d.]+ /gm)?.length, 2 * sets.length);
  });

  test('a kernel that is not there and options of a model are refused, with nothing on stdout', () => {
    for (const args of [
      ['--only', 'gemm 3'],
      ['--only', 'gemm 3', '--json'],
    ]) {
      const { code, out, err } = skipstone(['bench', '--roofline', '--threads', '1', '--kernels', 'scalar', ...args]);
      assert.equal(code, 2);
      assert.match(err, /--only gemm 3: no kernel and shape is called so/);
      if (args.includes('--json')) assert.equal(out, '');
    }
    fails(['bench', '--roofline', '-m', model], 2, /--roofline measures no model/);
    fails(['bench', '--roofline', '--load'], 2, /--roofline measures no model/);
    fails(['bench', '--roofline', '--kernels', 'sse9'], 2, /sse9: no such kernel set here, want one of: .*scalar/);
    fails(['bench', '--only', 'gemm', '-m', model], 2, /--only needs --roofline/);
  });
});

describe('bench of a tiny model', { skip }, () => {
  const args = ['bench', '-m', model, '-p', '16', '-n', '4', '-d', '8', '-r', '3', '--threads', '1'];

  test('--load tells how fast the file is repacked', () => {
    const { load } = json([...args, '--load', '--json']);
    assert.equal(load.bytes, fs.statSync(model).size);
    assert.ok(
      0 < load.bytes_per_s_min && load.bytes_per_s_min <= load.bytes_per_s && load.bytes_per_s <= load.bytes_per_s_max,
    );
    assert.match(skipstone([...args, '--load']).out, /^ {2}repacks \d+ MB\/s of the file {3}\(\d+ to \d+\)$/m);
    assert.equal(json([...args, '--json']).load, undefined);
  });

  test('--json tells the memory that was needed beside what the weights and the KV cache need', () => {
    const { packed_bytes: packed, kv_bytes: kv, peak_rss_bytes: peak } = json([...args, '--json']);
    assert.ok(packed > 0 && kv > 0 && peak > packed + kv);
  });

  test('--train-step measures a step of mask training, also where blocks are skipped', () => {
    const step = ['bench', '-m', model, '--train-step', '-r', '1', '--threads', '1'];
    const report = json([...step, '--skip', 'ffn:0', '--json']);
    assert.equal(report.tokens, 1024);
    assert.ok(report.train_step_tps > 0 && report.bytes > 0);
    assert.equal(report.mask.blocks_run, report.mask.blocks_total - 1);
    assert.match(skipstone(step).out, /^ {4}step +[\d.]+ tokens\/s/m);
    fails([...step, '--blocks'], 2, /--train-step goes with neither/);
  });
});
