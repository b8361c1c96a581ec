/** The depth dial: an arc to turn by pointer, and beneath it a range input for keyboards and screen readers. */

const CENTRE = { x: 100, y: 108 };
const RADIUS = 80;

export class Dial {
  #root;
  #input;
  /** @type {number[]} */ #depths = [1];
  /** @type {(depth: number) => void} */ onChange = () => {};

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#input = /** @type {HTMLInputElement} */ (root.querySelector('input'));
    this.#input.addEventListener('input', () => this.#changed());
    const svg = /** @type {SVGSVGElement} */ (root.querySelector('svg'));
    svg.addEventListener('pointerdown', (event) => {
      if (this.#input.disabled) return;
      svg.setPointerCapture(event.pointerId);
      this.#turn(svg, event);
      this.#input.focus({ preventScroll: true });
      event.preventDefault();
    });
    svg.addEventListener('pointermove', (event) => {
      if (svg.hasPointerCapture(event.pointerId)) this.#turn(svg, event);
    });
    this.#draw();
  }

  /** @param {number[]} depths to choose from, rising; the last is 1 @param {number} depth */
  setDepths(depths, depth) {
    this.#depths = depths;
    this.#input.max = String(depths.length - 1);
    this.#input.disabled = depths.length < 2;
    this.depth = depth;
  }

  get depth() {
    return this.#depths[Number(this.#input.value)] ?? 1;
  }

  /** The nearest that there is. @param {number} depth */
  set depth(depth) {
    const distances = this.#depths.map((there) => Math.abs(there - depth));
    this.#input.value = String(distances.indexOf(Math.min(...distances)));
    this.#draw();
  }

  #changed() {
    this.#draw();
    this.onChange(this.depth);
  }

  /** @param {SVGSVGElement} svg @param {PointerEvent} event */
  #turn(svg, event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 200 - CENTRE.x;
    const y = ((event.clientY - box.top) / box.height) * 124 - CENTRE.y;
    const turn = Math.min(1, Math.max(0, 1 + Math.atan2(Math.min(y, 0), x) / Math.PI)); // 0 at the left end, 1 at the right
    const index = String(Math.round((y > 0 && x < 0 ? 0 : turn) * (this.#depths.length - 1)));
    if (index === this.#input.value) return;
    this.#input.value = index;
    this.#changed();
  }

  #draw() {
    const last = this.#depths.length - 1;
    const index = last ? Number(this.#input.value) : 0;
    const turn = last ? index / last : 1;
    const knob = at(turn);
    const part = (/** @type {string} */ name) => /** @type {SVGElement} */ (this.#root.querySelector(name));
    part('.dial-value').setAttribute('d', turn ? `M20 108 A${RADIUS} ${RADIUS} 0 0 1 ${knob.x} ${knob.y}` : '');
    part('.dial-knob').setAttribute('cx', String(knob.x));
    part('.dial-knob').setAttribute('cy', String(knob.y));
    part('.dial-ticks').replaceChildren(
      ...this.#depths.map((_, i) => {
        const tick = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
        const { x, y } = at(last ? i / last : 1);
        for (const [name, value] of Object.entries({ cx: x, cy: y, r: 2 })) tick.setAttribute(name, String(value));
        return tick;
      }),
    );
    const text = percent(this.depth);
    /** @type {HTMLElement} */ (this.#root.querySelector('.dial-number')).textContent = text;
    this.#input.setAttribute('aria-valuetext', this.depth === 1 ? 'every block' : `${text} of the multiply-adds`);
  }
}

/** A point of the arc. @param {number} turn 0 to 1 */
const at = (turn) => ({
  x: CENTRE.x - RADIUS * Math.cos(Math.PI * turn),
  y: CENTRE.y - RADIUS * Math.sin(Math.PI * turn),
});

/** @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(share === 1 ? 0 : 1)} %`.replace('.0 %', ' %');
