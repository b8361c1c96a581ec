/* Makes what the packed package has and the tree has not: wasm/vendor, the types, and docs/api.md from the types.
 *
 *   node tools/prepack.mjs */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { apiReference } from './api_reference.mjs';
import { root, writeWhole } from './setup/steps.mjs';
import { vendor } from './vendor.mjs';

const TYPES = path.join(root, 'types');

/** The .d.ts files, from the JSDoc of the sources. */
export function makeTypes() {
  fs.rmSync(TYPES, { recursive: true, force: true });
  const args = ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
  if (status !== 0) throw new Error(`tsc -p tsconfig.types.json:\n${stdout}${stderr}`);
  for (const name of fs.readdirSync(TYPES, { recursive: true, encoding: 'utf8' })) {
    const file = path.join(TYPES, name);
    if (!name.endsWith('.d.ts')) continue;
    // What a comment defines by @typedef stands in the file as a type: it is not needed twice.
    const text = fs.readFileSync(file, 'utf8').replace(/^\/\*\*(?:(?!\*\/)[^])*@typedef(?:(?!\*\/)[^])*\*\/\n/gm, '');
    fs.writeFileSync(file, text);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await vendor();
  makeTypes();
  writeWhole('docs/api.md', apiReference(TYPES, ['node/index.d.ts', 'node/server.d.ts']));
}
