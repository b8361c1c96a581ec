/**
 * Whether a model runs here, and how fast, from the header of its file: memory is a sum, speed is measured on weights of
 * zeros, which cost as much as any.
 */
import { Opener } from '../store/open.js';
import { Engine } from './engine.js';
import { chunkTokens, sumOf } from './loading.js';
import { depthFor, measure, tokensPerSecond } from './measure.js';
import { deviceMemory } from './platform.js';
import { Weights } from './weights.js';

const MEASURED_BYTES = 96 << 20; // of weights: more than a processor's caches hold
const ZEROS = 4 << 20;
const WANTED = 20; // tokens per second that suggestedDepth aims at, as depth 'auto' does
const LEVELS = [0.0625, 0.125, 0.1875, 0.25]; // the usual ones, where the bank is not known
const CONTEXTS = [8192, 4096, 2048, 1024, 512, 256];
const SPARE_BYTES = 8 << 20; // of the wasm memory: buffers, the tokenizer's and the router's state

/**
 * @typedef {object} Verdict
 * @property {boolean} fits
 * @property {number} bytes to fetch: of the whole file; a bank's masks may need less
 * @property {number} memoryBytes of wasm memory, with contextSize as asked for, or as suggested
 * @property {number} prefillTokensPerSecond at suggestedDepth
 * @property {number} decodeTokensPerSecond at suggestedDepth
 * @property {number} suggestedDepth 1, or the least skipping that decodes 20 tokens per second (with a bank)
 * @property {number} suggestedContextSize
 * @property {string[]} reasons in words: why it does not fit, what is known only roughly
 */

/**
 * @param {import('./loading.js').LoadCall} call
 * @param {{host: import('../store/open.js').Host, signal: AbortSignal}} surroundings
 * @returns {Promise<Verdict>}
 */
export async function canRun({ source: places, access, module, contextSize, skip, bank }, { host, signal }) {
  // the header is asked for once; nothing of it is worth storing
  const opener = new Opener(host, { ...access, cache: false }, signal);
  const source = await opener.model(places);
  const engine = await Engine.create(module);
  try {
    engine.openModel();
    const weights = new Weights(engine, source, signal, () => {});
    await weights.header();
    await source.close();
    engine.openTokenizer();
    const { layers, blocks, contextTrained, packedBytes } = engine.modelInfo();
    const costs = Array.from({ length: blocks }, (_, block) => engine.blockCost(block));
    const chunk = chunkTokens(costs, engine.module.threads);
    const before = engine.memory();
    const mask = engine.parseMask(skip, layers);
    const skippedBytes = costs.reduce((sum, cost, block) => sum + (mask.runs(block) ? 0 : cost.packedBytes), 0);

    /** @type {string[]} */
    const reasons = [];
    // a tensor has its memory from its first byte on, and some came with the header
    const begun = engine.tensors().filter(({ offset }) => offset < weights.fedTo);
    const overhead = before.used - begun.reduce((sum, tensor) => sum + tensor.bytes, 0);
    /** @param {number} context */
    const need = (context) =>
      overhead + packedBytes - skippedBytes + engine.sessionSize(mask, context, chunk).bytes + SPARE_BYTES;
    const device = deviceMemory();
    const room = Math.min(before.maximum, device.bytes);
    const contexts = CONTEXTS.filter((context) => context <= Math.min(contextTrained || 2048, 2048));
    const suggestedContextSize = contexts.find((context) => need(context) <= room) ?? contexts[contexts.length - 1] ?? contextTrained;
    const memoryBytes = need(contextSize || suggestedContextSize);
    if (contextTrained && contextSize > contextTrained) {
      reasons.push(`contextSize is ${contextSize}, the model was trained for ${contextTrained} tokens`);
    }
    if (memoryBytes > before.maximum) reasons.push(`it takes ${memoryBytes} bytes of memory, wasm may have ${before.maximum} here`);
    if (memoryBytes > device.bytes) reasons.push(`it takes ${memoryBytes} bytes of memory, ${device.text}`);
    const fits = !reasons.length;

    const macs = costs.reduce((sum, cost, block) => sum + (mask.runs(block) ? cost.macs : 0), 0);
    const tooLarge = packedBytes - sumOf(costs, 'packedBytes') + MEASURED_BYTES > before.maximum;
    if (tooLarge) return { fits, bytes: source.size ?? 0, memoryBytes, ...UNKNOWN, suggestedContextSize, reasons };
    const present = feedZeros(engine, costs);
    const speed = measure(engine, layers, costs, chunk, present);
    const { depth } = depthFor(speed, macs, bank ? LEVELS : [], WANTED);
    const bytes = source.size ?? 0;
    if (source.size === undefined) reasons.push('the server does not say how long the file is');
    return {
      fits,
      bytes,
      memoryBytes,
      prefillTokensPerSecond: tokensPerSecond(speed.prefill, depth * macs),
      decodeTokensPerSecond: tokensPerSecond(speed.decode, depth * macs),
      suggestedDepth: depth,
      suggestedContextSize,
      reasons,
    };
  } finally {
    await source.close();
    await engine.close();
  }
}

const UNKNOWN = { prefillTokensPerSecond: 0, decodeTokensPerSecond: 0, suggestedDepth: 1 };

/**
 * Feeds zeros for what lies outside blocks and for as many layers as are worth timing.
 * @param {Engine} engine
 * @param {import('./engine.js').BlockCost[]} costs
 * @returns {boolean[]} by block: whether it is there
 */
function feedZeros(engine, costs) {
  let bytes = 0;
  const present = costs.map(({ packedBytes }, block) => {
    const layer = block % 2 === 0 ? packedBytes + costs[block + 1].packedBytes : 0;
    if (block < 2 || bytes + layer <= MEASURED_BYTES) bytes += packedBytes;
    else bytes = Infinity;
    return Number.isFinite(bytes);
  });
  const zeros = new Uint8Array(ZEROS);
  for (const { offset, bytes: length, block } of engine.tensors()) {
    if (block >= 0 && !present[block]) continue;
    for (let at = 0; at < length; at += ZEROS) engine.feed(offset + at, zeros.subarray(0, Math.min(ZEROS, length - at)));
  }
  engine.endFeed();
  return present;
}
