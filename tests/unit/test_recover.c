/* Fitting recovery: the closed form is the regression that it says, training lowers KL, held-back text decides, and a run
 * that is cut up, resumed or spread over threads has the same bits. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "model/session.h"
#include "test.h"
#include "train/recover.h"

enum { TRAIN = 12, HELD = 5, LENGTH = 20, EMBD = 64, BLOCKS = 4 };
static ss_model *model; /* two layers, 64 wide, Q4_1 */
static int32_t tokens[(TRAIN + HELD) * LENGTH];
static uint32_t starts[TRAIN + HELD + 1];
static const ss_windows train = {.tokens = tokens, .starts = starts, .n = TRAIN};
static const ss_windows held = {.tokens = tokens, .starts = starts + TRAIN, .n = HELD};
static ss_mask mask; /* skips the first feed-forward block and the second attention */

static void make_text(void) {
  ss_rng rng = ss_rng_seed(5);
  for (uint32_t i = 0; i <= TRAIN + HELD; i++) starts[i] = i * LENGTH - (i % 2 ? 3 : 0); /* not all of one length */
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) /* some order in it */
    tokens[i] = i % 3 ? (tokens[i - 1] * 7 + 3) % 120 : (int32_t)ss_rng_below(&rng, 120);
  ss_mask_fill(&mask, BLOCKS);
  ss_mask_set(&mask, 1, false);
  ss_mask_set(&mask, 2, false);
}

static const ss_recover_data *data(void) {
  static ss_recover_data d;
  d = (ss_recover_data){.model = model, .mask = &mask, .train = &train, .held = &held};
  return &d;
}

static ss_recover *make(const ss_recover_options *options, const ss_host *host) {
  ss_recover *r;
  ss_error err = {0};
  if (ss_recover_create(&r, data(), options, host, &err)) fail_msg("%s", err.message);
  return r;
}

static ss_recover_report run(ss_recover *r) {
  ss_error err = {0};
  ss_status status;
  while ((status = ss_recover_step(r, &err)) == SS_MORE) continue;
  if (status) fail_msg("%s", err.message);
  return ss_recover_progress(r);
}

static uint64_t hash_of(ss_recover *r) {
  const ss_recovery *x = ss_recover_result(r);
  uint64_t hash = SS_FNV_START;
  for (uint32_t i = 0; x && i < x->n_blocks; i++) {
    const ss_recovery_block *b = &x->blocks[i];
    hash = ss_fnv1a(hash, &b->scale, sizeof b->scale);
    if (b->gains) hash = ss_fnv1a(hash, b->gains, EMBD * sizeof(float));
    if (b->a) hash = ss_fnv1a(hash, b->a, EMBD * sizeof(float));
    if (b->b) hash = ss_fnv1a(hash, b->b, EMBD * sizeof(float));
  }
  return hash;
}

/* The residual stream in front of a block, by the session's own walk. */
static void stream_before(uint32_t block, const ss_recovery *recovery, uint32_t window, float *h) {
  ss_session *s;
  ss_error err = {0};
  const ss_session_options options = {
      .context = LENGTH + 3, .chunk = LENGTH + 3, .run_mask = &mask, .recovery = recovery};
  if (ss_session_create(&s, model, &options, &test_host, &err)) fail_msg("%s", err.message);
  s->tokens = tokens + starts[window];
  s->n = starts[window + 1] - starts[window];
  ss_run_embedding(s);
  for (uint32_t i = 0; i < block; i++) {
    if (ss_mask_has(&mask, i)) ss_run_block(s, i);
    else ss_run_stand_in(s, i);
  }
  memcpy(h, s->h, s->n * EMBD * sizeof *h);
  ss_session_free(s);
}

/* What the block adds to that stream. */
static void block_output(uint32_t block, uint32_t window, const float *h, float *y) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, model, &(ss_session_options){.context = LENGTH + 3, .chunk = LENGTH + 3}, &test_host, &err))
    fail_msg("%s", err.message);
  s->tokens = tokens + starts[window];
  s->n = starts[window + 1] - starts[window];
  ss_run_embedding(s);
  memcpy(s->h, h, s->n * EMBD * sizeof *h);
  ss_run_block(s, block);
  for (uint32_t i = 0; i < s->n * EMBD; i++) y[i] = s->h[i] - h[i];
  ss_session_free(s);
}

static void test_stand_ins_are_the_ridge_regression_on_the_pruned_trajectory(void **state) {
  (void)state;
  ss_recover *r = make(&(ss_recover_options){.parts = SS_RECOVER_STAND_INS, .ridge = 0.05}, &test_host);
  const ss_recover_report report = run(r);
  const ss_recovery *found = ss_recover_result(r);
  assert_true(report.closed.kl < report.none.kl);
  assert_int_equal(report.parts, SS_RECOVER_STAND_INS);
  assert_true(report.final.kl == report.closed.kl);
  for (uint32_t block = 1; block < 3; block++) {
    static double x[EMBD], y[EMBD], xx[EMBD], xy[EMBD];
    double n = 0;
    memset(x, 0, sizeof x), memset(y, 0, sizeof y), memset(xx, 0, sizeof xx), memset(xy, 0, sizeof xy);
    for (uint32_t w = 0; w < TRAIN; w++) {
      static float h[(LENGTH + 3) * EMBD], out[(LENGTH + 3) * EMBD];
      stream_before(block, found, w, h);
      block_output(block, w, h, out);
      for (uint32_t t = 0; t < starts[w + 1] - starts[w]; t++, n++)
        for (uint32_t c = 0; c < EMBD; c++) {
          const double u = (double)h[t * EMBD + c], v = (double)out[t * EMBD + c];
          x[c] += u, y[c] += v, xx[c] += u * u, xy[c] += u * v;
        }
    }
    for (uint32_t c = 0; c < EMBD; c++) {
      const double variance = xx[c] / n - x[c] / n * (x[c] / n), both = xy[c] / n - x[c] / n * (y[c] / n);
      const double a = both / (variance * 1.05), b = y[c] / n - a * x[c] / n;
      assert_true(fabs((double)found->blocks[block].a[c] - a) < 1e-3 * (1 + fabs(a)));
      assert_true(fabs((double)found->blocks[block].b[c] - b) < 1e-3 * (1 + fabs(b)));
    }
  }
  assert_null(found->blocks[0].gains);
  assert_null(found->blocks[0].a);
  assert_true(found->blocks[3].scale == 1);
  ss_recover_free(r);
}

static const ss_recover_options usual = {.steps = 12, .tokens_per_step = 64, .check_every = 4, .rate = 0.02, .seed = 3};

static void test_training_lowers_kl_and_only_the_asked_parts_change(void **state) {
  (void)state;
  for (uint32_t parts = 1; parts <= SS_RECOVER_ALL; parts++) {
    ss_recover_options o = usual;
    o.parts = parts;
    ss_recover *r = make(&o, &test_host);
    const ss_recover_report report = run(r);
    assert_true(report.final.kl < report.none.kl);
    assert_true(report.best_step > 0 && report.trained.kl < report.none.kl);
    assert_int_equal(report.parts & ~parts, 0);
    const ss_recovery *x = ss_recover_result(r);
    assert_int_equal(x->output_gains != NULL, report.parts & SS_RECOVER_GAINS);
    for (uint32_t i = 0; i < BLOCKS; i++) {
      const bool runs = ss_mask_has(&mask, i);
      assert_int_equal(x->blocks[i].gains != NULL, runs && report.parts & SS_RECOVER_GAINS);
      assert_int_equal(x->blocks[i].a != NULL, !runs && report.parts & SS_RECOVER_STAND_INS);
      if (!runs || !(report.parts & SS_RECOVER_SCALES)) assert_true(x->blocks[i].scale == 1);
    }
    ss_recover_free(r);
  }
}

/* The report's KL is what a session that runs the result gives. */
static void test_the_final_kl_is_that_of_a_session_with_the_result(void **state) {
  (void)state;
  ss_recover *r = make(&usual, &test_host);
  const ss_recover_report report = run(r);
  ss_recovery *copy;
  ss_error err = {0};
  assert_int_equal(ss_recovery_copy(&copy, ss_recover_result(r), &test_host, &err), SS_OK);
  const uint64_t hash = hash_of(r);
  ss_recover_free(r);
  uint64_t copy_hash = SS_FNV_START;
  double nll = 0, kl = 0;
  uint32_t n_scored = 0, n_vocab;
  ss_model_info info;
  assert_int_equal(ss_model_info_get(model, &info, &err), SS_OK);
  n_vocab = info.n_vocab;
  static float scratch[4096];
  for (uint32_t w = TRAIN; w < TRAIN + HELD; w++) {
    const uint32_t n = starts[w + 1] - starts[w];
    ss_session *s, *d;
    double row_nll[LENGTH + 3], row_kl[LENGTH + 3];
    const ss_session_options options = {.context = n, .max_logits = n, .run_mask = &mask, .recovery = copy};
    assert_int_equal(ss_session_create(&s, model, &options, &test_host, &err), SS_OK);
    assert_int_equal(ss_session_begin(s, tokens + starts[w], n - 1, n - 1, &err), SS_OK);
    assert_int_equal(ss_session_run(s, 0, &err), SS_OK);
    d = run_tokens(model, tokens + starts[w], n - 1);
    ss_score_rows(row_nll, row_kl, ss_session_logits(s, 0), ss_session_logits(d, 0), tokens + starts[w] + 1, n - 1,
                  n_vocab, ss_padded(n_vocab), scratch, model, &test_host);
    for (uint32_t i = 0; i + 1 < n; i++) nll += row_nll[i], kl += row_kl[i], n_scored++;
    ss_session_free(s);
    ss_session_free(d);
  }
  assert_true(fabs(nll / n_scored - report.final.nll) < 1e-9 && fabs(kl / n_scored - report.final.kl) < 1e-9);
  for (uint32_t i = 0; i < BLOCKS; i++) {
    const ss_recovery_block *b = &copy->blocks[i];
    copy_hash = ss_fnv1a(copy_hash, &b->scale, sizeof b->scale);
    if (b->gains) copy_hash = ss_fnv1a(copy_hash, b->gains, EMBD * sizeof(float));
    if (b->a) copy_hash = ss_fnv1a(copy_hash, b->a, EMBD * sizeof(float));
    if (b->b) copy_hash = ss_fnv1a(copy_hash, b->b, EMBD * sizeof(float));
  }
  assert_int_equal(copy_hash, hash);
  ss_recovery_free(copy, &test_host);
  ss_recovery_free(NULL, &test_host);
}

/* A mask that skips nothing has nothing to recover: whatever training finds is worse, and goes. */
static void test_what_does_not_lower_kl_on_held_back_text_is_dropped(void **state) {
  (void)state;
  ss_mask all;
  ss_mask_fill(&all, BLOCKS);
  ss_recover_data d = *data();
  d.mask = &all;
  ss_recover *r;
  assert_int_equal(ss_recover_create(&r, &d, &usual, &test_host, NULL), SS_OK);
  const ss_recover_report report = run(r);
  assert_true(report.none.kl < 1e-9 && report.none.nll == report.dense_nll);
  assert_int_equal(report.step, usual.steps);
  assert_int_equal(report.best_step, 0);
  assert_int_equal(report.parts, 0);
  assert_null(ss_recover_result(r));
  ss_recover_free(r);
}

/* Another mask, alike but for one block, starts from the numbers of the first where both run or skip a block. */
static void test_a_start_is_taken_for_the_blocks_that_are_alike(void **state) {
  (void)state;
  ss_error err = {0};
  ss_recover *first = make(&usual, &test_host), *r, *again;
  run(first);
  const ss_recovery *start = ss_recover_result(first);
  assert_non_null(start);
  ss_mask other = mask;
  ss_mask_set(&other, 3, false);
  ss_recover_data d = *data();
  d.mask = &other;
  ss_recover_options o = usual;
  o.steps = 0;
  assert_int_equal(ss_recover_create(&r, &d, &o, &test_host, &err), SS_OK);
  const ss_recover_report without = run(r);
  ss_recover_free(r);

  d.start = start;
  assert_int_equal(ss_recover_create(&r, &d, &o, &test_host, &err), SS_OK);
  const ss_recover_report report = run(r);
  const ss_recovery *x = ss_recover_result(r);
  assert_true(report.none.kl == without.none.kl && report.final.kl < without.final.kl);
  for (uint32_t i = 0; i < 3; i++) {
    const ss_recovery_block *a = &x->blocks[i], *b = &start->blocks[i];
    assert_int_equal(a->gains != NULL, b->gains && report.parts & SS_RECOVER_GAINS);
    if (a->gains) assert_memory_equal(a->gains, b->gains, EMBD * sizeof(float));
    if (a->a && b->a) assert_memory_equal(a->a, b->a, EMBD * sizeof(float));
  }
  assert_null(x->blocks[3].gains);
  assert_int_equal(x->blocks[3].a != NULL, (report.parts & SS_RECOVER_STAND_INS) != 0);

  size_t n;
  const void *saved = ss_recover_state(r, &n);
  assert_int_equal(ss_recover_create(&again, &d, &o, &test_host, &err), SS_OK);
  assert_int_equal(ss_recover_resume(again, saved, n, &err), SS_OK);
  assert_int_equal(hash_of(again), hash_of(r));
  ss_recover_free(again);
  d.start = NULL;
  assert_int_equal(ss_recover_create(&again, &d, &o, &test_host, &err), SS_OK);
  assert_int_equal(ss_recover_resume(again, saved, n, &err), SS_E_FORMAT);
  ss_recover_free(again);
  ss_recover_free(r);

  const ss_recovery narrow = {.n_blocks = BLOCKS, .n_embd = EMBD / 2, .blocks = start->blocks};
  d.start = &narrow;
  assert_int_equal(ss_recover_create(&r, &d, &o, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "of width 32"));
  ss_recover_free(first);
}

static void test_training_ends_when_kl_no_longer_falls(void **state) {
  (void)state;
  ss_recover_options o = usual;
  o.rate = 0.5;
  o.steps = 1000;
  o.check_every = 1;
  o.patience = 2;
  ss_recover *r = make(&o, &test_host);
  assert_true(run(r).step < 100);
  ss_recover_free(r);
}

static void test_a_run_that_is_resumed_at_any_step_has_the_same_bits(void **state) {
  (void)state;
  ss_recover *whole = make(&usual, &test_host), *cut = make(&usual, &test_host);
  run(whole);
  ss_error err = {0};
  for (;;) {
    size_t n;
    const void *saved = ss_recover_state(cut, &n);
    ss_recover *next = make(&usual, &test_host);
    assert_int_equal(ss_recover_resume(next, saved, n, &err), SS_OK);
    ss_recover_free(cut);
    cut = next;
    const ss_status status = ss_recover_step(cut, &err);
    assert_true(status >= 0);
    if (status == SS_OK) break;
  }
  const ss_recover_report a = ss_recover_progress(whole), b = ss_recover_progress(cut);
  assert_memory_equal(&a, &b, sizeof a);
  assert_int_equal(hash_of(whole), hash_of(cut));

  size_t n;
  const void *saved = ss_recover_state(cut, &n);
  ss_recover_options other = usual;
  other.seed++;
  ss_recover *r = make(&other, &test_host);
  assert_int_equal(ss_recover_resume(r, saved, n, &err), SS_E_FORMAT);
  assert_non_null(strstr(err.message, "of other data"));
  assert_int_equal(ss_recover_resume(r, saved, n - 1, &err), SS_E_FORMAT);
  ss_recover_free(r);
  ss_recover_free(whole);
  ss_recover_free(cut);
}

/* Also where the last block is skipped, and the head follows an attention block. */
static void check_threads_and_kept_memory(void) {
  ss_recover *one = make(&usual, &test_host);
  const ss_recover_report a = run(one);
  for (uint32_t threads = 2; threads <= 5; threads += 3) {
    ss_host host = test_host;
    host.n_threads = threads;
    host.parallel_for = reverse_parallel;
    ss_recover_options o = usual;
    o.keep_bytes = threads == 2 ? 1 << 20 : 0;
    ss_recover *many = make(&o, &host);
    const ss_recover_report b = run(many);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(hash_of(one), hash_of(many));
    ss_recover_free(many);
  }
  ss_recover_free(one);
}

static void test_threads_and_kept_memory_change_no_bit(void **state) {
  (void)state;
  const ss_mask usual_mask = mask;
  check_threads_and_kept_memory();
  ss_mask_fill(&mask, BLOCKS);
  ss_mask_set(&mask, 3, false);
  check_threads_and_kept_memory();
  mask = usual_mask;
}

typedef struct peak_memory {
  size_t live, peak;
} peak_memory;
static void *peak_alloc(void *ctx, size_t bytes) {
  peak_memory *m = ctx;
  m->live += bytes;
  if (m->live > m->peak) m->peak = m->live;
  return test_alloc(NULL, bytes);
}
static void peak_free(void *ctx, void *p, size_t bytes) {
  peak_memory *m = ctx;
  m->live -= bytes;
  free(p);
}

static void test_memory_is_what_bytes_says_at_most(void **state) {
  (void)state;
  peak_memory memory = {0};
  const ss_host host = {.alloc = peak_alloc, .free = peak_free, .n_threads = 1, .ctx = &memory};
  ss_recover_options o = usual;
  o.keep_bytes = 1 << 18;
  const size_t promised = ss_recover_bytes(data(), &o, &host);
  ss_recover *r = make(&o, &host);
  run(r);
  assert_true(memory.peak <= promised && memory.peak > promised / 2);
  ss_recover_free(r);
  assert_int_equal(memory.live, 0);
}

static void test_every_failed_allocation_is_a_status_and_leaks_nothing(void **state) {
  (void)state;
  ss_recover_options o = usual;
  o.steps = 1;
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_recover *r = NULL;
    ss_error err = {0};
    ss_status status = ss_recover_create(&r, data(), &o, &host, &err);
    while (r && (status = ss_recover_step(r, &err)) == SS_MORE) continue;
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_recover_free(r);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
  }
}

static void test_impossible_options_are_named(void **state) {
  (void)state;
  ss_recover *r;
  ss_error err = {0};
  ss_recover_data d = *data();
  assert_int_equal(ss_recover_create(&r, &d, &(ss_recover_options){.parts = 8}, &test_host, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_recover_create(&r, &d, &(ss_recover_options){.rate = -1}, &test_host, &err), SS_E_ARGUMENT);
  const ss_windows none = {.tokens = tokens, .starts = starts};
  d.held = &none;
  assert_int_equal(ss_recover_create(&r, &d, &usual, &test_host, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "no held-back text"));
  assert_int_equal(ss_recover_bytes(&d, &usual, &test_host), 0);
  d = *data();
  ss_mask other = mask;
  ss_mask_set(&other, 9, true);
  d.mask = &other;
  assert_int_equal(ss_recover_create(&r, &d, &usual, &test_host, &err), SS_E_ARGUMENT);
  assert_null(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stand_ins_are_the_ridge_regression_on_the_pruned_trajectory),
      cmocka_unit_test(test_training_lowers_kl_and_only_the_asked_parts_change),
      cmocka_unit_test(test_the_final_kl_is_that_of_a_session_with_the_result),
      cmocka_unit_test(test_what_does_not_lower_kl_on_held_back_text_is_dropped),
      cmocka_unit_test(test_a_start_is_taken_for_the_blocks_that_are_alike),
      cmocka_unit_test(test_training_ends_when_kl_no_longer_falls),
      cmocka_unit_test(test_a_run_that_is_resumed_at_any_step_has_the_same_bits),
      cmocka_unit_test(test_threads_and_kept_memory_change_no_bit),
      cmocka_unit_test(test_memory_is_what_bytes_says_at_most),
      cmocka_unit_test(test_every_failed_allocation_is_a_status_and_leaks_nothing),
      cmocka_unit_test(test_impossible_options_are_named),
  };
  model = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  if (!model) return skip_all("tests/golden/tiny/q4_1.gguf is not there");
  make_text();
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
