/**
 * Options of the command from a table, with the spelling and the help of the native command (tools/options.h):
 * --name value, --name=value, -n value, -nvalue, and -- to end the options. --help is always there.
 *
 * @typedef {object} Option
 * @property {string} name
 * @property {string} [letter]
 * @property {'flag' | 'text' | 'list' | 'whole' | 'real'} [kind] default text; a list may be given more than once
 * @property {string} [argument] its name in the help
 * @property {string} help a newline starts a continuation line
 * @property {number} [min] of a number, both included
 * @property {number} [max]
 * @property {string[]} [choices] of a text
 *
 * @typedef {object} Command
 * @property {string} name
 * @property {string} summary
 * @property {string} usage behind 'skipstone NAME '
 * @property {string} about
 * @property {string} examples
 * @property {Option[]} options
 * @property {number} [operands] at most so many; default 0
 * @property {(values: Record<string, any>, operands: string[]) => Promise<number>} run returns the exit code
 */

/** A mistake in how the command was called: exit code 2. */
export class UsageError extends Error {}

const HELP_COLUMN = 27;

/** The name nearest to a text, or undefined when none is near. @param {string} text @param {string[]} names */
export function nearestName(text, names) {
  let best;
  let least = Math.floor(text.length / 3) + 2; // farther than this is no help
  for (const name of names) {
    const distance = text.length >= 2 && name.startsWith(text) ? 1 : editDistance(text, name);
    if (distance < least) [best, least] = [name, distance];
  }
  return best;
}

/** Levenshtein's. @param {string} a @param {string} b */
function editDistance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) next.push(Math.min(row[j] + (a[i] === b[j] ? 0 : 1), row[j + 1] + 1, next[j] + 1));
    row = next;
  }
  return row[b.length];
}

/** @param {Option} option @param {string} given @returns {string | number} */
function valueOf({ name, kind = 'text', min = 0, max = Infinity, choices }, given) {
  const fail = (/** @type {string} */ want) => new UsageError(`--${name} ${given}: want ${want}`);
  if (choices && !choices.includes(given)) throw fail(choices.join(' or '));
  if (kind !== 'whole' && kind !== 'real') return given;
  const number = kind === 'whole' && !/^\d+$/.test(given) ? NaN : given.trim() === '' ? NaN : Number(given);
  const range = Number.isFinite(max) ? ` from ${min} to ${max}` : '';
  if (!Number.isFinite(number) || number < min || number > max || (kind === 'whole' && !Number.isSafeInteger(number))) {
    throw fail(`a ${kind === 'whole' ? 'whole ' : ''}number${range}`);
  }
  return number;
}

/**
 * @param {Command} command
 * @param {string[]} args behind the command's name
 * @returns {{values: Record<string, any>, operands: string[], help: boolean}}
 */
export function parse(command, args) {
  /** @type {Record<string, any>} */
  const values = {};
  /** @type {string[]} */
  const operands = [];
  const end = args.indexOf('--');
  const help = args.slice(0, end < 0 ? args.length : end).some((arg) => arg === '--help' || arg === '-h');
  if (help) return { values, operands, help };
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (end >= 0 && i >= end) {
      if (i > end) operands.push(arg);
      continue;
    }
    if (!arg.startsWith('-') || arg === '-') {
      operands.push(arg);
      continue;
    }
    const [, name, letter, attached] = /^(?:--([^=]+)|-([^-]))(?:=?([^]*))$/.exec(arg) ?? [];
    const option = command.options.find((known) => (name ? known.name === name : known.letter === letter));
    if (!option) throw unknownOption(command, name ?? '', letter ?? arg);
    const inline = name ? (arg.includes('=') ? arg.slice(arg.indexOf('=') + 1) : undefined) : attached || undefined;
    if (option.kind === 'flag') {
      if (inline !== undefined) throw new UsageError(`--${option.name} takes no value, found ${inline}`);
      values[option.name] = true;
      continue;
    }
    if (inline === undefined && i + 1 >= args.length) throw new UsageError(`--${option.name} needs a value: ${option.argument}`);
    const value = valueOf(option, inline ?? args[++i]);
    if (option.kind === 'list') (values[option.name] ??= []).push(value);
    else values[option.name] = value;
  }
  if (operands.length > (command.operands ?? 0)) {
    const extra = operands[command.operands ?? 0];
    throw new UsageError(`unexpected argument ${extra}; see skipstone ${command.name} --help`);
  }
  return { values, operands, help };
}

/** @param {Command} command @param {string} name @param {string} letter */
function unknownOption(command, name, letter) {
  if (!name) return new UsageError(`unknown option -${letter.replace(/^-/, '')}; see skipstone ${command.name} --help`);
  const near = nearestName(name, [...command.options.map((option) => option.name), 'help']);
  return new UsageError(`unknown option --${name}; ${near ? `did you mean --${near}?` : `see skipstone ${command.name} --help`}`);
}

/** @param {Command} command */
export function helpOf({ name, usage, about, options, examples }) {
  const lines = [...options, { name: 'help', letter: 'h', kind: 'flag', help: 'show this help' }].map((option) => {
    const { letter, argument } = /** @type {Option} */ (option);
    const left = `  ${letter ? `-${letter}, ` : '    '}--${option.name}${argument ? ` ${argument}` : ''}`;
    const gap = left.length > HELP_COLUMN - 2 ? `\n${' '.repeat(HELP_COLUMN)}` : ' '.repeat(HELP_COLUMN - left.length);
    return left + gap + option.help.replaceAll('\n', `\n${' '.repeat(HELP_COLUMN)}`);
  });
  return `Usage: skipstone ${name} ${usage}\n\n${about}\n\nOptions:\n${lines.join('\n')}\n\nExamples:\n${examples}\n`;
}
