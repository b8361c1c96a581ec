/* Recovery at run time: gains, scales and stand-ins do what they say, to the bit, and nothing else. */
#include <string.h>

#include "bank_fixture.h"
#include "fixture.h"
#include "host.h"
#include "model/session.h"
#include "test.h"

enum { N = 24, BLOCKS = 4, EMBD = 64 };
static const int32_t tokens[N] = {275, 183, 200, 261, 169, 226, 243, 67, 18, 89,  85, 254,
                                  265, 4,   146, 239, 11,  99,  270, 33, 60, 150, 7,  201};
static ss_model *model; /* two layers, 64 wide, Q4_1 */
static uint32_t n_vocab;

typedef struct made { /* a recovery and its numbers */
  ss_recovery_block blocks[BLOCKS];
  float gains[BLOCKS + 1][EMBD], a[BLOCKS][EMBD], b[BLOCKS][EMBD];
  ss_recovery recovery;
} made;

static float small(ss_rng *rng) { return (float)(ss_rng_unit(rng) - 0.5); }

static void make_recovery(made *m) {
  ss_rng rng = ss_rng_seed(7);
  *m = (made){.recovery = {.n_blocks = BLOCKS, .n_embd = EMBD, .blocks = m->blocks, .output_gains = m->gains[BLOCKS]}};
  for (int i = 0; i <= BLOCKS; i++)
    for (int k = 0; k < EMBD; k++) m->gains[i][k] = 1 + 0.3f * small(&rng);
  for (int i = 0; i < BLOCKS; i++) {
    for (int k = 0; k < EMBD; k++) m->a[i][k] = 0.2f * small(&rng), m->b[i][k] = small(&rng);
    m->blocks[i] = (ss_recovery_block){m->gains[i], 1 + 0.5f * small(&rng), m->a[i], m->b[i]};
  }
}

static ss_mask without(uint32_t block) {
  ss_mask mask;
  ss_mask_fill(&mask, BLOCKS);
  if (block < BLOCKS) ss_mask_set(&mask, block, false);
  return mask;
}

static ss_session *make(const ss_model *of, const ss_session_options *options, const ss_host *host) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, of, options, host, &err)) fail_msg("%s", err.message);
  return s;
}

static uint64_t hash_of(ss_session *s) {
  ss_error err = {0};
  if (ss_session_begin(s, tokens, N, 1, &err) || ss_session_run(s, 0, &err)) fail_msg("%s", err.message);
  return ss_logits_hash(ss_session_logits(s, 0), n_vocab);
}

static uint64_t hash_with(const ss_model *of, const ss_mask *mask, const ss_recovery *recovery, uint32_t chunk,
                          const ss_host *host) {
  const ss_session_options options = {.context = 64, .chunk = chunk, .run_mask = mask, .recovery = recovery};
  ss_session *s = make(of, &options, host);
  const uint64_t hash = hash_of(s);
  ss_session_free(s);
  return hash;
}

static void test_recovery_that_changes_nothing_leaves_every_bit(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  for (uint32_t i = 0; i < BLOCKS; i++) {
    const ss_layer *l = &model->layers[i / 2];
    memcpy(m.gains[i], ss_model_vector(model, i % 2 ? l->ffn_norm : l->attn_norm), sizeof m.gains[i]);
    m.blocks[i].scale = 1;
  }
  m.recovery.output_gains = NULL;
  const ss_mask mask = without(1);
  m.blocks[1].a = m.blocks[1].b = NULL;
  assert_int_equal(hash_with(model, &mask, &m.recovery, 0, &test_host), hash_with(model, &mask, NULL, 0, &test_host));
}

static void test_every_part_changes_the_logits(void **state) {
  (void)state;
  const ss_mask mask = without(2);
  const uint64_t plain = hash_with(model, &mask, NULL, 0, &test_host);
  for (int part = 0; part < 4; part++) {
    made m;
    make_recovery(&m);
    for (int i = 0; i < BLOCKS; i++) {
      if (part != 0) m.blocks[i].gains = NULL;
      if (part != 1) m.blocks[i].scale = 1;
      if (part != 2) m.blocks[i].a = m.blocks[i].b = NULL;
    }
    if (part != 3) m.recovery.output_gains = NULL;
    assert_int_not_equal(hash_with(model, &mask, &m.recovery, 0, &test_host), plain);
  }
}

/* Steps by hand: the residual stream after each block, against what the header says. */
static void test_each_step_is_what_the_header_says(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  const ss_mask mask = without(2);
  const ss_session_options options = {.context = N, .chunk = N, .run_mask = &mask, .recovery = &m.recovery};
  ss_session *s = make(model, &options, &test_host);
  s->tokens = tokens;
  s->n = N;
  ss_run_embedding(s);
  static float before[N * EMBD];
  for (uint32_t block = 0; block < BLOCKS; block++) {
    memcpy(before, s->h, sizeof before);
    if (block == 2) ss_run_stand_in(s, block);
    else ss_run_block(s, block);
    for (int i = 0; i < N * EMBD; i++) {
      const float a = m.a[block][i % EMBD], b = m.b[block][i % EMBD];
      /* out holds what the block adds, scaled already */
      const float want = block == 2 ? before[i] + (a * before[i] + b) : before[i] + s->out[i];
      if (s->h[i] != want) fail_msg("block %u, element %d: %a, want %a", block, i, (double)s->h[i], (double)want);
    }
  }
  ss_session_free(s);

  const float scale = m.blocks[0].scale; /* and the scale itself */
  static float scaled[N * EMBD];
  for (int pass = 0; pass < 2; pass++) {
    m.blocks[0].scale = pass ? 1 : scale;
    s = make(model, &options, &test_host);
    s->tokens = tokens;
    s->n = N;
    ss_run_embedding(s);
    ss_run_block(s, 0);
    for (int i = 0; i < N * EMBD; i++) {
      if (pass) assert_true(scaled[i] == s->out[i] * scale);
      else scaled[i] = s->out[i];
    }
    ss_session_free(s);
  }
}

/* The same model with these gains in its file. */
static void test_gains_are_those_of_another_file(void **state) {
  (void)state;
  gguf_image image = tiny_model_image(&(tiny_model){.type = SS_GGUF_Q8_0, .seed = 1});
  ss_model *plain, *changed;
  ss_error err = {0};
  made m;
  make_recovery(&m);
  for (int i = 0; i < BLOCKS; i++) m.blocks[i].scale = 1;
  assert_int_equal(ss_model_create(&plain, &test_host, NULL, &err), SS_OK);
  assert_int_equal(ss_model_feed(plain, 0, image.data, image.len, &err), SS_OK);
  for (size_t i = 0; i < ss_model_n_tensors(plain); i++) {
    ss_tensor_info t;
    assert_int_equal(ss_model_tensor(plain, i, &t, &err), SS_OK);
    const float *gains = !strcmp(t.name, "output_norm.weight")         ? m.gains[BLOCKS]
                         : strstr(t.name, "attn_norm") && t.block >= 0 ? m.gains[t.block]
                         : strstr(t.name, "ffn_norm") && t.block >= 0  ? m.gains[t.block]
                                                                       : NULL;
    if (gains) memcpy(image.data + t.offset, gains, EMBD * sizeof(float));
  }
  assert_int_equal(ss_model_create(&changed, &test_host, NULL, &err), SS_OK);
  assert_int_equal(ss_model_feed(changed, 0, image.data, image.len, &err), SS_OK);
  const ss_mask all = without(BLOCKS);
  assert_int_equal(hash_with(plain, &all, &m.recovery, 0, &test_host), hash_with(changed, &all, NULL, 0, &test_host));
  assert_int_not_equal(hash_with(plain, &all, NULL, 0, &test_host), hash_with(changed, &all, NULL, 0, &test_host));
  ss_model_free(plain);
  ss_model_free(changed);
  gguf_image_free(&image);
}

static void test_logits_depend_neither_on_the_chunk_nor_on_threads_nor_on_kernels(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  for (uint32_t block = 0; block < BLOCKS; block++) {
    const ss_mask mask = without(block);
    const uint64_t want = hash_with(model, &mask, &m.recovery, 0, &test_host);
    for (uint32_t chunk = 1; chunk < N; chunk += 5)
      assert_int_equal(hash_with(model, &mask, &m.recovery, chunk, &test_host), want);
    for (uint32_t threads = 2; threads <= 7; threads++) {
      ss_host host = test_host;
      host.n_threads = threads;
      host.parallel_for = reverse_parallel;
      assert_int_equal(hash_with(model, &mask, &m.recovery, 5, &host), want);
    }
    const ss_kernels *k;
    for (size_t i = 0; (k = ss_kernels_at(i)); i++) {
      ss_model *other = load_model("tests/golden/tiny/q4_1.gguf", k);
      const uint64_t hash = hash_with(other, &mask, &m.recovery, 0, &test_host);
      ss_model_free(other);
      if (hash != want) fail_msg("%s: another hash", ss_kernels_name(k));
    }
  }
}

static void test_a_step_may_stop_after_every_block_and_stand_ins_count_as_nothing(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  for (uint32_t block = 0; block < BLOCKS; block++) {
    const ss_mask mask = without(block);
    const ss_session_options options = {.context = 64, .chunk = 7, .run_mask = &mask, .recovery = &m.recovery};
    ss_session *s = make(model, &options, &test_host);
    ss_error err = {0};
    assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_OK);
    int calls = 1;
    for (ss_status status; (status = ss_session_run(s, 1, &err)) != SS_OK; calls++) assert_int_equal(status, SS_MORE);
    assert_int_equal(calls, 4 * 3 + 1); /* four chunks of three blocks, and the head */
    assert_int_equal(ss_logits_hash(ss_session_logits(s, 0), n_vocab),
                     hash_with(model, &mask, &m.recovery, 0, &test_host));
    ss_session_free(s);
  }
}

static void test_another_run_mask_drops_the_recovery_until_it_is_set_again(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  const ss_mask all = without(BLOCKS), mask = without(3);
  ss_session *s =
      make(model, &(ss_session_options){.context = 64, .kv_mask = &all, .recovery = &m.recovery}, &test_host);
  ss_error err = {0};
  assert_int_equal(ss_session_set_run_mask(s, &mask, &err), SS_OK);
  assert_int_equal(hash_of(s), hash_with(model, &mask, NULL, 0, &test_host));
  assert_int_equal(ss_session_truncate(s, 0, &err), SS_OK);
  assert_int_equal(ss_session_set_recovery(s, &m.recovery, &err), SS_OK);
  assert_int_equal(hash_of(s), hash_with(model, &mask, &m.recovery, 0, &test_host));
  assert_int_equal(ss_session_truncate(s, 0, &err), SS_OK);
  assert_int_equal(ss_session_set_recovery(s, NULL, &err), SS_OK);
  assert_int_equal(hash_of(s), hash_with(model, &mask, NULL, 0, &test_host));
  assert_int_equal(ss_session_truncate(s, 0, &err), SS_OK);
  assert_int_equal(ss_session_begin(s, tokens, N, 1, &err), SS_OK);
  assert_int_equal(ss_session_set_recovery(s, &m.recovery, &err), SS_E_STATE);
  ss_session_free(s);
}

static void test_recovery_of_another_shape_is_refused(void **state) {
  (void)state;
  made m;
  make_recovery(&m);
  ss_session *s;
  ss_error err = {0};
  m.recovery.n_embd = 32;
  assert_int_equal(ss_session_create(&s, model, &(ss_session_options){.recovery = &m.recovery}, &test_host, &err),
                   SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "for 4 blocks of width 32, the model has 4 of 64"));
  m.recovery = (ss_recovery){.n_blocks = 6, .n_embd = EMBD, .blocks = m.blocks};
  s = make(model, NULL, &test_host);
  assert_int_equal(ss_session_set_recovery(s, &m.recovery, &err), SS_E_ARGUMENT);
  ss_session_free(s);
}

/* tests/golden/recovery.gguf: a bank for the same tiny model, from its file to the logits. */
static void test_a_golden_bank_with_recovery_gives_the_pinned_hash_with_every_kernel_set(void **state) {
  (void)state;
  static const ss_text text = {"A farmer has twelve sheep.", 26};
  size_t n;
  char *json = read_file("tests/golden/hashes.json", &n);
  const char *at = json ? strstr(json, "\"recovered\": \"") : NULL;
  uint8_t *bytes = read_file("tests/golden/recovery.gguf", &n);
  assert_non_null(bytes);
  assert_non_null(at);
  const uint64_t want = strtoull(at + 14, NULL, 16);
  const ss_kernels *k;
  for (size_t i = 0; (k = ss_kernels_at(i)); i++) {
    ss_model *m = load_model("tests/golden/tiny/q4_1.gguf", k);
    ss_bank *bank = NULL;
    ss_encoder *encoder = NULL;
    ss_tokenizer *tokenizer = NULL;
    ss_error err = {0};
    float embedding[EMBD], distance;
    uint32_t cluster = 0;
    ss_mask mask;
    int32_t ids[64];
    if (ss_bank_open(&bank, bytes, n, &test_host, &err) || ss_bank_check(bank, m, m, NULL, 0, &err) ||
        ss_encoder_create(&encoder, m, &test_host, &err) || ss_encode(encoder, text, embedding, &err) ||
        ss_bank_route(bank, embedding, EMBD, &cluster, &distance, &err) ||
        ss_bank_mask(bank, cluster, 0.5, &mask, &err) || ss_tokenizer_create(&tokenizer, m, &test_host, &err))
      fail_msg("%s", err.message);
    const ss_recovery *recovery = ss_bank_recovery(bank, cluster, 0.5);
    assert_non_null(recovery);
    assert_non_null(recovery->output_gains);
    const ss_session_options options = {.context = 64, .run_mask = &mask, .recovery = recovery};
    ss_session *s = make(m, &options, &test_host);
    size_t n_ids;
    assert_int_equal(ss_tokenize(tokenizer, text, SS_TOKENIZE_BOS, ids, 64, &n_ids, &err), SS_OK);
    assert_int_equal(ss_session_begin(s, ids, n_ids, 1, &err), SS_OK);
    assert_int_equal(ss_session_run(s, 0, &err), SS_OK);
    const uint64_t hash = ss_logits_hash(ss_session_logits(s, 0), n_vocab);
    if (hash != want)
      fail_msg("%s: %016llx, want %016llx", ss_kernels_name(k), (unsigned long long)hash, (unsigned long long)want);
    ss_session_free(s);
    ss_tokenizer_free(tokenizer);
    ss_encoder_free(encoder);
    ss_bank_free(bank);
    ss_model_free(m);
  }
  free(bytes);
  free(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_recovery_that_changes_nothing_leaves_every_bit),
      cmocka_unit_test(test_every_part_changes_the_logits),
      cmocka_unit_test(test_each_step_is_what_the_header_says),
      cmocka_unit_test(test_gains_are_those_of_another_file),
      cmocka_unit_test(test_logits_depend_neither_on_the_chunk_nor_on_threads_nor_on_kernels),
      cmocka_unit_test(test_a_step_may_stop_after_every_block_and_stand_ins_count_as_nothing),
      cmocka_unit_test(test_another_run_mask_drops_the_recovery_until_it_is_set_again),
      cmocka_unit_test(test_recovery_of_another_shape_is_refused),
      cmocka_unit_test(test_a_golden_bank_with_recovery_gives_the_pinned_hash_with_every_kernel_set),
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
