/** npm run bench in Chromium: a task of a tiny model in a page's worker. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Chromium } from '../../tools/bench/browser.mjs';
import { BenchError } from '../../tools/bench/command.mjs';
import { root } from '../../tools/setup/steps.mjs';
import { MODEL, noBrowser, noModel } from './browser.js';

const model = { file: `${root}/tests/golden/tiny/q4_1.gguf`, index: 0, quantisation: 'Q4_1', context: 512 };
const sizes = { prefill: 16, decode: 2, behind: 8, skipped: 0.5 };

test('Chromium gives the speed and the memory of a model, with two threads', { skip: noBrowser }, async (t) => {
  const chromium = await Chromium.find([model], {});
  assert.ok(chromium instanceof Chromium, String(chromium));
  t.after(() => chromium.close());
  const side = chromium.side();
  const { prefill_tps, decode_tps } = await side.speed({ model, threads: 2 }, sizes);
  assert.ok(prefill_tps > 0 && decode_tps > 0);
  const { bytes, packed_bytes, kv_bytes } = await side.memory({ model, threads: 1 }, sizes);
  assert.ok(kv_bytes > 0 && bytes > packed_bytes + kv_bytes);
});

test('what fails in the page is told', { skip: noBrowser }, async (t) => {
  const chromium = await Chromium.find([{ ...model, file: `${root}/tests/golden/tiny/none.gguf` }], {});
  assert.ok(chromium instanceof Chromium, String(chromium));
  t.after(() => chromium.close());
  await assert.rejects(
    chromium.side().speed({ model: { ...model, file: 'none.gguf' }, threads: 1 }, sizes),
    (error) => {
      assert.ok(error instanceof BenchError);
      assert.match(error.message, /^in Chromium: .*\/model0\/none\.gguf: the server answered 404/s);
      return true;
    },
  );
});

test('visits to a page are timed and weighed', { skip: noModel }, async (t) => {
  const stored = { file: root + MODEL, index: 0, quantisation: 'Q4_1', context: 8192 };
  const chromium = await Chromium.find([stored], {});
  assert.ok(chromium instanceof Chromium, String(chromium));
  t.after(() => chromium.close());
  const visits = await chromium.side().visits({ model: stored, threads: 1 }, 256, false);
  assert.ok(visits.warm_seconds > 0 && visits.cold_seconds > 0);
  assert.ok(visits.runtime_bytes > 100_000 && visits.runtime_bytes < 1_000_000, `${visits.runtime_bytes} bytes of runtime`);
  if (process.platform === 'linux') assert.ok(Number(visits.process_bytes) > 100e6, `${visits.process_bytes} bytes of the process`);
});
