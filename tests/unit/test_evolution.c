/* Evolutionary search and block influence; budgets; ratios of means. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "model/session.h"
#include "test.h"
#include "train/train.h"

#define B 24 /* attention of 1 unit, feed-forward of 3: 48 units */

typedef struct world {
  ss_mask best;
  uint32_t n_calls[3], stop_after;
  ss_mask first_base;
  uint64_t wrong_units;
  const ss_budget *budget;
} world;

/* 1 for the planted mask, more the more blocks differ; the first stage is noisy. */
static ss_status loss_in(void *ctx, uint32_t stage, const ss_mask *mask, const ss_mask *base, double *loss,
                         ss_error *err) {
  world *w = ctx;
  (void)err;
  (void)base;
  uint32_t different = 0;
  for (uint32_t b = 0; b < B; b++) different += ss_mask_has(mask, b) != ss_mask_has(&w->best, b);
  *loss = different ? 2.0 + 0.1 * different : 1.0;
  if (stage == 0) *loss += 0.15 * (double)(ss_fnv1a(SS_FNV_START, mask, sizeof *mask) % 1000) / 1000.0;
  w->n_calls[stage]++;
  if (ss_budget_skipped(w->budget, mask) != 12) w->wrong_units++;
  return SS_OK;
}

static bool watch(void *ctx, const ss_evolution_progress *p) {
  const world *w = ctx;
  return !w->stop_after || p->n_losses < w->stop_after;
}

static ss_budget make_budget(void) {
  uint64_t costs[B];
  ss_budget budget;
  for (uint32_t b = 0; b < B; b++) costs[b] = b % 2 ? 300 : 100;
  assert_int_equal(ss_budget_create(&budget, costs, B, &test_host, NULL), SS_OK);
  assert_int_equal(budget.unit, 100);
  assert_int_equal(budget.total, 48);
  return budget;
}

static const uint32_t survivors[] = {6, 3};

static ss_evolution_options options_of(world *w, ss_budget *budget) {
  w->budget = budget;
  return (ss_evolution_options){.budget = budget,
                                .units = 12,
                                .generations = 60,
                                .offspring = 24,
                                .survivors = survivors,
                                .n_stages = 3,
                                .seed = 1,
                                .loss = loss_in,
                                .watch = watch,
                                .ctx = w};
}

static void test_evolution_finds_the_planted_mask_at_the_exact_budget(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  for (uint64_t seed = 0; seed < 20; seed++) {
    world w = {0};
    ss_rng rng = ss_rng_seed(100 + seed);
    assert_true(ss_mask_random(&w.best, &budget, 12, &rng));
    ss_evolution_options options = options_of(&w, &budget);
    options.seed = seed;
    ss_evolution_result r;
    assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_OK);
    assert_memory_equal(&r.mask, &w.best, sizeof r.mask);
    assert_true(r.loss == 1.0 && r.first_loss >= r.loss);
    assert_int_equal(w.wrong_units, 0);
    assert_int_equal(r.n_losses, w.n_calls[0] + w.n_calls[1] + w.n_calls[2]);
    assert_true(r.n_losses <= 61 * (24 + 6 + 3));
    assert_true(w.n_calls[1] <= 61 * 6 && w.n_calls[2] <= 61 * 3);
  }
  ss_budget_free(&budget, &test_host);
}

static void test_the_same_seed_makes_the_same_search(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  ss_evolution_result r[2];
  for (int i = 0; i < 2; i++) {
    world w = {0};
    ss_rng rng = ss_rng_seed(5);
    ss_mask_random(&w.best, &budget, 12, &rng);
    ss_evolution_options options = options_of(&w, &budget);
    options.generations = 3;
    assert_int_equal(ss_evolution(&r[i], &options, &test_host, NULL), SS_OK);
  }
  assert_memory_equal(&r[0].mask, &r[1].mask, sizeof r[0].mask);
  assert_int_equal(r[0].n_losses, r[1].n_losses);
  ss_budget_free(&budget, &test_host);
}

static void test_it_starts_from_a_mask_and_never_gets_worse(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  world w = {0};
  ss_rng rng = ss_rng_seed(9);
  ss_mask start;
  assert_true(ss_mask_random(&w.best, &budget, 12, &rng) && ss_mask_random(&start, &budget, 12, &rng));
  ss_evolution_options options = options_of(&w, &budget);
  ss_evolution_result r;
  double want;
  ss_error err = {0};
  options.start = &start;
  options.generations = 0;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_OK);
  assert_memory_equal(&r.mask, &start, sizeof start);
  loss_in(&w, 2, &start, &start, &want, NULL);
  assert_true(r.loss == want);
  options.start = &w.best;
  options.generations = 4;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_OK);
  assert_true(r.loss == 1.0 && r.n_improved == 0);
  options.units = 13;
  assert_int_equal(ss_evolution(&r, &options, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "skips 12 units, want 13"));
  ss_budget_free(&budget, &test_host);
}

static ss_status bad_loss(void *ctx, uint32_t stage, const ss_mask *mask, const ss_mask *base, double *loss,
                          ss_error *err) {
  (void)ctx, (void)stage, (void)mask, (void)base, (void)err;
  *loss = NAN;
  return SS_OK;
}

static void test_it_can_be_stopped_and_memory_may_fail(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  world w = {.stop_after = 30};
  ss_rng rng = ss_rng_seed(9);
  ss_mask_random(&w.best, &budget, 12, &rng);
  ss_evolution_options options = options_of(&w, &budget);
  ss_evolution_result r;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_E_STATE);
  assert_int_equal(w.n_calls[0] + w.n_calls[1] + w.n_calls[2], 30);
  options.loss = bad_loss;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_E_FORMAT);
  options = options_of(&w, &budget);
  options.units = 47; /* 48 - 1 can be made; more than all cannot */
  w.stop_after = 0;
  options.generations = 0;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_OK);
  options.n_stages = 0;
  assert_int_equal(ss_evolution(&r, &options, &test_host, NULL), SS_E_ARGUMENT);
  options = options_of(&w, &budget);
  counting_memory memory = {.fail_at = 1};
  const ss_host host = counting_host(&memory);
  assert_int_equal(ss_evolution(&r, &options, &host, NULL), SS_E_MEMORY);
  ss_budget_free(&budget, &test_host);
}

/* ---- budgets ---- */

static void test_a_filled_mask_takes_the_least_scores_per_unit(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  double scores[B];
  ss_mask mask;
  for (uint32_t b = 0; b < B; b++) scores[b] = (b % 2 ? 3.0 : 1.0) * (1.0 + b);
  ss_mask_fill(&mask, B);
  ss_budget_fill(&budget, &mask, scores, 9); /* 1 + 3 + 1 + 3, and one more of 1 */
  for (uint32_t b = 0; b < B; b++) assert_int_equal(ss_mask_has(&mask, b), b > 4);
  ss_mask_fill(&mask, B);
  ss_budget_fill(&budget, &mask, scores, 6); /* 1 + 3 + 1 + 1: block 3 does not fit any more */
  for (uint32_t b = 0; b < B; b++) assert_int_equal(ss_mask_has(&mask, b), !(b < 3 || b == 4));
  ss_budget_free(&budget, &test_host);
}

static void test_random_masks_differ_and_all_have_the_budget(void **state) {
  (void)state;
  ss_budget budget = make_budget();
  ss_rng rng = ss_rng_seed(3);
  uint32_t skipped[B] = {0};
  for (int i = 0; i < 400; i++) {
    ss_mask mask;
    assert_true(ss_mask_random(&mask, &budget, 13, &rng));
    assert_int_equal(ss_budget_skipped(&budget, &mask), 13);
    for (uint32_t b = 0; b < B; b++) skipped[b] += !ss_mask_has(&mask, b);
  }
  for (uint32_t b = 0; b < B; b++) assert_in_range(skipped[b], 40, 260); /* every block has its turn */
  ss_mask mask;
  assert_false(ss_mask_random(&mask, &budget, 49, &rng));
  ss_budget_free(&budget, &test_host);
}

/* ---- block influence ---- */

static ss_model *model; /* four blocks */

static void test_block_influence_is_that_of_a_direct_computation(void **state) {
  (void)state;
  static const int32_t tokens[] = {275, 183, 200, 261, 169, 226, 243, 67, 18, 89, 85, 254};
  static const uint32_t starts[] = {0, 7, 12};
  const ss_windows windows = {.tokens = tokens, .starts = starts, .n = 2};
  double got[4], want[4] = {0};
  ss_loss *loss;
  assert_int_equal(ss_loss_create(&loss, model, &windows, 0, &test_host, NULL), SS_OK);
  assert_int_equal(ss_loss_influence(loss, got, NULL), SS_OK);
  ss_loss_free(loss);
  for (uint32_t i = 0; i < 2;
       i++) { /* token by token through the public session, looking at h before and after a block */
    const uint32_t n = starts[i + 1] - starts[i];
    ss_session *s;
    ss_error err = {0};
    assert_int_equal(ss_session_create(&s, model, &(ss_session_options){.context = 16}, &test_host, &err), SS_OK);
    const uint32_t n_embd = model->config.n_embd;
    for (uint32_t t = 0; t < n; t++) {
      assert_int_equal(ss_session_begin(s, tokens + starts[i] + t, 1, 1, &err), SS_OK);
      float before[4096];
      for (uint32_t block = 0; block < 4; block++) {
        if (block == 0) { /* the embedding is made with the first block: take it from the table */
          const ss_matrix w = ss_model_matrix(model, model->embedding);
          ss_matrix_row(before, &w, (uint32_t)tokens[starts[i] + t]);
        }
        assert_int_equal(ss_session_run(s, 1, &err), SS_MORE);
        double aa = 0, bb = 0, ab = 0;
        for (uint32_t k = 0; k < n_embd; k++) {
          const double a = (double)before[k], b = (double)s->h[k];
          aa += a * a, bb += b * b, ab += a * b;
        }
        want[block] += ab / sqrt(aa) / sqrt(bb);
        memcpy(before, s->h, n_embd * sizeof *before);
      }
      assert_int_equal(ss_session_run(s, 0, &err), SS_OK);
    }
    ss_session_free(s);
  }
  for (uint32_t block = 0; block < 4; block++) {
    assert_true(fabs(got[block] - (1.0 - want[block] / 12)) < 1e-9);
    assert_true(got[block] > 0.0);
  }
}

/* ---- ratios ---- */

static void test_a_ratio_of_means_is_paired(void **state) {
  (void)state;
  enum { N = 60 };
  double a[N], b[N], weights[N];
  uint32_t strata[N];
  ss_rng rng = ss_rng_seed(2);
  for (uint32_t i = 0; i < N; i++) {
    b[i] = 0.2 + ss_rng_unit(&rng);
    a[i] = 0.5 * b[i];
    weights[i] = 1 + i % 3;
    strata[i] = i % 2;
  }
  ss_estimate r, mean_a, mean_b;
  assert_int_equal(ss_bootstrap_ratio(&r, a, b, weights, strata, N, 2, 500, 1, &test_host, NULL), SS_OK);
  assert_true(fabs(r.value - 0.5) < 1e-12 && fabs(r.low - 0.5) < 1e-12 && fabs(r.high - 0.5) < 1e-12);
  for (uint32_t i = 0; i < N; i++) a[i] += 0.3 * (ss_rng_unit(&rng) - 0.5);
  assert_int_equal(ss_bootstrap_ratio(&r, a, b, weights, strata, N, 2, 500, 1, &test_host, NULL), SS_OK);
  assert_int_equal(ss_bootstrap(&mean_a, a, weights, strata, N, 2, 500, 1, &test_host, NULL), SS_OK);
  assert_int_equal(ss_bootstrap(&mean_b, b, weights, strata, N, 2, 500, 1, &test_host, NULL), SS_OK);
  assert_true(fabs(r.value - mean_a.value / mean_b.value) < 1e-12);
  assert_true(r.low < r.value && r.value < r.high);
  assert_true(r.high - r.low < (mean_a.high - mean_a.low) / mean_b.value); /* what both share cancels */
  for (uint32_t i = 0; i < N; i++) b[i] = 0;
  assert_int_equal(ss_bootstrap_ratio(&r, b, b, weights, strata, N, 2, 500, 1, &test_host, NULL), SS_OK);
  assert_true(r.value == 1.0);
  assert_int_equal(ss_bootstrap_ratio(&r, a, b, weights, strata, N, 3, 500, 1, &test_host, NULL), SS_E_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_evolution_finds_the_planted_mask_at_the_exact_budget),
      cmocka_unit_test(test_the_same_seed_makes_the_same_search),
      cmocka_unit_test(test_it_starts_from_a_mask_and_never_gets_worse),
      cmocka_unit_test(test_it_can_be_stopped_and_memory_may_fail),
      cmocka_unit_test(test_a_filled_mask_takes_the_least_scores_per_unit),
      cmocka_unit_test(test_random_masks_differ_and_all_have_the_budget),
      cmocka_unit_test(test_block_influence_is_that_of_a_direct_computation),
      cmocka_unit_test(test_a_ratio_of_means_is_paired),
  };
  model = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  if (!model) return skip_all("tests/golden/tiny/q4_1.gguf is not there");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
