/* Checks the WebAssembly kernel sets against scalar, and times them: tests/kernels' own program, compiled to wasm32.
 *
 *   node tests/kernels/wasm/run.mjs                          all checks, of the simd128 and the relaxed build
 *   node tests/kernels/wasm/run.mjs simd128                  of one build
 *   node tests/kernels/wasm/run.mjs --bench [SET [ENTRY]]    GMAC/s, sets and entries by name: wasm-relaxed, "gemm 4m"
 *   node tests/kernels/wasm/run.mjs --build                  only builds, says where the modules are
 *
 * Takes the objects of the wasm-* presets (configures and builds their kernels if need be). */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { relaxedNode } from '../../../tools/setup/node24.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const folder = 'tests/kernels';
const sources = ['check.c', 'bench.c', 'planted.c', 'wasm/main.c'];

/** @param {string} command @param {string[]} args */
function run(command, args) {
  const done = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}\n${done.error?.message ?? ''}${done.stdout ?? ''}${done.stderr ?? ''}`);
}

/** Builds a module with the flags and the libraries of a preset. @param {string} kind @returns {string} its path */
function build(kind) {
  const preset = `wasm-${kind}`;
  const tree = path.join(root, 'build', preset);
  if (!fs.existsSync(path.join(tree, 'build.ninja'))) run('cmake', ['--preset', preset]);
  run('cmake', ['--build', tree, '--target', 'ss_kernels']);
  /** @type {{ file: string, command: string }[]} */
  const commands = JSON.parse(fs.readFileSync(path.join(tree, 'compile_commands.json'), 'utf8'));
  const command = commands.find(({ file }) => file.endsWith('src/kernels/kernels.c'))?.command;
  if (!command) throw new Error(`${tree}/compile_commands.json does not name src/kernels/kernels.c`);
  const [compiler, ...flags] = command.slice(0, command.indexOf(' -o ')).split(' ');
  const objects = path.join(tree, 'kernel-checks');
  fs.mkdirSync(objects, { recursive: true });
  const compiled = [...sources.map((name) => path.join(folder, name)), 'wasm/libc/string.c'].map((source) => {
    const object = path.join(objects, `${path.basename(source)}.o`);
    run(compiler, [...flags, '-fno-builtin', '-c', source, '-o', object]);
    return object;
  });
  const wasm = path.join(objects, `${kind}.wasm`);
  const linker = path.join(path.dirname(compiler), 'wasm-ld');
  run(linker, ['--no-entry', '--stack-first', '-z', 'stack-size=262144', '--gc-sections', ...compiled,
    path.join(tree, 'libss_kernels.a'), path.join(tree, 'libss_base.a'), '-o', wasm]);
  return wasm;
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function open(bytes) {
  /** @type {string[]} */
  const said = [];
  const env = {
    /** @param {number} at @param {number} length */
    say: (at, length) => said.push(Buffer.from(new Uint8Array(exports.memory.buffer, at, length)).toString()),
    seconds: () => performance.now() / 1000,
  };
  const { instance } = await WebAssembly.instantiate(bytes, { env });
  const exports = /** @type {any} */ (instance.exports);
  /** @param {string} name @param {number} i */
  const nameOf = (name, i) => { exports[name](i); return said.pop() ?? ''; };
  return { exports, said, nameOf };
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {string} kind */
async function check(bytes, kind) {
  const { exports, said, nameOf } = await open(bytes);
  let passed = 0;
  let failed = 0;
  /** @param {boolean} ok @param {string} name */
  const count = (ok, name) => {
    if (ok) passed++;
    else failed++;
    if (!ok) console.log(`not ok: ${kind} build: ${name}`, ...said.map((line) => `\n    ${line}`));
    said.length = 0;
  };
  for (let set = 0; set < exports.n_sets(); set++)
    for (let i = 0; i < exports.n_checks(); i++) {
      const name = `${nameOf('say_set', set)} ${nameOf('say_check', i)}`;
      count(exports.run_check(set, i) === 0, name);
    }
  for (let i = 0; i < exports.n_planted(); i++)
    count(exports.run_planted(i) !== 0, `the checks see that ${nameOf('say_planted', i)}`);
  console.log(`${kind}: ${passed} passed, ${failed} failed`);
  return failed === 0;
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {string} only @param {string} entry */
async function bench(bytes, only, entry) {
  const { exports, said, nameOf } = await open(bytes);
  new TextEncoder().encodeInto(`${entry}\0`, new Uint8Array(exports.memory.buffer, exports.text_buffer(), 64));
  for (let set = 0; set < exports.n_sets(); set++) {
    const name = nameOf('say_set', set);
    if (only ? name !== only : name === 'scalar') continue;
    exports.bench(set);
    said.length = 0; /* the first pass is for V8, whose optimised code comes while it runs */
    exports.bench(set);
    for (const line of said.splice(0)) console.log(line);
  }
}

/** Where this Node has no relaxed SIMD: the same command under the newer one that set-up installed, or SKIPSTONE_NODE. */
function handOver() {
  const newer = relaxedNode() || process.env.SKIPSTONE_NODE;
  if (newer === process.execPath) return;
  if (!newer) throw new Error(`Node.js ${process.version} has no relaxed SIMD: run npm test once, or set SKIPSTONE_NODE to a Node.js 22 or newer`);
  const done = spawnSync(newer, process.argv.slice(1), { stdio: 'inherit' });
  process.exit(done.status ?? 1);
}

const args = process.argv.slice(2);
const benching = args[0] === '--bench';
const kinds = args.length === 1 && !args[0].startsWith('--') ? [args[0]] : benching ? ['relaxed'] : ['simd128', 'relaxed'];
if (args[0] !== '--build' && kinds.includes('relaxed')) handOver();
let good = true;
for (const kind of kinds) {
  const wasm = build(kind);
  const bytes = new Uint8Array(fs.readFileSync(wasm));
  if (args[0] === '--build') console.log(wasm);
  else {
    if (benching) await bench(bytes, args[1] ?? '', args[2] ?? '');
    else if (!(await check(bytes, kind))) good = false;
  }
}
process.exit(good ? 0 : 1);
