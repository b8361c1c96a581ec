/* From a BERT sentence encoder as sentence-transformers publishes it to the GGUF that llama.cpp and Skipstone read.
 *
 *   node tools/convert_minilm.mjs FOLDER OUT.gguf [--type Q8_0|F16|F32]
 *
 * FOLDER has model.safetensors, vocab.txt and config.json. Tensor names, the vocabulary's word-start mark and the keys
 * are those of llama.cpp's convert_hf_to_gguf.py; Q8_0 and F16 are rounded as the `gguf` package does, to the bit.
 * Matrices get the type; the position and token-type tables, norms and biases stay F32. Only Node's own library. */
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const F32 = 0;
const types = { F32: { id: 0, fileType: 0 }, F16: { id: 1, fileType: 1 }, Q8_0: { id: 8, fileType: 7 } };
const ALIGNMENT = 32;
const WORD_START = '\u2581';
const specials = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'];

/* ---- number formats ---- */

const floatBits = new Float32Array(1);
const intBits = new Uint32Array(floatBits.buffer);

/** The nearest half, ties to even. @param {number} x */
export function halfOf(x) {
  floatBits[0] = x;
  const sign = (intBits[0] >>> 16) & 0x8000;
  const bits = intBits[0] & 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00; // rounds to infinity
  const shift = bits >= 0x38800000 ? 13 : 126 - (bits >>> 23); // below 2^-14 the half is subnormal
  if (shift > 24) return sign;
  const mantissa = shift === 13 ? bits - 0x38000000 : (bits & 0x7fffff) | 0x800000;
  const half = 2 ** (shift - 1);
  const low = mantissa % (2 * half);
  const kept = (mantissa - low) / (2 * half);
  return sign | (kept + (low > half || (low === half && kept % 2) ? 1 : 0));
}

/** @param {Float32Array} values */
function toF16(values) {
  const out = new Uint8Array(2 * values.length);
  const view = new DataView(out.buffer);
  values.forEach((x, i) => view.setUint16(2 * i, halfOf(x), true));
  return out;
}

/** Blocks of 32: d = amax / 127 as a half, q = x / d rounded half away from zero. @param {Float32Array} values */
function toQ8(values) {
  const out = new Uint8Array((values.length / 32) * 34);
  const view = new DataView(out.buffer);
  for (let block = 0; block < values.length / 32; block++) {
    const x = values.subarray(32 * block, 32 * block + 32);
    let most = 0;
    for (const v of x) most = Math.max(most, Math.abs(v));
    const d = Math.fround(most / 127);
    const inverse = d ? Math.fround(1 / d) : 0;
    view.setUint16(34 * block, halfOf(d), true);
    for (let k = 0; k < 32; k++) {
      const v = Math.fround(x[k] * inverse);
      view.setInt8(34 * block + 2 + k, Math.sign(v) * Math.floor(Math.abs(v) + 0.5));
    }
  }
  return out;
}

/* ---- what is read ---- */

/** @param {string} file @returns {Map<string, {shape: number[], values: Float32Array}>} */
function readSafetensors(file) {
  const bytes = fs.readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes));
  const tensors = new Map();
  for (const [name, t] of Object.entries(header)) {
    if (name === '__metadata__' || t.dtype !== 'F32') continue; // position_ids are integers
    const [from, to] = t.data_offsets;
    const copy = bytes.subarray(8 + headerBytes + from, 8 + headerBytes + to);
    tensors.set(name.replace(/^bert\./, ''), { shape: t.shape, values: new Float32Array(new Uint8Array(copy).buffer) });
  }
  return tensors;
}

/** Our name and that of the file. @param {number} layers @returns {[string, string][]} */
function tensorNames(layers) {
  const both = (/** @type {string} */ ours, /** @type {string} */ theirs) =>
    ['weight', 'bias'].map((part) => /** @type {[string, string]} */ ([`${ours}.${part}`, `${theirs}.${part}`]));
  return [
    ['token_embd.weight', 'embeddings.word_embeddings.weight'],
    ['position_embd.weight', 'embeddings.position_embeddings.weight'],
    ['token_types.weight', 'embeddings.token_type_embeddings.weight'],
    ...both('token_embd_norm', 'embeddings.LayerNorm'),
    ...Array.from({ length: layers }, (_, l) => [
      ...both(`blk.${l}.attn_q`, `encoder.layer.${l}.attention.self.query`),
      ...both(`blk.${l}.attn_k`, `encoder.layer.${l}.attention.self.key`),
      ...both(`blk.${l}.attn_v`, `encoder.layer.${l}.attention.self.value`),
      ...both(`blk.${l}.attn_output`, `encoder.layer.${l}.attention.output.dense`),
      ...both(`blk.${l}.attn_output_norm`, `encoder.layer.${l}.attention.output.LayerNorm`),
      ...both(`blk.${l}.ffn_up`, `encoder.layer.${l}.intermediate.dense`),
      ...both(`blk.${l}.ffn_down`, `encoder.layer.${l}.output.dense`),
      ...both(`blk.${l}.layer_output_norm`, `encoder.layer.${l}.output.LayerNorm`),
    ]).flat(),
  ];
}

/* ---- what is written ---- */

class Writer {
  /** @type {Uint8Array[]} */ parts = [];
  length = 0;
  /** @param {Uint8Array} bytes */
  put(bytes) {
    this.parts.push(bytes);
    this.length += bytes.length;
  }
  /** @param {'setUint32' | 'setInt32' | 'setFloat32'} how @param {number} value */
  #number(how, value) {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer)[how](0, value, true);
    this.put(bytes);
  }
  u32(/** @type {number} */ n) { this.#number('setUint32', n); }
  i32(/** @type {number} */ n) { this.#number('setInt32', n); }
  f32(/** @type {number} */ x) { this.#number('setFloat32', x); }
  u64(/** @type {number} */ n) {
    this.u32(n % 2 ** 32);
    this.u32(Math.floor(n / 2 ** 32));
  }
  text(/** @type {string} */ text) {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.put(bytes);
  }
  pad() {
    this.put(new Uint8Array((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT));
  }
}

const U32 = 4, I32 = 5, FLOAT = 6, BOOL = 7, STRING = 8, ARRAY = 9;

/** @param {Writer} w @param {string} key @param {number} type @param {any} value @param {number} [element] */
function entry(w, key, type, value, element) {
  const put = (/** @type {number} */ t, /** @type {any} */ v) => {
    if (t === U32) w.u32(v);
    else if (t === I32) w.i32(v);
    else if (t === FLOAT) w.f32(v);
    else if (t === BOOL) w.put(Uint8Array.of(v ? 1 : 0));
    else w.text(v);
  };
  w.text(key);
  w.u32(type);
  if (type !== ARRAY || element === undefined) return put(type, value);
  w.u32(element);
  w.u64(value.length);
  for (const item of value) put(element, item);
}

/**
 * @param {string} folder with model.safetensors, vocab.txt and config.json
 * @param {string} out
 * @param {keyof typeof types} [type]
 * @param {string} [name]
 */
export function convert(folder, out, type = 'Q8_0', name = 'all-MiniLM-L6-v2') {
  const config = JSON.parse(fs.readFileSync(path.join(folder, 'config.json'), 'utf8'));
  if (config.model_type !== 'bert' || config.hidden_act !== 'gelu')
    throw new Error(`${folder}: model_type ${config.model_type} with ${config.hidden_act}, want bert with gelu`);
  const vocab = fs.readFileSync(path.join(folder, 'vocab.txt'), 'utf8').replace(/\n$/, '').split('\n');
  if (vocab.length !== config.vocab_size) throw new Error(`vocab.txt: ${vocab.length} tokens, want ${config.vocab_size}`);
  const tensors = readSafetensors(path.join(folder, 'model.safetensors'));
  const isSpecial = (/** @type {string} */ token) => specials.includes(token);
  const marked = (/** @type {string} */ token) =>
    isSpecial(token) ? token : token.startsWith('##') ? token.slice(2) : WORD_START + token;

  const names = tensorNames(config.num_hidden_layers);
  const written = names.map(([ours, theirs]) => {
    const tensor = tensors.get(theirs);
    if (!tensor) throw new Error(`model.safetensors: ${theirs} is missing`);
    const plain = tensor.shape.length < 2 || ours.startsWith('position_embd') || ours.startsWith('token_types');
    const bytes =
      plain || type === 'F32' ? new Uint8Array(tensor.values.buffer) : type === 'F16' ? toF16(tensor.values) : toQ8(tensor.values);
    return { name: ours, dims: [...tensor.shape].reverse(), type: plain ? F32 : types[type].id, bytes };
  });

  const meta = new Writer();
  /** @type {[string, number, any, number?][]} */
  const entries = [
    ['general.architecture', STRING, 'bert'],
    ['general.name', STRING, name],
    ['general.license', STRING, 'apache-2.0'],
    ['general.file_type', U32, types[type].fileType],
    ['bert.block_count', U32, config.num_hidden_layers],
    ['bert.context_length', U32, config.max_position_embeddings],
    ['bert.embedding_length', U32, config.hidden_size],
    ['bert.feed_forward_length', U32, config.intermediate_size],
    ['bert.attention.head_count', U32, config.num_attention_heads],
    ['bert.attention.layer_norm_epsilon', FLOAT, config.layer_norm_eps],
    ['bert.attention.causal', BOOL, false],
    ['bert.pooling_type', U32, 1],
    ['tokenizer.ggml.model', STRING, 'bert'],
    ['tokenizer.ggml.pre', STRING, 'default'],
    ['tokenizer.ggml.token_type_count', U32, config.type_vocab_size],
    ['tokenizer.ggml.tokens', ARRAY, vocab.map(marked), STRING],
    ['tokenizer.ggml.token_type', ARRAY, vocab.map((token) => (isSpecial(token) ? 3 : 1)), I32],
    ['tokenizer.ggml.unknown_token_id', U32, vocab.indexOf('[UNK]')],
    ['tokenizer.ggml.seperator_token_id', U32, vocab.indexOf('[SEP]')], // GGUF's own spelling
    ['tokenizer.ggml.padding_token_id', U32, vocab.indexOf('[PAD]')],
    ['tokenizer.ggml.cls_token_id', U32, vocab.indexOf('[CLS]')],
    ['tokenizer.ggml.mask_token_id', U32, vocab.indexOf('[MASK]')],
  ];
  for (const [key, kind, value, element] of entries) entry(meta, key, kind, value, element);

  const w = new Writer();
  w.put(new TextEncoder().encode('GGUF'));
  w.u32(3);
  w.u64(written.length);
  w.u64(entries.length);
  meta.parts.forEach((part) => w.put(part));
  let offset = 0;
  for (const t of written) {
    w.text(t.name);
    w.u32(t.dims.length);
    t.dims.forEach((n) => w.u64(n));
    w.u32(t.type);
    w.u64(offset);
    offset += Math.ceil(t.bytes.length / ALIGNMENT) * ALIGNMENT;
  }
  for (const t of written) {
    w.pad();
    w.put(t.bytes);
  }
  w.pad();
  fs.writeFileSync(out, Buffer.concat(w.parts));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { type: { type: 'string', default: 'Q8_0' } } });
  const type = values.type.toUpperCase();
  if (positionals.length !== 2 || !(type in types)) {
    console.error('usage: node tools/convert_minilm.mjs FOLDER OUT.gguf [--type Q8_0|F16|F32]');
    process.exitCode = 2;
  } else {
    try {
      convert(positionals[0], positionals[1], /** @type {keyof typeof types} */ (type));
    } catch (error) {
      console.error(error instanceof Error ? error.message : error);
      process.exitCode = 1;
    }
  }
}
