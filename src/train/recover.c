/* Fitting a recovery: recover.h says what and why. The numbers lie in dense arrays over all blocks, as ss_recovery_grads has
 * them; x = base + unit * u, and Adam moves u, so that one rate fits gains, scales and stand-ins alike. */
#include "train/recover.h"

#include <math.h>

#include "model/session.h"
#include "train/adam.h"

#define WARM_UP 5 /* steps until the full rate */
#define LAST_RATE 0.1 /* share of the rate at the last step */
#define STATE_MAGIC UINT64_C(0x31766f6365727373) /* "ssrecov1" */

/* What a copy of goes on, followed by the arrays of `numbers`. */
typedef struct header {
  uint64_t magic, of; /* of: hash of data and options */
  uint64_t drawn; /* windows drawn for training, over all epochs */
  ss_recover_report report;
  uint32_t looks; /* since the last best */
  uint32_t choice; /* the next part to look at */
} header;

typedef struct
    numbers { /* each [n]: gains [n_blocks + 1][n_embd], scales [n_blocks], a [n_blocks][n_embd], b likewise */
  float *base, *unit, *u, *m, *v, *best; /* best: of u */
} numbers;
enum { N_ARRAYS = sizeof(numbers) / sizeof(float *) };

typedef struct layout { /* where each part begins */
  size_t scales, a, b, n;
} layout;

struct ss_recover {
  ss_host host;
  ss_recover_data data;
  ss_recover_options options;
  ss_mask mask;
  uint32_t n_blocks, n_embd, n_longest, max_windows;
  layout at;
  size_t bytes, state_bytes; /* of this allocation; of what ss_recover_state gives */
  header *state;
  numbers x;
  float *now, *grads; /* [n] the numbers in use, and their gradients */
  ss_recovery_block *blocks; /* [n_blocks] */
  ss_recovery view; /* of `now` */
  float *z; /* [max_windows][n_blocks] the mask */
  float *held; /* [held tokens][n_embd] the dense residual stream */
  float *dense; /* [tokens_per_step][n_embd] */
  uint32_t *order; /* [train windows] of the epoch `epoch` */
  uint32_t *batch; /* [max_windows] */
  uint64_t epoch; /* UINT64_MAX: none yet */
  bool has_held;
  ss_pass *pass; /* made when first wanted, dropped while stand-ins are fitted */
};

/* ---- sizes ---- */

static size_t length_of(const ss_windows *w, uint32_t i) { return w->starts[i + 1] - w->starts[i]; }
static size_t count_tokens(const ss_windows *w) { return w->starts[w->n] - w->starts[0]; }

static void lay_out(ss_arena *a, ss_recover *r) {
  const uint32_t E = r->n_embd;
  ss_carve(a, 1, sizeof *r);
  const size_t start = a->used;
  r->state = ss_carve(a, 1, sizeof *r->state);
  r->x.base = ss_carve(a, r->at.n, sizeof(float));
  r->x.unit = ss_carve(a, r->at.n, sizeof(float));
  r->x.u = ss_carve(a, r->at.n, sizeof(float));
  r->x.m = ss_carve(a, r->at.n, sizeof(float));
  r->x.v = ss_carve(a, r->at.n, sizeof(float));
  r->x.best = ss_carve(a, r->at.n, sizeof(float));
  r->state_bytes = a->used - start;
  r->now = ss_carve(a, r->at.n, sizeof(float));
  r->grads = ss_carve(a, r->at.n, sizeof(float));
  r->blocks = ss_carve(a, r->n_blocks, sizeof *r->blocks);
  r->z = ss_carve(a, (size_t)r->max_windows * r->n_blocks, sizeof *r->z);
  r->held = ss_carve(a, count_tokens(r->data.held) * E, sizeof *r->held);
  r->dense = ss_carve(a, (size_t)r->options.tokens_per_step * E, sizeof *r->dense);
  r->order = ss_carve(a, r->data.train->n, sizeof *r->order);
  r->batch = ss_carve(a, r->max_windows, sizeof *r->batch);
}

/* The options with defaults, and everything that sizes follow from. */
static ss_status shape(ss_recover *r, const ss_recover_data *data, const ss_recover_options *options,
                       const ss_host *host, ss_error *err) {
  ss_recover_options o = *options;
  const ss_windows *const sets[] = {data->train, data->held};
  const ss_config *c = &data->model->config;
  ss_fingerprint print;
  const ss_status status = ss_model_fingerprint(data->model, &print, err);
  if (status) return status;
  if (!print.exact) return ss_fail(err, SS_E_MISSING, "recovery: the model's weights are not complete");
  if (!o.parts) o.parts = SS_RECOVER_ALL;
  if (!o.fit_tokens) o.fit_tokens = 4096;
  if (!o.tokens_per_step) o.tokens_per_step = 1024;
  if (!o.check_every) o.check_every = 10;
  if (!o.patience) o.patience = 3;
  if (o.rate == 0.0) o.rate = 0.02;
  if (o.ridge == 0.0) o.ridge = 0.01;
  if (o.keep_near == 0.0) o.keep_near = 0.01;
  if (o.keep_near < 0.0) o.keep_near = 0.0;
  if (o.parts > SS_RECOVER_ALL || !(o.rate > 0.0 && o.rate < 1.0) || !(o.ridge > 0.0))
    return ss_fail(err, SS_E_ARGUMENT, "recovery: parts %u, rate %d/1000, ridge %d/1000", o.parts, (int)(1000 * o.rate),
                   (int)(1000 * o.ridge));
  size_t shortest = SIZE_MAX;
  *r = (ss_recover){.host = *host, .data = *data, .mask = *data->mask, .epoch = UINT64_MAX};
  for (int k = 0; k < 2; k++) {
    if (sets[k]->n == 0) return ss_fail(err, SS_E_ARGUMENT, "recovery: no %s text", k ? "held-back" : "training");
    for (uint32_t i = 0; i < sets[k]->n; i++) {
      const size_t length = length_of(sets[k], i);
      if (length < 2) return ss_fail(err, SS_E_ARGUMENT, "recovery: window %u has %zu tokens, want 2", i, length);
      r->n_longest = (uint32_t)ss_max(r->n_longest, length);
      shortest = ss_min(shortest, length);
    }
  }
  const ss_recovery *start = data->start;
  if (start && (start->n_blocks != 2 * c->n_layers || start->n_embd != c->n_embd))
    return ss_fail(err, SS_E_ARGUMENT, "recovery: a start for %u blocks of width %u, the model has %u of %u",
                   start->n_blocks, start->n_embd, 2 * c->n_layers, c->n_embd);
  ss_mask all;
  ss_mask_fill(&all, 2 * c->n_layers);
  if (!ss_mask_within(data->mask, &all))
    return ss_fail(err, SS_E_ARGUMENT, "recovery: the mask has blocks that the model has not");
  o.tokens_per_step = (uint32_t)ss_max(o.tokens_per_step, r->n_longest);
  r->options = o;
  r->max_windows = (uint32_t)(o.tokens_per_step / shortest);
  r->n_blocks = 2 * c->n_layers;
  r->n_embd = c->n_embd;
  r->at.scales = (size_t)(r->n_blocks + 1) * r->n_embd;
  r->at.a = r->at.scales + r->n_blocks;
  r->at.b = r->at.a + (size_t)r->n_blocks * r->n_embd;
  r->at.n = r->at.b + (size_t)r->n_blocks * r->n_embd;
  return SS_OK;
}

static ss_pass_options pass_options(const ss_recover *r) {
  return (ss_pass_options){.max_windows = r->max_windows,
                           .max_tokens = r->options.tokens_per_step,
                           .longest = r->n_longest,
                           .keep_bytes = r->options.keep_bytes};
}

static ss_session_options session_options(const ss_recover *r) {
  return (ss_session_options){.context = r->n_longest, .chunk = r->n_longest};
}

/* The training windows that the closed form looks at, from the first on. */
static uint32_t fit_windows(const ss_recover *r) {
  const ss_windows *w = r->data.train;
  uint32_t n = 1;
  while (n < w->n && w->starts[n + 1] - w->starts[0] <= r->options.fit_tokens) n++;
  return n;
}

static size_t fit_bytes(const ss_recover *r) {
  return 2 * (r->data.train->starts[fit_windows(r)] - r->data.train->starts[0]) * (size_t)r->n_embd * sizeof(float);
}

size_t ss_recover_bytes(const ss_recover_data *data, const ss_recover_options *options, const ss_host *host) {
  ss_recover r;
  if (shape(&r, data, options, host, NULL)) return 0;
  ss_arena arena = {0};
  lay_out(&arena, &r);
  const ss_session_options session = session_options(&r);
  const ss_pass_options pass = pass_options(&r);
  const size_t fit = fit_bytes(&r) + ss_session_bytes(data->model, &session);
  return arena.overflow ? 0 : arena.used + ss_max(fit, ss_pass_bytes(data->model, &pass, host));
}

/* ---- life ---- */

/* Identifies data and options: a state of others is refused. */
static uint64_t identity(const ss_recover *r) {
  const ss_recover_options *o = &r->options;
  ss_fingerprint print;
  if (ss_model_fingerprint(r->data.model, &print, NULL)) return 0;
  const uint64_t counts[] = {print.exact,        SS_NUMERICS_VERSION, o->parts,    o->fit_tokens, o->steps,
                             o->tokens_per_step, o->check_every,      o->patience, o->seed,       r->at.n};
  const double rates[] = {o->rate, o->ridge, o->keep_near};
  uint64_t hash = ss_fnv1a(SS_FNV_START, counts, sizeof counts);
  hash = ss_fnv1a(hash, r->x.base, r->at.n * sizeof *r->x.base);
  hash = ss_fnv1a(hash, rates, sizeof rates);
  hash = ss_fnv1a(hash, &r->mask, sizeof r->mask);
  const ss_windows *const sets[] = {r->data.train, r->data.held};
  for (int k = 0; k < 2; k++) {
    hash = ss_fnv1a(hash, sets[k]->starts, (sets[k]->n + 1) * sizeof *sets[k]->starts);
    hash = ss_fnv1a(hash, sets[k]->tokens + sets[k]->starts[0], count_tokens(sets[k]) * sizeof *sets[k]->tokens);
    if (sets[k]->score_from) hash = ss_fnv1a(hash, sets[k]->score_from, sets[k]->n * sizeof *sets[k]->score_from);
  }
  return hash;
}

static void copy_numbers(float *to, const float *from, uint32_t n) {
  if (from) memcpy(to, from, n * sizeof *to);
}

/* What `start` has for blocks that run, or are skipped, in both masks. */
static void take_start(ss_recover *r, const ss_recovery *start) {
  const uint32_t E = r->n_embd;
  for (uint32_t i = 0; i < r->n_blocks; i++) {
    const ss_recovery_block *from = &start->blocks[i];
    if (ss_mask_has(&r->mask, i)) {
      copy_numbers(r->x.base + (size_t)i * E, from->gains, E);
      r->x.base[r->at.scales + i] = from->scale;
    } else {
      copy_numbers(r->x.base + r->at.a + (size_t)i * E, from->a, E);
      copy_numbers(r->x.base + r->at.b + (size_t)i * E, from->b, E);
    }
  }
  copy_numbers(r->x.base + (size_t)r->n_blocks * E, start->output_gains, E);
}

/* Those of the model: as if there were no recovery. */
static void start_numbers(ss_recover *r) {
  const ss_model *m = r->data.model;
  memset(r->x.base + r->at.a, 0, (r->at.n - r->at.a) * sizeof(float));
  for (uint32_t i = 0; i <= r->n_blocks; i++) {
    const ss_layer *l = &m->layers[ss_min(i, r->n_blocks - 1) / 2];
    const float *gains = ss_model_vector(m, i == r->n_blocks ? m->output_norm : i % 2 ? l->ffn_norm : l->attn_norm);
    for (uint32_t k = 0; k < r->n_embd; k++) {
      r->x.base[(size_t)i * r->n_embd + k] = gains[k];
      r->x.unit[(size_t)i * r->n_embd + k] = fabsf(gains[k]);
    }
  }
  for (uint32_t i = 0; i < r->n_blocks; i++) r->x.base[r->at.scales + i] = r->x.unit[r->at.scales + i] = 1.0f;
}

ss_status ss_recover_create(ss_recover **out, const ss_recover_data *data, const ss_recover_options *options,
                            const ss_host *host, ss_error *err) {
  ss_recover sizes;
  *out = NULL;
  const ss_status status = shape(&sizes, data, options, host, err);
  if (status) return status;
  ss_arena arena = {0};
  lay_out(&arena, &sizes);
  ss_recover *r = arena.overflow ? NULL : ss_host_alloc(host, arena.used);
  if (!r) return ss_fail(err, SS_E_MEMORY, "recovery: the host refused %zu bytes", arena.used);
  *r = sizes;
  r->bytes = arena.used;
  arena = (ss_arena){.base = (uint8_t *)r};
  lay_out(&arena, r);
  for (uint32_t i = 0; i < r->max_windows; i++)
    for (uint32_t k = 0; k < r->n_blocks; k++) r->z[(size_t)i * r->n_blocks + k] = ss_mask_has(&r->mask, k);
  start_numbers(r);
  if (data->start) take_start(r, data->start);
  *r->state = (header){.magic = STATE_MAGIC, .of = identity(r), .report = {.steps = r->options.steps}};
  r->view = (ss_recovery){.n_blocks = r->n_blocks, .n_embd = r->n_embd, .blocks = r->blocks};
  *out = r;
  return SS_OK;
}

void ss_recover_free(ss_recover *r) {
  if (!r) return;
  const ss_host host = r->host;
  ss_pass_free(r->pass);
  ss_host_free(&host, r, r->bytes);
}

const void *ss_recover_state(const ss_recover *r, size_t *n) {
  *n = r->state_bytes;
  return r->state;
}

ss_status ss_recover_resume(ss_recover *r, const void *state, size_t n, ss_error *err) {
  header h;
  if (n != r->state_bytes)
    return ss_fail(err, SS_E_FORMAT, "recovery: a state of %zu bytes, want %zu", n, r->state_bytes);
  memcpy(&h, state, sizeof h);
  if (h.magic != STATE_MAGIC || h.of != r->state->of)
    return ss_fail(err, SS_E_FORMAT, "recovery: a state of other data, options or another version");
  memcpy(r->state, state, n);
  return SS_OK;
}

/* ---- the numbers in use ---- */

/* Puts base + unit * u into `now`, rounded as a bank rounds them, and shows the parts of it; NULL: no part. */
static const ss_recovery *show(ss_recover *r, const float *u, uint32_t parts, bool rounded) {
  const uint32_t E = r->n_embd;
  for (size_t i = 0; i < r->at.n; i++) {
    const float x = r->x.base[i] + r->x.unit[i] * u[i];
    r->now[i] = rounded ? ss_float_of_half(ss_half_of_float(x)) : x;
  }
  for (uint32_t i = 0; i < r->n_blocks; i++) {
    const bool runs = ss_mask_has(&r->mask, i);
    r->blocks[i] = (ss_recovery_block){.scale = 1.0f};
    if (runs && parts & SS_RECOVER_GAINS) r->blocks[i].gains = r->now + (size_t)i * E;
    if (runs && parts & SS_RECOVER_SCALES) r->blocks[i].scale = r->now[r->at.scales + i];
    if (!runs && parts & SS_RECOVER_STAND_INS) {
      r->blocks[i].a = r->now + r->at.a + (size_t)i * E;
      r->blocks[i].b = r->now + r->at.b + (size_t)i * E;
    }
  }
  r->view.output_gains = parts & SS_RECOVER_GAINS ? r->now + (size_t)r->n_blocks * E : NULL;
  return parts ? &r->view : NULL;
}

/* ---- held-back text ---- */

static ss_status need_pass(ss_recover *r, ss_error *err) {
  const ss_pass_options options = pass_options(r);
  return r->pass ? SS_OK : ss_pass_create(&r->pass, r->data.model, &options, &r->host, err);
}

/* As many windows from *next on as fit a batch; their tokens. */
static size_t take_batch(ss_recover *r, const ss_windows *w, uint32_t *next, ss_batch *batch) {
  size_t n_tokens = 0;
  *batch = (ss_batch){.windows = w, .which = r->batch};
  while (*next < w->n && batch->n < r->max_windows && n_tokens + length_of(w, *next) <= r->options.tokens_per_step) {
    n_tokens += length_of(w, *next);
    r->batch[batch->n++] = (*next)++;
  }
  return n_tokens;
}

static ss_status measure_held(ss_recover *r, const ss_recovery *recovery, ss_quality *out, ss_error *err) {
  const ss_windows *w = r->data.held;
  ss_quality sums = {0};
  uint64_t n_scored = 0;
  ss_status status = need_pass(r, err);
  float *dense = r->held;
  for (uint32_t next = 0; !status && next < w->n;) {
    ss_batch batch;
    ss_pass_output result = {0};
    const size_t n = take_batch(r, w, &next, &batch);
    if (!r->has_held) status = ss_pass_dense(r->pass, &batch, dense, err);
    const ss_pass_input in = {
        .batch = batch, .z = r->z, .recovery = recovery, .dense = dense, .objective = SS_OBJECTIVE_KL};
    if (!status) status = ss_pass_run(r->pass, &in, &result, err);
    sums.nll += result.nll;
    sums.kl += result.kl;
    n_scored += result.n_scored;
    dense += n * r->n_embd;
  }
  if (status) return status;
  r->has_held = true;
  *out = (ss_quality){sums.nll / (double)n_scored, sums.kl / (double)n_scored};
  return SS_OK;
}

/* ---- the closed form ---- */

typedef struct walk { /* the training text's residual stream, block after block */
  const ss_recover *r;
  ss_session *session;
  uint32_t n; /* windows */
  float *h, *after; /* [tokens][n_embd] */
  size_t n_tokens;
} walk;

/* Runs a block on all windows: of `from`, into `to`. */
static void run_block(walk *w, uint32_t block, const float *from, float *to) {
  const ss_windows *windows = w->r->data.train;
  ss_session *s = w->session;
  for (uint32_t i = 0; i < w->n; i++) {
    const size_t n = length_of(windows, i), at = (windows->starts[i] - windows->starts[0]) * (size_t)w->r->n_embd;
    s->n = (uint32_t)n;
    s->length = 0;
    memcpy(s->h, from + at, n * w->r->n_embd * sizeof *s->h);
    ss_run_block(s, block);
    memcpy(to + at, s->h, n * w->r->n_embd * sizeof *s->h);
  }
}

static void embed(walk *w) {
  const ss_windows *windows = w->r->data.train;
  ss_session *s = w->session;
  uint32_t longest = 0;
  for (uint32_t i = 0; i < w->n; i++)
    if (length_of(windows, i) > length_of(windows, longest)) longest = i;
  for (uint32_t k = 0; k <= w->n; k++) { /* the longest once more in the end: its rotations serve all */
    const uint32_t i = k < w->n ? k : longest;
    s->tokens = windows->tokens + windows->starts[i];
    s->n = (uint32_t)length_of(windows, i);
    ss_run_embedding(s);
    memcpy(w->h + (windows->starts[i] - windows->starts[0]) * (size_t)w->r->n_embd, s->h,
           s->n * w->r->n_embd * sizeof *s->h);
  }
}

typedef struct fit_job {
  const walk *w;
  double ridge;
  float *a, *b, *a_unit, *b_unit; /* [n_embd] of the block */
} fit_job;

/* Items are channels: y = after - h by x = h. The mean first, then deviations from it. */
static void fit_part(void *arg, uint32_t part, uint32_t n_parts) {
  enum { ABREAST = 16 };
  const fit_job *j = arg;
  const uint32_t E = j->w->r->n_embd;
  const size_t n = j->w->n_tokens;
  size_t first, end;
  ss_part(ss_ceil_div(E, ABREAST), part, n_parts, &first, &end);
  for (size_t c0 = first * ABREAST; c0 < end * ABREAST && c0 < E; c0 += ABREAST) {
    const size_t width = ss_min(ABREAST, E - c0);
    double mean_x[ABREAST] = {0}, mean_y[ABREAST] = {0}, xx[ABREAST] = {0}, xy[ABREAST] = {0}, yy[ABREAST] = {0};
    for (size_t t = 0; t < n; t++)
      for (size_t c = 0; c < width; c++) {
        const double x = (double)j->w->h[t * E + c0 + c];
        mean_x[c] += x;
        mean_y[c] += (double)j->w->after[t * E + c0 + c] - x;
      }
    for (size_t c = 0; c < width; c++) {
      mean_x[c] /= (double)n;
      mean_y[c] /= (double)n;
    }
    for (size_t t = 0; t < n; t++)
      for (size_t c = 0; c < width; c++) {
        const double h = (double)j->w->h[t * E + c0 + c], x = h - mean_x[c];
        const double y = (double)j->w->after[t * E + c0 + c] - h - mean_y[c];
        xx[c] += x * x;
        xy[c] += x * y;
        yy[c] += y * y;
      }
    for (size_t c = 0; c < width; c++) {
      const double a = xx[c] > 0.0 ? xy[c] / (xx[c] * (1.0 + j->ridge)) : 0.0;
      j->a[c0 + c] = (float)a;
      j->b[c0 + c] = (float)(mean_y[c] - a * mean_x[c]);
      j->a_unit[c0 + c] = xx[c] > 0.0 ? (float)sqrt(yy[c] / xx[c]) : 0.0f;
      j->b_unit[c0 + c] = (float)sqrt(yy[c] / (double)n);
    }
  }
}

/* The parts that are there before training: stand-ins, and what the start has. */
static uint32_t first_parts(const ss_recover *r) {
  const ss_recovery *start = r->data.start;
  uint32_t parts = SS_RECOVER_STAND_INS;
  for (uint32_t i = 0; start && i < r->n_blocks; i++) {
    if (start->blocks[i].gains) parts |= SS_RECOVER_GAINS;
    if (start->blocks[i].scale != 1.0f) parts |= SS_RECOVER_SCALES;
  }
  return parts & r->options.parts;
}

/* Fits the stand-ins that the start has not. The numbers go to base, and what a channel's spread suggests as a step's size
 * to unit, for those that the start has too. */
static ss_status fit_stand_ins(ss_recover *r, ss_error *err) {
  const ss_session_options options = session_options(r);
  const size_t bytes = fit_bytes(r);
  walk w = {.r = r, .n = fit_windows(r), .n_tokens = bytes / (2 * r->n_embd * sizeof(float))};
  float *streams = ss_host_alloc(&r->host, bytes);
  ss_status status = streams ? SS_OK : ss_fail(err, SS_E_MEMORY, "recovery: the host refused %zu bytes", bytes);
  if (!status) status = ss_session_create(&w.session, r->data.model, &options, &r->host, err);
  if (!status) status = ss_session_set_recovery(w.session, show(r, r->x.u, first_parts(r), true), err);
  if (!status) {
    w.h = streams;
    w.after = streams + w.n_tokens * r->n_embd;
    embed(&w);
  }
  for (uint32_t block = 0; !status && block < r->n_blocks; block++) {
    if (ss_mask_has(&r->mask, block)) {
      run_block(&w, block, w.h, w.h);
      continue;
    }
    const size_t a = r->at.a + (size_t)block * r->n_embd, b = r->at.b + (size_t)block * r->n_embd;
    fit_job j = {&w, r->options.ridge, r->x.base + a, r->x.base + b, r->x.unit + a, r->x.unit + b};
    run_block(&w, block, w.h, w.after);
    ss_host_parallel(&r->host, r->host.n_threads, fit_part, &j);
    if (r->data.start) {
      copy_numbers(j.a, r->data.start->blocks[block].a, r->n_embd);
      copy_numbers(j.b, r->data.start->blocks[block].b, r->n_embd);
    }
    show(r, r->x.u, first_parts(r), true);
    for (size_t t = 0; t < w.n_tokens; t++)
      for (uint32_t c = 0; c < r->n_embd; c++) {
        float *h = &w.h[t * r->n_embd + c];
        *h = *h + (r->now[a + c] * *h + r->now[b + c]);
      }
  }
  ss_session_free(w.session);
  ss_host_free(&r->host, streams, bytes);
  return status;
}

/* ---- training ---- */

static uint32_t window_drawn(ss_recover *r, uint64_t drawn) {
  const uint32_t n = r->data.train->n;
  if (r->epoch != drawn / n) {
    r->epoch = drawn / n;
    ss_rng rng = ss_rng_seed(r->options.seed ^ (r->epoch << 32));
    for (uint32_t i = 0; i < n; i++) r->order[i] = i;
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t k = i + (uint32_t)ss_rng_below(&rng, n - i), other = r->order[k];
      r->order[k] = r->order[i];
      r->order[i] = other;
    }
  }
  return r->order[drawn % n];
}

static double rate_of_step(const ss_recover_options *o, uint32_t step) {
  const double done = o->steps > 1 ? (double)step / (o->steps - 1) : 0.0;
  const double warm = ss_min(WARM_UP, 1 + o->steps / 4);
  return o->rate * fmin(1.0, (step + 1) / warm) * (1.0 - (1.0 - LAST_RATE) * done);
}

/* A batch of Adam. */
static ss_status train(ss_recover *r, ss_error *err) {
  header *s = r->state;
  const ss_windows *w = r->data.train;
  ss_batch batch = {.windows = w, .which = r->batch};
  size_t n_tokens = 0;
  uint64_t drawn = s->drawn;
  while (batch.n < r->max_windows) {
    const uint32_t i = window_drawn(r, drawn);
    if (n_tokens + length_of(w, i) > r->options.tokens_per_step) break;
    n_tokens += length_of(w, i);
    r->batch[batch.n++] = i;
    drawn++;
  }
  const ss_recovery_grads grads = {.gains = r->grads,
                                   .scales = r->grads + r->at.scales,
                                   .a = r->grads + r->at.a,
                                   .b = r->grads + r->at.b,
                                   .output_gains = r->grads + (size_t)r->n_blocks * r->n_embd};
  const ss_pass_input in = {.batch = batch,
                            .z = r->z,
                            .recovery = show(r, r->x.u, r->options.parts, false),
                            .dense = r->dense,
                            .objective = SS_OBJECTIVE_KL};
  ss_pass_output out = {.recovery = &grads};
  ss_status status = need_pass(r, err);
  if (!status) status = ss_pass_dense(r->pass, &batch, r->dense, err);
  if (!status) status = ss_pass_run(r->pass, &in, &out, err);
  if (status) return status;

  const uint32_t parts = r->options.parts;
  for (size_t i = 0; i < r->at.n; i++) {
    const uint32_t part = i < r->at.scales ? SS_RECOVER_GAINS : i < r->at.a ? SS_RECOVER_SCALES : SS_RECOVER_STAND_INS;
    r->grads[i] = parts & part ? r->grads[i] * r->x.unit[i] / (float)out.n_scored : 0.0f;
  }
  const double rate = rate_of_step(&r->options, s->report.step);
  const ss_adam_options adam = ss_adam_defaults(rate);
  for (size_t i = 0; i < r->at.n; i++) r->x.u[i] -= (float)(rate * r->options.keep_near) * r->x.u[i];
  ss_adam_step_f32(r->x.u, r->grads, r->x.m, r->x.v, r->at.n, s->report.step + 1, &adam);
  s->drawn = drawn;
  s->report.step++;
  s->report.train_kl = out.kl / out.n_scored;
  return SS_OK;
}

/* Every now and then: are the numbers better than the best so far, and is it time to end? */
static ss_status look(ss_recover *r, ss_error *err) {
  header *s = r->state;
  ss_quality q;
  const bool last = s->report.step == s->report.steps;
  if (!last && s->report.step % r->options.check_every) return SS_OK;
  const ss_status status = measure_held(r, show(r, r->x.u, r->options.parts, true), &q, err);
  if (status) return status;
  if (q.kl < s->report.final.kl) {
    memcpy(r->x.best, r->x.u, r->at.n * sizeof(float));
    s->report.trained = s->report.final = q;
    s->report.best_step = s->report.step;
    s->looks = 0;
  } else s->looks++;
  if (last || s->looks >= r->options.patience) s->report.phase = SS_RECOVER_CHOOSE;
  return SS_OK;
}

/* ---- steps ---- */

static ss_status measure_none(ss_recover *r, ss_error *err) {
  header *s = r->state;
  ss_quality dense;
  ss_mask all;
  ss_mask_fill(&all, r->n_blocks);
  ss_status status = measure_held(r, NULL, &s->report.none, err);
  if (status) return status;
  /* the dense loss: the same with all gates open */
  for (size_t i = 0; i < (size_t)r->max_windows * r->n_blocks; i++) r->z[i] = 1.0f;
  status = measure_held(r, NULL, &dense, err);
  for (size_t i = 0; i < (size_t)r->max_windows * r->n_blocks; i++)
    r->z[i] = ss_mask_has(&r->mask, (uint32_t)(i % r->n_blocks));
  s->report.dense_nll = dense.nll;
  s->report.final = s->report.none;
  const bool stand_ins = r->options.parts & SS_RECOVER_STAND_INS && !ss_mask_within(&all, &r->mask);
  s->report.phase = stand_ins || r->data.start ? SS_RECOVER_FIT
                    : r->options.steps         ? SS_RECOVER_TRAIN
                                               : SS_RECOVER_CHOOSE;
  return status;
}

static ss_status fit(ss_recover *r, ss_error *err) {
  header *s = r->state;
  ss_pass_free(r->pass); /* its memory and the fit's are not wanted at the same time */
  r->pass = NULL;
  ss_status status = r->options.parts & SS_RECOVER_STAND_INS ? fit_stand_ins(r, err) : SS_OK;
  if (!status) status = measure_held(r, show(r, r->x.u, first_parts(r), true), &s->report.closed, err);
  if (status) return status;
  if (s->report.closed.kl < s->report.none.kl) {
    s->report.final = s->report.closed;
    s->report.parts = first_parts(r);
  } else start_numbers(r);
  s->report.phase = r->options.steps ? SS_RECOVER_TRAIN : SS_RECOVER_CHOOSE;
  return SS_OK;
}

/* One part: is KL lower with it? */
static ss_status choose(ss_recover *r, ss_error *err) {
  header *s = r->state;
  const uint32_t part = 1u << s->choice;
  if (s->choice == 0 && s->report.best_step) s->report.parts = r->options.parts;
  if (s->report.parts & part) {
    ss_quality q = s->report.none;
    const uint32_t others = s->report.parts & ~part;
    const ss_status status = others ? measure_held(r, show(r, r->x.best, others, true), &q, err) : SS_OK;
    if (status) return status;
    s->report.without[s->choice] = q.kl;
    if (q.kl <= s->report.final.kl) {
      s->report.parts = others;
      s->report.final = q;
    }
  }
  if (++s->choice == 3) s->report.phase = SS_RECOVER_DONE;
  return SS_OK;
}

ss_status ss_recover_step(ss_recover *r, ss_error *err) {
  ss_status status = SS_OK;
  switch (r->state->report.phase) {
    case SS_RECOVER_MEASURE: status = measure_none(r, err); break;
    case SS_RECOVER_FIT: status = fit(r, err); break;
    case SS_RECOVER_TRAIN:
      status = train(r, err);
      if (!status) status = look(r, err);
      break;
    case SS_RECOVER_CHOOSE: status = choose(r, err); break;
    case SS_RECOVER_DONE: break;
  }
  return status ? status : r->state->report.phase == SS_RECOVER_DONE ? SS_OK : SS_MORE;
}

ss_recover_report ss_recover_progress(const ss_recover *r) { return r->state->report; }

const ss_recovery *ss_recover_result(ss_recover *r) {
  if (r->state->report.phase != SS_RECOVER_DONE) return NULL;
  return show(r, r->x.best, r->state->report.parts, true);
}

/* ---- copies ---- */

static const float *carve_copy(ss_arena *a, const float *x, size_t n) {
  float *copy = ss_carve(a, x ? n : 0, sizeof *copy);
  if (!x) return NULL;
  if (copy) memcpy(copy, x, n * sizeof *copy);
  return copy;
}

static ss_recovery *lay_out_copy(ss_arena *a, const ss_recovery *r) {
  ss_recovery *copy = ss_carve(a, 1, sizeof *copy);
  ss_recovery_block *blocks = ss_carve(a, r->n_blocks, sizeof *blocks);
  const float *output_gains = carve_copy(a, r->output_gains, r->n_embd);
  for (uint32_t i = 0; i < r->n_blocks; i++) {
    const ss_recovery_block *from = &r->blocks[i];
    const ss_recovery_block to = {carve_copy(a, from->gains, r->n_embd), from->scale, carve_copy(a, from->a, r->n_embd),
                                  carve_copy(a, from->b, r->n_embd)};
    if (blocks) blocks[i] = to;
  }
  if (copy) *copy = (ss_recovery){r->n_blocks, r->n_embd, blocks, output_gains};
  return copy;
}

ss_status ss_recovery_copy(ss_recovery **out, const ss_recovery *recovery, const ss_host *host, ss_error *err) {
  ss_arena arena = {0};
  lay_out_copy(&arena, recovery);
  arena = (ss_arena){.base = ss_host_alloc(host, arena.used), .used = 0};
  *out = NULL;
  if (!arena.base) return ss_fail(err, SS_E_MEMORY, "recovery: the host refused memory for a copy");
  *out = lay_out_copy(&arena, recovery);
  return SS_OK;
}

void ss_recovery_free(ss_recovery *copy, const ss_host *host) {
  ss_arena arena = {0};
  if (!copy) return;
  lay_out_copy(&arena, copy);
  ss_host_free(host, copy, arena.used);
}
