/* Kernels for x86-64 with AVX2 and F16C. No fused multiply-add: scalar.c rounds each product and each sum.
 *
 * A vector holds 4 columns of 8 rows (pack.h), the activations of these columns are broadcast, and vpmaddubsw
 * multiplies unsigned codes by signed activations and adds pairs in 16 bits. The sum of several steps stays exact there
 * as long as steps * 2 * max code * 127 < 2^15: 8 steps of 4-bit codes, 4 of 5-bit, 2 of 6-bit and 1 of 8-bit (see
 * exact_steps). Then vpmaddwd by ones leaves the 8 row sums in 32 bits.
 *
 * Functions take the pack as an argument and are inlined with a constant one, so its branches cost nothing. */
#include "kernels/avx2.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
  TILE = 4, /* tokens that share a load of weights */
  STEPS = 8,
  PREFETCH = 4096, /* bytes ahead */
  PANEL_BLOCK = 256, /* the codes of a block, a byte each */
};

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }

/* 4 activations for all 8 rows. */
INLINE __m256i four(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, sizeof word);
  return _mm256_set1_epi32(word);
}

/* Keeps the compiler from turning a chain of sums into a tree, which needs more registers than there are. */
INLINE __m256i in_turn(__m256i sum) {
  __asm__("" : "+x"(sum));
  return sum;
}

/* ---- dot products of quantised weights ---- */

/* Steps whose sum of products fits 16 bits. */
INLINE int exact_steps(ss_pack pack) {
  switch (pack) {
    case SS_PACK_4:
    case SS_PACK_4M: return 8; /* 15 * 127 * 2 * 8 = 30480 */
    case SS_PACK_5:
    case SS_PACK_5M: return 4; /* 31 * 127 * 2 * 4 = 31496 */
    case SS_PACK_6: return 2;                  /* 63 * 127 * 2 * 2 = 32004 */
    default: return 1;                         /* 128 * 127 * 2 = 32512 */
  }
}

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

INLINE const uint8_t *nibbles(ss_pack pack, const void *block) {
  switch (pack) {
    case SS_PACK_4: return ((const ss_block4 *)block)->q;
    case SS_PACK_4M: return ((const ss_block4m *)block)->q;
    case SS_PACK_5: return ((const ss_block5 *)block)->q;
    case SS_PACK_5M: return ((const ss_block5m *)block)->q;
    default: return ((const ss_block6 *)block)->q;
  }
}

/* The 8-bit codes of step j. */
INLINE __m256i codes(ss_pack pack, const void *block, int j) {
  if (pack == SS_PACK_8) return load(((const ss_block8 *)block)->q + 32 * j);
  const __m256i both = load(nibbles(pack, block) + 32 * (j % 4));
  __m256i c = _mm256_and_si256(j < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
  if (pack == SS_PACK_5 || pack == SS_PACK_5M) {
    const __m256i h = load(pack == SS_PACK_5 ? ((const ss_block5 *)block)->h : ((const ss_block5m *)block)->h);
    const __m256i bit = j <= 4 ? _mm256_slli_epi16(h, 4 - j) : _mm256_srli_epi16(h, j - 4);
    c = _mm256_or_si256(c, _mm256_and_si256(bit, _mm256_set1_epi8(16)));
  }
  if (pack == SS_PACK_6) {
    const __m256i h = load(((const ss_block6 *)block)->h + 32 * (j / 4));
    const int shift = 2 * (j % 4);
    const __m256i bits = shift <= 4 ? _mm256_slli_epi16(h, 4 - shift) : _mm256_srli_epi16(h, shift - 4);
    c = _mm256_or_si256(c, _mm256_and_si256(bits, _mm256_set1_epi8(48)));
  }
  return c;
}

/* Products of one step in 16 bits. Signed codes go in as |code| and the activation takes the sign. */
INLINE __m256i products(ss_pack pack, __m256i c, __m256i magnitude, const int8_t *q) {
  if (pack == SS_PACK_8) return _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four(q), c));
  return _mm256_maddubs_epi16(c, four(q));
}

/* acc + one block (or one half of a six-bit block) of 8 rows, in scalar.c's order. */
INLINE __m256 scaled(ss_pack pack, __m256 acc, __m256i isum, const void *block, int half, const ss_act_block *a) {
  const __m256 d_act = _mm256_set1_ps(a->d), d = _mm256_loadu_ps((const float *)block + 8 * half);
  if (pack == SS_PACK_4M || pack == SS_PACK_5M) {
    const __m256 m = _mm256_loadu_ps((const float *)block + 8), fsum = _mm256_set1_ps(a->fsum);
    const __m256 v = _mm256_add_ps(_mm256_mul_ps(d, _mm256_cvtepi32_ps(isum)), _mm256_mul_ps(m, fsum));
    return _mm256_add_ps(acc, _mm256_mul_ps(v, d_act));
  }
  if (pack == SS_PACK_4) isum = _mm256_sub_epi32(isum, _mm256_slli_epi32(_mm256_set1_epi32(a->sum), 3));
  if (pack == SS_PACK_5) isum = _mm256_sub_epi32(isum, _mm256_slli_epi32(_mm256_set1_epi32(a->sum), 4));
  if (pack == SS_PACK_6) isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(32 * (half ? a->sum - a->sum_lo : a->sum_lo)));
  return _mm256_add_ps(acc, _mm256_mul_ps(_mm256_mul_ps(d, d_act), _mm256_cvtepi32_ps(isum)));
}

/* Weights are read once, in one long run that hardware prefetchers lose at each page: with this, memory gives up to 1.4
 * times as much. Past the end of the weights it does nothing. */
INLINE void prefetch(const uint8_t *p, size_t bytes) {
  UNROLL for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* Where the weights of a tile come from: the packed group itself, or its codes in the panel. A constant argument. */
typedef enum source { PACKED, PANEL } source;

/* One group of 8 rows for n tokens. */
INLINE void tile(ss_pack pack, int n, source from, float *y, size_t y_stride, const uint8_t *block,
                 const uint8_t *panel, size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const int steps = pack == SS_PACK_6 ? STEPS / 2 : STEPS; /* that share a scale */
  const int exact = exact_steps(pack);
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t *qt[TILE];
  const ss_act_block *at[TILE];
  __m256 acc[TILE];
  UNROLL for (int t = 0; t < n; t++) {
    qt[t] = q + (size_t)t * n_blocks * SS_COLS;
    at[t] = a + (size_t)t * n_blocks;
    acc[t] = _mm256_setzero_ps();
  }
  for (size_t i = 0; i < n_blocks; i++, block += block_bytes(pack), panel += from == PANEL ? PANEL_BLOCK : 0) {
    __m256i isum[TILE], sum16[TILE];
    if (from == PACKED && n < TILE) prefetch(block + PREFETCH, block_bytes(pack));
    UNROLL for (int j = 0; j < STEPS; j++) {
      const __m256i c = from == PANEL ? load(panel + 32 * j) : codes(pack, block, j);
      const __m256i magnitude = pack == SS_PACK_8 ? _mm256_abs_epi8(c) : c;
      UNROLL for (int t = 0; t < n; t++) {
        const __m256i p = products(pack, c, magnitude, qt[t] + SS_COLS * i + 4 * j);
        sum16[t] = j % exact ? in_turn(_mm256_add_epi16(sum16[t], p)) : p;
        if (j % exact < exact - 1) continue;
        const __m256i sum = _mm256_madd_epi16(sum16[t], ones);
        isum[t] = j % steps >= exact ? _mm256_add_epi32(isum[t], sum) : sum;
        if (j % steps == steps - 1) acc[t] = scaled(pack, acc[t], isum[t], block, j / steps, at[t] + i);
      }
    }
  }
  UNROLL for (int t = 0; t < n; t++) _mm256_storeu_ps(y + (size_t)t * y_stride, acc[t]);
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
    for (size_t i = 0; i < n_blocks; i++)
      UNROLL for (int j = 0; j < STEPS; j++) _mm256_store_si256((__m256i *)(void *)(panel + i * PANEL_BLOCK + 32 * j),
                                                                codes(pack, group + i * block_bytes(pack), j));
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

/* ---- float weights: a vector holds the 8 lanes of one row and token ---- */

/* The tree of ss_lane_sum. */
INLINE float lane_sum(__m256 v) {
  const __m128 four_lanes = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four_lanes, _mm_movehl_ps(four_lanes, four_lanes));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Weights [at, at + n) as f32, the rest zero. A lane is never -0, so adding a product of zeros changes nothing. */
INLINE __m256 weights(ss_pack pack, const void *w, size_t at, size_t n) {
  if (pack == SS_PACK_F32) {
    float part[8] = {0};
    if (n == 8) return _mm256_loadu_ps((const float *)w + at);
    memcpy(part, (const float *)w + at, n * sizeof(float));
    return _mm256_loadu_ps(part);
  }
  __m128i halves;
  if (n == 8) {
    halves = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)w + at));
  } else {
    uint16_t part[8] = {0};
    memcpy(part, (const uint16_t *)w + at, n * sizeof(uint16_t));
    halves = _mm_loadu_si128((const __m128i *)(const void *)part);
  }
  if (pack == SS_PACK_F16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* rows x tokens dot products. */
INLINE void ftile(ss_pack pack, int rows, int tokens, float *y, size_t y_stride, const void *w, size_t first_row,
                  size_t cols, const float *x) {
  __m256 acc[8];
  UNROLL for (int i = 0; i < rows * tokens; i++) acc[i] = _mm256_setzero_ps();
  for (size_t k = 0; k < cols; k += 8) {
    const size_t n = ss_min(8, cols - k);
    __m256 v[8];
    UNROLL for (int t = 0; t < tokens; t++) v[t] = weights(SS_PACK_F32, x, (size_t)t * cols + k, n);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m256 u = weights(pack, w, (first_row + (size_t)r) * cols + k, n);
      UNROLL for (int t = 0; t < tokens; t++) acc[r * tokens + t] =
          _mm256_add_ps(acc[r * tokens + t], _mm256_mul_ps(u, v[t]));
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

void ss_fgemm_f32_avx2(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                       size_t n_tokens) {
  fgemm(SS_PACK_F32, y, y_stride, w, n_rows, cols, x, n_tokens);
}
void ss_fgemm_f16_avx2(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                       size_t n_tokens) {
  fgemm(SS_PACK_F16, y, y_stride, w, n_rows, cols, x, n_tokens);
}
void ss_fgemm_bf16_avx2(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                        size_t n_tokens) {
  fgemm(SS_PACK_BF16, y, y_stride, w, n_rows, cols, x, n_tokens);
}

/* ---- element-wise ---- */

/* ss_expf, operation by operation. */
INLINE __m256 exp8(__m256 x) {
  const __m256 magic = _mm256_set1_ps(12582912.0f);
  const __m256 in_range = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GE_OQ); /* false for a NaN */
  x = _mm256_min_ps(x, _mm256_set1_ps(88.0f));
  const __m256 n = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), magic), magic);
  __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(0.693359375f)));
  r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(-2.12194440e-4f)));
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_mul_ps(p, _mm256_mul_ps(r, r));
  p = _mm256_add_ps(p, r);
  p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), in_range);
}

INLINE int32_t sum8(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
}

INLINE uint32_t max8(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_unpackhi_epi64(m, m));
  return (uint32_t)ss_max((uint32_t)_mm_cvtsi128_si32(m), (uint32_t)_mm_extract_epi32(m, 1));
}

void ss_quantize_avx2(int8_t *q, ss_act_block *b, const float *x, size_t n) {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff), in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256 magic = _mm256_set1_ps(12582912.0f);
  for (size_t i = 0; i < n; i += SS_COLS, b++) {
    __m256 v[4];
    __m256i bits = _mm256_setzero_si256(), whole[4];
    UNROLL for (int k = 0; k < 4; k++) {
      v[k] = _mm256_loadu_ps(x + i + 8 * k);
      bits = _mm256_max_epu32(bits, _mm256_and_si256(_mm256_castps_si256(v[k]), no_sign));
    }
    const uint32_t amax_bits = max8(bits);
    const float amax = ss_float_of_bits(amax_bits);
    if (amax_bits >= 0x7f800000u || amax < 0x1p-100f) {
      memset(q + i, 0, SS_COLS);
      *b = (ss_act_block){0};
      continue;
    }
    const __m256 inverse = _mm256_set1_ps(127.0f / amax);
    UNROLL for (int k = 0; k < 4; k++) whole[k] =
        _mm256_cvttps_epi32(_mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(v[k], inverse), magic), magic));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                             _mm256_packs_epi32(whole[2], whole[3])); /* saturates: <= 127 */
    _mm256_storeu_si256((__m256i *)(void *)(q + i),
                        _mm256_max_epi8(_mm256_permutevar8x32_epi32(bytes, in_order), _mm256_set1_epi8(-127)));
    const int32_t sum_lo = sum8(_mm256_add_epi32(whole[0], whole[1]));
    const int32_t sum = sum_lo + sum8(_mm256_add_epi32(whole[2], whole[3]));
    *b = (ss_act_block){.d = amax / 127.0f, .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
  }
}

void ss_rmsnorm_avx2(float *y, const float *x, const float *w, size_t n, float eps) {
  __m256 squares = _mm256_setzero_ps();
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    squares = _mm256_add_ps(squares, _mm256_mul_ps(v, v));
  }
  float lane[8];
  _mm256_storeu_ps(lane, squares);
  for (size_t k = i; k < n; k++) lane[k % 8] += x[k] * x[k];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (i = 0; n - i >= 8; i += 8)
    _mm256_storeu_ps(
        y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)), _mm256_loadu_ps(w + i)));
  for (; i < n; i++) y[i] = (x[i] * scale) * w[i];
}

void ss_add_avx2(float *y, const float *x, size_t n) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
  ss_add_scalar(y + i, x + i, n - i);
}

void ss_swiglu_avx2(float *g, const float *u, size_t n) {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const __m256 v = _mm256_loadu_ps(g + i);
    const __m256 silu = _mm256_div_ps(v, _mm256_add_ps(one, exp8(_mm256_xor_ps(v, sign))));
    _mm256_storeu_ps(g + i, _mm256_mul_ps(silu, _mm256_loadu_ps(u + i)));
  }
  ss_swiglu_scalar(g + i, u + i, n - i);
}

/* The larger of each: v > most ? v : most, so a NaN in v is never the maximum. */
INLINE __m256 larger(__m256 v, __m256 most) { return _mm256_max_ps(v, most); }

float ss_softmax_avx2(float *p, size_t n, float scale) {
  const __m256 none = _mm256_set1_ps(ss_float_of_bits(0xff800000u)), scales = _mm256_set1_ps(scale);
  const size_t whole = n / 8 * 8;
  /* The last n % 8 elements; the others of their vector are -infinity, whose exp is 0. */
  const __m256i in_tail =
      _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - whole)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256 most = none, sum = _mm256_setzero_ps();
  for (size_t i = 0; i < whole; i += 8) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(p + i), scales);
    _mm256_storeu_ps(p + i, v);
    most = larger(v, most);
  }
  __m256 tail = _mm256_mul_ps(_mm256_maskload_ps(p + whole, in_tail), scales);
  tail = _mm256_blendv_ps(none, tail, _mm256_castsi256_ps(in_tail));
  __m256 m = larger(tail, most);
  m = larger(_mm256_permute2f128_ps(m, m, 1), m);
  m = larger(_mm256_shuffle_ps(m, m, 0x4e), m);
  m = larger(_mm256_shuffle_ps(m, m, 0xb1), m);
  for (size_t i = 0; i < whole; i += 8) {
    const __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(p + i), m));
    _mm256_storeu_ps(p + i, e);
    sum = _mm256_add_ps(sum, e);
  }
  tail = exp8(_mm256_sub_ps(tail, m));
  _mm256_maskstore_ps(p + whole, in_tail, tail);
  return lane_sum(_mm256_add_ps(sum, tail));
}

enum { MIX_QUERIES = 3, MIX_CHUNK = 64 };

/* 32 columns of n_q outputs over a chunk of positions: s[i][t] = p * d; the sums stay in registers. */
INLINE void mix_tile(int n_q, float *out, size_t dim, float s[MIX_QUERIES][MIX_CHUNK], const int8_t *v, size_t n) {
  __m256 acc[MIX_QUERIES][4];
  UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int k = 0; k < 4; k++) acc[i][k] =
      _mm256_loadu_ps(out + (size_t)i * dim + 8 * k);
  for (size_t t = 0; t < n; t++, v += dim) UNROLL for (int k = 0; k < 4; k++) {
      const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(v + 8 * k));
      const __m256 u = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
      UNROLL for (int i = 0; i < n_q; i++) acc[i][k] =
          _mm256_add_ps(acc[i][k], _mm256_mul_ps(_mm256_set1_ps(s[i][t]), u));
    }
  UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int k = 0; k < 4; k++)
      _mm256_storeu_ps(out + (size_t)i * dim + 8 * k, acc[i][k]);
}

void ss_mix_avx2(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v, const float *d,
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

const ss_kernels ss_kernels_avx2 = {
    .name = "avx2",
#define SS_KERNEL(result, entry, args) .entry = ss_##entry##_avx2,
#include "kernels/kernels.def"
#undef SS_KERNEL
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
    .fgemm = {[SS_PACK_F32] = ss_fgemm_f32_avx2,
              [SS_PACK_F16] = ss_fgemm_f16_avx2,
              [SS_PACK_BF16] = ss_fgemm_bf16_avx2},
};
