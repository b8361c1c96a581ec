/* skipstone eval over a bank with recovery, which no command makes for a tiny model: the bank is written here. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "commands.h"
#include "fixture.h"
#include "host.h"
#include "json_read.h"
#include "test.h"
#include "train/train.h"

#define MODEL "tests/golden/tiny/q4_1.gguf"

static ss_model *model; /* four blocks */
static char folder[] = "/tmp/skipstone-eval-XXXXXX", bank[64], text[64], out[64];

/* One cluster and one mask, without block 1; the other blocks count for half as much. */
static void write_bank(void) {
  const ss_recovery_block blocks[4] = {{.scale = 0.5f}, {.scale = 1.0f}, {.scale = 0.5f}, {.scale = 0.5f}};
  ss_model_info info;
  assert_int_equal(ss_model_info_get(model, &info, NULL), SS_OK);
  const ss_recovery recovery = {.n_blocks = 4, .n_embd = info.n_embd, .blocks = blocks};
  const ss_recovery *const recoveries[] = {&recovery, &recovery};
  const float level = 0.3f;
  ss_mask masks[2];
  ss_encoder *encoder;
  ss_fingerprint print;
  uint8_t *bytes;
  size_t n;
  ss_mask_fill(&masks[0], 4);
  ss_mask_set(&masks[0], 1, false);
  masks[1] = masks[0];
  assert_int_equal(ss_encoder_create(&encoder, model, &test_host, NULL), SS_OK);
  assert_int_equal(ss_model_fingerprint(model, &print, NULL), SS_OK);
  float *centroid = calloc(ss_encoder_dim(encoder), sizeof *centroid);
  const ss_bank_parts parts = {.n_clusters = 1,
                               .n_levels = 1,
                               .n_layers = 2,
                               .dim = ss_encoder_dim(encoder),
                               .levels = &level,
                               .centroids = centroid,
                               .masks = masks,
                               .recoveries = recoveries,
                               .model = print,
                               .encoder = print,
                               .encoder_kind = "self"};
  ss_error err = {0};
  if (ss_bank_write(&bytes, &n, &parts, &test_host, &err)) fail_msg("%s", err.message);
  FILE *file = fopen(bank, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  fclose(file);
  ss_host_free(&test_host, bytes, n);
  ss_encoder_free(encoder);
  free(centroid);
}

/* The result of eval nll with these options. */
static void evaluate(json_document *d, buffer *result, const char *recovery, bool resume) {
  char which[8], go_on[] = "--resume";
  snprintf(which, sizeof which, "%s", recovery);
  char *args[] = {"eval",   "nll",   "-m",      MODEL, "--data", text,         "--window",   "32",
                  "-n",     "200",   "--depth", "0.7", "--bank", bank,         "--baseline", bank,
                  "--mask", "ffn:0", "-o",      out,   "--json", "--recovery", which,        go_on};
  ss_error err = {0};
  fflush(stdout);
  const int saved = dup(1);
  assert_non_null(freopen("/dev/null", "w", stdout));
  const int code = cmd_eval(resume ? 24 : 23, args);
  fflush(stdout);
  dup2(saved, 1);
  close(saved);
  assert_int_equal(code, 0);
  result->len = 0;
  assert_int_equal(read_all(result, out, &err), SS_OK);
  assert_true(json_read(d, result->data));
}

static double nll_of(const json_document *d, const char *name) {
  const json_value *rows = json_member_of(d->values, "rows", JSON_ARRAY), *row = json_first(rows);
  for (uint32_t i = 0; i < rows->n; i++, row = json_next(row)) {
    const json_value *found = json_member_of(row, "name", JSON_STRING);
    if (found->text.len == strlen(name) && !memcmp(found->text.data, name, found->text.len))
      return json_member_of(json_member_of(row, "nll", JSON_OBJECT), "mean", JSON_NUMBER)->number;
  }
  return NAN;
}

static uint32_t n_rows(const json_document *d) { return json_member_of(d->values, "rows", JSON_ARRAY)->n; }

static void test_rows_run_with_recovery_without_it_or_both(void **unused) {
  (void)unused;
  json_document d = {0};
  buffer result = {0};
  evaluate(&d, &result, "both", false);
  assert_int_equal(n_rows(&d), 2 + 2 + 2);
  const double with = nll_of(&d, "bank.gguf 0.7 routed"), without = nll_of(&d, "bank.gguf 0.7 routed no recovery");
  assert_true(with > 0 && without > 0 && with != without);
  assert_true(nll_of(&d, "bank.gguf 0.7 static") == with); /* one cluster: its mask and recovery are the global ones */
  assert_true(nll_of(&d, "ffn:0") == without);
  const json_value *rows = json_member_of(d.values, "rows", JSON_ARRAY), *last = json_first(rows);
  for (uint32_t i = 0; i + 1 < rows->n; i++) last = json_next(last);
  const json_value *against = json_member_of(last, "against", JSON_ARRAY);
  assert_int_equal(against->n, 2); /* the baseline with and without */

  evaluate(&d, &result, "on", false);
  assert_int_equal(n_rows(&d), 2 + 1 + 1);
  assert_true(nll_of(&d, "bank.gguf 0.7 routed") == with);
  evaluate(&d, &result, "off", true); /* what was measured with recovery is not taken for it */
  assert_int_equal(n_rows(&d), 2 + 1 + 1);
  assert_true(nll_of(&d, "bank.gguf 0.7 routed no recovery") == without);
  assert_true(json_member_of(d.values, "measured", JSON_NUMBER)->number == 0);
  json_document_free(&d);
  buffer_free(&result);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_run_with_recovery_without_it_or_both)};
  model = load_model(MODEL, NULL);
  if (!model) return skip_all(MODEL " is not there");
  if (!mkdtemp(folder)) return skip_all("no folder for temporary files");
  snprintf(bank, sizeof bank, "%s/bank.gguf", folder);
  snprintf(text, sizeof text, "%s/text.txt", folder);
  snprintf(out, sizeof out, "%s/out.json", folder);
  FILE *file = fopen(text, "w");
  for (int i = 0; file && i < 20; i++)
    fprintf(file, "The %d stones lie in the river, and the water runs on over them all day long.\n\n", i);
  if (file) fclose(file);
  write_bank();
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  char losses[80];
  snprintf(losses, sizeof losses, "%s.state", out);
  remove(losses);
  remove(out);
  remove(text);
  remove(bank);
  rmdir(folder);
  ss_model_free(model);
  return failed;
}
