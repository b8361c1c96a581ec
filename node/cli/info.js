/** skipstone info: what this Node.js can run, and how a model runs here. */
import { BANK, CODE, context, count, DEPTH, ENGINE, JSON_OPTION, MODEL } from './shared.js';
import { loadModel, megabytes, write, writeJson } from './shared.js';
import { probe } from '../index.js';

/** @type {import('./options.js').Command} */
export const info = {
  name: 'info',
  summary: 'what this machine can run, and how a model runs on it',
  usage: '[[-m] MODEL] [options]',
  about: `Without a model: what this Node.js supports. With one: loads it and prints the model, the module and threads
that were chosen and why, the memory and the bank.`,
  examples: `  npx skipstone info
  npx skipstone info model.gguf --json`,
  options: [MODEL, context('the smaller of 2048 and what\nthe model was trained on'), ...BANK, DEPTH, ...ENGINE, JSON_OPTION],
  operands: 1,
  async run(values, [operand]) {
    if (!values.model && !operand && !process.env.SKIPSTONE_MODEL) {
      const abilities = probe();
      if (values.json) writeJson({ node: process.versions.node, ...abilities });
      else {
        write(`Node.js ${process.versions.node}\n`);
        for (const [name, why] of Object.entries(abilities.why)) {
          write(`${abilities[/** @type {keyof typeof abilities.why} */ (name)] ? 'yes' : 'no '}  ${name.padEnd(8)} ${why}\n`);
        }
      }
      return CODE.ok;
    }
    const llm = await loadModel(values, { operand, contextSize: values.context });
    const about = llm.info;
    await llm.free();
    if (values.json) writeJson(about);
    else write(text(about));
    return CODE.ok;
  },
};

/** @param {import('../index.js').Info} info */
function text({ version, model, module, context: { size, kvBytes }, memory, bank, mask, timings }) {
  const rows = [
    ['model', `${model.name || 'unnamed'}, ${model.architecture}, ${model.quantisation}`],
    ['shape', `${model.layers} layers, width ${model.embedding}, ${(model.parameters / 1e6).toFixed(0)} M parameters`],
    ['weights', megabytes(model.packedBytes)],
    ['context', `${size} tokens, ${megabytes(kvBytes)} of KV cache`],
    ['module', `${module.variant} (${module.variantReason}), ${megabytes(module.moduleBytes)}`],
    ['threads', `${count(module.threads, 'thread')} (${module.threadsReason})`],
    ['memory', `${megabytes(memory.used)} in use, ${megabytes(memory.bytes)} of WebAssembly memory`],
    bank
      ? ['bank', `${bank.clusters} clusters, ${bank.levels.length} levels, by ${bank.encoder.kind}${bank.note && `; ${bank.note}`}`]
      : ['mask', `${mask.blocksRun} of ${mask.blocksTotal} blocks`],
    ['loaded', `in ${(timings.load_ms / 1000).toFixed(2)} s by skipstone ${version}`],
  ];
  return rows.map(([name, value]) => `${name.padEnd(8)} ${value}\n`).join('');
}
