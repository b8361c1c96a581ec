/** The package as npm packs it, installed in an empty folder: once a test file. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from '../tools/setup/steps.mjs';

/**
 * @typedef {object} Packed
 * @property {string} folder  where it is installed: node_modules/skipstone is in it
 * @property {number} bytes  of the tarball
 * @property {{path: string, size: number}[]} files
 * @property {() => void} remove
 */

/** @param {string[]} args @param {string} cwd */
function npm(args, cwd) {
  const path = process.env.npm_execpath;
  const [command, first] = path ? [process.env.npm_node_execpath ?? process.execPath, [path]] : ['npm', []];
  return execFileSync(command, [...first, ...args], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** @returns {Packed} */
export function packAndInstall() {
  const folder = mkdtempSync(join(tmpdir(), 'skipstone-package-'));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    const out = npm(['pack', '--json', '--pack-destination', folder], root);
    const [{ filename, size, files }] = JSON.parse(out.slice(out.indexOf('[')));
    writeFileSync(join(folder, 'package.json'), '{"name": "user-of-skipstone", "private": true, "type": "module"}\n');
    npm(['install', '--offline', '--no-audit', '--no-fund', '--no-save', `./${filename}`], folder);
    return { folder, bytes: size, files, remove };
  } catch (error) {
    remove();
    throw error;
  }
}
