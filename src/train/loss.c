/* Next-token losses under masks, by the kernels that ship.
 *
 * A window runs as one chunk from position 0, so block after block is one call on all its tokens, and the forward pass
 * can be entered at any layer with a residual stream from before: what a search changes is mostly one block, and the
 * layers in front of it give the same numbers every time. */
#include <math.h>

#include "model/session.h"
#include "train/train.h"

struct ss_loss {
  ss_host host;
  const ss_model *model;
  ss_windows windows;
  ss_session *session;  /* context and chunk of the longest window */
  uint32_t n_scored;    /* tokens whose loss counts, of all windows */
  double *nll;          /* [longest window] */
  float *scratch;       /* [n_threads][stride] */
  float *cache;         /* [n_kept][tokens][n_embd] the base's residual stream before layer stride_layers * (1 + i) */
  size_t cache_bytes, n_tokens, longest;
  uint32_t stride_layers, n_kept;
  ss_mask base;
  bool has_base;
  ss_loss_work work;
};

/* ---- rows of logits ---- */

typedef struct score_job {
  const float *logits, *dense;
  const int32_t *targets;
  const ss_kernels *kernels;
  double *nll, *kl;
  float *scratch;
  size_t n, n_vocab, stride;
} score_job;

static float max_of(const float *x, size_t n) {
  float lanes[8], max;
  for (int k = 0; k < 8; k++) lanes[k] = x[0];
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; k++) lanes[k] = x[i + (size_t)k] > lanes[k] ? x[i + (size_t)k] : lanes[k];
  max = lanes[0];
  for (int k = 1; k < 8; k++) max = lanes[k] > max ? lanes[k] : max;
  for (; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

/* Leaves exp(x - max) in p and returns log sum exp(x). */
static double log_sum_exp(float *p, const float *x, size_t n, const ss_kernels *kernels, float *sum) {
  memcpy(p, x, n * sizeof *p);
  *sum = kernels->softmax(p, n, 1.0f);
  return (double)max_of(x, n) + log((double)*sum);
}

/* sum_i p_i (a_i - b_i) */
static double mean_difference(const float *p, const float *a, const float *b, size_t n) {
  double lanes[4] = {0}, total = 0.0;
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; k++) lanes[k] += (double)p[i + (size_t)k] * (double)(a[i + (size_t)k] - b[i + (size_t)k]);
  for (; i < n; i++) total += (double)p[i] * (double)(a[i] - b[i]);
  return total + ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]));
}

static void score_part(void *arg, uint32_t part, uint32_t n_parts) {
  const score_job *j = arg;
  float *p = j->scratch + part * j->stride, sum;
  size_t first, end;
  ss_part(j->n, part, n_parts, &first, &end);
  for (size_t i = first; i < end; i++) {
    const float *x = j->logits + i * j->stride;
    const double lse = log_sum_exp(p, x, j->n_vocab, j->kernels, &sum);
    j->nll[i] = lse - (double)x[j->targets[i]];
    if (!j->kl) continue;
    const float *d = j->dense + i * j->stride;
    const double dense_lse = log_sum_exp(p, d, j->n_vocab, j->kernels, &sum);
    const double kl = mean_difference(p, d, x, j->n_vocab) / (double)sum - dense_lse + lse;
    j->kl[i] = kl > 0.0 ? kl : 0.0; /* below 0 by rounding alone */
  }
}

void ss_score_rows(double *nll, double *kl, const float *logits, const float *dense, const int32_t *targets, size_t n,
                   size_t n_vocab, size_t stride, float *scratch, const ss_model *model, const ss_host *host) {
  score_job j = {logits, dense, targets, model->kernels, nll, dense ? kl : NULL, scratch, n, n_vocab, stride};
  if (n) ss_host_parallel(host, (uint32_t)ss_min(host->n_threads, n), score_part, &j);
}

/* ---- life ---- */

static size_t window_length(const ss_windows *w, uint32_t i) { return w->starts[i + 1] - w->starts[i]; }
static uint32_t score_from(const ss_windows *w, uint32_t i) { return w->score_from ? w->score_from[i] : 1; }

static ss_status check_windows(ss_loss *l, ss_error *err) {
  const ss_windows *w = &l->windows;
  if (w->n == 0) return ss_fail(err, SS_E_ARGUMENT, "loss: no windows");
  for (uint32_t i = 0; i < w->n; i++) {
    const size_t length = window_length(w, i), from = score_from(w, i);
    if (length < 2) return ss_fail(err, SS_E_ARGUMENT, "loss: window %u has %zu tokens, want at least 2", i, length);
    if (from < 1 || from >= length)
      return ss_fail(err, SS_E_ARGUMENT, "loss: window %u of %zu tokens is scored from token %zu", i, length, from);
    l->longest = ss_max(l->longest, length);
    l->n_scored += (uint32_t)(length - from);
  }
  l->n_tokens = w->starts[w->n] - w->starts[0];
  for (uint32_t i = 0; i < l->n_tokens; i++) {
    const int32_t token = w->tokens[w->starts[0] + i];
    if (token < 0 || (uint32_t)token >= l->model->config.n_vocab)
      return ss_fail(err, SS_E_ARGUMENT, "loss: token %d is not in the vocabulary of %u", token,
                     l->model->config.n_vocab);
  }
  return SS_OK;
}

static size_t scratch_bytes(const ss_loss *l) {
  return (size_t)l->host.n_threads * ss_padded(l->model->config.n_vocab) * sizeof *l->scratch;
}

/* A boundary every so many layers, as many as fit. */
static void plan_cache(ss_loss *l, size_t cache_bytes) {
  const size_t each = l->n_tokens * l->model->config.n_embd * sizeof *l->cache;
  const uint32_t n_layers = l->model->config.n_layers;
  for (l->stride_layers = 1; l->stride_layers < n_layers; l->stride_layers++) {
    l->n_kept = (n_layers - 1) / l->stride_layers;
    if (each <= cache_bytes / l->n_kept) break;
  }
  if (l->stride_layers >= n_layers) l->n_kept = 0;
  l->cache_bytes = l->n_kept * each;
}

ss_status ss_loss_create(ss_loss **out, const ss_model *model, const ss_windows *windows, size_t cache_bytes,
                         const ss_host *host, ss_error *err) {
  *out = NULL;
  ss_loss *l = ss_host_alloc(host, sizeof *l);
  if (!l) return ss_fail(err, SS_E_MEMORY, "loss: the host refused %zu bytes", sizeof *l);
  *l = (ss_loss){.host = *host, .model = model, .windows = *windows};
  ss_fingerprint print;
  ss_status status = ss_model_fingerprint(model, &print, err);
  if (status == SS_OK && print.exact == 0)
    status = ss_fail(err, SS_E_MISSING, "loss: the model's weights are not complete");
  if (status == SS_OK) status = check_windows(l, err);
  if (status == SS_OK) {
    const ss_session_options options = {
        .context = (uint32_t)l->longest, .chunk = (uint32_t)l->longest, .max_logits = (uint32_t)l->longest};
    status = ss_session_create(&l->session, model, &options, host, err);
  }
  if (status == SS_OK) {
    plan_cache(l, cache_bytes);
    l->nll = ss_host_alloc(host, l->longest * sizeof *l->nll);
    l->scratch = ss_host_alloc(host, scratch_bytes(l));
    if (l->cache_bytes) l->cache = ss_host_alloc(host, l->cache_bytes);
    if (!l->nll || !l->scratch || (l->cache_bytes && !l->cache))
      status = ss_fail(err, SS_E_MEMORY, "loss: the host refused memory for windows of %zu tokens", l->n_tokens);
  }
  if (status != SS_OK) {
    ss_loss_free(l);
    return status;
  }
  *out = l;
  return SS_OK;
}

void ss_loss_free(ss_loss *l) {
  if (!l) return;
  const ss_host host = l->host;
  ss_host_free(&host, l->cache, l->cache_bytes);
  ss_host_free(&host, l->scratch, scratch_bytes(l));
  ss_host_free(&host, l->nll, l->longest * sizeof *l->nll);
  ss_session_free(l->session);
  ss_host_free(&host, l, sizeof *l);
}

/* ---- passes ---- */

/* The cached residual stream of a window before layer stride_layers * (1 + i). */
static float *kept_stream(const ss_loss *l, uint32_t i, uint32_t window) {
  return l->cache + (i * l->n_tokens + (l->windows.starts[window] - l->windows.starts[0])) * l->model->config.n_embd;
}

/* Puts a window's tokens into the residual stream, at position 0; returns how many. */
static size_t start_window(ss_loss *l, uint32_t window) {
  ss_session *s = l->session;
  s->tokens = l->windows.tokens + l->windows.starts[window];
  s->n_done = 0;
  s->length = 0;
  s->n = (uint32_t)window_length(&l->windows, window);
  ss_run_embedding(s); /* also the rotations of this chunk's positions */
  return s->n;
}

/* Runs the blocks of mask on a window, from the boundary before its first difference to the base; keep: stores the
 * boundaries behind that. */
static void run_window(ss_loss *l, uint32_t window, const ss_mask *mask, uint32_t first_different, bool keep) {
  ss_session *s = l->session;
  const uint32_t n_blocks = 2 * l->model->config.n_layers, stride = 2 * l->stride_layers;
  const size_t length = start_window(l, window), n_stream = length * l->model->config.n_embd;
  const uint32_t kept = (uint32_t)ss_min(first_different / stride, l->n_kept); /* boundaries at or before it */
  if (kept) memcpy(s->h, kept_stream(l, kept - 1, window), n_stream * sizeof *s->h);
  for (uint32_t block = kept * stride; block < n_blocks; block++) {
    if (keep && block % stride == 0 && block > kept * stride && block / stride <= l->n_kept)
      memcpy(kept_stream(l, block / stride - 1, window), s->h, n_stream * sizeof *s->h);
    if (!ss_mask_has(mask, block)) continue;
    ss_run_block(s, block);
    l->work.block_tokens += length;
  }
}

static uint32_t first_difference(const ss_loss *l, const ss_mask *mask) {
  const uint32_t n_blocks = 2 * l->model->config.n_layers;
  uint32_t block = 0;
  if (!l->has_base) return 0;
  while (block < n_blocks && ss_mask_has(mask, block) == ss_mask_has(&l->base, block)) block++;
  return block;
}

static ss_status check_mask(const ss_loss *l, const ss_mask *mask, ss_error *err) {
  ss_mask all;
  ss_mask_fill(&all, 2 * l->model->config.n_layers);
  return ss_mask_within(mask, &all) ? SS_OK
                                    : ss_fail(err, SS_E_ARGUMENT, "loss: the mask has blocks that the model has not");
}

ss_status ss_loss_set_base(ss_loss *l, const ss_mask *mask, ss_error *err) {
  const ss_status status = check_mask(l, mask, err);
  if (status != SS_OK || l->n_kept == 0) return status;
  const uint32_t first = first_difference(l, mask);
  if (first == 2 * l->model->config.n_layers) return SS_OK;
  for (uint32_t i = 0; i < l->windows.n; i++) run_window(l, i, mask, first, true);
  l->base = *mask;
  l->has_base = true;
  return SS_OK;
}

ss_status ss_loss_of(ss_loss *l, const ss_mask *mask, double *nll, ss_error *err) {
  ss_session *s = l->session;
  const size_t n_vocab = l->model->config.n_vocab;
  *nll = 0.0;
  const ss_status status = check_mask(l, mask, err);
  if (status != SS_OK) return status;
  const uint32_t first = first_difference(l, mask);
  double sum = 0.0;
  for (uint32_t i = 0; i < l->windows.n; i++) {
    const uint32_t length = (uint32_t)window_length(&l->windows, i), from = score_from(&l->windows, i);
    const uint32_t n_rows = length - from;
    run_window(l, i, mask, first, false);
    s->n = length - 1; /* the last token's logits say what comes after the window */
    ss_run_head(s, from - 1, 0);
    l->work.head_tokens += n_rows;
    ss_score_rows(l->nll, NULL, s->logits, NULL, s->tokens + from, n_rows, n_vocab, ss_padded(n_vocab), l->scratch,
                  l->model, &l->host);
    for (uint32_t k = 0; k < n_rows; k++) sum += l->nll[k];
  }
  *nll = sum / l->n_scored;
  return SS_OK;
}

static double cosine(const float *a, const float *b, size_t n) {
  double aa = 0.0, bb = 0.0, ab = 0.0;
  for (size_t i = 0; i < n; i++) {
    aa += (double)a[i] * (double)a[i];
    bb += (double)b[i] * (double)b[i];
    ab += (double)a[i] * (double)b[i];
  }
  return aa > 0.0 && bb > 0.0 ? ab / sqrt(aa * bb) : 1.0;
}

ss_status ss_loss_influence(ss_loss *l, double *scores, ss_error *err) {
  ss_session *s = l->session;
  const size_t n_embd = l->model->config.n_embd, bytes = l->longest * n_embd * sizeof(float);
  const uint32_t n_blocks = 2 * l->model->config.n_layers;
  float *before = ss_host_alloc(&l->host, bytes);
  if (!before) return ss_fail(err, SS_E_MEMORY, "influence: the host refused %zu bytes", bytes);
  for (uint32_t block = 0; block < n_blocks; block++) scores[block] = 0.0;
  for (uint32_t i = 0; i < l->windows.n; i++) {
    const size_t length = start_window(l, i);
    for (uint32_t block = 0; block < n_blocks; block++) {
      memcpy(before, s->h, length * n_embd * sizeof *before);
      ss_run_block(s, block);
      l->work.block_tokens += length;
      for (size_t t = 0; t < length; t++) scores[block] += cosine(before + t * n_embd, s->h + t * n_embd, n_embd);
    }
  }
  for (uint32_t block = 0; block < n_blocks; block++) scores[block] = 1.0 - scores[block] / (double)l->n_tokens;
  ss_host_free(&l->host, before, bytes);
  return SS_OK;
}

ss_loss_work ss_loss_work_done(const ss_loss *l) { return l->work; }
