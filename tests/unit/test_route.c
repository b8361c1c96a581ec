/* Routing: the nearest centroid, and a session that goes on under both policies. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bank_fixture.h"
#include "fixture.h"
#include "host.h"
#include "test.h"

static ss_bank *bank; /* centroids are the first three unit vectors of six */

static ss_status route(const float *x, size_t dim, uint32_t *cluster, float *distance, ss_error *err) {
  return ss_bank_route(bank, x, dim, cluster, distance, err);
}

static void test_the_nearest_centroid_wins(void **state) {
  (void)state;
  for (uint32_t want = 0; want < BANK_CLUSTERS; want++) {
    float x[BANK_DIM] = {0.1f, 0.1f, 0.1f, 0.1f, 0.1f, 0.1f}, distance;
    double square = 0;
    uint32_t cluster;
    x[want] = 0.9f;
    for (uint32_t d = 0; d < BANK_DIM; d++) square += pow((double)x[d] - (d == want), 2);
    assert_int_equal(route(x, BANK_DIM, &cluster, &distance, NULL), SS_OK);
    assert_int_equal(cluster, want);
    assert_true(fabs((double)distance - sqrt(square)) < 1e-6);
  }
}

static void test_ties_go_to_the_lower_cluster_and_zero_to_the_global_mask(void **state) {
  (void)state;
  float x[BANK_DIM] = {0, 0.5f, 0.5f}, distance;
  uint32_t cluster;
  assert_int_equal(route(x, BANK_DIM, &cluster, &distance, NULL), SS_OK);
  assert_int_equal(cluster, 1);
  memset(x, 0, sizeof x);
  assert_int_equal(route(x, BANK_DIM, &cluster, &distance, NULL), SS_OK);
  assert_int_equal(cluster, BANK_CLUSTERS);
  ss_mask m;
  const ss_mask want = bank_mask(BANK_CLUSTERS, 0);
  assert_int_equal(ss_bank_mask(bank, cluster, 0.75, &m, NULL), SS_OK);
  assert_memory_equal(&m, &want, sizeof m);
}

static void test_embeddings_that_do_not_fit_are_named(void **state) {
  (void)state;
  float x[BANK_DIM] = {1}, distance;
  uint32_t cluster;
  ss_error err = {0};
  assert_int_equal(route(x, 5, &cluster, &distance, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "has 5 elements, the bank's centroids 6"));
  x[3] = (float)NAN;
  assert_int_equal(route(x, BANK_DIM, &cluster, &distance, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "element 3"));
}

/* ---- sessions ---- */

#define N 12
static const int32_t turns[3][N] = {{275, 183, 200, 261, 169, 226, 243, 67, 18, 89, 85, 254},
                                    {265, 4, 146, 239, 11, 99, 270, 33, 60, 150, 7, 201},
                                    {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static uint64_t hash_of(ss_session *s, const int32_t *tokens, uint32_t n, uint32_t n_vocab) {
  ss_error err = {0};
  if (ss_session_begin(s, tokens, n, 1, &err) || ss_session_run(s, 0, &err)) fail_msg("%s", err.message);
  return ss_logits_hash(ss_session_logits(s, 0), n_vocab);
}

static ss_session *session_with(const ss_model *m, const ss_mask *mask) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, m, &(ss_session_options){.context = 64, .run_mask = mask}, &test_host, &err))
    fail_msg("%s", err.message);
  return s;
}

/* Clusters of the three turns: policy `session` keeps the first one's mask, `turn` prefills again when it changes. */
static void test_a_chat_that_goes_on_gives_the_logits_of_a_fresh_prefill(void **state) {
  (void)state;
  static const uint32_t routed[] = {0, 2, 2};
  ss_model *m = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  ss_model_info info;
  assert_int_equal(ss_model_info_get(m, &info, NULL), SS_OK);
  for (int every_turn = 0; every_turn < 2; every_turn++) {
    int32_t history[3 * N];
    ss_session *s = NULL;
    ss_mask mask = {0};
    for (uint32_t turn = 0; turn < 3; turn++) {
      ss_mask next;
      assert_int_equal(ss_bank_mask(bank, routed[every_turn ? turn : 0], 0.75, &next, NULL), SS_OK);
      memcpy(history + turn * N, turns[turn], sizeof turns[turn]);
      if (s && memcmp(&next, &mask, sizeof mask) != 0) {
        ss_session_free(s);
        s = NULL;
      }
      mask = next;
      if (!s) s = session_with(m, &mask);
      const uint32_t held = ss_session_length(s), n = (turn + 1) * N;
      assert_int_equal(held, turn == 0 || (every_turn && turn == 1) ? 0 : turn * N);
      ss_session *fresh = session_with(m, &mask);
      assert_int_equal(hash_of(s, history + held, n - held, info.n_vocab), hash_of(fresh, history, n, info.n_vocab));
      ss_session_free(fresh);
    }
    ss_session_free(s);
  }
  ss_model_free(m);
}

static void test_an_encoder_routes_text_over_a_bank_of_its_model(void **state) {
  (void)state;
  ss_model *m = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  ss_encoder *encoder;
  ss_error err = {0};
  static const char *const texts[] = {"the quick brown fox", "12 + 30 = 42"};
  float *centroids;
  if (ss_encoder_create(&encoder, m, &test_host, &err)) fail_msg("%s", err.message);
  const uint32_t dim = ss_encoder_dim(encoder);
  centroids = calloc(2 * dim, sizeof *centroids);
  for (int i = 0; i < 2; i++)
    if (ss_encode(encoder, (ss_text){texts[i], strlen(texts[i])}, centroids + i * (int)dim, &err))
      fail_msg("%s", err.message);
  ss_mask masks[3];
  for (int i = 0; i < 3; i++) ss_mask_fill(&masks[i], 4);
  const float level = 0.25f;
  ss_bank_parts parts = {.n_clusters = 2,
                         .n_levels = 1,
                         .n_layers = 2,
                         .dim = dim,
                         .levels = &level,
                         .centroids = centroids,
                         .masks = masks};
  assert_int_equal(ss_model_fingerprint(m, &parts.model, NULL), SS_OK);
  parts.encoder = parts.model;
  uint8_t *bytes;
  size_t n;
  ss_bank *own;
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_OK);
  assert_int_equal(ss_bank_open(&own, bytes, n, &test_host, &err), SS_OK);
  ss_host_free(&test_host, bytes, n);
  for (uint32_t i = 0; i < 2; i++) {
    uint32_t cluster;
    float distance;
    assert_int_equal(ss_bank_route(own, centroids + i * dim, dim, &cluster, &distance, NULL), SS_OK);
    assert_int_equal(cluster, i);
  }
  free(centroids);
  ss_bank_free(own);
  ss_encoder_free(encoder);
  ss_model_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_nearest_centroid_wins),
      cmocka_unit_test(test_ties_go_to_the_lower_cluster_and_zero_to_the_global_mask),
      cmocka_unit_test(test_embeddings_that_do_not_fit_are_named),
      cmocka_unit_test(test_a_chat_that_goes_on_gives_the_logits_of_a_fresh_prefill),
      cmocka_unit_test(test_an_encoder_routes_text_over_a_bank_of_its_model),
  };
  gguf_image image = bank_image(&(bank_case){0});
  ss_error err = {0};
  if (ss_bank_open(&bank, image.data, image.len, &test_host, &err)) {
    print_error("%s\n", err.message);
    return 1;
  }
  gguf_image_free(&image);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_bank_free(bank);
  return failed;
}
