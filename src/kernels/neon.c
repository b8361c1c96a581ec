/* Kernels for aarch64. Baseline ARMv8.0 multiplies with smlal into 16 bits; built with the dot product extension
 * (-march=armv8.2-a+dotprod), sdot does it. Never fmla: scalar.c rounds each product and each sum.
 *
 * Two vectors hold 4 columns of 8 rows (pack.h), the activations of these columns are broadcast. A 16-bit lane sums one
 * product for each step, exactly as long as steps * max code * 127 < 2^15: all 8 steps of 4- and 5-bit codes, a half
 * block of 6-bit codes, 2 steps of 8-bit codes (see finish). Pairwise adds then leave the 8 row sums in 32 bits.
 *
 * Functions take the pack as an argument and are inlined with a constant one, so its branches cost nothing. */
#include "kernels/kernels.h"

#include <arm_neon.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns") /* it moves loads so far ahead that half of the sums are spilled */
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
  TILE = 4, /* tokens that share a load of weights */
  STEPS = 8,
  PREFETCH = 4096,   /* bytes ahead */
  PANEL_BLOCK = 256, /* the codes of a block, a byte each */
};

/* One value for each of 8 rows, or for each of 8 lanes. */
typedef struct ints {
  int32x4_t lo, hi;
} ints;
typedef struct floats {
  float32x4_t lo, hi;
} floats;
typedef struct bytes {
  int8x16_t lo, hi;
} bytes; /* 4 columns of 8 rows */

INLINE floats load(const float *p) { return (floats){vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE void store(float *p, floats v) { vst1q_f32(p, v.lo), vst1q_f32(p + 4, v.hi); }
INLINE floats splat(float x) { return (floats){vdupq_n_f32(x), vdupq_n_f32(x)}; }
INLINE floats add(floats a, floats b) { return (floats){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
INLINE floats sub(floats a, floats b) { return (floats){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
INLINE floats mul(floats a, floats b) { return (floats){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
INLINE floats divide(floats a, floats b) { return (floats){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
INLINE floats to_floats(ints v) { return (floats){vcvtq_f32_s32(v.lo), vcvtq_f32_s32(v.hi)}; }
INLINE ints to_ints(floats v) { return (ints){vcvtq_s32_f32(v.lo), vcvtq_s32_f32(v.hi)}; } /* towards zero */

/* ---- dot products of quantised weights ---- */

INLINE size_t block_bytes(ss_pack pack) {
  switch (pack) {
    case SS_PACK_4: return sizeof(ss_block4);
    case SS_PACK_4M: return sizeof(ss_block4m);
    case SS_PACK_5: return sizeof(ss_block5);
    case SS_PACK_5M: return sizeof(ss_block5m);
    case SS_PACK_6: return sizeof(ss_block6);
    default: return sizeof(ss_block8);
  }
}

/* Where a block has its low nibbles (or bytes) and its high bits. */
INLINE size_t low_bits(ss_pack pack) {
  switch (pack) {
    case SS_PACK_4: return offsetof(ss_block4, q);
    case SS_PACK_4M: return offsetof(ss_block4m, q);
    case SS_PACK_5: return offsetof(ss_block5, q);
    case SS_PACK_5M: return offsetof(ss_block5m, q);
    case SS_PACK_6: return offsetof(ss_block6, q);
    default: return offsetof(ss_block8, q);
  }
}
INLINE size_t high_bits(ss_pack pack) {
  return pack == SS_PACK_5    ? offsetof(ss_block5, h)
         : pack == SS_PACK_5M ? offsetof(ss_block5m, h)
                              : offsetof(ss_block6, h);
}

INLINE int offset_of(ss_pack pack) {
  return pack == SS_PACK_4 ? 8 : pack == SS_PACK_5 ? 16 : pack == SS_PACK_6 ? 32 : 0;
}

/* 16 codes of step j: those of rows 0..3 at 0, of rows 4..7 at 16. */
INLINE int8x16_t codes_at(ss_pack pack, const uint8_t *block, int j, size_t at) {
  if (pack == SS_PACK_8) return vreinterpretq_s8_u8(vld1q_u8(block + low_bits(pack) + 32 * j + at));
  const uint8x16_t nibbles = vld1q_u8(block + low_bits(pack) + 32 * (j % 4) + at);
  uint8x16_t c = j < 4 ? vandq_u8(nibbles, vdupq_n_u8(15)) : vshrq_n_u8(nibbles, 4);
  if (pack == SS_PACK_5 || pack == SS_PACK_5M || pack == SS_PACK_6) {
    const bool six = pack == SS_PACK_6;
    const uint8x16_t h = vld1q_u8(block + high_bits(pack) + (six ? 32 * (j / 4) : 0) + at);
    const int left = 4 - (six ? 2 * (j % 4) : j); /* brings the high bits to bit 4; negative: to the right */
    const uint8x16_t at_4 = vshlq_u8(h, vdupq_n_s8((int8_t)left));
    c = vorrq_u8(c, vandq_u8(at_4, vdupq_n_u8(six ? 48 : 16)));
  }
  return vreinterpretq_s8_u8(c);
}
INLINE bytes codes(ss_pack pack, const uint8_t *block, int j) {
  return (bytes){codes_at(pack, block, j, 0), codes_at(pack, block, j, 16)};
}

/* Sums of one block or half block: `start` at its first step, `step` for step j, whose activations
 * are those at j % 4 of a, `finish` after its last one. */
#ifdef __ARM_FEATURE_DOTPROD
typedef ints sums;
INLINE sums start(void) { return (sums){vdupq_n_s32(0), vdupq_n_s32(0)}; }
INLINE sums step(ss_pack pack, sums s, bytes c, int8x16_t a, int j) {
  (void)pack;
  switch (j % 4) { /* the lane is a literal */
    case 0: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 0), vdotq_laneq_s32(s.hi, c.hi, a, 0)};
    case 1: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 1), vdotq_laneq_s32(s.hi, c.hi, a, 1)};
    case 2: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 2), vdotq_laneq_s32(s.hi, c.hi, a, 2)};
    default: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 3), vdotq_laneq_s32(s.hi, c.hi, a, 3)};
  }
}
INLINE ints finish(ss_pack pack, sums s) {
  (void)pack;
  return s;
}
#else
typedef struct sums {
  int16x8_t narrow[4]; /* [2 rows] x 4 columns each */
  int32x4_t wide[4];   /* 8-bit codes: of the steps before */
} sums;
INLINE sums start(void) {
  sums s;
  UNROLL for (int i = 0; i < 4; i++) s.narrow[i] = vdupq_n_s16(0), s.wide[i] = vdupq_n_s32(0);
  return s;
}
INLINE sums step(ss_pack pack, sums s, bytes c, int8x16_t sixteen, int j) {
  const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(vreinterpretq_s32_s8(sixteen)[j % 4]));
  const bool even = j % 2 == 0, fresh = pack == SS_PACK_8 && even; /* 128 * 127 * 2 = 32512: two steps fit */
  s.narrow[0] =
      fresh ? vmull_s8(vget_low_s8(c.lo), vget_low_s8(a)) : vmlal_s8(s.narrow[0], vget_low_s8(c.lo), vget_low_s8(a));
  s.narrow[1] = fresh ? vmull_high_s8(c.lo, a) : vmlal_high_s8(s.narrow[1], c.lo, a);
  s.narrow[2] =
      fresh ? vmull_s8(vget_low_s8(c.hi), vget_low_s8(a)) : vmlal_s8(s.narrow[2], vget_low_s8(c.hi), vget_low_s8(a));
  s.narrow[3] = fresh ? vmull_high_s8(c.hi, a) : vmlal_high_s8(s.narrow[3], c.hi, a);
  if (pack == SS_PACK_8 && !even) UNROLL for (int i = 0; i < 4; i++) s.wide[i] = vpadalq_s16(s.wide[i], s.narrow[i]);
  return s;
}
INLINE ints finish(ss_pack pack, sums s) {
  if (pack != SS_PACK_8) /* 15 * 127 * 8 = 15240, 31 * 127 * 8 = 31496, 63 * 127 * 4 = 32004 */
    UNROLL for (int i = 0; i < 4; i++) s.wide[i] = vpaddlq_s16(s.narrow[i]);
  return (ints){vpaddq_s32(s.wide[0], s.wide[1]), vpaddq_s32(s.wide[2], s.wide[3])};
}
#endif

/* acc + one block (or one half of a six-bit block) of 8 rows, in scalar.c's order. */
INLINE floats scaled(ss_pack pack, floats acc, ints isum, const uint8_t *block, int half, const ss_act_block *a) {
  const float *scales = (const float *)(const void *)block;
  const floats d = load(scales + 8 * half), d_act = splat(a->d);
  if (pack == SS_PACK_4M || pack == SS_PACK_5M) {
    const floats v = add(mul(d, to_floats(isum)), mul(load(scales + 8), splat(a->fsum)));
    return add(acc, mul(v, d_act));
  }
  const int32_t sum = pack != SS_PACK_6 ? a->sum : half ? a->sum - a->sum_lo : a->sum_lo;
  const int32x4_t offset = vdupq_n_s32(offset_of(pack) * sum);
  isum = (ints){vsubq_s32(isum.lo, offset), vsubq_s32(isum.hi, offset)};
  return add(acc, mul(mul(d, d_act), to_floats(isum)));
}

/* Where the weights of a tile come from: the packed group itself, or its codes in the panel. A constant argument. */
typedef enum source { PACKED, PANEL } source;

/* One group of 8 rows for n tokens. */
INLINE void tile(ss_pack pack, int n, source from, float *y, size_t y_stride, const uint8_t *block,
                 const uint8_t *panel, size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const int steps = pack == SS_PACK_6 ? STEPS / 2 : STEPS; /* that share a scale */
  floats acc[TILE];
  UNROLL for (int t = 0; t < n; t++) acc[t] = splat(0.0f);
  for (size_t i = 0; i < n_blocks; i++, block += block_bytes(pack), panel += from == PANEL ? PANEL_BLOCK : 0) {
    sums sum[TILE];
    int8x16_t acts[TILE]; /* of 4 steps */
    if (from == PACKED && n < TILE) /* past the end of the weights it does nothing */
      UNROLL for (size_t at = 0; at < block_bytes(pack); at += 64) __builtin_prefetch(block + PREFETCH + at);
    UNROLL for (int j = 0; j < STEPS; j++) {
      const bytes c = from == PACKED ? codes(pack, block, j)
                                     : (bytes){vld1q_s8((const int8_t *)panel + 32 * j),
                                               vld1q_s8((const int8_t *)panel + 32 * j + 16)};
      UNROLL for (int t = 0; t < n; t++) {
        const size_t at = (size_t)t * n_blocks + i;
        if (j % 4 == 0) acts[t] = vld1q_s8(q + SS_COLS * at + 4 * j);
        if (j % steps == 0) sum[t] = start();
        sum[t] = step(pack, sum[t], c, acts[t], j);
        if (j % steps == steps - 1) acc[t] = scaled(pack, acc[t], finish(pack, sum[t]), block, j / steps, a + at);
      }
    }
  }
  UNROLL for (int t = 0; t < n; t++) store(y + (size_t)t * y_stride, acc[t]);
}

INLINE void gemv(ss_pack pack, float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                 const ss_act_block *a) {
  const uint8_t *group = w;
  for (size_t g = 0; g < n_groups; g++, group += n_blocks * block_bytes(pack))
    tile(pack, 1, PACKED, y + g * SS_ROWS, 0, group, NULL, n_blocks, q, a);
}

/* One group for all tokens. */
INLINE void tiles(ss_pack pack, source from, float *y, size_t y_stride, const uint8_t *group, const uint8_t *panel,
                  size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens) {
  const size_t cols = n_blocks * SS_COLS;
  for (; n_tokens >= TILE; n_tokens -= TILE, y += TILE * y_stride, q += TILE * cols, a += TILE * n_blocks)
    tile(pack, TILE, from, y, y_stride, group, panel, n_blocks, q, a);
  if (n_tokens == 3) tile(pack, 3, from, y, y_stride, group, panel, n_blocks, q, a);
  else if (n_tokens == 2) tile(pack, 2, from, y, y_stride, group, panel, n_blocks, q, a);
  else if (n_tokens == 1) tile(pack, 1, from, y, y_stride, group, panel, n_blocks, q, a);
}

INLINE void gemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                 const int8_t *q, const ss_act_block *a, size_t n_tokens, uint8_t *panel) {
  const uint8_t *group = w;
  const bool widen = pack != SS_PACK_8 && n_tokens > TILE; /* else the codes are wide enough, or used only once */
  for (size_t g = 0; g < n_groups; g++, group += n_blocks * block_bytes(pack), y += SS_ROWS) {
    if (!widen) {
      tiles(pack, PACKED, y, y_stride, group, NULL, n_blocks, q, a, n_tokens);
      continue;
    }
    for (size_t i = 0; i < n_blocks; i++) UNROLL for (int j = 0; j < STEPS; j++) {
        const bytes c = codes(pack, group + i * block_bytes(pack), j);
        int8_t *to = (int8_t *)panel + i * PANEL_BLOCK + 32 * j;
        vst1q_s8(to, c.lo);
        vst1q_s8(to + 16, c.hi);
      }
    tiles(pack, PANEL, y, y_stride, group, panel, n_blocks, q, a, n_tokens);
  }
}

#define DOT_KERNELS(name, pack)                                                                                        \
  static void gemv_##name(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,                  \
                          const ss_act_block *a) {                                                                     \
    gemv(pack, y, w, n_groups, n_blocks, q, a);                                                                        \
  }                                                                                                                    \
  static void gemm_##name(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q, \
                          const ss_act_block *a, size_t n_tokens, void *panel) {                                       \
    gemm(pack, y, y_stride, w, n_groups, n_blocks, q, a, n_tokens, panel);                                             \
  }
DOT_KERNELS(4, SS_PACK_4)
DOT_KERNELS(4m, SS_PACK_4M)
DOT_KERNELS(5, SS_PACK_5)
DOT_KERNELS(5m, SS_PACK_5M)
DOT_KERNELS(6, SS_PACK_6)
DOT_KERNELS(8, SS_PACK_8)

/* ---- float weights: a pair of vectors holds the 8 lanes of one row and token ---- */

/* The tree of ss_lane_sum. */
INLINE float lane_sum(floats v) {
  const float32x4_t s = vaddq_f32(v.lo, v.hi);
  const float32x2_t two = vadd_f32(vget_low_f32(s), vget_high_f32(s));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* Weights [at, at + n) as f32, the rest zero. A lane is never -0, so adding a product of zeros changes nothing. */
INLINE floats weights(ss_pack pack, const void *w, size_t at, size_t n) {
  if (pack == SS_PACK_F32) {
    float part[8] = {0};
    if (n == 8) return load((const float *)w + at);
    memcpy(part, (const float *)w + at, n * sizeof(float));
    return load(part);
  }
  uint16x8_t halves;
  if (n == 8) {
    halves = vld1q_u16((const uint16_t *)w + at);
  } else {
    uint16_t part[8] = {0};
    memcpy(part, (const uint16_t *)w + at, n * sizeof(uint16_t));
    halves = vld1q_u16(part);
  }
  const uint16x4_t lo = vget_low_u16(halves), hi = vget_high_u16(halves);
  if (pack == SS_PACK_F16)
    return (floats){vcvt_f32_f16(vreinterpret_f16_u16(lo)), vcvt_f32_f16(vreinterpret_f16_u16(hi))};
  return (floats){vreinterpretq_f32_u32(vshll_n_u16(lo, 16)), vreinterpretq_f32_u32(vshll_n_u16(hi, 16))};
}

/* rows x tokens dot products. */
INLINE void ftile(ss_pack pack, int rows, int tokens, float *y, size_t y_stride, const void *w, size_t first_row,
                  size_t cols, const float *x) {
  floats acc[8];
  UNROLL for (int i = 0; i < rows * tokens; i++) acc[i] = splat(0.0f);
  for (size_t k = 0; k < cols; k += 8) {
    const size_t n = ss_min(8, cols - k);
    floats v[2];
    UNROLL for (int t = 0; t < tokens; t++) v[t] = weights(SS_PACK_F32, x, (size_t)t * cols + k, n);
    UNROLL for (int r = 0; r < rows; r++) {
      const floats u = weights(pack, w, (first_row + (size_t)r) * cols + k, n);
      UNROLL for (int t = 0; t < tokens; t++) acc[r * tokens + t] = add(acc[r * tokens + t], mul(u, v[t]));
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int t = 0; t < tokens; t++)
      y[(size_t)t * y_stride + first_row + (size_t)r] = lane_sum(acc[r * tokens + t]);
}

INLINE void fgemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                  size_t n_tokens) {
  size_t r = 0;
  for (; n_rows - r >= 4; r += 4) {
    size_t t = 0;
    for (; n_tokens - t >= 2; t += 2) ftile(pack, 4, 2, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
    if (t < n_tokens) ftile(pack, 4, 1, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
  }
  for (; r < n_rows; r++)
    for (size_t t = 0; t < n_tokens; t++) ftile(pack, 1, 1, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
}

#define FLOAT_KERNEL(name, pack)                                                                                 \
  static void fgemm_##name(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x, \
                           size_t n_tokens) {                                                                    \
    fgemm(pack, y, y_stride, w, n_rows, cols, x, n_tokens);                                                      \
  }
FLOAT_KERNEL(f32, SS_PACK_F32)
FLOAT_KERNEL(f16, SS_PACK_F16)
FLOAT_KERNEL(bf16, SS_PACK_BF16)

/* ---- element-wise ---- */

/* ss_expf, operation by operation. */
INLINE float32x4_t exp4(float32x4_t x) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  const uint32x4_t in_range = vcgeq_f32(x, vdupq_n_f32(-87.0f)); /* false for a NaN */
  x = vminq_f32(x, vdupq_n_f32(88.0f));
  const float32x4_t n = vsubq_f32(vaddq_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)), magic), magic);
  float32x4_t r = vsubq_f32(x, vmulq_f32(n, vdupq_n_f32(0.693359375f)));
  r = vsubq_f32(r, vmulq_f32(n, vdupq_n_f32(-2.12194440e-4f)));
  float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
  p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(1.3981999507e-3f));
  p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(8.3334519073e-3f));
  p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(4.1665795894e-2f));
  p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(1.6666665459e-1f));
  p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(5.0000001201e-1f));
  p = vmulq_f32(p, vmulq_f32(r, r));
  p = vaddq_f32(p, r);
  p = vaddq_f32(p, vdupq_n_f32(1.0f));
  const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  const float32x4_t e = vmulq_f32(p, vreinterpretq_f32_s32(exponent));
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(e), in_range));
}

static void quantize(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    float32x4_t v[8];
    int32x4_t whole[8];
    uint32x4_t bits = vdupq_n_u32(0);
    UNROLL for (int k = 0; k < 8; k++) {
      v[k] = vld1q_f32(x + i + 4 * k);
      bits = vmaxq_u32(bits, vandq_u32(vreinterpretq_u32_f32(v[k]), vdupq_n_u32(0x7fffffffu)));
    }
    const uint32_t amax_bits = vmaxvq_u32(bits);
    const float amax = ss_float_of_bits(amax_bits);
    if (amax_bits >= 0x7f800000u || amax < 0x1p-100f) {
      memset(q + i, 0, SS_COLS);
      *b = (ss_act_block){0};
      continue;
    }
    const float32x4_t inverse = vdupq_n_f32(127.0f / amax);
    UNROLL for (int k = 0; k < 8; k++) whole[k] =
        vcvtq_s32_f32(vsubq_f32(vaddq_f32(vmulq_f32(v[k], inverse), magic), magic));
    UNROLL for (int k = 0; k < 8; k += 4) {
      const int16x8_t lo = vcombine_s16(vqmovn_s32(whole[k]), vqmovn_s32(whole[k + 1]));
      const int16x8_t hi = vcombine_s16(vqmovn_s32(whole[k + 2]), vqmovn_s32(whole[k + 3]));
      const int8x16_t narrow = vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)); /* saturates: <= 127 */
      vst1q_s8(q + i + 4 * k, vmaxq_s8(narrow, vdupq_n_s8(-127)));
    }
    const int32_t sum_lo = vaddvq_s32(vaddq_s32(vaddq_s32(whole[0], whole[1]), vaddq_s32(whole[2], whole[3])));
    const int32_t sum = sum_lo + vaddvq_s32(vaddq_s32(vaddq_s32(whole[4], whole[5]), vaddq_s32(whole[6], whole[7])));
    *b = (ss_act_block){.d = amax / 127.0f, .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
  }
}

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
  floats squares = splat(0.0f);
  float lane[8];
  size_t i = 0;
  for (; n - i >= 8; i += 8) squares = add(squares, mul(load(x + i), load(x + i)));
  store(lane, squares);
  for (size_t k = i; k < n; k++) lane[k % 8] += x[k] * x[k];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (i = 0; n - i >= 8; i += 8) store(y + i, mul(mul(load(x + i), splat(scale)), load(w + i)));
  for (; i < n; i++) y[i] = (x[i] * scale) * w[i];
}

static void add_to(float *y, const float *x, size_t n) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) store(y + i, add(load(y + i), load(x + i)));
  ss_add_scalar(y + i, x + i, n - i);
}

static void swiglu(float *g, const float *u, size_t n) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const floats v = load(g + i), e = {exp4(vnegq_f32(v.lo)), exp4(vnegq_f32(v.hi))};
    store(g + i, mul(divide(v, add(splat(1.0f), e)), load(u + i)));
  }
  ss_swiglu_scalar(g + i, u + i, n - i);
}

static float softmax(float *p, size_t n, float scale) {
  floats most = splat(ss_float_of_bits(0xff800000u));
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const floats v = mul(load(p + i), splat(scale));
    store(p + i, v);
    most.lo = vbslq_f32(vcgtq_f32(v.lo, most.lo), v.lo, most.lo); /* so that a NaN is never the maximum */
    most.hi = vbslq_f32(vcgtq_f32(v.hi, most.hi), v.hi, most.hi);
  }
  float lane[8];
  store(lane, most);
  float max = lane[0];
  for (size_t k = 1; k < 8; k++) max = lane[k] > max ? lane[k] : max;
  for (; i < n; i++) {
    p[i] *= scale;
    if (p[i] > max) max = p[i];
  }
  floats sum = splat(0.0f);
  for (i = 0; n - i >= 8; i += 8) {
    const floats v = sub(load(p + i), splat(max)), e = {exp4(v.lo), exp4(v.hi)};
    store(p + i, e);
    sum = add(sum, e);
  }
  store(lane, sum);
  for (; i < n; i++) {
    p[i] = ss_expf(p[i] - max);
    lane[i % 8] += p[i];
  }
  return ss_lane_sum(lane);
}

enum { MIX_QUERIES = 3, MIX_CHUNK = 64 };

/* 32 columns of n_q outputs over a chunk of positions: s[i][t] = p * d; the sums stay in registers. */
INLINE void mix_tile(int n_q, float *out, size_t dim, float s[MIX_QUERIES][MIX_CHUNK], const int8_t *v, size_t n) {
  floats acc[MIX_QUERIES][4];
  UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int k = 0; k < 4; k++) acc[i][k] =
      load(out + (size_t)i * dim + 8 * k);
  for (size_t t = 0; t < n; t++, v += dim) UNROLL for (int k = 0; k < 4; k++) {
      const int16x8_t wide = vmovl_s8(vld1_s8(v + 8 * k));
      const floats u = to_floats((ints){vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide))});
      UNROLL for (int i = 0; i < n_q; i++) acc[i][k] = add(acc[i][k], mul(splat(s[i][t]), u));
    }
  UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int k = 0; k < 4; k++)
      store(out + (size_t)i * dim + 8 * k, acc[i][k]);
}

static void mix(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v, const float *d,
                size_t n_pos) {
  const size_t parts = dim / SS_COLS;
  for (size_t first = 0; first < n_pos; first += MIX_CHUNK) {
    const size_t n = ss_min(MIX_CHUNK, n_pos - first);
    for (size_t part = 0; part < parts; part++) {
      float d_part[MIX_CHUNK], s[MIX_QUERIES][MIX_CHUNK];
      for (size_t t = 0; t < n; t++) d_part[t] = d[(first + t) * parts + part];
      for (size_t i = 0; i < n_q;) {
        const size_t queries = ss_min(n_q - i, n_q - i == 4 ? 2 : MIX_QUERIES); /* 4 = 2 + 2 */
        for (size_t k = 0; k < queries; k++)
          for (size_t t = 0; t < n; t++) s[k][t] = p[(i + k) * p_stride + first + t] * d_part[t];
        float *o = out + i * dim + part * SS_COLS;
        const int8_t *values = v + first * dim + part * SS_COLS;
        if (queries == 3) mix_tile(3, o, dim, s, values, n);
        else if (queries == 2) mix_tile(2, o, dim, s, values, n);
        else mix_tile(1, o, dim, s, values, n);
        i += queries;
      }
    }
  }
}

const ss_kernels ss_kernels_neon = {
    .name = "neon",
    .quantize = quantize,
    .rmsnorm = rmsnorm,
    .add = add_to,
    .swiglu = swiglu,
    .softmax = softmax,
    .mix = mix,
    .gemv = {[SS_PACK_4] = gemv_4,
             [SS_PACK_4M] = gemv_4m,
             [SS_PACK_5] = gemv_5,
             [SS_PACK_5M] = gemv_5m,
             [SS_PACK_6] = gemv_6,
             [SS_PACK_8] = gemv_8},
    .gemm = {[SS_PACK_4] = gemm_4,
             [SS_PACK_4M] = gemm_4m,
             [SS_PACK_5] = gemm_5,
             [SS_PACK_5M] = gemm_5m,
             [SS_PACK_6] = gemm_6,
             [SS_PACK_8] = gemm_8},
    .fgemm = {[SS_PACK_F32] = fgemm_f32, [SS_PACK_F16] = fgemm_f16, [SS_PACK_BF16] = fgemm_bf16},
};
