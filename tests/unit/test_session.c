/* Sessions: what a step gives does not depend on how it is cut up; masks, truncation, holes, failing memory. */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "host.h"
#include "model/model.h"
#include "test.h"

#define N 24
static const int32_t tokens[N] = {275, 183, 200, 261, 169, 226, 243, 67, 18, 89,  85, 254,
                                  265, 4,   146, 239, 11,  99,  270, 33, 60, 150, 7,  201};
static ss_model *model; /* two layers, 64 wide, Q4_1 */
static uint32_t n_vocab;

static ss_session *make(const ss_session_options *options, const ss_host *host) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, model, options, host, &err)) fail_msg("%s", err.message);
  return s;
}

static void step(ss_session *s, const int32_t *t, size_t n, size_t n_logits) {
  ss_error err = {0};
  if (ss_session_begin(s, t, n, n_logits, &err) || ss_session_run(s, 0, &err)) fail_msg("%s", err.message);
}

static uint64_t hash_after(const ss_session_options *options, const ss_host *host) {
  ss_session *s = make(options, host);
  step(s, tokens, N, 1);
  const uint64_t hash = ss_logits_hash(ss_session_logits(s, 0), n_vocab);
  ss_session_free(s);
  return hash;
}

static uint64_t plain_hash(void) { return hash_after(&(ss_session_options){.context = 64}, &test_host); }

static void test_logits_do_not_depend_on_the_chunk(void **state) {
  (void)state;
  const uint64_t want = plain_hash();
  for (uint32_t chunk = 1; chunk <= N; chunk++)
    assert_int_equal(hash_after(&(ss_session_options){.context = 64, .chunk = chunk}, &test_host), want);
}

static void test_logits_do_not_depend_on_threads(void **state) {
  (void)state;
  const uint64_t want = plain_hash();
  for (uint32_t threads = 2; threads <= 7; threads++) {
    ss_host host = test_host;
    host.n_threads = threads;
    host.parallel_for = reverse_parallel;
    assert_int_equal(hash_after(&(ss_session_options){.context = 64, .chunk = 5}, &host), want);
  }
}

/* Threads take tokens through a block, where each has enough of them, and else rows. */
static void test_logits_of_long_steps_do_not_depend_on_threads(void **state) {
  (void)state;
  int32_t many[6 * N];
  uint64_t want = 0;
  for (int i = 0; i < 6 * N; i++) many[i] = tokens[i % N] + i / N;
  for (uint32_t threads = 1; threads <= 7; threads++) {
    ss_host host = test_host;
    host.n_threads = threads;
    host.parallel_for = reverse_parallel;
    ss_session *s = make(&(ss_session_options){.context = 6 * N, .chunk = 6 * N}, &host);
    step(s, many, 6 * N, 1);
    const uint64_t hash = ss_logits_hash(ss_session_logits(s, 0), n_vocab);
    ss_session_free(s);
    if (threads == 1) want = hash;
    assert_int_equal(hash, want);
  }
}

static void test_logits_do_not_depend_on_the_kernels(void **state) {
  (void)state;
  ss_model *fast = model;
  const uint64_t want = plain_hash();
  const ss_kernels *k;
  for (size_t i = 0; (k = ss_kernels_at(i)); i++) {
    model = load_model("tests/golden/tiny/q4_1.gguf", k);
    const uint64_t hash = plain_hash();
    ss_model_free(model);
    model = fast;
    if (hash != want) fail_msg("%s: another hash", ss_kernels_name(k));
  }
}

static void test_a_step_may_stop_after_every_block(void **state) {
  (void)state;
  ss_session *s = make(&(ss_session_options){.context = 64, .chunk = 7}, &test_host);
  ss_error err = {0};
  assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_OK);
  int calls = 1;
  for (ss_status status; (status = ss_session_run(s, 1, &err)) != SS_OK; calls++) {
    assert_int_equal(status, SS_MORE);
    assert_null(ss_session_logits(s, 0));
  }
  assert_int_equal(calls, 4 * 4 + 1); /* four chunks of four blocks, and the head */
  assert_int_equal(ss_logits_hash(ss_session_logits(s, 0), n_vocab), plain_hash());
  ss_session_free(s);
}

static void test_decode_gives_what_prefill_gives(void **state) {
  (void)state;
  ss_session *all = make(&(ss_session_options){.context = 64, .max_logits = N}, &test_host);
  ss_session *one = make(&(ss_session_options){.context = 64}, &test_host);
  step(all, tokens, N, N);
  for (uint32_t t = 0; t < N; t++) {
    step(one, tokens + t, 1, 1);
    assert_memory_equal(ss_session_logits(one, 0), ss_session_logits(all, t), n_vocab * sizeof(float));
  }
  assert_null(ss_session_logits(all, N));
  ss_session_free(all);
  ss_session_free(one);
}

static void test_cancel_keeps_the_complete_chunks(void **state) {
  (void)state;
  ss_session *s = make(&(ss_session_options){.context = 64, .chunk = 10}, &test_host);
  ss_error err = {0};
  assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_OK);
  assert_int_equal(ss_session_run(s, 6, &err), SS_MORE); /* one chunk of four blocks and half of another */
  ss_session_cancel(s);
  assert_int_equal(ss_session_length(s), 10);
  assert_null(ss_session_logits(s, 0));
  step(s, tokens + 10, N - 10, 1);
  assert_int_equal(ss_logits_hash(ss_session_logits(s, 0), n_vocab), plain_hash());
  ss_session_free(s);
}

static void test_truncate_forgets_what_followed(void **state) {
  (void)state;
  ss_session *s = make(&(ss_session_options){.context = 64}, &test_host);
  const int32_t others[] = {5, 6, 7, 8, 9};
  ss_error err = {0};
  step(s, tokens, 9, 0);
  step(s, others, 5, 1);
  assert_int_equal(ss_session_truncate(s, 9, &err), SS_OK);
  step(s, tokens + 9, N - 9, 1);
  assert_int_equal(ss_logits_hash(ss_session_logits(s, 0), n_vocab), plain_hash());
  assert_int_equal(ss_session_truncate(s, N + 1, &err), SS_E_ARGUMENT);
  ss_session_free(s);
}

static void test_mask_of_ones_equals_no_mask(void **state) {
  (void)state;
  ss_mask ones;
  ss_mask_fill(&ones, 4);
  assert_int_equal(hash_after(&(ss_session_options){.context = 64, .run_mask = &ones}, &test_host), plain_hash());
}

static void test_mask_of_zeros_equals_embedding_norm_and_head(void **state) {
  (void)state;
  /* Without blocks a token's logits do not depend on the tokens before it, and take no KV. */
  const ss_mask zeros = {0};
  const ss_session_options options = {.context = 64, .run_mask = &zeros, .max_logits = N};
  assert_int_equal(ss_session_kv_bytes(model, &options), 0);
  ss_session *all = make(&options, &test_host), *one = make(&options, &test_host);
  step(all, tokens, N, N);
  step(one, tokens + 7, 1, 1);
  assert_memory_equal(ss_session_logits(one, 0), ss_session_logits(all, 7), n_vocab * sizeof(float));
  const ss_matrix table = ss_model_matrix(model, model->embedding); /* the head is tied */
  const float *gains = ss_model_vector(model, model->output_norm);
  float x[64], row[64];
  ss_matrix_row(x, &table, (uint32_t)tokens[7]);
  double square = 0.0, error = 0.0, size = 0.0;
  for (int i = 0; i < 64; i++) square += (double)x[i] * x[i];
  for (uint32_t v = 0; v < n_vocab; v++) {
    ss_matrix_row(row, &table, v);
    double want = 0.0;
    for (int i = 0; i < 64; i++) want += row[i] * x[i] * gains[i] / sqrt(square / 64 + model->config.norm_eps);
    error += (ss_session_logits(one, 0)[v] - want) * (ss_session_logits(one, 0)[v] - want);
    size += want * want;
  }
  assert_true(sqrt(error / size) < 0.02); /* one rounding of the activations to 8 bits */
  ss_session_free(all);
  ss_session_free(one);
}

static void test_each_skipped_block_changes_the_logits_and_skipped_attention_has_no_kv(void **state) {
  (void)state;
  const size_t dense = ss_session_kv_bytes(model, &(ss_session_options){.context = 64});
  for (uint32_t b = 0; b < 4; b++) {
    ss_mask m;
    ss_mask_fill(&m, 4);
    ss_mask_set(&m, b, false);
    const ss_session_options options = {.context = 64, .run_mask = &m};
    assert_int_not_equal(hash_after(&options, &test_host), plain_hash());
    assert_int_equal(ss_session_kv_bytes(model, &options), b % 2 ? dense : dense / 2);
  }
}

static void test_run_mask_outside_kv_mask_is_refused(void **state) {
  (void)state;
  ss_mask run, kv;
  ss_mask_fill(&run, 4);
  ss_mask_fill(&kv, 4);
  ss_mask_set(&kv, 2, false);
  ss_session *s;
  ss_error err = {0};
  assert_int_equal(
      ss_session_create(&s, model, &(ss_session_options){.run_mask = &run, .kv_mask = &kv}, &test_host, &err),
      SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "layer 1"));
  ss_mask_set(&run, 9, true);
  assert_int_equal(ss_session_create(&s, model, &(ss_session_options){.run_mask = &run}, &test_host, &err),
                   SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "block 9"));
}

static void test_a_hole_in_the_kv_is_refused_until_truncated(void **state) {
  (void)state;
  ss_mask dense, sparse;
  ss_mask_fill(&dense, 4);
  sparse = dense;
  ss_mask_set(&sparse, 2, false);
  ss_session *s = make(&(ss_session_options){.context = 64, .kv_mask = &dense}, &test_host);
  ss_error err = {0};
  step(s, tokens, 10, 0);
  assert_int_equal(ss_session_set_run_mask(s, &sparse, &err), SS_OK);
  step(s, tokens + 10, 3, 1); /* a draft */
  assert_int_equal(ss_session_set_run_mask(s, &dense, &err), SS_OK);
  assert_int_equal(ss_session_begin(s, tokens + 13, 2, 1, &err), SS_E_STATE);
  assert_non_null(strstr(err.message, "layer 1 has KV of 10 of 13"));
  assert_int_equal(ss_session_truncate(s, 10, &err), SS_OK);
  step(s, tokens + 10, N - 10, 1);
  assert_int_equal(ss_logits_hash(ss_session_logits(s, 0), n_vocab), plain_hash());
  ss_session_free(s);
}

static void test_impossible_steps_are_named(void **state) {
  (void)state;
  ss_session *s = make(&(ss_session_options){.context = 16, .max_logits = 2}, &test_host);
  ss_error err = {0};
  const int32_t bad = (int32_t)n_vocab;
  assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_E_CONTEXT);
  assert_non_null(strstr(err.message, "0 of 16 tokens held, 24 more"));
  assert_int_equal(ss_session_begin(s, tokens, 0, 0, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_session_begin(s, tokens, 5, 3, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_session_begin(s, &bad, 1, 1, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_session_run(s, 0, &err), SS_E_STATE);
  assert_int_equal(ss_session_begin(s, tokens, 5, 1, &err), SS_OK);
  assert_int_equal(ss_session_begin(s, tokens, 5, 1, &err), SS_E_STATE);
  assert_int_equal(ss_session_truncate(s, 0, &err), SS_E_STATE);
  ss_session_free(s);
  ss_session *none;
  assert_int_equal(ss_session_create(&none, model, &(ss_session_options){.context = 1u << 30}, &test_host, &err),
                   SS_E_ARGUMENT);
  ss_host crowd = test_host;
  crowd.n_threads = 0;
  assert_int_equal(ss_session_create(&none, model, NULL, &crowd, &err), SS_E_ARGUMENT);
}

static void test_a_step_names_the_tensor_that_was_not_fed_and_goes_on_once_it_is(void **state) {
  (void)state;
  size_t n;
  uint8_t *bytes = read_file("tests/golden/tiny/q4_1.gguf", &n);
  ss_model *whole = model, *partial;
  ss_error err = {0};
  ss_tensor_info missing = {0};
  for (size_t i = 0; i < ss_model_n_tensors(whole); i++) {
    assert_int_equal(ss_model_tensor(whole, i, &missing, &err), SS_OK);
    if (!strcmp(missing.name, "blk.1.attn_q.weight")) break;
  }
  assert_int_equal(ss_model_create(&partial, &test_host, NULL, &err), SS_OK);
  assert_int_equal(ss_model_feed(partial, 0, bytes, missing.offset + 100, &err), SS_MORE);
  const size_t end = missing.offset + missing.bytes;
  assert_int_equal(ss_model_feed(partial, end, bytes + end, n - end, &err), SS_MORE);
  model = partial;
  ss_session *s = make(&(ss_session_options){.context = 64}, &test_host);
  assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_OK);
  assert_int_equal(ss_session_run(s, 0, &err), SS_E_MISSING);
  assert_non_null(strstr(err.message, "blk.1.attn_q.weight"));
  assert_int_equal(ss_model_feed(partial, missing.offset, bytes + missing.offset, missing.bytes, &err), SS_OK);
  assert_int_equal(ss_session_run(s, 0, &err), SS_OK);
  const uint64_t hash = ss_logits_hash(ss_session_logits(s, 0), n_vocab);
  ss_session_free(s);
  ss_model_free(partial);
  model = whole;
  assert_int_equal(hash, plain_hash());
  free(bytes);
}

static void test_every_failed_allocation_is_a_status_and_leaks_nothing(void **state) {
  (void)state;
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_session *s = NULL;
    ss_sampler *sampler = NULL;
    ss_error err = {0};
    ss_status status = ss_session_create(&s, model, NULL, &host, &err);
    if (!status) status = ss_sampler_create(&sampler, n_vocab, NULL, &host, &err);
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_sampler_free(sampler);
    ss_session_free(s);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
    assert_non_null(strstr(err.message, "no memory"));
  }
}

static void test_session_bytes_is_what_create_allocates(void **state) {
  (void)state;
  counting_memory memory = {0};
  const ss_host host = counting_host(&memory);
  const ss_session_options options = {.context = 100, .chunk = 9, .max_logits = 3};
  ss_session *s;
  assert_int_equal(ss_session_create(&s, model, &options, &host, NULL), SS_OK);
  assert_int_equal(memory.bytes_live, ss_session_bytes(model, &options));
  ss_session_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_logits_do_not_depend_on_the_chunk),
      cmocka_unit_test(test_logits_do_not_depend_on_threads),
      cmocka_unit_test(test_logits_of_long_steps_do_not_depend_on_threads),
      cmocka_unit_test(test_logits_do_not_depend_on_the_kernels),
      cmocka_unit_test(test_a_step_may_stop_after_every_block),
      cmocka_unit_test(test_decode_gives_what_prefill_gives),
      cmocka_unit_test(test_cancel_keeps_the_complete_chunks),
      cmocka_unit_test(test_truncate_forgets_what_followed),
      cmocka_unit_test(test_mask_of_ones_equals_no_mask),
      cmocka_unit_test(test_mask_of_zeros_equals_embedding_norm_and_head),
      cmocka_unit_test(test_each_skipped_block_changes_the_logits_and_skipped_attention_has_no_kv),
      cmocka_unit_test(test_run_mask_outside_kv_mask_is_refused),
      cmocka_unit_test(test_a_hole_in_the_kv_is_refused_until_truncated),
      cmocka_unit_test(test_impossible_steps_are_named),
      cmocka_unit_test(test_a_step_names_the_tensor_that_was_not_fed_and_goes_on_once_it_is),
      cmocka_unit_test(test_every_failed_allocation_is_a_status_and_leaks_nothing),
      cmocka_unit_test(test_session_bytes_is_what_create_allocates),
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
