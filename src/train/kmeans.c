/* k-means on unit vectors.
 *
 * The loop that costs time is the distance of every point to every centroid, |p|^2 + |c|^2 - 2 <p, c>: a matmul, done
 * by the kernels that run float weights, which give the same bits on every processor. Points are cut into a fixed
 * number of chunks; each keeps its own sums, which are then added in the chunks' order: the same bits for any number
 * of threads. */
#include "kernels/kernels.h"
#include "train/train.h"

#define LANES 8
#define MAX_CHUNKS 64
#define LEAST_CHUNK 256 /* points */
#define TILE 32         /* points of one matmul */

typedef struct work {
  const float *points; /* [n][dim] */
  uint32_t n, dim, k, n_chunks;
  ss_fgemm_fn *dot;     /* y[t * stride + r] = <w[r], x[t]> */
  uint32_t *clusters;  /* [n] */
  double *lengths;     /* [n] |p|^2 */
  float *distances;    /* [n] squared, to the own centroid; for k-means++ to the nearest so far */
  float *centroids;    /* [k][dim] */
  float *squares;       /* [k] |c|^2 */
  float *dots;          /* [n_chunks][TILE][k] */
  double *sums;        /* [n_chunks][k][dim] */
  uint32_t *counts;    /* [n_chunks][k] */
  double *inertia;     /* [n_chunks] */
  uint32_t *changed;   /* [n_chunks] */
  uint32_t newest;     /* k-means++: the centroid to compare with */
  void (*run)(struct work *w, uint32_t chunk, size_t first, size_t end);
} work;

static void run_chunks_part(void *arg, uint32_t part, uint32_t n_parts) {
  work *w = arg;
  size_t first_chunk, end_chunk, first, end;
  ss_part(w->n_chunks, part, n_parts, &first_chunk, &end_chunk);
  for (size_t chunk = first_chunk; chunk < end_chunk; chunk++) {
    ss_part(w->n, (uint32_t)chunk, w->n_chunks, &first, &end);
    w->run(w, (uint32_t)chunk, first, end);
  }
}

static void run_chunks(work *w, void (*run)(work *w, uint32_t chunk, size_t first, size_t end), const ss_host *host) {
  w->run = run;
  ss_host_parallel(host, (uint32_t)ss_min(host->n_threads, w->n_chunks), run_chunks_part, w);
}

/* ---- distances ---- */

static double square_of(const float *x, uint32_t dim) {
  double sum = 0.0;
  for (uint32_t i = 0; i < dim; i++) sum += (double)x[i] * (double)x[i];
  return sum;
}

/* The nearest centroid of each point, its squared distance, and the sums for the next centroids. */
static void assign_chunk(work *w, uint32_t chunk, size_t first, size_t end) {
  const uint32_t dim = w->dim;
  double *sums = w->sums + (size_t)chunk * w->k * dim;
  uint32_t *counts = w->counts + (size_t)chunk * w->k;
  memset(sums, 0, (size_t)w->k * dim * sizeof *sums);
  memset(counts, 0, w->k * sizeof *counts);
  w->inertia[chunk] = 0.0;
  w->changed[chunk] = 0;
  float *dots = w->dots + (size_t)chunk * TILE * w->k;
  for (size_t tile = first; tile < end; tile += TILE) {
    const size_t n = ss_min(TILE, end - tile);
    w->dot(dots, w->k, w->centroids, w->k, dim, w->points + tile * dim, n);
    for (size_t p = 0; p < n; p++) {
      const size_t at = tile + p;
      const float *x = w->points + at * dim;
      float best = w->squares[0] - 2.0f * dots[p * w->k];
      uint32_t nearest = 0;
      for (uint32_t c = 1; c < w->k; c++) {
        const float d = w->squares[c] - 2.0f * dots[p * w->k + c];
        if (d < best) {
          best = d;
          nearest = c;
        }
      }
      const double d = w->lengths[at] + (double)best;
      if (w->clusters[at] != nearest) w->changed[chunk]++;
      w->clusters[at] = nearest;
      w->distances[at] = d > 0.0 ? (float)d : 0.0f;
      w->inertia[chunk] += d > 0.0 ? d : 0.0;
      counts[nearest]++;
      double *sum = sums + (size_t)nearest * dim;
      for (uint32_t i = 0; i < dim; i++) sum[i] += (double)x[i];
    }
  }
}

/* ---- k-means++ ---- */

/* Brings the distance to the nearest centroid so far up to date with the newest one. */
static void nearer_chunk(work *w, uint32_t chunk, size_t first, size_t end) {
  const float *c = w->centroids + (size_t)w->newest * w->dim;
  const double square = square_of(c, w->dim);
  float *dots = w->dots + (size_t)chunk * TILE * w->k;
  double sum = 0.0;
  for (size_t tile = first; tile < end; tile += TILE) {
    const size_t n = ss_min(TILE, end - tile);
    w->dot(dots, 1, c, 1, w->dim, w->points + tile * w->dim, n);
    for (size_t p = 0; p < n; p++) {
      const double d = w->lengths[tile + p] + square - 2.0 * (double)dots[p];
      const float distance = d > 1e-6 ? (float)d : 0.0f; /* less is rounding: the point itself, or its equal */
      if (w->newest == 0 || distance < w->distances[tile + p]) w->distances[tile + p] = distance;
      sum += (double)w->distances[tile + p];
    }
  }
  w->inertia[chunk] = sum;
}

static void take_point(work *w, uint32_t cluster, size_t point) {
  memcpy(w->centroids + (size_t)cluster * w->dim, w->points + point * w->dim, w->dim * sizeof(float));
}

/* Draws each centroid among the points with the odds of its squared distance to those drawn before. */
static void seed_centroids(work *w, ss_rng *rng, const ss_host *host) {
  take_point(w, 0, ss_rng_below(rng, w->n));
  for (uint32_t c = 1; c < w->k; c++) {
    w->newest = c - 1;
    run_chunks(w, nearer_chunk, host);
    double total = 0.0;
    for (uint32_t i = 0; i < w->n_chunks; i++) total += w->inertia[i];
    if (!(total > 0.0)) { /* fewer different points than clusters: any will do */
      take_point(w, c, ss_rng_below(rng, w->n));
      continue;
    }
    double left = ss_rng_unit(rng) * total;
    uint32_t chunk = 0;
    while (chunk + 1 < w->n_chunks && left >= w->inertia[chunk]) left -= w->inertia[chunk++];
    size_t first, end, chosen;
    ss_part(w->n, chunk, w->n_chunks, &first, &end);
    chosen = first;
    for (size_t at = first; at < end; at++) {
      if (w->distances[at] == 0.0f) continue;
      chosen = at;
      left -= (double)w->distances[at];
      if (left < 0.0) break;
    }
    take_point(w, c, chosen);
  }
}

/* ---- Lloyd's iterations ---- */

static uint32_t size_of(const work *w, uint32_t c) {
  uint32_t n = 0;
  for (uint32_t chunk = 0; chunk < w->n_chunks; chunk++) n += w->counts[(size_t)chunk * w->k + c];
  return n;
}

/* Gives each empty cluster the point that is farthest from its own centroid, in a cluster that can spare it. */
static uint32_t repair_empty(work *w, uint32_t *sizes) {
  uint32_t n_repaired = 0;
  for (uint32_t c = 0; c < w->k; c++) {
    if (sizes[c]) continue;
    size_t farthest = SIZE_MAX;
    for (size_t i = 0; i < w->n; i++)
      if (sizes[w->clusters[i]] > 1 && (farthest == SIZE_MAX || w->distances[i] > w->distances[farthest])) farthest = i;
    if (farthest == SIZE_MAX) break; /* k <= n, so this does not happen */
    size_t first, end;
    uint32_t chunk = 0;
    for (; chunk < w->n_chunks; chunk++) {
      ss_part(w->n, chunk, w->n_chunks, &first, &end);
      if (farthest < end) break;
    }
    const uint32_t from = w->clusters[farthest];
    const float *x = w->points + farthest * w->dim;
    double *give = w->sums + ((size_t)chunk * w->k + from) * w->dim,
           *take = w->sums + ((size_t)chunk * w->k + c) * w->dim;
    for (uint32_t i = 0; i < w->dim; i++) {
      give[i] -= (double)x[i];
      take[i] += (double)x[i];
    }
    w->counts[(size_t)chunk * w->k + from]--;
    w->counts[(size_t)chunk * w->k + c]++;
    sizes[from]--;
    sizes[c]++;
    w->clusters[farthest] = c;
    w->distances[farthest] = 0.0f;
    n_repaired++;
  }
  return n_repaired;
}

static void new_centroids(work *w, const uint32_t *sizes, bool cosine, double *mean) {
  for (uint32_t c = 0; c < w->k; c++) {
    float *centroid = w->centroids + (size_t)c * w->dim;
    double square = 0.0;
    for (uint32_t i = 0; i < w->dim; i++) {
      double sum = 0.0;
      for (uint32_t chunk = 0; chunk < w->n_chunks; chunk++) sum += w->sums[((size_t)chunk * w->k + c) * w->dim + i];
      mean[i] = sum / sizes[c];
      square += mean[i] * mean[i];
    }
    const double scale = cosine && square > 1e-12 ? 1.0 / __builtin_sqrt(square) : 1.0;
    for (uint32_t i = 0; i < w->dim; i++) centroid[i] = (float)(mean[i] * scale);
  }
}

typedef struct attempt {
  double inertia;
  uint32_t iterations, repaired;
  bool converged;
} attempt;

static attempt iterate(work *w, uint32_t max_iterations, bool cosine, uint32_t *sizes, double *mean,
                       const ss_host *host) {
  attempt a = {0};
  memset(w->clusters, 0xff, w->n * sizeof *w->clusters);
  for (;;) {
    for (uint32_t c = 0; c < w->k; c++) w->squares[c] = (float)square_of(w->centroids + (size_t)c * w->dim, w->dim);
    run_chunks(w, assign_chunk, host);
    uint32_t changed = 0;
    a.inertia = 0.0;
    for (uint32_t chunk = 0; chunk < w->n_chunks; chunk++) {
      changed += w->changed[chunk];
      a.inertia += w->inertia[chunk];
    }
    for (uint32_t c = 0; c < w->k; c++) sizes[c] = size_of(w, c);
    const uint32_t repaired = repair_empty(w, sizes);
    a.repaired += repaired;
    if (changed == 0 && repaired == 0) a.converged = true;
    if (a.converged || a.iterations >= max_iterations) return a;
    new_centroids(w, sizes, cosine, mean);
    a.iterations++;
  }
}

/* ---- all of it ---- */

static ss_status check(const float *points, uint32_t n, uint32_t dim, uint32_t k, ss_error *err) {
  if (n == 0 || dim == 0) return ss_fail(err, SS_E_ARGUMENT, "k-means: no points");
  if (k < 1 || k > n) return ss_fail(err, SS_E_ARGUMENT, "k-means: %u clusters of %u points, want 1 to %u", k, n, n);
  for (size_t i = 0; i < (size_t)n * dim; i++)
    if ((ss_bits_of_float(points[i]) & 0x7f800000u) == 0x7f800000u)
      return ss_fail(err, SS_E_ARGUMENT, "k-means: point %zu: element %zu is not finite", i / dim, i % dim);
  return SS_OK;
}

static void lay_out(ss_arena *a, work *w, double **mean, uint32_t **sizes) {
  w->clusters = ss_carve(a, w->n, sizeof *w->clusters);
  w->lengths = ss_carve(a, w->n, sizeof *w->lengths);
  w->distances = ss_carve(a, w->n, sizeof *w->distances);
  w->centroids = ss_carve(a, (size_t)w->k * w->dim, sizeof *w->centroids);
  w->squares = ss_carve(a, w->k, sizeof *w->squares);
  w->dots = ss_carve(a, (size_t)w->n_chunks * TILE * w->k, sizeof *w->dots);
  w->sums = ss_carve(a, (size_t)w->n_chunks * w->k * w->dim, sizeof *w->sums);
  w->counts = ss_carve(a, (size_t)w->n_chunks * w->k, sizeof *w->counts);
  w->inertia = ss_carve(a, w->n_chunks, sizeof *w->inertia);
  w->changed = ss_carve(a, w->n_chunks, sizeof *w->changed);
  *mean = ss_carve(a, w->dim, sizeof **mean);
  *sizes = ss_carve(a, w->k, sizeof **sizes);
}

void ss_kmeans_free(ss_kmeans_result *r, const ss_host *host) {
  ss_host_free(host, r->centroids, (size_t)r->k * r->dim * sizeof *r->centroids);
  ss_host_free(host, r->clusters, r->n * sizeof *r->clusters);
  ss_host_free(host, r->sizes, r->k * sizeof *r->sizes);
  *r = (ss_kmeans_result){0};
}

ss_status ss_kmeans(ss_kmeans_result *out, const float *points, uint32_t n, uint32_t dim,
                    const ss_kmeans_options *options, const ss_host *host, ss_error *err) {
  const uint32_t k = options->k, restarts = options->restarts ? options->restarts : 8;
  const uint32_t max_iterations = options->max_iterations ? options->max_iterations : 100;
  *out = (ss_kmeans_result){0};
  const ss_status status = check(points, n, dim, k, err);
  if (status != SS_OK) return status;

  const ss_kernels *kernels = ss_kernels_find(dim % SS_COLS == 0 ? NULL : "scalar"); /* the others want whole blocks */
  work w = {.points = points, .n = n, .dim = dim, .k = k, .dot = kernels->fgemm[SS_PACK_F32]};
  w.n_chunks = (uint32_t)ss_max(1, ss_min(MAX_CHUNKS, n / LEAST_CHUNK));
  double *mean;
  uint32_t *sizes;
  ss_arena arena = {0};
  lay_out(&arena, &w, &mean, &sizes);
  const size_t bytes = arena.used;
  uint8_t *memory = arena.overflow ? NULL : ss_host_alloc(host, bytes);
  *out = (ss_kmeans_result){.k = k, .n = n, .dim = dim};
  out->centroids = ss_host_alloc(host, (size_t)k * dim * sizeof *out->centroids);
  out->clusters = ss_host_alloc(host, n * sizeof *out->clusters);
  out->sizes = ss_host_alloc(host, k * sizeof *out->sizes);
  if (!memory || !out->centroids || !out->clusters || !out->sizes) {
    ss_host_free(host, memory, bytes);
    ss_kmeans_free(out, host);
    return ss_fail(err, SS_E_MEMORY, "k-means: the host refused memory for %u points of %u", n, dim);
  }
  arena = (ss_arena){.base = memory};
  lay_out(&arena, &w, &mean, &sizes);
  for (uint32_t i = 0; i < n; i++) w.lengths[i] = square_of(points + (size_t)i * dim, dim);
  ss_rng rng = ss_rng_seed(options->seed);
  for (uint32_t r = 0; r < restarts; r++) {
    seed_centroids(&w, &rng, host);
    const attempt a = iterate(&w, max_iterations, options->cosine, sizes, mean, host);
    out->repaired += a.repaired;
    if (r > 0 && !(a.inertia < out->inertia)) continue;
    out->inertia = a.inertia;
    out->iterations = a.iterations;
    out->converged = a.converged;
    out->best_restart = r;
    memcpy(out->centroids, w.centroids, (size_t)k * dim * sizeof *w.centroids);
    memcpy(out->clusters, w.clusters, n * sizeof *w.clusters);
    memcpy(out->sizes, sizes, k * sizeof *sizes);
  }
  ss_host_free(host, memory, bytes);
  return SS_OK;
}

/* ---- silhouette ---- */

typedef struct silhouette {
  const ss_kmeans_result *clusters;
  const float *points;
  const uint32_t *sample; /* [n] */
  uint32_t *sizes; /* [k] within the sample */
  double *values; /* [n] of each sampled point */
  double *sums; /* [n_threads][k] */
  uint32_t n;
} silhouette;

static void silhouette_part(void *arg, uint32_t part, uint32_t n_parts) {
  const silhouette *s = arg;
  const uint32_t k = s->clusters->k, dim = s->clusters->dim;
  double *sums = s->sums + (size_t)part * k;
  size_t first, end;
  ss_part(s->n, part, n_parts, &first, &end);
  for (size_t i = first; i < end; i++) {
    const float *x = s->points + (size_t)s->sample[i] * dim;
    const uint32_t own = s->clusters->clusters[s->sample[i]];
    memset(sums, 0, k * sizeof *sums);
    for (uint32_t j = 0; j < s->n; j++) {
      const float *y = s->points + (size_t)s->sample[j] * dim;
      float lanes[LANES] = {0}, total = 0.0f;
      uint32_t d = 0;
      for (; d + LANES <= dim; d += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
          lanes[lane] += (x[d + lane] - y[d + lane]) * (x[d + lane] - y[d + lane]);
      for (; d < dim; d++) lanes[0] += (x[d] - y[d]) * (x[d] - y[d]);
      for (uint32_t lane = 0; lane < LANES; lane++) total += lanes[lane];
      sums[s->clusters->clusters[s->sample[j]]] += (double)ss_sqrtf(total);
    }
    s->values[i] = 0.0;
    if (s->sizes[own] < 2) continue; /* alone in its cluster: 0 by definition */
    const double a = sums[own] / (s->sizes[own] - 1);
    double b = -1.0;
    for (uint32_t c = 0; c < k; c++)
      if (c != own && s->sizes[c] && (b < 0.0 || sums[c] / s->sizes[c] < b)) b = sums[c] / s->sizes[c];
    if (b >= 0.0 && (a > 0.0 || b > 0.0)) s->values[i] = (b - a) / (a > b ? a : b);
  }
}

ss_status ss_silhouette(double *out, const ss_kmeans_result *clusters, const float *points, uint32_t sample_size,
                        uint64_t seed, const ss_host *host, ss_error *err) {
  const uint32_t total = clusters->n, k = clusters->k, n = sample_size < total ? sample_size : total;
  silhouette s = {.clusters = clusters, .points = points, .n = n};
  uint32_t *sample = NULL;
  uint8_t *memory = NULL;
  size_t bytes = 0;
  *out = 0.0;
  if (n == 0) return ss_fail(err, SS_E_ARGUMENT, "silhouette: no points");
  for (int pass = 0; pass < 2; pass++) { /* the first counts */
    ss_arena arena = {.base = memory};
    sample = ss_carve(&arena, total, sizeof *sample);
    s.sizes = ss_carve(&arena, k, sizeof *s.sizes);
    s.values = ss_carve(&arena, n, sizeof *s.values);
    s.sums = ss_carve(&arena, (size_t)host->n_threads * k, sizeof *s.sums);
    bytes = arena.used;
    if (pass == 0 && !(memory = ss_host_alloc(host, bytes)))
      return ss_fail(err, SS_E_MEMORY, "silhouette: the host refused %zu bytes", bytes);
  }
  s.sample = sample;
  ss_rng rng = ss_rng_seed(seed);
  for (uint32_t i = 0; i < total; i++) sample[i] = i;
  for (uint32_t i = 0; i < n && n < total; i++) { /* the head of a shuffle */
    const uint32_t j = i + (uint32_t)ss_rng_below(&rng, total - i), chosen = sample[j];
    sample[j] = sample[i];
    sample[i] = chosen;
  }
  for (uint32_t i = 0; i < n; i++) s.sizes[clusters->clusters[sample[i]]]++;
  if (k > 1) ss_host_parallel(host, (uint32_t)ss_min(host->n_threads, n), silhouette_part, &s);
  double sum = 0.0;
  for (uint32_t i = 0; i < n; i++) sum += s.values[i];
  *out = sum / n;
  ss_host_free(host, memory, bytes);
  return SS_OK;
}
