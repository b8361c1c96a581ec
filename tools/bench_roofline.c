#include "bench_roofline.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "load.h"
#include "roofline.h"
#include "support.h"

typedef struct report {
  json *j;       /* NULL: tables */
  bool progress; /* on stderr, while nothing else is seen */
  bool in_rows;  /* the peaks have been told */
  bool some, multiplies; /* the table has a row, and of which unit */
} report;

static double seconds(void) { return now_ms() / 1000; }

static void show_progress(const report *r, const char *kernel, const char *shape) {
  if (r->progress) fprintf(stderr, "\r\033[Kmeasured %s %s ", kernel, shape);
}

static void tell_peak(void *ctx, const char *instructions, double macs) {
  report *r = ctx;
  show_progress(r, instructions, "");
  if (!r->j) {
    printf("  from registers: %-38s %8.1f GMAC/s\n", instructions, macs * 1e-9);
    return;
  }
  json_open(r->j, NULL, '{');
  json_string(r->j, "instructions", instructions);
  json_fixed(r->j, "gmacs", macs * 1e-9, 2);
  json_close(r->j);
}

static void json_row(json *j, const roofline_row *row) {
  static const char *const bounds[] = {NULL, "compute", "memory"};
  json_open(j, NULL, '{');
  json_string(j, "kernel", row->kernel);
  json_string(j, "shape", row->shape);
  json_string(j, "unit", row->multiplies ? "GMAC/s" : "G elements/s");
  json_fixed(j, "rate", row->units * 1e-9, 3);
  json_fixed(j, "gbytes", row->bytes * 1e-9, 2);
  if (row->bound == ROOFLINE_UNKNOWN) {
    json_null(j, "limit");
    json_null(j, "bound");
    json_null(j, "share");
  } else {
    json_fixed(j, "limit", row->limit * 1e-9, 3);
    json_string(j, "bound", bounds[row->bound]);
    json_fixed(j, "share", row->units / row->limit, 4);
  }
  json_close(j);
}

static void print_row(report *r, const roofline_row *row) {
  static const char *const bounds[] = {"unknown", "compute", "memory"};
  if (!r->some || r->multiplies != row->multiplies)
    printf("  %-10s %-14s %12s %8s %9s  %-8s %6s\n", "kernel", "shape", row->multiplies ? "GMAC/s" : "G elements/s",
           "GB/s", "limit", "bound by", "share");
  r->some = true;
  r->multiplies = row->multiplies;
  printf("  %-10s %-14s %12.2f %8.1f ", row->kernel, row->shape, row->units * 1e-9, row->bytes * 1e-9);
  if (row->bound == ROOFLINE_UNKNOWN) printf("%9s  %-8s %6s\n", "-", bounds[row->bound], "-");
  else printf("%9.2f  %-8s %4.0f %%\n", row->limit * 1e-9, bounds[row->bound], 100 * row->units / row->limit);
  fflush(stdout);
}

static void tell_row(void *ctx, const roofline_row *row) {
  report *r = ctx;
  show_progress(r, row->kernel, row->shape);
  if (!r->j) {
    print_row(r, row);
    return;
  }
  if (!r->in_rows) {
    json_close(r->j); /* peaks */
    json_open(r->j, "rows", '[');
  }
  r->in_rows = true;
  json_row(r->j, row);
}

static int run_set(const ss_kernels *kernels, uint32_t n_threads, const char *only, json *j) {
  ss_error err = {0};
  size_t n_rows = 0;
  report out = {.j = j, .progress = j && isatty(STDERR_FILENO)};
  host *pool = host_create(n_threads);
  if (!pool) {
    say("could not start %u threads", n_threads);
    return CODE_FAIL;
  }
  const roofline r = {.kernels = kernels,
                      .host = host_face(pool),
                      .seconds = seconds,
                      .only = only,
                      .peak = tell_peak,
                      .row = tell_row,
                      .ctx = &out};
  if (j) {
    json_open(j, NULL, '{');
    json_string(j, "kernels", ss_kernels_name(kernels));
    json_uint(j, "threads", n_threads);
    json_open(j, "peaks", '[');
  } else {
    printf("%s, %u thread%s\n", ss_kernels_name(kernels), n_threads, n_threads == 1 ? "" : "s");
  }
  int code = roofline_run(&r, &n_rows, &err) == SS_OK ? CODE_OK : report_failure(&err);
  if (out.progress) fputs("\r\033[K", stderr);
  if (code == CODE_OK && n_rows == 0) {
    say("bench: --only %s: no kernel and shape is called so, want for example \"gemv 4m\"", only);
    code = CODE_USAGE;
  }
  if (j && code == CODE_OK) {
    json_close(j);
    json_close(j);
  }
  host_free(pool);
  return code;
}

int bench_roofline(const char *kernels, const uint32_t *threads, size_t n_threads, const char *only, bool as_json) {
  const bool all = kernels && !strcmp(kernels, "all");
  const ss_kernels *one = all ? NULL : engine_kernels(kernels);
  if (!all && !one) return CODE_USAGE;
  char *text = NULL; /* the JSON, which is printed when it is whole */
  size_t text_bytes;
  json j = {.out = as_json ? open_memstream(&text, &text_bytes) : NULL};
  if (as_json && !j.out) {
    say("no memory for the report");
    return CODE_FAIL;
  }
  int code = CODE_OK;
  if (as_json && (all || n_threads > 1)) json_open(&j, NULL, '[');
  for (size_t i = 0; code == CODE_OK && ss_kernels_at(i); i++)
    for (size_t t = 0; code == CODE_OK && (all || ss_kernels_at(i) == one) && t < n_threads; t++)
      code = run_set(ss_kernels_at(i), threads[t], only, as_json ? &j : NULL);
  if (as_json) {
    json_done(&j);
    fclose(j.out);
    if (code == CODE_OK) fputs(text, stdout);
    free(text);
  }
  return code;
}
