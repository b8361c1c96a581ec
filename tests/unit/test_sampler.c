/* The sampler: order of filters, penalties, determinism. */
#include <math.h>
#include <string.h>

#include "host.h"
#include "skipstone.h"
#include "test.h"

static ss_sampler *make(uint32_t n, ss_sampler_options o) {
  ss_sampler *s;
  ss_error err = {0};
  if (ss_sampler_create(&s, n, &o, &test_host, &err)) fail_msg("%s", err.message);
  return s;
}

static int32_t pick(ss_sampler *s, const float *logits, size_t n) {
  float copy[64];
  memcpy(copy, logits, n * sizeof *copy);
  return ss_sampler_pick(s, copy);
}

static const ss_sampler_options plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};

static void test_greedy_takes_the_lower_id_of_a_tie(void **state) {
  (void)state;
  const float logits[] = {1.0f, 5.0f, 5.0f, -3.0f};
  ss_sampler_options o = plain;
  o.temperature = 0.0f;
  ss_sampler *s = make(4, o);
  assert_int_equal(pick(s, logits, 4), 1);
  ss_sampler_free(s);
}

static void test_frequencies_follow_the_softmax(void **state) {
  (void)state;
  const float logits[] = {0.0f, 1.0f, 2.0f, -1.0f};
  double total = 0.0;
  for (int i = 0; i < 4; i++) total += exp(logits[i]);
  ss_sampler *s = make(4, plain);
  int counts[4] = {0};
  for (int i = 0; i < 20000; i++) counts[pick(s, logits, 4)]++;
  for (int i = 0; i < 4; i++) assert_true(fabs(counts[i] / 20000.0 - exp(logits[i]) / total) < 0.015);
  ss_sampler_free(s);
}

static void test_top_k_top_p_and_min_p_leave_only_what_they_say(void **state) {
  (void)state;
  const float logits[] = {0.0f, 3.0f, 2.0f, 1.0f, 2.9f, -5.0f}; /* best: 1, 4, 2, 3, 0, 5 */
  const struct {
    uint32_t top_k;
    float top_p, min_p;
    unsigned kept;
  } cases[] = {
      {2, 1.0f, 0.0f, 1u << 1 | 1u << 4},           {0, 0.5f, 0.0f, 1u << 1 | 1u << 4}, /* 0.39, 0.74 of the mass */
      {0, 1.0f, 0.3f, 1u << 1 | 1u << 4 | 1u << 2}, {3, 0.3f, 0.0f, 1u << 1},           {100, 1.0f, 0.0f, 0x3f},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    ss_sampler_options o = plain;
    o.top_k = cases[c].top_k, o.top_p = cases[c].top_p, o.min_p = cases[c].min_p;
    ss_sampler *s = make(6, o);
    unsigned seen = 0;
    for (int i = 0; i < 5000; i++) seen |= 1u << pick(s, logits, 6);
    assert_int_equal(seen, cases[c].kept);
    ss_sampler_free(s);
  }
}

static void test_same_seed_gives_the_same_tokens(void **state) {
  (void)state;
  float logits[50];
  for (int i = 0; i < 50; i++) logits[i] = (float)((i * 37) % 11) * 0.5f;
  ss_sampler_options o = ss_sampler_defaults();
  o.seed = 7;
  ss_sampler *a = make(50, o), *b = make(50, o);
  o.seed = 8;
  ss_sampler *other = make(50, o);
  int differ = 0;
  for (int i = 0; i < 200; i++) {
    const int32_t token = pick(a, logits, 50);
    assert_int_equal(token, pick(b, logits, 50));
    differ += token != pick(other, logits, 50);
  }
  assert_true(differ > 20);
  ss_sampler_free(a);
  ss_sampler_free(b);
  ss_sampler_free(other);
}

static void test_penalties_apply_once_to_each_token_of_the_window(void **state) {
  (void)state;
  ss_sampler_options o = {.temperature = 0.0f,
                          .top_p = 1.0f,
                          .repetition_penalty = 2.0f,
                          .frequency_penalty = 0.5f,
                          .presence_penalty = 0.25f,
                          .repetition_window = 3};
  ss_sampler *s = make(4, o);
  ss_sampler_accept(s, 3); /* leaves the window below */
  ss_sampler_accept(s, 0);
  ss_sampler_accept(s, 0);
  ss_sampler_accept(s, 1);
  float logits[] = {8.0f, -2.0f, 1.0f, 1.0f};
  ss_sampler_pick(s, logits);
  assert_true(logits[0] == 8.0f / 2 - 2 * 0.5f - 0.25f);
  assert_true(logits[1] == -2.0f * 2 - 0.5f - 0.25f);
  assert_true(logits[2] == 1.0f && logits[3] == 1.0f);
  ss_sampler_free(s);
}

static void test_impossible_options_are_named(void **state) {
  (void)state;
  ss_sampler_options cases[5] = {plain, plain, plain, plain, plain};
  cases[0].temperature = -1.0f, cases[1].top_p = 0.0f, cases[2].min_p = 2.0f, cases[3].repetition_penalty = NAN,
  cases[4].top_p = NAN;
  static const char *names[] = {"temperature", "top_p", "min_p", "repetition_penalty", "top_p"};
  for (int i = 0; i < 5; i++) {
    ss_sampler *s;
    ss_error err = {0};
    assert_int_equal(ss_sampler_create(&s, 4, &cases[i], &test_host, &err), SS_E_ARGUMENT);
    assert_non_null(strstr(err.message, names[i]));
  }
}

static void test_logprob_is_the_log_of_the_softmax(void **state) {
  (void)state;
  const float logits[] = {0.5f, -1.0f, 2.0f};
  double total = 0.0;
  for (int i = 0; i < 3; i++) total += exp(logits[i]);
  for (int i = 0; i < 3; i++) assert_true(fabs(ss_logprob(logits, 3, i) - log(exp(logits[i]) / total)) < 1e-6);
}

static void test_the_top_logprobs_are_sorted_and_ties_go_to_the_lower_id(void **state) {
  (void)state;
  const float logits[] = {0.5f, 2.0f, -1.0f, 2.0f, 0.5f};
  static const int32_t want[] = {1, 3, 0, 4, 2};
  int32_t tokens[5];
  float logprobs[5];
  for (size_t k = 0; k <= 5; k++) {
    ss_top_logprobs(logits, 5, k, tokens, logprobs);
    for (size_t i = 0; i < k; i++) {
      assert_int_equal(tokens[i], want[i]);
      assert_true(logprobs[i] == ss_logprob(logits, 5, want[i]));
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_greedy_takes_the_lower_id_of_a_tie),
      cmocka_unit_test(test_frequencies_follow_the_softmax),
      cmocka_unit_test(test_top_k_top_p_and_min_p_leave_only_what_they_say),
      cmocka_unit_test(test_same_seed_gives_the_same_tokens),
      cmocka_unit_test(test_penalties_apply_once_to_each_token_of_the_window),
      cmocka_unit_test(test_impossible_options_are_named),
      cmocka_unit_test(test_logprob_is_the_log_of_the_softmax),
      cmocka_unit_test(test_the_top_logprobs_are_sorted_and_ties_go_to_the_lower_id),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
