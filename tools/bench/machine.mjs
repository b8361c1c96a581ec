/* What a result is worth nothing without: the machine, the versions, the day. */
import fs from 'node:fs';
import os from 'node:os';
import { spawnSync } from 'node:child_process';
import { root } from '../setup/steps.mjs';

/** Of the flags that the system tells, those that our kernels and the peers' ask for. */
const FLAGS = [
  'avx2',
  'f16c',
  'fma',
  'avx_vnni',
  'avx512f',
  'avx512bw',
  'avx512_vnni',
  'avx512_bf16',
  'amx_int8',
  'asimd',
  'asimddp',
  'i8mm',
  'sve',
];

export function machine() {
  const info = fs.existsSync('/proc/cpuinfo') ? fs.readFileSync('/proc/cpuinfo', 'utf8') : '';
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(info)?.[1].trim().split(' '));
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    flags: FLAGS.filter((flag) => flags.has(flag)),
    memory_gb: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    load_before: Number(os.loadavg()[0].toFixed(2)),
  };
}

/** The commit, with a + behind it where files differ from it; '' outside a repository. */
export function commit() {
  /** @param {string[]} args */
  const git = (...args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout?.trim() ?? '';
  const hash = git('rev-parse', '--short=12', 'HEAD');
  return hash && hash + (git('status', '--porcelain', '--untracked-files=no') ? '+' : '');
}
