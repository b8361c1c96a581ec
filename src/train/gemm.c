/* Matrix products: our own for three vector widths, and OpenBLAS. */
#include "train/gemm.h"

#if SS_HAVE_OPENBLAS
#include <cblas.h>
#endif

#define KC 256 /* steps of k that a strip of B (32 KB) stays in the nearest cache for */
#define MC 144 /* rows of A at a time; a multiple of every TILE_ROWS */
#define NC 1536 /* columns of B at a time, a multiple of every TILE_COLS */
#define MOST_ROWS 256 /* of a part: packing B for it then costs a tenth of the work */

/* C *= beta */
static void scale_rows(const ss_product *p) {
  for (size_t i = 0; i < p->m && p->beta != 1.0f; i++) {
    float *c = p->c + i * p->ldc;
    if (p->beta == 0.0f) memset(c, 0, p->n * sizeof *c);
    else
      for (size_t j = 0; j < p->n; j++) c[j] *= p->beta;
  }
}

#if defined(__x86_64__)
#define NAME(x) avx512_##x
#define TARGET __attribute__((target("avx512f,fma")))
#define LANES 16
#define TILE_ROWS 12
#include "train/gemm_tile.h"
#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TILE_ROWS 6
#include "train/gemm_tile.h"
#endif
#define NAME(x) portable_##x
#define TARGET
#define LANES 4
#define TILE_ROWS 6
#include "train/gemm_tile.h"

#if SS_HAVE_OPENBLAS
static void openblas_run(const ss_product *p, void *panels) {
  (void)panels;
  cblas_sgemm(CblasRowMajor, p->trans_a ? CblasTrans : CblasNoTrans, p->trans_b ? CblasTrans : CblasNoTrans, (int)p->m,
              (int)p->n, (int)p->k, p->alpha, p->a, (int)p->lda, p->b, (int)p->ldb, p->beta, p->c, (int)p->ldc);
}

/* Does it use the widest vectors that the processor has? */
static bool openblas_fits(const char *core) {
#if defined(__x86_64__)
  static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", "Haswell", "Zen"};
  const bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2");
  for (size_t i = 0; i < (avx512 ? 3 : 5); i++)
    if (!strcmp(core, wide[i])) return true;
  return !avx2;
#else
  (void)core;
  return true;
#endif
}
#endif

ss_gemm ss_gemm_at(size_t i) {
  ss_gemm all[4] = {0};
  size_t n = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#if SS_HAVE_OPENBLAS
  openblas_set_num_threads(1);
  const char *core = openblas_get_corename();
  const bool first = openblas_fits(core);
  if (first) all[n++] = (ss_gemm){core, openblas_run};
#endif
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) all[n++] = (ss_gemm){"avx512", avx512_run};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all[n++] = (ss_gemm){"avx2", avx2_run};
#endif
  all[n++] = (ss_gemm){"portable", portable_run};
#if SS_HAVE_OPENBLAS
  if (!first) all[n++] = (ss_gemm){core, openblas_run};
#endif
  return i < n ? all[i] : (ss_gemm){0};
}

size_t ss_gemm_panel_bytes(void) { return (size_t)KC * (NC + MC) * sizeof(float); }

/* ---- threads ---- */

typedef struct rows_job {
  const ss_gemm *gemm;
  const ss_product *p;
  uint8_t *panels;
  size_t n_chunks;
} rows_job;

static void rows_part(void *arg, uint32_t part, uint32_t n_parts) {
  const rows_job *j = arg;
  size_t chunk, end, first, last;
  ss_part(j->n_chunks, part, n_parts, &chunk, &end);
  for (; chunk < end; chunk++) {
    ss_product p = *j->p;
    ss_part(p.m, (uint32_t)chunk, (uint32_t)j->n_chunks, &first, &last);
    p.a += first * (p.trans_a ? 1 : p.lda);
    p.c += first * p.ldc;
    p.m = last - first;
    j->gemm->run(&p, j->panels + part * ss_gemm_panel_bytes());
  }
}

void ss_gemm_rows(const ss_gemm *gemm, const ss_product *p, void *panels, const ss_host *host) {
  const size_t wanted = p->m < 64 ? 1 : ss_ceil_div(p->m, 4 * MOST_ROWS) * 4;
  rows_job j = {.gemm = gemm, .p = p, .panels = panels, .n_chunks = wanted};
  ss_host_parallel(host, (uint32_t)ss_min(host->n_threads, wanted), rows_part, &j);
}
