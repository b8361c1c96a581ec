/* The package's command, end to end. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { folder, MODEL, NATIVE, noModel } from './helpers.js';

const CLI = fileURLToPath(new URL('../../node/cli.js', import.meta.url));
const BANK = fileURLToPath(new URL('../golden/bank.gguf', import.meta.url));
const COMMANDS = ['run', 'chat', 'route', 'info', 'models', 'serve'];
const PARIS = ['run', '-m', MODEL, '--bank', 'none', '-p', 'The capital of France is', '-n', '8', '--temp', '0'];

/** @param {string[]} args @param {{input?: string, env?: Record<string, string>}} [options] */
function skipstone(args, { input = '', env = {} } = {}) {
  const { SKIPSTONE_MODEL, ...inherited } = process.env;
  const done = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8', input, env: { ...inherited, ...env } });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

/** Runs, wants success and nothing on stderr, parses stdout. @param {string[]} args @param {object} [options] */
function json(args, options) {
  const { code, out, err } = skipstone(args, options);
  assert.deepEqual({ code, err }, { code: 0, err: '' });
  assert.equal(out.trimEnd().split('\n').length, 1, 'one line');
  return JSON.parse(out);
}

/** @param {string[]} args @param {number} code @param {RegExp} message */
function fails(args, code, message) {
  const done = skipstone(args);
  assert.match(done.err, message);
  assert.match(done.err, /^skipstone: .*\n$/);
  assert.deepEqual({ code: done.code, out: done.out }, { code, out: '' });
}

/** Does something to a running command at its first output. @param {string[]} args @param {(child: any, text: string) => unknown} act */
const atFirstText = (args, act) =>
  new Promise((/** @type {(done: {code: number | null, out: string, err: string}) => void} */ resolve) => {
    const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (err += text));
    child.stdout.once('data', (text) => act(child, text));
    child.on('close', (code) => resolve({ code, out, err }));
  });

describe('usage of the command', () => {
  test('every command has a help with examples, reached in two ways', () => {
    const top = skipstone(['--help']);
    assert.equal(top.code, 0);
    for (const name of COMMANDS) {
      assert.match(top.out, new RegExp(`\n  ${name} +\\S`));
      const { code, out } = skipstone([name, '--help']);
      assert.equal(code, 0);
      assert.match(out, new RegExp(`^Usage: skipstone ${name} [^]*\nOptions:\n[^]*--help [^]*\nExamples:\n {2}npx skipstone `));
      assert.equal(skipstone(['help', name]).out, out);
      assert.ok(Math.max(...out.split('\n').map((line) => line.length)) <= 120, `${name}: help is at most 120 wide`);
    }
  });

  test('no command prints the help as an error; --version prints the version', () => {
    const { code, out, err } = skipstone([]);
    assert.deepEqual([code, out], [2, '']);
    assert.match(err, /^Usage: skipstone/);
    assert.match(skipstone(['--version']).out, /^skipstone \d+\.\d+\.\d+\n$/);
  });

  test('an unknown command or option names the nearest known one', () => {
    fails(['rnu'], 2, /unknown command rnu; did you mean run\?/);
    fails(['--versoin'], 2, /unknown option --versoin; did you mean --version\?/);
    fails(['run', '--tempp', '0'], 2, /run: unknown option --tempp; did you mean --temp\?/);
    fails(['chat', '--qqqqqqqqq'], 2, /unknown option --qqqqqqqqq; see skipstone chat --help/);
    fails(['run', '-x'], 2, /unknown option -x/);
  });

  test('a value out of range or of the wrong kind says what is wanted', () => {
    fails(['run', '--top-p', '1.5'], 2, /--top-p 1\.5: want a number from 0 to 1/);
    fails(['run', '-n', 'many'], 2, /--tokens many: want a whole number/);
    fails(['run', '-n-3'], 2, /--tokens -3: want a whole number/);
    fails(['run', '--seed', '1.5'], 2, /--seed 1\.5: want a whole number/);
    fails(['run', '--variant', 'fast'], 2, /--variant fast: want auto or simd128 or relaxed or relaxed-dot/);
    fails(['run', '--temp'], 2, /--temp needs a value: X/);
    fails(['run', '--json=yes'], 2, /--json takes no value/);
    fails(['chat', 'hello'], 2, /unexpected argument hello/);
  });

  test('no model, no file and two prompts are said', () => {
    fails(['run', '-p', 'x'], 2, /no model; give -m MODEL or set SKIPSTONE_MODEL/);
    fails(['run', '-m', '/nowhere.gguf', '-p', 'x', 'y'], 2, /more than one prompt/);
    fails(['run', '-m', '/nowhere.gguf', '-f', '/nothing.txt'], 1, /nothing\.txt: no such file/);
    fails(['run', '-m', '/nowhere.gguf', '-p', 'x'], 1, /nowhere\.gguf/);
    fails(['run', '-m', '/nowhere.gguf'], 2, /the prompt is empty/);
  });

  test('info without a model says what this Node.js can run', () => {
    const abilities = json(['info', '--json']);
    assert.equal(abilities.node, process.versions.node);
    assert.equal(abilities.simd128, true);
    assert.match(skipstone(['info']).out, /^Node\.js .*\n(yes|no ) {2}simd128 /);
  });
});

test('models lists, measures, deletes and prunes what is stored', (t) => {
  const cache = ['--cache', folder(t)];
  assert.equal(skipstone(['models', ...cache]).out, 'nothing is stored\n');
  assert.deepEqual(json(['models', 'list', '--json', ...cache]), []);
  assert.equal(json(['models', 'usage', '--json', ...cache]).bytes, 0);
  const has = skipstone(['models', 'has', 'https://example.com/model.gguf', ...cache]);
  assert.deepEqual([has.code, has.out], [1, 'no\n']);
  fails(['models', 'delete', 'https://example.com/model.gguf', ...cache], 1, /model\.gguf is not stored/);
  assert.match(skipstone(['models', 'prune', '--max', '2G', ...cache]).out, /0\.0 MB left/);
  fails(['models', 'prune', '--max', 'lots', ...cache], 2, /--max lots: want a size/);
  fails(['models', 'remove'], 2, /unknown action remove; there are list, has/);
  fails(['models', 'delete'], 2, /delete what\? give a model/);
});

describe('run', { skip: noModel }, () => {
  test('text streams to stdout alone; --verbose adds a summary on stderr', () => {
    const quiet = skipstone(PARIS);
    assert.match(quiet.out, /^ Paris[^]*\n$/);
    assert.equal(quiet.err, '');
    const verbose = skipstone([...PARIS, '-v']);
    assert.equal(verbose.out, quiet.out);
    assert.match(verbose.err, /^5 prompt tokens at .*, 8 tokens at .* \(length\), 60 of 60 blocks/);
  });

  test('--json prints one object, with the logits of the native command', () => {
    const args = [...PARIS, '--skip', 'attn:3;ffn:12', '--json'].filter((arg) => arg !== '--bank' && arg !== 'none');
    const mine = json(args);
    assert.deepEqual(Object.keys(mine), [
      'text', 'tokens', 'prompt_tokens', 'cached_tokens', 'logits_hash', 'mask', 'route', 'timings', 'module', 'threads',
      'finish_reason',
    ]);
    assert.deepEqual([mine.mask.skip, mine.mask.blocks_run, mine.finish_reason], ['attn:3;ffn:12', 58, 'length']);
    if (!existsSync(NATIVE)) return;
    const native = JSON.parse(spawnSync(NATIVE, args, { encoding: 'utf8' }).stdout);
    assert.deepEqual([mine.logits_hash, mine.tokens], [native.logits_hash, native.tokens]);
  });

  test('the prompt may come from an operand, a file or standard input, the model from the environment', (t) => {
    const want = json([...PARIS, '--json']).tokens;
    const options = ['run', '--bank', 'none', '-n', '8', '--temp', '0', '--json'];
    const env = { SKIPSTONE_MODEL: MODEL };
    const input = 'The capital of France is';
    const file = join(folder(t), 'prompt.txt');
    writeFileSync(file, input);
    assert.deepEqual(json([...options, input], { env }).tokens, want);
    assert.deepEqual(json(options, { env, input }).tokens, want);
    assert.deepEqual(json([...options, '-f', file], { env }).tokens, want);
  });

  test('a bank routes the prompt', () => {
    const args = ['run', '-m', MODEL, '--bank', BANK, '--depth', '0.8', '--chat', '-n', '2', '--json'];
    const { route, mask } = json([...args, 'What is 2 plus 2?']);
    assert.equal(typeof route.cluster, 'number');
    assert.equal(Math.round(120 * mask.macs_skipped), 23);
    fails(['run', '-m', MODEL, '--bank', BANK, '--skip', 'attn:3', '-p', 'x'], 2, /--skip and --bank exclude each other/);
  });

  test('Ctrl-C ends an answer cleanly', async () => {
    const args = ['run', '-m', MODEL, '--bank', 'none', '-v', '-p', 'Once upon a time', '-n', '2000', '--temp', '0'];
    const { code, out, err } = await atFirstText(args, (child) => child.kill('SIGINT'));
    assert.equal(code, 130);
    assert.match(out, /\n$/);
    assert.match(err, /\(cancelled\)/);
  });

  test('a reader that goes away ends it at once', async () => {
    const args = ['run', '-m', MODEL, '--bank', 'none', '-p', 'Once upon a time', '-n', '2000', '--temp', '0'];
    const { code, err } = await atFirstText(args, (child) => child.stdout.destroy());
    assert.deepEqual([code, err], [141, '']);
  });
});

describe('chat, route and info', { skip: noModel }, () => {
  const chat = ['chat', '-m', MODEL, '--bank', 'none', '--temp', '0', '-n', '12', '-v'];

  test('a second turn prefills only what is new; /reset forgets, /quit leaves', () => {
    const input = 'Say hi.\nAnd now?\n/reset\nSay hi.\n/help\n/frob\n/quit\nnever\n';
    const { code, out, err } = skipstone(chat, { input });
    assert.equal(code, 0);
    const kept = [...err.matchAll(/^\[(\d+) kept, (\d+) prefilled/gm)].map((m) => [Number(m[1]), Number(m[2])]);
    assert.equal(kept.length, 3);
    assert.ok(kept[1][0] > kept[0][1] && kept[1][1] < 25, `${kept}`);
    const lines = out.split('\n');
    assert.equal(lines[0], lines[2]);
    assert.match(out, /\/reset +forget/);
    assert.match(err, /unknown command \/frob/);
  });

  test('a full context forgets the oldest turns and goes on', () => {
    const { code, err } = skipstone([...chat, '--context', '100'], { input: 'One.\nTwo.\nThree.\nFour.\n' });
    assert.equal(code, 0);
    assert.match(err, /the context of 100 tokens is full: forgot the oldest 2 messages/);
    assert.equal(err.match(/kept/g)?.length, 4);
  });

  test('route prints the cluster and each level, one line a prompt with --lines', () => {
    const route = ['route', '-m', MODEL, '--bank', BANK];
    const { routing, levels } = json([...route, '--json', 'Write a poem about rain.']);
    assert.equal(routing.encoder, 'self');
    assert.deepEqual(levels.map((/** @type {any} */ { mask }) => Math.round(120 * mask.macs_skipped)), [8, 15, 23, 30]);
    const { out } = skipstone([...route, 'Write a poem about rain.']);
    assert.match(out, new RegExp(`^cluster ${routing.cluster} of 8, distance .*\n  depth 0.9375: `));
    const lines = skipstone([...route, '--lines'], { input: 'Write a poem about rain.\nWhat is 2 plus 2?\n' }).out;
    assert.match(lines, new RegExp(`^${routing.cluster}\t0\\.\\d{4}\n\\d\t0\\.\\d{4}\n$`));
  });

  test('info names the module, the threads and why', () => {
    const about = json(['info', MODEL, '--threads', '1', '--variant', 'simd128', '--json']);
    assert.deepEqual([about.module.variant, about.module.threads, about.model.blocks], ['simd128', 1, 60]);
    assert.match(skipstone(['info', MODEL, '-t', '1']).out, /\nthreads {2}1 thread \(asked for\)\n/);
  });
});

test('serve answers an OpenAI request, wants its key, and ends by Ctrl-C', { skip: noModel }, async () => {
  const args = ['serve', '-m', MODEL, '--bank', 'none', '--port', '0', '--api-key', 'secret', '--json'];
  /** @type {unknown[]} */
  const answers = [];
  const { code, out, err } = await atFirstText(args, async (child, text) => {
    const { url } = JSON.parse(text);
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'What is 2 plus 2?' }], max_tokens: 3, temperature: 0 });
    for (const key of ['wrong', 'secret']) {
      const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${key}` };
      const response = await fetch(`${url}/chat/completions`, { method: 'POST', body, headers });
      const { choices } = /** @type {any} */ (await response.json());
      answers.push(choices ? choices[0].message.content : response.status);
    }
    child.kill('SIGINT');
  });
  assert.deepEqual(answers, [401, 'The answer to']);
  assert.deepEqual([code, err], [0, '']);
  assert.match(out, /^\{"url":"http:\/\/127\.0\.0\.1:\d+\/v1"\}\n$/);
});
