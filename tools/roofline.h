/* Times every entry of a kernel set on SmolLM2-135M's shapes and says how near it comes to what the machine could do: to
 * the smaller of its multiply-adds from registers alone, and of what reading its bytes would allow (the roofline of
 * Williams, Waterman, Patterson 2009). No operating system: memory, threads and clock come from the caller, so the same
 * files are `skipstone bench --roofline` and, compiled to wasm32, tests/kernels/wasm. */
#ifndef SS_TOOL_ROOFLINE_H
#define SS_TOOL_ROOFLINE_H

#include "kernels/kernels.h"

typedef enum roofline_bound { ROOFLINE_UNKNOWN, ROOFLINE_COMPUTE, ROOFLINE_MEMORY } roofline_bound;

/* Rates are those of all threads together. */
typedef struct roofline_row {
  const char *kernel, *shape; /* "gemm 4m", "1536x576 x128" */
  bool multiplies; /* units are multiply-adds; else elements */
  double units, bytes; /* per second; bytes read: weights, keys, values, or all elements */
  double limit; /* units per second; 0: unknown */
  roofline_bound bound; /* what sets the limit */
} roofline_row;

typedef struct roofline {
  const ss_kernels *kernels;
  /* Everything runs in host->n_threads parts: of a matmul each has some rows, of the others each does the same work. */
  const ss_host *host;
  double (*seconds)(void);
  const char *only; /* a part of "<kernel> <shape>", or NULL: all */
  /* Before the rows: what is done from registers alone, in multiply-adds per second. */
  void (*peak)(void *ctx, const char *instructions, double macs);
  void (*row)(void *ctx, const roofline_row *row);
  void *ctx;
} roofline;

/* Measures, best of several rounds. *n_rows: how many rows there were. Fails when there is no memory. */
ss_status roofline_run(const roofline *r, size_t *n_rows, ss_error *err);

#endif
