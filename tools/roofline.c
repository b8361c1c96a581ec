#include "roofline.h"

#include "peaks.h"

enum { ROUNDS = 12, PEAK_ROUNDS = 64, SMALLEST = 16384, MAX_FOOTPRINTS = 48, NAME_BYTES = 48 };
static const double round_seconds = 1.5e-3;

/* One thread's share of what is timed. */
typedef void share_fn(void *work, uint32_t part, uint32_t n_parts);

typedef struct run {
  const roofline *r;
  ss_error *err;
  set_peaks peaks;
  struct {
    const peak_loop *loop;
    double macs; /* per second */
  } known[8];
  size_t n_known;
  struct {
    size_t bytes;
    double rate; /* bytes per second */
  } footprints[MAX_FOOTPRINTS];
  size_t n_footprints, n_rows;
} run;

/* ---- time ---- */

typedef struct repeated {
  share_fn *share;
  void *work;
  size_t times;
} repeated;

static void repeat_part(void *arg, uint32_t part, uint32_t n_parts) {
  const repeated *r = arg;
  for (size_t i = 0; i < r->times; i++) r->share(r->work, part, n_parts);
}

static double seconds_of(const roofline *r, share_fn *share, void *work, size_t times) {
  repeated loop = {share, work, times};
  const double start = r->seconds();
  ss_host_parallel(r->host, r->host->n_threads, repeat_part, &loop);
  return r->seconds() - start;
}

/* Of one call on all threads; the best of several rounds, each short enough to fit between two turns of other programs. */
static double best_seconds(const roofline *r, share_fn *share, void *work) {
  size_t times = 1;
  double once = seconds_of(r, share, work, 1); /* its caches are cold */
  while (times < (size_t)1 << 30 && (once = seconds_of(r, share, work, times)) < round_seconds / 4) times *= 4;
  times = ss_max(1, (size_t)((double)times * round_seconds / once));
  double best = 0;
  for (int i = 0; i < ROUNDS; i++) {
    const double each = seconds_of(r, share, work, times) / (double)times;
    if (i == 0 || each < best) best = each;
  }
  return best;
}

/* ---- peaks ---- */

static void peak_share(void *work, uint32_t part, uint32_t n_parts) {
  (void)part, (void)n_parts;
  ((const peak_loop *)work)->run(PEAK_ROUNDS);
}

/* Multiply-adds per second; NULL: 0, unknown. Measured and told at the first call. */
static double peak_of(run *u, const peak_loop *loop) {
  size_t i = 0;
  if (!loop) return 0;
  while (i < u->n_known && u->known[i].loop != loop) i++;
  if (i == u->n_known) {
    peak_loop copy = *loop;
    u->known[i].loop = loop;
    u->known[i].macs = PEAK_ROUNDS * loop->macs * u->r->host->n_threads / best_seconds(u->r, peak_share, &copy);
    u->n_known++;
    u->r->peak(u->r->ctx, loop->instructions, u->known[i].macs);
  }
  return u->known[i].macs;
}

static void measure_peaks(run *u) {
  for (int pack = SS_PACK_COUNT; pack--;) peak_of(u, u->peaks.matmul[pack]);
  peak_of(u, u->peaks.mix);
}

typedef struct reading {
  const set_peaks *peaks;
  uint8_t *data;
  size_t lines; /* of 64 bytes */
  bool prefetch;
  volatile uint64_t seen[SS_MAX_THREADS];
} reading;

static void read_share(void *work, uint32_t part, uint32_t n_parts) {
  reading *w = work;
  size_t first, end;
  ss_part(w->lines, part, n_parts, &first, &end);
  if (first < end) w->seen[part] = w->peaks->read(w->data + 64 * first, 64 * (end - first), w->prefetch);
}

static void *take(run *u, size_t bytes) {
  void *p = ss_host_alloc(u->r->host, bytes);
  if (!p) ss_fail(u->err, SS_E_MEMORY, "no memory for a buffer of %zu bytes", bytes);
  return p;
}

/* Bytes per second of reading so many bytes again and again; 0: no memory. Few bytes are in the first-level cache as
 * SMALLEST of them are, whose loop is longer than what it costs to start and end one. */
static double bandwidth_of(run *u, size_t bytes) {
  bytes = ss_max(bytes, SMALLEST * (size_t)u->r->host->n_threads);
  for (size_t i = 0; i < u->n_footprints; i++)
    if (u->footprints[i].bytes == bytes) return u->footprints[i].rate;
  reading w = {.peaks = &u->peaks, .data = take(u, ss_align(bytes)), .lines = ss_ceil_div(bytes, 64)};
  if (!w.data) return 0;
  const double plain = best_seconds(u->r, read_share, &w);
  w.prefetch = true;
  const double prefetched = best_seconds(u->r, read_share, &w);
  const double rate = 64.0 * (double)w.lines / (plain < prefetched ? plain : prefetched);
  ss_host_free(u->r->host, w.data, ss_align(bytes));
  if (u->n_footprints < MAX_FOOTPRINTS) {
    u->footprints[u->n_footprints].bytes = bytes;
    u->footprints[u->n_footprints++].rate = rate;
  }
  return rate;
}

/* ---- rows ---- */

static bool wanted(const run *u, const char *kernel, const char *shape) {
  char name[2 * NAME_BYTES];
  if (!u->r->only) return true;
  ss_format(name, sizeof name, "%s %s", kernel, shape);
  for (const char *at = name; *at; at++) {
    size_t n = 0;
    while (u->r->only[n] && at[n] == u->r->only[n]) n++;
    if (!u->r->only[n]) return true;
  }
  return false;
}

/* A kernel that did `units` on `bytes` of memory in `seconds`. loop: where its multiply-adds end; NULL: it has none, or
 * the set has no such loop. */
static bool tell(run *u, const char *kernel, const char *shape, bool multiplies, double units, size_t bytes,
                 double seconds, const peak_loop *loop) {
  const double bandwidth = bandwidth_of(u, bytes), peak = peak_of(u, loop);
  if (bandwidth <= 0) return false;
  roofline_row row = {.kernel = kernel,
                      .shape = shape,
                      .multiplies = multiplies,
                      .units = units / seconds,
                      .bytes = (double)bytes / seconds};
  const double by_memory = bandwidth * units / (double)bytes;
  if (multiplies && !loop) row.bound = ROOFLINE_UNKNOWN;
  else if (multiplies && peak < by_memory) row.limit = peak, row.bound = ROOFLINE_COMPUTE;
  else row.limit = by_memory, row.bound = ROOFLINE_MEMORY;
  u->r->row(u->r->ctx, &row);
  u->n_rows++;
  return true;
}

/* ---- matmuls ---- */

typedef struct dot_work {
  const ss_kernels *k;
  ss_matrix w;
  ss_acts x;
  float *y; /* [n_tokens][rows] */
  uint8_t *panel; /* [n_threads][panel_bytes] */
  size_t panel_bytes;
} dot_work;

static void dot_share(void *work, uint32_t part, uint32_t n_parts) {
  const dot_work *d = work;
  size_t first, end;
  ss_part(ss_matrix_groups(&d->w), part, n_parts, &first, &end);
  ss_matmul(d->k, d->y, d->w.rows, &d->w, first, end, &d->x, d->panel + part * d->panel_bytes);
}

/* Finite weights of ordinary size. */
static void fill_weights(ss_pack pack, void *data, size_t rows, size_t cols) {
  ss_rng rng = ss_rng_seed(1);
  const size_t each = ss_packs[pack].group_bytes, n = rows * cols;
  if (pack == SS_PACK_F32)
    for (size_t i = 0; i < n; i++) ((float *)data)[i] = (float)ss_rng_unit(&rng) - 0.5f;
  else if (ss_packs[pack].is_float)
    for (size_t i = 0; i < n; i++) ((uint16_t *)data)[i] = (uint16_t)(0x3800 + (ss_rng_next(&rng) & 0x3ff));
  else
    for (size_t i = 0; i < n / (SS_ROWS * SS_COLS); i++) {
      uint8_t *block = (uint8_t *)data + i * each;
      const size_t n_scales = pack == SS_PACK_6 || ss_packs[pack].has_min ? 2 * SS_ROWS : SS_ROWS;
      for (size_t s = 0; s < n_scales; s++) ((float *)(void *)block)[s] = (float)ss_rng_unit(&rng) - 0.5f;
      for (size_t b = 4 * n_scales; b < each; b++) block[b] = (uint8_t)ss_rng_next(&rng);
    }
}

static bool dot(run *u, const char *kind, ss_pack pack, uint32_t rows, uint32_t cols, uint32_t tokens) {
  const roofline *r = u->r;
  char kernel[NAME_BYTES], shape[NAME_BYTES];
  ss_format(kernel, sizeof kernel, "%s %s", kind, ss_packs[pack].name);
  if (tokens == 1) ss_format(shape, sizeof shape, "%ux%u", rows, cols);
  else ss_format(shape, sizeof shape, "%ux%u x%u", rows, cols, tokens);
  if (!wanted(u, kernel, shape)) return true;

  const size_t n_inputs = (size_t)tokens * cols;
  dot_work d = {.k = r->kernels, .w = {.rows = rows, .cols = cols, .pack = pack}, .panel_bytes = ss_panel_bytes(cols)};
  const size_t weight_bytes = (size_t)(ss_matrix_groups(&d.w) * ss_pack_group_bytes(pack, cols));
  const size_t bytes[] = {weight_bytes,
                          4 * n_inputs,
                          n_inputs,
                          n_inputs / SS_COLS * sizeof(ss_act_block),
                          (size_t)4 * tokens * rows,
                          r->host->n_threads * d.panel_bytes};
  enum { N = sizeof bytes / sizeof bytes[0] };
  void *p[N] = {NULL};
  bool ok = true;
  for (size_t i = 0; ok && i < N; i++) ok = (p[i] = take(u, ss_align(bytes[i])));
  if (ok) {
    ss_rng rng = ss_rng_seed(2);
    fill_weights(pack, p[0], rows, cols);
    for (size_t i = 0; i < n_inputs; i++) ((float *)p[1])[i] = (float)ss_rng_unit(&rng) - 0.5f;
    ss_quantize_scalar(p[2], p[3], p[1], n_inputs);
    d.w.data = p[0];
    d.x = (ss_acts){.x = p[1], .q = p[2], .b = p[3], .n_tokens = tokens, .cols = cols};
    d.y = p[4];
    d.panel = p[5];
    ok = tell(u, kernel, shape, true, (double)rows * cols * tokens, weight_bytes, best_seconds(r, dot_share, &d),
              u->peaks.matmul[pack]);
  }
  for (size_t i = 0; i < N; i++) ss_host_free(r->host, p[i], ss_align(bytes[i]));
  return ok;
}

/* ---- attention's mix, and element by element: each thread has its own ---- */

enum { DIM = 64, MAX_POSITIONS = 512, MAX_QUERIES = 24, MAX_N = MAX_POSITIONS * MAX_QUERIES };

typedef struct element_work {
  const ss_kernels *k;
  size_t n, n_queries;
  float *x, *y, *p; /* [n_threads][MAX_N] */
  int8_t *q; /* [n_threads][MAX_POSITIONS * DIM] */
  ss_act_block *b; /* [n_threads][MAX_N / 32] */
} element_work;

static void quantize_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->quantize(w->q + part * MAX_POSITIONS * DIM, w->b + part * (MAX_N / SS_COLS), w->x + part * MAX_N, w->n);
}
static void rmsnorm_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->rmsnorm(w->p + part * MAX_N, w->x + part * MAX_N, w->y + part * MAX_N, w->n, 1e-5f);
}
static void add_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->add(w->p + part * MAX_N, w->x + part * MAX_N, w->n);
}
/* In place, again and again: of 20 and 1 it makes 20. */
static void swiglu_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->swiglu(w->p + part * MAX_N, w->y + part * MAX_N, w->n);
}
/* In place too: it stays between exp(-1/8) and 1. */
static void softmax_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->softmax(w->p + part * MAX_N, w->n, 0.125f);
}
static void mix_share(void *work, uint32_t part, uint32_t n_parts) {
  const element_work *w = work;
  (void)n_parts;
  w->k->mix(w->y + part * MAX_N, w->n_queries, DIM, w->p + part * MAX_N, MAX_POSITIONS,
            w->q + part * MAX_POSITIONS * DIM, w->x + part * MAX_N, w->n);
}

static const struct {
  const char *kernel, *shape;
  share_fn *share;
  size_t n, n_queries; /* n_queries 0: no multiply-adds to count, n is elements; else n is positions */
  float y, p; /* what all of them are at first; 0: random */
  size_t element_bytes; /* read for each element, or position */
} elements[] = {
    {"quantize", "1536", quantize_share, 1536, 0, 0, 0, 4},
    {"rmsnorm", "576", rmsnorm_share, 576, 0, 0, 0, 12}, /* x twice */
    {"add", "576", add_share, 576, 0, 0, 0, 8},
    {"swiglu", "1536", swiglu_share, 1536, 0, 1, 20, 8},
    {"softmax", "512", softmax_share, 512, 0, 0, 0, 8}, /* twice */
    {"softmax", "263", softmax_share, 263, 0, 0, 0, 8},
    {"mix", "512x64 x3", mix_share, 512, 3, 0, 0, DIM + DIM / SS_COLS * 4},
    {"mix", "512x64 x24", mix_share, 512, 24, 0, 0, DIM + DIM / SS_COLS * 4},
};

static bool element(run *u, size_t index) {
  const roofline *r = u->r;
  const char *kernel = elements[index].kernel, *shape = elements[index].shape;
  if (!wanted(u, kernel, shape)) return true;
  const size_t threads = r->host->n_threads, n_floats = threads * MAX_N;
  const size_t bytes[] = {4 * n_floats, 4 * n_floats, 4 * n_floats, threads * MAX_POSITIONS * DIM,
                          n_floats / SS_COLS * sizeof(ss_act_block)};
  enum { N = sizeof bytes / sizeof bytes[0] };
  void *p[N] = {NULL};
  bool ok = true;
  for (size_t i = 0; ok && i < N; i++) ok = (p[i] = take(u, ss_align(bytes[i])));
  if (ok) {
    element_work w = {.k = r->kernels,
                      .n = elements[index].n,
                      .n_queries = elements[index].n_queries,
                      .x = p[0],
                      .y = p[1],
                      .p = p[2],
                      .q = p[3],
                      .b = p[4]};
    ss_rng rng = ss_rng_seed(3);
    for (size_t i = 0; i < n_floats; i++) {
      w.x[i] = (float)ss_rng_unit(&rng) - 0.5f;
      w.y[i] = elements[index].y != 0 ? elements[index].y : w.x[i];
      w.p[i] = elements[index].p != 0 ? elements[index].p : w.x[i];
    }
    for (size_t i = 0; i < bytes[3]; i++) w.q[i] = (int8_t)ss_rng_next(&rng);
    const bool mix = w.n_queries != 0;
    const double units = (double)(threads * w.n) * (mix ? (double)(w.n_queries * DIM) : 1.0);
    ok = tell(u, kernel, shape, mix, units, threads * w.n * elements[index].element_bytes,
              best_seconds(r, elements[index].share, &w), mix ? u->peaks.mix : NULL);
  }
  for (size_t i = 0; i < N; i++) ss_host_free(r->host, p[i], ss_align(bytes[i]));
  return ok;
}

/* ---- all of them ---- */

ss_status roofline_run(const roofline *r, size_t *n_rows, ss_error *err) {
  static const struct {
    const char *kind;
    ss_pack pack;
    uint32_t rows, cols, tokens;
  } more[] = {
      {"gemv", SS_PACK_4M, 49152, 576, 1}, /* from memory */
      {"gemv", SS_PACK_8, 49152, 576, 1},  {"gemm", SS_PACK_4M, 192, 576, 128}, {"gemm", SS_PACK_4M, 1536, 576, 512},
      {"scores", SS_PACK_8, 512, 64, 3}, /* attention: 512 keys, the queries of one token, of eight */
      {"scores", SS_PACK_8, 512, 64, 24},
  };
  run u = {.r = r, .err = err, .peaks = peaks_of(r->kernels)};
  bool ok = true;
  measure_peaks(&u);
  for (int pack = SS_PACK_4; ok && pack < SS_PACK_COUNT; pack++)
    ok = dot(&u, "gemv", (ss_pack)pack, 576, 576, 1) && dot(&u, "gemv", (ss_pack)pack, 576, 1536, 1);
  for (int pack = SS_PACK_4; ok && pack < SS_PACK_COUNT; pack++)
    ok = dot(&u, "gemm", (ss_pack)pack, 1536, 576, 128) && dot(&u, "gemm", (ss_pack)pack, 576, 1536, 128);
  for (size_t i = 0; ok && i < sizeof more / sizeof more[0]; i++)
    ok = dot(&u, more[i].kind, more[i].pack, more[i].rows, more[i].cols, more[i].tokens);
  for (int pack = SS_PACK_F32; ok && pack <= SS_PACK_BF16; pack++)
    ok = dot(&u, "fgemm", (ss_pack)pack, 576, 576, 1) && dot(&u, "fgemm", (ss_pack)pack, 576, 576, 16);
  for (size_t i = 0; ok && i < sizeof elements / sizeof elements[0]; i++) ok = element(&u, i);
  *n_rows = u.n_rows;
  return ok ? SS_OK : SS_E_MEMORY;
}
