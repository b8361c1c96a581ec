/* Tables that are Markdown, and read well as they are. */

/** @param {string[]} heads ending in ':' for columns of numbers @param {(string | number)[][]} rows */
export function table(heads, rows) {
  const numeric = heads.map((head) => head.endsWith(':'));
  const cells = [heads.map((head) => head.replace(/:$/, '')), ...rows.map((row) => row.map(String))];
  const widths = heads.map((_, i) => Math.max(3, ...cells.map((row) => row[i].length)));
  /** @param {string[]} row */
  const line = (row) =>
    `| ${row.map((cell, i) => (numeric[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join(' | ')} |`;
  const dashes = widths.map((width, i) => (numeric[i] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  const rule = `| ${dashes.join(' | ')} |`;
  return [line(cells[0]), rule, ...cells.slice(1).map(line)].join('\n');
}

/**
 * What `skipstone bench --roofline --json` and `tests/kernels/wasm/run.mjs --bench --json` print of one kernel set.
 * @typedef {object} KernelReport
 * @property {string} kernels
 * @property {number} threads
 * @property {{instructions: string, gmacs: number}[]} peaks
 * @property {KernelRow[]} rows
 *
 * @typedef {object} KernelRow
 * @property {string} kernel
 * @property {string} shape
 * @property {string} unit 'GMAC/s' or 'G elements/s'
 * @property {number} rate in that unit
 * @property {number} gbytes GB/s
 * @property {number | null} limit in that unit; null: unknown
 * @property {string | null} bound what sets the limit, 'compute' or 'memory'
 * @property {number | null} share of the limit
 */

/** @param {KernelReport} report */
export function kernelTable({ kernels, threads, peaks, rows }) {
  const lines = [`${kernels}, ${threads} thread${threads === 1 ? '' : 's'}`, ''];
  if (peaks.length)
    lines.push(`From registers: ${peaks.map((p) => `${p.instructions} ${p.gmacs.toFixed(1)} GMAC/s`).join('; ')}.`, '');
  const heads = ['kernel', 'shape', 'unit', 'rate:', 'GB/s:', 'limit:', 'bound by', 'share:'];
  lines.push(
    table(
      heads,
      rows.map((row) => [
        row.kernel,
        row.shape,
        row.unit,
        row.rate.toFixed(2),
        row.gbytes.toFixed(1),
        row.limit?.toFixed(2) ?? '-',
        row.bound ?? 'unknown',
        row.share === null ? '-' : `${(100 * row.share).toFixed(0)} %`,
      ]),
    ),
  );
  return lines.join('\n');
}
