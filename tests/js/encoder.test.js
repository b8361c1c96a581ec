/* Sentence embeddings in wasm: the bits of the native command, from a second model in the same memory and from `self`. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Engine } from '../../wasm/engine.js';
import { MODEL, NATIVE, folder, noModel, noRelaxed } from './helpers.js';

const ENCODER = fileURLToPath(new URL('../../models/all-MiniLM-L6-v2.Q8_0.gguf', import.meta.url));
const noEncoder = noModel || (existsSync(ENCODER) ? false : `${ENCODER} is not there (npm run setup)`);
const texts = ['How do I bake bread?', 'naïve café, 東京!', 'Why is the sky blue? '.repeat(40), 'x'];

/** @param {Engine} engine @param {string} file @param {'model' | 'encoder'} [to] */
function feed(engine, file, to) {
  const bytes = readFileSync(file);
  for (let at = 0; at < bytes.length; at += 4 << 20) engine.feed(at, bytes.subarray(at, at + (4 << 20)), to);
  engine.endFeed();
}

/** What the native command writes. @param {import('node:test').TestContext} t @param {string[]} args */
function native(t, args) {
  const out = join(folder(t), 'out.f32');
  execFileSync(NATIVE, ['embed', ...args, '-o', out, ...texts]);
  const bytes = readFileSync(out);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

/** @type {[import('../../wasm/loader.js').LoadOptions, string | false][]} */
const variants = [
  [{ variant: 'simd128', threads: 1 }, noEncoder],
  [{ variant: 'relaxed', threads: 1 }, noEncoder || noRelaxed],
  [{ variant: 'relaxed-dot', threads: 1 }, noEncoder || noRelaxed],
  [{ threads: 2 }, noEncoder],
];
for (const [options, skip] of variants) {
  test(`embeddings have the native command's bits, ${JSON.stringify(options)}`, { skip }, async (t) => {
    const engine = await Engine.create(options);
    t.after(() => engine.close());
    engine.openModel();
    feed(engine, MODEL);
    const before = engine.memory().used;
    /** @param {Float32Array} want */
    const check = (want) => {
      const { dim } = engine.openEncoder();
      texts.forEach((text, i) => assert.deepEqual(engine.encode(text), want.subarray(i * dim, (i + 1) * dim), text.slice(0, 40)));
    };
    check(native(t, ['-m', MODEL, '-e', 'self']));
    assert.deepEqual(engine.openEncoder(), { kind: 'self', dim: 576 });
    assert.ok(engine.encode('').every((x) => x === 0), 'no token, no direction');
    engine.openEncoderModel();
    feed(engine, ENCODER, 'encoder');
    check(native(t, ['-e', ENCODER]));
    assert.deepEqual(engine.openEncoder(), { kind: 'bert', dim: 384 });
    engine.closeEncoder();
    assert.ok(engine.memory().used <= before + 65536, 'all of it came back');
  });
}
