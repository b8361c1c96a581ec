/* Forward on the inference kernels, backward in f32; pass.h says what counts as the gradient.
 *
 * Blocks are the outer loop and windows the inner one, so that each block's weights are dequantised once for the whole
 * batch. What a block is computed from lies side by side for the windows in which it runs ("rows": tokens of those windows),
 * and its backward pass is a few matrix products over all of them. */
#include "train/pass.h"

#include <math.h>

#include "model/session.h"
#include "train/backward.h"

#define HEAD_BYTES ((size_t)64 << 20) /* of logits at a time */
#define HEAD_MOST_ROWS 256
#define STRIP_GROUPS 256 /* groups of 8 rows of the head that are dequantised at a time */

typedef struct rows {
  uint32_t n_windows, n;
  uint32_t *windows; /* [n_windows] of the batch, in which the block runs */
  uint32_t *first; /* [n_windows + 1] their rows */
  uint32_t *tokens; /* [n] each row's token of the batch */
  float *scale; /* [n] gate times the recovery's scale */
  double *dots; /* [n] sum of dy y of the block's output y, without scale */
} rows;

/* What is kept of a block's forward pass, for each row. */
typedef struct inside {
  float *q, *k, *v, *x; /* attention: x is the last matmul's input */
  float *gate, *up; /* feed-forward */
} inside;

struct ss_pass {
  ss_host host;
  const ss_model *model;
  ss_session *session;
  ss_gemm gemm;
  size_t bytes; /* of the one allocation that holds this struct and everything it points to */
  uint32_t max_windows, max_tokens, longest;
  uint32_t n_blocks, n_embd, n_ff, q_cols, kv_cols, n_vocab, vocab_stride, head_rows, n_strips;
  inside own; /* the session's own buffers */
  float *session_h, *session_logits;

  const ss_pass_input *in; /* of the run under way */
  uint32_t n_tokens;
  uint32_t *starts; /* [max_windows + 1] tokens of the batch */
  rows rows; /* of the block under way */

  float *h; /* [n_blocks + 1][max_tokens][n_embd] before each block, and before the output norm */
  float *kept; /* the last n_kept blocks' inside */
  uint32_t n_kept;
  float *again; /* one block's inside, computed again */
  float *dh; /* [max_tokens][n_embd] the gradient by h */
  float *dx; /* [max_tokens][n_embd] by what a norm wrote */
  float *wide; /* [max_tokens][2 * n_ff or q, k and v] by a block's first matmuls' output */
  float *inner; /* [max_tokens][n_ff or q_cols] by its last matmul's input */
  float *weights; /* of one block */
  float *inverse; /* [max_tokens] 1 / rms */

  uint32_t *scored; /* [max_tokens] the batch's tokens whose logits count, and what follows them */
  int32_t *targets;
  double *nll, *kl; /* [head_rows] */
  float *head_x, *head_dx; /* [head_rows][n_embd] */
  float *dense_logits; /* [head_rows][vocab_stride] */
  float *strips; /* [n_threads][8 * STRIP_GROUPS][n_embd] weights */
  float *sums; /* [n_strips][head_rows][n_embd] */
  float *score_scratch; /* [n_threads][vocab_stride] */
  float *attention; /* [n_threads][attention_each] */
  size_t attention_each;
  uint8_t *panels; /* [n_threads][ss_gemm_panel_bytes()] */
};

/* ---- sizes ---- */

static size_t inside_floats(const ss_pass *p, uint32_t block) { /* of a token */
  return block % 2 ? 2 * (size_t)p->n_ff : p->q_cols + 2 * (size_t)p->kv_cols + ss_max(p->n_embd, p->q_cols);
}

static inside inside_at(const ss_pass *p, uint32_t block, float *at) {
  const size_t T = p->max_tokens;
  if (block % 2) return (inside){.gate = at, .up = at + T * p->n_ff};
  inside i = {.q = at};
  i.k = i.q + T * p->q_cols;
  i.v = i.k + T * p->kv_cols;
  i.x = i.v + T * p->kv_cols;
  return i;
}

static void read_shape(ss_pass *p, const ss_model *m, const ss_pass_options *o) {
  const ss_config *c = &m->config;
  const size_t stride = ss_padded(c->n_vocab);
  p->model = m;
  p->max_windows = o->max_windows;
  p->max_tokens = o->max_tokens;
  p->longest = o->longest;
  p->n_blocks = 2 * c->n_layers;
  p->n_embd = c->n_embd;
  p->n_ff = c->n_ff;
  p->q_cols = c->n_heads * c->head_dim;
  p->kv_cols = c->n_kv_heads * c->head_dim;
  p->n_vocab = c->n_vocab;
  p->vocab_stride = (uint32_t)stride;
  p->head_rows = (uint32_t)ss_min(ss_min(ss_max(HEAD_BYTES / (stride * sizeof(float)), 8), HEAD_MOST_ROWS), o->longest);
  p->n_strips = (uint32_t)ss_ceil_div(stride / SS_ROWS, STRIP_GROUPS);
  p->attention_each = ss_attention_scratch(o->longest);
}

static void lay_out(ss_arena *a, ss_pass *p, size_t keep_bytes, uint32_t n_threads) {
  const size_t T = p->max_tokens, E = p->n_embd, F = p->n_ff, qkv = p->q_cols + 2 * (size_t)p->kv_cols;
  size_t kept = 0;
  p->n_kept = 0;
  for (uint32_t b = p->n_blocks; b-- > 0; p->n_kept++) {
    const size_t more = T * inside_floats(p, b);
    if (more > keep_bytes / sizeof(float) - kept) break;
    kept += more;
  }
  ss_carve(a, 1, sizeof *p);
  p->starts = ss_carve(a, p->max_windows + 1, sizeof *p->starts);
  p->rows.windows = ss_carve(a, p->max_windows, sizeof *p->rows.windows);
  p->rows.first = ss_carve(a, p->max_windows + 1, sizeof *p->rows.first);
  p->rows.tokens = ss_carve(a, T, sizeof *p->rows.tokens);
  p->rows.scale = ss_carve(a, T, sizeof *p->rows.scale);
  p->rows.dots = ss_carve(a, T, sizeof *p->rows.dots);
  p->h = ss_carve(a, (p->n_blocks + 1) * T * E, sizeof *p->h);
  p->kept = ss_carve(a, kept, sizeof *p->kept);
  p->again = ss_carve(a, T * ss_max(inside_floats(p, 0), inside_floats(p, 1)), sizeof *p->again);
  p->dh = ss_carve(a, T * E, sizeof *p->dh);
  p->dx = ss_carve(a, T * E, sizeof *p->dx);
  p->wide = ss_carve(a, T * ss_max(2 * F, qkv), sizeof *p->wide);
  p->inner = ss_carve(a, T * ss_max(F, p->q_cols), sizeof *p->inner);
  p->weights = ss_carve(a, E * ss_max(2 * F, qkv), sizeof *p->weights);
  p->inverse = ss_carve(a, T, sizeof *p->inverse);
  p->scored = ss_carve(a, T, sizeof *p->scored);
  p->targets = ss_carve(a, T, sizeof *p->targets);
  p->nll = ss_carve(a, p->head_rows, sizeof *p->nll);
  p->kl = ss_carve(a, p->head_rows, sizeof *p->kl);
  p->head_x = ss_carve(a, p->head_rows * E, sizeof *p->head_x);
  p->head_dx = ss_carve(a, p->head_rows * E, sizeof *p->head_dx);
  p->dense_logits = ss_carve(a, p->head_rows * (size_t)p->vocab_stride, sizeof *p->dense_logits);
  p->strips = ss_carve(a, n_threads * SS_ROWS * STRIP_GROUPS * E, sizeof *p->strips);
  p->sums = ss_carve(a, (size_t)p->n_strips * p->head_rows * E, sizeof *p->sums);
  p->score_scratch = ss_carve(a, n_threads * (size_t)p->vocab_stride, sizeof *p->score_scratch);
  p->attention = ss_carve(a, n_threads * p->attention_each, sizeof *p->attention);
  p->panels = ss_carve(a, n_threads, ss_gemm_panel_bytes());
}

static ss_session_options session_options(const ss_pass *p) {
  return (ss_session_options){.context = p->longest, .chunk = p->longest, .max_logits = p->head_rows};
}

static ss_status check_options(const ss_model *m, const ss_pass_options *o, ss_error *err) {
  if (!ss_model_header_done(m)) return ss_fail(err, SS_E_STATE, "pass: the model's header has not been fed yet");
  if (o->max_windows < 1 || o->longest < 2 || o->longest > o->max_tokens || o->max_tokens > 1u << 24)
    return ss_fail(err, SS_E_ARGUMENT, "pass: %u windows and %u tokens, %u in one: want 2 to %u in one and all of them",
                   o->max_windows, o->max_tokens, o->longest, 1u << 24);
  return SS_OK;
}

size_t ss_pass_bytes(const ss_model *m, const ss_pass_options *o, const ss_host *host) {
  ss_pass scratch = {0};
  ss_arena arena = {0};
  if (check_options(m, o, NULL) != SS_OK) return 0;
  read_shape(&scratch, m, o);
  lay_out(&arena, &scratch, o->keep_bytes, host->n_threads);
  const ss_session_options s = session_options(&scratch);
  const size_t session = ss_session_bytes(m, &s);
  return arena.overflow || !session || arena.used > SIZE_MAX - session ? 0 : arena.used + session;
}

/* ---- life ---- */

ss_status ss_pass_create(ss_pass **out, const ss_model *m, const ss_pass_options *o, const ss_host *host,
                         ss_error *err) {
  *out = NULL;
  ss_pass scratch = {0};
  ss_arena arena = {0};
  ss_fingerprint print;
  ss_session *session;
  ss_status status = check_options(m, o, err);
  if (status == SS_OK) status = ss_model_fingerprint(m, &print, err);
  if (status != SS_OK) return status;
  if (print.exact == 0) return ss_fail(err, SS_E_MISSING, "pass: the model's weights are not complete");
  read_shape(&scratch, m, o);
  lay_out(&arena, &scratch, o->keep_bytes, host->n_threads);
  if (arena.overflow) return ss_fail(err, SS_E_MEMORY, "pass: batches of %u tokens do not fit memory", o->max_tokens);
  const ss_session_options session_of = session_options(&scratch);
  if ((status = ss_session_create(&session, m, &session_of, host, err)) != SS_OK) return status;
  ss_pass *p = ss_host_alloc(host, arena.used);
  if (!p) {
    ss_session_free(session);
    return ss_fail(err, SS_E_MEMORY, "pass: the host refused %zu bytes for batches of %u tokens", arena.used,
                   o->max_tokens);
  }
  *p = scratch;
  p->bytes = arena.used;
  arena = (ss_arena){.base = (uint8_t *)p};
  lay_out(&arena, p, o->keep_bytes, host->n_threads);
  p->host = *host;
  p->session = session;
  p->gemm = ss_gemm_at(0);
  p->own = (inside){session->q, session->k, session->v, session->x, NULL, NULL};
  p->session_h = session->h;
  p->session_logits = session->logits;
  *out = p;
  return SS_OK;
}

void ss_pass_free(ss_pass *p) {
  if (!p) return;
  const ss_host host = p->host;
  ss_session_free(p->session);
  ss_host_free(&host, p, p->bytes);
}

ss_pass_shape ss_pass_shape_get(const ss_pass *p) {
  return (ss_pass_shape){p->max_windows, p->max_tokens, p->longest, p->n_blocks, p->n_embd, &p->host};
}

/* ---- splitting work ---- */

typedef struct job job;
typedef void job_part(const job *j, size_t first, size_t end, uint32_t thread);
struct job {
  ss_pass *p;
  job_part *run;
  size_t n_items;
  uint32_t block;
  inside in; /* of the block */
  const ss_matrix *matrices; /* those to dequantise */
  float *out; /* where to */
  const float
      *x; /* the input of a norm whose gains are wanted, rows of n_embd, and which row of it each is; NULL: in order */
  const uint32_t *x_rows;
  const float *dy; /* by its output */
  size_t n_rows;
  const ss_recovery_grads *to;
};

static void run_part(void *arg, uint32_t part, uint32_t n_parts) {
  const job *j = arg;
  size_t first, end;
  ss_part(j->n_items, part, n_parts, &first, &end);
  if (first < end) j->run(j, first, end, part);
}

static void parallel(job *j, job_part *run, size_t n_items) {
  j->run = run;
  j->n_items = n_items;
  if (n_items) ss_host_parallel(&j->p->host, (uint32_t)ss_min(j->p->host.n_threads, n_items), run_part, j);
}

/* c[n][cols] = a[n][inner] w[inner][cols] */
static void product(ss_pass *p, float *c, const float *a, const float *w, size_t n, size_t cols, size_t inner) {
  const ss_product product = {
      .m = n, .n = cols, .k = inner, .alpha = 1.0f, .a = a, .lda = inner, .b = w, .ldb = cols, .c = c, .ldc = cols};
  ss_gemm_rows(&p->gemm, &product, p->panels, &p->host);
}

/* Items are groups of 8 rows, those of all matrices in a row. */
static void dequantize_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  float *out = j->out;
  size_t start = 0; /* of this matrix's groups */
  for (const ss_matrix *w = j->matrices; start < end; w++) {
    const size_t groups = ss_matrix_groups(w), a = ss_max(first, start) - start, b = ss_min(end - start, groups);
    if (first < start + groups) ss_dequantize(out + a * SS_ROWS * w->cols, w, a, b);
    out += groups * SS_ROWS * w->cols;
    start += groups;
  }
}

/* The matrices below one another. */
static void dequantize(ss_pass *p, const uint32_t *tensors, uint32_t n) {
  ss_matrix matrices[3];
  job j = {.p = p, .matrices = matrices, .out = p->weights};
  size_t groups = 0;
  for (uint32_t i = 0; i < n; i++) {
    matrices[i] = ss_model_matrix(p->model, tensors[i]);
    groups += ss_matrix_groups(&matrices[i]);
  }
  parallel(&j, dequantize_part, groups);
}

/* ---- the batch ---- */

size_t ss_batch_tokens(const ss_batch *b) {
  size_t n = 0;
  for (uint32_t i = 0; i < b->n; i++) n += b->windows->starts[b->which[i] + 1] - b->windows->starts[b->which[i]];
  return n;
}

static const int32_t *window_tokens(const ss_batch *b, uint32_t i) {
  return b->windows->tokens + b->windows->starts[b->which[i]];
}

static uint32_t score_from(const ss_batch *b, uint32_t i) {
  return b->windows->score_from ? b->windows->score_from[b->which[i]] : 1;
}

static uint32_t length_of(const ss_pass *p, uint32_t i) { return p->starts[i + 1] - p->starts[i]; }

static ss_status start_batch(ss_pass *p, const ss_batch *b, ss_error *err) {
  if (b->n < 1 || b->n > p->max_windows)
    return ss_fail(err, SS_E_ARGUMENT, "pass: a batch of %u windows, there is room for %u", b->n, p->max_windows);
  p->starts[0] = 0;
  for (uint32_t i = 0; i < b->n; i++) {
    if (b->which[i] >= b->windows->n)
      return ss_fail(err, SS_E_ARGUMENT, "pass: window %u of %u", b->which[i], b->windows->n);
    const uint32_t length = b->windows->starts[b->which[i] + 1] - b->windows->starts[b->which[i]];
    if (length < 2 || length > p->longest)
      return ss_fail(err, SS_E_ARGUMENT, "pass: window %u has %u tokens, want 2 to %u", b->which[i], length,
                     p->longest);
    if (score_from(b, i) < 1 || score_from(b, i) >= length)
      return ss_fail(err, SS_E_ARGUMENT, "pass: window %u of %u tokens is scored from token %u", b->which[i], length,
                     score_from(b, i));
    if (length > p->max_tokens - p->starts[i])
      return ss_fail(err, SS_E_ARGUMENT, "pass: the batch has more than %u tokens", p->max_tokens);
    p->starts[i + 1] = p->starts[i] + length;
    for (uint32_t t = 0; t < length; t++)
      if (window_tokens(b, i)[t] < 0 || (uint32_t)window_tokens(b, i)[t] >= p->n_vocab)
        return ss_fail(err, SS_E_ARGUMENT, "pass: token %d is not in the vocabulary of %u", window_tokens(b, i)[t],
                       p->n_vocab);
  }
  p->n_tokens = p->starts[b->n];
  return SS_OK;
}

/* ---- forward ---- */

static float scale_of(const ss_pass *p, uint32_t block) {
  return p->in->recovery ? p->in->recovery->blocks[block].scale : 1.0f;
}

static float gate_of(const ss_pass *p, uint32_t window, uint32_t block) {
  return p->in->z ? p->in->z[(size_t)window * p->n_blocks + block] : 1.0f;
}

/* The windows in which the block runs, and their rows. */
static void find_rows(ss_pass *p, uint32_t block) {
  rows *r = &p->rows;
  r->n_windows = r->n = 0;
  for (uint32_t i = 0; i < p->in->batch.n; i++) {
    const float z = gate_of(p, i, block);
    if (z == 0.0f) continue;
    r->windows[r->n_windows] = i;
    r->first[r->n_windows++] = r->n;
    for (uint32_t t = p->starts[i]; t < p->starts[i + 1]; t++) {
      r->tokens[r->n] = t;
      r->scale[r->n++] = z * scale_of(p, block);
    }
  }
  r->first[r->n_windows] = r->n;
}

static void set_window(ss_pass *p, const ss_batch *b, uint32_t i, float *h) {
  ss_session *s = p->session;
  s->tokens = window_tokens(b, i);
  s->n_done = 0;
  s->length = 0;
  s->n = length_of(p, i);
  s->h = h + (size_t)p->starts[i] * p->n_embd;
}

/* h [tokens of the batch][n_embd]. Leaves the rotations of the longest window in the session: they serve all. */
static void embed(ss_pass *p, const ss_batch *b, float *h) {
  uint32_t longest = 0;
  for (uint32_t i = 1; i < b->n; i++)
    if (length_of(p, i) > length_of(p, longest)) longest = i;
  for (uint32_t i = 0; i <= b->n; i++) {
    set_window(p, b, i < b->n ? i : longest, h);
    ss_run_embedding(p->session);
  }
}

/* Makes the session compute the rows' inside from `row` on where it is kept. */
static void bind(ss_pass *p, uint32_t block, const inside *in, size_t row) {
  ss_session *s = p->session;
  s->q = p->own.q, s->k = p->own.k, s->v = p->own.v, s->x = p->own.x;
  s->gate_kept = s->up_kept = NULL;
  if (!in) return;
  if (block % 2) {
    s->gate_kept = in->gate + row * p->n_ff;
    s->up_kept = in->up + row * p->n_ff;
    return;
  }
  s->q = in->q + row * p->q_cols;
  s->k = in->k + row * p->kv_cols;
  s->v = in->v + row * p->kv_cols;
  s->x = in->x + row * ss_max(p->n_embd, p->q_cols);
}

static bool is_kept(const ss_pass *p, uint32_t block) { return block >= p->n_blocks - p->n_kept; }

static inside kept_inside(const ss_pass *p, uint32_t block) {
  float *at = p->kept;
  for (uint32_t b = p->n_blocks - p->n_kept; b < block; b++) at += p->max_tokens * inside_floats(p, b);
  return inside_at(p, block, at);
}

static void forward_block(ss_pass *p, uint32_t block, bool keep) {
  const size_t E = p->n_embd;
  const float *h = p->h + block * p->max_tokens * E;
  float *next = p->h + (block + 1) * p->max_tokens * E;
  ss_session *s = p->session;
  const inside in = is_kept(p, block) ? kept_inside(p, block) : (inside){0};
  const bool kept = keep && is_kept(p, block);
  find_rows(p, block);
  memcpy(next, h, p->n_tokens * E * sizeof *h);
  for (uint32_t i = 0; i < p->rows.n_windows; i++) {
    const uint32_t window = p->rows.windows[i];
    const float z = gate_of(p, window, block);
    set_window(p, &p->in->batch, window, next);
    bind(p, block, kept ? &in : NULL, p->rows.first[i]);
    ss_run_block(s, block);
    const float *before = h + (size_t)p->starts[window] * E;
    for (size_t k = 0; z != 1.0f && k < s->n * E; k++) s->h[k] = before[k] + z * s->out[k];
  }
  for (uint32_t i = 0; p->in->recovery && i < p->in->batch.n; i++) {
    if (gate_of(p, i, block) != 0.0f) continue;
    set_window(p, &p->in->batch, i, next);
    ss_run_stand_in(s, block);
  }
}

/* Gives the session its own buffers back. */
static void unbind(ss_pass *p) {
  bind(p, 0, NULL, 0);
  p->session->h = p->session_h;
  p->session->logits = p->session_logits;
  p->session->recovery = NULL;
}

ss_status ss_pass_dense(ss_pass *p, const ss_batch *batch, float *h, ss_error *err) {
  const ss_status status = start_batch(p, batch, err);
  if (status != SS_OK) return status;
  bind(p, 0, NULL, 0);
  embed(p, batch, h);
  for (uint32_t b = 0; b < p->n_blocks; b++)
    for (uint32_t i = 0; i < batch->n; i++) {
      set_window(p, batch, i, h);
      ss_run_block(p->session, b);
    }
  unbind(p);
  return SS_OK;
}

/* ---- the head, forward and backward ---- */

static const float *output_gains(const ss_pass *p) {
  const float *own = p->in->recovery ? p->in->recovery->output_gains : NULL;
  return own ? own : ss_model_vector(p->model, p->model->output_norm);
}

/* Items are channels: the gains' gradient. */
static void gains_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_rmsnorm_gains_backward(j->out, j->dy, j->x, j->x_rows, j->p->inverse, j->n_rows, j->p->n_embd, first, end);
}

static uint32_t find_scored(ss_pass *p) {
  const ss_batch *b = &p->in->batch;
  uint32_t n = 0;
  for (uint32_t i = 0; i < b->n; i++)
    for (uint32_t t = score_from(b, i); t < length_of(p, i); t++) {
      p->scored[n] = p->starts[i] + t - 1;
      p->targets[n++] = window_tokens(b, i)[t];
    }
  return n;
}

/* logits of the scored tokens [first, first + n), from the residual stream h */
static void head(ss_pass *p, const float *h, float *logits, uint32_t first, uint32_t n) {
  ss_session *s = p->session;
  for (uint32_t i = 0; i < n; i++)
    memcpy(p->head_x + (size_t)i * p->n_embd, h + (size_t)p->scored[first + i] * p->n_embd, p->n_embd * sizeof *h);
  s->h = p->head_x;
  s->logits = logits;
  s->n = n;
  ss_run_head(s, 0, 0);
}

/* Items are rows of logits. */
static void softmax_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  for (size_t i = first; i < end; i++) {
    float *logits = p->session_logits + i * p->vocab_stride, *dense = p->dense_logits + i * p->vocab_stride;
    ss_softmax_backward(logits, p->in->objective == SS_OBJECTIVE_KL ? dense : NULL, j->p->targets[j->block + i],
                        p->n_vocab, p->model->kernels);
    memset(logits + p->n_vocab, 0, (p->vocab_stride - p->n_vocab) * sizeof *logits);
  }
}

/* Items are strips of the head: each strip's part of the gradient by the head's input. */
static void head_strip_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_pass *p = j->p;
  const ss_matrix w = ss_model_matrix(p->model, p->model->head);
  float *weights = p->strips + (size_t)thread * SS_ROWS * STRIP_GROUPS * p->n_embd;
  for (size_t i = first; i < end; i++) {
    const size_t g = i * STRIP_GROUPS, last = ss_min(g + STRIP_GROUPS, ss_matrix_groups(&w));
    ss_dequantize(weights, &w, g, last);
    const ss_product product = {.m = p->session->n,
                                .n = p->n_embd,
                                .k = (last - g) * SS_ROWS,
                                .alpha = 1.0f,
                                .a = p->session_logits + g * SS_ROWS,
                                .lda = p->vocab_stride,
                                .b = weights,
                                .ldb = p->n_embd,
                                .c = p->sums + i * p->head_rows * p->n_embd,
                                .ldc = p->n_embd};
    p->gemm.run(&product, p->panels + thread * ss_gemm_panel_bytes());
  }
}

/* Items are rows: adds the strips' parts in their order, and goes back through the output norm. */
static void head_norm_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  const size_t E = p->n_embd;
  for (size_t i = first; i < end; i++) {
    float *dx = p->head_dx + i * E, *dh = p->dh + p->scored[j->block + i] * E;
    memcpy(dx, p->sums + i * E, E * sizeof *dx);
    for (uint32_t k = 1; k < p->n_strips; k++) {
      const float *more = p->sums + (k * (size_t)p->head_rows + i) * E;
      for (size_t c = 0; c < E; c++) dx[c] += more[c];
    }
    p->inverse[i] = ss_rmsnorm_backward(dh, dx, p->head_x + i * E, output_gains(p), E, p->model->config.norm_eps);
  }
}

static void run_head(ss_pass *p, ss_pass_output *out, bool backward) {
  const float *h = p->h + (size_t)p->n_blocks * p->max_tokens * p->n_embd;
  const uint32_t n_scored = find_scored(p);
  if (backward) memset(p->dh, 0, p->n_tokens * (size_t)p->n_embd * sizeof *p->dh);
  for (uint32_t first = 0; first < n_scored; first += p->head_rows) {
    const uint32_t n = (uint32_t)ss_min(p->head_rows, n_scored - first);
    if (p->in->dense) {
      p->session->recovery = NULL;
      head(p, p->in->dense, p->dense_logits, first, n);
      p->session->recovery = p->in->recovery;
    }
    head(p, h, p->session_logits, first, n);
    ss_score_rows(p->nll, p->kl, p->session_logits, p->in->dense ? p->dense_logits : NULL, p->targets + first, n,
                  p->n_vocab, p->vocab_stride, p->score_scratch, p->model, &p->host);
    for (uint32_t i = 0; i < n; i++) {
      out->nll += p->nll[i];
      if (p->in->dense) out->kl += p->kl[i];
    }
    if (!backward) continue;
    job j = {.p = p, .block = first};
    parallel(&j, softmax_part, n);
    parallel(&j, head_strip_part, p->n_strips);
    parallel(&j, head_norm_part, n);
    if (!out->recovery || !out->recovery->output_gains) continue;
    j = (job){.p = p, .out = out->recovery->output_gains, .dy = p->head_dx, .x = p->head_x, .n_rows = n};
    parallel(&j, gains_part, p->n_embd);
  }
  out->n_scored = n_scored;
}

/* ---- backward through a block ---- */

/* The rows' inside, computed again where it was not kept. Uses dx. */
static inside find_inside(ss_pass *p, uint32_t block) {
  if (is_kept(p, block)) return kept_inside(p, block);
  ss_session *s = p->session;
  const size_t E = p->n_embd;
  const inside in = inside_at(p, block, p->again);
  float *h = p->h + block * p->max_tokens * E;
  for (uint32_t i = 0; i < p->rows.n_windows; i++) {
    set_window(p, &p->in->batch, p->rows.windows[i], h);
    bind(p, block, &in, p->rows.first[i]);
    if (block % 2) {
      ss_run_gate_up(s, block / 2);
    } else {
      s->h = memcpy(p->dx, s->h, s->n * E * sizeof *s->h); /* the block adds to it */
      ss_run_block(s, block);
    }
  }
  return in;
}

/* The rows of dh, side by side. */
static const float *gather(ss_pass *p) {
  if (p->rows.n == p->n_tokens) return p->dh;
  for (uint32_t i = 0; i < p->rows.n; i++)
    memcpy(p->dx + (size_t)i * p->n_embd, p->dh + (size_t)p->rows.tokens[i] * p->n_embd, p->n_embd * sizeof *p->dx);
  return p->dx;
}

static size_t x_of_row(const ss_pass *p, uint32_t window, size_t row) { /* where attention wrote it */
  return p->rows.first[window] * ss_max(p->n_embd, p->q_cols) + (row - p->rows.first[window]) * p->q_cols;
}

/* Items are windows of the rows: inner is scaled, and what it was dotted with. */
static void output_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  for (size_t w = first; w < end; w++)
    for (size_t row = p->rows.first[w]; row < p->rows.first[w + 1]; row++) {
      const float *x = j->in.x + x_of_row(p, (uint32_t)w, row);
      float *d = p->inner + row * p->q_cols, lanes[8] = {0};
      for (size_t i = 0; i < p->q_cols; i += 8)
        for (size_t k = 0; k < 8; k++) {
          lanes[k] += d[i + k] * x[i + k];
          d[i + k] *= p->rows.scale[row];
        }
      p->rows.dots[row] = (double)ss_lane_sum(lanes);
    }
}

/* Items are (window of the rows, KV head). */
static void attention_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_pass *p = j->p;
  const ss_config *c = &p->model->config;
  const size_t dim = c->head_dim, group = c->n_heads / c->n_kv_heads, qkv = p->q_cols + 2 * (size_t)p->kv_cols;
  for (size_t item = first; item < end; item++) {
    const size_t w = item / c->n_kv_heads, head = item % c->n_kv_heads, row = p->rows.first[w];
    float *d = p->wide + row * qkv;
    const ss_attention a = {
        .n = p->rows.first[w + 1] - row,
        .dim = dim,
        .group = group,
        .scale = 1.0f / (ss_sqrtf((float)dim) * SS_COLS), /* SS_COLS: of the Hadamard transform that q and k are in */
        .q = j->in.q + row * p->q_cols + head * group * dim,
        .k = j->in.k + row * p->kv_cols + head * dim,
        .v = j->in.v + row * p->kv_cols + head * dim,
        .dout = p->inner + row * p->q_cols + head * group * dim,
        .dq = d + head * group * dim,
        .dk = d + p->q_cols + head * dim,
        .dv = d + p->q_cols + p->kv_cols + head * dim,
        .q_stride = p->q_cols,
        .kv_stride = p->kv_cols,
        .dout_stride = p->q_cols,
        .d_stride = qkv,
    };
    ss_attention_backward(&a, p->attention + thread * p->attention_each, &p->gemm,
                          p->panels + thread * ss_gemm_panel_bytes(), p->model->kernels);
  }
}

/* Items are windows of the rows: q and k back through the Hadamard transform, which is symmetric, and the rotation. */
static void rope_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  const ss_config *c = &p->model->config;
  const size_t qk = p->q_cols + p->kv_cols, qkv = qk + p->kv_cols, half = c->n_rot / 2;
  for (size_t w = first; w < end; w++)
    for (size_t row = p->rows.first[w], t = 0; row < p->rows.first[w + 1]; row++, t++) {
      float *d = p->wide + row * qkv;
      ss_hadamard(d, qk);
      for (size_t i = 0; i < qk; i += c->head_dim)
        ss_rope_backward(d + i, p->session->cosine + t * half, p->session->sine + t * half, c->n_rot, c->rope_neox);
    }
}

/* Items are rows. */
static void swiglu_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  const size_t F = p->n_ff;
  for (size_t row = first; row < end; row++)
    p->rows.dots[row] = ss_swiglu_backward(p->wide + 2 * row * F, p->wide + (2 * row + 1) * F, p->inner + row * F,
                                           j->in.gate + row * F, j->in.up + row * F, p->rows.scale[row], F);
}

static const float *gains_of(const ss_pass *p, uint32_t block) {
  const float *own = p->in->recovery ? p->in->recovery->blocks[block].gains : NULL;
  if (own) return own;
  const ss_layer *l = &p->model->layers[block / 2];
  return ss_model_vector(p->model, block % 2 ? l->ffn_norm : l->attn_norm);
}

/* Items are rows: dh += through the norm. */
static void norm_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  const size_t E = p->n_embd;
  const float *h = p->h + j->block * p->max_tokens * E;
  for (size_t row = first; row < end; row++) {
    const size_t at = p->rows.tokens[row] * E;
    p->inverse[row] =
        ss_rmsnorm_backward(p->dh + at, p->dx + row * E, h + at, gains_of(p, j->block), E, p->model->config.norm_eps);
  }
}

/* Items are channels: through the stand-in, in the windows that skip the block. */
static void stand_in_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  ss_pass *p = j->p;
  const ss_recovery_grads *to = j->to;
  const size_t E = p->n_embd, at = j->block * E + first;
  const float *h = p->h + j->block * p->max_tokens * E, *a = p->in->recovery->blocks[j->block].a;
  for (uint32_t i = 0; i < p->in->batch.n; i++)
    for (size_t t = p->starts[i]; gate_of(p, i, j->block) == 0.0f && t < p->starts[i + 1]; t++)
      ss_stand_in_backward(p->dh + t * E + first, to && to->a ? to->a + at : NULL, to && to->b ? to->b + at : NULL,
                           h + t * E + first, a + first, end - first);
}

static void backward_block(ss_pass *p, uint32_t block, ss_pass_output *out) {
  const ss_layer *l = &p->model->layers[block / 2];
  const size_t E = p->n_embd, F = p->n_ff;
  job j = {.p = p, .block = block, .to = out->recovery};
  if (p->in->recovery && p->in->recovery->blocks[block].a) parallel(&j, stand_in_part, E);
  find_rows(p, block);
  if (p->rows.n == 0) return;
  j.in = find_inside(p, block);
  const size_t n = p->rows.n;
  const float *dy = gather(p);
  if (block % 2) {
    dequantize(p, &l->down, 1);
    product(p, p->inner, dy, p->weights, n, F, E);
    parallel(&j, swiglu_part, n);
    dequantize(p, (const uint32_t[]){l->gate, l->up}, 2);
    product(p, p->dx, p->wide, p->weights, n, E, 2 * F);
  } else {
    const size_t qkv = p->q_cols + 2 * (size_t)p->kv_cols;
    dequantize(p, &l->o, 1);
    product(p, p->inner, dy, p->weights, n, p->q_cols, E);
    parallel(&j, output_part, p->rows.n_windows);
    parallel(&j, attention_part, (size_t)p->rows.n_windows * p->model->config.n_kv_heads);
    parallel(&j, rope_part, p->rows.n_windows);
    dequantize(p, (const uint32_t[]){l->q, l->k, l->v}, 3);
    product(p, p->dx, p->wide, p->weights, n, E, qkv);
  }
  parallel(&j, norm_part, n);
  if (out->recovery && out->recovery->gains) {
    j = (job){.p = p, .out = out->recovery->gains + block * E, .dy = p->dx, .n_rows = n};
    j.x = p->h + block * p->max_tokens * E;
    j.x_rows = p->rows.tokens;
    parallel(&j, gains_part, E);
  }
  double by_scale = 0.0;
  for (uint32_t i = 0; i < p->rows.n_windows; i++) {
    const uint32_t window = p->rows.windows[i];
    double sum = 0.0;
    for (uint32_t row = p->rows.first[i]; row < p->rows.first[i + 1]; row++) sum += p->rows.dots[row];
    if (out->d_gates) out->d_gates[(size_t)window * p->n_blocks + block] = (float)sum * scale_of(p, block);
    by_scale += sum * (double)gate_of(p, window, block);
  }
  if (out->recovery && out->recovery->scales) out->recovery->scales[block] = (float)by_scale;
}

/* ---- the whole pass ---- */

/* The gradients that are added up start at 0. */
static void clear_grads(const ss_pass *p, const ss_pass_output *out, uint32_t n_windows) {
  const size_t E = p->n_embd, all = p->n_blocks * E;
  if (out->d_gates) memset(out->d_gates, 0, (size_t)n_windows * p->n_blocks * sizeof *out->d_gates);
  if (!out->recovery) return;
  const ss_recovery_grads *r = out->recovery;
  float *const parts[] = {r->gains, r->a, r->b, r->output_gains, r->scales};
  const size_t sizes[] = {all, all, all, E, p->n_blocks};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (parts[i]) memset(parts[i], 0, sizes[i] * sizeof *parts[i]);
}

static ss_status check_input(const ss_pass *p, const ss_pass_input *in, ss_error *err) {
  for (size_t i = 0; in->z && i < (size_t)in->batch.n * p->n_blocks; i++)
    if (!(in->z[i] >= 0.0f && in->z[i] <= 1.0f))
      return ss_fail(err, SS_E_ARGUMENT, "pass: the gate of block %zu in window %zu is not within 0 and 1",
                     i % p->n_blocks, i / p->n_blocks);
  if (in->objective == SS_OBJECTIVE_KL && !in->dense)
    return ss_fail(err, SS_E_ARGUMENT, "pass: KL wants the dense model's residual stream");
  return SS_OK;
}

ss_status ss_pass_run(ss_pass *p, const ss_pass_input *in, ss_pass_output *out, ss_error *err) {
  const bool backward = out->d_gates || out->recovery;
  out->nll = out->kl = 0.0;
  out->n_scored = 0;
  out->block_tokens = 0;
  ss_status status = start_batch(p, &in->batch, err);
  if (status == SS_OK) status = check_input(p, in, err);
  if (status == SS_OK) status = ss_session_set_recovery(p->session, in->recovery, err);
  if (status != SS_OK) return status;
  p->in = in;
  embed(p, &in->batch, p->h);
  for (uint32_t b = 0; b < p->n_blocks; b++) {
    forward_block(p, b, backward);
    out->block_tokens += p->rows.n;
  }
  bind(p, 0, NULL, 0); /* the head writes into s->x, which may be what the last block that ran has kept */
  clear_grads(p, out, in->batch.n);
  run_head(p, out, backward);
  for (uint32_t b = p->n_blocks; backward && b-- > 0;) backward_block(p, b, out);
  unbind(p);
  p->in = NULL;
  return SS_OK;
}
