/** skipstone run: one prompt, one answer. */
import { BANK, CODE, context, count, DEPTH, ENGINE, JSON_OPTION, MODEL, SAMPLING, SKIP, VERBOSE } from './shared.js';
import { answer, loadModel, readPrompt, routed, sampling, write, writeJson } from './shared.js';
import { UsageError } from './options.js';

/** @type {import('./options.js').Command} */
export const run = {
  name: 'run',
  summary: 'answer one prompt',
  usage: '-m MODEL -p TEXT [options]',
  about: `Answers one prompt and streams the text to standard output. Ctrl-C ends the answer.

--json prints {text, tokens, prompt_tokens, cached_tokens, logits_hash, mask, route, timings, module, threads,
finish_reason}. tokens are the ids that were picked, an end token included; logits_hash is of the logits of the
last pick and is the same on every machine, module and thread count.`,
  examples: `  npx skipstone run -m model.gguf -p 'The capital of France is' -n 16 --temp 0
  npx skipstone run -m hf:owner/repo:Q4_1 --chat -p 'Name three rivers.' --seed 7
  git diff | npx skipstone run -m model.gguf --chat --system 'Describe this change.'`,
  options: [
    MODEL,
    { name: 'prompt', letter: 'p', argument: 'TEXT', help: 'the prompt; -: standard input' },
    { name: 'file', letter: 'f', argument: 'FILE', help: 'the prompt from a file; -: standard input' },
    { name: 'chat', kind: 'flag', help: "the prompt is a user's message: formats it by the\nmodel's chat template" },
    { name: 'system', argument: 'TEXT', help: 'a system message before it; means --chat' },
    ...SAMPLING,
    SKIP,
    context('the smaller of 2048 and what\nthe model was trained on'),
    ...BANK,
    DEPTH,
    ...ENGINE,
    JSON_OPTION,
    VERBOSE,
  ],
  operands: 1,
  async run(values, [operand]) {
    const text = await readPrompt(values, operand);
    if (!text) throw new UsageError('the prompt is empty');
    const llm = await loadModel(values, { contextSize: values.context });
    try {
      const system = values.system === undefined ? [] : [{ role: 'system', content: values.system }];
      const chat = values.chat || values.system !== undefined;
      const prompt = chat ? { messages: [...system, { role: 'user', content: text }] } : text;
      const result = await answer(llm, prompt, sampling(values), values.json ? () => {} : write);
      if (values.json) writeJson(report(llm, result));
      else write('\n');
      if (values.verbose || (!values.json && process.stderr.isTTY)) process.stderr.write(summary(llm, result));
      return result.interrupted ? CODE.interrupted : CODE.ok;
    } finally {
      await llm.free();
    }
  },
};

/** @param {import('../index.js').Llm} llm @param {import('../index.js').Result} result */
function report(llm, { text, tokens, promptTokens, cachedTokens, logitsHash, mask, route, timings, finishReason }) {
  const { module, timings: load } = llm.info;
  return {
    text,
    tokens,
    prompt_tokens: promptTokens,
    cached_tokens: cachedTokens,
    logits_hash: logitsHash,
    mask: maskReport(mask),
    route: route && { cluster: route.cluster, distance: route.distance, depth: route.depth, routing_ms: route.ms },
    timings: { ...load, ...timings },
    module: module.variant,
    threads: module.threads,
    finish_reason: finishReason,
  };
}

/** @param {import('../../wasm/generate.js').MaskReport} mask */
export const maskReport = ({ skip, blocksRun, blocksTotal, macsSkipped }) => ({
  skip,
  blocks_run: blocksRun,
  blocks_total: blocksTotal,
  macs_skipped: macsSkipped,
});

/** @param {import('../index.js').Llm} llm @param {import('../index.js').Result} result */
function summary(llm, result) {
  const { module, timings: load } = llm.info;
  const { timings, tokens, finishReason } = result;
  return (
    `${timings.prefill_tokens} prompt tokens at ${timings.prefill_tps.toFixed(1)}/s, ` +
    `${tokens.length} tokens at ${timings.decode_tps.toFixed(1)}/s (${finishReason}), ${routed(result)}, ` +
    `${count(module.threads, 'thread')}, ${module.variant}, loaded in ${(load.load_ms / 1000).toFixed(2)} s\n`
  );
}
