/* Bootstrap intervals. Each resample draws with a generator of its own, seeded by its number: the same for any number
 * of threads. */
#include <math.h>

#include "train/train.h"

typedef struct job {
  const double *sums, *below, *weights; /* below: the sums of a ratio's second mean, or NULL */
  const uint32_t *order;  /* [n] items by stratum */
  const uint32_t *starts; /* [n_strata + 1] */
  uint32_t n_strata, resamples;
  uint64_t seed;
  double *values;         /* [resamples] */
} job;

/* From the sums of the strata's means. */
static double value_of(const job *j, double mean, double mean_below) {
  if (!j->below) return mean / j->n_strata;
  return mean_below != 0.0 ? mean / mean_below : mean == 0.0 ? 1.0 : mean > 0.0 ? HUGE_VAL : -HUGE_VAL;
}

static void resample_part(void *arg, uint32_t part, uint32_t n_parts) {
  const job *j = arg;
  size_t first, end;
  ss_part(j->resamples, part, n_parts, &first, &end);
  for (size_t r = first; r < end; r++) {
    ss_rng rng = ss_rng_seed(j->seed + r * UINT64_C(0x9e3779b97f4a7c15));
    double mean = 0.0, mean_below = 0.0;
    for (uint32_t s = 0; s < j->n_strata; s++) {
      const uint32_t start = j->starts[s], n = j->starts[s + 1] - start;
      double sum = 0.0, sum_below = 0.0, weight = 0.0;
      for (uint32_t i = 0; i < n; i++) {
        const uint32_t item = j->order[start + ss_rng_below(&rng, n)];
        sum += j->sums[item];
        if (j->below) sum_below += j->below[item];
        weight += j->weights[item];
      }
      mean += sum / weight;
      mean_below += sum_below / weight;
    }
    j->values[r] = value_of(j, mean, mean_below);
  }
}

/* Heapsort, ascending. */
static void sift(double *x, size_t at, size_t n) {
  for (size_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && x[child + 1] > x[child]) child++;
    if (x[at] >= x[child]) return;
    const double t = x[at];
    x[at] = x[child];
    x[child] = t;
  }
}

static void sort(double *x, size_t n) {
  for (size_t i = n / 2; i-- > 0;) sift(x, i, n);
  for (size_t end = n; end-- > 1;) {
    const double t = x[0];
    x[0] = x[end];
    x[end] = t;
    sift(x, 0, end);
  }
}

/* Of sorted values, linear between neighbours. */
static double quantile(const double *x, uint32_t n, double q) {
  const double at = q * (n - 1);
  const uint32_t below = (uint32_t)at;
  return below + 1 < n ? x[below] + (at - below) * (x[below + 1] - x[below]) : x[n - 1];
}

static ss_status bootstrap(ss_estimate *out, job j, const uint32_t *strata, uint32_t n, const ss_host *host,
                           ss_error *err) {
  const uint32_t n_strata = j.n_strata, resamples = j.resamples;
  *out = (ss_estimate){0};
  if (n == 0 || n_strata == 0 || resamples < 2) return ss_fail(err, SS_E_ARGUMENT, "bootstrap: nothing to resample");
  uint32_t *order = NULL, *starts = NULL;
  uint8_t *memory = NULL;
  size_t bytes = 0;
  for (int pass = 0; pass < 2; pass++) {
    ss_arena arena = {.base = memory};
    order = ss_carve(&arena, n, sizeof *order);
    starts = ss_carve(&arena, n_strata + 1, sizeof *starts);
    j.values = ss_carve(&arena, resamples, sizeof *j.values);
    bytes = arena.used;
    if (pass == 0 && !(memory = ss_host_alloc(host, bytes)))
      return ss_fail(err, SS_E_MEMORY, "bootstrap: the host refused %zu bytes", bytes);
  }
  ss_status status = SS_OK;
  double mean = 0.0, mean_below = 0.0;
  uint32_t at = 0;
  for (uint32_t s = 0; status == SS_OK && s < n_strata; s++) {
    double sum = 0.0, sum_below = 0.0, weight = 0.0;
    starts[s] = at;
    for (uint32_t i = 0; i < n; i++) {
      if (strata[i] != s) continue;
      order[at++] = i;
      sum += j.sums[i];
      if (j.below) sum_below += j.below[i];
      weight += j.weights[i];
    }
    if (at == starts[s] || !(weight > 0.0)) status = ss_fail(err, SS_E_ARGUMENT, "bootstrap: stratum %u is empty", s);
    mean += sum / weight;
    mean_below += sum_below / weight;
  }
  starts[n_strata] = at;
  j.order = order;
  j.starts = starts;
  if (status == SS_OK) {
    ss_host_parallel(host, (uint32_t)ss_min(host->n_threads, resamples), resample_part, &j);
    sort(j.values, resamples);
    *out = (ss_estimate){value_of(&j, mean, mean_below), quantile(j.values, resamples, 0.025),
                         quantile(j.values, resamples, 0.975)};
  }
  ss_host_free(host, memory, bytes);
  return status;
}

ss_status ss_bootstrap(ss_estimate *out, const double *sums, const double *weights, const uint32_t *strata, uint32_t n,
                       uint32_t n_strata, uint32_t resamples, uint64_t seed, const ss_host *host, ss_error *err) {
  const job j = {.sums = sums, .weights = weights, .n_strata = n_strata, .resamples = resamples, .seed = seed};
  return bootstrap(out, j, strata, n, host, err);
}

ss_status ss_bootstrap_ratio(ss_estimate *out, const double *a, const double *b, const double *weights,
                             const uint32_t *strata, uint32_t n, uint32_t n_strata, uint32_t resamples, uint64_t seed,
                             const ss_host *host, ss_error *err) {
  const job j = {.sums = a, .below = b, .weights = weights, .n_strata = n_strata, .resamples = resamples, .seed = seed};
  return bootstrap(out, j, strata, n, host, err);
}
