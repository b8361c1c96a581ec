/* Saved sessions: a KV cache that outlives the process, and copies of one within it.
 *
 * A saved session is, little-endian and without gaps:
 *
 *     saved_header                    what it is and what it belongs to
 *     int32 tokens[length]
 *     the KV of its positions         for each attention block of kv_mask, for each KV head: K, V, V's scales, as in
 *                                     session.h but cut after the last group of 8 positions (K) or position (V)
 *     uint64 hash                     ss_hash_words of all before it
 *
 * No size in it depends on the context that the session was made with. It is read as hostile: every size follows from
 * `length` and the model at hand, and must be that of the file. */
#include "model/session.h"

#define SAVED_VERSION 1

typedef struct saved_header {
  uint8_t magic[8];
  uint32_t version, numerics;
  ss_fingerprint model; /* exact may be 0, when not all of the model was there */
  uint64_t model_bytes; /* packed: tells quantisations apart where exact cannot */
  uint64_t recovery; /* a hash of it; 0: none */
  uint64_t length;
  ss_mask masks[2]; /* run_mask, kv_mask */
} saved_header;
_Static_assert(sizeof(saved_header) == 56 + 2 * sizeof(ss_mask), "no padding: it is a file's");
_Static_assert(offsetof(ss_session, kv_mask) == offsetof(ss_session, run_mask) + sizeof(ss_mask), "compared as one");

static const uint8_t magic[8] = {'S', 'K', 'I', 'P', 'K', 'V', '\r', '\n'};

/* Part i of the KV of positions 0..n-1: where it is, and in *bytes its size; none of an attention block without KV. */
static uint8_t *kv_part(const ss_session *s, uint32_t i, size_t n, size_t *bytes) {
  const ss_config *c = &s->model->config;
  const ss_kv *kv = &s->kv[i / 3 / c->n_kv_heads];
  const size_t head = i / 3 % c->n_kv_heads, dim = c->head_dim, blocks = dim / SS_COLS;
  uint8_t *data = (uint8_t *)(i % 3 == 0 ? (void *)kv->k : i % 3 == 1 ? (void *)kv->v : (void *)kv->v_scale);
  const size_t each = i % 3 == 0 ? blocks * sizeof *kv->k : i % 3 == 1 ? dim : blocks * sizeof *kv->v_scale;
  const size_t unit = i % 3 == 0 ? SS_ROWS : 1; /* positions that lie together */
  *bytes = kv->k ? ss_ceil_div(n, unit) * each : 0;
  return kv->k ? data + head * ss_ceil_div(s->context, unit) * each : NULL;
}

static uint32_t n_parts(const ss_session *s) { return 3 * s->model->config.n_kv_heads * s->model->config.n_layers; }

/* A step in flight or a hole in the first n positions makes the KV useless to others. */
static ss_status check_whole(const ss_session *s, uint32_t n, ss_error *err) {
  if (s->active) return ss_fail(err, SS_E_STATE, "a step is under way: run it to its end or cancel it");
  for (uint32_t l = 0; l < s->model->config.n_layers; l++)
    if (s->kv[l].k && s->kv[l].filled < n)
      return ss_fail(err, SS_E_STATE, "layer %u has KV of %u of %u tokens", l, s->kv[l].filled, n);
  return SS_OK;
}

static void set_length(ss_session *s, uint32_t n) {
  s->length = n;
  for (uint32_t l = 0; l < s->model->config.n_layers; l++)
    if (s->kv[l].k) s->kv[l].filled = n;
}

ss_status ss_session_copy(ss_session *to, const ss_session *from, uint32_t n_tokens, ss_error *err) {
  if (to->model != from->model || to->recovery != from->recovery ||
      memcmp(&to->run_mask, &from->run_mask, 2 * sizeof(ss_mask)) || n_tokens > from->length || n_tokens > to->context)
    return ss_fail(err, SS_E_ARGUMENT, "copy: %u of %u tokens into %u, or other masks", n_tokens, from->length,
                   to->context);
  ss_status status = check_whole(from, n_tokens, err);
  if (!status) status = ss_session_truncate(to, 0, err);
  if (status) return status;
  for (uint32_t i = 0; i < n_parts(to); i++) {
    size_t bytes;
    const uint8_t *data = kv_part(from, i, n_tokens, &bytes);
    if (bytes) memcpy(kv_part(to, i, n_tokens, &bytes), data, bytes);
  }
  set_length(to, n_tokens);
  return SS_OK;
}

/* Of a saved session but for its hash; the sizes of a session that exists do not overflow. */
static size_t saved_bytes(const ss_session *s, size_t length) {
  size_t total = sizeof(saved_header) + length * sizeof(int32_t), bytes;
  for (uint32_t i = 0; i < n_parts(s); i++) {
    kv_part(s, i, length, &bytes);
    total += bytes;
  }
  return total;
}

size_t ss_session_saved_bytes(const ss_session *s) { return saved_bytes(s, s->length) + sizeof(uint64_t); }

/* Of all that changes what a step computes. */
static uint64_t recovery_hash(const ss_recovery *r) {
  if (!r) return 0;
  uint64_t hash = SS_FNV_START;
  for (uint32_t b = 0; b <= r->n_blocks; b++) {
    const ss_recovery_block *block = &r->blocks[b < r->n_blocks ? b : 0];
    const float *vectors[] = {b < r->n_blocks ? block->gains : r->output_gains, block->a, block->b};
    hash = ss_fnv1a(hash, &block->scale, sizeof block->scale);
    for (size_t i = 0; i < 3; i++) {
      const uint64_t part = vectors[i] ? ss_hash_words(vectors[i], r->n_embd * sizeof(float)) : 0;
      hash = ss_fnv1a(hash, &part, sizeof part);
    }
  }
  return hash;
}

static ss_status describe(const ss_session *s, saved_header *h, ss_error *err) {
  *h = (saved_header){.version = SAVED_VERSION,
                      .numerics = SS_NUMERICS_VERSION,
                      .model_bytes = ss_model_bytes(s->model, NULL),
                      .recovery = recovery_hash(s->recovery),
                      .length = s->length};
  memcpy(h->magic, magic, sizeof magic);
  memcpy(h->masks, &s->run_mask, sizeof h->masks);
  return ss_model_fingerprint(s->model, &h->model, err);
}

ss_status ss_session_save(const ss_session *s, const int32_t *tokens, void *bytes, ss_error *err) {
  saved_header h;
  ss_status status = check_whole(s, s->length, err);
  if (!status) status = describe(s, &h, err);
  if (status) return status;
  uint8_t *at = bytes;
  memcpy(at, &h, sizeof h);
  at += sizeof h;
  memcpy(at, tokens, s->length * sizeof *tokens);
  at += s->length * sizeof *tokens;
  for (uint32_t i = 0; i < n_parts(s); i++) {
    size_t n;
    const uint8_t *data = kv_part(s, i, s->length, &n);
    if (n) memcpy(at, data, n);
    at += n;
  }
  const uint64_t hash = ss_hash_words(bytes, (size_t)(at - (uint8_t *)bytes));
  memcpy(at, &hash, sizeof hash);
  return SS_OK;
}

/* Fills a fresh session. */
static ss_status fill(ss_session *s, const saved_header *h, const uint8_t *bytes, size_t n, int32_t *tokens,
                      ss_error *err) {
  saved_header here;
  ss_status status = describe(s, &here, err);
  if (status) return status;
  const ss_fingerprint *a = &h->model, *b = &here.model;
  if (a->family != b->family || h->model_bytes != here.model_bytes || (a->exact && b->exact && a->exact != b->exact))
    return ss_fail(err, SS_E_ARGUMENT, "saved session: of model %llx-%llx, this one is %llx-%llx",
                   (unsigned long long)a->family, (unsigned long long)a->exact, (unsigned long long)b->family,
                   (unsigned long long)b->exact);
  if (h->recovery != here.recovery || memcmp(h->masks, here.masks, sizeof h->masks))
    return ss_fail(err, SS_E_ARGUMENT, "saved session: it skips other blocks, or with another recovery");
  if (h->length > s->context)
    return ss_fail(err, SS_E_CONTEXT, "saved session: %llu tokens, the context has %u", (unsigned long long)h->length,
                   s->context);
  const uint32_t length = (uint32_t)h->length;
  bool fits = n == saved_bytes(s, length);
  bytes += sizeof *h;
  for (uint32_t i = 0; fits && i < length; i++, bytes += sizeof *tokens) {
    memcpy(tokens + i, bytes, sizeof *tokens);
    fits = (uint32_t)tokens[i] < s->model->config.n_vocab;
  }
  if (!fits) return ss_fail(err, SS_E_FORMAT, "saved session: %zu bytes do not fit %u tokens", n, length);
  for (uint32_t i = 0; i < n_parts(s); i++) {
    size_t part;
    uint8_t *data = kv_part(s, i, length, &part);
    if (part) memcpy(data, bytes, part);
    bytes += part;
  }
  set_length(s, length);
  return SS_OK;
}

ss_status ss_session_restore(ss_session **out, const ss_model *m, const ss_session_options *options, const void *bytes,
                             size_t n, int32_t *tokens, const ss_host *host, ss_error *err) {
  *out = NULL;
  saved_header h;
  uint64_t hash;
  if (n < sizeof h + sizeof hash || memcmp(bytes, magic, sizeof magic))
    return ss_fail(err, SS_E_FORMAT, "not a saved session, or truncated");
  memcpy(&h, bytes, sizeof h);
  if (h.version != SAVED_VERSION || h.numerics != SS_NUMERICS_VERSION)
    return ss_fail(err, SS_E_UNSUPPORTED, "saved session: version %u with numbers %u, want %u and %u", h.version,
                   h.numerics, SAVED_VERSION, SS_NUMERICS_VERSION);
  n -= sizeof hash;
  memcpy(&hash, (const uint8_t *)bytes + n, sizeof hash);
  if (ss_hash_words(bytes, n) != hash) return ss_fail(err, SS_E_FORMAT, "saved session: truncated or damaged");
  ss_status status = ss_session_create(out, m, options, host, err);
  if (!status) status = fill(*out, &h, bytes, n, tokens, err);
  if (status) {
    ss_session_free(*out);
    *out = NULL;
  }
  return status;
}
