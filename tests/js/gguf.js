/** Writes GGUF files for tests: models of random weights, large enough to have many chunks, and banks for them. */

const TYPES = { u32: 4, f32: 6, string: 8, array: 9, u64: 10 };
const F32 = 0;
const I8 = 24;
const ALIGNMENT = 32;
const text = new TextEncoder();

/** @param {bigint | number} n */
const u64 = (n) => new Uint8Array(BigUint64Array.of(BigInt(n)).buffer);
/** @param {number} n */
const u32 = (n) => new Uint8Array(Uint32Array.of(n).buffer);
/** @param {string} s */
const string = (s) => [u64(text.encode(s).length), text.encode(s)];

/**
 * @typedef {number | bigint | string | Uint32Array | Float32Array | string[]} Value  number: u32, or f32 where it is no whole one
 * @typedef {{name: string, dims: number[], data: Float32Array | Int8Array}} Tensor  dims: the first runs fastest
 */

/** @param {Value} value */
function valueBytes(value) {
  if (typeof value === 'string') return [u32(TYPES.string), ...string(value)];
  if (typeof value === 'bigint') return [u32(TYPES.u64), u64(value)];
  if (typeof value === 'number') {
    return Number.isInteger(value) ? [u32(TYPES.u32), u32(value)] : [u32(TYPES.f32), new Uint8Array(Float32Array.of(value).buffer)];
  }
  const element = value instanceof Uint32Array ? TYPES.u32 : value instanceof Float32Array ? TYPES.f32 : TYPES.string;
  const items = Array.isArray(value) ? value.flatMap(string) : [new Uint8Array(value.buffer, value.byteOffset, value.byteLength)];
  return [u32(TYPES.array), u32(element), u64(value.length), ...items];
}

/** @param {Uint8Array[]} pieces @returns {Uint8Array} */
function join(pieces) {
  const all = new Uint8Array(pieces.reduce((n, { length }) => n + length, 0));
  pieces.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
  return all;
}

/** @param {number} n */
const aligned = (n) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;

/**
 * @param {Record<string, Value>} meta
 * @param {Tensor[]} tensors
 */
export function gguf(meta, tensors) {
  /** @type {Uint8Array[]} */
  const head = [text.encode('GGUF'), u32(3), u64(tensors.length), u64(Object.keys(meta).length)];
  for (const [key, value] of Object.entries(meta)) head.push(...string(key), ...valueBytes(value));
  let offset = 0;
  const data = [];
  for (const { name, dims, data: values } of tensors) {
    head.push(...string(name), u32(dims.length), ...dims.map(u64), u32(values instanceof Int8Array ? I8 : F32), u64(offset));
    const bytes = new Uint8Array(aligned(values.byteLength));
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    data.push(bytes);
    offset += bytes.length;
  }
  const header = join(head);
  return join([header, new Uint8Array(aligned(header.length) - header.length), ...data]);
}

/**
 * Cuts a model as llama.cpp's gguf-split does: all metadata in the first shard, in each its tensors.
 * @param {Record<string, Value>} meta
 * @param {Tensor[]} tensors
 * @param {number} n shards
 */
export function shards(meta, tensors, n) {
  const each = Math.ceil(tensors.length / n);
  return Array.from({ length: n }, (_, no) => {
    const split = { 'split.no': no, 'split.count': n, 'split.tensors.count': tensors.length };
    return gguf(no ? split : { ...meta, ...split }, tensors.slice(no * each, (no + 1) * each));
  });
}

export const LAYERS = 8;
const WIDTH = 128;
const FF = 512;
const KV = 64;
const SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];
const MERGES = ['Ġ t', 'Ġ a', 'h e', 'Ġt he'];
const kept = (/** @type {number} */ b) => (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;

/** The 256 stand-ins of byte-level BPE. */
function byteTokens() {
  let extra = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(kept(b) ? b : extra++));
}

/** A model of 8 MB: F32, eight layers, nearly every tensor in chunks of its own. @param {number} [seed] */
export function tinyParts(seed = 1) {
  const tokens = [...SPECIAL, ...byteTokens(), ...MERGES.map((merge) => merge.replace(' ', ''))];
  const meta = {
    'general.architecture': 'llama',
    'general.name': 'Tiny',
    'llama.block_count': LAYERS,
    'llama.context_length': 1024,
    'llama.embedding_length': WIDTH,
    'llama.feed_forward_length': FF,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'llama.attention.layer_norm_rms_epsilon': 0.00001,
    'llama.rope.dimension_count': 32,
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': Uint32Array.from(tokens, (token) => (SPECIAL.includes(token) ? 3 : 1)),
    'tokenizer.ggml.merges': MERGES,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.chat_template': "{% for message in messages %}{{ message['content'] }}{% endfor %}",
  };
  let state = seed;
  /** @param {string} name @param {...number} dims @returns {Tensor} */
  const random = (name, ...dims) => {
    const n = dims.reduce((a, b) => a * b);
    const data = Float32Array.from({ length: n }, () => ((state = (state * 48271) % 2147483647) / 2147483647 - 0.5) / 4);
    return { name, dims, data: dims.length === 1 ? data.map((x) => x + 1) : data };
  };
  const tensors = [random('token_embd.weight', WIDTH, tokens.length)];
  for (let l = 0; l < LAYERS; l++) {
    tensors.push(
      random(`blk.${l}.attn_norm.weight`, WIDTH),
      random(`blk.${l}.attn_q.weight`, WIDTH, WIDTH),
      random(`blk.${l}.attn_k.weight`, WIDTH, KV),
      random(`blk.${l}.attn_v.weight`, WIDTH, KV),
      random(`blk.${l}.attn_output.weight`, WIDTH, WIDTH),
      random(`blk.${l}.ffn_norm.weight`, WIDTH),
      random(`blk.${l}.ffn_gate.weight`, WIDTH, FF),
      random(`blk.${l}.ffn_up.weight`, WIDTH, FF),
      random(`blk.${l}.ffn_down.weight`, FF, WIDTH),
    );
  }
  tensors.push(random('output_norm.weight', WIDTH));
  return { meta, tensors };
}

/** @param {number} [seed] */
export function tinyModel(seed) {
  const { meta, tensors } = tinyParts(seed);
  return gguf(meta, tensors);
}

/**
 * A bank of two clusters and two levels for a tiny model.
 * @param {string} family its fingerprint
 * @param {{skipped: number[][][]}} masks blocks that are skipped, by level and cluster; the global mask skips what cluster 0 does
 */
export function tinyBank(family, { skipped }) {
  const blocks = 2 * LAYERS;
  const rows = skipped.flatMap(([a, b]) => [a, b, a].map((skip) => Array.from({ length: blocks }, (_, i) => (skip.includes(i) ? 0 : 1))));
  const centroids = Float32Array.from({ length: 2 * WIDTH }, (_, i) => (i < WIDTH ? 1 : i % 2 ? 1 : -1) / Math.sqrt(WIDTH));
  const print = BigInt(`0x${family}`);
  return gguf(
    {
      'general.architecture': 'skipstone-bank',
      'skipstone-bank.version': 1,
      'skipstone-bank.numerics_version': 1,
      'skipstone-bank.n_layers': LAYERS,
      'skipstone-bank.levels': Float32Array.from(skipped, (_, i) => (i + 1) / 8),
      'skipstone-bank.model.family': print,
      'skipstone-bank.model.exact': 0n,
      'skipstone-bank.model.name': 'Tiny',
      'skipstone-bank.encoder.family': print,
      'skipstone-bank.encoder.exact': 0n,
      'skipstone-bank.encoder.kind': 'self',
      'skipstone-bank.encoder.name': 'Tiny',
    },
    [
      { name: 'centroids', dims: [WIDTH, 2], data: centroids },
      { name: 'masks', dims: [blocks, 3, skipped.length], data: Int8Array.from(rows.flat()) },
    ],
  );
}
