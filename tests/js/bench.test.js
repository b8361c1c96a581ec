/** npm run bench: its options, what it makes of measurements, and a run over a tiny model. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { met, wanted } from '../../tools/bench/bars.mjs';
import { SECTIONS, spreadOf } from '../../tools/bench/sections.mjs';
import { kernelTable, table } from '../../tools/bench/table.mjs';
import { NATIVE, folder, noModules } from './helpers.js';

const program = fileURLToPath(new URL('../../tools/bench.mjs', import.meta.url));
const tiny = fileURLToPath(new URL('../golden/tiny/q4_1.gguf', import.meta.url));
const notBuilt = noModules || (existsSync(NATIVE) ? false : `${NATIVE} is not built (npm run build)`);

/** @param {string[]} args */
function bench(args) {
  const { SKIPSTONE_LLAMA_BENCH, SKIPSTONE_WLLAMA, ...env } = process.env;
  const done = spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', env });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

describe('options', () => {
  for (const [args, message] of /** @type {[string[], RegExp][]} */ ([
    [['--only', 'speed,spede'], /--only speed,spede: 'spede', want some of speed, mask, /],
    [['--sides', 'firefox'], /--sides firefox: 'firefox', want some of native, node, chromium/],
    [['--rounds', '0'], /--rounds 0: want a whole number from 1/],
    [['--threads', '1,x'], /--threads x: want a whole number/],
    [['--skipped', '1'], /--skipped 1: want a share between 0 and 1/],
    [['--contexts', '8,16'], /--contexts 8,16: want three or more/],
    [['--model', 'no.gguf'], /--model no.gguf: there is no such file/],
    [['--peers'], /--peers: where are they\? give --llama-bench FILE, --wllama FOLDER or both/],
    [['--peers', '--llama-bench', '/no/llama-bench'], /--llama-bench \/no\/llama-bench: there is no such file/],
    [['--sped'], /Unknown option '--sped'.*see --help/],
  ]))
    test(`${args.join(' ')} is refused`, () => {
      const { code, out, err } = bench(args);
      assert.match(err, message);
      assert.deepEqual({ code, out }, { code: 2, out: '' });
    });

  test('--help tells all of them', () => {
    const { code, out } = bench(['--help']);
    assert.equal(code, 0);
    for (const name of Object.keys(SECTIONS)) assert.match(out, new RegExp(`\\b${name}\\b`));
  });

  test('--show wants a results file that is one', (t) => {
    const file = join(folder(t), 'results.json');
    assert.match(bench(['--show', '--out', file]).err, /results\.json: holds none of speed, mask/);
    writeFileSync(file, '{"speed":');
    const { code, err } = bench(['--show', '--out', file]);
    assert.match(err, /results\.json: not a results file/);
    assert.equal(code, 1);
  });
});

describe('bars', () => {
  test('a number is below a bar, between bar and aim, or there', () => {
    const bar = { least: 1.3, aim: 1.6 };
    assert.deepEqual(
      [1.29, 1.3, 1.59, 1.6].map((value) => met(value, bar)),
      ['no', 'the bar, not the aim', 'the bar, not the aim', 'yes'],
    );
    assert.deepEqual(
      [0.7, 0.71].map((value) => met(value, { most: 0.7 })),
      ['yes', 'no'],
    );
    assert.deepEqual([met(1, undefined), met(NaN, bar)], ['-', '-']);
    assert.equal(
      wanted(bar, (value) => `${value}x`),
      'at least 1.3x, aim 1.6x',
    );
    assert.equal(wanted({ most: 0.7 }), 'at most 0.7');
  });

  /** @param {Record<string, [number, number][]>} speeds prefill and decode of each round by "side|model|threads" */
  function compare(speeds) {
    const sides = [...new Set(Object.keys(speeds).map((key) => key.split('|')[0]))].map((name) => ({ name }));
    const quantisations = ['Q4_1', 'Q4_0'];
    const setup = /** @type {any} */ ({
      models: quantisations.map((quantisation, index) => ({ quantisation, index })),
      threads: [1, 2],
      ours: sides,
      peers: [],
    });
    const results = new Map(
      Object.entries(speeds).map(([key, rounds]) => [
        key,
        rounds.map(([prefill_tps, decode_tps]) => ({ prefill_tps, decode_tps })),
      ]),
    );
    return SECTIONS.speed.data(setup, () => spreadOf([1]), results).comparisons;
  }

  test('speeds are compared with the same file and as many threads, against the bars of that file', () => {
    const rows = compare({
      'native|0|1': [[260, 70]],
      'llama.cpp|0|1': [[100, 50]],
      'native|1|1': [[150, 60]],
      'llama.cpp|1|1': [[100, 50]],
      'chromium|1|1': [[70, 50]],
    });
    const short = rows.map((/** @type {any} */ { what, quantisation, threads, prefill, decode }) => [
      what,
      quantisation,
      threads,
      prefill.value,
      prefill.met,
      decode.value,
      decode.met,
    ]);
    assert.deepEqual(short, [
      ['native / llama.cpp', 'Q4_1', '1', 2.6, 'yes', 1.4, 'no'],
      ['native / llama.cpp', 'Q4_0', '1', 1.5, 'the bar, not the aim', 1.2, 'no'],
      ['chromium / llama.cpp', 'Q4_0', '1', 0.7, 'no', 1, 'yes'],
    ]);
  });

  test('a ratio is the median of the rounds, each by itself', () => {
    const [row] = compare({
      'native|0|1': [[300, 90], [200, 60], [100, 30]],
      'llama.cpp|0|1': [[100, 30], [100, 20], [25, 10]],
    });
    assert.deepEqual([row.prefill.value, row.prefill.min, row.prefill.max, row.decode.value], [3, 2, 4, 3]);
  });

  test('two threads are compared with one of the same side', () => {
    const [row, ...more] = compare({
      'native|0|1': [[100, 50]],
      'native|0|2': [[190, 75]],
      'node simd128|0|1': [[1, 1]],
      'node simd128|0|2': [[1, 1]],
    });
    assert.deepEqual(
      [row.what, row.threads, row.prefill.value, row.prefill.met, row.decode.met],
      ['native, 2 threads / 1', '2 / 1', 1.9, 'yes', 'no'],
    );
    assert.deepEqual(more, []);
  });

  test('growth is 1 where each token of context costs the same, and more where attention grows faster', () => {
    /** @param {(context: number) => number} ms */
    const growth = (ms) => {
      const contexts = [128, 512, 2048, 4096, 8192];
      const side = /** @type {any} */ ({ name: 'native' });
      const setup = /** @type {any} */ ({
        models: [{ index: 0, quantisation: 'Q4_1', context: 0 }],
        threads: [1],
        ours: [side],
        sizes: { decode: 4 },
        contexts,
      });
      const result = contexts.map((context) => ({ context, ms: ms(context) }));
      const collect = (/** @type {string} */ _, /** @type {(result: any) => number} */ pick) => ({
        median: pick(result),
        min: 0,
        max: 0,
        n: 1,
      });
      const [row] = SECTIONS.context.data(setup, collect, new Map()).rows;
      return [row.growth.toFixed(2), row.met];
    };
    assert.deepEqual(
      growth((context) => 10 + context / 100),
      ['1.00', 'yes'],
    );
    assert.deepEqual(
      growth((context) => 10 + (context / 1000) ** 2),
      ['4.71', 'no'],
    );
    assert.deepEqual(
      growth((context) => 10 - context / 1000),
      ['NaN', '-'],
    );
  });
});

test('a table is Markdown, with numbers to the right', () => {
  assert.equal(
    table(
      ['side', 'speed:'],
      [
        ['native', 12.5],
        ['a', 3],
      ],
    ),
    '| side   | speed |\n| ------ | ----: |\n| native |  12.5 |\n| a      |     3 |',
  );
});

test('a kernel without a known limit has none in its table', () => {
  const row = {
    kernel: 'mix',
    shape: '512x64 x3',
    unit: 'GMAC/s',
    rate: 1.5,
    gbytes: 2,
    limit: null,
    bound: null,
    share: null,
  };
  assert.match(
    kernelTable({ kernels: 'scalar', threads: 1, peaks: [], rows: [row] }),
    /\| mix +\| 512x64 x3 \| GMAC\/s \| 1\.50 \| +2\.0 \| +- \| unknown +\| +- \|$/,
  );
});

describe('a run over a tiny model', { skip: notBuilt }, () => {
  const sizes = ['--model', tiny, '--prefill', '24', '--decode', '4', '--behind', '16', '--contexts', '8,16,32'];

  test('measures the sides that are asked for and keeps what other sections the results file has', (t) => {
    const file = join(folder(t), 'results.json');
    writeFileSync(file, JSON.stringify({ load: 'as it was', memory: 'old' }));
    const done = bench([
      ...sizes,
      '--only',
      'speed,mask,context,memory',
      '--sides',
      'native,node',
      '--threads',
      '1',
      '--rounds',
      '2',
      '--skipped',
      '0.5',
      '--json',
      '--out',
      file,
    ]);
    assert.equal(done.code, 0, done.err);
    assert.match(done.err, /^bench: speed, mask, context, memory of native, node simd128.*: about \d+/m);
    const result = JSON.parse(done.out);
    assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { load: 'as it was', ...result });
    assert.deepEqual(Object.keys(result), ['speed', 'mask', 'context', 'memory']);

    for (const section of Object.values(result)) {
      assert.match(section.date, /^\d{4}-\d\d-\d\d$/);
      assert.ok(section.machine.cpu && section.machine.cores > 0 && Array.isArray(section.machine.flags));
      assert.ok(section.versions.skipstone && section.versions.node);
      assert.deepEqual(
        section.models.map((/** @type {any} */ model) => [model.name, model.quantisation]),
        [['q4_1.gguf', 'Q4_1']],
      );
    }
    const [native, node] = result.speed.rows;
    assert.deepEqual([native.side, node.side, native.threads], ['native', 'node simd128', 1]);
    for (const { prefill, decode } of result.speed.rows)
      for (const { median, min, max, n } of [prefill, decode])
        assert.ok(n === 2 && 0 < min && min <= median && median <= max);
    for (const { prefill, met: reached } of result.mask.rows)
      assert.ok(prefill.median > 0 && reached === undefined && prefill.met === '-');
    assert.deepEqual(
      result.context.rows[0].times.map((/** @type {any} */ time) => time.context),
      [8, 16, 32],
    );
    for (const { bytes, packed_bytes, kv_bytes, ratio } of result.memory.rows)
      assert.ok(Math.abs(ratio - bytes / (packed_bytes + kv_bytes)) < 1e-9);

    const shown = bench(['--show', '--only', 'speed,memory', '--out', file]);
    assert.equal(shown.code, 0, shown.err);
    assert.match(shown.out, /^## Speed, dense$[^]*^\| native +\| Q4_1 \|[^]*^## Memory$/m);
  });

  test(
    'kernels of one name, native and in WebAssembly',
    {
      skip:
        !existsSync(fileURLToPath(new URL('../../build/wasm-simd128/build.ninja', import.meta.url))) &&
        'the wasm builds are not there',
    },
    (t) => {
      const file = join(folder(t), 'results.json');
      const done = bench([
        '--model',
        tiny,
        '--only',
        'kernels',
        '--kernel',
        'scores 8',
        '--sides',
        'native',
        '--threads',
        '1',
        '--json',
        '--out',
        file,
      ]);
      assert.equal(done.code, 0, done.err);
      const { reports } = JSON.parse(done.out).kernels;
      const names = reports.map((/** @type {any} */ { kernels }) => kernels);
      assert.ok(names.includes('wasm-simd128') && !names.includes('scalar'), names.join());
      for (const { rows } of reports)
        assert.deepEqual(
          rows.map((/** @type {any} */ row) => row.kernel),
          ['scores 8', 'scores 8'],
        );
    },
  );

  test('a program that fails is named, with what it said', (t) => {
    const file = join(folder(t), 'results.json');
    const done = bench([
      '--model',
      tiny,
      '--only',
      'speed',
      '--sides',
      'native',
      '--threads',
      '1',
      '--rounds',
      '1',
      '--prefill',
      '2000',
      '--out',
      file,
    ]);
    assert.equal(done.code, 1);
    assert.match(
      done.err,
      /skipstone bench -m .*q4_1\.gguf -p 2000 .*\n {2}ended with code 1: skipstone: context 2000 is longer than the 512 tokens/,
    );
    assert.ok(!existsSync(file));
  });
});
