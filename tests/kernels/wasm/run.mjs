/* Checks the WebAssembly kernel sets against scalar, and times them against the machine's peaks, as `skipstone bench
 * --roofline` does the native ones: tests/kernels' own program and tools/roofline.c, compiled to wasm32.
 *
 *   node tests/kernels/wasm/run.mjs                                 all checks, of the simd128 and the relaxed build
 *   node tests/kernels/wasm/run.mjs simd128                         of one build
 *   node tests/kernels/wasm/run.mjs --bench [--json] [SET [ONLY]]   of all sets, or one: wasm-relaxed, with the kernels
 *                                                                   whose name contains ONLY: "gemm 4m"
 *   node tests/kernels/wasm/run.mjs --build                         only builds, says where the modules are
 *
 * Takes the objects of the wasm-* presets (configures and builds their kernels if need be). */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { kernelTable } from '../../../tools/bench/table.mjs';
import { relaxedNode } from '../../../tools/setup/node24.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const sources = [
  'tests/kernels/check.c', 'tests/kernels/planted.c', 'tests/kernels/wasm/main.c',
  'tools/peaks.c', 'tools/roofline.c', 'wasm/libc/string.c',
];
const bounds = [null, 'compute', 'memory']; // roofline_bound

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
  const compiled = sources.map((source) => {
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
  /** @type {Pick<import('../../../tools/bench/table.mjs').KernelReport, 'peaks' | 'rows'>} */
  const told = { peaks: [], rows: [] };
  /** @param {number} at @param {number} length */
  const text = (at, length) => Buffer.from(new Uint8Array(exports.memory.buffer, at, length)).toString();
  /** @param {number} at */
  const cText = (at) => text(at, new Uint8Array(exports.memory.buffer, at).indexOf(0));
  const env = {
    /** @param {number} at @param {number} length */
    say: (at, length) => said.push(text(at, length)),
    seconds: () => performance.now() / 1000,
    /** @param {number} instructions @param {number} macs */
    peak: (instructions, macs) => told.peaks.push({ instructions: cText(instructions), gmacs: macs / 1e9 }),
    /**
     * @param {number} kernel
     * @param {number} shape
     * @param {number} multiplies
     * @param {number} units
     * @param {number} bytes
     * @param {number} limit
     * @param {number} bound
     */
    row(kernel, shape, multiplies, units, bytes, limit, bound) {
      told.rows.push({
        kernel: cText(kernel),
        shape: cText(shape),
        unit: multiplies ? 'GMAC/s' : 'G elements/s',
        rate: units / 1e9,
        gbytes: bytes / 1e9,
        limit: bound ? limit / 1e9 : null,
        bound: bounds[bound],
        share: bound ? units / limit : null,
      });
    },
  };
  const { instance } = await WebAssembly.instantiate(bytes, { env });
  const exports = /** @type {any} */ (instance.exports);
  /** @param {string} name @param {number} i */
  const nameOf = (name, i) => { exports[name](i); return said.pop() ?? ''; };
  return { exports, said, told, nameOf };
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

/**
 * The kernel sets of a module; only: the one of that name, '' all but the specification.
 * @param {Uint8Array<ArrayBuffer>} bytes @param {string} only @param {string} kernels a part of their names
 */
async function bench(bytes, only, kernels) {
  const { exports, told, nameOf } = await open(bytes);
  new TextEncoder().encodeInto(`${kernels}\0`, new Uint8Array(exports.memory.buffer, exports.text_buffer(), 64));
  /** @type {import('../../../tools/bench/table.mjs').KernelReport[]} */
  const reports = [];
  for (let set = 0; set < exports.n_sets(); set++) {
    const name = nameOf('say_set', set);
    if (only ? name !== only : name === 'scalar') continue;
    for (let pass = 0; pass < 2; pass++) { // the first is for V8, whose optimised code comes while it runs
      told.peaks = [];
      told.rows = [];
      if (exports.bench(set) >>> 0 === 0xffffffff) throw new Error('no memory for the kernels\' buffers');
    }
    reports.push({ kernels: name, threads: 1, peaks: told.peaks, rows: told.rows });
  }
  return reports;
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
const asJson = args.includes('--json');
const [mode, ...names] = args.filter((arg) => arg !== '--json');
const benching = mode === '--bench';
const kinds = mode && !mode.startsWith('--') ? [mode] : ['simd128', 'relaxed'];
if (mode !== '--build' && kinds.includes('relaxed')) handOver();
let good = true;
const reports = [];
for (const kind of kinds) {
  const wasm = build(kind);
  const bytes = new Uint8Array(fs.readFileSync(wasm));
  if (mode === '--build') console.log(wasm);
  else if (benching) reports.push(...(await bench(bytes, names[0] ?? '', names[1] ?? '')));
  else if (!(await check(bytes, kind))) good = false;
}
if (benching) {
  const found = reports.filter(({ rows }) => rows.length);
  if (!found.length) {
    console.error(`run.mjs: no kernel of that name: ${names.join(' ')}`);
    process.exit(2);
  }
  console.log(asJson ? JSON.stringify(found) : found.map(kernelTable).join('\n\n'));
}
process.exit(good ? 0 : 1);
