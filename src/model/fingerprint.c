/* Fingerprints: which model is this? Tensors are taken in the order of their names, so a file that was written in
 * another order is the same model. */
#include "model/load.h"

static uint64_t hash_number(uint64_t hash, uint64_t n) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(n >> (8 * i));
  return ss_fnv1a(hash, bytes, sizeof bytes);
}

static uint64_t hash_text(uint64_t hash, const char *text, size_t len) {
  return ss_fnv1a(hash_number(hash, len), text, len);
}

static uint64_t hash_texts(uint64_t hash, const ss_gguf *g, const char *key) {
  ss_gguf_iter it;
  ss_text text;
  if (!ss_gguf_array(g, key, &it)) return hash_number(hash, 0);
  hash = hash_number(hash, it.left);
  while (ss_gguf_next_text(&it, &text)) hash = hash_text(hash, text.data, text.len);
  return hash;
}

static bool is_norm(const ss_tensor *t) {
  if (!t->wanted || !t->vector) return false;
  for (uint32_t i = 0; i + 4 <= t->file->name_len; i++)
    if (!memcmp(t->file->name + i, "norm", 4)) return true;
  return false;
}

static uint64_t hash_name(uint64_t hash, const ss_tensor *t) {
  return hash_text(hash, t->file->name, t->file->name_len);
}

static ss_status family(const ss_model *m, uint64_t *out, ss_error *err) {
  const ss_config *c = &m->config;
  const uint32_t shape[] = {c->n_layers,
                            c->n_embd,
                            c->n_ff,
                            c->n_heads,
                            c->n_kv_heads,
                            c->head_dim,
                            c->n_vocab,
                            c->n_rot,
                            c->rope_neox,
                            ss_bits_of_float(c->rope_theta),
                            ss_bits_of_float(c->rope_scale),
                            ss_bits_of_float(c->norm_eps)};
  uint64_t hash = SS_FNV_START;
  for (const char *p = m->load->architecture; *p; p++) hash = ss_fnv1a(hash, p, 1);
  for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) hash = hash_number(hash, shape[i]);
  hash = hash_texts(hash, &m->gguf, "tokenizer.ggml.tokens");
  hash = hash_texts(hash, &m->gguf, "tokenizer.ggml.merges");
  for (uint32_t i = 0; i < m->gguf.n_tensors; i++) {
    const ss_tensor *t = &m->tensors[m->gguf.by_name[i]];
    if (!is_norm(t)) continue;
    if (!t->present)
      return ss_fail(err, SS_E_MISSING, "fingerprint: %s: not all of its bytes have been fed", t->file->name);
    const float *gains = t->data;
    hash = hash_name(hash, t);
    for (uint32_t k = 0; k < t->cols; k++) hash = hash_number(hash, ss_bits_of_float(gains[k]));
  }
  *out = hash;
  return SS_OK;
}

/* FNV-1a over 8-byte words in four interleaved chains, a hundred times as fast as over bytes. The shift carries a
 * word's upper bits down, where a multiplication alone would leave them. */
uint64_t ss_hash_words(const void *data, size_t n) {
  const uint64_t prime = UINT64_C(0x100000001b3);
  uint64_t chain[4] = {SS_FNV_START, SS_FNV_START + 1, SS_FNV_START + 2, SS_FNV_START + 3};
  const uint8_t *p = data;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    uint64_t word[4];
    memcpy(word, p + i, sizeof word);
    for (int k = 0; k < 4; k++) {
      chain[k] = (chain[k] ^ word[k]) * prime;
      chain[k] ^= chain[k] >> 32;
    }
  }
  uint64_t hash = hash_number(SS_FNV_START, n);
  for (int k = 0; k < 4; k++) hash = hash_number(hash, chain[k]);
  return ss_fnv1a(hash, p + i, n - i);
}

ss_status ss_model_fingerprint(const ss_model *m, ss_fingerprint *out, ss_error *err) {
  *out = (ss_fingerprint){0};
  if (!ss_model_header_done(m)) return ss_fail(err, SS_E_STATE, "fingerprint: the model's header is not complete");
  const ss_status status = family(m, &out->family, err);
  if (status != SS_OK || m->load->n_absent > 0) return status;
  uint64_t hash = hash_number(out->family, SS_LAYOUT_VERSION);
  for (uint32_t i = 0; i < m->gguf.n_tensors; i++) {
    const ss_tensor *t = &m->tensors[m->gguf.by_name[i]];
    if (!t->wanted) continue;
    hash = hash_name(hash, t);
    hash = hash_number(hash, (uint64_t)t->pack << 1 | t->vector);
    hash = hash_number(hash, ss_hash_words(t->data, t->data_bytes));
  }
  out->exact = hash ? hash : 1; /* 0 means unknown */
  return SS_OK;
}
