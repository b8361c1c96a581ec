/** The package as this page uses it: load, route, answer. */
import { canRun, load, models } from '../index.js';

/**
 * @typedef {{role: 'user' | 'assistant', content: string}} Message
 * @typedef {object} Stats  Of an answer.
 * @property {number} firstTokenMs  from the call to the first text
 * @property {number} tokensPerSecond  of the decode
 * @property {number} tokens  of the answer
 * @property {number} promptTokens
 * @property {number} cachedTokens  of the prompt, kept from the turn before
 * @property {Route} route
 * @property {string} finish
 * @typedef {object} Route
 * @property {number | null} cluster
 * @property {number} distance
 * @property {string} skip  what does not run
 * @property {number} blocksRun
 * @property {number} blocksTotal
 * @property {number} macsSkipped  share
 */

export class Engine {
  #llm;

  /** @param {import('../index.js').Llm} llm */
  constructor(llm) {
    this.#llm = llm;
  }

  /** Whether a model is in this browser's store, whole or in part. @param {URL} model */
  static async isStored(model) {
    return (await models.has(model).catch(() => false)) !== false;
  }

  /** @param {URL} model @param {AbortSignal} signal */
  static verdict(model, signal) {
    return canRun(model, { bank: 'auto', signal });
  }

  /**
   * @param {URL} model
   * @param {import('../index.js').LoadOptions} options
   */
  static async load(model, options) {
    return new Engine(await load(model, options));
  }

  /** Resolves when all that the masks need is there. */
  get complete() {
    return this.#llm.complete;
  }

  get info() {
    return this.#llm.info;
  }

  /** The share of a layer's multiply-adds that its attention has. */
  get attentionShare() {
    const { embedding, feedForward, heads, kvHeads, headDim } = this.info.model;
    const attention = 2 * embedding * headDim * (heads + kvHeads);
    return attention / (attention + 3 * embedding * feedForward);
  }

  /** @param {string} text @param {number} depth @returns {Promise<Route>} */
  async route(text, depth) {
    const { cluster, distance, mask } = await this.#llm.route(text, { depth });
    return { cluster, distance, ...mask };
  }

  /**
   * @param {Message[]} messages
   * @param {{depth: number, signal: AbortSignal, onText: (text: string) => void, temperature: number, maxTokens?: number}} how
   * @returns {Promise<Stats>}
   */
  async answer(messages, { depth, signal, onText, temperature, maxTokens }) {
    const start = performance.now();
    let firstTokenMs = 0;
    const generation = this.#llm.generate({ messages }, { depth, signal, temperature, maxTokens });
    for await (const { text } of generation) {
      firstTokenMs ||= performance.now() - start;
      onText(text);
    }
    const { mask, route, timings, tokens, promptTokens, cachedTokens, finishReason } = await generation.result;
    return {
      firstTokenMs,
      tokensPerSecond: timings.decode_tps,
      tokens: tokens.length,
      promptTokens,
      cachedTokens,
      route: { cluster: route?.cluster ?? null, distance: route?.distance ?? 0, ...mask },
      finish: finishReason,
    };
  }
}
