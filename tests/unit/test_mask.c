/* Masks: parsing, counting, the proportional one. */
#include <string.h>

#include "skipstone.h"
#include "test.h"

static void test_parse_skip_clears_the_named_blocks(void **state) {
  (void)state;
  ss_mask m;
  ss_error err;
  assert_int_equal(ss_mask_parse_skip(&m, 30, "attn:3,7-9;ffn:12", &err), SS_OK);
  assert_int_equal(ss_mask_count(&m, 60), 55);
  for (uint32_t b = 0; b < 60; b++)
    assert_int_equal(ss_mask_has(&m, b), !(b == 6 || b == 14 || b == 16 || b == 18 || b == 25));
  assert_int_equal(ss_mask_parse_skip(&m, 30, "", &err), SS_OK);
  assert_int_equal(ss_mask_count(&m, 60), 60);
}

static void test_parse_skip_names_what_is_wrong(void **state) {
  (void)state;
  static const struct {
    const char *text, *part;
  } cases[] = {
      {"attn:30", "layer 30 does not exist"}, {"attn:", "want a layer number"},
      {"mlp:3", "want 'attn:' or 'ffn:'"},    {"attn:9-7", "range must end"},
      {"attn:1x", "want ',' or ';'"},         {"attn:99999999999999999999", "want a layer number"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ss_mask m;
    ss_error err = {0};
    assert_int_equal(ss_mask_parse_skip(&m, 30, cases[i].text, &err), SS_E_ARGUMENT);
    if (!strstr(err.message, cases[i].part)) fail_msg("%s: %s", cases[i].text, err.message);
  }
}

static void test_proportional_skips_the_share_and_spares_both_ends(void **state) {
  (void)state;
  ss_mask m;
  ss_mask_proportional(&m, 30, 0.25); /* 7.5 of 30: 7 attention blocks and 8 feed-forward blocks */
  uint32_t attention = 0, feed_forward = 0;
  for (uint32_t l = 0; l < 30; l++) {
    attention += !ss_mask_has(&m, 2 * l);
    feed_forward += !ss_mask_has(&m, 2 * l + 1);
  }
  assert_int_equal(attention, 7);
  assert_int_equal(feed_forward, 8);
  assert_true(ss_mask_has(&m, 0) && ss_mask_has(&m, 1) && ss_mask_has(&m, 58) && ss_mask_has(&m, 59));
  ss_mask_proportional(&m, 30, 0.0);
  assert_int_equal(ss_mask_count(&m, 60), 60);
}

static void test_within_compares_every_block(void **state) {
  (void)state;
  ss_mask all, some;
  ss_mask_fill(&all, 200);
  ss_mask_fill(&some, 200);
  ss_mask_set(&some, 150, false);
  assert_true(ss_mask_within(&some, &all));
  assert_false(ss_mask_within(&all, &some));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parse_skip_clears_the_named_blocks),
      cmocka_unit_test(test_parse_skip_names_what_is_wrong),
      cmocka_unit_test(test_proportional_skips_the_share_and_spares_both_ends),
      cmocka_unit_test(test_within_compares_every_block),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
