/* Draws the report of a training run from the two data elements of its page: run.json, and the log's lines. */

/**
 * @typedef {{ size: number, held_back: number, domains: Record<string, number>, examples: string[] }} Cluster
 * @typedef {{ model: string, quantisation: string, encoder: string, samples: number, silhouette: number, plan: Record<string, any>,
 *   levels: number[], units: number[], units_total: number, costs: number[], clusters: Cluster[] }} Run
 * @typedef {{ phase: 'l0', cluster: number | null, level: number, step: number, loss: number, skipped: number, target: number,
 *   sampled: number, tokens_per_second: number }} Step
 * @typedef {{ phase: 'mask', cluster: number | null, level: number, mask: { skip: string, blocks_run: number },
 *   dense_loss: number, start_loss: number, trained_loss: number, loss: number, swaps: number, losses: number, open: number[], other_text?: { kept: string },
 *   recovery?: { parts: number, kl_before: number, kl: number, loss: number }, seconds: number }} Mask
 * @typedef {(m: Mask) => number} Loss
 * @typedef {{ points: [number, number][], color: string, width?: number, dash?: string, opacity?: number, dots?: boolean, name?: string }} Series
 */

const textOf = (/** @type {string} */ id) => document.getElementById(id)?.textContent ?? '';
const run = /** @type {Run} */ (JSON.parse(textOf('run')));
const lines = textOf('log').split('\n').filter(Boolean).map((line) => JSON.parse(line));
const steps = /** @type {Step[]} */ (lines.filter((line) => line.phase === 'l0'));
const masks = /** @type {Mask[]} */ (lines.filter((line) => line.phase === 'mask'));
const nLevels = run.levels.length;
const jobs = [null, ...run.clusters.keys()]; /* null: all text */

/* ---- finding and saying ---- */

const same = (/** @type {number} */ a, /** @type {number} */ b) => Math.abs(a - b) < 1e-6;
const maskOf = (/** @type {number | null} */ job, /** @type {number} */ level) =>
  masks.find((m) => m.cluster === job && same(m.level, run.levels[level]));
/** The loss of a mask when its training began, before recovery, and of what the bank has. @type {Record<string, Loss>} */
const losses = {
  start: (m) => m.start_loss,
  mask: (m) => m.loss,
  bank: (m) => (m.recovery?.parts ? m.recovery.loss : m.loss),
};
const recovered = masks.some((m) => m.recovery?.parts);
const nameOf = (/** @type {number | null} */ job) => (job === null ? 'all text' : `cluster ${job}`);
const percent = (/** @type {number} */ x, digits = 2) => `${Number((100 * x).toFixed(digits))} %`;
const signed = (/** @type {number} */ x) => `${x < 0 ? '\u2212' : '+'}${Math.abs(x).toFixed(3)}`;
const mean = (/** @type {number[]} */ values) => values.reduce((sum, x) => sum + x, 0) / values.length;
const count = (/** @type {number} */ n, /** @type {string} */ what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;

/** @param {number} seconds */
function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return minutes < 90 ? `${minutes} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Blocks that "attn:3,7-9;ffn:12" names. @param {string} text @returns {Set<number>} */
function skippedBlocks(text) {
  /** @type {Set<number>} */
  const out = new Set();
  for (const part of text.split(';').filter(Boolean)) {
    const [kind, list] = part.split(':');
    for (const range of list.split(',')) {
      const [first, last = first] = range.split('-').map(Number);
      for (let layer = first; layer <= last; layer++) out.add(2 * layer + (kind === 'ffn' ? 1 : 0));
    }
  }
  return out;
}

/* ---- elements ---- */

/** @param {Element} e @param {Record<string, any>} attributes @param {(Node | string)[]} children */
function fill(e, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) e.setAttribute(key, String(value));
  e.append(...children);
}
/** @param {string} tag @param {Record<string, any>} [attributes] @param {(Node | string)[]} children */
function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  fill(e, attributes, children);
  return e;
}
/** @param {string} tag @param {Record<string, any>} [attributes] @param {(Node | string)[]} children */
function svg(tag, attributes = {}, ...children) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  fill(e, attributes, children);
  return e;
}
/** @param {string} title @param {string} note @param {(Node | string)[]} children */
const section = (title, note, ...children) => el('section', {}, el('h2', {}, title), el('p', { class: 'note' }, note), ...children);
/** @param {{ color: string, name: string, box?: boolean, dash?: boolean }[]} items */
const legend = (items) => el('div', { class: 'legend' }, ...items.map(({ color, name, box, dash }) => el('span', {}, el('i', {
  class: box ? 'box' : undefined,
  style: box ? `background:${color}` : `border-color:${color};${dash ? 'border-top-style:dashed;border-top-width:2px' : ''}`,
}), name)));

/* ---- charts ---- */

/** Round numbers from low to high, about n of them. @param {number} low @param {number} high @param {number} n */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((m) => m * power >= rough) ?? 10);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
  return out;
}

/**
 * @param {{ series: Series[], width?: number, height?: number, label: string, xLabel: string, xTicks?: number[], zero?: boolean,
 *   yFormat?: (y: number) => string, xFormat?: (x: number) => string, marks?: { x: number, name: string }[] }} options
 */
function chart({ series, width = 520, height = 240, label, xLabel, xTicks, zero, yFormat = String, xFormat = String, marks = [] }) {
  const left = 52, right = 12, top = 24, bottom = 38;
  const points = series.flatMap((s) => s.points);
  if (points.length === 0) return el('p', { class: 'note' }, 'Nothing has been measured yet.');
  const xs = [...points.map((p) => p[0]), ...(xTicks ?? [])], ys = points.map((p) => p[1]);
  const x0 = Math.min(...xs), x1 = Math.max(...xs, x0 + 1e-9);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  const room = (y1 - y0) * 0.08 || Math.abs(y1) * 0.05 || 1;
  y0 = zero ? Math.min(0, y0) : y0 - room;
  y1 += room;
  const x = (/** @type {number} */ v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const y = (/** @type {number} */ v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
  const out = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${label} against ${xLabel}` });
  for (const v of ticks(y0, y1, 4)) out.append(
    svg('line', { x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: 'var(--grid)' }),
    svg('text', { x: left - 8, y: y(v) + 4, 'text-anchor': 'end' }, yFormat(v)));
  for (const v of xTicks ?? ticks(x0, x1, 6)) out.append(svg('text', { x: x(v), y: height - bottom + 18, 'text-anchor': 'middle' }, xFormat(v)));
  for (const mark of marks) out.append(
    svg('line', { x1: x(mark.x), x2: x(mark.x), y1: top, y2: height - bottom, stroke: 'var(--line)' }),
    svg('text', { x: x(mark.x) + 5, y: top + 10, class: 'strong' }, mark.name));
  out.append(svg('line', { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: 'var(--line)' }),
    svg('text', { x: width - right, y: height - 4, 'text-anchor': 'end' }, xLabel),
    svg('text', { x: 0, y: 11, class: 'strong' }, label));
  for (const s of series) {
    const path = s.points.map(([px, py], i) => `${i ? 'L' : 'M'}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join('');
    out.append(svg('path', { d: path, fill: 'none', stroke: s.color, 'stroke-width': s.width ?? 2, 'stroke-dasharray': s.dash,
      opacity: s.opacity, 'stroke-linejoin': 'round', 'stroke-linecap': 'round' }));
    if (s.dots) for (const [px, py] of s.points) out.append(svg('circle', { cx: x(px), cy: y(py), r: 3.5, fill: s.color },
      svg('title', {}, `${s.name ?? ''} ${xFormat(px)}: ${yFormat(py)}`)));
  }
  return out;
}

/** A running mean, as steps are noisy. @param {[number, number][]} points @param {number} n @returns {[number, number][]} */
const smooth = (points, n) => points.map(([x], i) => {
  const part = points.slice(Math.max(0, i - n), i + n + 1);
  return [x, mean(part.map((p) => p[1]))];
});

/* ---- sections ---- */

function head() {
  const wanted = jobs.length * nLevels;
  return el('header', {}, el('h1', {}, `Masks for ${run.model}`),
    el('p', { class: 'sub' }, `${run.quantisation} weights, ${count(run.samples, 'sample')} in ${count(run.clusters.length, 'cluster')}, encoder ${run.encoder}, objective ${
      run.plan.objective}${masks.length < wanted ? ` \u2013 ${masks.length} of ${wanted} masks are done` : ''}`));
}

/** Excess over dense of a level, for all text and as the mean over clusters. @param {number} level @param {Loss} loss */
function excess(level, loss) {
  const all = maskOf(null, level);
  const bank = run.clusters.map((_, c) => maskOf(c, level)).filter((m) => m !== undefined);
  return { all: all && loss(all) - all.dense_loss, bank: bank.length ? mean(bank.map((m) => loss(m) - m.dense_loss)) : undefined };
}

function tiles() {
  const done = masks.length, wanted = jobs.length * nLevels;
  const seconds = masks.reduce((sum, m) => sum + m.seconds, 0);
  const speed = steps.length ? mean(steps.map((s) => s.tokens_per_second)) : 0;
  const deepest = excess(nLevels - 1, losses.bank);
  /** @type {[string, string][]} */
  const all = [[`${done} / ${wanted}`, 'masks done'], [duration(seconds), 'spent on them'], [`${Math.round(speed)}`, 'tokens/s in training steps']];
  if (deepest.bank !== undefined) all.push([signed(deepest.bank), `nats over dense at ${percent(run.levels[nLevels - 1])}, clusters`]);
  if (deepest.all !== undefined) all.push([signed(deepest.all), `nats over dense at ${percent(run.levels[nLevels - 1])}, one mask for all text`]);
  return el('div', { class: 'tiles' }, ...all.map(([value, what]) => el('div', { class: 'tile' }, el('b', {}, value), el('span', {}, what))));
}

function quality() {
  /** @type {(job: number | null, loss: Loss) => [number, number][]} */
  const points = (job, loss) => run.levels.flatMap((level, i) => {
    const m = maskOf(job, i);
    return m ? [/** @type {[number, number]} */ ([level, loss(m) - m.dense_loss])] : [];
  });
  /** @type {(loss: Loss, who: 'bank' | 'all') => [number, number][]} */
  const means = (loss, who) => run.levels.flatMap((level, i) => {
    const value = excess(i, loss)[who];
    return value === undefined ? [] : [/** @type {[number, number]} */ ([level, value])];
  });
  /** @param {[number, number][]} line @param {Omit<Series, 'points'>} look @returns {Series[]} */
  const from = (line, look) => (line.length ? [{ points: [[0, 0], ...line], ...look }] : []);
  const items = [{ color: 'var(--bank)', name: 'mean of the clusters' }, { color: 'var(--bank)', name: 'when their training began', dash: true },
    { color: 'var(--all)', name: 'one mask for all text' }];
  if (recovered) items.splice(1, 0, { color: 'var(--skip-ffn)', name: 'without recovery' });
  return section('Quality against depth', 'How much the loss on held-back text rises when blocks are left out. Each cluster is measured on its own text, the mask of all text on all of it.',
    legend(items),
    chart({
      series: [
        ...run.clusters.flatMap((_, c) => from(points(c, losses.bank), { color: 'var(--bank)', width: 1, opacity: 0.3 })),
        ...from(means(losses.start, 'bank'), { color: 'var(--bank)', dash: '5 5', width: 1.5 }),
        ...(recovered ? from(means(losses.mask, 'bank'), { color: 'var(--skip-ffn)', dots: true, name: 'clusters without recovery,' }) : []),
        ...from(means(losses.bank, 'all'), { color: 'var(--all)', dots: true, name: 'all text,' }),
        ...from(means(losses.bank, 'bank'), { color: 'var(--bank)', dots: true, name: 'clusters,', width: 2.5 }),
      ],
      width: 1040, height: 300, label: 'nats a token over dense', xLabel: 'share of block multiply-adds skipped', zero: true,
      xTicks: [0, ...run.levels], xFormat: (x) => percent(x), yFormat: (y) => y.toFixed(2),
    }));
}

/** One level: a row a mask, a column a layer, attention above its feed-forward block. @param {number} level */
function heatMap(level) {
  const nLayers = run.costs.length / 2, left = 84, right = 56, width = 1040;
  const cell = (width - left - right) / nLayers, row = 26, gap = 6;
  const done = jobs.filter((job) => maskOf(job, level));
  const height = done.length * (row + gap) + 20;
  const out = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `blocks skipped at ${percent(run.levels[level])}` });
  for (let layer = 0; layer < nLayers; layer++)
    if (layer % 5 === 0 || layer === nLayers - 1) out.append(svg('text', { x: left + (layer + 0.5) * cell, y: 11, 'text-anchor': 'middle' }, `${layer}`));
  done.forEach((job, i) => {
    const m = /** @type {Mask} */ (maskOf(job, level));
    const skipped = skippedBlocks(m.mask.skip), y = 20 + i * (row + gap);
    out.append(svg('text', { x: left - 10, y: y + row / 2 + 4, 'text-anchor': 'end', class: job === null ? 'strong' : undefined }, nameOf(job)),
      svg('text', { x: width, y: y + row / 2 + 4, 'text-anchor': 'end' }, signed(losses.bank(m) - m.dense_loss)));
    for (let b = 0; b < run.costs.length; b++) {
      const ffn = b % 2 === 1, gone = skipped.has(b), top = ffn ? y + 9.5 : y, high = ffn ? row - 9.5 : 8;
      const color = gone ? (ffn ? 'var(--skip-ffn)' : 'var(--skip)') : 'var(--kept)';
      out.append(svg('rect', { x: left + (b >> 1) * cell + 1, y: top, width: cell - 2, height: high, rx: 2, fill: color },
        svg('title', {}, `${nameOf(job)}, ${ffn ? 'feed-forward' : 'attention'} of layer ${b >> 1}: ${gone ? 'skipped' : 'runs'}; gate open with probability ${m.open[b].toFixed(2)}`)));
    }
  });
  return el('div', {}, el('p', { class: 'level-name' }, el('b', {}, `${percent(run.levels[level])} skipped`), ` \u2013 ${run.units[level]} of ${run.units_total} units`), el('div', { class: 'scroll wide' }, out));
}

function heatMaps() {
  const ready = run.levels.map((_, i) => i).filter((i) => jobs.some((job) => maskOf(job, i)));
  return section('Masks', 'Columns are layers from the input to the output, the upper cell attention, the lower one feed-forward. At the right: nats over dense.',
    legend([{ color: 'var(--skip)', name: 'attention skipped', box: true }, { color: 'var(--skip-ffn)', name: 'feed-forward skipped', box: true }, { color: 'var(--kept)', name: 'runs', box: true }]),
    ...(ready.length ? ready.map(heatMap) : [el('p', { class: 'note' }, 'No mask is done yet.')]));
}

/** The steps of all levels of a job, one level behind the other. @param {number | null} job */
function stepCharts(job) {
  const loss = /** @type {Series[]} */ ([]), depth = /** @type {Series[]} */ ([]);
  /** @type {{ x: number, name: string }[]} */
  const marks = [];
  let at = 0;
  run.levels.forEach((level, i) => {
    const here = steps.filter((s) => s.cluster === job && same(s.level, level));
    if (here.length === 0) return;
    const color = `var(--level-${Math.round((i * 3) / Math.max(1, nLevels - 1))})`;
    /** @type {(key: 'loss' | 'skipped' | 'target') => [number, number][]} */
    const points = (key) => here.map((s) => [at + s.step, s[key]]);
    marks.push({ x: at + 1, name: percent(level) });
    loss.push({ points: points('loss'), color, width: 1, opacity: 0.35 }, { points: smooth(points('loss'), Math.max(1, Math.round(here.length / 16))), color, width: 2.5 });
    depth.push({ points: points('target'), color: 'var(--faint)', dash: '4 4', width: 1.5 }, { points: points('skipped'), color, width: 2.5 });
    at += here[here.length - 1].step;
  });
  return el('div', { class: 'two' },
    chart({ series: loss, label: `loss of the steps${run.plan.objective === 'kl' ? ' (KL to dense)' : ''}`, xLabel: 'step', marks, yFormat: (y) => y.toFixed(2) }),
    chart({ series: depth, label: 'expected share skipped, and its target', xLabel: 'step', marks, yFormat: (y) => percent(y) }));
}

function training() {
  const some = jobs.filter((job) => steps.some((s) => s.cluster === job));
  const place = el('div');
  const buttons = some.map((job) => {
    const button = el('button', { type: 'button', 'aria-pressed': false }, nameOf(job));
    button.addEventListener('click', () => {
      for (const other of buttons) other.setAttribute('aria-pressed', String(other === button));
      place.replaceChildren(stepCharts(job));
    });
    return button;
  });
  const out = section('Training steps', 'Gates are sampled, so the loss of a step is noisy: the thick line is a running mean. Levels follow one another, each from the one before.',
    el('div', { class: 'chips' }, ...buttons), place);
  if (buttons.length) buttons[0].click();
  else place.append(el('p', { class: 'note' }, 'No step has been taken yet.'));
  return out;
}

const shades = ['var(--bank)', 'var(--all)', 'var(--skip-ffn)', 'var(--faint)', 'var(--level-0)', 'var(--level-3)'];

function clusters() {
  const shown = 4;
  const rows = run.clusters.map((cluster, c) => {
    const domains = Object.entries(cluster.domains).sort((a, b) => b[1] - a[1]);
    const bar = el('div', { class: 'bar' }, ...domains.map(([name, n], i) => el('span', { style: `background:${shades[i % shades.length]};flex:${n}`, title: `${name} ${n}` })));
    const mix = domains.slice(0, 3).map(([name, n]) => `${name} ${percent(n / cluster.size, 0)}`).join(', ');
    const examples = cluster.examples.slice(0, shown).map((text) => el('span', { class: 'quote' }, `\u201c${text}\u201d`));
    if (cluster.examples.length > shown) examples.push(el('span', { class: 'quote more' }, `and ${cluster.examples.length - shown} more`));
    return el('tr', {}, el('td', { class: 'n' }, `${c}`), el('td', { class: 'n' }, `${cluster.size}`), el('td', { class: 'n' }, `${cluster.held_back}`), el('td', {}, bar, mix),
      el('td', { class: 'prompts' }, ...(examples.length ? examples : [el('span', { class: 'more' }, 'none of ours is nearest to it')])));
  });
  return section('Clusters', 'Examples are prompts of our own, each shown where it is routed to; none is from the corpus.',
    el('div', { class: 'scroll' }, el('table', {}, el('thead', {}, el('tr', {}, el('th', { class: 'n' }, ''), el('th', { class: 'n' }, 'samples'), el('th', { class: 'n' }, 'held back'),
      el('th', {}, 'domains'), el('th', {}, 'example prompts'))), el('tbody', {}, ...rows))));
}

function numbers() {
  const heads = ['mask', 'level', 'dense', 'start', 'trained', 'swapped', ...(recovered ? ['recovered'] : []), 'over dense', 'swaps', 'time', 'skipped'];
  const rows = jobs.flatMap((job) => run.levels.map((level, i) => ({ job, level, m: maskOf(job, i) }))).filter(({ m }) => m).map(({ job, level, m: found }) => {
    const m = /** @type {Mask} */ (found);
    const cells = [percent(level), ...[m.dense_loss, m.start_loss, m.trained_loss, m.loss].map((x) => x.toFixed(4)), ...(recovered ? [m.recovery?.parts ? m.recovery.loss.toFixed(4) : '\u2013'] : []),
      signed(losses.bank(m) - m.dense_loss), `${m.swaps}${(m.other_text?.kept ?? 'search') === 'search' ? '' : ', not kept'}`, duration(m.seconds)];
    return el('tr', {}, el('td', { class: 'name' }, nameOf(job)), ...cells.map((text) => el('td', { class: 'n' }, text)), el('td', { class: 'mono' }, m.mask.skip));
  });
  const settings = Object.entries(run.plan).flatMap(([key, value]) => [el('dt', {}, key.replaceAll('_', ' ')), el('dd', {}, `${value}`)]);
  return section('Numbers', 'Losses in nats a token, on held-back text: of the dense model, of the mask that training began with, of the trained one, of the mask that is kept behind the swap search, and of that with its recovery. Swaps are kept only where other held-back text confirms them.',
    el('div', { class: 'scroll' }, el('table', {}, el('thead', {}, el('tr', {}, ...heads.map((name, i) => el('th', { class: i > 0 && i < heads.length - 1 ? 'n' : undefined }, name)))), el('tbody', {}, ...rows))),
    el('details', { style: 'margin-top:14px' }, el('summary', { class: 'sub' }, 'Settings'), el('dl', {}, ...settings)));
}

document.getElementById('main')?.replaceChildren(head(), tiles(), quality(), heatMaps(), training(), clusters(), numbers());

export {};
