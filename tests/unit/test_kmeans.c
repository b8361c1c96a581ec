/* k-means: finds planted clusters, whatever the threads; repairs empty clusters; says what is wrong. */
#include <math.h>
#include <string.h>

#include "host.h"
#include "test.h"
#include "train/train.h"

#define DIM 24
#define MAX_POINTS 3000

static float points[MAX_POINTS * DIM];

/* n unit vectors around k random directions; point i belongs to direction i % k. */
static void plant(uint32_t n, uint32_t k, double spread, uint64_t seed) {
  ss_rng rng = ss_rng_seed(seed);
  float centers[16][DIM];
  for (uint32_t c = 0; c < k; c++)
    for (uint32_t d = 0; d < DIM; d++) centers[c][d] = (float)(ss_rng_unit(&rng) - 0.5);
  for (uint32_t i = 0; i < n; i++) {
    double square = 0;
    float *x = points + i * DIM;
    for (uint32_t d = 0; d < DIM; d++) {
      x[d] = centers[i % k][d] + (float)(spread * (ss_rng_unit(&rng) - 0.5));
      square += (double)x[d] * (double)x[d];
    }
    for (uint32_t d = 0; d < DIM; d++) x[d] = (float)(x[d] / sqrt(square));
  }
}

static ss_kmeans_result run(uint32_t n, const ss_kmeans_options *options, const ss_host *host) {
  ss_kmeans_result r;
  ss_error err = {0};
  if (ss_kmeans(&r, points, n, DIM, options, host, &err)) fail_msg("%s", err.message);
  return r;
}

static void test_planted_clusters_are_found(void **state) {
  (void)state;
  plant(600, 5, 0.2, 1);
  for (int cosine = 0; cosine < 2; cosine++) {
    ss_kmeans_result r = run(600, &(ss_kmeans_options){.k = 5, .cosine = cosine}, &test_host);
    double inertia = 0, silhouette;
    assert_true(r.converged);
    for (uint32_t c = 0; c < 5; c++) assert_int_equal(r.sizes[c], 120);
    for (uint32_t i = 5; i < 600; i++) assert_int_equal(r.clusters[i], r.clusters[i % 5]);
    for (uint32_t i = 0; i < 600; i++)
      for (uint32_t d = 0; d < DIM; d++)
        inertia += pow((double)points[i * DIM + d] - (double)r.centroids[r.clusters[i] * DIM + d], 2);
    assert_true(fabs(inertia - r.inertia) < 1e-4 * inertia);
    assert_int_equal(ss_silhouette(&silhouette, &r, points, 1000, 0, &test_host, NULL), SS_OK);
    assert_true(silhouette > 0.6 && silhouette <= 1);
    if (cosine)
      for (uint32_t c = 0; c < 5; c++) {
        double square = 0;
        for (uint32_t d = 0; d < DIM; d++)
          square += (double)r.centroids[c * DIM + d] * (double)r.centroids[c * DIM + d];
        assert_true(fabs(square - 1) < 1e-5);
      }
    ss_kmeans_free(&r, &test_host);
  }
}

static void test_the_silhouette_of_wrong_clusters_is_low(void **state) {
  (void)state; /* tests the tester */
  plant(300, 3, 0.2, 5);
  ss_kmeans_result r = run(300, &(ss_kmeans_options){.k = 3}, &test_host);
  double right, wrong;
  assert_int_equal(ss_silhouette(&right, &r, points, 300, 0, &test_host, NULL), SS_OK);
  for (uint32_t i = 0; i < 300; i++) r.clusters[i] = i / 100;
  assert_int_equal(ss_silhouette(&wrong, &r, points, 300, 0, &test_host, NULL), SS_OK);
  assert_true(right > 0.5 && wrong < 0.05);
  ss_kmeans_free(&r, &test_host);
}

static void test_results_do_not_depend_on_threads(void **state) {
  (void)state;
  plant(MAX_POINTS, 7, 1.5, 2);
  const ss_kmeans_options options = {.k = 9, .restarts = 3, .cosine = true, .seed = 4};
  ss_kmeans_result one = run(MAX_POINTS, &options, &test_host);
  double silhouette, other;
  assert_int_equal(ss_silhouette(&silhouette, &one, points, 400, 3, &test_host, NULL), SS_OK);
  for (uint32_t threads = 2; threads <= 7; threads += 5) {
    ss_host host = test_host;
    host.n_threads = threads;
    host.parallel_for = reverse_parallel;
    ss_kmeans_result many = run(MAX_POINTS, &options, &host);
    assert_memory_equal(many.centroids, one.centroids, 9 * DIM * sizeof(float));
    assert_memory_equal(many.clusters, one.clusters, MAX_POINTS * sizeof(uint32_t));
    assert_true(many.inertia == one.inertia);
    assert_int_equal(ss_silhouette(&other, &many, points, 400, 3, &host, NULL), SS_OK);
    assert_true(other == silhouette);
    ss_kmeans_free(&many, &host);
  }
  ss_kmeans_free(&one, &test_host);
}

static void test_the_seed_alone_decides(void **state) {
  (void)state;
  plant(500, 6, 2.0, 3);
  ss_kmeans_result a = run(500, &(ss_kmeans_options){.k = 8, .restarts = 1, .seed = 1}, &test_host);
  ss_kmeans_result b = run(500, &(ss_kmeans_options){.k = 8, .restarts = 1, .seed = 1}, &test_host);
  ss_kmeans_result c = run(500, &(ss_kmeans_options){.k = 8, .restarts = 1, .seed = 2}, &test_host);
  ss_kmeans_result best = run(500, &(ss_kmeans_options){.k = 8, .restarts = 12, .seed = 1}, &test_host);
  assert_memory_equal(a.clusters, b.clusters, 500 * sizeof(uint32_t));
  assert_int_not_equal(memcmp(a.clusters, c.clusters, 500 * sizeof(uint32_t)), 0);
  assert_true(best.inertia <= a.inertia);
  ss_kmeans_free(&a, &test_host);
  ss_kmeans_free(&b, &test_host);
  ss_kmeans_free(&c, &test_host);
  ss_kmeans_free(&best, &test_host);
}

static void test_more_clusters_than_different_points_leaves_none_empty(void **state) {
  (void)state;
  memset(points, 0, sizeof points);
  for (uint32_t i = 0; i < 40; i++) points[i * DIM + i % 3] = 1; /* three different points */
  ss_kmeans_result r = run(40, &(ss_kmeans_options){.k = 6}, &test_host);
  assert_true(r.repaired > 0);
  uint32_t total = 0;
  for (uint32_t c = 0; c < 6; c++) {
    assert_true(r.sizes[c] > 0);
    total += r.sizes[c];
  }
  assert_int_equal(total, 40);
  ss_kmeans_free(&r, &test_host);
  r = run(6, &(ss_kmeans_options){.k = 6}, &test_host); /* a point each */
  for (uint32_t c = 0; c < 6; c++) assert_int_equal(r.sizes[c], 1);
  ss_kmeans_free(&r, &test_host);
}

static void test_impossible_input_is_named(void **state) {
  (void)state;
  ss_kmeans_result r;
  ss_error err = {0};
  plant(20, 2, 0.2, 1);
  assert_int_equal(ss_kmeans(&r, points, 20, DIM, &(ss_kmeans_options){.k = 21}, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "21 clusters of 20 points"));
  assert_int_equal(ss_kmeans(&r, points, 20, DIM, &(ss_kmeans_options){.k = 0}, &test_host, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_kmeans(&r, points, 0, DIM, &(ss_kmeans_options){.k = 1}, &test_host, &err), SS_E_ARGUMENT);
  points[3 * DIM + 5] = (float)INFINITY;
  assert_int_equal(ss_kmeans(&r, points, 20, DIM, &(ss_kmeans_options){.k = 2}, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "point 3: element 5 is not finite"));
}

static void test_every_failed_allocation_is_a_status_and_leaks_nothing(void **state) {
  (void)state;
  plant(100, 2, 0.2, 1);
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_kmeans_result r = {0};
    double silhouette;
    ss_error err = {0};
    ss_status status = ss_kmeans(&r, points, 100, DIM, &(ss_kmeans_options){.k = 2}, &host, &err);
    if (!status) status = ss_silhouette(&silhouette, &r, points, 50, 0, &host, &err);
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_kmeans_free(&r, &host);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
  }
}

static void test_the_bootstrap_interval_covers_what_it_should(void **state) {
  (void)state;
  double sums[200], weights[200];
  uint32_t strata[200];
  ss_rng rng = ss_rng_seed(9);
  for (uint32_t i = 0; i < 200; i++) {
    sums[i] = 10 * ((i % 2 ? 3.0 : 1.0) + ss_rng_unit(&rng) - 0.5); /* standard deviation 0.29 a token */
    weights[i] = 10;
    strata[i] = i % 2;
  }
  ss_estimate x, other;
  ss_host many = test_host;
  many.n_threads = 5;
  many.parallel_for = reverse_parallel;
  assert_int_equal(ss_bootstrap(&x, sums, weights, strata, 200, 2, 2000, 0, &test_host, NULL), SS_OK);
  assert_int_equal(ss_bootstrap(&other, sums, weights, strata, 200, 2, 2000, 0, &many, NULL), SS_OK);
  assert_memory_equal(&x, &other, sizeof x);
  assert_true(fabs(x.value - 2) < 0.1 && x.low < x.value && x.value < x.high);
  const double want = 2 * 1.96 * 0.2887 / sqrt(200); /* strata are of one size: the interval of the mean of all */
  assert_true(x.high - x.low > 0.8 * want && x.high - x.low < 1.2 * want);
  ss_error err = {0};
  assert_int_equal(ss_bootstrap(&x, sums, weights, strata, 200, 3, 2000, 0, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "stratum 2 is empty"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_planted_clusters_are_found),
      cmocka_unit_test(test_the_silhouette_of_wrong_clusters_is_low),
      cmocka_unit_test(test_results_do_not_depend_on_threads),
      cmocka_unit_test(test_the_seed_alone_decides),
      cmocka_unit_test(test_more_clusters_than_different_points_leaves_none_empty),
      cmocka_unit_test(test_impossible_input_is_named),
      cmocka_unit_test(test_every_failed_allocation_is_a_status_and_leaks_nothing),
      cmocka_unit_test(test_the_bootstrap_interval_covers_what_it_should),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
