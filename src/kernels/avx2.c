/* Kernels for x86-64 with AVX2 and F16C. No fused multiply-add: scalar.c rounds each product and each sum.
 *
 * A vector holds 4 columns of 8 rows (pack.h), the activations of these columns are broadcast, and vpmaddubsw
 * multiplies unsigned codes by signed activations and adds pairs in 16 bits. The sum of several steps stays exact there
 * as long as steps * 2 * max code * 127 < 2^15: 8 steps of 4-bit codes, 4 of 5-bit, 2 of 6-bit and 1 of 8-bit (see
 * exact_steps). Then vpmaddwd by ones leaves the 8 row sums in 32 bits. */
#include "kernels/avx2.h"

#include <immintrin.h>

enum {
  TILE = 4, /* tokens that share a load of weights */
  STEPS = 8,
  PREFETCH = 4096, /* bytes ahead */
  PANEL_BLOCK = 256, /* the codes of a block, a byte each */
};

typedef __m256 floats; /* one value for each of 8 rows, or for each of 8 lanes */

SS_INLINE floats load(const float *p) { return _mm256_loadu_ps(p); }
SS_INLINE void store(float *p, floats v) { _mm256_storeu_ps(p, v); }
SS_INLINE floats splat(float x) { return _mm256_set1_ps(x); }
SS_INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
SS_INLINE floats sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
SS_INLINE floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
SS_INLINE floats divide(floats a, floats b) { return _mm256_div_ps(a, b); }
SS_INLINE floats negate(floats a) { return _mm256_xor_ps(a, splat(-0.0f)); }

SS_INLINE __m256i load_bytes(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* 4 activations for all 8 rows. */
SS_INLINE __m256i four(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, sizeof word);
  return _mm256_set1_epi32(word);
}

/* Keeps the compiler from turning a chain of sums into a tree, which needs more registers than there are. */
SS_INLINE __m256i in_turn(__m256i sum) {
  __asm__("" : "+x"(sum));
  return sum;
}

/* ---- dot products of quantised weights ---- */

/* Steps whose sum of products fits 16 bits. */
SS_INLINE int exact_steps(ss_pack pack) {
  switch (pack) {
    case SS_PACK_4:
    case SS_PACK_4M: return 8; /* 15 * 127 * 2 * 8 = 30480 */
    case SS_PACK_5:
    case SS_PACK_5M: return 4; /* 31 * 127 * 2 * 4 = 31496 */
    case SS_PACK_6: return 2; /* 63 * 127 * 2 * 2 = 32004 */
    default: return 1; /* 128 * 127 * 2 = 32512 */
  }
}

/* The 8-bit codes of step j. */
SS_INLINE __m256i codes(ss_pack pack, const uint8_t *block, int j) {
  const uint8_t *q = block + ss_blocks[pack].codes_at;
  if (pack == SS_PACK_8) return load_bytes(q + 32 * j);
  const __m256i nibbles = load_bytes(q + 32 * (j % 4));
  __m256i c = _mm256_and_si256(j < 4 ? nibbles : _mm256_srli_epi16(nibbles, 4), _mm256_set1_epi8(15));
  if (ss_blocks[pack].high_at) {
    const bool six = pack == SS_PACK_6;
    const __m256i h = load_bytes(block + ss_blocks[pack].high_at + (six ? 32 * (j / 4) : 0));
    const int left = 4 - (six ? 2 * (j % 4) : j); /* brings the high bits to bit 4 */
    const __m256i at_4 = left >= 0 ? _mm256_slli_epi16(h, left) : _mm256_srli_epi16(h, -left);
    c = _mm256_or_si256(c, _mm256_and_si256(at_4, _mm256_set1_epi8(six ? 48 : 16)));
  }
  return c;
}

/* Products of one step in 16 bits. Signed codes go in as |code| and the activation takes the sign. */
SS_INLINE __m256i products(ss_pack pack, __m256i c, __m256i magnitude, const int8_t *q) {
  if (pack == SS_PACK_8) return _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four(q), c));
  return _mm256_maddubs_epi16(c, four(q));
}

/* acc + one block (or one half of a six-bit block) of 8 rows, in scalar.c's order. */
SS_INLINE floats scaled(ss_pack pack, floats acc, __m256i isum, const uint8_t *block, int half, const ss_act_block *a) {
  const float *scales = (const float *)(const void *)block;
  const floats d = load(scales + 8 * half), d_act = splat(a->d);
  if (ss_blocks[pack].has_min) {
    const floats v = add(mul(d, _mm256_cvtepi32_ps(isum)), mul(load(scales + 8), splat(a->fsum)));
    return add(acc, mul(v, d_act));
  }
  if (pack == SS_PACK_4 || pack == SS_PACK_5) {
    const __m256i sum = _mm256_set1_epi32(a->sum);
    isum = _mm256_sub_epi32(isum, _mm256_slli_epi32(sum, (int)ss_offset_shift(pack)));
  }
  if (pack == SS_PACK_6) isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(32 * ss_act_sum(pack, half, a)));
  return add(acc, mul(mul(d, d_act), _mm256_cvtepi32_ps(isum)));
}

/* acc[t] + block i of 8 rows, for n tokens. */
SS_INLINE void add_block(ss_pack pack, int n, ss_source from, floats acc[TILE], const uint8_t *block,
                         const uint8_t *panel, size_t i, size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const int steps = pack == SS_PACK_6 ? STEPS / 2 : STEPS; /* that share a scale */
  const int exact = exact_steps(pack);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i isum[TILE], sum16[TILE];
  if (from == SS_PACKED && n < TILE) ss_prefetch(block + PREFETCH, ss_blocks[pack].bytes);
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const __m256i c = from == SS_PANEL ? load_bytes(panel + 32 * j) : codes(pack, block, j);
    const __m256i magnitude = pack == SS_PACK_8 ? _mm256_abs_epi8(c) : c;
    SS_UNROLL for (int t = 0; t < n; t++) {
      const size_t at = (size_t)t * n_blocks + i;
      const __m256i p = products(pack, c, magnitude, q + SS_COLS * at + 4 * j);
      sum16[t] = j % exact ? in_turn(_mm256_add_epi16(sum16[t], p)) : p;
      if (j % exact < exact - 1) continue;
      const __m256i sum = _mm256_madd_epi16(sum16[t], ones);
      isum[t] = j % steps >= exact ? _mm256_add_epi32(isum[t], sum) : sum;
      if (j % steps == steps - 1) acc[t] = scaled(pack, acc[t], isum[t], block, j / steps, a + at);
    }
  }
}

/* The codes of a block, a byte each. */
SS_INLINE void widen(ss_pack pack, uint8_t *to, const uint8_t *block) {
  SS_UNROLL for (int j = 0; j < STEPS; j++) _mm256_store_si256((__m256i *)(void *)(to + 32 * j), codes(pack, block, j));
}

/* ---- f32: the parts of loops.h, and what is done differently here ---- */

/* The tree of ss_lane_sum. */
SS_INLINE float lane_sum(floats v) {
  const __m128 four_lanes = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four_lanes, _mm_movehl_ps(four_lanes, four_lanes));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

typedef __m128i shorts;
SS_INLINE shorts load_shorts(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
SS_INLINE floats of_halves(shorts h) { return _mm256_cvtph_ps(h); }
SS_INLINE floats of_brains(shorts b) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16)); }
SS_INLINE floats of_bytes(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

/* ss_expf, operation by operation. */
SS_INLINE floats exp8(floats x) {
  const floats magic = splat(12582912.0f);
  const floats in_range = _mm256_cmp_ps(x, splat(-87.0f), _CMP_GE_OQ); /* false for a NaN */
  x = _mm256_min_ps(x, splat(88.0f));
  const floats n = sub(add(mul(x, splat(1.44269504f)), magic), magic);
  floats r = sub(x, mul(n, splat(0.693359375f)));
  r = sub(r, mul(n, splat(-2.12194440e-4f)));
  floats p = splat(ss_exp_terms[0]);
  SS_UNROLL for (int k = 1; k < 6; k++) p = add(mul(p, r), splat(ss_exp_terms[k]));
  p = mul(p, mul(r, r));
  p = add(p, r);
  p = add(p, splat(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(mul(p, _mm256_castsi256_ps(exponent)), in_range);
}

SS_INLINE int32_t sum8(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
}

SS_INLINE uint32_t max8(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_unpackhi_epi64(m, m));
  return (uint32_t)ss_max((uint32_t)_mm_cvtsi128_si32(m), (uint32_t)_mm_extract_epi32(m, 1));
}

void ss_quantize_avx2(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff), in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const floats magic = splat(12582912.0f);
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    floats v[4];
    __m256i bits = _mm256_setzero_si256(), whole[4];
    SS_UNROLL for (int k = 0; k < 4; k++) {
      v[k] = load(x + i + 8 * k);
      bits = _mm256_max_epu32(bits, _mm256_and_si256(_mm256_castps_si256(v[k]), no_sign));
    }
    const uint32_t amax_bits = max8(bits);
    const float amax = ss_float_of_bits(amax_bits);
    if (amax_bits >= 0x7f800000u || amax < 0x1p-100f) {
      memset(q + i, 0, SS_COLS);
      *b = (ss_act_block){0};
      continue;
    }
    const floats inverse = splat(127.0f / amax);
    SS_UNROLL for (int k = 0; k < 4; k++) whole[k] = _mm256_cvttps_epi32(sub(add(mul(v[k], inverse), magic), magic));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                             _mm256_packs_epi32(whole[2], whole[3])); /* saturates: <= 127 */
    _mm256_storeu_si256((__m256i *)(void *)(q + i),
                        _mm256_max_epi8(_mm256_permutevar8x32_epi32(bytes, in_order), _mm256_set1_epi8(-127)));
    const int32_t sum_lo = sum8(_mm256_add_epi32(whole[0], whole[1]));
    const int32_t sum = sum_lo + sum8(_mm256_add_epi32(whole[2], whole[3]));
    *b = (ss_act_block){.d = amax / 127.0f, .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
  }
}

/* The larger of each: v > most ? v : most, so a NaN in v is never the maximum. */
SS_INLINE floats larger(floats v, floats most) { return _mm256_max_ps(v, most); }

static float softmax(float *p, size_t n, float scale) {
  const floats none = splat(ss_float_of_bits(0xff800000u)), scales = splat(scale);
  const size_t whole = n / 8 * 8;
  /* The last n % 8 elements; the others of their vector are -infinity, whose exp is 0. */
  const __m256i in_tail =
      _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - whole)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  floats most = none, sum = splat(0.0f);
  for (size_t i = 0; i < whole; i += 8) {
    const floats v = mul(load(p + i), scales);
    store(p + i, v);
    most = larger(v, most);
  }
  floats tail = mul(_mm256_maskload_ps(p + whole, in_tail), scales);
  tail = _mm256_blendv_ps(none, tail, _mm256_castsi256_ps(in_tail));
  floats m = larger(tail, most);
  m = larger(_mm256_permute2f128_ps(m, m, 1), m);
  m = larger(_mm256_shuffle_ps(m, m, 0x4e), m);
  m = larger(_mm256_shuffle_ps(m, m, 0xb1), m);
  for (size_t i = 0; i < whole; i += 8) {
    const floats e = exp8(sub(load(p + i), m));
    store(p + i, e);
    sum = add(sum, e);
  }
  tail = exp8(sub(tail, m));
  _mm256_maskstore_ps(p + whole, in_tail, tail);
  return lane_sum(add(sum, tail));
}

#include "kernels/loops.h"

SS_DOT_KERNELS(avx2)
SS_FLOAT_KERNELS(avx2)
void ss_rmsnorm_avx2(float *y, const float *x, const float *w, size_t n, float eps) { rmsnorm(y, x, w, n, eps); }
void ss_add_avx2(float *y, const float *x, size_t n) { add_to(y, x, n); }

const ss_kernels ss_kernels_avx2 = {
    .name = "avx2",
    .quantize = ss_quantize_avx2,
    .rmsnorm = ss_rmsnorm_avx2,
    .add = ss_add_avx2,
    .swiglu = swiglu,
    .softmax = softmax,
    .mix = mix,
    .gemv = SS_DOT_ENTRIES(gemv, avx2),
    .gemm = SS_DOT_ENTRIES(gemm, avx2),
    .fgemm = SS_FLOAT_ENTRIES(avx2),
};
