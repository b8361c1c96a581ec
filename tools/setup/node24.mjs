/* A Node.js with relaxed SIMD for the tests of the relaxed modules: Node 20 refuses them, 22 and later take them. */
import fs from 'node:fs';
import path from 'node:path';
import { root } from './steps.mjs';

const version = '24.9.0';
const folder = path.join(root, '.toolchain/node24');
const packageName = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`;
const installed = path.join(folder, 'node_modules', packageName, 'bin', process.platform === 'win32' ? 'node.exe' : 'node');

// (module (memory 0) (func (drop (i32x4.relaxed_dot_i8x16_i7x16_add (v128 0) (v128 0) (v128 0)))))
const zero = [0xfd, 0x0c, ...Array(16).fill(0)];
const body = [0x00, ...zero, ...zero, ...zero, 0xfd, 0x93, 0x02, 0x1a, 0x0b];
const probe = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // \0asm 1
  0x01, 0x04, 0x01, 0x60, 0x00, 0x00, // type () -> ()
  0x03, 0x02, 0x01, 0x00, // one function
  0x0a, body.length + 2, 0x01, body.length, ...body,
]);

/** The path of a Node.js that runs the relaxed modules: this one if it does, else the one that set-up installed, else ''. */
export function relaxedNode() {
  if (WebAssembly.validate(probe)) return process.execPath;
  return fs.existsSync(installed) ? installed : '';
}

/** @param {import('./steps.mjs').Step} step */
export async function installRelaxedNode(step) {
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--save-exact', `${packageName}@${version}`];
  await step.run('npm', args, { cwd: folder });
}
