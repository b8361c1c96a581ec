/* A matmul's loop does the products of blocks of 8 steps (kernels/pack.h) as the set's own tile does, without its loads
 * and scales: `exact` steps are summed in 16 bits before they are widened, where the set does so.
 *
 * Two things keep a compiler from doing less than is written. Native: a barrier without instructions makes each operand
 * look new, and another one takes the result. Wasm, where V8 optimises once more and such barriers are gone: each operand
 * is the last result, so the products of a block depend on each other, and CHAINS blocks that do not are in flight. */
#include "peaks.h"

#include "kernels/isa.h"

enum { STEPS = 8, FLOAT_CHAINS = 10, READS = 16, PREFETCH = 4096 };

/* The matmul loops of a set: of float weights, and of codes of 4, 5, 6 and 8 bits. */
#define MATMULS(floats, four, five, six, eight)                                \
  {[SS_PACK_F32] = &floats, [SS_PACK_F16] = &floats, [SS_PACK_BF16] = &floats, \
   [SS_PACK_4] = &four,     [SS_PACK_4M] = &four,    [SS_PACK_5] = &five,      \
   [SS_PACK_5M] = &five,    [SS_PACK_6] = &six,      [SS_PACK_8] = &eight}

/* A read loop: returns a part of the or of all vectors. Long, since V8 looks for an interrupt in each round; the barrier
 * keeps constant offsets, which are a part of the load. */
#define READ_LOOP(vector, load, or)                                                                             \
  vector sum[4] = {load(p), load(p), load(p), load(p)};                                                         \
  size_t left = bytes;                                                                                          \
  for (; left >= READS * sizeof(vector); left -= READS * sizeof(vector)) {                                      \
    if (prefetch) ss_prefetch(p + PREFETCH, READS * sizeof(vector));                                            \
    SS_UNROLL for (size_t k = 0; k < READS; k++) { sum[k % 4] = or(sum[k % 4], load(p + k * sizeof(vector))); } \
    p += READS * sizeof(vector);                                                                                \
    __asm__("" : "+r"(p));                                                                                      \
  }                                                                                                             \
  for (; left >= sizeof(vector); left -= sizeof(vector), p += sizeof(vector)) sum[0] = or(sum[0], load(p));     \
  sum[0] = or(or(sum[0], sum[1]), or(sum[2], sum[3]));                                                          \
  uint64_t word;                                                                                                \
  memcpy(&word, &sum[0], sizeof word);                                                                          \
  return word

static uint64_t read_words(const uint8_t *p, size_t bytes, bool prefetch) {
  typedef uint64_t words __attribute__((vector_size(16)));
#define LOAD(at) (*(const words *)(const void *)(at))
#define OR(a, b) ((a) | (b))
  READ_LOOP(words, LOAD, OR);
#undef LOAD
#undef OR
}

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define RENEW(v) __asm__ volatile("" : "+x"(v))
#define TAKE(v) __asm__ volatile("" : : "x"(v))

/* ---- AVX2 ---- */

AVX2 SS_INLINE void avx2_blocks(int exact, size_t n) {
  const __m256i ones = _mm256_set1_epi16(1), codes = _mm256_set1_epi8(3);
  __m256i acts = _mm256_set1_epi8(5);
  for (; n; n--) {
    __m256i narrow = codes, wide = codes;
    SS_UNROLL for (int j = 0; j < STEPS; j++) {
      RENEW(acts);
      const __m256i products = _mm256_maddubs_epi16(codes, acts);
      narrow = j % exact ? _mm256_add_epi16(narrow, products) : products;
      if (j % exact < exact - 1) continue;
      const __m256i sums = _mm256_madd_epi16(narrow, ones);
      wide = j >= exact ? _mm256_add_epi32(wide, sums) : sums;
    }
    TAKE(wide);
  }
}
AVX2 static void avx2_4(size_t n) { avx2_blocks(8, n); }
AVX2 static void avx2_5(size_t n) { avx2_blocks(4, n); }
AVX2 static void avx2_6(size_t n) { avx2_blocks(2, n); }
AVX2 static void avx2_8(size_t n) { avx2_blocks(1, n); }

AVX2 static void avx2_floats(size_t n) {
  __m256 sum[FLOAT_CHAINS], x = _mm256_set1_ps(0.0f);
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) sum[i] = x;
  for (; n; n--) SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) {
      RENEW(x);
      sum[i] = _mm256_add_ps(sum[i], _mm256_mul_ps(x, x));
    }
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) TAKE(sum[i]);
}

AVX2 static uint64_t avx2_read(const uint8_t *p, size_t bytes, bool prefetch) {
#define LOAD(at) _mm256_load_si256((const __m256i *)(const void *)(at))
  READ_LOOP(__m256i, LOAD, _mm256_or_si256);
#undef LOAD
}

static const peak_loop avx2_4_loop = {"vpmaddubsw, 8 steps in 16 bits", 32 * STEPS, avx2_4},
                       avx2_5_loop = {"vpmaddubsw, 4 steps in 16 bits", 32 * STEPS, avx2_5},
                       avx2_6_loop = {"vpmaddubsw, 2 steps in 16 bits", 32 * STEPS, avx2_6},
                       avx2_8_loop = {"vpmaddubsw, vpmaddwd", 32 * STEPS, avx2_8},
                       avx2_floats_loop = {"vmulps, vaddps of 8", 8 * FLOAT_CHAINS, avx2_floats};

/* ---- AVX-512 VNNI ---- */

AVX512 static void avx512_blocks(size_t n) {
  const __m512i codes = _mm512_set1_epi8(3);
  __m512i acts = _mm512_set1_epi8(5);
  for (; n; n--) {
    __m512i sum = _mm512_setzero_si512();
    SS_UNROLL for (int j = 0; j < STEPS; j++) {
      RENEW(acts);
      sum = _mm512_dpbusd_epi32(sum, codes, acts);
    }
    TAKE(sum);
  }
}

AVX512 static void avx512_floats(size_t n) {
  __m512 sum[FLOAT_CHAINS], x = _mm512_set1_ps(0.0f);
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) sum[i] = x;
  for (; n; n--) SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) {
      RENEW(x);
      sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(x, x));
    }
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) TAKE(sum[i]);
}

AVX512 static uint64_t avx512_read(const uint8_t *p, size_t bytes, bool prefetch) {
#define LOAD(at) _mm512_load_si512(at)
  READ_LOOP(__m512i, LOAD, _mm512_or_si512);
#undef LOAD
}

static const peak_loop avx512_loop = {"vpdpbusd of 64", 64 * STEPS, avx512_blocks},
                       avx512_floats_loop = {"vmulps, vaddps of 16", 16 * FLOAT_CHAINS, avx512_floats};

static const set_peaks sets[] = {
    {.set = "avx512vnni",
     .matmul = MATMULS(avx2_floats_loop, avx512_loop, avx512_loop, avx512_loop, avx512_loop),
     .mix = &avx512_floats_loop,
     .read = avx512_read},
    {.set = "avx2",
     .matmul = MATMULS(avx2_floats_loop, avx2_4_loop, avx2_5_loop, avx2_6_loop, avx2_8_loop),
     .mix = &avx2_floats_loop,
     .read = avx2_read},
};

#elif defined(__aarch64__)

#include <arm_neon.h>

#define RENEW(v) __asm__ volatile("" : "+w"(v))
#define TAKE(v) __asm__ volatile("" : : "w"(v))

#ifdef __ARM_FEATURE_DOTPROD
enum { NEON_MACS = 16 * STEPS };
SS_INLINE void neon_blocks(int exact, size_t n) {
  const int8x16_t codes = vdupq_n_s8(3);
  int8x16_t acts = vdupq_n_s8(5);
  (void)exact;
  for (; n; n--) {
    int32x4_t sum = vdupq_n_s32(0);
    SS_UNROLL for (int j = 0; j < STEPS; j++) {
      RENEW(acts);
      sum = vdotq_s32(sum, codes, acts);
    }
    TAKE(sum);
  }
}
#else
enum { NEON_MACS = 8 * STEPS };
SS_INLINE void neon_blocks(int exact, size_t n) {
  const int8x8_t codes = vdup_n_s8(3);
  int8x8_t acts = vdup_n_s8(5);
  for (; n; n--) {
    int16x8_t narrow = vdupq_n_s16(0);
    int32x4_t wide = vdupq_n_s32(0);
    SS_UNROLL for (int j = 0; j < STEPS; j++) {
      RENEW(acts);
      narrow = j % exact ? vmlal_s8(narrow, codes, acts) : vmull_s8(codes, acts);
      if (j % exact < exact - 1) continue;
      wide = j >= exact ? vpadalq_s16(wide, narrow) : vpaddlq_s16(narrow);
    }
    TAKE(wide);
  }
}
#endif
static void neon_5(size_t n) { neon_blocks(8, n); }
static void neon_6(size_t n) { neon_blocks(4, n); }
static void neon_8(size_t n) { neon_blocks(2, n); }

static void neon_floats(size_t n) {
  float32x4_t sum[FLOAT_CHAINS], x = vdupq_n_f32(0.0f);
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) sum[i] = x;
  for (; n; n--) SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) {
      RENEW(x);
      sum[i] = vaddq_f32(sum[i], vmulq_f32(x, x));
    }
  SS_UNROLL for (int i = 0; i < FLOAT_CHAINS; i++) TAKE(sum[i]);
}

static uint64_t neon_read(const uint8_t *p, size_t bytes, bool prefetch) { READ_LOOP(uint8x16_t, vld1q_u8, vorrq_u8); }

#ifdef __ARM_FEATURE_DOTPROD
#define PRODUCTS(steps) "sdot"
#else
#define PRODUCTS(steps) "smlal, " steps " steps in 16 bits"
#endif
static const peak_loop neon_5_loop = {PRODUCTS("8"), NEON_MACS, neon_5},
                       neon_6_loop = {PRODUCTS("4"), NEON_MACS, neon_6},
                       neon_8_loop = {PRODUCTS("2"), NEON_MACS, neon_8},
                       neon_floats_loop = {"fmul, fadd of 4", 4 * FLOAT_CHAINS, neon_floats};

static const set_peaks sets[] = {
    {.set = "neon",
     .matmul = MATMULS(neon_floats_loop, neon_5_loop, neon_5_loop, neon_6_loop, neon_8_loop),
     .mix = &neon_floats_loop,
     .read = neon_read},
};

#elif defined(__wasm_simd128__)

#include <wasm_simd128.h>

enum { CHAINS = 12, ROUND_STEPS = CHAINS * STEPS };
static volatile uint32_t taken;

/* n rounds of CHAINS blocks; block_of(v) is one whose operands come from v. */
#define CHAIN_LOOP(block_of)                                                               \
  v128_t chain[CHAINS], all = wasm_i32x4_const_splat(0);                                   \
  SS_UNROLL for (int i = 0; i < CHAINS; i++) chain[i] = wasm_i8x16_splat((int8_t)(i + 1)); \
  for (; n; n--) SS_UNROLL for (int i = 0; i < CHAINS; i++) chain[i] = block_of(chain[i]); \
  SS_UNROLL for (int i = 0; i < CHAINS; i++) all = wasm_v128_or(all, chain[i]);            \
  taken = (uint32_t)wasm_i32x4_extract_lane(all, 0)

SS_INLINE v128_t i16_block(v128_t last) {
  const v128_t codes = wasm_i16x8_const_splat(3);
  v128_t sum = last;
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const v128_t products = wasm_i32x4_dot_i16x8(codes, last);
    last = sum = j ? wasm_i32x4_add(sum, products) : products;
  }
  return sum;
}
static void i16_blocks(size_t n) { CHAIN_LOOP(i16_block); }

SS_INLINE v128_t float_block(v128_t last) {
  return wasm_f32x4_add(last, wasm_f32x4_mul(last, wasm_f32x4_const_splat(0.0f)));
}
static void wasm_floats(size_t n) { CHAIN_LOOP(float_block); }

static uint64_t wasm_read(const uint8_t *p, size_t bytes, bool prefetch) {
  READ_LOOP(v128_t, wasm_v128_load, wasm_v128_or);
}

static const peak_loop i16_loop = {"i32x4.dot_i16x8", 8 * ROUND_STEPS, i16_blocks},
                       wasm_floats_loop = {"f32x4.mul, f32x4.add", 4 * CHAINS, wasm_floats};

#ifdef __wasm_relaxed_simd__
SS_INLINE v128_t relaxed_block(int exact, v128_t last) {
  const v128_t codes = wasm_i8x16_const_splat(3);
  v128_t narrow = last, wide = last, ones = wasm_i16x8_const_splat(1);
  __asm__("" : "+r"(ones)); /* as wasm_relaxed.c does: the compiler would make it the other dot product */
  SS_UNROLL for (int j = 0; j < STEPS; j++) {
    const v128_t products = wasm_i16x8_relaxed_dot_i8x16_i7x16(last, codes);
    last = narrow = j % exact ? wasm_i16x8_add(narrow, products) : products;
    if (j % exact < exact - 1) continue;
    const v128_t sums = exact == 1 ? wasm_i32x4_dot_i16x8(narrow, ones) : wasm_i32x4_extadd_pairwise_i16x8(narrow);
    last = wide = j >= exact ? wasm_i32x4_add(wide, sums) : sums;
  }
  return wide;
}
SS_INLINE v128_t relaxed_block_4(v128_t last) { return relaxed_block(8, last); }
SS_INLINE v128_t relaxed_block_5(v128_t last) { return relaxed_block(4, last); }
SS_INLINE v128_t relaxed_block_6(v128_t last) { return relaxed_block(2, last); }
SS_INLINE v128_t relaxed_block_8(v128_t last) { return relaxed_block(1, last); }
static void relaxed_4(size_t n) { CHAIN_LOOP(relaxed_block_4); }
static void relaxed_5(size_t n) { CHAIN_LOOP(relaxed_block_5); }
static void relaxed_6(size_t n) { CHAIN_LOOP(relaxed_block_6); }
static void relaxed_8(size_t n) { CHAIN_LOOP(relaxed_block_8); }

SS_INLINE v128_t dot_block(v128_t last) {
  const v128_t codes = wasm_i8x16_const_splat(3);
  v128_t sum = wasm_i32x4_const_splat(0);
  SS_UNROLL for (int j = 0; j < STEPS; j++) { last = sum = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(last, codes, sum); }
  return sum;
}
static void dot_blocks(size_t n) { CHAIN_LOOP(dot_block); }

static const peak_loop relaxed_4_loop = {"i16x8.relaxed_dot, 8 steps in 16 bits", 16 * ROUND_STEPS, relaxed_4},
                       relaxed_5_loop = {"i16x8.relaxed_dot, 4 steps in 16 bits", 16 * ROUND_STEPS, relaxed_5},
                       relaxed_6_loop = {"i16x8.relaxed_dot, 2 steps in 16 bits", 16 * ROUND_STEPS, relaxed_6},
                       relaxed_8_loop = {"i16x8.relaxed_dot, i32x4.dot_i16x8", 16 * ROUND_STEPS, relaxed_8},
                       dot_loop = {"i32x4.relaxed_dot", 16 * ROUND_STEPS, dot_blocks};
#endif

static const set_peaks sets[] = {
#ifdef __wasm_relaxed_simd__
    {.set = "wasm-relaxed",
     .matmul = MATMULS(wasm_floats_loop, relaxed_4_loop, relaxed_5_loop, relaxed_6_loop, relaxed_8_loop),
     .mix = &wasm_floats_loop,
     .read = wasm_read},
    {.set = "wasm-relaxed-dot",
     .matmul = MATMULS(wasm_floats_loop, dot_loop, dot_loop, dot_loop, dot_loop),
     .mix = &wasm_floats_loop,
     .read = wasm_read},
#endif
    {.set = "wasm-simd128",
     .matmul = MATMULS(wasm_floats_loop, i16_loop, i16_loop, i16_loop, i16_loop),
     .mix = &wasm_floats_loop,
     .read = wasm_read},
};

#else
static const set_peaks sets[1];
#endif

static bool same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

set_peaks peaks_of(const ss_kernels *kernels) {
  for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
    if (sets[i].set && same(sets[i].set, kernels->name)) return sets[i];
  return (set_peaks){.set = kernels->name, .read = read_words};
}
