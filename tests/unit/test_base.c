/* base/: messages, cursor, arena, random numbers, exact math. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "test.h"

static void test_format_gives_what_printf_gives(void **state) {
  (void)state;
  char ours[128], theirs[128];
  const char *format = "%s|%.*s|%d|%u|%x|%lu|%llu|%zu|%c|%%|%ld";
#define ARGS \
  "text", 3, "abcdef", -42, 42u, 0xbeefu, 1234567890123ul, 18446744073709551615ull, (size_t)77, 'q', -9000000000l
  const size_t len = ss_format(ours, sizeof ours, format, ARGS);
  snprintf(theirs, sizeof theirs, format, ARGS);
#undef ARGS
  assert_string_equal(ours, theirs);
  assert_int_equal(len, strlen(theirs));
}

static void test_format_cuts_and_terminates_a_text_that_is_too_long(void **state) {
  (void)state;
  char text[4];
  assert_int_equal(ss_format(text, sizeof text, "%s", "abcdef"), 6);
  assert_string_equal(text, "abc");
}

static void test_cursor_remembers_a_failed_read(void **state) {
  (void)state;
  const uint8_t bytes[] = {1, 2, 3, 4, 5};
  ss_cursor c = {bytes, sizeof bytes, 0, false};
  assert_int_equal(ss_take_u32(&c), 0x04030201);
  assert_int_equal(ss_take_u32(&c), 0);
  assert_true(c.bad);
  assert_int_equal(ss_take_u8(&c), 0);
}

static void test_cursor_refuses_a_length_that_would_overflow(void **state) {
  (void)state;
  const uint8_t bytes[] = {1, 2};
  ss_cursor c = {bytes, sizeof bytes, 1, false};
  assert_null(ss_take(&c, SIZE_MAX));
  assert_true(c.bad);
}

static void test_arena_counts_what_it_later_hands_out(void **state) {
  (void)state;
  ss_arena count = {0};
  assert_null(ss_carve(&count, 3, 5));
  assert_null(ss_carve(&count, 100, 4));
  assert_int_equal(count.used, 64 + 448);
  ss_carve(&count, SIZE_MAX / 2, 4);
  assert_true(count.overflow);
}

static void test_random_numbers_are_those_of_the_reference(void **state) {
  (void)state;
  ss_rng rng = ss_rng_seed(0);
  assert_int_equal(rng.s[0], UINT64_C(0xe220a8397b1dcdaf)); /* splitmix64 from 0 */
  assert_int_equal(ss_rng_next(&rng), UINT64_C(0x99ec5f36cb75f2b4)); /* xoshiro256** */
  for (int i = 0; i < 1000; i++) {
    const double u = ss_rng_unit(&rng);
    assert_true(u >= 0.0 && u < 1.0);
    assert_true(ss_rng_below(&rng, 7) < 7);
  }
}

static void test_expf_is_within_two_units_of_the_last_place(void **state) {
  (void)state;
  for (float x = -87.0f; x < 88.0f; x += 0.01371f) {
    const double want = exp((double)x);
    assert_true(fabs((double)ss_expf(x) - want) <= 2.5e-7 * want);
  }
  assert_true(ss_expf(-1000.0f) == 0.0f);
  assert_true(ss_expf(NAN) == 0.0f);
  assert_true(ss_expf(INFINITY) == ss_expf(88.0f));
  assert_true(ss_expf(0.0f) == 1.0f);
}

static void test_double_math_agrees_with_libm(void **state) {
  (void)state;
  for (double x = 1e-6; x < 1e6; x *= 1.37) assert_true(fabs(ss_log(x) - log(x)) <= 1e-14 * (1.0 + fabs(log(x))));
  for (double y = -4.0; y <= 4.0; y += 0.17) assert_true(fabs(ss_pow(10000.0, y) / pow(10000.0, y) - 1.0) < 1e-13);
  for (double x = -3.0; x < 200000.0; x = x * 1.01 + 0.1) {
    double s, c;
    ss_sincos(x, &s, &c);
    assert_true(fabs(s - sin(x)) < 1e-11 && fabs(c - cos(x)) < 1e-11);
  }
}

static void test_half_converts_exactly(void **state) {
  (void)state;
  assert_true(ss_float_of_half(0x3c00) == 1.0f);
  assert_true(ss_float_of_half(0xc000) == -2.0f);
  assert_true(ss_float_of_half(0x0001) == 0x1p-24f);
  assert_true(ss_float_of_half(0x83ff) == -1023 * 0x1p-24f);
  assert_true(ss_float_of_half(0x7bff) == 65504.0f);
  assert_true(isinf(ss_float_of_half(0x7c00)));
  assert_true(isnan(ss_float_of_half(0x7e00)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_format_gives_what_printf_gives),
      cmocka_unit_test(test_format_cuts_and_terminates_a_text_that_is_too_long),
      cmocka_unit_test(test_cursor_remembers_a_failed_read),
      cmocka_unit_test(test_cursor_refuses_a_length_that_would_overflow),
      cmocka_unit_test(test_arena_counts_what_it_later_hands_out),
      cmocka_unit_test(test_random_numbers_are_those_of_the_reference),
      cmocka_unit_test(test_expf_is_within_two_units_of_the_last_place),
      cmocka_unit_test(test_double_math_agrees_with_libm),
      cmocka_unit_test(test_half_converts_exactly),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
