/* npm run bench: ours, native, in Node.js and in Chromium, and with --peers llama.cpp and wllama, measured by turns.
 *
 *   npm run bench -- --peers --llama-bench /path/of/llama-bench --wllama /folder/with/node_modules
 *   npm run bench -- --only speed --sides chromium --rounds 3
 *   npm run bench -- --show                                     the tables of the results file, without measuring */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Chromium } from './bench/browser.mjs';
import { BenchError } from './bench/command.mjs';
import { commit, machine } from './bench/machine.mjs';
import { describe, native, requireNative } from './bench/native.mjs';
import { nodeHasRelaxed, nodeSide, nodeVersion } from './bench/node.mjs';
import { HELP, readOptions } from './bench/options.mjs';
import { llamaSide, wllamaFolders, wllamaSide } from './bench/peers.mjs';
import { SECTIONS, spreadOf } from './bench/sections.mjs';
import { writeWhole } from './setup/steps.mjs';

/** @typedef {ReturnType<typeof readOptions>} Options @typedef {import('./bench/sections.mjs').Setup} Setup */

/** @param {string} text */
const say = (text) => console.error(`bench: ${text}`);
/** @param {number} seconds */
const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);

/** The sides that are there; says which are left out. @param {Options} options @returns {Promise<Setup>} */
async function prepare({
  models: files,
  sides,
  sidesAsked,
  threads,
  rounds,
  sizes,
  contexts,
  kernel,
  llamaBench,
  wllama,
}) {
  requireNative();
  const models = await Promise.all(files.map(async (file, index) => ({ file, index, ...(await describe(file)) })));
  /** @type {Chromium | undefined} */
  let chromium;
  if (sides.includes('chromium') || wllama) {
    const found = await Chromium.find(models, wllama ? wllamaFolders(wllama) : {});
    if (typeof found !== 'string') chromium = found;
    else if (sidesAsked || wllama) throw new BenchError(found);
    else say(`${found}: without Chromium`);
  }
  /** @type {Setup['ours']} */
  const ours = sides.includes('native') ? [native] : [];
  if (sides.includes('node')) {
    ours.push(nodeSide('simd128'));
    if (nodeHasRelaxed) ours.push(nodeSide('relaxed'));
    else say('no Node.js with relaxed SIMD (npm test installs one): without it');
  }
  if (chromium && sides.includes('chromium')) ours.push(chromium.side());
  const peers = [];
  if (llamaBench) peers.push(llamaSide(llamaBench));
  if (wllama && chromium) peers.push(wllamaSide(chromium, wllama));
  return { models, threads, rounds, sizes, contexts, ours, peers, chromium, kernels: kernel };
}

/** Takes the turns of a section, round by round. @param {string} name @param {Setup} setup */
async function measure(name, setup) {
  const section = SECTIONS[name];
  const turns = section.turns(setup);
  const rounds = Math.min(setup.rounds, section.mostRounds ?? Infinity);
  const total = rounds * turns.length;
  /** @type {Map<string, any[]>} */
  const results = new Map(turns.map(({ key }) => [key, []]));
  let guessed = 0;
  let spent = 0;
  let done = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < turns.length; i++) {
      const turn = turns[(i + round) % turns.length]; // who is first changes from round to round
      const start = performance.now();
      results.get(turn.key)?.push(await turn.run(round));
      const seconds = (performance.now() - start) / 1000;
      spent += seconds;
      guessed += turn.seconds;
      const left = (spent / guessed) * (turns.reduce((sum, t) => sum + t.seconds, 0) * rounds - guessed);
      const rest = left > 0 ? `about ${duration(left)} left` : 'done';
      say(`${name} ${++done} of ${total}: ${turn.label}, ${duration(seconds)}; ${rest}`);
    }
  }
  return results;
}

/** @type {(results: Map<string, any[]>) => import('./bench/sections.mjs').Collect} */
const collector = (results) => (key, pick) => spreadOf((results.get(key) ?? []).map(pick));

/** What was measured with. @param {Setup} setup */
async function versions({ ours, peers, chromium }) {
  const names = ours.map(({ name }) => name).join();
  return {
    skipstone: JSON.parse(fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version,
    commit: commit(),
    ...(names.includes('node') ? { node: await nodeVersion() } : {}),
    ...(chromium ? { chromium: await chromium.version() } : {}),
    ...Object.fromEntries(peers.map((side) => [side.name, side.version?.()])),
  };
}

/** @param {string} file @returns {Record<string, any>} */
function readResults(file) {
  if (!fs.existsSync(file)) return {};
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch (error) {
    throw new BenchError(`${file}: not a results file: ${error instanceof Error ? error.message : error}`);
  }
}

let printed = ''; // what the sections above this one were measured with

/** @param {string} name @param {any} data */
function print(name, data) {
  const { title, note, print: text } = SECTIONS[name];
  const { machine: at, versions: by, date, models, settings } = data;
  const programs = Object.entries(by)
    .filter(([, version]) => version)
    .map(([program, version]) => `${program} ${version}`);
  const files = models.map((/** @type {any} */ model) => model.name).join(', ');
  const measuredWith = `${date}; ${at.cpu}, ${at.cores} cores, ${at.flags.join(' ')}; ${programs.join('; ')}; ${files}.\n`;
  if (measuredWith !== printed) console.log(measuredWith);
  const spread = settings.rounds > 1 ? ` Median (least to most) of ${settings.rounds}.` : '';
  console.log(`## ${title}\n\n${note}${spread}\n\n${text(data)}\n`);
  printed = measuredWith;
}

/** JSON with a row a line. @param {Record<string, any>} results */
const asText = (results) =>
  `${JSON.stringify(results, null, 1).replace(/[{[]\n[^{}[\]]*[}\]]/g, (innermost) => innermost.replace(/\n */g, ' '))}\n`;

/** @param {Options} options */
function show({ out, sections, json }) {
  const all = readResults(out);
  const some = sections.filter((name) => all[name]);
  if (!some.length) throw new BenchError(`${out}: holds none of ${sections.join(', ')}`);
  if (json) console.log(JSON.stringify(Object.fromEntries(some.map((name) => [name, all[name]]))));
  else for (const name of some) print(name, all[name]);
}

/** @param {Options} options */
async function run(options) {
  const { sections, out, json } = options;
  const before = readResults(out);
  const setup = await prepare(options);
  const seconds = sections.reduce((sum, name) => {
    const { turns, mostRounds } = SECTIONS[name];
    const rounds = Math.min(setup.rounds, mostRounds ?? Infinity);
    return sum + rounds * turns(setup).reduce((all, turn) => all + turn.seconds, 0);
  }, 0);
  const sides = [...setup.ours, ...setup.peers].map(({ name }) => name);
  say(`${sections.join(', ')} of ${sides.join(', ')}: about ${duration(seconds)}`);
  const [load] = os.loadavg();
  if (load > 0.5) say(`the machine is busy (load ${load.toFixed(1)}): figures will be too low`);

  /** @type {Record<string, any>} */
  const measured = {};
  try {
    for (const name of sections) {
      const at = machine();
      const results = await measure(name, setup);
      const rounds = Math.min(setup.rounds, SECTIONS[name].mostRounds ?? Infinity);
      measured[name] = {
        date: new Date().toISOString().slice(0, 10),
        machine: at,
        versions: await versions(setup),
        models: setup.models.map(({ file, quantisation }) => ({
          name: path.basename(file),
          quantisation,
          bytes: fs.statSync(file).size,
        })),
        settings: { sizes: setup.sizes, rounds },
        ...SECTIONS[name].data(setup, collector(results), results),
      };
      writeWhole(out, asText({ ...before, ...measured }));
      if (!json) print(name, measured[name]);
    }
  } finally {
    await setup.chromium?.close();
  }
  if (json) console.log(JSON.stringify(measured));
  say(`wrote ${path.relative(process.cwd(), out)}`);
}

let status = 2; // of wrong usage
try {
  const options = readOptions();
  status = 1;
  if (options.help) console.log(HELP);
  else if (options.show) show(options);
  else await run(options);
} catch (error) {
  if (!(error instanceof BenchError)) throw error;
  say(error.message);
  process.exitCode = status;
}
