/* Sessions: the KV cache, and the step that can stop between blocks. */
#include "model/session.h"

/* ---- sizes ---- */

#define INSIDE_FLOATS ((size_t)32 << 10) /* of gate and up: half of a small core's second cache */
#define CHUNK 128 /* tokens of a prefill step, for each of up to 4 threads: weights are unpacked once for so many */

static bool has_float_down(const ss_model *m) {
  for (uint32_t l = 0; l < m->config.n_layers; l++)
    if (ss_packs[ss_model_matrix(m, m->layers[l].down).pack].is_float) return true;
  return false;
}

/* Lays out everything that a session owns, itself first. With arena->base NULL it only counts, and *s is scratch. */
static void lay_out(ss_arena *arena, ss_session *s, const ss_model *m, const ss_session_options *o,
                    uint32_t n_threads) {
  const ss_config *c = &m->config;
  const size_t T = o->chunk, dim = c->head_dim, group = c->n_heads / c->n_kv_heads;
  const size_t q_cols = (size_t)c->n_heads * dim, kv_cols = (size_t)c->n_kv_heads * dim;
  const size_t input = ss_max(c->n_embd, q_cols), acts = ss_max(input, 2 * (size_t)c->n_embd);
  const size_t panel_bytes = ss_panel_bytes((uint32_t)ss_max(input, c->n_ff));
  const size_t scores_each = SS_ATTN_TILE * group * ss_padded(o->context);
  ss_carve(arena, 1, sizeof *s);
  s->panel_bytes = panel_bytes;
  s->scores_each = scores_each;
  s->kv = ss_carve(arena, c->n_layers, sizeof *s->kv);
  for (uint32_t l = 0; l < c->n_layers; l++) {
    if (!ss_mask_has(o->kv_mask, 2 * l)) continue;
    ss_kv kv = {
        .k = ss_carve(arena, c->n_kv_heads * ss_ceil_div(o->context, SS_ROWS) * (dim / SS_COLS), sizeof *kv.k),
        .v = ss_carve(arena, (size_t)c->n_kv_heads * o->context, dim),
        .v_scale = ss_carve(arena, (size_t)c->n_kv_heads * o->context * (dim / SS_COLS), sizeof *kv.v_scale),
    };
    if (arena->base) s->kv[l] = kv;
  }
  s->h = ss_carve(arena, T * c->n_embd, sizeof *s->h);
  s->x = ss_carve(arena, T * input, sizeof *s->x);
  s->q = ss_carve(arena, T * input, sizeof *s->q);
  s->out = s->q; /* written when q has been read; the same core has the same tokens of both */
  s->k = ss_carve(arena, T * kv_cols, sizeof *s->k);
  s->v = ss_carve(arena, T * kv_cols, sizeof *s->v);
  s->act_q = ss_carve(arena, T * acts, sizeof *s->act_q);
  s->act_b = ss_carve(arena, T * (acts / SS_COLS), sizeof *s->act_b);
  s->ff_q = ss_carve(arena, T * c->n_ff, sizeof *s->ff_q);
  s->ff_b = ss_carve(arena, T * (c->n_ff / SS_COLS), sizeof *s->ff_b);
  s->ff_x = has_float_down(m) ? ss_carve(arena, T * c->n_ff, sizeof *s->ff_x) : NULL;
  s->query_q = ss_carve(arena, T * q_cols, sizeof *s->query_q);
  s->query_b = ss_carve(arena, T * (q_cols / SS_COLS), sizeof *s->query_b);
  s->cosine = ss_carve(arena, T * (c->n_rot / 2), sizeof *s->cosine);
  s->sine = ss_carve(arena, T * (c->n_rot / 2), sizeof *s->sine);
  s->logits = ss_carve(arena, o->max_logits * ss_padded(c->n_vocab), sizeof *s->logits);
  s->panel = ss_carve(arena, n_threads, panel_bytes);
  s->inside_each = ss_max(INSIDE_FLOATS, 2 * T * SS_COLS);
  s->inside = ss_carve(arena, n_threads * s->inside_each, sizeof *s->inside);
  s->scores = ss_carve(arena, n_threads * scores_each, sizeof *s->scores);
  s->head_y_each = 2 * T * SS_HEAD_ROWS;
  s->head_y = ss_carve(arena, n_threads * s->head_y_each, sizeof *s->head_y);
  s->head_q = ss_carve(arena, n_threads * dim, sizeof *s->head_q);
  s->head_b = ss_carve(arena, n_threads * (dim / SS_COLS), sizeof *s->head_b);
}

/* What lay_out counts; SIZE_MAX when it does not fit. */
static size_t bytes_of(const ss_model *m, const ss_session_options *o, uint32_t n_threads) {
  ss_arena arena = {0};
  ss_session scratch;
  lay_out(&arena, &scratch, m, o, n_threads);
  return arena.overflow ? SIZE_MAX : arena.used;
}

/* Every attention block of run must be in kv. */
static ss_status check_masks(const ss_mask *run, const ss_mask *kv, uint32_t n_layers, ss_error *err) {
  for (uint32_t b = 0; b < SS_MAX_BLOCKS; b++) {
    if (ss_mask_has(run, b) && b >= 2 * n_layers)
      return ss_fail(err, SS_E_ARGUMENT, "mask: block %u does not exist, the model has %u", b, 2 * n_layers);
    if (b % 2 == 0 && ss_mask_has(run, b) && !ss_mask_has(kv, b))
      return ss_fail(err, SS_E_ARGUMENT, "mask: attention block of layer %u runs but keeps no KV", b / 2);
  }
  return SS_OK;
}

static ss_status check_recovery(const ss_model *m, const ss_recovery *r, ss_error *err) {
  const ss_config *c = &m->config;
  if (!r || (r->n_blocks == 2 * c->n_layers && r->n_embd == c->n_embd)) return SS_OK;
  return ss_fail(err, SS_E_ARGUMENT, "recovery: for %u blocks of width %u, the model has %u of %u", r->n_blocks,
                 r->n_embd, 2 * c->n_layers, c->n_embd);
}

/* The options with defaults filled in; *masks holds the masks they point to. */
static ss_status complete_options(const ss_model *m, const ss_session_options *given, uint32_t n_threads,
                                  ss_session_options *o, ss_mask masks[2], ss_error *err) {
  const ss_config *c = &m->config;
  if (!ss_model_header_done(m)) return ss_fail(err, SS_E_STATE, "the model's header has not been fed yet");
  if (c->pooling != SS_POOL_NONE)
    return ss_fail(err, SS_E_UNSUPPORTED,
                   "this model is a sentence encoder, which writes no text: want a language model");
  *o = given ? *given : (ss_session_options){0};
  if (!o->context) o->context = c->context_train ? (uint32_t)ss_min(2048, c->context_train) : 2048;
  if (c->context_train && o->context > c->context_train)
    return ss_fail(err, SS_E_ARGUMENT, "context %u is longer than the %u tokens that the model was trained for",
                   o->context, c->context_train);
  if (o->context > (1u << 24))
    return ss_fail(err, SS_E_ARGUMENT, "context %u is more than %u tokens", o->context, 1u << 24);
  if (!o->chunk) o->chunk = CHUNK * (uint32_t)ss_min(n_threads, 4);
  o->chunk = (uint32_t)ss_min(o->chunk, o->context);
  if (!o->max_logits) o->max_logits = 1;
  if (o->max_logits > o->context)
    return ss_fail(err, SS_E_ARGUMENT, "max_logits %u is more than the context of %u", o->max_logits, o->context);
  if (o->run_mask) masks[0] = *o->run_mask;
  else ss_mask_fill(&masks[0], 2 * c->n_layers);
  masks[1] = o->kv_mask ? *o->kv_mask : masks[0];
  o->run_mask = &masks[0];
  o->kv_mask = &masks[1];
  const ss_status status = check_masks(&masks[0], &masks[1], c->n_layers, err);
  return status ? status : check_recovery(m, o->recovery, err);
}

size_t ss_session_bytes(const ss_model *m, const ss_session_options *options) {
  ss_session_options o;
  ss_mask masks[2];
  if (complete_options(m, options, m->host.n_threads, &o, masks, NULL)) return 0;
  const size_t bytes = bytes_of(m, &o, m->host.n_threads);
  return bytes == SIZE_MAX ? 0 : bytes;
}

size_t ss_session_kv_bytes(const ss_model *m, const ss_session_options *options) {
  ss_session_options o;
  ss_mask masks[2];
  if (complete_options(m, options, m->host.n_threads, &o, masks, NULL)) return 0;
  const size_t with = bytes_of(m, &o, 1);
  memset(&masks[1], 0, sizeof masks[1]);
  return with == SIZE_MAX ? 0 : with - bytes_of(m, &o, 1);
}

/* ---- life ---- */

ss_status ss_session_create(ss_session **out, const ss_model *m, const ss_session_options *options, const ss_host *host,
                            ss_error *err) {
  *out = NULL;
  ss_session_options o;
  ss_mask masks[2];
  if (host->n_threads < 1 || host->n_threads > SS_MAX_THREADS)
    return ss_fail(err, SS_E_ARGUMENT, "%u threads, want 1 to %u", host->n_threads, SS_MAX_THREADS);
  const ss_status status = complete_options(m, options, host->n_threads, &o, masks, err);
  if (status) return status;
  const size_t bytes = bytes_of(m, &o, host->n_threads);
  if (bytes == SIZE_MAX)
    return ss_fail(err, SS_E_MEMORY, "a session of %u tokens does not fit this machine's memory", o.context);
  ss_session *s = ss_host_alloc(host, bytes);
  if (!s) return ss_fail(err, SS_E_MEMORY, "no memory for a session of %u tokens: %zu bytes", o.context, bytes);
  ss_arena arena = {.base = (uint8_t *)s};
  lay_out(&arena, s, m, &o, host->n_threads);
  s->host = *host;
  s->model = m;
  s->kernels = m->kernels;
  s->bytes = bytes;
  s->context = o.context;
  s->chunk = o.chunk;
  s->max_logits = o.max_logits;
  s->run_mask = masks[0];
  s->kv_mask = masks[1];
  s->recovery = o.recovery;
  *out = s;
  return SS_OK;
}

void ss_session_free(ss_session *s) {
  if (!s) return;
  const ss_host host = s->host;
  ss_host_free(&host, s, s->bytes);
}

/* ---- steps ---- */

ss_status ss_session_begin(ss_session *s, const int32_t *tokens, size_t n, size_t n_logits, ss_error *err) {
  if (s->active) return ss_fail(err, SS_E_STATE, "a step is under way: run it to its end or cancel it");
  if (!n) return ss_fail(err, SS_E_ARGUMENT, "no tokens");
  if (n_logits > ss_min(n, s->max_logits))
    return ss_fail(err, SS_E_ARGUMENT, "logits of %zu of %zu tokens asked for, the session has room for %u", n_logits,
                   n, s->max_logits);
  if (n > s->context - s->length)
    return ss_fail(err, SS_E_CONTEXT, "context full: %u of %u tokens held, %zu more do not fit", s->length, s->context,
                   n);
  for (size_t i = 0; i < n; i++)
    if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->model->config.n_vocab)
      return ss_fail(err, SS_E_ARGUMENT, "token %d is not in the vocabulary of %u", tokens[i],
                     s->model->config.n_vocab);
  for (uint32_t l = 0; l < s->model->config.n_layers; l++)
    if (ss_mask_has(&s->run_mask, 2 * l) && s->kv[l].filled < s->length)
      return ss_fail(
          err, SS_E_STATE,
          "layer %u has KV of %u of %u tokens, since its attention did not run then: truncate the session first", l,
          s->kv[l].filled, s->length);
  s->tokens = tokens;
  s->n_tokens = (uint32_t)n;
  s->n_done = 0;
  s->n_logits = (uint32_t)n_logits;
  s->n = 0;
  s->active = true;
  return SS_OK;
}

static ss_status need(const ss_model *m, uint32_t tensor, ss_error *err) {
  const ss_tensor *t = &m->tensors[tensor];
  return t->present ? SS_OK : ss_fail(err, SS_E_MISSING, "%s: not all of its bytes have been fed", t->file->name);
}

static ss_status need_block(const ss_model *m, uint32_t block, ss_error *err) {
  const ss_layer *l = &m->layers[block / 2];
  const uint32_t attention[] = {l->attn_norm, l->q, l->k, l->v, l->o, l->q_bias, l->k_bias, l->v_bias};
  const uint32_t feed_forward[] = {l->ffn_norm, l->gate, l->up, l->down};
  const uint32_t *tensors = block % 2 ? feed_forward : attention;
  for (size_t i = 0; i < (block % 2 ? 4u : 8u); i++) {
    if (tensors[i] == SS_NO_TENSOR) continue;
    const ss_status status = need(m, tensors[i], err);
    if (status) return status;
  }
  return SS_OK;
}

/* How many tokens of the chunk, counted from its end, need logits. */
static uint32_t chunk_logits(const ss_session *s) {
  const uint32_t behind = s->n_tokens - s->n_done - s->n; /* tokens that later chunks hold */
  return s->n_logits > behind ? (uint32_t)ss_min(s->n_logits - behind, s->n) : 0;
}

ss_status ss_session_run(ss_session *s, uint32_t max_blocks, ss_error *err) {
  const ss_model *m = s->model;
  const uint32_t n_blocks = 2 * m->config.n_layers;
  uint32_t budget = max_blocks ? max_blocks : UINT32_MAX;
  ss_status status;
  if (!s->active) return ss_fail(err, SS_E_STATE, "no step is under way: begin one first");
  while (s->n_done < s->n_tokens) {
    if (!s->n) { /* start a chunk */
      if ((status = need(m, m->embedding, err))) return status;
      if (m->rope_factors >= 0 && (status = need(m, (uint32_t)m->rope_factors, err))) return status;
      s->n = (uint32_t)ss_min(s->chunk, s->n_tokens - s->n_done);
      s->block = 0;
      ss_run_embedding(s);
    }
    for (; s->block < n_blocks; s->block++) {
      if (!ss_mask_has(&s->run_mask, s->block)) {
        ss_run_stand_in(s, s->block); /* costs next to nothing, and counts so */
        continue;
      }
      if (!budget) return SS_MORE;
      if ((status = need_block(m, s->block, err))) return status;
      ss_run_block(s, s->block);
      if (max_blocks) budget--;
    }
    const uint32_t with_logits = chunk_logits(s);
    if (with_logits) {
      if (!budget) return SS_MORE;
      if ((status = need(m, m->output_norm, err)) || (status = need(m, m->head, err))) return status;
      const uint32_t first_wanted = s->n_tokens - s->n_logits; /* of all the step's tokens */
      const uint32_t first = s->n - with_logits;
      ss_run_head(s, first, s->n_done + first - first_wanted);
      if (max_blocks) budget--;
    }
    s->length += s->n;
    s->n_done += s->n;
    s->n = 0;
  }
  s->active = false;
  return SS_OK;
}

void ss_session_cancel(ss_session *s) {
  s->active = false;
  s->n = 0;
  s->n_logits = 0;
  for (uint32_t l = 0; l < s->model->config.n_layers; l++)
    if (s->kv[l].filled > s->length) s->kv[l].filled = s->length;
}

float *ss_session_logits(ss_session *s, size_t i) {
  if (s->active || i >= s->n_logits) return NULL;
  return s->logits + i * ss_padded(s->model->config.n_vocab);
}

uint32_t ss_session_length(const ss_session *s) { return s->length; }
uint32_t ss_session_context(const ss_session *s) { return s->context; }
const ss_mask *ss_session_mask(const ss_session *s) { return &s->run_mask; }

ss_status ss_session_truncate(ss_session *s, uint32_t n_tokens, ss_error *err) {
  if (s->active) return ss_fail(err, SS_E_STATE, "a step is under way: run it to its end or cancel it");
  if (n_tokens > s->length)
    return ss_fail(err, SS_E_ARGUMENT, "cannot keep the first %u tokens, the session holds %u", n_tokens, s->length);
  s->length = n_tokens;
  for (uint32_t l = 0; l < s->model->config.n_layers; l++)
    if (s->kv[l].filled > n_tokens) s->kv[l].filled = n_tokens;
  return SS_OK;
}

ss_status ss_session_set_run_mask(ss_session *s, const ss_mask *run_mask, ss_error *err) {
  if (s->active) return ss_fail(err, SS_E_STATE, "a step is under way: run it to its end or cancel it");
  const ss_status status = check_masks(run_mask, &s->kv_mask, s->model->config.n_layers, err);
  if (!status) {
    s->run_mask = *run_mask;
    s->recovery = NULL;
  }
  return status;
}

ss_status ss_session_set_recovery(ss_session *s, const ss_recovery *recovery, ss_error *err) {
  if (s->active) return ss_fail(err, SS_E_STATE, "a step is under way: run it to its end or cancel it");
  const ss_status status = check_recovery(s->model, recovery, err);
  if (!status) s->recovery = recovery;
  return status;
}

uint64_t ss_logits_hash(const float *logits, size_t n) { return ss_fnv1a(SS_FNV_START, logits, n * sizeof *logits); }
