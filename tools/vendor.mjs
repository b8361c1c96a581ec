/* Puts what we use of npm packages at run time where a static server finds it: wasm/vendor for the package itself,
 * web/demo/vendor for the chat page. No file of ours then imports by a package's name, so that pages and workers need
 * neither a bundler nor an import map. Neither folder is committed; set-up and `npm pack` make them.
 *
 *   node tools/vendor.mjs */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { hashOf, root, textOf, writeWhole } from './setup/steps.mjs';

/**
 * @typedef {object} Vendored
 * @property {string} name of the package
 * @property {string} [licence] its file, where the code does not name its terms
 * @property {string} names what is exported
 * @property {string} file
 */
/** @type {Vendored[]} */
const vendored = [
  { name: '@huggingface/jinja', licence: 'LICENSE', names: 'Template', file: 'wasm/vendor/jinja.js' },
  { name: 'marked', licence: 'LICENSE', names: 'Marked', file: 'web/demo/vendor/marked.js' },
  { name: 'dompurify', names: 'default', file: 'web/demo/vendor/dompurify.js' },
];

const STAMP = 'wasm/vendor/.stamp';

/** @param {Vendored} item */
async function bundle({ name, licence, names, file }) {
  const { build } = await import('esbuild');
  const line = `export { ${names} } from '${name}';\n`;
  const result = await build({
    stdin: { contents: line, resolveDir: root },
    bundle: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    legalComments: 'inline',
    write: false,
  });
  const folder = path.join(root, 'node_modules', name);
  const { version } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const terms = !licence ? '' : `\n\n${fs.readFileSync(path.join(folder, licence), 'utf8').trim().replaceAll('*/', '* /')}`;
  writeWhole(file, `/* ${name} ${version}${terms} */\n${result.outputFiles[0].text}`);
  writeWhole(file.replace(/\.js$/, '.d.ts'), line); // our sources are checked against its types
}

/** Makes what is missing or was made of other versions. Returns whether there was nothing to do. */
export async function vendor() {
  const wanted = hashOf(textOf('package-lock.json'), textOf('tools/vendor.mjs'));
  if (textOf(STAMP) === wanted && vendored.every(({ file }) => fs.existsSync(path.join(root, file)))) return true;
  for (const item of vendored) await bundle(item);
  writeWhole(STAMP, wanted);
  return false;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await vendor();
