/* L0 training of a mask on a tiny model, and the swap search on losses of our own. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "gguf_writer.h"
#include "host.h"
#include "test.h"
#include "train/adam.h"
#include "train/gate.h"
#include "train/mask_train.h"

/* ---- Adam ---- */

static void test_adam_takes_the_steps_of_the_paper(void **state) {
  (void)state;
  double x[2] = {1.0, -2.0}, m[2] = {0}, v[2] = {0};
  float y[2] = {1.0f, -2.0f}, my[2] = {0}, vy[2] = {0};
  double a = 1.0, ma = 0.0, va = 0.0;
  const ss_adam_options o = ss_adam_defaults(0.1);
  for (uint32_t t = 1; t <= 20; t++) {
    const double g[2] = {2.0 * x[0], 0.5};
    const float gy[2] = {(float)g[0], 0.5f};
    const double ga = 2.0 * a;
    ss_adam_step(x, g, m, v, 2, t, &o);
    ss_adam_step_f32(y, gy, my, vy, 2, t, &o);
    ma = 0.9 * ma + 0.1 * ga;
    va = 0.999 * va + 0.001 * ga * ga;
    a -= 0.1 * (ma / (1.0 - pow(0.9, t))) / (sqrt(va / (1.0 - pow(0.999, t))) + 1e-8);
    assert_true(fabs(x[0] - a) < 1e-12);
    assert_true(fabs((double)y[0] - x[0]) < 1e-5);
    assert_true(fabs(x[1] - (-2.0 - 0.1 * t)) < 1e-6); /* a steady gradient moves by the rate */
  }
}

/* ---- a small model to train on ---- */

#define B 12
#define N_WINDOWS 10
#define WINDOW 12

typedef struct world {
  ss_model *model;
  ss_pass *pass;
  int32_t tokens[N_WINDOWS * WINDOW];
  uint32_t starts[N_WINDOWS + 1];
  ss_windows windows;
  uint64_t costs[B];
  float dense[N_WINDOWS * WINDOW * 64];
  bool dense_known[N_WINDOWS];
  ss_l0_data data;
} world;

static void world_open(world *w, uint32_t max_windows) {
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0, .n_layers = B / 2, .seed = 3});
  ss_error err = {0};
  ss_rng rng = ss_rng_seed(4);
  *w = (world){.windows = {.n = N_WINDOWS}};
  if (ss_model_create(&w->model, &test_host, NULL, &err) || ss_model_feed(w->model, 0, image.data, image.len, &err))
    fail_msg("%s", err.message);
  gguf_image_free(&image);
  for (uint32_t i = 0; i < N_WINDOWS * WINDOW; i++) w->tokens[i] = (int32_t)ss_rng_below(&rng, TINY_VOCAB);
  for (uint32_t i = 0; i <= N_WINDOWS; i++) w->starts[i] = i * WINDOW;
  w->windows.tokens = w->tokens;
  w->windows.starts = w->starts;
  w->data = (ss_l0_data){&w->windows, w->dense, w->dense_known};
  for (uint32_t b = 0; b < B; b++) w->costs[b] = b % 2 ? 3000 : 1000;
  const ss_pass_options options = {
      .max_windows = max_windows, .max_tokens = max_windows * WINDOW, .longest = WINDOW, .keep_bytes = 1 << 20};
  if (ss_pass_create(&w->pass, w->model, &options, &test_host, &err)) fail_msg("%s", err.message);
}

static void world_close(world *w) {
  ss_pass_free(w->pass);
  ss_model_free(w->model);
}

static ss_l0_options options_of(const world *w) {
  return (ss_l0_options){
      .n_blocks = B, .costs = w->costs, .to = 0.3, .warm_up = 10, .windows_per_step = 4, .rate = 0.5, .seed = 5};
}

static void take_step(ss_l0_state *s, const ss_l0_options *o, world *w, ss_l0_report *r) {
  ss_error err = {0};
  if (ss_l0_step(s, o, w->pass, &w->data, r, &err)) fail_msg("%s", err.message);
}

static void test_training_starts_at_the_mask_and_in_the_order_of_the_scores(void **state) {
  (void)state;
  world w;
  world_open(&w, 4);
  ss_l0_options o = options_of(&w);
  ss_l0_state s;
  ss_mask mask;
  double scores[B];
  ss_mask_fill(&mask, B);
  ss_mask_set(&mask, 3, false);
  ss_mask_set(&mask, 4, false);
  for (uint32_t b = 0; b < B; b++) scores[b] = (b % 2 ? 3.0 : 1.0) * (b + 1); /* harm per MAC grows with b */
  o.from = 4.0 / 24;
  assert_int_equal(ss_l0_begin(&s, &o, &mask, scores, 0.7, NULL), SS_OK);
  assert_true(fabs(ss_gates_skipped(s.log_alpha, w.costs, B, NULL) - o.from) < 1e-9);
  for (uint32_t a = 0; a < B; a++)
    for (uint32_t b = 0; b < B; b++) {
      if (ss_mask_has(&mask, a) && !ss_mask_has(&mask, b)) assert_true(s.log_alpha[a] > s.log_alpha[b] + 2.0);
      if (ss_mask_has(&mask, a) == ss_mask_has(&mask, b) && a > b) assert_true(s.log_alpha[a] > s.log_alpha[b]);
    }
  ss_budget budget;
  ss_mask again;
  assert_int_equal(ss_budget_create(&budget, w.costs, B, &test_host, NULL), SS_OK);
  assert_int_equal(ss_l0_binarise(&again, &s, &budget, 4, &test_host, NULL), SS_OK);
  assert_memory_equal(&mask, &again, sizeof mask);
  ss_budget_free(&budget, &test_host);
  world_close(&w);
}

static void test_the_expected_share_follows_its_target_and_never_overshoots(void **state) {
  (void)state;
  world w;
  world_open(&w, 4);
  for (int objective = 0; objective < 2; objective++) {
    ss_l0_options o = options_of(&w);
    ss_l0_state s;
    ss_l0_report r;
    ss_mask all;
    o.objective = objective ? SS_OBJECTIVE_KL : SS_OBJECTIVE_LM;
    ss_mask_fill(&all, B);
    assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, NULL), SS_OK);
    for (uint32_t i = 1; i <= 30; i++) {
      take_step(&s, &o, &w, &r);
      assert_true(fabs(r.target - 0.3 * fmin(i / 10.0, 1.0)) < 1e-12);
      assert_true(fabs(r.skipped - r.target) < SS_L0_SLACK + 1e-6);
      assert_true(isfinite(r.loss) && r.nll > 0.0);
      assert_true(objective ? r.loss == r.kl : r.loss == r.nll && r.kl == 0.0);
      assert_int_equal(r.tokens, 4 * WINDOW);
      assert_int_equal(s.step, i);
    }
  }
  world_close(&w);
}

static void test_a_copied_state_goes_on_with_the_same_bits(void **state) {
  (void)state;
  world w, small;
  world_open(&w, 4);
  world_open(&small, 2); /* the same step in two batches */
  ss_l0_options o = options_of(&w);
  o.objective = SS_OBJECTIVE_KL;
  ss_l0_state s, copy, split;
  ss_l0_report r;
  ss_mask all;
  ss_mask_fill(&all, B);
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, NULL), SS_OK);
  split = s;
  for (int i = 0; i < 4; i++) take_step(&s, &o, &w, &r);
  copy = s;
  for (int i = 0; i < 4; i++) take_step(&s, &o, &w, &r);
  memset(w.dense_known, 0, sizeof w.dense_known);
  const ss_l0_data uncached = {.windows = &w.windows};
  for (int i = 0; i < 4; i++) assert_int_equal(ss_l0_step(&copy, &o, w.pass, &uncached, &r, NULL), SS_OK);
  assert_memory_equal(&s, &copy, sizeof s);
  for (int i = 0; i < 8; i++) take_step(&split, &o, &small, &r);
  for (uint32_t b = 0; b < B; b++) assert_true(fabs(split.log_alpha[b] - s.log_alpha[b]) < 1e-4);
  world_close(&w);
  world_close(&small);
}

/* Two machines, one after the other: the first round collects what each would send. */
typedef struct exchange {
  double sums[2][SS_MAX_BLOCKS + 16];
  size_t n;
  uint32_t rank;
  bool collect;
} exchange;

static ss_status all_reduce(void *ctx, double *values, size_t n, ss_error *err) {
  exchange *e = ctx;
  e->n = n;
  if (e->collect) {
    memcpy(e->sums[e->rank], values, n * sizeof *values);
    return ss_fail(err, SS_E_STATE, "collected");
  }
  for (size_t i = 0; i < n; i++) values[i] = e->sums[0][i] + e->sums[1][i];
  return SS_OK;
}

static void test_two_machines_do_what_one_does(void **state) {
  (void)state;
  world w;
  world_open(&w, 4);
  ss_l0_options one = options_of(&w), o = one;
  ss_l0_state alone, s[2], was;
  ss_l0_report r;
  ss_mask all;
  exchange e = {.collect = false};
  o.n_ranks = 2;
  o.all_reduce = all_reduce;
  o.reduce_ctx = &e;
  ss_mask_fill(&all, B);
  assert_int_equal(ss_l0_begin(&alone, &one, &all, NULL, 0, NULL), SS_OK);
  s[0] = s[1] = alone;
  for (int i = 0; i < 5; i++) {
    take_step(&alone, &one, &w, &r);
    for (int round = 0; round < 2; round++)
      for (e.rank = 0; e.rank < 2; e.rank++) {
        e.collect = round == 0;
        o.rank = e.rank;
        was = s[e.rank];
        const ss_status status = ss_l0_step(&s[e.rank], &o, w.pass, &w.data, &r, NULL);
        assert_int_equal(status, e.collect ? SS_E_STATE : SS_OK);
        if (e.collect) assert_memory_equal(&was, &s[e.rank], sizeof was); /* a step that fails changes nothing */
      }
    assert_memory_equal(&s[0], &s[1], sizeof s[0]);
    assert_int_equal(r.tokens, 4 * WINDOW);
  }
  for (uint32_t b = 0; b < B; b++) assert_true(fabs(alone.log_alpha[b] - s[0].log_alpha[b]) < 1e-6);
  world_close(&w);
}

static void test_an_epoch_takes_every_window_once(void **state) {
  (void)state;
  world w;
  world_open(&w, 2);
  ss_l0_options o = options_of(&w);
  ss_l0_state s;
  ss_l0_report r;
  ss_mask all;
  o.objective = SS_OBJECTIVE_KL;
  o.windows_per_step = 2;
  ss_mask_fill(&all, B);
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, NULL), SS_OK);
  for (int i = 0; i < N_WINDOWS / 2; i++) {
    int known = 0;
    take_step(&s, &o, &w, &r);
    for (int k = 0; k < N_WINDOWS; k++) known += w.dense_known[k];
    assert_int_equal(known, 2 * (i + 1));
  }
  world_close(&w);
}

static void test_training_refuses_impossible_options(void **state) {
  (void)state;
  world w;
  world_open(&w, 4);
  ss_l0_state s;
  ss_l0_report r;
  ss_mask all;
  ss_error err;
  ss_mask_fill(&all, B);
  ss_l0_options o = options_of(&w);
  o.windows_per_step = 3;
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "3 windows"));
  o = options_of(&w);
  o.to = 1.0;
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, &err), SS_E_ARGUMENT);
  o = options_of(&w);
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 1.5, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_l0_begin(&s, &o, &all, NULL, 0, &err), SS_OK);
  o.n_ranks = 2;
  assert_int_equal(ss_l0_step(&s, &o, w.pass, &w.data, &r, &err), SS_E_ARGUMENT);
  o = options_of(&w);
  s.n_blocks = 4;
  assert_int_equal(ss_l0_step(&s, &o, w.pass, &w.data, &r, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "a state of 4"));
  world_close(&w);
}

static void test_binarise_finds_the_best_mask_of_exactly_that_many_units(void **state) {
  (void)state;
  ss_rng rng = ss_rng_seed(6);
  for (int round = 0; round < 20; round++) {
    ss_l0_state s = {.n_blocks = B};
    uint64_t costs[B];
    ss_budget budget;
    for (uint32_t b = 0; b < B; b++) {
      s.log_alpha[b] = 4.0 * ss_rng_unit(&rng) - 2.0;
      costs[b] = 500 * (1 + b % 3);
    }
    assert_int_equal(ss_budget_create(&budget, costs, B, &test_host, NULL), SS_OK);
    for (uint64_t units = 0; units <= budget.total; units += 3) {
      ss_mask mask;
      double best = INFINITY, got = 0.0;
      for (uint32_t bits = 0; bits < 1u << B; bits++) { /* bits: what is skipped */
        uint64_t cost = 0;
        double sum = 0.0;
        for (uint32_t b = 0; b < B; b++)
          if (bits >> b & 1) cost += budget.costs[b], sum += s.log_alpha[b];
        if (cost == units && sum < best) best = sum;
      }
      assert_int_equal(ss_l0_binarise(&mask, &s, &budget, units, &test_host, NULL), SS_OK);
      assert_int_equal(ss_budget_skipped(&budget, &mask), units);
      for (uint32_t b = 0; b < B; b++) got += ss_mask_has(&mask, b) ? 0.0 : s.log_alpha[b];
      assert_true(fabs(got - best) < 1e-12);
    }
    ss_mask mask;
    ss_error err;
    assert_int_equal(ss_l0_binarise(&mask, &s, &budget, budget.total + 1, &test_host, &err), SS_E_ARGUMENT);
    ss_budget_free(&budget, &test_host);
  }
}

/* ---- swaps ---- */

#define LAYERS 10
#define BLOCKS (2 * LAYERS)

typedef struct market {
  double harm[BLOCKS], together[BLOCKS][BLOCKS];
  uint32_t n_calls, stop_after;
} market;

static ss_status loss_in(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  market *m = ctx;
  (void)base, (void)err;
  *loss = 2.0;
  for (uint32_t a = 0; a < BLOCKS; a++)
    for (uint32_t b = 0; b <= a; b++)
      if (!ss_mask_has(mask, a) && !ss_mask_has(mask, b)) *loss += a == b ? m->harm[a] : m->together[a][b];
  m->n_calls++;
  return SS_OK;
}

static bool watch(void *ctx, const ss_swap_progress *p) {
  const market *m = ctx;
  return !m->stop_after || p->n_losses < m->stop_after;
}

static void market_open(market *m, uint64_t seed, double together) {
  ss_rng rng = ss_rng_seed(seed);
  *m = (market){.n_calls = 0};
  for (uint32_t a = 0; a < BLOCKS; a++) {
    m->harm[a] = (a % 2 ? 3.0 : 1.0) * (0.01 + 0.2 * ss_rng_unit(&rng));
    for (uint32_t b = 0; b < a; b++) m->together[a][b] = together * (ss_rng_unit(&rng) - 0.3);
  }
}

static void test_swaps_reach_the_best_mask_where_blocks_do_not_depend_on_each_other(void **state) {
  (void)state;
  uint64_t costs[BLOCKS];
  ss_budget budget;
  for (uint32_t b = 0; b < BLOCKS; b++) costs[b] = b % 2 ? 3 : 1;
  assert_int_equal(ss_budget_create(&budget, costs, BLOCKS, &test_host, NULL), SS_OK);
  for (uint64_t seed = 0; seed < 10; seed++) {
    market m;
    market_open(&m, seed, 0.0);
    ss_mask mask;
    ss_swap_result r;
    ss_mask_fill(&mask, BLOCKS);
    for (uint32_t b = 0; b < 3; b++) ss_mask_set(&mask, 2 * b, false);
    ss_mask_set(&mask, 5, false);
    const ss_mask from = mask;
    const ss_swap_options o = {.budget = &budget, .loss = loss_in, .watch = watch, .ctx = &m};
    assert_int_equal(ss_swap_search(&mask, &r, &o, &test_host, NULL), SS_OK);
    assert_int_equal(ss_budget_skipped(&budget, &mask), 6);
    assert_int_equal(r.n_losses, m.n_calls);
    double best = INFINITY;
    for (uint32_t bits = 0; bits < 1u << BLOCKS; bits++) {
      uint32_t cost = 0;
      double loss = 2.0;
      for (uint32_t b = 0; b < BLOCKS && cost <= 6; b++)
        if (bits >> b & 1) cost += b % 2 ? 3 : 1, loss += m.harm[b];
      if (cost == 6 && loss < best) best = loss;
    }
    assert_true(fabs(r.loss - best) < 1e-9);
    /* right scores lead there without a loss for each block */
    ss_swap_options guided = o;
    guided.scores = m.harm;
    guided.max_losses = 2 + BLOCKS + SS_SWAP_TRIES;
    mask = from;
    assert_int_equal(ss_swap_search(&mask, &r, &guided, &test_host, NULL), SS_OK);
    assert_true(fabs(r.loss - best) < 1e-9);
  }
  ss_budget_free(&budget, &test_host);
}

static void test_swaps_keep_the_budget_and_the_margin_never_hurt_and_stop_when_told(void **state) {
  (void)state;
  uint64_t costs[BLOCKS];
  ss_budget budget;
  for (uint32_t b = 0; b < BLOCKS; b++) costs[b] = b % 2 ? 3 : 1;
  assert_int_equal(ss_budget_create(&budget, costs, BLOCKS, &test_host, NULL), SS_OK);
  for (uint64_t seed = 0; seed < 10; seed++) {
    market m;
    market_open(&m, seed, 0.3);
    ss_rng rng = ss_rng_seed(seed);
    ss_mask start, mask, from, taken = {0};
    ss_mask_fill(&from, BLOCKS);
    assert_true(ss_budget_draw(&budget, &from, 9, &taken, &rng));
    start = mask = from;
    ss_swap_result r, again;
    double before, after;
    ss_swap_options o = {.budget = &budget, .loss = loss_in, .watch = watch, .ctx = &m};
    assert_int_equal(ss_swap_search(&mask, &r, &o, &test_host, NULL), SS_OK);
    loss_in(&m, &start, &start, &before, NULL);
    loss_in(&m, &mask, &mask, &after, NULL);
    assert_int_equal(ss_budget_skipped(&budget, &mask), 9);
    assert_true(r.first_loss == before && r.loss == after && after <= before);
    assert_true(r.n_swaps > 0 || after == before);
    ss_mask twice = start;
    assert_int_equal(ss_swap_search(&twice, &again, &o, &test_host, NULL), SS_OK);
    assert_memory_equal(&mask, &twice, sizeof mask);
    o.margin = 0.05;
    twice = start;
    assert_int_equal(ss_swap_search(&twice, &again, &o, &test_host, NULL), SS_OK);
    assert_true(again.first_loss - again.loss >= again.n_swaps * 0.05);
    o.margin = 100;
    twice = start;
    assert_int_equal(ss_swap_search(&twice, &again, &o, &test_host, NULL), SS_OK);
    assert_true(again.n_swaps == 0 && !memcmp(&twice, &start, sizeof start));
    o.margin = 0;
    o.max_losses = 25;
    twice = start;
    assert_int_equal(ss_swap_search(&twice, &again, &o, &test_host, NULL), SS_OK);
    assert_int_equal(again.n_losses, 25);
    assert_int_equal(ss_budget_skipped(&budget, &twice), 9);
    m.stop_after = 10;
    twice = start;
    assert_int_equal(ss_swap_search(&twice, &again, &o, &test_host, NULL), SS_E_STATE);
    assert_memory_equal(&twice, &start, sizeof start);
  }
  ss_budget_free(&budget, &test_host);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_adam_takes_the_steps_of_the_paper),
      cmocka_unit_test(test_training_starts_at_the_mask_and_in_the_order_of_the_scores),
      cmocka_unit_test(test_the_expected_share_follows_its_target_and_never_overshoots),
      cmocka_unit_test(test_a_copied_state_goes_on_with_the_same_bits),
      cmocka_unit_test(test_two_machines_do_what_one_does),
      cmocka_unit_test(test_an_epoch_takes_every_window_once),
      cmocka_unit_test(test_training_refuses_impossible_options),
      cmocka_unit_test(test_binarise_finds_the_best_mask_of_exactly_that_many_units),
      cmocka_unit_test(test_swaps_reach_the_best_mask_where_blocks_do_not_depend_on_each_other),
      cmocka_unit_test(test_swaps_keep_the_budget_and_the_margin_never_hurt_and_stop_when_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
