#include "gguf_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- bytes ---- */

void put_bytes(byte_buffer *b, const void *bytes, size_t n) {
  if (n > b->capacity - b->len) {
    b->capacity = 2 * (b->len + n);
    b->data = realloc(b->data, b->capacity);
    if (!b->data) abort();
  }
  if (n) memcpy(b->data + b->len, bytes, n);
  b->len += n;
}

void put_number(byte_buffer *b, uint64_t value, size_t n_bytes) {
  uint8_t bytes[8];
  for (size_t i = 0; i < n_bytes; i++) bytes[i] = (uint8_t)(value >> (8 * i));
  put_bytes(b, bytes, n_bytes);
}

void put_text(byte_buffer *b, const char *text, size_t n) {
  put_number(b, n, 8);
  put_bytes(b, text, n);
}

static void put_zeros(byte_buffer *b, size_t alignment) {
  while (b->len % alignment) put_number(b, 0, 1);
}

/* ---- writer ---- */

gguf_writer gguf_start(void) { return (gguf_writer){.version = 3, .alignment = 32}; }

gguf_image gguf_finish(gguf_writer *w) {
  byte_buffer all = {0};
  put_bytes(&all, "GGUF", 4);
  put_number(&all, w->version, 4);
  put_number(&all, w->n_tensors, 8);
  put_number(&all, w->n_entries, 8);
  put_bytes(&all, w->meta.data, w->meta.len);
  put_bytes(&all, w->infos.data, w->infos.len);
  gguf_image image = {.header_len = all.len};
  if (w->weights.len) put_zeros(&all, w->alignment);
  image.data_offset = all.len;
  put_bytes(&all, w->weights.data, w->weights.len);
  image.len = all.len;
  image.data = malloc(all.len);
  if (!image.data) abort();
  memcpy(image.data, all.data, all.len);
  free(all.data);
  free(w->meta.data);
  free(w->infos.data);
  free(w->weights.data);
  *w = gguf_start();
  return image;
}

void gguf_image_free(gguf_image *image) {
  free(image->data);
  *image = (gguf_image){0};
}

static void put_key(gguf_writer *w, const char *key, uint32_t type) {
  put_text(&w->meta, key, strlen(key));
  put_number(&w->meta, type, 4);
  w->n_entries++;
}

void gguf_scalar(gguf_writer *w, const char *key, ss_meta_type type, uint64_t value) {
  static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  put_key(w, key, type);
  put_number(&w->meta, value, bytes[type]);
}
void gguf_u32(gguf_writer *w, const char *key, uint32_t value) { gguf_scalar(w, key, SS_META_U32, value); }
void gguf_bool(gguf_writer *w, const char *key, bool value) { gguf_scalar(w, key, SS_META_BOOL, value); }
void gguf_f32(gguf_writer *w, const char *key, float value) {
  gguf_scalar(w, key, SS_META_F32, ss_bits_of_float(value));
}
void gguf_f64(gguf_writer *w, const char *key, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  gguf_scalar(w, key, SS_META_F64, bits);
}
void gguf_string(gguf_writer *w, const char *key, const char *value) {
  put_key(w, key, SS_META_STRING);
  put_text(&w->meta, value, strlen(value));
}
void gguf_strings(gguf_writer *w, const char *key, const char *const *items, size_t n) {
  put_key(w, key, SS_META_ARRAY);
  put_number(&w->meta, SS_META_STRING, 4);
  put_number(&w->meta, n, 8);
  for (size_t i = 0; i < n; i++) put_text(&w->meta, items[i], strlen(items[i]));
}
void gguf_u32s(gguf_writer *w, const char *key, const uint32_t *items, size_t n) {
  put_key(w, key, SS_META_ARRAY);
  put_number(&w->meta, SS_META_U32, 4);
  put_number(&w->meta, n, 8);
  for (size_t i = 0; i < n; i++) put_number(&w->meta, items[i], 4);
}
void gguf_raw(gguf_writer *w, const char *key, uint32_t type, const void *value, size_t n) {
  put_key(w, key, type);
  put_bytes(&w->meta, value, n);
}

void gguf_tensor_entry(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                       uint64_t offset) {
  put_text(&w->infos, name, strlen(name));
  put_number(&w->infos, n_dims, 4);
  for (uint32_t i = 0; i < n_dims; i++) put_number(&w->infos, dims[i], 8);
  put_number(&w->infos, type, 4);
  put_number(&w->infos, offset, 8);
  w->n_tensors++;
}

void gguf_tensor(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                 const void *bytes, size_t n) {
  put_zeros(&w->weights, w->alignment);
  gguf_tensor_entry(w, name, type, n_dims, dims, w->weights.len);
  put_bytes(&w->weights, bytes, n);
}

/* ---- weights ---- */

uint16_t half_of_float(float x) {
  const uint32_t bits = ss_bits_of_float(x);
  const int exponent = (int)(bits >> 23 & 255) - 127 + 15;
  if (exponent <= 0 || exponent >= 31) return (uint16_t)(bits >> 16 & 0x8000); /* 0: none of ours is that small */
  return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

static float jittered(ss_rng *rng, float x) { return x * (float)(0.8 + 0.4 * ss_rng_unit(rng)); }

static void set_half(uint8_t *p, float x) {
  const uint16_t h = half_of_float(x);
  p[0] = (uint8_t)h;
  p[1] = (uint8_t)(h >> 8);
}

/* Any bytes are a valid block but for the f16 scales. `top` is about the largest |code - its middle|. */
static void set_scales(uint8_t *block, uint32_t type, float spread, ss_rng *rng) {
  switch (type) {
    case SS_GGUF_Q4_0: set_half(block, jittered(rng, spread / 5)); return;
    case SS_GGUF_Q4_1:
      set_half(block, jittered(rng, spread / 5));
      set_half(block + 2, -jittered(rng, spread * 1.5f));
      return;
    case SS_GGUF_Q5_0: set_half(block, jittered(rng, spread / 10)); return;
    case SS_GGUF_Q5_1:
      set_half(block, jittered(rng, spread / 10));
      set_half(block + 2, -jittered(rng, spread * 1.5f));
      return;
    case SS_GGUF_Q8_0: set_half(block, jittered(rng, spread / 74)); return;
    case SS_GGUF_Q4_K:
    case SS_GGUF_Q5_K: {
      const float top = type == SS_GGUF_Q5_K ? 31 : 15, d = jittered(rng, spread / (17 * top));
      set_half(block, d);
      set_half(block + 2, d * top / 2);
      return;
    }
    case SS_GGUF_Q6_K: set_half(block + 208, jittered(rng, spread / (74 * 18))); return;
    default: abort();
  }
}

uint8_t *random_weights(uint32_t type, uint64_t n_weights, float spread, uint64_t seed, size_t *n_bytes) {
  const ss_quant_info *quant = ss_quant_find(type);
  ss_rng rng = ss_rng_seed(seed);
  const size_t n_blocks = (size_t)(n_weights / quant->block);
  *n_bytes = n_blocks * quant->bytes;
  uint8_t *bytes = malloc(*n_bytes);
  if (!bytes) abort();
  for (size_t i = 0; i < n_blocks; i++) {
    uint8_t *block = bytes + i * quant->bytes;
    if (quant->block == 1) {
      const float x = spread * (float)(3.46 * (ss_rng_unit(&rng) - 0.5));
      const uint32_t bits = ss_bits_of_float(x);
      if (type == SS_GGUF_F32) memcpy(block, &bits, 4);
      else if (type == SS_GGUF_F16) set_half(block, x);
      else block[0] = (uint8_t)(bits >> 16), block[1] = (uint8_t)(bits >> 24);
      continue;
    }
    for (size_t k = 0; k < quant->bytes; k++) block[k] = (uint8_t)ss_rng_next(&rng);
    set_scales(block, type, spread, &rng);
  }
  return bytes;
}

/* ---- a model ---- */

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
static const char *const merges[] = {"Ġ t", "Ġ a",   "h e",  "i n",  "r e", "o n", "Ġt he", "e r",  "a t", "n d", "Ġ s",
                                     "e n", "Ġa nd", "o u",  "in g", "Ġ o", "i s", "o r",   "Ġ w",  "e s", "a n", "Ġ c",
                                     "i t", "l l",   "Ġo f", "Ġ b",  "a r", "e d", "Ġt o",  "Ġ in", "Ċ Ċ", "Ġ Ġ"};
#define N_SPECIALS (sizeof specials / sizeof specials[0])
#define N_MERGES (sizeof merges / sizeof merges[0])
_Static_assert(N_SPECIALS + 256 + N_MERGES == TINY_VOCAB, "specials, bytes and merges");

/* GPT-2's printable stand-in of a byte, as UTF-8. */
static void byte_token(char text[4], unsigned byte) {
  unsigned extra = 0;
  for (unsigned b = 0; b < byte; b++) extra += b < 33 || (b > 126 && b < 161) || b == 173;
  const bool kept = !(byte < 33 || (byte > 126 && byte < 161) || byte == 173);
  const unsigned code = kept ? byte : 256 + extra;
  if (code < 128) {
    snprintf(text, 4, "%c", (char)code);
  } else {
    text[0] = (char)(0xc0 | code >> 6);
    text[1] = (char)(0x80 | (code & 63));
    text[2] = 0;
  }
}

static void put_tokenizer(gguf_writer *w, const char *pre) {
  static char texts[TINY_VOCAB][32];
  const char *tokens[TINY_VOCAB];
  uint8_t types[12 + 4 * TINY_VOCAB];
  byte_buffer kinds = {0};
  put_number(&kinds, SS_META_I32, 4);
  put_number(&kinds, TINY_VOCAB, 8);
  for (size_t i = 0; i < TINY_VOCAB; i++) {
    tokens[i] = texts[i];
    if (i < N_SPECIALS) {
      snprintf(texts[i], sizeof texts[i], "%s", specials[i]);
    } else if (i < N_SPECIALS + 256) {
      byte_token(texts[i], (unsigned)(i - N_SPECIALS));
    } else {
      const char *merge = merges[i - N_SPECIALS - 256], *space = strchr(merge, ' ');
      snprintf(texts[i], sizeof texts[i], "%.*s%s", (int)(space - merge), merge, space + 1);
    }
    put_number(&kinds, i < N_SPECIALS ? 3 : 1, 4); /* control, normal */
  }
  memcpy(types, kinds.data, sizeof types);
  free(kinds.data);
  gguf_string(w, "tokenizer.ggml.model", "gpt2");
  gguf_string(w, "tokenizer.ggml.pre", pre);
  gguf_strings(w, "tokenizer.ggml.tokens", tokens, TINY_VOCAB);
  gguf_raw(w, "tokenizer.ggml.token_type", SS_META_ARRAY, types, sizeof types);
  gguf_strings(w, "tokenizer.ggml.merges", merges, N_MERGES);
  gguf_u32(w, "tokenizer.ggml.bos_token_id", 1);
  gguf_u32(w, "tokenizer.ggml.eos_token_id", 2);
  gguf_u32(w, "tokenizer.ggml.unknown_token_id", 0);
  gguf_bool(w, "tokenizer.ggml.add_bos_token", false);
}

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static void put_odd_key(gguf_writer *w, const tiny_model *m) {
  if (m->odd_meta == SS_META_STRING) gguf_string(w, m->odd_key, m->odd_text);
  else if (m->odd_meta == SS_META_F32) gguf_f32(w, m->odd_key, m->odd_f32);
  else gguf_scalar(w, m->odd_key, m->odd_meta, m->odd_value);
}

static void put_count(gguf_writer *w, const tiny_model *m, const char *key, uint32_t value) {
  if (!is(m->without, key) && !is(m->odd_key, key)) gguf_u32(w, key, value);
}

static void put_weights(gguf_writer *w, const tiny_model *m, const char *name, uint32_t type, uint32_t cols,
                        uint32_t rows, float spread) {
  if (is(m->without, name)) return;
  uint64_t dims[4] = {cols, rows}, seed = m->seed + ss_fnv1a(SS_FNV_START, name, strlen(name));
  uint32_t n_dims = rows ? 2 : 1;
  if (is(m->odd_tensor, name)) {
    memcpy(dims, m->odd_dims, sizeof dims);
    n_dims = m->odd_n_dims;
    type = m->odd_type;
  }
  uint64_t n = 1;
  for (uint32_t i = 0; i < n_dims; i++) n *= dims[i];
  size_t n_bytes;
  uint8_t *bytes;
  if (ss_quant_find(type)->pack < 0) { /* no type that runs: zeros will do */
    n_bytes = (size_t)(n / ss_quant_find(type)->block * ss_quant_find(type)->bytes);
    bytes = calloc(n_bytes, 1);
  } else {
    bytes = random_weights(type, n, spread, seed, &n_bytes);
  }
  if (!rows && type == SS_GGUF_F32) /* norms and frequency factors lie around 1 */
    for (uint64_t i = 0; i < n; i++) {
      float x;
      memcpy(&x, bytes + 4 * i, 4);
      x += 1;
      memcpy(bytes + 4 * i, &x, 4);
    }
  gguf_tensor(w, name, type, n_dims, dims, bytes, n_bytes);
  free(bytes);
}

gguf_image tiny_model_image(const tiny_model *model) {
  tiny_model m = *model;
  const bool wide = ss_quant_find(m.type)->block == 256;
  if (!m.n_layers) m.n_layers = wide ? 1 : 2;
  if (!m.n_embd) m.n_embd = wide ? 256 : 64;
  if (!m.n_ff) m.n_ff = wide ? 256 : 96;
  if (!m.n_heads) m.n_heads = wide ? 4 : 2;
  if (!m.n_kv_heads) m.n_kv_heads = 1;
  const uint32_t head_dim = m.head_dim ? m.head_dim : m.n_embd / m.n_heads;

  gguf_writer w = gguf_start();
  if (m.alignment) {
    w.alignment = m.alignment;
    gguf_u32(&w, "general.alignment", m.alignment);
  }
  if (!is(m.without, "general.architecture") && !is(m.odd_key, "general.architecture"))
    gguf_string(&w, "general.architecture", "llama");
  gguf_string(&w, "general.name", "tiny");
  put_count(&w, &m, "llama.block_count", m.n_layers);
  put_count(&w, &m, "llama.context_length", 512);
  put_count(&w, &m, "llama.embedding_length", m.n_embd);
  put_count(&w, &m, "llama.feed_forward_length", m.n_ff);
  put_count(&w, &m, "llama.attention.head_count", m.n_heads);
  put_count(&w, &m, "llama.attention.head_count_kv", m.n_kv_heads);
  if (m.head_dim) put_count(&w, &m, "llama.attention.key_length", m.head_dim);
  put_count(&w, &m, "llama.rope.dimension_count", head_dim);
  put_count(&w, &m, "llama.vocab_size", TINY_VOCAB);
  if (!is(m.without, "llama.rope.freq_base") && !is(m.odd_key, "llama.rope.freq_base"))
    gguf_f32(&w, "llama.rope.freq_base", 10000);
  if (!is(m.without, "llama.attention.layer_norm_rms_epsilon") &&
      !is(m.odd_key, "llama.attention.layer_norm_rms_epsilon"))
    gguf_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  if (m.odd_key) put_odd_key(&w, &m);
  put_tokenizer(&w, m.pre ? m.pre : "smollm");

  const float narrow = 1 / sqrtf((float)m.n_embd);
  const uint32_t q = m.n_heads * head_dim, kv = m.n_kv_heads * head_dim;
  put_weights(&w, &m, "token_embd.weight", m.type, m.n_embd, TINY_VOCAB, 1);
  for (uint32_t l = 0; l < m.n_layers; l++) {
    const struct {
      const char *name;
      uint32_t cols, rows;
    } tensors[] = {{"attn_norm", m.n_embd, 0},     {"attn_q", m.n_embd, q},      {"attn_k", m.n_embd, kv},
                   {"attn_v", m.n_embd, kv},       {"attn_output", q, m.n_embd}, {"ffn_norm", m.n_embd, 0},
                   {"ffn_gate", m.n_embd, m.n_ff}, {"ffn_up", m.n_embd, m.n_ff}, {"ffn_down", m.n_ff, m.n_embd}};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
      char name[64];
      snprintf(name, sizeof name, "blk.%u.%s.weight", (unsigned)l, tensors[i].name);
      const bool vector = tensors[i].rows == 0;
      put_weights(&w, &m, name, vector ? m.vector_type : m.type, tensors[i].cols, tensors[i].rows,
                  vector ? 0.1f : narrow);
    }
  }
  put_weights(&w, &m, "output_norm.weight", m.vector_type, m.n_embd, 0, 0.1f);
  if (m.own_head) put_weights(&w, &m, "output.weight", m.type, m.n_embd, TINY_VOCAB, narrow);
  if (m.rope_freqs) put_weights(&w, &m, "rope_freqs.weight", SS_GGUF_F32, head_dim / 2, 0, 0.1f);
  if (m.extra_tensor) put_weights(&w, &m, m.extra_tensor, SS_GGUF_F32, 32, 0, 0.1f);
  return gguf_finish(&w);
}
