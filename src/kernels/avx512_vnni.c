/* Dot products and exponentials for x86-64 with AVX-512 VNNI; the rest of the table is AVX2's.
 *
 * A vector holds 4 columns of 16 rows: step j of two groups of 8 (pack.h) in its two halves. vpdpbusd multiplies
 * unsigned codes by signed activations and sums 4 products in 32 bits, exactly. Signed 8-bit codes have their sign bit
 * flipped, so they are unsigned with an offset of 128. The last group of an odd number is paired with itself. */
#include "kernels/avx2.h"

#include <immintrin.h>

enum {
  TILE = 12, /* tokens that share a load of weights */
  STEPS = 8,
  PREFETCH = 4096, /* bytes ahead, see avx2.c */
  PANEL_D = 512,   /* where a block of the panel has its scales, after 16 x 32 codes */
  PANEL_M = 576,   /* and minima, or the second half's scales */
  PANEL_BLOCK = 640,
};
_Static_assert(PANEL_BLOCK <= SS_PANEL_BLOCK_BYTES, "the panel holds two groups");

/* A minimum, or a scale for the second half. */
SS_INLINE bool two_scales(ss_pack pack) { return ss_blocks[pack].has_min || pack == SS_PACK_6; }

/* What the unsigned codes have too much: 2^shift * the sum of activations. */
SS_INLINE unsigned offset_shift(ss_pack pack) { return pack == SS_PACK_8 ? 7 : ss_offset_shift(pack); }

/* The same 32 bytes of two blocks. */
SS_INLINE __m512i both(const uint8_t *block0, const uint8_t *block1, size_t at) {
  const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(block0 + at));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low),
                            _mm256_loadu_si256((const __m256i *)(const void *)(block1 + at)), 1);
}
SS_INLINE __m512 both_floats(const uint8_t *block0, const uint8_t *block1, int at) {
  return _mm512_castsi512_ps(both(block0, block1, (size_t)at * sizeof(float)));
}

/* The unsigned codes of step j. */
SS_INLINE __m512i codes(ss_pack pack, const uint8_t *block0, const uint8_t *block1, int j) {
  const size_t q = ss_blocks[pack].codes_at;
  if (pack == SS_PACK_8) return _mm512_xor_si512(both(block0, block1, q + 32 * (size_t)j), _mm512_set1_epi8(-128));
  const __m512i nibbles = both(block0, block1, q + 32 * (size_t)(j % 4));
  __m512i c = _mm512_and_si512(j < 4 ? nibbles : _mm512_srli_epi16(nibbles, 4), _mm512_set1_epi8(15));
  if (ss_blocks[pack].high_at) {
    const bool six = pack == SS_PACK_6;
    const __m512i h = both(block0, block1, ss_blocks[pack].high_at + (six ? 32 * (size_t)(j / 4) : 0));
    const int left = 4 - (six ? 2 * (j % 4) : j); /* brings the high bits to bit 4 */
    const __m512i at_4 = left >= 0 ? _mm512_slli_epi16(h, (unsigned)left) : _mm512_srli_epi16(h, (unsigned)-left);
    c = _mm512_or_si512(c, _mm512_and_si512(at_4, _mm512_set1_epi8(six ? 48 : 16)));
  }
  return c;
}

SS_INLINE __m512i four(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, sizeof word);
  return _mm512_set1_epi32(word);
}

/* acc + one block (or one half of a six-bit block) of 16 rows, in scalar.c's order. m: minima, for types with them. */
SS_INLINE __m512 scaled(ss_pack pack, __m512 acc, __m512i isum, __m512 d, __m512 m, int half, const ss_act_block *a) {
  const __m512 d_act = _mm512_set1_ps(a->d);
  if (ss_blocks[pack].has_min) {
    const __m512 v =
        _mm512_add_ps(_mm512_mul_ps(d, _mm512_cvtepi32_ps(isum)), _mm512_mul_ps(m, _mm512_set1_ps(a->fsum)));
    return _mm512_add_ps(acc, _mm512_mul_ps(v, d_act));
  }
  isum = _mm512_sub_epi32(isum, _mm512_slli_epi32(_mm512_set1_epi32(ss_act_sum(pack, half, a)), offset_shift(pack)));
  return _mm512_add_ps(acc, _mm512_mul_ps(_mm512_mul_ps(d, d_act), _mm512_cvtepi32_ps(isum)));
}

/* Two groups of 8 rows. */
typedef struct pair {
  const uint8_t *first, *second; /* the same group twice if there is no second */
  bool has_second;
} pair;

/* acc[t] + block i of both groups, for n tokens. */
SS_INLINE void add_block(ss_pack pack, int n, ss_source from, __m512 acc[TILE], const uint8_t *block0,
                         const uint8_t *block1, const uint8_t *panel, size_t i, size_t n_blocks, const int8_t *q,
                         const ss_act_block *a) {
  const int steps = pack == SS_PACK_6 ? STEPS / 2 : STEPS; /* that share a scale */
  __m512i isum[TILE];
  __m512 d[2];
  if (from == SS_PACKED && n < TILE) {
    ss_prefetch(block0 + PREFETCH, ss_blocks[pack].bytes);
    ss_prefetch(block1 + PREFETCH, ss_blocks[pack].bytes);
  }
  d[0] = from == SS_PANEL ? _mm512_load_ps(panel + PANEL_D) : both_floats(block0, block1, 0);
  d[1] = !two_scales(pack) ? d[0] : from == SS_PANEL ? _mm512_load_ps(panel + PANEL_M) : both_floats(block0, block1, 8);
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const __m512i c = from == SS_PANEL ? _mm512_load_si512(panel + 64 * j) : codes(pack, block0, block1, j);
    SS_UNROLL for (int t = 0; t < n; t++) {
      const __m512i sum = j % steps ? isum[t] : _mm512_setzero_si512();
      isum[t] = _mm512_dpbusd_epi32(sum, c, four(q + SS_COLS * ((size_t)t * n_blocks + i) + 4 * j));
    }
    if (j % steps < steps - 1) continue;
    SS_UNROLL for (int t = 0; t < n; t++) acc[t] =
        scaled(pack, acc[t], isum[t], d[j / steps], d[1], j / steps, a + (size_t)t * n_blocks + i);
  }
}

SS_INLINE void store_rows(float *y, __m512 acc, bool has_second) {
  if (has_second) _mm512_storeu_ps(y, acc);
  else _mm256_storeu_ps(y, _mm512_castps512_ps256(acc));
}

/* Two groups for n tokens. */
SS_INLINE void tile(ss_pack pack, int n, ss_source from, float *y, size_t y_stride, pair groups, const uint8_t *panel,
                    size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  __m512 acc[TILE];
  SS_UNROLL for (int t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
  for (size_t i = 0; i < n_blocks; i++) {
    const size_t at = i * ss_blocks[pack].bytes;
    add_block(pack, n, from, acc, groups.first + at, groups.second + at,
              panel + (from == SS_PANEL ? i * PANEL_BLOCK : 0), i, n_blocks, q, a);
  }
  SS_UNROLL for (int t = 0; t < n; t++) store_rows(y + (size_t)t * y_stride, acc[t], groups.has_second);
}

SS_INLINE void widen(ss_pack pack, uint8_t *panel, pair groups, size_t n_blocks) {
  const uint8_t *block0 = groups.first, *block1 = groups.second;
  for (size_t i = 0; i < n_blocks; i++, panel += PANEL_BLOCK) {
    SS_UNROLL for (int j = 0; j < STEPS; j++) _mm512_store_si512(panel + 64 * j, codes(pack, block0, block1, j));
    _mm512_store_ps(panel + PANEL_D, both_floats(block0, block1, 0));
    if (two_scales(pack)) _mm512_store_ps(panel + PANEL_M, both_floats(block0, block1, 8));
    block0 += ss_blocks[pack].bytes;
    block1 += ss_blocks[pack].bytes;
  }
}

/* Groups g and g + 1 of n_groups. */
SS_INLINE pair pair_at(const void *w, size_t group_bytes, size_t g, size_t n_groups) {
  const uint8_t *first = (const uint8_t *)w + g * group_bytes;
  const bool has_second = n_groups - g >= 2;
  return (pair){first, has_second ? first + group_bytes : first, has_second};
}

/* All groups, two by two, in runs of such pairs, for n tokens. */
SS_INLINE void in_runs(ss_pack pack, int n, float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                       const int8_t *q, const ss_act_block *a) {
  const size_t n_pairs = ss_ceil_div(n_groups, 2), in_run = ss_in_run(n_pairs);
  for (size_t g = 0; g < in_run; g++) {
    const size_t n_runs = ss_runs_with(g, n_pairs);
    pair groups[SS_RUNS];
    __m512 acc[SS_RUNS][TILE];
    for (size_t r = 0; r < n_runs; r++) {
      groups[r] = pair_at(w, n_blocks * ss_blocks[pack].bytes, 2 * (r * in_run + g), n_groups);
      SS_UNROLL for (int t = 0; t < n; t++) acc[r][t] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < n_blocks; i++)
      for (size_t r = 0; r < n_runs; r++) {
        const size_t at = i * ss_blocks[pack].bytes;
        add_block(pack, n, SS_PACKED, acc[r], groups[r].first + at, groups[r].second + at, NULL, i, n_blocks, q, a);
      }
    for (size_t r = 0; r < n_runs; r++)
      SS_UNROLL for (int t = 0; t < n; t++)
          store_rows(y + (size_t)t * y_stride + 2 * (r * in_run + g) * SS_ROWS, acc[r][t], groups[r].has_second);
  }
}

SS_INLINE void gemv(ss_pack pack, float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                    const ss_act_block *a) {
  in_runs(pack, 1, y, 0, w, n_groups, n_blocks, q, a);
}

/* Two groups for all tokens. Meanwhile those behind them come from memory, a share with each tile. */
SS_INLINE void tiles(ss_pack pack, ss_source from, float *y, size_t y_stride, pair w, const uint8_t *panel,
                     size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens) {
  const size_t cols = n_blocks * SS_COLS, group_bytes = n_blocks * ss_blocks[pack].bytes;
  const size_t share = ss_ceil_div(2 * group_bytes, ss_max(1, n_tokens / TILE));
  const uint8_t *next = w.second + group_bytes;
  for (; n_tokens >= TILE; n_tokens -= TILE, y += TILE * y_stride, q += TILE * cols, a += TILE * n_blocks) {
    if (from == SS_PANEL) ss_prefetch(next, share);
    next += share;
    tile(pack, TILE, from, y, y_stride, w, panel, n_blocks, q, a);
  }
  if (n_tokens >= 8) {
    tile(pack, 8, from, y, y_stride, w, panel, n_blocks, q, a);
    n_tokens -= 8, y += 8 * y_stride, q += 8 * cols, a += 8 * n_blocks;
  }
  if (n_tokens >= 4) {
    tile(pack, 4, from, y, y_stride, w, panel, n_blocks, q, a);
    n_tokens -= 4, y += 4 * y_stride, q += 4 * cols, a += 4 * n_blocks;
  }
  if (n_tokens == 3) tile(pack, 3, from, y, y_stride, w, panel, n_blocks, q, a);
  else if (n_tokens == 2) tile(pack, 2, from, y, y_stride, w, panel, n_blocks, q, a);
  else if (n_tokens == 1) tile(pack, 1, from, y, y_stride, w, panel, n_blocks, q, a);
}

SS_INLINE void gemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                    const int8_t *q, const ss_act_block *a, size_t n_tokens, uint8_t *panel) {
  if (n_tokens == 2) { /* of a token that the head has twice */
    in_runs(pack, 2, y, y_stride, w, n_groups, n_blocks, q, a);
    return;
  }
  for (size_t g = 0; g < n_groups; g += 2, y += 2 * SS_ROWS) {
    const pair groups = pair_at(w, n_blocks * ss_blocks[pack].bytes, g, n_groups);
    if (n_tokens <= TILE) { /* the codes are used once, in registers */
      tiles(pack, SS_PACKED, y, y_stride, groups, NULL, n_blocks, q, a, n_tokens);
    } else {
      widen(pack, panel, groups, n_blocks);
      tiles(pack, SS_PANEL, y, y_stride, groups, panel, n_blocks, q, a, n_tokens);
    }
  }
}

SS_DOT_KERNELS(avx512vnni)

/* ---- element-wise: the loops of attention and SwiGLU, where twice the width pays ---- */

/* ss_expf, operation by operation. */
SS_INLINE __m512 exp16(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);
  const __mmask16 in_range = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ); /* false for a NaN */
  x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
  const __m512 n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), magic), magic);
  __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(n, _mm512_set1_ps(0.693359375f)));
  r = _mm512_sub_ps(r, _mm512_mul_ps(n, _mm512_set1_ps(-2.12194440e-4f)));
  __m512 p = _mm512_set1_ps(ss_exp_terms[0]);
  SS_UNROLL for (int k = 1; k < 6; k++) p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(ss_exp_terms[k]));
  p = _mm512_mul_ps(p, _mm512_mul_ps(r, r));
  p = _mm512_add_ps(p, r);
  p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127)), 23);
  return _mm512_maskz_mul_ps(in_range, p, _mm512_castsi512_ps(exponent));
}

static void swiglu(float *g, const float *u, size_t n) {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 in = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1u);
    const __m512 v = _mm512_maskz_loadu_ps(in, g + i);
    const __m512 minus_v = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), sign));
    const __m512 silu = _mm512_div_ps(v, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(minus_v)));
    _mm512_mask_storeu_ps(g + i, in, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(in, u + i)));
  }
}

/* Elements past n are -infinity, whose exp is 0. */
static float softmax(float *p, size_t n, float scale) {
  const __m512 none = _mm512_set1_ps(ss_float_of_bits(0xff800000u)), scales = _mm512_set1_ps(scale);
  const size_t whole = n / 16 * 16;
  const __mmask16 in_tail = (__mmask16)((1u << (n - whole)) - 1u);
  __m512 most = none;
  for (size_t i = 0; i < whole; i += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(p + i), scales);
    _mm512_storeu_ps(p + i, v);
    most = _mm512_max_ps(v, most); /* v > most ? v : most, so a NaN is never the maximum */
  }
  __m512 tail = _mm512_mask_mul_ps(none, in_tail, _mm512_maskz_loadu_ps(in_tail, p + whole), scales);
  const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(tail, most)));
  __m256 sum = _mm256_setzero_ps(); /* 8 lanes: a vector's lower half, then its upper half */
  for (size_t i = 0; i < whole; i += 16) {
    const __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(p + i), max));
    _mm512_storeu_ps(p + i, e);
    sum = _mm256_add_ps(_mm256_add_ps(sum, _mm512_castps512_ps256(e)), _mm512_extractf32x8_ps(e, 1));
  }
  tail = exp16(_mm512_sub_ps(tail, max));
  _mm512_mask_storeu_ps(p + whole, in_tail, tail);
  sum = _mm256_add_ps(_mm256_add_ps(sum, _mm512_castps512_ps256(tail)), _mm512_extractf32x8_ps(tail, 1));
  float lane[8];
  _mm256_storeu_ps(lane, sum);
  return ss_lane_sum(lane);
}

enum { MIX_QUERIES = 6, MIX_CHUNK = 64 };

/* 32 columns of n_q outputs over a chunk of positions: s[i][t] = p * d; the sums stay in registers. */
SS_INLINE void mix_tile(int n_q, float *out, size_t dim, float s[MIX_QUERIES][MIX_CHUNK], const int8_t *v, size_t n) {
  __m512 acc[MIX_QUERIES][2];
  SS_UNROLL for (int i = 0; i < n_q; i++) SS_UNROLL for (int k = 0; k < 2; k++) acc[i][k] =
      _mm512_loadu_ps(out + (size_t)i * dim + 16 * k);
  for (size_t t = 0; t < n; t++, v += dim) SS_UNROLL for (int k = 0; k < 2; k++) {
      const __m128i codes16 = _mm_loadu_si128((const __m128i *)(const void *)(v + 16 * k));
      const __m512 u = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes16));
      SS_UNROLL for (int i = 0; i < n_q; i++) acc[i][k] =
          _mm512_add_ps(acc[i][k], _mm512_mul_ps(_mm512_set1_ps(s[i][t]), u));
    }
  SS_UNROLL for (int i = 0; i < n_q; i++) SS_UNROLL for (int k = 0; k < 2; k++)
      _mm512_storeu_ps(out + (size_t)i * dim + 16 * k, acc[i][k]);
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
        const size_t left = n_q - i, queries = left >= 6 ? 6 : left >= 3 ? 3 : left;
        for (size_t k = 0; k < queries; k++)
          for (size_t t = 0; t < n; t++) s[k][t] = p[(i + k) * p_stride + first + t] * d_part[t];
        float *o = out + i * dim + part * SS_COLS;
        const int8_t *values = v + first * dim + part * SS_COLS;
        switch (queries) {
          case 6: mix_tile(6, o, dim, s, values, n); break;
          case 3: mix_tile(3, o, dim, s, values, n); break;
          case 2: mix_tile(2, o, dim, s, values, n); break;
          default: mix_tile(1, o, dim, s, values, n); break;
        }
        i += queries;
      }
    }
  }
}

const ss_kernels ss_kernels_avx512vnni = {
    .name = "avx512vnni",
    .quantize = ss_quantize_avx2,
    .rmsnorm = ss_rmsnorm_avx2,
    .add = ss_add_avx2,
    .swiglu = swiglu,
    .softmax = softmax,
    .mix = mix,
    .gemv = SS_DOT_ENTRIES(gemv, avx512vnni),
    .gemm = SS_DOT_ENTRIES(gemm, avx512vnni),
    .fgemm = SS_FLOAT_ENTRIES(avx2),
};
