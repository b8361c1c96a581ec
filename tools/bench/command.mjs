/* Runs the programs that are measured. */
import { spawn } from 'node:child_process';
import { root } from '../setup/steps.mjs';

/** What is wrong in words for the user: no stack is shown for it. */
export class BenchError extends Error {}

/** Those that run: none outlives this process. @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGTERM')));

/**
 * What a command writes to stdout, as JSON. Rejects with the end of its stderr when it fails.
 * @param {string} command @param {string[]} args
 * @returns {Promise<any>}
 */
export function jsonOf(command, args) {
  const line = [command, ...args].join(' ');
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (err = (err + text).slice(-2000)));
    child.on('error', (error) => reject(new BenchError(`${line}\n  ${error.message}`)));
    child.on('close', (code, signal) => {
      running.delete(child);
      if (code !== 0) return reject(new BenchError(`${line}\n  ended with ${signal ?? `code ${code}`}: ${err.trim()}`));
      try {
        resolve(JSON.parse(out));
      } catch {
        reject(new BenchError(`${line}\n  printed no JSON: ${out.slice(0, 300)}`));
      }
    });
  });
}
