/* Greedy removal on losses of our own, and losses under masks of a tiny model. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "test.h"
#include "train/train.h"

/* ---- the search ---- */

#define L 30
#define B (2 * L)

typedef struct world {
  double harm[B];   /* of removing a block alone */
  double together;  /* more harm per removed block that is already gone: removals hurt more later */
  uint32_t n_calls, stop_after;
  bool bad_base;
} world;

static ss_status loss_in(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  world *w = ctx;
  double n = 0;
  (void)err;
  *loss = 3;
  for (uint32_t b = 0; b < B; b++)
    if (!ss_mask_has(mask, b)) *loss += w->harm[b] * (1 + w->together * n++);
  uint32_t different = 0;
  for (uint32_t b = 0; b < B; b++) different += ss_mask_has(mask, b) != ss_mask_has(base, b);
  if (different > 1) w->bad_base = true;
  w->n_calls++;
  return SS_OK;
}

static bool watch(void *ctx, const ss_greedy_progress *p) {
  const world *w = ctx;
  return !w->stop_after || p->n_losses < w->stop_after;
}

static world make_world(uint64_t seed) {
  world w = {.together = 0.1};
  ss_rng rng = ss_rng_seed(seed);
  for (uint32_t b = 0; b < B; b++) w.harm[b] = 0.01 + 0.2 * ss_rng_unit(&rng);
  return w;
}

static const double levels[] = {0.0625, 0.125, 0.1875, 0.25};
static uint64_t costs[B];

static ss_greedy_options options_of(world *w) {
  for (uint32_t b = 0; b < B; b++) costs[b] = b % 2 ? 2654208 : 884736; /* SmolLM2-135M */
  return (ss_greedy_options){
      .n_blocks = B, .costs = costs, .levels = levels, .n_levels = 4, .loss = loss_in, .watch = watch, .ctx = w};
}

static uint64_t units_of(const ss_mask *m) {
  uint64_t sum = 0;
  for (uint32_t b = 0; b < B; b++) sum += ss_mask_has(m, b) ? 0 : b % 2 ? 3 : 1;
  return sum;
}

static void test_every_level_meets_its_budget_exactly(void **state) {
  (void)state;
  static const uint64_t want[] = {8, 15, 23, 30};
  for (uint64_t seed = 0; seed < 20; seed++) {
    world w = make_world(seed);
    const ss_greedy_options options = options_of(&w);
    ss_greedy_result r;
    assert_int_equal(ss_greedy(&r, &options, &test_host, NULL), SS_OK);
    assert_int_equal(r.units_total, 120);
    assert_int_equal(r.n_losses, w.n_calls);
    assert_false(w.bad_base);
    for (int i = 0; i < 4; i++) {
      double loss;
      assert_int_equal(r.units[i], want[i]);
      assert_int_equal(units_of(&r.masks[i]), want[i]);
      assert_int_equal(loss_in(&w, &r.masks[i], &r.masks[i], &loss, NULL), SS_OK);
      assert_true(fabs(loss - r.losses[i]) < 1e-9);
      if (i) assert_true(ss_mask_within(&r.masks[i], &r.masks[i - 1]));
    }
    ss_greedy_free(&r, &test_host);
  }
}

/* What a search that measures every block again would take. */
static void full_greedy(world *w, ss_mask *mask, uint64_t units) {
  ss_mask_fill(mask, B);
  while (units) {
    double base, best = INFINITY;
    uint32_t chosen = 0;
    loss_in(w, mask, mask, &base, NULL);
    for (uint32_t b = 0; b < B; b++) {
      const uint64_t cost = b % 2 ? 3 : 1;
      ss_mask next = *mask;
      double loss;
      if (!ss_mask_has(mask, b) || cost > units) continue;
      ss_mask_set(&next, b, false);
      loss_in(w, &next, mask, &loss, NULL);
      if ((loss - base) / (double)cost < best) best = (loss - base) / (double)cost, chosen = b;
    }
    ss_mask_set(mask, chosen, false);
    units -= chosen % 2 ? 3 : 1;
  }
}

static void test_lazy_finds_what_full_greedy_finds_with_fewer_losses(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 10; seed++) {
    world w = make_world(seed), other = w;
    ss_greedy_options options = options_of(&w);
    const double level = 0.25;
    ss_mask want;
    ss_greedy_result r;
    options.levels = &level;
    options.n_levels = 1;
    assert_int_equal(ss_greedy(&r, &options, &test_host, NULL), SS_OK);
    full_greedy(&other, &want, 30);
    assert_memory_equal(&r.masks[0], &want, sizeof want);
    assert_true(w.n_calls * 3 < other.n_calls);
    ss_greedy_free(&r, &test_host);
  }
}

static void test_leave_one_out_measures_each_block_once(void **state) {
  (void)state;
  world w = make_world(1);
  ss_greedy_options options = options_of(&w);
  options.leave_one_out = true;
  ss_greedy_result r;
  assert_int_equal(ss_greedy(&r, &options, &test_host, NULL), SS_OK);
  assert_int_equal(r.n_losses, 1 + B + 4);
  for (uint32_t b = 0; b < B; b++) assert_true(fabs(r.scores[b] - w.harm[b]) < 1e-9);
  for (uint32_t i = 1; i + 6 < r.n_removed; i++) /* by loss per unit, but for what fills a level up */
    if (r.order[i] % 2 == r.order[i - 1] % 2) assert_true(w.harm[r.order[i - 1]] <= w.harm[r.order[i]] + 1e-9);
  assert_int_equal(units_of(&r.masks[3]), 30);
  ss_greedy_free(&r, &test_host);
}

static void test_costs_that_do_not_fit_give_the_nearest_sum(void **state) {
  (void)state;
  /* 10 and 25: unit 5, costs 2 and 5 of 2 * 2 + 2 * 5 = 14. A share of 0.25 is 3.5; sums are 0 2 4 5 7 ..: 4, 5/14 follows none */
  static const uint64_t odd[] = {10, 25, 10, 25};
  static const double shares[] = {0.25, 0.36, 0.5};
  world w = {.harm = {1, 1, 1, 1}};
  ss_greedy_result r;
  const ss_greedy_options options = {
      .n_blocks = 4, .costs = odd, .levels = shares, .n_levels = 3, .loss = loss_in, .ctx = &w};
  assert_int_equal(ss_greedy(&r, &options, &test_host, NULL), SS_OK);
  assert_int_equal(r.units_total, 14);
  assert_int_equal(r.units[0], 4); /* both small ones */
  assert_int_equal(r.units[1], 4); /* 5.04: 4 is there, 9 is the next that it can make */
  assert_int_equal(r.units[2], 9); /* 7 cannot be made of 4 and fives: 9 is nearer than 4 */
  ss_greedy_free(&r, &test_host);
}

static void test_a_watch_can_stop_it_and_wrong_options_are_named(void **state) {
  (void)state;
  world w = make_world(1);
  ss_greedy_options options = options_of(&w);
  ss_greedy_result r;
  ss_error err = {0};
  w.stop_after = 10;
  assert_int_equal(ss_greedy(&r, &options, &test_host, &err), SS_E_STATE);
  assert_int_equal(w.n_calls, 10);
  assert_null(r.masks);
  options.levels = (const double[]){0.2, 0.1, 0.3, 0.4};
  assert_int_equal(ss_greedy(&r, &options, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "level 1"));
  options = options_of(&w);
  costs[7] = 0;
  assert_int_equal(ss_greedy(&r, &options, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "block 7 costs nothing"));
  w.harm[3] = NAN;
  options = options_of(&w);
  assert_int_equal(ss_greedy(&r, &options, &test_host, &err), SS_E_FORMAT);
}

static void test_failed_allocations_of_the_search(void **state) {
  (void)state;
  for (size_t fail_at = 1;; fail_at++) {
    world w = make_world(1);
    const ss_greedy_options options = options_of(&w);
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_greedy_result r;
    const ss_status status = ss_greedy(&r, &options, &host, NULL);
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_greedy_free(&r, &host);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
  }
}

/* ---- losses ---- */

static ss_model *model; /* four blocks */
static const int32_t tokens[] = {275, 183, 200, 261, 169, 226, 243, 67, 18, 89, 85, 254, 265, 4, 146, 239, 11, 99};
static const uint32_t starts[] = {0, 7, 9, 18};
static const ss_windows windows = {.tokens = tokens, .starts = starts, .n = 3};

/* By the public session, with ss_logprob. */
static double plain_loss(const ss_mask *mask) {
  double sum = 0;
  for (int i = 0; i < 3; i++) {
    const uint32_t n = starts[i + 1] - starts[i];
    ss_session *s;
    ss_error err = {0};
    ss_model_info info;
    if (ss_model_info_get(model, &info, &err) ||
        ss_session_create(&s, model,
                          &(ss_session_options){.context = 32, .chunk = 4, .max_logits = n, .run_mask = mask},
                          &test_host, &err) ||
        ss_session_begin(s, tokens + starts[i], n, n, &err) || ss_session_run(s, 0, &err))
      fail_msg("%s", err.message);
    for (uint32_t t = 0; t + 1 < n; t++)
      sum -= (double)ss_logprob(ss_session_logits(s, t), info.n_vocab, tokens[starts[i] + t + 1]);
    ss_session_free(s);
  }
  return sum / 15;
}

static double loss_of(ss_loss *loss, const ss_mask *mask) {
  double nll;
  ss_error err = {0};
  if (ss_loss_of(loss, mask, &nll, &err)) fail_msg("%s", err.message);
  return nll;
}

static void test_losses_are_those_of_sessions_with_any_base_cache_and_threads(void **state) {
  (void)state;
  ss_loss *plain, *cached;
  ss_host many = test_host;
  many.n_threads = 3;
  many.parallel_for = reverse_parallel;
  assert_int_equal(ss_loss_create(&plain, model, &windows, 0, &test_host, NULL), SS_OK);
  assert_int_equal(ss_loss_create(&cached, model, &windows, 1 << 20, &many, NULL), SS_OK);
  for (uint32_t base_bits = 0; base_bits < 16; base_bits++) {
    const ss_mask base = {.bits = {base_bits}};
    assert_int_equal(ss_loss_set_base(plain, &base, NULL), SS_OK);
    assert_int_equal(ss_loss_set_base(cached, &base, NULL), SS_OK);
    for (uint32_t bits = 0; bits < 16; bits++) {
      const ss_mask mask = {.bits = {bits}};
      const double want = loss_of(plain, &mask);
      assert_true(loss_of(cached, &mask) == want); /* the same bits */
      if (base_bits == 0) assert_true(fabs(want - plain_loss(&mask)) < 1e-5);
    }
  }
  assert_true(ss_loss_work_done(cached).block_tokens < ss_loss_work_done(plain).block_tokens);
  ss_loss_free(plain);
  ss_loss_free(cached);
}

static void test_only_what_is_scored_counts(void **state) {
  (void)state;
  static const uint32_t from[] = {1, 1, 5};
  ss_mask dense;
  ss_mask_fill(&dense, 4);
  ss_windows some = windows;
  some.score_from = from;
  ss_loss *all, *part;
  assert_int_equal(ss_loss_create(&all, model, &windows, 0, &test_host, NULL), SS_OK);
  assert_int_equal(ss_loss_create(&part, model, &some, 0, &test_host, NULL), SS_OK);
  assert_true(loss_of(all, &dense) != loss_of(part, &dense));
  assert_int_equal(ss_loss_work_done(all).head_tokens - ss_loss_work_done(part).head_tokens, 4);
  ss_loss_free(all);
  ss_loss_free(part);
}

static void test_kl_is_zero_for_itself_and_right_for_others(void **state) {
  (void)state;
  enum { N_VOCAB = 13, STRIDE = 16 };
  float a[2 * STRIDE], b[2 * STRIDE], scratch[STRIDE];
  const int32_t targets[] = {3, 12};
  double nll[2], kl[2];
  ss_rng rng = ss_rng_seed(1);
  for (int i = 0; i < 2 * STRIDE; i++) a[i] = (float)(8 * ss_rng_unit(&rng)), b[i] = (float)(8 * ss_rng_unit(&rng));
  ss_score_rows(nll, kl, a, a, targets, 2, N_VOCAB, STRIDE, scratch, model, &test_host);
  assert_true(kl[0] >= 0 && kl[0] < 1e-6 && kl[1] >= 0 && kl[1] < 1e-6);
  ss_score_rows(nll, kl, a, b, targets, 2, N_VOCAB, STRIDE, scratch, model, &test_host);
  for (int row = 0; row < 2; row++) {
    double sum_a = 0, sum_b = 0, want = 0;
    for (int i = 0; i < N_VOCAB; i++)
      sum_a += exp((double)a[row * STRIDE + i]), sum_b += exp((double)b[row * STRIDE + i]);
    for (int i = 0; i < N_VOCAB; i++) {
      const double p = exp((double)b[row * STRIDE + i]) / sum_b, q = exp((double)a[row * STRIDE + i]) / sum_a;
      want += p * log(p / q);
    }
    assert_true(fabs(kl[row] - want) < 1e-4);
    assert_true(fabs(nll[row] + log(exp((double)a[row * STRIDE + targets[row]]) / sum_a)) < 1e-4);
  }
}

static void test_impossible_windows_are_named_and_memory_may_fail(void **state) {
  (void)state;
  ss_loss *loss;
  ss_error err = {0};
  const ss_windows short_one = {.tokens = tokens, .starts = (const uint32_t[]){0, 3, 4}, .n = 2};
  assert_int_equal(ss_loss_create(&loss, model, &short_one, 0, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "window 1 has 1 tokens"));
  const ss_windows foreign = {.tokens = (const int32_t[]){1, 9999}, .starts = (const uint32_t[]){0, 2}, .n = 1};
  assert_int_equal(ss_loss_create(&loss, model, &foreign, 0, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "9999"));
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    const ss_status status = ss_loss_create(&loss, model, &windows, 1 << 20, &host, &err);
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_loss_free(loss);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
  }
  assert_int_equal(ss_loss_create(&loss, model, &windows, 0, &test_host, NULL), SS_OK);
  const ss_mask too_many = {.bits = {1u << 9}};
  double nll;
  assert_int_equal(ss_loss_of(loss, &too_many, &nll, &err), SS_E_ARGUMENT);
  ss_loss_free(loss);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_level_meets_its_budget_exactly),
      cmocka_unit_test(test_lazy_finds_what_full_greedy_finds_with_fewer_losses),
      cmocka_unit_test(test_leave_one_out_measures_each_block_once),
      cmocka_unit_test(test_costs_that_do_not_fit_give_the_nearest_sum),
      cmocka_unit_test(test_a_watch_can_stop_it_and_wrong_options_are_named),
      cmocka_unit_test(test_failed_allocations_of_the_search),
      cmocka_unit_test(test_losses_are_those_of_sessions_with_any_base_cache_and_threads),
      cmocka_unit_test(test_only_what_is_scored_counts),
      cmocka_unit_test(test_kl_is_zero_for_itself_and_right_for_others),
      cmocka_unit_test(test_impossible_windows_are_named_and_memory_may_fail),
  };
  model = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  if (!model) return skip_all("tests/golden/tiny/q4_1.gguf is not there");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
