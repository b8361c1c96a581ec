/* Errors that a kernel author makes, planted into copies of the scalar set. The checks must see every one. */
#include "check.h"

/* ---- dot products ---- */

static void gemm_4m_flips_a_bit(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                                const int8_t *q, const ss_act_block *b, size_t n_tokens, void *panel) {
  ss_gemm_4m_scalar(y, y_stride, w, n_groups, n_blocks, q, b, n_tokens, panel);
  float *last = &y[(n_tokens - 1) * y_stride + n_groups * SS_ROWS - 1];
  *last = ss_float_of_bits(ss_bits_of_float(*last) ^ 1u);
}

static void gemm_4_forgets_the_tail(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                                    const int8_t *q, const ss_act_block *b, size_t n_tokens, void *panel) {
  ss_gemm_4_scalar(y, y_stride, w, n_groups, n_blocks, q, b, n_tokens / 4 * 4, panel);
}

static void gemm_5_writes_between_tokens(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                                         const int8_t *q, const ss_act_block *b, size_t n_tokens, void *panel) {
  ss_gemm_5_scalar(y, y_stride, w, n_groups, n_blocks, q, b, n_tokens, panel);
  if (y_stride > n_groups * SS_ROWS) y[n_groups * SS_ROWS] = 0.0f;
}

static void gemv_4_writes_past_the_end(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                                       const ss_act_block *b) {
  ss_gemv_4_scalar(y, w, n_groups, n_blocks, q, b);
  y[n_groups * SS_ROWS] = 0.0f;
}

static void gemv_8_writes_before_the_start(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                                           const ss_act_block *b) {
  ss_gemv_8_scalar(y, w, n_groups, n_blocks, q, b);
  y[-1] = 0.0f;
}

/* The right terms, in descending order. */
static void gemv_4m_sums_backwards(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                                   const ss_act_block *b) {
  const ss_block4m *block = w;
  for (size_t g = 0; g < n_groups; g++, y += SS_ROWS, block += n_blocks) {
    for (size_t r = 0; r < SS_ROWS; r++) y[r] = 0.0f;
    for (size_t i = n_blocks; i-- > 0;) {
      float part[SS_ROWS];
      ss_gemv_4m_scalar(part, block + i, 1, 1, q + i * SS_COLS, b + i);
      for (size_t r = 0; r < SS_ROWS; r++) y[r] += part[r];
    }
  }
}

/* 16-bit sums of pairs saturate, as pmaddubsw's do with full 8-bit codes. */
static void gemv_6_saturates(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                             const ss_act_block *b) {
  ss_gemv_6_scalar(y, w, n_groups, n_blocks, q, b);
  for (size_t i = 0; i < n_blocks; i++)
    for (size_t k = 0; k < SS_COLS; k++)
      if (q[i * SS_COLS + k] != 127) return;
  y[0] += 1.0f;
}

static void gemv_8_clamps_to_127(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                                 const ss_act_block *b) {
  for (size_t g = 0; g < n_groups; g++)
    for (size_t r = 0; r < SS_ROWS; r++) {
      float acc = 0.0f;
      for (size_t i = 0; i < n_blocks; i++) {
        const ss_block8 *block = (const ss_block8 *)w + g * n_blocks + i;
        int32_t isum = 0;
        for (size_t k = 0; k < SS_COLS; k++) {
          const int code = block->q[32 * (k / 4) + 4 * r + k % 4];
          isum += (code == -128 ? -127 : code) * q[i * SS_COLS + k];
        }
        acc += (block->d[r] * b[i].d) * (float)isum;
      }
      y[g * SS_ROWS + r] = acc;
    }
}

static void fgemm_f32_sums_in_one_lane(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols,
                                       const float *x, size_t n_tokens) {
  for (size_t t = 0; t < n_tokens; t++)
    for (size_t r = 0; r < n_rows; r++) {
      float sum = 0.0f;
      for (size_t k = 0; k < cols; k++) sum += ((const float *)w)[r * cols + k] * x[t * cols + k];
      y[t * y_stride + r] = sum;
    }
}

/* The product is not rounded before it is added: exact in double, so this is what a fused multiply-add gives (all but
 * always). */
static void fgemm_bf16_fuses(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                             size_t n_tokens) {
  for (size_t t = 0; t < n_tokens; t++)
    for (size_t r = 0; r < n_rows; r++) {
      float lane[8] = {0};
      for (size_t k = 0; k < cols; k++) {
        const float u = ss_float_of_bits((uint32_t)((const uint16_t *)w)[r * cols + k] << 16);
        lane[k % 8] = (float)((double)lane[k % 8] + (double)u * (double)x[t * cols + k]);
      }
      y[t * y_stride + r] = ss_lane_sum(lane);
    }
}

/* ---- element-wise ---- */

static void quantize_rounds_half_away(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  ss_quantize_scalar(q, b, x, n);
  for (size_t i = 0; i < n; i++) {
    if (!(b[i / SS_COLS].d > 0.0f)) continue;
    const float v = x[i] * (1.0f / b[i / SS_COLS].d);
    q[i] = (int8_t)(v < 0 ? v - 0.5f : v + 0.5f);
  }
}

static void quantize_misses_infinities(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  ss_quantize_scalar(q, b, x, n);
  for (size_t i = 0; i < n; i++)
    if (ss_bits_of_float(x[i]) == 0x7f800000u) b[i / SS_COLS].d = x[i];
}

static void rmsnorm_multiplies_weights_first(float *y, const float *x, const float *w, size_t n, float eps) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] += x[i] * x[i];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) y[i] = x[i] * (scale * w[i]);
}

static void add_forgets_the_tail(float *y, const float *x, size_t n) { ss_add_scalar(y, x, n / 8 * 8); }

static void swiglu_lets_exp_overflow(float *g, const float *u, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (-g[i] < -87.0f) g[i] = (g[i] / (1.0f + 1e-30f)) * u[i]; /* the same: exp below -87 is lost in the sum */
    else if (-g[i] > 88.0f) g[i] = (g[i] / ss_float_of_bits(0x7f800000u)) * u[i]; /* exp above 88 is not infinite */
    else ss_swiglu_scalar(g + i, u + i, 1);
  }
}

static float softmax_sums_in_one_lane(float *p, size_t n, float scale) {
  float sum = 0.0f;
  ss_softmax_scalar(p, n, scale);
  for (size_t i = 0; i < n; i++) sum += p[i];
  return sum;
}

static float softmax_lets_nan_be_the_maximum(float *p, size_t n, float scale) {
  bool nan = false;
  for (size_t i = 0; i < n; i++) nan |= p[i] != p[i];
  const float sum = ss_softmax_scalar(p, n, scale);
  for (size_t i = 0; nan && i < n; i++) p[i] = 0.0f;
  return sum;
}

static void mix_goes_backwards(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v,
                               const float *d, size_t n_pos) {
  for (size_t t = n_pos; t-- > 0;)
    ss_mix_scalar(out, n_q, dim, p + t, p_stride, v + t * dim, d + t * (dim / SS_COLS), 1);
}

static void mix_scales_last(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v,
                            const float *d, size_t n_pos) {
  for (size_t i = 0; i < n_q; i++)
    for (size_t t = 0; t < n_pos; t++)
      for (size_t c = 0; c < dim; c++)
        out[i * dim + c] += p[i * p_stride + t] * (d[t * (dim / SS_COLS) + c / SS_COLS] * (float)v[t * dim + c]);
}

/* ---- the list ---- */

#define PLANT(name, entry, function) \
  static void plant_##name(ss_kernels *k) { k->entry = function; }
PLANT(bit, gemm[SS_PACK_4M], gemm_4m_flips_a_bit)
PLANT(tokens, gemm[SS_PACK_4], gemm_4_forgets_the_tail)
PLANT(stride, gemm[SS_PACK_5], gemm_5_writes_between_tokens)
PLANT(past, gemv[SS_PACK_4], gemv_4_writes_past_the_end)
PLANT(before, gemv[SS_PACK_8], gemv_8_writes_before_the_start)
PLANT(order, gemv[SS_PACK_4M], gemv_4m_sums_backwards)
PLANT(saturation, gemv[SS_PACK_6], gemv_6_saturates)
PLANT(clamp, gemv[SS_PACK_8], gemv_8_clamps_to_127)
PLANT(lanes, fgemm[SS_PACK_F32], fgemm_f32_sums_in_one_lane)
PLANT(fused, fgemm[SS_PACK_BF16], fgemm_bf16_fuses)
PLANT(rounding, quantize, quantize_rounds_half_away)
PLANT(infinity, quantize, quantize_misses_infinities)
PLANT(product, rmsnorm, rmsnorm_multiplies_weights_first)
PLANT(tail, add, add_forgets_the_tail)
PLANT(exp, swiglu, swiglu_lets_exp_overflow)
PLANT(softmax_sum, softmax, softmax_sums_in_one_lane)
PLANT(softmax_max, softmax, softmax_lets_nan_be_the_maximum)
PLANT(positions, mix, mix_goes_backwards)
PLANT(scales, mix, mix_scales_last)

const ss_planted ss_planted_errors[] = {
    {"the last bit of one output is flipped", plant_bit},
    {"the last tokens are forgotten", plant_tokens},
    {"a word between two tokens' rows is written", plant_stride},
    {"a word past the end is written", plant_past},
    {"a word before the start is written", plant_before},
    {"blocks are summed in another order", plant_order},
    {"a sum saturates for the largest activations", plant_saturation},
    {"a weight of -128 is taken for -127", plant_clamp},
    {"lanes are summed in another order", plant_lanes},
    {"multiply and add are fused", plant_fused},
    {"halves are rounded away from zero", plant_rounding},
    {"an infinity gets through quantize", plant_infinity},
    {"three factors are multiplied in another order", plant_product},
    {"the last elements are forgotten", plant_tail},
    {"exp is infinite above 88", plant_exp},
    {"softmax sums in another order", plant_softmax_sum},
    {"softmax takes a NaN for the maximum", plant_softmax_max},
    {"positions are summed in another order", plant_positions},
    {"values are scaled before they are weighted", plant_scales},
};
const size_t ss_n_planted_errors = sizeof ss_planted_errors / sizeof *ss_planted_errors;
