/* Every quant type against the reference logits of a tiny model: tests/golden/README.md says where they come from. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "test.h"

#define TINY_TOKENS 16
#define TINY_LOGITS 291

/* The root mean square of the error, as a share of the reference's standard deviation. */
static double relative_error(const float *got, const float *want, size_t n) {
  double error = 0.0, mean = 0.0, square = 0.0;
  for (size_t i = 0; i < n; i++) {
    error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    mean += want[i];
    square += (double)want[i] * want[i];
  }
  mean /= (double)n;
  return sqrt(error / (double)n) / sqrt(square / (double)n - mean * mean);
}

static void test_every_quant_type_gives_the_reference_logits(void **state) {
  (void)state;
  size_t n;
  char *json = read_file("tests/golden/tiny/tiny.json", &n);
  float *logits = read_file("tests/golden/tiny/logits.bin", &n);
  if (!json || !logits) fail_msg("tests/golden/tiny is not there");
  double numbers[TINY_TOKENS];
  int32_t tokens[TINY_TOKENS];
  assert_int_equal(json_numbers(json, "tokens", numbers, TINY_TOKENS), TINY_TOKENS);
  for (int i = 0; i < TINY_TOKENS; i++) tokens[i] = (int32_t)numbers[i];
  static const char *types[] = {"f32",  "f16",  "bf16", "q4_0", "q4_1", "q5_0",
                                "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "qwen2"};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    char path[64], key[16];
    snprintf(path, sizeof path, "tests/golden/tiny/%s.gguf", types[i]);
    for (size_t c = 0; c <= strlen(types[i]); c++) key[c] = (char)(types[i][c] >= 'a' ? types[i][c] - 32 : types[i][c]);
    char quoted[20];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    double at;
    assert_int_equal(json_numbers(strstr(json, quoted), "logits", &at, 1), 1);
    ss_model *m = load_model(path, NULL);
    assert_non_null(m);
    ss_session *s = run_tokens(m, tokens, TINY_TOKENS);
    float got[TINY_TOKENS * TINY_LOGITS];
    for (size_t t = 0; t < TINY_TOKENS; t++)
      memcpy(got + t * TINY_LOGITS, ss_session_logits(s, t), TINY_LOGITS * sizeof *got);
    const double error = relative_error(got, logits + (size_t)at / sizeof *logits, TINY_TOKENS * TINY_LOGITS);
    print_message("%s: error %.2f %% of the logits' deviation\n", key, 100.0 * error);
    if (error > 0.06) fail_msg("%s: error %.4f", key, error);
    ss_session_free(s);
    ss_model_free(m);
  }
  free(json);
  free(logits);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_quant_type_gives_the_reference_logits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
