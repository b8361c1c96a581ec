#include "train/backward.h"

#include <math.h>

#define QUERY_TILE 128 /* queries whose scores are held at a time */

/* The loops that cost time, compiled for AVX2 as well: the same operations in the same order, so the same bits. The
 * body follows. */
#if defined(__x86_64__)
#define BOTH_WIDTHS(result, name, parameters, arguments)                                                 \
  static inline __attribute__((always_inline)) result name##_body parameters;                            \
  __attribute__((target("avx2"))) static result name##_avx2 parameters { return name##_body arguments; } \
  static result name##_baseline parameters { return name##_body arguments; }                             \
  static result name parameters {                                                                        \
    return __builtin_cpu_supports("avx2") ? name##_avx2 arguments : name##_baseline arguments;           \
  }                                                                                                      \
  static inline result name##_body parameters
#else
#define BOTH_WIDTHS(result, name, parameters, arguments) static result name parameters
#endif

/* ---- norms ---- */

static double dot(const float *a, const float *b, size_t n) {
  float lanes[8] = {0};
  size_t i = 0;
  double sum = 0.0;
  for (; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; k++) lanes[k] += a[i + k] * b[i + k];
  for (; i < n; i++) sum += (double)(a[i] * b[i]);
  for (size_t k = 0; k < 8; k++) sum += (double)lanes[k];
  return sum;
}

float ss_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *w, size_t n, float eps) {
  const double mean = dot(x, x, n) / (double)n + (double)eps;
  const float r = (float)(1.0 / sqrt(mean));
  float lanes[8] = {0};
  double sum = 0.0; /* of dy w x */
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; k++) lanes[k] += dy[i + k] * w[i + k] * x[i + k];
  for (; i < n; i++) sum += (double)(dy[i] * w[i] * x[i]);
  for (size_t k = 0; k < 8; k++) sum += (double)lanes[k];
  const float back = (float)(sum / ((double)n * mean)) * r;
  for (i = 0; i < n; i++) dx[i] += r * w[i] * dy[i] - back * x[i];
  return r;
}

void ss_rmsnorm_gains_backward(float *dw, const float *dy, const float *x, const uint32_t *x_rows, const float *r,
                               size_t n_rows, size_t n, size_t first, size_t end) {
  for (size_t t = 0; t < n_rows; t++) {
    const float *row = x + (x_rows ? x_rows[t] : t) * n;
    for (size_t i = first; i < end; i++) dw[i] += dy[t * n + i] * row[i] * r[t];
  }
}

/* ---- positions ---- */

void ss_rope_backward(float *dx, const float *cosine, const float *sine, uint32_t n_rot, bool neox) {
  const uint32_t half = n_rot / 2, step = neox ? 1 : 2, other = neox ? half : 1;
  for (uint32_t i = 0; i < half; i++) {
    float *a = dx + step * i, *b = a + other;
    const float x = *a, y = *b;
    *a = x * cosine[i] + y * sine[i];
    *b = y * cosine[i] - x * sine[i];
  }
}

/* ---- SwiGLU ---- */

/* ss_expf without its branches, so that a loop over it becomes SIMD; x is within +-87. */
static inline float exp_within(float x) {
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * ss_float_of_bits((uint32_t)((int32_t)n + 127) << 23);
}

BOTH_WIDTHS(double, swiglu_backward,
            (float *restrict dgate, float *restrict dup, const float *restrict dy, const float *restrict gate,
             const float *restrict up, float scale, size_t n),
            (dgate, dup, dy, gate, up, scale, n)) {
  float lanes[8] = {0};
  double sum = 0.0;
  for (size_t i = 0; i < n; i += 8)
    for (size_t k = 0; k < 8; k++) {
      const float g = gate[i + k], u = up[i + k], d = dy[i + k];
      const float x = g > 80.0f ? 80.0f : g < -80.0f ? -80.0f : g;
      const float sigmoid = 1.0f / (1.0f + exp_within(-x)), silu = g * sigmoid;
      lanes[k] += d * silu * u;
      dgate[i + k] = scale * d * u * (sigmoid + silu * (1.0f - sigmoid));
      dup[i + k] = scale * d * silu;
    }
  for (size_t k = 0; k < 8; k++) sum += (double)lanes[k];
  return sum;
}

double ss_swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, float scale,
                          size_t n) {
  return swiglu_backward(dgate, dup, dy, gate, up, scale, n);
}

/* ---- stand-ins ---- */

void ss_stand_in_backward(float *dy, float *da, float *db, const float *y, const float *a, size_t n) {
  for (size_t i = 0; da && i < n; i++) da[i] += dy[i] * y[i];
  for (size_t i = 0; db && i < n; i++) db[i] += dy[i];
  for (size_t i = 0; i < n; i++) dy[i] += a[i] * dy[i];
}

/* ---- losses ---- */

void ss_softmax_backward(float *logits, float *dense, int32_t target, size_t n, const ss_kernels *kernels) {
  const float inverse = 1.0f / kernels->softmax(logits, n, 1.0f);
  if (dense) {
    const float dense_inverse = 1.0f / kernels->softmax(dense, n, 1.0f);
    for (size_t i = 0; i < n; i++) logits[i] = logits[i] * inverse - dense[i] * dense_inverse;
  } else {
    for (size_t i = 0; i < n; i++) logits[i] *= inverse;
    logits[target] -= 1.0f;
  }
}

/* ---- attention ---- */

size_t ss_attention_scratch(size_t n) { return 2 * QUERY_TILE * n; }

/* Of the tile's query t, which sees positions 0..t: p becomes the probabilities, dp the gradient of the scores. */
static void softmax_scores_backward(float *p, float *dp, size_t seen, size_t end, float scale,
                                    const ss_kernels *kernels) {
  const float inverse = 1.0f / kernels->softmax(p, seen, scale);
  for (size_t j = 0; j < seen; j++) p[j] *= inverse;
  const float mean = (float)dot(p, dp, seen);
  for (size_t j = 0; j < seen; j++) dp[j] = p[j] * (dp[j] - mean);
  memset(p + seen, 0, (end - seen) * sizeof *p);
  memset(dp + seen, 0, (end - seen) * sizeof *dp);
}

void ss_attention_backward(const ss_attention *a, float *scratch, const ss_gemm *gemm, void *panels,
                           const ss_kernels *kernels) {
  const size_t dim = a->dim;
  float *p = scratch, *dp = scratch + QUERY_TILE * a->n;
  for (size_t t = 0; t < a->n; t++) {
    memset(a->dk + t * a->d_stride, 0, dim * sizeof *a->dk);
    memset(a->dv + t * a->d_stride, 0, dim * sizeof *a->dv);
  }
  for (size_t i = 0; i < a->group; i++)
    for (size_t t0 = 0; t0 < a->n; t0 += QUERY_TILE) {
      const size_t t1 = ss_min(t0 + QUERY_TILE, a->n), m = t1 - t0; /* the tile sees positions 0..t1-1 */
      const float *q = a->q + t0 * a->q_stride + i * dim, *dout = a->dout + t0 * a->dout_stride + i * dim;
      float *dq = a->dq + t0 * a->d_stride + i * dim;
      const ss_product scores = {.m = m,
                                 .n = t1,
                                 .k = dim,
                                 .alpha = 1.0f,
                                 .a = q,
                                 .lda = a->q_stride,
                                 .b = a->k,
                                 .ldb = a->kv_stride,
                                 .trans_b = true,
                                 .c = p,
                                 .ldc = t1};
      const ss_product by_p = {.m = m,
                               .n = t1,
                               .k = dim,
                               .alpha = 1.0f,
                               .a = dout,
                               .lda = a->dout_stride,
                               .b = a->v,
                               .ldb = a->kv_stride,
                               .trans_b = true,
                               .c = dp,
                               .ldc = t1};
      const ss_product by_v = {.m = t1,
                               .n = dim,
                               .k = m,
                               .alpha = 1.0f,
                               .beta = 1.0f,
                               .a = p,
                               .lda = t1,
                               .trans_a = true,
                               .b = dout,
                               .ldb = a->dout_stride,
                               .c = a->dv,
                               .ldc = a->d_stride};
      const ss_product by_q = {.m = m,
                               .n = dim,
                               .k = t1,
                               .alpha = a->scale,
                               .a = dp,
                               .lda = t1,
                               .b = a->k,
                               .ldb = a->kv_stride,
                               .c = dq,
                               .ldc = a->d_stride};
      const ss_product by_k = {.m = t1,
                               .n = dim,
                               .k = m,
                               .alpha = a->scale,
                               .beta = 1.0f,
                               .a = dp,
                               .lda = t1,
                               .trans_a = true,
                               .b = q,
                               .ldb = a->q_stride,
                               .c = a->dk,
                               .ldc = a->d_stride};
      gemm->run(&scores, panels);
      gemm->run(&by_p, panels);
      for (size_t t = 0; t < m; t++)
        softmax_scores_backward(p + t * t1, dp + t * t1, t0 + t + 1, t1, a->scale, kernels);
      gemm->run(&by_v, panels);
      gemm->run(&by_q, panels);
      gemm->run(&by_k, panels);
    }
}

/* ---- weights ---- */

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef int8_t codes8 __attribute__((vector_size(8)));
typedef float floats8 __attribute__((vector_size(32)));

/* The codes of row r of a block (kernels/pack.h): a byte's low nibble is of column k < 16, its high one of k + 16. */
static inline void low_codes(int8_t *codes, const uint8_t *q, unsigned r) {
  bytes16 both;
  for (unsigned j = 0; j < 4; j++) memcpy((uint8_t *)&both + 4 * j, q + 32 * j + 4 * r, 4);
  const bytes16 low = both & 15, high = both >> 4;
  memcpy(codes, &low, sizeof low);
  memcpy(codes + 16, &high, sizeof high);
}

static inline void fifth_bit(int8_t *codes, const uint8_t *h, unsigned r) {
  for (unsigned k = 0; k < SS_COLS; k++) codes[k] = (int8_t)(codes[k] | (h[4 * r + k % 4] >> k / 4 & 1) << 4);
}

/* x = d (code - offset) + m */
static inline void write_codes(float *x, const int8_t *codes, float offset, float d, float d_high, float m) {
  for (unsigned k = 0; k < SS_COLS; k += 8) {
    codes8 c;
    memcpy(&c, codes + k, sizeof c);
    const floats8 y = (k < 16 ? d : d_high) * (__builtin_convertvector(c, floats8) - offset) + m;
    memcpy(x + k, &y, sizeof y);
  }
}

#define EACH_ROW for (unsigned r = 0; r < SS_ROWS; r++, x += stride)

BOTH_WIDTHS(void, write_block, (float *x, size_t stride, ss_pack pack, const void *from), (x, stride, pack, from)) {
  int8_t codes[SS_COLS];
  switch (pack) {
    case SS_PACK_4: {
      const ss_block4 *b = from;
      EACH_ROW low_codes(codes, b->q, r), write_codes(x, codes, 8.0f, b->d[r], b->d[r], 0.0f);
      break;
    }
    case SS_PACK_4M: {
      const ss_block4m *b = from;
      EACH_ROW low_codes(codes, b->q, r), write_codes(x, codes, 0.0f, b->d[r], b->d[r], b->m[r]);
      break;
    }
    case SS_PACK_5: {
      const ss_block5 *b = from;
      EACH_ROW low_codes(codes, b->q, r), fifth_bit(codes, b->h, r),
          write_codes(x, codes, 16.0f, b->d[r], b->d[r], 0.0f);
      break;
    }
    case SS_PACK_5M: {
      const ss_block5m *b = from;
      EACH_ROW low_codes(codes, b->q, r), fifth_bit(codes, b->h, r),
          write_codes(x, codes, 0.0f, b->d[r], b->d[r], b->m[r]);
      break;
    }
    case SS_PACK_6: {
      const ss_block6 *b = from;
      EACH_ROW {
        low_codes(codes, b->q, r);
        for (unsigned k = 0; k < SS_COLS; k++)
          codes[k] = (int8_t)(codes[k] | (b->h[32 * (k / 16) + 4 * r + k % 4] >> 2 * (k / 4 % 4) & 3) << 4);
        write_codes(x, codes, 32.0f, b->d[0][r], b->d[1][r], 0.0f);
      }
      break;
    }
    default: {
      const ss_block8 *b = from;
      EACH_ROW {
        for (unsigned j = 0; j < 8; j++) memcpy(codes + 4 * j, b->q + 32 * j + 4 * r, 4);
        write_codes(x, codes, 0.0f, b->d[r], b->d[r], 0.0f);
      }
      break;
    }
  }
}

void ss_dequantize(float *out, const ss_matrix *w, size_t first, size_t end) {
  const size_t group_bytes = (size_t)ss_pack_group_bytes(w->pack, w->cols);
  for (size_t g = first; g < end; g++, out += SS_ROWS * (size_t)w->cols) {
    const uint8_t *group = (const uint8_t *)w->data + g * group_bytes;
    if (ss_packs[w->pack].is_float) {
      const ss_matrix one = {.data = group, .rows = SS_ROWS, .cols = w->cols, .pack = w->pack};
      for (uint32_t r = 0; r < SS_ROWS; r++) ss_matrix_row(out + r * w->cols, &one, r);
      continue;
    }
    for (size_t i = 0; i < w->cols / SS_COLS; i++)
      write_block(out + i * SS_COLS, w->cols, w->pack, group + i * ss_packs[w->pack].group_bytes);
  }
}
