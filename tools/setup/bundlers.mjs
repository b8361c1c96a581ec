/* The bundlers that the package is tested with. 70 MB that nothing else needs: kept out of node_modules. */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { root } from './steps.mjs';

const packages = ['vite@8.3.8', 'webpack@5.112.2'];
const folder = path.join(root, '.toolchain/bundlers');
const stamp = path.join(folder, '.skipstone');

export const bundlersPresent = () => fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === packages.join();

/** A bundler's module. @param {'vite' | 'webpack'} name @returns {Promise<any>} */
export const bundler = (name) => import(pathToFileURL(createRequire(`${folder}/`).resolve(name)).href);

/** Several set-ups may do this at once: the folder gets its name when it is complete. @param {import('./steps.mjs').Step} step */
export async function installBundlers(step) {
  if (bundlersPresent()) return 'up to date';
  const partial = `${folder}.${process.pid}`;
  try {
    fs.mkdirSync(partial, { recursive: true });
    fs.writeFileSync(path.join(partial, 'package.json'), '{ "private": true }\n');
    const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--save-exact', ...packages];
    await step.run('npm', args, { cwd: partial });
    fs.writeFileSync(path.join(partial, '.skipstone'), packages.join());
    if (bundlersPresent()) return undefined;
    fs.rmSync(folder, { recursive: true, force: true });
    fs.renameSync(partial, folder);
  } finally {
    fs.rmSync(partial, { recursive: true, force: true });
  }
}
