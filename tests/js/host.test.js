/* The host in C (wasm/host.c), through the exports that engine.js uses. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadModule } from '../../wasm/loader.js';
import { noModules } from './helpers.js';

/** @param {number} threads */
async function start(threads) {
  const { exports, memory } = await loadModule({ threads });
  const io = exports.ss_start(threads, 0) >>> 0;
  assert.ok(io);
  return {
    memory,
    alloc: (/** @type {number} */ n) => exports.ss_alloc(n) >>> 0,
    free: (/** @type {number} */ p) => exports.ss_free(p),
    used: () => (exports.ss_heap(), new DataView(memory.buffer).getFloat64(io, true)),
  };
}

for (const threads of [1, 2]) {
  test(`pieces are aligned, keep their contents and merge when freed, ${threads} thread(s)`, { skip: noModules }, async () => {
    const { memory, alloc, free, used } = await start(threads);
    const before = used();
    let seed = 1;
    const below = (/** @type {number} */ n) => (seed = (seed * 48271) % 2147483647) % n;
    /** @type {{at: number, size: number, mark: number}[]} */
    const live = [];
    const take = () => {
      const size = below(20) ? below(5000) : below(8_000_000);
      const at = alloc(size);
      assert.ok(at > 0 && at % 64 === 0, `${size} bytes at ${at}`);
      const mark = below(256);
      new Uint8Array(memory.buffer).fill(mark, at, at + size);
      live.push({ at, size, mark });
    };
    const give = () => {
      const [{ at, size, mark }] = live.splice(below(live.length), 1);
      assert.equal(Buffer.from(memory.buffer, at, size).compare(Buffer.alloc(size, mark)), 0, 'nobody wrote into it');
      free(at);
    };
    for (let i = 0; i < 1500; i++) {
      if (live.length < 30 && (live.length === 0 || below(2))) take();
      else give();
      if (i % 400 === 399) memory.grow(1); // someone else's pages in between
    }
    while (live.length) give();
    assert.equal(used(), before, 'all of it came back');
    const size = memory.buffer.byteLength;
    assert.ok(alloc(100_000_000), 'a large one');
    const grown = memory.buffer.byteLength;
    assert.ok(grown > size && grown < size + 103_000_000, 'grown by what was missing');
  });
}

test('freed pieces are used again: memory does not grow', { skip: noModules }, async () => {
  const { memory, alloc, free } = await start(1);
  const pieces = Array.from({ length: 50 }, () => alloc(1_000_000));
  const size = memory.buffer.byteLength;
  for (let round = 0; round < 5; round++) {
    pieces.forEach((at, i) => i % 2 && free(at));
    pieces.forEach((at, i) => i % 2 || free(at));
    const whole = alloc(50_000_000);
    assert.ok(whole);
    free(whole);
    pieces.forEach((_, i) => (pieces[i] = alloc(1_000_000)));
  }
  assert.equal(memory.buffer.byteLength, size);
});

test('what cannot be had is refused, and the rest goes on', { skip: noModules }, async () => {
  const { alloc, free } = await start(1);
  for (const size of [0xffffffff, 0xffffffc0, 0xffff0000]) assert.equal(alloc(size), 0, String(size));
  const small = alloc(1000);
  assert.ok(small);
  assert.equal(alloc(4_294_800_000), 0, 'does not fit behind it');
  free(small);
  free(0);
  assert.ok(alloc(0), 'no bytes are a piece too');
});

test('memory that is not allowed to grow is a NULL', { skip: noModules }, async (t) => {
  const { Memory } = WebAssembly;
  t.after(() => Object.assign(WebAssembly, { Memory }));
  WebAssembly.Memory = class extends Memory {
    /** @param {WebAssembly.MemoryDescriptor} descriptor */
    constructor(descriptor) {
      super({ ...descriptor, maximum: descriptor.initial + 10 });
    }
  };
  const { alloc, memory } = await start(1);
  assert.equal(alloc(4_000_000), 0);
  const before = memory.buffer.byteLength;
  assert.ok(alloc(1_500_000), 'what is there already');
  assert.ok(alloc(600_000), 'a few pages, though not the round number');
  assert.ok(memory.buffer.byteLength > before);
});
