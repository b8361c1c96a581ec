/* What the build and the tests need from the system: how to see that it is there, and the packages that bring it. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { SetupError, announce, root, which } from './steps.mjs';

const minimumCMake = [3, 25];
const llvmVersions = [22, 21, 20, 19, 18]; // newest first; wasm/find_llvm.cmake knows the oldest that works

/**
 * @typedef {object} Need
 * @property {string} what for the message where nothing can be installed
 * @property {() => boolean} present
 * @property {() => string[]} packages Debian's names
 * @property {boolean} [optional] the build goes on without it
 */

/** @param {string} command @param {string[]} args */
function output(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', cwd: root });
  return result.status === 0 ? result.stdout : '';
}

function haveCMake() {
  const found = /version (\d+)\.(\d+)/.exec(output('cmake', ['--version']));
  if (!found) return false;
  const [major, minor] = [Number(found[1]), Number(found[2])];
  return major > minimumCMake[0] || (major === minimumCMake[0] && minor >= minimumCMake[1]);
}

/** The folder of the clang that builds the modules ('' if none): the one that CMake will take. */
export function findLlvm() {
  return output('cmake', ['-P', 'wasm/find_llvm.cmake']).trim();
}

/** The first of the names that apt can install. @param {string[]} names */
function firstAvailable(names) {
  const policy = output('apt-cache', ['policy', ...names]);
  return names.find((name) => new RegExp(`^${name}:\\n.*\\n\\s*Candidate: [^(\\s]`, 'm').test(policy));
}

/** @param {(version: number) => string[]} packages */
function newestLlvm(packages) {
  const [first] = packages(0);
  const stem = first.slice(0, -1);
  const found = firstAvailable(llvmVersions.map((version) => `${stem}${version}`));
  return packages(found ? Number(found.slice(stem.length)) : llvmVersions[0]);
}

/** clang-format, by the name under which it is installed; '' if it is not. Only version 22's results are checked. */
export function findClangFormat() {
  for (const name of ['clang-format-22', 'clang-format']) {
    if (which(name) && /version 22\./.test(output(name, ['--version']))) return name;
  }
  return '';
}

/** A python3 that has pip, or ''. */
export function findPip() {
  for (const python of [which('python3'), '/usr/bin/python3']) {
    if (python && fs.existsSync(python) && spawnSync(python, ['-m', 'pip', '--version']).status === 0) return python;
  }
  return '';
}

const chromiums = ['chromium', 'chromium-browser', 'google-chrome', 'chrome'];

/** A browser for the tests: SKIPSTONE_CHROMIUM, or the first known name on PATH; '' if there is none. */
export function findChromium() {
  return process.env.SKIPSTONE_CHROMIUM ?? chromiums.map(which).find(Boolean) ?? '';
}

/** The same for the smoke test in Firefox, by SKIPSTONE_FIREFOX; set-up installs none. */
export function findFirefox() {
  return process.env.SKIPSTONE_FIREFOX ?? ['firefox-esr', 'firefox'].map(which).find(Boolean) ?? '';
}

/** The Debian packages' include and library folder names end in this. */
const triplets = ['x86_64-linux-gnu', 'aarch64-linux-gnu'];

/** @param {string} header */
function haveHeader(header) {
  const folders = ['/usr/include', '/usr/local/include', '/opt/homebrew/include', ...triplets.map((t) => `/usr/include/${t}`)];
  return folders.some((folder) => fs.existsSync(`${folder}/${header}`));
}

/**
 * @param {{ pip: boolean, test: boolean }} options
 * @returns {Need[]}
 */
export function needs({ pip, test }) {
  /** @type {Need[]} */
  const list = [
    { what: 'a C compiler', present: () => which('cc') !== '' && haveHeader('stdio.h'), packages: () => ['gcc', 'libc6-dev'] },
    { what: 'CMake 3.25 or newer', present: haveCMake, packages: () => ['cmake'] },
    { what: 'Ninja', present: () => which('ninja') !== '', packages: () => ['ninja-build'] },
    {
      what: 'clang, wasm-ld and llvm-ar 18 or newer, or a current Emscripten on PATH',
      // without CMake nobody can tell whether that Emscripten will do; the next round can
      present: () => (which('cmake') === '' && which('emcc') !== '') || findLlvm() !== '',
      packages: () => newestLlvm((version) => [`clang-${version}`, `lld-${version}`, `llvm-${version}`]),
    },
    { what: 'libedit', present: () => haveHeader('editline/readline.h'), packages: () => ['libedit-dev'], optional: true },
    { what: 'OpenBLAS', present: () => haveHeader('openblas_config.h'), packages: () => ['libopenblas-dev'], optional: true },
  ];
  if (pip) list.push({ what: 'python3 with pip', present: () => findPip() !== '', packages: () => ['python3', 'python3-pip'] });
  if (test) {
    list.push(
      { what: 'cmocka', present: () => haveHeader('cmocka.h'), packages: () => ['libcmocka-dev'] },
      { what: 'clang-format 22', present: () => findClangFormat() !== '', packages: () => ['clang-format-22'] },
      {
        what: 'a cross compiler for aarch64',
        present: () => which('aarch64-linux-gnu-gcc') !== '',
        packages: () => ['gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross'],
      },
      { what: 'Chromium', present: () => findChromium() !== '', packages: () => ['chromium'], optional: true },
      { what: 'qemu-user', present: () => which('qemu-aarch64') !== '', packages: () => ['qemu-user'] },
    );
  }
  return list;
}

/**
 * Installs what is missing, in one apt-get call, where that is possible; otherwise says what to install.
 * @param {import('./steps.mjs').Step} step
 * @param {{ pip: boolean, test: boolean }} options
 */
export async function installPackages(step, options) {
  for (let round = 0; ; round++) {
    const missing = needs(options).filter((need) => !need.present());
    const required = missing.filter((need) => !need.optional);
    if (missing.length === 0) return round === 0 ? 'all there' : undefined;

    const apt = which('apt-get') !== '';
    const administrator = process.getuid?.() === 0;
    if (!apt || !administrator || round === 2) {
      if (required.length === 0) return `without ${missing.map((need) => need.what).join(', ')}`;
      const lines = required.map((need) => `  - ${need.what}`);
      if (apt) {
        const packages = [...new Set(missing.flatMap((need) => need.packages()))].join(' ');
        throw new SetupError(
          ['Missing on this machine:', ...lines, administrator ? 'apt-get did not bring them; try:' : 'Not run as root, so install them first:',
            `  sudo apt-get install --no-install-recommends ${packages}`].join('\n'),
        );
      }
      throw new SetupError(['Missing on this machine (no apt-get here, so install them first):', ...lines].join('\n'));
    }

    const apt_get = ['-q', '-y', '-o', 'DPkg::Lock::Timeout=600'];
    const env = { DEBIAN_FRONTEND: 'noninteractive' };
    step.say('apt-get update');
    await step.run('apt-get', [...apt_get, 'update'], { env });
    const packages = [...new Set(missing.flatMap((need) => need.packages()))];
    announce(`apt-get install ${packages.join(' ')}`);
    step.say('apt-get install');
    await step.run('apt-get', [...apt_get, 'install', '--no-install-recommends', ...packages], { env });
  }
}
