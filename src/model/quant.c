/* Repacking: one row's blocks go to every eighth 4-byte word of their packed group. A row is written in one go, so the
 * 8 rows of a group meet in the first-level cache. GGUF's nibble order (columns k and k + 16 of a block share a byte)
 * is the packed one, which makes the plain types a copy of words; the k-quants' (k and k + 32 of 64) takes masks. */
#include "model/quant.h"

typedef struct q4_0 {
  uint8_t d[2], qs[16];
} q4_0;
typedef struct q4_1 {
  uint8_t d[2], m[2], qs[16];
} q4_1;
typedef struct q5_0 {
  uint8_t d[2], qh[4], qs[16];
} q5_0;
typedef struct q5_1 {
  uint8_t d[2], m[2], qh[4], qs[16];
} q5_1;
typedef struct q8_0 {
  uint8_t d[2], qs[32];
} q8_0;
typedef struct q4_k {
  uint8_t d[2], dmin[2], scales[12], qs[128];
} q4_k;
typedef struct q5_k {
  uint8_t d[2], dmin[2], scales[12], qh[32], qs[128];
} q5_k;
typedef struct q6_k {
  uint8_t ql[128], qh[64], scales[16], d[2];
} q6_k;

_Static_assert(sizeof(q4_0) == 18 && sizeof(q4_1) == 20, "GGUF Q4_0, Q4_1: 32 weights in 18 and 20 bytes");
_Static_assert(sizeof(q5_0) == 22 && sizeof(q5_1) == 24, "GGUF Q5_0, Q5_1: 32 weights in 22 and 24 bytes");
_Static_assert(sizeof(q8_0) == 34, "GGUF Q8_0: 32 weights in 34 bytes");
_Static_assert(sizeof(q4_k) == 144 && sizeof(q5_k) == 176, "GGUF Q4_K, Q5_K: 256 weights in 144 and 176 bytes");
_Static_assert(sizeof(q6_k) == 210, "GGUF Q6_K: 256 weights in 210 bytes");

#define RUNS(type_name, type_block, type_bytes, type_pack) \
  {.name = type_name, .block = type_block, .bytes = type_bytes, .pack = type_pack}
#define KNOWN(type_name, type_block, type_bytes) RUNS(type_name, type_block, type_bytes, -1)

static const ss_quant_info quants[] = {
    [SS_GGUF_F32] = RUNS("F32", 1, 4, SS_PACK_F32),
    [SS_GGUF_F16] = RUNS("F16", 1, 2, SS_PACK_F16),
    [SS_GGUF_BF16] = RUNS("BF16", 1, 2, SS_PACK_BF16),
    [SS_GGUF_Q4_0] = RUNS("Q4_0", 32, sizeof(q4_0), SS_PACK_4),
    [SS_GGUF_Q4_1] = RUNS("Q4_1", 32, sizeof(q4_1), SS_PACK_4M),
    [SS_GGUF_Q5_0] = RUNS("Q5_0", 32, sizeof(q5_0), SS_PACK_5),
    [SS_GGUF_Q5_1] = RUNS("Q5_1", 32, sizeof(q5_1), SS_PACK_5M),
    [SS_GGUF_Q8_0] = RUNS("Q8_0", 32, sizeof(q8_0), SS_PACK_8),
    [SS_GGUF_Q4_K] = RUNS("Q4_K", 256, sizeof(q4_k), SS_PACK_4M),
    [SS_GGUF_Q5_K] = RUNS("Q5_K", 256, sizeof(q5_k), SS_PACK_5M),
    [SS_GGUF_Q6_K] = RUNS("Q6_K", 256, sizeof(q6_k), SS_PACK_6),
    /* sizes alone, so that a file with them is read as far as its tensors' names */
    [9] = KNOWN("Q8_1", 32, 36),
    [10] = KNOWN("Q2_K", 256, 84),
    [11] = KNOWN("Q3_K", 256, 110),
    [15] = KNOWN("Q8_K", 256, 292),
    [16] = KNOWN("IQ2_XXS", 256, 66),
    [17] = KNOWN("IQ2_XS", 256, 74),
    [18] = KNOWN("IQ3_XXS", 256, 98),
    [19] = KNOWN("IQ1_S", 256, 50),
    [20] = KNOWN("IQ4_NL", 32, 18),
    [21] = KNOWN("IQ3_S", 256, 110),
    [22] = KNOWN("IQ2_S", 256, 82),
    [23] = KNOWN("IQ4_XS", 256, 136),
    [24] = KNOWN("I8", 1, 1),
    [25] = KNOWN("I16", 1, 2),
    [26] = KNOWN("I32", 1, 4),
    [27] = KNOWN("I64", 1, 8),
    [28] = KNOWN("F64", 1, 8),
    [29] = KNOWN("IQ1_M", 256, 56),
    [34] = KNOWN("TQ1_0", 256, 54),
    [35] = KNOWN("TQ2_0", 256, 66),
    [39] = KNOWN("MXFP4", 32, 17),
};

const ss_quant_info *ss_quant_find(uint32_t type) {
  if (type >= sizeof quants / sizeof quants[0] || !quants[type].name) return NULL;
  return &quants[type];
}

/* ---- words ---- */

static inline uint32_t load_word(const void *p) {
  uint32_t w;
  memcpy(&w, p, 4);
  return w;
}
static inline void store_word(void *p, uint32_t w) { memcpy(p, &w, 4); }

static inline uint16_t load_half(const uint8_t p[2]) { return (uint16_t)(p[0] | p[1] << 8); }

/* An f16 as f32; *bad gathers whether one was infinite or NaN. Inline and without subnormal arithmetic (slow, and
 * flushed to zero in some hosts): a block of 18 bytes has no time for a call. */
static inline float take_half(const uint8_t p[2], uint32_t *bad) {
  const uint32_t h = load_half(p), magnitude = h & 0x7fff;
  *bad |= magnitude >= 0x7c00;
  const float normal = ss_float_of_bits((magnitude << 13) + (112u << 23));
  const float subnormal = ss_float_of_bits((magnitude << 13) + (113u << 23)) - 0x1p-14f; /* exact */
  const float f = magnitude < 0x400 ? subnormal : normal;
  return ss_float_of_bits(ss_bits_of_float(f) | (h & 0x8000) << 16);
}

/* ---- 32-blocks ----
 * Each writes one row's part of one packed block. `lane` is the row's first byte in a step: 4 * (row in the group). */

static inline void put_nibbles(uint8_t *q, const uint8_t qs[16]) {
  for (size_t j = 0; j < 4; j++) memcpy(q + 32 * j, qs + 4 * j, 4);
}

/* Bit 4 * j + t of qh becomes bit j of byte t: a 4 x 8 transposition of bits, in four swaps of index bits. */
static inline uint32_t swap_bits(uint32_t w, uint32_t shift, uint32_t mask) {
  const uint32_t differ = (w ^ w >> shift) & mask;
  return w ^ differ ^ differ << shift;
}
static inline uint32_t fifth_bits(uint32_t qh) {
  qh = swap_bits(qh, 1, 0x22222222);
  qh = swap_bits(qh, 3, 0x0a0a0a0a);
  qh = swap_bits(qh, 6, 0x00cc00cc);
  return swap_bits(qh, 12, 0x0000f0f0);
}

static uint32_t repack_4_0(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block4 *to = blocks;
  const q4_0 *from = (const q4_0 *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    to[i].d[r] = take_half(from[i].d, &bad);
    put_nibbles(to[i].q + 4 * r, from[i].qs);
  }
  return bad;
}

static uint32_t repack_4_1(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block4m *to = blocks;
  const q4_1 *from = (const q4_1 *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    to[i].d[r] = take_half(from[i].d, &bad);
    to[i].m[r] = take_half(from[i].m, &bad);
    put_nibbles(to[i].q + 4 * r, from[i].qs);
  }
  return bad;
}

static uint32_t repack_5_0(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block5 *to = blocks;
  const q5_0 *from = (const q5_0 *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    to[i].d[r] = take_half(from[i].d, &bad);
    store_word(to[i].h + 4 * r, fifth_bits(load_word(from[i].qh)));
    put_nibbles(to[i].q + 4 * r, from[i].qs);
  }
  return bad;
}

static uint32_t repack_5_1(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block5m *to = blocks;
  const q5_1 *from = (const q5_1 *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    to[i].d[r] = take_half(from[i].d, &bad);
    to[i].m[r] = take_half(from[i].m, &bad);
    store_word(to[i].h + 4 * r, fifth_bits(load_word(from[i].qh)));
    put_nibbles(to[i].q + 4 * r, from[i].qs);
  }
  return bad;
}

static uint32_t repack_8_0(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block8 *to = blocks;
  const q8_0 *from = (const q8_0 *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    to[i].d[r] = take_half(from[i].d, &bad);
    for (size_t j = 0; j < 8; j++) memcpy(to[i].q + 32 * j + 4 * r, from[i].qs + 4 * j, 4);
  }
  return bad;
}

/* ---- 256-blocks: 8 packed blocks each ---- */

/* Scale and minimum of sub-block s: 6 bits each, the last four sub-blocks' in two pieces. */
static inline void scale_min(const uint8_t scales[12], size_t s, uint32_t *scale, uint32_t *min) {
  if (s < 4) {
    *scale = scales[s] & 63;
    *min = scales[s + 4] & 63;
  } else {
    *scale = (scales[s + 4] & 15u) | (scales[s - 4] >> 6u) << 4;
    *min = (scales[s + 4] >> 4u) | (scales[s] >> 6u) << 4;
  }
}

/* Sub-block s keeps its 32 nibbles in 32 bytes: low ones when s is even, high ones when odd. */
static inline void put_k_nibbles(uint8_t *q, const uint8_t qs[32], size_t high) {
  for (size_t j = 0; j < 4; j++) {
    const uint32_t near = load_word(qs + 4 * j), far = load_word(qs + 16 + 4 * j); /* columns 4j and 4j + 16 */
    store_word(q + 32 * j,
               high ? (near >> 4 & 0x0f0f0f0f) | (far & 0xf0f0f0f0) : (near & 0x0f0f0f0f) | (far & 0x0f0f0f0f) << 4);
  }
}

static uint32_t repack_4_k(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block4m *to = blocks;
  const q4_k *from = (const q4_k *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    const float d = take_half(from[i].d, &bad), dmin = take_half(from[i].dmin, &bad);
    for (size_t s = 0; s < 8; s++, to++) {
      uint32_t scale, min;
      scale_min(from[i].scales, s, &scale, &min);
      to->d[r] = d * (float)scale;
      to->m[r] = -(dmin * (float)min);
      put_k_nibbles(to->q + 4 * r, from[i].qs + 32 * (s / 2), s % 2);
    }
  }
  return bad;
}

static uint32_t repack_5_k(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block5m *to = blocks;
  const q5_k *from = (const q5_k *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    const float d = take_half(from[i].d, &bad), dmin = take_half(from[i].dmin, &bad);
    for (size_t s = 0; s < 8; s++, to++) {
      uint32_t scale, min, high = 0;
      scale_min(from[i].scales, s, &scale, &min);
      to->d[r] = d * (float)scale;
      to->m[r] = -(dmin * (float)min);
      put_k_nibbles(to->q + 4 * r, from[i].qs + 32 * (s / 2), s % 2);
      for (size_t j = 0; j < 8; j++) high |= (load_word(from[i].qh + 4 * j) >> s & 0x01010101) << j;
      store_word(to->h + 4 * r, high);
    }
  }
  return bad;
}

static uint32_t repack_6_k(void *blocks, size_t r, size_t n, const uint8_t *bytes) {
  ss_block6 *to = blocks;
  const q6_k *from = (const q6_k *)bytes;
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) {
    const float d = take_half(from[i].d, &bad);
    for (size_t s = 0; s < 8; s++, to++) { /* 4 sub-blocks to each half of 128 weights */
      const size_t half = s / 4, part = s % 4;
      const uint8_t *high = from[i].qh + 32 * half;
      for (size_t c = 0; c < 2; c++) {
        const uint8_t scale = from[i].scales[2 * s + c];
        to->d[c][r] = d * (float)(scale < 128 ? (int)scale : (int)scale - 256);
      }
      put_k_nibbles(to->q + 4 * r, from[i].ql + 64 * half + 32 * (part % 2), part / 2);
      for (size_t c = 0; c < 2; c++) { /* 4 steps of 2 bits to a byte */
        uint32_t word = 0;
        for (size_t j = 0; j < 4; j++) word |= (load_word(high + 16 * c + 4 * j) >> 2 * part & 0x03030303) << 2 * j;
        store_word(to->h + 32 * c + 4 * r, word);
      }
    }
  }
  return bad;
}

/* ---- floats ---- */

static uint32_t any_half_bad(const uint8_t *bytes, size_t n, uint16_t exponent) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) bad |= (load_half(bytes + 2 * i) & exponent) == exponent;
  return bad;
}

static uint32_t any_word_bad(const uint8_t *bytes, size_t n) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; i++) bad |= (load_word(bytes + 4 * i) & 0x7f800000) == 0x7f800000;
  return bad;
}

static uint32_t any_bad(ss_gguf_type type, const uint8_t *bytes, size_t n) {
  return type == SS_GGUF_F32 ? any_word_bad(bytes, n) : any_half_bad(bytes, n, type == SS_GGUF_F16 ? 0x7c00 : 0x7f80);
}

size_t ss_quant_floats(float *out, ss_gguf_type type, size_t n, const uint8_t *bytes) {
  const size_t item = quants[type].bytes;
  for (size_t i = 0; i < n; i++) {
    if (any_bad(type, bytes + item * i, 1)) return i;
    uint32_t bad = 0;
    out[i] = type == SS_GGUF_F32   ? ss_float_of_bits(load_word(bytes + 4 * i))
             : type == SS_GGUF_F16 ? take_half(bytes + 2 * i, &bad)
                                   : ss_float_of_bits((uint32_t)load_half(bytes + 2 * i) << 16);
  }
  return SS_QUANT_FINITE;
}

/* ---- one row's run ---- */

/* Writes n blocks of row r of a packed group, from `blocks` on. Not 0: one of them is not finite. */
typedef uint32_t repack_fn(void *blocks, size_t r, size_t n, const uint8_t *bytes);
static repack_fn *const repacks[] = {
    [SS_GGUF_Q4_0] = repack_4_0, [SS_GGUF_Q4_1] = repack_4_1, [SS_GGUF_Q5_0] = repack_5_0, [SS_GGUF_Q5_1] = repack_5_1,
    [SS_GGUF_Q8_0] = repack_8_0, [SS_GGUF_Q4_K] = repack_4_k, [SS_GGUF_Q5_K] = repack_5_k, [SS_GGUF_Q6_K] = repack_6_k,
};

static uint32_t repack_run(void *to, ss_gguf_type type, size_t r, size_t n, const uint8_t *bytes) {
  if (!ss_packs[quants[type].pack].is_float) return repacks[type](to, r, n, bytes);
  memcpy(to, bytes, n * quants[type].bytes);
  return any_bad(type, bytes, n);
}

size_t ss_quant_repack(void *data, ss_gguf_type type, uint32_t row, uint32_t cols, size_t first, size_t n,
                       const uint8_t *blocks) {
  const ss_quant_info *quant = &quants[type];
  const ss_pack pack = (ss_pack)quant->pack;
  const size_t r = row % SS_ROWS;
  uint8_t *to = (uint8_t *)data + row / SS_ROWS * (size_t)ss_pack_group_bytes(pack, cols);
  to += ss_packs[pack].is_float ? (r * cols + first) * quant->bytes
                                : first * (quant->block / SS_COLS) * ss_packs[pack].group_bytes;
  if (!repack_run(to, type, r, n, blocks)) return SS_QUANT_FINITE;
  size_t i = 0; /* rare: find the culprit, block by block */
  while (i + 1 < n && !repack_run(to, type, r, 1, blocks + i * quant->bytes)) i++;
  return (first + i) * quant->block;
}
