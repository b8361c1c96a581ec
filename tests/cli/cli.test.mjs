/* The native command, end to end: node --test tests/cli/
 * SKIPSTONE names another binary than build/release/skipstone. Tests that need the model skip where it is absent. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const binary = process.env.SKIPSTONE ?? path.join(root, 'build/release/skipstone');
const model = path.join(root, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');
const skip = !fs.existsSync(binary) ? `no ${binary}` : false;
const skipModel = skip || (!fs.existsSync(model) ? `no ${model}` : false);
const commands = ['run', 'chat', 'inspect', 'tokenize', 'bench'];
const paris = ['run', '-m', model, '-p', 'The capital of France is', '-n', '8', '--temp', '0'];

/** @param {string[]} args @param {{ input?: string, env?: Record<string, string> }} [options] */
function skipstone(args, { input = '', env = {} } = {}) {
  const { SKIPSTONE_MODEL, ...inherited } = process.env;
  const done = spawnSync(binary, args, { encoding: 'utf8', input, env: { ...inherited, ...env }, maxBuffer: 1 << 26 });
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

describe('usage', { skip }, () => {
  test('every command has a help with examples, reached in two ways', () => {
    for (const name of commands) {
      const { code, out } = skipstone([name, '--help']);
      assert.equal(code, 0);
      assert.match(out, new RegExp(`^Usage: skipstone ${name} `));
      assert.match(out, /\nOptions:\n[^]*-m, --model PATH[^]*\nExamples:\n {2}skipstone /);
      assert.equal(skipstone(['help', name]).out, out);
      assert.ok(Math.max(...out.split('\n').map((line) => line.length)) <= 120, `${name}: help is at most 120 wide`);
    }
  });

  test('the top help lists every command', () => {
    const { code, out } = skipstone(['--help']);
    assert.equal(code, 0);
    for (const name of commands) assert.match(out, new RegExp(`\n  ${name} +\\S`));
  });

  test('the version names the kernel sets, scalar last', () => {
    assert.match(skipstone(['--version']).out, /^skipstone \d+\.\d+\.\d+ \(numerics \d+, layout \d+\)\nkernels:.* scalar\n$/);
  });

  test('no command prints the help as an error', () => {
    const { code, err } = skipstone([]);
    assert.equal(code, 2);
    assert.match(err, /^Usage: skipstone/);
  });

  test('an unknown command or option names the nearest known one', () => {
    fails(['rnu'], 2, /unknown command rnu; did you mean run\?/);
    fails(['--versoin'], 2, /did you mean --version\?/);
    fails(['run', '--tempp', '0'], 2, /run: unknown option --tempp; did you mean --temp\?/);
    fails(['bench', '--thread=2'], 2, /did you mean --threads\?/);
    fails(['chat', '--qqqqqqqqq'], 2, /unknown option --qqqqqqqqq; see skipstone chat --help/);
    fails(['run', '-x'], 2, /unknown option -x/);
  });

  test('a value out of range or of the wrong kind says what is wanted', () => {
    fails(['run', '--top-p', '1.5'], 2, /--top-p 1\.5: want a number from 0 to 1/);
    fails(['run', '--temp', 'nan'], 2, /--temp nan: want a number from 0 to 100/);
    fails(['run', '-n', '-1'], 2, /--tokens -1: want a whole number from 0/);
    fails(['run', '-n', '99999999999999999999'], 2, /want a whole number from 0/);
    fails(['run', '-t0'], 2, /--threads 0: want a whole number from 1 to 64/);
    fails(['run', '--threads=65'], 2, /--threads 65: want a whole number from 1 to 64/);
    fails(['bench', '--threads', '1,,2'], 2, /--threads 1,,2: want/);
    fails(['run', '--json=1'], 2, /--json takes no value, found 1/);
    fails(['run', '-p'], 2, /--prompt needs a value: TEXT/);
    fails(['inspect', 'a', 'b'], 2, /unexpected argument b/);
  });

  test('missing models and prompts are named', () => {
    fails(['run', '-p', 'x'], 2, /no model: give -m PATH or set SKIPSTONE_MODEL/);
    fails(['run', '-m', 'x.gguf'], 2, /no prompt/);
    fails(['run', '-m', 'x.gguf', '-p', 'a', '-f', 'b'], 2, /more than one prompt/);
    fails(['run', '-m', '/nowhere/x.gguf', '-p', 'x'], 1, /\/nowhere\/x\.gguf: No such file or directory/);
    fails(['run', '-m', root, '-p', 'x'], 1, /not a regular file/);
    fails(['run', '-m', 'x.gguf', '-f', '/nowhere/prompt'], 1, /\/nowhere\/prompt: No such file/);
    fails(['run', '-m', 'x.gguf', '-p', 'x', '--kernels', 'abacus'], 2, /--kernels abacus: .* one of: .*scalar/);
  });
});

describe('damaged files', { skip: skipModel }, () => {
  let folder = '';
  before(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-cli-'))));
  after(() => fs.rmSync(folder, { recursive: true, force: true }));

  /** The model's first n bytes as a file. @param {number} n */
  function cut(n) {
    const file = path.join(folder, `cut-${n}.gguf`);
    const from = fs.openSync(model, 'r');
    const bytes = Buffer.alloc(n);
    fs.readSync(from, bytes, 0, n, 0);
    fs.closeSync(from);
    fs.writeFileSync(file, bytes);
    return file;
  }

  test('a truncated file is named, with the bytes found and wanted', () => {
    const whole = fs.statSync(model).size;
    fails(['run', '-p', 'x', '-m', cut(0)], 1, /cut-0\.gguf: the file is empty/);
    fails(['run', '-p', 'x', '-m', cut(3)], 1, /cut-3\.gguf: the file is truncated: it ends at byte 3, inside its header/);
    fails(['run', '-p', 'x', '-m', cut(100000)], 1, /ends at byte 100000, inside its header/);
    fails(['run', '-p', 'x', '-m', cut(3000000)], 1, new RegExp(`cut-3000000\\.gguf: .*found 3000000 bytes, want ${whole}`));
  });

  test('inspect and tokenize read no weights, and inspect says that the file is truncated', () => {
    const file = cut(3000000);
    assert.equal(skipstone(['tokenize', '-m', file, '--ids', 'Hello']).out, '19556\n');
    const { code, out, err } = skipstone(['inspect', '--blocks', file]);
    assert.equal(code, 1);
    assert.match(out, /attn 29/);
    assert.match(err, /found 3000000 bytes/);
  });

  test('another file is not taken for a model', () => {
    fails(['run', '-p', 'x', '-m', path.join(root, 'CMakeLists.txt')], 1, /CMakeLists\.txt: .*GGUF/);
  });
});

describe('run', { skip: skipModel }, () => {
  test('--json prints one object of the documented shape', () => {
    const r = json([...paris, '--threads', '2', '--json']);
    assert.deepEqual(Object.keys(r), [
      'text', 'tokens', 'prompt_tokens', 'logits_hash', 'mask', 'timings', 'threads', 'kernels', 'finish_reason',
    ]);
    assert.match(r.text, /^ Paris/);
    assert.equal(r.tokens.length, 8);
    assert.equal(r.prompt_tokens, 5);
    assert.match(r.logits_hash, /^[0-9a-f]{16}$/);
    assert.deepEqual(r.mask, {
      skip: '', blocks_run: 60, blocks_total: 60, macs_skipped: 0, units_skipped: 0, units_total: 120,
    });
    assert.equal(r.threads, 2);
    assert.equal(r.finish_reason, 'length');
    assert.equal(r.timings.prefill_tokens, 5);
    assert.equal(r.timings.decode_tokens, 7);
    for (const key of ['load_ms', 'prefill_ms', 'prefill_tps', 'decode_ms', 'decode_tps']) assert.ok(r.timings[key] > 0, key);
  });

  test('text streams to stdout alone; --verbose adds a summary on stderr', () => {
    const quiet = skipstone(paris);
    assert.match(quiet.out, /^ Paris[^]*\n$/);
    assert.equal(quiet.err, '');
    const verbose = skipstone([...paris, '-v']);
    assert.equal(verbose.out, quiet.out);
    assert.match(verbose.err, /^5 prompt tokens at .*, 8 tokens at .* \(length\), 60 of 60 blocks/);
  });

  test('the prompt may come from an operand, a file or standard input, the model from the environment', () => {
    const want = json([...paris, '--json']).tokens;
    const options = ['-n', '8', '--temp', '0', '--json'];
    const env = { SKIPSTONE_MODEL: model };
    const input = 'The capital of France is';
    assert.deepEqual(json(['run', ...options, input], { env }).tokens, want);
    assert.deepEqual(json(['run', ...options, '-f', '-'], { env, input }).tokens, want);
    assert.deepEqual(json(['run', ...options, '-p', '-'], { env, input }).tokens, want);
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'skipstone-cli-')), 'prompt.txt');
    fs.writeFileSync(file, input);
    assert.deepEqual(json(['run', ...options, '-f', file], { env }).tokens, want);
    fs.rmSync(path.dirname(file), { recursive: true });
  });

  test('threads and chunks change neither tokens nor logits, dense and masked', () => {
    for (const mask of ['', 'attn:3,7;ffn:12']) {
      const hashes = new Set();
      for (const more of [['-t', '1'], ['-t', '2'], ['-t', '3', '--chunk', '1'], ['--chunk', '2']]) {
        const r = json([...paris, '--skip', mask, '--json', ...more]);
        hashes.add(`${r.logits_hash} ${r.tokens}`);
      }
      assert.equal(hashes.size, 1, mask);
    }
  });

  test('every kernel set gives the same bits', () => {
    const names = skipstone(['--version']).out.trim().split('\n')[1].split(' ').slice(1);
    const hashes = names.map((name) => {
      const r = json([...paris, '-n', '3', '--kernels', name, '--json']);
      assert.equal(r.kernels, name);
      return r.logits_hash;
    });
    assert.equal(new Set(hashes).size, 1, `${names} ${hashes}`);
  });

  test('the same seed gives the same text, another seed another text', () => {
    const args = ['run', '-m', model, '-p', 'Once upon a time', '-n', '24', '--temp', '1', '--json'];
    const [a, b, c] = ['7', '7', '8'].map((seed) => json([...args, '--seed', seed]).text);
    assert.equal(a, b);
    assert.notEqual(a, c);
  });

  test('a stop string ends the text before it', () => {
    const whole = json([...paris, '-n', '16', '--json']);
    const stop = whole.text.slice(8, 14);
    const r = json([...paris, '-n', '16', '--stop', 'not in it', '--stop', stop, '--json']);
    assert.equal(r.finish_reason, 'stop');
    assert.equal(r.text, whole.text.slice(0, whole.text.indexOf(stop)));
    assert.ok(r.tokens.length <= whole.tokens.length);
    assert.equal(skipstone([...paris, '-n', '16', '--stop', stop]).out, `${r.text}\n`);
  });

  test('-n 0 prefills only; a full context ends the answer', () => {
    const none = json([...paris, '-n', '0', '--json']);
    assert.deepEqual([none.text, none.tokens, none.timings.decode_tokens], ['', [], 0]);
    const full = json([...paris, '-n', '50', '--context', '10', '--json']);
    assert.equal(full.finish_reason, 'length');
    assert.equal(full.tokens.length, 6, '5 prompt tokens, 5 decoded, and one picked behind the last');
    fails([...paris, '--context', '4'], 1, /context/);
  });

  test('--chat formats a user turn and ends with the end of the answer', () => {
    const args = ['run', '-m', model, '--temp', '0', '-n', '64', '--json'];
    const chat = json([...args, '--chat', '-p', 'Say hello.']);
    assert.equal(chat.finish_reason, 'stop');
    assert.equal(chat.tokens.at(-1), 2, '<|im_end|>');
    const system = json([...args, '--system', 'You are terse.', '-p', 'Say hello.', '-n', '1']);
    const formatted = '<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n';
    assert.equal(system.prompt_tokens, json([...args, '-p', formatted, '-n', '1']).prompt_tokens);
    assert.ok(json([...args, '--plain', '-p', formatted, '-n', '1']).prompt_tokens > system.prompt_tokens + 20);
  });

  test('--ignore-eos goes on behind the end of an answer', () => {
    const args = ['run', '-m', model, '--temp', '0', '-n', '48', '--json', '--chat', '-p', 'Say hello.'];
    const r = json([...args, '--ignore-eos']);
    assert.deepEqual([r.finish_reason, r.tokens.length], ['length', 48]);
  });

  test('--skip reports the mask and changes the result', () => {
    const r = json([...paris, '--skip', 'ffn:12;attn:7,3', '--json']);
    assert.deepEqual([r.mask.skip, r.mask.blocks_run, r.mask.units_skipped], ['attn:3,7;ffn:12', 57, 5]);
    assert.ok(Math.abs(r.mask.macs_skipped - 5 / 120) < 1e-6);
    assert.notEqual(r.logits_hash, json([...paris, '--json']).logits_hash);
  });

  test('a wrong --skip says what is wrong', () => {
    fails([...paris, '--skip', 'attn:30'], 2, /layer 30 .*0 to 29/);
    fails([...paris, '--skip', 'head:3'], 2, /skip/);
    fails([...paris, '--skip', 'attn:'], 2, /skip/);
    fails([...paris, '--skip', 'attn:9-3'], 2, /skip/);
    fails([...paris, '--skip', 'attn:3,x'], 2, /skip/);
  });

  /** Ctrl-C at the first text, or after `ms`. @param {string[]} args @param {number} [ms]
   * @returns {Promise<{ code: number | null, out: string, err: string }>} */
  const interrupt = (args, ms) =>
    new Promise((resolve) => {
      const child = spawn(binary, ['run', '-m', model, '-v', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
      let out = '';
      let err = '';
      child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
      child.stderr.setEncoding('utf8').on('data', (text) => (err += text));
      if (ms) setTimeout(() => child.kill('SIGINT'), ms);
      else child.stdout.once('data', () => child.kill('SIGINT'));
      child.on('close', (code) => resolve({ code, out, err }));
    });

  test('Ctrl-C ends an answer cleanly', async () => {
    const { code, out, err } = await interrupt(['-p', 'Once upon a time', '-n', '8000', '--ignore-eos']);
    assert.equal(code, 130);
    assert.match(out, /\n$/);
    assert.match(err, /\(abort\)/);
  });

  test('Ctrl-C ends a prefill cleanly', async () => {
    const load = json([...paris, '-n', '0', '--json']).timings.load_ms;
    const args = ['-p', 'word '.repeat(8000), '-n', '1', '--kernels', 'scalar', '--json'];
    const { code, out } = await interrupt(args, 3 * load + 1000);
    assert.equal(code, 130);
    const r = JSON.parse(out);
    assert.deepEqual([r.finish_reason, r.tokens, r.timings.decode_tokens], ['abort', [], 0]);
  });
});

describe('chat', { skip: skipModel }, () => {
  const args = ['chat', '-m', model, '--temp', '0', '-n', '12', '-v'];

  test('a second turn prefills only what is new', () => {
    const { code, out, err } = skipstone(args, { input: 'My name is Bob.\nWhat is my name?\n' });
    assert.equal(code, 0);
    assert.equal(out.trimEnd().split('\n').length, 2);
    const [first, second] = [...err.matchAll(/^\[(\d+) kept, (\d+) prefilled/gm)].map((m) => [Number(m[1]), Number(m[2])]);
    assert.equal(first[0], 0);
    assert.ok(second[0] > first[1] + 6, `second turn kept ${second[0]} tokens`);
    assert.ok(second[1] < 25, `second turn prefilled ${second[1]} tokens`);
  });

  test('the second answer is what a run of the whole conversation gives', () => {
    const answers = skipstone(args, { input: 'Say hi.\nAnd now?\n' }).out.trimEnd().split('\n');
    const prompt =
      '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' +
      `<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n${answers[0]}<|im_end|>\n` +
      '<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n';
    assert.equal(json(['run', '-m', model, '--temp', '0', '-n', '12', '--json', '-p', prompt]).text, answers[1]);
  });

  test('/reset forgets, /help helps, an unknown command is named, /quit leaves', () => {
    const { code, out, err } = skipstone(args, { input: 'Say hi.\n/reset\nSay hi.\n/help\n/frob\n/quit\nnever\n' });
    assert.equal(code, 0);
    const lines = out.split('\n');
    assert.equal(lines[0], lines[1]);
    assert.match(out, /\/reset +forget/);
    assert.match(err, /unknown command \/frob/);
    assert.equal(err.match(/kept/g)?.length, 2);
  });

  test('a full context forgets the oldest turns and goes on', () => {
    const { code, err } = skipstone([...args, '--context', '100'], { input: 'One.\nTwo.\nThree.\nFour.\n' });
    assert.equal(code, 0);
    assert.match(err, /the context of 100 tokens is full: forgot the oldest 2 messages/);
    assert.equal(err.match(/kept/g)?.length, 4);
  });
});

describe('tokenize', { skip: skipModel }, () => {
  const args = ['tokenize', '-m', model];

  test('ids and pieces, and back', () => {
    assert.deepEqual(json([...args, '--json', 'Hello world']), { n: 2, tokens: [19556, 905], pieces: ['Hello', ' world'] });
    assert.equal(skipstone([...args, '--ids'], { input: 'Hello world' }).out, '19556 905\n');
    assert.match(skipstone([...args, 'Hello world']).out, /^ +19556 {2}"Hello"\n +905 {2}" world"\n$/);
    assert.equal(skipstone([...args, '--detokenize', '[19556, 905]']).out, 'Hello world\n');
  });

  test('special tokens only with --special', () => {
    assert.deepEqual(json([...args, '--special', '--json', '<|im_start|>']).tokens, [1]);
    assert.ok(json([...args, '--json', '<|im_start|>']).n > 1);
    assert.equal(json([...args, '-d', '--json', '1 19556']).text, 'Hello');
    assert.equal(json([...args, '-d', '--special', '--json', '1 19556']).text, '<|im_start|>Hello');
  });

  test('an emoji survives the way there and back', () => {
    const text = 'Grüße 👋🏽 an "alle"\n\ttabs\u0001';
    const { tokens } = json([...args, '--json', '--text', text]);
    assert.equal(json([...args, '-d', '--json', '-p', tokens.join(' ')]).text, text);
  });

  test('no text gives no ids, a wrong id is named', () => {
    assert.deepEqual(json([...args, '--json', '--ids']), { n: 0, tokens: [] });
    fails([...args, '-d', '-p', '5 x7 8'], 2, /x7: want token ids from 0 to 49151/);
    fails([...args, '-d', '49152'], 2, /49152: want token ids/);
  });
});

describe('inspect', { skip: skipModel }, () => {
  test('--json has summary, metadata, tensors and blocks, and the filters choose', () => {
    const r = json(['inspect', model, '--json']);
    assert.deepEqual([r.architecture, r.quantisation, r.n_layers, r.n_blocks], ['llama', 'Q4_1', 30, 60]);
    assert.equal(r.file_bytes, fs.statSync(model).size);
    assert.equal(r.metadata['general.architecture'], 'llama');
    assert.equal(r.metadata['tokenizer.ggml.tokens'].n, 49152);
    assert.equal(r.tensors.length, 272);
    assert.equal(r.blocks.length, 60);
    const [attention, feedForward] = r.blocks;
    assert.equal(feedForward.macs, 3 * attention.macs, 'the units of a mask: 1 and 3');
    assert.ok(attention.kv_bytes > 0 && feedForward.kv_bytes === 0);
    for (const key of ['macs', 'file_bytes', 'packed_bytes', 'kv_bytes'])
      assert.equal(r.blocks_total[key], r.blocks.reduce((/** @type {number} */ sum, /** @type {any} */ b) => sum + b[key], 0));
    const only = json(['inspect', model, '--json', '--blocks']);
    assert.deepEqual(only.blocks, r.blocks);
    assert.ok(!only.metadata && !only.tensors);
  });

  test('the text form shortens long arrays and strings, --full does not', () => {
    const { out } = skipstone(['inspect', '-m', model]);
    assert.match(out, /Metadata: \d+ keys[^]*Tensors: 272[^]*Blocks: 60/);
    assert.match(out, /49152 x string: \["<\|endoftext\|>",.*, \.\.\.\]/);
    assert.match(skipstone(['inspect', '--tensors', model]).out, /^Tensors: 272\n/);
    assert.ok(skipstone(['inspect', '--metadata', '--full', model]).out.length > 100000);
  });
});

describe('bench', { skip: skipModel }, () => {
  const args = ['bench', '-m', model, '-p', '8', '-n', '2', '-d', '4', '-r', '2', '--json'];

  test('--json prints one object of the documented shape', () => {
    const r = json([...args, '--threads', '1']);
    for (const key of ['prefill_tps', 'decode_tps']) {
      assert.ok(r[key] > 0, key);
      assert.ok(r[`${key}_min`] <= r[key] && r[key] <= r[`${key}_max`], key);
    }
    assert.deepEqual([r.threads, r.prefill_tokens, r.decode_tokens, r.depth, r.repeats], [1, 8, 2, 4, 2]);
    assert.equal(r.mask.blocks_run, 60);
    assert.ok(r.kv_bytes > 0 && r.session_bytes > r.kv_bytes);
    assert.ok(!('ratio' in r) && !('blocks_ms' in r));
    assert.equal(typeof r.kernels, 'string');
  });

  test('several thread counts and kernel sets give an array', () => {
    const many = json([...args, '--threads', '1,2', '-r', '1', '-n', '1', '-p', '4', '--kernels', 'all']);
    const names = skipstone(['--version']).out.trim().split('\n')[1].split(' ').slice(1);
    assert.deepEqual(
      many.map((/** @type {any} */ r) => `${r.kernels} ${r.threads}`),
      names.flatMap((name) => [`${name} 1`, `${name} 2`]),
    );
  });

  test('--compare-dense reports both and their ratio', () => {
    const r = json([...args, '--proportional', '0.25', '--compare-dense']);
    assert.ok(r.mask.macs_skipped > 0.2 && r.mask.macs_skipped < 0.3);
    assert.equal(r.dense.mask.blocks_run, 60);
    assert.ok(r.kv_bytes < r.dense.kv_bytes);
    assert.ok(r.blocks_ms.prefill > 0 && r.dense.blocks_ms.decode > 0);
    for (const key of ['prefill_blocks', 'decode_blocks', 'prefill', 'decode']) assert.ok(r.ratio[key] > 0, key);
    assert.equal(r.ratio.kv_bytes.toFixed(4), (r.kv_bytes / r.dense.kv_bytes).toFixed(4));
  });

  test('a part of no tokens is null', () => {
    const r = json([...args, '-n', '0']);
    assert.ok(r.prefill_tps > 0);
    assert.equal(r.decode_tps, null);
    fails([...args, '-p', '0', '-n', '0'], 2, /nothing to measure/);
    fails([...args, '--skip', 'attn:1', '--proportional', '0.2'], 2, /exclude each other/);
  });

  test('the table form names speeds and mask', () => {
    const { code, out } = skipstone(args.filter((arg) => arg !== '--json').concat('--skip', 'ffn:3'));
    assert.equal(code, 0);
    assert.match(out, /59 of 60 blocks, 2\.50 % of MACs skipped: ffn:3/);
    assert.match(out, /prefill +[\d.]+ tokens\/s[^]*decode +[\d.]+ tokens\/s/);
  });
});
