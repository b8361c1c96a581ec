/* Sentence encoders on small random models: against a plain double reference, the same bits on all kernels and threads,
 * WordPiece by cases, files that are wrong in one place, failing memory. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "gguf_writer.h"
#include "host.h"
#include "model/model.h"
#include "test.h"

#define MARK "\xe2\x96\x81"
static const char *const vocab[] = {"[PAD]",
                                    "[UNK]",
                                    "[CLS]",
                                    "[SEP]",
                                    MARK "un",
                                    "aff",
                                    "able",
                                    MARK "the",
                                    MARK "!",
                                    MARK "a",
                                    MARK "\xe4\xbd\xa0",
                                    MARK "cafe",
                                    "s",
                                    MARK
                                    "stra\xc3\x9f"
                                    "e",
                                    MARK "\xcf\x83",
                                    "\xcf\x83",
                                    MARK "-",
                                    MARK "ab",
                                    "b",
                                    MARK "\xe1\x84\x92",
                                    "\xe1\x85\xa1"};
enum {
  PAD,
  UNK,
  CLS,
  SEP,
  UN,
  AFF,
  ABLE,
  THE,
  BANG,
  A,
  NI,
  CAFE,
  S,
  STRASSE,
  SIGMA,
  SIGMA2,
  DASH,
  AB,
  B,
  HIEUH,
  JUNG_A,
  N_VOCAB
};
_Static_assert(sizeof vocab / sizeof *vocab == N_VOCAB, "a name for each token");

/* ---- a small model ---- */

typedef struct tiny_bert {
  uint32_t type; /* of the matrices; 0 is F32 */
  uint32_t context; /* 64 */
  uint32_t pooling; /* 1 */
  const char *without; /* leave out this key or tensor */
  const char *odd_key; /* write this integer so, instead */
  uint32_t odd_value;
  const char *odd_tensor; /* give this tensor one row or element more */
  const char *tokenizer; /* "bert" */
} tiny_bert;

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

static void put_key(gguf_writer *w, const tiny_bert *t, const char *key, uint32_t value) {
  if (is(t->without, key)) return;
  gguf_u32(w, key, is(t->odd_key, key) ? t->odd_value : value);
}

static void put_tensor(gguf_writer *w, const tiny_bert *t, const char *name, uint32_t type, uint64_t cols,
                       uint64_t rows, float spread) {
  if (is(t->without, name)) return;
  const bool odd = is(t->odd_tensor, name);
  const uint64_t dims[] = {cols + (odd && !rows ? 32 : 0), rows + (odd && rows)};
  size_t n;
  uint8_t *bytes =
      random_weights(type, dims[0] * (rows ? dims[1] : 1), spread, ss_fnv1a(SS_FNV_START, name, strlen(name)), &n);
  if (!rows && strstr(name, "norm.weight")) /* gains lie around 1 */
    for (size_t i = 0; i < n / 4; i++) {
      float x;
      memcpy(&x, bytes + 4 * i, 4);
      x += 1;
      memcpy(bytes + 4 * i, &x, 4);
    }
  gguf_tensor(w, name, type, rows ? 2 : 1, dims, bytes, n);
  free(bytes);
}

enum { EMBD = 64, FF = 96, HEADS = 2, LAYERS = 2 };

static gguf_image bert_image(const tiny_bert *t) {
  gguf_writer w = gguf_start();
  gguf_string(&w, "general.architecture", "bert");
  put_key(&w, t, "bert.block_count", LAYERS);
  put_key(&w, t, "bert.context_length", t->context ? t->context : 64);
  put_key(&w, t, "bert.embedding_length", EMBD);
  put_key(&w, t, "bert.feed_forward_length", FF);
  put_key(&w, t, "bert.attention.head_count", HEADS);
  put_key(&w, t, "bert.pooling_type", t->pooling ? t->pooling : 1);
  if (is(t->odd_key, "bert.attention.head_count_kv")) gguf_u32(&w, t->odd_key, t->odd_value);
  if (is(t->odd_key, "bert.attention.causal")) gguf_bool(&w, t->odd_key, true);
  if (!is(t->without, "bert.attention.layer_norm_epsilon")) gguf_f32(&w, "bert.attention.layer_norm_epsilon", 1e-12f);
  gguf_string(&w, "tokenizer.ggml.model", t->tokenizer ? t->tokenizer : "bert");
  if (!is(t->without, "tokenizer.ggml.tokens")) gguf_strings(&w, "tokenizer.ggml.tokens", vocab, N_VOCAB);
  if (is(t->odd_key, "tokenizer.ggml.cls_token_id")) gguf_u32(&w, t->odd_key, t->odd_value);
  const float narrow = 1 / sqrtf(EMBD);
  put_tensor(&w, t, "token_embd.weight", t->type, EMBD, N_VOCAB, 1);
  put_tensor(&w, t, "position_embd.weight", SS_GGUF_F32, EMBD, t->context ? t->context : 64, 0.3f);
  put_tensor(&w, t, "token_types.weight", SS_GGUF_F32, EMBD, 2, 0.3f);
  put_tensor(&w, t, "token_embd_norm.weight", SS_GGUF_F32, EMBD, 0, 0.1f);
  put_tensor(&w, t, "token_embd_norm.bias", SS_GGUF_F32, EMBD, 0, 0.1f);
  for (uint32_t l = 0; l < LAYERS; l++) {
    static const struct {
      const char *name;
      uint32_t cols, rows;
    } parts[] = {{"attn_q", EMBD, EMBD},      {"attn_k", EMBD, EMBD},        {"attn_v", EMBD, EMBD},
                 {"attn_output", EMBD, EMBD}, {"attn_output_norm", EMBD, 0}, {"ffn_up", EMBD, FF},
                 {"ffn_down", FF, EMBD},      {"layer_output_norm", EMBD, 0}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
      char name[64];
      snprintf(name, sizeof name, "blk.%u.%s.weight", l, parts[i].name);
      put_tensor(&w, t, name, parts[i].rows ? t->type : (uint32_t)SS_GGUF_F32, parts[i].cols, parts[i].rows,
                 parts[i].rows ? 1.5f * narrow : 0.1f);
      snprintf(name, sizeof name, "blk.%u.%s.bias", l, parts[i].name);
      put_tensor(&w, t, name, SS_GGUF_F32, parts[i].rows ? parts[i].rows : parts[i].cols, 0, 0.2f);
    }
  }
  return gguf_finish(&w);
}

static ss_model *model_of(const gguf_image *image, const ss_kernels *kernels, const ss_host *host) {
  ss_model *m;
  ss_error err = {0};
  if (ss_model_create(&m, host, kernels, &err) || ss_model_feed(m, 0, image->data, image->len, &err))
    fail_msg("%s", err.message);
  return m;
}

static ss_model *tiny(const tiny_bert *t) {
  gguf_image image = bert_image(t);
  ss_model *m = model_of(&image, NULL, &test_host);
  gguf_image_free(&image);
  return m;
}

static ss_encoder *encoder_of(const ss_model *m, const ss_host *host) {
  ss_encoder *e;
  ss_error err = {0};
  if (ss_encoder_create(&e, m, host, &err)) fail_msg("%s", err.message);
  return e;
}

static ss_text text_of(const char *text) { return (ss_text){text, strlen(text)}; }

static const char *const LONG =
    "the unaffable caf\xc3\xa9s! A the-able \xe4\xbd\xa0 ab the ! unaffaffable a a the xyz stra\xc3\x9f"
    "e";

/* ---- the reference: plain, in double ---- */

static void matrix_row(const ss_model *m, uint32_t tensor, uint32_t row, double *out) {
  const ss_matrix w = ss_model_matrix(m, tensor);
  float x[FF];
  ss_matrix_row(x, &w, row);
  for (uint32_t i = 0; i < w.cols; i++) out[i] = x[i];
}

static void linear(const ss_model *m, uint32_t weight, uint32_t bias, const double *x, double *y) {
  const ss_matrix w = ss_model_matrix(m, weight);
  for (uint32_t r = 0; r < w.rows; r++) {
    double row[FF], sum = ss_model_vector(m, bias)[r];
    matrix_row(m, weight, r, row);
    for (uint32_t i = 0; i < w.cols; i++) sum += row[i] * x[i];
    y[r] = sum;
  }
}

static void norm(const ss_model *m, uint32_t gain, uint32_t bias, double *x) {
  double mean = 0, variance = 0;
  for (int i = 0; i < EMBD; i++) mean += x[i] / EMBD;
  for (int i = 0; i < EMBD; i++) variance += (x[i] - mean) * (x[i] - mean) / EMBD;
  for (int i = 0; i < EMBD; i++)
    x[i] = (x[i] - mean) / sqrt(variance + 1e-12) * ss_model_vector(m, gain)[i] + ss_model_vector(m, bias)[i];
}

static void reference(const ss_model *m, const int32_t *tokens, size_t n, double *embedding) {
  static double h[64][EMBD], q[64][EMBD], k[64][EMBD], v[64][EMBD];
  for (size_t t = 0; t < n; t++) {
    double row[EMBD];
    matrix_row(m, m->embedding, (uint32_t)tokens[t], h[t]);
    matrix_row(m, m->positions, (uint32_t)t, row);
    for (int i = 0; i < EMBD; i++) h[t][i] += row[i];
    matrix_row(m, m->token_types, 0, row);
    for (int i = 0; i < EMBD; i++) h[t][i] += row[i];
    norm(m, m->embedding_norm, m->embedding_norm_bias, h[t]);
  }
  for (uint32_t l = 0; l < LAYERS; l++) {
    const ss_layer *layer = &m->layers[l];
    const int dim = EMBD / HEADS;
    for (size_t t = 0; t < n; t++) {
      linear(m, layer->q, layer->q_bias, h[t], q[t]);
      linear(m, layer->k, layer->k_bias, h[t], k[t]);
      linear(m, layer->v, layer->v_bias, h[t], v[t]);
    }
    for (size_t t = 0; t < n; t++) {
      double mixed[EMBD] = {0}, out[EMBD], up[FF];
      for (int head = 0; head < HEADS; head++) {
        double p[64], sum = 0;
        for (size_t s = 0; s < n; s++) {
          double dot = 0;
          for (int i = head * dim; i < (head + 1) * dim; i++) dot += q[t][i] * k[s][i];
          sum += p[s] = exp(dot / sqrt(dim));
        }
        for (size_t s = 0; s < n; s++)
          for (int i = head * dim; i < (head + 1) * dim; i++) mixed[i] += p[s] / sum * v[s][i];
      }
      linear(m, layer->o, layer->o_bias, mixed, out);
      for (int i = 0; i < EMBD; i++) h[t][i] += out[i];
      norm(m, layer->attn_norm, layer->attn_norm_bias, h[t]);
      linear(m, layer->up, layer->up_bias, h[t], up);
      for (int i = 0; i < FF; i++) up[i] *= 0.5 * (1 + erf(up[i] / sqrt(2)));
      linear(m, layer->down, layer->down_bias, up, out);
      for (int i = 0; i < EMBD; i++) h[t][i] += out[i];
      norm(m, layer->ffn_norm, layer->ffn_norm_bias, h[t]);
    }
  }
  double length = 0;
  memset(embedding, 0, EMBD * sizeof *embedding);
  const size_t n_pooled = m->config.pooling == SS_POOL_CLS ? 1 : n;
  for (size_t t = 0; t < n_pooled; t++)
    for (int i = 0; i < EMBD; i++) embedding[i] += h[t][i];
  for (int i = 0; i < EMBD; i++) length += embedding[i] * embedding[i];
  for (int i = 0; i < EMBD; i++) embedding[i] /= sqrt(length);
}

static double cosine(const float *x, const double *y) {
  double dot = 0;
  for (int i = 0; i < EMBD; i++) dot += x[i] * y[i];
  return dot;
}

static void test_embeddings_agree_with_a_plain_double_reference(void **state) {
  (void)state;
  static const struct {
    uint32_t type;
    double least;
  } cases[] = {{SS_GGUF_F32, 0.9999},  {SS_GGUF_F16, 0.9999},  {SS_GGUF_BF16, 0.9999}, {SS_GGUF_Q8_0, 0.9995},
               {SS_GGUF_Q4_0, 0.9995}, {SS_GGUF_Q4_1, 0.9995}, {SS_GGUF_Q5_0, 0.9995}, {SS_GGUF_Q5_1, 0.9995}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (uint32_t pooling = 1; pooling <= 2; pooling++) {
      ss_model *m = tiny(&(tiny_bert){.type = cases[i].type, .pooling = pooling});
      ss_encoder *e = encoder_of(m, &test_host);
      int32_t tokens[SS_ENCODER_TOKENS];
      size_t n;
      float x[EMBD];
      double want[EMBD];
      ss_error err = {0};
      assert_int_equal(ss_encoder_tokens(e, text_of(LONG), tokens, &n, &err), SS_OK);
      assert_in_range(n, 20, 64);
      assert_int_equal(ss_encode(e, text_of(LONG), x, &err), SS_OK);
      reference(m, tokens, n, want);
      const double got = cosine(x, want);
      if (!(got >= cases[i].least && got < 1.0001))
        fail_msg("%s, pooling %u: cosine %.6f, want %.4f", ss_quant_find(cases[i].type)->name, pooling, got,
                 cases[i].least);
      tokens[1] = UNK; /* the comparison sees a planted error */
      reference(m, tokens, n, want);
      assert_true(cosine(x, want) < cases[i].least);
      ss_encoder_free(e);
      ss_model_free(m);
    }
}

/* ---- the same bits ---- */

static uint64_t hash_of(const gguf_image *image, const ss_kernels *kernels, const ss_host *host) {
  ss_model *m = model_of(image, kernels, host);
  ss_encoder *e = encoder_of(m, host);
  float *x = malloc(ss_encoder_dim(e) * sizeof *x);
  uint64_t hash = SS_FNV_START;
  const char *const texts[] = {LONG, "", "the", LONG, "a a a a a a a"}; /* an earlier text leaves no trace */
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    assert_int_equal(ss_encode(e, text_of(texts[i]), x, NULL), SS_OK);
    hash = ss_fnv1a(hash, x, ss_encoder_dim(e) * sizeof *x);
  }
  free(x);
  ss_encoder_free(e);
  ss_model_free(m);
  return hash;
}

static void check_bits(gguf_image image, const char *what) {
  const uint64_t want = hash_of(&image, ss_kernels_find("scalar"), &test_host);
  for (size_t i = 0; ss_kernels_at(i); i++)
    for (uint32_t threads = 1; threads <= 7; threads += 2) {
      ss_host host = test_host;
      host.n_threads = threads;
      host.parallel_for = reverse_parallel;
      if (hash_of(&image, ss_kernels_at(i), &host) != want)
        fail_msg("%s: other bits with %s on %u threads", what, ss_kernels_name(ss_kernels_at(i)), threads);
    }
  gguf_image_free(&image);
}

static void test_embeddings_have_the_same_bits_on_all_kernels_and_threads(void **state) {
  (void)state;
  static const uint32_t types[] = {SS_GGUF_F32, SS_GGUF_F16, SS_GGUF_Q8_0, SS_GGUF_Q4_1};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    check_bits(bert_image(&(tiny_bert){.type = types[i]}), ss_quant_find(types[i])->name);
  check_bits(tiny_model_image(&(tiny_model){.type = SS_GGUF_Q4_1, .n_layers = 5}), "self");
}

static void test_layernorm_and_gelu_are_what_their_names_say(void **state) {
  (void)state;
  for (double x = -6; x <= 6; x += 0.001) assert_true(fabs(ss_erff((float)x) - erf((float)x)) < 1e-6);
  assert_true(ss_erff(1e30f) == 1.0f && ss_erff(-1e30f) == -1.0f && ss_erff(0) == 0);
  float x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, g[] = {1, 1, 1, 1, 1, 1, 1, 1, 2}, b[] = {0, 0, 0, 0, 0.5f, 0, 0, 0, 0};
  ss_layernorm(x, g, b, 9, 0);
  assert_float_equal(x[0], -4 / sqrt(60.0 / 9), 1e-6);
  assert_float_equal(x[4], 0.5, 1e-6);
  assert_float_equal(x[8], 8 / sqrt(60.0 / 9), 1e-6);
  float y[] = {-2, 0, 3}, none[] = {0, 1, 0};
  ss_gelu(y, none, 3);
  assert_float_equal(y[0], -0.04550026, 1e-6);
  assert_float_equal(y[1], 0.8413447, 1e-6);
  assert_float_equal(y[2], 2.9959502, 1e-6);
}

/* ---- WordPiece ---- */

static void test_wordpiece_cuts_words_as_bert_does(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int32_t ids[12]; /* without [CLS] and [SEP]; 0 ends */
  } cases[] = {
      {"", {0}},
      {" \t\r\n\xc2\xa0\xe3\x80\x80", {0}},
      {"unaffable", {UN, AFF, ABLE}},
      {"UnAffable the", {UN, AFF, ABLE, THE}},
      {"unaffxable", {UNK}}, /* the whole word, not its rest */
      {"the!the", {THE, BANG, THE}},
      {"!!", {BANG, BANG}},
      {"caf\xc3\xa9 cafe\xcc\x81s CAF\xc3\x89", {CAFE, CAFE, S, CAFE}},
      {"\xe4\xbd\xa0\xe4\xbd\xa0"
       "a\xe4\xbd\xa0",
       {NI, NI, A, NI}},
      {"th\xe2\x80\x8b"
       "e \xc2\xadth\x07"
       "e",
       {THE, THE}}, /* zero width space, soft hyphen, bell: dropped */
      {"th\xff"
       "e \xef\xbf\xbdthe \xf0\x9f",
       {THE, THE}}, /* invalid UTF-8, as U+FFFD */
      {"stra\xc3\x9f"
       "e STRA\xe1\xba\x9e"
       "E",
       {STRASSE, STRASSE}},
      {"\xce\xa3\xcf\x83\xce\xa3", {SIGMA, SIGMA2, SIGMA2}}, /* no final sigma here */
      {"\xed\x95\x98", {HIEUH, JUNG_A}}, /* a syllable falls apart */
      {"the-the\xe2\x80\x94", {THE, DASH, THE, UNK}},
      {"a" MARK "the", {UNK}}, /* the vocabulary's mark in the text is no mark */
      {"[CLS] [SEP]", {UNK, UNK, UNK, UNK, UNK, UNK}},
      {"abb", {AB, B}},
  };
  ss_model *m = tiny(&(tiny_bert){0});
  ss_encoder *e = encoder_of(m, &test_host);
  assert_string_equal(ss_encoder_kind(e), "bert");
  assert_int_equal(ss_encoder_dim(e), EMBD);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int32_t tokens[SS_ENCODER_TOKENS];
    size_t n, want = 0;
    assert_int_equal(ss_encoder_tokens(e, text_of(cases[i].text), tokens, &n, NULL), SS_OK);
    while (cases[i].ids[want]) want++;
    bool same = n == want + 2 && tokens[0] == CLS && tokens[n - 1] == SEP;
    for (size_t k = 0; same && k < want; k++) same = tokens[k + 1] == cases[i].ids[k];
    if (!same) fail_msg("\"%s\": %zu ids, the first %d, want %zu", cases[i].text, n, tokens[1], want + 2);
  }
  ss_encoder_free(e);
  ss_model_free(m);
}

static void test_words_of_more_than_100_characters_are_unknown(void **state) {
  (void)state;
  ss_model *m = tiny(&(tiny_bert){.context = 300});
  ss_encoder *e = encoder_of(m, &test_host);
  for (size_t len = 99; len <= 102; len++) {
    char word[400];
    int32_t tokens[SS_ENCODER_TOKENS];
    size_t n;
    memset(word, 'b', len);
    word[0] = 'a';
    assert_int_equal(ss_encoder_tokens(e, (ss_text){word, len}, tokens, &n, NULL), SS_OK);
    assert_int_equal(n, len <= 100 ? len + 1 : 3); /* "ab" and the others "b" each */
  }
  ss_encoder_free(e);
  ss_model_free(m);
}

static void test_texts_are_cut_at_256_tokens_or_at_the_context(void **state) {
  (void)state;
  static char text[100000];
  memset(text, '!', sizeof text);
  static const uint32_t contexts[] = {2, 16, 256, 300};
  for (size_t i = 0; i < 4; i++) {
    ss_model *m = tiny(&(tiny_bert){.context = contexts[i]});
    ss_encoder *e = encoder_of(m, &test_host);
    int32_t tokens[SS_ENCODER_TOKENS];
    float x[EMBD], y[EMBD];
    size_t n;
    assert_int_equal(ss_encoder_tokens(e, (ss_text){text, sizeof text}, tokens, &n, NULL), SS_OK);
    assert_int_equal(n, ss_min(contexts[i], 256));
    assert_int_equal(tokens[n - 1], SEP);
    assert_int_equal(ss_encode(e, (ss_text){text, sizeof text}, x, NULL), SS_OK);
    assert_int_equal(ss_encode(e, (ss_text){text, 299}, y, NULL), SS_OK);
    assert_memory_equal(x, y, sizeof x);
    ss_encoder_free(e);
    ss_model_free(m);
  }
}

/* ---- self ---- */

static void test_self_takes_the_language_models_first_layers(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0, .n_layers = 6});
  ss_model *m = model_of(&image, NULL, &test_host);
  ss_encoder *e = encoder_of(m, &test_host);
  ss_error err = {0};
  float x[64], y[64];
  assert_string_equal(ss_encoder_kind(e), "self");
  assert_int_equal(ss_encoder_dim(e), 64);
  assert_int_equal(ss_encode(e, text_of("the answer"), x, &err), SS_OK);
  double length = 0;
  for (int i = 0; i < 64; i++) length += x[i] * x[i];
  assert_float_equal(length, 1, 1e-5);
  assert_int_equal(ss_encode(e, text_of(""), y, &err), SS_OK);
  for (int i = 0; i < 64; i++) assert_true(y[i] == 0);
  ss_encoder_free(e);
  ss_model_free(m);

  /* the last layers' weights need not be there */
  assert_int_equal(ss_model_create(&m, &test_host, NULL, &err), SS_OK);
  assert_int_equal(ss_model_feed(m, 0, image.data, image.data_offset, &err), SS_MORE);
  e = encoder_of(m, &test_host);
  assert_int_equal(ss_encode(e, text_of("the answer"), y, &err), SS_E_MISSING);
  assert_non_null(strstr(err.message, "token_embd.weight"));
  for (size_t i = 0; i < ss_model_n_tensors(m); i++) {
    ss_tensor_info t;
    assert_int_equal(ss_model_tensor(m, i, &t, &err), SS_OK);
    if (t.block < 8) assert_true(ss_model_feed(m, t.offset, image.data + t.offset, t.bytes, &err) >= 0);
  }
  assert_int_equal(ss_encode(e, text_of("the answer"), y, &err), SS_OK);
  assert_memory_equal(x, y, sizeof x);
  ss_encoder_free(e);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_self_cuts_long_texts(void **state) {
  (void)state;
  static char text[1 << 20];
  gguf_image image = tiny_model_image(&(tiny_model){.n_layers = 1});
  ss_model *m = model_of(&image, NULL, &test_host);
  ss_encoder *e = encoder_of(m, &test_host);
  int32_t tokens[SS_ENCODER_TOKENS];
  size_t n;
  for (size_t shift = 0; shift < 3; shift++) { /* a character lies across the cut */
    for (size_t i = 0; i + 3 <= sizeof text - shift; i += 3) memcpy(text + shift + i, "\xe4\xbd\xa0", 3);
    assert_int_equal(ss_encoder_tokens(e, (ss_text){text, sizeof text}, tokens, &n, NULL), SS_OK);
    assert_int_equal(n, 256);
  }
  ss_encoder_free(e);
  ss_model_free(m);
  gguf_image_free(&image);
}

/* ---- what is wrong ---- */

static void test_wrong_files_are_named(void **state) {
  (void)state;
  static const struct {
    tiny_bert t;
    ss_status status;
    const char *says;
  } cases[] = {
      {{.without = "bert.block_count"}, SS_E_MISSING, "bert.block_count: the key is missing"},
      {{.without = "bert.attention.layer_norm_epsilon"}, SS_E_MISSING, "bert.attention.layer_norm_epsilon"},
      {{.odd_key = "bert.embedding_length", .odd_value = 48},
       SS_E_UNSUPPORTED,
       "bert.embedding_length: 48, want a multiple of 32"},
      {{.odd_key = "bert.attention.head_count", .odd_value = 3}, SS_E_MISSING, "bert.attention.key_length"},
      {{.odd_key = "bert.attention.head_count", .odd_value = 4}, SS_E_UNSUPPORTED, "heads of 16 dimensions"},
      {{.odd_key = "bert.attention.head_count_kv", .odd_value = 1},
       SS_E_UNSUPPORTED,
       "2 heads of 32 dimensions and 1 for keys"},
      {{.odd_key = "bert.attention.causal"}, SS_E_UNSUPPORTED, "bert.attention.causal: want false"},
      {{.odd_key = "bert.pooling_type", .odd_value = 4}, SS_E_UNSUPPORTED, "bert.pooling_type: 4, want 1 to 2"},
      {{.without = "position_embd.weight"}, SS_E_MISSING, "position_embd.weight: the tensor is missing"},
      {{.without = "token_types.weight"}, SS_E_MISSING, "token_types.weight: the tensor is missing"},
      {{.without = "blk.1.ffn_up.bias"}, SS_E_MISSING, "blk.1.ffn_up.bias: the tensor is missing"},
      {{.odd_tensor = "position_embd.weight"}, SS_E_FORMAT, "position_embd.weight: shape [64, 65], want [64, 64]"},
      {{.odd_tensor = "blk.0.attn_v.weight"}, SS_E_FORMAT, "blk.0.attn_v.weight: shape [64, 65], want [64, 64]"},
      {{.odd_tensor = "token_embd_norm.bias"}, SS_E_FORMAT, "token_embd_norm.bias: shape [96], want [64]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    gguf_image image = bert_image(&cases[i].t);
    ss_model *m;
    ss_error err = {0};
    assert_int_equal(ss_model_create(&m, &test_host, NULL, &err), SS_OK);
    const ss_status status = ss_model_feed(m, 0, image.data, image.len, &err);
    if (status != cases[i].status || !strstr(err.message, cases[i].says))
      fail_msg("case %zu: status %d, \"%s\"; want %d, \"%s\"", i, status, err.message, cases[i].status, cases[i].says);
    ss_model_free(m);
    gguf_image_free(&image);
  }
}

static void test_wrong_vocabularies_are_named(void **state) {
  (void)state;
  static const struct {
    tiny_bert t;
    ss_status status;
    const char *says;
  } cases[] = {
      {{.tokenizer = "gpt2"}, SS_E_UNSUPPORTED, "tokenizer.ggml.model: want \"bert\""},
      {{.without = "tokenizer.ggml.tokens"}, SS_E_MISSING, "tokenizer.ggml.tokens"},
      {{.odd_key = "tokenizer.ggml.cls_token_id", .odd_value = N_VOCAB}, SS_E_FORMAT, "tokenizer.ggml.cls_token_id"},
      {{.context = 1}, SS_E_UNSUPPORTED, "bert.context_length"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ss_model *m = tiny(&cases[i].t);
    ss_encoder *e;
    ss_error err = {0};
    const ss_status status = ss_encoder_create(&e, m, &test_host, &err);
    if (status != cases[i].status || !strstr(err.message, cases[i].says))
      fail_msg("case %zu: %d, %s", i, status, err.message);
    assert_null(e);
    ss_model_free(m);
  }
}

static void test_an_encoder_model_has_no_session(void **state) {
  (void)state;
  ss_model *m = tiny(&(tiny_bert){0});
  ss_session *s;
  ss_error err = {0};
  assert_int_equal(ss_session_create(&s, m, NULL, &test_host, &err), SS_E_UNSUPPORTED);
  assert_null(s);
  assert_non_null(strstr(err.message, "sentence encoder"));
  assert_int_equal(ss_session_bytes(m, NULL), 0);
  ss_model_free(m);
}

static void test_an_absent_tensor_is_named_and_may_come_later(void **state) {
  (void)state;
  gguf_image image = bert_image(&(tiny_bert){.type = SS_GGUF_Q8_0});
  ss_model *m;
  ss_error err = {0};
  float x[EMBD];
  assert_int_equal(ss_model_create(&m, &test_host, NULL, &err), SS_OK);
  ss_encoder *e;
  assert_int_equal(ss_encoder_create(&e, m, &test_host, &err), SS_E_STATE);
  const size_t most = image.len - 200;
  assert_int_equal(ss_model_feed(m, 0, image.data, most, &err), SS_MORE);
  e = encoder_of(m, &test_host);
  assert_int_equal(ss_encode(e, text_of("the"), x, &err), SS_E_MISSING);
  assert_non_null(strstr(err.message, "blk.1.layer_output_norm.bias"));
  assert_int_equal(ss_model_feed(m, most, image.data + most, image.len - most, &err), SS_OK);
  assert_int_equal(ss_encode(e, text_of("the"), x, &err), SS_OK);
  ss_encoder_free(e);
  ss_model_free(m);
  gguf_image_free(&image);
}

static void check_failing_memory(gguf_image image) {
  ss_model *m = model_of(&image, NULL, &test_host);
  const ss_model *borrowed = m;
  bool complete = false;
  for (size_t fail_at = 1; !complete; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    ss_encoder *e;
    ss_error err = {0};
    const ss_status status = ss_encoder_create(&e, borrowed, &host, &err);
    complete = memory.n_allocs < fail_at;
    assert_int_equal(status, complete ? SS_OK : SS_E_MEMORY);
    if (complete) {
      float x[64];
      assert_int_equal(ss_encode(e, text_of(LONG), x, &err), SS_OK);
    } else {
      assert_null(e);
      assert_true(err.message[0] != 0);
    }
    ss_encoder_free(e);
    assert_int_equal(memory.n_live, 0);
    assert_int_equal(memory.bytes_live, 0);
  }
  ss_model_free(m);
  gguf_image_free(&image);
}

static void test_every_allocation_may_fail_once(void **state) {
  (void)state;
  check_failing_memory(bert_image(&(tiny_bert){0}));
  check_failing_memory(tiny_model_image(&(tiny_model){0}));
  ss_encoder_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_embeddings_agree_with_a_plain_double_reference),
      cmocka_unit_test(test_embeddings_have_the_same_bits_on_all_kernels_and_threads),
      cmocka_unit_test(test_layernorm_and_gelu_are_what_their_names_say),
      cmocka_unit_test(test_wordpiece_cuts_words_as_bert_does),
      cmocka_unit_test(test_words_of_more_than_100_characters_are_unknown),
      cmocka_unit_test(test_texts_are_cut_at_256_tokens_or_at_the_context),
      cmocka_unit_test(test_self_takes_the_language_models_first_layers),
      cmocka_unit_test(test_self_cuts_long_texts),
      cmocka_unit_test(test_wrong_files_are_named),
      cmocka_unit_test(test_wrong_vocabularies_are_named),
      cmocka_unit_test(test_an_encoder_model_has_no_session),
      cmocka_unit_test(test_an_absent_tensor_is_named_and_may_come_later),
      cmocka_unit_test(test_every_allocation_may_fail_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
