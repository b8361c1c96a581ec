/* all-MiniLM-L6-v2: the ids of Hugging Face tokenizers, as close to sentence-transformers as promised, and one hash of
 * the embeddings everywhere, over the 500 texts of tests/golden/sentences.txt. Skipped where no model is there. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "fixture.h"
#include "host.h"
#include "test.h"

#define N_TEXTS 500
#define N_FEW (SS_SLOW_TARGET ? 40 : N_TEXTS) /* texts to embed: an emulated or instrumented run takes the first */
#define DIM 384

/* hash_few: of the first 40 texts' embeddings, hash: of all */
static const struct {
  const char *path;
  double least, least_mean;
  uint64_t hash_few, hash;
} models[] = {
    {"models/all-MiniLM-L6-v2.Q8_0.gguf", 0.995, 0.9990, UINT64_C(0x25eba51bdccd1635), UINT64_C(0x29fcfb5a14a35988)},
    {"models/all-MiniLM-L6-v2.F16.gguf", 0.9995, 0.9999, UINT64_C(0xf2a6edba422adb2c),
     UINT64_C(0x5fffb46679583050)}, /* tools/convert_minilm.mjs --type F16 */
};
static char *sentences, *all_ids;
static uint16_t *embeddings;

/* The line's text, its escapes undone in place; *line moves to the next one. */
static ss_text next_text(char **line) {
  char *from = *line, *to = from, *start = from;
  for (; *from != '\n'; from++) {
    char c = *from;
    if (c == '\\') {
      c = *++from;
      c = c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c == '0' ? 0 : c;
    }
    *to++ = c;
  }
  *line = from + 1;
  return (ss_text){start, (size_t)(to - start)};
}

static void check_ids(ss_encoder *e, ss_text text, const char **line, size_t i) {
  int32_t tokens[SS_ENCODER_TOKENS];
  size_t n, want = 0;
  assert_int_equal(ss_encoder_tokens(e, text, tokens, &n, NULL), SS_OK);
  for (char *end; **line != '\n'; *line = *end == ' ' ? end + 1 : end, want++) {
    const long id = strtol(*line, &end, 10);
    if (want >= n || tokens[want] != id)
      fail_msg("text %zu, id %zu: %d, want %ld", i, want, want < n ? tokens[want] : -1, id);
  }
  if (n != want) fail_msg("text %zu: %zu ids, want %zu", i, n, want);
  ++*line;
}

static double cosine(const float *x, const uint16_t *y) {
  double dot = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < DIM; i++) {
    const double b = ss_float_of_half(y[i]);
    dot += x[i] * b;
    xx += (double)x[i] * x[i];
    yy += b * b;
  }
  return dot / sqrt(xx * yy);
}

static void check_model(size_t which, const ss_model *m) {
  ss_encoder *e;
  ss_error err = {0};
  float x[DIM];
  if (ss_encoder_create(&e, m, &test_host, &err)) fail_msg("%s", err.message);
  assert_int_equal(ss_encoder_dim(e), DIM);
  char *copy = malloc(strlen(sentences) + 1), *line = strcpy(copy, sentences);
  const char *ids = all_ids;
  double least = 1, sum = 0;
  uint64_t hash = SS_FNV_START, hash_few = 0;
  for (size_t i = 0; i < N_TEXTS; i++) {
    const ss_text text = next_text(&line);
    check_ids(e, text, &ids, i);
    if (i >= N_FEW) continue;
    if (ss_encode(e, text, x, &err)) fail_msg("%s", err.message);
    const double c = cosine(x, embeddings + i * DIM);
    least = fmin(least, c);
    sum += c;
    hash = ss_fnv1a(hash, x, sizeof x);
    if (i == 39) hash_few = hash;
  }
  print_message("%s: cosine at least %.6f, mean %.6f; hash %016" PRIx64 ", of 40 texts %016" PRIx64 "\n",
                models[which].path, least, sum / N_FEW, hash, hash_few);
  assert_true(least >= models[which].least && sum / N_FEW >= models[which].least_mean);
  assert_true(hash_few == models[which].hash_few);
  if (N_FEW == N_TEXTS) assert_true(hash == models[which].hash);
  assert_true(cosine(x, embeddings) < models[which].least); /* another text's embedding is not as close */
  free(copy);
  ss_encoder_free(e);
}

static void test_minilm_agrees_with_sentence_transformers(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    ss_model *m = load_model(models[i].path, NULL);
    if (!m) continue;
    check_model(i, m);
    ss_model_free(m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_minilm_agrees_with_sentence_transformers)};
  size_t n, n_embeddings;
  bool there = false;
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    FILE *f = fopen(models[i].path, "rb");
    if (f) fclose(f);
    there = there || f;
  }
  if (!there) return skip_all("models/all-MiniLM-L6-v2.*.gguf is not there");
  sentences = read_file("tests/golden/sentences.txt", &n);
  all_ids = read_file("tests/golden/sentences.ids", &n);
  embeddings = read_file("tests/golden/sentences.f16", &n_embeddings);
  if (!sentences || !all_ids || !embeddings || n_embeddings != N_TEXTS * DIM * sizeof *embeddings) {
    printf("tests/golden/sentences.* is not there or not whole\n");
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free(sentences);
  free(all_ids);
  free(embeddings);
  return failed;
}
