import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { dotTimeRatio } from '../../wasm/dot_timing.js';
import { loadModule, probe } from '../../wasm/loader.js';
import { load } from '../../node/index.js';
import { folder, MODEL, moduleUrl, noModel, noModules, noRelaxed } from './helpers.js';

test('probe says what this engine can run, and why', () => {
  const abilities = probe();
  assert.equal(abilities.simd128, true);
  assert.equal(abilities.threads, true);
  for (const why of Object.values(abilities.why)) assert.match(why, /\w/);
  const major = Number(process.versions.node.split('.')[0]);
  if (major >= 22) assert.equal(abilities.relaxed, true);
  else if (!process.execArgv.includes('--experimental-wasm-relaxed-simd')) assert.equal(abilities.relaxed, false);
});

for (const name of ['simd128', 'simd128-threads', 'relaxed', 'relaxed-threads']) {
  const skip = noModules || (name.startsWith('relaxed') && noRelaxed);
  test(`module ${name} is at most 150 KB and imports nothing but its memory`, { skip }, () => {
    const bytes = readFileSync(moduleUrl(name));
    assert.ok(bytes.length <= 150_000, `${bytes.length} bytes`);
    const imports = WebAssembly.Module.imports(new WebAssembly.Module(bytes));
    assert.deepEqual(imports, [{ module: 'env', name: 'memory', kind: 'memory' }]);
  });
}

test('32-bit and 16-bit dot products are timed once', { skip: noRelaxed }, () => {
  const ratio = dotTimeRatio();
  assert.ok(ratio > 0.1 && ratio < 10, `${ratio}`);
  assert.equal(dotTimeRatio(), ratio);
});

test('the loader takes the best variant and says why', { skip: noModules }, async () => {
  const { info } = await loadModule({ threads: 1 });
  assert.match(info.variant, probe().relaxed ? /^relaxed(-dot)?$/ : /^simd128$/);
  assert.equal(info.threads, 1);
  assert.match(info.url, /wasm\/dist\/skipstone-/);
  assert.ok(info.moduleBytes > 1000);
});

test('where SharedArrayBuffer is missing there is one thread and the reason', { skip: noModules }, async (t) => {
  const { SharedArrayBuffer } = globalThis;
  t.after(() => Object.assign(globalThis, { SharedArrayBuffer }));
  // @ts-expect-error as on a page that is not isolated
  delete globalThis.SharedArrayBuffer;
  const { info, memory } = await loadModule({ threads: 'auto' });
  assert.equal(info.threads, 1);
  assert.match(info.threadsReason, /SharedArrayBuffer/);
  assert.ok(memory.buffer instanceof ArrayBuffer);
  await assert.rejects(loadModule({ threads: 2 }), { code: 'unsupported', message: /threads: 2, but no SharedArrayBuffer/ });
});

test('memory of less than 4 GB is taken where the device refuses more', { skip: noModules }, async (t) => {
  const { Memory } = WebAssembly;
  t.after(() => Object.assign(WebAssembly, { Memory }));
  WebAssembly.Memory = class extends Memory {
    /** @param {WebAssembly.MemoryDescriptor} descriptor */
    constructor(descriptor) {
      if ((descriptor.maximum ?? 0) > 16384) throw new RangeError('could not allocate memory');
      super(descriptor);
    }
  };
  const { info } = await loadModule({ threads: 2 });
  assert.equal(info.memoryMaximum, 2 ** 30);
});

test('a variant that this engine has not is refused by name', { skip: noModules || !noRelaxed }, async () => {
  await assert.rejects(loadModule({ variant: 'relaxed' }), { code: 'unsupported', message: /variant 'relaxed'.*no wasm relaxed SIMD/ });
});

test('a missing or broken module is an error that names it', { skip: noModel }, async (t) => {
  const nowhere = `file://${folder(t)}/`;
  await assert.rejects(load(MODEL, { wasmUrl: nowhere }), { code: 'io', message: /cannot load file:.*skipstone-/ });
});
