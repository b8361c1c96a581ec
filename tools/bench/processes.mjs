/* The memory of a browser's processes, as Linux counts it. */
import fs from 'node:fs';

/** @typedef {{pid: string, parent: string, line: string}} Process */

/** @returns {Process[]} */
function processes() {
  const pids = fs.existsSync('/proc') ? fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)) : [];
  return pids.flatMap((pid) => {
    try {
      const [, parent] = /^PPid:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
      return [{ pid, parent, line: fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8') }];
    } catch {
      return []; // it has ended
    }
  });
}

/**
 * Bytes of the largest renderer, at its peak, of the browser that has a profile; undefined where that is not to be known.
 * @param {string} profile
 */
export function peakOfRenderers(profile) {
  const all = processes();
  const family = new Set(all.filter(({ line }) => line.includes(profile)).map(({ pid }) => pid));
  for (let before = -1; before !== family.size; ) {
    before = family.size;
    for (const { pid, parent } of all) if (family.has(parent)) family.add(pid);
  }
  const peaks = all
    .filter(({ pid, line }) => family.has(pid) && line.includes('--type=renderer'))
    .map(({ pid }) => 1024 * Number(/^VmHWM:\s*(\d+) kB/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]));
  return peaks.length ? Math.max(...peaks) : undefined;
}
