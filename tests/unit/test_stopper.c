/* Stop strings: what is shown, what is held back, and that pieces do not matter. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "host.h"
#include "test.h"

typedef struct shown {
  char text[4096];
  size_t len;
  bool stopped;
} shown;

static ss_stopper *stopper_of(const char *const *stops, size_t n) {
  ss_text texts[8] = {{0}};
  for (size_t i = 0; i < n; i++) texts[i] = (ss_text){stops[i], strlen(stops[i])};
  ss_stopper *s = NULL;
  ss_error err = {0};
  if (ss_stopper_create(&s, texts, n, &test_host, &err)) fail_msg("%s", err.message);
  return s;
}

static void feed(ss_stopper *s, const char *text, size_t n, bool flush, shown *to) {
  ss_text out;
  ss_error err;
  to->stopped = ss_stopper_feed(s, (ss_text){text, n}, flush, &out, &err);
  assert_int_equal(err.status, SS_OK);
  memcpy(to->text + to->len, out.data, out.len);
  to->len += out.len;
  to->text[to->len] = 0;
}

static void test_text_that_may_become_a_stop_string_is_held_back(void **state) {
  (void)state;
  ss_stopper *s = stopper_of((const char *const[]){"\nUser:", "END"}, 2);
  shown out = {0};
  feed(s, "Hello\nUs", 8, false, &out);
  assert_string_equal(out.text, "Hello");
  feed(s, "eful E", 6, false, &out);
  assert_string_equal(out.text, "Hello\nUseful ");
  feed(s, "N", 1, false, &out);
  assert_string_equal(out.text, "Hello\nUseful ");
  feed(s, "DING", 4, false, &out);
  assert_true(out.stopped);
  assert_string_equal(out.text, "Hello\nUseful ");
  feed(s, "more", 4, true, &out); /* nothing is shown after the stop */
  assert_true(out.stopped);
  assert_string_equal(out.text, "Hello\nUseful ");
  ss_stopper_free(s);
}

static void test_flush_shows_what_was_held(void **state) {
  (void)state;
  ss_stopper *s = stopper_of((const char *const[]){"<|im_end|>"}, 1);
  shown out = {0};
  feed(s, "a <|im_", 7, false, &out);
  assert_string_equal(out.text, "a ");
  feed(s, "", 0, true, &out);
  assert_string_equal(out.text, "a <|im_");
  assert_false(out.stopped);
  ss_stopper_free(s);
}

static void test_the_first_stop_string_to_be_complete_wins_and_the_longest_of_those(void **state) {
  (void)state;
  ss_stopper *s = stopper_of((const char *const[]){"abcd", "bc", "xbc"}, 3);
  shown out = {0};
  feed(s, "1abcd", 5, false, &out);
  assert_string_equal(out.text, "1a"); /* "bc" is complete before "abcd" */
  ss_stopper_free(s);
  s = stopper_of((const char *const[]){"bc", "xbc"}, 2);
  out = (shown){0};
  feed(s, "1xbc", 4, false, &out);
  assert_string_equal(out.text, "1");
  ss_stopper_free(s);
}

static void test_a_stop_string_that_repeats_itself_is_found(void **state) {
  (void)state;
  ss_stopper *s = stopper_of((const char *const[]){"aabaaa"}, 1);
  shown out = {0};
  feed(s, "aabaabaaab", 10, false, &out);
  assert_true(out.stopped);
  assert_string_equal(out.text, "aab");
  ss_stopper_free(s);
}

static void test_without_stop_strings_text_passes(void **state) {
  (void)state;
  ss_stopper *s = stopper_of(NULL, 0);
  shown out = {0};
  feed(s, "anything", 8, false, &out);
  assert_string_equal(out.text, "anything");
  ss_stopper_free(s);
}

/* The plain way: the first end of any stop string, the longest there. */
static size_t expected_length(const char *text, size_t n, const char *const *stops, size_t n_stops) {
  for (size_t end = 1; end <= n; end++) {
    size_t longest = 0;
    for (size_t i = 0; i < n_stops; i++) {
      const size_t len = strlen(stops[i]);
      if (len <= end && !memcmp(text + end - len, stops[i], len) && len > longest) longest = len;
    }
    if (longest) return end - longest;
  }
  return n;
}

static void test_the_outcome_does_not_depend_on_the_pieces(void **state) {
  (void)state;
  static const char *const stops[] = {"abab", "bba", "aaaaab", "cabcabd"};
  ss_rng rng = ss_rng_seed(7);
  for (int round = 0; round < 2000; round++) {
    char text[64];
    const size_t n = (size_t)ss_rng_below(&rng, sizeof text);
    for (size_t i = 0; i < n; i++) text[i] = "abcd"[ss_rng_below(&rng, round % 2 ? 2 : 4)];
    ss_stopper *s = stopper_of(stops, 4);
    shown out = {0};
    for (size_t at = 0; at < n;) {
      const size_t piece = ss_min(n - at, 1 + (size_t)ss_rng_below(&rng, 9));
      feed(s, text + at, piece, false, &out);
      at += piece;
    }
    feed(s, "", 0, true, &out);
    const size_t want = expected_length(text, n, stops, 4);
    assert_int_equal(out.len, want);
    assert_memory_equal(out.text, text, want);
    assert_int_equal(out.stopped, want < n);
    ss_stopper_free(s);
  }
}

static void test_an_empty_stop_string_is_an_error(void **state) {
  (void)state;
  const ss_text stops[] = {{"x", 1}, {"", 0}};
  ss_stopper *s;
  ss_error err = {0};
  assert_int_equal(ss_stopper_create(&s, stops, 2, &test_host, &err), SS_E_ARGUMENT);
  assert_null(s);
  assert_string_equal(err.message, "stop string 1 is empty");
  ss_stopper_free(NULL);
}

static void test_refused_memory_is_a_status_and_leaks_nothing(void **state) {
  (void)state;
  for (size_t fail_at = 1; fail_at <= 2; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_stopper *s;
    ss_error err = {0};
    ss_text out;
    if (!ss_stopper_create(&s, &(ss_text){"stop", 4}, 1, &host, &err)) {
      assert_false(ss_stopper_feed(s, (ss_text){"some text", 9}, false, &out, &err));
      assert_int_equal(out.len, 0);
    }
    assert_int_equal(err.status, SS_E_MEMORY);
    ss_stopper_free(s);
    assert_int_equal(memory.n_live, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_that_may_become_a_stop_string_is_held_back),
      cmocka_unit_test(test_flush_shows_what_was_held),
      cmocka_unit_test(test_the_first_stop_string_to_be_complete_wins_and_the_longest_of_those),
      cmocka_unit_test(test_a_stop_string_that_repeats_itself_is_found),
      cmocka_unit_test(test_without_stop_strings_text_passes),
      cmocka_unit_test(test_the_outcome_does_not_depend_on_the_pieces),
      cmocka_unit_test(test_an_empty_stop_string_is_an_error),
      cmocka_unit_test(test_refused_memory_is_a_status_and_leaks_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
