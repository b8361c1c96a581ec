/* The core against other programs' numbers: tests/golden/README.md says where they come from. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "test.h"

/* Logits of the first n tokens, [n][padded], into a session that the caller frees. */
static ss_session *run(const ss_model *m, const int32_t *tokens, uint32_t n) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, m, &(ss_session_options){.context = n, .max_logits = n}, &test_host, &err) ||
      ss_session_begin(s, tokens, n, n, &err) || ss_session_run(s, 0, &err))
    fail_msg("%s", err.message);
  return s;
}

/* ---- tiny models: every quant type ---- */

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
  static const char *types[] = {"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "qwen2"};
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
    ss_session *s = run(m, tokens, TINY_TOKENS);
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

/* ---- SmolLM2-135M-Instruct Q4_1 over 2,560 positions ---- */

#define TOP 64

typedef struct score {
  size_t n, same_top;
  double kl, nll;
} score;

/* KL from the reference over its 64 most likely tokens and the rest: head of tests/golden/make_logits.py. */
static double bucket_kl(const float *logits, size_t n_vocab, const uint16_t *ids, const float *logprobs, float log_rest) {
  double max = logits[0], total = 0.0, kept = 0.0, kl = 0.0;
  for (size_t i = 1; i < n_vocab; i++) max = fmax(max, logits[i]);
  for (size_t i = 0; i < n_vocab; i++) total += exp(logits[i] - max);
  for (size_t i = 0; i < TOP; i++) {
    const double q = exp(logits[ids[i]] - max) / total;
    kept += q;
    kl += exp(logprobs[i]) * (logprobs[i] - log(q));
  }
  return kl + exp(log_rest) * (log_rest - log(1.0 - kept));
}

static void test_smollm2_is_as_close_to_the_f32_reference_as_llama_cpp(void **state) {
  ss_model *m = *state;
  if (!m) {
    print_message("skipped: %s is not there\n", SMOLLM2);
    skip();
  }
  size_t n;
  char *json = read_file("tests/golden/smollm2-q4_1.json", &n), *peer = read_file("tests/golden/reference.json", &n);
  uint8_t *top = read_file("tests/golden/smollm2-q4_1.top.bin", &n);
  if (!json || !peer || !top) fail_msg("tests/golden/smollm2-q4_1.* or reference.json is not there");
  static double numbers[4096];
  static int32_t tokens[4096];
  double window_number, nll, peer_top1, peer_kl; /* the peer with its default f16 KV cache */
  const size_t n_tokens = json_numbers(json, "tokens", numbers, 4096);
  assert_int_equal(json_numbers(json, "window", &window_number, 1) + json_numbers(json, "nll", &nll, 1), 2);
  assert_int_equal(json_numbers(strstr(peer, "llama_cpp_kv_f16"), "top1", &peer_top1, 1) +
                       json_numbers(strstr(peer, "llama_cpp_kv_f16"), "kl_mean", &peer_kl, 1),
                   2);
  for (size_t i = 0; i < n_tokens; i++) tokens[i] = (int32_t)numbers[i];
  const size_t window = (size_t)window_number;
  assert_true(n_tokens > 2000 && n_tokens % window == 0);
  const uint16_t *ids = (const uint16_t *)(const void *)top;
  const float *logprobs = (const float *)(const void *)(top + n_tokens * TOP * sizeof *ids), *log_rest = logprobs + n_tokens * TOP;
  ss_model_info info;
  assert_int_equal(ss_model_info_get(m, &info, NULL), SS_OK);
  score sum = {0};
  for (size_t w = 0; w < n_tokens; w += window) {
    ss_session *s = run(m, tokens + w, (uint32_t)window);
    for (size_t t = 0; t < window; t++) {
      const float *logits = ss_session_logits(s, t);
      size_t best = 0;
      for (size_t i = 1; i < info.n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
      sum.same_top += best == ids[(w + t) * TOP];
      sum.kl += bucket_kl(logits, info.n_vocab, ids + (w + t) * TOP, logprobs + (w + t) * TOP, log_rest[w + t]);
      if (t + 1 < window) sum.nll -= ss_logprob(logits, info.n_vocab, tokens[w + t + 1]);
      sum.n++;
    }
    ss_session_free(s);
  }
  const double top1 = (double)sum.same_top / (double)sum.n, kl = sum.kl / (double)sum.n;
  const double ours = sum.nll / (double)(sum.n - n_tokens / window);
  print_message("%zu positions: top-1 %.4f (llama.cpp %.4f), KL %.6f (llama.cpp %.6f), NLL %.5f (f32 %.5f)\n", sum.n, top1, peer_top1, kl, peer_kl, ours, nll);
  assert_true(top1 >= peer_top1);
  assert_true(kl <= peer_kl);
  free(json);
  free(peer);
  free(top);
}

static int load(void **state) {
  *state = load_model(SMOLLM2, NULL);
  return 0;
}
static int unload(void **state) {
  ss_model_free(*state);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_quant_type_gives_the_reference_logits),
      cmocka_unit_test_setup_teardown(test_smollm2_is_as_close_to_the_f32_reference_as_llama_cpp, load, unload),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
