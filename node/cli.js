#!/usr/bin/env node
/** The command of the package: finds the subcommand and hands over. */
import { readFileSync } from 'node:fs';
import { SkipstoneError } from './index.js';
import { chat } from './cli/chat.js';
import { info } from './cli/info.js';
import { models } from './cli/models.js';
import { helpOf, nearestName, parse, UsageError } from './cli/options.js';
import { route } from './cli/route.js';
import { run } from './cli/run.js';
import { serve } from './cli/serve.js';
import { CODE, say } from './cli/shared.js';

const commands = [run, chat, route, info, models, serve];

const help = () => `Usage: skipstone COMMAND [options]

Runs a language model from a GGUF file in WebAssembly, and skips the transformer blocks that a prompt does not need.

Commands:
${commands.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}\n`).join('')}
  skipstone COMMAND --help   all options of a command, with examples
  skipstone --version        the package's version

Environment: SKIPSTONE_MODEL is the model where -m is not given.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 141 nobody reads the output any more.

Examples:
  npx skipstone run -m model.gguf -p 'The capital of France is' -n 16 --temp 0
  npx skipstone chat -m model.gguf
`;

/** @param {string[]} args @returns {Promise<number>} */
async function main([name, ...args]) {
  if (name === undefined) {
    process.stderr.write(help());
    return CODE.usage;
  }
  if (name === '--version' || name === '-V') {
    const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
    process.stdout.write(`skipstone ${version}\n`);
    return CODE.ok;
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    if (args.length) return main([args[0], '--help']); // skipstone help run
    process.stdout.write(help());
    return CODE.ok;
  }
  const command = commands.find((known) => known.name === name);
  if (!command) {
    const near = nearestName(name, [...commands.map((known) => known.name), '--help', '--version']);
    const what = name.startsWith('-') ? 'option' : 'command';
    say(`unknown ${what} ${name}; ${near ? `did you mean ${near}?` : 'see skipstone --help'}`);
    return CODE.usage;
  }
  try {
    const { values, operands, help: wanted } = parse(command, args);
    if (!wanted) return await command.run(values, operands);
    process.stdout.write(helpOf(command));
    return CODE.ok;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return CODE.interrupted;
    const { message, stack, constructor } = /** @type {Error} */ (error);
    const known = error instanceof UsageError || error instanceof SkipstoneError || constructor === Error;
    say(`${name}: ${known ? message : (stack ?? error)}`);
    return error instanceof UsageError ? CODE.usage : CODE.failed;
  }
}

process.stdout.on('error', (error) => {
  if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EPIPE') process.exit(CODE.pipe);
  throw error;
});
process.exitCode = await main(process.argv.slice(2));
