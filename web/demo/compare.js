/** One prompt twice: with every block, then with those that the bank picks for it. */
import { BlockPicture, element } from './blocks.js';
import { Answer } from './chat.js';

/**
 * @typedef {import('./engine.js').Engine} Engine
 * @typedef {import('./engine.js').Stats} Stats
 * @typedef {{depth: number, maxTokens: number, signal: AbortSignal}} How
 */

class Side {
  #picture;
  #body = element('div', 'body');
  #foot = element('p', 'foot');
  #numbers = element('dl', 'numbers');
  /** @type {Record<string, HTMLElement>} */ #values = {};

  /** @param {HTMLElement} root @param {string} title */
  constructor(root, title) {
    const heading = element('h3', '', title);
    heading.id = `${root.id}-title`;
    const picture = element('div');
    root.append(heading, picture, this.#numbers, this.#body, this.#foot);
    this.#picture = new BlockPicture(picture, { axis: false });
    for (const [name, label] of [['first', 'first token'], ['speed', 'tokens/s'], ['blocks', 'blocks']]) {
      const group = element('div');
      this.#values[name] = element('dd', '', '–');
      group.append(element('dt', '', label), this.#values[name]);
      this.#numbers.append(group);
    }
  }

  /** @param {Engine} engine */
  setModel(engine) {
    const { layers, blocks } = engine.info.model;
    this.#picture.setModel({ layers, attentionShare: engine.attentionShare });
    this.#values.blocks.textContent = `${blocks} of ${blocks}`;
  }

  /** @param {import('./engine.js').Route} route */
  setRoute({ skip, blocksRun, blocksTotal }) {
    this.#picture.setMask(skip);
    this.#values.blocks.textContent = `${blocksRun} of ${blocksTotal}`;
  }

  clear() {
    this.#body.replaceChildren();
    this.#foot.textContent = '';
    for (const name of ['first', 'speed']) this.#values[name].textContent = '–';
  }

  /**
   * @param {Engine} engine @param {string} prompt @param {How} how
   * @returns {Promise<Stats>}
   */
  async run(engine, prompt, how) {
    const start = performance.now();
    const answer = new Answer(this.#body, this.#foot);
    let tokens = 0;
    let first = 0;
    try {
      const stats = await engine.answer([{ role: 'user', content: prompt }], {
        ...how,
        temperature: 0,
        onText: (text) => {
          const now = performance.now();
          answer.add(text);
          this.#picture.token();
          first ||= now;
          tokens++;
          this.#values.first.textContent = milliseconds(first - start);
          if (tokens > 4) this.#values.speed.textContent = ((1000 * (tokens - 1)) / (now - first)).toFixed(1);
        },
      });
      this.#values.first.textContent = milliseconds(stats.firstTokenMs);
      this.#values.speed.textContent = stats.tokensPerSecond.toFixed(1);
      this.setRoute(stats.route);
      answer.end(`${stats.tokens} tokens${stats.finish === 'length' ? ', cut here' : ''}`);
      return stats;
    } catch (error) {
      answer.end('stopped');
      throw error;
    } finally {
      this.#picture.rest();
    }
  }
}

export class Comparison {
  #dense;
  #masked;

  /** @param {HTMLElement} dense @param {HTMLElement} masked */
  constructor(dense, masked) {
    this.#dense = new Side(dense, 'Every block');
    this.#masked = new Side(masked, 'Only what the prompt needs');
  }

  /** @param {Engine} engine */
  setModel(engine) {
    this.#dense.setModel(engine);
    this.#masked.setModel(engine);
  }

  /** @param {import('./engine.js').Route} route */
  setRoute(route) {
    this.#masked.setRoute(route);
  }

  /**
   * One after the other, since both want the whole processor.
   * @param {Engine} engine @param {string} prompt @param {How} how
   * @returns {Promise<string>} what came out
   */
  async run(engine, prompt, how) {
    this.#dense.clear();
    this.#masked.clear();
    const dense = await this.#dense.run(engine, prompt, { ...how, depth: 1 });
    const masked = await this.#masked.run(engine, prompt, how);
    const skipped = `${(100 * masked.route.macsSkipped).toFixed(1)} % of the multiply-adds left out`;
    const decode = times(masked.tokensPerSecond / dense.tokensPerSecond);
    const first = times(dense.firstTokenMs / masked.firstTokenMs);
    return `${skipped}: tokens ${decode}, first token ${first}.`;
  }
}

/** @param {number} ratio */
const times = (ratio) => (ratio >= 1 ? `${ratio.toFixed(2)} times as fast` : `${(1 / ratio).toFixed(2)} times slower`);
/** @param {number} ms */
export const milliseconds = (ms) => (ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`);
