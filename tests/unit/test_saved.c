/* Saved sessions and copies: they go on as the original does, and a damaged file is an error that says so. */
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "model/model.h"
#include "test.h"

#define N 24
#define HELD 21 /* not a multiple of 8: the last group of K is part full */
static const int32_t tokens[N] = {275, 183, 200, 261, 169, 226, 243, 67, 18, 89,  85, 254,
                                  265, 4,   146, 239, 11,  99,  270, 33, 60, 150, 7,  201};
static ss_model *model; /* two layers, 64 wide, Q4_1 */
static uint32_t n_vocab;

static ss_session *make(const ss_session_options *options) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, model, options, &test_host, &err)) fail_msg("%s", err.message);
  return s;
}

static void step(ss_session *s, const int32_t *t, size_t n) {
  ss_error err = {0};
  if (ss_session_begin(s, t, n, 1, &err) || ss_session_run(s, 0, &err)) fail_msg("%s", err.message);
}

/* The logits' hash after the tokens that are left. */
static uint64_t finish(ss_session *s) {
  const uint32_t held = ss_session_length(s);
  step(s, tokens + held, N - held);
  return ss_logits_hash(ss_session_logits(s, 0), n_vocab);
}

static uint64_t fresh(const ss_session_options *options) {
  ss_session *s = make(options);
  const uint64_t hash = finish(s);
  ss_session_free(s);
  return hash;
}

static ss_session_options with_mask(const ss_mask *mask, uint32_t context) {
  return (ss_session_options){.context = context, .run_mask = mask};
}

static ss_mask without_attention_0(void) {
  ss_mask mask;
  ss_mask_fill(&mask, 4);
  ss_mask_set(&mask, 0, false);
  return mask;
}

/* A saved session of HELD tokens; the caller frees the bytes. */
static uint8_t *saved(const ss_session_options *options, size_t *n) {
  ss_session *s = make(options);
  step(s, tokens, HELD);
  *n = ss_session_saved_bytes(s);
  uint8_t *bytes = malloc(*n);
  ss_error err = {0};
  if (ss_session_save(s, tokens, bytes, &err)) fail_msg("%s", err.message);
  ss_session_free(s);
  return bytes;
}

static ss_status restore(const uint8_t *bytes, size_t n, ss_session_options options, ss_error *err) {
  ss_session *s;
  int32_t held[64];
  const ss_status status = ss_session_restore(&s, model, &options, bytes, n, held, &test_host, err);
  assert_true((s == NULL) == (status != SS_OK));
  ss_session_free(s);
  return status;
}

static void test_a_restored_session_goes_on_as_the_saved_one_in_any_context(void **state) {
  (void)state;
  const ss_mask masks[2] = {{.bits = {15}}, without_attention_0()};
  for (int i = 0; i < 2; i++) {
    size_t n;
    const ss_session_options options = with_mask(&masks[i], 64);
    uint8_t *bytes = saved(&options, &n);
    for (uint32_t context = N; context <= 40; context += 8) {
      const ss_session_options other = with_mask(&masks[i], context);
      ss_session *s;
      ss_error err = {0};
      int32_t held[64];
      if (ss_session_restore(&s, model, &other, bytes, n, held, &test_host, &err)) fail_msg("%s", err.message);
      assert_int_equal(ss_session_length(s), HELD);
      assert_memory_equal(held, tokens, HELD * sizeof *held);
      assert_int_equal(finish(s), fresh(&options));
      ss_session_free(s);
    }
    free(bytes);
  }
}

static void test_a_copy_goes_on_apart_from_the_original(void **state) {
  (void)state;
  const ss_mask mask = without_attention_0();
  const ss_session_options options = with_mask(&mask, 64), smaller = with_mask(&mask, N);
  ss_session *s = make(&options), *copy = make(&smaller);
  ss_error err = {0};
  step(s, tokens, HELD);
  step(copy, tokens + 3, 5); /* forgotten */
  for (uint32_t n = 0; n <= HELD; n += 7) {
    assert_int_equal(ss_session_copy(copy, s, n, &err), SS_OK);
    assert_int_equal(ss_session_length(copy), n);
    assert_int_equal(finish(copy), fresh(&options));
  }
  assert_int_equal(ss_session_length(s), HELD);
  assert_int_equal(finish(s), fresh(&options));
  assert_int_equal(ss_session_copy(copy, s, N + 1, &err), SS_E_ARGUMENT);
  ss_session *dense = make(NULL);
  assert_int_equal(ss_session_copy(dense, s, 1, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "mask"));
  ss_session_free(dense);
  ss_session_free(copy);
  ss_session_free(s);
}

static void test_a_truncated_file_is_refused_at_every_length(void **state) {
  (void)state;
  size_t n;
  uint8_t *bytes = saved(NULL, &n);
  for (size_t k = 0; k < n; k += k < 1000 ? 1 : 97) {
    uint8_t *part = malloc(k ? k : 1); /* of its own, so that a sanitizer sees a read past its end */
    memcpy(part, bytes, k);
    ss_error err = {0};
    assert_int_equal(restore(part, k, (ss_session_options){0}, &err), SS_E_FORMAT);
    free(part);
  }
  free(bytes);
}

static void test_every_flipped_bit_is_found(void **state) {
  (void)state;
  size_t n;
  uint8_t *bytes = saved(NULL, &n);
  for (size_t bit = 0; bit < 8 * n; bit += bit < 8 * 512 ? 1 : 8 * 13 + 1) {
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    ss_error err = {0};
    const ss_status status = restore(bytes, n, (ss_session_options){0}, &err);
    if (status != SS_E_FORMAT && status != SS_E_UNSUPPORTED) fail_msg("bit %zu: status %d", bit, status);
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  assert_int_equal(restore(bytes, n, (ss_session_options){0}, NULL), SS_OK);
  free(bytes);
}

/* Writes `value` at `at` and makes the hash right again, as whoever forges a file would. */
static void forge(uint8_t *bytes, size_t n, size_t at, uint32_t value) {
  memcpy(bytes + at, &value, sizeof value);
  const uint64_t hash = ss_hash_words(bytes, n - 8);
  memcpy(bytes + n - 8, &hash, sizeof hash);
}

static void test_what_a_file_belongs_to_is_checked_and_named(void **state) {
  (void)state;
  enum {
    VERSION = 8,
    NUMERICS = 12,
    FAMILY = 16,
    EXACT = 24,
    MODEL_BYTES = 32,
    RECOVERY = 40,
    LENGTH = 48,
    MASK = 56,
    TOKENS = 312
  };
  static const struct {
    size_t at;
    uint32_t value;
    ss_status want;
    const char *names;
  } cases[] = {
      {VERSION, 2, SS_E_UNSUPPORTED, "version 2"},
      {NUMERICS, 9, SS_E_UNSUPPORTED, "numbers 9"},
      {FAMILY, 1, SS_E_ARGUMENT, "model"},
      {EXACT, 1, SS_E_ARGUMENT, "model"},
      {MODEL_BYTES, 1, SS_E_ARGUMENT, "model"},
      {RECOVERY, 1, SS_E_ARGUMENT, "recovery"},
      {LENGTH, 22, SS_E_FORMAT, "do not fit"},
      {LENGTH, 20, SS_E_FORMAT, "do not fit"},
      {LENGTH, 65, SS_E_CONTEXT, "65 tokens, the context has 64"},
      {LENGTH + 4, 1, SS_E_CONTEXT, "tokens, the context has 64"},
      {LENGTH, UINT32_MAX, SS_E_CONTEXT, "the context has 64"},
      {MASK, 7, SS_E_ARGUMENT, "other blocks"},
      {MASK + 128, 7, SS_E_ARGUMENT, "other blocks"},
      {TOKENS, 1u << 31, SS_E_FORMAT, "do not fit"},
      {TOKENS + 4 * (HELD - 1), 512, SS_E_FORMAT, "do not fit"},
  };
  assert_true(n_vocab <= 512);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t n;
    const ss_session_options options = {.context = 64};
    uint8_t *bytes = saved(&options, &n);
    forge(bytes, n, cases[i].at, cases[i].value);
    ss_error err = {0};
    const ss_status status = restore(bytes, n, options, &err);
    if (status != cases[i].want || !strstr(err.message, cases[i].names))
      fail_msg("case %zu: status %d, %s", i, status, err.message);
    free(bytes);
  }
}

static void test_a_recovery_belongs_to_a_saved_session(void **state) {
  (void)state;
  const ss_mask mask = without_attention_0();
  float a[64], b[64], gains[64];
  for (int i = 0; i < 64; i++) a[i] = 0.01f * (float)i, b[i] = 0.1f, gains[i] = 1.0f;
  ss_recovery_block blocks[4] = {{.scale = 1.0f, .a = a, .b = b}, {.scale = 1.1f}, {.scale = 1.0f}, {.scale = 1.0f}};
  const ss_recovery recovery = {.n_blocks = 4, .n_embd = 64, .blocks = blocks};
  ss_session_options options = with_mask(&mask, 64);
  options.recovery = &recovery;
  size_t n;
  uint8_t *bytes = saved(&options, &n);
  ss_error err = {0};
  assert_int_equal(restore(bytes, n, options, &err), SS_OK);
  assert_int_equal(restore(bytes, n, with_mask(&mask, 64), &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "recovery"));
  const ss_recovery other_gains = {.n_blocks = 4, .n_embd = 64, .blocks = blocks, .output_gains = gains};
  options.recovery = &other_gains;
  assert_int_equal(restore(bytes, n, options, &err), SS_E_ARGUMENT);
  options.recovery = &recovery;
  b[63] = 0.2f;
  assert_int_equal(restore(bytes, n, options, &err), SS_E_ARGUMENT);
  b[63] = 0.1f;
  blocks[1].scale = 1.2f;
  assert_int_equal(restore(bytes, n, options, &err), SS_E_ARGUMENT);
  free(bytes);
}

static void test_a_session_with_a_hole_or_a_step_in_flight_is_not_saved(void **state) {
  (void)state;
  ss_mask dense, sparse = without_attention_0();
  ss_mask_fill(&dense, 4);
  ss_session *s = make(&(ss_session_options){.context = 64, .kv_mask = &dense, .run_mask = &sparse});
  static uint8_t bytes[1 << 16];
  ss_error err = {0};
  step(s, tokens, 3);
  assert_true(ss_session_saved_bytes(s) <= sizeof bytes);
  assert_int_equal(ss_session_save(s, tokens, bytes, &err), SS_E_STATE);
  assert_non_null(strstr(err.message, "layer 0 has KV of 0 of 3"));
  ss_session_free(s);
  s = make(&(ss_session_options){.context = 64});
  assert_int_equal(ss_session_begin(s, tokens, 3, 1, &err), SS_OK);
  assert_int_equal(ss_session_save(s, tokens, bytes, &err), SS_E_STATE);
  ss_session_free(s);
}

static void test_a_failed_allocation_leaks_nothing(void **state) {
  (void)state;
  size_t n;
  uint8_t *bytes = saved(NULL, &n);
  counting_memory memory = {.fail_at = 1};
  const ss_host host = counting_host(&memory);
  ss_session *s;
  ss_error err = {0};
  int32_t held[64];
  assert_int_equal(ss_session_restore(&s, model, NULL, bytes, n, held, &host, &err), SS_E_MEMORY);
  bytes[n - 1] ^= 1;
  memory.fail_at = 0;
  assert_int_equal(ss_session_restore(&s, model, NULL, bytes, n, held, &host, &err), SS_E_FORMAT);
  assert_int_equal(memory.n_live, 0);
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_restored_session_goes_on_as_the_saved_one_in_any_context),
      cmocka_unit_test(test_a_copy_goes_on_apart_from_the_original),
      cmocka_unit_test(test_a_truncated_file_is_refused_at_every_length),
      cmocka_unit_test(test_every_flipped_bit_is_found),
      cmocka_unit_test(test_what_a_file_belongs_to_is_checked_and_named),
      cmocka_unit_test(test_a_recovery_belongs_to_a_saved_session),
      cmocka_unit_test(test_a_session_with_a_hole_or_a_step_in_flight_is_not_saved),
      cmocka_unit_test(test_a_failed_allocation_leaks_nothing),
  };
  model = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  if (!model) return skip_all("tests/golden/tiny/q4_1.gguf is not there");
  ss_model_info info;
  if (ss_model_info_get(model, &info, NULL)) return 1;
  n_vocab = info.n_vocab;
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
