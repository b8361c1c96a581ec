/* What npm packs: small, complete, and usable by its name in an empty folder. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { relaxedNode } from '../../tools/setup/node24.mjs';
import { root } from '../../tools/setup/steps.mjs';
import { packAndInstall } from '../packed.js';
import { MODEL, noModel, noModules } from './helpers.js';

const MOST_BYTES = 700_000;
const MOST_BANK_BYTES = 4_000_000;
const ANSWER = `
import { load, SkipstoneError } from 'skipstone';
const llm = await load(process.argv[2], { contextSize: 256, bank: false });
const generation = llm.generate({ messages: [{ role: 'user', content: 'What is 2 plus 2?' }] }, { temperature: 0 });
const { text, logitsHash } = await generation.result;
const { variant, threads } = llm.info.module;
await llm.free();
console.log(JSON.stringify({ text, logitsHash, variant, threads, error: new SkipstoneError('io', 'x').code }));
`;
const TYPED = `
import { load, SkipstoneError, type Info, type LoadOptions } from 'skipstone';
const options: LoadOptions = { threads: 'auto', contextSize: 512, onProgress: ({ phase, loaded }) => void [phase, loaded] };
export async function answer(model: string): Promise<string> {
  const llm = await load(model, options);
  const info: Info = llm.info;
  let text = info.module.variant as string;
  for await (const chunk of llm.generate('Once', { maxTokens: 4 })) text += chunk.text;
  // @ts-expect-error an option that there is not
  llm.generate('Once', { maxToken: 4 });
  await llm.free();
  return text;
}
export const isFull = (error: unknown) => error instanceof SkipstoneError && error.code === 'context_full';
`;

describe('the packed package', { skip: noModules }, () => {
  /** @type {import('../packed.js').Packed} */ let packed;
  before(() => {
    packed = packAndInstall();
  });
  after(() => packed?.remove());

  test('is at most 700 KB beside banks of at most 4 MB, with no model, no test and no source of the core', () => {
    const isBank = /^banks\/.*\.gguf$/;
    const banks = packed.files.filter(({ path }) => isBank.test(path));
    assert.deepEqual(banks.filter(({ size }) => size > MOST_BANK_BYTES), []);
    const ofBanks = banks.map(({ path }) => gzipSync(readFileSync(join(packed.folder, 'node_modules/skipstone', path))).length);
    const bytes = packed.bytes - ofBanks.reduce((sum, n) => sum + n, 0);
    assert.ok(bytes > 0 && bytes <= MOST_BYTES, `${bytes} bytes, want at most ${MOST_BYTES}`);
    const foreign = /^(src|tests|tools|models)\/|\.(c|h|test\.js)$/;
    const wrong = packed.files.filter(({ path, size }) => foreign.test(path) || (size > 160_000 && !isBank.test(path)));
    assert.deepEqual(wrong, []);
  });

  test('has no dependency, and every file that its manifest names', () => {
    const folder = join(packed.folder, 'node_modules/skipstone');
    const { dependencies, exports, bin } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    assert.equal(dependencies, undefined);
    const named = JSON.stringify([exports, bin]).match(/(?<=:")\.\/[^"*]+(?=")/g) ?? [];
    for (const file of named) assert.ok(existsSync(join(folder, file)), file);
    assert.ok(named.length > 3);
    assert.deepEqual(Object.keys(exports['.']), ['types', 'node', 'default']);
  });

  const nodes = [...new Set([process.execPath, relaxedNode()].filter(Boolean))];
  for (const node of nodes) {
    test(`runs by its name in ${node === process.execPath ? 'this Node.js' : 'a newer Node.js'}`, { skip: noModel }, () => {
      writeFileSync(join(packed.folder, 'answer.mjs'), ANSWER);
      const result = JSON.parse(execFileSync(node, ['answer.mjs', MODEL], { cwd: packed.folder, encoding: 'utf8' }));
      assert.equal(result.text, 'The answer to this classic math problem is 4.');
      assert.equal(result.error, 'io');
    });
  }

  test('has a command', () => {
    const command = join(packed.folder, 'node_modules/.bin/skipstone');
    assert.match(execFileSync(command, ['--version'], { encoding: 'utf8' }), /^skipstone \d/);
  });

  test("has types that a strict project takes, with Node.js's types or without", () => {
    writeFileSync(join(packed.folder, 'typed.ts'), TYPED);
    const tsc = fileURLToPath(new URL('../../node_modules/typescript/bin/tsc', import.meta.url));
    for (const module of [['--module', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
      const lib = ['--target', 'es2022', '--lib', 'esnext,dom,dom.asynciterable'];
      const args = ['--noEmit', '--strict', '--skipLibCheck', 'false', ...lib];
      const { status, stdout } = spawnSync(process.execPath, [tsc, ...args, ...module, '--types', '', 'typed.ts'], {
        cwd: packed.folder,
        encoding: 'utf8',
      });
      assert.equal(status, 0, stdout);
    }
  });

  test('has an API reference with each export, readable', async () => {
    const text = readFileSync(join(root, 'docs/api.md'), 'utf8');
    for (const name of Object.keys(await import('../../node/index.js'))) assert.match(text, new RegExp(`^## ${name}$`, 'm'));
    assert.doesNotMatch(text, /import\(|#private|undefined$/m);
  });
});
