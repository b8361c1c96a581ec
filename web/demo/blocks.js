/**
 * The picture of the 2 x L blocks: a column a layer, attention above feed-forward, each as high as its share of the
 * multiply-adds. Lit is what runs. A stone travels along the layers with every token, and leaves the ground where a
 * block is skipped.
 */

const reduced = matchMedia('(prefers-reduced-motion: reduce)');

/** @typedef {{attn: Set<number>, ffn: Set<number>}} Skipped layers */

/** What a mask leaves out, from its text ('attn:3,7;ffn:12'). @param {string} skip @returns {Skipped} */
export function parseSkip(skip) {
  const skipped = { attn: new Set(), ffn: new Set() };
  for (const part of skip.split(';').filter(Boolean)) {
    const [kind, list] = part.split(':');
    for (const range of list.split(',')) {
      const [from, to = from] = range.split('-').map(Number);
      for (let layer = from; layer <= to; layer++) skipped[/** @type {'attn' | 'ffn'} */ (kind)].add(layer);
    }
  }
  return skipped;
}

export class BlockPicture {
  #root;
  #grid = element('div', 'grid');
  #stone = element('i', 'stone');
  #path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  /** @type {HTMLElement[][]} attention and feed-forward of a layer */ #cells = [];
  /** @type {boolean[]} layers with a block skipped */ #hops = [];
  /** @type {Animation | undefined} */ #flight;
  #again = false;

  /** @param {HTMLElement} root @param {{axis?: boolean}} [options] axis: with the layers' numbers and the rows' names */
  constructor(root, { axis = true } = {}) {
    this.#root = root;
    root.classList.add('blocks');
    root.setAttribute('role', 'img');
    const air = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    air.classList.add('air');
    air.append(this.#path);
    const stage = element('div', 'stage');
    stage.append(air, this.#grid, this.#stone);
    root.append(stage);
    if (axis) root.append(element('div', 'axis'));
    new ResizeObserver(() => this.#draw()).observe(this.#grid);
  }

  /** @param {{layers: number, attentionShare: number}} model attentionShare: of a layer's multiply-adds */
  setModel({ layers, attentionShare }) {
    this.#grid.style.setProperty('--attention', String(attentionShare));
    this.#grid.replaceChildren();
    this.#cells = Array.from({ length: layers }, () => {
      const column = element('div', 'layer');
      const cells = [element('i', 'block attn'), element('i', 'block ffn')];
      column.append(...cells);
      this.#grid.append(column);
      return cells;
    });
    const axis = this.#root.querySelector('.axis');
    const captions = ['layer 1', 'attention above, feed-forward below', `layer ${layers}`];
    axis?.replaceChildren(...captions.map((text) => element('span', '', text)));
    this.setMask('');
  }

  /** @param {string} skip */
  setMask(skip) {
    const { attn, ffn } = parseSkip(skip);
    this.#cells.forEach(([attention, feedForward], layer) => {
      attention.classList.toggle('dark', attn.has(layer));
      feedForward.classList.toggle('dark', ffn.has(layer));
    });
    this.#hops = this.#cells.map((_, layer) => attn.has(layer) || ffn.has(layer));
    const kinds = /** @type {const} */ ([['attention', attn], ['feed-forward', ffn]]);
    const names = kinds.filter(([, layers]) => layers.size).map(([kind, layers]) => `${kind} of layers ${list(layers)}`);
    const total = 2 * this.#cells.length;
    const run = total - attn.size - ffn.size;
    const skipped = names.length ? `; skipped: ${names.join(', ')}` : '';
    this.#root.setAttribute('aria-label', `${run} of ${total} blocks run${skipped}`);
    this.#draw();
  }

  /** Before there is a mask: as much of the picture as of the model is lit. @param {number} share */
  fill(share) {
    this.#cells.forEach((cells, layer) => {
      for (const cell of cells) cell.classList.toggle('dark', layer >= share * this.#cells.length);
    });
    this.#hops = this.#cells.map(() => false);
    this.#root.setAttribute('aria-label', 'The blocks of the model, which is not loaded yet');
    this.#draw();
  }

  /** The stone's way: along the ground where a layer runs whole, a hop over each run of layers with a block skipped. */
  #draw() {
    const { offsetWidth: width } = this.#grid;
    const layers = this.#cells.length;
    if (!width || !layers) return;
    const step = width / layers;
    const ground = this.#grid.offsetTop - 3;
    let d = `M0 ${ground}`;
    let arcs = '';
    for (let layer = 0; layer < layers; ) {
      let end = layer;
      while (end < layers && this.#hops[end] === this.#hops[layer]) end++;
      const [from, to] = [layer * step, end * step];
      if (this.#hops[layer]) {
        const height = Math.min(ground + 1, 7 + 4 * (end - layer));
        const arc = `Q${((from + to) / 2).toFixed(1)} ${(ground - 2 * height + 4).toFixed(1)} ${to.toFixed(1)} ${ground}`;
        d += ` ${arc}`;
        arcs += `M${from.toFixed(1)} ${ground} ${arc} `;
      } else {
        d += ` L${to.toFixed(1)} ${ground}`;
      }
      layer = end;
    }
    this.#path.setAttribute('d', arcs);
    this.#stone.style.offsetPath = `path("${d}")`;
  }

  /** A token went through the blocks. */
  token() {
    this.#root.classList.add('running');
    if (reduced.matches || !this.#cells.length) return;
    this.#again = this.#flight?.playState === 'running'; // a flight ends; tokens that come meanwhile share the next
    if (!this.#again) this.#fly();
  }

  #fly() {
    const flight = this.#stone.animate(
      [
        { offsetDistance: '0%', opacity: 0 },
        { offsetDistance: '8%', opacity: 1, offset: 0.08 },
        { offsetDistance: '92%', opacity: 1, offset: 0.92 },
        { offsetDistance: '100%', opacity: 0 },
      ],
      { duration: 700, easing: 'linear' },
    );
    this.#flight = flight;
    this.#cells.forEach((cells, layer) =>
      cells.forEach((cell) => {
        if (cell.classList.contains('dark')) return;
        cell.animate([{ filter: 'brightness(1)' }, { filter: 'brightness(1.35)', offset: 0.3 }, { filter: 'brightness(1)' }], {
          duration: 260,
          delay: (640 * layer) / this.#cells.length,
        });
      }),
    );
    flight.onfinish = () => {
      if (this.#again) this.#fly();
      this.#again = false;
    };
  }

  /** No more tokens come. */
  rest() {
    this.#again = false;
    this.#root.classList.remove('running');
  }
}

/** @param {Set<number>} layers */
const list = (layers) => [...layers].map((layer) => layer + 1).join(', ');

/** @param {string} name @param {string} [className] @param {string} [text] */
export function element(name, className = '', text = '') {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}
