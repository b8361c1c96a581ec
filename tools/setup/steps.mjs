/* Runs the steps of a set-up: one line of progress each, the output of commands in a log, clear failures. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

const tty = process.stdout.isTTY === true;
const colour = tty && !process.env.NO_COLOR;
/** @param {number} code @param {string} text */
const paint = (code, text) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text);

/** A failure whose message says all that the user needs: no stack is shown for it. */
export class SetupError extends Error {}

/** Commands that are running: none outlives this process. @type {Set<import('node:child_process').ChildProcess>} */
const children = new Set();
process.on('exit', () => children.forEach((child) => child.kill('SIGTERM')));
process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));

/**
 * One step while it runs: it executes commands and collects their output in build/logs/<name>.log.
 */
export class Step {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    this.logFile = path.join(root, 'build/logs', `${name.replace(/[^a-z0-9]+/gi, '-')}.log`);
    fs.mkdirSync(path.dirname(this.logFile), { recursive: true });
    fs.writeFileSync(this.logFile, '');
  }

  /** Shows what is going on, on the step's own line. @param {string} text */
  say(text) {
    if (tty) process.stdout.write(`\r\x1b[K${paint(2, `… ${this.name}: ${text}`)}`);
  }

  /** @param {string} text */
  log(text) {
    fs.appendFileSync(this.logFile, text);
  }

  /**
   * Runs a command; its output goes to the log. Rejects with the command and the log's end when it fails.
   * @param {string} command
   * @param {string[]} args
   * @param {{ env?: Record<string, string>, cwd?: string }} [options]
   * @returns {Promise<string>} what it wrote to stdout
   */
  run(command, args, options = {}) {
    const line = [command, ...args].join(' ');
    this.log(`$ ${line}\n`);
    return new Promise((resolve, reject) => {
      const child = spawn(command, args, {
        cwd: options.cwd ?? root,
        env: { ...process.env, ...options.env },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      children.add(child);
      let out = '';
      child.stdout.on('data', (data) => {
        out += data;
        this.log(data);
      });
      child.stderr.on('data', (data) => this.log(data));
      child.on('error', (error) => reject(this.failure(line, error.message)));
      child.on('close', (code, signal) => {
        children.delete(child);
        if (code === 0) resolve(out);
        else reject(this.failure(line, signal ? `killed by ${signal}` : `exit status ${code}`));
      });
    });
  }

  /** @param {string} line @param {string} what */
  failure(line, what) {
    const lines = fs.readFileSync(this.logFile, 'utf8').trimEnd().split('\n');
    const tail = lines.slice(-20).map((l) => `    ${l}`);
    return new SetupError(
      [`${this.name} failed (${what})`, `  command: ${line}`, `  log:     ${path.relative(root, this.logFile)}`, ...tail].join('\n'),
    );
  }
}

/**
 * Runs one step and prints its line. `work` returns a remark for the line ('up to date', for example) or nothing.
 * @param {string} name
 * @param {(step: Step) => Promise<string | void>} work
 */
export async function runStep(name, work) {
  const start = performance.now();
  const step = new Step(name);
  step.say('…');
  try {
    const remark = await work(step);
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    if (tty) process.stdout.write('\r\x1b[K');
    console.log(`${paint(32, '✓')} ${name} ${paint(2, `(${remark ? `${remark}, ` : ''}${seconds} s)`)}`);
  } catch (error) {
    if (tty) process.stdout.write('\r\x1b[K');
    console.log(`${paint(31, '✗')} ${name}`);
    if (error instanceof SetupError) throw error;
    throw new SetupError(`${name} failed: ${error instanceof Error ? error.stack : error}`);
  }
}

/** A line at the start of something long, where no line is being redrawn. @param {string} text */
export function announce(text) {
  if (tty) process.stdout.write('\r\x1b[K');
  console.log(paint(2, `  ${text}`));
}

/** @param {...string} texts */
export function hashOf(...texts) {
  const hash = createHash('sha256');
  for (const text of texts) hash.update(`${text.length}:${text}`);
  return hash.digest('hex');
}

/** The text of a file in the tree, '' if there is none. @param {string} file */
export function textOf(file) {
  try {
    return fs.readFileSync(path.resolve(root, file), 'utf8');
  } catch {
    return '';
  }
}

/** Where a program is on PATH, or ''. @param {string} program */
export function which(program) {
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    const file = path.join(folder, program);
    try {
      fs.accessSync(file, fs.constants.X_OK);
      if (fs.statSync(file).isFile()) return file;
    } catch {
      /* not here */
    }
  }
  return '';
}

/**
 * Writes through a temporary name, so that a half-written file is never taken for a whole one.
 * @param {string} file @param {string} text
 */
export function writeWhole(file, text) {
  const target = path.resolve(root, file);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  const temporary = `${target}.${process.pid}.tmp`;
  fs.writeFileSync(temporary, text);
  fs.renameSync(temporary, target);
}
