#include "bench_train.h"

#include <stdlib.h>

#include "base/base.h"
#include "generate.h"
#include "mask.h"
#include "train/gemm.h"
#include "train/pass.h"

#define WINDOWS 8
#define WINDOW 128
#define TOKENS (WINDOWS * WINDOW)
#define KEEP_BYTES ((size_t)1 << 30)

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const engine *e, const ss_host *threads, const mask_report *m, const double *ms, uint32_t n,
                   size_t bytes, json *j) {
  const double median = (ms[(n - 1) / 2] + ms[n / 2]) / 2;
  if (!j) {
    printf("%s, products by %s, %u thread%s; %d windows of %d tokens, forward and backward, median of %u\n",
           e->info.kernels, ss_gemm_at(0).name, threads->n_threads, threads->n_threads == 1 ? "" : "s", WINDOWS, WINDOW,
           n);
    printf("  %u of %u blocks, %.2f %% of MACs skipped, %s\n", m->blocks_run, m->blocks_total, 100 * m->macs_skipped,
           bytes_for_people(bytes).text);
    printf("    step     %9.1f tokens/s   (%.1f to %.1f)\n", per_second(TOKENS, median), per_second(TOKENS, ms[n - 1]),
           per_second(TOKENS, ms[0]));
    return;
  }
  json_open(j, NULL, '{');
  json_string(j, "model", e->path);
  json_uint(j, "threads", threads->n_threads);
  json_string(j, "kernels", e->info.kernels);
  json_string(j, "products", ss_gemm_at(0).name);
  json_uint(j, "tokens", TOKENS);
  json_uint(j, "window", WINDOW);
  json_uint(j, "repeats", n);
  json_fixed(j, "train_step_tps", per_second(TOKENS, median), 4);
  json_fixed(j, "train_step_tps_min", per_second(TOKENS, ms[n - 1]), 4);
  json_fixed(j, "train_step_tps_max", per_second(TOKENS, ms[0]), 4);
  json_uint(j, "bytes", bytes);
  mask_report_json(j, "mask", m);
  json_close(j);
}

int bench_train(const engine *e, const ss_host *threads, const ss_mask *mask, uint32_t repeats, json *j) {
  static int32_t tokens[TOKENS];
  uint32_t starts[WINDOWS + 1], which[WINDOWS];
  const uint32_t n_blocks = e->info.n_blocks;
  float *z = take_memory(WINDOWS * n_blocks, sizeof *z), *d_gates = take_memory(WINDOWS * n_blocks, sizeof *d_gates);
  double *ms = take_memory(repeats, sizeof *ms);
  const ss_pass_options options = {
      .max_windows = WINDOWS, .max_tokens = TOKENS, .longest = WINDOW, .keep_bytes = KEEP_BYTES};
  ss_pass *pass = NULL;
  mask_report of_mask = {0};
  ss_error err = {0};
  ss_rng rng = ss_rng_seed(1);
  for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)ss_rng_below(&rng, e->info.n_vocab);
  for (uint32_t i = 0; i <= WINDOWS; i++) starts[i] = i * WINDOW;
  for (uint32_t i = 0; i < WINDOWS; i++) which[i] = i;
  for (uint32_t i = 0; i < WINDOWS * n_blocks; i++) z[i] = ss_mask_has(mask, i % n_blocks) ? 0.9f : 0.0f;
  const ss_windows windows = {.tokens = tokens, .starts = starts, .n = WINDOWS};
  const ss_pass_input in = {.batch = {&windows, which, WINDOWS}, .z = z, .objective = SS_OBJECTIVE_LM};
  ss_pass_output out = {.d_gates = d_gates};
  ss_status status = ss_pass_create(&pass, e->model, &options, threads, &err);
  for (uint32_t i = 0; status == SS_OK && i <= repeats; i++) {
    const double start = now_ms();
    status = ss_pass_run(pass, &in, &out, &err);
    if (i) ms[i - 1] = now_ms() - start;
  }
  if (status == SS_OK) status = mask_report_make(&of_mask, e->model, mask, &err);
  if (status == SS_OK) {
    qsort(ms, repeats, sizeof *ms, compare_doubles);
    report(e, threads, &of_mask, ms, repeats, ss_pass_bytes(e->model, &options, threads), j);
  }
  mask_report_free(&of_mask);
  ss_pass_free(pass);
  free(z);
  free(d_gates);
  free(ms);
  return status == SS_OK ? CODE_OK : report_failure(&err);
}
