/* Matrix products of the backward pass: C = alpha A B + beta C, f32, row-major.
 *
 * OpenBLAS where the build found it and it runs kernels that fit the processor; else our own, which is about as fast.
 * (OpenBLAS picks its kernels by the processor's model when the program starts and takes those of 2004 for one that it
 * does not know.) */
#ifndef SS_GEMM_H
#define SS_GEMM_H

#include "base/base.h"

/* C[m][n], rows ldc apart. A is [m][k], or with trans_a stored as [k][m]; B is [k][n], or with trans_b stored as
 * [n][k]. With beta 0 C may hold anything. A, B and C do not overlap. panels: ss_gemm_panel_bytes() of scratch, 64-byte
 * aligned. */
typedef struct ss_product {
  size_t m, n, k;
  float alpha, beta;
  const float *a, *b;
  float *c;
  size_t lda, ldb, ldc;
  bool trans_a, trans_b;
} ss_product;

typedef void ss_gemm_run(const ss_product *p, void *panels);
typedef struct ss_gemm {
  const char *name; /* "avx512", "avx2", "portable", or what OpenBLAS calls its kernels: "SkylakeX" */
  ss_gemm_run *run;
} ss_gemm;

/* Those that this build and processor can run, the best first; run is NULL past the last. Puts OpenBLAS on one thread,
 * for the whole process: work is split by ss_gemm_rows. */
ss_gemm ss_gemm_at(size_t i);
size_t ss_gemm_panel_bytes(void); /* of one thread */

/* p by all threads of the host, in parts of at most 256 rows of C that depend on m alone, so that the sums do not
 * depend on the number of threads. panels: [n_threads][ss_gemm_panel_bytes()]. */
void ss_gemm_rows(const ss_gemm *gemm, const ss_product *p, void *panels, const ss_host *host);

#endif
