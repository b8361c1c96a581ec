/** skipstone route: which cluster of a bank a prompt belongs to, and what it would run with. */
import { BANK, CODE, ENGINE, JSON_OPTION, MODEL } from './shared.js';
import { loadModel, readPrompt, write, writeJson } from './shared.js';
import { UsageError } from './options.js';
import { maskReport } from './run.js';

/** @type {import('./options.js').Command} */
export const route = {
  name: 'route',
  summary: 'which cluster of a mask bank a prompt belongs to',
  usage: '-m MODEL [--bank BANK] TEXT [options]',
  about: `Embeds a prompt, finds its nearest cluster in a mask bank, and prints the cluster, the distance and
the mask of each depth level.`,
  examples: `  npx skipstone route -m model.gguf --bank bank.gguf 'Write a poem about rain.'
  npx skipstone route -m model.gguf --bank bank.gguf --lines --json -f prompts.txt`,
  options: [
    MODEL,
    ...BANK,
    { name: 'prompt', letter: 'p', argument: 'TEXT', help: 'the prompt' },
    { name: 'file', letter: 'f', argument: 'FILE', help: 'the prompt from a file; -: standard input' },
    { name: 'lines', kind: 'flag', help: 'every line is a prompt of its own; prints a line each' },
    ...ENGINE,
    { ...JSON_OPTION, help: 'print one JSON object a prompt' },
  ],
  operands: 1,
  async run(values, [operand]) {
    const text = await readPrompt(values, operand);
    const llm = await loadModel(values);
    try {
      const { bank } = llm.info;
      if (!bank) throw new UsageError('no bank: give --bank BANK');
      for (const prompt of values.lines ? text.replace(/\n$/, '').split('\n') : [text]) {
        const [first, ...others] = bank.levels;
        const route = await llm.route(prompt, { depth: 1 - first });
        if (values.lines && !values.json) {
          write(`${route.cluster ?? '-'}\t${route.distance.toFixed(4)}\n`);
          continue;
        }
        const levels = [{ level: first, mask: route.mask }];
        for (const level of others) levels.push({ level, mask: (await llm.route(prompt, { depth: 1 - level })).mask });
        if (values.json) {
          const { cluster, distance, ms } = route;
          const routing = { cluster, distance, routing_ms: ms, encoder: bank.encoder.kind, bank_bytes: bank.bytes.bank };
          writeJson({ routing, levels: levels.map(({ level, mask }) => ({ level, mask: maskReport(mask) })) });
          continue;
        }
        const where = route.cluster === null ? 'no cluster: the global mask' : `cluster ${route.cluster} of ${bank.clusters}`;
        write(`${where}, distance ${route.distance.toFixed(4)}, routed in ${route.ms.toFixed(1)} ms by ${bank.encoder.kind}\n`);
        for (const { level, mask } of levels) {
          const skipped = `${(100 * mask.macsSkipped).toFixed(2)} % of MACs skipped`;
          write(`  depth ${(1 - level).toFixed(4)}: ${mask.blocksRun} of ${mask.blocksTotal} blocks, ${skipped}: ${mask.skip}\n`);
        }
      }
      return CODE.ok;
    } finally {
      await llm.free();
    }
  },
};
