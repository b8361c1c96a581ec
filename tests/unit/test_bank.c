/* The bank file: what is written is read, what is wrong is said, and a bank of another model is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bank_fixture.h"
#include "fixture.h"
#include "host.h"
#include "test.h"

static ss_model *model; /* tests/golden/tiny/q4_1.gguf: two layers */

static void assert_has(const char *message, const char *part) {
  if (!strstr(message, part)) fail_msg("'%s' does not say '%s'", message, part);
}

static void rejects(const bank_case *c, ss_status want, const char *part) {
  gguf_image image = bank_image(c);
  ss_bank *bank;
  ss_error err = {0};
  const ss_status status = ss_bank_open(&bank, image.data, image.len, &test_host, &err);
  if (status != want) fail_msg("status %d for '%s'", status, part);
  assert_null(bank);
  assert_has(err.message, part);
  gguf_image_free(&image);
}

static ss_bank *open_bank(const bank_case *c) {
  gguf_image image = bank_image(c);
  ss_bank *bank;
  ss_error err = {0};
  if (ss_bank_open(&bank, image.data, image.len, &test_host, &err)) fail_msg("%s", err.message);
  gguf_image_free(&image); /* the bank copies */
  return bank;
}

static void test_a_bank_holds_what_its_file_says(void **state) {
  (void)state;
  ss_bank *bank = open_bank(&(bank_case){.losses = 8});
  ss_bank_info info;
  ss_bank_info_get(bank, &info);
  assert_int_equal(info.version, 1);
  assert_int_equal(info.n_clusters, BANK_CLUSTERS);
  assert_int_equal(info.n_levels, BANK_LEVELS);
  assert_int_equal(info.n_blocks, 4);
  assert_int_equal(info.dim, BANK_DIM);
  assert_true(info.levels[0] == 0.25f && info.levels[1] == 0.5f);
  assert_true(info.losses[7] == 8);
  assert_null(info.dense_losses);
  assert_null(info.sizes);
  assert_int_equal(info.model.family, 0x1234);
  assert_int_equal(info.encoder.exact, 0x5678);
  assert_int_equal(info.encoder_kind.len, 4);
  assert_int_equal(info.method.len, 0);
  assert_int_equal(ss_bank_example(bank, 0).len, 0);
  for (uint32_t c = 0; c <= BANK_CLUSTERS; c++)
    for (uint32_t level = 0; level < BANK_LEVELS; level++) {
      ss_mask m;
      const ss_mask want = bank_mask(c, level);
      assert_int_equal(ss_bank_mask(bank, c, level ? 0.5 : 0.75, &m, NULL), SS_OK);
      assert_memory_equal(&m, &want, sizeof m);
    }
  ss_bank_free(bank);
  ss_bank_free(NULL);
}

static void test_wrong_files_are_refused_and_named(void **state) {
  (void)state;
  rejects(&(bank_case){.architecture = "llama"}, SS_E_FORMAT, "general.architecture is 'llama', want 'skipstone-bank'");
  rejects(&(bank_case){.architecture = "skipstone-bank2"}, SS_E_FORMAT, "skipstone-bank2");
  rejects(&(bank_case){.architecture = ""}, SS_E_FORMAT, "general.architecture is ''");
  rejects(&(bank_case){.version = 3}, SS_E_UNSUPPORTED, "version 3 is newer than 2");
  rejects(&(bank_case){.without = "skipstone-bank.version"}, SS_E_FORMAT, "skipstone-bank.version is missing");
  rejects(&(bank_case){.without = "skipstone-bank.n_layers"}, SS_E_FORMAT, "n_layers is missing");
  rejects(&(bank_case){.without = "skipstone-bank.levels"}, SS_E_FORMAT, "levels: want an array");
  rejects(&(bank_case){.without = "skipstone-bank.model.family"}, SS_E_FORMAT, "model.family is missing");
  rejects(&(bank_case){.without = "skipstone-bank.encoder.family"}, SS_E_FORMAT, "encoder.family is missing");
  rejects(&(bank_case){.without = "centroids"}, SS_E_FORMAT, "tensor centroids is missing");
  rejects(&(bank_case){.without = "masks"}, SS_E_FORMAT, "tensor masks is missing");
  rejects(&(bank_case){.mask_clusters = 3}, SS_E_FORMAT, "masks is I8 [4, 3, 2], want I8 [4, 4, 2]");
  rejects(&(bank_case){.mask_type = 25}, SS_E_FORMAT, "masks is I16");
  rejects(&(bank_case){.mask_value = 2}, SS_E_FORMAT, "level 0, cluster 0: block 0 is 2, want 0 or 1");
  rejects(&(bank_case){.centroid = (float)INFINITY}, SS_E_FORMAT, "centroid 1: element 2 is not finite");
  rejects(&(bank_case){.centroid = (float)NAN}, SS_E_FORMAT, "centroid 1: element 2 is not finite");
  rejects(&(bank_case){.level = 0.25f}, SS_E_FORMAT, "levels: element 1 is not between");
  rejects(&(bank_case){.level = 1.0f}, SS_E_FORMAT, "levels: element 1 is not between");
  rejects(&(bank_case){.level = (float)NAN}, SS_E_FORMAT, "levels: element 1 is not finite");
  rejects(&(bank_case){.losses = 7}, SS_E_FORMAT, "losses has 7 elements");
  rejects(&(bank_case){.recovery = 1, .without = "skipstone-bank.n_embd"}, SS_E_FORMAT, "n_embd is missing");
  rejects(&(bank_case){.recovery = 1, .without = "recovery.gains"}, SS_E_FORMAT, "recovery.gains is missing");
  rejects(&(bank_case){.recovery = 1, .without = "recovery.scales"}, SS_E_FORMAT, "recovery.scales is missing");
  rejects(&(bank_case){.recovery = 1, .without = "recovery.stand_ins"}, SS_E_FORMAT, "recovery.stand_ins is missing");
  rejects(&(bank_case){.recovery = 1, .parts = 8}, SS_E_FORMAT, "recovery.parts: element 0 is 8, want 0 to 7");
  rejects(&(bank_case){.recovery = 1, .gain_rows = 5}, SS_E_FORMAT,
          "recovery.gains is F16 [4, 5, 1], want F16 [4, 16, 1]");
  rejects(&(bank_case){.recovery = 1, .recovery_type = SS_GGUF_BF16}, SS_E_FORMAT, "recovery.gains is BF16");
  rejects(&(bank_case){.recovery = 1, .scale = 0x7c00}, SS_E_FORMAT, "recovery.scales: element 0 is not finite");
  rejects(&(bank_case){.recovery = 1, .scale = 0x7e00}, SS_E_FORMAT, "recovery.scales: element 0 is not finite");
  ss_bank_free(open_bank(&(bank_case){.extra_tensor = "something.else"})); /* what is not known does no harm */
}

static void test_recovery_is_what_the_file_says(void **state) {
  (void)state;
  const bank_case c = {.recovery = 1};
  ss_bank *bank = open_bank(&c);
  ss_bank_info info;
  ss_bank_info_get(bank, &info);
  assert_int_equal(info.version, 2);
  assert_int_equal(info.n_recovered, 7);
  float gain = 1, scale = 2, stand_in = 1; /* the next in the file */
  for (uint32_t i = 0; i < BANK_LEVELS * (BANK_CLUSTERS + 1); i++) {
    const uint32_t cluster = i % (BANK_CLUSTERS + 1), level = i / (BANK_CLUSTERS + 1);
    const uint32_t parts = bank_recovery_parts(&c, i);
    const ss_recovery *r = ss_bank_recovery(bank, cluster, level ? 0.5 : 0.75);
    const ss_mask mask = bank_mask(cluster, level);
    assert_int_equal(r != NULL, parts != 0);
    if (!r) continue;
    assert_int_equal(r->n_blocks, 4);
    assert_int_equal(r->n_embd, BANK_EMBD);
    for (uint32_t block = 0; block < 4; block++) {
      const ss_recovery_block *b = &r->blocks[block];
      const bool runs = ss_mask_has(&mask, block);
      assert_int_equal(b->gains != NULL, runs && parts & 1);
      assert_int_equal(b->a != NULL && b->b != NULL, !runs && parts & 4);
      if (b->gains) assert_true(b->gains[0] == gain && b->gains[BANK_EMBD - 1] == gain + BANK_EMBD - 1);
      if (b->gains) gain += BANK_EMBD;
      assert_true(b->scale == (runs && parts & 2 ? scale : 1));
      if (runs && parts & 2) scale -= 1.0f / 64;
      if (b->a) assert_true(b->a[0] == stand_in && b->b[0] == stand_in + BANK_EMBD);
      if (b->a) stand_in += 2 * BANK_EMBD;
    }
    assert_int_equal(r->output_gains != NULL, parts & 1);
    if (r->output_gains) assert_true(r->output_gains[0] == gain);
    if (r->output_gains) gain += BANK_EMBD;
  }
  assert_null(ss_bank_recovery(bank, 0, 1));
  assert_null(ss_bank_recovery(bank, 0, 0.1));
  assert_null(ss_bank_recovery(bank, BANK_CLUSTERS + 1, 0.75));
  ss_bank_free(bank);
}

static void test_every_truncation_is_an_error(void **state) {
  (void)state;
  gguf_image image = bank_image(&(bank_case){.losses = 8, .recovery = 1});
  for (size_t n = 0; n < image.len; n++) {
    uint8_t *part = malloc(n ? n : 1); /* exactly so long, for the sanitizer */
    ss_bank *bank;
    ss_error err = {0};
    memcpy(part, image.data, n);
    assert_true(ss_bank_open(&bank, part, n, &test_host, &err) < 0);
    assert_null(bank);
    assert_true(err.message[0] != 0);
    free(part);
  }
  gguf_image_free(&image);
}

/* Reads what a session would, for the sanitizer. */
static void read_all_of(const ss_recovery *r, const ss_mask *mask) {
  float sum = 0;
  for (uint32_t block = 0; r && block < r->n_blocks; block++) {
    const ss_recovery_block *b = &r->blocks[block];
    sum += b->scale;
    for (uint32_t i = 0; i < r->n_embd; i++) {
      if (ss_mask_has(mask, block) && b->gains) sum += b->gains[i];
      if (!ss_mask_has(mask, block) && b->a) sum += b->a[i] + b->b[i];
    }
  }
  assert_true(sum == sum);
}

static void test_a_flipped_byte_is_an_error_or_a_bank_but_never_a_crash(void **state) {
  (void)state;
  gguf_image image = bank_image(&(bank_case){.losses = 8, .recovery = 1});
  for (size_t i = 0; i < image.len; i++)
    for (int bit = 0; bit < 8; bit += 3) {
      ss_bank *bank;
      ss_mask m;
      image.data[i] ^= (uint8_t)(1 << bit);
      if (ss_bank_open(&bank, image.data, image.len, &test_host, NULL) == SS_OK) {
        ss_bank_mask(bank, 0, 0.75, &m, NULL);
        read_all_of(ss_bank_recovery(bank, 0, 0.75), &m);
      }
      ss_bank_free(bank);
      image.data[i] ^= (uint8_t)(1 << bit);
    }
  gguf_image_free(&image);
}

static ss_bank_parts parts_for(const ss_model *m, float *centroids, ss_mask *masks) {
  static const float levels[] = {0.2f, 0.4f}, losses[] = {1, 2, 3, 4, 5, 6}, dense[] = {0.5f, 0.25f, 0.125f};
  static const uint32_t sizes[] = {10, 20};
  static const ss_text examples[] = {{"one", 3}, {"zwei", 4}};
  ss_bank_parts p = {.n_clusters = 2,
                     .n_levels = 2,
                     .n_layers = 2,
                     .dim = 40,
                     .levels = levels,
                     .centroids = centroids,
                     .masks = masks,
                     .losses = losses,
                     .dense_losses = dense,
                     .sizes = sizes,
                     .examples = examples,
                     .name = "a bank",
                     .model_name = "tiny",
                     .encoder_kind = "self",
                     .method = "greedy",
                     .training = "{}"};
  for (int i = 0; i < 80; i++) centroids[i] = (float)i / 80;
  for (uint32_t i = 0; i < 6; i++) {
    ss_mask_fill(&masks[i], 4);
    ss_mask_set(&masks[i], i % 4, false);
  }
  assert_int_equal(ss_model_fingerprint(m, &p.model, NULL), SS_OK);
  p.encoder = p.model;
  return p;
}

static void test_what_is_written_is_read(void **state) {
  (void)state;
  float centroids[80];
  ss_mask masks[6];
  const ss_bank_parts parts = parts_for(model, centroids, masks);
  uint8_t *bytes;
  size_t n;
  ss_bank *bank;
  ss_bank_info info;
  ss_error err = {0};
  if (ss_bank_write(&bytes, &n, &parts, &test_host, &err)) fail_msg("%s", err.message);
  if (ss_bank_open(&bank, bytes, n, &test_host, &err)) fail_msg("%s", err.message);
  ss_host_free(&test_host, bytes, n);
  ss_bank_info_get(bank, &info);
  assert_int_equal(info.dim, 40);
  assert_memory_equal(info.levels, parts.levels, 2 * sizeof(float));
  assert_memory_equal(info.losses, parts.losses, 6 * sizeof(float));
  assert_memory_equal(info.dense_losses, parts.dense_losses, 3 * sizeof(float));
  assert_memory_equal(info.sizes, parts.sizes, 2 * sizeof(uint32_t));
  assert_memory_equal(&info.model, &parts.model, sizeof info.model);
  assert_memory_equal(info.name.data, "a bank", 6);
  assert_memory_equal(ss_bank_example(bank, 1).data, "zwei", 4);
  assert_int_equal(ss_bank_example(bank, 2).len, 0);
  for (uint32_t i = 0; i < 6; i++) {
    ss_mask m;
    assert_int_equal(ss_bank_mask(bank, i % 3, i / 3 ? 0.6 : 0.8, &m, NULL), SS_OK);
    assert_memory_equal(&m, &masks[i], sizeof m);
  }
  uint32_t cluster;
  float distance;
  assert_int_equal(ss_bank_route(bank, centroids + 40, 40, &cluster, &distance, NULL), SS_OK);
  assert_int_equal(cluster, 1);
  assert_true(distance == 0);
  char note[100];
  assert_int_equal(ss_bank_check(bank, model, model, note, sizeof note, &err), SS_OK);
  assert_string_equal(note, "");
  ss_bank_free(bank);
}

enum { EMBD = 5 };
typedef struct some_recovery { /* for the masks of parts_for */
  float numbers[64];
  ss_recovery_block blocks[2][4];
  ss_recovery recoveries[2];
  const ss_recovery *all[6]; /* of masks 1 and 4 */
} some_recovery;

static void add_recovery(ss_bank_parts *p, some_recovery *r) {
  *r = (some_recovery){0};
  for (int i = 0; i < 64; i++) r->numbers[i] = 0.1f * (float)i - 3;
  for (uint32_t k = 0; k < 2; k++) {
    for (uint32_t block = 0; block < 4; block++) {
      ss_recovery_block *b = &r->blocks[k][block];
      b->scale = 1;
      if (ss_mask_has(&p->masks[1 + 3 * k], block)) {
        if (k == 0) b->gains = r->numbers + EMBD * block;
        b->scale = k ? 1.0f : 1.25f + 0.1f * (float)block;
      } else {
        b->a = r->numbers + 40 - EMBD * k;
        b->b = r->numbers + 50;
      }
    }
    r->recoveries[k] = (ss_recovery){4, EMBD, r->blocks[k], k ? NULL : r->numbers + 20};
    r->all[1 + 3 * k] = &r->recoveries[k];
  }
  p->recoveries = r->all;
}

static void assert_halves(const float *found, const float *want, size_t n) {
  assert_int_equal(found != NULL, want != NULL);
  for (size_t i = 0; want && i < n; i++)
    assert_true(found[i] == ss_float_of_half(ss_half_of_float(want[i])) && fabsf(found[i] - want[i]) < 0.002f);
}

static void test_recovery_that_is_written_is_read(void **state) {
  (void)state;
  float centroids[80];
  ss_mask masks[6];
  some_recovery made;
  ss_bank_parts parts = parts_for(model, centroids, masks);
  add_recovery(&parts, &made);
  uint8_t *bytes;
  size_t n;
  ss_bank *bank;
  ss_bank_info info;
  ss_error err = {0};
  if (ss_bank_write(&bytes, &n, &parts, &test_host, &err)) fail_msg("%s", err.message);
  if (ss_bank_open(&bank, bytes, n, &test_host, &err)) fail_msg("%s", err.message);
  ss_host_free(&test_host, bytes, n);
  ss_bank_info_get(bank, &info);
  assert_int_equal(info.version, 2);
  assert_int_equal(info.n_recovered, 2);
  for (uint32_t i = 0; i < 6; i++) {
    const ss_recovery *found = ss_bank_recovery(bank, i % 3, i / 3 ? 0.6 : 0.8), *want = made.all[i];
    assert_int_equal(found != NULL, want != NULL);
    for (uint32_t block = 0; found && block < 4; block++) {
      assert_halves(found->blocks[block].gains, want->blocks[block].gains, EMBD);
      assert_halves(&found->blocks[block].scale, &want->blocks[block].scale, 1);
      assert_halves(found->blocks[block].a, want->blocks[block].a, EMBD);
      assert_halves(found->blocks[block].b, want->blocks[block].b, EMBD);
    }
    if (found) assert_halves(found->output_gains, want->output_gains, EMBD);
  }
  ss_bank_free(bank);
  ss_recovery other = made.recoveries[0];
  other.n_blocks = 6;
  made.all[1] = &other;
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_E_ARGUMENT);
  assert_has(err.message, "6 blocks");
  made.all[1] = &made.recoveries[0];
  other = made.recoveries[1];
  other.n_embd = 4;
  made.all[4] = &other;
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_E_ARGUMENT);
  assert_has(err.message, "width 4");
  made.all[4] = NULL;
  made.numbers[3] = (float)NAN;
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_E_FORMAT);
  assert_has(err.message, "recovery.gains");
}

static void test_a_half_is_the_nearest_one(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 0x7c00; h++) { /* every finite one, and what lies between it and the next */
    const float x = ss_float_of_half((uint16_t)h), next = ss_float_of_half((uint16_t)(h + 1));
    assert_int_equal(ss_half_of_float(x), h);
    assert_int_equal(ss_half_of_float(-x), h | 0x8000);
    if (h == 0x7bff) break;
    const float middle = x + (next - x) / 2;
    assert_int_equal(ss_half_of_float(middle), h + (h & 1));
    assert_int_equal(ss_half_of_float(nextafterf(middle, x)), h);
    assert_int_equal(ss_half_of_float(nextafterf(middle, next)), h + 1);
  }
  assert_int_equal(ss_half_of_float(1e6f), 0x7bff);
  assert_int_equal(ss_half_of_float(-(float)INFINITY), 0xfbff);
  assert_int_equal(ss_half_of_float(65519.0f), 0x7bff);
  assert_int_equal(ss_half_of_float((float)NAN) & 0x7fff, 0x7e00);
}

static void test_a_bank_that_could_not_be_read_is_not_written(void **state) {
  (void)state;
  float centroids[80];
  ss_mask masks[6];
  const ss_bank_parts parts = parts_for(model, centroids, masks);
  uint8_t *bytes;
  size_t n;
  ss_error err = {0};
  centroids[50] = (float)NAN;
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_E_FORMAT);
  assert_has(err.message, "centroid 1: element 10 is not finite");
  assert_null(bytes);
}

static void test_depth_takes_the_nearest_level_that_runs_at_least_that_much(void **state) {
  (void)state;
  ss_bank *bank = open_bank(&(bank_case){0}); /* levels 0.25 and 0.5 */
  static const struct {
    double depth;
    uint32_t level;
  } cases[] = {{1, SS_BANK_DENSE},
               {0.99, SS_BANK_DENSE},
               {0.7500011, SS_BANK_DENSE},
               {0.75, 0},
               {0.7499, 0},
               {0.6, 0},
               {0.51, 0},
               {0.5, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t level;
    ss_mask m, dense;
    ss_mask_fill(&dense, 4);
    assert_int_equal(ss_bank_level(bank, cases[i].depth, &level, NULL), SS_OK);
    assert_int_equal(level, cases[i].level);
    assert_int_equal(ss_bank_mask(bank, 1, cases[i].depth, &m, NULL), SS_OK);
    const ss_mask want = level == SS_BANK_DENSE ? dense : bank_mask(1, level);
    assert_memory_equal(&m, &want, sizeof m);
  }
  uint32_t level;
  ss_mask m;
  ss_error err = {0};
  assert_int_equal(ss_bank_level(bank, 0.49, &level, &err), SS_E_ARGUMENT);
  assert_has(err.message, "deepest level runs 0.5000");
  assert_int_equal(ss_bank_level(bank, 1.1, &level, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_bank_level(bank, -0.1, &level, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_bank_level(bank, (double)NAN, &level, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_bank_mask(bank, BANK_CLUSTERS + 1, 1, &m, &err), SS_E_ARGUMENT);
  assert_has(err.message, "cluster 4: the bank has 3");
  ss_bank_free(bank);
  bank = open_bank(&(bank_case){.level = 0.3f}); /* 1 - 0.3f is not 0.7 */
  assert_int_equal(ss_bank_level(bank, 0.7, &level, NULL), SS_OK);
  assert_int_equal(level, 1);
  assert_int_equal(ss_bank_level(bank, (double)0.7f, &level, NULL), SS_OK);
  assert_int_equal(level, 1);
  ss_bank_free(bank);
}

static ss_model *tiny(uint32_t type, uint64_t seed) {
  gguf_image image = tiny_model_image(&(tiny_model){.type = type, .seed = seed});
  ss_model *m;
  ss_error err = {0};
  if (ss_model_create(&m, &test_host, NULL, &err) || ss_model_feed(m, 0, image.data, image.len, &err))
    fail_msg("%s", err.message);
  gguf_image_free(&image);
  return m;
}

static void test_fingerprints_tell_families_and_quantisations_apart(void **state) {
  (void)state;
  static const uint32_t types[] = {SS_GGUF_F32, SS_GGUF_F16, SS_GGUF_Q8_0, SS_GGUF_Q4_0, SS_GGUF_Q4_1, SS_GGUF_Q4_1};
  ss_fingerprint prints[6];
  for (int i = 0; i < 6; i++) {
    ss_model *m = tiny(types[i], i == 5 ? 2 : 1); /* the last one has other weights */
    assert_int_equal(ss_model_fingerprint(m, &prints[i], NULL), SS_OK);
    ss_model_free(m);
    for (int k = 0; k < i; k++) assert_true(prints[k].exact != prints[i].exact);
  }
  for (int i = 1; i < 5; i++) assert_true(prints[i].family == prints[0].family);
  assert_true(prints[5].family != prints[0].family);
  assert_true(prints[0].exact && prints[0].family);
}

static void test_a_fingerprint_needs_the_norms_and_a_whole_file_for_exact(void **state) {
  (void)state;
  size_t n;
  uint8_t *bytes = read_file("tests/golden/tiny/q4_1.gguf", &n);
  ss_model *m;
  ss_error err = {0};
  ss_fingerprint whole, print;
  assert_int_equal(ss_model_fingerprint(model, &whole, NULL), SS_OK);
  assert_int_equal(ss_model_create(&m, &test_host, ss_kernels_find("scalar"), &err), SS_OK);
  assert_int_equal(ss_model_fingerprint(m, &print, &err), SS_E_STATE);
  ss_tensor_info t;
  assert_int_equal(ss_model_tensor(model, 0, &t, &err), SS_OK);
  uint64_t header = n;
  for (size_t i = 0; i < ss_model_n_tensors(model); i++) {
    assert_int_equal(ss_model_tensor(model, i, &t, &err), SS_OK);
    if (t.offset < header) header = t.offset;
  }
  assert_int_equal(ss_model_feed(m, 0, bytes, header, &err), SS_MORE);
  assert_int_equal(ss_model_fingerprint(m, &print, &err), SS_E_MISSING);
  assert_has(err.message, "norm");
  for (size_t i = 0; i < ss_model_n_tensors(model); i++) {
    assert_int_equal(ss_model_tensor(model, i, &t, &err), SS_OK);
    if (strstr(t.name, "norm")) assert_int_equal(ss_model_feed(m, t.offset, bytes + t.offset, t.bytes, &err), SS_MORE);
  }
  assert_int_equal(ss_model_fingerprint(m, &print, &err), SS_OK);
  assert_true(print.family == whole.family && print.exact == 0);
  assert_int_equal(ss_model_feed(m, 0, bytes, n, &err), SS_OK);
  assert_int_equal(ss_model_fingerprint(m, &print, &err), SS_OK);
  assert_memory_equal(&print, &whole, sizeof print); /* fed in another order, for other kernels */
  ss_model_free(m);
  free(bytes);
}

static void test_a_weight_that_differs_changes_the_exact_fingerprint(void **state) {
  (void)state; /* any bit of any tensor: some at random */
  size_t n;
  uint8_t *bytes = read_file("tests/golden/tiny/q8_0.gguf", &n);
  ss_fingerprint whole, print;
  ss_model *m = load_model("tests/golden/tiny/q8_0.gguf", NULL);
  assert_int_equal(ss_model_fingerprint(m, &whole, NULL), SS_OK);
  ss_rng rng = ss_rng_seed(3);
  for (int i = 0; i < 40; i++) {
    ss_tensor_info t;
    ss_model *other;
    assert_int_equal(ss_model_tensor(m, ss_rng_below(&rng, ss_model_n_tensors(m)), &t, NULL), SS_OK);
    const size_t at =
        t.offset + ss_rng_below(&rng, t.bytes / 34 ? t.bytes / 34 : 1) * 34 + 2; /* the first weight of a block */
    if (strcmp(t.type, "Q8_0") != 0) continue;
    bytes[at] ^= 0x10;
    assert_int_equal(ss_model_create(&other, &test_host, NULL, NULL), SS_OK);
    assert_int_equal(ss_model_feed(other, 0, bytes, n, NULL), SS_OK);
    assert_int_equal(ss_model_fingerprint(other, &print, NULL), SS_OK);
    assert_true(print.exact != whole.exact && print.family == whole.family);
    ss_model_free(other);
    bytes[at] ^= 0x10;
  }
  ss_model_free(m);
  free(bytes);
}

static void test_check_refuses_another_family_and_notes_another_quantisation(void **state) {
  (void)state;
  float centroids[80];
  ss_mask masks[6];
  uint8_t *bytes;
  size_t n;
  ss_bank *bank;
  char note[200], short_note[12];
  ss_error err = {0};
  ss_model *own = tiny(SS_GGUF_Q4_1, 1), *same_family = tiny(SS_GGUF_Q4_0, 1), *foreign = tiny(SS_GGUF_Q4_1, 2);
  const ss_bank_parts parts = parts_for(own, centroids, masks);
  assert_int_equal(ss_bank_write(&bytes, &n, &parts, &test_host, &err), SS_OK);
  assert_int_equal(ss_bank_open(&bank, bytes, n, &test_host, &err), SS_OK);
  ss_host_free(&test_host, bytes, n);
  assert_int_equal(ss_bank_check(bank, same_family, same_family, note, sizeof note, &err), SS_OK);
  assert_has(note, "another quantisation");
  assert_int_equal(ss_bank_check(bank, same_family, NULL, short_note, sizeof short_note, &err), SS_OK);
  assert_int_equal(strlen(short_note), 11);
  assert_int_equal(ss_bank_check(bank, foreign, foreign, note, sizeof note, &err), SS_E_ARGUMENT);
  char hex[20];
  ss_fingerprint print;
  assert_int_equal(ss_model_fingerprint(foreign, &print, NULL), SS_OK);
  snprintf(hex, sizeof hex, "%llx", (unsigned long long)print.family);
  assert_has(err.message, hex);
  snprintf(hex, sizeof hex, "%llx", (unsigned long long)parts.model.family);
  assert_has(err.message, hex);
  assert_int_equal(ss_bank_check(bank, own, foreign, note, sizeof note, &err), SS_E_ARGUMENT);
  assert_has(err.message, "another encoder");
  ss_bank_free(bank);
  ss_model_free(own);
  ss_model_free(same_family);
  ss_model_free(foreign);
}

static void test_every_failed_allocation_is_a_status_and_leaks_nothing(void **state) {
  (void)state;
  float centroids[80];
  ss_mask masks[6];
  some_recovery made;
  ss_bank_parts parts = parts_for(model, centroids, masks);
  add_recovery(&parts, &made);
  for (size_t fail_at = 1;; fail_at++) {
    counting_memory memory = {.fail_at = fail_at};
    const ss_host host = counting_host(&memory);
    uint8_t *bytes = NULL;
    size_t n = 0;
    ss_bank *bank = NULL;
    ss_error err = {0};
    ss_status status = ss_bank_write(&bytes, &n, &parts, &host, &err);
    if (!status) status = ss_bank_open(&bank, bytes, n, &host, &err);
    const bool failed = memory.n_allocs >= fail_at;
    assert_int_equal(status, failed ? SS_E_MEMORY : SS_OK);
    ss_bank_free(bank);
    ss_host_free(&host, bytes, n);
    assert_int_equal(memory.n_live, 0);
    if (!failed) break;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_bank_holds_what_its_file_says),
      cmocka_unit_test(test_wrong_files_are_refused_and_named),
      cmocka_unit_test(test_recovery_is_what_the_file_says),
      cmocka_unit_test(test_every_truncation_is_an_error),
      cmocka_unit_test(test_a_flipped_byte_is_an_error_or_a_bank_but_never_a_crash),
      cmocka_unit_test(test_what_is_written_is_read),
      cmocka_unit_test(test_recovery_that_is_written_is_read),
      cmocka_unit_test(test_a_half_is_the_nearest_one),
      cmocka_unit_test(test_a_bank_that_could_not_be_read_is_not_written),
      cmocka_unit_test(test_depth_takes_the_nearest_level_that_runs_at_least_that_much),
      cmocka_unit_test(test_fingerprints_tell_families_and_quantisations_apart),
      cmocka_unit_test(test_a_fingerprint_needs_the_norms_and_a_whole_file_for_exact),
      cmocka_unit_test(test_a_weight_that_differs_changes_the_exact_fingerprint),
      cmocka_unit_test(test_check_refuses_another_family_and_notes_another_quantisation),
      cmocka_unit_test(test_every_failed_allocation_is_a_status_and_leaks_nothing),
  };
  model = load_model("tests/golden/tiny/q4_1.gguf", NULL);
  if (!model) return skip_all("tests/golden/tiny/q4_1.gguf is not there");
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ss_model_free(model);
  return failed;
}
