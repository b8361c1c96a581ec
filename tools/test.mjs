/* All the tests of the project, on what `tools/setup.mjs --test` has built:
 *
 *   node tools/test.mjs             every suite
 *   node tools/test.mjs js types    the suites whose name starts so
 *
 * The last line is "N passed, M failed"; the exit status is 1 if anything failed. Output of a suite: build/logs/. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { sourceFiles } from './format.mjs';
import { relaxedNode } from './setup/node24.mjs';
import { findClangFormat } from './setup/packages.mjs';
import { root } from './setup/steps.mjs';

/** @typedef {{ passed: number, failed: number, output: string, skipped?: string }} Result */

/** @param {string} command @param {string[]} args @param {Record<string, string>} [env] */
function run(command, args, env) {
  const done = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, env: { ...process.env, ...env } });
  const output = `$ ${[command, ...args].join(' ')}\n${done.error?.message ?? ''}${done.stdout ?? ''}${done.stderr ?? ''}`;
  return { ok: done.status === 0, output };
}

/** A command that is one test. @param {string} command @param {string[]} args @returns {Result} */
function one(command, args) {
  const { ok, output } = run(command, args);
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, output };
}

/** Each C file is as clang-format leaves it. @returns {Result} */
function format() {
  const files = sourceFiles();
  const { ok, output } = run(findClangFormat() || 'clang-format-22', ['--dry-run', ...files]);
  const wrong = [...new Set(output.match(/^[^\s:]+\.[ch](?=:\d+:\d+: warning: code should be clang-formatted)/gm))];
  const advice = wrong.length ? `\nnot formatted (npm run format): ${wrong.join(' ')}\n` : '';
  if (!ok) return { passed: 0, failed: files.length, output };
  return { passed: files.length - wrong.length, failed: wrong.length, output: output.slice(0, 4000) + advice };
}

/** @param {string} preset @returns {Result} */
function ctest(preset) {
  const { ok, output } = run('ctest', ['--preset', preset, '--parallel', '2']);
  const found = /(\d+) tests failed out of (\d+)/.exec(output);
  if (!found) return { passed: 0, failed: 1, output };
  const failed = Math.max(Number(found[1]), ok ? 0 : 1);
  return { passed: Number(found[2]) - failed, failed, output };
}

/**
 * The tests of a folder (its *.test.js and *.test.mjs) under the given Node.js.
 * @param {string} node @param {string} folder @param {string[]} [options] @returns {Result}
 */
function nodeTests(node, folder, options = []) {
  const there = fs.existsSync(path.join(root, folder)) ? fs.readdirSync(path.join(root, folder)) : [];
  const files = there.filter((name) => /\.test\.m?js$/.test(name)).sort();
  if (files.length === 0) return { passed: 0, failed: 0, output: '', skipped: `no tests in ${folder}` };
  const { ok, output } = run(node, ['--test', '--test-reporter=spec', ...options, ...files.map((name) => `${folder}/${name}`)]);
  const count = (/** @type {string} */ what) => Number(new RegExp(`^ℹ ${what} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
  return { passed: count('pass'), failed: Math.max(count('fail') + count('cancelled'), ok ? 0 : 1), output };
}

const other = relaxedNode();
/** @type {Record<string, () => Result>} */
const suites = {
  format,
  types: () => one(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']),
  'native release': () => ctest('release'),
  'native asan-ubsan': () => ctest('asan-ubsan'),
  'native aarch64 (qemu)': () => ctest('aarch64'),
  'wasm kernels simd128': () => one(process.execPath, ['tests/kernels/wasm/run.mjs', 'simd128']),
  'wasm kernels relaxed': () => one(process.execPath, ['tests/kernels/wasm/run.mjs', 'relaxed']),
  'command line': () => nodeTests(process.execPath, 'tests/cli'),
  js: () => nodeTests(process.execPath, 'tests/js'),
  ...(other && other !== process.execPath ? { 'js in a Node with relaxed SIMD': () => nodeTests(other, 'tests/js') } : {}),
  browser: () => nodeTests(process.execPath, 'tests/browser', ['--test-concurrency=1']), // a browser is busy enough
};

const wanted = process.argv.slice(2);
const names = Object.keys(suites).filter((name) => wanted.length === 0 || wanted.some((word) => name.startsWith(word)));
if (names.length === 0) {
  console.error(`no such suite; there are: ${Object.keys(suites).join(', ')}`);
  process.exit(2);
}
let passed = 0;
let failed = 0;
fs.mkdirSync(path.join(root, 'build/logs'), { recursive: true });
for (const name of names) {
  const start = performance.now();
  const result = suites[name]();
  passed += result.passed;
  failed += result.failed;
  const log = `build/logs/test-${name.replace(/[^a-z0-9]+/gi, '-')}.log`;
  fs.writeFileSync(path.join(root, log), result.output);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const remark = result.skipped ?? `${result.passed} passed, ${result.failed} failed`;
  console.log(`${result.failed ? '✗' : '✓'} ${name}: ${remark} (${seconds} s)`);
  if (result.failed) console.log(`${result.output.trimEnd().split('\n').slice(-40).join('\n')}\n  whole output: ${log}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
