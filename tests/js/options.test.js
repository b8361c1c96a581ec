import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load, SkipstoneError } from '../../node/index.js';
import { checkGenerateOptions, checkLoadOptions, skipText } from '../../wasm/options.js';
import { ChatTemplate } from '../../wasm/template.js';

/** @param {() => unknown} call @param {RegExp} message */
function refuses(call, message) {
  assert.throws(call, (error) => error instanceof SkipstoneError && error.code === 'argument' && message.test(error.message));
}

test('an unknown option throws and is named, with what there is', async () => {
  refuses(() => checkLoadOptions({ thread: 2 }), /load: unknown option 'thread'; there are threads, contextSize/);
  refuses(() => checkGenerateOptions({ max_tokens: 2 }), /generate: unknown option 'max_tokens'; there are maxTokens/);
  await assert.rejects(load('x.gguf', /** @type {any} */ ({ nThreads: 2 })), { code: 'argument', message: /'nThreads'/ });
});

test('an impossible value throws and names the option, what was found and what was wanted', () => {
  refuses(() => checkLoadOptions({ threads: 0 }), /load: threads is 0, want 'auto' or a whole number from 1 to 64/);
  refuses(() => checkLoadOptions({ threads: 65 }), /threads is 65/);
  refuses(() => checkLoadOptions({ contextSize: 1.5 }), /contextSize is 1.5/);
  refuses(() => checkLoadOptions({ variant: 'avx2' }), /variant is "avx2", want 'auto', 'simd128', 'relaxed', 'relaxed-dot'/);
  refuses(() => checkLoadOptions({ onProgress: 1 }), /onProgress is 1, want a function/);
  refuses(() => checkLoadOptions({ signal: {} }), /want an AbortSignal/);
  refuses(() => checkGenerateOptions({ temperature: -1 }), /temperature is -1, want a number from 0/);
  refuses(() => checkGenerateOptions({ temperature: NaN }), /temperature/);
  refuses(() => checkGenerateOptions({ topP: '0.9' }), /topP is "0.9"/);
  refuses(() => checkGenerateOptions({ seed: -1n }), /seed is -1n/);
  refuses(() => checkGenerateOptions({ stop: ['a', ''] }), /stop is/);
  refuses(() => checkGenerateOptions({ skip: { mlp: [1] } }), /skip is .*want 'attn:3,7;ffn:12'/);
  refuses(() => checkGenerateOptions({ skip: { attn: [-1] } }), /skip is/);
  refuses(() => checkGenerateOptions(null), /options must be an object/);
  checkGenerateOptions({ temperature: undefined, seed: 2n ** 63n, stop: 'x', skip: 'attn:1' });
  checkLoadOptions({});
});

test('a source that names nothing is refused', async () => {
  await assert.rejects(load(''), { code: 'argument', message: /the source is/ });
  await assert.rejects(load(/** @type {any} */ (7)), { code: 'argument', message: /the source is 7, want .* or a path/ });
  await assert.rejects(load([]), { code: 'argument', message: /empty array/ });
});

test('skip is spelled as the core reads it', () => {
  assert.equal(skipText('attn:3;ffn:1'), 'attn:3;ffn:1');
  assert.equal(skipText({ attn: [3, 7], ffn: [12] }), 'attn:3,7;ffn:12');
  assert.equal(skipText({ attn: [], ffn: [0] }), 'ffn:0');
  assert.equal(skipText({}), '');
});

const special = { bosText: '<s>', eosText: '</s>', unknownText: '', padText: '' };

test('a chat template sees the messages, the special tokens and more variables', () => {
  const chat = new ChatTemplate("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ x }}", special);
  assert.equal(chat.render([{ role: 'user', content: 'a' }], { add_generation_prompt: true, x: 1 }), '<s>[user]a>1');
});

test('errors of a chat template say what went wrong', () => {
  assert.throws(() => new ChatTemplate('{% for %}', special), { code: 'template', message: /does not parse/ });
  assert.throws(() => new ChatTemplate(undefined, special).render([{ role: 'user', content: '' }], {}), {
    code: 'template',
    message: /no chat template/,
  });
  const strict = new ChatTemplate("{{ raise_exception('roles must alternate') }}", special);
  assert.throws(() => strict.render([{ role: 'user', content: '' }], {}), { code: 'template', message: /roles must alternate/ });
  refuses(() => strict.render(/** @type {any} */ ([{ role: 'user' }]), {}), /messages\[0\].content is undefined/);
  refuses(() => strict.render([], {}), /non-empty array/);
});
