/* SmolLM2-135M-Instruct Q4_1: as close to the f32 reference as llama.cpp is, and one hash of the logits everywhere.
 * Skipped where the model is not there. tests/golden/README.md says where the numbers come from. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "test.h"

static ss_model *model;
static int32_t tokens[4096]; /* those of tests/golden/text.txt */
static size_t n_tokens;

/* ---- closeness over 2,560 positions ---- */

#define TOP 64

typedef struct score {
  size_t n, same_top;
  double kl, nll;
} score;

/* KL from the reference over its 64 most likely tokens and the rest: head of tests/golden/make_logits.py. */
static double bucket_kl(const float *logits, size_t n_vocab, const uint16_t *ids, const float *logprobs,
                        float log_rest) {
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
  (void)state;
  if (SS_SLOW_TARGET) skip();
  ss_model *m = model;
  size_t n;
  char *json = read_file("tests/golden/smollm2-q4_1.json", &n), *peer = read_file("tests/golden/reference.json", &n);
  uint8_t *top = read_file("tests/golden/smollm2-q4_1.top.bin", &n);
  if (!json || !peer || !top) fail_msg("tests/golden/smollm2-q4_1.* or reference.json is not there");
  double window_number, nll, peer_top1, peer_kl; /* the peer with its default f16 KV cache */
  assert_int_equal(json_numbers(json, "window", &window_number, 1) + json_numbers(json, "nll", &nll, 1), 2);
  assert_int_equal(json_numbers(strstr(peer, "llama_cpp_kv_f16"), "top1", &peer_top1, 1) +
                       json_numbers(strstr(peer, "llama_cpp_kv_f16"), "kl_mean", &peer_kl, 1),
                   2);
  const size_t window = (size_t)window_number;
  assert_true(n_tokens > 2000 && n_tokens % window == 0);
  const uint16_t *ids = (const uint16_t *)(const void *)top;
  const float *logprobs = (const float *)(const void *)(top + n_tokens * TOP * sizeof *ids),
              *log_rest = logprobs + n_tokens * TOP;
  ss_model_info info;
  assert_int_equal(ss_model_info_get(m, &info, NULL), SS_OK);
  score sum = {0};
  for (size_t w = 0; w < n_tokens; w += window) {
    ss_session *s = run_tokens(m, tokens + w, (uint32_t)window);
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
  print_message("%zu positions: top-1 %.4f (llama.cpp %.4f), KL %.6f (llama.cpp %.6f), NLL %.5f (f32 %.5f)\n", sum.n,
                top1, peer_top1, kl, peer_kl, ours, nll);
  assert_true(top1 >= peer_top1);
  assert_true(kl <= peer_kl);
  free(json);
  free(peer);
  free(top);
}

/* ---- one hash ---- */

static uint64_t hash_of(uint32_t n, uint32_t chunk, const ss_mask *mask, uint32_t threads) {
  ss_host host = test_host;
  host.n_threads = threads;
  host.parallel_for = reverse_parallel;
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, model, &(ss_session_options){.context = n, .chunk = chunk, .run_mask = mask}, &host,
                        &err) ||
      ss_session_begin(s, tokens, n, 1, &err) || ss_session_run(s, 0, &err))
    fail_msg("%s", err.message);
  const uint64_t hash = ss_logits_hash(ss_session_logits(s, 0), 49152);
  ss_session_free(s);
  return hash;
}

static void check_hash(const char *json, const char *kernels, const char *key, uint32_t n, uint32_t chunk,
                       const ss_mask *mask, uint32_t threads) {
  char want[64], got[64];
  const uint64_t hash = hash_of(n, chunk, mask, threads);
  snprintf(got, sizeof got, "\"%s\": \"%016" PRIx64 "\"", key, hash);
  snprintf(want, sizeof want, "%s", got);
  if (!strstr(json, want))
    fail_msg("%s, chunk %u, %u threads: %s is not what tests/golden/hashes.json says", kernels, chunk, threads, got);
}

/* hashes.json: after the first 24 and the first 600 tokens of the golden text, dense and with the proportional mask of 25 %. */
static void test_every_kernel_set_thread_count_and_chunk_gives_the_same_hash(void **state) {
  (void)state;
  size_t n;
  char *json = read_file("tests/golden/hashes.json", &n);
  assert_non_null(json);
  ss_mask mask;
  ss_mask_proportional(&mask, 30, 0.25);
  ss_model *fastest = model;
  const ss_kernels *k;
  for (size_t i = 0; (k = ss_kernels_at(i)); i++) {
    const char *name = ss_kernels_name(k);
    const bool slow = SS_SLOW_TARGET || !strcmp(name, "scalar");
    model = load_model(SMOLLM2, k);
    for (uint32_t masked = 0; masked < 2; masked++) {
      const ss_mask *m = masked ? &mask : NULL;
      check_hash(json, name, masked ? "masked_24" : "dense_24", 24, 7, m, 1);
      check_hash(json, name, masked ? "masked_24" : "dense_24", 24, 24, m, 2);
      if (slow) continue;
      check_hash(json, name, masked ? "masked_24" : "dense_24", 24, 1, m, 2);
      check_hash(json, name, masked ? "masked_600" : "dense_600", 600, 1, m, 1);
      check_hash(json, name, masked ? "masked_600" : "dense_600", 600, 7, m, 2);
      check_hash(json, name, masked ? "masked_600" : "dense_600", 600, 512, m, 3);
    }
    ss_model_free(model);
  }
  model = fastest;
  free(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_smollm2_is_as_close_to_the_f32_reference_as_llama_cpp),
      cmocka_unit_test(test_every_kernel_set_thread_count_and_chunk_gives_the_same_hash),
  };
  size_t n;
  char *json = read_file("tests/golden/smollm2-q4_1.json", &n);
  if (!json) return skip_all("tests/golden/smollm2-q4_1.json is not there");
  static double numbers[4096];
  n_tokens = json_numbers(json, "tokens", numbers, 4096);
  for (size_t i = 0; i < n_tokens; i++) tokens[i] = (int32_t)numbers[i];
  free(json);
  model = load_model(SMOLLM2, NULL);
  if (!model) return skip_all(SMOLLM2 " is not there");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
