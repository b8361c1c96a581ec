/* The product's inner part for one vector width; gemm.c includes it once for each, with NAME, TARGET, LANES and
 * TILE_ROWS set.
 *
 * B is packed into strips of two vectors of columns, A into strips of TILE_ROWS rows, and a tile of C of that size
 * stays in registers over KC steps of k (Goto and van de Geijn 2008). */

#define TILE_COLS (2 * LANES)
typedef float NAME(vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* c[TILE_ROWS][TILE_COLS] += sum over k of a[k][TILE_ROWS] b[k][TILE_COLS], packed. */
TARGET static void NAME(tile)(float *c, size_t ldc, const float *a, const float *b, size_t k) {
  NAME(vector) sum[TILE_ROWS][2] = {0};
  for (; k > 0; k--, a += TILE_ROWS, b += TILE_COLS) {
    const NAME(vector) b0 = *(const NAME(vector) *)b, b1 = *(const NAME(vector) *)(b + LANES);
    _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS; i++) {
      sum[i][0] += a[i] * b0;
      sum[i][1] += a[i] * b1;
    }
  }
  _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS; i++) {
    NAME(vector) *row = (NAME(vector) *)(c + (size_t)i * ldc);
    row[0] += sum[i][0];
    row[1] += sum[i][1];
  }
}

/* Copies [outer][k] with strides into strips of `width` along outer, k by k, missing ones as 0. */
TARGET static void NAME(pack)(float *to, const float *from, size_t n, size_t k, size_t step, size_t k_step,
                              size_t width, float factor) {
  for (size_t i = 0; i < n; i += width, to += width * k) {
    const size_t there = ss_min(width, n - i);
    const float *x = from + i * step;
    if (step == 1 && there == width)
      for (size_t j = 0; j < k; j++)
        for (size_t r = 0; r < width; r++) to[j * width + r] = factor * x[j * k_step + r];
    else
      for (size_t r = 0; r < width; r++)
        for (size_t j = 0; j < k; j++) to[j * width + r] = r < there ? factor * x[r * step + j * k_step] : 0.0f;
  }
}

TARGET static void NAME(run)(const ss_product *p, void *panels) {
  float *packed_b = panels, *packed_a = packed_b + (size_t)KC * NC, edge[TILE_ROWS * TILE_COLS];
  scale_rows(p);
  for (size_t j0 = 0; j0 < p->n; j0 += NC)
    for (size_t k0 = 0; k0 < p->k; k0 += KC) {
      const size_t n = ss_min(NC, p->n - j0), k = ss_min(KC, p->k - k0);
      NAME(pack)(packed_b, p->b + (p->trans_b ? j0 * p->ldb + k0 : k0 * p->ldb + j0), n, k, p->trans_b ? p->ldb : 1,
                 p->trans_b ? 1 : p->ldb, TILE_COLS, 1.0f);
      for (size_t i0 = 0; i0 < p->m; i0 += MC) {
        const size_t m = ss_min(MC, p->m - i0);
        NAME(pack)(packed_a, p->a + (p->trans_a ? k0 * p->lda + i0 : i0 * p->lda + k0), m, k, p->trans_a ? 1 : p->lda,
                   p->trans_a ? p->lda : 1, TILE_ROWS, p->alpha);
        for (size_t j = 0; j < n; j += TILE_COLS)
          for (size_t i = 0; i < m; i += TILE_ROWS) {
            const float *a = packed_a + i * k, *b = packed_b + j * k;
            float *c = p->c + (i0 + i) * p->ldc + j0 + j;
            if (m - i >= TILE_ROWS && n - j >= TILE_COLS) {
              NAME(tile)(c, p->ldc, a, b, k);
              continue;
            }
            memset(edge, 0, sizeof edge);
            NAME(tile)(edge, TILE_COLS, a, b, k);
            for (size_t r = 0; r < ss_min(TILE_ROWS, m - i); r++)
              for (size_t s = 0; s < ss_min(TILE_COLS, n - j); s++) c[r * p->ldc + s] += edge[r * TILE_COLS + s];
          }
      }
    }
}

#undef TILE_COLS
#undef NAME
#undef TARGET
#undef LANES
#undef TILE_ROWS
