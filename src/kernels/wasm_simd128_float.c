/* Everything in f32 on simd128, for both WebAssembly sets: float weights, quantisation of activations, norm, softmax,
 * SwiGLU and attention's mix of values. The operations and their order are scalar.c's, several lanes at a time. */
#include "kernels/wasm_common.h"

/* ---- 8 lanes ---- */

typedef struct lanes {
  v128_t lo, hi; /* lanes 0..3, 4..7 */
} lanes;

SS_INLINE lanes load8(const float *x) { return (lanes){wasm_v128_load(x), wasm_v128_load(x + 4)}; }

/* ss_lane_sum */
SS_INLINE float lane_sum(lanes l) {
  const v128_t s = wasm_f32x4_add(l.lo, l.hi);
  const v128_t u = wasm_f32x4_add(s, wasm_i32x4_shuffle(s, s, 2, 3, 2, 3));
  return wasm_f32x4_extract_lane(u, 0) + wasm_f32x4_extract_lane(u, 1);
}

/* ---- float weights ---- */

/* 8 halves, exactly: exponent and mantissa are put in their place in the f32, whose exponent is then 112 too small,
 * and a multiplication mends that, for subnormals too. Exponent 31 (infinity, NaN) becomes 255 before. */
static const int16_t half_masks[][8] = {{-28673, -28673, -28673, -28673, -28673, -28673, -28673, -28673}, /* 0x8fff */
                                        {0xf80, 0xf80, 0xf80, 0xf80, 0xf80, 0xf80, 0xf80, 0xf80},
                                        {0x7000, 0x7000, 0x7000, 0x7000, 0x7000, 0x7000, 0x7000, 0x7000}};
static const float half_scale[4] = {0x1p112f, 0x1p112f, 0x1p112f, 0x1p112f};

SS_INLINE lanes floats_of_halves(v128_t h) {
  const int16_t *mask = ss_opaque(half_masks);
  const v128_t exponents = wasm_v128_load(mask + 8), scale = wasm_v128_load(ss_opaque(half_scale));
  v128_t high = wasm_v128_and(wasm_i16x8_shr(h, 3), wasm_v128_load(mask)); /* the high 16 bits of the f32 */
  const v128_t infinite = wasm_i16x8_eq(wasm_v128_and(high, exponents), exponents), low = wasm_i16x8_shl(h, 13);
  high = wasm_v128_or(high, wasm_v128_and(infinite, wasm_v128_load(mask + 16)));
  return (lanes){wasm_f32x4_mul(wasm_i16x8_shuffle(low, high, 0, 8, 1, 9, 2, 10, 3, 11), scale),
                 wasm_f32x4_mul(wasm_i16x8_shuffle(low, high, 4, 12, 5, 13, 6, 14, 7, 15), scale)};
}

SS_INLINE lanes load_weights(ss_pack pack, const void *w) {
  if (pack == SS_PACK_F32) return load8(w);
  const v128_t u = wasm_v128_load(w);
  if (pack == SS_PACK_F16) return floats_of_halves(u);
  return (lanes){wasm_i32x4_shl(wasm_u32x4_extend_low_u16x8(u), 16),
                 wasm_i32x4_shl(wasm_u32x4_extend_high_u16x8(u), 16)};
}

enum { ROWS = 2, MAX_TOKENS = 2 };

/* ROWS x n_tokens outputs; row_bytes 0: of one row, computed twice, which spares a tile of its own. The last columns are
 * padded with zeros, which leaves sums as they are: a sum that starts at +0 never becomes -0. */
SS_INLINE void float_tile(ss_pack pack, size_t n_tokens, float *y, size_t y_stride, const uint8_t *w, size_t row_bytes,
                          size_t cols, const float *x) {
  const size_t item = pack == SS_PACK_F32 ? 4 : 2, rest = cols % 8, y_step = row_bytes ? 1 : 0;
  size_t x_stride = cols;
  float last_w[ROWS][8] = {{0}}, last_x[MAX_TOKENS][8] = {{0}};
  lanes acc[ROWS][MAX_TOKENS];
  SS_UNROLL for (size_t i = 0; i < ROWS * MAX_TOKENS; i++) acc[i / MAX_TOKENS][i % MAX_TOKENS].lo =
      acc[i / MAX_TOKENS][i % MAX_TOKENS].hi = wasm_f32x4_const_splat(0);
  for (size_t left = cols; left; left -= ss_min(left, 8), w += 8 * item, x += 8) {
    if (left < 8) {
      for (size_t r = 0; r < ROWS; r++) memcpy(last_w[r], w + r * row_bytes, rest * item);
      for (size_t t = 0; t < n_tokens; t++) memcpy(last_x[t], x + t * cols, rest * sizeof(float));
      w = (const uint8_t *)last_w;
      x = last_x[0];
      row_bytes = sizeof last_w[0];
      x_stride = 8;
    }
    lanes v[MAX_TOKENS];
    SS_UNROLL for (size_t t = 0; t < n_tokens; t++) v[t] = load8(x + t * x_stride);
    SS_UNROLL for (size_t r = 0; r < ROWS; r++) {
      const lanes u = load_weights(pack, w + r * row_bytes);
      SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
        acc[r][t].lo = wasm_f32x4_add(acc[r][t].lo, wasm_f32x4_mul(u.lo, v[t].lo));
        acc[r][t].hi = wasm_f32x4_add(acc[r][t].hi, wasm_f32x4_mul(u.hi, v[t].hi));
      }
    }
  }
  SS_UNROLL for (size_t r = 0; r < ROWS; r++) {
    SS_UNROLL for (size_t t = 0; t < n_tokens; t++) y[t * y_stride + r * y_step] = lane_sum(acc[r][t]);
  }
}

SS_INLINE void fgemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                     size_t n_tokens) {
  const uint8_t *row = w;
  const size_t row_bytes = cols * (pack == SS_PACK_F32 ? 4 : 2);
  for (size_t r = 0; r < n_rows; r += ROWS, row += ROWS * row_bytes) {
    const size_t step = n_rows - r >= ROWS ? row_bytes : 0;
    for (size_t t = 0; t < n_tokens; t++) {
      float *to = y + t * y_stride + r;
      const float *from = x + t * cols;
      if (n_tokens - t == 1) float_tile(pack, 1, to, y_stride, row, step, cols, from);
      else { /* each weight is read, and widened, for two tokens */
        float_tile(pack, 2, to, y_stride, row, step, cols, from);
        t++;
      }
    }
  }
}

SS_FLOAT_KERNELS(wasm)

/* ---- element-wise ---- */

#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds half to even and leaves the integer in the low bits */
#define ROUNDER_BITS 0x4b400000

void ss_quantize_wasm(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    const v128_t no_sign = wasm_i32x4_const_splat(0x7fffffff);
    v128_t v[8], bits = wasm_i32x4_const_splat(0);
    SS_UNROLL for (unsigned k = 0; k < 8; k++) {
      v[k] = wasm_v128_load(x + i + 4 * k);
      bits = wasm_i32x4_max(bits, wasm_v128_and(v[k], no_sign));
    }
    bits = wasm_i32x4_max(bits, wasm_i32x4_shuffle(bits, bits, 2, 3, 0, 1));
    bits = wasm_i32x4_max(bits, wasm_i32x4_shuffle(bits, bits, 1, 0, 3, 2));
    const uint32_t largest = (uint32_t)wasm_i32x4_extract_lane(bits, 0);
    const float amax = ss_float_of_bits(largest);
    if (largest >= 0x7f800000u || amax < 0x1p-100f) { /* infinite, NaN or tiny: counts as zero */
      wasm_v128_store(q + i, wasm_i8x16_const_splat(0));
      wasm_v128_store(q + i + 16, wasm_i8x16_const_splat(0));
      *b = (ss_act_block){0};
      continue;
    }
    const v128_t inverse = wasm_f32x4_splat(127.0f / amax), rounder = wasm_f32x4_const_splat(ROUNDER);
    SS_UNROLL for (unsigned k = 0; k < 8; k++) v[k] =
        wasm_i32x4_sub(wasm_f32x4_add(wasm_f32x4_mul(v[k], inverse), rounder), wasm_i32x4_const_splat(ROUNDER_BITS));
    const v128_t first = wasm_i32x4_add(wasm_i32x4_add(v[0], v[1]), wasm_i32x4_add(v[2], v[3]));
    const v128_t second = wasm_i32x4_add(wasm_i32x4_add(v[4], v[5]), wasm_i32x4_add(v[6], v[7]));
    SS_UNROLL for (unsigned k = 0; k < 8; k += 4) /* |x * (127 / amax)| rounds to at most 127 */
        wasm_v128_store(q + i + 4 * k, wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(v[k], v[k + 1]),
                                                               wasm_i16x8_narrow_i32x4(v[k + 2], v[k + 3])));
    const v128_t halves =
        wasm_i32x4_add(wasm_i32x4_shuffle(first, second, 0, 1, 4, 5), wasm_i32x4_shuffle(first, second, 2, 3, 6, 7));
    const int32_t sum_lo = wasm_i32x4_extract_lane(halves, 0) + wasm_i32x4_extract_lane(halves, 1);
    const int32_t sum = sum_lo + wasm_i32x4_extract_lane(halves, 2) + wasm_i32x4_extract_lane(halves, 3);
    *b = (ss_act_block){.d = amax / 127.0f, .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
  }
}

void ss_rmsnorm_wasm(float *y, const float *x, const float *w, size_t n, float eps) {
  lanes sum = {wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0)};
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const lanes v = load8(x + i);
    sum.lo = wasm_f32x4_add(sum.lo, wasm_f32x4_mul(v.lo, v.lo));
    sum.hi = wasm_f32x4_add(sum.hi, wasm_f32x4_mul(v.hi, v.hi));
  }
  float lane[8];
  wasm_v128_store(lane, sum.lo);
  wasm_v128_store(lane + 4, sum.hi);
  for (; i < n; i++) lane[i % 8] += x[i] * x[i];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  const v128_t scales = wasm_f32x4_splat(scale);
  for (i = 0; n - i >= 4; i += 4)
    wasm_v128_store(y + i, wasm_f32x4_mul(wasm_f32x4_mul(wasm_v128_load(x + i), scales), wasm_v128_load(w + i)));
  for (; i < n; i++) y[i] = (x[i] * scale) * w[i];
}

void ss_add_wasm(float *y, const float *x, size_t n) {
  size_t i = 0;
  for (; n - i >= 4; i += 4) wasm_v128_store(y + i, wasm_f32x4_add(wasm_v128_load(y + i), wasm_v128_load(x + i)));
  for (; i < n; i++) y[i] += x[i];
}

/* ss_expf of base/math.c, step by step. Its constants are read from memory: V8 takes three instructions to make a
 * vector constant and does not move them out of loops. */
#define ALL(x) {x, x, x, x}
static const float exp_constants[][4] = {ALL(ROUNDER),
                                         ALL(-87.0f),
                                         ALL(88.0f),
                                         ALL(1.44269504f),
                                         ALL(0.693359375f),
                                         ALL(-2.12194440e-4f),
                                         ALL(1.9875691500e-4f),
                                         ALL(1.3981999507e-3f),
                                         ALL(8.3334519073e-3f),
                                         ALL(4.1665795894e-2f),
                                         ALL(1.6666665459e-1f),
                                         ALL(5.0000001201e-1f),
                                         ALL(1.0f)};

enum { EXP_VECTORS = 4 };

/* 4 vectors abreast: a step waits for the one before it, so one vector after the other would leave the processor
 * idle. */
SS_INLINE void vector_exp(v128_t v[EXP_VECTORS]) {
  const float *c = ss_opaque(exp_constants);
#define C(i) wasm_v128_load(c + 4 * (i))
#define STEP(statement)                                           \
  SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) statement; \
  ss_keep_order(&p[0], &p[1]), ss_keep_order(&p[2], &p[3])
  v128_t power[EXP_VECTORS], r[EXP_VECTORS], p[EXP_VECTORS];
  SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) {
    const v128_t in_range = wasm_f32x4_ge(v[k], C(1)); /* not of a NaN */
    const v128_t x = wasm_f32x4_pmin(C(2), wasm_f32x4_pmax(C(1), v[k])); /* -87 for a NaN */
    const v128_t shifted = wasm_f32x4_add(wasm_f32x4_mul(x, C(3)), C(0)), n = wasm_f32x4_sub(shifted, C(0));
    r[k] = wasm_f32x4_sub(x, wasm_f32x4_mul(n, C(4)));
    r[k] = wasm_f32x4_sub(r[k], wasm_f32x4_mul(n, C(5)));
    /* The low bits of `shifted` are n; adding those of 1.0f, 127 << 23, to n << 23 gives 2^n. */
    power[k] = wasm_v128_and(wasm_i32x4_add(wasm_i32x4_shl(shifted, 23), C(12)), in_range);
    p[k] = C(6);
    ss_keep_order(&r[k], &power[k]);
  }
  STEP(p[k] = wasm_f32x4_add(wasm_f32x4_mul(p[k], r[k]), C(7)));
  STEP(p[k] = wasm_f32x4_add(wasm_f32x4_mul(p[k], r[k]), C(8)));
  STEP(p[k] = wasm_f32x4_add(wasm_f32x4_mul(p[k], r[k]), C(9)));
  STEP(p[k] = wasm_f32x4_add(wasm_f32x4_mul(p[k], r[k]), C(10)));
  STEP(p[k] = wasm_f32x4_add(wasm_f32x4_mul(p[k], r[k]), C(11)));
  STEP(p[k] = wasm_f32x4_mul(p[k], wasm_f32x4_mul(r[k], r[k])));
  STEP(p[k] = wasm_f32x4_add(p[k], r[k]));
  STEP(p[k] = wasm_f32x4_add(p[k], C(12)));
  SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) v[k] = wasm_f32x4_mul(p[k], power[k]);
#undef STEP
#undef C
}

void ss_swiglu_wasm(float *g, const float *u, size_t n) {
  float last_g[4 * EXP_VECTORS] = {0}, last_u[4 * EXP_VECTORS] = {0};
  for (size_t left = n, now; left; left -= now, g += now, u += now) {
    float *x = g;
    now = ss_min(left, 4 * EXP_VECTORS);
    if (now < 4 * EXP_VECTORS) { /* the end, filled up */
      memcpy(last_g, g, now * sizeof(float));
      memcpy(last_u, u, now * sizeof(float));
      x = last_g;
      u = last_u;
    }
    const v128_t one = wasm_v128_load(ss_opaque(exp_constants[12]));
    v128_t e[EXP_VECTORS];
    SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) e[k] = wasm_f32x4_neg(wasm_v128_load(x + 4 * k));
    vector_exp(e);
    SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) {
      const v128_t silu = wasm_f32x4_div(wasm_v128_load(x + 4 * k), wasm_f32x4_add(one, e[k]));
      wasm_v128_store(x + 4 * k, wasm_f32x4_mul(silu, wasm_v128_load(u + 4 * k)));
    }
    if (x == last_g) memcpy(g, last_g, now * sizeof(float));
  }
}

float ss_softmax_wasm(float *p, size_t n, float scale) {
  float max = ss_float_of_bits(0xff800000u);
  const v128_t scales = wasm_f32x4_splat(scale);
  v128_t maxima = wasm_f32x4_splat(max);
  size_t i = 0;
  for (; n - i >= 4; i += 4) {
    const v128_t x = wasm_f32x4_mul(wasm_v128_load(p + i), scales);
    wasm_v128_store(p + i, x);
    maxima = wasm_f32x4_pmax(maxima, x); /* x where it is greater, so never a NaN */
  }
  for (; i < n; i++) {
    p[i] *= scale;
    if (p[i] > max) max = p[i];
  }
  float lane[4];
  wasm_v128_store(lane, maxima);
  for (unsigned k = 0; k < 4; k++)
    if (lane[k] > max) max = lane[k];

  const v128_t all_max = wasm_f32x4_splat(max);
  lanes sum = {wasm_f32x4_const_splat(0), wasm_f32x4_const_splat(0)};
  float last[4 * EXP_VECTORS];
  for (size_t left = n, now; left; left -= now, p += now) {
    float *x = p;
    now = ss_min(left, 4 * EXP_VECTORS);
    if (now < 4 * EXP_VECTORS) { /* the end, filled up with what becomes 0 */
      for (size_t k = 0; k < 4 * EXP_VECTORS; k++) last[k] = k < now ? p[k] : ss_float_of_bits(0xff800000u);
      x = last;
    }
    v128_t e[EXP_VECTORS];
    SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) e[k] = wasm_f32x4_sub(wasm_v128_load(x + 4 * k), all_max);
    vector_exp(e);
    SS_UNROLL for (unsigned k = 0; k < EXP_VECTORS; k++) wasm_v128_store(x + 4 * k, e[k]);
    sum.lo = wasm_f32x4_add(wasm_f32x4_add(sum.lo, e[0]), e[2]);
    sum.hi = wasm_f32x4_add(wasm_f32x4_add(sum.hi, e[1]), e[3]);
    if (x == last) memcpy(p, last, now * sizeof(float));
  }
  return lane_sum(sum);
}

/* ---- attention's values ---- */

enum { MIX_POSITIONS = 64, MIX_QUERIES = 4 }; /* of a tile */

/* A block of 32 columns for n_q queries: their sums stay in registers, 32 / n_q columns at a time. */
SS_INLINE void mix_block(size_t n_q, float *out, size_t dim, const float *p, size_t p_stride,
                         const float v[MIX_POSITIONS][SS_COLS], const float scale[MIX_POSITIONS], size_t n_pos) {
  const size_t n_columns = n_q == 1 ? 32 : n_q == 2 ? 16 : 8;
  float s[MIX_QUERIES][MIX_POSITIONS];
  for (size_t i = 0; i < n_q; i++) {
    const float *from = p + i * p_stride;
    size_t t = 0;
    for (; n_pos - t >= 4; t += 4)
      wasm_v128_store(&s[i][t], wasm_f32x4_mul(wasm_v128_load(from + t), wasm_v128_load(scale + t)));
    for (; t < n_pos; t++) s[i][t] = from[t] * scale[t];
  }
  for (size_t c = 0; c < SS_COLS; c += n_columns) {
    lanes acc[MIX_QUERIES][4];
    SS_UNROLL for (size_t i = 0; i < n_q; i++) {
      SS_UNROLL for (size_t k = 0; k < n_columns / 8; k++) acc[i][k] = load8(out + i * dim + c + 8 * k);
    }
    for (size_t t = 0; t < n_pos; t++) {
      const float *values = ss_opaque(&v[t][c]), *factor = ss_opaque(&s[0][t]);
      SS_UNROLL for (size_t k = 0; k < n_columns / 8; k++) {
        const lanes x = load8(values + 8 * k);
        SS_UNROLL for (size_t i = 0; i < n_q; i++) {
          const v128_t f = wasm_v128_load32_splat(factor + i * MIX_POSITIONS);
          acc[i][k].lo = wasm_f32x4_add(acc[i][k].lo, wasm_f32x4_mul(f, x.lo));
          acc[i][k].hi = wasm_f32x4_add(acc[i][k].hi, wasm_f32x4_mul(f, x.hi));
        }
      }
    }
    SS_UNROLL for (size_t i = 0; i < n_q; i++) {
      SS_UNROLL for (size_t k = 0; k < n_columns / 8; k++) {
        wasm_v128_store(out + i * dim + c + 8 * k, acc[i][k].lo);
        wasm_v128_store(out + i * dim + c + 8 * k + 4, acc[i][k].hi);
      }
    }
  }
}

/* A block of columns and a stretch of positions at a time: their values become f32 once for all queries. */
void ss_mix_wasm(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v, const float *d,
                 size_t n_pos) {
  float wide[MIX_POSITIONS][SS_COLS], scale[MIX_POSITIONS];
  for (size_t c = 0; c < dim; c += SS_COLS)
    for (size_t first = 0, n; first < n_pos; first += n) {
      n = ss_min(n_pos - first, MIX_POSITIONS);
      for (size_t t = 0; t < n; t++) {
        const int8_t *from = v + (first + t) * dim + c;
        scale[t] = d[(first + t) * (dim / SS_COLS) + c / SS_COLS];
        SS_UNROLL for (size_t k = 0; k < SS_COLS; k += 8) {
          const v128_t x = wasm_i16x8_load8x8(from + k);
          wasm_v128_store(&wide[t][k], wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(x)));
          wasm_v128_store(&wide[t][k + 4], wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(x)));
        }
      }
      for (size_t i = 0, n_tile; i < n_q; i += n_tile) {
        float *o = out + i * dim + c;
        const float *tp = p + i * p_stride + first;
        n_tile = ss_min(n_q - i, MIX_QUERIES);
        switch (n_tile) {
          case 1: mix_block(1, o, dim, tp, p_stride, wide, scale, n); break;
          case 2: mix_block(2, o, dim, tp, p_stride, wide, scale, n); break;
          case 3: mix_block(3, o, dim, tp, p_stride, wide, scale, n); break;
          default: mix_block(4, o, dim, tp, p_stride, wide, scale, n); break;
        }
      }
    }
}
