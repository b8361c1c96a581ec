/* What the loader sees of the core: pointers and ints in, a status or a pointer out, never an i64. What does not fit an
 * i32 goes through `io`, whose address ss_start returns: sixteen-digit numbers as doubles, the last error as it is.
 *
 * engine.js is the one caller. It owns the buffers that it passes and frees what it created through ss_destroy. */
#include "host.h"
#include "kernels/kernels.h"

#pragma clang diagnostic ignored "-Wmissing-prototypes" /* these are called from JavaScript alone */
#define EXPORT(name) __attribute__((export_name(#name)))

enum { N_NUMBERS = 32 };
static struct {
  double numbers[N_NUMBERS];
  ss_error error;
} io;
_Static_assert(offsetof(__typeof__(io), error) == 256, "engine.js reads the error there");
_Static_assert(sizeof(ss_text) == 8, "engine.js writes pairs of pointer and length");

static ss_error *err(void) {
  io.error.status = SS_OK;
  io.error.message[0] = 0;
  return &io.error;
}

static double of_pointer(const void *p) { return (double)(uintptr_t)p; }
static void put(const double *numbers, size_t n) {
  for (size_t i = 0; i < n; i++) io.numbers[i] = numbers[i];
}
static void put_u64(size_t at, uint64_t value) { /* as two u32, low half first */
  io.numbers[at] = (double)(uint32_t)value;
  io.numbers[at + 1] = (double)(value >> 32);
}

/* ---- Start, memory, helpers ------------------------------------------------------------------------------------- */

/* First call of the engine's thread: returns io, or NULL when so many threads are impossible. */
static const ss_kernels *kernels; /* NULL: ss_kernels_fastest */

/* dot: with the kernels of 32-bit dot products, where the module has them. ss_kernels_at would link the scalar ones. */
EXPORT(ss_start) void *start(uint32_t n_threads, uint32_t dot) {
#ifdef __wasm_relaxed_simd__
  if (dot) kernels = &ss_kernels_wasm_relaxed_dot;
#else
  (void)dot;
#endif
  if (!host_start(n_threads)) return NULL;
  io.numbers[0] = SS_NUMERICS_VERSION;
  io.numbers[1] = SS_LAYOUT_VERSION;
  io.numbers[2] = of_pointer(SS_VERSION);
  return &io;
}

EXPORT(ss_alloc) void *alloc(size_t bytes) { return heap_alloc(bytes); }
EXPORT(ss_free) void release(void *p) { heap_free(p); }

/* numbers: bytes in use, highest use */
EXPORT(ss_heap) void heap_use(void) {
  const heap_stats stats = heap_stats_get();
  io.numbers[0] = (double)stats.used;
  io.numbers[1] = (double)stats.peak;
}

/* A helper's instance: takes the stack (its __stack_pointer must point there before any other call), then runs parts
 * until the pool stops. */
EXPORT(ss_worker_stack) void *worker_stack(uint32_t index) { return pool_stack(index); }
EXPORT(ss_worker_run) void worker_run(uint32_t index) { pool_work(index); }
EXPORT(ss_pool_stop) void stop(int failed) { pool_stop(failed != 0); }

/* What ss_destroy takes; engine.js has the same list. */
enum { MODEL, TOKENIZER, SESSION, SAMPLER, STOPPER, ENCODER, BANK };
EXPORT(ss_destroy) void destroy(int kind, void *p) {
  switch (kind) {
    case MODEL: ss_model_free(p); break;
    case TOKENIZER: ss_tokenizer_free(p); break;
    case SESSION: ss_session_free(p); break;
    case SAMPLER: ss_sampler_free(p); break;
    case STOPPER: ss_stopper_free(p); break;
    case ENCODER: ss_encoder_free(p); break;
    case BANK: ss_bank_free(p); break;
    default: break;
  }
}

/* ---- Model ------------------------------------------------------------------------------------------------------ */

EXPORT(ss_model_new) ss_model *model_new(void) {
  ss_model *model;
  ss_model_create(&model, &wasm_host, kernels, err());
  return model;
}

/* numbers: next offset, file bytes (0: not known yet), header done */
EXPORT(ss_model_give) int model_give(ss_model *model, double offset, const void *bytes, size_t n) {
  const ss_status status = ss_model_feed(model, (uint64_t)offset, bytes, n, err());
  if (status >= 0) {
    io.numbers[0] = (double)ss_model_next_offset(model);
    io.numbers[1] = (double)ss_model_file_bytes(model);
    io.numbers[2] = ss_model_header_done(model);
  }
  return status;
}

EXPORT(ss_model_about) int model_about(const ss_model *model) {
  ss_model_info m;
  const ss_status status = ss_model_info_get(model, &m, err());
  if (status) return status;
  const double numbers[] = {m.n_layers,
                            m.n_blocks,
                            m.n_embd,
                            m.n_ff,
                            m.n_heads,
                            m.n_kv_heads,
                            m.head_dim,
                            m.n_vocab,
                            m.context_train,
                            (double)m.n_parameters,
                            (double)m.packed_bytes,
                            m.rope_theta,
                            m.norm_eps,
                            m.tied_head,
                            of_pointer(m.architecture),
                            of_pointer(m.name),
                            of_pointer(m.quantisation),
                            of_pointer(m.kernels)};
  _Static_assert(sizeof numbers <= sizeof io.numbers, "room for all");
  put(numbers, sizeof numbers / sizeof *numbers);
  return SS_OK;
}

/* numbers: MACs per token, bytes in the file, bytes packed, KV bytes per token */
EXPORT(ss_model_block) int model_block(const ss_model *model, uint32_t block) {
  ss_block_cost cost;
  const ss_status status = ss_model_block_cost(model, block, &cost, err());
  if (status) return status;
  io.numbers[0] = (double)cost.macs;
  io.numbers[1] = (double)cost.file_bytes;
  io.numbers[2] = (double)cost.packed_bytes;
  io.numbers[3] = (double)cost.kv_bytes;
  return SS_OK;
}

/* A tensor. numbers: how many there are, its place in the file, bytes, block or -1, dimensions, the name's address */
EXPORT(ss_model_part) int model_part(const ss_model *model, size_t i) {
  ss_tensor_info t;
  const ss_status status = ss_model_tensor(model, i, &t, err());
  if (status) return status;
  const double numbers[] = {
      (double)ss_model_n_tensors(model), (double)t.offset, (double)t.bytes, t.block, t.n_dims, of_pointer(t.name)};
  put(numbers, sizeof numbers / sizeof *numbers);
  return SS_OK;
}

/* numbers: low and high half of the family's and of the exact fingerprint */
EXPORT(ss_model_print) int model_print(const ss_model *model) {
  ss_fingerprint print;
  const ss_status status = ss_model_fingerprint(model, &print, err());
  put_u64(0, print.family);
  put_u64(2, print.exact);
  return status;
}

/* Metadata by key, or element `i` of an array when i >= 0. False: absent.
 * numbers: type, type of the elements, their count, the number, the string's address and length */
EXPORT(ss_model_key) bool model_key(const ss_model *model, const char *key, int i) {
  ss_meta meta;
  const bool found = i < 0 ? ss_model_meta(model, key, &meta) : ss_model_meta_element(model, key, (uint32_t)i, &meta);
  if (!found) return false;
  io.numbers[0] = meta.type;
  io.numbers[1] = meta.element;
  io.numbers[2] = (double)meta.n;
  io.numbers[3] = meta.f;
  io.numbers[4] = of_pointer(meta.text.data);
  io.numbers[5] = (double)meta.text.len;
  return true;
}

/* ---- Tokenizer -------------------------------------------------------------------------------------------------- */

/* numbers: bos, eos, eot, unknown, pad, whether bos goes in front */
EXPORT(ss_tokenizer_new) ss_tokenizer *tokenizer_new(const ss_model *model) {
  ss_tokenizer *tokenizer;
  if (ss_tokenizer_create(&tokenizer, model, &wasm_host, err())) return NULL;
  const ss_special_tokens s = ss_tokenizer_special(tokenizer);
  const double numbers[] = {s.bos, s.eos, s.eot, s.unknown, s.pad, s.add_bos};
  put(numbers, sizeof numbers / sizeof *numbers);
  return tokenizer;
}

/* How many tokens there are, of which at most `capacity` are written; or a negative status. */
EXPORT(ss_text_tokens)
int text_tokens(const ss_tokenizer *tokenizer, const char *text, size_t len, uint32_t flags, int32_t *tokens,
                size_t capacity) {
  size_t n = 0;
  const ss_status status = ss_tokenize(tokenizer, (ss_text){text, len}, flags, tokens, capacity, &n, err());
  return status ? (int)status : (int)n;
}

EXPORT(ss_token_text) size_t token_text(const ss_tokenizer *tokenizer, int32_t token, char *bytes, size_t capacity) {
  return ss_token_bytes(tokenizer, token, bytes, capacity);
}

EXPORT(ss_token_ends) bool token_ends(const ss_tokenizer *tokenizer, int32_t token) {
  return ss_token_is_end(tokenizer, token);
}

/* `state`: an ss_detokenizer, zero at first; 8 bytes do. */
EXPORT(ss_token_stream)
size_t token_stream(ss_detokenizer *state, const ss_tokenizer *tokenizer, int32_t token, char *text, size_t capacity) {
  return ss_detokenize(state, tokenizer, token, text, capacity);
}

/* ---- Session ---------------------------------------------------------------------------------------------------- */

EXPORT(ss_mask_skip) int mask_skip(ss_mask *mask, uint32_t n_layers, const char *text) {
  return ss_mask_parse_skip(mask, n_layers, text, err());
}

static ss_session_options session_options(uint32_t context, uint32_t chunk, const ss_mask *mask) {
  return (ss_session_options){.context = context, .chunk = chunk, .run_mask = mask};
}

/* numbers: bytes of the session, of which KV cache; 0: impossible */
EXPORT(ss_session_size)
void session_size(const ss_model *model, uint32_t context, uint32_t chunk, const ss_mask *mask) {
  const ss_session_options options = session_options(context, chunk, mask);
  io.numbers[0] = (double)ss_session_bytes(model, &options);
  io.numbers[1] = (double)ss_session_kv_bytes(model, &options);
}

/* numbers: the context it has */
EXPORT(ss_session_new)
ss_session *session_new(const ss_model *model, uint32_t context, uint32_t chunk, const ss_mask *mask,
                        const ss_recovery *recovery) {
  ss_session_options options = session_options(context, chunk, mask);
  options.recovery = recovery;
  ss_session *session;
  if (ss_session_create(&session, model, &options, &wasm_host, err())) return NULL;
  io.numbers[0] = ss_session_context(session);
  return session;
}

EXPORT(ss_session_start) int session_start(ss_session *session, const int32_t *tokens, size_t n, size_t n_logits) {
  return ss_session_begin(session, tokens, n, n_logits, err());
}

EXPORT(ss_session_step) int session_step(ss_session *session, uint32_t max_blocks) {
  return ss_session_run(session, max_blocks, err());
}

/* Gives up what was started; returns the tokens held. */
EXPORT(ss_session_stop) uint32_t session_stop(ss_session *session) {
  ss_session_cancel(session);
  return ss_session_length(session);
}

EXPORT(ss_session_keep) int session_keep(ss_session *session, uint32_t n_tokens) {
  return ss_session_truncate(session, n_tokens, err());
}

EXPORT(ss_session_clone) int session_clone(ss_session *to, const ss_session *from, uint32_t n_tokens) {
  return ss_session_copy(to, from, n_tokens, err());
}

/* How many bytes ss_session_put writes. */
EXPORT(ss_session_weight) size_t session_weight(const ss_session *session) { return ss_session_saved_bytes(session); }
EXPORT(ss_session_put) int session_put(const ss_session *session, const int32_t *tokens, void *bytes) {
  return ss_session_save(session, tokens, bytes, err());
}

/* tokens: room for the context. numbers: the context it has, the tokens it holds */
EXPORT(ss_session_get)
ss_session *session_get(const ss_model *model, uint32_t context, uint32_t chunk, const ss_mask *mask,
                        const ss_recovery *recovery, const void *bytes, size_t n, int32_t *tokens) {
  ss_session_options options = session_options(context, chunk, mask);
  options.recovery = recovery;
  ss_session *session;
  if (ss_session_restore(&session, model, &options, bytes, n, tokens, &wasm_host, err())) return NULL;
  io.numbers[0] = ss_session_context(session);
  io.numbers[1] = ss_session_length(session);
  return session;
}

EXPORT(ss_session_row) float *session_row(ss_session *session, size_t i) { return ss_session_logits(session, i); }

/* numbers: the hash's low and high half */
EXPORT(ss_row_hash) void row_hash(const float *logits, size_t n) { put_u64(0, ss_logits_hash(logits, n)); }

/* The k most likely tokens and their log softmax. numbers: that of `token` */
EXPORT(ss_row_top)
void row_top(const float *logits, size_t n, int32_t token, size_t k, int32_t *tokens, float *logprobs) {
  ss_top_logprobs(logits, n, k, tokens, logprobs);
  io.numbers[0] = ss_logprob(logits, n, token);
}

/* ---- Sentence encoder ------------------------------------------------------------------------------------------- */

/* numbers: dimensions, the kind's address */
EXPORT(ss_encoder_new) ss_encoder *encoder_new(const ss_model *model) {
  ss_encoder *encoder;
  if (ss_encoder_create(&encoder, model, &wasm_host, err())) return NULL;
  io.numbers[0] = ss_encoder_dim(encoder);
  io.numbers[1] = of_pointer(ss_encoder_kind(encoder));
  return encoder;
}

/* numbers: tokens that were read */
EXPORT(ss_text_vector) int text_vector(ss_encoder *encoder, const char *text, size_t len, float *embedding) {
  int32_t tokens[SS_ENCODER_TOKENS];
  size_t n = 0;
  const ss_status status = ss_encoder_tokens(encoder, (ss_text){text, len}, tokens, &n, err());
  io.numbers[0] = (double)n;
  return status ? status : ss_encode(encoder, (ss_text){text, len}, embedding, err());
}

/* ---- Banks ------------------------------------------------------------------------------------------------------ */

/* numbers: clusters, levels, addresses of name, encoder's kind and encoder's name, each with its length, address of the
 * levels [n_levels] f32, masks with recovery */
EXPORT(ss_bank_new) ss_bank *bank_new(const void *bytes, size_t n) {
  ss_bank *bank;
  if (ss_bank_open(&bank, bytes, n, &wasm_host, err())) return NULL;
  ss_bank_info b;
  ss_bank_info_get(bank, &b);
  const double numbers[] = {b.n_clusters,
                            b.n_levels,
                            of_pointer(b.name.data),
                            (double)b.name.len,
                            of_pointer(b.encoder_kind.data),
                            (double)b.encoder_kind.len,
                            of_pointer(b.encoder_name.data),
                            (double)b.encoder_name.len,
                            of_pointer(b.levels),
                            b.n_recovered};
  put(numbers, sizeof numbers / sizeof *numbers);
  return bank;
}

/* Does it fit the model and its encoder's model? The note goes to note[capacity], NUL-terminated. */
EXPORT(ss_bank_fits)
int bank_fits(const ss_bank *bank, const ss_model *model, const ss_model *encoder, char *note, size_t capacity) {
  return ss_bank_check(bank, model, encoder, note, capacity, err());
}

/* numbers: cluster, distance */
EXPORT(ss_bank_nearest) int bank_nearest(const ss_bank *bank, const float *embedding, size_t dim) {
  uint32_t cluster;
  float distance;
  const ss_status status = ss_bank_route(bank, embedding, dim, &cluster, &distance, err());
  if (status) return status;
  io.numbers[0] = cluster;
  io.numbers[1] = distance;
  return SS_OK;
}

/* numbers: the level, or -1 where every block runs; the recovery's address, 0: none */
EXPORT(ss_bank_pick) int bank_pick(const ss_bank *bank, uint32_t cluster, double depth, ss_mask *mask) {
  uint32_t level;
  ss_status status = ss_bank_level(bank, depth, &level, err());
  if (!status) status = ss_bank_mask(bank, cluster, depth, mask, err());
  io.numbers[0] = level == SS_BANK_DENSE ? -1.0 : level; /* -1 alone would become unsigned */
  io.numbers[1] = of_pointer(ss_bank_recovery(bank, cluster, depth));
  return status;
}

/* A prompt of the cluster. numbers: its address and length */
EXPORT(ss_bank_prompt) void bank_prompt(const ss_bank *bank, uint32_t cluster) {
  const ss_text text = ss_bank_example(bank, cluster);
  io.numbers[0] = of_pointer(text.data);
  io.numbers[1] = (double)text.len;
}

/* ---- Sampler and stop strings ----------------------------------------------------------------------------------- */

/* In numbers: temperature, top_k, top_p, min_p, repetition penalty, frequency penalty, presence penalty, window, and the
 * low and high half of the seed. */
EXPORT(ss_sampler_new) ss_sampler *sampler_new(uint32_t n_vocab) {
  const double *n = io.numbers;
  const ss_sampler_options options = {.temperature = (float)n[0],
                                      .top_k = (uint32_t)n[1],
                                      .top_p = (float)n[2],
                                      .min_p = (float)n[3],
                                      .repetition_penalty = (float)n[4],
                                      .frequency_penalty = (float)n[5],
                                      .presence_penalty = (float)n[6],
                                      .repetition_window = (uint32_t)n[7],
                                      .seed = (uint64_t)n[9] << 32 | (uint32_t)n[8]};
  ss_sampler *sampler;
  ss_sampler_create(&sampler, n_vocab, &options, &wasm_host, err());
  return sampler;
}

EXPORT(ss_sampler_take) void sampler_take(ss_sampler *sampler, int32_t token) { ss_sampler_accept(sampler, token); }
EXPORT(ss_sampler_next) int32_t sampler_next(ss_sampler *sampler, float *logits) {
  return ss_sampler_pick(sampler, logits);
}

EXPORT(ss_stopper_new) ss_stopper *stopper_new(const ss_text *stops, size_t n_stops) {
  ss_stopper *stopper;
  ss_stopper_create(&stopper, stops, n_stops, &wasm_host, err());
  return stopper;
}

/* True: a stop string was reached. numbers: address and length of what may be shown; io.error after a failure */
EXPORT(ss_stopper_give) bool stopper_give(ss_stopper *stopper, const char *text, size_t len, int flush) {
  ss_text out = {0};
  const bool stopped = ss_stopper_feed(stopper, (ss_text){text, len}, flush != 0, &out, err());
  io.numbers[0] = of_pointer(out.data);
  io.numbers[1] = (double)out.len;
  return stopped;
}
