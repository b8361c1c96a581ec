/* The specification of every number that the core computes. Read this to know what a kernel must give, to the bit.
 *
 * The dot product of a weight row and a token's activations goes block by block (32 columns):
 *
 *     isum = sum of code * q                          exact, int32
 *     types with an offset:   isum -= offset * sum;   acc += (d * a.d) * (float)isum
 *     types with a minimum:   acc += (d * (float)isum + m * a.fsum) * a.d
 *     six-bit codes:          the offset form, twice: columns 0..15 with d[0], then 16..31 with d[1]
 *
 * One f32 accumulator per row starts at 0; every multiply and every add rounds on its own. Float weights use 8
 * accumulators, column k in lane k % 8, and the tree of ss_lane_sum. */
#include "kernels/kernels.h"

/* ---- dot products ---- */

/* A block as pack.h lays it out, taken apart. */
typedef struct block {
  int8_t code[SS_ROWS][SS_COLS];
  const float *d;      /* [8] scales */
  const float *d_high; /* [8] those of columns 16..31 where they have their own, or NULL */
  const float *m;      /* [8] minima, or NULL */
  int32_t offset;
} block;

/* q: the low four bits; h: n_high more for each code. */
static void unpack(block *b, const uint8_t *q, const uint8_t *h, unsigned n_high) {
  for (unsigned r = 0; r < SS_ROWS; r++)
    for (unsigned k = 0; k < SS_COLS; k++) {
      const unsigned j = k / 4, at = 4 * r + k % 4;
      const uint8_t byte = q[32 * (j % 4) + at];
      unsigned code = j < 4 ? byte & 15u : byte >> 4;
      if (n_high == 1) code |= (h[at] >> j & 1u) << 4;
      if (n_high == 2) code |= (h[32 * (j / 4) + at] >> 2 * (j % 4) & 3u) << 4;
      b->code[r][k] = (int8_t)code;
    }
}

static void unpack_4(block *b, const ss_block4 *w) {
  *b = (block){.d = w->d, .offset = 8};
  unpack(b, w->q, NULL, 0);
}
static void unpack_4m(block *b, const ss_block4m *w) {
  *b = (block){.d = w->d, .m = w->m};
  unpack(b, w->q, NULL, 0);
}
static void unpack_5(block *b, const ss_block5 *w) {
  *b = (block){.d = w->d, .offset = 16};
  unpack(b, w->q, w->h, 1);
}
static void unpack_5m(block *b, const ss_block5m *w) {
  *b = (block){.d = w->d, .m = w->m};
  unpack(b, w->q, w->h, 1);
}
static void unpack_6(block *b, const ss_block6 *w) {
  *b = (block){.d = w->d[0], .d_high = w->d[1], .offset = 32};
  unpack(b, w->q, w->h, 2);
}
static void unpack_8(block *b, const ss_block8 *w) {
  *b = (block){.d = w->d};
  for (unsigned r = 0; r < SS_ROWS; r++)
    for (unsigned k = 0; k < SS_COLS; k++) b->code[r][k] = w->q[32 * (k / 4) + 4 * r + k % 4];
}

static int32_t dot16(const int8_t *code, const int8_t *q) {
  int32_t sum = 0;
  for (unsigned k = 0; k < 16; k++) sum += code[k] * q[k];
  return sum;
}

/* acc[r] += the block's part of row r. */
static void add_block(float acc[SS_ROWS], const block *b, const int8_t *q, const ss_act_block *a) {
  for (unsigned r = 0; r < SS_ROWS; r++) {
    const int32_t low = dot16(b->code[r], q), high = dot16(b->code[r] + 16, q + 16);
    if (b->m) {
      acc[r] += (b->d[r] * (float)(low + high) + b->m[r] * a->fsum) * a->d;
    } else if (b->d_high) {
      acc[r] += (b->d[r] * a->d) * (float)(low - b->offset * a->sum_lo);
      acc[r] += (b->d_high[r] * a->d) * (float)(high - b->offset * (a->sum - a->sum_lo));
    } else {
      acc[r] += (b->d[r] * a->d) * (float)(low + high - b->offset * a->sum);
    }
  }
}

#define MATMUL(name, type)                                                                                 \
  void ss_gemm_##name##_scalar(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks, \
                               const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {     \
    (void)panel;                                                                                           \
    const type *packed = w;                                                                                \
    for (size_t g = 0; g < n_groups; g++, y += SS_ROWS) {                                                  \
      for (size_t t = 0; t < n_tokens; t++) memset(y + t * y_stride, 0, SS_ROWS * sizeof *y);              \
      for (size_t i = 0; i < n_blocks; i++) {                                                              \
        block b;                                                                                           \
        unpack_##name(&b, packed++);                                                                       \
        for (size_t t = 0; t < n_tokens; t++)                                                              \
          add_block(y + t * y_stride, &b, q + (t * n_blocks + i) * SS_COLS, a + t * n_blocks + i);         \
      }                                                                                                    \
    }                                                                                                      \
  }                                                                                                        \
  void ss_gemv_##name##_scalar(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q, \
                               const ss_act_block *a) {                                                    \
    ss_gemm_##name##_scalar(y, 0, w, n_groups, n_blocks, q, a, 1, NULL);                                   \
  }

MATMUL(4, ss_block4)
MATMUL(4m, ss_block4m)
MATMUL(5, ss_block5)
MATMUL(5m, ss_block5m)
MATMUL(6, ss_block6)
MATMUL(8, ss_block8)

#define FLOAT_KERNEL(name, type, to_float)                                                                            \
  void ss_fgemm_##name##_scalar(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x, \
                                size_t n_tokens) {                                                                    \
    for (size_t t = 0; t < n_tokens; t++, y += y_stride, x += cols)                                                   \
      for (size_t r = 0; r < n_rows; r++) {                                                                           \
        const type *row = (const type *)w + r * cols;                                                                 \
        float lane[8] = {0};                                                                                          \
        for (size_t k = 0; k < cols; k++) lane[k % 8] += to_float(row[k]) * x[k];                                     \
        y[r] = ss_lane_sum(lane);                                                                                     \
      }                                                                                                               \
  }

#define SAME(x) (x)
#define OF_BF16(u) ss_float_of_bits((uint32_t)(u) << 16)
FLOAT_KERNEL(f32, float, SAME)
FLOAT_KERNEL(f16, uint16_t, ss_float_of_half)
FLOAT_KERNEL(bf16, uint16_t, OF_BF16)

/* ---- element-wise ---- */

/* d = amax / 127; q = x * (127 / amax), rounded half to even. The largest bit pattern without its sign is amax, so an
 * infinity or a NaN is seen; such a block, and one whose amax is below 2^-100, counts as zero. */
void ss_quantize_scalar(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    uint32_t bits = 0;
    for (size_t k = 0; k < SS_COLS; k++) bits = (uint32_t)ss_max(bits, ss_bits_of_float(x[i + k]) & 0x7fffffffu);
    const float amax = ss_float_of_bits(bits);
    const bool zero = bits >= 0x7f800000u || amax < 0x1p-100f;
    const float inverse = zero ? 0.0f : 127.0f / amax;
    int32_t sum = 0, sum_lo = 0;
    for (size_t k = 0; k < SS_COLS; k++) {
      const float shifted = zero ? 12582912.0f : x[i + k] * inverse + 12582912.0f; /* rounds half to even */
      int32_t v = (int32_t)(shifted - 12582912.0f);
      v = v > 127 ? 127 : v < -127 ? -127 : v;
      q[i + k] = (int8_t)v;
      sum += v;
      if (k < 16) sum_lo += v;
    }
    *b = (ss_act_block){.d = zero ? 0.0f : amax / 127.0f, .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
  }
}

void ss_rmsnorm_scalar(float *y, const float *x, const float *w, size_t n, float eps) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] += x[i] * x[i];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) y[i] = (x[i] * scale) * w[i];
}

void ss_add_scalar(float *y, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] += x[i];
}

void ss_swiglu_scalar(float *g, const float *u, size_t n) {
  for (size_t i = 0; i < n; i++) g[i] = (g[i] / (1.0f + ss_expf(-g[i]))) * u[i];
}

float ss_softmax_scalar(float *p, size_t n, float scale) {
  float max = ss_float_of_bits(0xff800000u); /* -infinity, so that a NaN is never the maximum */
  for (size_t i = 0; i < n; i++) {
    p[i] *= scale;
    if (p[i] > max) max = p[i];
  }
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) {
    p[i] = ss_expf(p[i] - max);
    lane[i % 8] += p[i];
  }
  return ss_lane_sum(lane);
}

void ss_mix_scalar(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v, const float *d,
                   size_t n_pos) {
  for (size_t i = 0; i < n_q; i++)
    for (size_t t = 0; t < n_pos; t++)
      for (size_t c = 0; c < dim; c++) {
        const float s = p[i * p_stride + t] * d[t * (dim / SS_COLS) + c / SS_COLS];
        out[i * dim + c] += s * (float)v[t * dim + c];
      }
}

const ss_kernels ss_kernels_scalar = {
    .name = "scalar",
#define SS_KERNEL(result, entry, args) .entry = ss_##entry##_scalar,
#include "kernels/kernels.def"
#undef SS_KERNEL
    .gemv = {[SS_PACK_4] = ss_gemv_4_scalar,
             [SS_PACK_4M] = ss_gemv_4m_scalar,
             [SS_PACK_5] = ss_gemv_5_scalar,
             [SS_PACK_5M] = ss_gemv_5m_scalar,
             [SS_PACK_6] = ss_gemv_6_scalar,
             [SS_PACK_8] = ss_gemv_8_scalar},
    .gemm = {[SS_PACK_4] = ss_gemm_4_scalar,
             [SS_PACK_4M] = ss_gemm_4m_scalar,
             [SS_PACK_5] = ss_gemm_5_scalar,
             [SS_PACK_5M] = ss_gemm_5m_scalar,
             [SS_PACK_6] = ss_gemm_6_scalar,
             [SS_PACK_8] = ss_gemm_8_scalar},
    .fgemm = {[SS_PACK_F32] = ss_fgemm_f32_scalar,
              [SS_PACK_F16] = ss_fgemm_f16_scalar,
              [SS_PACK_BF16] = ss_fgemm_bf16_scalar},
};
