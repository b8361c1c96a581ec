/* The sections of the bench. Each names its turns, which are taken round by round, makes data of what they gave, and prints
 * that data as Markdown. */
import { AGAINST_PEERS, GROWTH, MASKED, MEMORY, REPACKING, SCALING, VISIT, WARM_LOAD, met, wanted } from './bars.mjs';
import { nativeKernels, proportionalSkip } from './native.mjs';
import { wasmKernels } from './node.mjs';
import { kernelTable, table } from './table.mjs';

/**
 * @typedef {object} Model
 * @property {string} file
 * @property {number} index among those that are measured
 * @property {string} quantisation
 * @property {number} context tokens that it was trained for
 *
 * @typedef {{model: Model, threads: number}} Case
 * @typedef {{prefill: number, decode: number, behind: number, skipped: number}} Sizes
 *
 * @typedef {object} Side
 * @property {string} name
 * @property {(where: Case, sizes: Sizes) => Promise<import('./tasks.js').Speed>} speed
 * @property {(where: Case, context: number, weigh: boolean) => Promise<import('./browser.mjs').Visits>} [visits] to a page
 * @property {() => string} [version] of a peer
 *
 * @typedef {ReturnType<typeof import('./wasm_side.mjs').wasmSide> & Pick<Side, 'visits'>} OwnSide
 *
 * @typedef {object} Setup  All that is measured.
 * @property {Model[]} models
 * @property {number[]} threads
 * @property {Sizes} sizes
 * @property {number[]} contexts
 * @property {number} rounds
 * @property {OwnSide[]} ours
 * @property {Side[]} peers
 * @property {import('./browser.mjs').Chromium | undefined} chromium
 * @property {string} kernels a part of the names of those that are measured, '' all
 *
 * @typedef {object} Turn
 * @property {string} key which of a section's results it adds to
 * @property {string} label
 * @property {number} seconds a rough guess
 * @property {(round: number) => Promise<any>} run
 *
 * @typedef {{median: number, min: number, max: number, n: number}} Spread
 * @typedef {(key: string, pick: (result: any) => number) => Spread} Collect
 *
 * @typedef {object} Section
 * @property {string} title
 * @property {string} note what the figures are
 * @property {number} [mostRounds]
 * @property {(setup: Setup) => Turn[]} turns
 * @property {(setup: Setup, collect: Collect, results: Map<string, any[]>) => any} data
 * @property {(data: any) => string} print
 */

/* ---- turns ---- */

/**
 * Seconds of one prefill and decode of the usual sizes with one thread, on a machine of 2024.
 * @type {Record<string, number>}
 */
const SECONDS = { native: 5, 'node simd128': 12, 'node relaxed': 9, chromium: 10, 'llama.cpp': 14, wllama: 70 };

/** @param {Setup} setup @param {string} side @param {number} threads */
function guess({ sizes: { prefill, decode, behind } }, side, threads) {
  const work = (prefill + behind + 4 * decode) / (512 + 480 + 4 * 128);
  return 0.5 + SECONDS[side] * work * (threads > 1 ? 0.6 : 1);
}

/** @param {string} side @param {Case} where */
const keyOf = (side, { model, threads }) => `${side}|${model.index}|${threads}`;
/** @param {Model} model @param {number} threads */
const caseText = ({ quantisation }, threads) => `${quantisation}, ${threads} thread${threads === 1 ? '' : 's'}`;

/**
 * A turn for each model, side and number of threads, those that are compared near each other.
 * @template {{name: string}} S
 * @param {Setup} setup @param {S[]} sides @param {number} factor of the guess
 * @param {(side: S, where: Case, round: number) => Promise<any>} run
 * @param {{models?: Model[], threads?: number[]}} [of]
 */
function turnsOf(setup, sides, factor, run, { models = setup.models, threads = setup.threads } = {}) {
  /** @type {Turn[]} */
  const turns = [];
  for (const model of models)
    for (const side of sides)
      for (const n of threads)
        turns.push({
          key: keyOf(side.name, { model, threads: n }),
          label: `${side.name} ${caseText(model, n)}`,
          seconds: factor * guess(setup, side.name, n),
          run: (round) => run(side, { model, threads: n }, round),
        });
  return turns;
}

/**
 * A row for each turn.
 * @param {Setup} setup
 * @param {{name: string}[]} sides
 * @param {(key: string) => object} row
 * @param {{models?: Model[], threads?: number[]}} [of]
 */
const rowsOf = (setup, sides, row, { models = setup.models, threads = setup.threads } = {}) =>
  models.flatMap((model) =>
    threads.flatMap((n) =>
      sides.map(({ name }) => ({
        side: name,
        model: model.index,
        quantisation: model.quantisation,
        threads: n,
        ...row(keyOf(name, { model, threads: n })),
      })),
    ),
  );

/* ---- text ---- */

/** @param {Spread} spread @param {number} digits */
function spreadText({ median, min, max, n }, digits) {
  const text = median.toFixed(digits);
  return n === 1 ? text : `${text} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
}
/** @param {number} value */
const times = (value) => (Number.isFinite(value) ? `${value.toFixed(2)}x` : '-');
/** @param {number} value */
const barTimes = (value) => `${value}x`;
/** The first cells of a row. @param {any} row */
const nameOf = ({ side, quantisation, threads }) => [side, quantisation, threads];

/** @param {number[]} values @returns {Spread} */
export function spreadOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1], n: sorted.length };
}

/* ---- speed ---- */

/**
 * The rounds' ratios: a machine whose speed drifts is as fast for both.
 * @param {import('./tasks.js').Speed[]} ours of each round
 * @param {import('./tasks.js').Speed[]} theirs
 * @param {{prefill: import('./bars.mjs').Bar, decode: import('./bars.mjs').Bar}} bars
 */
const ratios = (ours, theirs, bars) =>
  Object.fromEntries(
    /** @type {const} */ (['prefill', 'decode']).map((part) => {
      const { median: value, min, max } = spreadOf(ours.map((own, i) => own[`${part}_tps`] / theirs[i][`${part}_tps`]));
      return [part, { value, min, max, wanted: wanted(bars[part], barTimes), met: met(value, bars[part]) }];
    }),
  );

/** Of speeds, what they are against each other. @param {Setup} setup @param {Map<string, any[]>} results */
function comparisons({ models, threads }, results) {
  /** @param {string} side @param {Model} model @param {number} n */
  const find = (side, model, n) => results.get(keyOf(side, { model, threads: n }));
  const found = [];
  for (const model of models) {
    const { quantisation } = model;
    for (const bar of AGAINST_PEERS) {
      if (bar.quantisation && bar.quantisation !== quantisation) continue;
      for (const n of threads) {
        const [ours, theirs] = [bar.ours, bar.theirs].map((side) => find(side, model, n));
        if (!ours || !theirs) continue;
        const what = `${bar.ours} / ${bar.theirs}`;
        found.push({ what, quantisation, threads: `${n}`, ...ratios(ours, theirs, bar) });
      }
    }
    for (const side of ['native', 'node relaxed', 'chromium']) {
      const [one, two] = [1, 2].map((n) => find(side, model, n));
      if (!one || !two) continue;
      found.push({ what: `${side}, 2 threads / 1`, quantisation, threads: '2 / 1', ...ratios(two, one, SCALING) });
    }
  }
  return found;
}

/** @type {Section} */
const speed = {
  title: 'Speed, dense',
  note: 'Each ratio is that of two sides in one round, with the same file and as many threads: the median of the rounds.',
  turns: (setup) => turnsOf(setup, [...setup.ours, ...setup.peers], 1, (side, where) => side.speed(where, setup.sizes)),
  data(setup, collect, results) {
    const rows = rowsOf(setup, [...setup.ours, ...setup.peers], (key) => ({
      prefill: collect(key, (result) => result.prefill_tps),
      decode: collect(key, (result) => result.decode_tps),
    }));
    return { rows, comparisons: comparisons(setup, results) };
  },
  print({ settings, rows, comparisons: found }) {
    const { prefill, decode, behind } = settings.sizes;
    const speeds = table(
      ['side', 'file', 'threads:', `prefill ${prefill}, tokens/s:`, `decode ${decode} behind ${behind}, tokens/s:`],
      rows.map((/** @type {any} */ row) => [...nameOf(row), spreadText(row.prefill, 1), spreadText(row.decode, 1)]),
    );
    if (!found.length) return speeds;
    const against = table(
      ['what', 'file', 'threads', 'prefill:', 'wanted', 'met', 'decode:', 'wanted', 'met'],
      found.map((/** @type {any} */ { what, quantisation, threads, prefill: p, decode: d }) => [
        ...[what, quantisation, threads],
        ...[times(p.value), p.wanted, p.met],
        ...[times(d.value), d.wanted, d.met],
      ]),
    );
    return `${speeds}\n\n${against}`;
  },
};

/* ---- masks ---- */

/** @param {Setup} setup */
const fastOnes = ({ ours }) => ours.filter(({ name }) => name !== 'node simd128');

/** @param {number} skipped */
const partHeads = (skipped) =>
  ['prefill', 'decode'].flatMap((part) => [`${part}, ${100 * skipped} % skipped:`, 'wanted', 'met']);

/** @type {Section} */
const mask = {
  title: 'Time in blocks, masked over dense',
  note: 'Of the attention and of the feed-forward blocks a share is skipped, evenly spread.',
  turns(setup) {
    /** @type {Map<Model, Promise<string>>} */
    const skips = new Map(); // of each model, asked for once
    return turnsOf(setup, fastOnes(setup), 4, async (side, where, round) => {
      const skip = skips.get(where.model) ?? proportionalSkip(where, setup.sizes.skipped);
      skips.set(where.model, skip);
      return side.blocks(where, setup.sizes, { skip: await skip, maskedFirst: round % 2 === 1 });
    });
  },
  data(setup, collect) {
    const bars = setup.sizes.skipped === MASKED.skipped ? MASKED : undefined;
    return {
      rows: rowsOf(setup, fastOnes(setup), (key) => {
        const parts = /** @type {const} */ (['prefill', 'decode']).map((part) => {
          const spread = collect(key, (result) => result[part]);
          return [part, { ...spread, wanted: wanted(bars?.[part]), met: met(spread.median, bars?.[part]) }];
        });
        return Object.fromEntries(parts);
      }),
    };
  },
  print: ({ settings, rows }) =>
    table(
      ['side', 'file', 'threads:', ...partHeads(settings.sizes.skipped)],
      rows.map((/** @type {any} */ row) => [
        ...nameOf(row),
        ...[spreadText(row.prefill, 3), row.prefill.wanted, row.prefill.met],
        ...[spreadText(row.decode, 3), row.decode.wanted, row.decode.met],
      ]),
    ),
};

/* ---- context ---- */

const CONTEXT_DECODE = 16; // tokens behind each context

/** Of one model, with the fewest threads: attention is the same for all. @param {Setup} setup */
const contextOf = (setup) => ({ models: setup.models.slice(0, 1), threads: [Math.min(...setup.threads)] });

/** The contexts that a model has room for; the longest one as far as it has. @param {Setup} setup */
function contextsOf({ contexts, models }) {
  const most = models[0].context ? models[0].context - CONTEXT_DECODE : Infinity;
  return [...new Set(contexts.map((context) => Math.min(context, most)))];
}

/**
 * What each token of context adds at the end, over what it adds up to the middle; NaN where noise is more than that.
 * @param {{context: number, ms: Spread}[]} row
 */
function growthOf(row) {
  const [first, middle, last] = [row[0], row[row.length >> 1], row[row.length - 1]];
  /** @param {{context: number, ms: Spread}} from @param {{context: number, ms: Spread}} to */
  const slope = (from, to) => (to.ms.median - from.ms.median) / (to.context - from.context);
  const [early, late] = [slope(first, middle), slope(middle, last)];
  return early > 0 && late > 0 ? late / early : NaN;
}

/** @type {Section} */
const context = {
  title: 'Decoding behind long contexts',
  note: 'Milliseconds of a token. Growth: what a token of context adds beyond the middle one, over what it adds up to there.',
  mostRounds: 3,
  turns: (setup) =>
    turnsOf(
      setup,
      fastOnes(setup),
      8,
      (side, where) => side.context(where, { ...setup.sizes, decode: CONTEXT_DECODE }, contextsOf(setup)),
      contextOf(setup),
    ),
  data: (setup, collect) => ({
    rows: rowsOf(
      setup,
      fastOnes(setup),
      (key) => {
        const at = contextsOf(setup).map((tokens, i) => ({
          context: tokens,
          ms: collect(key, (result) => result[i].ms),
        }));
        const growth = growthOf(at);
        return { times: at, growth, wanted: wanted(GROWTH, barTimes), met: met(growth, GROWTH) };
      },
      contextOf(setup),
    ),
  }),
  print({ rows }) {
    const contexts = rows[0]?.times.map((/** @type {any} */ time) => `${time.context}:`) ?? [];
    return table(
      ['side', 'file', 'threads:', ...contexts, 'growth:', 'wanted', 'met'],
      rows.map((/** @type {any} */ row) => {
        const milliseconds = row.times.map((/** @type {any} */ time) => time.ms.median.toFixed(2));
        return [...nameOf(row), ...milliseconds, times(row.growth), row.wanted, row.met];
      }),
    );
  },
};

/* ---- repacking ---- */

/** @type {Section} */
const repack = {
  title: 'Repacking',
  note: 'A file in memory is fed in pieces of 1 MB, to one thread.',
  turns: (setup) =>
    turnsOf(setup, fastOnes(setup), 0.4, (side, where) => side.repack(where, setup.sizes), { threads: [1] }),
  data: (setup, collect) => ({
    rows: rowsOf(
      setup,
      fastOnes(setup),
      (key) => {
        const bar = key.startsWith('native') ? REPACKING.native : REPACKING.wasm;
        const spread = collect(key, (result) => result.bytes_per_s);
        return {
          bytes_per_s: spread,
          wanted: wanted(bar, (bytes) => `${bytes / 1e6} MB/s`),
          met: met(spread.median, bar),
        };
      },
      { threads: [1] },
    ),
  }),
  print: ({ rows }) =>
    table(
      ['side', 'file', 'threads:', 'MB/s of the file:', 'wanted', 'met'],
      rows.map((/** @type {any} */ row) => [...nameOf(row), spreadText(inMegabytes(row.bytes_per_s), 0), row.wanted, row.met]),
    ),
};

/* ---- visits to a page ---- */

const VISIT_CONTEXT = 2048; // tokens

/** @param {Setup} setup */
const visitors = ({ ours, peers }) => [...ours, ...peers].flatMap((side) => (side.visits ? [{ name: side.name, visits: side.visits }] : []));
/** @param {Setup} setup */
const visitThreads = ({ threads }) => ({ threads: [Math.max(...threads)] });
/** @param {Spread} spread @returns {Spread} */
const inMegabytes = ({ median, min, max, n }) => ({ median: median / 1e6, min: min / 1e6, max: max / 1e6, n });

/** @type {Section} */
const page = {
  title: 'A page, from the import of the package to the first token',
  note:
    `Context ${VISIT_CONTEXT}. Cold: nothing stored, all from a server on this machine; warm: the model stored. Runtime: all that is fetched ` +
    "but the model. Memory: JavaScript's and WebAssembly's of the page and its workers, and the page's process at its peak.",
  turns: (setup) =>
    turnsOf(
      setup,
      visitors(setup),
      1,
      (side, where, round) => side.visits(where, VISIT_CONTEXT, round === 0),
      visitThreads(setup),
    ),
  data(setup, collect, results) {
    const rows = rowsOf(
      setup,
      visitors(setup),
      (key) => ({
        runtime: collect(key, (result) => result.runtime_bytes),
        cold: collect(key, (result) => result.cold_seconds),
        warm: collect(key, (result) => result.warm_seconds),
        memory: results.get(key)?.[0].page_bytes,
        process: collect(key, (result) => result.process_bytes ?? NaN),
      }),
      visitThreads(setup),
    );
    const found = /** @type {any[]} */ (rows);
    const comparisons = setup.models.flatMap((model) => {
      const [ours, theirs] = ['chromium', 'wllama'].map((side) => found.find((row) => row.side === side && row.model === model.index));
      if (!ours) return [];
      const compared = [
        { what: 'warm, s', value: ours.warm.median, wanted: wanted(WARM_LOAD), met: met(ours.warm.median, WARM_LOAD) },
      ];
      /** @param {string} what @param {'runtime' | 'warm' | 'cold' | 'memory' | 'process'} part @param {import('./bars.mjs').Bar} [bar] */
      const against = (what, part, bar) => {
        const [value, other] = [ours, theirs].map((row) => row[part].median ?? row[part]);
        compared.push({ what: `${what} / wllama's`, value: value / other, wanted: wanted(bar), met: met(value / other, bar) });
      };
      if (theirs) {
        against('runtime', 'runtime', VISIT.runtime);
        against('cold', 'cold');
        against('warm', 'warm', VISIT.warm);
        against('memory', 'memory');
        against('process', 'process');
      }
      return compared.map((entry) => ({ quantisation: model.quantisation, ...entry }));
    });
    return { rows, comparisons };
  },
  print({ rows, comparisons: found }) {
    const visits = table(
      ['side', 'file', 'threads:', 'runtime, MB:', 'cold, s:', 'warm, s:', 'memory, MB:', 'process, MB:'],
      rows.map((/** @type {any} */ row) => [
        ...nameOf(row),
        row.runtime.median / 1e6 < 1 ? (row.runtime.median / 1e6).toFixed(3) : (row.runtime.median / 1e6).toFixed(1),
        ...[spreadText(row.cold, 2), spreadText(row.warm, 2)],
        ...[row.memory ? (row.memory / 1e6).toFixed(0) : '-', row.process.median ? spreadText(inMegabytes(row.process), 0) : '-'],
      ]),
    );
    const against = table(
      ['what', 'file', 'value:', 'wanted', 'met'],
      found.map((/** @type {any} */ row) => [row.what, row.quantisation, row.value.toFixed(3), row.wanted, row.met]),
    );
    return found.length ? `${visits}\n\n${against}` : visits;
  },
};

/* ---- memory ---- */

/** @type {Section} */
const memory = {
  title: 'Memory',
  note: 'Native: the most memory that the process had. WebAssembly: the whole memory of the module.',
  mostRounds: 1,
  turns: (setup) => turnsOf(setup, fastOnes(setup), 1, (side, where) => side.memory(where, setup.sizes)),
  data: (setup, _, results) => ({
    rows: rowsOf(setup, fastOnes(setup), (key) => {
      const [{ bytes, packed_bytes, kv_bytes }] = results.get(key) ?? [];
      const ratio = bytes / (packed_bytes + kv_bytes);
      return { bytes, packed_bytes, kv_bytes, ratio, wanted: wanted(MEMORY, barTimes), met: met(ratio, MEMORY) };
    }),
  }),
  print: ({ rows }) =>
    table(
      ['side', 'file', 'threads:', 'MB:', 'packed weights, MB:', 'KV, MB:', 'ratio:', 'wanted', 'met'],
      rows.map((/** @type {any} */ row) => {
        const parts = [row.bytes, row.packed_bytes, row.kv_bytes].map((bytes) => (bytes / 1e6).toFixed(1));
        return [...nameOf(row), ...parts, times(row.ratio), row.wanted, row.met];
      }),
    ),
};

/* ---- kernels ---- */

/** @type {Section} */
const kernels = {
  title: 'Kernels',
  note: 'A limit is the smaller of the multiply-adds from registers alone and of what reading the weights allows.',
  mostRounds: 1,
  turns: (setup) => [
    {
      key: 'native',
      label: 'native kernels',
      seconds: 20 * setup.threads.length,
      run: () => nativeKernels(setup.threads, setup.kernels),
    },
    { key: 'wasm', label: 'wasm kernels', seconds: 30, run: () => wasmKernels(setup.kernels) },
  ],
  data: (_, __, results) => ({ reports: ['native', 'wasm'].flatMap((key) => results.get(key)?.[0] ?? []) }),
  print: ({ reports }) => reports.map(kernelTable).join('\n\n'),
};

/** @type {Record<string, Section>} */
export const SECTIONS = { speed, mask, context, repack, page, memory, kernels };
