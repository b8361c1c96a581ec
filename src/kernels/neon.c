/* Kernels for aarch64. Baseline ARMv8.0 multiplies with smlal into 16 bits; built with the dot product extension
 * (-march=armv8.2-a+dotprod), sdot does it. Never fmla: scalar.c rounds each product and each sum.
 *
 * Two vectors hold 4 columns of 8 rows (pack.h), the activations of these columns are broadcast. A 16-bit lane sums one
 * product for each step, exactly as long as steps * max code * 127 < 2^15: all 8 steps of 4- and 5-bit codes, a half
 * block of 6-bit codes, 2 steps of 8-bit codes (see finish). Pairwise adds then leave the 8 row sums in 32 bits. */
#include "kernels/isa.h"

#include <arm_neon.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns") /* it moves loads so far ahead that half of the sums are spilled */
#endif

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

SS_INLINE floats load(const float *p) { return (floats){vld1q_f32(p), vld1q_f32(p + 4)}; }
SS_INLINE void store(float *p, floats v) { vst1q_f32(p, v.lo), vst1q_f32(p + 4, v.hi); }
SS_INLINE floats splat(float x) { return (floats){vdupq_n_f32(x), vdupq_n_f32(x)}; }
SS_INLINE floats add(floats a, floats b) { return (floats){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
SS_INLINE floats sub(floats a, floats b) { return (floats){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
SS_INLINE floats mul(floats a, floats b) { return (floats){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
SS_INLINE floats divide(floats a, floats b) { return (floats){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
SS_INLINE floats negate(floats a) { return (floats){vnegq_f32(a.lo), vnegq_f32(a.hi)}; }
SS_INLINE floats to_floats(ints v) { return (floats){vcvtq_f32_s32(v.lo), vcvtq_f32_s32(v.hi)}; }

/* ---- dot products of quantised weights ---- */

/* 16 codes of step j: those of rows 0..3 at 0, of rows 4..7 at 16. */
SS_INLINE int8x16_t codes_at(ss_pack pack, const uint8_t *block, int j, size_t at) {
  if (pack == SS_PACK_8) return vreinterpretq_s8_u8(vld1q_u8(block + ss_blocks[pack].codes_at + 32 * j + at));
  const uint8x16_t nibbles = vld1q_u8(block + ss_blocks[pack].codes_at + 32 * (j % 4) + at);
  uint8x16_t c = j < 4 ? vandq_u8(nibbles, vdupq_n_u8(15)) : vshrq_n_u8(nibbles, 4);
  if (ss_blocks[pack].high_at) {
    const bool six = pack == SS_PACK_6;
    const uint8x16_t h = vld1q_u8(block + ss_blocks[pack].high_at + (six ? 32 * (j / 4) : 0) + at);
    const int left = 4 - (six ? 2 * (j % 4) : j); /* brings the high bits to bit 4; negative: to the right */
    const uint8x16_t at_4 = vshlq_u8(h, vdupq_n_s8((int8_t)left));
    c = vorrq_u8(c, vandq_u8(at_4, vdupq_n_u8(six ? 48 : 16)));
  }
  return vreinterpretq_s8_u8(c);
}
SS_INLINE bytes codes(ss_pack pack, const uint8_t *block, int j) {
  return (bytes){codes_at(pack, block, j, 0), codes_at(pack, block, j, 16)};
}

/* Sums of one block or half block: `start` at its first step, `step` for step j, whose activations
 * are those at j % 4 of a, `finish` after its last one. */
#ifdef __ARM_FEATURE_DOTPROD
typedef ints sums;
SS_INLINE sums start(void) { return (sums){vdupq_n_s32(0), vdupq_n_s32(0)}; }
SS_INLINE sums step(ss_pack pack, sums s, bytes c, int8x16_t a, int j) {
  (void)pack;
  switch (j % 4) { /* the lane is a literal */
    case 0: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 0), vdotq_laneq_s32(s.hi, c.hi, a, 0)};
    case 1: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 1), vdotq_laneq_s32(s.hi, c.hi, a, 1)};
    case 2: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 2), vdotq_laneq_s32(s.hi, c.hi, a, 2)};
    default: return (sums){vdotq_laneq_s32(s.lo, c.lo, a, 3), vdotq_laneq_s32(s.hi, c.hi, a, 3)};
  }
}
SS_INLINE ints finish(ss_pack pack, sums s) {
  (void)pack;
  return s;
}
#else
typedef struct sums {
  int16x8_t narrow[4]; /* [2 rows] x 4 columns each */
  int32x4_t wide[4];   /* 8-bit codes: of the steps before */
} sums;
SS_INLINE sums start(void) {
  sums s;
  SS_UNROLL for (int i = 0; i < 4; i++) s.narrow[i] = vdupq_n_s16(0), s.wide[i] = vdupq_n_s32(0);
  return s;
}
SS_INLINE sums step(ss_pack pack, sums s, bytes c, int8x16_t sixteen, int j) {
  const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(vreinterpretq_s32_s8(sixteen)[j % 4]));
  const bool even = j % 2 == 0, fresh = pack == SS_PACK_8 && even; /* 128 * 127 * 2 = 32512: two steps fit */
  s.narrow[0] =
      fresh ? vmull_s8(vget_low_s8(c.lo), vget_low_s8(a)) : vmlal_s8(s.narrow[0], vget_low_s8(c.lo), vget_low_s8(a));
  s.narrow[1] = fresh ? vmull_high_s8(c.lo, a) : vmlal_high_s8(s.narrow[1], c.lo, a);
  s.narrow[2] =
      fresh ? vmull_s8(vget_low_s8(c.hi), vget_low_s8(a)) : vmlal_s8(s.narrow[2], vget_low_s8(c.hi), vget_low_s8(a));
  s.narrow[3] = fresh ? vmull_high_s8(c.hi, a) : vmlal_high_s8(s.narrow[3], c.hi, a);
  if (pack == SS_PACK_8 && !even) SS_UNROLL for (int i = 0; i < 4; i++) s.wide[i] = vpadalq_s16(s.wide[i], s.narrow[i]);
  return s;
}
SS_INLINE ints finish(ss_pack pack, sums s) {
  if (pack != SS_PACK_8) /* 15 * 127 * 8 = 15240, 31 * 127 * 8 = 31496, 63 * 127 * 4 = 32004 */
    SS_UNROLL for (int i = 0; i < 4; i++) s.wide[i] = vpaddlq_s16(s.narrow[i]);
  return (ints){vpaddq_s32(s.wide[0], s.wide[1]), vpaddq_s32(s.wide[2], s.wide[3])};
}
#endif

/* acc + one block (or one half of a six-bit block) of 8 rows, in scalar.c's order. */
SS_INLINE floats scaled(ss_pack pack, floats acc, ints isum, const uint8_t *block, int half, const ss_act_block *a) {
  const float *scales = (const float *)(const void *)block;
  const floats d = load(scales + 8 * half), d_act = splat(a->d);
  if (ss_blocks[pack].has_min) {
    const floats v = add(mul(d, to_floats(isum)), mul(load(scales + 8), splat(a->fsum)));
    return add(acc, mul(v, d_act));
  }
  if (pack != SS_PACK_8) {
    const int32x4_t offset = vdupq_n_s32((1 << ss_offset_shift(pack)) * ss_act_sum(pack, half, a));
    isum = (ints){vsubq_s32(isum.lo, offset), vsubq_s32(isum.hi, offset)};
  }
  return add(acc, mul(mul(d, d_act), to_floats(isum)));
}

/* acc[t] + block i of 8 rows, for n tokens. */
SS_INLINE void add_block(ss_pack pack, int n, ss_source from, floats acc[TILE], const uint8_t *block,
                         const uint8_t *panel, size_t i, size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const int steps = pack == SS_PACK_6 ? STEPS / 2 : STEPS; /* that share a scale */
  sums sum[TILE];
  int8x16_t acts[TILE]; /* of 4 steps */
  if (from == SS_PACKED && n < TILE) ss_prefetch(block + PREFETCH, ss_blocks[pack].bytes);
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const bytes c = from == SS_PACKED ? codes(pack, block, j)
                                      : (bytes){vld1q_s8((const int8_t *)panel + 32 * j),
                                                vld1q_s8((const int8_t *)panel + 32 * j + 16)};
    SS_UNROLL for (int t = 0; t < n; t++) {
      const size_t at = (size_t)t * n_blocks + i;
      if (j % 4 == 0) acts[t] = vld1q_s8(q + SS_COLS * at + 4 * j);
      if (j % steps == 0) sum[t] = start();
      sum[t] = step(pack, sum[t], c, acts[t], j);
      if (j % steps == steps - 1) acc[t] = scaled(pack, acc[t], finish(pack, sum[t]), block, j / steps, a + at);
    }
  }
}

/* The codes of a block, a byte each. */
SS_INLINE void widen(ss_pack pack, uint8_t *to, const uint8_t *block) {
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const bytes c = codes(pack, block, j);
    vst1q_s8((int8_t *)to + 32 * j, c.lo);
    vst1q_s8((int8_t *)to + 32 * j + 16, c.hi);
  }
}

/* ---- f32: the parts of loops.h, and what is done differently here ---- */

/* The tree of ss_lane_sum. */
SS_INLINE float lane_sum(floats v) {
  const float32x4_t s = vaddq_f32(v.lo, v.hi);
  const float32x2_t two = vadd_f32(vget_low_f32(s), vget_high_f32(s));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

typedef uint16x8_t shorts;
SS_INLINE shorts load_shorts(const uint16_t *p) { return vld1q_u16(p); }
SS_INLINE floats of_halves(shorts h) {
  const uint16x4_t lo = vget_low_u16(h), hi = vget_high_u16(h);
  return (floats){vcvt_f32_f16(vreinterpret_f16_u16(lo)), vcvt_f32_f16(vreinterpret_f16_u16(hi))};
}
SS_INLINE floats of_brains(shorts b) {
  return (floats){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(b), 16)),
                  vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(b), 16))};
}
SS_INLINE floats of_bytes(const int8_t *p) {
  const int16x8_t wide = vmovl_s8(vld1_s8(p));
  return to_floats((ints){vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide))});
}

/* ss_expf, operation by operation. */
SS_INLINE float32x4_t exp4(float32x4_t x) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  const uint32x4_t in_range = vcgeq_f32(x, vdupq_n_f32(-87.0f)); /* false for a NaN */
  x = vminq_f32(x, vdupq_n_f32(88.0f));
  const float32x4_t n = vsubq_f32(vaddq_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)), magic), magic);
  float32x4_t r = vsubq_f32(x, vmulq_f32(n, vdupq_n_f32(0.693359375f)));
  r = vsubq_f32(r, vmulq_f32(n, vdupq_n_f32(-2.12194440e-4f)));
  float32x4_t p = vdupq_n_f32(ss_exp_terms[0]);
  SS_UNROLL for (int k = 1; k < 6; k++) p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(ss_exp_terms[k]));
  p = vmulq_f32(p, vmulq_f32(r, r));
  p = vaddq_f32(p, r);
  p = vaddq_f32(p, vdupq_n_f32(1.0f));
  const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  const float32x4_t e = vmulq_f32(p, vreinterpretq_f32_s32(exponent));
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(e), in_range));
}

SS_INLINE floats exp8(floats v) { return (floats){exp4(v.lo), exp4(v.hi)}; }

static void quantize(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    float32x4_t v[8];
    int32x4_t whole[8];
    uint32x4_t bits = vdupq_n_u32(0);
    SS_UNROLL for (int k = 0; k < 8; k++) {
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
    SS_UNROLL for (int k = 0; k < 8; k++) whole[k] =
        vcvtq_s32_f32(vsubq_f32(vaddq_f32(vmulq_f32(v[k], inverse), magic), magic));
    SS_UNROLL for (int k = 0; k < 8; k += 4) {
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
    const floats e = exp8(sub(load(p + i), splat(max)));
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

#include "kernels/loops.h"

SS_DOT_KERNELS(neon)
static SS_FLOAT_KERNEL(f32, neon, SS_PACK_F32) static SS_FLOAT_KERNEL(f16, neon,
                                                                      SS_PACK_F16) static SS_FLOAT_KERNEL(bf16, neon,
                                                                                                          SS_PACK_BF16)

    const ss_kernels ss_kernels_neon = {
        .name = "neon",
        .quantize = quantize,
        .rmsnorm = rmsnorm,
        .add = add_to,
        .swiglu = swiglu,
        .softmax = softmax,
        .mix = mix,
        .gemv = SS_DOT_ENTRIES(gemv, neon),
        .gemm = SS_DOT_ENTRIES(gemm, neon),
        .fgemm = SS_FLOAT_ENTRIES(neon),
};
