/* clang-format over the C sources: `node tools/format.mjs` checks, `--write` formats in place (npm run format). */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { findClangFormat } from './setup/packages.mjs';
import { root } from './setup/steps.mjs';

/** All .c and .h files of the project, relative to its top. */
export function sourceFiles() {
  return ['src', 'wasm', 'tools', 'tests']
    .filter((folder) => fs.existsSync(path.join(root, folder)))
    .flatMap((folder) => fs.readdirSync(path.join(root, folder), { recursive: true }).map((name) => path.join(folder, String(name))))
    .filter((name) => /\.[ch]$/.test(name))
    .sort();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const clangFormat = findClangFormat();
  if (!clangFormat) {
    console.error('clang-format 22 is not installed (node tools/setup.mjs --test --only packages)');
    process.exit(1);
  }
  const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '-Werror'];
  const done = spawnSync(clangFormat, [...mode, ...sourceFiles()], { cwd: root, stdio: 'inherit' });
  process.exitCode = done.status ?? 1;
}
